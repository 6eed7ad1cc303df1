// What a page can do with a service of another origin: Chromium decides, by what the gate says.

import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, before, beforeEach, test } from 'node:test';

import { chromium } from 'playwright-core';

import { startGate, until, WORK_DIR } from '../peers/gate.mjs';

const ISSUER = 'https://issuer.example/oidc';
const RESOURCE = 'https://api.weather.example';
const { privateKey, publicKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });

/** What the service got, `METHOD target`, with cookie and origin. */
let received = [];
let pages, service, gate, browser, page, app;

function token() {
  const part = (object) => Buffer.from(JSON.stringify(object)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const claims = { iss: ISSUER, sub: 'alice', client_id: 'app', aud: RESOURCE, scope: 'read:weather', iat: now, exp: now + 3600 };
  const input = `${part({ alg: 'ES256', typ: 'at+jwt', kid: 'k' })}.${part(claims)}`;
  return `${input}.${crypto.sign('sha256', Buffer.from(input), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

async function listen(handler) {
  const server = http.createServer(handler).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

before(async () => {
  pages = await listen((request, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>page</title>'));
  const port = pages.address().port;
  app = `http://127.0.0.1:${port}`;
  service = await listen((request, response) => {
    received.push({ line: `${request.method} ${request.url}`, cookie: request.headers.cookie, origin: request.headers.origin });
    if (request.url === '/open/broken') return request.socket.end('no HTTP\r\n\r\n');
    // A service that lets everybody in, and one that says so twice: neither may count.
    response.setHeader('access-control-allow-origin', ['*', 'https://evil.example']);
    response.setHeader('access-control-allow-credentials', 'true');
    response.setHeader('x-sum', '42');
    response.end('{"weather":"sun"}');
  });
  const keys = path.join(WORK_DIR, 'pages.jwks.json');
  fs.writeFileSync(keys, JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k', use: 'sig' }] }));
  gate = await startGate('pages', {
    issuer: { url: ISSUER, jwks_file: keys },
    services: [{
      name: 'weather',
      resource: RESOURCE,
      upstream: `http://127.0.0.1:${service.address().port}`,
      cors: { origins: [app, `http://*.app.localhost:${port}`], expose: ['X-Sum'] },
      routes: {
        'GET /open/**': 'public',
        'GET,PUT /forecast/{city}': 'read:weather',
        'GET /cookies': { access: 'public', cors: { origins: [app], credentials: true } },
        'GET /all': { access: 'public', cors: { origins: ['*'], headers: '*' } },
        'GET /own': { access: 'public', cors: { origins: [] } },
      },
    }],
  });
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
});

after(async () => {
  await browser?.close();
  await gate?.stop();
  for (const server of [pages, service]) server?.close().closeAllConnections();
});

beforeEach(async () => {
  received = [];
  await page?.close();
  page = await browser.newPage();
  await page.goto(app);
});

/** `fetch` as a script of the page calls it: what the script may read, or that it may read nothing. */
function call(target, options = {}) {
  return page.evaluate(async ({ url, options }) => {
    try {
      const response = await fetch(url, options);
      return { status: response.status, headers: Object.fromEntries(response.headers), text: await response.text() };
    } catch (error) {
      return { refused: String(error) };
    }
  }, { url: gate.url + target, options });
}

const lines = () => received.map(({ line }) => line);
const bearer = () => ({ authorization: `Bearer ${token()}` });

test('a page of a named origin reads the answer to a simple request', async () => {
  const answer = await call('/open/x');
  assert.equal(answer.status, 200);
  assert.equal(answer.text, '{"weather":"sun"}');
  assert.equal(answer.headers['x-sum'], '42');
  assert(answer.headers['x-request-id']);
  assert.deepEqual(received, [{ line: 'GET /open/x', cookie: undefined, origin: app }]);
});

test('a request with a token is asked about first, once, and the service sees nothing of the question', async () => {
  const options = { method: 'PUT', headers: { ...bearer(), 'content-type': 'application/json' }, body: '{}' };
  assert.equal((await call('/forecast/oslo', options)).status, 200);
  assert.equal((await call('/forecast/oslo', options)).status, 200);
  assert.deepEqual(lines(), ['PUT /forecast/oslo', 'PUT /forecast/oslo']);
  const asked = () => gate.records('/forecast/oslo').filter(({ method }) => method === 'OPTIONS');
  await until('the preflight is in the log', () => gate.records('/forecast/oslo').length === 3);
  assert.equal(asked().length, 1, JSON.stringify(asked()));
  assert.equal(asked()[0].status, 204);
});

test('a page reads why it was refused, and where to get a token', async () => {
  const answer = await call('/forecast/oslo');
  assert.equal(answer.status, 401);
  assert.equal(JSON.parse(answer.text).code, 'token_missing');
  assert.match(answer.headers['www-authenticate'], /^Bearer .*resource_metadata="/);
  const bad = await call('/forecast/oslo', { headers: { authorization: 'Bearer x.y.z' } });
  assert.equal(JSON.parse(bad.text).code, 'token_malformed');
  const unknown = await call('/nowhere');
  assert.equal(JSON.parse(unknown.text).code, 'route_unknown');
  assert.deepEqual(lines(), []);
});

test('a page reads that the service is broken', async () => {
  const answer = await call('/open/broken');
  assert.equal(answer.status, 502);
  assert.equal(JSON.parse(answer.text).code, 'upstream_broken');
});

test('pages of other origins read nothing, and send nothing that must be asked about', async () => {
  const port = pages.address().port;
  for (const host of ['localhost', 'evilapp.localhost', 'a.b.app.localhost', 'app.localhost']) {
    await page.goto(`http://${host}:${port}`);
    received = [];
    assert.match((await call('/open/x')).refused ?? 'read', /Failed to fetch/, host);
    assert.match((await call('/forecast/oslo', { method: 'PUT', headers: bearer() })).refused ?? 'read', /Failed to fetch/, host);
    // Anybody may send a simple request; what comes back is what counts.
    assert.deepEqual(lines(), ['GET /open/x'], host);
  }
});

test('a page one label below a named origin may call', async () => {
  await page.goto(`http://a.app.localhost:${pages.address().port}`);
  assert.equal((await call('/forecast/oslo', { headers: bearer() })).status, 200);
  assert.deepEqual(lines(), ['GET /forecast/oslo']);
});

test('a header or a method that is not allowed stays with the browser', async () => {
  assert.match((await call('/open/x', { headers: { 'x-other': '1' } })).refused, /Failed to fetch/);
  assert.match((await call('/open/x', { method: 'PATCH' })).refused, /Failed to fetch/);
  assert.deepEqual(lines(), []);
  assert.equal((await call('/all', { headers: { 'x-other': '1', ...bearer() } })).status, 200);
});

test('cookies go along only where the operator says so', async () => {
  await page.context().addCookies([{ name: 'session', value: '7', url: gate.url }]);
  const answer = await call('/cookies', { credentials: 'include' });
  assert.equal(answer.status, 200);
  for (const target of ['/open/x', '/all']) {
    assert.match((await call(target, { credentials: 'include' })).refused, /Failed to fetch/, target);
  }
  assert.equal(received[0].cookie, 'session=7');
  assert.equal((await call('/all')).status, 200);
});

test('what the service says counts where the operator says nothing', async () => {
  // Two origins are none: as the service itself would be refused.
  assert.match((await call('/own')).refused, /Failed to fetch/);
  assert.deepEqual(lines(), ['GET /own']);
});
