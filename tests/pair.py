"""Two associations and the link between them, in virtual time: nothing here waits, and nothing is random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtls.connection import Connection, ConnectionState
from dtls.events import DataReceived, HandshakeFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.context import Context
    from dtls.events import Event

LATENCY = 0.01

Tap = "Callable[[str, int, bytes], list[bytes]]"


class Pair:
    """A client and a server. ``tap(sender, index, datagram)`` says what arrives in a datagram's place."""

    def __init__(
        self,
        client: Context,
        server: Context,
        *,
        server_hostname: str | None = "localhost",
        tap: Callable[[str, int, bytes], list[bytes]] | None = None,
    ) -> None:
        self.now = 1000.0
        self.client = client.connection(self.now, server_hostname=server_hostname)
        self.server = server.connection(self.now)
        self.tap = tap
        self.sent: list[tuple[str, bytes]] = []
        self.events: dict[str, list[Event]] = {"client": [], "server": []}
        self._counts = {"client": 0, "server": 0}
        self._in_flight: list[tuple[float, str, bytes]] = []

    def end(self, name: str) -> Connection:
        return self.client if name == "client" else self.server

    def pump(self, name: str) -> None:
        """Put what one end wants to send on the link."""
        for datagram in self.end(name).datagrams_to_send(self.now):
            index = self._counts[name]
            self._counts[name] += 1
            self.sent.append((name, datagram))
            arriving = [datagram] if self.tap is None else self.tap(name, index, datagram)
            receiver = "server" if name == "client" else "client"
            self._in_flight += [(self.now + LATENCY, receiver, arrival) for arrival in arriving]

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
        for name, other in (("client", "server"), ("server", "client")):
            before = len(self.received(other))
            message = f"from the {name}".encode()
            self.send(name, message)
            assert self.received(other)[before:] == [message]
