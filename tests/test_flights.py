"""Flights are cut to the MTU, lose nothing, number their records anew each time, and are repeated ever more slowly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtls.flights import (
    MINIMUM_MTU,
    FlightItem,
    Packer,
    PlainRecord,
    ProtectedRecord,
    RetransmissionTimer,
    SentFlight,
)
from dtls.reassembly import Message, Reassembler
from dtls.wire import (
    DTLS_1_2,
    HANDSHAKE_HEADER_LENGTH,
    MAX_PLAINTEXT_LENGTH,
    RECORD_HEADER_LENGTH,
    ContentType,
    HandshakeType,
    Record,
    build_handshake,
    build_record,
    split_fragments_untrusted,
    split_records_untrusted,
)

CHANGE_CIPHER_SPEC = PlainRecord(ContentType.CHANGE_CIPHER_SPEC, DTLS_1_2, b"\x01")
HEADERS = RECORD_HEADER_LENGTH + HANDSHAKE_HEADER_LENGTH


def message(sequence: int, length: int) -> PlainRecord:
    body = (sequence * 7 + 1).to_bytes(2, "big") * (length // 2 + 1)
    kind = HandshakeType.CERTIFICATE if length else HandshakeType.SERVER_HELLO_DONE
    return PlainRecord(ContentType.HANDSHAKE, DTLS_1_2, build_handshake(kind, sequence, body[:length]))


def finished(length: int = 48) -> ProtectedRecord:
    return ProtectedRecord(build_record(ContentType.HANDSHAKE, DTLS_1_2, 1, 0, bytes(length)))


def records_of(datagrams: list[bytes]) -> list[Record]:
    return [record for datagram in datagrams for record in split_records_untrusted(datagram)]


def messages_of(records: list[Record]) -> list[Message]:
    held = Reassembler(server_side=False)
    messages = []
    for record in records:
        if record.content_type == ContentType.HANDSHAKE and not record.epoch:
            for fragment in split_fragments_untrusted(record.fragment):
                held.add_untrusted(fragment)
        while (whole := held.next_message()) is not None:
            messages.append(whole)
    return messages


lengths = st.lists(st.one_of(st.integers(0, 600), st.integers(0, 20_000)), max_size=6)


@given(lengths=lengths, mtu=st.integers(MINIMUM_MTU, 1500), ends=st.booleans())
def test_what_was_packed_gives_the_messages_back(lengths: list[int], mtu: int, ends: bool) -> None:
    items: list[FlightItem] = [message(sequence, length) for sequence, length in enumerate(lengths)]
    plain = list(items)
    if ends:
        items += [CHANGE_CIPHER_SPEC, finished()]
    datagrams = Packer(mtu).pack(items)
    assert all(0 < len(datagram) <= mtu for datagram in datagrams)
    records = records_of(datagrams)
    assert [build_handshake(*whole) for whole in messages_of(records)] == [
        item.content for item in plain if isinstance(item, PlainRecord)
    ]
    if ends:
        assert [record.content_type for record in records[-2:]] == [
            ContentType.CHANGE_CIPHER_SPEC,
            ContentType.HANDSHAKE,
        ]
        assert records[-1] == split_records_untrusted(finished().record)[0]


@given(lengths=lengths, mtu=st.integers(MINIMUM_MTU, 1500), first=st.integers(0, 2**40))
def test_record_numbers_increase_by_one_over_repeats_too(lengths: list[int], mtu: int, first: int) -> None:
    items: list[FlightItem] = [message(sequence, length) for sequence, length in enumerate(lengths)]
    items.append(CHANGE_CIPHER_SPEC)
    flight = SentFlight(Packer(mtu, first))
    datagrams = flight.replace(items, 0, 1.0) + flight.repeat(2.0) + flight.repeat(3.0)
    numbers = [record.sequence for record in records_of(datagrams)]
    assert numbers == list(range(first, first + len(numbers)))
    assert flight.packer.next_record == first + len(numbers)


@pytest.mark.parametrize("mtu", [*range(MINIMUM_MTU, 1501, 61), 1500])
def test_a_big_chain_of_certificates_fills_datagrams_of_any_mtu(mtu: int) -> None:
    items: list[FlightItem] = [message(0, 90), message(1, 90_000), message(2, 300), message(3, 0)]
    datagrams = Packer(mtu).pack(items)
    assert all(len(datagram) <= mtu for datagram in datagrams)
    assert sum(len(datagram) == mtu for datagram in datagrams) >= 90_000 // mtu
    assert [len(whole.body) for whole in messages_of(records_of(datagrams))] == [90, 90_000, 300, 0]


def test_a_record_holds_no_more_than_the_protocol_allows_however_large_the_mtu_is() -> None:
    datagrams = Packer(65_507).pack([message(0, 50_000)])
    assert max(len(record.fragment) for record in records_of(datagrams)) == MAX_PLAINTEXT_LENGTH
    assert [len(whole.body) for whole in messages_of(records_of(datagrams))] == [50_000]


@pytest.mark.parametrize("length", [512 - HEADERS, 512 - HEADERS - 1, 100])
def test_a_message_that_fits_a_datagram_of_its_own_stays_whole(length: int) -> None:
    datagrams = Packer(512).pack([message(0, 200), message(1, length)])
    fragments = [f for r in records_of(datagrams) for f in split_fragments_untrusted(r.fragment)]
    assert [len(fragment.body) for fragment in fragments] == [200, length]


def test_a_message_one_byte_too_long_for_a_datagram_is_cut() -> None:
    datagrams = Packer(512).pack([message(0, 512 - HEADERS + 1)])
    assert [len(datagram) for datagram in datagrams] == [512, HEADERS + 1]


def test_short_messages_share_a_datagram() -> None:
    assert len(Packer(1350).pack([message(0, 90), message(1, 400), message(2, 100), message(3, 0)])) == 1


def test_a_plain_record_that_does_not_fit_goes_into_the_next_datagram_under_a_number_in_order() -> None:
    alert = PlainRecord(ContentType.ALERT, DTLS_1_2, b"\x02\x28")
    datagrams = Packer(256).pack([message(0, 256 - HEADERS - 3), alert])
    assert [[record.sequence for record in records_of([datagram])] for datagram in datagrams] == [[0], [1]]


def test_a_protected_record_longer_than_the_mtu_gets_a_datagram_of_its_own() -> None:
    datagrams = Packer(256).pack([message(0, 100), finished(300), message(1, 100)])
    assert [len(datagram) for datagram in datagrams] == [100 + HEADERS, 313, 100 + HEADERS]


def test_nothing_gives_no_datagram() -> None:
    assert Packer(256).pack([]) == []


def test_a_repeat_may_use_a_smaller_mtu() -> None:
    flight = SentFlight(Packer(1350))
    flight.replace([message(0, 1200)], 0, 0.0)
    flight.packer.mtu = 256
    datagrams = flight.repeat(1.0)
    assert all(len(datagram) <= 256 for datagram in datagrams)
    assert [len(whole.body) for whole in messages_of(records_of(datagrams))] == [1200]


def test_repeats_that_a_peer_asks_for_are_spaced() -> None:
    flight = SentFlight(Packer(1350))
    assert not flight.may_be_repeated(0.0), "there is nothing to repeat"
    flight.replace([message(0, 10)], 0, 10.0)
    assert not flight.may_be_repeated(10.0 + SentFlight.SPACING - 0.01)
    assert flight.may_be_repeated(10.0 + SentFlight.SPACING)
    flight.repeat(11.0)
    assert not flight.may_be_repeated(11.1)


def test_a_fresh_finished_takes_the_place_of_the_old_one() -> None:
    flight = SentFlight(Packer(1350))
    flight.replace([message(0, 10), CHANGE_CIPHER_SPEC, finished(48)], 0, 0.0)
    fresh = ProtectedRecord(build_record(ContentType.HANDSHAKE, DTLS_1_2, 1, 1, bytes(48)))
    flight.refresh(fresh)
    records = records_of(flight.repeat(1.0))
    assert [(record.epoch, record.content_type) for record in records] == [(0, 22), (0, 20), (1, 22)]
    assert build_record(*records[-1]) == fresh.record


def test_a_flight_is_repeated_after_twice_as_long_each_time_and_sixty_seconds_at_most() -> None:
    timer = RetransmissionTimer(1.0)
    assert timer.due is None
    now = 100.0
    timer.start(now)
    waits: list[float] = []
    for _ in range(9):
        assert timer.due is not None
        waits.append(timer.due - now)
        now = timer.due
        timer.back_off(now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert timer.repeats == 9


def test_the_time_grown_to_is_kept_for_the_next_flight_until_one_passes_without_a_repeat() -> None:
    timer = RetransmissionTimer(0.5)
    timer.start(0.0)
    timer.back_off(0.5)
    timer.start(1.0)
    assert timer.due == 2.0
    timer.start(3.0)
    assert timer.due == 3.5


def test_a_stopped_timer_is_not_due() -> None:
    timer = RetransmissionTimer(1.0)
    timer.start(0.0)
    timer.stop()
    assert timer.due is None
