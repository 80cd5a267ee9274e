"""No datagram of a stranger ends a handshake or an association, is delivered, or makes memory grow.

One thing is out of reach: a *whole, well-formed* handshake message that comes before the true one (a ServerHello, say,
from somebody who sees the ClientHello; or a ClientKeyExchange of the usual length). DTLS 1.2 authenticates messages
only at the end, by the Finished, so such a forgery ends the handshake (RFC 6347 leaves it at that), as it does with
every other implementation. The same holds for a forged fragment that is true in type, number and total length but not
in content. What is tested here is all that can be told from the truth.
"""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtls.connection import Connection, ConnectionState
from dtls.context import Context, DTLSVersion
from dtls.engines.openssl.connection import OpenSSLConnection
from dtls.engines.openssl.handshake import MAX_HELD_BYTES, MAX_HELD_RECORDS, Handshake
from dtls.errors import SSLError
from dtls.events import AlertReceived, Event, HandshakeFailed
from dtls.flights import SentFlight
from dtls.reassembly import MAX_HELD_BYTES as MAX_REASSEMBLY_BYTES
from dtls.reassembly import MAX_HELD_FRAGMENTS
from dtls.wire import (
    DTLS_1_0,
    DTLS_1_2,
    MAX_RECORD_SEQUENCE,
    AlertDescription,
    ContentType,
    HandshakeType,
    build_handshake,
    build_record,
    split_records_untrusted,
)

from .forge import Insider, forgeries, forgeries_for, record
from .pair import OTHER, Pair, losing

KINDS = list(forgeries())
each_kind = pytest.mark.parametrize("kind", KINDS)


class HauntedPair(Pair):
    """Before and after each datagram that arrives, both ends are sent what strangers forged."""

    forged: dict[str, list[bytes]]
    haunted = 0

    def deliver(self, receiver: str, datagram: bytes) -> list[Event]:
        self.haunt()
        events = super().deliver(receiver, datagram)
        self.haunt()
        return events

    def haunt(self) -> None:
        self.haunted += 1
        for name in OTHER:
            for forgery in self.forged[name]:
                events = self.end(name).receive_datagram(forgery, self.now)
                assert events == [], (name, forgery)
        self.pump("client")
        self.pump("server")


def forged(kind: str) -> dict[str, list[bytes]]:
    return {name: forgeries_for(name)[kind] for name in OTHER}


@pytest.fixture
def mutual(mutual: tuple[Context, Context]) -> tuple[Context, Context]:
    """As many messages as a handshake can have, in as many datagrams."""
    client, server = mutual
    client.mtu = server.mtu = 512
    return client, server


def statistics(connection: Connection) -> int:
    return sum(connection.statistics.values())


# --- during the handshake --------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("cookies", [False, True])
def test_a_handshake_completes_among_forgeries(
    client: Context, server: Context, kind: str, cookies: bool
) -> None:
    pair = HauntedPair(client, server, cookies=cookies)
    pair.forged = forged(kind)
    pair.haunt()
    pair.run()
    assert pair.established, pair.events
    assert pair.haunted > 6
    pair.assert_talks()


@each_kind
def test_a_handshake_of_many_datagrams_completes_among_forgeries(
    mutual: tuple[Context, Context], kind: str
) -> None:
    pair = HauntedPair(*mutual)
    pair.forged = forged(kind)
    pair.run()
    assert pair.established, pair.events
    pair.assert_talks()


@pytest.mark.parametrize("kind", ["alerts", "early ChangeCipherSpecs", "fragments with a lying total"])
@pytest.mark.parametrize("lost", range(3))
def test_a_handshake_completes_among_forgeries_and_losses(
    mutual: tuple[Context, Context], kind: str, lost: int
) -> None:
    for sender in OTHER:
        pair = HauntedPair(*mutual, tap=losing((sender, lost)))
        pair.forged = forged(kind)
        pair.run()
        assert pair.established, (sender, pair.events)
        pair.assert_talks()


