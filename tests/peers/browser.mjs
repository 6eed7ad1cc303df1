// Alice at her browser: follows redirects with her cookies, signs in, and ticks what she allows.

import assert from 'node:assert/strict';

const STEPS_MAX = 12;

/** Follows an authorization request to the client's redirect URI and returns that, with the code in it. */
export async function consent(authorizationUrl, { login, allow, redirect }) {
  const cookies = new Map();
  let url = new URL(authorizationUrl);
  let form;
  const seen = [];
  for (let step = 0; step < STEPS_MAX; step += 1) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const request = form ? { method: 'POST', body: form } : {};
    const response = await fetch(url, { ...request, redirect: 'manual', headers: { cookie } });
    for (const line of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      if (value) cookies.set(name, value);
      else cookies.delete(name);
    }
    const location = response.headers.get('location');
    form = undefined;
    if (location) {
      url = new URL(location, url);
      if (url.href.startsWith(redirect)) return { callback: url, seen };
      continue;
    }
    const page = await response.text();
    const prompt = /data-prompt="(\w+)"/.exec(page)?.[1];
    assert(prompt, `${response.status} ${url}: ${page.slice(0, 500)}`);
    const asked = [...page.matchAll(/value="([^"]+)"/g)].map((match) => match[1]);
    seen.push({ prompt, asked });
    form = prompt === 'login' ? new URLSearchParams({ login }) : new URLSearchParams(asked.filter((scope) => allow.includes(scope)).map((scope) => ['scope', scope]));
  }
  throw new Error(`no way back to the client after ${STEPS_MAX} steps, last ${url}`);
}
