"""An echo server in asyncio: every association has a handler of its own."""

import asyncio
import sys

import dtls
import dtls.asyncio


async def echo(connection):
    async for message in connection:  # ends when the peer closes
        await connection.send(message)


async def main(port=4433):
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    async with dtls.asyncio.serve(echo, None, port, context=context) as server:
        print("listening on port", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main(*map(int, sys.argv[1:])))
