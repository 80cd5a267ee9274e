"""What goes over the wire while hands are shaken: cookies, and what is repeated."""
# ruff: noqa: PT009, PT027, PLR2004 - these are tests of unittest, and their numbers are expectations

from __future__ import annotations

import os
import select
from datetime import timedelta
from typing import Any

from dtls.test.support import ssl
from dtls.wire import (
    DTLS_1_0,
    DTLS_1_2,
    ContentType,
    HandshakeType,
    build_handshake,
    build_record,
    split_fragments_untrusted,
    split_records_untrusted,
)

from .case import Case

# Groups (P-256, P-384) and signatures (RSA with SHA-256, in both paddings), without which no server can choose.
_EXTENSIONS = bytes.fromhex("000a 0006 0004 0017 0018 000d 0006 0004 0401 0804")
_SUITES = bytes.fromhex("c02f c030")  # ECDHE-RSA with AES-GCM


def client_hello(random: bytes, cookie: bytes = b"", *, number: int = 0) -> bytes:
    """A datagram with a ClientHello, the client's message of that number."""
    body = (
        DTLS_1_2.to_bytes(2, "big")
        + random
        + b"\x00"  # no session id
        + bytes([len(cookie)])
        + cookie
        + len(_SUITES).to_bytes(2, "big")
        + _SUITES
        + b"\x01\x00"  # no compression
        + len(_EXTENSIONS).to_bytes(2, "big")
        + _EXTENSIONS
    )
    return build_record(
        ContentType.HANDSHAKE, DTLS_1_0, 0, number, build_handshake(HandshakeType.CLIENT_HELLO, number, body)
    )


def first_message(datagram: bytes) -> Any:
    """The handshake message that a datagram begins with, or a piece of one."""
    record = split_records_untrusted(datagram)[0]
    return split_fragments_untrusted(record.fragment)[0]


class CookieTests(Case):
    """A server keeps nothing for a peer that has not shown that it can be reached at its address."""

    def ask(self, sock: Any, hello: bytes, server: Any) -> Any:
        """The server's answer to a ClientHello: its first message."""
        sock.sendto(hello, server)
        return first_message(sock.recv(65_535))

    def check_new_cookie(self, answer: Any, asked_with: str = "no cookie") -> bytes:
        """Check that an answer is a HelloVerifyRequest; its cookie."""
        self.assertEqual(answer.message_type, HandshakeType.HELLO_VERIFY_REQUEST, asked_with)
        cookie: bytes = answer.body[3:]
        self.assertEqual(answer.body[2], len(cookie))
        self.assertGreaterEqual(len(cookie), 16)
        return cookie

    def test_cookie_is_verified(self) -> None:
        """A ClientHello without the right cookie gets a new one and no association; with it, a ServerHello."""
        acceptor = self.acceptor()
        sock, other = self.udp(bound=True), self.udp(bound=True)
        random = os.urandom(32)
        cookie = self.check_new_cookie(self.ask(sock, client_hello(random), acceptor.address))
        wrong = {
            "one bit is another": bytes([*cookie[:-1], cookie[-1] ^ 1]),
            "its beginning is another": bytes([cookie[0] ^ 1, *cookie[1:]]),
            "it is cut short": cookie[:-1],
            "it is too long": cookie + b"\0",
            "it is made up": bytes(len(cookie)),
            "there is none": b"",
        }
        for what, bad in wrong.items():
            answer = self.ask(sock, client_hello(random, bad, number=1), acceptor.address)
            self.assertNotEqual(self.check_new_cookie(answer, what), bad)
            self.assertTrue(acceptor.idle(), what)
        answer = self.ask(other, client_hello(random, cookie, number=1), acceptor.address)
        self.check_new_cookie(answer, "it was given to another address")
        answer = self.ask(sock, client_hello(os.urandom(32), cookie, number=1), acceptor.address)
        self.check_new_cookie(answer, "it was given to another ClientHello")
        self.assertTrue(acceptor.idle())

        answer = self.ask(sock, client_hello(random, cookie, number=1), acceptor.address)
        self.assertEqual(answer.message_type, HandshakeType.SERVER_HELLO)
        far, address = acceptor.take()
        self.closing(far)
        self.assertEqual(address, sock.getsockname())
        self.assertEqual(acceptor.errors, [])

    def test_cookie_costs_less_than_it_was_asked_with(self) -> None:
        """The answer to a stranger is no longer than the question, so that nobody is flooded by way of us."""
        acceptor = self.acceptor()
        sock = self.udp(bound=True)
        hello = client_hello(os.urandom(32))
        sock.sendto(hello, acceptor.address)
        self.assertLessEqual(len(sock.recv(65_535)), len(hello))

    def test_junk_is_not_answered(self) -> None:
        """What is no ClientHello gets no answer, and does not keep others from theirs."""
        server = self.echo_server()
        sock = self.udp(bound=True)
        good = client_hello(os.urandom(32))
        for junk in (b"", b"junk", good[:20], good[:-1], bytes(1200), b"\x17" + good[1:]):
            sock.sendto(junk, server.address)
        self.check_new_cookie(self.ask(sock, good, server.address))
        sock.setblocking(False)
        self.assertRaises(BlockingIOError, sock.recv, 100)
        self.check_echo(self.client(server.address))


