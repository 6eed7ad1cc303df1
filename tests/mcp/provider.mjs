// npm oidc-provider, the engine that Logto forks, with as much of Logto's Management API before it as registration needs: apps
// are clients of the engine, which thus judges redirect URIs and credentials itself.

import crypto from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { json, text } from 'node:stream/consumers';

import Provider from 'oidc-provider';

const MANAGEMENT = 'https://default.logto.app/api';
const USER = 'alice';

/** Starts it for one resource with these scopes. `apps` are as the Management API shows them. */
export async function startProvider(port, indicator, scopes) {
  const issuer = `http://127.0.0.1:${port}/oidc`;
  const store = new Map();
  const apps = new Map();
  const known = scopes.map((name) => ({ id: `id-of-${name.replace(':', '-')}`, name, description: name }));
  const provider = new Provider(issuer, configuration({ store, apps, indicator, known }));
  const callback = provider.callback();
  const server = http.createServer((req, res) => {
    const { pathname } = new URL(req.url, issuer);
    const failed = (error) => res.writeHead(500).end(String(error.stack));
    if (pathname.startsWith('/api/')) return void manage(req, res, { store, apps, indicator, known }).catch(failed);
    if (pathname.startsWith('/oidc/interaction/')) return void interact(provider, req, res).catch(failed);
    if (!pathname.startsWith('/oidc/')) return void res.writeHead(404).end();
    Object.assign(req, { originalUrl: req.url, baseUrl: '/oidc', url: req.url.slice('/oidc'.length) });
    callback(req, res);
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { issuer, endpoint: `http://127.0.0.1:${port}`, apps, stop };
}

/** An app as the engine knows it (what Logto makes of its types: `native` alone is compared without its port). */
function client(app) {
  return {
    client_id: app.id,
    ...(app.secret ? { client_secret: app.secret } : {}),
    client_name: app.name,
    application_type: app.type === 'Native' ? 'native' : 'web',
    token_endpoint_auth_method: app.secret ? 'client_secret_post' : 'none',
    redirect_uris: app.oidcClientMetadata.redirectUris,
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
  };
}

async function manage(req, res, { store, apps, indicator, known }) {
  const token = store.get(`ClientCredentials:${/^Bearer (.+)$/.exec(req.headers.authorization ?? '')?.[1]}`);
  const answer = (status, body) => {
    const headers = { 'content-type': 'application/json', ...(Array.isArray(body) ? { 'total-number': body.length } : {}) };
    res.writeHead(status, headers).end(body === undefined ? '' : JSON.stringify(body));
  };
  if (token?.aud !== MANAGEMENT) return answer(401, { code: 'auth.unauthorized', message: '' });
  const [, , kind, id, below] = new URL(req.url, 'http://h').pathname.split('/');
  const body = ['POST', 'PATCH'].includes(req.method) ? await json(req) : {};
  const app = apps.get(id);
  const shown = ({ secret, consented, ...rest }) => rest;
  if (kind === 'resources') return answer(200, below ? known : [{ id: 'resource', name: 'MCP', indicator }]);
  if (id && !app) return answer(404, { code: 'entity.not_exists_with_id', message: '' });
  switch (`${req.method} ${below ?? (id ? ':id' : '')}`) {
    case 'GET ':
      return answer(200, [...apps.values()].map(shown));
    case 'POST ': {
      const secret = body.type === 'Traditional' ? crypto.randomBytes(24).toString('base64url') : '';
      const made = { ...body, id: crypto.randomBytes(10).toString('hex'), createdAt: Date.now(), secret, consented: [] };
      apps.set(made.id, made);
      return answer(200, shown(made));
    }
    case 'GET :id':
      return answer(200, shown(app));
    case 'PATCH :id':
      return answer(200, shown(Object.assign(app, body)));
    case 'DELETE :id':
      apps.delete(id);
      return answer(204);
    case 'GET secrets':
      return answer(200, app.secret ? [{ name: 'Default secret', value: app.secret, expiresAt: null }] : []);
    case 'POST user-consent-scopes':
      app.consented.push(...body.resourceScopes);
      return answer(201, {});
    case 'GET user-consent-scopes': {
      const held = known.filter((scope) => app.consented.includes(scope.id));
      return answer(200, { userScopes: [], resourceScopes: [{ resource: { id: 'resource', indicator }, scopes: held }] });
    }
    default:
      return answer(404, { code: 'entity.not_found', message: '' });
  }
}

/** Alice signs in and allows all that is asked, without a page in between. */
async function interact(provider, req, res) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(req, res);
  await text(req);
  if (prompt.name === 'login') return provider.interactionFinished(req, res, { login: { accountId: USER } });
  const { Grant } = provider;
  const grant = grantId ? await Grant.find(grantId) : new Grant({ accountId: session.accountId, clientId: params.client_id });
  if (prompt.details.missingOIDCScope) grant.addOIDCScope(prompt.details.missingOIDCScope.join(' '));
  for (const [resource, scopes] of Object.entries(prompt.details.missingResourceScopes ?? {})) grant.addResourceScope(resource, scopes.join(' '));
  return provider.interactionFinished(req, res, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
}

function configuration({ store, apps, indicator, known }) {
  const { privateKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const jwk = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'ES384', kid: 'mcp' };
  class Shelf {
    constructor(model) {
      this.model = model;
    }
    key(id) {
      return `${this.model}:${id}`;
    }
    async upsert(id, payload) {
      store.set(this.key(id), payload);
    }
    async find(id) {
      if (this.model === 'Client') return apps.has(id) ? client(apps.get(id)) : undefined;
      return store.get(this.key(id));
    }
    async findByUid(uid) {
      return [...store].find(([key, payload]) => key.startsWith(`${this.model}:`) && payload.uid === uid)?.[1];
    }
    async consume(id) {
      store.get(this.key(id)).consumed = Math.floor(Date.now() / 1000);
    }
    async destroy(id) {
      store.delete(this.key(id));
    }
    async revokeByGrantId() {}
  }
  return {
    adapter: Shelf,
    jwks: { keys: [jwk] },
    cookies: { keys: ['mcp'] },
    scopes: ['openid', 'offline_access'],
    clients: [{ client_id: 'gate', client_secret: 'gate-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] }],
    clientDefaults: { id_token_signed_response_alg: 'ES384' },
    enabledJWA: { idTokenSigningAlgValues: ['ES384'] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    interactions: { url: (_, interaction) => `/oidc/interaction/${interaction.uid}` },
    ttl: { AccessToken: 300, ClientCredentials: 300, IdToken: 300, Interaction: 300, Session: 300, Grant: 300, RefreshToken: 600 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        useGrantedResource: () => false,
        getResourceServerInfo: (_, asked, asking) => {
          const jwt = { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES384', kid: 'mcp' } } };
          if (asked === MANAGEMENT) return { scope: 'all', audience: asked, accessTokenFormat: 'opaque' };
          if (asked !== indicator) throw new Error(`no such resource: ${asked}`);
          // What the app may ask for at all.
          const ceiling = known.filter((scope) => apps.get(asking.clientId)?.consented.includes(scope.id));
          return { scope: ceiling.map((scope) => scope.name).join(' '), audience: asked, ...jwt };
        },
      },
    },
  };
}
