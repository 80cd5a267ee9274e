"""What a server is told, and what all of them have in common."""

from __future__ import annotations

import socket
import struct
import sys
from typing import NamedTuple

from benchmarks.settings import LOOPBACK

SHORTEST = 100
"""Bytes of the shortest message that is the work itself; shorter ones tell the server what to do."""
RECEIVE_BUFFER = 4 * 2**20
"""Bytes asked of the kernel, so that bursts measure the stacks and not the queue between them."""
LARGEST_MESSAGE = 2048
LARGEST_DATAGRAM = 65_535
LOOK_AT_TIMERS = 0.25
"""Seconds a datagram is waited for before timers are looked at."""


class Job(NamedTuple):
    """The arguments of a server."""

    echo: bool
    """Whether long messages are sent back, or counted."""
    batch: bool
    """Whether many messages are taken and given by one call."""
    single: bool
    """Whether there is one association at a time, so that blocking calls can wait for it alone."""
    certificate: str
    """File: PEM."""
    key: str
    cipher: str
    mtu: int
    size: int
    """Bytes of the messages that it sends when it is told to."""

    @property
    def message(self) -> bytes:
        return b"m" * self.size


def parse(arguments: list[str]) -> Job:
    """The job that a program's last arguments describe."""
    role, calls, peers, certificate, key, cipher, mtu, size = arguments[-8:]
    return Job(
        role == "echo", calls == "batch", peers == "single", certificate, key, cipher, int(mtu), int(size)
    )


def from_command_line() -> tuple[str, Job]:
    """The variant, which is the first argument if there is one, and the job."""
    return sys.argv[1], parse(sys.argv)


def understand(message: bytes, received: int) -> tuple[int, bytes]:
    """What a short message asks for: how many long messages to send, and what to answer then."""
    if message.startswith(b"send "):
        count = int(message[5:])
        return count, b"sent %d" % count
    return 0, b"count %d" % received


def new_socket() -> socket.socket:
    """A UDP socket on loopback with a roomy receive buffer, from which ``recv`` waits in C, but not for ever.

    Python's own timeouts cost a ``poll`` for each datagram; this one is the kernel's, and raises
    :exc:`BlockingIOError`.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    patience = struct.pack("@ll", 0, int(LOOK_AT_TIMERS * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
    sock.bind((LOOPBACK, 0))
    return sock


def listening(port: int, library: str) -> None:
    """Tell where the server listens, and what it runs on."""
    print(f"LISTENING {port} {library}", flush=True)
