"""A client in asyncio with a pre-shared key, which authenticates both sides."""

import asyncio
import sys
from pathlib import Path

import dtls
import dtls.asyncio

KEY = Path("psk.key").read_bytes()


async def main(port=4433):
    context = dtls.create_default_context()
    context.set_psk("sensor 1", KEY)
    async with dtls.asyncio.connect("localhost", port, context=context, timeout=10) as connection:
        print("connected:", connection.version(), connection.cipher()[0])
        await connection.send(b"hello")
        print("received:", await asyncio.wait_for(connection.recv(), timeout=10))


asyncio.run(main(*map(int, sys.argv[1:])))
