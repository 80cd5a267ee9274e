"""pyOpenSSL used directly, as its users write it: a ``Connection`` between memory BIOs for each peer."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import platform
import sys
from typing import Any

import OpenSSL
from OpenSSL import SSL

from .job import LARGEST_MESSAGE, SHORTEST, Job, listening, new_socket, parse, understand

LIBRARY = (
    f"Python {platform.python_version()}, "
    f"{SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()}, pyOpenSSL {OpenSSL.__version__}"
)


def new_context(job: Job) -> SSL.Context:
    """For DTLS 1.2 with one suite."""
    context = SSL.Context(SSL.DTLS_SERVER_METHOD)
    context.use_certificate_chain_file(job.certificate)
    context.use_privatekey_file(job.key)
    context.set_cipher_list(job.cipher.encode())
    context.set_session_id(b"benchmark")
    return context


class Peer:
    """What is known of an address."""

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        self.established = False
        self.received = 0


class Server:
    """All of them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._sock = new_socket()
        self._peers: dict[Any, Peer] = {}
        self._secret = os.urandom(32)
        self._address: Any = None
        self._context = new_context(job)
        self._context.set_cookie_generate_callback(self._cookie)
        self._context.set_cookie_verify_callback(
            lambda connection, given: hmac.compare_digest(self._cookie(connection), given)
        )
        self._unproved = self._new_connection()

    def serve(self) -> None:
        """Serve until the process is ended."""
        listening(self._sock.getsockname()[1], LIBRARY)
        while True:
            try:
                datagram, self._address = self._sock.recvfrom(LARGEST_MESSAGE)
            except BlockingIOError:
                self._repeat_what_is_due()
                continue
            peer = self._peers.get(self._address)
            if peer is None:
                self._judge_hello(datagram)
                continue
            peer.connection.bio_write(datagram)
            if peer.established or self._shake_hands(peer):
                self._take_messages(peer)

    def _cookie(self, _: Any) -> bytes:
        return hmac.digest(self._secret, repr(self._address).encode(), hashlib.sha256)

    def _new_connection(self) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_accept_state()
        connection.set_ciphertext_mtu(self._job.mtu)
        return connection

    def _judge_hello(self, datagram: bytes) -> None:
        connection = self._unproved
        connection.bio_write(datagram)
        try:
            connection.DTLSv1_listen()
        except SSL.Error:
            self._flush(connection)
            return
        self._unproved = self._new_connection()
        peer = self._peers[self._address] = Peer(connection)
        self._shake_hands(peer)

    def _shake_hands(self, peer: Peer) -> bool:
        with contextlib.suppress(SSL.WantReadError):
            peer.connection.do_handshake()
            peer.established = True
        self._flush(peer.connection)
        return peer.established

    def _flush(self, connection: SSL.Connection) -> None:
        # A memory BIO has no datagram borders: what is cut off goes into the next datagram.
        with contextlib.suppress(SSL.WantReadError):
            while True:
                self._sock.sendto(connection.bio_read(self._job.mtu), self._address)

    def _take_messages(self, peer: Peer) -> None:
        connection = peer.connection
        try:
            message = connection.recv(LARGEST_MESSAGE)
        except SSL.WantReadError:
            return
        except SSL.ZeroReturnError:
            connection.shutdown()
            self._flush(connection)
            del self._peers[self._address]
            return
        if len(message) < SHORTEST:
            count, answer = understand(message, peer.received)
            for _ in range(count):
                self._send(connection, self._job.message)
            self._send(connection, answer)
        elif self._job.echo:
            self._send(connection, message)
        else:
            peer.received += 1

    def _send(self, connection: SSL.Connection, message: bytes) -> None:
        connection.send(message)
        self._sock.sendto(connection.bio_read(LARGEST_MESSAGE), self._address)

    def _repeat_what_is_due(self) -> None:
        for address, peer in self._peers.items():
            self._address = address
            if not peer.established and peer.connection.DTLSv1_handle_timeout():
                self._flush(peer.connection)


if __name__ == "__main__":
    Server(parse(sys.argv)).serve()
