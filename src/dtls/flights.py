"""Outgoing flights: what we say in one go, kept until the peer has shown that it arrived.

RFC 6347, 4.2.3 and 4.2.4. A flight is a list of whole handshake messages, ChangeCipherSpecs and protected records.
It is cut into fragments and packed into datagrams when it is sent, so that a repeat may use a smaller MTU. The
record numbers of epoch 0 are given out here; a repeat gets new ones, as RFC 6347, 4.2.4 asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .wire import (
    HANDSHAKE_HEADER_LENGTH,
    MAX_PLAINTEXT_LENGTH,
    RECORD_HEADER_LENGTH,
    ContentType,
    build_handshake,
    build_record,
)

if TYPE_CHECKING:
    from .reassembly import Message

MINIMUM_MTU = 208
"""The smallest datagram in bytes that flights are cut for: what a link of 256 bytes leaves under IPv6 and UDP."""
BACK_OFF_MTUS = (1232, 548)
"""Bytes of a datagram at a flight's second repeat and at later ones: what the smallest links that IPv6 and IPv4 ask for
leave (RFC 8200, 5; RFC 791, 3.1). No smaller, since some servers cannot reassemble a ClientHello."""
_CHANGE_CIPHER_SPEC = b"\x01"


class PlainMessage(NamedTuple):
    """A handshake message of epoch 0, and the version to put in its records."""

    message: Message
    version: int


class PlainRecord(NamedTuple):
    """A record of epoch 0 that is no handshake message: ChangeCipherSpec or an alert."""

    content_type: int
    version: int
    content: bytes


class ProtectedRecord(NamedTuple):
    """A record of a later epoch, header and all; repeated as it is."""

    record: bytes


FlightItem = PlainMessage | PlainRecord | ProtectedRecord


class Packer:
    """Writes the datagrams of flights: cuts messages, gives out record numbers of epoch 0, fills datagrams.

    :param mtu: the largest datagram in bytes, at least ``MINIMUM_MTU``.
    :param first_record: the record number to begin with; a server goes on from the ClientHello's (RFC 6347, 4.2.1).
    """

    __slots__ = ("mtu", "next_record")

    def __init__(self, mtu: int, first_record: int = 0) -> None:
        self.mtu = mtu
        self.next_record = first_record

    def pack(self, items: list[FlightItem]) -> list[bytes]:
        """The datagrams of ``items``, each at most ``mtu`` bytes long unless one protected record is longer."""
        datagrams: list[bytes] = []
        parts: list[bytes] = []
        room = self.mtu
        for item in items:
            offset = 0
            while True:
                if isinstance(item, PlainMessage):
                    record, offset = self._cut(item, offset, room)
                elif isinstance(item, PlainRecord):
                    record = self._plain(item.content_type, item.version, item.content)
                else:
                    record = item.record
                if not record or (len(record) > room and parts):
                    datagrams.append(b"".join(parts))
                    parts, room = [], self.mtu
                if record:
                    parts.append(record)
                    room -= len(record)
                if not isinstance(item, PlainMessage) or offset > len(item.message.body):
                    break
        if parts:
            datagrams.append(b"".join(parts))
        return datagrams

    def _cut(self, item: PlainMessage, offset: int, room: int) -> tuple[bytes, int]:
        """As much of a message from ``offset`` on as fits into ``room``, and the offset after it.

        Nothing if it is not worth the while to begin here. The offset lies past the body when that was the last.
        """
        body = item.message.body
        left = len(body) - offset
        space = min(room - RECORD_HEADER_LENGTH, MAX_PLAINTEXT_LENGTH) - HANDSHAKE_HEADER_LENGTH
        # A message that fits a datagram of its own stays whole: some servers cannot reassemble a ClientHello.
        fits_alone = left <= self.mtu - RECORD_HEADER_LENGTH - HANDSHAKE_HEADER_LENGTH
        if space < left and room < self.mtu and (fits_alone or space < _SHORTEST_PIECE):
            return b"", offset
        piece = body[offset : offset + space] if left else b""
        content = build_handshake(
            item.message.message_type, item.message.sequence, piece, offset=offset, length=len(body)
        )
        end = offset + len(piece)
        record = self._plain(ContentType.HANDSHAKE, item.version, content)
        return record, end if end < len(body) else len(body) + 1

    def _plain(self, content_type: int, version: int, content: bytes) -> bytes:
        record = build_record(content_type, version, 0, self.next_record, content)
        self.next_record += 1
        return record


_SHORTEST_PIECE = 64


def change_cipher_spec(version: int) -> PlainRecord:
    """The record that announces the next epoch (RFC 5246, 7.1)."""
    return PlainRecord(ContentType.CHANGE_CIPHER_SPEC, version, _CHANGE_CIPHER_SPEC)


class SentFlight:
    """The flight sent last, to be repeated until it is known to have arrived; empty when it is."""

    SPACING = 0.25
    """Seconds at least between two repeats that the peer's own repeats ask for: anybody can fake those."""
    __slots__ = ("answers", "items", "packer", "sent_at")

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self.items: list[FlightItem] = []
        self.answers = -1
        """``message_seq`` of the peer's last plaintext message that this flight answers."""
        self.sent_at = float("-inf")

    def replace(self, items: list[FlightItem], answers: int, now: float) -> list[bytes]:
        """The datagrams of a new flight, which takes the place of the one before."""
        self.items = items
        self.answers = answers
        return self.repeat(now)

    def repeat(self, now: float) -> list[bytes]:
        """The datagrams of the flight."""
        self.sent_at = now
        return self.packer.pack(self.items)

    def back_off(self, repeats: int) -> bool:
        """Cut for a smaller path after so many repeats in vain (RFC 6347, 4.1.1.1); whether that is a change."""
        mtu = BACK_OFF_MTUS[min(repeats, len(BACK_OFF_MTUS)) - 1] if repeats > 0 else self.packer.mtu
        smaller = mtu < self.packer.mtu
        if smaller:
            self.packer.mtu = mtu
        return smaller

    def may_be_repeated(self, now: float) -> bool:
        """Whether a repeat would not come too soon after the last."""
        return bool(self.items) and now - self.sent_at >= self.SPACING

    def refresh(self, record: ProtectedRecord) -> None:
        """Repeat this record from now on in place of the protected one, whose number the peer may have seen."""
        self.items = [record if isinstance(item, ProtectedRecord) else item for item in self.items]


class RetransmissionTimer:
    """When to say a flight again: after ``initial`` seconds, then twice as long each time, 60 s at most.

    RFC 6347, 4.2.4.1. The time grown to is kept for the next flight unless one passed without a repeat.
    """

    MAXIMUM = 60.0
    __slots__ = ("_duration", "_initial", "due", "repeats")

    def __init__(self, initial: float) -> None:
        self._initial = initial
        self._duration = initial
        self.due: float | None = None
        self.repeats = 0

    def start(self, now: float) -> None:
        """A new flight was sent."""
        if not self.repeats:
            self._duration = self._initial
        self.repeats = 0
        self.due = now + self._duration

    def back_off(self, now: float) -> None:
        """The flight was repeated because the time was up."""
        self.repeats += 1
        self._duration = min(self._duration * 2, self.MAXIMUM)
        self.due = now + self._duration

    def stop(self) -> None:
        """The flight has arrived, or nobody waits for an answer to it."""
        self.due = None