def test_forgeries_of_every_kind_are_counted(client: Context, server: Context) -> None:
    for kind in KINDS:
        pair = Pair(client, server)
        pair.client.datagrams_to_send(pair.now)
        for name in OTHER:
            for forgery in forged(kind)[name]:
                pair.end(name).receive_datagram(forgery, pair.now)
            if kind not in ("early ChangeCipherSpecs", "wild record numbers"):
                assert statistics(pair.end(name)), (kind, name)


@pytest.mark.parametrize("change", ["version", "record number", "both"])
def test_copies_of_the_true_records_in_another_dress_do_no_harm(
    mutual: tuple[Context, Context], change: str
) -> None:
    def disguised(_sender: str, _index: int, datagram: bytes) -> list[bytes]:
        copies = []
        for true in split_records_untrusted(datagram):
            other = DTLS_1_0 if true.version == DTLS_1_2 else DTLS_1_2
            version = true.version if change == "record number" else other
            sequence = true.sequence if change == "version" else MAX_RECORD_SEQUENCE - true.sequence
            if not true.epoch:
                copies.append(build_record(true.content_type, version, 0, sequence, true.fragment))
        return [*copies, datagram, *copies]

    pair = Pair(*mutual, tap=disguised)
    pair.run()
    assert pair.established, pair.events
    assert not pair.client.statistics["flights_repeated"]
    pair.assert_talks()


def test_what_an_unfinished_handshake_holds_is_bounded(client: Context, server: Context) -> None:
    pair = Pair(client, server)
    pair.pump("client")
    certificate = HandshakeType.CERTIFICATE
    for number in range(10_000):
        body = bytes(number % 1200 + 1)
        content = build_handshake(
            certificate, number % 12, body, offset=number * 7, length=90_000 + number % 9
        )
        for name in OTHER:
            end = pair.end(name)
            assert end.receive_datagram(record(ContentType.HANDSHAKE, content), pair.now) == []
            for kind in range(20, 24):
                end.receive_datagram(record(kind, bytes(16_000), epoch=1, sequence=number), pair.now)
    for number in range(100):
        for kind in range(20, 24):
            for name in OTHER:
                pair.end(name).receive_datagram(record(kind, bytes(40), epoch=1, sequence=number), pair.now)
    for name in OTHER:
        handshake = handshake_of(pair.end(name))
        held = handshake._reassembler._held.values()
        assert sum(partial.held_bytes for partial in held) <= MAX_REASSEMBLY_BYTES
        assert sum(partial.fragment_count for partial in held) <= MAX_HELD_FRAGMENTS
        for queue in (handshake.early_data, handshake._early_records):
            assert queue is not None
            assert len(queue) <= MAX_HELD_RECORDS
            assert sum(len(early.fragment) for early in queue) <= MAX_HELD_BYTES
    pair.settle()
    assert pair.established


def handshake_of(connection: Connection) -> Handshake:
    assert isinstance(connection, OpenSSLConnection)
    assert connection._handshake is not None
    return connection._handshake


def test_memory_does_not_grow_under_a_flood_on_a_live_association(client: Context, server: Context) -> None:
    pair = Pair(client, server)
    pair.run()
    flood = [forgery for forged_ones in forgeries().values() for forgery in forged_ones]
    for forgery in flood:
        pair.server.receive_datagram(forgery, pair.now)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for forgery in flood:
            pair.server.receive_datagram(forgery, pair.now)
        pair.server.datagrams_to_send(pair.now)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    pair.assert_talks()


# --- alerts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("description", [*AlertDescription, 255])
def test_a_forged_alert_does_not_end_a_handshake_whose_peer_goes_on(
    client: Context, server: Context, description: int
) -> None:
    alert = record(ContentType.ALERT, bytes([2, description]))
    for sender in OTHER:
        # The first datagram is lost, so that the alert has all the time until the repeat.
        pair = Pair(client, server, tap=losing((sender, 0)))
        pair.settle()
        for name in OTHER:
            assert pair.deliver(name, alert) == []
        pair.run()
        assert pair.established, pair.events
        pair.assert_talks()


