"""What OpenSSL says in a handshake, as flights: taken apart into messages where need be, kept, and repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtls.flights import FlightItem, PlainRecord, RetransmissionTimer, SentFlight, as_item
from dtls.reassembly import PartialMessage, Reassembler
from dtls.wire import (
    ContentType,
    Record,
    build_handshake,
    last_records_at_untrusted,
    split_fragments_untrusted,
    split_leading_records_untrusted,
    whole_message_at_untrusted,
)

from . import binding

if TYPE_CHECKING:
    from collections import Counter

_HANDSHAKE = int(ContentType.HANDSHAKE)
_CHANGE_CIPHER_SPEC = int(ContentType.CHANGE_CIPHER_SPEC)


class Outwards:
    """The way from OpenSSL to the datagrams of one handshake."""

    _ssl: binding.Handle
    _outgoing: binding.Handle
    _flight: SentFlight
    _timer: RetransmissionTimer
    _outbox: list[bytes]
    _statistics: Counter[str]
    _reassembler: Reassembler
    _sent_change_cipher_spec = False
    _sent_finished = False
    _own: PartialMessage | None = None
    """A message that OpenSSL has cut, as far as it has come."""
    _own_sequence = -1
    """``message_seq`` of the last message that it has written."""

    def _collect_output(self, now: float) -> None:
        """Send what OpenSSL says."""
        output = binding.read_all(self._outgoing)
        if not output:
            return
        next_record = self._number_after(output)
        if next_record:
            self._outbox.append(output)
            self._flight.replace_as_written(output, next_record, self._reassembler.next_sequence - 1, now)
            self._timer.start(now)
        else:
            self._take_apart(output, now)

    def _number_after(self, output: bytes) -> int:
        """The record number after a new flight that can be sent as OpenSSL wrote it; 0 if it cannot.

        It can if it is one datagram of whole messages, none of them a repeat, with a ChangeCipherSpec and a Finished at
        the end or without, and OpenSSL's record numbers are those that are next here, where repeats count too.
        """
        packer = self._flight.packer
        length = len(output)
        if length > packer.mtu:
            return 0
        number, sequence, at = packer.next_record, self._own_sequence, 0
        while (found := whole_message_at_untrusted(output, at)) is not None:
            _, record, _, message_sequence, end = found
            if record != number or message_sequence <= sequence:
                return 0
            number, sequence, at = number + 1, message_sequence, end
        if at < length:
            last = None if self._sent_change_cipher_spec else last_records_at_untrusted(output, at)
            if last is None or last[1] != number:
                return 0
            number += 1
            self._sent_change_cipher_spec = self._sent_finished = True
        self._own_sequence = sequence
        return number

    def _take_apart(self, output: bytes, now: float) -> None:
        """Make a flight of OpenSSL's output. What it repeats because its own timer has passed is left out."""
        items: list[FlightItem] = []
        alerts: list[FlightItem] = []
        records, _ = split_leading_records_untrusted(output)
        for record in records:
            kind = record.content_type
            if kind == _HANDSHAKE and not record.epoch:
                items += self._new_messages(record)
            elif kind == _CHANGE_CIPHER_SPEC:
                if not self._sent_change_cipher_spec:
                    items.append(as_item(record))
                self._sent_change_cipher_spec = True
            elif kind == _HANDSHAKE:
                finished = as_item(record)
                if self._sent_finished:
                    self._flight.refresh(finished)
                else:
                    items.append(finished)
                self._sent_finished = True
            else:
                alerts.append(as_item(record))
        if items:
            self._outbox += self._flight.replace(items, self._reassembler.next_sequence - 1, now)
            self._timer.start(now)
        if alerts:
            self._outbox += self._flight.packer.pack(alerts)

    def _new_messages(self, record: Record) -> list[FlightItem]:
        """The messages that OpenSSL completes with this record of its own, repeats left out."""
        items: list[FlightItem] = []
        for fragment in split_fragments_untrusted(record.fragment):
            sequence = fragment.message_sequence
            if sequence <= self._own_sequence:
                continue
            if self._own is None:
                self._own = PartialMessage(fragment.length)
            self._own.add(fragment.offset, fragment.body)
            if self._own.is_complete:
                content = build_handshake(fragment.message_type, sequence, self._own.assemble())
                items.append(PlainRecord(record.content_type, record.version, content))
                self._own, self._own_sequence = None, sequence
        return items

    def _repeat_flight(self, now: float) -> None:
        if self._sent_finished:
            # A peer drops a record number that it has seen, and only OpenSSL can protect a record. It does so when
            # its own clock says so; until then the old record goes out again.
            binding.handle_timeout(self._ssl)
            self._collect_output(now)
        self._statistics["flights_repeated"] += 1
        self._outbox += self._flight.repeat(now)

    def _answer_repeat(self, now: float) -> None:
        """The peer repeats the flight that ours answered, so ours may be lost (RFC 6347, 4.2.4, WAITING)."""
        if self._flight.may_be_repeated(now):
            self._repeat_flight(now)
        else:
            self._statistics["repeats_unanswered"] += 1
