// A service that knows nothing of OAuth: it tells what it was sent, streams when told to, and echoes WebSockets.

import crypto from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { Readable } from 'node:stream';

import { WebSocketServer } from 'ws';

/** More than all buffers between two programs on one machine hold together. */
export const HELD_BYTES = 256 * 1024 * 1024;

/** Starts the service on loopback. `seen` holds every request; `events` tells what happens. */
export async function startUpstream() {
  const events = new EventEmitter();
  const seen = [];
  const server = http.createServer((req, res) => {
    const told = { method: req.method, url: req.url, httpVersion: req.httpVersion, headers: req.headers, names: namesOf(req) };
    seen.push(told);
    const { pathname } = new URL(req.url, 'http://upstream');
    if (pathname.endsWith('/events')) return stream(req, res, events);
    if (pathname.endsWith('/trailers')) return trailers(res);
    if (pathname.endsWith('/large')) return large(res, events);
    if (pathname.endsWith('/held')) return events.emit('held', { resume: () => echo(req, res, told, events) });
    return echo(req, res, told, events);
  });
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (socket, req) => {
    events.emit('socket', socket, req);
    socket.on('message', (data, binary) => socket.send(data, { binary }));
    socket.on('ping', (data) => events.emit('ping', data.toString()));
    socket.on('close', (code, reason) => events.emit('closed', code, reason.toString()));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    seen,
    events,
    async stop() {
      for (const socket of sockets.clients) socket.terminate();
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

/** Header names as they came, not folded by Node. */
function namesOf(req) {
  return req.rawHeaders.filter((_, i) => i % 2 === 0);
}

/** Answers with the request, once its body is all here. */
async function echo(req, res, told, events) {
  const hash = crypto.createHash('sha256');
  let bytes = 0;
  try {
    for await (const piece of req) {
      hash.update(piece);
      bytes += piece.length;
      events.emit('piece', piece);
    }
  } catch {
    return void events.emit('broken');
  }
  Object.assign(told, { bytes, sha256: hash.digest('hex'), trailers: req.trailers });
  const body = Buffer.from(JSON.stringify(told));
  res.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
  res.end(body);
}

/** Server-sent events: the first at once, the others when the test says so. */
function stream(req, res, events) {
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  res.write('data: first\n\n');
  res.on('close', () => events.emit('stream closed', res.writableFinished));
  events.emit('stream', { send: (data) => res.write(`data: ${data}\n\n`), end: () => res.end() });
}

/** A body with trailers, one of which only the gate may set. */
function trailers(res) {
  res.writeHead(200, { 'content-type': 'text/plain', trailer: 'X-Checksum, X-Auth-Subject' });
  res.write('body before trailers\n');
  res.addTrailers({ 'X-Checksum': 'abc123', 'X-Auth-Subject': 'mallory' });
  res.end();
}

/** A body of HELD_BYTES, and how much of it was asked for so far. */
export function piecemeal() {
  const piece = Buffer.alloc(64 * 1024);
  const told = { bytes: 0 };
  told.stream = Readable.from((function* pieces() {
    for (; told.bytes < HELD_BYTES; told.bytes += piece.length) yield piece;
  })(), { objectMode: false, highWaterMark: piece.length });
  return told;
}

/** Sends it as fast as it is taken. */
function large(res, events) {
  const told = piecemeal();
  res.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': HELD_BYTES });
  told.stream.pipe(res);
  events.emit('large', told);
}

/** A service that answers the first request on a connection, promises to keep it, and closes it when the next comes. */
export async function startFickle() {
  const unanswered = [];
  const server = net.createServer((socket) => {
    let answered = false;
    socket.on('error', () => {});
    socket.on('data', (data) => {
      if (answered) {
        unanswered.push(String(data).split(' ')[0]);
        return void socket.destroy();
      }
      answered = true;
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const stop = async () => {
    server.close();
    await once(server, 'close');
  };
  return { url: `http://127.0.0.1:${server.address().port}`, unanswered, stop };
}
