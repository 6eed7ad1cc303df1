// The gate as a process of its own: started from a generated configuration, watched, and ended by SIGTERM.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

import { freePort } from './ports.mjs';

const BINARY = process.env.WICKETGATE_BINARY;
const POLL_MS = 20;
const START_MS = 10_000;
const STOP_MS = 10_000;

/** Where a test may write; its logs stay there. */
export const WORK_DIR = process.env.PEERS_WORK_DIR ?? fs.mkdtempSync(path.join(os.tmpdir(), 'peers-'));

/** Asks until the answer is truthy, and returns it. */
export async function until(what, ask, ms = 5000) {
  const deadline = Date.now() + ms;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    assert(Date.now() < deadline, `waited ${ms} ms in vain until ${what}`);
    await pause(POLL_MS);
  }
}

/** Starts the gate and waits until it listens, and is ready unless `ready` is false. */
export async function startGate(name, { port, ready = true, ...settings }) {
  assert(BINARY, 'WICKETGATE_BINARY names the program under test');
  const gate = new Gate(name, port ?? (await freePort()), await freePort());
  await gate.start(settings);
  await until(`${name} listens`, async () => (gate.isOver ? gate.fail() : (await gate.readiness()).text.includes('[+] listening')), START_MS);
  if (ready) await until(`${name} is ready`, async () => (await gate.readiness()).status === 200, START_MS);
  return gate;
}

class Gate {
  #child;
  #exit;
  #log = '';

  constructor(name, port, admin) {
    Object.assign(this, { name, port, admin, url: `http://127.0.0.1:${port}` });
  }

  async start(settings) {
    const config = path.join(WORK_DIR, `${this.name}.yaml`);
    // JSON is YAML too.
    fs.writeFileSync(config, JSON.stringify({
      listen: `127.0.0.1:${this.port}`,
      admin: `127.0.0.1:${this.admin}`,
      shutdown: { delay: '1ms', deadline: '5s' },
      ...settings,
    }, null, 2));
    this.#child = spawn(BINARY, ['run', '--config', config], { stdio: ['ignore', 'pipe', 'pipe'] });
    const file = fs.createWriteStream(path.join(WORK_DIR, `${this.name}.log`));
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.#log += text;
        file.write(text);
      });
    }
    this.#exit = once(this.#child, 'close').finally(() => file.end());
    process.once('exit', () => this.#child.kill('SIGKILL'));
    await once(this.#child, 'spawn');
  }

  get isOver() {
    return this.#child.exitCode !== null;
  }

  fail() {
    assert.fail(`${this.name} ended with ${this.#child.exitCode}:\n${this.#log}`);
  }

  /** The lines of the access log for a path so far. */
  records(target) {
    const lines = this.#log.split('\n').filter((line) => line.endsWith('"target":"access"}'));
    return lines.map((line) => JSON.parse(line)).filter((record) => record.path === target);
  }

  async readiness() {
    try {
      const response = await fetch(`http://127.0.0.1:${this.admin}/readyz?verbose`);
      return { status: response.status, text: await response.text() };
    } catch {
      return { status: 0, text: '' };
    }
  }

  fetch(target, { token, headers = {}, ...options } = {}) {
    const authorization = token ? { authorization: `Bearer ${token}` } : {};
    return fetch(`${this.url}${target}`, { ...options, headers: { ...authorization, ...headers } });
  }

  /** One request, its body read: the status alone. */
  async status(target, token) {
    const response = await this.fetch(target, { token });
    await response.arrayBuffer();
    return response.status;
  }

  /** Of the process, in bytes: `VmRSS` now, `VmHWM` at its highest. */
  memory(field) {
    const status = fs.readFileSync(`/proc/${this.#child.pid}/status`, 'utf8');
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)[1]) * 1024;
  }

  /** Ends it as a supervisor would. It must go in peace, and its log must hold no panic and none of the tokens. */
  async stop(tokens = []) {
    this.#child.kill('SIGTERM');
    const late = pause(STOP_MS, ['late'], { ref: false });
    const [code, signal] = await Promise.race([this.#exit, late]);
    assert.equal(code, 0, `${this.name} ended with ${code ?? signal}:\n${this.#log.slice(-4000)}`);
    assert(this.#log.includes('"in_time":true'), `${this.name} did not drain in time`);
    assert(!/panick/i.test(this.#log), `${this.name} panicked:\n${this.#log.slice(-4000)}`);
    for (const token of tokens) {
      const secret = token.split('.').at(-1);
      assert(!secret || !this.#log.includes(secret), `${this.name} wrote a token to its log`);
    }
  }
}
