// Connect's server and clients (gRPC-Web, gRPC) with the gate between them: gRPC-Web over HTTP/1.1 and HTTP/2, to a service over either.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';

import { create, createFileRegistry } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema, FileDescriptorSetSchema, file_google_protobuf_wrappers } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { connectNodeAdapter, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';

import { revoke, startBefore, token } from './stage.mjs';

const WORD = '.google.protobuf.StringValue';
const file = create(FileDescriptorProtoSchema, {
  name: 'talk.proto',
  package: 'talk',
  syntax: 'proto3',
  dependency: ['google/protobuf/wrappers.proto'],
  service: [{
    name: 'Talk',
    method: [
      { name: 'Say', inputType: WORD, outputType: WORD },
      { name: 'Count', inputType: WORD, outputType: WORD, serverStreaming: true },
      { name: 'Both', inputType: WORD, outputType: WORD, clientStreaming: true, serverStreaming: true },
    ],
  }],
});
const registry = createFileRegistry(create(FileDescriptorSetSchema, { file: [file_google_protobuf_wrappers.proto, file] }));
const Talk = registry.getService('talk.Talk');

const heard = [];
const adapter = connectNodeAdapter({
  routes: (router) => router.service(Talk, {
    say(word, context) {
      heard.push(Object.fromEntries(context.requestHeader));
      context.responseTrailer.set('x-trailer', 'kept');
      if (word.value === 'fail') throw new ConnectError('no such word: 50 %', Code.FailedPrecondition);
      return { value: word.value.toUpperCase() };
    },
    async *count(word, context) {
      for (let i = 0; i < 3; i += 1) yield { value: `${word.value} ${i}` };
      if (word.value === 'on and on') await new Promise((gone) => context.signal.addEventListener('abort', gone));
    },
    async *both(words) {
      for await (const word of words) yield { value: word.value };
    },
  }),
});

for (const upstreamVersion of ['1.1', '2']) {
  describe(`Connect behind the gate over HTTP/${upstreamVersion}`, () => {
    let server, gate;

    before(async () => {
      server = upstreamVersion === '2' ? http2.createServer(adapter) : http.createServer(adapter);
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const upstream = { url: `http://127.0.0.1:${server.address().port}`, protocol: upstreamVersion === '2' ? 'http2' : 'http1' };
      gate = await startBefore(`connect-${upstreamVersion}`, upstream, { 'POST /talk.Talk/{method}': 'read:weather' });
    });

    after(async () => {
      await gate?.stop();
      server?.close();
      server?.closeAllConnections?.();
    });

    const client = (transport, httpVersion, bearer) => {
      const authorize = (next) => (request) => {
        if (bearer) request.header.set('authorization', `Bearer ${bearer}`);
        return next(request);
      };
      return createClient(Talk, transport({ baseUrl: gate.url, httpVersion, interceptors: [authorize] }));
    };
    const code = (call) => call.then(() => 'ok', (error) => [Code[ConnectError.from(error).code], ConnectError.from(error).rawMessage]);

    for (const version of ['1.1', '2']) {
      test(`gRPC-Web over HTTP/${version}: messages, trailers, errors of the service and of the gate`, async () => {
        const own = client(createGrpcWebTransport, version, token());
        let trailer;
        const said = await own.say({ value: 'rain' }, { onTrailer: (headers) => (trailer = headers.get('x-trailer')) });
        assert.deepEqual([said.value, trailer], ['RAIN', 'kept']);
        assert.equal(heard.at(-1)['x-auth-subject'], 'alice');
        assert.equal(heard.at(-1).authorization, undefined);
        const counted = [];
        for await (const word of own.count({ value: 'n' })) counted.push(word.value);
        assert.deepEqual(counted, ['n 0', 'n 1', 'n 2']);
        assert.deepEqual(await code(own.say({ value: 'fail' })), ['FailedPrecondition', 'no such word: 50 %']);
        assert.deepEqual(await code(client(createGrpcWebTransport, version).say({ value: 'x' })), ['Unauthenticated', 'HTTP 401']);
        assert.equal((await code(client(createGrpcWebTransport, version, token({ scope: 'other' })).say({ value: 'x' })))[0], 'PermissionDenied');
      });

      test(`gRPC-Web over HTTP/${version}: a stream ends with status 16 when its token is revoked`, async () => {
        const own = client(createGrpcWebTransport, version, token({ subject: `web-${version}` }));
        const counted = [];
        const ended = code((async () => {
          for await (const word of own.count({ value: 'on and on' })) counted.push(word.value);
        })());
        while (counted.length < 3) await pause(10);
        await revoke(gate, `web-${version}`);
        assert.deepEqual(await ended, ['Unauthenticated', 'token_revoked']);
      });
    }

    if (upstreamVersion === '2') {
      test('gRPC: both ways, deadline, denial', async () => {
        const own = client(createGrpcTransport, '2', token());
        const answered = [];
        for await (const word of own.both((async function* words() {
          for (let i = 0; i < 100; i += 1) yield { value: `${i}` };
        })())) answered.push(Number(word.value));
        assert.deepEqual(answered, Array.from({ length: 100 }, (_, i) => i));
        assert.equal((await code((async () => {
          for await (const _ of own.count({ value: 'on and on' }, { timeoutMs: 400 })) { /* until the deadline */ }
        })()))[0], 'DeadlineExceeded');
        assert.equal((await code(client(createGrpcTransport, '2').say({ value: 'x' })))[0], 'Unauthenticated');
      });
    }
  });
}
