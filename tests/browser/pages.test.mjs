// How the pages look and read: for everybody, on every screen, in both schemes; and their pictures for the README.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';

import { person, startBrowser, startDemo } from './stage.mjs';
import { authorize, signIn, WeatherBot } from './weatherbot.mjs';

const axe = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const { BROWSER_WORK_DIR, DOCS_IMAGES, UPDATE_IMAGES } = process.env;
const PHONE = { viewport: { width: 360, height: 740 } };

let browser;
let demo;

before(async () => {
  [browser, demo] = await Promise.all([startBrowser(), startDemo('pages', [], UPDATE_IMAGES ? { port: 8080 } : {})]);
});
after(async () => {
  await browser?.close();
  await demo?.stop();
});

/** Goes through the story and stops at each page with what it shows. */
async function eachPage(options, visit) {
  // With scripts, so that the checker can run; the pages themselves may have none.
  const page = await person(browser, { javaScriptEnabled: true, ...options });
  const bot = new WeatherBot(page, demo.url);
  await page.goto(demo.url.start);
  await visit('start', page);
  await bot.open();
  await visit('weatherbot-before', page);
  await bot.ask('Weather in Oslo?');
  await visit('sign-in', page);
  await signIn(page, 'Alice');
  await visit('consent', page);
  await authorize(page);
  await visit('weatherbot', page);
  for (const details of await page.locator('.wires details details').all()) await details.evaluate((element) => (element.open = true));
  await visit('weatherbot-wire', page);
  await page.goto(`${demo.url.weatherbot}/callback?state=wrong&code=wrong`);
  await visit('refused', page);
  await page.goto(demo.url.officialApp);
  await visit('official-app-before', page);
  await page.getByRole('button', { name: /sign in/i }).click();
  await visit('official-app', page);
  await page.goto(`${demo.url.issuer}/sign-in?interaction=gone`);
  await visit('sign-in-gone', page);
  await page.context().close();
}

for (const colorScheme of ['light', 'dark']) {
  test(`no page has a serious fault for people with disabilities, ${colorScheme}`, async () => {
    const faults = [];
    await eachPage({ colorScheme }, async (name, page) => {
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => globalThis.axe.run(globalThis.document));
      const serious = violations.filter(({ impact }) => ['serious', 'critical'].includes(impact));
      for (const { id, help, nodes } of serious) faults.push(`${name}: ${id}: ${help}: ${nodes.map(({ html }) => html.slice(0, 150)).join(' | ')}`);
    });
    assert.deepEqual(faults, []);
  });
}

test('no page is wider than a phone', async () => {
  await eachPage(PHONE, async (name, page) => {
    const width = await page.evaluate(() => globalThis.document.documentElement.scrollWidth);
    assert(width <= PHONE.viewport.width, `${name} is ${width} pixels wide`);
    await page.screenshot({ path: path.join(BROWSER_WORK_DIR, `phone-${name}.png`), fullPage: true });
  });
});

/** Chromium sometimes has no frame yet of a page that it has just come to. */
async function picture(page, file, tries = 5) {
  try {
    await page.screenshot({ path: file });
  } catch (error) {
    if (tries === 1) throw error;
    await page.reload();
    await picture(page, file, tries - 1);
  }
}

test('the pictures in the docs show the pages that there are', async () => {
  const pictures = ['start', 'consent', 'weatherbot', 'official-app'];
  const folder = UPDATE_IMAGES ? DOCS_IMAGES : BROWSER_WORK_DIR;
  fs.mkdirSync(folder, { recursive: true });
  await eachPage({ viewport: { width: 1280, height: 860 } }, async (name, page) => {
    if (pictures.includes(name)) await picture(page, path.join(folder, `${name}.png`));
    assert.match(await page.title(), /\S/);
    assert.equal(await page.locator('h1').count(), 1, name);
  });
  for (const name of pictures) assert(fs.existsSync(path.join(DOCS_IMAGES, `${name}.png`)), `docs/images/${name}.png is not there`);
});
