"""The UDP echo server of Python's documentation. One call is changed: ``loop.create_datagram_endpoint``."""

import asyncio
import sys

import dtls
import dtls.asyncio


class EchoServerProtocol(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def main(port=4433):
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    transport, _ = await dtls.asyncio.create_dtls_endpoint(EchoServerProtocol, ("", port), context=context)
    print("listening on port", transport.get_extra_info("sockname")[1], flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        transport.close()


asyncio.run(main(*map(int, sys.argv[1:])))
