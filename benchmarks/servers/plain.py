"""Plain UDP: what the kernel, Python and asyncio cost without any security."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import socket
import struct
from typing import Any

from .job import (
    LARGEST_DATAGRAM,
    LARGEST_MESSAGE,
    SHORTEST,
    Job,
    from_command_line,
    listening,
    new_socket,
    understand,
)

LIBRARY = f"Python {platform.python_version()}"
UDP_SEGMENT, UDP_GRO = 103, 104  # <linux/udp.h>; the socket module has no names for them
BATCH = 50


# --- blocking --------------------------------------------------------------------------------------------------------


def serve(job: Job) -> None:
    """Serve until the process is ended."""
    sock = new_socket()
    listening(sock.getsockname()[1], LIBRARY)
    if not job.single:
        _echo_to_all(sock)
        return
    _meet(sock)
    if job.batch:
        _serve_batches(sock, job)
    elif job.echo:
        _echo(sock)
    else:
        _count(sock, job)


def _meet(sock: socket.socket) -> None:
    """Belong to the first who sends something."""
    while True:
        with contextlib.suppress(BlockingIOError):
            _, address = sock.recvfrom(LARGEST_MESSAGE)
            break
    sock.connect(address)
    sock.send(b"count 0")


def _echo_to_all(sock: socket.socket) -> None:
    while True:
        try:
            message, address = sock.recvfrom(LARGEST_MESSAGE)
        except BlockingIOError:
            continue
        if len(message) < SHORTEST:
            message = b"count 0"
        sock.sendto(message, address)


def _echo(sock: socket.socket) -> None:
    while True:
        try:
            message = sock.recv(LARGEST_MESSAGE)
        except BlockingIOError:
            continue
        if len(message) < SHORTEST:
            message = b"count 0"
        sock.send(message)


def _count(sock: socket.socket, job: Job) -> None:
    received = 0
    while True:
        try:
            message = sock.recv(LARGEST_MESSAGE)
        except BlockingIOError:
            continue
        if len(message) < SHORTEST:
            count, answer = understand(message, received)
            message = job.message
            for _ in range(count):
                sock.send(message)
            sock.send(answer)
        else:
            received += 1


def _serve_batches(sock: socket.socket, job: Job) -> None:
    sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    received = 0
    while True:
        try:
            datagrams, ancillary, _, _ = sock.recvmsg(LARGEST_DATAGRAM, 64)
        except BlockingIOError:
            continue
        size = struct.unpack("@i", ancillary[0][2])[0] if ancillary else LARGEST_DATAGRAM
        messages = [datagrams[at : at + size] for at in range(0, len(datagrams), size)]
        for message in messages:
            if len(message) >= SHORTEST:
                received += 1
                continue
            count, answer = understand(message, received)
            _send_batches(sock, [job.message] * count)
            sock.send(answer)


def _send_batches(sock: socket.socket, messages: list[bytes]) -> None:
    if messages:
        ancillary = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", len(messages[0])))]
        for at in range(0, len(messages), BATCH):
            sock.sendmsg(messages[at : at + BATCH], ancillary)


# --- asyncio ---------------------------------------------------------------------------------------------------------


class Protocol(asyncio.DatagramProtocol):
    """What asyncio has for UDP, used as its documentation says."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._received = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if len(data) < SHORTEST:
            count, answer = understand(data, self._received)
            message = self._job.message
            for _ in range(count):
                self._transport.sendto(message, addr)
            self._transport.sendto(answer, addr)
        elif self._job.echo:
            self._transport.sendto(data, addr)
        else:
            self._received += 1


async def serve_in_asyncio(job: Job) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    sock = new_socket()
    await loop.create_datagram_endpoint(lambda: Protocol(job), sock=sock)
    listening(sock.getsockname()[1], LIBRARY)
    await loop.create_future()


if __name__ == "__main__":
    variant, job = from_command_line()
    if variant == "blocking":
        serve(job)
    else:
        asyncio.run(serve_in_asyncio(job))
