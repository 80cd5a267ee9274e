"""``dtls.SSLConnection`` by itself, on plain sockets."""
# ruff: noqa: PT009, PT027 - these are tests of unittest, and their numbers are expectations

from __future__ import annotations

import os
import select
import socket
from datetime import timedelta
from typing import Any

from dtls import SSLConnection, err
from dtls.sslconnection import CERT_REQUIRED, PROTOCOL_DTLSv1
from dtls.test.support import PATIENCE, SHORT, Acceptor, Worker

from .case import Case


class SSLConnectionTests(Case):
    """The interface beneath ``ssl.wrap_socket``, which needs no ``do_patch()``."""

    def listening(self, **options: Any) -> tuple[SSLConnection, Any]:
        """A server, and its socket."""
        sock = self.udp(bound=True)
        certificate = self.certificates.server
        return SSLConnection(sock, certificate, certificate, server_side=True, **options), sock

    def connections(
        self, server: dict[str, Any] | None = None, **options: Any
    ) -> tuple[SSLConnection, SSLConnection]:
        """A client and its server's end; ``server`` and ``options`` are further arguments."""
        acceptor = Acceptor(*self.listening(do_handshake_on_connect=False, **server or {}))
        self.addCleanup(acceptor.stop)
        near = SSLConnection(self.udp(), **options)
        connecting = Worker(near.connect, acceptor.address)
        far, address = acceptor.take()
        self.closing(far.get_socket(True))
        far.do_handshake()
        connecting.result()
        self.assertEqual(address, near.get_socket(True).getsockname())
        return near, far

    def test_conversation(self) -> None:
        """Messages go both ways; pieces, buffers, text; what was negotiated; the end is told."""
        near, far = self.connections(cert_reqs=CERT_REQUIRED, ca_certs=self.certificates.root)
        self.assertIs(near.get_socket(True), near.get_socket(False))
        self.assertEqual(near.write("Hi there"), 8)
        self.assertEqual(far.read(2), b"Hi")
        self.assertEqual(far.pending(), 6)
        buffer = bytearray(100)
        self.assertEqual(far.read(100, buffer), 6)
        self.assertEqual(buffer[:6], b" there")
        self.assertEqual(far.write(memoryview(b"Back")), 4)
        self.assertEqual(near.read(), b"Back")
        cipher: Any = near.cipher()
        self.assertEqual([type(part) for part in cipher], [bytes, bytes, int])
        self.assertEqual(cipher, far.cipher())
        self.assertIn((("commonName", "localhost"),), near.getpeercert()["subject"])
        self.assertEqual(near.peer_certificate(True), near.getpeercert(True))
        self.assertIsNone(far.getpeercert())
        self.assertEqual((near.get_timeout(), near.handle_timeout()), (None, False))

        ending = Worker(near.shutdown)
        for _ in range(2):
            with self.assertRaises(err.openssl_error()) as caught:
                far.read()
            self.assertEqual(caught.exception.args, (err.SSL_ERROR_ZERO_RETURN, []))
        self.assertIs(far.unwrap(), far.get_socket(True))
        self.assertIs(ending.result(), near.get_socket(True))

    def test_listen_and_accept(self) -> None:
        """listen() tells who has proved its address, accept() gives the connection; None if nobody has."""
        listening, sock = self.listening(ssl_version=PROTOCOL_DTLSv1)
        for timeout in (0, SHORT):
            sock.settimeout(timeout)
            self.assertIsNone(listening.listen())
            self.assertIsNone(listening.accept())
        sock.settimeout(PATIENCE)
        self.udp().sendto(b"junk", sock.getsockname())
        self.assertIsNone(listening.accept())
        near = SSLConnection(self.udp(), ssl_version=PROTOCOL_DTLSv1)
        connecting = Worker(near.connect, sock.getsockname())
        while (address := listening.listen()) is None:
            pass
        self.assertEqual(address, near.get_socket(True).getsockname())
        accepted = listening.accept()  # with the handshake
        connecting.result()
        if accepted is None:
            self.fail("nobody was accepted")
        far, accepted_address = accepted
        self.closing(far.get_socket(True))
        self.assertIsNone(far.get_socket(True).gettimeout())
        self.assertEqual(accepted_address, address)
        self.assertEqual(far.version(), "DTLSv1")
        self.assertIsNone(listening.shutdown())
        with self.assertRaises(err.InvalidSocketError):
            near.listen()
        with self.assertRaises(err.InvalidSocketError):
            SSLConnection(self.closing(socket.socket(self.way.family, socket.SOCK_STREAM)))

    def test_timeouts(self) -> None:
        """Time-outs are those of the socket: 504 for the handshake, 502 for reading."""
        silent = self.udp(bound=True)
        lonely = SSLConnection(self.udp())
        lonely.get_socket(True).settimeout(SHORT)
        self.assertEqual(self.error(lonely.connect, silent.getsockname()).errno, err.ERR_HANDSHAKE_TIMEOUT)
        self.assertIsInstance(lonely.get_timeout(), timedelta)
        near, _ = self.connections()
        near.get_socket(True).settimeout(SHORT)
        self.assertEqual(self.error(near.read).errno, err.ERR_READ_TIMEOUT)
        near.get_socket(True).setblocking(False)
        self.assertEqual(self.error(near.read).args[0], err.SSL_ERROR_WANT_READ)
        self.assertEqual(self.error(near.shutdown).args[0], err.SSL_ERROR_WANT_READ)
        self.assertIs(near.unwrap(), near.get_socket(True))

    def test_files(self) -> None:
        """Key and certificate are needed together (500), and by servers (298)."""
        certificate = self.certificates.server
        for files in ({"keyfile": certificate}, {"certfile": certificate}):
            error = self.error(lambda files=files: SSLConnection(self.udp(), **files))
            self.assertEqual(error.errno, err.ERR_BOTH_KEY_CERT_FILES)
        error = self.error(lambda: SSLConnection(self.udp(bound=True), server_side=True))
        self.assertEqual(error.errno, err.ERR_BOTH_KEY_CERT_FILES_SVR)

    def test_connected_socket(self) -> None:
        """On a connected socket the handshake comes with the connection."""
        server = self.echo_server()
        sock = self.udp()
        sock.connect(server.address)
        connection = SSLConnection(sock)
        self.check_echo(connection)
        connection.unwrap()
        self.assertNotEqual(sock.fileno(), -1)  # it is still the caller's

    def test_non_blocking(self) -> None:
        """All of it without ever waiting inside."""
        server = self.echo_server()
        sock = self.udp()
        sock.setblocking(False)
        connection = SSLConnection(sock, do_handshake_on_connect=False)
        connection.connect(server.address)
        self.patiently(connection, connection.do_handshake)
        message = os.urandom(1000).hex().upper().encode()
        self.assertEqual(connection.write(message), len(message))
        answer = self.patiently(connection, lambda: connection.read(len(message)))
        self.assertEqual(answer, message.lower())
        self.patiently(connection, connection.shutdown)

    def patiently(self, connection: SSLConnection, operation: Any) -> Any:
        """What an operation gives when it need not wait any more."""
        while True:
            try:
                return operation()
            except err.openssl_error() as error:
                self.assertEqual(error.args[0], err.SSL_ERROR_WANT_READ)
            remaining = connection.get_timeout()
            readers = [connection.get_socket(True)]
            wait = PATIENCE if remaining is None else remaining.total_seconds()
            if not select.select(readers, [], [], wait)[0]:
                self.assertTrue(connection.handle_timeout())
