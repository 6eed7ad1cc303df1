// What an attacker tries in the browser: each is refused with a page that says so, and opens nothing.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { person, startBrowser, startDemo } from './stage.mjs';
import { signIn, WeatherBot } from './weatherbot.mjs';

let browser;
let demo;

before(async () => {
  [browser, demo] = await Promise.all([startBrowser(), startDemo('attacks')]);
});
after(async () => {
  await browser?.close();
  await demo?.stop();
});

/** Alice signs in and allows, but her browser is stopped on its way back: the callback, before WeatherBot sees it. */
async function callbackOf(bot) {
  await bot.ask('Weather in Oslo?');
  await signIn(bot.page, 'Alice');
  const fields = await bot.page.locator('form[action="/consent"] input').evaluateAll((inputs) => inputs.map(({ name, value }) => [name, value]));
  const cookie = (await bot.page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join('; ');
  let url = new URL('/consent', demo.url.issuer);
  let request = { method: 'POST', body: new URLSearchParams([...fields, ['decision', 'allow']]) };
  for (let hop = 0; hop < 5; hop += 1) {
    const response = await fetch(url, { ...request, redirect: 'manual', headers: { cookie } });
    assert.equal(response.status, 303, `${url}: ${response.status}`);
    url = new URL(response.headers.get('location'), url);
    if (url.origin === demo.url.weatherbot) return url;
    request = {};
  }
  throw new Error(`no way back, last ${url}`);
}

async function newBot() {
  return new WeatherBot(await person(browser), demo.url).open();
}

/** Nothing was learned: no answer, no token, no sign of Alice. */
async function isRefused(bot, response) {
  assert.equal(response.status(), 400);
  assert.match(response.headers()['content-type'], /^text\/html/);
  await bot.open();
  assert(!(await bot.page.locator('body').innerText()).match(/°C|alice/), await bot.page.locator('body').innerText());
}

test('a callback with a wrong state is refused', async () => {
  const bot = await newBot();
  const callback = await callbackOf(bot);
  callback.searchParams.set('state', 'guessed');
  await isRefused(bot, await bot.page.goto(callback.href));
});

test('a callback with another issuer is refused', async () => {
  const bot = await newBot();
  const callback = await callbackOf(bot);
  callback.searchParams.set('iss', 'http://127.0.0.1:1/oidc');
  await isRefused(bot, await bot.page.goto(callback.href));
});

test("Alice's callback in another person's browser signs nobody in", async () => {
  const alice = await newBot();
  const callback = await callbackOf(alice);
  const mallory = await newBot();
  await isRefused(mallory, await mallory.page.goto(callback.href));
});

test('a code is good once, and a replay ends what came of it', async () => {
  const bot = await newBot();
  const callback = await callbackOf(bot);
  const code = callback.searchParams.get('code');
  await bot.page.goto(callback.href);
  assert.match(await bot.answer(), /°C/);
  // The same callback again: its state is spent.
  assert.equal((await bot.page.goto(callback.href)).status(), 400);
  // A thief with WeatherBot's own secret: the code is spent as well, and the issuer takes everything back.
  const form = { grant_type: 'authorization_code', code, redirect_uri: `${demo.url.weatherbot}/callback`, code_verifier: 'x'.repeat(43) };
  const response = await fetch(`${demo.url.issuer}/oidc/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${btoa('weatherbot:weatherbot-secret')}` },
    body: new URLSearchParams(form),
  });
  assert.deepEqual([response.status, (await response.json()).error], [400, 'invalid_grant']);
  await bot.open();
  await bot.press(/refresh the token/i);
  await demo.says('WeatherBot', 'invalid_grant');
});

test('a forged redirect is not followed', async () => {
  const page = await person(browser);
  for (const redirect of ['http://evil.example/callback', `${demo.url.weatherbot}/callback/../evil`, `${demo.url.weatherbot}/callback?x=1`]) {
    const query = new URLSearchParams({ client_id: 'weatherbot', response_type: 'code', scope: 'openid', redirect_uri: redirect, state: 'x' });
    const response = await page.goto(`${demo.url.issuer}/oidc/auth?${query}`);
    assert.equal(response.status(), 400, redirect);
    assert.equal(new URL(page.url()).origin, demo.url.issuer, redirect);
  }
});

test('a form that another page forges is refused, at every party', async () => {
  const bot = await newBot();
  await bot.ask('Weather in Oslo?');
  await signIn(bot.page, 'Alice');
  const cookie = (await bot.page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join('; ');
  const forms = [
    [`${demo.url.issuer}/consent`, { decision: 'allow' }],
    [`${demo.url.issuer}/sign-in`, { username: 'bob', password: 'demo' }],
    [`${demo.url.weatherbot}/ask`, { question: 'Weather in Oslo?' }],
    [`${demo.url.weatherbot}/withdraw`, {}],
    [`${demo.url.officialApp}/sign-in`, {}],
  ];
  for (const [url, form] of forms) {
    const response = await fetch(url, { method: 'POST', body: new URLSearchParams(form), headers: { cookie }, redirect: 'manual' });
    assert([400, 403].includes(response.status), `${url}: ${response.status}`);
  }
});

test('no page lets a script run, or another page frame it', async () => {
  const page = await person(browser);
  for (const url of [demo.url.start, demo.url.weatherbot, demo.url.officialApp, `${demo.url.issuer}/sign-in`]) {
    const policy = (await page.goto(url)).headers()['content-security-policy'] ?? '';
    for (const rule of ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"]) assert(policy.includes(rule), `${url}: ${policy}`);
    assert(!/script-src|unsafe/.test(policy), policy);
  }
});