class TimerTests(Case):
    """get_timeout() and handle_timeout(), with which users of non-blocking sockets repeat what was lost."""

    def check_timer(self, sock: Any, peer: Any) -> tuple[bytes, bytes]:
        """Check that a timer runs, and what is repeated when it is due: what ``peer`` gets before and after."""
        first = peer.recv(65_535)
        before = sock.get_timeout()
        self.assertIsInstance(before, timedelta)
        self.assertIs(sock.handle_timeout(), False)
        self.assertGreater(before, timedelta(0))
        self.assertLessEqual(before, timedelta(seconds=1))
        select.select([], [], [], 0.02)
        self.assertLess(sock.get_timeout(), before)
        while peer.fileno() in select.select([peer], [], [], 0)[0]:  # pragma: no cover - what else was sent
            peer.recv(65_535)
        while remaining := sock.get_timeout():
            select.select([], [], [], remaining.total_seconds())
        self.assertEqual(sock.get_timeout(), timedelta(0))
        self.assertIs(sock.handle_timeout(), True)
        second = peer.recv(65_535)
        self.assertIs(sock.handle_timeout(), False)
        self.assertGreater(sock.get_timeout(), timedelta(0))
        return first, second

    def test_client_repeats_its_hello(self) -> None:
        """A server that says nothing is sent the ClientHello once more."""
        silent = self.udp(bound=True)
        sock = self.wrap(do_handshake_on_connect=False)
        sock.setblocking(False)
        sock.connect(silent.getsockname())
        self.assertEqual(self.error(sock.do_handshake).args[0], ssl.SSL_ERROR_WANT_READ)
        first, second = self.check_timer(sock, silent)
        messages = [first_message(datagram) for datagram in (first, second)]
        self.assertEqual(messages[0].message_type, HandshakeType.CLIENT_HELLO)
        self.assertEqual(messages[0], messages[1])
        sequences = [split_records_untrusted(datagram)[0].sequence for datagram in (first, second)]
        self.assertLess(*sequences)

    def test_server_repeats_its_flight(self) -> None:
        """So does a server to its client."""
        acceptor = self.acceptor()
        sock = self.udp(bound=True)
        random = os.urandom(32)
        sock.sendto(client_hello(random), acceptor.address)
        cookie = first_message(sock.recv(65_535)).body[3:]
        sock.sendto(client_hello(random, cookie, number=1), acceptor.address)
        far, _ = acceptor.take()
        self.closing(far).setblocking(False)
        self.assertEqual(self.error(far.do_handshake).args[0], ssl.SSL_ERROR_WANT_READ)
        first, second = self.check_timer(far, sock)
        messages = [first_message(datagram) for datagram in (first, second)]
        self.assertEqual(messages[0].message_type, HandshakeType.SERVER_HELLO)
        self.assertEqual(messages[0], messages[1])

    def test_nothing_is_due_otherwise(self) -> None:
        """Neither an association that stands nor a listening socket has anything to repeat."""
        acceptor = self.acceptor()
        near = self.wrap(do_handshake_on_connect=False)
        near.setblocking(False)
        near.connect(acceptor.address)
        ends = [near]
        shaken: set[Any] = set()
        while len(shaken) < 2:
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLError as error:
                    self.assertEqual(error.args[0], ssl.SSL_ERROR_WANT_READ)
                    self.assertIsInstance(end.get_timeout(), timedelta)
                else:
                    shaken.add(end)
            if len(ends) == 1 and not acceptor.idle():
                far, _ = acceptor.take()
                self.closing(far).setblocking(False)
                ends.append(far)
            select.select(ends, [], [], 0.01)
        for end in (*ends, self.listen()):
            self.assertIsNone(end.get_timeout())
            self.assertIs(end.handle_timeout(), False)
