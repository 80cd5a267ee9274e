"""A server in asyncio that lets in only those with a certificate of its authority."""

import asyncio
import sys

import dtls
import dtls.asyncio


async def echo(connection):
    print("a client:", connection.getpeercert()["subject"])
    async for message in connection:
        await connection.send(message)


async def main(port=4433):
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH, cafile="ca.pem")
    context.load_cert_chain("server.pem", "server.key")
    context.verify_mode = dtls.CERT_REQUIRED
    async with dtls.asyncio.serve(echo, None, port, context=context) as server:
        print("listening on port", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main(*map(int, sys.argv[1:])))
