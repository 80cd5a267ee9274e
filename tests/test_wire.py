"""What stands on the wire is read as RFC 6347 writes it, and nothing else is read at all."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtls.wire import (
    DTLS_1_0,
    DTLS_1_2,
    HANDSHAKE_HEADER_LENGTH,
    MAX_CIPHERTEXT_LENGTH,
    MAX_RECORD_SEQUENCE,
    RECORD_HEADER_LENGTH,
    ClientHello,
    ContentType,
    HandshakeFragment,
    HandshakeType,
    Record,
    WireError,
    build_handshake,
    build_hello_verify_request,
    build_message_record,
    build_record,
    last_records_at_untrusted,
    parse_client_hello_untrusted,
    split_fragments_untrusted,
    split_leading_records_untrusted,
    split_records_untrusted,
    whole_message_at_untrusted,
)

BYTE = st.integers(0, 255)
UINT16 = st.integers(0, 2**16 - 1)
RECORDS = st.builds(
    Record,
    content_type=BYTE,
    version=st.integers(0xFE00, 0xFEFF),
    epoch=UINT16,
    sequence=st.integers(0, MAX_RECORD_SEQUENCE),
    fragment=st.binary(max_size=100),
)


@st.composite
def fragments(draw: st.DrawFn) -> HandshakeFragment:
    body = draw(st.binary(max_size=60))
    before = draw(st.integers(0, 2**24 - 1 - len(body))) if body else 0
    after = draw(st.integers(0, 2**24 - 1 - len(body) - before)) if body else 0
    return HandshakeFragment(draw(BYTE), before + len(body) + after, draw(UINT16), before, body)


CLIENT_HELLOS = st.builds(
    ClientHello,
    version=st.integers(0xFE00, 0xFEFF),
    random=st.binary(min_size=32, max_size=32),
    session_id=st.binary(max_size=32),
    cookie=st.binary(max_size=255),
    cipher_suites=st.lists(st.binary(min_size=2, max_size=2), min_size=1, max_size=20).map(b"".join),
    compression_methods=st.binary(min_size=1, max_size=255),
    extensions=st.binary(max_size=100),
)
HELLO = ClientHello(DTLS_1_2, bytes(range(32)), b"id", b"cookie", b"\xc0\x2b\xc0\x2f", b"\x00", b"")


def vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def client_hello_body(hello: ClientHello, *, with_extensions: bool = True) -> bytes:
    """The bytes of a ClientHello, written independently of the module that reads them."""
    body = hello.version.to_bytes(2, "big") + hello.random
    body += vector(1, hello.session_id) + vector(1, hello.cookie)
    body += vector(2, hello.cipher_suites) + vector(1, hello.compression_methods)
    return body + vector(2, hello.extensions) if with_extensions else body


def lying_record(
    length: int, fragment: bytes = b"", *, content_type: int = 22, version: int = DTLS_1_2
) -> bytes:
    return struct.pack("!BHHHIH", content_type, version, 0, 0, 0, length) + fragment


def lying_fragment(*, total: int, offset: int, size: int, body: bytes = b"") -> bytes:
    numbers = total.to_bytes(3, "big") + bytes(2) + offset.to_bytes(3, "big") + size.to_bytes(3, "big")
    return b"\x01" + numbers + body


# Records


def test_a_record_is_written_as_rfc_6347_section_4_1_lays_it_out() -> None:
    record = build_record(ContentType.APPLICATION_DATA, DTLS_1_2, 0x0102, 0x030405060708, b"abc")
    assert record == bytes.fromhex("17 fefd 0102 030405060708 0003 616263")
    assert split_records_untrusted(record) == [Record(23, DTLS_1_2, 0x0102, 0x030405060708, b"abc")]


@given(st.lists(RECORDS, min_size=1, max_size=5))
def test_the_records_of_a_datagram_come_back_in_order(records: list[Record]) -> None:
    parts = [build_record(*record) for record in records]
    assert split_records_untrusted(b"".join(parts)) == records
    assert split_leading_records_untrusted(b"".join(parts)) == (records, None)


@pytest.mark.parametrize("epoch", [0, 2**16 - 1])
@pytest.mark.parametrize("sequence", [0, 2**32 - 1, 2**32, MAX_RECORD_SEQUENCE])
def test_the_bounds_of_epoch_and_sequence_survive(epoch: int, sequence: int) -> None:
    [record] = split_records_untrusted(build_record(22, DTLS_1_0, epoch, sequence, b""))
    assert (record.epoch, record.sequence) == (epoch, sequence)


@pytest.mark.parametrize(("epoch", "sequence"), [(2**16, 0), (-1, 0), (0, MAX_RECORD_SEQUENCE + 1), (0, -1)])
def test_a_number_that_does_not_fit_its_field_is_refused_and_not_wrapped(epoch: int, sequence: int) -> None:
    with pytest.raises(struct.error):
        build_record(22, DTLS_1_2, epoch, sequence, b"")


def test_a_fragment_that_does_not_fit_the_length_field_is_refused() -> None:
    with pytest.raises(struct.error):
        build_record(22, DTLS_1_2, 0, 0, bytes(2**16))


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "empty"),
        (b"\x16", "too_short"),
        (lying_record(0)[:-1], "too_short"),
        (lying_record(1), "truncated"),
        (lying_record(MAX_CIPHERTEXT_LENGTH, bytes(MAX_CIPHERTEXT_LENGTH - 1)), "truncated"),
        (lying_record(MAX_CIPHERTEXT_LENGTH + 1, bytes(MAX_CIPHERTEXT_LENGTH + 1)), "oversized"),
        (lying_record(0xFFFF), "oversized"),
        (lying_record(0, version=0x0303), "unknown_version"),
        (lying_record(0, version=0x0100), "unknown_version"),
        (lying_record(0xFFFF, version=0xFDFF), "unknown_version"),
    ],
)
def test_what_is_no_record_is_refused_with_its_reason(datagram: bytes, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        split_records_untrusted(datagram)
    assert caught.value.reason == reason == str(caught.value)
    assert split_leading_records_untrusted(datagram) == ([], reason)


def test_a_record_of_the_greatest_length_is_read() -> None:
    fragment = bytes(MAX_CIPHERTEXT_LENGTH)
    assert split_records_untrusted(build_record(23, DTLS_1_2, 1, 0, fragment))[0].fragment == fragment


def test_an_empty_record_is_a_record() -> None:
    assert split_records_untrusted(lying_record(0)) == [Record(22, DTLS_1_2, 0, 0, b"")]


def test_a_content_type_that_nobody_knows_is_left_for_others_to_judge() -> None:
    assert split_records_untrusted(lying_record(0, content_type=99))[0].content_type == 99


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"\x00", "too_short"),
        (lying_record(5, b"1234"), "truncated"),
        (lying_record(0xFFFF), "oversized"),
        (lying_record(0, version=0x0303), "unknown_version"),
    ],
)
def test_a_bad_record_leaves_the_good_ones_before_it(rest: bytes, reason: str) -> None:
    good = [Record(22, DTLS_1_2, 0, 1, b"one"), Record(20, DTLS_1_2, 0, 2, b"\x01")]
    datagram = b"".join(build_record(*record) for record in good) + rest
    assert split_leading_records_untrusted(datagram) == (good, reason)
    with pytest.raises(WireError, match=reason):
        split_records_untrusted(datagram)


@given(RECORDS, st.data())
def test_every_proper_beginning_of_a_record_is_refused(record: Record, data: st.DataObject) -> None:
    encoded = build_record(*record)
    cut = data.draw(st.integers(1, len(encoded) - 1))
    expected = "too_short" if cut < RECORD_HEADER_LENGTH else "truncated"
    assert split_leading_records_untrusted(encoded[:cut]) == ([], expected)


# Handshake messages


def test_a_handshake_message_is_written_as_rfc_6347_section_4_2_2_lays_it_out() -> None:
    message = build_handshake(HandshakeType.FINISHED, 0x0102, b"abc")
    assert message == bytes.fromhex("14 000003 0102 000000 000003 616263")
    piece = build_handshake(HandshakeType.CERTIFICATE, 1, b"abc", offset=0x010203, length=0x040506)
    assert piece == bytes.fromhex("0b 040506 0001 010203 000003 616263")


@given(st.lists(fragments(), min_size=1, max_size=5))
def test_the_fragments_of_a_record_come_back_in_order(pieces: list[HandshakeFragment]) -> None:
    content = b"".join(
        build_handshake(
            piece.message_type, piece.message_sequence, piece.body, offset=piece.offset, length=piece.length
        )
        for piece in pieces
    )
    assert split_fragments_untrusted(content) == pieces


def test_an_empty_message_is_a_message() -> None:
    content = build_handshake(HandshakeType.SERVER_HELLO_DONE, 3, b"")
    assert split_fragments_untrusted(content) == [HandshakeFragment(14, 0, 3, 0, b"")]


def test_a_message_of_2_to_the_24_bytes_cannot_be_written() -> None:
    with pytest.raises(struct.error):
        build_handshake(HandshakeType.CERTIFICATE, 0, b"a", length=2**24)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bytes(HANDSHAKE_HEADER_LENGTH - 1), "short_handshake_header"),
        (lying_fragment(total=5, offset=0, size=5, body=b"1234"), "truncated_fragment"),
        (lying_fragment(total=2**24 - 1, offset=0, size=2**24 - 1), "truncated_fragment"),
        (lying_fragment(total=5, offset=0, size=6, body=b"123456"), "fragment_past_total"),
        (lying_fragment(total=5, offset=4, size=2, body=b"12"), "fragment_past_total"),
        (lying_fragment(total=5, offset=6, size=0), "fragment_past_total"),
        (lying_fragment(total=0, offset=1, size=0), "fragment_past_total"),
        (lying_fragment(total=0, offset=2**24 - 1, size=2**24 - 1), "fragment_past_total"),
        (lying_fragment(total=5, offset=0, size=0), "empty_fragment"),
        (lying_fragment(total=5, offset=5, size=0), "empty_fragment"),
    ],
)
@pytest.mark.parametrize("before", [b"", build_handshake(14, 0, b"")], ids=["alone", "after a good one"])
def test_what_is_no_fragment_is_refused_with_its_reason(before: bytes, content: bytes, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        split_fragments_untrusted(before + content)
    assert caught.value.reason == reason


def test_a_handshake_record_without_content_is_refused() -> None:
    with pytest.raises(WireError, match="short_handshake_header"):
        split_fragments_untrusted(b"")


def test_the_last_byte_of_the_longest_message_can_come_alone() -> None:
    [piece] = split_fragments_untrusted(lying_fragment(total=2**24 - 1, offset=2**24 - 2, size=1, body=b"z"))
    assert (piece.length, piece.offset, piece.body) == (2**24 - 1, 2**24 - 2, b"z")


@given(st.data())
def test_a_record_with_one_whole_message_is_known_as_such_and_nothing_else_is(data: st.DataObject) -> None:
    pieces = data.draw(st.lists(fragments(), min_size=1, max_size=2))
    content = b"".join(
        build_handshake(
            piece.message_type, piece.message_sequence, piece.body, offset=piece.offset, length=piece.length
        )
        for piece in pieces
    )
    kind, epoch = data.draw(st.sampled_from([(22, 0), (22, 0), (22, 1), (23, 0)]))
    version = data.draw(st.sampled_from([DTLS_1_2, DTLS_1_0, 0xFEFC]))
    number = data.draw(st.integers(0, MAX_RECORD_SEQUENCE))
    before, after = data.draw(st.binary(max_size=30)), data.draw(st.binary(max_size=30))
    record = build_record(kind, version, epoch, number, content)
    found = whole_message_at_untrusted(before + record + after, len(before))
    [piece, *more] = pieces
    if (
        (kind, epoch) == (22, 0)
        and version != 0xFEFC
        and not more
        and (piece.offset, piece.length) == (0, len(piece.body))
    ):
        end = len(before) + len(record)
        assert found == (version, number, piece.message_type, piece.message_sequence, end)
    else:
        assert found is None


def test_a_record_that_is_cut_off_is_no_whole_message() -> None:
    record = build_record(22, DTLS_1_2, 0, 0, build_handshake(14, 0, b"body"))
    assert all(whole_message_at_untrusted(record[:cut], 0) is None for cut in range(len(record)))
    assert whole_message_at_untrusted(record, 0) is not None
    assert whole_message_at_untrusted(record, len(record)) is None


@given(st.binary(max_size=60), st.integers(0, 60))
def test_arbitrary_bytes_are_no_whole_message_or_read_within_their_bounds(data: bytes, at: int) -> None:
    found = whole_message_at_untrusted(data, at)
    assert found is None or at + 25 <= found[4] <= len(data)


@given(
    st.sampled_from([DTLS_1_0, DTLS_1_2]),
    st.integers(0, MAX_RECORD_SEQUENCE),
    st.integers(0, 0xFFFF),
    st.binary(),
)
def test_a_record_with_a_whole_message_is_written_in_one_piece(
    version: int, number: int, sequence: int, body: bytes
) -> None:
    message = build_handshake(HandshakeType.CERTIFICATE, sequence, body)
    in_one = build_message_record(version, number, HandshakeType.CERTIFICATE, sequence, body)
    assert in_one == build_record(ContentType.HANDSHAKE, version, 0, number, message)


LAST_RECORDS = [
    (20, DTLS_1_2, 0, 7, b"\x01"),
    (22, DTLS_1_2, 1, 3, bytes(48)),
]


@pytest.mark.parametrize("version", [DTLS_1_0, DTLS_1_2])
@pytest.mark.parametrize("number", [0, MAX_RECORD_SEQUENCE])
def test_a_change_cipher_spec_and_a_protected_handshake_record_at_the_end_are_known(
    version: int, number: int
) -> None:
    ends = build_record(20, version, 0, number, b"\x01") + build_record(22, version, 1, number, bytes(48))
    assert last_records_at_untrusted(b"before" + ends, 6) == (version, number, 48)
    assert all(last_records_at_untrusted(ends[:cut], 0) is None for cut in range(len(ends)))
    assert last_records_at_untrusted(ends + b"\x16", 0) is None
    assert last_records_at_untrusted(ends, 1) is None


@pytest.mark.parametrize(
    ("which", "field", "value"),
    [
        (0, 0, 21),
        (0, 0, 22),
        (0, 2, 1),
        (0, 4, b"\x02"),
        (0, 4, b"\x01\x01"),
        (0, 4, b""),
        (1, 0, 23),
        (1, 0, 21),
        (1, 1, DTLS_1_0),
        (1, 2, 0),
        (1, 2, 2),
        (1, 2, 0xFFFF),
    ],
)
def test_nothing_else_is_taken_for_a_change_cipher_spec_and_a_finished(
    which: int, field: int, value: object
) -> None:
    records: list[list[Any]] = [list(record) for record in LAST_RECORDS]
    assert last_records_at_untrusted(b"".join(build_record(*record) for record in records), 0) is not None
    records[which][field] = value
    assert last_records_at_untrusted(b"".join(build_record(*record) for record in records), 0) is None


@given(st.binary(max_size=80), st.integers(0, 80))
def test_arbitrary_bytes_are_no_last_records_or_read_within_their_bounds(data: bytes, at: int) -> None:
    found = last_records_at_untrusted(data, at)
    assert found is None or at + 27 + found[2] == len(data)


# ClientHellos


@given(CLIENT_HELLOS)
def test_a_client_hello_is_read_as_it_was_written(hello: ClientHello) -> None:
    assert parse_client_hello_untrusted(client_hello_body(hello)) == hello


def test_a_client_hello_may_end_without_extensions() -> None:
    assert parse_client_hello_untrusted(client_hello_body(HELLO, with_extensions=False)) == HELLO


@pytest.mark.parametrize(
    "hello",
    [
        HELLO._replace(session_id=bytes(32), cookie=bytes(255), compression_methods=bytes(255)),
        HELLO._replace(session_id=b"", cookie=b"", cipher_suites=b"\x00\x2f"),
        HELLO._replace(cipher_suites=bytes(2**16 - 2)),
        HELLO._replace(extensions=bytes(2**16 - 1)),
    ],
    ids=["longest small fields", "shortest fields", "most cipher suites", "longest extensions"],
)
def test_the_bounds_of_a_client_hellos_fields_are_allowed(hello: ClientHello) -> None:
    assert parse_client_hello_untrusted(client_hello_body(hello)) == hello


@pytest.mark.parametrize(
    "body",
    [
        b"",
        client_hello_body(HELLO._replace(session_id=bytes(33))),
        client_hello_body(HELLO._replace(cipher_suites=b"")),
        client_hello_body(HELLO._replace(cipher_suites=b"\x00")),
        client_hello_body(HELLO._replace(cipher_suites=bytes(3))),
        client_hello_body(HELLO._replace(cipher_suites=bytes(2**16 - 1))),
        client_hello_body(HELLO._replace(compression_methods=b"")),
        client_hello_body(HELLO._replace(version=0x0303)),
        client_hello_body(HELLO._replace(version=0x0100)),
        client_hello_body(HELLO) + b"\x00",
        client_hello_body(HELLO, with_extensions=False) + b"\x00",
        client_hello_body(HELLO, with_extensions=False) + b"\x00\x01",
        client_hello_body(HELLO, with_extensions=False) + b"\xff\xff" + bytes(2**16 - 2),
    ],
    ids=[
        "nothing",
        "session id too long",
        "no cipher suites",
        "half a cipher suite",
        "one and a half cipher suites",
        "too many cipher suites",
        "no compression methods",
        "version of TLS",
        "version before DTLS 1.0",
        "bytes after the extensions",
        "half a length of extensions",
        "extensions cut off",
        "long extensions cut off",
    ],
)
def test_what_is_no_client_hello_is_refused(body: bytes) -> None:
    with pytest.raises(WireError) as caught:
        parse_client_hello_untrusted(body)
    assert caught.value.reason == "bad_client_hello"


@given(CLIENT_HELLOS, st.data())
def test_a_client_hello_cut_anywhere_but_before_its_extensions_is_refused(
    hello: ClientHello, data: st.DataObject
) -> None:
    body = client_hello_body(hello)
    whole_without_extensions = len(client_hello_body(hello, with_extensions=False))
    cuts = st.integers(0, len(body) - 1).filter(lambda cut: cut != whole_without_extensions)
    with pytest.raises(WireError, match="bad_client_hello"):
        parse_client_hello_untrusted(body[: data.draw(cuts)])


# HelloVerifyRequests


@pytest.mark.parametrize("cookie", [b"", b"cookie", bytes(32), bytes(255)])
def test_a_hello_verify_request_carries_the_cookie_in_one_dtls_1_0_record(cookie: bytes) -> None:
    [record] = split_records_untrusted(build_hello_verify_request(cookie, 7))
    assert record[:4] == (ContentType.HANDSHAKE, DTLS_1_0, 0, 7)
    [message] = split_fragments_untrusted(record.fragment)
    assert message[:4] == (HandshakeType.HELLO_VERIFY_REQUEST, 3 + len(cookie), 0, 0)
    assert message.body == b"\xfe\xff" + vector(1, cookie)


def test_a_hello_verify_request_is_smaller_than_the_smallest_hello_that_asks_for_it() -> None:
    # Otherwise a forged source address would make a server send more than it was sent.
    smallest = HELLO._replace(session_id=b"", cookie=b"", cipher_suites=b"\x00\x2f")
    body = client_hello_body(smallest, with_extensions=False)
    asked = build_record(22, DTLS_1_2, 0, 0, build_handshake(HandshakeType.CLIENT_HELLO, 0, body))
    assert len(build_hello_verify_request(bytes(32), 0)) <= len(asked)


def test_a_hello_verify_request_with_too_long_a_cookie_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 255 bytes, not 256"):
        build_hello_verify_request(bytes(256), 0)


# Whatever comes


def read_everything(datagram: bytes) -> None:
    """Reads as far as a server would, and a little further, and lets a WireError end each branch only."""
    records, trouble = split_leading_records_untrusted(datagram)
    assert trouble is None or isinstance(trouble, str)
    assert sum(RECORD_HEADER_LENGTH + len(record.fragment) for record in records) <= len(datagram)
    for content in (datagram, *(record.fragment for record in records)):
        try:
            pieces = split_fragments_untrusted(content)
        except WireError:
            continue
        for piece in pieces:
            assert piece.offset + len(piece.body) <= piece.length
            try:
                parse_client_hello_untrusted(piece.body)
            except WireError:
                continue


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_a_wire_error(datagram: bytes) -> None:
    read_everything(datagram)
    for read in (split_records_untrusted, split_fragments_untrusted, parse_client_hello_untrusted):
        with contextlib.suppress(WireError):
            read(datagram)


@given(
    CLIENT_HELLOS, st.lists(st.tuples(st.integers(0, 400), BYTE), min_size=1, max_size=4), st.integers(0, 500)
)
def test_a_damaged_client_hello_raises_nothing_but_a_wire_error(
    hello: ClientHello, changes: list[tuple[int, int]], length: int
) -> None:
    message = build_handshake(HandshakeType.CLIENT_HELLO, 0, client_hello_body(hello))
    datagram = bytearray(build_record(22, DTLS_1_2, 0, 0, message))
    for position, value in changes:
        datagram[position % len(datagram)] = value
    read_everything(bytes(datagram))
    read_everything(bytes(datagram[:length]))
