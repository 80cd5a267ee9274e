"""Outgoing flights: what we say in one go, kept until the peer has shown that it arrived.

RFC 6347, 4.2.3 and 4.2.4. A flight is a list of whole handshake messages, ChangeCipherSpecs and protected records.
It is cut into fragments and packed into datagrams when it is sent, so that a repeat may use a smaller MTU. The
record numbers of epoch 0 are given out here; a repeat gets new ones, as RFC 6347, 4.2.4 asks.
"""

from __future__ import annotations

from typing import NamedTuple

from .wire import (
    HANDSHAKE_HEADER_LENGTH,
    MAX_BODY_LENGTH,
    MAX_PLAINTEXT_LENGTH,
    MESSAGE_RECORD_OVERHEAD,
    RECORD_HEADER_LENGTH,
    Record,
    build_handshake,
    build_record,
    split_leading_records_untrusted,
)

MINIMUM_MTU = 208
"""The smallest datagram in bytes that flights are cut for: what a link of 256 bytes leaves under IPv6 and UDP."""
BACK_OFF_MTUS = (1232, 548)
"""Bytes of a datagram at a flight's second repeat and at later ones: what the smallest links that IPv6 and IPv4 ask for
leave (RFC 8200, 5; RFC 791, 3.1). No smaller, since some servers cannot reassemble a ClientHello."""


class PlainRecord(NamedTuple):
    """A record of epoch 0. A handshake message stands in it whole, header and all: it is cut when it is sent."""

    content_type: int
    version: int
    content: bytes


class ProtectedRecord(NamedTuple):
    """A record of a later epoch, header and all; repeated as it is."""

    record: bytes


FlightItem = PlainRecord | ProtectedRecord


def as_item(record: Record) -> FlightItem:
    """What a record is in a flight, if it is no fragment of a message."""
    if record.epoch:
        return ProtectedRecord(build_record(*record))
    return PlainRecord(record.content_type, record.version, record.fragment)


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
        # A message that fits a datagram of its own stays whole: some servers cannot reassemble a ClientHello.
        longest = min(room - RECORD_HEADER_LENGTH, MAX_PLAINTEXT_LENGTH)
        for item in items:
            if isinstance(item, ProtectedRecord):
                records = [item.record]
            elif len(item.content) <= longest:
                records = [self._plain(item.content_type, item.version, item.content)]
            else:
                records = self._cut(item, room)
            for record in records:
                if len(record) > room and parts:
                    datagrams.append(b"".join(parts))
                    parts = []
                    room = self.mtu
                parts.append(record)
                room -= len(record)
        if parts:
            datagrams.append(b"".join(parts))
        return datagrams

    def _cut(self, item: PlainRecord, room: int) -> list[bytes]:
        """The records of a message in fragments, the first in what ``room`` is left if that is worth the while."""
        header, body = item.content[:HANDSHAKE_HEADER_LENGTH], item.content[HANDSHAKE_HEADER_LENGTH:]
        message_type, sequence = header[0], header[4] << 8 | header[5]
        space = room - MESSAGE_RECORD_OVERHEAD
        if space < _SHORTEST_PIECE:
            space = self.mtu - MESSAGE_RECORD_OVERHEAD
        records: list[bytes] = []
        offset = 0
        while offset < len(body):
            piece = body[offset : offset + min(space, MAX_BODY_LENGTH)]
            content = build_handshake(message_type, sequence, piece, offset=offset, length=len(body))
            records.append(self._plain(item.content_type, item.version, content))
            offset += len(piece)
            space = self.mtu - MESSAGE_RECORD_OVERHEAD
        return records

    def _plain(self, content_type: int, version: int, content: bytes) -> bytes:
        record = build_record(content_type, version, 0, self.next_record, content)
        self.next_record += 1
        return record


_SHORTEST_PIECE = 64


class SentFlight:
    """The flight sent last, to be repeated until it is known to have arrived; empty when it is."""

    SPACING = 0.25
    """Seconds at least between two repeats that the peer's own repeats ask for: anybody can fake those."""
    __slots__ = ("_as_written", "_items", "answers", "is_held", "packer", "sent_at")

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        self.is_held = False
        """Whether there is something to repeat."""
        self._items: list[FlightItem] = []
        self._as_written = b""
        """What ``_items`` are to be made of when they are needed, which is seldom."""
        self.answers = -1
        """``message_seq`` of the peer's last plaintext message that this flight answers."""
        self.sent_at = float("-inf")

    @property
    def items(self) -> list[FlightItem]:
        """What the flight consists of."""
        if self._as_written:
            records, _ = split_leading_records_untrusted(self._as_written)
            self._items = [as_item(record) for record in records]
            self._as_written = b""
        return self._items

    def clear(self) -> None:
        """It has arrived, or need not any more."""
        self.is_held = False
        self._items = []
        self._as_written = b""

    def replace(self, items: list[FlightItem], answers: int, now: float) -> list[bytes]:
        """The datagrams of a new flight, which takes the place of the one before."""
        self.clear()
        self.is_held = bool(items)
        self._items = items
        self.answers = answers
        return self.repeat(now)

    def replace_as_written(self, datagram: bytes, next_record: int, answers: int, now: float) -> None:
        """Keep a new flight that is one datagram, of whole messages under the numbers that were next, as it stands.

        ``next_record`` is the number after the last of epoch 0 in it.
        """
        self.clear()
        self.is_held = True
        self._as_written = datagram
        self.packer.next_record = next_record
        self.answers = answers
        self.sent_at = now

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
        return self.is_held and now - self.sent_at >= self.SPACING

    def refresh(self, record: FlightItem) -> None:
        """Repeat this record from now on in place of the protected one, whose number the peer may have seen."""
        self._items = [record if isinstance(item, ProtectedRecord) else item for item in self.items]


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
