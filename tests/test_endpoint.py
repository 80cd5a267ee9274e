"""One socket's associations: who gets in, who is told apart from whom, and what nobody can harm from outside."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dtls.connection import ConnectionState
from dtls.context import PROTOCOL_DTLS_SERVER, Context
from dtls.endpoint import Endpoint, EndpointLimits
from dtls.errors import AssociationReplaced, HandshakeTimeout, MessageTooLarge, SSLError, SSLZeroReturnError
from dtls.events import DataReceived, PeerClosed
from dtls.wire import (
    AlertDescription,
    ContentType,
    HandshakeType,
    split_fragments_untrusted,
    split_records_untrusted,
)

from .crowd import HERE, LATENCY, THERE, Crowd
from .forge import forgeries_for, record
from .hellos import OFFER, cookie_in, hello_body, in_pieces, piece, whole

if TYPE_CHECKING:
    from collections.abc import Hashable


SOMEBODY_ELSE = ("203.0.113.9", 1)


@pytest.fixture
def crowd(client: Context, server: Context) -> Crowd:
    return Crowd(client, server)


def proved_hello(crowd: Crowd, address: Hashable = HERE, *, random: bytes = b"f" * 32) -> bytes:
    """A ClientHello with a cookie for ``address``, from somebody who then says nothing more."""
    endpoint = crowd.endpoint
    endpoint.receive_datagram(whole(hello_body(random=random, extensions=OFFER)), address, crowd.now)
    ((where, answer),) = endpoint.datagrams_to_send(crowd.now)
    assert where == address
    body = hello_body(random=random, cookie=cookie_in(answer), extensions=OFFER)
    return whole(body, message_sequence=1, record_sequence=1)


def message_types(datagram: bytes) -> list[int]:
    """What is in the plaintext of a datagram."""
    return [
        fragment.message_type
        for entry in split_records_untrusted(datagram)
        if not entry.epoch and entry.content_type == ContentType.HANDSHAKE
        for fragment in split_fragments_untrusted(entry.fragment)
    ]


# --- the way in ------------------------------------------------------------------------------------------------------


def test_a_client_that_proves_its_address_gets_in(crowd: Crowd) -> None:
    association = crowd.connect()
    assert association.address == HERE
    assert association.connection.server_side
    assert crowd.completed() == [association]
    assert (len(crowd.endpoint), crowd.endpoint.handshakes) == (1, 0)
    crowd.assert_talks()
    first = crowd.sent_by("server")[0]
    assert message_types(first) == [HandshakeType.HELLO_VERIFY_REQUEST]


def test_nothing_is_kept_of_a_client_before_it_answers_with_the_cookie(crowd: Crowd) -> None:
    crowd.start()
    crowd.step()
    assert message_types(crowd.sent_by("server")[-1]) == [HandshakeType.HELLO_VERIFY_REQUEST]
    crowd.assert_remembers_nothing()


def test_a_hundred_thousand_spoofed_hellos_leave_nothing_behind(crowd: Crowd) -> None:
    endpoint = crowd.endpoint
    body = hello_body()
    short, long = whole(body), whole(hello_body(extensions=b"\x04\x00\xff\xff\x03\xfc" + bytes(1020)))
    first = piece(body, 0, 40)
    stale = whole(hello_body(cookie=bytes(32)), message_sequence=1)
    for number, datagram in zip(range(100_000), itertools.cycle((short, long, first, stale)), strict=False):
        address = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5684)
        assert endpoint.receive_datagram(datagram, address, crowd.now) == []
        outbox = endpoint.datagrams_to_send(crowd.now)
        assert {where for where, _ in outbox} <= {address}
        assert sum(len(answer) for _, answer in outbox) <= len(datagram)
    crowd.assert_remembers_nothing()
    assert len(endpoint._gate._partial) <= 64
    assert endpoint._gate._partial_bytes <= 65_536
    crowd.connect()
    crowd.assert_talks()


def test_without_cookies_the_first_hello_begins_the_handshake(client: Context, server: Context) -> None:
    crowd = Crowd(client, server, cookie_policy="never")
    crowd.connect()
    crowd.assert_talks()
    assert HandshakeType.HELLO_VERIFY_REQUEST not in message_types(crowd.sent_by("server")[0])
    assert "cookies_sent" not in crowd.endpoint.statistics


def test_a_replayed_cookie_from_another_address_begins_nothing(crowd: Crowd) -> None:
    hello = proved_hello(crowd, THERE)
    assert crowd.inject(hello, HERE) == []
    assert crowd.endpoint.handshakes == 0
    assert crowd.endpoint.statistics["cookies_refused"] == 1
    crowd.inject(hello, THERE)
    assert crowd.endpoint.handshakes == 1


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "in reverse"])
def test_a_client_whose_hellos_come_in_fragments_gets_in(
    client: Context, server: Context, reverse: bool
) -> None:
    def cut_hellos(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if message_types(datagram) != [HandshakeType.CLIENT_HELLO]:
            return [datagram]
        pieces = in_pieces(datagram, 2)
        return pieces[::-1] if reverse else pieces

    crowd = Crowd(client, server, tap=cut_hellos)
    crowd.connect()
    crowd.assert_talks()


def test_two_clients_whose_fragments_alternate_both_get_in(client: Context, server: Context) -> None:
    crowd = Crowd(client, server)
    hellos = {}
    for address in (HERE, THERE):
        (hellos[address],) = crowd.start(address).datagrams_to_send(crowd.now)
    for _ in range(2):  # without a cookie, and with it
        pieces = {address: in_pieces(hello, 3) for address, hello in hellos.items()}
        for number in range(3):
            for address in hellos:
                crowd.endpoint.receive_datagram(pieces[address][number], address, crowd.now)
        for where, answer in crowd.endpoint.datagrams_to_send(crowd.now):
            crowd.clients[where].receive_datagram(answer, crowd.now)
        if crowd.endpoint.handshakes:
            break
        for address in hellos:
            (hellos[address],) = crowd.clients[address].datagrams_to_send(crowd.now)
    crowd.settle()
    for address in hellos:
        crowd.assert_talks(address)


# --- telling peers apart ---------------------------------------------------------------------------------------------


def test_two_hundred_clients_do_not_hear_each_other(crowd: Crowd) -> None:
    addresses = [("198.51.100.1", 1024 + number) for number in range(200)]
    for address in addresses:
        crowd.start(address)
    crowd.settle()  # their datagrams alternate on the network
    assert len(crowd.endpoint) == 200
    for address in addresses:
        crowd.clients[address].send(repr(address).encode(), crowd.now)
    crowd.settle()
    for address in addresses:
        association = crowd.endpoint.association(address)
        assert association is not None
        assert crowd.received(association) == [repr(address).encode()]
        crowd.endpoint.send(association, b"to " + repr(address).encode(), crowd.now)
    crowd.settle()
    for address in addresses:
        assert crowd.received_by(address) == [b"to " + repr(address).encode()]


def test_datagrams_of_an_association_are_worth_nothing_from_another_address(crowd: Crowd) -> None:
    association = crowd.connect()
    other = crowd.connect(THERE)
    crowd.clients[HERE].send(b"secret", crowd.now)
    (datagram,) = crowd.clients[HERE].datagrams_to_send(crowd.now)
    assert crowd.inject(datagram, THERE) == []
    assert crowd.inject(datagram, SOMEBODY_ELSE) == []
    assert crowd.endpoint.statistics["dropped_no_association"] == 1
    assert other.connection.statistics["dropped_unauthenticated"] == 1
    assert [event for _, event in crowd.inject(datagram, HERE)] == [DataReceived(b"secret")]
    assert crowd.received(association) == [b"secret"]
    crowd.assert_talks(THERE)


def test_addresses_may_be_whatever_is_hashable(crowd: Crowd) -> None:
    addresses: list[Hashable] = ["a name", 7, frozenset({1}), (b"cid", ("::1", 5684, 0, 3))]
    for address in addresses:
        crowd.connect(address)
    for address in addresses:
        crowd.assert_talks(address)


# --- a known address -------------------------------------------------------------------------------------------------


def test_a_repeated_hello_goes_to_the_handshake_that_it_began(crowd: Crowd) -> None:
    crowd.inject(proved := proved_hello(crowd))
    first = len(crowd.sent_by("server", HERE))
    crowd.now += 1
    crowd.inject(proved)
    assert len(crowd.sent_by("server", HERE)) == 2 * first
    assert crowd.endpoint.handshakes == 1
    assert crowd.endpoint.statistics["handshakes_begun"] == 1


def test_the_hello_of_an_association_that_comes_again_is_dropped(crowd: Crowd) -> None:
    crowd.connect()
    hellos = [d for d in crowd.sent_by("client") if message_types(d) == [HandshakeType.CLIENT_HELLO]]
    assert crowd.inject(hellos[-1]) == []
    assert crowd.endpoint.handshakes == 0
    assert crowd.endpoint.statistics["dropped_repeated_client_hello"] == 1
    crowd.assert_talks()


def test_a_new_handshake_replaces_the_association_only_when_it_is_complete(crowd: Crowd) -> None:
    old = crowd.connect()
    old_client = crowd.clients[HERE]
    new_client = crowd.start()
    standing = 0
    while new_client.state is not ConnectionState.ESTABLISHED:
        if crowd.endpoint.association(HERE) is old:
            # Between any two datagrams of the new handshake the old association works, both ways.
            old_client.send(b"still here", crowd.now)
            (datagram,) = old_client.datagrams_to_send(crowd.now)
            assert crowd.inject(datagram) == [(old, DataReceived(b"still here"))]
            crowd.endpoint.send(old, b"so am I", crowd.now)
            ((_, answer),) = crowd.endpoint.datagrams_to_send(crowd.now)
            assert old_client.receive_datagram(answer, crowd.now) == [DataReceived(b"so am I")]
            standing += 1
        assert crowd.step()
    assert standing == 5
    crowd.settle()
    new = crowd.endpoint.association(HERE)
    assert new is not None
    assert new is not old
    assert [type(error) for error in crowd.ended(old)] == [AssociationReplaced]
    assert crowd.endpoint.statistics["associations_replaced"] == 1
    assert len(crowd.endpoint) == 1
    crowd.assert_talks()


def test_the_end_of_the_old_association_is_told_before_the_new_one_begins(crowd: Crowd) -> None:
    old = crowd.connect()
    before = len(crowd.events)
    new = crowd.connect()
    assert [association for association, _ in crowd.events[before:]] == [old, new]


@pytest.mark.parametrize("proved", [False, True], ids=["without a cookie", "with its cookie"])
def test_a_forged_hello_from_a_known_address_changes_nothing(crowd: Crowd, proved: bool) -> None:
    association = crowd.connect()
    forged = proved_hello(crowd) if proved else whole(hello_body())
    assert crowd.inject(forged) == []
    assert crowd.endpoint.handshakes == int(proved)
    for text in ("during", "long after"):
        assert crowd.endpoint.association(HERE) is association
        crowd.assert_talks(text=text)
        crowd.run()
    assert crowd.endpoint.handshakes == 0
    assert crowd.endpoint.next_timeout() is None
    assert crowd.ended(association) == []


def test_a_client_that_restarts_during_its_handshake_gets_in(crowd: Crowd) -> None:
    crowd.start()
    while not crowd.endpoint.handshakes:
        assert crowd.step()
    crowd.connect()
    assert crowd.endpoint.statistics["handshakes_restarted"] == 1
    assert len(crowd.completed()) == 1
    crowd.assert_talks()
    crowd.run()
    assert crowd.endpoint.next_timeout() is None
    assert len(crowd.endpoint._timers) == 0


def test_a_client_that_closed_may_begin_again_at_once(crowd: Crowd) -> None:
    association = crowd.connect()
    crowd.clients[HERE].close(crowd.now)
    crowd.settle()
    assert crowd.ended(association) == [None]
    assert len(crowd.endpoint) == 0
    crowd.connect()
    crowd.assert_talks()
    assert "associations_replaced" not in crowd.endpoint.statistics


# --- limits ----------------------------------------------------------------------------------------------------------


def test_handshakes_over_the_limit_are_refused_until_one_is_over(client: Context, server: Context) -> None:
    server.handshake_timeout = 10
    crowd = Crowd(client, server, limits=EndpointLimits(handshakes=3))
    for number in range(5):
        crowd.inject(proved_hello(crowd, ("203.0.113.1", number)), ("203.0.113.1", number))
    assert crowd.endpoint.handshakes == 3
    assert crowd.endpoint.statistics["refused_handshakes"] == 2
    refused = crowd.start()
    crowd.settle()
    assert refused.state is ConnectionState.HANDSHAKING
    crowd.run(20)  # the three reach their deadline, and the client tries again
    assert crowd.endpoint.statistics["handshakes_failed"] == 3
    crowd.assert_talks()


def test_the_limit_of_handshakes_does_not_keep_a_client_from_restarting_its_own(
    client: Context, server: Context
) -> None:
    crowd = Crowd(client, server, limits=EndpointLimits(handshakes=1))
    crowd.inject(proved_hello(crowd))
    crowd.connect()
    crowd.assert_talks()


def test_associations_over_the_limit_are_told_close_notify(client: Context, server: Context) -> None:
    crowd = Crowd(client, server, limits=EndpointLimits(associations=2))
    for number in range(2):
        crowd.connect(("198.51.100.1", number))
    third = crowd.start(("198.51.100.1", 2))
    crowd.settle()
    assert PeerClosed() in crowd.client_events[("198.51.100.1", 2)]
    assert third.state is ConnectionState.CLOSED
    assert (len(crowd.endpoint), len(crowd.completed())) == (2, 2)
    assert crowd.endpoint.statistics["refused_associations"] == 1
    # One that is known may be replaced all the same.
    crowd.connect(("198.51.100.1", 1))
    for number in range(2):
        crowd.assert_talks(("198.51.100.1", number))


@pytest.mark.parametrize("name", ["associations", "handshakes"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EndpointLimits(**{name: 0})


# --- handshakes that fail --------------------------------------------------------------------------------------------


def test_a_handshake_without_a_common_cipher_suite_fails_at_once_and_leaves_nothing(crowd: Crowd) -> None:
    crowd.context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    crowd.endpoint.context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    crowd.start()
    crowd.settle()
    (error,) = crowd.failures()
    assert error.reason == "NO_SHARED_CIPHER"
    crowd.assert_remembers_nothing()
    assert crowd.endpoint.statistics["handshakes_failed"] == 1
    crowd.run()
    (failure,) = crowd.client_events[HERE]
    assert "HANDSHAKE_FAILURE" in repr(getattr(failure, "error", None)).upper().replace(" ", "_")


def test_a_handshake_that_is_not_gone_on_with_ends_at_its_deadline(crowd: Crowd) -> None:
    crowd.endpoint.context.handshake_timeout = 7
    began = crowd.now
    crowd.inject(proved_hello(crowd))
    crowd.run(6.9)
    assert crowd.endpoint.handshakes == 1
    crowd.run()
    (error,) = crowd.failures()
    assert isinstance(error, HandshakeTimeout)
    assert crowd.now == pytest.approx(began + 7, abs=10 * LATENCY)
    crowd.assert_remembers_nothing()
    assert crowd.endpoint.statistics["handshakes_failed"] == 1


def test_a_client_without_a_certificate_that_is_required_leaves_nothing(
    crowd: Crowd, client: Context
) -> None:
    context = crowd.endpoint.context
    context.load_verify_locations(cadata=client.trusted_certificates[0])
    context.verify_mode = 2
    crowd.start()
    crowd.run()
    (error,) = crowd.failures()
    assert isinstance(error, SSLError)
    crowd.assert_remembers_nothing()


# --- loss and forgery ------------------------------------------------------------------------------------------------


def one_handshake(client: Context, server: Context) -> dict[str, int]:
    """How many datagrams each side sends in a handshake and one message each way."""
    crowd = Crowd(client, server)
    crowd.connect()
    return {sender: len(crowd.sent_by(sender)) for sender in ("client", "server")}


def test_any_one_datagram_of_a_handshake_may_be_lost(client: Context, server: Context) -> None:
    counts = one_handshake(client, server)
    assert counts["client"] >= 3
    assert counts["server"] >= 3
    for lost in [(sender, index) for sender, count in counts.items() for index in range(count)]:

        def lose(sender: str, index: int, datagram: bytes, lost: tuple[str, int] = lost) -> list[bytes]:
            return [] if (sender, index) == lost else [datagram]

        crowd = Crowd(client, server, tap=lose)
        crowd.start()
        crowd.run(20)
        assert crowd.clients[HERE].state is ConnectionState.ESTABLISHED, lost
        crowd.assert_talks()
        assert len(crowd.completed()) == 1, lost
        assert crowd.endpoint.next_timeout() is None


def test_any_one_datagram_of_a_handshake_may_come_twice(client: Context, server: Context) -> None:
    counts = one_handshake(client, server)
    for doubled in [(sender, index) for sender, count in counts.items() for index in range(count)]:

        def double(sender: str, index: int, datagram: bytes, which: tuple[str, int] = doubled) -> list[bytes]:
            return [datagram] * (2 if (sender, index) == which else 1)

        crowd = Crowd(client, server, tap=double)
        crowd.start()
        crowd.run(20)
        crowd.assert_talks()
        assert len(crowd.completed()) == 1, doubled
        crowd.run(60)
        assert crowd.endpoint.handshakes == 0


def test_forgeries_between_any_two_datagrams_do_not_end_a_handshake(client: Context, server: Context) -> None:
    counts = one_handshake(client, server)
    for kind, forged in forgeries_for("server").items():
        for at in range(counts["client"] + 1):
            sample = forged[:: max(1, len(forged) // 25)]

            def add(
                sender: str, index: int, datagram: bytes, at: int = at, sample: list[bytes] = sample
            ) -> list[bytes]:
                return [*sample, datagram] if (sender, index) == ("client", at) else [datagram]

            crowd = Crowd(client, server, tap=add)
            crowd.start()
            crowd.run(20)
            assert len(crowd.endpoint) == 1, (kind, at)
            crowd.assert_talks()
            for datagram in sample:
                crowd.inject(datagram)
            crowd.assert_talks(text="after")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(st.tuples(*[st.integers(0, 999)] * 3, st.binary(max_size=120)), max_size=30))
def test_no_noise_makes_an_endpoint_raise_or_forget(
    client: Context, server: Context, noise: list[tuple[int, int, int, bytes]]
) -> None:
    crowd = Crowd(client, server)
    association = crowd.connect()
    crowd.inject(proved_hello(crowd, THERE), THERE)
    seen = crowd.sent_by("client") + crowd.sent_by("server")
    for which, sample, place, garbage in noise:
        datagram = bytearray(seen[sample % len(seen)])
        at = place % len(datagram)
        datagram[at : at + len(garbage)] = garbage
        for mutation in (garbage, bytes(datagram)):
            crowd.inject(mutation, (HERE, THERE, SOMEBODY_ELSE)[which % 3])
    assert crowd.endpoint.association(HERE) is association
    crowd.assert_talks()
    crowd.run(200)
    assert crowd.endpoint.handshakes == 0
    crowd.assert_talks()


# --- messages and the end --------------------------------------------------------------------------------------------


def test_a_message_that_is_too_long_is_refused_with_the_limit(crowd: Crowd) -> None:
    association = crowd.connect()
    limit = association.connection.max_message_size
    with pytest.raises(MessageTooLarge) as caught:
        crowd.endpoint.send(association, bytes(limit + 1), crowd.now)
    assert caught.value.limit == limit
    crowd.endpoint.send(association, bytes(limit), crowd.now)
    crowd.settle()
    assert crowd.received_by(HERE) == [bytes(limit)]


def test_close_says_close_notify_and_forgets_the_peer(crowd: Crowd) -> None:
    association = crowd.connect()
    crowd.endpoint.close(association, crowd.now)
    assert len(crowd.endpoint) == 0
    crowd.settle()
    assert crowd.client_events[HERE][-1:] == [PeerClosed()]
    with pytest.raises(SSLZeroReturnError):
        crowd.endpoint.send(association, b"too late", crowd.now)
    crowd.endpoint.close(association, crowd.now)  # again, which is no error


def test_close_all_tells_every_peer_and_ends_every_handshake(crowd: Crowd) -> None:
    for number in range(5):
        crowd.connect(("198.51.100.1", number))
    crowd.inject(proved_hello(crowd))
    crowd.endpoint.close_all(crowd.now)
    crowd.settle()
    crowd.assert_remembers_nothing()
    for number in range(5):
        assert crowd.client_events[("198.51.100.1", number)][-1:] == [PeerClosed()]
    last = split_records_untrusted(crowd.sent_by("server", HERE)[-1])[-1]
    assert last.content_type == ContentType.ALERT
    assert last.fragment[1] == AlertDescription.CLOSE_NOTIFY


def test_closing_a_replaced_association_leaves_the_new_one_alone(crowd: Crowd) -> None:
    old = crowd.connect()
    new = crowd.connect()
    crowd.endpoint.close(old, crowd.now)
    assert crowd.endpoint.association(HERE) is new


def test_a_released_connection_is_no_longer_the_endpoints(crowd: Crowd) -> None:
    association = crowd.connect()
    connection = crowd.endpoint.release(association)
    assert len(crowd.endpoint) == 0
    client = crowd.clients[HERE]
    client.send(b"hello", crowd.now)
    (datagram,) = client.datagrams_to_send(crowd.now)
    assert crowd.inject(datagram) == []
    assert connection.receive_datagram(datagram, crowd.now) == [DataReceived(b"hello")]


def test_the_peers_close_is_told_and_answered(crowd: Crowd) -> None:
    association = crowd.connect()
    crowd.clients[HERE].close(crowd.now)
    crowd.settle()
    assert crowd.ended(association) == [None]
    assert crowd.clients[HERE].state is ConnectionState.CLOSED
    crowd.assert_remembers_nothing()


# --- time ------------------------------------------------------------------------------------------------------------


def test_nothing_is_due_without_handshakes(crowd: Crowd) -> None:
    assert crowd.endpoint.next_timeout() is None
    assert crowd.endpoint.handle_timeout(crowd.now) == []
    crowd.connect()
    assert crowd.endpoint.next_timeout() is None


def test_the_earliest_timer_of_all_handshakes_is_due_first(crowd: Crowd) -> None:
    crowd.inject(proved_hello(crowd, HERE), HERE)
    first = crowd.endpoint.next_timeout()
    crowd.now += 0.3
    crowd.inject(proved_hello(crowd, THERE), THERE)
    assert first is not None
    assert crowd.endpoint.next_timeout() == first
    before = len(crowd.sent)
    assert crowd.endpoint.handle_timeout(first - 0.001) == []
    crowd.pump()
    assert crowd.sent[before:] == []
    crowd.endpoint.handle_timeout(first)
    crowd.pump()
    assert {address for _, address, _ in crowd.sent[before:]} == {HERE}
    assert crowd.endpoint.next_timeout() == pytest.approx(first + 0.3)


def test_after_a_timeout_is_handled_the_next_lies_ahead(crowd: Crowd) -> None:
    for number in range(20):
        crowd.inject(proved_hello(crowd, number), number)
    while (due := crowd.endpoint.next_timeout()) is not None:
        crowd.now = due
        crowd.events += crowd.endpoint.handle_timeout(due)
        following = crowd.endpoint.next_timeout()
        assert following is None or following > due
    assert len(crowd.failures()) == 20


def test_timers_that_were_overtaken_do_not_pile_up(crowd: Crowd) -> None:
    crowd.endpoint.context.handshake_timeout = 1_000_000
    for number in range(1500):
        # A client that begins anew all the time gives a new timer each time.
        crowd.now += 0.01
        crowd.inject(proved_hello(crowd, random=number.to_bytes(32, "big")))
    assert crowd.endpoint.handshakes == 1
    assert len(crowd.endpoint._timers) < 100


# --- counting --------------------------------------------------------------------------------------------------------


def test_statistics_tell_what_happened_also_of_associations_that_have_ended(crowd: Crowd) -> None:
    association = crowd.connect()
    crowd.inject(record(ContentType.APPLICATION_DATA, bytes(40), epoch=1, sequence=9))
    assert association.connection.statistics["dropped_unauthenticated"] == 1
    crowd.endpoint.close(association, crowd.now)
    statistics = crowd.endpoint.statistics
    assert statistics["dropped_unauthenticated"] == 1
    crowd.endpoint.close(association, crowd.now)
    assert statistics["dropped_unauthenticated"] == 1
    names = ("cookies_sent", "cookies_accepted", "handshakes_begun", "handshakes_completed")
    assert [statistics[name] for name in names] == [1, 1, 1, 1]


# --- misuse ----------------------------------------------------------------------------------------------------------


def test_an_endpoint_wants_a_servers_context(client: Context) -> None:
    with pytest.raises(ValueError, match="server"):
        Endpoint(client)


def test_an_unknown_cookie_policy_is_refused(server: Context) -> None:
    with pytest.raises(ValueError, match="cookie_policy"):
        Endpoint(server, cookie_policy="sometimes")  # type: ignore[arg-type]


def test_a_server_that_can_serve_nobody_says_so(server: Context, caplog: pytest.LogCaptureFixture) -> None:
    Endpoint(server)
    with_keys = Context(PROTOCOL_DTLS_SERVER)
    with_keys.set_psks({"me": bytes(16)})
    Endpoint(with_keys)
    assert not caplog.records
    Endpoint(Context(PROTOCOL_DTLS_SERVER))
    assert "load_cert_chain" in caplog.text
