"""One UDP socket's associations: who sent a datagram, what it is worth, and when to speak again.

An :class:`Endpoint` is sans-IO, as :class:`~dtls.connection.Connection` is. Addresses are abstract: whatever is
hashable tells one peer from another. A peer that has not proved its address costs nothing (see ``gate.py``). A
ClientHello from a known address leaves the association that stands alone: a new handshake runs beside it and takes
its place only when it is complete (RFC 6347, 4.2.8).

Routing a datagram is one or two look-ups in dictionaries, timers are a heap: neither cost depends on how many
associations there are.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from .connection import ConnectionState
from .cookie import CookieFactory
from .errors import AssociationReplaced
from .events import AlertReceived, Event, HandshakeCompleted, HandshakeFailed, PeerClosed
from .gate import Gate, begins_client_hello, is_plaintext

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .connection import Connection
    from .context import Context
    from .gate import Verdict

CookiePolicy = Literal["always", "never"]
_STALE_TIMERS = 64


@dataclass(frozen=True)
class EndpointLimits:
    """Security limits: each bounds what peers can make an endpoint hold. What they turn away is counted."""

    associations: int = 65_536
    """Established at a time; a completed handshake beyond is refused. Servers with a socket for each peer release
    their associations from the endpoint: there the number of descriptors is the limit."""
    handshakes: int = 4_096
    """Begun and not complete, at a time; each costs about 80 kB until its deadline."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("associations", "handshakes"):
            if getattr(self, name) < 1:
                message = f"the limit of {name} must be at least 1, not {getattr(self, name)!r}"
                raise ValueError(message)


class Association:
    """One peer of an endpoint: its address, and the connection with it."""

    __slots__ = ("address", "connection", "random", "timer_at")

    def __init__(self, address: Hashable, connection: Connection, random: bytes) -> None:
        self.address = address
        self.connection = connection
        self.random = random
        """The client random that began it."""
        self.timer_at: float | None = None

    def __repr__(self) -> str:
        return f"<Association with {self.address!r}, {self.connection.state.value}>"


class EndpointEvent(NamedTuple):
    """What happened on one of the associations."""

    association: Association
    event: Event


