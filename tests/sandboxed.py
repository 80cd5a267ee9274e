"""A process in a sandbox that refuses recvmmsg and sendmmsg: it echoes messages between a client and a server."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import struct
import sys
from typing import TYPE_CHECKING

import dtls
from dtls import mmsg
from dtls.asyncio import DTLSConnection, connect, serve
from dtls.certificates import CertificateAuthority

if TYPE_CHECKING:
    from dtls.asyncio import Server

NUMBERS = {"x86_64": (0xC000003E, 299, 307), "aarch64": (0xC00000B7, 243, 269)}
"""The architecture as seccomp names it, and the calls' numbers there (``asm/unistd.h``)."""


def refuse(number: int) -> None:
    """Have the kernel answer both calls with an error from now on (``seccomp(2)``, a filter of BPF's old form)."""
    architecture, *calls = NUMBERS[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06
    allow, refused = 0x7FFF0000, 0x00050000 | number
    program = b"".join(
        struct.pack("@HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 4),
            (equal, 0, 3, architecture),
            (load, 0, 0, 0),
            (equal, 2, 0, calls[0]),
            (equal, 1, 0, calls[1]),
            (give, 0, 0, allow),
            (give, 0, 0, refused),
        )
    )
    array = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(array))
    library = ctypes.CDLL(None, use_errno=True)
    for arguments in ((38, 1, 0, 0, 0), (22, 2, header, 0, 0)):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
        if library.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


async def echo(connection: DTLSConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    authority = CertificateAuthority()
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.load_cert_chain(authority.issue("localhost").private_key_and_chain_pem)
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=authority.certificate_pem)
    running: Server
    async with serve(echo, "127.0.0.1", 0, context=server) as running:
        port = running.sockets[0].getsockname()[1]
        async with connect("127.0.0.1", port, context=client, server_hostname="localhost") as connection:
            messages = [bytes([number]) * 100 for number in range(50)]
            await connection.send_many(messages)
            received: list[bytes] = []
            while len(received) < len(messages):
                received += await connection.recv_many()
            assert received == messages
            sys.stdout.write(f"echoed by {type(connection._channel.port).__name__}")


if __name__ == "__main__":
    try:
        refuse(int(sys.argv[1]))
    except OSError:
        sys.exit()  # the kernel has no such filters
    assert not mmsg.permitted()
    asyncio.run(asyncio.wait_for(main(), 30))
