// TLS as OpenSSL and curl see it: certificates by name, versions, protocols, a stapled OCSP response, clients' certificates;
// PROXY headers as curl sends them, and sockets as systemd passes them on.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, test } from 'node:test';

import { startGate, until, WORK_DIR } from './gate.mjs';
import { freePort } from './ports.mjs';
import { startProvider } from './provider.mjs';
import { startUpstream } from './upstream.mjs';

const RESOURCE = 'https://api.weather.example';
const PKI = path.join(WORK_DIR, 'pki');

let provider, upstream, gate, required, ports, services;

const file = (name) => path.join(PKI, name);

/** Runs a program to its end, without anything to read. */
async function run(program, args) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], timeout: 20_000 });
  child.stdin.on('error', () => {}).end();
  const [out, err, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  return { code, out, err };
}

async function openssl(...args) {
  const done = await run('openssl', args);
  assert.equal(done.code, 0, `openssl ${args.join(' ')}\n${done.err}`);
  return done.out.trim();
}

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

async function authority(name) {
  await openssl('req', '-x509', ...KEY, '-keyout', file(`${name}.key`), '-out', file(`${name}.crt`), '-days', '2', '-subj', `/CN=${name}`);
}

async function sign(name, { by = 'ca', subject = `/CN=${name}`, alternatives }) {
  await openssl('req', ...KEY, '-keyout', file(`${name}.key`), '-out', file(`${name}.csr`), '-subj', subject, '-utf8');
  const extensions = file(`${name}.ext`);
  fs.writeFileSync(extensions, `subjectAltName=${alternatives}\n`);
  const signer = ['-CA', file(`${by}.crt`), '-CAkey', file(`${by}.key`), '-CAcreateserial', '-days', '2'];
  await openssl('x509', '-req', '-in', file(`${name}.csr`), '-out', file(`${name}.crt`), '-extfile', extensions, ...signer);
  return { certificate_file: file(`${name}.crt`), key_file: file(`${name}.key`) };
}

/** What the authority says of a certificate: it is good. */
async function ocspResponse(name) {
  const serial = (await openssl('x509', '-in', file(`${name}.crt`), '-noout', '-serial')).split('=')[1];
  fs.writeFileSync(file('index.txt'), `V\t301231235959Z\t\t${serial}\tunknown\t/CN=${name}\n`);
  fs.writeFileSync(file('index.txt.attr'), 'unique_subject = no\n');
  const responder = ['-index', file('index.txt'), '-rsigner', file('ca.crt'), '-rkey', file('ca.key'), '-CA', file('ca.crt')];
  await openssl('ocsp', ...responder, '-issuer', file('ca.crt'), '-cert', file(`${name}.crt`), '-ndays', '1', '-respout', file(`${name}.ocsp`));
  return file(`${name}.ocsp`);
}

before(async () => {
  fs.mkdirSync(PKI, { recursive: true });
  for (const name of ['ca', 'clients', 'strangers']) await authority(name);
  const first = await sign('first', { alternatives: 'DNS:gate.example,IP:127.0.0.1' });
  const wild = await sign('wild', { alternatives: 'DNS:*.wild.example' });
  await sign('agent', { by: 'clients', subject: '/C=DE/O=Wetter, Wind/CN=agent', alternatives: 'DNS:agent.example,URI:spiffe://example/agent' });
  await sign('stranger', { by: 'strangers', alternatives: 'DNS:agent.example' });
  provider = await startProvider([RESOURCE]);
  upstream = await startUpstream();
  const fingerprint = (await openssl('x509', '-in', file('agent.crt'), '-noout', '-fingerprint', '-sha256')).split('=')[1];
  services = [{
    name: 'weather',
    resource: RESOURCE,
    upstream: upstream.url,
    client_certificate_headers: { 'X-Client-Subject': 'subject', 'X-Client-Uri': 'uri' },
    routes: { 'GET /open': 'public', 'GET /agent': { access: 'public', client_certificate: { fingerprint, dns: 'agent.example' } } },
  }];
  ports = { proxied: await freePort(), redirecting: await freePort() };
  const tls = { ...first, ocsp_file: await ocspResponse('first'), certificates: [wild] };
  const client_certificates = { mode: 'optional', ca_file: file('clients.crt') };
  const port = await freePort();
  gate = await startGate('tls', {
    port,
    issuer: provider.issuer,
    services,
    trusted_proxies: ['127.0.0.1'],
    listen: [
      `127.0.0.1:${port}`,
      { address: `127.0.0.1:${ports.proxied}`, proxy_protocol: true },
      { address: `127.0.0.1:${ports.redirecting}`, redirect_to_https: port },
    ],
    tls: { ...tls, client_certificates },
  });
  required = await startGate('tls-required', {
    issuer: provider.issuer,
    services,
    tls: { ...tls, min_version: '1.3', client_certificates: { ...client_certificates, mode: 'required' } },
  });
});

