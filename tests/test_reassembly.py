"""Handshake messages come out whole and in order, whatever order their fragments come in and whoever sent them."""

from __future__ import annotations

import contextlib
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtls import reassembly
from dtls.reassembly import (
    MAX_CANDIDATES,
    MAX_HELD_BYTES,
    MAX_HELD_FRAGMENTS,
    MAX_MESSAGE_LENGTH,
    WINDOW,
    Message,
    PartialMessage,
    Reassembler,
)
from dtls.wire import HandshakeFragment, HandshakeType, WireError

CERTIFICATE = int(HandshakeType.CERTIFICATE)
BODY = bytes(range(256)) * 8


def fragment(
    offset: int,
    size: int,
    *,
    body: bytes = BODY,
    sequence: int = 0,
    kind: int = CERTIFICATE,
    length: int | None = None,
) -> HandshakeFragment:
    total = len(body) if length is None else length
    return HandshakeFragment(kind, total, sequence, offset, body[offset : offset + size])


def reassembler(next_sequence: int = 0) -> Reassembler:
    return Reassembler(server_side=False, next_sequence=next_sequence)


def reason(held: Reassembler, piece: HandshakeFragment) -> str:
    with pytest.raises(WireError) as caught:
        held.add_untrusted(piece)
    return caught.value.reason


def add(held: Reassembler, piece: HandshakeFragment, allowed: str) -> None:
    """Add a fragment that may be refused for one reason."""
    refused = ""
    try:
        held.add_untrusted(piece)
    except WireError as error:
        refused = error.reason
    assert refused in ("", allowed)


def held_bytes(held: Reassembler) -> int:
    return sum(partial.held_bytes for partial in held._held.values())


def held_fragments(held: Reassembler) -> int:
    return sum(partial.fragment_count for partial in held._held.values())


def test_a_whole_message_comes_out_at_once() -> None:
    held = reassembler()
    held.add_untrusted(fragment(0, len(BODY)))
    assert held.next_message() == Message(CERTIFICATE, 0, BODY)
    assert held.next_message() is None
    assert held.next_sequence == 1


def test_an_empty_message_comes_out() -> None:
    held = reassembler()
    held.add_untrusted(fragment(0, 0, body=b"", kind=HandshakeType.SERVER_HELLO_DONE))
    assert held.next_message() == Message(HandshakeType.SERVER_HELLO_DONE, 0, b"")


def test_a_message_does_not_come_out_before_its_last_byte() -> None:
    held = reassembler()
    held.add_untrusted(fragment(0, 1000))
    held.add_untrusted(fragment(1001, 2000))
    assert held.next_message() is None
    held.add_untrusted(fragment(1000, 1))
    assert held.next_message() == Message(CERTIFICATE, 0, BODY)


def test_messages_come_out_in_order_though_they_come_in_disorder() -> None:
    held = reassembler()
    bodies = [bytes([number]) * (number + 1) for number in range(5)]
    for number in (3, 1, 4, 2):
        held.add_untrusted(fragment(0, 99, body=bodies[number], sequence=number))
    assert held.next_message() is None
    held.add_untrusted(fragment(0, 99, body=bodies[0], sequence=0))
    messages = [held.next_message() for _ in range(6)]
    assert messages == [Message(CERTIFICATE, number, bodies[number]) for number in range(5)] + [None]


@given(
    pieces=st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(1, 700)), min_size=1, max_size=40),
    seed=st.integers(0, 2**32),
)
def test_overlapping_repeated_and_disordered_fragments_give_the_message(
    pieces: list[tuple[int, int]], seed: int
) -> None:
    covering = [(offset, 300) for offset in range(0, len(BODY), 256)]
    every = pieces + covering
    random.Random(seed).shuffle(every)  # noqa: S311 - an order, not a secret
    held = reassembler()
    for offset, size in every:
        add(held, fragment(offset, size), "repeated_fragment")
    assert held.next_message() == Message(CERTIFICATE, 0, BODY)


def test_where_fragments_overlap_the_first_counts() -> None:
    partial = PartialMessage(4)
    assert partial.add(1, b"bc")
    assert partial.add(0, b"AXXD")
    assert partial.is_complete
    assert partial.assemble() == b"AbcD"


