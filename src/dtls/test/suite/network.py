"""A network that loses, overtakes and repeats, always in the same way; and peers that mean no good."""
# ruff: noqa: PT009, PLR2004 - these are tests of unittest, and their numbers are expectations

from __future__ import annotations

import os
import threading
from typing import Any

from dtls.test.support import SHORT, Worker, ssl
from dtls.wire import (
    ContentType,
    HandshakeType,
    build_handshake,
    split_fragments_untrusted,
    split_records_untrusted,
)

from .case import Case
from .handshakes import client_hello
from .insider import Insider


def _all(_sender: str, _number: int, datagram: bytes) -> list[bytes]:
    return [datagram]


def _twice(_sender: str, _number: int, datagram: bytes) -> list[bytes]:
    return [datagram, datagram]


def _what_is_in(datagram: bytes) -> set[str]:
    """Names of the messages that a datagram of a handshake holds, or that end in it."""
    names = set()
    for record in split_records_untrusted(datagram):
        if record.epoch:
            names.add("PROTECTED")
        elif record.content_type == ContentType.CHANGE_CIPHER_SPEC:
            names.add("CHANGE_CIPHER_SPEC")
        elif record.content_type == ContentType.HANDSHAKE:
            for fragment in split_fragments_untrusted(record.fragment):
                if fragment.offset + len(fragment.body) == fragment.length:
                    names.add(HandshakeType(fragment.message_type).name)
    return names


class _Losing:
    """A network that loses the first datagrams in which these messages of a sender's end, so many of each."""

    def __init__(self, sender: str, name: str, count: int = 1, *, after: int = 0) -> None:
        self._sender, self._name = sender, name
        self._from, self._to = after, after + count
        self._seen = 0
        self.lost = 0

    def __call__(self, sender: str, _number: int, datagram: bytes) -> list[bytes]:
        if sender == self._sender and self._name in _what_is_in(datagram):
            self._seen += 1
            if self._from < self._seen <= self._to:
                self.lost += 1
                return []
        return [datagram]


class _Reversing:
    """A network that delivers the datagrams of each flight in reverse order."""

    _LAST = frozenset({"CLIENT_HELLO", "HELLO_VERIFY_REQUEST", "SERVER_HELLO_DONE", "PROTECTED"})

    def __init__(self) -> None:
        self._held: dict[str, list[bytes]] = {"client": [], "server": []}
        self.overtaken = {"client": 0, "server": 0}

    def __call__(self, sender: str, _number: int, datagram: bytes) -> list[bytes]:
        flight = self._held[sender]
        flight.append(datagram)
        if self._LAST.isdisjoint(_what_is_in(datagram)):
            return []
        self.overtaken[sender] += len(flight) - 1
        self._held[sender] = []
        return flight[::-1]