def test_an_alert_that_the_peer_has_belied_is_forgotten(client: Context, server: Context) -> None:
    # The repeat of the first flight is answered; the repeat of the next comes later than the alert would be believed.
    pair = Pair(client, server, tap=losing(("client", 0), ("client", 2)))
    pair.settle()
    pair.deliver("client", record(ContentType.ALERT, b"\x02\x28"))
    pair.run()
    assert pair.established, pair.events


@pytest.mark.parametrize("version", [DTLS_1_0, DTLS_1_2])
@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (AlertDescription.HANDSHAKE_FAILURE, "HANDSHAKE_FAILURE"),
        (AlertDescription.UNKNOWN_CA, "UNKNOWN_CA"),
        (AlertDescription.PROTOCOL_VERSION, "PROTOCOL_VERSION"),
        (AlertDescription.INTERNAL_ERROR, "INTERNAL_ERROR"),
        (AlertDescription.CLOSE_NOTIFY, "CLOSED_DURING_HANDSHAKE"),
        (255, "TLSV1_ALERT_255"),
    ],
)
@pytest.mark.parametrize("receiver", ["client", "server"])
def test_an_alert_of_a_peer_that_does_not_go_on_is_reported_after_two_seconds(
    client: Context, server: Context, receiver: str, description: int, reason: str, version: int
) -> None:
    pair = Pair(client, server, tap=lambda name, index, d: [d] if (name, index) == ("client", 0) else [])
    pair.settle()
    pair.deliver(receiver, record(ContentType.ALERT, bytes([2, description]), version=version))
    began = pair.now
    pair.run(1.9)
    assert pair.events[receiver] == []
    pair.run(began + 2.1 - pair.now)
    error = pair.failure(receiver)
    assert isinstance(error, SSLError)
    assert reason in error.reason
    assert str(error)
    (event,) = pair.events[receiver]
    assert isinstance(event, HandshakeFailed)
    assert pair.end(receiver).state is ConnectionState.FAILED


def test_an_alert_that_comes_late_in_the_backing_off_is_not_left_unreported(
    client: Context, server: Context
) -> None:
    pair = Pair(client, server, tap=lambda *_: [])
    pair.run(10)
    began = pair.now
    pair.deliver("client", record(ContentType.ALERT, bytes([2, AlertDescription.HANDSHAKE_FAILURE])))
    times = []
    while pair.failure("client") is None:
        due = pair.client.next_timeout()
        assert due is not None
        pair.now = due
        times.append(due)
        pair.events["client"] += pair.client.handle_timeout(pair.now)
    assert times[-1] - began <= 2.01
    assert "handshake_failure" in str(pair.failure("client"))


def test_a_warning_does_not_end_a_handshake(client: Context, server: Context) -> None:
    pair = Pair(client, server, tap=lambda *_: [])
    pair.pump("client")
    pair.deliver("client", record(ContentType.ALERT, bytes([1, AlertDescription.UNRECOGNIZED_NAME])))
    pair.run()
    assert "no answer" in str(pair.failure("client"))


# --- after the handshake ---------------------------------------------------------------------------------------------

CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0",
    "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0",
)


@pytest.fixture(params=[*CIPHERS, "DTLS 1.0"])
def live(request: pytest.FixtureRequest, client: Context, server: Context) -> Pair:
    """An association under each kind of cipher."""
    old = request.param == "DTLS 1.0"
    for context in (client, server):
        if old:
            context.minimum_version = context.maximum_version = DTLSVersion.DTLSv1
        context.set_ciphers(CIPHERS[-1] if old else request.param)
    pair = Pair(client, server)
    pair.run()
    assert pair.established
    return pair


