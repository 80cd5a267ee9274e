"""One endpoint and any number of clients, each at an address of its own, in virtual time: nothing here waits."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from typing import TYPE_CHECKING

from dtls.connection import Connection, ConnectionState
from dtls.endpoint import Association, Endpoint
from dtls.events import AlertReceived, DataReceived, HandshakeCompleted, HandshakeFailed, PeerClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from dtls.context import Context
    from dtls.endpoint import CookiePolicy, EndpointEvent, EndpointLimits
    from dtls.errors import SSLError
    from dtls.events import Event

LATENCY = 0.01
HERE = ("192.0.2.1", 5684)
THERE = ("198.51.100.7", 40000)


class Crowd:
    """``tap(sender, index, datagram)`` says what arrives in a datagram's place; sender is "client" or "server"."""

    def __init__(
        self,
        client: Context,
        server: Context,
        *,
        cookie_policy: CookiePolicy = "always",
        limits: EndpointLimits | None = None,
        tap: Callable[[str, int, bytes], list[bytes]] | None = None,
    ) -> None:
        self.now = 1000.0
        self.context = client
        self.endpoint = Endpoint(server, cookie_policy=cookie_policy, limits=limits)
        self.tap = tap
        self.clients: dict[Hashable, Connection] = {}
        self.client_events: dict[Hashable, list[Event]] = {}
        self.events: list[EndpointEvent] = []
        self.sent: list[tuple[str, Hashable, bytes]] = []
        self._counts: Counter[str] = Counter()
        self._order = itertools.count()
        self._in_flight: list[tuple[float, int, str, Hashable, bytes]] = []

    # --- clients -------------------------------------------------------------------------------------------------

    def start(self, address: Hashable = HERE) -> Connection:
        """A new client at ``address``, in place of the one that was there; its ClientHello is not sent yet."""
        client = self.context.connection(self.now, server_hostname="localhost")
        self.clients[address] = client
        self.client_events[address] = []
        return client

    def connect(self, address: Hashable = HERE) -> Association:
        """A new client at ``address`` that has completed its handshake: the server's side of it."""
        client = self.start(address)
        self.settle()
        assert client.state is ConnectionState.ESTABLISHED
        association = self.endpoint.association(address)
        assert association is not None
        return association

    # --- the network ---------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Put what anybody wants to send on the network."""
        for address, client in self.clients.items():
            for datagram in client.datagrams_to_send(self.now):
                self._send("client", address, datagram)
        for address, datagram in self.endpoint.datagrams_to_send(self.now):
            self._send("server", address, datagram)

    def _send(self, sender: str, address: Hashable, datagram: bytes) -> None:
        index = self._counts[sender]
        self._counts[sender] += 1
        self.sent.append((sender, address, datagram))
        for arrival in [datagram] if self.tap is None else self.tap(sender, index, datagram):
            entry = (self.now + LATENCY, next(self._order), sender, address, arrival)
            heapq.heappush(self._in_flight, entry)

    def inject(self, datagram: bytes, address: Hashable = HERE) -> list[EndpointEvent]:
        """Hand the endpoint a datagram that says it is from ``address``; the answers go on the network."""
        events = self.endpoint.receive_datagram(datagram, address, self.now)
        self.events += events
        self.pump()
        return events

    def step(self) -> bool:
        """Deliver the next datagram on the network; false if there is none."""
        self.pump()
        if not self._in_flight:
            return False
        at, _, sender, address, datagram = heapq.heappop(self._in_flight)
        self.now = max(self.now, at)
        if sender == "client":
            self.events += self.endpoint.receive_datagram(datagram, address, self.now)
        elif address in self.clients:
            self.client_events[address] += self.clients[address].receive_datagram(datagram, self.now)
        self.pump()
        return True

    def settle(self) -> None:
        """Deliver what is on the network and what comes of it, without letting timers run out."""
        while self.step():
            pass

    def run(self, seconds: float = 120.0) -> None:
        """Let time pass until nothing is left to do, ``seconds`` at most."""
        until = self.now + seconds
        self.settle()
        while True:
            timers = [(client.next_timeout(), address) for address, client in self.clients.items()]
            due = [(at, address) for at, address in timers if at is not None and at <= until]
            own = self.endpoint.next_timeout()
            if own is not None and own <= min([until, *(at for at, _ in due)]):
                self.now = max(self.now, own)
                self.events += self.endpoint.handle_timeout(self.now)
            elif due:
                at, address = min(due, key=lambda entry: entry[0])
                self.now = max(self.now, at)
                self.client_events[address] += self.clients[address].handle_timeout(self.now)
            else:
                return
            self.settle()

    # --- what came of it -----------------------------------------------------------------------------------------

    def sent_by(self, sender: str, address: Hashable | None = None) -> list[bytes]:
        return [d for who, where, d in self.sent if who == sender and address in (None, where)]

    def completed(self) -> list[Association]:
        return [a for a, event in self.events if isinstance(event, HandshakeCompleted)]

    def failures(self) -> list[SSLError]:
        return [event.error for _, event in self.events if isinstance(event, HandshakeFailed)]

    def ended(self, association: Association) -> list[SSLError | None]:
        """How an association has ended: the error, or ``None`` for close_notify."""
        return [
            event.error if isinstance(event, AlertReceived) else None
            for a, event in self.events
            if a is association and isinstance(event, (AlertReceived, PeerClosed))
        ]

    def received(self, association: Association) -> list[bytes]:
        return [e.data for a, e in self.events if a is association and isinstance(e, DataReceived)]

    def received_by(self, address: Hashable) -> list[bytes]:
        return [e.data for e in self.client_events[address] if isinstance(e, DataReceived)]

    def assert_talks(self, address: Hashable = HERE, text: str = "hello") -> None:
        """Messages go both ways between the client at ``address`` and the association that the endpoint has."""
        association = self.endpoint.association(address)
        assert association is not None
        self.clients[address].send(f"{text} from {address}".encode(), self.now)
        self.endpoint.send(association, f"{text} to {address}".encode(), self.now)
        self.settle()
        assert self.received(association)[-1:] == [f"{text} from {address}".encode()]
        assert self.received_by(address)[-1:] == [f"{text} to {address}".encode()]

    def assert_remembers_nothing(self) -> None:
        """The endpoint holds no state of anybody."""
        endpoint = self.endpoint
        assert (len(endpoint), endpoint.handshakes) == (0, 0)
        assert endpoint.next_timeout() is None
        assert len(endpoint._timers) == 0
        assert endpoint._outbox == []
