"""A server in asyncio whose clients are known by pre-shared keys. It needs no certificate."""

import asyncio
import sys
from pathlib import Path

import dtls
import dtls.asyncio

KEY = Path("psk.key").read_bytes()


async def echo(connection):
    print("a client:", connection.psk_identity())
    async for message in connection:
        await connection.send(message)


async def main(port=4433):
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.set_psks({"sensor 1": KEY})  # any mapping from identities to keys
    async with dtls.asyncio.serve(echo, None, port, context=context) as server:
        print("listening on port", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main(*map(int, sys.argv[1:])))
