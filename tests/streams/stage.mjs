// A gate with keys from a file and tokens that the test signs itself; programs beside it that end with it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import crypto from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';

import { startGate, WORK_DIR } from './gate.mjs';

export const RESOURCE = 'https://api.weather.example';
export const CERTIFICATE = path.join(WORK_DIR, 'localhost.pem');
export const AUTHORITY = path.join(WORK_DIR, 'authority.pem');
export const KEY = path.join(WORK_DIR, 'localhost.key');
const ISSUER = 'https://issuer.example/oidc';
const PATIENCE_MS = 15_000;

const { publicKey, privateKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-384' });
const JWKS = path.join(WORK_DIR, 'jwks.json');
const issued = [];

/** An access token of the only issuer. */
export function token({ scope = 'read:weather', subject = 'alice', seconds = 600 } = {}) {
  const now = Math.floor(Date.now() / 1000);
  const head = { alg: 'ES384', typ: 'at+jwt', kid: 'k' };
  const claims = { iss: ISSUER, aud: RESOURCE, sub: subject, client_id: 'app', scope, iat: now, exp: now + seconds, jti: crypto.randomUUID() };
  const text = [head, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  const signature = crypto.sign('sha384', Buffer.from(text), { key: privateKey, dsaEncoding: 'ieee-p1363' });
  issued.push(`${text}.${signature.toString('base64url')}`);
  return issued.at(-1);
}

/** A gate before one service. Over TLS if `tls`; `stop` asserts that no token is in its log. */
export async function startBefore(name, upstream, routes, { tls = false, service = {}, ...settings } = {}) {
  fs.writeFileSync(JWKS, JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k', use: 'sig', alg: 'ES384' }] }));
  const gate = await startGate(name, {
    issuer: { url: ISSUER, jwks_file: JWKS },
    tokens: { leeway: '0s' },
    services: [{ name: 'weather', resource: RESOURCE, upstream, routes, ...service }],
    ...(tls ? { tls: { certificate_file: CERTIFICATE, key_file: KEY } } : {}),
    ...settings,
  });
  const { stop } = gate;
  gate.stop = () => stop.call(gate, issued);
  return gate;
}

/** Revokes all tokens of a user. */
export async function revoke(gate, subject) {
  const body = JSON.stringify({ sub: subject });
  const answer = await fetch(`http://127.0.0.1:${gate.admin}/revocations`, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
  assert.equal(answer.status, 201, await answer.text());
}

/** A program that tells what happens to it as lines of JSON. */
export class Program extends EventEmitter {
  facts = [];
  #child;

  constructor(name, args) {
    super();
    this.#child = spawn(process.env.PYTHON, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const log = fs.createWriteStream(path.join(WORK_DIR, `${name}.log`));
    this.#child.stderr.pipe(log, { end: false });
    readline.createInterface({ input: this.#child.stdout }).on('line', (line) => {
      log.write(`${line}\n`);
      this.facts.push(JSON.parse(line));
      this.emit('fact');
    });
    process.once('exit', () => this.#child.kill('SIGKILL'));
  }

  /** The first fact from this place on that is wanted. */
  async told(what, wanted, from = 0) {
    const deadline = AbortSignal.timeout(PATIENCE_MS);
    for (;;) {
      const fact = this.facts.slice(from).find(wanted);
      if (fact) return fact;
      await once(this, 'fact', { signal: deadline }).catch(() => assert.fail(`never told: ${what}; the last: ${JSON.stringify(this.facts.slice(-3))}`));
    }
  }

  write(line) {
    this.#child.stdin.write(`${line}\n`);
  }

  async stop() {
    const closed = this.#child.exitCode === null && once(this.#child, 'close');
    this.#child.stdin.end();
    setTimeout(() => this.#child.kill('SIGKILL'), 5000).unref();
    await closed;
  }
}
