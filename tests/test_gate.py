"""Before a peer has proved its address it costs nothing and gets no more than it gives (RFC 6347, 4.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtls.cookie import COOKIE_LENGTH, CookieFactory
from dtls.gate import (
    MAX_FIRST_RECORD,
    MAX_HELLO_LENGTH,
    MAX_PARTIAL_BYTES,
    MAX_PARTIAL_HELLOS,
    MAX_PIECES,
    Gate,
    Verdict,
    begins_client_hello,
    is_plaintext,
)
from dtls.wire import (
    DTLS_1_0,
    ContentType,
    HandshakeType,
    build_handshake,
    build_record,
    split_records_untrusted,
)

from .hellos import RANDOM, cookie_in, hello_body, piece, whole

if TYPE_CHECKING:
    from collections.abc import Hashable

NOW = 1000.0
HERE = ("192.0.2.1", 5684)
THERE = ("198.51.100.7", 40000)
LONG = b"\x07\xd0" + b"\xff\xff\x07\xcc" + bytes(1996)  # an extension of 2000 bytes


@pytest.fixture
def gate() -> Gate:
    return Gate(CookieFactory())


def cookie_from(
    gate: Gate, address: Hashable = HERE, now: float = NOW, *, extensions: bytes = b"", random: bytes = RANDOM
) -> bytes:
    answer = gate.judge_untrusted(
        whole(hello_body(random=random, extensions=extensions)), address, now
    ).answer
    assert answer is not None
    return cookie_in(answer)


def held(gate: Gate) -> tuple[int, int]:
    """How many partial hellos are held, and their bytes; the gate's own count of bytes must be true."""
    total = sum(partial.held_bytes for partial in gate._partial.values())
    assert gate._partial_bytes == total
    return len(gate._partial), total


def test_a_hello_without_a_cookie_is_answered_by_a_shorter_one_and_forgotten(gate: Gate) -> None:
    hello = whole(hello_body())
    verdict = gate.judge_untrusted(hello, HERE, NOW)
    assert verdict.hello is None
    assert verdict.answer is not None
    assert len(cookie_in(verdict.answer)) == COOKIE_LENGTH
    assert len(verdict.answer) <= len(hello)
    assert held(gate) == (0, 0)
    assert gate.statistics == {"cookies_sent": 1}


def test_a_hello_verify_request_carries_the_record_number_of_the_hello(gate: Gate) -> None:
    answer = gate.judge_untrusted(whole(hello_body(), record_sequence=77), HERE, NOW).answer
    assert answer is not None
    (record,) = split_records_untrusted(answer)
    assert record.sequence == 77


@pytest.mark.parametrize("message_sequence", [0, 1])
def test_a_hello_with_its_cookie_passes(gate: Gate, message_sequence: int) -> None:
    body = hello_body(cookie=cookie_from(gate))
    verdict = gate.judge_untrusted(
        whole(body, message_sequence=message_sequence, record_sequence=9), HERE, NOW
    )
    assert verdict.answer is None
    assert verdict.random == RANDOM
    assert verdict.hello is not None
    assert verdict.hello.cookie_verified
    assert verdict.hello.message == (HandshakeType.CLIENT_HELLO, message_sequence, body)
    assert (verdict.hello.record_sequence, verdict.hello.record_version) == (9, DTLS_1_0)


def test_a_cookie_from_another_address_gets_a_new_one(gate: Gate) -> None:
    body = hello_body(cookie=cookie_from(gate, THERE))
    verdict = gate.judge_untrusted(whole(body, message_sequence=1), HERE, NOW)
    assert verdict.hello is None
    assert verdict.answer is not None
    assert cookie_in(verdict.answer) != cookie_from(gate, THERE)
    assert gate.statistics["cookies_refused"] == 1