def test_a_fragment_without_news_is_refused_and_not_held() -> None:
    held = reassembler()
    held.add_untrusted(fragment(0, 500))
    assert reason(held, fragment(0, 500)) == "repeated_fragment"
    assert reason(held, fragment(100, 50)) == "repeated_fragment"
    assert (held_bytes(held), held_fragments(held)) == (500, 1)


def test_a_message_that_was_given_out_is_old() -> None:
    held = reassembler()
    held.add_untrusted(fragment(0, len(BODY)))
    held.next_message()
    assert reason(held, fragment(0, len(BODY))) == "old_message"


def test_the_first_message_may_have_any_number() -> None:
    held = reassembler(next_sequence=7)
    assert reason(held, fragment(0, len(BODY), sequence=6)) == "old_message"
    held.add_untrusted(fragment(0, len(BODY), sequence=7))
    assert held.next_message() == Message(CERTIFICATE, 7, BODY)


def test_messages_are_held_as_far_ahead_as_the_window_and_no_farther() -> None:
    held = reassembler()
    held.add_untrusted(fragment(0, 9, sequence=WINDOW - 1))
    assert reason(held, fragment(0, 9, sequence=WINDOW)) == "wild_message_seq"
    assert reason(held, fragment(0, 9, sequence=65_535)) == "wild_message_seq"


@pytest.mark.parametrize(
    ("server_side", "kind"),
    [
        (False, HandshakeType.HELLO_REQUEST),
        (False, HandshakeType.CLIENT_HELLO),
        (False, HandshakeType.CLIENT_KEY_EXCHANGE),
        (True, HandshakeType.SERVER_HELLO),
        (True, HandshakeType.HELLO_VERIFY_REQUEST),
        (True, 99),
        (False, 255),
    ],
)
def test_a_message_that_this_peer_never_sends_is_refused(server_side: bool, kind: int) -> None:
    held = Reassembler(server_side=server_side)
    assert reason(held, fragment(0, 9, kind=kind)) == "unexpected_message"


@pytest.mark.parametrize("length", [MAX_MESSAGE_LENGTH + 1, 2**24 - 1])
def test_a_message_longer_than_its_type_allows_is_refused(length: int) -> None:
    held = reassembler()
    assert reason(held, fragment(0, 1, length=length)) == "message_too_long"
    assert reason(held, fragment(0, 1, kind=HandshakeType.SERVER_HELLO_DONE, length=1)) == "message_too_long"


def test_fragments_that_disagree_about_the_total_are_kept_apart() -> None:
    held = reassembler()
    held.add_untrusted(fragment(0, 1, body=b"\xff" * 4000))
    held.add_untrusted(fragment(0, 1000))
    held.add_untrusted(fragment(0, 1, body=b"\xee" * 3000))
    held.add_untrusted(fragment(1000, 1048))
    assert held.next_message() == Message(CERTIFICATE, 0, BODY)
    assert held_bytes(held) == 0


@pytest.mark.parametrize("forged", [1, MAX_CANDIDATES, 20])
def test_lies_that_came_first_do_not_keep_the_true_message_out(forged: int) -> None:
    held = reassembler()
    for number in range(forged):
        held.add_untrusted(fragment(0, 1, length=3000 + number))
    held.add_untrusted(fragment(0, 1024))
    held.add_untrusted(fragment(1024, 1024))
    assert held.next_message() == Message(CERTIFICATE, 0, BODY)


def test_lies_in_between_do_not_push_the_true_message_out_while_it_comes() -> None:
    held = reassembler()
    for offset in range(0, len(BODY), 256):
        held.add_untrusted(fragment(offset, 256))
        for number in range(20):
            held.add_untrusted(fragment(0, 1, length=3000 + offset + number))
    assert held.next_message() == Message(CERTIFICATE, 0, BODY)


def test_only_so_many_notions_of_one_message_are_held() -> None:
    held = reassembler()
    for number in range(100):
        held.add_untrusted(fragment(0, 1, length=1000 + number))
    assert len(held._held) == MAX_CANDIDATES


