"""What the tests of ``dtls.wrapper`` share: a server in a thread, and clients."""
# ruff: noqa: PT009 - these are tests of unittest

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from dtls.test.support import PATIENCE, SHORT, Worker, until
from dtls.wrapper import DtlsSocket

from .case import Case
from .handshakes import client_hello, first_message

if TYPE_CHECKING:
    from collections.abc import Callable

_STEP = 0.02
"""Seconds after which a server looks whether it is to stop."""


class Server:
    """Answers messages by the same in lower case, in a thread.

    :param sock: a bound server's socket; it is closed in the end.
    """

    def __init__(self, sock: DtlsSocket) -> None:
        self.sock = sock
        self.errors: list[Any] = []
        """What ``recvfrom`` and ``sendto`` raised, timeouts excepted."""
        self.received: list[tuple[bytes, Any]] = []
        self._stopping = threading.Event()
        self._thread: Worker | None = None
        sock.settimeout(_STEP)
        sock.listen(0)
        self.address: Any = sock.getsockname()
        self.start()

    def start(self) -> None:
        """Serve clients."""
        self._stopping.clear()
        self._thread = Worker(self._run)

    def pause(self) -> None:
        """Serve nobody until :meth:`start`."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.result()

    def stop(self) -> None:
        """Close everything."""
        try:
            self.pause()
        finally:
            self.sock.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                message, address = self.sock.recvfrom(16_384)
                self.received.append((message, address))
                self.sock.sendto(message.lower(), address)
            except TimeoutError:
                continue
            except OSError as error:
                self.errors.append(error)

    @property
    def clients(self) -> list[Any]:
        """The sockets of its clients."""
        return list(self.sock._clients)  # noqa: SLF001 - nothing else tells


class Recorder:
    """A callback that remembers errors, and what to say of them."""

    def __init__(self, *, ignore: bool) -> None:
        self.errors: list[Any] = []
        self._ignore = ignore

    def __call__(self, error: Any) -> bool:
        """Whether the error is to be ignored."""
        self.errors.append(error)
        return self._ignore

    @property
    def peers(self) -> set[Any]:
        """Whom they were about."""
        return {error.peer for error in self.errors}


class WrapperCase(Case):
    """A test of ``DtlsSocket``."""

    def server(self, **options: Any) -> Server:
        """A server that runs."""
        server = Server(self.bound_server(**options))
        self.addCleanup(server.stop)
        return server

    def bound_server(self, **options: Any) -> DtlsSocket:
        """A server's socket that does not listen yet."""
        options.setdefault("certfile", self.certificates.server)
        sock: DtlsSocket = self.closing(DtlsSocket(self.udp(bound=True), server_side=True, **options))
        return sock

    def dtls_client(self, **options: Any) -> DtlsSocket:
        """A client that is not connected; its operations have a deadline."""
        sock: DtlsSocket = self.closing(DtlsSocket(self.udp(), **options))
        self.assertEqual(sock.gettimeout(), PATIENCE)
        return sock

    def meet_server(self, server: Server, address: Any = None, **options: Any) -> DtlsSocket:
        """A client that has been answered by a server."""
        sock = self.dtls_client(**options)
        sock.connect(server.address if address is None else address)
        self.check_answer(sock)
        return sock

    def check_answer(self, sock: DtlsSocket, message: str = "Message in MIXED case") -> None:
        """Check that a server answers."""
        self.assertEqual(sock.write(message), len(message))
        self.assertEqual(sock.read(), message.lower().encode())

    def check_refused(self, server: Server, reason: str, **options: Any) -> Any:
        """Check that a client's handshake fails, for a reason that OpenSSL has words for; its error."""
        sock = self.dtls_client(handshake_timeout=4 * SHORT, **options)  # an alert is believed after a repeat
        sock.connect(server.address)
        error = self.error(sock.write, "x")
        self.assertRegex(error.errqueue[-1][1].decode(), reason)
        return error

    def check_over(self, sock: DtlsSocket) -> None:
        """Check that the peer has said close_notify."""
        self.assertEqual(self.error(sock.read).args, (6, []))

    def wait_for_clients(self, server: Server, count: int) -> None:
        """Wait until a server has so many clients."""
        until(lambda: len(server.clients) == count)

    def half_open(self, server: Server) -> Any:
        """The plain socket of a client that falls silent once it has proved its address."""
        sock = self.udp(bound=True)
        random = os.urandom(32)
        sock.sendto(client_hello(random), server.address)
        cookie = first_message(sock.recv(65_535)).body[3:]
        sock.sendto(client_hello(random, cookie, number=1), server.address)
        sock.recv(1, socket.MSG_PEEK)  # the server has begun the handshake
        return sock

    def lengths_of(self, lengths: dict[str, list[int]]) -> Callable[[str, int, bytes], list[bytes]]:
        """A tap that notes the lengths of datagrams by sender."""

        def note(sender: str, _number: int, datagram: bytes) -> list[bytes]:
            lengths.setdefault(sender, []).append(len(datagram))
            return [datagram]

        return note


def close_without_a_word(sock: DtlsSocket) -> None:
    """Close a client's socket so that its server is not told."""
    with contextlib.suppress(OSError):
        sock._sock.close()  # noqa: SLF001 - close() would say close_notify