class NetworkTests(Case):
    """Real sockets, with a relay between them."""

    def test_lost_flights(self) -> None:
        """A handshake is completed whichever of its flights is lost, and when several are."""
        server = self.echo_server(certfile=self.certificates.long_chain)
        networks = {
            "ClientHello": _Losing("client", "CLIENT_HELLO"),
            "HelloVerifyRequest": _Losing("server", "HELLO_VERIFY_REQUEST"),
            "ClientHello with the cookie": _Losing("client", "CLIENT_HELLO", after=1),
            "beginning of the server's flight": _Losing("server", "SERVER_HELLO"),
            "end of the server's flight": _Losing("server", "SERVER_HELLO_DONE"),
            "the client's second flight": _Losing("client", "CLIENT_KEY_EXCHANGE"),
            "the server's last flight": _Losing("server", "CHANGE_CIPHER_SPEC"),
            "two in a row": _Losing("client", "CLIENT_KEY_EXCHANGE", 2),
        }
        # All at once, since each waits for a timer.
        workers = [
            Worker(self.client, self.relay(server.address, network).address) for network in networks.values()
        ]
        for (what, network), worker in zip(networks.items(), workers, strict=True):
            with self.subTest(lost=what):
                self.check_echo(worker.result())
                self.assertEqual(network.lost, 2 if what == "two in a row" else 1)

    def test_overtaken_datagrams(self) -> None:
        """A handshake is completed, and messages arrive, in another order than they were sent in."""
        root = self.certificates.root
        acceptor = self.acceptor(
            certfile=self.certificates.long_chain, cert_reqs=ssl.CERT_REQUIRED, ca_certs=root
        )
        network = _Reversing()
        relay = self.relay(acceptor.address, network)
        near, far = self.meet(acceptor, relay.address, certfile=self.certificates.long_client_chain)
        self.assertGreaterEqual(network.overtaken["server"], 1)
        self.assertGreaterEqual(network.overtaken["client"], 1)

        queue: list[bytes] = []

        def reverse(sender: str, _number: int, datagram: bytes) -> list[bytes]:
            if sender == "server":
                return [datagram]
            queue.append(datagram)
            return queue[::-1] if len(queue) == 5 else []

        relay.tap = reverse
        for number in range(5):
            near.write(b"%d" % number)
        self.assertEqual([far.read() for _ in range(5)], [b"4", b"3", b"2", b"1", b"0"])

    def test_repeated_datagrams(self) -> None:
        """What the network repeats is delivered once."""
        acceptor = self.acceptor()
        relay = self.relay(acceptor.address, _twice)
        near, far = self.meet(acceptor, relay.address)
        for number in range(5):
            near.write(b"%d" % number)
            far.write(b"%d" % -number)
        relay.tap = _all
        near.write(b"end")
        far.write(b"end")
        self.assertEqual([far.read() for _ in range(6)], [b"0", b"1", b"2", b"3", b"4", b"end"])
        self.assertEqual([near.read() for _ in range(6)], [b"0", b"-1", b"-2", b"-3", b"-4", b"end"])
        self.assertTrue(acceptor.idle())

    def test_lost_and_forged_messages(self) -> None:
        """A message that is lost stays lost, a forged one is dropped, and what follows arrives."""
        acceptor = self.acceptor()
        relay = self.relay(acceptor.address, _all)
        near, far = self.meet(acceptor, relay.address)

        def spoil(sender: str, _number: int, datagram: bytes) -> list[bytes]:
            if sender == "server":
                return [datagram]
            relay.tap = _all
            forged = datagram[:-1] + bytes([datagram[-1] ^ 1])
            alert = b"\x15" + datagram[1:3] + bytes(9) + b"\x02\x02\x28"
            return [forged, alert, b"", b"junk", client_hello(os.urandom(32))]

        relay.tap = spoil
        near.write(b"lost")
        near.write(b"not lost")
        self.assertEqual(far.read(), b"not lost")
        far.write(b"an answer")
        self.assertEqual(near.read(), b"an answer")

    def test_long_chain_over_small_datagrams(self) -> None:
        """A server's long chain is cut to the MTU that it was told, and put together again."""
        limit = 300
        told = threading.Event()

        def tell(connection: Any) -> None:
            connection.set_mtu(limit)
            told.set()

        sizes: list[int] = []

        def measure(sender: str, _number: int, datagram: bytes) -> list[bytes]:
            if sender == "server":
                sizes.append(len(datagram))
            return [datagram]

        server = self.echo_server(certfile=self.certificates.long_chain, cb_user_config_ssl=tell)
        relay = self.relay(server.address, measure)
        sock = self.client(relay.address, cert_reqs=ssl.CERT_REQUIRED, ca_certs=self.certificates.root)
        self.assertEqual(len(sock.getpeercertchain()), 5)
        self.check_echo(sock)
        self.assertTrue(told.is_set())
        self.assertLessEqual(max(sizes), limit)
        self.assertGreater(len(sizes), 10)

    def test_renegotiation_is_refused(self) -> None:
        """A peer that has the keys and asks for a new handshake gets none; the association goes on."""
        for kind in (HandshakeType.CLIENT_HELLO, HandshakeType.HELLO_REQUEST):
            with self.subTest(kind.name):
                mine, other = self.pair(ciphers="ECDHE-RSA-AES128-GCM-SHA256")
                if kind is HandshakeType.HELLO_REQUEST:  # which servers send
                    mine, other = other, mine
                insider = Insider(mine)
                for length in (0, 60):
                    insider.send(ContentType.HANDSHAKE, build_handshake(kind, 0, bytes(length)))
                insider.send(ContentType.APPLICATION_DATA, b"after all that")
                self.assertEqual(other.read(), b"after all that")
                self.assertIsNone(other.get_timeout())
                other.write(b"still here")
                self.assertEqual(mine.read(), b"still here")
                mine.settimeout(SHORT)
                self.assertEqual(self.error(mine.read).errno, 502)
