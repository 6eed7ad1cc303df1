// The story that the product exists for, lived in Chromium without scripts.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { after, afterEach, before, test } from 'node:test';

import { person, startBrowser, startDemo } from './stage.mjs';
import { authorize, signIn, WeatherBot } from './weatherbot.mjs';

let browser;
let demo;
const contexts = [];

before(async () => {
  [browser, demo] = await Promise.all([startBrowser(), startDemo('story')]);
});
afterEach(async () => {
  for (const context of contexts.splice(0)) await context.close();
});
after(async () => {
  await browser?.close();
  await demo?.stop();
});

/** Somebody with a browser of their own. */
async function somebody(options) {
  const page = await person(browser, options);
  contexts.push(page.context());
  return page;
}

async function atWeatherBot() {
  return new WeatherBot(await somebody(), demo.url).open();
}

/** A person who has asked, signed in and allowed. */
async function allowed(name = 'Alice') {
  const bot = await atWeatherBot();
  await bot.ask('Weather in Oslo?');
  await signIn(bot.page, name);
  await authorize(bot.page);
  return bot;
}

test('the official app is never asked for consent', async () => {
  const page = await somebody();
  const visited = [];
  page.on('framenavigated', (frame) => visited.push(frame.url()));
  await page.goto(demo.url.officialApp);
  await page.getByRole('button', { name: /sign in/i }).click();
  await signIn(page, 'Alice');
  assert.equal(new URL(page.url()).origin, demo.url.officialApp);
  assert.match(await page.locator('body').innerText(), /Alice[\s\S]*°C[\s\S]*never asked/);
  assert(!visited.some((url) => url.includes('/consent')), visited.join('\n'));
  await demo.says('official-app for alice', 'GET /me/saved-cities', '200 permitted');
});

test('WeatherBot is refused, sends Alice to sign in, is allowed to read, and answers', async () => {
  const bot = await atWeatherBot();
  await bot.ask('Weather in Oslo?');
  assert.equal(new URL(bot.page.url()).origin, demo.url.issuer);
  await signIn(bot.page, 'Alice');
  const consent = await bot.page.locator('main').innerText();
  for (const told of ['WeatherBot', 'Alice', 'Weather API', 'Read forecasts and your saved cities', `${demo.url.weatherbot}/callback`]) {
    assert(consent.includes(told), `${told} is not on the consent page: ${consent}`);
  }
  assert.deepEqual((await authorize(bot.page)).filter((scope) => scope.includes(':')), ['read:weather']);
  assert.match(await bot.answer(), /weather in Oslo[\s\S]*°C/);
  const wire = await bot.wire();
  const expected = [
    /^WeatherBot → Gate GET \/forecast\/Oslo 401/,
    /^WeatherBot → Gate GET \/\.well-known\/oauth-protected-resource 200/,
    /^WeatherBot → Issuer GET .*oauth-authorization-server.* 404/,
    /^WeatherBot → Issuer GET .*openid-configuration 200/,
    /^Browser → Issuer GET \/oidc\/auth/,
    /^Browser → WeatherBot GET \/callback/,
    /^WeatherBot → Issuer POST \/oidc\/token 200/,
    /^WeatherBot → Gate GET \/forecast\/Oslo 200/,
  ];
  assert.equal(wire.length, expected.length, wire.join('\n'));
  expected.forEach((line, i) => assert.match(wire[i], line));
  await demo.says('weatherbot for alice', 'GET /forecast/Oslo', '200 permitted');
});

test('no token, code or secret is whole in the page', async () => {
  const bot = await atWeatherBot();
  const secrets = [];
  bot.page.on('request', (request) => {
    const code = new URL(request.url()).searchParams.get('code');
    if (code) secrets.push(code);
  });
  await bot.ask('Weather in Oslo?');
  await signIn(bot.page, 'Alice');
  await authorize(bot.page);
  const shown = await bot.wireText();
  assert.equal(secrets.length, 1);
  for (const secret of [...secrets, 'weatherbot-secret', btoa('weatherbot:weatherbot-secret')]) assert(!shown.includes(secret), secret);
  assert(!/eyJ[\w-]{40,}/.test(shown), 'a token is whole');
  assert.match(shown, /eyJ/, 'the wire view shows no token at all');
  for (const line of demo.lines) assert(!/eyJ/.test(line) && !line.includes(secrets[0]), line);
});

