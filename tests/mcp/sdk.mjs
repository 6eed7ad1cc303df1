// The MCP SDK's client as a program uses it, with its OAuth provider; the browser is Alice.

import assert from 'node:assert/strict';

import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

import { allow } from './alice.mjs';

const REDIRECT = 'http://127.0.0.1:28556/callback';

/** What the SDK asks of a program that uses it; `consent` is what Alice does at her browser. */
export class Provider {
  consents = 0;
  constructor(metadata = {}, consent = allow) {
    this.metadata = metadata;
    this.consent = consent;
  }
  get redirectUrl() {
    return REDIRECT;
  }
  get clientMetadata() {
    return {
      client_name: 'SDK client', redirect_uris: [REDIRECT], grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'], token_endpoint_auth_method: 'none', ...this.metadata,
    };
  }
  clientInformation() {
    return this.client;
  }
  saveClientInformation(client) {
    this.client = client;
  }
  tokens() {
    return this.saved;
  }
  saveTokens(tokens) {
    this.saved = tokens;
  }
  codeVerifier() {
    return this.verifier;
  }
  saveCodeVerifier(verifier) {
    this.verifier = verifier;
  }
  async redirectToAuthorization(url) {
    this.consents += 1;
    const { callback, pages } = await this.consent(url, REDIRECT);
    this.pages = pages;
    this.code = callback.searchParams.get('code');
    assert(this.code, `no code: ${callback}`);
  }
}

/** Does something over a connection; where the client is sent to its user, once more with the code. */
export async function withClient(url, provider, work) {
  for (let attempt = 0; attempt < 3; attempt += 1) {
    const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
    const client = new Client({ name: 'test', version: '1' });
    try {
      await client.connect(transport);
      return await work(client);
    } catch (error) {
      if (!(error instanceof UnauthorizedError) || !provider.code) throw error;
      const code = provider.code;
      provider.code = undefined;
      await transport.finishAuth(code);
    } finally {
      await client.close();
    }
  }
  throw new Error('still unauthorized');
}
