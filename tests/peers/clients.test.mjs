// Node's own clients and ws: streams both ways, back pressure, trailers, connections that break, WebSockets.

import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import { buffer } from 'node:stream/consumers';
import { after, before, test } from 'node:test';

import WebSocket from 'ws';

import { startGate, until } from './gate.mjs';
import { RESOURCE, startScene } from './scene.mjs';
import { HELD_BYTES, piecemeal, startFickle } from './upstream.mjs';

const MIB = 1024 * 1024;
const GROWTH_BYTES_MAX = 16 * MIB;
/** A counter that has not moved for so long stands still. */
const STILL_MS = 300;

let scene, provider, upstream, gate, token;

before(async () => {
  const routes = {
    'PUT,POST /weather/{city}': 'write:weather',
    'GET /events': 'read:weather',
    'GET /socket': 'read:weather',
    'GET /large': 'read:weather',
    'PUT /held': 'write:weather',
  };
  scene = await startScene('clients', { routes });
  ({ provider, upstream, gate } = scene);
  token = await provider.token();
});

after(() => scene?.close());

test("Node's fetch streams a body up, and reads the stream that comes down", async () => {
  const pieces = ['sun ', 'rain ', 'sun'];
  const body = new ReadableStream({
    async pull(controller) {
      const piece = pieces.shift();
      if (piece) controller.enqueue(Buffer.from(piece));
      else controller.close();
    },
  });
  const up = await gate.fetch('/weather/oslo', { method: 'PUT', token, body, duplex: 'half' });
  assert.equal((await up.json()).sha256, crypto.createHash('sha256').update('sun rain sun').digest('hex'));

  const opened = once(upstream.events, 'stream');
  const down = await gate.fetch('/events', { token });
  const [stream] = await opened;
  const reader = down.body.pipeThrough(new TextDecoderStream()).getReader();
  assert.equal((await reader.read()).value, 'data: first\n\n');
  stream.send('second');
  assert.equal((await reader.read()).value, 'data: second\n\n');
  stream.end();
  assert.equal((await reader.read()).done, true);
});

test("Node's HTTP/2 client reads the refusal of an upload that it has only begun", async () => {
  const session = http2.connect(gate.url);
  const stream = session.request({ ':method': 'POST', ':path': '/weather/oslo' });
  stream.write('the first part');
  const [headers] = await once(stream, 'response');
  assert.equal(headers[':status'], 401);
  assert.equal(JSON.parse(await buffer(stream)).code, 'token_missing');
  session.close();
});

test("a client's trailers reach the upstream, save those that are the gate's", async () => {
  const request = http.request(`${gate.url}/weather/oslo`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'transfer-encoding': 'chunked', trailer: 'X-Checksum, X-Auth-Subject' },
  });
  request.write('measured');
  request.addTrailers({ 'X-Checksum': 'abc123', 'X-Auth-Subject': 'mallory', X_Auth_Scopes: 'admin', Authorization: 'Bearer x' });
  request.end();
  const [response] = await once(request, 'response');
  const told = JSON.parse(await buffer(response));
  assert.deepEqual(told.trailers, { 'x-checksum': 'abc123' });
  assert.equal(told.headers['x-auth-subject'], provider.machine.id);
});

test('an upload that the upstream does not take is not taken from the client either', async () => {
  const idle = gate.memory('VmRSS');
  const opened = once(upstream.events, 'held');
  const pull = piecemeal();
  const answer = gate.fetch('/held', { method: 'PUT', token, body: pull.stream, duplex: 'half' });
  const [held] = await opened;
  const taken = await stalled(() => pull.bytes);
  assert(taken < HELD_BYTES / 2, `${Math.round(taken / MIB)} MiB of ${HELD_BYTES / MIB} were taken`);
  assertSmall(idle);
  held.resume();
  assert.equal((await (await answer).json()).bytes, HELD_BYTES);
});

