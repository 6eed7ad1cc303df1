// The same story with an issuer that is not ours: npm oidc-provider, the engine inside Logto, with its own pages.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import crypto from 'node:crypto';
import { after, before, test } from 'node:test';

import Provider from 'oidc-provider';

import { freeRow, person, startBrowser, startDemo } from './stage.mjs';
import { WeatherBot } from './weatherbot.mjs';

const SECRET = 'a secret with + and % and :';
const server = http.createServer();
let browser;
let demo;

before(async () => {
  const port = await freeRow();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const issuer = `http://127.0.0.1:${server.address().port}`;
  server.on('request', newProvider(issuer, port).callback());
  const flags = ['--issuer', issuer, '--weatherbot-id', 'bot', '--official-app-id', 'app'];
  const env = { WICKETGATE_DEMO_WEATHERBOT_SECRET: SECRET, WICKETGATE_DEMO_OFFICIAL_APP_SECRET: SECRET };
  [browser, demo] = await Promise.all([startBrowser(), startDemo('provider', flags, { port, env })]);
});
after(async () => {
  await browser?.close();
  await demo?.stop();
  server.close();
  server.closeAllConnections();
});

function newProvider(issuer, port) {
  const { privateKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const client = (id, party) => ({
    client_id: id,
    client_secret: SECRET,
    grant_types: ['authorization_code', 'refresh_token'],
    redirect_uris: [`http://127.0.0.1:${port + party}/callback`],
    post_logout_redirect_uris: [`http://127.0.0.1:${port + party}/`],
  });
  const resource = { scope: 'read:weather write:weather', audience: `http://127.0.0.1:${port}`, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES384' } } };
  return new Provider(issuer, {
    clients: [client('app', 4), client('bot', 5)],
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'ES384', use: 'sig' }] },
    enabledJWA: { idTokenSigningAlgValues: ['ES384', 'RS256'] },
    clientDefaults: { id_token_signed_response_alg: 'ES384' },
    cookies: { keys: [crypto.randomBytes(16).toString('hex')] },
    scopes: ['openid', 'offline_access', 'profile', 'read:weather', 'write:weather'],
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: id }) }),
    rotateRefreshToken: true,
    features: {
      devInteractions: { enabled: true },
      resourceIndicators: { enabled: true, getResourceServerInfo: () => resource, useGrantedResource: () => true },
      revocation: { enabled: true },
    },
  });
}

async function signIn(page, name) {
  await page.getByPlaceholder('Enter any login').fill(name);
  await page.getByPlaceholder('and password').fill('any');
  await page.getByRole('button', { name: 'Sign-in' }).click();
}

async function agree(page) {
  await page.getByRole('button', { name: 'Continue' }).click();
}

test('WeatherBot finds the way to an issuer that it is registered at, and back', async () => {
  const page = await person(browser);
  const bot = await new WeatherBot(page, demo.url).open();
  await bot.ask('Weather in Oslo?');
  await signIn(page, 'alice');
  await agree(page);
  assert.match(await bot.answer(), /weather in Oslo[\s\S]*°C/);
  await demo.says('bot for alice', 'GET /forecast/Oslo', '200 permitted');
  // Keys and consents of an issuer that is not ours are not in our hands.
  assert.equal(await page.getByRole('button', { name: /rotate|withdraws/i }).count(), 0);

  await bot.press(/refresh the token/i);
  await bot.ask('Weather in Lima?');
  assert.match(await bot.answer(), /weather in Lima/);

  await bot.press('Ask for write access');
  await agree(page);
  assert.match((await bot.wire()).at(-1), /POST \/forecast\/\w+ 201/);

  await bot.press('Forget me');
  await bot.ask('Weather in Oslo?');
  assert.equal(new URL(page.url()).port, String(server.address().port));
  await page.context().close();
});

test('the official app signs in there as well', async () => {
  const page = await person(browser);
  await page.goto(demo.url.officialApp);
  await page.getByRole('button', { name: /sign in/i }).click();
  await signIn(page, 'alice');
  await agree(page);
  assert.match(await page.locator('body').innerText(), /alice[\s\S]*°C/);
  await page.context().close();
});
