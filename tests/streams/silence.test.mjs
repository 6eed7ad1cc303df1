// Services of gRPC take PINGs that come while they are silent as an attack, and close: grpcio's after some eighty seconds of
// one every twenty. A service that counts them shows it sooner.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2 from 'node:http2';
import { setTimeout as pass } from 'node:timers/promises';
import { test } from 'node:test';

import { startBefore } from './stage.mjs';

const SILENCE_MS = 25_000;

test('a silent call is not disturbed by PINGs', async () => {
  let pings = 0;
  const service = http2.createServer();
  service.on('session', (session) => session.on('ping', () => (pings += 1)));
  service.on('stream', (stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' });
    stream.once('data', async () => {
      await pass(SILENCE_MS);
      stream.end('after the silence');
    });
  });
  service.listen(0, '127.0.0.1');
  await once(service, 'listening');
  const upstream = { url: `http://127.0.0.1:${service.address().port}`, protocol: 'http2' };
  const gate = await startBefore('silence', upstream, { '/**': 'public' });
  const client = http2.connect(`http://localhost:${gate.port}`);
  const call = client.request({ ':method': 'POST', ':path': '/weather.Weather/Both', 'content-type': 'application/grpc', te: 'trailers' });
  call.write('something');
  let said = '';
  for await (const piece of call.setEncoding('utf8')) said += piece;
  call.end();
  client.close();
  assert.deepEqual([said, pings], ['after the silence', 0]);
  await gate.stop();
  service.close();
});
