"""What connects to a server, as PyDTLS's first tests had it."""
# ruff: noqa: PT009, PT027 - these are tests of unittest

from __future__ import annotations

import errno
import gc
import os
import select
import unittest
from datetime import timedelta

from dtls.test.support import PATIENCE, ssl

from .case import Case


class NetworkedTests(Case):
    """Clients of a server that is simply there."""

    def test_connect(self) -> None:
        """connect() shakes hands; the peer's certificate counts if it is asked for, and unwrap() ends it all."""
        server = self.echo_server()
        sock = self.client(server.address, cert_reqs=ssl.CERT_NONE)
        self.assertEqual(sock.getpeercert(), {})
        self.check_echo(sock)
        sock.unwrap().close()

        for trusted in ({}, {"ca_certs": self.certificates.other_root}):
            sock = self.wrap(cert_reqs=ssl.CERT_REQUIRED, **trusted)
            with self.assertRaises(ssl.SSLError) as caught:
                sock.connect(server.address)
            self.assertEqual(caught.exception.args[0], ssl.SSL_ERROR_SSL)
            self.assertIn(b"certificate verify failed", caught.exception.errqueue[-1][1])
            sock.close()

        sock = self.client(server.address, cert_reqs=ssl.CERT_REQUIRED, ca_certs=self.certificates.root)
        self.check_echo(sock)
        sock.unwrap().close()

    def test_connect_ex(self) -> None:
        """connect_ex() gives 0, and the number of the error: 504 for silence, 505 for nobody, 1 for OpenSSL's."""
        server = self.echo_server()
        trusting = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": self.certificates.root}
        sock = self.wrap(**trusting)
        self.assertEqual(sock.connect_ex(server.address), 0)
        self.assertTrue(sock.getpeercert())
        sock.unwrap().close()

        suspicious = self.wrap(cert_reqs=ssl.CERT_REQUIRED, ca_certs=self.certificates.other_root)
        self.assertEqual(suspicious.connect_ex(server.address), ssl.SSL_ERROR_SSL)

        silent = self.udp(bound=True)
        hurried = self.wrap(**trusting)
        hurried.settimeout(0.05)
        self.assertEqual(hurried.connect_ex(silent.getsockname()), 504)
        address = silent.getsockname()
        silent.close()
        self.assertEqual(self.wrap(**trusting).connect_ex(address), 505)

    def test_non_blocking_connect_ex(self) -> None:
        """A handshake goes on piece by piece on a non-blocking socket, with select() and get_timeout()."""
        server = self.echo_server()
        sock = self.wrap(
            cert_reqs=ssl.CERT_REQUIRED, ca_certs=self.certificates.root, do_handshake_on_connect=False
        )
        sock.setblocking(False)
        self.assertIn(sock.connect_ex(server.address), (0, errno.EINPROGRESS, errno.EWOULDBLOCK))
        waits = 0
        while True:
            try:
                sock.do_handshake()
            except ssl.SSLError as error:
                self.assertEqual(error.args[0], ssl.SSL_ERROR_WANT_READ)
            else:
                break
            waits += 1
            remaining = sock.get_timeout()
            self.assertIsInstance(remaining, timedelta)
            if not select.select([sock], [], [], remaining.total_seconds())[0]:
                self.assertIs(sock.handle_timeout(), True)
        self.assertGreater(waits, 0)
        self.assertTrue(sock.getpeercert())
        self.assertIsNone(sock.get_timeout())
        sock.setblocking(True)
        self.check_echo(sock)

    def test_get_server_certificate(self) -> None:
        """ssl.get_server_certificate() asks servers of datagrams, too, and verifies what they show if told to."""
        server = self.echo_server()
        for protocol in (ssl.PROTOCOL_DTLSv1, ssl.PROTOCOL_DTLSv1_2, ssl.PROTOCOL_DTLS):
            with self.subTest(protocol=ssl.get_protocol_name(protocol)):
                pem = ssl.get_server_certificate(server.address, protocol)
                self.assertIsInstance(pem, str)
                with open(self.certificates.server, encoding="ascii") as file:  # noqa: PTH123 - as users do
                    self.assertIn(pem.strip(), file.read())
                trusted = ssl.get_server_certificate(
                    server.address, protocol, ca_certs=self.certificates.root
                )
                self.assertEqual(trusted, pem)
                with self.assertRaises(ssl.SSLError):
                    ssl.get_server_certificate(
                        server.address, protocol, ca_certs=self.certificates.other_root
                    )

    @unittest.skipUnless(os.name == "posix", "a socket's number is no descriptor elsewhere")
    def test_makefile_close(self) -> None:
        """The descriptor that fileno() gives stays open when a file is closed, and goes with the socket."""
        server = self.echo_server()
        sock = self.client(server.address)
        sock.settimeout(PATIENCE)
        number = sock.fileno()
        sock.makefile().close()
        os.read(number, 0)
        sock.close()
        gc.collect()
        with self.assertRaises(OSError) as caught:
            os.read(number, 0)
        self.assertEqual(caught.exception.errno, errno.EBADF)
