"""Many peers on a network that loses, doubles, delays and damages: handshakes complete, and nothing is left behind."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from dtls.endpoint import EndpointLimits
from dtls.errors import HandshakeTimeout, SSLError

from .badnet import BadNetwork, Conditions
from .crowd import Crowd
from .hellos import hello_body, piece, whole

if TYPE_CHECKING:
    from collections.abc import Hashable

    from dtls.context import Context

BAD = Conditions(drop=0.2, duplicate=0.1, fastest=0.005, slowest=0.2)
DAMAGING = Conditions(drop=0.05, duplicate=0.05, corrupt=0.1, fastest=0.005, slowest=0.05)
IDLE = 60.0


def addresses(count: int) -> list[Hashable]:
    return [(f"198.51.100.{number % 250}", 1024 + number) for number in range(count)]


def assert_nothing_is_left(network: BadNetwork) -> None:
    """Neither association nor timer nor buffer, on the server's side or on the network."""
    endpoint = network.endpoint
    assert (len(endpoint), endpoint.handshakes) == (0, 0)
    assert endpoint.next_timeout() is None
    assert len(endpoint._timers) == 0
    assert endpoint._timers._timers == {}
    assert endpoint._outbox == []
    assert endpoint._gate._partial == {}
    assert all(peer.connection.next_timeout() is None for peer in network.peers.values())
    assert network.is_quiet


@pytest.mark.parametrize("seed", range(4))
def test_handshakes_on_a_bad_network_complete_or_reach_their_deadline(
    client: Context, server: Context, seed: int
) -> None:
    """A thousand in all: 250 at once, four times."""
    count = 250
    network = BadNetwork(client, server, BAD, seed, limits=EndpointLimits(idle_timeout=IDLE))
    for number, address in enumerate(addresses(count)):
        network.connect(address, after=number * 0.002)
        network.say(address, b"hello", after=45)
        network.answer(address, b"hello yourself", after=45)
        network.close(address, after=46)
    network.run(40)  # longer than any deadline
    assert network.done["dropped"] > 0.15 * network.done["sent"]
    assert network.done["duplicated"] > 0.05 * network.done["sent"]
    completed = [peer for peer in network.peers.values() if peer.established]
    assert len(completed) > 0.8 * count
    for peer in network.peers.values():
        assert peer.established or isinstance(peer.error, HandshakeTimeout), peer.error
    assert network.endpoint.handshakes == 0
    network.run(10)
    heard = [message for messages in network.received.values() for message in messages]
    assert set(heard) == {b"hello"}
    assert len(heard) == len(network.received) > 0.5 * len(completed)
    assert {message for peer in completed for message in peer.received} == {b"hello yourself"}
    network.run(2 * IDLE)  # those whose close_notify was lost
    assert_nothing_is_left(network)


def test_messages_on_a_bad_network_arrive_whole_and_at_most_once(client: Context, server: Context) -> None:
    network = BadNetwork(client, server, BAD, seed=5, limits=EndpointLimits(idle_timeout=IDLE))
    places = addresses(10)
    sent = [b"message %d" % number for number in range(50)]
    for address in places:
        network.connect(address)
        for number, message in enumerate(sent):
            network.say(address, message, after=40 + number * 0.01)
            network.answer(address, message, after=40 + number * 0.01)
    network.run(50)
    ways = [network.received.get(address, []) for address in places]
    ways += [network.peers[address].received for address in places if network.peers[address].established]
    assert sum(map(len, ways)) > 0.6 * (network.done["said"] + network.done["answered"])
    assert any(way != sorted(way, key=sent.index) for way in ways)  # they did overtake one another
    for way in ways:
        assert set(way) <= set(sent)
        assert len(way) == len(set(way))
    network.run(3 * IDLE)
    assert_nothing_is_left(network)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_datagrams_damage_no_message_and_end_no_association(
    client: Context, server: Context, seed: int
) -> None:
    """A damaged handshake message may end its handshake: only the Finished tells it from a true one."""
    network = BadNetwork(client, server, DAMAGING, seed, limits=EndpointLimits(idle_timeout=IDLE))
    places = addresses(60)
    for address in places:
        network.connect(address)
        for number in range(30):
            network.say(address, b"message %d" % number, after=40 + number * 0.1)
            network.answer(address, b"message %d" % number, after=40 + number * 0.1)
    network.run(39)
    established = [peer for peer in network.peers.values() if peer.established]
    assert len(established) > 30
    assert all(peer.established or isinstance(peer.error, SSLError) for peer in network.peers.values())
    network.run(10)
    assert network.done["corrupted"] > 300
    sent = {b"message %d" % number for number in range(30)}
    for peer in established:
        assert set(peer.received) <= sent
        assert set(network.received.get(peer.address, [])) <= sent
        assert peer.error is None
    assert [error for _, error in network.ended] == []
    network.run(3 * IDLE)
    assert_nothing_is_left(network)


