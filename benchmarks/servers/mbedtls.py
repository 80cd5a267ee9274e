"""python-mbedtls: one UDP socket, a ``TLSWrappedBuffer`` for each peer."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any

from mbedtls import pk, tls, x509
from mbedtls.exceptions import TLSError

from .job import LARGEST_MESSAGE, SHORTEST, Job, listening, new_socket, parse, understand

LIBRARY = f"Python {platform.python_version()}, python-mbedtls {importlib.metadata.version('python-mbedtls')}"
CIPHERS = {"ECDHE-ECDSA-AES128-GCM-SHA256": "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256"}
LARGEST_FLIGHT = 16_384
_OVER = tls.HandshakeStep.HANDSHAKE_OVER


class Peer:
    """What is known of an address."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer
        self.established = False
        self.received = 0


class Server:
    """All of them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._sock = new_socket()
        self._peers: dict[Any, Peer] = {}
        self._address: Any = None
        certificate = x509.CRT.from_PEM(Path(job.certificate).read_text(encoding="ascii"))
        key = pk.ECC.from_PEM(Path(job.key).read_text(encoding="ascii"))
        self._context = tls.ServerContext(
            tls.DTLSConfiguration(
                validate_certificates=False,
                certificate_chain=((certificate,), key),
                ciphers=(CIPHERS[job.cipher],),
                lowest_supported_version=tls.DTLSVersion.DTLSv1_2,
            )
        )
        self._unproved = self._new_buffer()

    def serve(self) -> None:
        """Serve until the process is ended."""
        listening(self._sock.getsockname()[1], LIBRARY)
        while True:
            try:
                datagram, self._address = self._sock.recvfrom(LARGEST_MESSAGE)
            except BlockingIOError:  # it repeats nothing by itself
                continue
            peer = self._peers.get(self._address)
            if peer is None:
                self._judge_hello(datagram)
                continue
            peer.buffer.receive_from_network(datagram)
            if peer.established:
                self._take_message(peer)
            else:
                self._shake_hands(peer)

    def _new_buffer(self) -> Any:
        buffer = self._context.wrap_buffers()
        buffer.setmtu(self._job.mtu)
        return buffer

    def _judge_hello(self, datagram: bytes) -> None:
        buffer = self._unproved
        buffer.setcookieparam(repr(self._address).encode())
        buffer.receive_from_network(datagram)
        peer = Peer(buffer)
        try:
            self._shake_hands(peer)
        except tls.HelloVerifyRequest:
            self._flush(buffer)
            return
        self._unproved = self._new_buffer()
        self._peers[self._address] = peer

    def _shake_hands(self, peer: Peer) -> None:
        while peer.buffer._handshake_state is not _OVER:  # noqa: SLF001 - as its own TLSWrappedSocket does
            try:
                peer.buffer.do_handshake()
            except tls.WantReadError:
                break
            except tls.WantWriteError:
                self._flush(peer.buffer)
        else:
            peer.established = True
        self._flush(peer.buffer)

    def _flush(self, buffer: Any) -> None:
        while flight := buffer.peek_outgoing(LARGEST_FLIGHT):
            buffer.consume_outgoing(len(flight))
            for at in range(0, len(flight), self._job.mtu):
                self._sock.sendto(flight[at : at + self._job.mtu], self._address)

    def _take_message(self, peer: Peer) -> None:
        try:
            message = peer.buffer.read(LARGEST_MESSAGE)
        except tls.WantReadError:
            return
        except TLSError:  # it has no other word for close_notify
            message = b""
        if not message:
            peer.buffer.shutdown()
            self._flush(peer.buffer)
            del self._peers[self._address]
        elif len(message) < SHORTEST:
            count, answer = understand(message, peer.received)
            for _ in range(count):
                self._send(peer.buffer, self._job.message)
            self._send(peer.buffer, answer)
        elif self._job.echo:
            self._send(peer.buffer, message)
        else:
            peer.received += 1

    def _send(self, buffer: Any, message: bytes) -> None:
        amount = buffer.write(message)
        self._sock.sendto(buffer.peek_outgoing(amount), self._address)
        buffer.consume_outgoing(amount)


if __name__ == "__main__":
    Server(parse(sys.argv)).serve()
