// grpcio's server behind the gate, over h2c and over TLS; grpcio's client, grpc-js, grpc-web and a raw HTTP/2 client before it.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import http2 from 'node:http2';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import grpc from '@grpc/grpc-js';

import { until } from './gate.mjs';
import { AUTHORITY, CERTIFICATE, KEY, Program, revoke, startBefore, token } from './stage.mjs';

const ROUTES = {
  'POST /weather.Weather/Secret': 'write:weather',
  'POST /weather.Weather/{method}': 'read:weather',
  'POST /grpc.health.v1.Health/{method}': 'public',
  'POST /grpc.reflection.v1alpha.ServerReflection/{method}': 'read:weather',
  'POST /grpc.reflection.v1.ServerReflection/{method}': 'read:weather',
};
const METHODS = ['Unary', 'Down', 'Up', 'Both', 'Hang', 'Fail'];
// What grpcio's client sees; the same wherever the gate stands.
const EXPECTED = {
  reflected: [['grpc.health.v1.Health', 'grpc.reflection.v1alpha.ServerReflection', 'weather.Weather'], METHODS],
  unary: ['RAIN', 42, 'kept', 'kept', '00ff'],
  large: [3 << 20, 2],
  down: true,
  up: 499500,
  both: true,
  silent: 3,
  deadline: ['DEADLINE_EXCEEDED', true],
  deadline_of_a_stream: [[0, 1, 2], 'DEADLINE_EXCEEDED'],
  cancel: [0, 'CANCELLED'],
  fail: ['FAILED_PRECONDITION', 'no forecast: 50 % café'],
  no_token: 'UNAUTHENTICATED',
  bad_token: 'UNAUTHENTICATED',
  no_scope: 'PERMISSION_DENIED',
  no_route: 'UNIMPLEMENTED',
  too_large: 'RESOURCE_EXHAUSTED',
  healthy: 1,
};

/** A message of the service: text and number (protobuf). */
function word(text, number) {
  const varint = (value) => (value < 128 ? [value] : [(value & 127) | 128, ...varint(value >>> 7)]);
  return Buffer.from([10, ...varint(text.length), ...Buffer.from(text), 16, ...varint(number)]);
}

/** A message as gRPC frames it. */
function framed(message) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

