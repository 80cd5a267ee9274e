"""One UDP socket's associations: who sent a datagram, what it is worth, and when to speak again.

An :class:`Endpoint` is sans-IO, as :class:`~dtls.connection.Connection` is. Addresses are abstract: whatever is
hashable tells one peer from another. A peer that has not proved its address costs nothing (see ``gate.py``). A
ClientHello from a known address leaves the association that stands alone: a new handshake runs beside it and takes
its place only when it is complete (RFC 6347, 4.2.8).

Routing a datagram is one or two look-ups in dictionaries, timers are a heap that messages do not touch: neither cost
depends on how many associations there are. Whoever runs an endpoint may take the short way for what nearly every
datagram is, the one message of an established association::

    association = endpoint.established.get(address)
    if association is not None and datagram[:1] == APPLICATION_DATA:
        found = association.connection.unprotect(datagram, now)
        if type(found) is bytes:
            association.heard_at = now
            ...  # the message
        else:
            events = endpoint.receive_unprotected(association, datagram, found, now)
    else:
        events = endpoint.receive_datagram(datagram, address, now)
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .connection import ConnectionState
from .cookie import CookieFactory
from .errors import AssociationExpired, AssociationReplaced
from .events import AlertReceived, DataReceived, Event, HandshakeCompleted, HandshakeFailed
from .gate import Gate, begins_client_hello, is_plaintext
from .timers import Timers
from .wire import ContentType

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from .connection import Connection
    from .context import Context
    from .gate import Verdict

logger = logging.getLogger("dtls")

CookiePolicy = Literal["always", "never"]
APPLICATION_DATA = bytes([ContentType.APPLICATION_DATA])
"""How a datagram begins that may be a message."""


@dataclass(frozen=True)
class EndpointLimits:
    """Security limits: each bounds what peers can make an endpoint hold. What they turn away is counted.

    The deadline of a handshake is the context's: :attr:`dtls.Context.handshake_timeout`. What reassembly and early
    records may hold during one is bounded by the engine.
    """

    associations: int = 65_536
    """Established at a time; a completed handshake beyond is refused. Servers with a socket for each peer release
    their associations from the endpoint: there the number of descriptors is the limit."""
    handshakes: int = 4_096
    """Begun and not complete, at a time; each costs about 80 kB until its deadline."""
    queued_messages: int = 1_024
    """Received from one peer and waiting for the application, where the I/O layer queues them (``dtls.asyncio``). The
    newest beyond are dropped, and counted as ``dropped_queue_full``: a peer that sends faster than it is read."""
    queued_bytes: int = 1_048_576
    """As ``queued_messages``, in bytes. One message is held in any case. Every association may come to hold as much."""
    idle_timeout: float | None = None
    """Seconds without a message from an established peer after which the association ends, with close_notify and
    :class:`~dtls.AssociationExpired`; greater than 0, ``None`` for what
    :attr:`dtls.Context.idle_timeout` says. What is sent to the peer does not count: it
    may be gone, or have begun under another address. A server whose peers come and go needs one. It is not for
    associations that were released: there ``settimeout`` serves."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("associations", "handshakes", "queued_messages", "queued_bytes"):
            if getattr(self, name) < 1:
                message = f"the limit of {name} must be at least 1, not {getattr(self, name)!r}"
                raise ValueError(message)
        if self.idle_timeout is not None and not 0 < self.idle_timeout < math.inf:
            message = (
                f"idle_timeout must be greater than 0 seconds and finite, or None, not {self.idle_timeout!r}"
            )
            raise ValueError(message)


