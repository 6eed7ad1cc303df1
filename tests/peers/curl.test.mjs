// curl over HTTP/1.1 and over HTTP/2: answers, uploads, streams and trailers. Order is told by events, not by the clock.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import crypto from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, test } from 'node:test';

import { until, WORK_DIR } from './gate.mjs';
import { startScene } from './scene.mjs';

const PROTOCOLS = { 'HTTP/1.1': '--http1.1', 'HTTP/2': '--http2-prior-knowledge' };
const BIG_BYTES = 20 * 1024 * 1024;

let scene, provider, upstream, gate, token, big;

before(async () => {
  const routes = {
    'GET /weather/{city}': 'read:weather',
    'POST,PUT /weather/{city}': 'write:weather',
    'GET /events': 'read:weather',
    'GET /trailers': 'read:weather',
  };
  scene = await startScene('curl', { routes });
  ({ provider, upstream, gate } = scene);
  token = await provider.token();
  big = { file: path.join(WORK_DIR, 'big.bin'), content: crypto.randomBytes(BIG_BYTES) };
  big.sha256 = crypto.createHash('sha256').update(big.content).digest('hex');
  fs.writeFileSync(big.file, big.content);
});

after(async () => {
  await scene?.close();
  fs.rmSync(path.join(WORK_DIR, 'big.bin'), { force: true });
});

for (const [name, protocol] of Object.entries(PROTOCOLS)) {
  test(`curl over ${name} gets an answer with a token and a challenge without`, async () => {
    const answer = await curl('/weather/oslo', protocol);
    assert.equal(answer.code, 0);
    assert.equal(`HTTP/${answer.facts.http_version}`, name);
    assert.equal(answer.facts.response_code, 200);
    const told = JSON.parse(answer.body);
    assert.equal(told.headers['x-auth-subject'], provider.machine.id);
    assert.equal(told.headers.host, `127.0.0.1:${gate.port}`);
    const refused = await curl('/weather/oslo', protocol, [], { open: true });
    assert.equal(refused.facts.response_code, 401);
    assert.match(refused.heads, /^www-authenticate: Bearer /im);
  });

  test(`curl over ${name} gets the same head for HEAD as for GET, and no body`, async () => {
    const got = await curl('/weather/oslo', protocol);
    const head = await curl('/weather/oslo', protocol, ['--head', '-o', path.join(WORK_DIR, 'head.out')]);
    assert.equal(head.code, 0, head.told);
    assert.equal(head.facts.response_code, 200);
    const length = (heads) => Number(/^content-length: (\d+)/im.exec(heads)[1]);
    // The body names the method; all else in it is equally long.
    assert.equal(length(head.heads), length(got.heads) + 'HEAD'.length - 'GET'.length);
    assert.equal(head.facts.size_download, 0);
  });

  test(`curl over ${name} uploads 20 MiB unharmed`, async () => {
    const answer = await curl('/weather/oslo', protocol, ['--data-binary', `@${big.file}`, '-H', 'Expect:']);
    assert.equal(answer.code, 0, answer.told);
    assert.equal(answer.facts.response_code, 200);
    const told = JSON.parse(answer.body);
    assert.deepEqual([told.bytes, told.sha256], [BIG_BYTES, big.sha256]);
    assert.equal(told.headers['content-length'], String(BIG_BYTES));
  });

  test(`curl over ${name} uploads in pieces, and each reaches the upstream before the next is there`, async () => {
    const child = curlAt('/weather/oslo', protocol, ['-X', 'POST', '-T', '-']);
    for (const piece of ['one', 'two', 'three']) {
      const arrived = once(upstream.events, 'piece');
      child.stdin.write(piece);
      assert.equal(String((await arrived)[0]), piece);
    }
    child.stdin.end();
    const [body] = await Promise.all([buffer(child.stdout), once(child, 'close')]);
    const told = JSON.parse(body);
    assert.equal(told.sha256, crypto.createHash('sha256').update('onetwothree').digest('hex'));
    assert.equal(told.headers['transfer-encoding'], 'chunked');
    assert.equal(told.headers['content-length'], undefined);
  });

  test(`curl over ${name} reads each server-sent event before the next is sent`, async () => {
    const opened = once(upstream.events, 'stream');
    const child = curlAt('/events', protocol);
    child.stdout.setEncoding('utf8');
    const closed = once(child, 'close');
    const [stream] = await opened;
    assert.equal(String((await once(child.stdout, 'data'))[0]), 'data: first\n\n');
    for (const data of ['second', 'third']) {
      const arrived = once(child.stdout, 'data');
      stream.send(data);
      assert.equal(String((await arrived)[0]), `data: ${data}\n\n`);
    }
    stream.end();
    assert.equal((await closed)[0], 0);
  });

  test(`the upstream learns when curl over ${name} leaves a stream`, async () => {
    const opened = once(upstream.events, 'stream');
    const child = curlAt('/events', protocol);
    await opened;
    await once(child.stdout, 'data');
    const left = once(upstream.events, 'stream closed');
    child.kill();
    assert.equal((await left)[0], false);
  });

  test(`curl over ${name} gets the upstream's trailers, save those that are the gate's`, async () => {
    const answer = await curl('/trailers', protocol, ['-H', 'TE: trailers']);
    assert.equal(answer.code, 0, answer.told);
    assert.equal(String(answer.body), 'body before trailers\n');
    const [, trailers] = answer.heads.split('\r\n\r\n');
    assert.match(trailers, /^x-checksum: abc123/im);
    assert.doesNotMatch(trailers, /mallory/);
  });
}

