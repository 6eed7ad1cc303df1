// The demo's issuer and gate in one process, with an MCP service of ours behind the gate: its resource, scopes and role are made
// through the Management API, as an operator's script would, and the gate's configuration is changed while it runs.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

const BINARY = process.env.WICKETGATE_BINARY;
export const WORK_DIR = process.env.MCP_WORK_DIR ?? fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-'));

/** Asks until the answer is truthy, and returns it. */
export async function until(what, ask, ms = 10_000) {
  const deadline = Date.now() + ms;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    assert(Date.now() < deadline, `waited ${ms} ms in vain until ${what}`);
    await pause(20);
  }
}

/** So many ports in a row that nobody listens on, below those that the system gives to outgoing connections. */
export async function freePorts(count) {
  for (;;) {
    const first = 20_000 + Math.floor(Math.random() * (12_000 - count));
    const servers = Array.from({ length: count }, () => net.createServer());
    const free = await Promise.all(servers.map((server, i) => new Promise((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(first + i, '127.0.0.1', () => resolve(true));
    })));
    await Promise.all(servers.map((server, i) => free[i] && new Promise((resolve) => server.close(resolve))));
    if (free.every(Boolean)) return first;
  }
}

/** Starts a gate alone, on this port and with its admin listener on the next. */
export async function startGate(name, port, settings) {
  assert(BINARY, 'WICKETGATE_BINARY names the program under test');
  const config = path.join(WORK_DIR, `${name}.yaml`);
  const listen = { listen: `127.0.0.1:${port}`, admin: `127.0.0.1:${port + 1}`, shutdown: { delay: '1ms', deadline: '5s' } };
  fs.writeFileSync(config, JSON.stringify({ ...listen, ...settings }, null, 2));
  const run = new Run(name, ['run', '--config', config]);
  await run.ready(`http://127.0.0.1:${port + 1}`);
  return Object.assign(run, { url: `http://127.0.0.1:${port}` });
}

/** Starts the demo, puts `upstream` behind the gate at /mcp, and lets agents register. */
export async function startStage(name, upstream, more = {}) {
  assert(BINARY, 'WICKETGATE_BINARY names the program under test');
  const stage = new Stage(name, upstream, await freePorts(7));
  await stage.start();
  await stage.prepare();
  await stage.configure(more);
  return stage;
}

/** The program under test, with what it says. */
class Run {
  #child;
  #exit;
  #log = '';

  constructor(name, args) {
    this.#child = spawn(BINARY, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const file = fs.createWriteStream(path.join(WORK_DIR, `${name}.log`));
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.#log += text;
        file.write(text);
      });
    }
    this.#exit = once(this.#child, 'close').finally(() => file.end());
    process.once('exit', () => this.#child.kill('SIGKILL'));
  }

  async ready(admin) {
    await until('the gate is ready', async () => {
      assert(this.#child.exitCode === null, this.#log);
      return (await fetch(`${admin}/readyz`).catch(() => undefined))?.status === 200;
    });
  }

  async stop() {
    this.#child.kill('SIGTERM');
    await this.#exit;
  }
}

class Stage {
  #run;
  #token;

  constructor(name, upstream, port) {
    const at = (offset) => `http://127.0.0.1:${port + offset}`;
    Object.assign(this, { name, upstream, port, url: at(0), admin: at(1), tenant: at(2), issuer: `${at(2)}/oidc`, mcp: `${at(0)}/mcp` });
    this.config = path.join(WORK_DIR, `${name}.yaml`);
  }

  async start() {
    fs.rmSync(this.config, { force: true });
    this.#run = new Run(this.name, ['demo', '--port', String(this.port), '--config', this.config]);
    await this.#run.ready(this.admin);
  }

  /** What Logto must hold: a resource for the MCP service, its scopes, and a role that gives them to Alice. */
  async prepare() {
    const basic = Buffer.from('gate:gate-secret').toString('base64');
    const body = new URLSearchParams({ grant_type: 'client_credentials', resource: 'https://default.logto.app/api', scope: 'all' });
    const answer = await fetch(`${this.issuer}/token`, { method: 'POST', headers: { authorization: `Basic ${basic}` }, body });
    this.#token = (await answer.json()).access_token;
    const resource = await this.manage('POST', '/resources', { name: 'MCP', indicator: this.mcp });
    const scopes = [];
    for (const scope of ['mcp:tools', 'mcp:admin']) {
      scopes.push(await this.manage('POST', `/resources/${resource.id}/scopes`, { name: scope, description: scope }));
    }
    const role = { name: 'MCP user', description: 'MCP user', type: 'User', scopeIds: scopes.map(({ id }) => id) };
    await this.manage('POST', '/users/alice/roles', { roleIds: [(await this.manage('POST', '/roles', role)).id] });
  }

  /** A call of the Management API. */
  async manage(method, target, body) {
    const headers = { authorization: `Bearer ${this.#token}`, 'content-type': 'application/json' };
    const response = await fetch(`${this.tenant}/api${target}`, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    assert(response.ok, `${method} ${target}: ${response.status} ${text}`);
    return text.startsWith('{') || text.startsWith('[') ? JSON.parse(text) : text;
  }

  /** The apps that registered themselves. */
  async registered() {
    return (await this.manage('GET', '/applications?isThirdParty=true')).filter(({ customData }) => customData.wicketgate?.registered);
  }

  /** Another configuration, taken over while running. */
  async configure({ requires = 'mcp:tools', registration = {} } = {}) {
    const before = await this.#hash();
    fs.writeFileSync(this.config, JSON.stringify({
      listen: `127.0.0.1:${this.port}`,
      admin: `127.0.0.1:${this.port + 1}`,
      issuer: this.issuer,
      services: [{
        name: 'mcp', path: '/mcp', resource: this.mcp, upstream: this.upstream,
        scopes: { 'mcp:tools': 'Use tools', 'mcp:admin': 'Change everything' },
        routes: { '/mcp': requires, '/mcp/more': 'mcp:tools' },
      }],
      logto: { endpoint: this.tenant, app_id: 'gate', app_secret: 'gate-secret' },
      registration: {
        ceiling: { scopes: ['mcp:tools', 'mcp:admin'] }, grant: 'ceiling', confidential: true, advertise: 'gate',
        reserved_names: ['Weather'], per_address_per_hour: 1000, per_minute: 1000, ...registration,
      },
      shutdown: { delay: '1ms', deadline: '5s' },
      reload: { interval: '100ms' },
    }, null, 2));
    await until('the configuration is taken', async () => (await this.#hash()) !== before);
  }

  async #hash() {
    const status = await (await fetch(`${this.admin}/status`)).json();
    assert.notEqual(status.reload?.ok, false, JSON.stringify(status));
    return JSON.stringify(status).match(/"config_hash":"([^"]+)"|"hash":"([^"]+)"/)?.[0];
  }

  stop() {
    return this.#run.stop();
  }
}