class Endpoint:
    """The associations of one UDP socket of a server.

    :param context: a server's context.
    :param cookie_policy: ``"always"``, or ``"never"`` for transports that have proved the peer's address already,
        such as ICE: without cookies a server can be used to flood others.
    :param cookies: to share cookie secrets with other endpoints.
    :raises SSLError: for a context that the engine does not take: better now than at the first peer.
    """

    def __init__(
        self,
        context: Context,
        *,
        cookie_policy: CookiePolicy = "always",
        limits: EndpointLimits | None = None,
        cookies: CookieFactory | None = None,
    ) -> None:
        if not context.server_side:
            message = "an Endpoint needs a server's context (PROTOCOL_DTLS_SERVER or Purpose.CLIENT_AUTH)"
            raise ValueError(message)
        if cookie_policy not in ("always", "never"):
            message = f"cookie_policy must be 'always' or 'never', not {cookie_policy!r}"
            raise ValueError(message)
        context.check()
        self.context = context
        self.limits = limits or EndpointLimits()
        self.statistics: Counter[str] = Counter()
        """How many times something was dropped or done, by reason; those of ended associations included."""
        self._gate = Gate(
            (cookies or CookieFactory()) if cookie_policy == "always" else None, self.statistics
        )
        self._established: dict[Hashable, Association] = {}
        self._handshaking: dict[Hashable, Association] = {}
        self._outbox: list[tuple[Hashable, bytes]] = []
        self._timers: list[tuple[float, int, Association]] = []
        self._timer_number = itertools.count()

    def __len__(self) -> int:
        """How many associations are established."""
        return len(self._established)

    @property
    def handshakes(self) -> int:
        """How many handshakes are under way."""
        return len(self._handshaking)

    def association(self, address: Hashable) -> Association | None:
        """The established association with ``address``."""
        return self._established.get(address)

    def is_handshaking(self, address: Hashable) -> bool:
        """Whether a handshake with ``address`` is under way."""
        return address in self._handshaking

    # --- datagrams -----------------------------------------------------------------------------------------------

    def receive_datagram(self, datagram: bytes, address: Hashable, now: float) -> list[EndpointEvent]:
        """Take in a datagram from ``address``. Does not raise."""
        pending = self._handshaking.get(address)
        established = self._established.get(address)
        if begins_client_hello(datagram):
            return self._receive_client_hello(datagram, address, pending, established, now)
        if pending is None and established is None:
            self.statistics["dropped_no_association"] += 1
            return []
        events: list[EndpointEvent] = []
        # Plaintext belongs to the handshake if there is one; what is protected may belong to either.
        if established is not None and (pending is None or not is_plaintext(datagram)):
            events += self._feed(established, datagram, now)
        if pending is not None:
            events += self._feed(pending, datagram, now)
        return events

    def datagrams_to_send(self, now: float) -> list[tuple[Hashable, bytes]]:  # noqa: ARG002 - as Connection's
        """Pairs of address and datagram, in order; the caller has them from then on."""
        outbox = self._outbox
        if outbox:
            self._outbox = []
        return outbox

    def send(self, association: Association, message: bytes | bytearray | memoryview, now: float) -> None:
        """Protect a message for one peer; raises as :meth:`~dtls.connection.Connection.send` does."""
        association.connection.send(message, now)
        self._collect(association, now)

    def close(self, association: Association, now: float) -> None:
        """Say close_notify to one peer and forget it."""
        association.connection.close(now)
        self._collect(association, now)
        self._forget(association)

    def close_all(self, now: float) -> None:
        """Say close_notify to every peer and forget them."""
        for association in [*self._handshaking.values(), *self._established.values()]:
            self.close(association, now)

    def release(self, association: Association) -> Connection:
        """Give the connection of an established association away; its datagrams no longer come here."""
        self._forget(association, count=False)
        return association.connection

    # --- time ----------------------------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """When :meth:`handle_timeout` is due, or ``None``."""
        timers = self._timers
        while timers and timers[0][2].timer_at != timers[0][0]:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def handle_timeout(self, now: float) -> list[EndpointEvent]:
        """Repeat flights and give up handshakes as due."""
        events: list[EndpointEvent] = []
        while (due := self.next_timeout()) is not None and due <= now:
            _, _, association = heapq.heappop(self._timers)
            association.timer_at = None
            happened = association.connection.handle_timeout(now)
            events += self._after(association, happened, now)
        return events

    # --- inside --------------------------------------------------------------------------------------------------

    def _receive_client_hello(
        self,
        datagram: bytes,
        address: Hashable,
        pending: Association | None,
        established: Association | None,
        now: float,
    ) -> list[EndpointEvent]:
        verdict = self._gate.judge_untrusted(datagram, address, now)
        if verdict.answer is not None:
            self._outbox.append((address, verdict.answer))
        if verdict.hello is None:
            return []
        if pending is not None and pending.random == verdict.random:
            # The same one again: our answer may be lost.
            return self._feed(pending, datagram, now)
        if established is not None and established.random == verdict.random:
            self.statistics["dropped_repeated_client_hello"] += 1
            return []
        if pending is None and len(self._handshaking) >= self.limits.handshakes:
            self.statistics["refused_handshakes"] += 1
            return []
        if pending is not None:
            self.statistics["handshakes_restarted"] += 1
            self._forget(pending)
        return self._begin(verdict, address, now)

    def _begin(self, verdict: Verdict, address: Hashable, now: float) -> list[EndpointEvent]:
        connection = self.context.connection(now, client_hello=verdict.hello)
        association = Association(address, connection, verdict.random)
        self._handshaking[address] = association
        self.statistics["handshakes_begun"] += 1
        # A ClientHello may already be the end of it: no common cipher suite, say.
        happened = connection.handle_timeout(now)
        return self._after(association, happened, now)

    def _feed(self, association: Association, datagram: bytes, now: float) -> list[EndpointEvent]:
        return self._after(association, association.connection.receive_datagram(datagram, now), now)

    def _after(self, association: Association, happened: list[Event], now: float) -> list[EndpointEvent]:
        """Pass on what a connection says, and put it where it now belongs."""
        self._collect(association, now)
        if not happened:
            return []
        events: list[EndpointEvent] = []
        for event in happened:
            if isinstance(event, HandshakeCompleted):
                known = association.address in self._established
                if not known and len(self._established) >= self.limits.associations:
                    self.statistics["refused_associations"] += 1
                    self.close(association, now)
                    break
                events += self._establish(association)
            elif isinstance(event, HandshakeFailed):
                self.statistics["handshakes_failed"] += 1
                self._forget(association)
            elif isinstance(event, (PeerClosed, AlertReceived)):
                self._forget(association)
            events.append(EndpointEvent(association, event))
        return events

    def _establish(self, association: Association) -> list[EndpointEvent]:
        address = association.address
        del self._handshaking[address]
        self.statistics["handshakes_completed"] += 1
        replaced = self._established.pop(address, None)
        self._established[address] = association
        if replaced is None:
            return []
        self.statistics["associations_replaced"] += 1
        self._count(replaced)
        return [EndpointEvent(replaced, AlertReceived(AssociationReplaced()))]

    def _collect(self, association: Association, now: float) -> None:
        connection = association.connection
        address = association.address
        self._outbox += [(address, datagram) for datagram in connection.datagrams_to_send(now)]
        if connection.state is ConnectionState.HANDSHAKING:
            self._set_timer(association, connection.next_timeout())
        else:
            association.timer_at = None

    def _set_timer(self, association: Association, at: float | None) -> None:
        if at is None or at == association.timer_at:
            return
        association.timer_at = at
        heapq.heappush(self._timers, (at, next(self._timer_number), association))
        # Timers that were set anew leave their old entries behind; they must not pile up.
        if len(self._timers) > _STALE_TIMERS + 4 * len(self._handshaking):
            self._timers = [entry for entry in self._timers if entry[2].timer_at == entry[0]]
            heapq.heapify(self._timers)

    def _forget(self, association: Association, *, count: bool = True) -> None:
        association.timer_at = None
        for table in (self._handshaking, self._established):
            if table.get(association.address) is association:
                del table[association.address]
        if count:
            self._count(association)

    def _count(self, association: Association) -> None:
        self.statistics.update(association.connection.statistics)
        association.connection.statistics.clear()
