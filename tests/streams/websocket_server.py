"""An echo of Python's websockets: a second reading of RFC 6455 beside that of npm ws. Prints its port, then what it hears."""

import asyncio
import json
import sys

from websockets.asyncio.server import serve


def tell(**fact):
    print(json.dumps(fact), flush=True)


async def echo(socket):
    try:
        async for message in socket:
            tell(heard=len(message), binary=isinstance(message, bytes))
            await socket.send(message)
    finally:
        tell(closed=socket.close_code, reason=socket.close_reason, path=socket.request.path)


async def main():
    async with serve(echo, "127.0.0.1", 0, subprotocols=["chat"], ping_interval=None, max_size=64 << 20) as server:
        tell(port=server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
