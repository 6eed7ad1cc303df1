// A Redis of the suite's own: on a free port, without persistence, to be killed, stopped and started again.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';

import { until, WORK_DIR } from '../peers/gate.mjs';
import { freePort } from '../peers/ports.mjs';

const PASSWORD = 'open-sesame';

export async function startRedis() {
  const redis = new Redis(await freePort(), await freePort());
  await redis.start();
  return redis;
}

class Redis {
  password = PASSWORD;
  #child;

  constructor(port, tlsPort) {
    Object.assign(this, { port, tlsPort, url: `redis://:${PASSWORD}@127.0.0.1:${port}/0`, tlsUrl: `rediss://:${PASSWORD}@localhost:${tlsPort}/0` });
  }

  async start() {
    const tls = path.join(WORK_DIR, 'tls');
    const settings = {
      port: this.port, bind: '127.0.0.1', requirepass: PASSWORD, save: '', appendonly: 'no', dir: WORK_DIR,
      'tls-port': this.tlsPort, 'tls-cert-file': `${tls}/server.pem`, 'tls-key-file': `${tls}/server.key`,
      'tls-ca-cert-file': `${tls}/ca.pem`, 'tls-auth-clients': 'no',
    };
    const flags = Object.entries(settings).flatMap(([key, value]) => [`--${key}`, String(value)]);
    const log = fs.openSync(path.join(WORK_DIR, 'redis.log'), 'a');
    this.#child = spawn(process.env.REDIS_SERVER, flags, { stdio: ['ignore', log, log] });
    process.once('exit', () => this.#child.kill('SIGKILL'));
    await until('redis answers', async () => (await this.ask('PING').catch(() => '')).startsWith('+PONG'));
  }

  /** Without a word to anyone, as a machine that dies. */
  async kill() {
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }

  /** Connections stay, and nothing is answered on them. */
  freeze() {
    this.#child.kill('SIGSTOP');
  }

  thaw() {
    this.#child.kill('SIGCONT');
  }

  /** What one command says, as it comes. */
  async ask(...words) {
    const encode = (list) => `*${list.length}\r\n${list.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`;
    const socket = net.connect(this.port, '127.0.0.1');
    socket.write(encode(['AUTH', PASSWORD]) + encode(words) + encode(['QUIT']));
    let text = '';
    for await (const part of socket) text += part;
    assert(text.startsWith('+OK\r\n'), text);
    return text.slice(5);
  }

  async keys() {
    return [...(await this.ask('KEYS', '*')).matchAll(/\$\d+\r\n(.*)\r\n/g)].map((match) => match[1]);
  }
}
