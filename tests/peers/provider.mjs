// An authorization server as Logto is one: npm oidc-provider, the engine that Logto forks, under the path /oidc, ES384,
// JWT access tokens (at+jwt) for a named resource and opaque ones without, keys that rotate as Logto's do.

import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { text } from 'node:stream/consumers';

import Provider from 'oidc-provider';

import { freePort } from './ports.mjs';

const SCOPES = 'read:weather write:weather';
const MACHINE = { id: 'station', secret: 'rain-gauge-7' };
// The gate's own app: it has no grant of its own, and may ask about everybody's tokens.
const GATE = { id: 'gate', secret: 'l0ck+key %' };
const AGENT = { id: 'weatherbot', redirect: 'http://127.0.0.1/callback' };

/** Starts a provider that knows these resources. It listens on loopback and keeps its port while it is down. Tokens for
 * the resources in `opaque` are no JWTs. */
export async function startProvider(resources, { opaque = [] } = {}) {
  const provider = new LogtoLike(resources, opaque, await freePort());
  await provider.up();
  return provider;
}

class LogtoLike {
  machine = MACHINE;
  gate = GATE;
  agent = AGENT;
  /** Every access token given out or made up here: none may stand in a log. */
  issued = [];
  #resources;
  #opaque;
  #keys = [newKey()];
  #store = new Map();
  #server = http.createServer((req, res) => this.#serve(req, res));
  #port;
  #provider;
  #callback;
  #asked = new Map();
  #broken = false;