def captured(pair: Pair, sender: str, message: bytes) -> bytes:
    """A datagram on its way."""
    pair.end(sender).send(message, pair.now)
    (datagram,) = pair.end(sender).datagrams_to_send(pair.now)
    return datagram


def assert_dropped(pair: Pair, receiver: str, datagram: bytes) -> None:
    end = pair.end(receiver)
    before = statistics(end)
    assert end.receive_datagram(datagram, pair.now) == [], datagram
    assert end.state is ConnectionState.ESTABLISHED
    assert end.datagrams_to_send(pair.now) == []
    assert statistics(end) > before, datagram


@pytest.mark.parametrize("receiver", ["client", "server"])
def test_every_change_of_one_bit_in_a_record_is_noticed_and_the_record_itself_still_counts(
    live: Pair, receiver: str
) -> None:
    datagram = captured(live, OTHER[receiver], b"a message")
    for position in range(len(datagram)):
        for bit in range(8):
            mutant = bytearray(datagram)
            mutant[position] ^= 1 << bit
            assert_dropped(live, receiver, bytes(mutant))
    assert [type(event).__name__ for event in live.deliver(receiver, datagram)] == ["DataReceived"]
    live.assert_talks()


@pytest.mark.parametrize("receiver", ["client", "server"])
def test_every_value_of_each_byte_of_a_records_header_does_no_harm(live: Pair, receiver: str) -> None:
    datagram = captured(live, OTHER[receiver], b"a message")
    for position in range(13):
        for value in range(256):
            mutant = datagram[:position] + bytes([value]) + datagram[position + 1 :]
            if mutant != datagram:
                assert_dropped(live, receiver, mutant)
    assert len(live.deliver(receiver, datagram)) == 1
    live.assert_talks()


@pytest.mark.parametrize("receiver", ["client", "server"])
def test_truncated_records_do_no_harm(live: Pair, receiver: str) -> None:
    datagram = captured(live, OTHER[receiver], b"a message")
    for length in range(len(datagram)):
        assert_dropped(live, receiver, datagram[:length])
        if length >= 13:
            honest = datagram[:11] + (length - 13).to_bytes(2, "big") + datagram[13:length]
            assert_dropped(live, receiver, honest)
    assert len(live.deliver(receiver, datagram)) == 1
    live.assert_talks()


@pytest.mark.parametrize("receiver", ["client", "server"])
def test_what_stands_after_a_record_does_not_take_it_along(live: Pair, receiver: str) -> None:
    for number, rest in enumerate((b"x", bytes(13), bytes(100), record(21, b"\x02\x28"), b"\xff" * 20)):
        datagram = captured(live, OTHER[receiver], b"message %d" % number)
        live.deliver(receiver, datagram + rest)
        assert live.received(receiver)[-1] == b"message %d" % number
    live.assert_talks()


def test_several_records_in_a_datagram_are_all_delivered(live: Pair) -> None:
    datagrams = [captured(live, "client", b"message %d" % number) for number in range(5)]
    live.deliver("server", b"".join(datagrams))
    assert live.received("server") == [b"message %d" % number for number in range(5)]


@pytest.mark.parametrize("receiver", ["client", "server"])
def test_nothing_is_delivered_twice(live: Pair, receiver: str) -> None:
    datagrams = [captured(live, OTHER[receiver], b"message %d" % number) for number in range(20)]
    for datagram in (datagrams[5], datagrams[0], datagrams[19]):
        assert len(live.deliver(receiver, datagram)) == 1
        assert_dropped(live, receiver, datagram)
    for datagram in datagrams:
        live.deliver(receiver, datagram)
    assert sorted(live.received(receiver)) == sorted(b"message %d" % number for number in range(20))
    for datagram in datagrams:
        assert_dropped(live, receiver, datagram)
    # The whole handshake again, too.
    for sender, datagram in live.sent:
        if sender != receiver:
            live.end(receiver).receive_datagram(datagram, live.now)
    assert live.established
    live.assert_talks()


