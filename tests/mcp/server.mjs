// An MCP server as its developer would write it: streamable HTTP, two tools, and no word about who may call them.

import { once } from 'node:events';
import http from 'node:http';
import { json } from 'node:stream/consumers';

import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';

/** Starts it on a port that the system chooses. `seen` has what each request said of its caller. */
export async function startServer() {
  const seen = [];
  const server = http.createServer(async (req, res) => {
    seen.push({
      method: req.method,
      subject: req.headers['x-auth-subject'],
      client: req.headers['x-auth-client-id'],
      scopes: req.headers['x-auth-scopes'],
      authorization: req.headers.authorization,
    });
    if (req.method !== 'POST') return void res.writeHead(405, { allow: 'POST' }).end();
    const mcp = new McpServer({ name: 'plain', version: '1' });
    mcp.registerTool('whoami', { description: 'Who is calling' }, () => ({
      content: [{ type: 'text', text: String(req.headers['x-auth-subject']) }],
    }));
    mcp.registerTool('restart', { description: 'For administrators' }, () => ({ content: [{ type: 'text', text: 'restarted' }] }));
    // Without sessions: each request is whole in itself.
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined });
    res.on('close', () => void transport.close());
    await mcp.connect(transport);
    await transport.handleRequest(req, res, await json(req));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    seen,
    stop: async () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
