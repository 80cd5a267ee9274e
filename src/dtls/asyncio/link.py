"""A server's UDP socket in an event loop: its :class:`~dtls.Endpoint`, and a sink for each association's messages."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from dtls.endpoint import APPLICATION_DATA
from dtls.events import AlertReceived, DataReceived, HandshakeCompleted, HandshakeFailed
from dtls.udp import PeerAddress

from .channel import Alarm, Channel
from .client import Watched

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections import Counter
    from collections.abc import Callable

    from dtls.endpoint import Association, Endpoint, EndpointEvent
    from dtls.ports import Arrival

    from .client import Sink

logger = logging.getLogger("dtls")


class ServerLink(Watched):
    """Runs ``endpoint`` on ``sock``, which is taken over.

    :param make_sink: called for each association whose handshake is complete.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        endpoint: Endpoint,
        make_sink: Callable[[ServerLink, Association], Sink],
    ) -> None:
        self.endpoint = endpoint
        self.channel = Channel(loop, sock, self)
        self._established = endpoint.established
        self._make_sink = make_sink
        self._alarm = Alarm(loop, time.monotonic, self._handle_timeout)
        self.on_event: Callable[[], object] | None = None
        """Called when anything but a message has come."""

    # --- what the channel calls ----------------------------------------------------------------------------------

    def datagrams_received(self, batch: list[Arrival]) -> None:
        """Take in what the socket has: the way of every message, the short one that ``endpoint.py`` tells of."""
        established = self._established
        now = time.monotonic()
        plain = True
        for datagram, place, size in batch:
            association = established.get(place)
            if size:
                plain = self._receive_segments(association, datagram, place, size, now) and plain
            elif association is not None and datagram[:1] == APPLICATION_DATA:
                found = association.connection.unprotect(datagram, now)
                if type(found) is bytes:
                    association.heard_at = now
                    association.application._deliver(found)
                else:
                    plain = False
                    self._note(self.endpoint.receive_unprotected(association, datagram, found, now))  # type: ignore[arg-type]
            else:
                plain = False
                self._note(self.endpoint.receive_datagram(datagram, place, now))
        if not plain:
            self.go_on()

    def _receive_segments(
        self, association: Association | None, datagrams: bytes, place: Any, size: int, now: float
    ) -> bool:
        """Take in several datagrams of one peer; whether they were messages only."""
        plain = True
        at = 0
        together = association is not None and not self.endpoint.is_handshaking(place)
        while at < len(datagrams):
            if together and association is not None:
                found = association.connection.unprotect_many(datagrams[at:], size, now)
                at += found.taken
                if found.messages:
                    association.heard_at = now
                    association.application._deliver_many(found.messages)
                if found.events is not None:
                    plain = False
                    last = datagrams[(at - 1) // size * size : at]
                    self._note(self.endpoint.receive_unprotected(association, last, found.events, now))
                # What is no message is seldom alone: the rest is looked at one by one, which takes no longer then.
                together = found.events is not None and self._established.get(place) is association
            else:
                plain = False
                self._note(self.endpoint.receive_datagram(datagrams[at : at + size], place, now))
                at += size
        return plain

    # --- inside --------------------------------------------------------------------------------------------------

    def _handle_timeout(self) -> None:
        self._note(self.endpoint.handle_timeout(time.monotonic()))
        self.go_on()

    def go_on(self) -> None:
        """After anything but a mere message: what is to be sent, and the next timeout."""
        endpoint, channel = self.endpoint, self.channel
        for place, datagram in endpoint.datagrams_to_send(time.monotonic()):
            channel.offer(datagram, channel.port.way(place))
        self._alarm.set_by(None if channel.closed else endpoint.next_timeout())
        if self.on_event is not None:
            self.on_event()

    def _note(self, events: list[EndpointEvent]) -> None:
        for association, event in events:
            sink = (
                association.application
            )  # there is none any more if it was closed because of an event before
            if isinstance(event, HandshakeCompleted):
                association.application = self._make_sink(self, association)
            elif isinstance(event, HandshakeFailed):
                logger.info("handshake with %s failed: %s", self.address_of(association.address), event.error)
            elif sink is not None and isinstance(event, DataReceived):
                sink._deliver(event.data)
            elif sink is not None:
                error = event.error if isinstance(event, AlertReceived) else None
                logger.debug("association with %s ended: %s", self.address_of(association.address), error)
                association.application = None
                sink._end(error)

    # --- the end -------------------------------------------------------------------------------------------------

    def close_association(self, association: Association, *, patience: float = 0.0) -> None:
        """Say close_notify to a peer, and forget it when it has answered or ``patience`` seconds are over."""
        if self._established.get(association.key) is association and association.closing_until is None:
            self.endpoint.close(association, time.monotonic(), patience=patience)
            self.go_on()

    def refuse_handshakes(self) -> None:
        """Begin no handshake any more, and end those under way."""
        self.endpoint.refuse_handshakes(time.monotonic())
        self.go_on()

    def close_all(self, *, patience: float = 0.0) -> None:
        """Say close_notify to every peer, as :meth:`close_association` does."""
        self.endpoint.close_all(time.monotonic(), patience=patience)
        self.go_on()

    def close(self, on_closed: Callable[[], object] | None = None) -> None:
        """Say close_notify to every peer and close the socket. Then ``on_closed``."""
        self.close_all()
        self._alarm.stop()
        self.channel.close(on_closed)

    def address_of(self, place: Any) -> PeerAddress:
        """The peer's address, which also knows which of ours the peer writes to."""
        return PeerAddress.of(self.channel.port.way(place).origin, place)

    @property
    def statistics(self) -> Counter[str]:
        """How many times something was dropped or done, by reason."""
        return self.endpoint.statistics + self.channel.statistics
