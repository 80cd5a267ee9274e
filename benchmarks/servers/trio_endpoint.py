"""trio's ``DTLSEndpoint``: a handler for each association."""

from __future__ import annotations

import contextlib
import platform
import socket
import sys

import trio
from OpenSSL import SSL

from benchmarks.settings import LOOPBACK

from .job import RECEIVE_BUFFER, SHORTEST, Job, listening, parse, understand
from .pyopenssl import new_context

LIBRARY = f"Python {platform.python_version()}, trio {trio.__version__}"
QUEUE = 1024
"""Datagrams of a peer that wait for its handler; trio's default of 10 would lose most of a burst."""


async def serve(job: Job) -> None:
    """Serve until the process is ended."""
    received = 0

    async def work(channel: trio.DTLSChannel) -> None:
        nonlocal received
        channel.set_ciphertext_mtu(job.mtu)
        async for message in channel:
            if len(message) < SHORTEST:
                count, answer = understand(message, received)
                for _ in range(count):
                    await channel.send(job.message)
                await channel.send(answer)
            elif job.echo:
                await channel.send(message)
            else:
                received += 1

    async def handle(channel: trio.DTLSChannel) -> None:
        with contextlib.suppress(SSL.ZeroReturnError):  # how trio tells of a peer's close_notify
            await work(channel)

    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    await sock.bind((LOOPBACK, 0))
    listening(sock.getsockname()[1], LIBRARY)
    await trio.DTLSEndpoint(sock, incoming_packets_buffer=QUEUE).serve(new_context(job), handle)


if __name__ == "__main__":
    trio.run(serve, parse(sys.argv))
