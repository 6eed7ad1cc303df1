// WebSocket servers of npm ws and of Python's websockets behind the gate: what both ends say to each other through it, over HTTP/1.1 and
// over HTTP/2, is byte for byte what they say without it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';

import WebSocket, { WebSocketServer } from 'ws';

import { CASES, COMPRESSED } from './cases.mjs';
import { close, exchange, open1, open2 } from './frames.mjs';
import { until } from './gate.mjs';
import { Program, revoke, startBefore, token } from './stage.mjs';

const ROUTES = {
  'GET /ws': 'read:weather',
  'GET /kept': { scopes: 'read:weather', streams: 'keep' },
  'GET /page': { scopes: 'read:weather', websocket_token: true },
};
const DEFLATE = { 'sec-websocket-extensions': 'permessage-deflate; client_max_window_bits' };

/** An echo of npm ws, and what it hears. */
async function startWs() {
  const server = http.createServer();
  const sockets = new WebSocketServer({ server, perMessageDeflate: true, handleProtocols: (offered) => (offered.has('chat') ? 'chat' : false) });
  const heard = [];
  const asked = [];
  sockets.on('connection', (socket, request) => {
    asked.push(request);
    socket.on('message', (data, binary) => {
      heard.push(['message', binary, data.length]);
      socket.send(data, { binary });
    });
    for (const event of ['ping', 'pong']) socket.on(event, (data) => heard.push([event, data.toString('hex')]));
    socket.on('close', (code, reason) => heard.push(['close', code, reason.toString()]));
    socket.on('error', () => {});
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const stop = () => {
    for (const socket of sockets.clients) socket.terminate();
    server.close();
    server.closeAllConnections();
  };
  return { port: server.address().port, heard, asked, sockets, stop };
}

async function startWebsockets() {
  const program = new Program('websockets-server', [path.join(import.meta.dirname, 'websocket_server.py')]);
  const { port } = await program.told('its port', (fact) => fact.port);
  const take = (fact) => (fact.heard === undefined ? ['close', fact.closed, fact.reason] : ['message', fact.binary, fact.heard]);
  return { port, program, get heard() { return program.facts.slice(1).map(take); }, stop: () => program.stop() };
}

for (const [name, start] of [['npm ws', startWs], ['Python websockets', startWebsockets]]) {
  describe(`${name}, every case direct, over HTTP/1.1 and over HTTP/2`, () => {
    let server, gate, good;

    before(async () => {
      server = await start();
      gate = await startBefore(`cases-${name.split(' ')[1]}`, `http://127.0.0.1:${server.port}`, ROUTES);
      good = token();
    });

    after(async () => {
      await gate?.stop();
      await server?.stop();
    });

    async function heardAll(from) {
      await until('the server has heard the end', () => server.heard.slice(from).some(([event]) => event === 'close'));
      return server.heard.slice(from);
    }

    async function same(pieces, headers = {}, options = {}) {
      const ways = {
        direct: () => open1(server.port, { headers }),
        'HTTP/1.1': () => open1(gate.port, { token: good, headers }),
        'HTTP/2': () => open2(gate.url, { token: good, headers }),
      };
      const seen = {};
      for (const [way, open] of Object.entries(ways)) {
        const from = server.heard.length;
        const got = await exchange(await open(), pieces, options);
        seen[way] = { got: got.toString('hex'), heard: await heardAll(from) };
      }
      for (const way of ['HTTP/1.1', 'HTTP/2']) {
        assert(seen[way].got === seen.direct.got, `${way}: ${seen[way].got.slice(0, 200)} instead of ${seen.direct.got.slice(0, 200)}`);
        assert.deepEqual(seen[way].heard, seen.direct.heard, way);
      }
      assert(seen.direct.got.length > 0 && !seen.direct.got.endsWith(Buffer.from('no end').toString('hex')));
    }

    for (const [title, pieces] of Object.entries(CASES)) test(title, () => same(pieces));
    for (const [title, pieces] of Object.entries(COMPRESSED)) test(`${title}, compressed`, () => same(pieces, DEFLATE, { echoes: false }));

    test('subprotocol and extension are agreed on between the two ends', async () => {
      const opened = await open2(gate.url, { token: good, headers: DEFLATE });
      const plain = await open1(server.port, { headers: DEFLATE });
      assert.equal(opened.head[':status'], 200);
      assert.equal(opened.head['sec-websocket-protocol'], 'chat');
      assert.equal(opened.head['sec-websocket-extensions'], /^sec-websocket-extensions: (.*)$/im.exec(plain.head)[1].trim());
      for (const { stream, done } of [opened, plain]) {
        stream.end(close(1000));
        await once(stream.resume(), 'end');
        done();
      }
    });

    test('Python websockets as a client', async () => {
      const child = spawn(process.env.PYTHON, [path.join(import.meta.dirname, 'websocket_client.py'), `ws://127.0.0.1:${gate.port}/ws`, good]);
      child.stdin.end();
      const [said, failed] = await Promise.all([text(child.stdout), text(child.stderr)]);
      assert.equal(failed, '');
      assert.deepEqual(JSON.parse(said), { subprotocol: 'chat', extensions: ['permessage-deflate'], text: 'café', fragments: 'fragmented', large: true, close: [4000, 'enough'] });
    });
  });
}

describe('npm ws as a client', () => {
  let server, gate;

  before(async () => {
    server = await startWs();
    gate = await startBefore('websocket-client', `http://127.0.0.1:${server.port}`, ROUTES, { shutdown: { delay: '1ms', deadline: '8s' } });
  });

  after(() => server.stop());

  const open = async (target, protocols, options = {}) => {
    const socket = new WebSocket(`ws://127.0.0.1:${gate.port}${target}`, protocols, options);
    await once(socket, 'open');
    return socket;
  };
  const bearer = (value) => ({ headers: { authorization: `Bearer ${value}` } });
  const said = async (socket, data) => {
    socket.send(data);
    return String((await once(socket, 'message'))[0]);
  };

  test('with its token in a header, and refused without', async () => {
    const socket = await open('/ws', ['chat'], bearer(token()));
    assert.deepEqual([socket.protocol, await said(socket, 'hello')], ['chat', 'hello']);
    socket.close(4321, 'done');
    assert.deepEqual((await once(socket, 'close'))[0], 4321);
    for (const [target, options, status] of [['/ws', {}, 401], ['/ws', bearer(token({ scope: 'other' })), 403], ['/none', bearer(token()), 404]]) {
      const refused = new WebSocket(`ws://127.0.0.1:${gate.port}${target}`, ['chat'], options);
      const [, response] = await once(refused, 'unexpected-response');
      assert.equal(response.statusCode, status);
      refused.on('error', () => {}).terminate();
    }
  });

  test('with its token among the subprotocols, which the service never sees', async () => {
    const good = token();
    const chosen = await open('/page', ['chat', `wicketgate.bearer.${good}`]);
    assert.deepEqual([chosen.protocol, await said(chosen, 'hello')], ['chat', 'hello']);
    assert.equal(server.asked.at(-1).headers['sec-websocket-protocol'], 'chat');
    const marked = await open('/page', ['wicketgate.bearer', `wicketgate.bearer.${good}`]);
    assert.deepEqual([marked.protocol, await said(marked, 'hello')], ['wicketgate.bearer', 'hello']);
    assert.equal(server.asked.at(-1).headers['sec-websocket-protocol'], undefined);
    assert(!JSON.stringify(server.asked.at(-1).rawHeaders).includes(good));
    const refused = new WebSocket(`ws://127.0.0.1:${gate.port}/ws`, ['chat', `wicketgate.bearer.${good}`]);
    assert.equal((await once(refused, 'unexpected-response'))[1].statusCode, 401);
    refused.on('error', () => {}).terminate();
    for (const socket of [chosen, marked]) {
      socket.close();
      await once(socket, 'close');
    }
  });

  test('closed with 4401 when its token expires or is revoked, over HTTP/2 too, and kept where the route says so', async () => {
    const kept = await open('/kept', [], bearer(token({ subject: 'carol' })));
    const revoked = await open('/ws', [], bearer(token({ subject: 'carol' })));
    const expiring = await open('/ws', [], bearer(token({ subject: 'dave', seconds: 2 })));
    const over2 = await open2(gate.url, { token: token({ subject: 'dave', seconds: 2 }) });
    const closed = [once(revoked, 'close'), once(expiring, 'close'), exchange(over2, [])];
    await revoke(gate, 'carol');
    const [[code, reason], [late, why], bytes] = await Promise.all(closed);
    assert.deepEqual([code, String(reason), late, String(why)], [4401, 'token_revoked', 4401, 'expired']);
    assert.equal(bytes.toString('hex'), `88091131${Buffer.from('expired').toString('hex')}`);
    assert.equal(await said(kept, 'still here'), 'still here');
    kept.close();
    await once(kept, 'close');
  });

  test('told 1001 when the gate goes, and the service hears it from the client', async () => {
    const sockets = await Promise.all(Array.from({ length: 20 }, () => open('/ws', [], bearer(token({ subject: 'erin' })))));
    const over2 = await open2(gate.url, { token: token({ subject: 'erin' }) });
    const got = exchange(over2, []);
    got.catch(() => {});
    over2.stream.once('data', () => over2.stream.end(close(1001)));
    const from = server.heard.length;
    const closed = Promise.all(sockets.map((socket) => once(socket, 'close')));
    const begun = Date.now();
    await gate.stop();
    assert(Date.now() - begun < 6000, 'before the deadline');
    for (const [code, reason] of await closed) assert.deepEqual([code, String(reason)], [1001, 'going away']);
    assert.equal((await got).toString('hex'), `880c03e9${Buffer.from('going away').toString('hex')}`);
    const heard = server.heard.slice(from).filter(([event]) => event === 'close');
    assert.deepEqual([heard.length, ...new Set(heard.map(([, code]) => code))], [21, 1001]);
  });
});

