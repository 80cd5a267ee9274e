"""Many messages at a time, without a socket: how they form runs of datagrams, and what noise in a run comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dtls.connection import MAX_RUN_LENGTH, MAX_SEGMENTS, ConnectionState, Unprotected
from dtls.context import DTLSVersion
from dtls.errors import MessageTooLarge, SSLError, SSLZeroReturnError
from dtls.events import AlertReceived, DataReceived, PeerClosed
from dtls.wire import AlertDescription, ContentType

from .forge import Insider, record
from .pair import OTHER, Pair

if TYPE_CHECKING:
    from dtls.connection import Connection
    from dtls.context import Context
    from dtls.events import Event

each_end = pytest.mark.parametrize("name", ["client", "server"])
each_suite = pytest.mark.parametrize(
    ("suite", "version"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", DTLSVersion.DTLSv1_2),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", DTLSVersion.DTLSv1_2),
        ("ECDHE-ECDSA-AES128-CCM", DTLSVersion.DTLSv1_2),
        ("ECDHE-ECDSA-AES128-SHA", DTLSVersion.DTLSv1_2),
        ("ECDHE-ECDSA-AES256-SHA384", DTLSVersion.DTLSv1_2),
        ("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0", DTLSVersion.DTLSv1),
    ],
)
SIZE = 60
"""Bytes of the messages in most runs here."""


@pytest.fixture
def pair(client: Context, server: Context) -> Pair:
    """An established association."""
    pair = Pair(client, server)
    pair.run()
    assert pair.established
    return pair


def messages(count: int, length: int = SIZE) -> list[bytes]:
    return [bytes([number]) * length for number in range(count)]


def datagrams_of(runs: list[tuple[bytes, int]]) -> list[bytes]:
    return [run[at : at + size] for run, size in runs for at in range(0, len(run), size)]


def take_in(end: Connection, run: bytes, size: int, now: float) -> tuple[list[bytes], list[Event]]:
    """What a run comes to, taken in as :class:`Connection` says: messages, and other events."""
    found: list[bytes] = []
    events: list[Event] = []
    at = 0
    for _ in range(2 * len(run)):
        if at >= len(run):
            return found, events
        part = end.unprotect_many(run[at:], size, now)
        found += part.messages
        at += part.taken
        events += part.events or []
        if part.events is None and at < len(run):
            single = end.unprotect(run[at : at + size], now)
            at += size
            if isinstance(single, bytes):
                found.append(single)
            else:
                found += [event.data for event in single if isinstance(event, DataReceived)]
                events += [event for event in single if not isinstance(event, DataReceived)]
    reason = "the run does not end"
    raise AssertionError(reason)


def run_of(pair: Pair, name: str, count: int) -> tuple[list[bytes], int]:
    """The datagrams of a run, and their size."""
    [(run, size)] = pair.end(name).protect_many(messages(count))
    return datagrams_of([(run, size)]), size


# --- what is sent ----------------------------------------------------------------------------------------------------


@each_suite
@each_end
def test_messages_of_one_length_are_one_run_whatever_protects_them(
    client: Context, server: Context, name: str, suite: str, version: DTLSVersion
) -> None:
    for context in (client, server):
        context.set_ciphers(suite)
        context.minimum_version = context.maximum_version = version
    pair = Pair(client, server)
    pair.run()
    assert pair.established
    sent = messages(30)
    [(run, size)] = pair.end(name).protect_many(sent)
    assert len(run) == 30 * size
    assert pair.end(OTHER[name]).unprotect_many(run, size, pair.now) == Unprotected(sent, len(run), None)
    # And each datagram is one by itself.
    for datagram, message in zip(datagrams_of(pair.end(name).protect_many(sent)), sent, strict=True):
        assert pair.end(OTHER[name]).unprotect(datagram, pair.now) == message
    pair.assert_talks()


def test_only_messages_of_one_length_that_stand_together_are_a_run(pair: Pair) -> None:
    lengths = [50, 50, 20, 20, 50, 60, 60, 10, 20, 30]
    sent = [bytes([number]) * length for number, length in enumerate(lengths)]
    runs = pair.client.protect_many(sent)
    overhead = runs[0][1] - 50
    assert not any(len(run) % size for run, size in runs)
    shape = [(len(run) // size, size - overhead) for run, size in runs]
    assert shape == [(2, 50), (2, 20), (1, 50), (2, 60), (1, 10), (1, 20), (1, 30)]
    found = [pair.server.unprotect_many(run, size, pair.now) for run, size in runs]
    assert [part.taken for part in found] == [len(run) for run, _ in runs]
    assert [message for part in found for message in part.messages] == sent


def test_a_run_has_no_more_datagrams_than_every_kernel_takes(pair: Pair) -> None:
    runs = pair.client.protect_many(messages(2 * MAX_SEGMENTS + 1, 5))
    assert [len(run) // size for run, size in runs] == [MAX_SEGMENTS, MAX_SEGMENTS, 1]


def test_a_run_has_no_more_bytes_than_a_packet(client: Context, server: Context) -> None:
    client.limits_messages_to_mtu = False
    pair = Pair(client, server)
    pair.run()
    for length in (1000, 1200, 9000, 16_000, 16_384):
        sent = messages(130, length)
        runs = pair.client.protect_many(sent)
        assert max(len(run) for run, _ in runs) <= MAX_RUN_LENGTH
        assert len(runs) <= 3 + 130 * (length + 50) // (MAX_RUN_LENGTH - 2 * length)
        assert [pair.server.unprotect(datagram, pair.now) for datagram in datagrams_of(runs)] == sent


def test_no_messages_are_no_runs(pair: Pair) -> None:
    assert pair.client.protect_many([]) == []
    assert pair.server.unprotect_many(b"", 100, pair.now) == Unprotected([], 0, None)


def test_messages_may_be_of_any_kind_of_bytes(pair: Pair) -> None:
    kinds: list[bytes | bytearray | memoryview] = [
        b"12345678",
        bytearray(b"12345678"),
        memoryview(b"x12345678")[1:],
        memoryview(b"12345678").cast("I"),
    ]
    [(run, size)] = pair.client.protect_many(kinds)
    assert pair.server.unprotect_many(run, size, pair.now).messages == [b"12345678"] * 4


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (b"", ValueError),
        (bytes(1400), MessageTooLarge),
        ("text", TypeError),
        (7, TypeError),
        (None, TypeError),
    ],
)
def test_nothing_is_protected_if_one_message_cannot_be(
    pair: Pair, wrong: object, error: type[Exception]
) -> None:
    first = pair.client.protect(b"before")
    with pytest.raises(error):
        pair.client.protect_many([b"one", b"two", wrong])  # type: ignore[list-item]
    after = pair.client.protect(b"after.")
    assert int.from_bytes(after[5:11], "big") == int.from_bytes(first[5:11], "big") + 1
    assert pair.server.unprotect(after, pair.now) == b"after."


@each_end
def test_nothing_is_protected_before_and_after(client: Context, server: Context, name: str) -> None:
    pair = Pair(client, server)
    with pytest.raises(SSLError, match="handshake is not complete"):
        pair.end(name).protect_many([b"early"])
    pair.run()
    pair.end(name).close(pair.now)
    pair.settle()
    for end in (pair.client, pair.server):
        with pytest.raises(SSLZeroReturnError):
            end.protect_many([b"late"])


# --- what is received ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 7, 19])
@pytest.mark.parametrize("noise", ["forged", "garbage", "truncated", "other length", "plaintext"])
def test_noise_in_a_run_harms_nothing_but_itself(pair: Pair, noise: str, at: int) -> None:
    datagrams, size = run_of(pair, "client", 20)
    right = datagrams[at]
    datagrams[at] = {
        "forged": right[:-1] + bytes([right[-1] ^ 1]),
        "garbage": bytes(range(size)),
        "truncated": right[:11] + b"\xff\xff" + right[13:],
        "other length": right[:11] + (size - 30).to_bytes(2, "big") + right[13:],
        "plaintext": record(ContentType.APPLICATION_DATA, bytes(size - 13)),
    }[noise]
    before = pair.server.statistics.copy()
    found, events = take_in(pair.server, b"".join(datagrams), size, pair.now)
    assert found == [message for number, message in enumerate(messages(20)) if number != at]
    assert not events
    counted = pair.server.statistics - before
    assert pair.server.state is ConnectionState.ESTABLISHED
    pair.assert_talks()
    # By itself it is counted in the same way.
    before = pair.server.statistics.copy()
    assert pair.server.unprotect(datagrams[at], pair.now) == []
    assert counted == pair.server.statistics - before
    assert counted


def test_what_is_cut_off_at_the_end_of_a_run_is_lost_alone(pair: Pair) -> None:
    for cut in (1, SIZE, SIZE + 36):
        datagrams, size = run_of(pair, "client", 3)
        found, events = take_in(pair.server, b"".join(datagrams)[:-cut], size, pair.now)
        assert (found, events) == (messages(2), [])
    pair.assert_talks()


@pytest.mark.parametrize("length", [0, 1, 23])
def test_a_record_that_is_too_short_to_be_protected_is_dropped(pair: Pair, length: int) -> None:
    datagrams, size = run_of(pair, "client", 3)
    short = record(ContentType.APPLICATION_DATA, bytes(length), epoch=1, sequence=99)
    assert take_in(pair.server, b"".join([*datagrams, short]), size, pair.now) == (messages(3), [])
    assert pair.server.statistics["dropped_implausible_record"] == 1
    pair.assert_talks()


def test_a_run_of_nothing_but_noise_ends(pair: Pair) -> None:
    for size in (1, 13, 60):
        assert take_in(pair.server, bytes(range(250)) * 4, size, pair.now) == ([], [])
    pair.assert_talks()


def test_a_record_that_is_repeated_is_told_once(pair: Pair) -> None:
    datagrams, size = run_of(pair, "client", 5)
    repeated = b"".join([*datagrams[:3], *datagrams[:3], *datagrams[3:]])
    assert take_in(pair.server, repeated, size, pair.now) == (messages(5), [])
    assert pair.server.statistics["dropped_unauthenticated"] == 3
    assert take_in(pair.server, repeated, size, pair.now) == ([], [])


def test_records_out_of_order_are_told_as_they_come(pair: Pair) -> None:
    datagrams, size = run_of(pair, "client", 5)
    found, _ = take_in(pair.server, b"".join(reversed(datagrams)), size, pair.now)
    assert found == list(reversed(messages(5)))


def test_several_records_in_one_datagram_of_a_run_are_all_told(pair: Pair) -> None:
    datagrams, size = run_of(pair, "client", 6)
    assert take_in(pair.server, b"".join(datagrams), 2 * size, pair.now) == (messages(6), [])


def test_a_close_notify_ends_the_association_and_what_follows_it_is_counted(pair: Pair) -> None:
    datagrams, size = run_of(pair, "client", 4)
    late = pair.client.protect_many(messages(2))[0][0]
    pair.client.close(pair.now)
    [close_notify] = pair.client.datagrams_to_send(pair.now)
    assert take_in(pair.server, b"".join(datagrams), size, pair.now)[0] == messages(4)
    found, events = take_in(pair.server, close_notify, len(close_notify), pair.now)
    assert (found, events) == ([], [PeerClosed()])
    assert take_in(pair.server, late, size, pair.now) == ([], [])
    assert pair.server.statistics["dropped_after_close"] == 2


def test_a_close_notify_at_the_end_of_a_run_is_told_after_its_messages(pair: Pair) -> None:
    datagrams, size = run_of(pair, "client", 4)
    pair.client.close(pair.now)
    datagrams += pair.client.datagrams_to_send(pair.now)
    found, events = take_in(pair.server, b"".join(datagrams), size, pair.now)
    assert (found, events) == (messages(4), [PeerClosed()])
    assert pair.server.datagrams_to_send(pair.now), "it is answered"


def test_a_fatal_alert_in_a_run_ends_it_and_nothing_after_it_is_told(pair: Pair) -> None:
    insider = Insider(pair.client)
    good = [insider.protect(ContentType.APPLICATION_DATA, message) for message in messages(4, 2)]
    alert = insider.protect(ContentType.ALERT, bytes([2, AlertDescription.INTERNAL_ERROR]))
    assert len(alert) == len(good[0])
    run = b"".join([*good[:2], alert, *good[2:]])
    found, events = take_in(pair.server, run, len(alert), pair.now)
    assert found == messages(2, 2)
    [event] = events
    assert isinstance(event, AlertReceived)
    assert pair.server.state is ConnectionState.FAILED
    assert pair.server.statistics["dropped_after_close"] == 2


def test_an_empty_message_of_a_peer_stops_nothing(pair: Pair) -> None:
    insider = Insider(pair.client)
    run = b"".join(insider.protect(ContentType.APPLICATION_DATA, text) for text in (b"", b"", b""))
    assert take_in(pair.server, run, len(run) // 3, pair.now) == ([], [])
    hello = insider.protect(ContentType.APPLICATION_DATA, b"hello")
    assert take_in(pair.server, hello * 2, len(hello), pair.now) == ([b"hello"], [])


@each_end
def test_a_run_before_the_handshake_is_left_alone(client: Context, server: Context, name: str) -> None:
    pair = Pair(client, server)
    end = pair.end(name)
    run = record(ContentType.APPLICATION_DATA, bytes(SIZE), epoch=1) * 3
    assert end.unprotect_many(run, len(run) // 3, pair.now) == Unprotected([], 0, None)
    assert take_in(end, run, len(run) // 3, pair.now) == ([], [])
    pair.run()
    assert pair.established
    pair.assert_talks()


def test_a_run_after_our_close_is_discarded_and_counted(pair: Pair) -> None:
    datagrams, size = run_of(pair, "client", 3)
    pair.server.close(pair.now)
    assert pair.server.unprotect_many(b"".join(datagrams), size, pair.now) == Unprotected([], 0, None)
    assert take_in(pair.server, b"".join(datagrams), size, pair.now) == ([], [])
    assert pair.server.statistics["dropped_after_close"] == 3


def test_a_run_that_overtakes_the_end_of_the_handshake_is_not_lost(client: Context, server: Context) -> None:
    held: list[bytes] = []

    def hold(sender: str, _index: int, datagram: bytes) -> list[bytes]:
        if sender == "server" and meeting.server.state is ConnectionState.ESTABLISHED:
            held.append(datagram)
            return []
        return [datagram]

    meeting = Pair(client, server, tap=hold)
    meeting.settle()
    assert held
    assert meeting.client.state is ConnectionState.HANDSHAKING
    datagrams, size = run_of(meeting, "server", 3)
    assert take_in(meeting.client, b"".join(datagrams), size, meeting.now) == ([], [])
    for datagram in held:
        meeting.deliver("client", datagram)
    assert meeting.received("client") == messages(3)


def test_the_first_run_of_the_client_lets_go_of_the_last_flight(pair: Pair) -> None:
    assert pair.server.keeps_flight
    datagrams, size = run_of(pair, "client", 3)
    spoiled = b"".join(datagram[:-1] + bytes([datagram[-1] ^ 1]) for datagram in datagrams)
    assert take_in(pair.server, spoiled, size, pair.now) == ([], [])
    assert pair.server.keeps_flight
    assert take_in(pair.server, b"".join(datagrams), size, pair.now) == (messages(3), [])
    assert not pair.server.keeps_flight
