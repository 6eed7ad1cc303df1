// Tokens and documents, read by OAuth's own programs on both sides: oidc-provider gives out, openid-client asks,
// oauth4webapi judges.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import * as oauth from 'oauth4webapi';
import * as openid from 'openid-client';

import { consent } from './browser.mjs';
import { startGate } from './gate.mjs';
import { freePort } from './ports.mjs';
import { newKey, startProvider } from './provider.mjs';
import { startUpstream } from './upstream.mjs';

const OTHER = 'https://other.example';
const INSECURE = { [oauth.allowInsecureRequests]: true };

let provider, upstream, gate, resource, alice;

before(async () => {
  const port = await freePort();
  // A client finds the metadata document from the resource's own address (RFC 9728 §3), so they are the same here.
  resource = `http://127.0.0.1:${port}`;
  provider = await startProvider([resource, OTHER]);
  upstream = await startUpstream();
  gate = await startGate('oauth', {
    port,
    issuer: provider.issuer,
    tokens: { leeway: '5s' },
    services: [{
      name: 'weather', resource, upstream: upstream.url,
      routes: {
        '/public/**': 'public',
        'GET /me': 'authenticated',
        'GET /weather/{city}': 'read:weather',
        'PUT /weather/{city}': 'write:weather',
      },
    }],
  });
  alice = await signInAlice();
});

after(async () => {
  await gate?.stop(provider.issued);
  await upstream?.stop();
  await provider?.down();
});

/** Authorization code with PKCE by openid-client: Alice is asked for both scopes and allows reading alone. */
async function signInAlice() {
  const options = { execute: [openid.allowInsecureRequests] };
  const client = await openid.discovery(new URL(provider.issuer), provider.agent.id, undefined, openid.None(), options);
  const verifier = openid.randomPKCECodeVerifier();
  const state = openid.randomState();
  const authorization = openid.buildAuthorizationUrl(client, {
    redirect_uri: provider.agent.redirect,
    scope: 'openid offline_access read:weather write:weather',
    prompt: 'consent',
    resource,
    state,
    code_challenge: await openid.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  });
  const { callback, seen } = await consent(authorization, { login: 'alice', allow: ['read:weather'], redirect: provider.agent.redirect });
  const checks = { pkceCodeVerifier: verifier, expectedState: state };
  const tokens = await openid.authorizationCodeGrant(client, callback, checks, { resource });
  provider.issued.push(tokens.access_token, tokens.id_token, tokens.refresh_token);
  return { client, tokens, seen };
}

test('a client-credentials token passes and the upstream sees who calls, verified', async () => {
  const response = await gate.fetch('/weather/oslo?units=metric', {
    token: await provider.token(),
    headers: { 'X-Auth-Subject': 'mallory', X_Auth_Subject: 'mallory', 'x-auth-organization-id': 'org_mallory', 'x-forwarded-for': '6.6.6.6' },
  });
  const told = await response.json();
  assert.equal(response.status, 200);
  assert.equal(told.url, '/weather/oslo?units=metric');
  assert.equal(told.headers['x-auth-subject'], provider.machine.id);
  assert.equal(told.headers['x-auth-client-id'], provider.machine.id);
  assert.equal(told.headers['x-auth-scopes'], 'read:weather write:weather');
  assert.equal(told.headers['x-auth-issuer'], provider.issuer);
  assert.equal(told.headers['x-forwarded-for'], '127.0.0.1');
  assert(!('authorization' in told.headers), 'the token went on to the upstream');
  assert(!('x-auth-organization-id' in told.headers));
  assert.equal(told.names.filter((name) => /^x.auth.subject$/i.test(name)).length, 1);
});

test('a client-credentials token with fewer scopes than granted has just those', async () => {
  const told = await (await gate.fetch('/weather/oslo', { token: await provider.token('read:weather') })).json();
  assert.equal(told.headers['x-auth-scopes'], 'read:weather');
});

test('Alice reads with what she consented to, after signing in by authorization code and PKCE', async () => {
  assert.deepEqual(alice.seen.map(({ prompt }) => prompt), ['login', 'consent']);
  assert.deepEqual(alice.seen[1].asked, ['read:weather', 'write:weather']);
  const response = await gate.fetch('/weather/oslo', { token: alice.tokens.access_token });
  const told = await response.json();
  assert.equal(response.status, 200);
  assert.equal(told.headers['x-auth-subject'], 'alice');
  assert.equal(told.headers['x-auth-client-id'], provider.agent.id);
  assert.equal(told.headers['x-auth-scopes'], 'read:weather');
});

