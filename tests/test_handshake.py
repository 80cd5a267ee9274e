"""Handshakes complete with every kind of certificate, at every MTU, and whatever the network loses or mixes up."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest

from dtls.certificates import CertificateAuthority, IssuedCertificate
from dtls.connection import Connection, ConnectionState, ReceivedClientHello
from dtls.context import (
    CERT_REQUIRED,
    PROTOCOL_DTLS_CLIENT,
    PROTOCOL_DTLS_SERVER,
    Context,
    DTLSVersion,
)
from dtls.errors import SSLError
from dtls.events import HandshakeCompleted, HandshakeFailed
from dtls.wire import (
    DTLS_1_0,
    DTLS_1_2,
    MAX_RECORD_SEQUENCE,
    AlertDescription,
    ContentType,
    HandshakeType,
    build_handshake,
    build_hello_verify_request,
    build_message_record,
    build_record,
    split_fragments_untrusted,
    split_records_untrusted,
)

from .pair import OTHER, Pair, hello_with_cookie, losing, received_client_hello

if TYPE_CHECKING:
    from collections.abc import Callable

MTUS = (208, 512, 1350)


@pytest.fixture(scope="session")
def rsa_ca() -> CertificateAuthority:
    return CertificateAuthority("RSA root", key_type="rsa")


@pytest.fixture(scope="session")
def long_chain(rsa_ca: CertificateAuthority) -> IssuedCertificate:
    """Certificate messages of 4 KB."""
    authority = rsa_ca
    for number in range(3):
        authority = authority.intermediate(f"RSA intermediate {number}", key_type="rsa")
    return authority.issue("localhost", key_type="rsa")


@pytest.fixture
def mutual(
    client: Context, server: Context, client_certificate: IssuedCertificate
) -> tuple[Context, Context]:
    """Both sides authenticate, and need several datagrams for it."""
    return _with_client_certificate(client, server, client_certificate, client.trusted_certificates)


def _with_client_certificate(
    client: Context, server: Context, certificate: IssuedCertificate, anchors: list[bytes]
) -> tuple[Context, Context]:
    client.load_cert_chain(certificate.private_key_and_chain_pem)
    for anchor in anchors:
        server.load_verify_locations(cadata=anchor)
    server.verify_mode = CERT_REQUIRED
    return client, server


def contexts_for(identity: IssuedCertificate, ca: CertificateAuthority, mtu: int) -> tuple[Context, Context]:
    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    client.load_verify_locations(cadata=ca.certificate_pem)
    server.load_cert_chain(identity.private_key_and_chain_pem)
    client.mtu = server.mtu = mtu
    return client, server


def assert_completes(pair: Pair) -> None:
    pair.run()
    assert pair.established, pair.events
    for name in OTHER:
        assert sum(isinstance(event, HandshakeCompleted) for event in pair.events[name]) == 1
    pair.assert_talks()


def datagrams_of(client: Context, server: Context, *, cookies: bool = False) -> list[tuple[str, int]]:
    """Which datagrams a handshake has on a good network: sender, and index among the sender's."""
    pair = Pair(client, server, cookies=cookies)
    pair.run()
    assert pair.established
    counts = dict.fromkeys(OTHER, 0)
    numbered = []
    for name, _ in pair.sent:
        numbered.append((name, counts[name]))
        counts[name] += 1
    return numbered


# --- certificates, versions, sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mtu", MTUS)
@pytest.mark.parametrize("cookies", [False, True])
def test_both_sides_talk_with_ecdsa_certificates(
    ca: CertificateAuthority, server_certificate: IssuedCertificate, mtu: int, cookies: bool
) -> None:
    pair = Pair(*contexts_for(server_certificate, ca, mtu), cookies=cookies)
    assert_completes(pair)
    assert all(len(datagram) <= mtu for _, datagram in pair.sent)


@pytest.mark.parametrize("mtu", MTUS)
@pytest.mark.parametrize("cookies", [False, True])
def test_both_sides_talk_with_rsa_certificates_and_a_chain_of_several_datagrams(
    rsa_ca: CertificateAuthority, long_chain: IssuedCertificate, mtu: int, cookies: bool
) -> None:
    pair = Pair(*contexts_for(long_chain, rsa_ca, mtu), cookies=cookies)
    assert_completes(pair)
    assert len(pair.client.unverified_chain()) == 4
    assert all(len(datagram) <= mtu for _, datagram in pair.sent)
    assert sum(len(datagram) for name, datagram in pair.sent if name == "server") > 3000


