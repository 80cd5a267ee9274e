"""ClientHellos as anybody may send them."""

from __future__ import annotations

from dtls.wire import (
    DTLS_1_0,
    DTLS_1_2,
    ContentType,
    HandshakeType,
    build_handshake,
    build_record,
    split_fragments_untrusted,
    split_records_untrusted,
)

RANDOM = bytes(range(32))
_GROUPS = bytes.fromhex("000a 0006 0004 0017 0018")
_SIGNATURES = bytes.fromhex("000d 0006 0004 0403 0804")
OFFER = len(_GROUPS + _SIGNATURES).to_bytes(2, "big") + _GROUPS + _SIGNATURES
"""Extensions, with their length in front, without which no server can choose: groups and signatures."""


def hello_body(*, random: bytes = RANDOM, cookie: bytes = b"", extensions: bytes = b"") -> bytes:
    """The shortest ClientHello there is, unless extensions (with their length in front) are given."""
    return (
        DTLS_1_2.to_bytes(2, "big")
        + random
        + b"\x00"
        + bytes([len(cookie)])
        + cookie
        + b"\x00\x02\xc0\x2b"
        + b"\x01\x00"
        + extensions
    )


def piece(body: bytes, start: int, end: int, *, message_sequence: int = 0, record_sequence: int = 0) -> bytes:
    """A datagram with the bytes ``start`` to ``end`` of a ClientHello."""
    fragment = build_handshake(
        HandshakeType.CLIENT_HELLO, message_sequence, body[start:end], offset=start, length=len(body)
    )
    return build_record(ContentType.HANDSHAKE, DTLS_1_0, 0, record_sequence, fragment)


def whole(body: bytes, *, message_sequence: int = 0, record_sequence: int = 0) -> bytes:
    """A datagram with a whole ClientHello."""
    return piece(body, 0, len(body), message_sequence=message_sequence, record_sequence=record_sequence)


def in_pieces(datagram: bytes, count: int) -> list[bytes]:
    """A datagram with one whole handshake message, cut into ``count`` fragments, one datagram each."""
    (record,) = split_records_untrusted(datagram)
    (fragment,) = split_fragments_untrusted(record.fragment)
    size = -(-len(fragment.body) // count)
    return [
        build_record(
            record.content_type,
            record.version,
            0,
            record.sequence + number,
            build_handshake(
                fragment.message_type,
                fragment.message_sequence,
                fragment.body[start : start + size],
                offset=start,
                length=fragment.length,
            ),
        )
        for number, start in enumerate(range(0, fragment.length, size))
    ]


def cookie_in(hello_verify_request: bytes) -> bytes:
    """The cookie in a datagram of ours."""
    (record,) = split_records_untrusted(hello_verify_request)
    (fragment,) = split_fragments_untrusted(record.fragment)
    assert fragment.message_type == HandshakeType.HELLO_VERIFY_REQUEST
    assert fragment.body[2] == len(fragment.body) - 3
    return fragment.body[3:]


class HelloFragments:
    """A tap of a relay (:mod:`tests.loopback`) that watches for ClientHellos in fragments.

    :param seen: where the ``message_seq`` of those in fragments are put: 1 is that of the one with the cookie.
    :param swap: whether the first fragment is overtaken by the second.
    """

    def __init__(self, seen: set[int], *, swap: bool = False) -> None:
        self._seen = seen
        self._swap = swap
        self._held: list[bytes] = []

    def __call__(self, sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender != "client":
            return [datagram]
        if self._held:
            return [datagram, self._held.pop()]
        record = split_records_untrusted(datagram)[0]
        if record.epoch or record.content_type != ContentType.HANDSHAKE:
            return [datagram]
        fragment = split_fragments_untrusted(record.fragment)[0]
        if fragment.message_type != HandshakeType.CLIENT_HELLO or len(fragment.body) == fragment.length:
            return [datagram]
        self._seen.add(fragment.message_sequence)
        if not self._swap:
            return [datagram]
        self._held.append(datagram)
        return []
