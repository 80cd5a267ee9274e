"""Two associations and the link between them, in virtual time: nothing here waits, and nothing is random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtls.connection import Connection, ConnectionState, ReceivedClientHello
from dtls.events import DataReceived, HandshakeFailed
from dtls.reassembly import Message, Reassembler
from dtls.wire import (
    Record,
    build_hello_verify_request,
    split_fragments_untrusted,
    split_records_untrusted,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.context import Context
    from dtls.events import Event
    from dtls.session import DTLSSession

LATENCY = 0.01
OTHER = {"client": "server", "server": "client"}


class Pair:
    """A client and a server.

    ``tap(sender, index, datagram)`` says what arrives in a datagram's place, ``reorder(datagrams)`` in which order
    those arrive that are sent at a time. With ``cookies``, the server begins with a ClientHello whose cookie was
    verified; ``sent`` and the indices leave the exchange before that out.
    """

    def __init__(
        self,
        client: Context,
        server: Context,
        *,
        server_hostname: str | None = "localhost",
        tap: Callable[[str, int, bytes], list[bytes]] | None = None,
        reorder: Callable[[list[bytes]], list[bytes]] | None = None,
        cookies: bool = False,
        session: DTLSSession | None = None,
    ) -> None:
        self.now = 1000.0
        self.client = client.connection(self.now, server_hostname=server_hostname, session=session)
        hello = hello_with_cookie(self.client, self.now) if cookies else None
        self.server = server.connection(self.now, client_hello=hello)
        self.tap = tap
        self.reorder = reorder
        self.sent: list[tuple[str, bytes]] = []
        self.events: dict[str, list[Event]] = {"client": [], "server": []}
        self._counts = {"client": 0, "server": 0}
        self._in_flight: list[tuple[float, str, bytes]] = []

    def end(self, name: str) -> Connection:
        return self.client if name == "client" else self.server

    def pump(self, name: str) -> None:
        """Put what one end wants to send on the link."""
        datagrams = self.end(name).datagrams_to_send(self.now)
        for datagram in self.reorder(datagrams) if self.reorder else datagrams:
            index = self._counts[name]
            self._counts[name] += 1
            self.sent.append((name, datagram))
            arriving = [datagram] if self.tap is None else self.tap(name, index, datagram)
            self._in_flight += [(self.now + LATENCY, OTHER[name], arrival) for arrival in arriving]

    def deliver(self, receiver: str, datagram: bytes) -> list[Event]:
        """Hand a datagram over at once."""
        events = self.end(receiver).receive_datagram(datagram, self.now)
        self.events[receiver] += events
        self.pump(receiver)
        return events

    def settle(self) -> None:
        """Deliver what is on the link and what comes of it, without letting timers run out."""
        self.pump("client")
        self.pump("server")
        while self._in_flight:
            self._in_flight.sort(key=lambda entry: entry[0])
            at, receiver, datagram = self._in_flight.pop(0)
            self.now = max(self.now, at)
            self.deliver(receiver, datagram)

    def run(self, seconds: float = 120.0) -> None:
        """Let time pass until nothing is left to do, ``seconds`` at most."""
        until = self.now + seconds
        self.settle()
        while True:
            timeouts = [(end.next_timeout(), name) for name, end in self.ends()]
            due = [(at, name) for at, name in timeouts if at is not None and at <= until]
            if not due:
                return
            at, name = min(due)
            self.now = max(self.now, at)
            self.events[name] += self.end(name).handle_timeout(self.now)
            self.settle()

    def ends(self) -> list[tuple[str, Connection]]:
        return [("client", self.client), ("server", self.server)]

    def send(self, name: str, message: bytes) -> None:
        self.end(name).send(message, self.now)
        self.settle()

    def received(self, name: str) -> list[bytes]:
        return [event.data for event in self.events[name] if isinstance(event, DataReceived)]

    def failure(self, name: str) -> Exception | None:
        return next((event.error for event in self.events[name] if isinstance(event, HandshakeFailed)), None)

    @property
    def established(self) -> bool:
        return all(end.state is ConnectionState.ESTABLISHED for _, end in self.ends())

    def assert_talks(self) -> None:
        """Messages go both ways."""
        for name, other in OTHER.items():
            before = len(self.received(other))
            message = f"from the {name}".encode()
            self.send(name, message)
            assert self.received(other)[before:] == [message]


def losing(*lost: tuple[str, int]) -> Callable[[str, int, bytes], list[bytes]]:
    """A tap that lets these datagrams get lost: pairs of sender and index."""
    return lambda sender, index, datagram: [] if (sender, index) in lost else [datagram]


def received_client_hello(datagrams: list[bytes]) -> tuple[Message, Record]:
    """The ClientHello in datagrams of a client, and the record that completed it."""
    for first in range(6):
        reassembler = Reassembler(server_side=True, next_sequence=first)
        for record in (record for datagram in datagrams for record in split_records_untrusted(datagram)):
            for fragment in split_fragments_untrusted(record.fragment):
                if fragment.message_sequence == first:
                    reassembler.add_untrusted(fragment)
            message = reassembler.next_message()
            if message is not None:
                return message, record
    reason = "there is no ClientHello"
    raise AssertionError(reason)


def hello_with_cookie(client: Connection, now: float) -> ReceivedClientHello:
    """Ask a client for a cookie, as a server does that keeps no state, and give what it answers."""
    _, record = received_client_hello(client.datagrams_to_send(now))
    assert not client.receive_datagram(build_hello_verify_request(b"a cookie" * 4, record.sequence), now)
    message, record = received_client_hello(client.datagrams_to_send(now))
    return ReceivedClientHello(message, record.sequence, record.version, cookie_verified=True)
