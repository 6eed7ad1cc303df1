// Provider, gate and service as most tests want them: one resource, told apart from everything else by its routes.

import { startGate } from './gate.mjs';
import { startProvider } from './provider.mjs';
import { startUpstream } from './upstream.mjs';

export const RESOURCE = 'https://api.weather.example';

/** Starts all three; `early` starts the gate while the provider is down. `close` asserts that the gate goes in peace. */
export async function startScene(name, { routes, early = false, ...settings }) {
  const open = [];
  const close = async () => {
    for (const end of open.splice(0).reverse()) await end();
  };
  try {
    const provider = await startProvider([RESOURCE]);
    open.push(() => provider.down());
    const upstream = await startUpstream();
    open.push(() => upstream.stop());
    if (early) await provider.down();
    const services = [{ name: 'weather', resource: RESOURCE, upstream: upstream.url, routes }];
    const gate = await startGate(name, { ready: !early, issuer: provider.issuer, services, ...settings });
    open.push(() => gate.stop(provider.issued));
    return { provider, upstream, gate, close };
  } catch (error) {
    await close();
    throw error;
  }
}