@pytest.mark.parametrize("at", [0, 7, 8, COOKIE_LENGTH - 1])
def test_an_altered_cookie_gets_a_new_one(gate: Gate, at: int) -> None:
    cookie = bytearray(cookie_from(gate))
    cookie[at] ^= 1
    verdict = gate.judge_untrusted(whole(hello_body(cookie=bytes(cookie)), message_sequence=1), HERE, NOW)
    assert verdict.hello is None
    assert verdict.answer is not None
    new = hello_body(cookie=cookie_in(verdict.answer))
    assert gate.judge_untrusted(whole(new, message_sequence=1), HERE, NOW).hello is not None


def test_an_expired_cookie_gets_a_new_one(gate: Gate) -> None:
    body = hello_body(cookie=cookie_from(gate))
    late = NOW + 121
    verdict = gate.judge_untrusted(whole(body, message_sequence=1), HERE, late)
    assert verdict.hello is None
    assert verdict.answer is not None
    new = hello_body(cookie=cookie_in(verdict.answer))
    assert gate.judge_untrusted(whole(new, message_sequence=1), HERE, late).hello is not None


@pytest.mark.parametrize("forwards", [True, False], ids=["in order", "in reverse"])
@pytest.mark.parametrize("proved", [False, True], ids=["without a cookie", "with its cookie"])
def test_a_hello_in_two_fragments_counts_as_a_whole_one(gate: Gate, forwards: bool, proved: bool) -> None:
    cookie = cookie_from(gate, extensions=LONG) if proved else b""
    body = hello_body(cookie=cookie, extensions=LONG)
    pieces = [piece(body, 0, 1200, message_sequence=int(proved))]
    pieces.append(piece(body, 1200, len(body), message_sequence=int(proved), record_sequence=1))
    first, second = pieces if forwards else pieces[::-1]
    assert gate.judge_untrusted(first, HERE, NOW) == Verdict()
    assert held(gate)[0] == 1
    verdict = gate.judge_untrusted(second, HERE, NOW)
    assert (verdict.hello is not None, verdict.answer is not None) == (proved, not proved)
    if verdict.hello is not None:
        assert verdict.hello.message.body == body
    assert held(gate) == (0, 0)


def test_two_fragments_in_one_datagram_count_as_a_whole_hello(gate: Gate) -> None:
    body = hello_body()
    content = b"".join(
        build_handshake(HandshakeType.CLIENT_HELLO, 0, body[a:b], offset=a, length=len(body))
        for a, b in ((0, 20), (20, len(body)))
    )
    datagram = build_record(ContentType.HANDSHAKE, DTLS_1_0, 0, 0, content)
    assert gate.judge_untrusted(datagram, HERE, NOW).answer is not None
    two_records = piece(body, 0, 20) + piece(body, 20, len(body), record_sequence=1)
    assert gate.judge_untrusted(two_records, HERE, NOW).answer is not None
    assert held(gate) == (0, 0)


def test_fragments_of_two_peers_are_not_mixed_up(gate: Gate) -> None:
    randoms = {HERE: b"h" * 32, THERE: b"t" * 32}
    bodies = {
        address: hello_body(
            random=random,
            cookie=cookie_from(gate, address, extensions=LONG, random=random),
            extensions=LONG,
        )
        for address, random in randoms.items()
    }
    for address, body in bodies.items():
        assert gate.judge_untrusted(piece(body, 0, 1000), address, NOW) == Verdict()
    for address, body in bodies.items():
        verdict = gate.judge_untrusted(piece(body, 1000, len(body)), address, NOW)
        assert verdict.hello is not None
        assert verdict.hello.message.body == body
        assert verdict.random == randoms[address]


def test_a_hello_without_and_one_with_a_cookie_do_not_share_fragments(gate: Gate) -> None:
    body = hello_body(cookie=cookie_from(gate))
    assert gate.judge_untrusted(piece(body, 0, 50, message_sequence=0), HERE, NOW) == Verdict()
    assert gate.judge_untrusted(piece(body, 50, len(body), message_sequence=1), HERE, NOW) == Verdict()


def test_a_repeated_fragment_does_not_complete_a_hello(gate: Gate) -> None:
    body = hello_body()
    for _ in range(3):
        assert gate.judge_untrusted(piece(body, 0, 20), HERE, NOW) == Verdict()
    assert held(gate) == (1, 20)
    assert gate.judge_untrusted(piece(body, 20, len(body)), HERE, NOW).answer is not None


