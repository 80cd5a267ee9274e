"""What is compared: plain UDP sockets, this package, pyOpenSSL as people use it. One interface for the three.

All use blocking sockets on loopback, one peer at a time, and the two that encrypt the same certificate, suite and MTU.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import hmac
import os
import select
import socket
from typing import Any, NamedTuple

import dtls

LOOPBACK = "127.0.0.1"
CIPHER = "ECDHE-ECDSA-AES128-GCM-SHA256"
MTU = 1350
LARGEST_DATAGRAM = 65_535
PATIENCE = 10.0
"""Seconds after which a benchmark that hangs fails."""
RECEIVE_BUFFER = 4 * 2**20
"""Bytes asked of the kernel, so that bursts measure the stacks and not the queue between them."""


class Credentials(NamedTuple):
    """PEM data of a server's certificate and key, and of what clients trust."""

    certificate: bytes
    key: bytes
    authority: bytes


class Peer(abc.ABC):
    """One association."""

    @abc.abstractmethod
    def send(self, message: bytes) -> None:
        """Send one message."""

    @abc.abstractmethod
    def recv(self) -> bytes:
        """The next message; empty at the end."""

    @abc.abstractmethod
    def close(self) -> None:
        """Say that it is the end."""


class Stack(abc.ABC):
    """A way to exchange messages over UDP."""

    name: str

    @abc.abstractmethod
    def listen(self, credentials: Credentials) -> int:
        """Be a server; its port."""

    @abc.abstractmethod
    def accept(self) -> Peer:
        """The next peer."""

    @abc.abstractmethod
    def prepare(self, credentials: Credentials) -> None:
        """Be a client."""

    @abc.abstractmethod
    def connect(self, port: int) -> Peer:
        """A new association with the server."""