class Association:
    """One peer of an endpoint: its address, and the connection with it."""

    __slots__ = ("address", "application", "closing_until", "connection", "heard_at", "key", "random")

    def __init__(self, address: Hashable, connection: Connection, random: bytes, now: float) -> None:
        self.key = address
        """What datagrams of the peer are told by: an address. Later, a Connection ID."""
        self.address = address
        """Where datagrams to the peer are sent."""
        self.connection = connection
        self.random = random
        """The client random that began it."""
        self.heard_at = now
        """When a message of the peer came last, in seconds of the endpoint's clock."""
        self.closing_until: float | None = None
        """Until when the peer's close_notify is waited for; ``None`` while nobody has closed."""
        self.application: Any = None
        """Whatever the I/O layer wants to find here."""

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
        if not (context.identities or context.uses_psk or context.sni_callback):
            logger.warning(
                "the server's context has neither a certificate (load_cert_chain()) nor pre-shared keys (set_psks()): "
                "it finds no cipher suite with any client"
            )
        self.context = context
        self.limits = limits or EndpointLimits()
        own = self.limits.idle_timeout
        self._idle_timeout = context.idle_timeout if own is None else own
        self._counters: Counter[str] = Counter()
        self._gate = Gate((cookies or CookieFactory()) if cookie_policy == "always" else None, self._counters)
        self._established: dict[Hashable, Association] = {}
        self._handshaking: dict[Hashable, Association] = {}
        self._outbox: list[tuple[Hashable, bytes]] = []
        self._timers: Timers[Association] = Timers()
        self._closing = False

    def __len__(self) -> int:
        """How many associations are established."""
        return len(self._established)

    @property
    def handshakes(self) -> int:
        """How many handshakes are under way."""
        return len(self._handshaking)

    @property
    def statistics(self) -> Counter[str]:
        """How many times something was dropped or done, by reason, with all associations there are and were.

        Made anew at each call, which takes as long as there are associations.
        """
        total = self._counters.copy()
        for table in (self._handshaking, self._established):
            for association in table.values():
                total.update(association.connection.statistics)
        return total

    def count(self, reason: str) -> None:
        """Count what the I/O layer has dropped or done."""
        self._counters[reason] += 1

    @property
    def established(self) -> Mapping[Hashable, Association]:
        """The established associations by address, as they are now: to look into, not to change."""
        return self._established

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
        if established is not None and (pending is None or not is_plaintext(datagram)):
            found = established.connection.receive_datagram(datagram, now)
            return self.receive_unprotected(established, datagram, found, now)
        if pending is not None:  # plaintext belongs to the handshake if there is one
            return self._feed(pending, datagram, now)
        self._counters["dropped_no_association"] += 1
        return []

    def receive_unprotected(
        self, association: Association, datagram: bytes, events: list[Event], now: float
    ) -> list[EndpointEvent]:
        """Take in what ``association.connection`` made of a datagram, which may also be for a handshake beside it."""
        happened = self._after(association, events, now)
        if not events:  # what is authentic belongs here and nowhere else
            pending = self._handshaking.get(association.key)
            if pending is not None:
                happened += self._feed(pending, datagram, now)
        return happened

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

    def close(self, association: Association, now: float, *, patience: float = 0.0) -> None:
        """Say close_notify to one peer, and forget it: at once, or when it has answered or ``patience`` is over.

        What comes in those seconds is dropped. :class:`~dtls.PeerClosed` tells that the answer came.
        """
        established = self._established.get(association.key) is association
        association.connection.close(now)
        self._collect(association, now)
        if patience > 0 and established and association.connection.state is ConnectionState.CLOSING:
            association.closing_until = now + patience
            self._schedule(association)
        else:
            self._forget(association)

    def close_all(self, now: float, *, patience: float = 0.0) -> None:
        """Say close_notify to every peer and forget them, as :meth:`close` does; handshakes end at once.

        From then on no handshake is begun any more; what asks for one is counted as ``refused_closing``.
        """
        self._closing = True
        for association in [*self._handshaking.values(), *self._established.values()]:
            self.close(association, now, patience=patience)

    def refuse_handshakes(self, now: float) -> None:
        """Begin no handshake any more and end those under way; associations that stand go on."""
        self._closing = True
        for association in list(self._handshaking.values()):
            self.close(association, now)

    def release(self, association: Association) -> Connection:
        """Give the connection of an established association away; its datagrams no longer come here."""
        self._forget(association, count=False)
        return association.connection

    # --- time ----------------------------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """When :meth:`handle_timeout` is due, or ``None``."""
        return self._timers.next()

    def handle_timeout(self, now: float) -> list[EndpointEvent]:
        """Repeat flights, give up handshakes, end associations that are idle, as due."""
        due: list[Association] = []
        while (association := self._timers.pop_due(now)) is not None:
            due.append(association)
        events: list[EndpointEvent] = []
        for association in due:
            if self._is_known(association):  # an earlier one may have ended it
                events += self._handle_timeout_of(association, now)
        return events

    def _handle_timeout_of(self, association: Association, now: float) -> list[EndpointEvent]:
        until = association.closing_until
        if until is not None and until <= now:
            self._counters["closes_unanswered"] += 1
            self._forget(association)
            return []
        idle_at = self._idle_at(association)
        if idle_at is not None and idle_at <= now:
            self._counters["associations_expired"] += 1
            self.close(association, now)
            return [EndpointEvent(association, AlertReceived(AssociationExpired()))]
        return self._after(association, association.connection.handle_timeout(now), now)

    # --- inside --------------------------------------------------------------------------------------------------

    def _receive_client_hello(
        self,
        datagram: bytes,
        address: Hashable,
        pending: Association | None,
        established: Association | None,
        now: float,
    ) -> list[EndpointEvent]:
        if self._closing:
            self._counters["refused_closing"] += 1
            return []
        verdict = self._gate.judge_untrusted(datagram, address, now)
        if verdict.answer is not None:
            self._outbox.append((address, verdict.answer))
        if verdict.hello is None:
            return []
        if pending is not None and pending.random == verdict.random:
            # The same one again: our answer may be lost.
            return self._feed(pending, datagram, now)
        if established is not None and established.random == verdict.random:
            self._counters["dropped_repeated_client_hello"] += 1
            return []
        if pending is None and len(self._handshaking) >= self.limits.handshakes:
            self._counters["refused_handshakes"] += 1
            return []
        if pending is not None:
            self._counters["handshakes_restarted"] += 1
            self._forget(pending)
        return self._begin(verdict, address, now)

    def _begin(self, verdict: Verdict, address: Hashable, now: float) -> list[EndpointEvent]:
        connection = self.context.connection(now, client_hello=verdict.hello)
        association = Association(address, connection, verdict.random, now)
        self._handshaking[address] = association
        self._counters["handshakes_begun"] += 1
        # A ClientHello may already be the end of it: no common cipher suite, say.
        happened = connection.handle_timeout(now)
        return self._after(association, happened, now)

    def _feed(self, association: Association, datagram: bytes, now: float) -> list[EndpointEvent]:
        return self._after(association, association.connection.receive_datagram(datagram, now), now)

    def _after(self, association: Association, happened: list[Event], now: float) -> list[EndpointEvent]:
        """Pass on what a connection says, and put it where it now belongs."""
        self._collect(association, now)
        events: list[EndpointEvent] = []
        for event in happened:
            if isinstance(event, DataReceived):
                association.heard_at = now
            elif isinstance(event, HandshakeCompleted):
                known = association.key in self._established
                if not known and len(self._established) >= self.limits.associations:
                    self._counters["refused_associations"] += 1
                    self.close(association, now)
                    break
                events += self._establish(association, now)
            elif isinstance(event, HandshakeFailed):
                self._counters["handshakes_failed"] += 1
                self._forget(association)
            else:
                self._forget(association)
            events.append(EndpointEvent(association, event))
        if self._is_known(association):
            self._schedule(association)
        return events

    def _establish(self, association: Association, now: float) -> list[EndpointEvent]:
        key = association.key
        del self._handshaking[key]
        association.heard_at = now
        self._counters["handshakes_completed"] += 1
        replaced = self._established.pop(key, None)
        self._established[key] = association
        if replaced is None:
            return []
        self._counters["associations_replaced"] += 1
        self._timers.cancel(replaced)
        self._count(replaced)
        if replaced.closing_until is not None:  # its end was asked for, and is no news
            return []
        return [EndpointEvent(replaced, AlertReceived(AssociationReplaced()))]

    def _collect(self, association: Association, now: float) -> None:
        address = association.address
        self._outbox += [(address, datagram) for datagram in association.connection.datagrams_to_send(now)]

    def _is_known(self, association: Association) -> bool:
        key = association.key
        return self._established.get(key) is association or self._handshaking.get(key) is association

    def _idle_at(self, association: Association) -> float | None:
        """When an association is to end if nothing comes."""
        patience = self._idle_timeout
        if (
            patience is None
            or association.closing_until is not None
            or association.key not in self._established
        ):
            return None
        return association.heard_at + patience

    def _schedule(self, association: Association) -> None:
        """Set the timer of an association to what is due first. Early is good enough: see :class:`Timers`."""
        at = association.connection.next_timeout()
        for other in (association.closing_until, self._idle_at(association)):
            if other is not None and (at is None or other < at):
                at = other
        if at is None:
            self._timers.cancel(association)
        else:
            self._timers.set_by(association, at)

    def _forget(self, association: Association, *, count: bool = True) -> None:
        self._timers.cancel(association)
        for table in (self._handshaking, self._established):
            if table.get(association.key) is association:
                del table[association.key]
        if count:
            self._count(association)

    def _count(self, association: Association) -> None:
        self._counters.update(association.connection.statistics)
        association.connection.statistics.clear()