def test_clients_that_restart_on_a_bad_network_get_in_again(client: Context, server: Context) -> None:
    network = BadNetwork(client, server, BAD, seed=9, limits=EndpointLimits(idle_timeout=IDLE))
    places = addresses(50)
    for number, address in enumerate(places):
        network.connect(address)
        network.connect(
            address, after=1.0 + 0.05 * number
        )  # some in the middle of their handshake, some after
    network.run(50)
    again = [peer for peer in network.peers.values() if peer.established]
    assert len(again) > 35
    assert network.endpoint.statistics["associations_replaced"] > 0
    assert network.endpoint.statistics["handshakes_restarted"] > 0
    for peer in again:
        network.say(peer.address, b"hello")
    network.run(2)
    assert sum(peer.address in network.received for peer in again) > 0.6 * len(again)
    network.run(3 * IDLE)
    assert_nothing_is_left(network)


@pytest.mark.slow  # for tracemalloc; tests/test_endpoint.py has a smaller flood
def test_a_flood_of_spoofed_hellos_costs_no_memory_and_nobody_their_association(
    client: Context, server: Context
) -> None:
    """200,000 ClientHellos: without a cookie, with a wrong one, long, in pieces; each from another address."""
    crowd = Crowd(client, server)
    endpoint = crowd.endpoint
    standing = addresses(5)
    for address in standing:
        crowd.connect(address)
    body = hello_body()
    datagrams = [
        whole(body),
        whole(hello_body(extensions=b"\x04\x00\xff\xff\x03\xfc" + bytes(1020))),
        piece(body, 0, 40),
        whole(hello_body(cookie=bytes(32)), message_sequence=1),
    ]
    bytes_in = bytes_out = 0
    baseline = 0
    tracemalloc.start()
    try:
        for number in range(200_000):
            datagram = datagrams[number & 3]
            address = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5684)
            assert endpoint.receive_datagram(datagram, address, crowd.now) == []
            bytes_in += len(datagram)
            for where, answer in endpoint.datagrams_to_send(crowd.now):
                assert where == address
                assert len(answer) <= len(datagram)
                bytes_out += len(answer)
            if number % 10_000 == 9_999:
                crowd.assert_talks(standing[number // 10_000 % 5])
                crowd.now += 5  # so that cookies' time slots and secrets pass by
                crowd.sent.clear()
                crowd.events.clear()
                for events in crowd.client_events.values():
                    events.clear()
                if number == 19_999:  # what is held for all strangers together is held by now
                    baseline = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - baseline
    finally:
        tracemalloc.stop()
    assert grown < 50_000
    assert 0 < bytes_out < bytes_in
    assert (len(endpoint), endpoint.handshakes) == (5, 0)
    assert endpoint.next_timeout() is None
    assert endpoint.statistics["cookies_sent"] == 150_000 + 5
    assert len(endpoint._gate._partial) <= 64