@pytest.mark.parametrize("mtu", MTUS)
def test_both_sides_talk_with_certificates_on_both_sides(mutual: tuple[Context, Context], mtu: int) -> None:
    for context in mutual:
        context.mtu = mtu
    pair = Pair(*mutual)
    assert_completes(pair)
    assert pair.server.peer_certificate() is not None
    assert all(len(datagram) <= mtu for _, datagram in pair.sent)


@pytest.mark.parametrize("mtu", [208, 1350, 65_507])
@pytest.mark.parametrize("both", [False, True])
def test_a_certificate_message_longer_than_a_record_crosses(
    ca: CertificateAuthority,
    server_certificate: IssuedCertificate,
    client_certificate: IssuedCertificate,
    mtu: int,
    both: bool,
) -> None:
    # What OpenSSL sends along need not lead anywhere: it is the size that matters.
    ballast = [ca.certificate] * 40
    client, server = contexts_for(server_certificate, ca, mtu)
    server.load_cert_chain([server_certificate.certificate, *ballast], server_certificate.key)
    if both:
        client.load_cert_chain([client_certificate.certificate, *ballast], client_certificate.key)
        server.load_verify_locations(cadata=ca.certificate_pem)
        server.verify_mode = CERT_REQUIRED
    pair = Pair(client, server)
    assert_completes(pair)
    assert sum(map(len, pair.client.unverified_chain())) > 2**14
    assert len(pair.server.unverified_chain()) == (41 if both else 0)
    assert all(len(datagram) <= mtu for _, datagram in pair.sent)


@pytest.mark.parametrize("cookies", [False, True])
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_dtls_1_0_is_spoken_by_those_who_ask_for_it(
    ca: CertificateAuthority, rsa_ca: CertificateAuthority, kind: str, cookies: bool
) -> None:
    authority = ca if kind == "ec" else rsa_ca
    identity = authority.issue("localhost", key_type="ec" if kind == "ec" else "rsa")
    client, server = contexts_for(identity, authority, 512)
    for context in (client, server):
        context.minimum_version = DTLSVersion.DTLSv1
        context.maximum_version = DTLSVersion.DTLSv1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    pair = Pair(client, server, cookies=cookies)
    assert_completes(pair)
    assert {pair.client.version(), pair.server.version()} == {"DTLSv1"}


def test_sides_that_allow_both_versions_speak_the_newer(client: Context, server: Context) -> None:
    for context in (client, server):
        context.minimum_version = DTLSVersion.DTLSv1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    pair = Pair(client, server)
    assert_completes(pair)
    assert pair.client.version() == "DTLSv1.2"


@pytest.mark.parametrize("older", ["client", "server"])
def test_the_version_is_the_newest_that_both_allow(client: Context, server: Context, older: str) -> None:
    for context in (client, server):
        context.minimum_version = DTLSVersion.DTLSv1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    {"client": client, "server": server}[older].maximum_version = DTLSVersion.DTLSv1
    pair = Pair(client, server)
    assert_completes(pair)
    assert pair.server.version() == "DTLSv1"


def test_sides_without_a_common_version_both_say_so(client: Context, server: Context) -> None:
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = DTLSVersion.DTLSv1
    pair = Pair(client, server)
    pair.run()
    assert isinstance(pair.failure("server"), SSLError)
    assert getattr(pair.failure("server"), "reason", "") == "UNSUPPORTED_PROTOCOL"
    assert "version" in str(pair.failure("client"))


def test_sides_without_a_common_cipher_suite_both_say_so(client: Context, server: Context) -> None:
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    server.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    pair = Pair(client, server)
    pair.run()
    assert getattr(pair.failure("server"), "reason", "") == "NO_SHARED_CIPHER"
    assert "handshake_failure" in str(pair.failure("client"))


