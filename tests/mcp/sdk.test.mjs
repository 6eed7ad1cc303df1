// The MCP SDK's own client, with its OAuth provider: from 401 over metadata, registration and consent to a tool's answer.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Provider, withClient } from './sdk.mjs';
import { startServer } from './server.mjs';
import { startStage } from './stage.mjs';

let server, stage;

before(async () => {
  server = await startServer();
  stage = await startStage('sdk', server.url);
});

after(async () => {
  await stage?.stop();
  await server?.stop();
});

for (const [name, metadata] of Object.entries({ public: {}, confidential: { token_endpoint_auth_method: 'client_secret_post' } })) {
  test(`the SDK's client registers (${name}), asks its user, lists tools and calls one`, async () => {
    const provider = new Provider({ client_name: `SDK ${name}`, ...metadata });
    const before = server.seen.length;
    const [tools, answer] = await withClient(stage.mcp, provider, async (client) => [
      await client.listTools(),
      await client.callTool({ name: 'whoami' }),
    ]);
    assert.deepEqual(tools.tools.map((tool) => tool.name), ['whoami', 'restart']);
    assert.deepEqual(answer.content, [{ type: 'text', text: 'alice' }]);
    assert.equal(provider.consents, 1);
    assert(provider.pages.some((page) => page.includes(`SDK ${name}`)), 'the user reads the name');
    assert.equal(Boolean(provider.client.client_secret), name === 'confidential');
    const app = (await stage.registered()).find(({ id }) => id === provider.client.client_id);
    assert.deepEqual([app.isThirdParty, app.type], [true, name === 'public' ? 'Native' : 'Traditional']);
    // The server learns who calls, and never sees a token.
    for (const { subject, client, authorization } of server.seen.slice(before)) {
      assert.deepEqual([subject, client, authorization], ['alice', provider.client.client_id, undefined]);
    }
  });
}

test('a second client of the same program need not register or ask again', async () => {
  const provider = new Provider({ client_name: 'SDK again' });
  await withClient(stage.mcp, provider, (client) => client.listTools());
  const apps = (await stage.registered()).length;
  await withClient(stage.mcp, provider, (client) => client.listTools());
  assert.deepEqual([provider.consents, (await stage.registered()).length], [1, apps]);
});

test('the SDK steps up to the scopes of a 403, keeps what it had, and goes on', async () => {
  const provider = new Provider({ client_name: 'SDK step up' });
  await withClient(stage.mcp, provider, (client) => client.callTool({ name: 'whoami' }));
  assert.equal(provider.saved.scope, 'mcp:tools');
  await stage.configure({ requires: { all: ['mcp:admin'] } });
  try {
    const answer = await withClient(stage.mcp, provider, (client) => client.callTool({ name: 'restart' }));
    assert.deepEqual(answer.content, [{ type: 'text', text: 'restarted' }]);
    assert.equal(provider.consents, 2);
    assert.deepEqual(provider.saved.scope.split(' ').sort(), ['mcp:admin', 'mcp:tools']);
  } finally {
    await stage.configure();
  }
  const answer = await withClient(stage.mcp, provider, (client) => client.callTool({ name: 'whoami' }));
  assert.deepEqual([answer.content[0].text, provider.consents], ['alice', 2]);
});

test('an app that was registered for what it named cannot step up: the ceiling of Logto holds, and the SDK gives up', async () => {
  await stage.configure({ registration: { grant: 'requested' } });
  const provider = new Provider({ client_name: 'SDK narrow' });
  await withClient(stage.mcp, provider, (client) => client.listTools());
  assert.equal(provider.client.scope, 'mcp:tools');
  await stage.configure({ requires: { all: ['mcp:admin'] }, registration: { grant: 'requested' } });
  try {
    await assert.rejects(withClient(stage.mcp, provider, (client) => client.listTools()));
  } finally {
    await stage.configure();
  }
});

test('where the issuer alone is advertised, the SDK finds no registration and says so', async () => {
  await stage.configure({ registration: { advertise: 'issuer' } });
  try {
    const provider = new Provider({ client_name: 'SDK lost' });
    await assert.rejects(withClient(stage.mcp, provider, (client) => client.listTools()), /does not support dynamic client registration/);
  } finally {
    await stage.configure();
  }
});
