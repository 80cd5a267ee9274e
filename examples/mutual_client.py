"""A client in asyncio that has a certificate, too."""

import asyncio
import sys

import dtls
import dtls.asyncio


async def main(port=4433):
    context = dtls.create_default_context(cafile="ca.pem")
    context.load_cert_chain("client.pem", "client.key")
    async with dtls.asyncio.connect("localhost", port, context=context, timeout=10) as connection:
        print("connected:", connection.version(), connection.cipher()[0])
        await connection.send(b"hello")
        print("received:", await asyncio.wait_for(connection.recv(), timeout=10))


asyncio.run(main(*map(int, sys.argv[1:])))