test('writing is refused for Alice with a challenge that oauth4webapi reads, and asking for what it says loses nothing', async () => {
  const before = upstream.seen.length;
  const challenge = await challengeOf(alice.tokens.access_token, 'PUT', '/weather/oslo', 403);
  assert.equal(challenge.scheme, 'bearer');
  assert.equal(challenge.parameters.error, 'insufficient_scope');
  assert.equal(challenge.parameters.resource_metadata, `${resource}/.well-known/oauth-protected-resource`);
  assert.deepEqual(challenge.parameters.scope.split(' ').sort(), ['read:weather', 'write:weather']);
  assert.equal(upstream.seen.length, before, 'a refused request reached the upstream');
});

test('a refreshed token has the same consent', async () => {
  const tokens = await openid.refreshTokenGrant(alice.client, alice.tokens.refresh_token, { resource });
  provider.issued.push(tokens.access_token, tokens.refresh_token);
  assert.notEqual(tokens.access_token, alice.tokens.access_token);
  assert.equal(await gate.status('/weather/oslo', tokens.access_token), 200);
  assert.equal((await gate.fetch('/weather/oslo', { method: 'PUT', token: tokens.access_token })).status, 403);
});

test('without a token the challenge leads oauth4webapi to the metadata and on to the issuer', async () => {
  const challenge = await challengeOf(undefined, 'GET', '/weather/oslo', 401);
  assert.equal(challenge.parameters.error, undefined, 'RFC 6750 §3.1: no error code when no token was sent');
  assert.equal(challenge.parameters.scope, 'read:weather');
  const found = await (await fetch(challenge.parameters.resource_metadata)).json();
  const issuer = new URL(found.authorization_servers[0]);
  const server = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, INSECURE));
  assert.equal(server.issuer, provider.issuer);
});

test('oauth4webapi takes the metadata document for the resource, and no other', async () => {
  const identifier = new URL(resource);
  const response = await oauth.resourceDiscoveryRequest(identifier, INSECURE);
  const metadata = await oauth.processResourceDiscoveryResponse(identifier, response);
  assert.equal(metadata.resource, resource);
  assert.deepEqual(metadata.authorization_servers, [provider.issuer]);
  assert.deepEqual(metadata.scopes_supported.toSorted(), ['read:weather', 'write:weather']);
  assert.deepEqual(metadata.bearer_methods_supported, ['header']);
  const below = new URL(`${resource}/weather`);
  await assert.rejects(async () => oauth.processResourceDiscoveryResponse(below, await oauth.resourceDiscoveryRequest(below, INSECURE)));
});

test('an opaque token gets a 401 that names the parameter resource', async () => {
  const { access_token: token } = await provider.clientCredentials({});
  assert(!token.includes('.'), 'a token without resource is opaque');
  const { parameters } = await challengeOf(token, 'GET', '/weather/oslo', 401);
  assert.equal(parameters.error, 'invalid_token');
  assert.match(parameters.error_description, /\bresource\b/);
});

test('an ID token is refused, also where any valid token passes', async () => {
  assert.equal(await gate.status('/me', alice.tokens.access_token), 200);
  const { parameters } = await challengeOf(alice.tokens.id_token, 'GET', '/me', 401);
  assert.equal(parameters.error, 'invalid_token');
});

test('a token from the provider for another resource is refused', async () => {
  const { parameters } = await challengeOf(await provider.token('read:weather', OTHER), 'GET', '/me', 401);
  assert.equal(parameters.error, 'invalid_token');
});

test('the gate and oauth4webapi give the same verdict on every token', async () => {
  const issuer = new URL(provider.issuer);
  const server = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, INSECURE));
  const verdicts = {};
  for (const [name, token] of Object.entries(await tokensToJudge())) {
    const request = new Request(`${gate.url}/me`, { headers: { authorization: `Bearer ${token}` } });
    const options = { ...INSECURE, [oauth.clockTolerance]: 5 };
    const judged = await oauth.validateJwtAccessToken(server, request, resource, options).then(() => 'passes', () => 'refused');
    const status = await gate.status('/me', token);
    assert([200, 401].includes(status), `${name}: ${status}`);
    verdicts[name] = { oauth4webapi: judged, gate: status === 200 ? 'passes' : 'refused' };
  }
  const apart = Object.entries(verdicts).filter(([, { oauth4webapi, gate: ours }]) => oauth4webapi !== ours);
  assert.deepEqual(apart, []);
  const passed = Object.keys(verdicts).filter((name) => verdicts[name].gate === 'passes');
  assert.deepEqual(passed, ['of the provider', 'of Alice', 'made up well', 'several audiences', 'media type in full', 'no scope']);
});

