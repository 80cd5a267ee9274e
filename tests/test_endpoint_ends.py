"""How associations of an endpoint end: idle, closed by us with or without waiting, replaced. Nothing is left."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from dtls.connection import ConnectionState
from dtls.endpoint import APPLICATION_DATA, EndpointLimits
from dtls.errors import AssociationExpired, AssociationReplaced, SSLZeroReturnError
from dtls.events import PeerClosed
from dtls.wire import build_record, split_records_untrusted

from .crowd import HERE, THERE, Crowd
from .test_endpoint import proved_hello

if TYPE_CHECKING:
    from collections.abc import Hashable

    from dtls.context import Context
    from dtls.errors import SSLError

IDLE = 30.0


@pytest.fixture
def crowd(client: Context, server: Context) -> Crowd:
    return Crowd(client, server)


@pytest.fixture
def idle_crowd(client: Context, server: Context) -> Crowd:
    return Crowd(client, server, limits=EndpointLimits(idle_timeout=IDLE))


def say(crowd: Crowd, message: bytes, address: Hashable = HERE) -> bytes:
    """The datagram of a message of the client at ``address``, which is not put on the network."""
    crowd.clients[address].send(message, crowd.now)
    (datagram,) = crowd.clients[address].datagrams_to_send(crowd.now)
    return datagram


def wait(crowd: Crowd, seconds: float) -> None:
    """Let all of this time pass."""
    until = crowd.now + seconds
    crowd.run(seconds)
    crowd.now = max(crowd.now, until)


def kinds(ended: list[SSLError | None]) -> list[type]:
    return [type(error) for error in ended]


# --- idle ------------------------------------------------------------------------------------------------------------


def test_an_association_that_is_idle_ends_with_close_notify_and_an_event(idle_crowd: Crowd) -> None:
    crowd = idle_crowd
    association = crowd.connect()
    began = association.heard_at
    wait(crowd, IDLE - 1)
    assert crowd.ended(association) == []
    crowd.run(2)
    assert kinds(crowd.ended(association)) == [AssociationExpired]
    assert crowd.now == pytest.approx(began + IDLE, abs=0.1)
    assert crowd.client_events[HERE][-1:] == [PeerClosed()]
    assert crowd.endpoint.statistics["associations_expired"] == 1
    crowd.assert_remembers_nothing()
    with pytest.raises(SSLZeroReturnError):
        crowd.endpoint.send(association, b"too late", crowd.now)


def test_the_context_may_say_what_idle_is_and_the_endpoint_otherwise(
    client: Context, server: Context
) -> None:
    server.idle_timeout = IDLE
    for limits, expected in ((None, IDLE), (EndpointLimits(idle_timeout=2 * IDLE), 2 * IDLE)):
        crowd = Crowd(client, server, limits=limits)
        association = crowd.connect()
        wait(crowd, 5)  # the handshake's timer comes up in vain
        assert crowd.endpoint.next_timeout() == association.heard_at + expected


def test_a_peer_that_speaks_now_and_then_stays(idle_crowd: Crowd) -> None:
    crowd = idle_crowd
    association = crowd.connect()
    for _ in range(10):
        wait(crowd, IDLE * 0.9)
        crowd.inject(say(crowd, b"still here"))
    assert crowd.ended(association) == []
    crowd.run(2 * IDLE)
    assert kinds(crowd.ended(association)) == [AssociationExpired]


def test_neither_what_we_send_nor_noise_keeps_an_association(idle_crowd: Crowd) -> None:
    crowd = idle_crowd
    association = crowd.connect()
    old = say(crowd, b"once")
    crowd.inject(old)
    forged = bytearray(say(crowd, b"forged"))
    forged[-1] ^= 1
    for _ in range(6):
        crowd.now += IDLE / 6
        crowd.endpoint.send(association, b"hello", crowd.now)
        crowd.inject(old)
        crowd.inject(bytes(forged))
    crowd.run(1)
    assert kinds(crowd.ended(association)) == [AssociationExpired]


def test_messages_do_not_touch_the_timers(idle_crowd: Crowd) -> None:
    crowd = idle_crowd
    association = crowd.connect()
    due, entries = crowd.endpoint.next_timeout(), len(crowd.endpoint._timers)
    assert due is not None
    for _ in range(100):
        crowd.now += IDLE / 200
        crowd.inject(say(crowd, b"hello"))
    assert (crowd.endpoint.next_timeout(), len(crowd.endpoint._timers)) == (due, entries)
    # The one timer comes up early, and is set anew for when it is due indeed.
    crowd.now = due
    assert crowd.endpoint.handle_timeout(due) == []
    assert crowd.endpoint.next_timeout() == association.heard_at + IDLE


def test_a_handshake_that_was_long_does_not_count_as_idle_time(client: Context, server: Context) -> None:
    crowd = Crowd(client, server, limits=EndpointLimits(idle_timeout=1))
    crowd.tap = lambda sender, index, datagram: [] if (sender, index) == ("server", 1) else [datagram]
    crowd.start()
    while not crowd.completed():
        wait(crowd, 0.5)
    assert crowd.ended(crowd.completed()[0]) == []


def test_without_an_idle_timeout_associations_stay_for_ever(crowd: Crowd) -> None:
    crowd.connect()
    assert crowd.endpoint.next_timeout() is None
    crowd.now += 10**9
    assert crowd.endpoint.handle_timeout(crowd.now) == []
    crowd.assert_talks()


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_an_idle_timeout_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="idle_timeout"):
        EndpointLimits(idle_timeout=seconds)


@pytest.mark.parametrize("name", ["queued_messages", "queued_bytes"])
def test_a_queue_for_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EndpointLimits(**{name: 0})


# --- closed by us ----------------------------------------------------------------------------------------------------


def test_close_with_patience_waits_for_the_peers_close_notify(crowd: Crowd) -> None:
    association = crowd.connect()
    late = say(crowd, b"was on its way")
    crowd.endpoint.close(association, crowd.now, patience=5)
    assert len(crowd.endpoint) == 1
    assert crowd.inject(late) == []
    assert crowd.endpoint.statistics["dropped_after_close"] == 1
    crowd.settle()
    assert crowd.ended(association) == [None]
    assert crowd.clients[HERE].state is ConnectionState.CLOSED
    crowd.assert_remembers_nothing()
    assert "closes_unanswered" not in crowd.endpoint.statistics


def test_a_peer_that_does_not_answer_close_notify_is_forgotten_when_patience_is_over(crowd: Crowd) -> None:
    association = crowd.connect()
    del crowd.clients[HERE]
    crowd.endpoint.close(association, crowd.now, patience=5)
    wait(crowd, 4.9)
    assert len(crowd.endpoint) == 1
    crowd.run(1)
    crowd.assert_remembers_nothing()
    assert crowd.ended(association) == []
    assert crowd.endpoint.statistics["closes_unanswered"] == 1


def test_who_is_closed_again_without_patience_is_forgotten_at_once(crowd: Crowd) -> None:
    association = crowd.connect()
    crowd.endpoint.close(association, crowd.now, patience=5)
    crowd.endpoint.close(association, crowd.now)
    crowd.settle()
    crowd.assert_remembers_nothing()


def test_an_idle_association_that_is_closing_does_not_expire(idle_crowd: Crowd) -> None:
    crowd = idle_crowd
    association = crowd.connect()
    del crowd.clients[HERE]
    crowd.endpoint.close(association, crowd.now, patience=2 * IDLE)
    crowd.run(3 * IDLE)
    assert crowd.ended(association) == []
    crowd.assert_remembers_nothing()


def test_a_client_may_begin_anew_while_its_old_association_is_being_closed(crowd: Crowd) -> None:
    old = crowd.connect()
    crowd.start()  # the old client is gone
    crowd.endpoint.close(old, crowd.now, patience=60)
    crowd.settle()
    assert crowd.endpoint.association(HERE) is not old
    assert crowd.ended(old) == []
    crowd.assert_talks()
    crowd.run()
    crowd.assert_talks()


def test_all_are_closed_within_the_deadline_and_nobody_gets_in_any_more(crowd: Crowd) -> None:
    addresses = [("198.51.100.1", number) for number in range(6)]
    associations = [crowd.connect(address) for address in addresses]
    crowd.inject(proved_hello(crowd))
    for address in addresses[:3]:
        del crowd.clients[address]  # these will not answer
    crowd.endpoint.close_all(crowd.now, patience=2)
    assert crowd.endpoint.handshakes == 0
    crowd.start(THERE)
    crowd.settle()
    assert len(crowd.endpoint) == 3
    assert [crowd.ended(association) for association in associations] == [[]] * 3 + [[None]] * 3
    assert crowd.endpoint.statistics["refused_closing"] >= 1
    crowd.run(3)
    assert len(crowd.endpoint) == 0
    assert crowd.endpoint.next_timeout() is None
    assert crowd.endpoint.statistics["closes_unanswered"] == 3


def test_an_endpoint_that_refuses_handshakes_goes_on_with_those_that_stand(crowd: Crowd) -> None:
    crowd.connect()
    crowd.inject(proved_hello(crowd, THERE), THERE)
    crowd.endpoint.refuse_handshakes(crowd.now)
    assert crowd.endpoint.handshakes == 0
    crowd.start(THERE)
    crowd.settle()
    assert crowd.clients[THERE].state is ConnectionState.HANDSHAKING
    crowd.assert_talks()


# --- restarted -------------------------------------------------------------------------------------------------------


def test_an_association_that_was_replaced_leaves_no_timer(idle_crowd: Crowd) -> None:
    crowd = idle_crowd
    old = crowd.connect()
    new = crowd.connect()
    assert kinds(crowd.ended(old)) == [AssociationReplaced]
    crowd.run(2 * IDLE)
    assert kinds(crowd.ended(old)) == [AssociationReplaced]
    assert kinds(crowd.ended(new)) == [AssociationExpired]
    crowd.assert_remembers_nothing()


# --- the short way ---------------------------------------------------------------------------------------------------


def by_the_short_way(crowd: Crowd, datagram: bytes, address: Hashable) -> list[object]:
    """What an I/O layer does that takes the short way."""
    endpoint = crowd.endpoint
    association = endpoint.established.get(address)
    if association is None or datagram[:1] != APPLICATION_DATA:
        return [*endpoint.receive_datagram(datagram, address, crowd.now)]
    found = association.connection.unprotect(datagram, crowd.now)
    if type(found) is bytes:
        association.heard_at = crowd.now
        return [found]
    return [*endpoint.receive_unprotected(association, datagram, found, crowd.now)]  # type: ignore[arg-type]


def test_a_message_takes_one_look_up_and_comes_as_bytes(idle_crowd: Crowd) -> None:
    crowd = idle_crowd
    association = crowd.connect()
    wait(crowd, IDLE / 2)
    assert by_the_short_way(crowd, say(crowd, b"hello"), HERE) == [b"hello"]
    assert by_the_short_way(crowd, say(crowd, b"hello"), THERE) == []
    wait(crowd, IDLE * 0.75)
    assert crowd.ended(association) == []


def test_a_client_restarts_by_the_short_way_too(crowd: Crowd) -> None:
    old = crowd.connect()
    events: list[object] = []

    def short(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender == "server":
            return [datagram]
        found = by_the_short_way(crowd, datagram, HERE)
        events.extend(found)
        return []

    crowd.tap = short
    crowd.start()
    for _ in range(20):
        crowd.settle()
    new = crowd.endpoint.association(HERE)
    assert new is not old
    assert [getattr(event, "association", None) for event in events] == [old, new]
    assert by_the_short_way(crowd, say(crowd, b"hello"), HERE) == [b"hello"]


def test_protected_records_of_a_handshake_reach_it_beside_an_association(crowd: Crowd) -> None:
    """The Finished of the new handshake is nothing to the old association, and must not be lost to it."""

    def one_record_each(sender: str, index: int, datagram: bytes) -> list[bytes]:
        return [build_record(*entry) for entry in split_records_untrusted(datagram)]

    old = crowd.connect()
    crowd.tap = one_record_each
    assert crowd.connect() is not old
    crowd.assert_talks()


# --- counting --------------------------------------------------------------------------------------------------------


def test_statistics_show_the_counters_of_associations_that_stand(crowd: Crowd) -> None:
    association = crowd.connect()
    crowd.inject(say(crowd, b"hello")[:-1] + b"\0")
    before = crowd.endpoint.statistics
    assert before["dropped_unauthenticated"] == 1
    crowd.endpoint.close(association, crowd.now)
    assert crowd.endpoint.statistics == before


def test_what_the_io_layer_counts_is_among_the_statistics(crowd: Crowd) -> None:
    crowd.endpoint.count("dropped_by_somebody")
    assert crowd.endpoint.statistics["dropped_by_somebody"] == 1
