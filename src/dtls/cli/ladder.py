"""A handshake as a ladder: each datagram an arrow between client and server, with the records it carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dtls.wire import (
    RECORD_HEADER_LENGTH,
    ContentType,
    HandshakeType,
    Record,
    WireError,
    parse_client_hello_untrusted,
    split_fragments_untrusted,
    split_records_untrusted,
)

from .screen import Piece, Screen, length

if TYPE_CHECKING:
    from .relay import Observation, Side

_MARGIN = 12
_FLIGHTS = {
    1: "what the client can do",
    2: "prove your address: a cookie, and nothing remembered",
    3: "the same again, with the cookie",
    4: "the choice, a certificate, half of the key, signed",
    5: "the other half of the key; encrypted from here on",
    6: "encrypted too: the handshake is complete",
}
"""The flights of a full handshake (RFC 6347, 4.2.4, figure 1)."""
_NAMES = {
    kind: "".join(word.capitalize() for word in kind.name.split("_"))
    for kind in (*HandshakeType, *ContentType)
}


class SeenRecord(NamedTuple):
    """What a third party can tell of a record."""

    name: str
    remark: str
    size: int
    """Bytes, with the record's header."""
    epoch: int
    sequence: int
    flight: int | None
    """Its place in a handshake; ``None`` for what comes after."""
    key: tuple[Side, int, int] | None
    """The same for a message that is repeated; ``None`` for what only the two ends can compare."""


def read_datagram_untrusted(sender: Side, datagram: bytes) -> list[SeenRecord]:
    """The records of a datagram. Raises :class:`~dtls.wire.WireError` for what is not DTLS."""
    return [
        seen
        for record in split_records_untrusted(datagram)
        for seen in _read_record_untrusted(sender, record)
    ]


def _read_record_untrusted(sender: Side, record: Record) -> list[SeenRecord]:
    size = len(record.fragment) + RECORD_HEADER_LENGTH
    own_flight = 5 if sender == "client" else 6

    def seen(
        name: str, remark: str, flight: int | None, key: tuple[Side, int, int] | None = None, size: int = size
    ) -> SeenRecord:
        return SeenRecord(name, remark, size, record.epoch, record.sequence, flight, key)

    if record.content_type == ContentType.HANDSHAKE:
        if record.epoch:
            return [seen("Finished (encrypted)", "", own_flight)]
        found = []
        for fragment in split_fragments_untrusted(record.fragment):
            name = _NAMES.get(fragment.message_type, f"handshake message {fragment.message_type}")
            remark, flight = "", own_flight if sender == "client" else 4
            if fragment.length != len(fragment.body):
                end = fragment.offset + len(fragment.body)
                remark = f"bytes {fragment.offset} to {end} of {fragment.length}"
            elif fragment.message_type == HandshakeType.CLIENT_HELLO:
                cookie = parse_client_hello_untrusted(fragment.body).cookie
                flight, remark = (3, f"cookie: {len(cookie)} bytes") if cookie else (1, "")
            elif fragment.message_type == HandshakeType.HELLO_VERIFY_REQUEST:
                flight = 2
            found.append(seen(name, remark, flight, (sender, fragment.message_sequence, fragment.offset)))
        return found
    if record.content_type == ContentType.CHANGE_CIPHER_SPEC:
        return [seen("ChangeCipherSpec", "", own_flight, (sender, -1, 0))]
    name = _NAMES.get(record.content_type, f"content type {record.content_type}")
    return [seen(f"{name} (encrypted)" if record.epoch else name, "", None)]


class Ladder:
    """Draws datagrams as they are observed; time counts from the first."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._start: float | None = None
        self._last_flight: tuple[int | None, bool] = (None, False)
        self._keys: set[tuple[Side, int, int]] = set()
        self.flights: list[int] = []
        """The flights seen, in order; one that was repeated stands there again."""
        self._inner = screen.width - _MARGIN - 4

    def begin(self) -> None:
        """The heads of the two lines."""
        gap = " " * (self._inner + 2 - len("client") - len("server") + 4)
        self._screen.line(
            (f"{'ms':>{_MARGIN - 3}}", "dim"), " ", ("client", "client"), gap, ("server", "server")
        )

    def draw(self, observation: Observation) -> list[SeenRecord]:
        """Draw one datagram; its records."""
        try:
            records = read_datagram_untrusted(observation.sender, observation.datagram)
        except WireError as error:
            self._between((f"not DTLS: {error.reason}", "bad"))
            return []
        keys = {record.key for record in records if record.key is not None}
        again = bool(keys & self._keys)
        self._keys |= keys
        flight = next((record.flight for record in records if record.flight is not None), None)
        if flight is not None and (flight, again) != self._last_flight:
            self.flights.append(flight)
            self._caption(flight, again=again)
        self._last_flight = flight, again
        self._arrow(observation)
        for record in records:
            self._record(record)
        return records

    def say(self, text: str, style: str = "dim") -> None:
        """A remark between the two lines."""
        self._between()
        self._between((text, style))

    def _caption(self, flight: int, *, again: bool) -> None:
        self._between()
        remark = "sent again: no answer has come" if again else _FLIGHTS[flight]
        self._between((f"flight {flight}", "strong"), (f"  {remark}", "dim"))

    def _arrow(self, observation: Observation) -> None:
        if self._start is None:
            self._start = observation.at
        offset = (observation.at - self._start) * 1000
        size = f" {len(observation.datagram)} bytes "
        dashes = self._inner + 2 - len(size) - 3
        client = observation.sender == "client"
        style = "bad" if observation.lost else observation.sender
        shaft = "─" * dashes
        if observation.lost:
            kept = dashes // 2
            end = "✗ lost"
            gone = " " * (dashes - kept - len(end))
            shaft = f"{'─' * kept}{end}{gone}" if client else f"{gone}lost ✗{'─' * kept}"
        arrow = (
            f"├──{size}{shaft}{' ' if observation.lost else '▶'}│"
            if client
            else f"│{' ' if observation.lost else '◀'}{shaft}{size}──┤"
        )
        self._screen.line((f"{offset:>{_MARGIN - 3},.2f} ", "dim"), (f"  {arrow}", style))

    def _record(self, record: SeenRecord) -> None:
        numbers = f"{record.size:>5} bytes   epoch {record.epoch}, record {record.sequence}"
        left: list[Piece] = [f"  {record.name}", (f"  {record.remark}" if record.remark else "", "dim")]
        room = self._inner - length(*left) - 1
        if len(numbers) > room:
            numbers = f"{record.size} bytes"
        gap = " " * (room - len(numbers))
        self._between(*left, gap, (numbers, "dim"))

    def _between(self, *pieces: Piece) -> None:
        rest = " " * (self._inner - length(*pieces))
        self._screen.line(" " * _MARGIN, ("│", "client"), " ", *pieces, rest, " ", ("│", "server"))