@pytest.mark.parametrize("size", [20, 1200])
def test_what_many_peers_send_in_fragments_is_held_in_a_buffer_of_fixed_size(gate: Gate, size: int) -> None:
    body = hello_body(extensions=LONG)
    for number in range(20_000):
        assert gate.judge_untrusted(piece(body, 0, size), ("203.0.113.1", number), NOW) == Verdict()
    count, total = held(gate)
    assert count <= MAX_PARTIAL_HELLOS
    assert total <= MAX_PARTIAL_BYTES
    assert gate.statistics["dropped_partial_hellos"] == 20_000 - count
    # The newest is among those that are held: a peer that means well gets through between two floods.
    assert gate.judge_untrusted(piece(body, size, len(body)), ("203.0.113.1", 19_999), NOW).answer


def test_long_fragments_are_bounded_by_bytes(gate: Gate) -> None:
    body = bytes(MAX_HELLO_LENGTH)
    for number in range(100):
        gate.judge_untrusted(piece(body, 0, MAX_HELLO_LENGTH - 1), ("203.0.113.1", number), NOW)
    count, total = held(gate)
    assert MAX_PARTIAL_BYTES - MAX_HELLO_LENGTH < total <= MAX_PARTIAL_BYTES
    assert count == total // (MAX_HELLO_LENGTH - 1)


def test_the_fragments_of_one_peer_are_bounded_in_number(gate: Gate) -> None:
    body = bytes(MAX_HELLO_LENGTH)
    for at in range(0, 4000, 2):
        gate.judge_untrusted(piece(body, at, at + 1), HERE, NOW)
        assert all(partial.fragment_count < MAX_PIECES for partial in gate._partial.values())
    assert gate.statistics["dropped_reassembly_full"] == 2000 // MAX_PIECES
    held(gate)


def test_a_total_length_that_is_a_lie_costs_nothing(gate: Gate) -> None:
    lie = build_handshake(HandshakeType.CLIENT_HELLO, 0, b"x", offset=0, length=0xFFFFFF)
    datagram = build_record(ContentType.HANDSHAKE, DTLS_1_0, 0, 0, lie)
    assert gate.judge_untrusted(datagram, HERE, NOW) == Verdict()
    assert held(gate) == (0, 0)
    assert gate.statistics == {"dropped_message_too_long": 1}


def test_fragments_get_no_more_bytes_back_than_they_bring(gate: Gate) -> None:
    body = hello_body()
    brought = given_back = 0
    for at in [*range(len(body)), *range(0, len(body), 3), *reversed(range(len(body)))]:
        datagram = piece(body, at, at + 3)
        brought += len(datagram)
        answer = gate.judge_untrusted(datagram, HERE, NOW).answer
        given_back += len(answer or b"")
        assert given_back <= brought
    assert given_back


def test_two_hellos_in_one_datagram_get_one_answer(gate: Gate) -> None:
    twice = whole(hello_body()) + whole(hello_body(), record_sequence=1)
    answer = gate.judge_untrusted(twice, HERE, NOW).answer
    assert answer is not None
    assert len(split_records_untrusted(answer)) == 1


def test_a_bad_record_does_not_take_the_hello_before_it_along(gate: Gate) -> None:
    assert gate.judge_untrusted(whole(hello_body()) + b"\x16\xfe", HERE, NOW).answer is not None
    assert gate.statistics["dropped_too_short"] == 1


def record_of(content: bytes, *, kind: int = ContentType.HANDSHAKE, epoch: int = 0) -> bytes:
    return build_record(kind, DTLS_1_0, epoch, 0, content)


