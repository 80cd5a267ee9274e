"""What a server does with datagrams of peers that have not proved their address: nothing that costs state.

RFC 6347, 4.2.1. A ClientHello without a valid cookie is answered by a HelloVerifyRequest, which is shorter, and
forgotten. ClientHellos in fragments are normal (Chromium's, NSS's); one small buffer of fixed size, shared by all
unproved peers, holds the pieces, the oldest giving way.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .connection import ReceivedClientHello
from .reassembly import Message, PartialMessage
from .wire import (
    MESSAGE_RECORD_OVERHEAD,
    ClientHello,
    ContentType,
    HandshakeFragment,
    HandshakeType,
    Record,
    WireError,
    build_hello_verify_request,
    parse_client_hello_untrusted,
    split_fragments_untrusted,
    split_leading_records_untrusted,
    whole_message_at_untrusted,
)

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .cookie import CookieFactory

MAX_HELLO_LENGTH = 8_192
"""The longest ClientHello in bytes; with a post-quantum share and a ticket full of certificates it has 3,000."""
MAX_PARTIAL_HELLOS = 64
"""How many unproved peers' ClientHellos in pieces are held at a time."""
MAX_PARTIAL_BYTES = 65_536
MAX_PIECES = 32
"""How many pieces of one ClientHello are held; with the smallest MTU 8 KiB come in about as many."""
MAX_FIRST_RECORD = 2**40
"""A record number from which an association could still say all it has to say."""


class Verdict(NamedTuple):
    """What the gate makes of a datagram: an answer to send back, or a proved ClientHello; or neither."""

    answer: bytes | None = None
    hello: ReceivedClientHello | None = None
    offer: ClientHello | None = None
    """``hello``, parsed."""

    @property
    def random(self) -> bytes:
        """The client random of ``hello``: two hellos with the same one are the same handshake."""
        return b"" if self.offer is None else self.offer.random


_NOTHING = Verdict()
_make = tuple.__new__
"""What Verdict(...) and the like do, without a call of Python's."""
_MESSAGE_TYPE_AT = 13
# Looked up once: an attribute of an enumeration's class is slow to get on some Pythons.
_HANDSHAKE, _CLIENT_HELLO = int(ContentType.HANDSHAKE), int(HandshakeType.CLIENT_HELLO)


def begins_client_hello(datagram: bytes) -> bool:
    """Whether a datagram begins with (a fragment of) a plaintext ClientHello."""
    return (
        len(datagram) > _MESSAGE_TYPE_AT
        and datagram[0] == _HANDSHAKE
        and is_plaintext(datagram)
        and datagram[_MESSAGE_TYPE_AT] == _CLIENT_HELLO
    )


def is_plaintext(datagram: bytes) -> bool:
    """Whether a datagram begins with a record of epoch 0."""
    return datagram[3:5] == b"\x00\x00"


class Gate:
    """Judges the first datagrams of peers.

    :param cookies: makes and verifies cookies; ``None`` lets every ClientHello pass: only for transports that have
        proved the peer's address by other means, such as ICE.
    """

    def __init__(self, cookies: CookieFactory | None, statistics: Counter[str] | None = None) -> None:
        self._cookies = cookies
        self.statistics: Counter[str] = Counter() if statistics is None else statistics
        self._partial: dict[tuple[Hashable, int, int], PartialMessage] = {}
        self._partial_bytes = 0

    def judge_untrusted(self, datagram: bytes, address: Hashable, now: float) -> Verdict:
        """What to do with ``datagram`` from ``address``. Does not raise; what is dropped is counted."""
        whole = whole_message_at_untrusted(datagram, 0)
        if whole is not None and whole[4] == len(datagram):  # as nearly all are
            version, number, message_type, sequence, end = whole
            try:
                _check_untrusted(message_type, sequence, end - MESSAGE_RECORD_OVERHEAD)
                body = datagram[MESSAGE_RECORD_OVERHEAD:]
                return self._judge_hello(body, sequence, number, version, address, now)
            except WireError as error:
                self.statistics[f"dropped_{error.reason}"] += 1
                return _NOTHING
        records, trouble = split_leading_records_untrusted(datagram)
        if trouble is not None:
            self.statistics[f"dropped_{trouble}"] += 1
        for record in records:
            if record.epoch or record.content_type != _HANDSHAKE:
                self.statistics["dropped_no_association"] += 1
                continue
            try:
                verdict = self._judge_record(record, address, now)
            except WireError as error:
                self.statistics[f"dropped_{error.reason}"] += 1
            else:
                if verdict is not _NOTHING:
                    return verdict
        return _NOTHING

    def _judge_record(self, record: Record, address: Hashable, now: float) -> Verdict:
        for fragment in split_fragments_untrusted(record.fragment):
            _check_untrusted(fragment.message_type, fragment.message_sequence, fragment.length)
            body = self._reassemble(fragment, address)
            if body is not None:
                sequence = fragment.message_sequence
                return self._judge_hello(body, sequence, record.sequence, record.version, address, now)
        return _NOTHING

    def _judge_hello(
        self, body: bytes, sequence: int, record_number: int, version: int, address: Hashable, now: float
    ) -> Verdict:
        hello = parse_client_hello_untrusted(body)
        if record_number > MAX_FIRST_RECORD:
            raise WireError("wild_record_number")
        cookies = self._cookies
        if cookies is None:
            if sequence:
                raise WireError("wild_message_seq")
        elif hello.cookie and cookies.verify(address, hello, now):
            self.statistics["cookies_accepted"] += 1
        else:
            if hello.cookie:
                self.statistics["cookies_refused"] += 1
            self.statistics["cookies_sent"] += 1
            cookie = cookies.generate(address, hello, now)
            return _make(Verdict, (build_hello_verify_request(cookie, record_number), None, None))
        message = _make(Message, (_CLIENT_HELLO, sequence, body))
        received = _make(ReceivedClientHello, (message, record_number, version, cookies is not None))
        return _make(Verdict, (None, received, hello))

    def _reassemble(self, fragment: HandshakeFragment, address: Hashable) -> bytes | None:
        if len(fragment.body) == fragment.length:
            return fragment.body
        key = (address, fragment.message_sequence, fragment.length)
        partial = self._partial.pop(key, None)
        if partial is None:
            partial = PartialMessage(fragment.length)
        else:
            self._partial_bytes -= partial.held_bytes
        partial.add(fragment.offset, fragment.body)
        if partial.is_complete:
            return partial.assemble()
        if partial.fragment_count >= MAX_PIECES:
            raise WireError("reassembly_full")
        self._partial[key] = partial
        self._partial_bytes += partial.held_bytes
        while len(self._partial) > MAX_PARTIAL_HELLOS or self._partial_bytes > MAX_PARTIAL_BYTES:
            oldest = next(iter(self._partial))
            self._partial_bytes -= self._partial.pop(oldest).held_bytes
            self.statistics["dropped_partial_hellos"] += 1
        return None


def _check_untrusted(message_type: int, sequence: int, length: int) -> None:
    """Raises :class:`WireError` for a message, or a part of one, that no association can begin with."""
    if message_type != _CLIENT_HELLO:
        raise WireError("no_association")
    if sequence > 1:
        # The handshake goes on at message_seq 1, so that a cookie comes with 0 or 1.
        raise WireError("wild_message_seq")
    if not 0 < length <= MAX_HELLO_LENGTH:
        raise WireError("message_too_long")
