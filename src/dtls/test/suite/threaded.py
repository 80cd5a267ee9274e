"""Servers of several kinds and their clients, as PyDTLS's tests had them."""
# ruff: noqa: PT009, PT027 - these are tests of unittest

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dtls.test.support import PATIENCE, ssl, until

from .case import Case
from .servers import asyncore_server, http_server


class ThreadedTests(Case):
    """A server in a thread, a client here."""

    def test_unreachable(self) -> None:
        """Where nobody listens, connect() says so: 505."""
        nobody = self.udp(bound=True)
        address = nobody.getsockname()
        nobody.close()
        with self.assertRaisesRegex(ssl.SSLError, "The peer address is not reachable") as caught:
            self.wrap().connect(address)
        self.assertEqual(caught.exception.errno, 505)

    def test_handshake_timeout(self) -> None:
        """Where nobody answers, connect() heeds the socket's timeout: 504."""
        silent = self.udp(bound=True)
        sock = self.udp()
        sock.settimeout(0.2)
        sock = self.wrap(sock)
        began = time.monotonic()
        with self.assertRaisesRegex(ssl.SSLError, "timed out") as caught:
            sock.connect(silent.getsockname())
        self.assertEqual(caught.exception.errno, 504)
        self.assertLess(time.monotonic() - began, PATIENCE)

    def test_echo(self) -> None:
        """DTLS 1.0, and messages of several types."""
        server = self.echo_server(ssl_version=ssl.PROTOCOL_DTLSv1)
        sock = self.client(server.address, certfile=self.certificates.client, ssl_version=ssl.PROTOCOL_DTLSv1)
        self.check_messages(sock)

    def check_messages(self, sock: Any) -> None:
        """Check that messages of several types come back, and say goodbye."""
        text = "FOO\n"
        encoded = text.encode()
        for message in (text, encoded, bytearray(encoded), memoryview(encoded)):
            self.assertEqual(sock.write(message), len(text))
            answer = sock.read()
            self.assertIsInstance(answer, bytes)
            self.assertEqual(answer, b"foo\n")
        sock.write("over\n")
        sock.close()

    def test_getpeercert(self) -> None:
        """What is said of the peer's certificate, subjectAltName included, and its bytes."""
        server = self.echo_server(ssl_version=ssl.PROTOCOL_DTLSv1)
        sock = self.client(
            server.address,
            certfile=self.certificates.client,
            ca_certs=self.certificates.root,
            cert_reqs=ssl.CERT_REQUIRED,
            ssl_version=ssl.PROTOCOL_DTLSv1,
        )
        described = sock.getpeercert()
        fields = {"subject", "issuer", "version", "serialNumber", "notBefore", "notAfter", "subjectAltName"}
        self.assertLessEqual(fields, set(described))
        self.assertIn((("commonName", "localhost"),), described["subject"])
        names = (("DNS", "localhost"), ("IP Address", "127.0.0.1"), ("IP Address", "0:0:0:0:0:0:0:1"))
        self.assertEqual(described["subjectAltName"], names)
        self.assertIsInstance(described["notAfter"], bytes)
        self.assertGreater(ssl.cert_time_to_seconds(described["notAfter"].decode()), time.time())
        pem = ssl.DER_cert_to_PEM_cert(sock.getpeercert(binary_form=True))
        self.assertIn(pem, Path(self.certificates.server).read_text("ascii"))

    def check_refused_at_once(self, certificate: str) -> None:
        """Check that connect() says that a client's file is of no use."""
        server = self.echo_server(cert_reqs=ssl.CERT_REQUIRED, ca_certs=self.certificates.root)
        sock = self.wrap(certfile=certificate, ssl_version=ssl.PROTOCOL_DTLSv1)
        with self.assertRaises((ssl.SSLError, OSError)):
            sock.connect(server.address)
        self.assertEqual((server.served, server.refused), (0, []))

    def test_empty_cert(self) -> None:
        """An empty file is no certificate."""
        self.check_refused_at_once(self.certificates.empty)

    def test_malformed_cert(self) -> None:
        """Neither is one whose certificate is none."""
        self.check_refused_at_once(self.certificates.malformed_certificate)

    def test_malformed_key(self) -> None:
        """Nor one whose key is none."""
        self.check_refused_at_once(self.certificates.malformed_key)

    def test_nonexisting_cert(self) -> None:
        """A server that asks for certificates refuses one that it cannot verify; both ends say so."""
        server = self.echo_server(cert_reqs=ssl.CERT_REQUIRED, ca_certs=self.certificates.root)
        sock = self.wrap(certfile=self.certificates.stranger, ssl_version=ssl.PROTOCOL_DTLSv1)
        error = self.error(sock.connect, server.address)
        self.assertIn(b"alert unknown ca", error.errqueue[-1][1])
        (refusal,) = until(lambda: server.refused)
        self.assertEqual(
            refusal[0], sock.getsockname()
        )  # the server's getpeername() gives it after the error
        self.assertIn(b"certificate verify failed", refusal[1].errqueue[-1][1])

    def test_protocol_dtlsv1(self) -> None:
        """Versions that go together do so, with certificates asked for or not; others fail."""
        any_version, old, new = ssl.PROTOCOL_DTLS, ssl.PROTOCOL_DTLSv1, ssl.PROTOCOL_DTLSv1_2
        none, optional, required = ssl.CERT_NONE, ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED
        combinations = {
            (old, old): (none, optional, required),
            (any_version, old): (none, required),
            (any_version, new): (none, required),
            (any_version, any_version): (none, required),
            (new, new): (none, required),
        }
        for (server_version, client_version), requirements in combinations.items():
            for requirement in requirements:
                with self.subTest(server=server_version, client=client_version, cert_reqs=requirement):
                    self.check_combination(server_version, client_version, requirement)
        for requirement in (none, required):
            with self.subTest(server=old, client=new, cert_reqs=requirement):
                error = self.check_combination(old, new, requirement)
                self.assertIn(b"wrong ssl version", error.errqueue[-1][1])

    def check_combination(self, server_version: int, client_version: int, requirement: int) -> Any:
        """Check that two ends of these versions can talk; the client's error where they have none in common."""
        options = {"cert_reqs": requirement, "ca_certs": self.certificates.root, "ciphers": "ALL"}
        server = self.echo_server(ssl_version=server_version, **options)
        sock = self.wrap(certfile=self.certificates.client, ssl_version=client_version, **options)
        if (server_version, client_version) == (ssl.PROTOCOL_DTLSv1, ssl.PROTOCOL_DTLSv1_2):
            return self.error(sock.connect, server.address)
        sock.connect(server.address)
        self.assertEqual(sock.version(), "DTLSv1" if client_version == ssl.PROTOCOL_DTLSv1 else "DTLSv1.2")
        self.check_messages(sock)
        until(lambda: server.served)
        shown = server.certificates[0]
        if requirement == ssl.CERT_NONE:
            self.assertFalse(shown)
        else:
            self.assertIn((("commonName", "a client"),), shown["subject"])
        return None

    def test_recv_send(self) -> None:
        """The socket's own methods; and a server that was given a version of TLS serves any of DTLS."""
        server = self.echo_server(ssl_version=ssl.PROTOCOL_TLSv1)
        for version in (ssl.PROTOCOL_DTLSv1, ssl.PROTOCOL_DTLSv1_2):
            sock = self.client(
                server.address,
                certfile=self.certificates.client,
                cert_reqs=ssl.CERT_NONE,
                ssl_version=version,
            )
            self.assertEqual(sock.send(b"PREFIX_send"), 11)
            self.assertEqual(sock.read(), b"prefix_send")
            self.assertIsNone(sock.sendall(b"PREFIX_sendall"))
            self.assertEqual(sock.recv(), b"prefix_sendall")
            sock.send(b"PREFIX_recv_into")
            buffer = bytearray(100)
            count = sock.recv_into(buffer)
            self.assertEqual(buffer[:count], b"prefix_recv_into")
            sock.write(b"PREFIX_read")
            self.assertEqual(sock.read(100, buffer), 11)
            self.assertEqual(buffer[:11], b"prefix_read")
            for refused in (
                lambda sock=sock: sock.sendto(b"x", server.address),
                lambda sock=sock: sock.recvfrom(100),
                lambda sock=sock, buffer=buffer: sock.recvfrom_into(buffer),
            ):
                self.assertRaises(ValueError, refused)
            sock.write(b"over\n")
            sock.close()

    def test_asyncore_server(self) -> None:
        """A server in an asyncore loop."""
        try:
            server = asyncore_server(self.udp(bound=True), self.certificates.server)
        except ImportError as error:
            self.skipTest(f"{error}: Python 3.12 and later lack it; PyPI's pyasyncore has it")
        self.addCleanup(server.stop)
        first, second = (self.client(server.address) for _ in range(2))
        for message in ("TEST MESSAGE of mixed case\n", "Another\n"):
            for sock in (first, second):
                self.check_echo(sock, message)
        # A message that is fetched in pieces: what is pending, select() does not tell the server's loop.
        first.write("L" * 3000)
        self.assertEqual(b"".join(first.read() for _ in range(3)), b"l" * 3000)
        first.unwrap().close()
        second.write("over\n")
        self.assertEqual(self.error(second.read).args[0], ssl.SSL_ERROR_ZERO_RETURN)
        second.unwrap().close()
        until(lambda: server.closed == 2)  # noqa: PLR2004 - both
        self.assertEqual(server.errors, [])

    def test_socketserver(self) -> None:
        """A web server of the standard library, over DTLS: files, implicit handshakes, the end by close_notify."""
        path = Path(self.certificates.server)
        expected = path.read_bytes()
        self.assertGreater(len(expected), 2500)
        server = http_server(self.udp(bound=True), str(path), path.parent)
        self.addCleanup(server.stop)
        sock = self.client(server.address)
        sock.write(f"GET /{path.name} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        pieces = 0
        while True:
            try:
                piece = sock.read()
            except ssl.SSLError as error:
                self.assertEqual(error.args[0], ssl.SSL_ERROR_ZERO_RETURN)
                break
            received += piece
            pieces += len(piece) == 1024  # noqa: PLR2004 - what read() asks for
        sock.unwrap().close()  # the answer to the server's close_notify
        head, _, body = received.partition(b"\r\n\r\n")
        self.assertRegex(head, rb"^HTTP/1.0 200 OK\r\n")
        self.assertEqual(body, expected)
        self.assertGreaterEqual(pieces, 2)
        server.stop()
        self.assertEqual(server.errors, [])
