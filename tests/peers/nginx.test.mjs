// nginx as the service: conditional and range requests, compressed content, and a large file in little memory.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import crypto from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, test } from 'node:test';

import { startGate, until, WORK_DIR } from './gate.mjs';
import { freePort } from './ports.mjs';
import { startProvider } from './provider.mjs';

const RESOURCE = 'https://files.example';
const MIB = 1024 * 1024;
const LARGE_BYTES = 100 * MIB;
const GROWTH_BYTES_MAX = 64 * MIB;
/** Slower than the gate could read, so that a gate that buffers would be seen. */
const SLOWLY = ['--limit-rate', '50M'];
const TEXT = 'Sun in the morning, rain in the afternoon.\n'.repeat(2000);

let provider, nginx, gate, token, large;

before(async () => {
  provider = await startProvider([RESOURCE]);
  const root = path.join(WORK_DIR, 'nginx');
  fs.mkdirSync(path.join(root, 'files'), { recursive: true });
  fs.writeFileSync(path.join(root, 'files', 'text.txt'), TEXT);
  large = writeLarge(path.join(root, 'files', 'large.bin'));
  nginx = await startNginx(root);
  gate = await startGate('nginx', {
    issuer: provider.issuer,
    services: [{ name: 'files', resource: RESOURCE, upstream: nginx.url, routes: { 'GET /**': 'read:weather', 'PUT /upload/**': 'write:weather' } }],
  });
  token = await provider.token();
});

after(async () => {
  await gate?.stop(provider.issued);
  await nginx?.stop();
  await provider?.down();
  fs.rmSync(path.join(WORK_DIR, 'nginx'), { recursive: true, force: true });
});

/** A hundred different MiB, and what they hash to. */
function writeLarge(file) {
  const hash = crypto.createHash('sha256');
  const out = fs.openSync(file, 'w');
  const block = crypto.randomBytes(MIB);
  for (let i = 0; i < LARGE_BYTES / MIB; i += 1) {
    block.writeUInt32LE(i, 0);
    hash.update(block);
    fs.writeSync(out, block);
  }
  fs.closeSync(out);
  return { file, sha256: hash.digest('hex') };
}

/** nginx in the foreground, one process, everything in one folder. */
async function startNginx(root) {
  const port = await freePort();
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${root}/${kind};`);
  fs.writeFileSync(path.join(root, 'nginx.conf'), `
daemon off;
master_process off;
pid ${root}/nginx.pid;
error_log ${root}/error.log;
events {}
http {
  access_log off;
  ${temporary.join(' ')}
  types { text/plain txt; }
  client_max_body_size 0;
  gzip on;
  gzip_vary on;
  gzip_proxied any;
  gzip_types text/plain;
  server {
    listen 127.0.0.1:${port};
    root ${root}/files;
    location /upload/ { dav_methods PUT; create_full_put_path on; client_body_in_file_only clean; }
  }
}
`);
  const child = spawn('nginx', ['-p', root, '-c', path.join(root, 'nginx.conf'), '-e', path.join(root, 'error.log')], { stdio: 'inherit' });
  const closed = once(child, 'close');
  process.once('exit', () => child.kill('SIGKILL'));
  const url = `http://127.0.0.1:${port}`;
  await until('nginx listens', () => fetch(`${url}/text.txt`, { method: 'HEAD' }).then(() => true, () => false));
  return {
    url,
    async stop() {
      child.kill('SIGTERM');
      await closed;
    },
  };
}

/** One request as it stands on the wire, nothing decoded: from nginx itself or by way of the gate. */
async function ask(base, target, headers = {}, method = 'GET') {
  const authorization = base === gate.url ? { authorization: `Bearer ${token}` } : {};
  // A connection for each: nginx promises to keep one after a 412, and closes it.
  const request = http.request(base + target, { agent: false, method, headers: { ...authorization, ...headers } });
  request.end();
  const [response] = await once(request, 'response');
  return { status: response.statusCode, headers: response.headers, body: await buffer(response) };
}

/** The answer by way of the gate, which must be that of nginx itself but for what belongs to the connection. */
async function askBoth(target, headers, method) {
  const direct = await ask(nginx.url, target, headers, method);
  const proxied = await ask(gate.url, target, headers, method);
  const compared = ({ status, headers: { date, connection, 'keep-alive': _, 'x-request-id': id, ...rest } }) => ({ status, rest });
  assert.deepEqual(compared(proxied), compared(direct));
  assert(proxied.body.equals(direct.body), 'another body than from nginx itself');
  return proxied;
}

test('a file comes as nginx sends it, and HEAD says the same', async () => {
  const whole = await askBoth('/text.txt');
  assert.equal(whole.status, 200);
  assert.equal(String(whole.body), TEXT);
  const head = await askBoth('/text.txt', {}, 'HEAD');
  assert.equal(head.headers['content-length'], String(TEXT.length));
});

