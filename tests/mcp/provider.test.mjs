// Registration before another engine: what the gate registers, npm oidc-provider takes as a client, and tells of it the same.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import * as openid from 'openid-client';

import { startProvider } from './provider.mjs';
import { Provider, withClient } from './sdk.mjs';
import { startServer } from './server.mjs';
import { freePorts, startGate } from './stage.mjs';

let server, provider, gate, resource;

before(async () => {
  server = await startServer();
  const port = await freePorts(3);
  resource = `http://127.0.0.1:${port}/mcp`;
  provider = await startProvider(port + 2, resource, ['mcp:tools', 'mcp:admin']);
  gate = await startGate('provider', port, {
    issuer: provider.issuer,
    services: [{ name: 'mcp', path: '/mcp', resource, upstream: server.url, routes: { '/mcp': 'mcp:tools', '/mcp/admin': 'mcp:admin' } }],
    logto: { endpoint: provider.endpoint, app_id: 'gate', app_secret: 'gate-secret' },
    registration: { advertise: 'gate', ceiling: { scopes: ['mcp:tools'] }, confidential: true, reserved_names: ['Weather'], redirect: { hosts: ['agent.example'] } },
  });
});

after(async () => {
  await gate?.stop();
  await provider?.stop();
  await server?.stop();
});

async function register(metadata) {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${gate.url}/register`, { method: 'POST', headers, body: JSON.stringify({ client_name: 'Agent', ...metadata }) });
  const client = await response.json();
  assert.equal(response.status, 201, JSON.stringify(client));
  return client;
}

/** A browser that goes where it is sent, until it is back at the client; Alice is asked nothing. */
async function follow(start, redirect) {
  let url = new URL(start);
  const cookies = new Map();
  for (let step = 0; step < 10 && !url.href.startsWith(redirect); step += 1) {
    const response = await fetch(url, { redirect: 'manual', headers: { cookie: [...cookies].map((pair) => pair.join('=')).join('; ') } });
    for (const line of response.headers.getSetCookie()) cookies.set(...line.split(';')[0].split('='));
    const location = response.headers.get('location');
    assert(location, `${response.status} ${await response.text()}`);
    url = new URL(location, url);
  }
  return { callback: url, pages: [] };
}

/** The code flow of openid-client. */
async function codeFlow(client, redirect, scope) {
  const auth = client.client_secret ? openid.ClientSecretPost(client.client_secret) : openid.None();
  const config = await openid.discovery(new URL(provider.issuer), client.client_id, client, auth, { execute: [openid.allowInsecureRequests] });
  const verifier = openid.randomPKCECodeVerifier();
  const challenge = { code_challenge: await openid.calculatePKCECodeChallenge(verifier), code_challenge_method: 'S256' };
  const url = openid.buildAuthorizationUrl(config, { redirect_uri: redirect, scope, resource, ...challenge });
  const { callback } = await follow(url, redirect);
  return openid.authorizationCodeGrant(config, callback, { pkceCodeVerifier: verifier }, { resource });
}

async function ask(path, token) {
  const headers = { 'content-type': 'application/json', accept: 'application/json, text/event-stream', authorization: `Bearer ${token}` };
  return (await fetch(`${gate.url}${path}`, { method: 'POST', headers, body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list' }) })).status;
}

for (const method of ['none', 'client_secret_post']) {
  test(`an app that registers with ${method} is a client of the engine and gets what the ceiling allows`, async () => {
    const redirect = 'https://agent.example/callback';
    const client = await register({ redirect_uris: [redirect], token_endpoint_auth_method: method, scope: 'mcp:tools mcp:admin' });
    assert.equal(client.scope, 'mcp:tools');
    const tokens = await codeFlow(client, redirect, 'mcp:tools mcp:admin');
    assert.equal(tokens.scope, 'mcp:tools');
    assert.deepEqual([await ask('/mcp', tokens.access_token), await ask('/mcp/admin', tokens.access_token)], [200, 403]);
  });
}

// RFC 8252 §7.3: a program learns its port when it starts. Of a native app the engine, and so Logto, does not compare it.
test('a native app comes back at any port of the loopback address, and at no other place', async () => {
  const client = await register({ redirect_uris: ['http://127.0.0.1/callback'], token_endpoint_auth_method: 'none' });
  const tokens = await codeFlow(client, 'http://127.0.0.1:52417/callback', 'mcp:tools');
  assert.equal(await ask('/mcp', tokens.access_token), 200);
  for (const elsewhere of ['http://127.0.0.1:52417/other', 'http://127.0.0.2:52417/callback', 'https://agent.example/callback']) {
    await assert.rejects(codeFlow(client, elsewhere, 'mcp:tools'), /redirect_uri/, elsewhere);
  }
});

test('an app that ends its registration is a client no more', async () => {
  const redirect = 'https://agent.example/callback';
  const client = await register({ redirect_uris: [redirect], token_endpoint_auth_method: 'none' });
  const own = { method: 'DELETE', headers: { authorization: `Bearer ${client.registration_access_token}` } };
  assert.equal((await fetch(client.registration_client_uri, own)).status, 204);
  await assert.rejects(codeFlow(client, redirect, 'mcp:tools'), /client/);
});

test("the MCP SDK's client goes the whole way here, too: registration, the engine's code flow, a tool's answer", async () => {
  const sdk = new Provider({ client_name: 'SDK' }, follow);
  const before = server.seen.length;
  const answer = await withClient(resource, sdk, (client) => client.callTool({ name: 'whoami' }));
  assert.equal(answer.content[0].text, server.seen.at(-1).subject);
  assert.equal(sdk.consents, 1);
  for (const { client, authorization } of server.seen.slice(before)) assert.deepEqual([client, authorization], [sdk.client.client_id, undefined]);
});