after(async () => {
  await required?.stop();
  await gate?.stop();
  await upstream?.stop();
  await provider?.down();
});

/** What OpenSSL says of a handshake. */
async function shake(of, ...args) {
  const told = await run('openssl', ['s_client', '-connect', `127.0.0.1:${of.port}`, '-CAfile', file('ca.crt'), ...args]);
  return { ...told, text: told.out + told.err };
}

/** A request with curl, over TLS unless `url` says otherwise. */
async function curl(target, args = [], { url = `https://gate.example:${gate.port}`, port = gate.port } = {}) {
  const to = ['--connect-to', `::127.0.0.1:${port}`, '--cacert', file('ca.crt')];
  const done = await run('curl', ['-q', '--noproxy', '*', '-sS', '--max-time', '10', '-w', '%{stderr}%{json}', ...to, ...args, `${url}${target}`]);
  const facts = JSON.parse(done.err.trimEnd().split('\n').at(-1));
  return { code: done.code, status: facts.response_code, version: facts.http_version, location: facts.redirect_url, body: done.out };
}

const shown = (name) => ['--cert', file(`${name}.crt`), '--key', file(`${name}.key`)];

test('openssl gets the certificate of the name that it asks for', async () => {
  for (const [name, subject] of [['gate.example', 'first'], ['a.wild.example', 'wild'], ['unknown.example', 'first']]) {
    assert.match((await shake(gate, '-servername', name)).out, new RegExp(`^subject=CN = ${subject}$`, 'm'));
  }
  assert.match((await shake(gate, '-noservername')).out, /^subject=CN = first$/m);
});

test('openssl speaks TLS 1.2 and 1.3, and none that is older', async () => {
  assert.match((await shake(gate, '-tls1_2')).text, /TLSv1\.2/);
  assert.match((await shake(gate, '-tls1_3')).text, /TLSv1\.3/);
  for (const old of ['-tls1', '-tls1_1']) {
    const refused = await shake(gate, old, '-cipher', 'DEFAULT@SECLEVEL=0');
    assert.notEqual(refused.code, 0);
    assert.match(refused.text, /alert protocol version|no protocols available|Cipher is \(NONE\)/);
  }
  assert.notEqual((await shake(required, '-tls1_2')).code, 0, 'below the floor');
});

test('openssl agrees on the protocol by ALPN', async () => {
  assert.match((await shake(gate, '-alpn', 'h2,http/1.1')).out, /ALPN protocol: h2/);
  assert.match((await shake(gate, '-alpn', 'http/1.1')).out, /ALPN protocol: http\/1\.1/);
  assert.match((await shake(gate, '-alpn', 'spdy/3')).text, /alert no application protocol/);
});

test('openssl is shown the stapled OCSP response, and it is a good one', async () => {
  for (const version of ['-tls1_2', '-tls1_3']) {
    const told = (await shake(gate, version, '-servername', 'gate.example', '-status')).out;
    assert.match(told, /OCSP Response Status: successful \(0x0\)/);
    assert.match(told, /Cert Status: good/);
    assert.match((await shake(gate, version, '-servername', 'a.wild.example', '-status')).out, /OCSP response: no response sent/);
  }
});

test('curl with a certificate is told apart from curl without one', async () => {
  for (const protocol of ['--http1.1', '--http2']) {
    assert.equal((await curl('/open', [protocol])).status, 200);
    const refused = await curl('/agent', [protocol]);
    assert.deepEqual([refused.status, JSON.parse(refused.body).code], [403, 'certificate_missing']);
    const agent = await curl('/agent', [protocol, ...shown('agent')]);
    assert.equal(agent.status, 200);
    const told = JSON.parse(agent.body).headers;
    const subject = (await openssl('x509', '-in', file('agent.crt'), '-noout', '-subject', '-nameopt', 'RFC2253')).replace(/^subject=/, '');
    assert.equal(told['x-client-subject'], subject);
    assert.equal(told['x-client-uri'], 'spiffe://example/agent');
    assert.equal(told['x-forwarded-proto'], 'https');
    const stranger = await curl('/open', [protocol, ...shown('stranger')]);
    assert.notEqual(stranger.code, 0, 'a certificate of nobody that we know');
  }
});

test('where a certificate is required, curl comes in with a good one alone', async () => {
  const to = { url: `https://gate.example:${required.port}`, port: required.port };
  assert.equal((await curl('/agent', shown('agent'), to)).status, 200);
  for (const args of [[], shown('stranger')]) {
    const refused = await curl('/open', args, to);
    assert.notEqual(refused.code, 0);
    assert.equal(refused.status, 0);
  }
});

test('curl is sent from http to https, at our own hosts alone', async () => {
  const to = { url: 'http://api.weather.example', port: ports.redirecting };
  const sent = await curl('/open?a=b', [], to);
  assert.deepEqual([sent.status, sent.location], [308, `https://api.weather.example:${gate.port}/open?a=b`]);
  assert.equal((await curl('/open', [], { ...to, url: 'http://evil.example' })).status, 421);
});

