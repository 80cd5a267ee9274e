"""What calls give back, and when they raise."""
# ruff: noqa: PT009, PT027 - these are tests of unittest, and their numbers are expectations

from __future__ import annotations

import gc
import os
from pathlib import Path

from dtls.test.support import PATIENCE, SHORT, ssl

from .case import Case


class ResultTests(Case):
    """The forms in which PyDTLS gives results and errors."""

    def test_cipher(self) -> None:
        """cipher() is None before the handshake; then suite and version as bytes, and the bits."""
        acceptor = self.acceptor()
        sock = self.wrap(ciphers="ECDHE-RSA-AES256-GCM-SHA384", do_handshake_on_connect=False)
        self.assertIsNone(sock.cipher())
        sock.connect(acceptor.address)
        self.assertIsNone(sock.cipher())
        sock.close()
        name = "ECDHE-RSA-AES256-GCM-SHA384"
        for end in self.pair(ciphers=name):
            self.assertEqual(end.cipher(), (name.encode(), b"TLSv1.2", 256))
            self.assertEqual([type(part) for part in end.cipher()], [bytes, bytes, int])

    def test_cipher_of_an_old_version(self) -> None:
        """The version in it is the one that defined the suite."""
        name = "ECDHE-RSA-AES128-SHA"
        for end in self.pair(ciphers=name, ssl_version=ssl.PROTOCOL_DTLSv1):
            self.assertEqual(end.cipher(), (name.encode(), b"TLSv1.0", 128))

    def test_certificates_of_both_ends(self) -> None:
        """Each end sees the other's certificate, as a dictionary only if it verifies."""
        root, client = self.certificates.root, self.certificates.client
        near, far = self.pair(
            {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": root}, certfile=client, cert_reqs=ssl.CERT_NONE
        )
        self.assertEqual(near.getpeercert(), {})
        pem = ssl.DER_cert_to_PEM_cert(near.getpeercert(True))
        self.assertIn(pem, Path(self.certificates.server).read_text("ascii"))
        described = far.getpeercert()
        self.assertIn((("commonName", "a client"),), described["subject"])
        self.assertEqual(described["subjectAltName"], (("DNS", "a client"),))
        self.assertEqual(far.getpeercertchain(), [])
        # A server that trusts a root sends that, too.
        chain = near.getpeercertchain(True)
        self.assertEqual(chain[0], near.getpeercert(True))
        self.assertEqual(
            [ssl.DER_cert_to_PEM_cert(der) for der in chain[1:]], [Path(root).read_text("ascii")]
        )
        _, far = self.pair()
        self.assertIsNone(far.getpeercert())
        self.assertIsNone(far.getpeercert(True))

    def test_messages_and_their_limits(self) -> None:
        """The rest of a message waits to be read; too long ones and empty ones are refused."""
        near, far = self.pair()
        near.write(b"0123456789")
        self.assertEqual(far.read(4), b"0123")
        self.assertEqual(far.pending(), 6)
        self.assertEqual(far.read(4), b"4567")
        self.assertEqual(far.read(), b"89")
        self.assertEqual(far.pending(), 0)
        longest = os.urandom(16_384)
        self.assertEqual(near.write(longest), len(longest))
        self.assertEqual(far.read(len(longest)), longest)
        error = self.error(near.write, longest + b"x")
        self.assertEqual((error.args[0], error.errqueue[-1][1]), (ssl.SSL_ERROR_SSL, b"dtls message too big"))
        self.assertEqual(self.error(near.write, b"").args, (ssl.SSL_ERROR_SYSCALL, []))
        near.write("é")
        self.assertEqual(far.read(), "é".encode())

    def test_timeouts_after_connect(self) -> None:
        """settimeout() and setblocking() are obeyed after connect() and accept(), too: 502, or "want read"."""
        for end, other in (pair := self.pair(), pair[::-1]):
            end.settimeout(SHORT)
            self.assertEqual(self.error(end.read).errno, 502)
            end.setblocking(False)
            self.assertFalse(end.getblocking())
            self.assertEqual(end.gettimeout(), 0)
            for operation in (end.read, end.recv):
                self.assertEqual(self.error(operation).args, (ssl.SSL_ERROR_WANT_READ, []))
            end.setblocking(True)
            self.assertIsNone(end.gettimeout())
            other.write(b"in time")
            self.assertEqual(end.read(), b"in time")
            end.settimeout(PATIENCE)

    def test_timeout_of_an_implicit_handshake(self) -> None:
        """A handshake that read() begins times out as a read, one that write() begins as a write."""
        silent = self.udp(bound=True)
        sock = self.wrap(do_handshake_on_connect=False)
        sock.connect(silent.getsockname())
        sock.settimeout(SHORT)
        self.assertEqual(self.error(sock.do_handshake).errno, 504)
        self.assertEqual(self.error(sock.read).errno, 502)
        self.assertEqual(self.error(sock.write, b"x").errno, 503)

    def test_end(self) -> None:
        """A peer that has closed is an error each time, not an empty message."""
        near, far = self.pair()
        far.write(b"the last")
        far.settimeout(SHORT)
        far.unwrap().close()
        self.assertEqual(near.read(), b"the last")
        for _ in range(3):
            self.assertEqual(self.error(near.read).args, (ssl.SSL_ERROR_ZERO_RETURN, []))
        near.unwrap().close()
        self.assertRaises(ValueError, near.unwrap)
        near.close()
        near.close()
        self.assertEqual(near.fileno(), -1)

    def test_accept_gives_none(self) -> None:
        """accept() gives None when nobody comes, or something else than a client."""
        server = self.listen()
        for timeout in (0, SHORT):
            server.settimeout(timeout)
            self.assertIsNone(server.accept())
        server.settimeout(PATIENCE)
        self.udp().sendto(b"junk", server.getsockname())
        self.assertIsNone(server.accept())
        self.assertIsNone(server.listen(3))
        self.assertRaises(ValueError, server.connect, server.getsockname())

    def test_files_of_a_server(self) -> None:
        """A server without a certificate hears so from listen(): 298; a key without one, from connect(): 500."""
        server = self.wrap(self.udp(bound=True), server_side=True)
        self.assertEqual(self.error(server.listen, 1).errno, 298)
        sock = self.wrap(keyfile=self.certificates.client)
        self.assertEqual(self.error(sock.connect, server.getsockname()).errno, 500)
        sock = self.wrap(cert_reqs=ssl.CERT_REQUIRED, ca_certs="/nowhere/at/all.pem")
        self.assertEqual(self.error(sock.connect, server.getsockname()).args[0], 0)

    def test_failed_connect_leaves_other_descriptors_alone(self) -> None:
        """What fails to connect closes its own descriptor once, and not whoever has its number next."""
        if os.name != "posix":
            self.skipTest("a socket's number is no descriptor here")
        silent = self.udp(bound=True)
        nobody = self.udp(bound=True)
        addresses = {504: silent.getsockname(), 505: nobody.getsockname()}
        nobody.close()
        for expected, address in addresses.items():
            with self.subTest(errno=expected):
                plain = self.udp()
                sock = ssl.wrap_socket(plain)
                sock.settimeout(SHORT)
                number = sock.fileno()
                self.assertEqual(plain.fileno(), -1)
                self.assertEqual(self.error(sock.connect, address).errno, expected)
                sock.close()
                reader, writer = os.pipe()
                try:
                    if reader != number:
                        os.dup2(reader, number)  # somebody else's descriptor now
                    sock.close()
                    plain.close()
                    del sock, plain
                    gc.collect()
                    os.write(writer, b"still there")
                    self.assertEqual(os.read(number, 100), b"still there")
                finally:
                    for descriptor in {reader, writer, number}:
                        os.close(descriptor)
