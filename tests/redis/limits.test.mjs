// Rate limits that two gates share, and what becomes of them when the server that they share goes away.

import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { after, before, test } from 'node:test';

import { startGate, until, WORK_DIR } from '../peers/gate.mjs';
import { startRedis } from './server.mjs';

const ISSUER = 'https://issuer.example/oidc';
const RESOURCE = 'https://api.weather.example';
/** `state.timeout`, and what a busy machine may add to it. */
const TIMEOUT_MS = 50;
const SLACK_MS = 250;

const { privateKey, publicKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
let redis, upstream, one, two, served = 0;

function token(client, subject = 'alice') {
  const part = (object) => Buffer.from(JSON.stringify(object)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: ISSUER, sub: subject, client_id: client, aud: RESOURCE, scope: 'read:weather', iat: now, exp: now + 3600 };
  const input = `${part({ alg: 'ES256', typ: 'at+jwt', kid: 'k' })}.${part(claims)}`;
  return `${input}.${crypto.sign('sha256', Buffer.from(input), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

function settings(state) {
  const by = (requests, per) => ({ by: 'client', requests, per });
  return {
    issuer: { url: ISSUER, jwks_file: path.join(WORK_DIR, 'jwks.json') },
    state: { timeout: `${TIMEOUT_MS}ms`, ...state },
    services: [{
      name: 'weather', resource: RESOURCE, upstream: upstream.url,
      routes: {
        'GET /twenty': { scopes: 'read:weather', rate_limit: by(20, '1h') },
        'GET /fifty': { scopes: 'read:weather', rate_limit: [by(50, '1h'), { ...by(1000, '1h'), by: ['client', 'subject'] }] },
        'GET /second': { scopes: 'read:weather', rate_limit: by(1, '1s') },
        'GET /wide': { scopes: 'read:weather', rate_limit: by(10000, '1s') },
        'GET /free': 'read:weather',
      },
    }],
  };
}

before(async () => {
  fs.writeFileSync(path.join(WORK_DIR, 'jwks.json'), JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k', alg: 'ES256', use: 'sig' }] }));
  const server = http.createServer((_, response) => { served += 1; response.end('ok'); });
  server.keepAliveTimeout = 60_000;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  upstream = { url: `http://127.0.0.1:${server.address().port}`, stop: () => { server.close(); server.closeAllConnections(); } };
  redis = await startRedis();
  [one, two] = await Promise.all(['one', 'two'].map((name) => startGate(name, settings({ redis: redis.url }))));
  await Promise.all([one, two].map(isShared));
});

after(async () => {
  await Promise.all([one, two].filter(Boolean).map((gate) => gate.stop()));
  await redis?.kill().catch(() => {});
  upstream?.stop();
});

const readiness = async (gate) => {
  const { status, text } = await gate.readiness();
  return { status, line: text.split('\n').find((line) => line.includes('shared-state')) ?? '' };
};
const isShared = (gate) => until(`${gate.name} shares its state`, async () => (await readiness(gate)).line.endsWith('there; limits hold over all instances'));
const isAlone = (gate) => until(`${gate.name} knows that it is alone`, async () => {
  const { status, line } = await readiness(gate);
  assert.equal(status, 200, 'the shared state is nothing that a gate needs');
  return line.endsWith('AWAY; limits hold in each instance by itself');
});

async function metric(gate, name) {
  const text = await (await fetch(`http://127.0.0.1:${gate.admin}/metrics`)).text();
  return Number(text.split('\n').find((line) => line.startsWith(name))?.split(' ').at(-1) ?? NaN);
}

const log = (gate) => fs.readFileSync(path.join(WORK_DIR, `${gate.name}.log`), 'utf8').split('\n').filter((line) => line.includes('wicketgate::state'));

/** The statuses of so many requests one after another, over both gates in turn. */
async function inTurn(target, bearer, count) {
  const statuses = [];
  for (let i = 0; i < count; i += 1) statuses.push(await [one, two][i % 2].status(target, bearer));
  return statuses;
}

const count = (statuses, status) => statuses.filter((one) => one === status).length;