test('curl tells its address in a PROXY header before TLS', async () => {
  const to = { url: `https://gate.example:${ports.proxied}`, port: ports.proxied };
  const answer = await curl('/open', ['--haproxy-protocol'], to);
  assert.equal(answer.status, 200, answer.body);
  assert.equal(JSON.parse(answer.body).headers['x-forwarded-for'], '127.0.0.1');
  assert.notEqual((await curl('/open', [], to)).code, 0, 'a connection without one');
});

test('a PROXY header of version 2 names the client', async () => {
  // A relay that says of each connection that it is somebody else's, as a load balancer does.
  const header = Buffer.from('0d0a0d0a000d0a515549540a2111000cc633640700000001123401bb', 'hex');
  const relay = net.createServer((client) => {
    const out = net.connect(ports.proxied, '127.0.0.1');
    out.write(header);
    client.pipe(out).pipe(client);
    for (const socket of [client, out]) socket.on('error', async () => {});
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  const child = spawn('curl', ['-q', '--noproxy', '*', '-sS', '--max-time', '10', '--cacert', file('ca.crt'),
    '--connect-to', `::127.0.0.1:${relay.address().port}`, `https://gate.example:${ports.proxied}/open`]);
  const body = [];
  child.stdout.on('data', (part) => body.push(part));
  await once(child, 'close');
  relay.close();
  assert.equal(JSON.parse(Buffer.concat(body).toString()).headers['x-forwarded-for'], '198.51.100.7');
});

test('sockets that systemd passes on are listened on, by name and by number', async (t) => {
  const [port, admin, socket] = [await freePort(), await freePort(), path.join(WORK_DIR, 'passed.sock')];
  fs.rmSync(socket, { force: true });
  const config = path.join(WORK_DIR, 'passed.yaml');
  const write = (listen) => fs.writeFileSync(config, JSON.stringify({
    listen, admin: `127.0.0.1:${admin}`, issuer: provider.issuer, reload: { interval: '100ms' }, shutdown: { delay: '1ms', deadline: '5s' },
    services: [{ name: 'weather', resource: RESOURCE, upstream: upstream.url, routes: { 'GET /open': 'public' } }],
  }));
  const start = () => spawn('systemd-socket-activate', ['-l', `127.0.0.1:${port}`, '-l', socket, '--fdname=web:local',
    process.env.WICKETGATE_BINARY, 'run', '--config', config], { stdio: ['ignore', 'pipe', 'pipe'] });
  t.after(() => [child, missing].forEach((process) => process?.kill('SIGKILL')));
  let log = '', child, missing;
  const watch = (child) => [child.stdout, child.stderr].forEach((stream) => stream.on('data', (text) => { log += text; }));

  write(['fd:web', 'fd:4']);
  child = start();
  watch(child);
  // systemd starts the gate when somebody connects, and that one is answered.
  await until('systemd listens', () => fs.existsSync(socket));
  const first = await request(port).catch((error) => assert.fail(`${error.cause}\n${log}`));
  assert.equal(first.status, 200, log);
  const local = await run('curl', ['-q', '-sS', '--max-time', '10', '--unix-socket', socket, 'http://a/open']);
  assert.equal(JSON.parse(local.out).url, '/open');

  // Two names for one socket are refused, and nothing changes.
  write(['fd:web', 'fd:3']);
  await until('the reload is refused', () => log.includes('it is the same socket as fd:web'));

  // A reload without one of them and with it again: the socket is systemd's, and stays.
  write(['fd:web']);
  await until('the reload is taken', () => log.includes('"changes":"listen changed"'));
  log = '';
  write(['fd:web', 'fd:local']);
  await until('the reload is taken', () => log.includes('"changes":"listen changed"'));
  assert(fs.existsSync(socket), 'the file of the socket is gone');
  const again = await run('curl', ['-q', '-sS', '--max-time', '10', '--unix-socket', socket, 'http://a/open']);
  assert.equal(JSON.parse(again.out).url, '/open');
  child.kill('SIGTERM');
  assert.deepEqual((await once(child, 'close'))[0], 0, log);
  assert(fs.existsSync(socket));

  // A name that there is not: it says which there are.
  fs.rmSync(socket, { force: true });
  log = '';
  write(['fd:other']);
  missing = start();
  watch(missing);
  await until('systemd listens', () => fs.existsSync(socket));
  net.connect(port, '127.0.0.1').on('error', async () => {});
  assert.equal((await once(missing, 'close'))[0], 69, log);
  assert.match(log, /listen fd:other.*web \(3\), local \(4\)/);
});

/** One request; systemd takes a moment to hand the socket over. */
async function request(port) {
  const response = await fetch(`http://127.0.0.1:${port}/open`);
  await response.arrayBuffer();
  return response;
}
