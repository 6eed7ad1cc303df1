// mcp-remote, as MCP hosts start it: prints the address for its user, takes the callback, and lists tools.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { allow } from './alice.mjs';
import { startServer } from './server.mjs';
import { freePorts, startStage, WORK_DIR } from './stage.mjs';

const CLIENT = fileURLToPath(new URL('./node_modules/mcp-remote/dist/client.js', import.meta.url));

let server, stage;

before(async () => {
  server = await startServer();
  stage = await startStage('remote', server.url);
});

after(async () => {
  await stage?.stop();
  await server?.stop();
});

/** Runs it to its end, which the end of its input would be. Alice opens the address that it prints. */
async function remote(name, args = [], port = undefined) {
  const home = path.join(WORK_DIR, `mcp-auth-${name}`);
  fs.rmSync(home, { recursive: true, force: true });
  port ??= await freePorts(1);
  const env = { ...process.env, MCP_REMOTE_CONFIG_DIR: home, BROWSER: 'none', PATH: path.dirname(process.execPath), DISPLAY: '' };
  const child = spawn(process.execPath, [CLIENT, stage.mcp, String(port), '--allow-http', ...args], { env });
  let log = '';
  let opened;
  const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      log += text;
      const url = /visiting:\s*(http\S+)/.exec(log)?.[1];
      if (!url || opened) return;
      const redirect = new URL(url).searchParams.get('redirect_uri');
      opened = allow(url, redirect).then(({ callback }) => fetch(callback)).then((answer) => answer.text());
      opened.catch((error) => {
        log += String(error.stack);
        child.kill('SIGKILL');
      });
    });
  }
  const [code] = await once(child, 'close');
  clearTimeout(timer);
  fs.writeFileSync(path.join(WORK_DIR, `mcp-remote-${name}.log`), log.replaceAll(/eyJ[\w.-]+/g, '[token]'));
  return { code, log };
}

// It holds to RFC 8414 §3.3, as the SDK's second generation does: what `advertise: gate` costs.
test('mcp-remote refuses the issuer\'s metadata as the gate\'s', async () => {
  const { code, log } = await remote('refuses');
  assert.notEqual(code, 0);
  assert.match(log, /IssuerMismatchError/);
  assert.equal((await stage.registered()).length, 0);
});

test('mcp-remote with an app that was registered for it asks its user, gets in and lists the tools', async () => {
  await stage.configure({ registration: { advertise: 'issuer' } });
  const port = await freePorts(1);
  const redirects = ['localhost', '127.0.0.1'].map((host) => `http://${host}:${port}/oauth/callback`);
  const metadata = { client_name: 'MCP remote', redirect_uris: redirects, token_endpoint_auth_method: 'none', grant_types: ['authorization_code', 'refresh_token'] };
  const answer = await fetch(`${stage.url}/register`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(metadata) });
  const { client_id, redirect_uris } = await answer.json();
  assert.equal(answer.status, 201);
  const known = JSON.stringify({ client_id, redirect_uris });
  const { code, log } = await remote('handed', ['--static-oauth-client-info', known], port);
  assert.equal(code, 0, log);
  assert.match(log, /Connected successfully/);
  assert.match(log, /whoami/);
  assert.deepEqual((await stage.registered()).map(({ id, type }) => [id, type]), [[client_id, 'Native']]);
});