for (const [name, protocol] of Object.entries(PROTOCOLS)) {
  const upload = ['-v', '-H', 'Expect: 100-continue', '--expect100-timeout', '3', '--data-binary', `@${path.join(WORK_DIR, 'big.bin')}`];

  // hyper sends no 100 (Continue) over HTTP/2: the client's own wait ends there, and the upload goes on.
  test(`curl over ${name} ${name === 'HTTP/2' ? 'uploads when it has waited to be told' : 'is told to go on before it uploads'}`, async () => {
    const taken = await curl('/weather/oslo', protocol, upload);
    assert.equal(taken.facts.response_code, 200, taken.told);
    if (name !== 'HTTP/2') {
      assert.match(taken.told, /< HTTP\/\S+ 100/);
      assert.doesNotMatch(taken.told, /Done waiting for 100-continue/);
    }
    assert.equal(JSON.parse(taken.body).headers.expect, undefined);
  });

  // Over HTTP/2 a reset may follow the answer (RFC 9113 §8.1), but curl 7.88 drops an answer that one follows at once.
  test(`curl over ${name} uploads nothing when it is refused`, async () => {
    const seen = upstream.seen.length;
    const refused = await curl('/weather/oslo', protocol, upload, { open: true });
    assert.equal(refused.facts.response_code, 401, refused.told);
    assert.doesNotMatch(refused.told, /< HTTP\/\S+ 100/);
    assert.equal(refused.facts.size_upload, 0);
    assert.equal(upstream.seen.length, seen);
  });
}

test('every request has its line in the access log', async () => {
  const before = gate.records('/weather/oslo').length;
  await gate.status('/weather/oslo', token);
  const records = await until('the line is there', () => {
    const all = gate.records('/weather/oslo');
    return all.length > before && all;
  });
  const last = records.at(-1);
  assert.deepEqual([last.method, last.status, last.decision, last.subject], ['GET', 200, 'permitted', provider.machine.id]);
});

/** Starts curl at a path of the gate; with the token unless `open`. What it knows of the transfer ends its stderr. */
function curlAt(target, protocol, args = [], { open = false } = {}) {
  const credentials = open ? [] : ['-H', `Authorization: Bearer ${token}`];
  const facts = ['-w', '%{stderr}\n%{json}'];
  return spawn('curl', ['-q', '--noproxy', '*', '-sS', '-N', '--max-time', '30', protocol, ...credentials, ...args, ...facts, `${gate.url}${target}`]);
}

/** Runs curl to its end: the body, the response's fields with trailers, and curl's facts. */
async function curl(target, protocol, args = [], options = {}) {
  const heads = path.join(WORK_DIR, 'heads.txt');
  const child = curlAt(target, protocol, ['-D', heads, ...args], options);
  child.stdin.end(options.input);
  const [body, told, [code]] = await Promise.all([buffer(child.stdout), buffer(child.stderr), once(child, 'close')]);
  const lines = told.toString().trimEnd().split('\n');
  const facts = JSON.parse(lines.at(-1));
  return { code, body, facts, told: lines.slice(0, -1).filter((line) => !/authorization/i.test(line)).join('\n'), heads: fs.readFileSync(heads, 'latin1') };
}
