// oauth4webapi and openid-client, which hold to the letter of the standards: what they take of the gate, and what not.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import * as o4w from 'oauth4webapi';
import * as openid from 'openid-client';

import { allow } from './alice.mjs';
import { startServer } from './server.mjs';
import { startStage } from './stage.mjs';

const REDIRECT = 'http://127.0.0.1:28557/callback';
const INSECURE = { [o4w.allowInsecureRequests]: true };

let server, stage, metadata;

before(async () => {
  server = await startServer();
  stage = await startStage('oauth', server.url);
  metadata = await (await fetch(`${stage.url}/.well-known/oauth-authorization-server`)).json();
});

after(async () => {
  await stage?.stop();
  await server?.stop();
});

test('oauth4webapi takes the protected-resource metadata and reads the challenge', async () => {
  const resource = new URL(stage.mcp);
  const document = await o4w.processResourceDiscoveryResponse(resource, await o4w.resourceDiscoveryRequest(resource, INSECURE));
  assert.deepEqual([document.resource, document.authorization_servers], [stage.mcp, [stage.url, stage.issuer]]);
  const refused = await o4w.protectedResourceRequest('bad', 'POST', resource, new Headers(), undefined, INSECURE).catch((error) => error);
  assert(refused instanceof o4w.WWWAuthenticateChallengeError);
  assert.equal(refused.cause[0].parameters.resource_metadata, `${stage.url}/.well-known/oauth-protected-resource/mcp`);
});

// RFC 8414 §3.3: the reason for `advertise: issuer`.
test('oauth4webapi takes the metadata at the gate for what they are, the issuer\'s, and refuses them as the gate\'s', async () => {
  const discover = (url) => o4w.discoveryRequest(new URL(url), { algorithm: 'oauth2', ...INSECURE });
  const response = await discover(stage.url);
  assert.equal(response.status, 200);
  await assert.rejects(o4w.processDiscoveryResponse(new URL(stage.url), response.clone()), /issuer/);
  const taken = await o4w.processDiscoveryResponse(new URL(stage.issuer), response);
  assert.equal(taken.registration_endpoint, `${stage.url}/register`);
});

test('oauth4webapi registers a client, and reads the errors of a refused one', async () => {
  const request = (client) => o4w.dynamicClientRegistrationRequest(metadata, client, INSECURE);
  const good = { client_name: 'Four', redirect_uris: [REDIRECT], token_endpoint_auth_method: 'none' };
  const client = await o4w.processDynamicClientRegistrationResponse(await request(good));
  assert(client.client_id && client.registration_access_token);
  const refused = await o4w
    .processDynamicClientRegistrationResponse(await request({ ...good, redirect_uris: ['http://evil.example/'] }))
    .catch((error) => error);
  assert(refused instanceof o4w.ResponseBodyError);
  assert.deepEqual([refused.error, refused.status], ['invalid_redirect_uri', 400]);
});

for (const method of ['client_secret_basic', 'client_secret_post', 'none']) {
  test(`openid-client registers itself with ${method}, runs the code flow, and is let in`, async () => {
    const client = await o4w.processDynamicClientRegistrationResponse(
      await o4w.dynamicClientRegistrationRequest(
        metadata,
        { client_name: 'Openid client', redirect_uris: [REDIRECT], token_endpoint_auth_method: method, scope: 'openid mcp:tools' },
        INSECURE,
      ),
    );
    const auth = { none: openid.None, client_secret_basic: openid.ClientSecretBasic, client_secret_post: openid.ClientSecretPost }[method];
    // The issuer's own metadata, for everything but the registration.
    const config = await openid.discovery(new URL(stage.issuer), client.client_id, client, auth(client.client_secret), {
      execute: [openid.allowInsecureRequests],
    });
    const verifier = openid.randomPKCECodeVerifier();
    const state = openid.randomState();
    const url = openid.buildAuthorizationUrl(config, {
      redirect_uri: REDIRECT,
      scope: 'openid mcp:tools',
      resource: stage.mcp,
      state,
      code_challenge: await openid.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    });
    const { callback } = await allow(url, REDIRECT);
    const tokens = await openid.authorizationCodeGrant(config, callback, { pkceCodeVerifier: verifier, expectedState: state }, { resource: stage.mcp });
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list' });
    const headers = { 'content-type': 'application/json', accept: 'application/json, text/event-stream' };
    const ask = (token) => fetch(stage.mcp, { method: 'POST', headers: { ...headers, authorization: `Bearer ${token}` }, body });
    assert.equal((await ask(tokens.access_token)).status, 200);
    assert.equal((await ask(`${tokens.access_token.slice(0, -4)}AAAA`)).status, 401);
    // The client goes, and takes its app with it (RFC 7592 §2.3).
    const own = { method: 'DELETE', headers: { authorization: `Bearer ${client.registration_access_token}` } };
    assert.equal((await fetch(client.registration_client_uri, own)).status, 204);
    assert.equal((await stage.registered()).some(({ id }) => id === client.client_id), false);
  });
}
