"""A server as CoAP has it (RFC 7252): a pre-shared key, AES-CCM-8, and an answer to each request."""

import asyncio
import sys
from pathlib import Path

import dtls
import dtls.asyncio

KEY = Path("psk.key").read_bytes()
ACKNOWLEDGEMENT, CONTENT, PAYLOAD = 0x60, 0x45, b"\xff"  # RFC 7252, 3 and 12.1


class Temperature(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        if len(data) >= 4 and data[0] >> 4 == 4 and data[1] == 1:  # version 1, confirmable; GET
            token_length = min(data[0] & 15, 8)
            header = bytes([ACKNOWLEDGEMENT | token_length, CONTENT]) + data[2 : 4 + token_length]
            self.transport.sendto(header + PAYLOAD + b"21.5 C", addr)


async def main(port=5684):
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.set_psks({"sensor 1": KEY})
    context.set_ciphers("PSK-AES128-CCM8:PSK-AES128-CCM")  # never offered unless they are named
    transport, _ = await dtls.asyncio.create_dtls_endpoint(Temperature, ("", port), context=context)
    print("listening on port", transport.get_extra_info("sockname")[1], flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        transport.close()


asyncio.run(main(*map(int, sys.argv[1:])))