test('a second question needs no dance', async () => {
  const bot = await allowed();
  await bot.ask('Weather in Lima?');
  assert.match(await bot.answer(), /weather in Lima/);
  assert.deepEqual((await bot.wire()).map((line) => line.replace(/200.*/, '200')), ['WeatherBot → Gate GET /forecast/Lima 200']);
});

test('Cancel leads back to a friendly page, and to no access', async () => {
  const bot = await atWeatherBot();
  await bot.ask('Weather in Oslo?');
  await signIn(bot.page, 'Alice');
  await bot.page.getByRole('button', { name: 'Cancel' }).click();
  assert.match(await bot.answer(), /cancel|did not allow|no permission|without your permission/i);
  assert(!(await bot.page.locator('main').innerText()).includes('°C'));
  assert(!(await bot.wire()).some((line) => line.includes('/oidc/token')));
});

test('write access is a step up: 403, consent for more, 201', async () => {
  const bot = await allowed();
  await bot.press('Ask for write access');
  assert.equal(new URL(bot.page.url()).origin, demo.url.issuer, await bot.page.locator('body').innerText());
  assert((await authorize(bot.page)).includes('write:weather'));
  const wire = await bot.wire();
  assert(wire.some((line) => /POST \/forecast\/\w+ 403/.test(line)) && /POST \/forecast\/\w+ 201/.test(wire.at(-1)), wire.join('\n'));
  // What was allowed before is not lost.
  await bot.ask('Weather in Oslo?');
  assert.match(await bot.answer(), /°C/);
});

test('Bob signs in, but has no permission, and is told so instead of being sent round', async () => {
  const bot = await atWeatherBot();
  await bot.ask('Weather in Oslo?');
  await signIn(bot.page, 'Bob');
  await authorize(bot.page);
  assert.match(await bot.answer(), /read:weather/);
  assert((await bot.wire()).some((line) => line.includes('403')));
  await demo.says('weatherbot for bob', 'GET /forecast/Oslo', '403 denied', 'scope_missing');
});

test('a key rotation between two questions goes unnoticed', async () => {
  const bot = await allowed();
  const mark = demo.mark;
  await bot.press(/rotate/i);
  await bot.press(/refresh the token/i);
  await bot.ask('Weather in Kyoto?');
  await demo.saysAfter(mark, 'key set fetched', 'keys=2');
  assert.match(await bot.answer(), /weather in Kyoto/);
});

test('signing out and being forgotten', async () => {
  const bot = await allowed();
  await bot.press('Sign out');
  await bot.page.getByRole('button', { name: /sign out/i }).click();
  assert.equal(new URL(bot.page.url()).origin, demo.url.weatherbot);
  await bot.ask('Weather in Oslo?');
  await signIn(bot.page, 'Alice');
  await authorize(bot.page);
  await bot.press('Forget me');
  await demo.says('revo');
  assert(!(await bot.page.locator('main').innerText()).includes('°C'));
  await bot.ask('Weather in Oslo?');
  assert.equal(new URL(bot.page.url()).origin, demo.url.issuer);
});

test('the configuration can be changed while it runs', async () => {
  const bot = await allowed();
  const written = fs.readFileSync(demo.config, 'utf8');
  const mark = demo.mark;
  fs.writeFileSync(demo.config, written.replace('GET /forecast/{city}: read:weather', 'GET /forecast/{city}: admin:weather'));
  await demo.saysAfter(mark, 'configuration reloaded', 'GET /forecast/{city}');
  await bot.ask('Weather in Oslo?');
  // What it now takes, nobody can be given.
  const refused = await demo.saysAfter(mark, 'weatherbot for alice', 'GET /forecast/Oslo', '403 denied');
  assert.match(refused, /scope_missing/);
  const again = demo.mark;
  fs.writeFileSync(demo.config, written);
  await demo.saysAfter(again, 'configuration reloaded');
});
