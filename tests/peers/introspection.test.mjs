// Opaque tokens: oidc-provider gives them out and answers about them, the gate asks as a client of its own.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import * as openid from 'openid-client';

import { consent } from './browser.mjs';
import { startGate, until } from './gate.mjs';
import { startProvider } from './provider.mjs';
import { startUpstream } from './upstream.mjs';

const ENDPOINT = '/oidc/token/introspection';
const OPAQUE = 'https://opaque.example';
const JWT = 'https://jwt.example';

let provider, upstream, gate, client;

before(async () => {
  provider = await startProvider([OPAQUE, JWT], { opaque: [OPAQUE] });
  upstream = await startUpstream();
  const routes = (prefix) => ({ [`GET ${prefix}/me`]: 'authenticated', [`GET ${prefix}/read`]: 'read:weather', [`GET ${prefix}/write`]: 'write:weather' });
  const introspection = { client_id: provider.gate.id, client_secret: provider.gate.secret, max_age: '1s' };
  gate = await startGate('introspection', {
    issuer: provider.issuer,
    services: [
      { name: 'opaque', path: '/opaque', resource: OPAQUE, public_url: `${OPAQUE}/opaque`, upstream: upstream.url, introspection, routes: routes('/opaque') },
      {
        name: 'jwt', path: '/jwt', resource: JWT, public_url: `${JWT}/jwt`, upstream: upstream.url, routes: routes('/jwt'),
        introspection: { ...introspection, auth: 'post', audience: 'if_present' },
      },
    ],
  });
  const options = { execute: [openid.allowInsecureRequests] };
  client = await openid.discovery(new URL(provider.issuer), provider.agent.id, undefined, openid.None(), options);
});

after(async () => {
  await gate?.stop([...provider.issued, provider.gate.secret]);
  await upstream?.stop();
  await provider?.down();
});

/** Alice's tokens: asked for a resource at both endpoints, or for none at either. */
async function tokensOfAlice(resource) {
  const verifier = openid.randomPKCECodeVerifier();
  const state = openid.randomState();
  const authorization = openid.buildAuthorizationUrl(client, {
    redirect_uri: provider.agent.redirect,
    scope: resource ? 'openid offline_access read:weather' : 'openid offline_access',
    prompt: 'consent',
    ...(resource ? { resource } : {}),
    state,
    code_challenge: await openid.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  });
  const { callback } = await consent(authorization, { login: 'alice', allow: ['read:weather'], redirect: provider.agent.redirect });
  const checks = { pkceCodeVerifier: verifier, expectedState: state };
  const tokens = await openid.authorizationCodeGrant(client, callback, checks, resource ? { resource } : {});
  provider.issued.push(tokens.access_token, tokens.id_token, tokens.refresh_token);
  return tokens;
}

async function codeOf(target, token) {
  const response = await gate.fetch(target, { token });
  return { status: response.status, code: (await response.json()).code };
}

test('an opaque token of Alice opens what she consented to, and is asked about once', async () => {
  const { access_token: token } = await tokensOfAlice(OPAQUE);
  assert(!token.includes('.'), 'the token is a JWT');
  provider.forget();

  const response = await gate.fetch('/opaque/read', { token });
  const told = await response.json();
  assert.equal(response.status, 200);
  assert.equal(told.headers['x-auth-subject'], 'alice');
  assert.equal(told.headers['x-auth-client-id'], provider.agent.id);
  assert.equal(told.headers['x-auth-scopes'], 'read:weather');
  assert.equal(told.headers['x-auth-issuer'], provider.issuer);
  assert.deepEqual(await codeOf('/opaque/write', token), { status: 403, code: 'scope_missing' });
  assert.equal(provider.asked(ENDPOINT), 1);
});

test('it is for its own resource alone', async () => {
  const { access_token: token } = await tokensOfAlice(OPAQUE);
  assert.deepEqual(await codeOf('/jwt/me', token), { status: 401, code: 'audience_wrong' });
});

test('a token for no resource counts only where the operator says so, and has no scope of the API', async () => {
  const { access_token: token } = await tokensOfAlice();
  assert(!token.includes('.'), 'the token is a JWT');
  assert.deepEqual(await codeOf('/opaque/me', token), { status: 401, code: 'audience_wrong' });
  assert.equal(await gate.status('/jwt/me', token), 200);
  assert.deepEqual(await codeOf('/jwt/read', token), { status: 403, code: 'scope_missing' });
});

test('a refresh token is no access token, although the provider says that it is active', async () => {
  const { refresh_token: token } = await tokensOfAlice(OPAQUE);
  assert.deepEqual(await codeOf('/opaque/me', token), { status: 401, code: 'token_type_wrong' });
  assert.deepEqual(await codeOf('/jwt/me', token), { status: 401, code: 'token_type_wrong' });
});

test('a token without a subject is refused: the machine asks for a JWT', async () => {
  const { access_token: token } = await provider.clientCredentials({ scope: 'read:weather', resource: OPAQUE });
  assert.deepEqual(await codeOf('/opaque/read', token), { status: 401, code: 'claim_malformed' });
});

test('a revoked token is refused within max_age', async () => {
  const { access_token: token } = await tokensOfAlice(OPAQUE);
  assert.equal(await gate.status('/opaque/me', token), 200);
  await openid.tokenRevocation(client, token);
  await until('it is refused', async () => (await gate.status('/opaque/me', token)) === 401);
  assert.deepEqual(await codeOf('/opaque/me', token), { status: 401, code: 'token_inactive' });
});

test('a JWT, good or broken, is never shown to the endpoint', async () => {
  const token = await provider.token('read:weather', JWT);
  provider.forget();
  assert.equal(await gate.status('/jwt/read', token), 200);
  for (const broken of [token.slice(0, -4), token.split('.').slice(0, 2).join('.'), `${token}.x.y`]) {
    assert.equal(await gate.status('/jwt/read', broken), 401);
  }
  assert.equal(provider.asked(ENDPOINT), 0);
});

test('while the provider is away an opaque token is a 503, a JWT passes, and both pass when it is back', async () => {
  const { access_token: token } = await tokensOfAlice(OPAQUE);
  const jwt = await provider.token('read:weather', JWT);
  await provider.down();
  assert.deepEqual(await codeOf('/opaque/me', token), { status: 503, code: 'introspection_unavailable' });
  assert.equal(await gate.status('/jwt/read', jwt), 200);
  await provider.up();
  await until('it is back', async () => (await gate.status('/opaque/me', token)) === 200);
});