for (const tls of [false, true]) {
  describe(`gRPC over ${tls ? 'TLS to TLS' : 'h2c to h2c'}`, () => {
    let server, gate, client, raw;
    const good = token();

    before(async () => {
      server = new Program(`grpc-server-${tls}`, ['grpc_server.py', '127.0.0.1:0', ...(tls ? [CERTIFICATE, KEY] : [])].map(local));
      const { port } = await server.told('its port', (fact) => fact.port);
      const upstream = tls
        ? { url: `https://localhost:${port}`, protocol: 'http2', tls: { ca_file: AUTHORITY } }
        : { url: `http://127.0.0.1:${port}`, protocol: 'http2' };
      const short = { timeouts: { body: '1s', response: '2s' }, limits: { header_bytes: '8KiB' } };
      gate = await startBefore(`grpc-${tls}`, upstream, ROUTES, { tls, ...short });
      client = new Program(`grpc-client-${tls}`, [local('grpc_client.py'), `127.0.0.1:${gate.port}`, good, ...(tls ? [AUTHORITY] : [])]);
      raw = http2.connect(`${tls ? 'https' : 'http'}://localhost:${gate.port}`, tls ? { ca: fs.readFileSync(AUTHORITY) } : {});
      await once(raw, 'connect');
    });

    after(async () => {
      raw?.close();
      await client?.stop();
      await gate?.stop();
      await server?.stop();
    });

    /** A call by hand: what the gate says is not what a client makes of it. */
    function call(method, { headers = {}, messages = [], end = true } = {}) {
      const stream = raw.request({ ':method': 'POST', ':path': `/weather.Weather/${method}`, 'content-type': 'application/grpc', te: 'trailers', authorization: `Bearer ${good}`, ...headers });
      const answer = { stream, body: [], headers: {}, trailers: {} };
      stream.on('response', (head) => (answer.headers = head));
      stream.on('trailers', (trailers) => (answer.trailers = trailers));
      stream.on('data', (piece) => answer.body.push(piece));
      stream.on('error', (error) => (answer.error = error));
      answer.closed = once(stream, 'close');
      for (const message of messages) stream.write(framed(message));
      if (end) stream.end();
      return answer;
    }

    for (const [name, expected] of Object.entries(EXPECTED)) {
      test(`grpcio: ${name}`, async () => {
        const from = client.facts.length;
        client.write(name);
        const { result, error } = await client.told(name, (fact) => fact.case === name, from);
        assert.deepEqual([result, error], [expected, undefined]);
      });
    }

    test('identity reaches the service, the token does not, and metadata with bytes passes', async () => {
      const { metadata } = await server.told('a unary call', (fact) => fact.call === 'Unary');
      assert.equal(metadata['x-auth-subject'], 'alice');
      assert.equal(metadata['x-bytes-bin'], '0102');
      assert.equal(metadata.authorization, undefined);
    });

    test('a deadline is the gate\'s too: status 4, and the service\'s stream is cancelled', async () => {
      const from = server.facts.length;
      const begun = Date.now();
      const unanswered = call('Hang', { headers: { 'grpc-timeout': '400m' }, messages: [word('x', 1)] });
      await unanswered.closed;
      assert(Date.now() - begun < 1900, 'sooner than the response time-out');
      assert.equal(unanswered.headers['grpc-status'], '4');
      const { left } = await server.told('the call', (fact) => fact.call === 'Hang', from);
      assert(left <= 0.4, `the service was told ${left} s`);
      await server.told('the end of the call', (fact) => fact.over === 'Hang', from);

      // The second message comes and then nothing: the deadline is that of the stream as a whole.
      const stream = call('Down', { headers: { 'grpc-timeout': '700m' }, messages: [word('on and on', 2)] });
      await stream.closed;
      assert.equal(stream.trailers['grpc-status'], '4');
      assert.equal(Buffer.concat(stream.body).length, 2 * framed(word('on and on', 1)).length - 2);
      await server.told('the end of the stream', (fact) => fact.over === 'Down', from);
    });

    test('a client that resets its stream is gone for the service', async () => {
      const from = server.facts.length;
      const left = call('Down', { messages: [word('on and on', 1)] });
      await once(left.stream, 'data');
      left.stream.close(http2.constants.NGHTTP2_CANCEL);
      await server.told('the end of the stream', (fact) => fact.over === 'Down', from);
      const hung = call('Hang', { messages: [word('x', 1)] });
      await server.told('the call', (fact) => fact.call === 'Hang', from);
      hung.stream.close(http2.constants.NGHTTP2_CANCEL);
      await server.told('the end of the call', (fact) => fact.over === 'Hang', from);
    });

    test('each message of the client reaches the service before the next is sent', async () => {
      const talk = call('Up', { end: false });
      for (const number of [7, 8, 9]) {
        const from = server.facts.length;
        talk.stream.write(framed(word('x', number)));
        await server.told(`message ${number}`, (fact) => fact.heard === number, from);
      }
      talk.stream.end();
      await talk.closed;
      assert.deepEqual([talk.trailers['grpc-status'], talk.trailers['x-trailer']], ['0', 'kept']);
    });

    test('a denial is a status in a head without a body, with a challenge', async () => {
      const denied = call('Unary', { headers: { authorization: '' }, messages: [word('x', 1)] });
      await denied.closed;
      assert.equal(denied.headers[':status'], 200);
      assert.equal(denied.headers['content-type'], 'application/grpc');
      assert.match(denied.headers['www-authenticate'], /^Bearer /);
      assert.match(denied.headers['grpc-status'], /^(16|3)$/);
      assert.match(denied.headers['grpc-message'], /^[ -~]+$/);
      assert.equal(denied.body.length, 0);
    });

    test('a stream ends with status 16 in its trailers when its token expires', async () => {
      const short = token({ subject: 'bob', seconds: 2 });
      const from = server.facts.length;
      const stream = call('Down', { headers: { authorization: `Bearer ${short}` }, messages: [word('on and on', 2)] });
      await stream.closed;
      assert.deepEqual([stream.trailers['grpc-status'], stream.trailers['grpc-message']], ['16', 'expired']);
      await server.told('the end of the stream', (fact) => fact.over === 'Down', from);
    });

    test('grpc-js: unary and both ways, deadline and denial', async () => {
      const credentials = tls ? grpc.credentials.createSsl(fs.readFileSync(AUTHORITY)) : grpc.credentials.createInsecure();
      const own = new grpc.Client(`localhost:${gate.port}`, credentials);
      const same = (bytes) => bytes;
      const metadata = new grpc.Metadata();
      metadata.set('authorization', `Bearer ${good}`);
      const unary = (...args) => new Promise((done) => own.makeUnaryRequest(...args, (error, answer) => done(error ? error.code : answer)));
      assert.deepEqual(await unary('/weather.Weather/Unary', same, same, word('sun', 1), metadata), word('SUN', 2));
      assert.equal(await unary('/weather.Weather/Unary', same, same, word('sun', 1), new grpc.Metadata()), grpc.status.UNAUTHENTICATED);
      assert.equal(await unary('/weather.Weather/Secret', same, same, word('sun', 1), metadata), grpc.status.PERMISSION_DENIED);
      assert.equal(await unary('/weather.Weather/Hang', same, same, word('sun', 1), metadata, { deadline: Date.now() + 500 }), grpc.status.DEADLINE_EXCEEDED);
      const talk = own.makeBidiStreamRequest('/weather.Weather/Both', same, same, metadata);
      for (let i = 0; i < 50; i += 1) {
        const answered = once(talk, 'data');
        talk.write(word('x', 1));
        assert(String((await answered)[0]).includes('x'));
      }
      const ended = once(talk, 'status');
      talk.end();
      assert.equal((await ended)[0].code, grpc.status.OK);
      own.close();
    });

    test('a stream whose user\'s token is revoked ends with status 16', async () => {
      const from = client.facts.length;
      client.write('ended');
      await client.told('open', (fact) => fact.open === 'ended', from);
      await revoke(gate, 'alice');
      const { result } = await client.told('ended', (fact) => fact.case === 'ended', from);
      assert.deepEqual(result, [[0, 1], ['UNAUTHENTICATED', 'token_revoked']]);
      await until('nothing is in flight', async () => (await fetch(`http://127.0.0.1:${gate.admin}/metrics`)).text().then((text) => /^wicketgate_requests_in_flight 0$/m.test(text)));
    });
  });
}

function local(name) {
  return name.endsWith('.py') ? path.join(import.meta.dirname, name) : name;
}