  constructor(resources, opaque, port) {
    this.#resources = resources;
    this.#opaque = opaque;
    this.#port = port;
    this.#renew();
    this.#server.on('connection', (socket) => {
      if (!this.#broken) return;
      this.#count('connection');
      socket.destroy();
    });
  }

  get issuer() {
    return `http://127.0.0.1:${this.#port}/oidc`;
  }

  /** The key that signs now. */
  get key() {
    return this.#keys[0];
  }

  /** How often the gate asked for a path since the last `forget`; `connection` while broken; `304` of the key set. */
  asked(path) {
    return this.#asked.get(path) ?? 0;
  }

  forget() {
    this.#asked.clear();
  }

  async up() {
    this.#server.listen(this.#port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  /** Nobody listens any more: connections are refused. */
  async down() {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  /** Connections are taken and dropped, so that attempts can be counted. */
  breakOff() {
    this.#broken = true;
    this.#server.closeAllConnections();
  }

  mend() {
    this.#broken = false;
  }

  /** A new key signs at once; it and the one before it are published, older ones no more. */
  rotate() {
    this.#keys = [newKey(), this.#keys[0]];
    this.#renew();
  }

  async metadata() {
    return (await fetch(`${this.issuer}/.well-known/openid-configuration`)).json();
  }

  /** What the token endpoint answers to the machine. */
  async clientCredentials(parameters) {
    const basic = Buffer.from(`${MACHINE.id}:${MACHINE.secret}`).toString('base64');
    const response = await fetch(`${this.issuer}/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${basic}` },
      body: new URLSearchParams({ grant_type: 'client_credentials', ...parameters }),
    });
    const answer = await response.json();
    assert.equal(response.status, 200, JSON.stringify(answer));
    this.issued.push(answer.access_token);
    return answer;
  }

  /** A machine's token for the first resource. */
  async token(scope = SCOPES, resource = this.#resources[0]) {
    return (await this.clientCredentials({ scope, resource })).access_token;
  }

  /** A token that the provider would not give out: `claims` and `header` change what a good one has; undefined removes. */
  mint({ claims = {}, header = {}, key = this.key } = {}) {
    const now = Math.floor(Date.now() / 1000);
    const token = signed(
      { alg: 'ES384', typ: 'at+jwt', kid: key.jwk.kid, ...header },
      {
        jti: crypto.randomUUID(), sub: MACHINE.id, iat: now, exp: now + 300, scope: SCOPES, client_id: MACHINE.id,
        iss: this.issuer, aud: this.#resources[0], ...claims,
      },
      key,
    );
    this.issued.push(token);
    return token;
  }

  #count(path) {
    this.#asked.set(path, this.asked(path) + 1);
  }

  #serve(req, res) {
    const { pathname } = new URL(req.url, 'http://provider');
    if (req.headers['user-agent']?.startsWith('wicketgate')) this.#count(pathname);
    if (!pathname.startsWith('/oidc/')) return void res.writeHead(404).end();
    if (pathname.startsWith('/oidc/interaction/')) {
      return void this.#interact(req, res).catch((error) => res.writeHead(500).end(String(error)));
    }
    Object.assign(req, { originalUrl: req.url, baseUrl: '/oidc', url: req.url.slice('/oidc'.length) });
    this.#callback(req, res);
  }

  /** Sign-in and consent, as two plain forms. */
  async #interact(req, res) {
    const { prompt, params, session, grantId } = await this.#provider.interactionDetails(req, res);
    if (req.method === 'GET') {
      const asked = Object.values(prompt.details.missingResourceScopes ?? {}).flat();
      const inputs = prompt.name === 'login' ? '<input name="login">' : asked.map((scope) => `<input type="checkbox" name="scope" value="${scope}">`).join('');
      res.writeHead(200, { 'content-type': 'text/html' });
      return void res.end(`<form method="post" data-prompt="${prompt.name}">${inputs}<button>Go on</button></form>`);
    }
    const form = new URLSearchParams(await text(req));
    if (prompt.name === 'login') {
      return this.#provider.interactionFinished(req, res, { login: { accountId: form.get('login') } });
    }
    const { Grant } = this.#provider;
    const grant = grantId ? await Grant.find(grantId) : new Grant({ accountId: session.accountId, clientId: params.client_id });
    if (prompt.details.missingOIDCScope) grant.addOIDCScope(prompt.details.missingOIDCScope.join(' '));
    for (const [resource, scopes] of Object.entries(prompt.details.missingResourceScopes ?? {})) {
      for (const scope of scopes) {
        if (form.getAll('scope').includes(scope)) grant.addResourceScope(resource, scope);
        else grant.rejectResourceScope(resource, scope);
      }
    }
    return this.#provider.interactionFinished(req, res, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
  }

  /** A provider takes its keys when it is made, so a rotation makes another one over the same store. */
  #renew() {
    this.#provider = new Provider(this.issuer, this.#configuration());
    this.#provider.use((ctx, next) => this.#likeLogtosKeySet(ctx, next));
    this.#callback = this.#provider.callback();
  }

  /** Logto's key set says not to be cached, and has an ETag that can be asked with. */
  async #likeLogtosKeySet(ctx, next) {
    await next();
    if (ctx.path !== '/jwks') return;
    ctx.set('cache-control', 'no-cache, max-age=0, must-revalidate');
    ctx.etag = crypto.createHash('sha256').update(JSON.stringify(ctx.body)).digest('base64url');
    if (!ctx.fresh) return;
    ctx.status = 304;
    this.#count('304');
  }

  #configuration() {
    const kid = this.key.jwk.kid;
    return {
      adapter: (model) => new Shelf(this.#store, model),
      jwks: { keys: this.#keys.map(({ jwk }) => jwk) },
      cookies: { keys: ['peers'] },
      scopes: ['openid', 'offline_access'],
      clients: [
        {
          client_id: MACHINE.id, client_secret: MACHINE.secret, grant_types: ['client_credentials'],
          redirect_uris: [], response_types: [],
        },
        {
          client_id: GATE.id, client_secret: GATE.secret, grant_types: [], redirect_uris: [], response_types: [],
        },
        {
          client_id: AGENT.id, application_type: 'native', token_endpoint_auth_method: 'none', redirect_uris: [AGENT.redirect],
          grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'],
        },
      ],
      clientDefaults: { id_token_signed_response_alg: 'ES384' },
      enabledJWA: { idTokenSigningAlgValues: ['ES384'] },
      findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
      interactions: { url: (_, interaction) => `/oidc/interaction/${interaction.uid}` },
      ttl: { AccessToken: 300, ClientCredentials: 300, IdToken: 300, Interaction: 300, Session: 300, Grant: 300, RefreshToken: 600 },
      rotateRefreshToken: true,
      features: {
        devInteractions: { enabled: false },
        clientCredentials: { enabled: true },
        introspection: { enabled: true },
        revocation: { enabled: true },
        resourceIndicators: {
          enabled: true,
          defaultResource: () => undefined,
          useGrantedResource: () => false,
          getResourceServerInfo: (_, indicator) => {
            assert(this.#resources.includes(indicator), `no such resource: ${indicator}`);
            if (this.#opaque.includes(indicator)) return { scope: SCOPES, audience: indicator, accessTokenFormat: 'opaque', accessTokenTTL: 300 };
            return { scope: SCOPES, audience: indicator, accessTokenFormat: 'jwt', accessTokenTTL: 300, jwt: { sign: { alg: 'ES384', kid } } };
          },
        },
      },
    };
  }
}

/** The store that all providers of one name share. */
class Shelf {
  constructor(store, model) {
    Object.assign(this, { store, model });
  }
  key(id) {
    return `${this.model}:${id}`;
  }
  async upsert(id, payload) {
    this.store.set(this.key(id), payload);
  }
  async find(id) {
    return this.store.get(this.key(id));
  }
  async findByUid(uid) {
    return [...this.store].find(([key, payload]) => key.startsWith(`${this.model}:`) && payload.uid === uid)?.[1];
  }
  async consume(id) {
    this.store.get(this.key(id)).consumed = Math.floor(Date.now() / 1000);
  }
  async destroy(id) {
    this.store.delete(this.key(id));
  }
  async revokeByGrantId(grantId) {
    for (const [key, payload] of this.store) if (payload.grantId === grantId) this.store.delete(key);
  }
}

/** A P-384 key whose kid is its thumbprint (RFC 7638), as Logto's are. */
export function newKey() {
  const { privateKey, publicKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const { crv, kty, x, y, d } = privateKey.export({ format: 'jwk' });
  const kid = crypto.createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('base64url');
  return { privateKey, publicKey, jwk: { kty, crv, x, y, d, use: 'sig', alg: 'ES384', kid } };
}

function signed(header, claims, key) {
  const part = (object) => Buffer.from(JSON.stringify(object)).toString('base64url');
  const input = `${part(header)}.${part(claims)}`;
  const signature = crypto.sign('sha384', Buffer.from(input), { key: key.privateKey, dsaEncoding: 'ieee-p1363' });
  return `${input}.${signature.toString('base64url')}`;
}