test('the gate asks for no more claims than RFC 9068 §4 tells a resource to check, where oauth4webapi wants all of §2.2', async () => {
  const issuer = new URL(provider.issuer);
  const server = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, INSECURE));
  for (const claim of ['jti', 'iat', 'client_id']) {
    const token = provider.mint({ claims: { [claim]: undefined } });
    const request = new Request(`${gate.url}/me`, { headers: { authorization: `Bearer ${token}` } });
    await assert.rejects(oauth.validateJwtAccessToken(server, request, resource, INSECURE), new RegExp(claim));
    assert.equal(await gate.status('/me', token), 200, `without ${claim}`);
  }
});

/** Good tokens first, then one fault each. */
async function tokensToJudge() {
  const now = Math.floor(Date.now() / 1000);
  const good = await provider.token();
  const [header, , signature] = good.split('.');
  const claims = JSON.parse(Buffer.from(good.split('.')[1], 'base64url'));
  const raised = Buffer.from(JSON.stringify({ ...claims, scope: 'admin' })).toString('base64url');
  const unsigned = Buffer.from(JSON.stringify({ alg: 'none', typ: 'at+jwt' })).toString('base64url');
  const otherSignature = (await provider.token()).split('.')[2];
  const stranger = newKey();
  const mint = (claims, header, key) => provider.mint({ claims, header, key });
  return {
    'of the provider': good,
    'of Alice': alice.tokens.access_token,
    'made up well': mint(),
    'several audiences': mint({ aud: [OTHER, resource] }),
    'media type in full': mint({}, { typ: 'application/at+jwt' }),
    'no scope': mint({ scope: undefined }),
    'signature of another token': good.replace(signature, otherSignature),
    'claims changed': good.replace(good.split('.')[1], raised),
    'header changed': good.replace(header, unsigned),
    'no signature': `${unsigned}.${raised}.`,
    'cut off': good.slice(0, -4),
    'wrong audience': mint({ aud: OTHER }),
    'audience with a slash': mint({ aud: `${resource}/` }),
    'no audience': mint({ aud: undefined }),
    'wrong issuer': mint({ iss: `${provider.issuer}/` }),
    'no issuer': mint({ iss: undefined }),
    'expired': mint({ exp: now - 60, iat: now - 360 }),
    'no expiry': mint({ exp: undefined }),
    'expiry as text': mint({ exp: String(now + 300) }),
    'not yet valid': mint({ nbf: now + 120 }),
    'no subject': mint({ sub: undefined }),
    'client id that is no text': mint({ client_id: 5 }),
    'plain JWT': mint({}, { typ: 'JWT' }),
    'no type': mint({}, { typ: undefined }),
    'unknown extension': mint({}, { crit: ['x'], x: 1 }),
    'another algorithm than the key has': mint({}, { alg: 'ES256' }),
    'shared-secret algorithm': mint({}, { alg: 'HS256' }),
    'unknown key': mint({}, {}, stranger),
    'key of a stranger under a known name': mint({}, { kid: provider.key.jwk.kid }, stranger),
    'bound to a key that does not come along': mint({ cnf: { jkt: 'x'.repeat(43) } }),
  };
}

/** The one challenge of a refusal, as oauth4webapi's strict parser reads it. */
async function challengeOf(token, method, target, status) {
  const url = new URL(target, gate.url);
  const refused = token
    ? await oauth.protectedResourceRequest(token, method, url, undefined, undefined, INSECURE).catch((error) => error)
    : await withoutToken(method, url);
  assert(refused instanceof oauth.WWWAuthenticateChallengeError, `no challenge: ${refused.status ?? refused}`);
  assert.equal(refused.status, status);
  assert.equal(refused.cause.length, 1);
  assert.match(refused.response.headers.get('content-type'), /^application\/problem\+json/);
  return refused.cause[0];
}

/** oauth4webapi always sends a token, so its request is sent on without one. */
async function withoutToken(method, url) {
  const options = {
    ...INSECURE,
    [oauth.customFetch]: (target, { headers, ...rest }) => {
      const { authorization, ...others } = headers instanceof Headers ? Object.fromEntries(headers) : headers;
      assert(authorization);
      return fetch(target, { ...rest, headers: others });
    },
  };
  return oauth.protectedResourceRequest('none', method, url, undefined, undefined, options).catch((error) => error);
}