NOISE = {
    "empty": (b"", "dropped_empty"),
    "one byte": (b"\x16", "dropped_too_short"),
    "TLS": (b"\x16\x03\x01" + bytes(30), "dropped_unknown_version"),
    "cut short": (whole(hello_body())[:-1], "dropped_truncated"),
    "an alert": (record_of(b"\x02\x28", kind=ContentType.ALERT), "dropped_no_association"),
    "application data": (record_of(b"x", kind=ContentType.APPLICATION_DATA), "dropped_no_association"),
    "of a later epoch": (record_of(bytes(40), epoch=1), "dropped_no_association"),
    "another message": (
        record_of(build_handshake(HandshakeType.CLIENT_KEY_EXCHANGE, 2, b"x")),
        "dropped_no_association",
    ),
    "a malformed hello": (whole(hello_body()[:-1]), "dropped_bad_client_hello"),
    "message_seq 2": (whole(hello_body(), message_sequence=2), "dropped_wild_message_seq"),
    "an empty hello": (
        record_of(build_handshake(HandshakeType.CLIENT_HELLO, 0, b"")),
        "dropped_message_too_long",
    ),
    "a hello too long": (whole(bytes(MAX_HELLO_LENGTH + 1)), "dropped_message_too_long"),
    "past its total": (
        record_of(build_handshake(HandshakeType.CLIENT_HELLO, 0, b"xx", offset=9, length=10)),
        "dropped_fragment_past_total",
    ),
    "a record number near the end": (
        whole(hello_body(), record_sequence=MAX_FIRST_RECORD + 1),
        "dropped_wild_record_number",
    ),
}


@pytest.mark.parametrize(("datagram", "reason"), NOISE.values(), ids=NOISE.keys())
def test_noise_is_dropped_and_counted_by_reason(gate: Gate, datagram: bytes, reason: str) -> None:
    assert gate.judge_untrusted(datagram, HERE, NOW) == Verdict()
    assert gate.statistics == {reason: 1}
    assert held(gate) == (0, 0)


def test_without_cookies_every_first_hello_passes_unproved() -> None:
    gate = Gate(None)
    verdict = gate.judge_untrusted(whole(hello_body()), HERE, NOW)
    assert verdict.answer is None
    assert verdict.hello is not None
    assert not verdict.hello.cookie_verified


def test_without_cookies_a_second_hello_does_not_begin_anything() -> None:
    gate = Gate(None)
    assert gate.judge_untrusted(whole(hello_body(), message_sequence=1), HERE, NOW) == Verdict()
    assert gate.statistics == {"dropped_wild_message_seq": 1}


def test_a_client_hello_is_known_by_its_first_bytes() -> None:
    hello = whole(hello_body())
    assert begins_client_hello(hello)
    assert begins_client_hello(piece(hello_body(), 20, 30))
    assert not begins_client_hello(hello[:13])
    assert not begins_client_hello(record_of(hello[13:], epoch=1))
    assert not begins_client_hello(record_of(hello[13:], kind=ContentType.ALERT))
    assert not begins_client_hello(NOISE["another message"][0])
    assert is_plaintext(hello)
    assert not is_plaintext(record_of(bytes(40), epoch=1))
    assert not is_plaintext(b"")


PIECES = st.builds(
    piece,
    st.just(hello_body(extensions=LONG)),
    st.integers(0, 2100),
    st.integers(0, 2100),
    message_sequence=st.integers(0, 3),
    record_sequence=st.integers(0, 2**48 - 1),
)
MUTATED = st.builds(
    lambda datagram, at, value: datagram[:at] + bytes([value]) + datagram[at + 1 :],
    st.just(whole(hello_body())),
    st.integers(0, 66),
    st.integers(0, 255),
)


@given(st.lists(st.one_of(st.binary(max_size=200), PIECES, MUTATED), max_size=40))
def test_no_datagrams_make_the_gate_raise_or_hold_more_than_it_may(datagrams: list[bytes]) -> None:
    gate = Gate(CookieFactory())
    brought = given_back = 0
    for datagram in datagrams:
        verdict = gate.judge_untrusted(datagram, HERE, NOW)
        brought += len(datagram)
        given_back += len(verdict.answer or b"")
        assert given_back <= brought
        count, total = held(gate)
        assert count <= MAX_PARTIAL_HELLOS
        assert total <= MAX_PARTIAL_BYTES
