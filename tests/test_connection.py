"""The verbs of a connection: what each does in every state, what it refuses, and what the connection then tells."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING

import pytest

from dtls.connection import Connection, ConnectionState
from dtls.context import (
    CERT_NONE,
    CERT_OPTIONAL,
    CERT_REQUIRED,
    PROTOCOL_DTLS_CLIENT,
    PROTOCOL_DTLS_SERVER,
    Context,
    DTLSVersion,
)
from dtls.errors import HandshakeTimeout, MessageTooLarge, SSLError, SSLZeroReturnError
from dtls.events import DataReceived, HandshakeCompleted, HandshakeFailed, PeerClosed
from dtls.flights import SentFlight
from dtls.wire import ContentType, build_record, split_records_untrusted

from .pair import OTHER, Pair, losing

if TYPE_CHECKING:
    from dtls.certificates import CertificateAuthority

each_end = pytest.mark.parametrize("name", ["client", "server"])
AES128 = "ECDHE-ECDSA-AES128-GCM-SHA256"


@pytest.fixture
def pair(client: Context, server: Context) -> Pair:
    """An established association."""
    pair = Pair(client, server)
    pair.run()
    assert pair.established
    return pair


def nothing(_sender: str, _index: int, _datagram: bytes) -> list[bytes]:
    return []


# --- send ------------------------------------------------------------------------------------------------------------


@each_end
def test_nothing_can_be_sent_before_the_handshake_is_complete(
    client: Context, server: Context, name: str
) -> None:
    pair = Pair(client, server)
    with pytest.raises(SSLError, match="handshake is not complete"):
        pair.end(name).send(b"early", pair.now)
    pair.run()
    assert pair.established
    pair.assert_talks()


@each_end
def test_nothing_can_be_sent_after_the_handshake_failed(client: Context, server: Context, name: str) -> None:
    pair = Pair(client, server, tap=nothing)
    pair.run()
    assert pair.end(name).state is ConnectionState.FAILED
    with pytest.raises(SSLError, match="has failed"):
        pair.end(name).send(b"late", pair.now)


@each_end
def test_nothing_can_be_sent_on_a_closed_association(pair: Pair, name: str) -> None:
    pair.end(name).close(pair.now)
    with pytest.raises(SSLZeroReturnError):
        pair.end(name).send(b"late", pair.now)
    pair.settle()
    with pytest.raises(SSLZeroReturnError):
        pair.end(OTHER[name]).send(b"late", pair.now)


def test_an_empty_message_is_refused(pair: Pair) -> None:
    for empty in (b"", bytearray(), memoryview(b"")):
        with pytest.raises(ValueError, match="empty"):
            pair.client.send(empty, pair.now)
    pair.assert_talks()


@pytest.mark.parametrize(
    "message",
    [
        b"12345678",
        bytearray(b"12345678"),
        memoryview(b"12345678"),
        memoryview(bytearray(b"12345678")),
        memoryview(b"xx12345678xx")[2:-2],
        memoryview(b"12345678").cast("I"),
        memoryview(b"12345678").cast("B", (2, 4)),
        memoryview(array.array("d", b"12345678")),
    ],
    ids=lambda message: f"{type(message).__name__}",
)
def test_messages_may_be_of_any_kind_of_bytes(pair: Pair, message: bytes | bytearray | memoryview) -> None:
    pair.client.send(message, pair.now)
    pair.settle()
    assert pair.received("server") == [b"12345678"]


def test_other_buffers_are_sent_whole(pair: Pair) -> None:
    pair.client.send(array.array("I", [1, 2, 3]), pair.now)  # type: ignore[arg-type]
    pair.settle()
    assert pair.received("server") == [array.array("I", [1, 2, 3]).tobytes()]


@pytest.mark.parametrize(("message", "words"), [("text", "not 'str': encode it"), (5, "not 'int'")])
def test_what_is_no_message_is_refused_in_our_own_words(pair: Pair, message: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        pair.client.send(message, pair.now)  # type: ignore[arg-type]
    pair.assert_talks()


def test_a_buffer_is_free_again_after_it_was_sent(pair: Pair) -> None:
    message = bytearray(b"12345678")
    pair.client.send(message, pair.now)
    message.clear()  # raises BufferError while somebody holds it
    pair.settle()
    assert pair.received("server") == [b"12345678"]


@pytest.mark.parametrize("mtu", [208, 300, 1350, 1500, 9000])
@pytest.mark.parametrize(
    "cipher",
    [
        AES128,
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-CCM",
        "ECDHE-ECDSA-AES256-CCM8:@SECLEVEL=0",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
    ],
)
def test_the_limit_is_exactly_what_one_datagram_carries(
    client: Context, server: Context, cipher: str, mtu: int
) -> None:
    for context in (client, server):
        context.set_ciphers(cipher)
        context.mtu = mtu
    pair = Pair(client, server)
    pair.run()
    limit = pair.client.max_message_size
    assert limit == pair.server.max_message_size
    pair.client.send(bytes(limit), pair.now)
    (datagram,) = pair.client.datagrams_to_send(pair.now)
    assert len(datagram) <= mtu
    with pytest.raises(
        MessageTooLarge, match=f"{limit + 1} bytes .* limit is {limit} bytes .*MTU is {mtu}"
    ) as caught:
        pair.client.send(bytes(limit + 1), pair.now)
    assert caught.value.limit == limit
    assert pair.client.datagrams_to_send(pair.now) == []
    assert pair.deliver("server", datagram) == [DataReceived(bytes(limit))]
    # One byte more would have been too much.
    pair.client._max_message_size += 1  # type: ignore[attr-defined]
    pair.client.send(bytes(limit + 1), pair.now)
    (datagram,) = pair.client.datagrams_to_send(pair.now)
    assert len(datagram) > mtu


@pytest.mark.parametrize("mtu", [20_000, 65_507])
def test_a_record_holds_no_more_than_the_protocol_allows_however_large_the_mtu_is(
    client: Context, server: Context, mtu: int
) -> None:
    client.mtu = server.mtu = mtu
    pair = Pair(client, server)
    pair.run()
    assert pair.client.max_message_size == 16_384
    pair.send("client", bytes(16_384))
    assert pair.received("server") == [bytes(16_384)]
    with pytest.raises(MessageTooLarge, match=r"one record: the limit is 16384 bytes$"):
        pair.client.send(bytes(16_385), pair.now)


def test_messages_over_the_mtu_can_be_allowed(client: Context, server: Context) -> None:
    client.limits_messages_to_mtu = False
    pair = Pair(client, server)
    pair.run()
    assert pair.client.max_message_size == 16_384
    pair.send("client", bytes(16_384))
    assert pair.received("server") == [bytes(16_384)]
    assert pair.server.max_message_size < 1350


@each_end
def test_one_message_is_one_record_is_one_datagram_in_order(pair: Pair, name: str) -> None:
    messages = [b"message %d" % number * number for number in range(1, 50)]
    for message in messages:
        pair.end(name).send(message, pair.now)
    datagrams = pair.end(name).datagrams_to_send(pair.now)
    assert [len(split_records_untrusted(datagram)) for datagram in datagrams] == [1] * len(messages)
    assert pair.end(name).datagrams_to_send(pair.now) == [], "they are the caller's now"
    for datagram in datagrams:
        pair.deliver(OTHER[name], datagram)
    assert pair.received(OTHER[name]) == messages


# --- close -----------------------------------------------------------------------------------------------------------


@each_end
def test_close_notify_is_told_and_answered(pair: Pair, name: str) -> None:
    other = OTHER[name]
    pair.end(name).close(pair.now)
    assert pair.end(name).state is ConnectionState.CLOSING
    pair.settle()
    assert pair.events[other][-1] == PeerClosed()
    assert pair.events[name][-1] == PeerClosed()
    assert {end.state for _, end in pair.ends()} == {ConnectionState.CLOSED}
    assert all(end.next_timeout() is None for _, end in pair.ends())


def test_both_may_close_at_a_time(pair: Pair) -> None:
    pair.client.close(pair.now)
    pair.server.close(pair.now)
    pair.settle()
    for name, end in pair.ends():
        assert end.state is ConnectionState.CLOSED
        assert pair.events[name][-1] == PeerClosed()


@each_end
def test_close_may_be_called_again_in_every_state(pair: Pair, name: str) -> None:
    end = pair.end(name)
    states = []
    for _ in range(3):
        end.close(pair.now)
        states.append(end.state)
    assert len(end.datagrams_to_send(pair.now)) == 1
    pair.end(OTHER[name]).close(pair.now)
    for datagram in pair.end(OTHER[name]).datagrams_to_send(pair.now):
        end.receive_datagram(datagram, pair.now)
    states.append(end.state)
    end.close(pair.now)
    states.append(end.state)
    assert end.datagrams_to_send(pair.now) == []
    assert states == [ConnectionState.CLOSING] * 3 + [ConnectionState.CLOSED] * 2


@each_end
def test_a_failed_association_stays_failed_when_it_is_closed(
    client: Context, server: Context, name: str
) -> None:
    pair = Pair(client, server, tap=nothing)
    pair.run()
    pair.end(name).close(pair.now)
    assert pair.end(name).state is ConnectionState.FAILED
    assert pair.end(name).datagrams_to_send(pair.now) == []


def test_a_server_that_nobody_has_spoken_to_closes_in_silence(server: Context) -> None:
    connection = server.connection(0.0)
    connection.close(0.0)
    assert connection.state is ConnectionState.CLOSED
    assert connection.datagrams_to_send(0.0) == []
    assert connection.next_timeout() is None
    assert connection.handle_timeout(100.0) == []


def test_a_client_closed_before_the_handshake_says_so_and_takes_no_more_part_in_it(
    client: Context, server: Context
) -> None:
    pair = Pair(client, server)
    pair.client.close(pair.now)
    assert len(pair.client.datagrams_to_send(pair.now)) == 2
    assert pair.client.state is ConnectionState.CLOSED
    assert pair.client.next_timeout() is None
    assert pair.client.handle_timeout(pair.now + 100) == []


@each_end
def test_messages_sent_before_the_close_are_delivered_before_it(pair: Pair, name: str) -> None:
    for number in range(3):
        pair.end(name).send(b"message %d" % number, pair.now)
    pair.end(name).close(pair.now)
    pair.settle()
    assert pair.events[OTHER[name]][-4:] == [
        *(DataReceived(b"message %d" % number) for number in range(3)),
        PeerClosed(),
    ]


@each_end
def test_what_comes_after_our_close_is_discarded_and_counted(pair: Pair, name: str) -> None:
    other = OTHER[name]
    for _ in range(3):
        pair.end(other).send(b"too late", pair.now)
    late = pair.end(other).datagrams_to_send(pair.now)
    pair.end(name).close(pair.now)
    for datagram in late[:2]:
        assert pair.deliver(name, datagram) == []
    assert pair.end(name).statistics["dropped_after_close"] == 2
    pair.settle()
    assert pair.end(name).state is ConnectionState.CLOSED
    assert pair.deliver(name, late[2]) == []
    assert pair.end(name).statistics["dropped_after_close"] == 3
    assert pair.received(name) == []


@each_end
def test_a_lost_close_notify_leaves_an_association_that_can_still_be_closed(pair: Pair, name: str) -> None:
    pair.tap = nothing
    pair.end(name).close(pair.now)
    pair.settle()
    assert pair.end(name).state is ConnectionState.CLOSING
    assert pair.end(name).next_timeout() is None
    pair.tap = None
    pair.send(OTHER[name], b"are you there?")
    assert pair.events[name][-1] != DataReceived(b"are you there?")
    pair.end(OTHER[name]).close(pair.now)
    pair.settle()
    assert pair.events[name][-1] == PeerClosed()
    assert pair.end(name).state is ConnectionState.CLOSED
    assert pair.end(OTHER[name]).state is ConnectionState.CLOSING, "nobody waits for what may be lost"


def test_a_repeated_close_notify_is_told_once(pair: Pair) -> None:
    pair.client.close(pair.now)
    (datagram,) = pair.client.datagrams_to_send(pair.now)
    assert pair.deliver("server", datagram) == [PeerClosed()]
    for _ in range(3):
        assert pair.deliver("server", datagram) == []


# --- what was negotiated ---------------------------------------------------------------------------------------------


@each_end
def test_nothing_is_told_before_it_is_known(client: Context, server: Context, name: str) -> None:
    end = Pair(client, server).end(name)
    assert end.version() is None
    assert end.cipher() is None
    assert end.group() is None
    assert end.selected_alpn_protocol() is None
    assert end.peer_certificate() is None
    assert end.unverified_chain() == []
    assert end.verified_chain() == []
    assert end.max_message_size == 0


@each_end
def test_what_was_negotiated_is_told(client: Context, server: Context, name: str) -> None:
    client.set_ciphers(AES128)
    for context in (client, server):
        context.set_alpn_protocols(["coap"])
    pair = Pair(client, server)
    pair.run()
    end = pair.end(name)
    assert pair.events[name] == [HandshakeCompleted("DTLSv1.2", AES128)]
    assert end.version() == "DTLSv1.2"
    assert end.cipher() == (AES128, "TLSv1.2", 128)
    assert end.selected_alpn_protocol() == "coap"
    try:
        assert end.group() in ("x25519", "secp256r1")
    except NotImplementedError as error:
        assert "cryptography" in str(error)  # noqa: PT017 - an older one
    # And it is still told when the association has ended.
    pair.client.close(pair.now)
    pair.settle()
    assert end.version() == "DTLSv1.2"
    assert end.cipher() == (AES128, "TLSv1.2", 128)
    assert (end.peer_certificate() is None) == (name == "server")


@each_end
def test_a_connection_knows_its_role_and_context(client: Context, server: Context, name: str) -> None:
    pair = Pair(client, server)
    assert pair.end(name).server_side == (name == "server")
    assert pair.end(name).context is {"client": client, "server": server}[name]
    assert pair.end(name).server_hostname == ("localhost" if name == "client" else None)


def ders(*certificates: object) -> list[bytes]:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]  # type: ignore[attr-defined]


@pytest.mark.parametrize("depth", [1, 2])
def test_both_sides_tell_the_others_chain_as_sent_and_as_verified(
    ca: CertificateAuthority, depth: int
) -> None:
    authority = ca
    for number in range(depth):
        authority = authority.intermediate(f"intermediate {number}")
    identities = {
        "client": authority.issue("a client", client=True),
        "server": authority.issue("localhost"),
    }
    contexts = {"client": Context(PROTOCOL_DTLS_CLIENT), "server": Context(PROTOCOL_DTLS_SERVER)}
    for name, context in contexts.items():
        context.load_cert_chain(identities[name].private_key_and_chain_pem)
        context.load_verify_locations(cadata=ca.certificate_pem)
        context.verify_mode = CERT_REQUIRED
    pair = Pair(contexts["client"], contexts["server"])
    pair.run()
    assert pair.established
    for name, other in OTHER.items():
        peer = identities[other]
        assert pair.end(name).peer_certificate() == ders(peer.certificate)[0]
        assert pair.end(name).unverified_chain() == ders(peer.certificate, *peer.chain)
        assert pair.end(name).verified_chain() == ders(peer.certificate, *peer.chain, ca.certificate)


def test_an_end_without_intermediates_of_its_own_sends_those_that_it_trusts(
    client: Context, ca: CertificateAuthority
) -> None:
    # As the ssl module does: it is OpenSSL that completes the chain.
    authority = ca.intermediate()
    identity = authority.issue("localhost")
    server = Context(PROTOCOL_DTLS_SERVER)
    server.load_cert_chain(identity.certificate, identity.key)
    server.load_verify_locations(cadata=authority.certificate_pem)
    pair = Pair(client, server)
    pair.run()
    assert pair.client.unverified_chain() == ders(identity.certificate, authority.certificate)


def test_a_chain_that_was_not_verified_is_not_told_as_verified(server: Context) -> None:
    client = Context(PROTOCOL_DTLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = CERT_NONE
    pair = Pair(client, server)
    pair.run()
    assert pair.established
    assert pair.client.verified_chain() == []
    assert len(pair.client.unverified_chain()) == 1
    assert pair.client.peer_certificate() is not None


def test_an_optional_certificate_may_be_missing(client: Context, server: Context) -> None:
    server.verify_mode = CERT_OPTIONAL
    pair = Pair(client, server)
    pair.run()
    assert pair.established
    assert pair.server.peer_certificate() is None
    assert pair.server.unverified_chain() == []
    assert pair.server.verified_chain() == []


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_handshake_ends_at_its_deadline_and_says_so(client: Context, server: Context) -> None:
    client.handshake_timeout = 7.5
    pair = Pair(client, server, tap=nothing)
    began = pair.now
    pair.run(7.4)
    assert pair.events["client"] == []
    pair.run(began + 7.5 - pair.now)
    error = pair.failure("client")
    assert isinstance(error, HandshakeTimeout)
    assert isinstance(error, TimeoutError)
    assert "7.5 s" in str(error)
    assert "is it there" in str(error)
    assert pair.now == began + 7.5
    assert pair.client.next_timeout() is None


def test_a_server_that_stops_answering_is_told_from_one_that_never_did(
    client: Context, server: Context
) -> None:
    pair = Pair(
        client, server, tap=lambda name, index, d: [d] if (name, index) != ("server", 1) and index < 2 else []
    )
    pair.run()
    assert "stopped answering" in str(pair.failure("client"))


def test_a_client_that_never_completes_is_given_up_by_the_server(client: Context, server: Context) -> None:
    server.handshake_timeout = 3
    pair = Pair(
        client, server, tap=lambda name, index, d: [d] if (name, index) != ("client", 1) and index < 1 else []
    )
    pair.run()
    assert "the client did not complete the handshake within 3 s" in str(pair.failure("server"))
    idle = server.connection(0.0)
    assert idle.next_timeout() == 3.0
    assert isinstance(idle.handle_timeout(3.0)[0], HandshakeFailed)


@each_end
def test_an_early_handle_timeout_does_nothing(client: Context, server: Context, name: str) -> None:
    pair = Pair(client, server, tap=losing(("client", 1)))
    pair.settle()
    end = pair.end(name)
    due = end.next_timeout()
    assert due is not None
    for now in (pair.now, due - 0.001):
        assert end.handle_timeout(now) == []
        assert end.datagrams_to_send(now) == []
        assert end.next_timeout() == due
    end.handle_timeout(due)
    assert end.datagrams_to_send(due)
    pair.run()
    assert pair.established
    assert end.next_timeout() is None
    assert end.handle_timeout(pair.now + 1000) == []


@each_end
def test_the_next_timeout_never_goes_back_nor_beyond_the_deadline(
    client: Context, server: Context, name: str
) -> None:
    pair = Pair(client, server, tap=lambda n, i, d: [d] if (n, i) == ("client", 0) else [])
    pair.settle()
    end = pair.end(name)
    seen: list[float] = []
    while (due := end.next_timeout()) is not None:
        seen.append(due)
        end.handle_timeout(due)
        end.datagrams_to_send(due)
    assert seen == sorted(set(seen))
    assert len(seen) == 5
    assert seen[-1] == 1000.0 + {"client": client, "server": server}[name].handshake_timeout


def test_a_very_late_handle_timeout_gives_up_at_once(client: Context, server: Context) -> None:
    pair = Pair(client, server, tap=nothing)
    (event,) = pair.client.handle_timeout(pair.now + 1e6)
    assert isinstance(event, HandshakeFailed)


# --- the last flight -------------------------------------------------------------------------------------------------


def test_the_last_flight_is_sent_again_when_the_client_repeats_its_own(
    client: Context, server: Context
) -> None:
    for lost in range(1, 5):
        pair = Pair(client, server, tap=losing(*(("server", index) for index in range(1, lost + 1))))
        pair.run()
        assert pair.established
        assert pair.server.statistics["flights_repeated"] == lost
        pair.assert_talks()


def test_a_flood_of_repeats_is_answered_in_measure(client: Context, server: Context) -> None:
    pair = Pair(client, server, tap=lambda n, i, d: [] if n == "server" and i >= 1 else [d])
    pair.settle()
    assert pair.server.state is ConnectionState.ESTABLISHED
    flight = [datagram for name, datagram in pair.sent if name == "client"][1]
    answers = 0
    for _ in range(1000):
        pair.now += 0.005
        assert pair.server.receive_datagram(flight, pair.now) == []
        answers += len(pair.server.datagrams_to_send(pair.now))
    assert 10 <= answers <= 5 / SentFlight.SPACING
    assert pair.server.statistics["repeats_unanswered"] > 900


def test_the_last_flight_is_let_go_of_when_the_clients_first_message_has_come(pair: Pair) -> None:
    flight = [datagram for name, datagram in pair.sent if name == "client"][1]
    pair.send("client", b"I have it")
    pair.now += 10
    assert pair.deliver("server", flight) == []
    assert pair.server.datagrams_to_send(pair.now) == []
    assert not pair.server.statistics["flights_repeated"]


def test_an_answer_to_a_repeat_is_no_longer_than_the_repeat(client: Context, server: Context) -> None:
    pair = Pair(client, server)
    pair.run()
    pair.now += 10
    whole = [datagram for name, datagram in pair.sent if name == "client"][1]
    first = split_records_untrusted(whole)[0]
    assert first.content_type == ContentType.HANDSHAKE
    pair.server.receive_datagram(build_record(*first), pair.now)
    (answer,) = pair.server.datagrams_to_send(pair.now)
    assert len(answer) <= len(whole)


def test_a_server_that_closes_at_once_still_helps_its_client_through(
    client: Context, server: Context
) -> None:
    pair = Pair(client, server, tap=losing(("server", 1)))
    pair.settle()
    pair.server.send(b"the only message", pair.now)
    pair.server.close(pair.now)
    pair.run()
    assert [type(event).__name__ for event in pair.events["client"]] == [
        "HandshakeCompleted",
        "DataReceived",
        "PeerClosed",
    ]
    assert pair.server.state is ConnectionState.CLOSED


def test_settings_of_an_association_are_those_when_it_began(client: Context, server: Context) -> None:
    client.mtu = 400
    pair = Pair(client, server)
    client.mtu = 1350
    client.handshake_timeout = 1
    client.limits_messages_to_mtu = False
    client.minimum_version = DTLSVersion.DTLSv1
    pair.run()
    assert pair.client.max_message_size < 400
    waiting = Pair(client, server, tap=nothing)
    client.handshake_timeout = 2
    waiting.run()
    assert "within 1 s" in str(waiting.failure("client"))


def test_a_connection_cannot_be_made_without_an_engine_of_its_own() -> None:
    with pytest.raises(TypeError):
        Connection()  # type: ignore[abstract]
