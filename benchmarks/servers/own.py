"""The package itself: blocking sockets, handlers in asyncio, a datagram protocol made secure."""

from __future__ import annotations

import asyncio
import platform
import socket
import threading
from typing import Any

import dtls
import dtls.asyncio
from benchmarks.settings import GROUP, LOOPBACK
from dtls.engines.openssl.binding import version as openssl_version

from .job import RECEIVE_BUFFER, SHORTEST, Job, from_command_line, listening, understand

LIBRARY = f"Python {platform.python_version()}, {openssl_version()[1]}"
MOST = 64
"""Messages taken by one call of ``recv_many``."""
GIVEN = 200
"""Messages given to one call of ``send_many``."""


def new_context(job: Job) -> dtls.Context:
    """As every server of this package has one."""
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.load_cert_chain(job.certificate, job.key)
    context.set_ciphers(job.cipher)
    context.set_groups(GROUP)
    context.session_tickets = True
    context.mtu = job.mtu
    return context


# --- blocking --------------------------------------------------------------------------------------------------------


def serve(job: Job) -> None:
    """A socket for each association, and a thread, unless there is one association at a time."""
    work = _work(job)
    with dtls.create_server((LOOPBACK, 0), context=new_context(job)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listening(server.getsockname()[1], LIBRARY)
        while True:
            sock, _ = server.accept()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            if job.single:
                work(sock, job)
            else:
                threading.Thread(target=work, args=(sock, job), daemon=True).start()


def _work(job: Job) -> Any:
    if job.batch:
        return _serve_batches
    return _echo if job.echo else _count


def _echo(sock: Any, _: Job) -> None:
    with sock:
        while message := sock.recv():
            sock.send(message if len(message) >= SHORTEST else b"count 0")


def _count(sock: Any, job: Job) -> None:
    received = 0
    with sock:
        while message := sock.recv():
            if len(message) >= SHORTEST:
                received += 1
                continue
            count, answer = understand(message, received)
            message = job.message
            for _ in range(count):
                sock.send(message)
            sock.send(answer)


def _serve_batches(sock: Any, job: Job) -> None:
    received = 0
    batch = [job.message] * GIVEN
    with sock:
        while messages := sock.recv_many(MOST):
            for message in messages:
                if len(message) >= SHORTEST:
                    received += 1
                    continue
                count, answer = understand(message, received)
                for at in range(0, count, GIVEN):
                    sock.send_many(batch[: count - at])
                sock.send(answer)


# --- asyncio ---------------------------------------------------------------------------------------------------------


class Handlers:
    """The handlers of a server, each for one kind of work."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._received = 0

    def choose(self) -> Any:
        """The one for the job."""
        if self._job.batch:
            return self.count_batches
        return self.echo if self._job.echo else self.count

    async def echo(self, connection: Any) -> None:
        async for message in connection:
            await connection.send(message if len(message) >= SHORTEST else b"count 0")

    async def count(self, connection: Any) -> None:
        async for message in connection:
            if len(message) >= SHORTEST:
                self._received += 1
            else:
                await self._obey(connection, message)

    async def count_batches(self, connection: Any) -> None:
        while messages := await connection.recv_many(MOST):
            for message in messages:
                if len(message) >= SHORTEST:
                    self._received += 1
                else:
                    await self._obey(connection, message)

    async def _obey(self, connection: Any, order: bytes) -> None:
        count, answer = understand(order, self._received)
        if self._job.batch:
            batch = [self._job.message] * GIVEN
            for at in range(0, count, GIVEN):
                await connection.send_many(batch[: count - at])
        else:
            message = self._job.message
            for _ in range(count):
                await connection.send(message)
        await connection.send(answer)


async def serve_in_asyncio(job: Job) -> None:
    """A handler for each association."""
    handler = Handlers(job).choose()
    server = await dtls.asyncio.serve(handler, LOOPBACK, 0, context=new_context(job))
    sock = server.sockets[0]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listening(sock.getsockname()[1], LIBRARY)
    await server.serve_forever()


async def serve_protocol(job: Job) -> None:
    """The protocol that plain UDP is measured with."""
    from .plain import Protocol  # noqa: PLC0415 - only here

    transport, _ = await dtls.asyncio.create_dtls_endpoint(
        lambda: Protocol(job), local_addr=(LOOPBACK, 0), context=new_context(job)
    )
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listening(sock.getsockname()[1], LIBRARY)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    variant, job = from_command_line()
    if variant == "blocking":
        serve(job)
    else:
        asyncio.run(serve_in_asyncio(job) if variant == "serve" else serve_protocol(job))
