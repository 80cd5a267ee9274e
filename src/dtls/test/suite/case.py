"""What all tests are."""
# ruff: noqa: PT009, PT027 - these are tests of unittest

from __future__ import annotations

import functools
import socket
import unittest
from typing import TYPE_CHECKING, Any

import dtls
from dtls.test.support import (
    PATIENCE,
    Acceptor,
    Certificates,
    EchoServer,
    Footprint,
    Relay,
    Way,
    Worker,
    certificates,
    current_way,
    left_behind,
    ssl,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class Case(unittest.TestCase):
    """A test with sockets of the way that tests run in at present. It fails if it leaves something behind."""

    @classmethod
    def setUpClass(cls) -> None:
        """Have the ``ssl`` module patched, and certificates made."""
        dtls.do_patch()
        certificates()

    def setUp(self) -> None:
        """Note what there is."""
        self.addCleanup(self._check_footprint, Footprint.now())

    def _check_footprint(self, before: Footprint) -> None:
        found = left_behind(before)
        self.assertFalse(found, f"left behind: {found}")

    @property
    def way(self) -> Way:
        """The way that tests run in at present."""
        return current_way()

    @property
    def certificates(self) -> Certificates:
        """Files to give to sockets."""
        return certificates()

    def closing(self, sock: Any) -> Any:
        """``sock``, closed at the test's end."""
        self.addCleanup(sock.close)
        return sock

    def udp(self, *, bound: bool = False) -> Any:
        """A plain UDP socket."""
        sock = self.closing(socket.socket(self.way.family, socket.SOCK_DGRAM))
        sock.settimeout(PATIENCE)
        if bound:
            sock.bind((self.way.host, 0))
        return sock

    def wrap(self, sock: Any = None, **options: Any) -> Any:
        """What ``ssl.wrap_socket`` makes of a UDP socket."""
        return self.closing(ssl.wrap_socket(self.udp() if sock is None else sock, **options))

    def listen(self, **options: Any) -> Any:
        """A listening DTLS socket; its accepted ones are not in their handshakes yet."""
        options.setdefault("certfile", self.certificates.server)
        options.setdefault("do_handshake_on_connect", False)
        server = self.wrap(self.udp(bound=True), server_side=True, **options)
        server.listen(5)
        return server

    def acceptor(self, **options: Any) -> Acceptor:
        """A server that leaves to the test what is done with its clients."""
        acceptor = Acceptor(self.listen(**options))
        self.addCleanup(acceptor.stop)
        return acceptor

    def echo_server(self, **options: Any) -> EchoServer:
        """A server that answers."""
        server = EchoServer(self.listen(**options))
        self.addCleanup(server.stop)
        return server

    def relay(self, server: Any, tap: Callable[[str, int, bytes], list[bytes]]) -> Relay:
        """A network that does as ``tap`` says."""
        relay = Relay(server, tap)
        self.addCleanup(relay.stop)
        return relay

    def client(self, address: Any, **options: Any) -> Any:
        """A DTLS socket that is connected to ``address``."""
        sock = self.wrap(**options)
        sock.connect(address)
        return sock

    def pair(self, server: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Any]:
        """A client and its server's end, in an association; ``server`` and ``options`` are for ``wrap_socket``."""
        acceptor = self.acceptor(**server or {})
        return self.meet(acceptor, acceptor.address, **options)

    def meet(self, acceptor: Acceptor, address: Any, **options: Any) -> tuple[Any, Any]:
        """A client that connects to ``address``, and its server's end, in an association."""
        connecting = Worker(functools.partial(self.client, address, **options))
        far, peer = acceptor.take()
        self.closing(far).do_handshake()
        near = connecting.result()
        if address == acceptor.address:
            self.assertEqual(peer, near.getsockname())
        return near, far

    def error(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        """The :exc:`ssl.SSLError` that an operation raises."""
        with self.assertRaises(ssl.SSLError) as caught:
            operation(*arguments)
        return caught.exception

    def check_echo(self, sock: Any, message: str = "Message in MIXED case") -> None:
        """Check that an echo server is at the other end."""
        sock.write(message)
        self.assertEqual(sock.read(), message.lower().encode())