@pytest.mark.parametrize(
    ("offered", "known", "agreed"),
    [
        (["coap", "h2"], ["h2", "coap"], "h2"),
        (["coap"], ["h2", "coap"], "coap"),
        (["coap"], ["h2"], None),
        (["coap"], [], None),
        ([], ["coap"], None),
    ],
)
def test_the_application_protocol_is_the_servers_choice_among_those_offered(
    client: Context, server: Context, offered: list[str], known: list[str], agreed: str | None
) -> None:
    client.set_alpn_protocols(offered)
    server.set_alpn_protocols(known)
    pair = Pair(client, server)
    assert_completes(pair)
    assert pair.client.selected_alpn_protocol() == agreed
    assert pair.server.selected_alpn_protocol() == agreed


@pytest.mark.parametrize(
    "cipher",
    [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-CCM",
        "ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
    ],
)
def test_every_kind_of_cipher_carries_messages(client: Context, server: Context, cipher: str) -> None:
    client.set_ciphers(cipher)
    server.set_ciphers(cipher)
    pair = Pair(client, server)
    assert_completes(pair)
    chosen = pair.client.cipher()
    assert chosen is not None
    assert chosen[0] == cipher.partition(":")[0]
    for name, other in OTHER.items():
        for message in (b"x", bytes(pair.end(name).max_message_size)):
            pair.send(name, message)
            assert pair.received(other)[-1] == message


# --- loss, repetition, disorder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cookies", [False, True])
@pytest.mark.parametrize("mtu", MTUS)
def test_the_loss_of_any_one_datagram_is_made_good(
    mutual: tuple[Context, Context], mtu: int, cookies: bool
) -> None:
    for context in mutual:
        context.mtu = mtu
    for lost in datagrams_of(*mutual, cookies=cookies):
        pair = Pair(*mutual, tap=losing(lost), cookies=cookies)
        assert_completes(pair)


@pytest.mark.parametrize("mtu", [400, 1350])
def test_the_loss_of_any_two_datagrams_is_made_good(mutual: tuple[Context, Context], mtu: int) -> None:
    for context in mutual:
        context.mtu = mtu
    for lost in itertools.combinations(datagrams_of(*mutual), 2):
        pair = Pair(*mutual, tap=losing(*lost))
        assert_completes(pair)


def test_the_loss_of_any_two_datagrams_is_made_good_without_client_certificates(
    client: Context, server: Context
) -> None:
    client.mtu = server.mtu = 256
    for lost in itertools.combinations(datagrams_of(client, server), 2):
        assert_completes(Pair(client, server, tap=losing(*lost)))


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("sender", ["client", "server"])
def test_the_loss_of_whole_flights_is_made_good(
    client: Context, server: Context, sender: str, times: int
) -> None:
    for first in range(2):
        lost = [(sender, index) for index in range(first, first + times)]
        assert_completes(Pair(client, server, tap=losing(*lost)))


def repeating(repeated: tuple[str, int]) -> Callable[[str, int, bytes], list[bytes]]:
    return lambda sender, index, datagram: [datagram] * (1 + ((sender, index) == repeated))


@pytest.mark.parametrize("mtu", MTUS)
def test_the_repetition_of_any_datagram_does_no_harm(mutual: tuple[Context, Context], mtu: int) -> None:
    for context in mutual:
        context.mtu = mtu
    for twice in datagrams_of(*mutual):
        pair = Pair(*mutual, tap=repeating(twice))
        assert_completes(pair)


def test_the_repetition_of_every_datagram_does_no_harm_and_provokes_no_storm(
    mutual: tuple[Context, Context],
) -> None:
    for context in mutual:
        context.mtu = 256
    usual = len(datagrams_of(*mutual))
    pair = Pair(*mutual, tap=lambda _sender, _index, datagram: [datagram] * 3)
    assert_completes(pair)
    assert len(pair.sent) == usual + 2


@pytest.mark.parametrize("mtu", MTUS)
@pytest.mark.parametrize("cookies", [False, True])
def test_flights_that_arrive_backwards_complete_the_handshake_without_a_repeat(
    mutual: tuple[Context, Context], mtu: int, cookies: bool
) -> None:
    for context in mutual:
        context.mtu = mtu
    pair = Pair(*mutual, reorder=lambda datagrams: datagrams[::-1], cookies=cookies)
    assert_completes(pair)
    assert not pair.client.statistics["flights_repeated"]
    assert not pair.server.statistics["flights_repeated"]