test('a limit holds over both gates, and exactly', async () => {
  const [alice, bob] = [token('exact'), token('another')];
  assert.deepEqual(await inTurn('/twenty', alice, 22), [...Array(20).fill(200), 429, 429]);
  const over = await two.fetch('/twenty', { token: alice });
  const wait = Number(over.headers.get('retry-after'));
  assert(wait > 170 && wait <= 180, `Retry-After: ${wait}`);
  assert.equal(over.headers.get('ratelimit'), `"route-client-1h";r=0;t=${wait}`);
  assert.deepEqual(await inTurn('/twenty', bob, 3), [200, 200, 200]);

  const before = served;
  const many = token('at-once');
  const statuses = await Promise.all(Array.from({ length: 200 }, (_, i) => [one, two][i % 2].status('/fifty', many)));
  assert.deepEqual([count(statuses, 200), count(statuses, 429), served - before], [50, 150, 50]);
  // What one of two limits refused cost nothing in the other: 950 of 1000 are left.
  const standing = (await one.fetch('/fifty', { token: many })).headers.get('ratelimit');
  assert(standing.includes('"route-client-subject-1h";r=950;'), standing);
});

test('who comes back when Retry-After says so is let in, at either gate', async () => {
  const bearer = token('patient');
  let gate = one;
  let answer = await gate.fetch('/second', { token: bearer });
  while (answer.status === 200) answer = await gate.fetch('/second', { token: bearer });
  await pause(Number(answer.headers.get('retry-after')) * 1000);
  gate = two;
  assert.equal(await gate.status('/second', bearer), 200);
});

test('what is shared names nobody, and goes away by itself', async () => {
  await one.status('/second', token('secretclient', 'secretsubject'));
  const keys = await redis.keys();
  assert(keys.length > 3 && keys.every((key) => /^wicketgate:(alive|rate:[\w-]{22})$/.test(key)), keys.join(' '));
  for (const key of keys) assert(Number(/:(-?\d+)/.exec(await redis.ask('PTTL', key))[1]) > -1 || !(await redis.keys()).includes(key), `${key} stays for ever`);
  await until('the short one is gone', async () => (await redis.keys()).length < keys.length);
});

test('a server that forgot the script is told it again', async () => {
  await redis.ask('SCRIPT', 'FLUSH');
  const before = await metric(one, 'wicketgate_shared_state_failures_total');
  assert.deepEqual(await inTurn('/twenty', token('flush'), 2), [200, 200]);
  assert.equal(await metric(one, 'wicketgate_shared_state_failures_total'), before);
});

test('killed in the middle: nobody is turned away for it, nobody is forgotten, and it comes back by itself', async () => {
  const [spent, fresh, steady] = [token('spent'), token('fresh'), token('steady')];
  assert.equal(count(await inTurn('/twenty', spent, 24), 200), 20);
  const lines = [one, two].map((gate) => log(gate).length);
  let running = true;
  const slow = [];
  const load = [one, two, one, two].map(async (gate) => {
    const statuses = [];
    while (running) {
      const begun = performance.now();
      statuses.push(await gate.status('/wide', steady));
      slow.push(performance.now() - begun);
    }
    return statuses;
  });
  await pause(200);
  await redis.kill();
  await Promise.all([one, two].map(isAlone));
  await pause(200);
  running = false;
  const statuses = (await Promise.all(load)).flat();
  assert(statuses.length > 100 && statuses.every((status) => status === 200), `of ${statuses.length}: ${[...new Set(statuses)]}`);
  assert(Math.max(...slow) < TIMEOUT_MS + SLACK_MS, `one took ${Math.max(...slow)} ms`);
  for (const gate of [one, two]) assert.equal(await metric(gate, 'wicketgate_shared_state_up'), 0);
  assert(await metric(one, 'wicketgate_rate_limit_fallbacks_total') > 0);
  // Each goes on by itself: from where it knows the caller to be, or from the start.
  assert.deepEqual(await inTurn('/twenty', spent, 2), [429, 429]);
  assert.equal(count(await inTurn('/twenty', fresh, 60), 200), 40);

  await redis.start();
  await Promise.all([one, two].map(isShared));
  assert.equal(await metric(one, 'wicketgate_shared_state_up'), 1);
  // The server is empty; the gates tell it what they counted.
  assert.deepEqual(await inTurn('/twenty', spent, 2), [429, 429]);
  assert.deepEqual(await inTurn('/twenty', fresh, 2), [429, 429]);
  assert.equal(count(await inTurn('/twenty', token('after'), 30), 200), 20);
  for (const [i, gate] of [one, two].entries()) {
    const said = log(gate).slice(lines[i]).map((line) => JSON.parse(line).message.split(':')[0]);
    assert.deepEqual(said, ['shared state is away', 'shared state is there'], 'one line a change');
  }
});