test('a download that the client does not take is not taken from the upstream either', async () => {
  const idle = gate.memory('VmRSS');
  const opened = once(upstream.events, 'large');
  const request = http.get(`${gate.url}/large`, { headers: { authorization: `Bearer ${token}` } });
  const [[sent], [response]] = await Promise.all([opened, once(request, 'response')]);
  response.pause();
  const taken = await stalled(() => sent.bytes);
  assert(taken < HELD_BYTES / 2, `${Math.round(taken / MIB)} MiB of ${HELD_BYTES / MIB} were taken`);
  assertSmall(idle);
  let bytes = 0;
  for await (const piece of response) bytes += piece.length;
  assert.equal(bytes, HELD_BYTES);
});

/** What is not taken does not pile up in the gate. */
function assertSmall(idle) {
  const growth = gate.memory('VmRSS') - idle;
  assert(growth <= GROWTH_BYTES_MAX, `the gate grew by ${Math.round(growth / MIB)} MiB`);
}

/** What a counter says once it stands still. */
async function stalled(count) {
  let [last, since] = [undefined, Date.now()];
  return until('nothing moves', () => {
    const now = count();
    if (now !== last) [last, since] = [now, Date.now()];
    return last && Date.now() - since >= STILL_MS && last;
  }, 20_000);
}

/** Sends a request on a connection that was used before, and that the service then closes without an answer. */
async function onClosingConnection(method) {
  const fickle = await startFickle();
  const services = [{ name: 'fickle', resource: RESOURCE, upstream: fickle.url, routes: { '/**': 'public' } }];
  const other = await startGate(`fickle-${method}`, { issuer: provider.issuer, services });
  try {
    assert.equal(await other.status('/first'), 200);
    const response = await other.fetch('/second', { method });
    await response.arrayBuffer();
    return { status: response.status, unanswered: fickle.unanswered };
  } finally {
    await other.stop();
    await fickle.stop();
  }
}

// It may have been done, so sending it once more could do it twice.
for (const method of ['GET', 'POST']) {
  test(`a ${method} that the upstream took and leaves unanswered is never sent twice`, async () => {
    assert.deepEqual(await onClosingConnection(method), { status: 502, unanswered: [method] });
  });
}

test('a WebSocket carries text, binary, pings and the close code both ways', async () => {
  const opened = once(upstream.events, 'socket');
  const socket = new WebSocket(`${gate.url.replace('http', 'ws')}/socket`, { headers: { authorization: `Bearer ${token}` } });
  await once(socket, 'open');
  const [server, request] = await opened;
  assert.equal(request.headers['x-auth-subject'], provider.machine.id);
  assert.equal(request.headers.authorization, undefined);

  socket.send('snow');
  assert.deepEqual(await once(socket, 'message'), [Buffer.from('snow'), false]);
  const bytes = crypto.randomBytes(300_000);
  socket.send(bytes);
  const [data, binary] = await once(socket, 'message');
  assert(binary && bytes.equals(data));

  const pinged = once(upstream.events, 'ping');
  socket.ping('up');
  assert.deepEqual(await Promise.all([pinged, once(socket, 'pong')]), [['up'], [Buffer.from('up')]]);
  server.ping('down');
  assert.equal(String((await once(socket, 'ping'))[0]), 'down');

  const closed = once(upstream.events, 'closed');
  socket.close(4321, 'enough');
  assert.deepEqual(await closed, [4321, 'enough']);
});

test("a WebSocket's client learns the code with which the upstream closes", async () => {
  const opened = once(upstream.events, 'socket');
  const socket = new WebSocket(`${gate.url.replace('http', 'ws')}/socket`, { headers: { authorization: `Bearer ${token}` } });
  const [[server]] = await Promise.all([opened, once(socket, 'open')]);
  server.close(4000, 'storm');
  const [code, reason] = await once(socket, 'close');
  assert.deepEqual([code, String(reason)], [4000, 'storm']);
});

test('a WebSocket without a token is refused with 401 before the upstream sees it', async () => {
  const seen = upstream.seen.length;
  const opened = () => assert.fail('it reached the upstream');
  upstream.events.once('socket', opened);
  const socket = new WebSocket(`${gate.url.replace('http', 'ws')}/socket`);
  const [request, response] = await once(socket, 'unexpected-response');
  assert.equal(response.statusCode, 401);
  assert.match(response.headers['www-authenticate'], /^Bearer .*resource_metadata=/);
  request.destroy();
  upstream.events.off('socket', opened);
  assert.equal(upstream.seen.length, seen);
});