def test_a_record_older_than_the_replay_window_is_dropped(live: Pair) -> None:
    datagrams = [captured(live, "client", b"message %d" % number) for number in range(130)]
    assert len(live.deliver("server", datagrams[-1])) == 1
    assert_dropped(live, "server", datagrams[0])
    assert len(live.deliver("server", datagrams[-2])) == 1


def test_a_forged_record_number_does_not_move_the_replay_window(live: Pair) -> None:
    datagram = captured(live, "client", b"a message")
    for high in (b"\x00\x00\x00\x00\xff\xff", b"\xff\xff\xff\xff\xff\xff"):
        assert_dropped(live, "server", datagram[:5] + high + datagram[11:])
    assert len(live.deliver("server", datagram)) == 1
    live.assert_talks()


@each_kind
def test_an_association_outlives_forgeries(client: Context, server: Context, kind: str) -> None:
    pair = Pair(client, server)
    pair.run()
    for name in OTHER:
        for forgery in forged(kind)[name]:
            before = statistics(pair.end(name))
            assert pair.end(name).receive_datagram(forgery, pair.now) == [], forgery
            assert pair.end(name).state is ConnectionState.ESTABLISHED
            assert statistics(pair.end(name)) > before, forgery
    pair.assert_talks()


@pytest.mark.parametrize("dull", ["client", "server"])
def test_an_association_outlives_every_forgery_at_once(client: Context, server: Context, dull: str) -> None:
    pair = HauntedPair(client, server)
    pair.forged = {name: [] for name in OTHER}
    pair.run()
    pair.forged[dull] = [forgery for ones in forgeries_for(dull).values() for forgery in ones]
    pair.assert_talks()


# --- what only a peer with the keys can send -------------------------------------------------------------------------


def assert_lives(pair: Pair, receiver: str, insider: Insider) -> None:
    """Messages go both ways, one of them by the insider, whose record numbers are ahead of its end's own."""
    pair.deliver(receiver, insider.protect(ContentType.APPLICATION_DATA, b"from the insider"))
    assert pair.received(receiver)[-1:] == [b"from the insider"]
    pair.send(receiver, b"an answer")
    assert pair.received(OTHER[receiver])[-1:] == [b"an answer"]


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (AlertDescription.INTERNAL_ERROR, "INTERNAL_ERROR"),
        (AlertDescription.UNKNOWN_PSK_IDENTITY, "UNKNOWN_PSK_IDENTITY"),
        (255, "TLSV1_ALERT_255"),
    ],
)
def test_an_authentic_fatal_alert_ends_the_association_and_says_why(
    client: Context, server: Context, description: int, reason: str
) -> None:
    for name, other in OTHER.items():
        pair = Pair(client, server)
        pair.run()
        alert = Insider(pair.end(other)).protect(ContentType.ALERT, bytes([2, description]))
        (event,) = pair.deliver(name, alert)
        assert isinstance(event, AlertReceived)
        assert reason in event.error.reason
        assert reason.lower().removeprefix("tlsv1_alert_") in str(event.error)
        assert "handshake" not in str(event.error)
        assert pair.end(name).state is ConnectionState.FAILED
        assert pair.deliver(name, alert) == []


def test_a_few_authentic_warnings_end_nothing(client: Context, server: Context) -> None:
    pair = Pair(client, server)
    pair.run()
    insider = Insider(pair.client)
    for _ in range(3):
        alert = insider.protect(ContentType.ALERT, bytes([1, AlertDescription.USER_CANCELED]))
        assert pair.deliver("server", alert) == []
    assert_lives(pair, "server", insider)