test('a server that hangs costs a few requests the time-out, and no other anything', async () => {
  const bearer = token('patience');
  redis.freeze();
  const times = [];
  for (let i = 0; i < 40; i += 1) {
    const begun = performance.now();
    assert.equal(await one.status('/wide', bearer), 200);
    times.push(performance.now() - begun);
  }
  redis.thaw();
  assert(Math.max(...times) < TIMEOUT_MS + SLACK_MS, `one took ${Math.max(...times)} ms`);
  assert(times.filter((time) => time > TIMEOUT_MS / 2).length <= 3, `slow ones: ${times.map(Math.round)}`);
  await Promise.all([one, two].map(isShared));
});

test('a server that takes no writes is as good as none', async () => {
  await redis.ask('CONFIG', 'SET', 'maxmemory', '1');
  await Promise.all([one, two].map(isAlone));
  assert.equal(await one.status('/twenty', token('full')), 200);
  await redis.ask('CONFIG', 'SET', 'maxmemory', '0');
  await Promise.all([one, two].map(isShared));
});

test('over TLS, and only to a server whose authority is known', async () => {
  const secure = await startGate('secure', settings({ redis: redis.tlsUrl, redis_ca_file: path.join(WORK_DIR, 'tls/ca.pem') }));
  const distrustful = await startGate('distrustful', settings({ redis: redis.tlsUrl }));
  await isShared(secure);
  const bearer = token('tls');
  assert.equal(count(await inTurn('/twenty', bearer, 20), 200), 20);
  assert.equal(await secure.status('/twenty', bearer), 429, 'TLS or not, it is the same counter');
  await isAlone(distrustful);
  assert.equal(await distrustful.status('/twenty', bearer), 200);
  await secure.stop();
  await distrustful.stop();
});

test('a wrong password is said once and not shown', async () => {
  const state = { redis: redis.url.replace(redis.password, 'wrong-password') };
  const wrong = await startGate('wrong', settings(state));
  await isAlone(wrong);
  assert.equal(await wrong.status('/twenty', token('wrong')), 200);
  await pause(500);
  await wrong.stop();
  assert.equal(log(wrong).length, 1, log(wrong).join('\n'));
  for (const name of ['one', 'two', 'secure', 'wrong']) {
    const text = fs.readFileSync(path.join(WORK_DIR, `${name}.log`), 'utf8');
    assert(!text.includes(redis.password) && !text.includes('wrong-password'), name);
  }
});

test('figures: what a shared limit costs a request', async () => {
  const bearer = token('figures');
  const measure = async (target) => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const ask = () => new Promise((resolve, reject) => {
      const begun = process.hrtime.bigint();
      const request = http.get({ host: '127.0.0.1', port: one.port, path: target, agent, headers: { authorization: `Bearer ${bearer}` } }, (response) => {
        assert.equal(response.statusCode, 200);
        response.resume().on('end', () => resolve(Number(process.hrtime.bigint() - begun) / 1000));
      });
      request.on('error', reject);
    });
    const times = [];
    for (let i = 0; i < 2000; i += 1) times.push(await ask());
    agent.destroy();
    times.sort((a, b) => a - b);
    return `${Math.round(times[1000])} µs (99 of 100 within ${Math.round(times[1980])} µs)`;
  };
  const [free, shared] = [await measure('/free'), await measure('/wide')];
  console.log(`without a limit ${free}; with one in Redis ${shared}`);
});
