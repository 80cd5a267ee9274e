"""Messages, ChangeCipherSpec and Finished in one datagram, as they nearly always come, and as they seldom do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dtls.engines.openssl import binding
from dtls.engines.openssl.binding import lib
from dtls.engines.openssl.connection import OpenSSLConnection
from dtls.wire import (
    DTLS_1_0,
    DTLS_1_2,
    ContentType,
    HandshakeType,
    Record,
    build_record,
    split_records_untrusted,
)

from .forge import forgeries
from .pair import OTHER, Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.context import Context


Change = tuple[str, "Callable[[list[Record]], list[list[Record]]]"]


def together(records: list[Record]) -> bytes:
    return b"".join(build_record(*record) for record in records)


class Changing:
    """Puts other datagrams in the place of an end's last flight: ``change`` makes groups of its records."""

    def __init__(self, sender: str, change: Callable[[list[Record]], list[list[Record]]]) -> None:
        self.sender, self.change = sender, change
        self.changed = 0

    def __call__(self, sender: str, _index: int, datagram: bytes) -> list[bytes]:
        records = split_records_untrusted(datagram)
        if (
            sender != self.sender
            or records[-1].epoch != 1
            or records[-1].content_type != ContentType.HANDSHAKE
        ):
            return [datagram]
        self.changed += 1
        return [together(group) for group in self.change(records)]


def spoilt(record: Record) -> Record:
    """The same with another last byte."""
    return record._replace(fragment=record.fragment[:-1] + bytes([record.fragment[-1] ^ 1]))


def completes(pair: Pair, tap: Changing) -> None:
    pair.tap = tap
    pair.settle()  # no timer runs out, so nothing is repeated
    assert tap.changed
    assert pair.established, pair.events
    pair.assert_talks()


