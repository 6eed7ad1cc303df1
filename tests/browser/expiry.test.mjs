// Tokens that live for two seconds: an agent renews them by itself, until its user withdraws the consent.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { person, startBrowser, startDemo } from './stage.mjs';
import { authorize, signIn, WeatherBot } from './weatherbot.mjs';

const ASKS_MAX = 200;

let browser;
let demo;

before(async () => {
  [browser, demo] = await Promise.all([startBrowser(), startDemo('expiry', ['--token-lifetime', '2s'])]);
});
after(async () => {
  await browser?.close();
  await demo?.stop();
});

async function allowed() {
  const bot = await new WeatherBot(await person(browser), demo.url).open();
  await bot.ask('Weather in Oslo?');
  await signIn(bot.page, 'Alice');
  await authorize(bot.page);
  return bot;
}

/** Asks again and again until the token has expired, which the wire shows. */
async function askUntil(bot, line) {
  for (let asked = 0; asked < ASKS_MAX; asked += 1) {
    await bot.ask('Weather in Oslo?');
    const wire = new URL(bot.page.url()).origin === demo.url.weatherbot ? await bot.wire() : [];
    if (wire.length === 0 || wire.some((step) => line.test(step))) return wire;
  }
  throw new Error(`never on the wire: ${line}`);
}

test('an expired token is renewed without asking anybody', async () => {
  const bot = await allowed();
  const wire = await askUntil(bot, /POST \/oidc\/token/);
  assert.match(wire.join('\n'), /POST \/oidc\/token 200[\s\S]*GET \/forecast\/Oslo 200/);
  assert(!wire.some((step) => step.startsWith('Browser')), wire.join('\n'));
  assert.match(await bot.answer(), /°C/);
});

test('after a withdrawn consent nothing is renewed, and the page says what still counts', async () => {
  const bot = await allowed();
  await bot.press(/withdraws her consent/i);
  assert.match(await bot.page.locator('main').innerText(), /until|expires/);
  // Refused by the issuer, and at last by the gate: it is back at the beginning, where only Alice can let it in again.
  await askUntil(bot, /never/);
  await demo.says('WeatherBot', 'not refreshed', 'invalid_grant');
  await demo.says('GET /forecast/Oslo', '401 denied', 'expired');
  assert.equal(new URL(bot.page.url()).origin, demo.url.issuer);
  await authorize(bot.page);
  assert.match(await bot.answer(), /°C/);
});
