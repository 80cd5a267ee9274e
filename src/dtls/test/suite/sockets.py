"""Sockets that are wrapped, unwrapped, and wrapped again."""
# ruff: noqa: PT009, PT027 - these are tests of unittest

from __future__ import annotations

import functools
import socket
import ssl as original_ssl
import warnings
from typing import Any

import dtls
from dtls.test.support import PATIENCE, Worker, ssl, until

from .case import Case


class SocketTests(Case):
    """The plain sockets beneath."""

    def test_connected_socket(self) -> None:
        """A connected UDP socket shakes hands as it is wrapped, unless it is told not to."""
        server = self.echo_server()
        plain = self.udp()
        plain.connect(server.address)
        sock = self.wrap(plain)
        self.assertIsNotNone(sock.cipher())
        self.check_echo(sock)
        plain = self.udp()
        plain.connect(server.address)
        sock = self.wrap(plain, do_handshake_on_connect=False)
        self.assertIsNone(sock.cipher())
        self.assertRaises(ValueError, sock.connect, server.address)
        self.check_echo(sock)
        sock.unwrap().close()

    def test_constructor(self) -> None:
        """ssl.SSLSocket itself takes datagram sockets."""
        server = self.echo_server()
        sock = self.closing(ssl.SSLSocket(self.udp()))
        sock.connect(server.address)
        self.check_echo(sock)

    def test_unwrap_and_plain_text_and_wrap_again(self) -> None:
        """unwrap() gives plain sockets, connected to each other, that can be used and wrapped again."""
        near, far = self.pair()
        near.write(b"encrypted")
        self.assertEqual(far.read(), b"encrypted")
        near, far = self.unwrapped(near, far)
        self.check_plain_conversation(near, far)

        wrapping = Worker(self.wrap_server, far)
        near = self.wrap(near, cert_reqs=ssl.CERT_REQUIRED, ca_certs=self.certificates.root)
        far = wrapping.result()
        self.assertTrue(near.getpeercert())
        self.assertEqual(near.cipher(), far.cipher())
        for one, other in ((near, far), (far, near)):
            one.write(b"encrypted again")
            self.assertEqual(other.read(), b"encrypted again")
        self.check_plain_conversation(*self.unwrapped(near, far))

    def unwrapped(self, near: Any, far: Any) -> tuple[Any, Any]:
        """The plain sockets of both ends."""
        unwrapping = Worker(far.unwrap)
        plain = self.closing(near.unwrap())
        other = self.closing(unwrapping.result())
        for end, sock in ((near, plain), (far, other)):
            self.assertEqual(end.fileno(), -1)
            end.close()  # the socket is not its own any more
            self.assertIsInstance(sock, socket.socket)
            self.assertNotIsInstance(sock, original_ssl.SSLSocket)
            self.assertEqual(sock.gettimeout(), PATIENCE)
        return plain, other

    def check_plain_conversation(self, near: Any, far: Any) -> None:
        """Check that two plain sockets are connected to each other."""
        for one, other in ((near, far), (far, near), (near, far)):
            one.send(b"in plaintext")
            self.assertEqual(other.recv(100), b"in plaintext")

    def wrap_server(self, sock: Any) -> Any:
        """A server's end on a connected socket, after the handshake."""
        return self.wrap(sock, server_side=True, certfile=self.certificates.server)

    def test_unwrap_never_raises(self) -> None:
        """Not without an answer, not without having shaken hands, not on a non-blocking socket."""
        near, far = self.pair()
        far.close()
        near.settimeout(0.05)
        near.unwrap().close()
        near, _ = self.pair()
        near.setblocking(False)
        near.unwrap().close()
        silent = self.udp(bound=True)
        sock = self.wrap(do_handshake_on_connect=False)
        sock.connect(silent.getsockname())
        sock.unwrap().close()

    def test_stream(self) -> None:
        """ssl.wrap_socket() secures streams as it did before do_patch(), on Pythons without it too."""
        listening = self.closing(socket.create_server((self.way.host, 0), family=self.way.family))
        listening.settimeout(PATIENCE)

        def serve() -> Any:
            sock, _ = listening.accept()
            sock = self.closing(ssl.wrap_socket(sock, server_side=True, certfile=self.certificates.server))
            sock.settimeout(PATIENCE)
            sock.sendall(sock.recv(100).upper())
            return type(sock)

        # Pythons that have ssl.wrap_socket() say that they will not have it for long.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            serving = Worker(serve)
            plain = self.closing(socket.create_connection(listening.getsockname()[:2], PATIENCE))
            sock = self.closing(
                ssl.wrap_socket(plain, cert_reqs=ssl.CERT_REQUIRED, ca_certs=self.certificates.root)
            )
            sock.sendall(b"over a stream")
            self.assertEqual(sock.recv(100), b"OVER A STREAM")
            self.assertIs(serving.result(), original_ssl.SSLSocket)
        self.assertIn((("commonName", "localhost"),), sock.getpeercert()["subject"])
        self.assertRegex(sock.version(), "^TLS")

    def test_clients_one_after_the_other(self) -> None:
        """A server serves many clients: at once, one after the other, and again from an address that it has known."""
        server = self.echo_server()
        clients = [self.client(server.address) for _ in range(5)]
        for sock in clients * 2:
            self.check_echo(sock)
        for sock in clients:
            sock.unwrap().close()
        port = 0
        for number in range(3):
            until(functools.partial(self.has_served, server, len(clients) + number))
            plain = self.udp()
            plain.bind((self.way.host, port))
            sock = self.wrap(plain)
            port = sock.getsockname()[1]
            sock.connect(server.address)
            self.check_echo(sock)
            sock.unwrap().close()
        self.assertEqual(server.refused, [])

    def has_served(self, server: Any, count: int) -> bool:
        """Whether a server is done with so many clients."""
        return bool(server.served == count)

    def test_patching_again(self) -> None:
        """do_patch() may be called again and changes nothing then."""
        before = ssl.wrap_socket, ssl.SSLSocket.__init__, ssl.get_server_certificate
        self.assertIsNone(dtls.do_patch())  # type: ignore[func-returns-value] # that is what is tested
        self.assertEqual((ssl.wrap_socket, ssl.SSLSocket.__init__, ssl.get_server_certificate), before)
