// WebSocket by hand: frames as bytes, an opening over a socket or over HTTP/2, and everything that comes back.

import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import zlib from 'node:zlib';

const MASK = Buffer.from([0x11, 0x22, 0x33, 0x44]);
const PATIENCE_MS = 20_000;

/** A client's frame; always of one mask, so that two runs send the same bytes. */
export function frame(opcode, payload = '', { fin = true, rsv = 0 } = {}) {
  const data = Buffer.from(payload);
  let head;
  if (data.length < 126) head = Buffer.from([0, data.length | 0x80]);
  else if (data.length < 65_536) head = Buffer.from([0, 126 | 0x80, data.length >> 8, data.length & 255]);
  else {
    head = Buffer.alloc(10);
    head[1] = 127 | 0x80;
    head.writeBigUInt64BE(BigInt(data.length), 2);
  }
  head[0] = (fin ? 0x80 : 0) | (rsv << 4) | opcode;
  const masked = Buffer.from(data);
  for (let i = 0; i < masked.length; i += 1) masked[i] ^= MASK[i & 3];
  return Buffer.concat([head, MASK, masked]);
}

/** A close with its code. */
export function close(code, reason = '') {
  const payload = Buffer.alloc(2 + Buffer.byteLength(reason));
  payload.writeUInt16BE(code);
  payload.write(reason, 2);
  return frame(8, payload);
}

/** A payload as permessage-deflate sends it (RFC 7692 §7.2.1). */
export function deflated(text) {
  return zlib.deflateRawSync(text, { finishFlush: zlib.constants.Z_SYNC_FLUSH }).subarray(0, -4);
}

const HEADERS = { 'sec-websocket-version': '13', 'sec-websocket-protocol': 'chat' };

/** Opens over HTTP/1.1: the head as text, and the socket. */
export async function open1(port, { token, headers = {} } = {}) {
  const socket = net.connect(port, '127.0.0.1');
  const lines = { host: 'localhost', connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==', ...HEADERS, ...headers };
  if (token) lines.authorization = `Bearer ${token}`;
  socket.write(`GET /ws HTTP/1.1\r\n${Object.entries(lines).map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`);
  let seen = Buffer.alloc(0);
  while (!seen.includes('\r\n\r\n')) seen = Buffer.concat([seen, (await once(socket, 'data'))[0]]);
  const end = seen.indexOf('\r\n\r\n') + 4;
  socket.pause();
  if (seen.length > end) socket.unshift(seen.subarray(end));
  return { head: seen.subarray(0, end).toString(), stream: socket, done: () => socket.destroy() };
}

/** Opens over HTTP/2 (RFC 8441), on a connection of its own. */
export async function open2(url, { token, headers = {}, options = {} } = {}) {
  const session = http2.connect(url, options);
  session.on('error', () => {});
  if (!session.remoteSettings?.enableConnectProtocol) await once(session, 'remoteSettings');
  const lines = { ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': new URL(url).protocol.slice(0, -1), ':path': '/ws', ':authority': new URL(url).host, ...HEADERS, ...headers };
  if (token) lines.authorization = `Bearer ${token}`;
  const stream = session.request(lines, { endStream: false });
  const [head] = await once(stream, 'response');
  return { head, stream, done: () => session.destroy() };
}

/** Sends the pieces one by one, and returns everything that comes back until the server ends. A `later` piece goes when an echo of
 * all before it has come, told by a last message of ours. */
export async function exchange({ stream, done }, pieces, { echoes = true } = {}) {
  const LAST = 'all of it was echoed';
  let got = Buffer.alloc(0);
  const timer = setTimeout(() => stream.destroy(new Error('no end')), PATIENCE_MS);
  stream.on('data', (piece) => (got = Buffer.concat([got, piece]))).resume();
  // A server that fails a connection may reset it while we still send.
  stream.on('error', (error) => error.message === 'no end' && (got = Buffer.from('no end')));
  const ended = new Promise((resolve) => stream.once('end', resolve).once('close', resolve));
  const send = async (bytes) => {
    if (stream.writable && !stream.write(bytes)) await Promise.race([once(stream, 'drain'), ended]);
  };
  for (const piece of pieces) {
    if (piece.later) {
      // One message that is echoed compressed is over when its echo has begun.
      if (echoes) await send(frame(1, LAST));
      while (echoes ? !got.subarray(-LAST.length).equals(Buffer.from(LAST)) : got.length === 0) {
        if ((await Promise.race([once(stream, 'data'), ended])) === undefined) break;
      }
    }
    await send(piece.later ?? piece);
  }
  await ended;
  clearTimeout(timer);
  done();
  return got;
}