def new_socket() -> socket.socket:
    """A UDP socket with a roomy receive buffer."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


# --- plain UDP -------------------------------------------------------------------------------------------------------

_HELLO, _BYE = b"\x00hello", b"\x00bye"


class _PlainClient(Peer):
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, message: bytes) -> None:
        self._sock.send(message)

    def recv(self) -> bytes:
        return self._sock.recv(LARGEST_DATAGRAM)

    def close(self) -> None:
        self._sock.send(_BYE)
        self._sock.close()


class _PlainPeerOfServer(Peer):
    def __init__(self, sock: socket.socket, address: Any) -> None:
        self._sock, self._address = sock, address

    def send(self, message: bytes) -> None:
        self._sock.sendto(message, self._address)

    def recv(self) -> bytes:
        message, self._address = self._sock.recvfrom(LARGEST_DATAGRAM)
        return b"" if message == _BYE else message

    def close(self) -> None:
        pass


class PlainUdp(Stack):
    """No security: what the kernel and Python cost. Its "handshake" is one round trip."""

    name = "plain UDP"

    def listen(self, credentials: Credentials) -> int:  # noqa: ARG002 - it has no use for them
        self._sock = new_socket()
        self._sock.bind((LOOPBACK, 0))
        self._sock.settimeout(PATIENCE)
        return int(self._sock.getsockname()[1])

    def accept(self) -> Peer:
        message, address = self._sock.recvfrom(LARGEST_DATAGRAM)
        assert message == _HELLO
        self._sock.sendto(_HELLO, address)
        return _PlainPeerOfServer(self._sock, address)

    def prepare(self, credentials: Credentials) -> None:
        pass

    def connect(self, port: int) -> Peer:
        sock = new_socket()
        sock.settimeout(PATIENCE)
        sock.connect((LOOPBACK, port))
        peer = _PlainClient(sock)
        peer.send(_HELLO)
        assert peer.recv() == _HELLO
        return peer


# --- this package ----------------------------------------------------------------------------------------------------


class _OwnPeer(Peer):
    def __init__(self, sock: dtls.DTLSSocket) -> None:
        self._sock = sock
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.send = sock.send  # type: ignore[method-assign, assignment]  # as users call it, without a layer around
        self.recv = sock.recv  # type: ignore[method-assign]

    def send(self, message: bytes) -> None:  # pragma: no cover - replaced above
        raise NotImplementedError

    def recv(self) -> bytes:  # pragma: no cover - replaced above
        raise NotImplementedError

    def close(self) -> None:
        self._sock.close()


class ThisPackage(Stack):
    """Blocking sockets of this package."""

    name = "dtls"

    def listen(self, credentials: Credentials) -> int:
        context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
        context.load_cert_chain(credentials.certificate, credentials.key)
        context.set_ciphers(CIPHER)
        context.mtu = MTU
        self._server = dtls.create_server((LOOPBACK, 0), context=context)
        self._server.settimeout(PATIENCE)
        return int(self._server.getsockname()[1])

    def accept(self) -> Peer:
        return _OwnPeer(self._server.accept()[0])

    def prepare(self, credentials: Credentials) -> None:
        self._context = dtls.create_default_context(cadata=credentials.authority)
        self._context.set_ciphers(CIPHER)
        self._context.mtu = MTU

    def connect(self, port: int) -> Peer:
        return _OwnPeer(dtls.create_connection((LOOPBACK, port), PATIENCE, context=self._context))


# --- pyOpenSSL -------------------------------------------------------------------------------------------------------


class _PyOpenSslPeer(Peer):
    """An ``OpenSSL.SSL.Connection`` between memory BIOs, pumped by hand.

    :param address: of the peer, if ``sock`` is a server's and not connected.
    """

    def __init__(self, connection: Any, sock: socket.socket, address: Any = None) -> None:
        from OpenSSL import SSL  # noqa: PLC0415 - only where it is measured

        self._connection, self._sock, self._address = connection, sock, address
        self._want_read = SSL.WantReadError
        self._closed = SSL.ZeroReturnError

    def handshake(self) -> None:
        while True:
            try:
                self._connection.do_handshake()
            except self._want_read:
                self._flush()
                if select.select([self._sock], [], [], self._connection.DTLSv1_get_timeout())[0]:
                    self._connection.bio_write(self._sock.recv(LARGEST_DATAGRAM))
                else:
                    self._connection.DTLSv1_handle_timeout()
            else:
                self._flush()
                return

    def _flush(self) -> None:
        # A memory BIO has no datagram borders: what is cut off goes into the next datagram.
        with contextlib.suppress(self._want_read):
            while True:
                self._transmit(self._connection.bio_read(MTU))

    def _transmit(self, datagram: bytes) -> None:
        if self._address is None:
            self._sock.send(datagram)
        else:
            self._sock.sendto(datagram, self._address)

    def send(self, message: bytes) -> None:
        self._connection.send(message)
        self._transmit(self._connection.bio_read(LARGEST_DATAGRAM))

    def recv(self) -> bytes:
        while True:
            self._connection.bio_write(self._sock.recv(LARGEST_DATAGRAM))
            try:
                message: bytes = self._connection.recv(LARGEST_DATAGRAM)
            except self._want_read:
                continue
            except self._closed:
                return b""
            return message

    def close(self) -> None:
        if self._address is None:
            self._connection.shutdown()
            self._flush()
            self._sock.close()


class PyOpenSsl(Stack):
    """pyOpenSSL used directly, as its users write it."""

    name = "pyOpenSSL"

    def listen(self, credentials: Credentials) -> int:
        from OpenSSL import SSL, crypto  # noqa: PLC0415 - only where it is measured

        self._ssl = SSL
        self._context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        certificate = crypto.load_certificate(crypto.FILETYPE_PEM, credentials.certificate)
        self._context.use_certificate(certificate)
        self._context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, credentials.key))
        self._context.set_cipher_list(CIPHER.encode())
        secret = os.urandom(32)

        def cookie(_: Any) -> bytes:
            return hmac.new(secret, repr(self._address).encode(), hashlib.sha256).digest()

        self._address: Any = None
        self._context.set_cookie_generate_callback(cookie)
        self._context.set_cookie_verify_callback(lambda c, given: hmac.compare_digest(cookie(c), given))
        self._sock = new_socket()
        self._sock.bind((LOOPBACK, 0))
        self._sock.settimeout(PATIENCE)
        return int(self._sock.getsockname()[1])

    def accept(self) -> Peer:
        connection = self._new_connection()
        connection.set_accept_state()
        while True:
            datagram, self._address = self._sock.recvfrom(LARGEST_DATAGRAM)
            connection.bio_write(datagram)
            try:
                connection.DTLSv1_listen()
            except self._ssl.Error:
                with contextlib.suppress(self._ssl.WantReadError):
                    self._sock.sendto(connection.bio_read(MTU), self._address)
            else:
                break
        peer = _PyOpenSslPeer(connection, self._sock, self._address)
        peer.handshake()
        return peer

    def prepare(self, credentials: Credentials) -> None:
        from OpenSSL import SSL, crypto  # noqa: PLC0415 - only where it is measured

        self._ssl = SSL
        self._context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        store = self._context.get_cert_store()
        assert store is not None
        store.add_cert(crypto.load_certificate(crypto.FILETYPE_PEM, credentials.authority))
        self._context.set_verify(SSL.VERIFY_PEER, None)
        self._context.set_cipher_list(CIPHER.encode())

    def connect(self, port: int) -> Peer:
        sock = new_socket()
        sock.settimeout(PATIENCE)
        sock.connect((LOOPBACK, port))
        connection = self._new_connection()
        connection.set_connect_state()
        peer = _PyOpenSslPeer(connection, sock)
        peer.handshake()
        return peer

    def _new_connection(self) -> Any:
        connection = self._ssl.Connection(self._context, None)
        connection.set_ciphertext_mtu(MTU)
        return connection


STACKS: tuple[type[Stack], ...] = (PlainUdp, ThisPackage, PyOpenSsl)