def test_what_is_held_has_a_limit_in_bytes() -> None:
    held = reassembler()
    for sequence in range(WINDOW):
        for offset in range(0, MAX_MESSAGE_LENGTH - 16_000, 16_000):
            piece = HandshakeFragment(CERTIFICATE, MAX_MESSAGE_LENGTH, sequence, offset, bytes(16_000))
            add(held, piece, "reassembly_full")
            assert held_bytes(held) <= MAX_HELD_BYTES


def test_what_is_held_has_a_limit_in_fragments() -> None:
    held = reassembler()
    for number in range(2 * MAX_HELD_FRAGMENTS):
        add(
            held,
            fragment(2 * number, 1, length=MAX_MESSAGE_LENGTH, sequence=number % WINDOW),
            "reassembly_full",
        )
        assert held_fragments(held) <= MAX_HELD_FRAGMENTS


def test_what_is_needed_next_is_let_go_of_last() -> None:
    held = reassembler()
    held.add_untrusted(fragment(0, 2000))
    for sequence in range(1, WINDOW):
        for offset in range(0, 90_000, 15_000):
            piece = HandshakeFragment(CERTIFICATE, MAX_MESSAGE_LENGTH, sequence, offset, bytes(15_000))
            add(held, piece, "reassembly_full")
    held.add_untrusted(fragment(2000, 48))
    assert held.next_message() == Message(CERTIFICATE, 0, BODY)


def test_memory_grows_with_bytes_received_and_not_with_lengths_claimed() -> None:
    held = reassembler()
    tracemalloc.start()
    try:
        for sequence in range(WINDOW):
            for number in range(MAX_CANDIDATES):
                held.add_untrusted(fragment(0, 1, sequence=sequence, length=MAX_MESSAGE_LENGTH - number))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(held._held) == WINDOW * MAX_CANDIDATES
    assert taken < 1000 * WINDOW * MAX_CANDIDATES


def test_memory_stays_bounded_under_a_flood_of_fragments() -> None:
    dice = random.Random(1)  # noqa: S311 - a load, not a secret
    held = reassembler()
    tracemalloc.start()
    try:
        for _ in range(10_000):
            piece = HandshakeFragment(
                CERTIFICATE,
                dice.randrange(80_000, MAX_MESSAGE_LENGTH),
                dice.randrange(WINDOW + 2),
                dice.randrange(70_000),
                bytes(dice.choice((1, 100, 1400))),
            )
            with contextlib.suppress(WireError):
                held.add_untrusted(piece)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held_bytes(held) <= MAX_HELD_BYTES
    assert held_fragments(held) <= MAX_HELD_FRAGMENTS
    assert taken < 3 * MAX_HELD_BYTES


def test_the_longest_message_of_each_kind_fits_into_what_may_be_held() -> None:
    for limits in (reassembly._FROM_CLIENT, reassembly._FROM_SERVER):
        assert max(limits.values()) <= MAX_MESSAGE_LENGTH < MAX_HELD_BYTES
    # In pieces of a datagram of the smallest MTU, too.
    assert MAX_MESSAGE_LENGTH / (256 - 25) <= MAX_HELD_FRAGMENTS


def test_lies_do_not_push_out_a_message_that_waits_for_its_turn() -> None:
    held = reassembler()
    held.add_untrusted(fragment(0, len(BODY), sequence=1))
    for number in range(20):
        held.add_untrusted(fragment(0, 1, length=3000 + number, sequence=1))
    held.add_untrusted(fragment(0, 9, body=b"the first"))
    assert held.next_message() == Message(CERTIFICATE, 0, b"the first")
    assert held.next_message() == Message(CERTIFICATE, 1, BODY)


def test_conflicting_messages_that_are_complete_are_not_piled_up() -> None:
    held = reassembler()
    for length in range(MAX_CANDIDATES):
        held.add_untrusted(fragment(0, 99, body=bytes(length + 1), sequence=1))
    assert reason(held, fragment(0, 1, sequence=1)) == "conflicting_fragments"


def test_a_message_that_cannot_be_empty_is_refused_if_it_is() -> None:
    held = reassembler()
    assert reason(held, fragment(0, 0, body=b"")) == "empty_message"
