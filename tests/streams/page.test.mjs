// A page in Chromium, served through the gate over HTTP/2: fetch, server-sent events and a WebSocket with its token among the subprotocols.

import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import http from 'node:http';
import { after, before, test } from 'node:test';

import { chromium } from 'playwright-core';
import { WebSocketServer } from 'ws';

import { until } from './gate.mjs';
import { startBefore, token } from './stage.mjs';

const ROUTES = {
  'GET /page': 'public',
  'GET /me': 'read:weather',
  'GET /events': 'read:weather',
  'GET /public/events': 'public',
  'GET /feed': { scopes: 'read:weather', websocket_token: true },
  'GET /closed': 'read:weather',
};

const events = new EventEmitter();
let server, sockets, gate, browser, page;

before(async () => {
  server = http.createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://upstream');
    if (pathname.endsWith('/events')) {
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
      response.write('data: first\n\n');
      response.on('close', () => events.emit('gone', response.writableFinished));
      return events.emit('stream', (data) => response.write(`data: ${data}\n\n`), request);
    }
    response.setHeader('content-type', pathname === '/page' ? 'text/html' : 'application/json');
    return response.end(pathname === '/page' ? '<!doctype html><title>page</title>' : JSON.stringify({ subject: request.headers['x-auth-subject'] }));
  });
  sockets = new WebSocketServer({ server, handleProtocols: (offered) => (offered.has('chat') ? 'chat' : false) });
  sockets.on('connection', (socket, request) => {
    events.emit('socket', request);
    socket.on('message', (data, binary) => socket.send(data, { binary }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  gate = await startBefore('page', `http://127.0.0.1:${server.address().port}`, ROUTES, { tls: true });
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  page = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage();
  await page.goto(`https://localhost:${gate.port}/page`);
});

after(async () => {
  await browser?.close();
  await gate?.stop();
  for (const socket of sockets?.clients ?? []) socket.terminate();
  server?.close();
  server?.closeAllConnections();
});

test('a page fetches with its token over HTTP/2, and reads why it may not without', async () => {
  const good = token();
  const told = await page.evaluate(async (bearer) => {
    const ask = (headers) => fetch('/me', { headers }).then(async (answer) => [answer.status, await answer.json()]);
    return [await ask({ authorization: `Bearer ${bearer}` }), await ask({})];
  }, good);
  assert.deepEqual(told[0], [200, { subject: 'alice' }]);
  assert.deepEqual([told[1][0], told[1][1].code], [401, 'token_missing']);
  assert.equal(gate.records('/me')[0].version, 'HTTP/2.0');
});

for (const [target, how] of [['/public/events', 'EventSource'], ['/events', 'fetch with a token']]) {
  test(`each event reaches a page before the next is sent (${how}), and the service learns when the page leaves`, async () => {
    const opened = once(events, 'stream');
    const reading = page.evaluate(async ([path, bearer]) => {
      window.seen = [];
      if (!bearer) {
        window.source = new EventSource(path);
        window.source.onmessage = (event) => window.seen.push(event.data);
        window.leave = () => window.source.close();
        return;
      }
      const abort = new AbortController();
      window.leave = () => abort.abort();
      const answer = await fetch(path, { headers: { authorization: `Bearer ${bearer}` }, signal: abort.signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      (async () => {
        for (;;) {
          const { value, done } = await reader.read();
          if (done) return;
          window.seen.push(/data: (.*)/.exec(value)[1]);
        }
      })().catch(() => {});
    }, [target, how === 'EventSource' ? '' : token()]);
    const [send] = await opened;
    await reading;
    for (const [i, data] of ['first', 'second', 'third'].entries()) {
      if (i > 0) send(data);
      await page.waitForFunction((wanted) => window.seen.at(-1) === wanted, data);
    }
    const gone = once(events, 'gone');
    await page.evaluate(() => window.leave());
    assert.equal((await gone)[0], false);
  });
}

const socket = (path, protocols) => page.evaluate(([target, offered]) => new Promise((done) => {
  const opened = new WebSocket(`wss://${location.host}${target}`, offered);
  opened.onopen = () => opened.send('hello');
  opened.onmessage = ({ data }) => {
    opened.onclose = ({ code }) => done([opened.protocol, data, code, opened.extensions]);
    opened.close(3001);
  };
  opened.onerror = () => done('error');
}), [path, protocols]);

test('a page opens a WebSocket with its token among the subprotocols, over HTTP/2, and the service never sees it', async () => {
  const good = token();
  const asked = once(events, 'socket');
  assert.deepEqual((await socket('/feed', ['chat', `wicketgate.bearer.${good}`])).slice(0, 3), ['chat', 'hello', 3001]);
  const [{ headers, rawHeaders }] = await asked;
  assert.deepEqual([headers['sec-websocket-protocol'], headers['x-auth-subject'], headers.origin], ['chat', 'alice', `https://localhost:${gate.port}`]);
  assert(!rawHeaders.some((line) => line.includes(good)));
  const record = await until('the tunnel is recorded', () => gate.records('/feed')[0]);
  assert.deepEqual([record.version, record.status, record.subject], ['HTTP/2.0', 101, 'alice']);
});

test('a page whose service chooses no subprotocol offers the gate\'s own, and fails without it', async () => {
  const good = token();
  assert.deepEqual((await socket('/feed', ['wicketgate.bearer', `wicketgate.bearer.${good}`])).slice(0, 3), ['wicketgate.bearer', 'hello', 3001]);
  // Chromium gives up where it offered subprotocols and none was chosen.
  assert.equal(await socket('/feed', [`wicketgate.bearer.${good}`]), 'error');
});

test('a page without a token, or on a route that takes none from there, opens nothing', async () => {
  assert.equal(await socket('/feed', ['chat']), 'error');
  assert.equal(await socket('/closed', ['chat', `wicketgate.bearer.${token()}`]), 'error');
  await until('the refusal is recorded', () => gate.records('/closed')[0]);
  assert.deepEqual(gate.records('/closed').map((record) => record.reason), ['token_missing']);
});
