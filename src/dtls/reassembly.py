"""Handshake messages put together from fragments that anybody may have sent.

RFC 6347, 4.2.2 to 4.2.4: fragments come in any order, overlap and repeat; messages come in any order too. Nothing
here is authenticated yet, so everything is bounded: how far ahead a message may be, how long one may be, how many
bytes and fragments are held. Memory grows with bytes received, never with lengths claimed. Fragments that
disagree about a message's type or length are kept apart, so that one forged fragment does not spoil the true message;
where there are too many notions of a message, the one of which least has come gives way to a new one, so that lies
neither keep the truth out nor push it out cheaply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .wire import HandshakeFragment, HandshakeType, WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

WINDOW = 10
"""How many messages ahead of the next one are held; a flight has at most 8 (RFC 6347, 4.2.4)."""
MAX_CANDIDATES = 3
"""How many notions of one message's type and length are held at a time."""
MAX_HELD_BYTES = 131_072
MAX_HELD_FRAGMENTS = 512
MAX_MESSAGE_LENGTH = 102_400
"""The longest handshake message in bytes, as OpenSSL bounds a certificate list by default."""

_FROM_SERVER: dict[int, int] = {
    HandshakeType.SERVER_HELLO: 20_000,
    HandshakeType.HELLO_VERIFY_REQUEST: 258,
    HandshakeType.NEW_SESSION_TICKET: 65_541,
    HandshakeType.CERTIFICATE: MAX_MESSAGE_LENGTH,
    HandshakeType.SERVER_KEY_EXCHANGE: MAX_MESSAGE_LENGTH,
    HandshakeType.CERTIFICATE_REQUEST: MAX_MESSAGE_LENGTH,
    HandshakeType.SERVER_HELLO_DONE: 0,
    HandshakeType.CERTIFICATE_STATUS: 16_384,
    HandshakeType.FINISHED: 64,
}
_FROM_CLIENT: dict[int, int] = {
    HandshakeType.CLIENT_HELLO: 16_384,
    HandshakeType.CERTIFICATE: MAX_MESSAGE_LENGTH,
    HandshakeType.CERTIFICATE_VERIFY: 16_384,
    HandshakeType.CLIENT_KEY_EXCHANGE: 4_096,
    HandshakeType.FINISHED: 64,
}


class Message(NamedTuple):
    """A whole handshake message."""

    message_type: int
    sequence: int
    body: bytes


class PartialMessage:
    """The pieces of one message, as they came."""

    __slots__ = ("_missing", "_pieces", "held_bytes", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        self.held_bytes = 0
        self._pieces: list[tuple[int, bytes]] = []
        self._missing: list[tuple[int, int]] = [(0, length)]

    @property
    def is_complete(self) -> bool:
        """Whether every byte is there."""
        return not self._missing

    @property
    def fragment_count(self) -> int:
        """How many pieces are held."""
        return len(self._pieces)

    def add(self, offset: int, body: bytes) -> bool:
        """Hold ``body``; false, and nothing is held, if every byte of it is there already."""
        end = offset + len(body)
        missing: list[tuple[int, int]] = []
        news = False
        for start, stop in self._missing:
            if end <= start or stop <= offset:
                missing.append((start, stop))
                continue
            news = True
            if start < offset:
                missing.append((start, offset))
            if end < stop:
                missing.append((end, stop))
        if not news and self.length:
            return False
        self._missing = missing if self.length else []
        self._pieces.append((offset, body))
        self.held_bytes += len(body)
        return True

    def assemble(self) -> bytes:
        """The message's body. Where pieces overlap, the one that came first counts."""
        whole = bytearray(self.length)
        for offset, body in reversed(self._pieces):
            whole[offset : offset + len(body)] = body
        return bytes(whole)


class Reassembler:
    """Gives the messages of one peer whole and in order.

    :param server_side: whose messages are expected: a server reads a client's.
    :param next_sequence: ``message_seq`` of the first message expected.
    """

    __slots__ = ("_held", "_limits", "next_sequence")

    def __init__(self, *, server_side: bool, next_sequence: int = 0) -> None:
        self._limits: Mapping[int, int] = _FROM_CLIENT if server_side else _FROM_SERVER
        self.next_sequence = next_sequence
        self._held: dict[tuple[int, int, int], PartialMessage] = {}

    def pass_over_untrusted(self, message_type: int, sequence: int, length: int) -> bool:
        """Whether a message that came whole is the next one, and allowed: then it is done with. Does not raise."""
        if sequence != self.next_sequence:
            return False
        limit = self._limits.get(message_type, -1)
        if length > limit or (limit and not length):
            return False
        self._done_with_next()
        return True

    def add_untrusted(self, fragment: HandshakeFragment) -> None:
        """Take a fragment in.

        Raises :class:`~dtls.wire.WireError`: ``unexpected_message``, ``message_too_long``, ``empty_message``,
        ``wild_message_seq``, ``old_message`` (a repeat of one that was given out), ``repeated_fragment``,
        ``conflicting_fragments``, ``reassembly_full``.
        """
        limit = self._limits.get(fragment.message_type)
        if limit is None:
            raise WireError("unexpected_message")
        if fragment.length > limit:
            raise WireError("message_too_long")
        if limit and not fragment.length:
            raise WireError("empty_message")
        sequence = fragment.message_sequence
        if sequence < self.next_sequence:
            raise WireError("old_message")
        if sequence >= self.next_sequence + WINDOW:
            raise WireError("wild_message_seq")
        key = (sequence, fragment.message_type, fragment.length)
        partial = self._held.get(key)
        if partial is None:
            self._make_room_for_another(sequence)
            partial = PartialMessage(fragment.length)
        if not partial.add(fragment.offset, fragment.body):
            raise WireError("repeated_fragment")
        self._held[key] = partial
        self._make_room(key)

    def next_message(self) -> Message | None:
        """The next message if it is complete; its ``message_seq`` is then done with."""
        for key, partial in self._held.items():
            if key[0] == self.next_sequence and partial.is_complete:
                message = Message(key[1], key[0], partial.assemble())
                self._done_with_next()
                return message
        return None

    def _done_with_next(self) -> None:
        if self._held:
            self._held = {key: part for key, part in self._held.items() if key[0] > self.next_sequence}
        self.next_sequence += 1

    def _make_room_for_another(self, sequence: int) -> None:
        """Let go of the smallest notion of a message if there are too many; those that are complete stay."""
        candidates = [key for key in self._held if key[0] == sequence]
        if len(candidates) < MAX_CANDIDATES:
            return
        partial = [key for key in candidates if not self._held[key].is_complete]
        if not partial:
            raise WireError("conflicting_fragments")
        del self._held[min(partial, key=lambda key: self._held[key].held_bytes)]

    def _make_room(self, newest: tuple[int, int, int]) -> None:
        """Let go of the messages farthest ahead; what is needed next matters most."""
        while (
            sum(partial.held_bytes for partial in self._held.values()) > MAX_HELD_BYTES
            or sum(partial.fragment_count for partial in self._held.values()) > MAX_HELD_FRAGMENTS
        ):
            farthest = max(self._held, key=lambda key: (key[0], self._held[key].held_bytes))
            del self._held[farthest]
            if farthest == newest:
                raise WireError("reassembly_full")
