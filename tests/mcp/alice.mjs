// Alice at her browser, on the pages of the embedded issuer and of the stand-in for Logto: signs in, and allows.

import assert from 'node:assert/strict';

const STEPS_MAX = 12;

/** Follows an authorization request to the client's redirect URI, and returns that and the texts of the pages on the way. */
export async function allow(authorizationUrl, redirect) {
  const cookies = new Map();
  let url = new URL(authorizationUrl);
  let form;
  const pages = [];
  for (let step = 0; step < STEPS_MAX; step += 1) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(url, { ...(form ? { method: 'POST', body: form } : {}), redirect: 'manual', headers: { cookie } });
    form = undefined;
    for (const line of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      if (value) cookies.set(name, value);
      else cookies.delete(name);
    }
    const location = response.headers.get('location');
    if (location) {
      url = new URL(location, url);
      if (url.href.startsWith(redirect)) return { callback: url, pages };
      continue;
    }
    const page = await response.text();
    pages.push(page);
    const action = ['/sign-in', '/consent'].find((path) => page.includes(`action="${path}"`));
    assert(action, `${response.status} ${url}: ${page.slice(0, 800)}`);
    const html = page.split('<form').find((part) => part.includes(`action="${action}"`)).split('</form>')[0];
    form = new URLSearchParams();
    for (const hidden of ['interaction', 'csrf', 'form_secret']) {
      const input = html.split('<input').find((part) => part.includes(`name="${hidden}"`));
      if (input) form.set(hidden, /value="([^"]*)"/.exec(input)[1]);
    }
    for (const [name, value] of action === '/sign-in' ? [['user', 'alice'], ['password', 'demo']] : [['decision', 'allow']]) form.set(name, value);
    url = new URL(action, url);
  }
  throw new Error(`no way back to the client after ${STEPS_MAX} steps, last ${url}`);
}