def test_any_two_neighbours_may_change_places(mutual: tuple[Context, Context]) -> None:
    for context in mutual:
        context.mtu = 256

    for number in range(12):

        def swap(datagrams: list[bytes], number: int = number) -> list[bytes]:
            if number + 1 < len(datagrams):
                datagrams[number], datagrams[number + 1] = datagrams[number + 1], datagrams[number]
            return datagrams

        pair = Pair(*mutual, reorder=swap)
        assert_completes(pair)
        assert not pair.client.statistics["flights_repeated"]


class Withheld:
    """Keeps one end's datagrams from ``first`` on until they are released."""

    def __init__(self, sender: str, first: int) -> None:
        self.sender, self.first = sender, first
        self.kept: list[bytes] = []
        self.open = False

    def __call__(self, sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender != self.sender or index < self.first or self.open:
            return [datagram]
        self.kept.append(datagram)
        return []


def test_messages_that_overtake_the_servers_finished_are_delivered_after_it(
    client: Context, server: Context
) -> None:
    withheld = Withheld("server", 1)
    pair = Pair(client, server, tap=withheld)
    pair.settle()
    assert pair.server.state is ConnectionState.ESTABLISHED
    (finished,) = withheld.kept
    withheld.open = True
    for number in range(3):
        pair.send("server", b"early %d" % number)
    assert pair.events["client"] == []
    pair.deliver("client", finished)
    assert isinstance(pair.events["client"][0], HandshakeCompleted)
    assert pair.received("client") == [b"early 0", b"early 1", b"early 2"]
    pair.assert_talks()


def test_what_claims_to_have_overtaken_the_finished_is_judged_when_there_are_keys(
    client: Context, server: Context
) -> None:
    withheld = Withheld("client", 1)
    pair = Pair(client, server, tap=withheld)
    pair.settle()
    withheld.open = True
    for _ in range(100):
        pair.deliver("server", early_record())
    pair.deliver("server", withheld.kept[0])
    pair.settle()
    assert pair.established
    assert pair.received("server") == []
    assert pair.server.statistics["dropped_too_early"] > 80
    pair.assert_talks()


def early_record() -> bytes:
    return build_record(ContentType.APPLICATION_DATA, DTLS_1_2, 1, 5, bytes(40))


def test_a_close_notify_that_overtakes_the_finished_closes_after_it(client: Context, server: Context) -> None:
    withheld = Withheld("server", 1)
    pair = Pair(client, server, tap=withheld)
    pair.settle()
    (finished,) = withheld.kept
    withheld.open = True
    pair.send("server", b"the only message")
    pair.server.close(pair.now)
    pair.settle()
    assert pair.events["client"] == []
    pair.deliver("client", finished)
    assert [type(event).__name__ for event in pair.events["client"]] == [
        "HandshakeCompleted",
        "DataReceived",
        "PeerClosed",
    ]


def test_a_finished_that_overtakes_the_rest_of_its_flight_waits_for_it(
    client: Context, server: Context
) -> None:
    withheld = Withheld("client", 1)
    pair = Pair(client, server, tap=withheld)
    pair.settle()
    (flight,) = withheld.kept
    records = [build_record(*record) for record in split_records_untrusted(flight)]
    assert len(records) == 3
    withheld.open = True
    for record in reversed(records):
        pair.deliver("server", record)
    pair.settle()
    assert pair.established
    pair.assert_talks()


def test_flights_are_repeated_at_one_two_four_seconds_until_the_deadline(
    client: Context, server: Context
) -> None:
    times: list[float] = []
    pair = Pair(client, server)
    start = pair.now

    def swallow(_sender: str, _index: int, _datagram: bytes) -> list[bytes]:
        times.append(pair.now - start)
        return []

    pair.tap = swallow
    pair.run()
    assert times == [0, 1, 3, 7, 15]
    assert pair.now - start == client.handshake_timeout
    assert "no answer from the server within 30 s" in str(pair.failure("client"))


def test_the_first_repeat_comes_when_the_context_says(client: Context, server: Context) -> None:
    client.initial_retransmission_timeout = 0.25
    pair = Pair(client, server, tap=losing(("client", 0)))
    start = pair.now
    pair.settle()
    assert pair.client.next_timeout() == start + 0.25
    assert_completes(pair)


def test_a_flight_is_repeated_at_once_when_the_peer_repeats_what_it_answers(
    client: Context, server: Context
) -> None:
    client.initial_retransmission_timeout = 20
    server.initial_retransmission_timeout = 0.5
    pair = Pair(client, server, tap=losing(("client", 1)))
    began = pair.now
    pair.run()
    assert pair.established
    assert pair.now - began < 1


def test_no_session_tickets_are_sent(client: Context, server: Context) -> None:
    pair = Pair(client, server)
    pair.run()
    assert HandshakeType.NEW_SESSION_TICKET not in {
        fragment.message_type
        for _, datagram in pair.sent
        for record in split_records_untrusted(datagram)
        if record.content_type == ContentType.HANDSHAKE and not record.epoch
        for fragment in split_fragments_untrusted(record.fragment)
    }


def test_repeats_have_new_record_numbers(client: Context, server: Context) -> None:
    pair = Pair(client, server, tap=losing(("client", 0), ("client", 1), ("server", 0), ("server", 1)))
    assert_completes(pair)
    for name in OTHER:
        numbers = [
            record.sequence
            for sender, datagram in pair.sent
            if sender == name
            for record in split_records_untrusted(datagram)
            if not record.epoch
        ]
        assert numbers == sorted(set(numbers))


# --- cookies ---------------------------------------------------------------------------------------------------------


def test_a_server_goes_on_from_a_client_hello_whose_cookie_was_verified(
    client: Context, server: Context
) -> None:
    pair = Pair(client, server, cookies=True)
    pair.settle()
    assert pair.established
    first = next(datagram for name, datagram in pair.sent if name == "server")
    record = split_records_untrusted(first)[0]
    (hello,) = split_fragments_untrusted(record.fragment)
    assert (hello.message_type, hello.message_sequence) == (HandshakeType.SERVER_HELLO, 1)
    assert record.sequence == 1, "the ClientHello with the cookie had record number 1"


def test_a_client_hello_without_a_cookie_begins_at_message_seq_0(client: Context, server: Context) -> None:
    now = 5.0
    connection = client.connection(now, server_hostname="localhost")
    message, record = received_client_hello(connection.datagrams_to_send(now))
    hello = ReceivedClientHello(message, record.sequence, record.version, cookie_verified=False)
    other = server.connection(now, client_hello=hello)
    datagrams = other.datagrams_to_send(now)
    (fragment,) = split_fragments_untrusted(split_records_untrusted(datagrams[0])[0].fragment)
    assert (fragment.message_type, fragment.message_sequence) == (HandshakeType.SERVER_HELLO, 0)


@pytest.mark.parametrize("sequence", [2**24, 2**40, MAX_RECORD_SEQUENCE - 1, MAX_RECORD_SEQUENCE])
@pytest.mark.parametrize("verified", [True, False])
def test_a_client_hello_with_a_wild_record_number_does_no_harm(
    client: Context, server: Context, sequence: int, verified: bool
) -> None:
    pair = Pair(client, server)
    hello = hello_with_cookie(pair.client, pair.now)
    if not verified:
        pair = Pair(client, server)
        message, _ = received_client_hello(pair.client.datagrams_to_send(pair.now))
        hello = hello._replace(message=message, cookie_verified=False)
    pair.server = server.connection(pair.now, client_hello=hello._replace(record_sequence=sequence))
    assert_completes(pair)


def test_a_server_that_was_given_a_malformed_client_hello_fails_at_once(
    client: Context, server: Context
) -> None:
    pair = Pair(client, server)
    hello = hello_with_cookie(pair.client, pair.now)
    for body in (b"", b"\xfe\xfd", hello.message.body[:-1], bytes(100)):
        for verified in (True, False):
            message = hello.message._replace(body=body, sequence=int(verified))
            connection = server.connection(
                pair.now, client_hello=hello._replace(message=message, cookie_verified=verified)
            )
            (event,) = finish(connection, pair.now)
            assert isinstance(event, HandshakeFailed)
            assert str(event.error)


def finish(connection: Connection, now: float) -> list[object]:
    due = connection.next_timeout()
    assert due is not None
    assert due <= now
    return list(connection.handle_timeout(now))


def test_a_server_that_asks_for_cookies_for_ever_is_left_with_a_clear_error(client: Context) -> None:
    now = 0.0
    connection = client.connection(now, server_hostname="localhost")
    events: list[object] = []
    for number in range(10):
        datagrams = connection.datagrams_to_send(now)
        if events:
            break
        _, record = received_client_hello(datagrams)
        body = DTLS_1_0.to_bytes(2, "big") + b"\x08cookie%02d" % number
        request = build_handshake(HandshakeType.HELLO_VERIFY_REQUEST, number, body)
        events += connection.receive_datagram(
            build_record(ContentType.HANDSHAKE, DTLS_1_0, 0, record.sequence, request), now
        )
    (event,) = events
    assert isinstance(event, HandshakeFailed)
    assert event.error.reason == "COOKIE_MISMATCH"
    assert "HelloVerifyRequest" in str(event.error)
    assert number == 4


def test_a_repeated_hello_verify_request_is_answered_once(client: Context) -> None:
    now = 0.0
    connection = client.connection(now, server_hostname="localhost")
    connection.datagrams_to_send(now)
    for _ in range(5):
        connection.receive_datagram(build_hello_verify_request(b"cookie", 0), now)
    assert len(connection.datagrams_to_send(now)) == 1


def test_requests_for_a_cookie_that_come_together_are_counted_one_by_one(client: Context) -> None:
    now = 0.0
    connection = client.connection(now, server_hostname="localhost")
    body = build_hello_verify_request(b"cookie", 0)[25:]
    together = b"".join(
        build_message_record(DTLS_1_0, number, HandshakeType.HELLO_VERIFY_REQUEST, number, body)
        for number in range(4)
    )
    [event] = connection.receive_datagram(together, now)
    assert isinstance(event, HandshakeFailed)
    assert isinstance(event.error, SSLError)
    assert event.error.reason == "COOKIE_MISMATCH"


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_closes", [False, True])
def test_an_end_that_gives_up_tells_the_other(client: Context, server: Context, server_closes: bool) -> None:
    pair = Pair(client, server, tap=losing(("client", 1)))
    pair.settle()
    name, other = ("server", "client") if server_closes else ("client", "server")
    pair.end(name).close(pair.now)
    assert pair.end(name).state is ConnectionState.CLOSED
    pair.run()
    error = pair.failure(other)
    assert isinstance(error, SSLError)
    assert error.reason == "CLOSED_DURING_HANDSHAKE"
    assert pair.now < 1005, "not only at the deadline"


def test_alerts_of_a_handshake_carry_the_number_that_comes_next(client: Context, server: Context) -> None:
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    server.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    pair = Pair(client, server)
    pair.settle()
    (alert,) = [datagram for name, datagram in pair.sent if name == "server"]
    (record,) = split_records_untrusted(alert)
    assert record.content_type == ContentType.ALERT
    assert record.fragment == bytes([2, AlertDescription.HANDSHAKE_FAILURE])


# --- OpenSSL's own clock ---------------------------------------------------------------------------------------------


def spin(seconds: float) -> None:
    """Let real time pass. OpenSSL's timer reads the real clock, and nothing else does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_needs_real_clock_openssl_s_own_timer_repeats_nothing_and_refreshes_the_finished(
    mutual: tuple[Context, Context],
) -> None:
    client, server = mutual
    client.mtu = server.mtu = 512
    usual = len(datagrams_of(client, server))
    # The first pair stands still after the server's first flight, the second before the server's last.
    paused = Pair(client, server, tap=Withheld("server", 0))
    lost = Withheld("server", sum(name == "server" for name, _ in datagrams_of(client, server)) - 1)
    finishing = Pair(client, server, tap=lost)
    paused.settle()
    finishing.settle()
    assert finishing.server.state is ConnectionState.ESTABLISHED
    assert finishing.client.state is ConnectionState.HANDSHAKING
    spin(1.1)

    assert isinstance(paused.tap, Withheld)
    paused.tap.open = True
    for datagram in paused.tap.kept:
        paused.deliver("client", datagram)
    paused.settle()
    assert paused.established
    assert len(paused.sent) == usual, "OpenSSL's own repeats are left out"
    assert not paused.client.statistics["flights_repeated"]
    paused.assert_talks()

    def finished_numbers() -> list[int]:
        return [
            record.sequence
            for name, datagram in finishing.sent
            if name == "client"
            for record in split_records_untrusted(datagram)
            if record.epoch
        ]

    assert finished_numbers() == [0]
    lost.open = True
    finishing.run()
    assert finished_numbers() == [0, 1], "a server drops a number that it has seen"
    assert finishing.established
    finishing.assert_talks()