def calls_of_openssl(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> dict[str, int]:
    """How often OpenSSL is asked to go on with a handshake, by the side that asks."""
    calls = {"client": 0, "server": 0}
    do_handshake = binding.do_handshake

    def counted(ssl: binding.Handle) -> int:
        for name, end in pair.ends():
            assert isinstance(end, OpenSSLConnection)
            calls[name] += end._ssl == ssl
        return do_handshake(ssl)

    monkeypatch.setattr(binding, "do_handshake", counted)
    return calls


def test_openssl_is_given_each_flight_at_once(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(client, server)
    calls = calls_of_openssl(monkeypatch, pair)
    pair.settle()
    assert pair.established
    # A ClientHello and the last flight; the client's own beginning came before the count.
    assert calls == {"client": 2, "server": 2}


@pytest.mark.parametrize("sender", OTHER)
def test_a_flight_under_other_record_numbers_counts_as_well(
    client: Context, server: Context, sender: str
) -> None:
    def renumbered(records: list[Record]) -> list[list[Record]]:
        return [[one if one.epoch else one._replace(sequence=one.sequence + 5) for one in records]]

    completes(Pair(client, server), Changing(sender, renumbered))


@pytest.mark.parametrize("sender", OTHER)
def test_a_change_cipher_spec_under_another_record_number_counts_as_well(
    client: Context, server: Context, sender: str
) -> None:
    def renumbered(records: list[Record]) -> list[list[Record]]:
        *messages, change, finished = records
        return [[*messages, change._replace(sequence=change.sequence + 1), finished]]

    completes(Pair(client, server), Changing(sender, renumbered))


@pytest.mark.parametrize("sender", OTHER)
def test_a_spoilt_finished_is_dropped_and_the_true_one_still_counts(
    client: Context, server: Context, sender: str
) -> None:
    def spoil(records: list[Record]) -> list[list[Record]]:
        return [[*records[:-1], spoilt(records[-1])], records]

    pair = Pair(client, server)
    completes(pair, Changing(sender, spoil))
    receiver = pair.end(OTHER[sender])
    assert receiver.statistics["dropped_unauthenticated"] == 1


@pytest.mark.parametrize("sender", OTHER)
def test_a_flight_with_a_spoilt_finished_and_the_true_finished_alone_complete_the_handshake(
    client: Context, server: Context, sender: str
) -> None:
    def spoil(records: list[Record]) -> list[list[Record]]:
        return [[*records[:-1], spoilt(records[-1])], records[-1:]]

    completes(Pair(client, server), Changing(sender, spoil))


@pytest.mark.parametrize("sender", OTHER)
@pytest.mark.parametrize("length", [0, 8, 23, 16_705])
def test_what_cannot_be_a_finished_is_not_shown_to_openssl(
    client: Context, server: Context, sender: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = binding.bio_write

    def noted(bio: binding.Handle, data: bytes, size: int) -> int:
        written.append(data[:size])
        return write(bio, data, size)

    def cut(records: list[Record]) -> list[list[Record]]:
        monkeypatch.setattr(binding, "bio_write", noted)
        return [[*records[:-1], records[-1]._replace(fragment=bytes(length))], records]

    completes(Pair(client, server), Changing(sender, cut))
    assert written
    shown = [record for data in written for record in split_records_untrusted(data) if record.epoch]
    assert {len(record.fragment) for record in shown} <= {40, 48}  # those of a Finished


@pytest.mark.parametrize("sender", OTHER)
@pytest.mark.parametrize("which", [-1, -2])
def test_a_record_of_another_version_is_not_shown_to_openssl(
    client: Context, server: Context, sender: str, which: int
) -> None:
    def other_version(records: list[Record]) -> list[list[Record]]:
        changed = list(records)
        changed[which] = changed[which]._replace(version=DTLS_1_0)
        return [changed, records]

    pair = Pair(client, server)
    completes(pair, Changing(sender, other_version))
    assert pair.client.version() == "DTLSv1.2"


@pytest.mark.parametrize("sender", OTHER)
def test_both_records_of_another_version_are_not_shown_to_openssl(
    client: Context, server: Context, sender: str
) -> None:
    def other_version(records: list[Record]) -> list[list[Record]]:
        *messages, change, finished = records
        return [
            [*messages, change._replace(version=DTLS_1_0), spoilt(finished)._replace(version=DTLS_1_0)],
            records,
        ]

    pair = Pair(client, server)
    completes(pair, Changing(sender, other_version))
    assert pair.end(OTHER[sender]).statistics["dropped_implausible_record"] == 1


@pytest.mark.parametrize("with_finished", [False, True])
@pytest.mark.parametrize("wild", [0, 1, 1000, 2**40])
def test_a_change_cipher_spec_that_comes_before_the_certificate_verify_does_no_harm(
    mutual: tuple[Context, Context], with_finished: bool, wild: int
) -> None:
    def too_early(records: list[Record]) -> list[list[Record]]:
        *messages, verify, change, finished = records
        assert verify.fragment[0] == HandshakeType.CERTIFICATE_VERIFY
        early = [
            change._replace(sequence=verify.sequence + wild),
            finished if with_finished else spoilt(finished),
        ]
        return [[*messages, *early], [verify, change, finished]]

    pair = Pair(*mutual)
    completes(pair, Changing("client", too_early))
    assert pair.server.statistics["dropped_unauthenticated"] == (not with_finished)


def test_messages_before_a_change_cipher_spec_that_is_too_early_belie_an_alert(
    mutual: tuple[Context, Context],
) -> None:
    def too_early(records: list[Record]) -> list[list[Record]]:
        *messages, verify, change, finished = records
        alert = Record(ContentType.ALERT, DTLS_1_2, 0, verify.sequence, b"\x02\x28")
        return [[alert], [*messages, change._replace(sequence=verify.sequence), spoilt(finished)]]

    pair = Pair(*mutual, tap=Changing("client", too_early))
    pair.settle()
    assert pair.server.statistics["held_alert"]
    assert isinstance(pair.server, OpenSSLConnection)
    assert pair.server._handshake is not None
    assert pair.server._handshake._held_alert is None


def test_a_stranger_cannot_show_openssl_the_end_of_a_handshake_whose_key_exchange_is_still_to_come(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[bytes] = []
    write = binding.bio_write

    def noted(bio: binding.Handle, data: bytes, size: int) -> int:
        shown.append(data[:size])
        return write(bio, data, size)

    monkeypatch.setattr(binding, "bio_write", noted)
    for forgery in forgeries()["ends of handshakes"]:
        pair = Pair(client, server)
        pair.pump("client")
        pair.deliver("server", pair.sent[0][1])
        assert pair.server.receive_datagram(forgery, pair.now) == []
    records = [record for data in shown for record in split_records_untrusted(data)]
    assert {record.content_type for record in records} == {
        ContentType.HANDSHAKE,
        ContentType.CHANGE_CIPHER_SPEC,
    }
    assert not any(record.epoch for record in records)


def test_a_certificate_verify_that_comes_first_is_gone_on_with(mutual: tuple[Context, Context]) -> None:
    def first(records: list[Record]) -> list[list[Record]]:
        *messages, key_exchange, verify, change, finished = records
        assert key_exchange.fragment[0] == HandshakeType.CLIENT_KEY_EXCHANGE
        change = change._replace(sequence=verify.sequence)
        return [[verify], [*messages, key_exchange, change, spoilt(finished)], [finished]]

    completes(Pair(*mutual), Changing("client", first))


@pytest.mark.parametrize("sender", OTHER)
def test_a_finished_that_waits_is_not_overtaken(client: Context, server: Context, sender: str) -> None:
    def overtaking(records: list[Record]) -> list[list[Record]]:
        return [[records[-1]], [*records[:-1], spoilt(records[-1])]]

    pair = Pair(client, server)
    completes(pair, Changing(sender, overtaking))
    assert pair.client.version() == "DTLSv1.2"
    assert DTLS_1_2 in {
        record.version for _, datagram in pair.sent for record in split_records_untrusted(datagram)
    }


@pytest.mark.skipif(not hasattr(lib, "i2d_SSL_SESSION"), reason="cryptography before 44 gives no session")
def test_a_resumed_handshakes_flights_are_taken_in_whole(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.session_tickets = True
    first = Pair(client, server)
    first.settle()
    pair = Pair(client, server, session=first.client.session)
    calls = calls_of_openssl(monkeypatch, pair)
    pair.settle()
    assert pair.established
    assert pair.client.session_reused
    assert calls["server"] == 2
    pair.assert_talks()