test('ranges come as asked for: one, the last bytes, several, none that there are', async () => {
  const one = await askBoth('/large.bin', { range: 'bytes=1048576-1048579' });
  assert.equal(one.status, 206);
  assert.equal(one.headers['content-range'], `bytes 1048576-1048579/${LARGE_BYTES}`);
  assert.equal(one.body.readUInt32LE(), 1);
  assert.equal((await askBoth('/text.txt', { range: 'bytes=-5' })).body.toString(), 'oon.\n');
  assert.equal((await askBoth('/text.txt', { range: `bytes=${TEXT.length}-` })).status, 416);
  const several = await ask(gate.url, '/text.txt', { range: 'bytes=0-2,4-5' });
  assert.equal(several.status, 206);
  assert.match(several.headers['content-type'], /^multipart\/byteranges/);
  assert.match(String(several.body), /\r\n\r\nSun\r\n/);
});

test('conditional requests are answered 304, 412 and 206 as nginx decides', async () => {
  const { headers } = await askBoth('/text.txt');
  const fresh = await askBoth('/text.txt', { 'if-none-match': headers.etag });
  assert.equal(fresh.status, 304);
  assert.equal(fresh.body.length, 0);
  assert.equal((await askBoth('/text.txt', { 'if-modified-since': headers['last-modified'] })).status, 304);
  assert.equal((await askBoth('/text.txt', { 'if-match': '"another"' })).status, 412);
  assert.equal((await askBoth('/text.txt', { range: 'bytes=0-2', 'if-range': headers.etag })).status, 206);
  assert.equal((await askBoth('/text.txt', { range: 'bytes=0-2', 'if-range': '"another"' })).status, 200);
});

test('gzip goes through untouched, byte for byte, and only for who asks for it', async () => {
  const packed = await askBoth('/text.txt', { 'accept-encoding': 'gzip' });
  assert.equal(packed.headers['content-encoding'], 'gzip');
  assert.equal(packed.headers.vary, 'Accept-Encoding');
  assert(packed.body.length < TEXT.length / 10);
  assert.equal((await askBoth('/text.txt', { 'accept-encoding': 'identity' })).headers['content-encoding'], undefined);
  const head = await askBoth('/text.txt', { 'accept-encoding': 'gzip' }, 'HEAD');
  assert.equal(head.headers['content-encoding'], 'gzip');
});

for (const [name, protocol] of [['HTTP/1.1', '--http1.1'], ['HTTP/2', '--http2-prior-knowledge']]) {
  test(`100 MiB come down over ${name}, to two slow readers at once, in 64 MiB of memory`, async (t) => {
    const idle = gate.memory('VmRSS');
    const downloads = await Promise.all([1, 2].map(() => curl('/large.bin', [protocol, ...SLOWLY])));
    for (const { code, sha256, bytes } of downloads) {
      assert.deepEqual({ code, bytes, sha256 }, { code: 0, bytes: LARGE_BYTES, sha256: large.sha256 });
    }
    assertSmall(t, idle);
  });

  test(`100 MiB go up over ${name} in 64 MiB of memory`, async (t) => {
    const idle = gate.memory('VmRSS');
    const { code, told } = await curl(`/upload/${protocol}.bin`, [protocol, '-T', large.file, '-f']);
    assert.equal(code, 0, told);
    const stored = path.join(path.dirname(large.file), 'upload', `${protocol}.bin`);
    assert.equal(crypto.createHash('sha256').update(fs.readFileSync(stored)).digest('hex'), large.sha256);
    assertSmall(t, idle);
  });
}

/** The most that the gate ever had is not much more than it had at rest. */
function assertSmall(t, idle) {
  const growth = gate.memory('VmHWM') - idle;
  t.diagnostic(`the gate grew by ${Math.round(growth / MIB)} MiB`);
  assert(growth <= GROWTH_BYTES_MAX, `grew by ${Math.round(growth / MIB)} MiB`);
}

/** curl with the token; the body is hashed, not kept. */
async function curl(target, args) {
  const child = spawn('curl', ['-q', '--noproxy', '*', '-sS', '--max-time', '50', '-H', `Authorization: Bearer ${token}`, ...args, `${gate.url}${target}`]);
  const hash = crypto.createHash('sha256');
  let bytes = 0;
  child.stdout.on('data', (piece) => {
    hash.update(piece);
    bytes += piece.length;
  });
  const [told, [code]] = await Promise.all([buffer(child.stderr), once(child, 'close')]);
  return { code, bytes, sha256: hash.digest('hex'), told: String(told) };
}
