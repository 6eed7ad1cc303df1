// nginx as a legacy service below a prefix of its own, with a name of its own, a password, redirects and cookies.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';

import { startGate, until, WORK_DIR } from './gate.mjs';
import { freePort } from './ports.mjs';
import { startProvider } from './provider.mjs';

const RESOURCE = 'https://legacy.example';
const CREDENTIALS = `Basic ${Buffer.from('gate:rain-or-shine').toString('base64')}`;

let provider, nginx, gate, token;

before(async () => {
  provider = await startProvider([RESOURCE]);
  const root = path.join(WORK_DIR, 'legacy');
  fs.mkdirSync(path.join(root, 'files', 'app', 'maps'), { recursive: true });
  fs.writeFileSync(path.join(root, 'files', 'app', 'maps', 'index.html'), 'maps\n');
  fs.writeFileSync(path.join(root, 'passwords'), 'gate:{PLAIN}rain-or-shine\n');
  fs.writeFileSync(path.join(root, 'credentials'), `${CREDENTIALS}\n`);
  nginx = await startNginx(root);
  gate = await startGate('rewriting', {
    issuer: provider.issuer,
    services: [{
      name: 'legacy',
      path: '/api/v1',
      resource: RESOURCE,
      upstream: nginx.url,
      rewrite: { strip_prefix: '/api/v1', add_prefix: '/app', host: 'legacy.internal' },
      request_headers: { set_file: { Authorization: path.join(root, 'credentials') }, set: { 'X-Tenant': 'acme' }, remove: 'Cookie' },
      response_headers: { set: { 'Strict-Transport-Security': 'max-age=31536000' }, remove: ['Server', 'WWW-Authenticate'] },
      routes: {
        'GET /api/v1/**': 'read:weather',
        'GET /api/v1/bare': { access: 'authenticated', request_headers: {} },
      },
    }],
  });
  token = await provider.token();
});

after(async () => {
  await gate?.stop([...(provider?.issued ?? []), `x.${CREDENTIALS.slice(6)}`]);
  await nginx?.stop();
  await provider?.down();
  fs.rmSync(path.join(WORK_DIR, 'legacy'), { recursive: true, force: true });
});

/** nginx in the foreground; it knows its own name, and what it is asked is told back. */
async function startNginx(root) {
  const port = await freePort();
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((kind) => `${kind}_temp_path ${root}/${kind};`);
  const told = '$request_uri|$host|$http_x_tenant|$http_cookie|$http_x_forwarded_prefix|$http_x_forwarded_host|$remote_user';
  fs.writeFileSync(path.join(root, 'nginx.conf'), `
daemon off;
master_process off;
pid ${root}/nginx.pid;
error_log ${root}/error.log;
events {}
http {
  access_log off;
  ${temporary.join(' ')}
  server {
    listen 127.0.0.1:${port} default_server;
    return 421;
  }
  server {
    listen 127.0.0.1:${port};
    server_name legacy.internal;
    root ${root}/files;
    auth_basic "legacy";
    auth_basic_user_file ${root}/passwords;
    location = /app/told { try_files /nowhere @told; }
    location @told {
      add_header Set-Cookie "session=1; Path=/app; Domain=legacy.internal; HttpOnly";
      return 200 "${told}";
    }
    location = /app/old { return 301 /app/new?from=old; }
    location = /app/away { return 302 https://login.example/app/x; }
    location /app/ { index index.html; }
  }
}
`);
  const child = spawn('nginx', ['-p', root, '-c', path.join(root, 'nginx.conf'), '-e', path.join(root, 'error.log')], { stdio: 'inherit' });
  const closed = once(child, 'close');
  process.once('exit', () => child.kill('SIGKILL'));
  const url = `http://127.0.0.1:${port}`;
  await until('nginx listens', () => fetch(url, { method: 'HEAD' }).then(() => true, () => false));
  return {
    url,
    async stop() {
      child.kill('SIGTERM');
      await closed;
    },
  };
}

async function ask(target, headers = {}) {
  const request = http.request(gate.url + target, { agent: false, headers: { authorization: `Bearer ${token}`, ...headers } });
  request.end();
  const [response] = await once(request, 'response');
  return { status: response.statusCode, headers: response.headers, body: await text(response) };
}

test('nginx is asked under its own prefix, name and password, and without what the operator takes away', async () => {
  const { status, headers, body } = await ask('/api/v1/told?a=%2f', { cookie: 'a=1', 'x-tenant': 'evil', x_tenant: 'evil' });
  assert.equal(status, 200, body);
  assert.deepEqual(body.split('|'), ['/app/told?a=%2f', 'legacy.internal', 'acme', '', '/api/v1', `127.0.0.1:${gate.port}`, 'gate']);
  assert.deepEqual(headers['set-cookie'], ['session=1; Path=/api/v1; HttpOnly']);
  assert.equal(headers.server, undefined);
  assert.equal(headers['strict-transport-security'], 'max-age=31536000');
});

test("nginx's redirects lead back through the gate", async () => {
  // Whole addresses with nginx's own name, as it writes them by default.
  assert.equal((await ask('/api/v1/old')).headers.location, '/api/v1/new?from=old');
  const slash = await ask('/api/v1/maps');
  assert.equal(slash.status, 301);
  assert.equal(slash.headers.location, '/api/v1/maps/');
  assert.equal((await ask(slash.headers.location)).body, 'maps\n');
  assert.equal((await ask('/api/v1/away')).headers.location, 'https://login.example/app/x');
});

test("without the password nginx's challenge stays behind the gate, and the gate's own does not", async () => {
  const bare = await ask('/api/v1/bare');
  assert.equal(bare.status, 401);
  assert.equal(bare.headers['www-authenticate'], undefined);
  const own = await ask('/api/v1/told', { authorization: '' });
  assert.equal(own.status, 401);
  assert.match(own.headers['www-authenticate'], /^Bearer /);
  assert.equal(own.headers['strict-transport-security'], 'max-age=31536000');
});
