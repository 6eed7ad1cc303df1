// What a person does at WeatherBot and at the sign-in pages, and what they see there.

import assert from 'node:assert/strict';

export class WeatherBot {
  constructor(page, url) {
    this.page = page;
    this.url = url;
  }

  async open() {
    await this.page.goto(this.url.weatherbot);
    return this;
  }

  async ask(question) {
    await this.page.getByLabel('Your question').fill(question);
    await this.page.getByRole('button', { name: 'Ask', exact: true }).click();
  }

  async press(name) {
    await this.page.getByRole('button', { name }).click();
  }

  /** The last thing said in the conversation. */
  async answer() {
    assert.equal(new URL(this.page.url()).origin, this.url.weatherbot, `still at ${this.page.url()}`);
    return this.page.getByRole('log').getByRole('listitem').filter({ hasText: /^(WeatherBot|Hello)/ }).last().innerText();
  }

  /** The steps on the wire of the latest question, as `who → whom METHOD path status`. */
  async wire() {
    const heads = await this.page.locator('.wires details.record').first().locator('.step .head').allInnerTexts();
    return heads.map((head) => head.replace(/\s+/g, ' ').replace(/^\d+ /, '').trim());
  }

  /** Every byte of the wire view. */
  async wireText() {
    return this.page.locator('.wires').innerHTML();
  }
}

/** At the issuer: who signs in, and what becomes of the consent screen, if there is one. */
export async function signIn(page, name) {
  await page.getByLabel(name).check();
  await page.getByRole('button', { name: 'Sign in' }).click();
}

export async function authorize(page) {
  const scopes = await page.locator('.scopes code').allInnerTexts();
  await page.getByRole('button', { name: 'Authorize' }).click();
  return scopes;
}
