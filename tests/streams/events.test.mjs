// Server-sent events and long polls, from services over HTTP/1.1 and HTTP/2 to clients over both: each piece at once, each leaving noticed.

import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import { after, before, describe, test } from 'node:test';

import { startBefore, token } from './stage.mjs';

const EVENTS = 20;

for (const upstreamVersion of ['1.1', '2']) {
  describe(`events of a service over HTTP/${upstreamVersion}`, () => {
    const told = new EventEmitter();
    let server, gate, good;

    before(async () => {
      const serve = (request, response) => {
        response.on('close', () => told.emit('gone', request.url));
        request.resume();
        if (request.url === '/poll') return told.emit('poll', (text) => response.end(text));
        response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
        response.write('data: 0\n\n');
        return told.emit('stream', (text) => response.write(text));
      };
      server = upstreamVersion === '2' ? http2.createServer(serve) : http.createServer(serve);
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const upstream = { url: `http://127.0.0.1:${server.address().port}`, protocol: upstreamVersion === '2' ? 'http2' : 'http1' };
      gate = await startBefore(`events-${upstreamVersion}`, upstream, { 'GET /events': 'read:weather', 'GET /poll': 'read:weather' });
      good = token();
    });

    after(async () => {
      await gate?.stop();
      server?.close();
      server?.closeAllConnections?.();
    });

    /** Asks over one of the protocols: what comes, piece by piece, and a way to leave. */
    function ask(version, path) {
      const headers = { authorization: `Bearer ${good}` };
      const pieces = new EventEmitter();
      if (version === '2') {
        const session = http2.connect(gate.url);
        const stream = session.request({ ':path': path, ...headers }).setEncoding('utf8');
        stream.on('data', (piece) => pieces.emit('piece', piece));
        return { pieces, leave: () => stream.close(http2.constants.NGHTTP2_CANCEL), done: () => session.close() };
      }
      const request = http.get(`${gate.url}${path}`, { headers, agent: false }, (response) => {
        response.setEncoding('utf8').on('data', (piece) => pieces.emit('piece', piece)).on('error', () => {});
      });
      request.on('error', () => {});
      return { pieces, leave: () => request.destroy(), done: () => {} };
    }

    for (const version of ['1.1', '2']) {
      test(`each event reaches a client over HTTP/${version} before the next is sent, and its leaving the service`, async () => {
        const opened = once(told, 'stream');
        const { pieces, leave, done } = ask(version, '/events');
        const first = once(pieces, 'piece');
        const [send] = await opened;
        assert.equal((await first)[0], 'data: 0\n\n');
        for (let i = 1; i < EVENTS; i += 1) {
          const piece = once(pieces, 'piece');
          send(`data: ${i}\n\n`);
          assert.equal((await piece)[0], `data: ${i}\n\n`);
        }
        const gone = once(told, 'gone');
        leave();
        assert.equal((await gone)[0], '/events');
        done();
      });

      test(`a long poll over HTTP/${version} is answered when the service answers, and given up when its client leaves`, async () => {
        const asked = once(told, 'poll');
        const answered = ask(version, '/poll');
        const [answer] = await asked;
        const piece = once(answered.pieces, 'piece');
        answer('now');
        assert.equal((await piece)[0], 'now');
        answered.done();
        const again = once(told, 'poll');
        const left = ask(version, '/poll');
        await again;
        const gone = once(told, 'gone');
        left.leave();
        assert.equal((await gone)[0], '/poll');
        left.done();
      });
    }
  });
}
