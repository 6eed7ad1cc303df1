"""Python's websockets as a client: subprotocol, compression, pings, fragments, and the close. One JSON line."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect

URL, TOKEN = sys.argv[1], sys.argv[2]


async def main():
    seen = {}
    async with connect(URL, subprotocols=["chat"], additional_headers={"Authorization": f"Bearer {TOKEN}"}, max_size=64 << 20) as socket:
        seen["subprotocol"] = socket.subprotocol
        seen["extensions"] = [extension.name for extension in socket.protocol.extensions]
        await socket.send("caf\u00e9")
        seen["text"] = await socket.recv()
        await socket.send(["frag", "men", "ted"])
        seen["fragments"] = await socket.recv()
        large = bytes(range(256)) * 16384
        await socket.send(large)
        seen["large"] = await socket.recv() == large
        await asyncio.wait_for(await socket.ping("here"), 10)
        await socket.close(4000, "enough")
        seen["close"] = [socket.close_code, socket.close_reason]
    print(json.dumps(seen), flush=True)


asyncio.run(main())
