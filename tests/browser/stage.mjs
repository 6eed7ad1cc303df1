// The demo as a process of its own, with its terminal read line by line, and a browser to watch it with.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import readline from 'node:readline';

import { chromium } from 'playwright-core';

const PARTIES = ['gate', 'admin', 'issuer', 'service', 'officialApp', 'weatherbot', 'start'];
const PATIENCE_MS = 20_000;
const { WICKETGATE_BINARY, BROWSER_WORK_DIR, CHROMIUM } = process.env;

/** Whether nobody listens on a loopback port. */
async function isFree(port) {
  const server = net.createServer();
  server.listen(port, '127.0.0.1');
  const outcome = await Promise.race([once(server, 'listening').then(() => true), once(server, 'error').then(() => false)]);
  if (outcome) await new Promise((done) => server.close(done));
  return outcome;
}

/** The first of as many free ports in a row as the demo has parties. */
export async function freeRow() {
  for (let first = 20_000 + (process.pid % 5_000); first < 32_000; first += PARTIES.length) {
    const row = await Promise.all(PARTIES.map((_, step) => isFree(first + step)));
    if (row.every(Boolean)) return first;
  }
  throw new Error('no free ports in a row');
}

/** Starts the demo and waits until its start page is named. */
export async function startDemo(name, flags = [], { port, env = {} } = {}) {
  const first = port ?? (await freeRow());
  const config = path.join(BROWSER_WORK_DIR, `${name}.yaml`);
  for (const old of [config, `${config}.old-1`]) fs.rmSync(old, { force: true });
  const child = spawn(WICKETGATE_BINARY, ['demo', '--port', first, '--config', config, ...flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  const demo = new Demo(child, first, config);
  const log = fs.createWriteStream(path.join(BROWSER_WORK_DIR, `${name}.log`));
  for (const stream of [child.stdout, child.stderr]) {
    readline.createInterface({ input: stream }).on('line', (line) => {
      log.write(`${line}\n`);
      demo.hear(line);
    });
  }
  await demo.says(demo.url.start);
  return demo;
}

class Demo {
  lines = [];
  url = {};
  #waiting = [];

  constructor(child, first, config) {
    this.child = child;
    this.config = config;
    PARTIES.forEach((party, step) => (this.url[party] = `http://127.0.0.1:${first + step}`));
    child.once('exit', (code, signal) => this.hear(`the demo ended: ${code ?? signal}`));
  }

  hear(line) {
    this.lines.push(line);
    for (const wait of this.#waiting.filter(({ found }) => found(line))) wait.done(line);
  }

  /** The first line in the terminal, from this mark on, that has all of these texts. */
  says(...texts) {
    return this.#line((line) => texts.every((text) => line.includes(text)), texts.join(' … '), 0);
  }

  saysAfter(mark, ...texts) {
    return this.#line((line) => texts.every((text) => line.includes(text)), texts.join(' … '), mark);
  }

  get mark() {
    return this.lines.length;
  }

  async #line(found, what, mark) {
    const known = this.lines.slice(mark).find(found);
    if (known) return known;
    let timer;
    const late = new Promise((_, fail) => {
      timer = setTimeout(() => fail(new Error(`the terminal never said: ${what}\n${this.lines.slice(-20).join('\n')}`)), PATIENCE_MS);
    });
    const heard = new Promise((done) => this.#waiting.push({ found, done }));
    return Promise.race([heard, late]).finally(() => clearTimeout(timer));
  }

  /** Ctrl-C; the demo must end well and soon. */
  async stop() {
    if (this.child.exitCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill('SIGINT');
    const [code] = await ended;
    assert.equal(code, 0, `the demo ended with ${code}`);
  }
}

/** Chromium without a window, that asks nobody but us. */
export async function startBrowser() {
  return chromium.launch({
    executablePath: CHROMIUM,
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}

/** A person at a browser of their own, without scripts: nothing in the demo may need them. */
export async function person(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, javaScriptEnabled: false, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  return context.newPage();
}
