"""What needs no conversation."""
# ruff: noqa: PT009, PT027 - these are tests of unittest

from __future__ import annotations

import contextlib
import gc
import platform
import unittest
import weakref
from typing import TYPE_CHECKING

from dtls.test.support import SHORT, ssl, until

from .case import Case

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """What goes in here goes without the collector's help."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class BasicSocketTests(Case):
    """Constants, and sockets by themselves."""

    def test_constants(self) -> None:
        """do_patch() adds constants to the ssl module, and leaves its own alone."""
        self.assertEqual((ssl.PROTOCOL_DTLSv1, ssl.PROTOCOL_DTLSv1_2, ssl.PROTOCOL_DTLS), (256, 258, 259))
        self.assertEqual(ssl.get_protocol_name(ssl.PROTOCOL_DTLSv1), "DTLSv1")
        self.assertEqual(ssl.get_protocol_name(ssl.PROTOCOL_DTLSv1_2), "DTLSv1.2")
        self.assertEqual(ssl.get_protocol_name(ssl.PROTOCOL_DTLS), "DTLS")
        for name in ("PROTOCOL_SSLv23", "PROTOCOL_TLSv1", "CERT_NONE", "CERT_OPTIONAL", "CERT_REQUIRED"):
            self.assertIn(name, dir(ssl))
        flags = {"NONE": 0, "UNTRUSTED": 1, "NO_ROOT": 2, "CHECK": 4, "IGNORE_ERROR": 8, "CLEAR_ERROR": 16}
        for name, value in flags.items():
            self.assertEqual(getattr(ssl, f"SSL_BUILD_CHAIN_FLAG_{name}"), value)

    def test_dtls_openssl_version(self) -> None:
        """The three forms of OpenSSL's version agree."""
        number, info = ssl.DTLS_OPENSSL_VERSION_NUMBER, ssl.DTLS_OPENSSL_VERSION_INFO
        text = ssl.DTLS_OPENSSL_VERSION
        self.assertIsInstance(number, int)
        self.assertGreaterEqual(number, 0x10101000)
        self.assertIsInstance(info, tuple)
        major, minor, fix, patch, status = info
        self.assertEqual((major, minor, fix), (number >> 28, number >> 20 & 0xFF, number >> 4 & 0xFF))
        self.assertIn(patch, range(27))
        self.assertIn(status, range(16))
        self.assertIsInstance(text, str)
        self.assertRegex(text, rf"^OpenSSL {major}\.{minor}\.{fix}\b")

    def test_ciphers(self) -> None:
        """Lists of ciphers are accepted; a bad one is noticed by connect(), and not before."""
        server = self.echo_server()
        for ciphers in ("ALL", "DEFAULT"):
            self.check_echo(self.client(server.address, cert_reqs=ssl.CERT_NONE, ciphers=ciphers))
        sock = self.wrap(cert_reqs=ssl.CERT_NONE, ciphers="^$:,;?*'dorothyx")
        with self.assertRaisesRegex(ssl.SSLError, "No cipher can be selected") as caught:
            sock.connect(server.address)
        self.assertEqual(caught.exception.errno, 501)

    @unittest.skipUnless(platform.python_implementation() == "CPython", "only CPython counts references")
    def test_refcycle(self) -> None:
        """A wrapped socket is in no reference cycle: new, failed, connected, accepted."""
        with _without_collection():
            sock = self.wrap_alone()
            gone = weakref.ref(sock)
            sock.close()
            del sock
            self.assertIsNone(gone())

            silent = self.udp(bound=True)
            sock = self.wrap_alone()
            sock.settimeout(SHORT)
            gone = weakref.ref(sock)
            self.error(sock.connect, silent.getsockname())
            sock.close()
            del sock
            self.assertIsNone(gone())

            acceptor = self.acceptor(do_handshake_on_connect=True)
            sock = self.wrap_alone()
            sock.connect(acceptor.address)
            far, _ = acceptor.take()
            both = weakref.ref(sock), weakref.ref(far)
            for end in (sock, far):
                end.close()
            del sock, far, end
            until(lambda: not any(reference() for reference in both))  # the accepting thread forgets soon

    def wrap_alone(self) -> ssl.SSLSocket:
        """A wrapped socket that nobody else knows."""
        return ssl.wrap_socket(self.udp())

    def test_wrapped_unconnected(self) -> None:
        """Unconnected, a wrapped socket is a plain one: it raises OSError as that does, and can be used as that."""
        sock = self.wrap()
        self.assertIsInstance(sock, ssl.SSLSocket)
        self.assertRaises(OSError, sock.send, b"x")
        self.assertRaises(OSError, sock.sendto, b"x", ("::" if ":" in self.way.host else "0.0.0.0", 0))  # noqa: S104 - port 0 leads nowhere
        self.assertIsNone(sock.cipher())
        for premature in (sock.get_timeout, sock.handle_timeout):
            self.assertRaises(AttributeError, premature)
        self.assertRaises(ValueError, sock.accept)
        other = self.udp(bound=True)
        sock.sendto(b"in plaintext", other.getsockname())
        message, address = other.recvfrom(100)
        self.assertEqual(message, b"in plaintext")
        other.sendto(b"an answer", address)
        self.assertEqual(sock.recvfrom(100), (b"an answer", other.getsockname()))
