// The issuer's keys while requests run: rotation, floods of invented keys, and an issuer that is not there.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { until } from './gate.mjs';
import { newKey } from './provider.mjs';
import { startScene } from './scene.mjs';

const JWKS = '/oidc/jwks';
const WORKERS = 8;
/** Places where the gate looks for the metadata of an issuer with a path: each is asked in turn when one fails. */
const METADATA_PLACES = 2;

/** Provider, service and gate for one test, and their end. */
async function scene(t, name, keys, { early = false } = {}) {
  const routes = { '/public/**': 'public', 'GET /weather/{city}': 'read:weather' };
  const { close, ...parts } = await startScene(name, { routes, keys, early });
  t.after(close);
  return parts;
}

/** A steady load: every worker sends one request after the other, with a token picked from `tokens`. */
class Load {
  tokens = {};
  refused = [];
  answered = {};
  #turns = Array(WORKERS).fill(0);
  #over = false;
  #work;

  constructor(gate, tokens) {
    this.tokens = tokens;
    this.#work = Promise.all(this.#turns.map((_, worker) => this.#run(gate, worker)));
  }

  async #run(gate, worker) {
    while (!this.#over) {
      const names = Object.keys(this.tokens);
      const name = names[(worker + this.#turns[worker]) % names.length];
      const response = await gate.fetch('/weather/oslo', { token: this.tokens[name] });
      const body = await response.text();
      if (response.status !== 200) this.refused.push({ name, status: response.status, body });
      this.answered[name] = (this.answered[name] ?? 0) + 1;
      this.#turns[worker] += 1;
    }
  }

  /** Every worker has had so many answers more, and so much time has passed. */
  async goesOn(turns, ms = 0) {
    const begun = Date.now();
    const goal = this.#turns.map((done) => done + turns);
    await until('the load goes on', () => this.#turns.every((done, i) => done >= goal[i]) && Date.now() - begun >= ms, 20_000);
  }

  async end() {
    this.#over = true;
    await this.#work;
  }
}

test('across two rotations under load no valid token is refused, and the issuer is asked for keys once for each', async (t) => {
  const { provider, gate } = await scene(t, 'rotation', { refresh: '5m', cooldown: '500ms' });
  const load = new Load(gate, { first: await provider.token() });
  await load.goesOn(25);
  assert.equal(provider.asked(JWKS), 1);

  provider.rotate();
  load.tokens = { first: load.tokens.first, second: await provider.token() };
  await load.goesOn(25, 600);
  assert.equal(provider.asked(JWKS), 2);

  // The first key leaves the set with the next rotation: its token ends before that.
  load.tokens = { second: load.tokens.second };
  await load.goesOn(2);
  provider.rotate();
  load.tokens = { second: load.tokens.second, third: await provider.token() };
  await load.goesOn(25);
  await load.end();

  assert.deepEqual(load.refused, []);
  assert(Object.values(load.answered).every((answers) => answers > 50), JSON.stringify(load.answered));
  assert.equal(provider.asked(JWKS), 3);
});

test('a token whose key left the set after two rotations is refused within the refresh interval', async (t) => {
  const { provider, gate } = await scene(t, 'dropped', { refresh: '1s', cooldown: '10s' });
  const token = await provider.token();
  assert.equal(await gate.status('/weather/oslo', token), 200);
  provider.rotate();
  const second = await provider.token();
  provider.rotate();
  // The interval varies by a tenth; what is over is for the fetch itself.
  await until('the old token is refused', async () => (await gate.status('/weather/oslo', token)) === 401, 2000);
  assert.equal(await gate.status('/weather/oslo', second), 200);
  assert.equal(await gate.status('/weather/oslo', await provider.token()), 200);
});

test('a key set that did not change is asked for with its ETag, and goes on to count', async (t) => {
  const { provider, gate } = await scene(t, 'unchanged', { refresh: '1s' });
  const token = await provider.token();
  assert.equal(await gate.status('/weather/oslo', token), 200);
  await until('it was asked three times', () => provider.asked(JWKS) >= 3);
  assert(provider.asked('304') >= 2, 'the gate did not revalidate');
  assert.equal(await gate.status('/weather/oslo', token), 200);
});

test('a flood of invented keys reaches the issuer once in a cooldown, and holds up nobody else', async (t) => {
  const cooldown = 1000;
  const { provider, gate } = await scene(t, 'flood', { refresh: '5m', cooldown: `${cooldown}ms` });
  const token = await provider.token();
  provider.forget();
  const begun = Date.now();
  const { invented, known } = await flood(gate, provider, token, 1.5 * cooldown);
  const allowed = 1 + Math.ceil((Date.now() - begun) / cooldown);
  assert(!invented.has(200), 'an invented key counted');
  assert.deepEqual([...known], [200]);
  const asked = provider.asked(JWKS);
  assert(asked >= 1 && asked <= allowed, `${asked} times, allowed ${allowed}`);
  provider.rotate();
  const rotated = await provider.token();
  await until('a new key counts again', async () => (await gate.status('/weather/oslo', rotated)) === 200, 2 * cooldown);
});

test('an invented key just before a rotation never makes a valid token look invalid', async (t) => {
  const { provider, gate } = await scene(t, 'spent', { refresh: '5m', cooldown: '2s' });
  assert.notEqual(await gate.status('/weather/oslo', provider.mint({ key: newKey() })), 200);
  provider.rotate();
  const rotated = await provider.token();
  const seen = new Set();
  await until('the new key counts', async () => {
    const status = await gate.status('/weather/oslo', rotated);
    seen.add(status);
    return status === 200;
  });
  assert(!seen.has(401), `answered ${[...seen]}`);
});

test('while the issuer is down known keys count, a new one is answered 503 and not 401, and a flood does not reach it', async (t) => {
  const { provider, gate } = await scene(t, 'down', { refresh: '5m', cooldown: '2s', timeout: '1s' });
  const token = await provider.token();
  provider.rotate();
  const rotated = await provider.token();
  await provider.down();
  assert.equal(await gate.status('/weather/oslo', token), 200);
  await assertUnavailable(await gate.fetch('/weather/oslo', { token: rotated }));
  assert.equal((await gate.readiness()).status, 200, 'with keys in hand the gate stays ready');

  provider.breakOff();
  await provider.up();
  provider.forget();
  const begun = Date.now();
  const { invented, known } = await flood(gate, provider, token, 2500);
  // One for each cooldown, and those in the background, 1, 2, 4 s apart.
  const fetches = 2 * Math.ceil((Date.now() - begun) / 1000) + 1;
  assert.deepEqual([...invented], [503]);
  assert.deepEqual([...known], [200]);
  const attempts = provider.asked('connection');
  assert(attempts >= 1 && attempts <= fetches * METADATA_PLACES, `${attempts} connections in ${Date.now() - begun} ms`);

  provider.mend();
  await until('the issuer is found again', async () => (await gate.status('/weather/oslo', rotated)) === 200, 10_000);
  assert.equal(await gate.status('/weather/oslo', token), 200);
});

test('a gate that starts before its issuer serves what is public, says when to come back, and opens by itself', async (t) => {
  const { provider, gate, upstream } = await scene(t, 'early', { refresh: '5m', cooldown: '1s', timeout: '1s' }, { early: true });
  const early = provider.mint();
  const readiness = await gate.readiness();
  assert.equal(readiness.status, 503);
  assert.match(readiness.text, /\[-\] keys .*\/oidc/);
  assert.equal(await gate.status('/public/map'), 200);
  const seen = upstream.seen.length;
  await assertUnavailable(await gate.fetch('/weather/oslo', { token: early }));
  assert.equal((await gate.fetch('/weather/oslo')).status, 401, 'no token needs no keys');
  assert.equal(upstream.seen.length, seen);

  await provider.up();
  await until('it is ready', async () => (await gate.readiness()).status === 200, 10_000);
  assert.equal(await gate.status('/weather/oslo', early), 200);
  assert.equal(await gate.status('/weather/oslo', await provider.token()), 200);
});

/** A valid token must never look invalid because the keys cannot be had. */
async function assertUnavailable(response) {
  assert.equal(response.status, 503);
  assert.match(response.headers.get('retry-after'), /^\d+$/);
  assert.equal(response.headers.get('www-authenticate'), null);
  assert.equal((await response.json()).code, 'keys_unavailable');
}

/** For a while, many tokens each of a key that was never published, and in between a good one: which statuses came. */
async function flood(gate, provider, token, ms) {
  const stranger = newKey();
  const invented = new Set();
  const known = new Set();
  const end = Date.now() + ms;
  const worker = async (number) => {
    for (let i = 0; Date.now() < end; i += 1) {
      const made = provider.mint({ key: stranger, header: { kid: `invented-${number}-${i}` } });
      invented.add(await gate.status('/weather/oslo', made));
      if (i % 4 === 0) known.add(await gate.status('/weather/oslo', token));
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, (_, number) => worker(number)));
  return { invented, known };
}