@pytest.mark.parametrize("receiver", ["client", "server"])
def test_authentic_empty_messages_are_passed_over(client: Context, server: Context, receiver: str) -> None:
    pair = Pair(client, server)
    pair.run()
    insider = Insider(pair.end(OTHER[receiver]))
    for _ in range(50):
        assert pair.deliver(receiver, insider.protect(ContentType.APPLICATION_DATA, b"")) == []
    assert_lives(pair, receiver, insider)


@pytest.mark.parametrize("length", [0, 12, 60, 200])
@pytest.mark.parametrize("receiver", ["client", "server"])
def test_renegotiation_is_refused_and_the_association_goes_on(
    client: Context, server: Context, receiver: str, length: int
) -> None:
    pair = Pair(client, server)
    pair.run()
    pair.assert_talks()
    kind = HandshakeType.HELLO_REQUEST if receiver == "client" else HandshakeType.CLIENT_HELLO
    insider = Insider(pair.end(OTHER[receiver]))
    for _ in range(20):
        content = build_handshake(kind, 0, bytes(length))
        assert pair.deliver(receiver, insider.protect(ContentType.HANDSHAKE, content)) == []
    assert_lives(pair, receiver, insider)


@pytest.mark.parametrize("receiver", ["client", "server"])
def test_repeats_of_the_finished_are_answered_in_measure_and_end_nothing(
    client: Context, server: Context, receiver: str
) -> None:
    pair = Pair(client, server)
    pair.run()
    insider = Insider(pair.end(OTHER[receiver]))
    content = build_handshake(HandshakeType.FINISHED, 3, bytes(12))
    answered = len(pair.sent)
    for _ in range(500):
        pair.now += 0.01
        assert pair.deliver(receiver, insider.protect(ContentType.HANDSHAKE, content)) == []
    answers = len(pair.sent) - answered
    assert answers == 0 if receiver == "client" else 5 <= answers <= 5 / SentFlight.SPACING
    assert_lives(pair, receiver, insider)


# --- chance ----------------------------------------------------------------------------------------------------------


@st.composite
def nearly_records(draw: st.DrawFn) -> bytes:
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        content = draw(
            st.one_of(
                st.binary(max_size=80),
                st.builds(
                    lambda kind, sequence, offset, length, body: build_handshake(
                        kind, sequence, body, offset=offset, length=length
                    ),
                    st.integers(0, 25),
                    st.integers(0, 12),
                    st.integers(0, 300),
                    st.integers(0, 2**24 - 1),
                    st.binary(max_size=60),
                ),
            )
        )
        parts.append(
            build_record(
                draw(st.integers(18, 26)),
                draw(st.sampled_from([DTLS_1_0, DTLS_1_2, 0x0303])),
                draw(st.integers(0, 2)),
                draw(st.integers(0, MAX_RECORD_SEQUENCE)),
                content,
            )
        )
    return b"".join(parts)[: draw(st.integers(0, 400))]


noise = st.lists(st.one_of(st.binary(max_size=100), nearly_records()), max_size=12)


@given(noise=noise, established=st.booleans())
@settings(max_examples=300)
def test_no_bytes_make_receive_datagram_raise(
    ca_contexts: tuple[Context, Context], noise: list[bytes], established: bool
) -> None:
    pair = Pair(*ca_contexts)
    if established:
        pair.run()
    else:
        pair.client.datagrams_to_send(pair.now)
    for datagram in noise:
        for _, end in pair.ends():
            end.receive_datagram(datagram, pair.now)
            end.datagrams_to_send(pair.now)
    if established:
        assert pair.established
        pair.assert_talks()


@pytest.fixture(scope="module")
def ca_contexts(request: pytest.FixtureRequest) -> tuple[Context, Context]:
    """Contexts that many examples share."""
    from dtls.context import PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER  # noqa: PLC0415

    ca, certificate = request.getfixturevalue("ca"), request.getfixturevalue("server_certificate")
    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    client.load_verify_locations(cadata=ca.certificate_pem)
    server.load_cert_chain(certificate.private_key_and_chain_pem)
    return client, server
