"""A network as bad as a test asks for, in virtual time and from a seed: one endpoint, any number of clients.

What is sent may be dropped, doubled, delayed, overtaken or damaged. The same seed does the same to the same datagrams;
the datagrams themselves differ from run to run, since keys and randoms do.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dtls.connection import Connection, ConnectionState
from dtls.endpoint import Association, Endpoint
from dtls.events import AlertReceived, DataReceived, HandshakeCompleted, HandshakeFailed, PeerClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from dtls.context import Context
    from dtls.endpoint import EndpointEvent, EndpointLimits
    from dtls.errors import SSLError
    from dtls.events import Event

SERVER = "the server"


@dataclass(frozen=True)
class Conditions:
    """Probabilities for each datagram, and seconds."""

    drop: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    fastest: float = 0.01
    slowest: float = 0.01
    """Each datagram takes its own time between the two, so that they overtake one another if these differ."""


class Peer:
    """One client."""

    def __init__(self, address: Hashable, connection: Connection) -> None:
        self.address = address
        self.connection = connection
        self.events: list[Event] = []
        self.timer_at: float | None = None

    @property
    def established(self) -> bool:
        return any(isinstance(event, HandshakeCompleted) for event in self.events)

    @property
    def error(self) -> SSLError | None:
        failed = (HandshakeFailed, AlertReceived)
        return next((event.error for event in self.events if isinstance(event, failed)), None)

    @property
    def received(self) -> list[bytes]:
        return [event.data for event in self.events if isinstance(event, DataReceived)]


class BadNetwork:
    """An endpoint, its clients, and what lies between them."""

    def __init__(
        self,
        client: Context,
        server: Context,
        conditions: Conditions,
        seed: int,
        *,
        limits: EndpointLimits | None = None,
    ) -> None:
        self.now = 1000.0
        self.conditions = conditions
        self.endpoint = Endpoint(server, limits=limits)
        self.peers: dict[Hashable, Peer] = {}
        self.received: dict[Hashable, list[bytes]] = {}
        self.ended: list[tuple[Association, SSLError | None]] = []
        self.done: Counter[str] = Counter()
        self._context = client
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._endpoint_timer: float | None = None

    # --- what tests do -------------------------------------------------------------------------------------------

    def connect(self, address: Hashable, after: float = 0.0) -> None:
        """A new client begins at ``address`` in ``after`` seconds."""
        self._at(self.now + after, self._begin, address)

    def say(self, address: Hashable, message: bytes, after: float = 0.0) -> None:
        """A client sends a message."""
        self._at(self.now + after, self._say, address, message)

    def answer(self, address: Hashable, message: bytes, after: float = 0.0) -> None:
        """The endpoint sends a message to the peer at ``address``, if it has one."""
        self._at(self.now + after, self._answer, address, message)

    def close(self, address: Hashable, after: float = 0.0) -> None:
        """A client says close_notify."""
        self._at(self.now + after, self._close, address)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._agenda and self._agenda[0][0] <= until:
            at, _, action, arguments = heapq.heappop(self._agenda)
            self.now = max(self.now, at)
            action(*arguments)
        self.now = until

    @property
    def is_quiet(self) -> bool:
        """Whether nothing will ever happen any more."""
        return not self._agenda

    # --- what happens --------------------------------------------------------------------------------------------

    def _at(self, at: float, action: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), action, arguments))

    def _begin(self, address: Hashable) -> None:
        connection = self._context.connection(self.now, server_hostname="localhost")
        self.peers[address] = Peer(address, connection)
        self._after_peer(address)

    def _say(self, address: Hashable, message: bytes) -> None:
        connection = self.peers[address].connection
        if connection.state is ConnectionState.ESTABLISHED:
            connection.send(message, self.now)
            self.done["said"] += 1
            self._after_peer(address)

    def _answer(self, address: Hashable, message: bytes) -> None:
        association = self.endpoint.association(address)
        if association is not None:
            self.endpoint.send(association, message, self.now)
            self.done["answered"] += 1
            self._after_endpoint()

    def _close(self, address: Hashable) -> None:
        self.peers[address].connection.close(self.now)
        self._after_peer(address)

    def _transmit(self, receiver: Hashable, address: Hashable, datagram: bytes) -> None:
        chance, conditions = self._chance, self.conditions
        self.done["sent"] += 1
        if chance.random() < conditions.drop:
            self.done["dropped"] += 1
            return
        copies = 1
        if chance.random() < conditions.duplicate:
            self.done["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            arriving = datagram
            if chance.random() < conditions.corrupt:
                self.done["corrupted"] += 1
                damaged = bytearray(datagram)
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
                arriving = bytes(damaged)
            delay = chance.uniform(conditions.fastest, conditions.slowest)
            self._at(self.now + delay, self._arrive, receiver, address, arriving)

    def _arrive(self, receiver: Hashable, address: Hashable, datagram: bytes) -> None:
        if receiver == SERVER:
            self._note(self.endpoint.receive_datagram(datagram, address, self.now))
            self._after_endpoint()
        else:
            peer = self.peers[address]
            peer.events += peer.connection.receive_datagram(datagram, self.now)
            self._after_peer(address)

    def _note(self, events: list[EndpointEvent]) -> None:
        for association, event in events:
            if isinstance(event, DataReceived):
                self.received.setdefault(association.address, []).append(event.data)
            elif isinstance(event, PeerClosed):
                self.ended.append((association, None))
            elif isinstance(event, AlertReceived):
                self.ended.append((association, event.error))

    def _after_peer(self, address: Hashable) -> None:
        peer = self.peers[address]
        for datagram in peer.connection.datagrams_to_send(self.now):
            self._transmit(SERVER, address, datagram)
        at = peer.connection.next_timeout()
        if at is not None and at != peer.timer_at:
            peer.timer_at = at
            self._at(at, self._peer_timeout, peer, at)

    def _peer_timeout(self, peer: Peer, at: float) -> None:
        if peer.timer_at == at and self.peers.get(peer.address) is peer:
            peer.timer_at = None
            peer.events += peer.connection.handle_timeout(self.now)
            self._after_peer(peer.address)

    def _after_endpoint(self) -> None:
        for address, datagram in self.endpoint.datagrams_to_send(self.now):
            if address in self.peers:
                self._transmit(address, address, datagram)
        at = self.endpoint.next_timeout()
        if at is not None and (self._endpoint_timer is None or at < self._endpoint_timer):
            self._endpoint_timer = at
            self._at(at, self._endpoint_timeout, at)

    def _endpoint_timeout(self, at: float) -> None:
        if self._endpoint_timer == at:
            self._endpoint_timer = None
            self._note(self.endpoint.handle_timeout(self.now))
            self._after_endpoint()
