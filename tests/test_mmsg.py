"""Many datagrams in one call of the kernel: real sockets on loopback, and what only a kernel in trouble says."""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dtls import mmsg
from dtls.kernel import now, wait_until_ready
from dtls.udp import Origin, local_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not mmsg.available, reason="there are no such calls here")

LARGEST = 65_507
"""Bytes of a datagram over IPv4 at most."""
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
both_families = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])


class Sockets:
    """Makes sockets, which are closed after the test."""

    def __init__(self) -> None:
        self.made: list[socket.socket] = []

    def bound(self, family: int = socket.AF_INET, host: str | None = None) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        self.made.append(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind((LOOPBACK[socket.AddressFamily(family)] if host is None else host, 0))
        return sock

    def pair(self, family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
        """Two sockets, connected to one another."""
        one, other = self.bound(family), self.bound(family)
        one.connect(other.getsockname())
        other.connect(one.getsockname())
        return one, other


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    for sock in made.made:
        sock.close()


def received(sock: socket.socket, count: int, *, connected: bool = False) -> list[tuple[bytes, Any, int]]:
    """As many arrivals, by as many calls as it takes."""
    arrivals: list[tuple[bytes, Any, int]] = []
    length = 0 if connected else mmsg.place_length(sock.family)
    while len(arrivals) < count:
        wait_until_ready(sock.fileno(), writable=False, until=now() + 5)
        found = mmsg.receive(sock.fileno(), mmsg.MAX_BATCH, length)
        assert found, f"only {len(arrivals)} came"
        arrivals += found
    assert not mmsg.receive(sock.fileno(), mmsg.MAX_BATCH, length)
    return arrivals


def way_to(sock: socket.socket) -> mmsg.Way:
    """A way to where a socket is bound: the place is what it sends from."""
    address = sock.getsockname()
    packed = socket.inet_pton(sock.family, address[0])
    family, port = int(sock.family).to_bytes(2, sys.byteorder), address[1].to_bytes(2, "big")
    if sock.family == socket.AF_INET:
        return mmsg.Way(family + port + packed + bytes(8))
    return mmsg.Way(family + port + bytes(4) + packed + address[3].to_bytes(4, sys.byteorder))


def sent(sock: socket.socket, queue: list[tuple[bytes, mmsg.Way]], *, segments: bool = False) -> None:
    """Send it all, by as many calls as it takes."""
    while queue:
        taken = mmsg.send(sock.fileno(), queue, segments=segments)
        assert 0 < taken <= len(queue)
        queue = queue[taken:]


# --- receiving -------------------------------------------------------------------------------------------------------


@both_families
def test_datagrams_come_whole_in_order_and_with_their_places(sockets: Sockets, family: int) -> None:
    receiver, senders = sockets.bound(family), [sockets.bound(family) for _ in range(3)]
    expected = []
    for number, size in enumerate([5, 0, 1, LARGEST, 1400, 0, 17]):
        sender = senders[number % 3]
        datagram = bytes([number]) * size
        sender.sendto(datagram, receiver.getsockname())
        expected.append((datagram, Origin(sender.getsockname()), 0))
    found = [(datagram, mmsg.origin_of(place), size) for datagram, place, size in received(receiver, 7)]
    assert found == expected


@both_families
def test_a_place_is_the_same_each_time_and_leads_back(sockets: Sockets, family: int) -> None:
    receiver, one, other = (sockets.bound(family) for _ in range(3))
    for sender in (one, other, one):
        sender.sendto(b"hello", receiver.getsockname())
    first, second, third = (place for _, place, _ in received(receiver, 3))
    assert first == third != second
    assert hash(first) == hash(third)
    assert mmsg.Way(first).origin.address == one.getsockname()
    sent(receiver, [(b"to the other", mmsg.Way(second)), (b"to the one", mmsg.Way(first))])
    assert one.recv(100) == b"to the one"
    assert other.recv(100) == b"to the other"


def test_more_than_one_call_takes_come_in_order(sockets: Sockets) -> None:
    sender, receiver = sockets.pair()
    for number in range(150):
        sender.send(number.to_bytes(2, "big"))
    assert len(mmsg.receive(receiver.fileno(), 64, 0)) == 64
    assert len(mmsg.receive(receiver.fileno(), 10, 0)) == 10
    rest = received(receiver, 76, connected=True)
    assert [int.from_bytes(datagram, "big") for datagram, _, _ in rest] == list(range(74, 150))


def test_a_connected_socket_knows_no_places(sockets: Sockets) -> None:
    sender, receiver = sockets.pair(socket.AF_INET6)
    sender.send(b"hello")
    assert received(receiver, 1, connected=True) == [(b"hello", None, 0)]


def test_nothing_there_is_no_error(sockets: Sockets) -> None:
    assert mmsg.receive(sockets.bound().fileno(), 64, 16) == []


def test_an_interrupted_call_is_no_error(sockets: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, receiver = sockets.pair()
    sender.send(b"hello")
    monkeypatch.setattr(mmsg, "_recvmmsg", failing(errno.EINTR))
    assert mmsg.receive(receiver.fileno(), 64, 0) == []
    monkeypatch.undo()
    assert received(receiver, 1, connected=True) == [(b"hello", None, 0)]


def test_an_error_of_the_kernel_is_raised_once_and_takes_no_datagram(sockets: Sockets) -> None:
    one, other = sockets.pair()
    other.send(b"waits")
    other.close()
    one.send(b"refused")
    with pytest.raises(ConnectionRefusedError) as caught:
        mmsg.receive(one.fileno(), 64, 0)
    assert caught.value.errno == errno.ECONNREFUSED
    assert received(one, 1, connected=True) == [(b"waits", None, 0)]


@pytest.mark.parametrize("number", [-1, 1 << 20])
def test_a_closed_descriptor_raises(number: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        mmsg.receive(number, 64, 16)
    with pytest.raises(OSError, match="Bad file descriptor"):
        mmsg.send(number, [(b"hello", mmsg.Way(None))], segments=False)


def test_families_take_turns_in_one_thread(sockets: Sockets) -> None:
    """The structures are the same ones: nothing of one call may be seen by the next."""
    receivers = {family: sockets.bound(family) for family in LOOPBACK}
    senders = {family: sockets.bound(family) for family in LOOPBACK}
    connected, receiving = sockets.pair()
    for count in (3, 1, 5, 2):
        for family in LOOPBACK:
            way = way_to(receivers[family])
            sent(senders[family], [(bytes([number]), way) for number in range(count)], segments=count % 2 > 0)
            sent(connected, [(bytes([number]), mmsg.Way(None)) for number in range(count)])
            origin = Origin(senders[family].getsockname())
            found = received(receivers[family], count)
            assert [(datagram, mmsg.origin_of(place)) for datagram, place, _ in found] == [
                (bytes([number]), origin) for number in range(count)
            ]
            assert received(receiving, count, connected=True) == [
                (bytes([number]), None, 0) for number in range(count)
            ]


# --- segments --------------------------------------------------------------------------------------------------------


@pytest.fixture
def coalescing(sockets: Sockets) -> tuple[socket.socket, socket.socket]:
    """A sender that may send segments, and a receiver that takes them; else there is nothing to test."""
    sender, receiver = sockets.bound(), sockets.bound()
    if not (mmsg.takes_segments(sender) and mmsg.coalesce(receiver)):
        pytest.skip("the kernel knows no segments")
    return sender, receiver


def test_datagrams_of_one_size_go_and_come_as_one(coalescing: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = coalescing
    way = way_to(receiver)
    datagrams = [bytes([number]) * 1000 for number in range(9)] + [b"a shorter last"]
    assert mmsg.send(sender.fileno(), [(datagram, way) for datagram in datagrams], segments=True) == 10
    [(run, place, size)] = received(receiver, 1)
    assert size == 1000
    assert run == b"".join(datagrams)
    assert mmsg.origin_of(place) == Origin(sender.getsockname())


def test_runs_end_where_sizes_ways_and_limits_say(coalescing: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = coalescing
    way, other_way = way_to(receiver), way_to(receiver)
    queue: list[tuple[bytes, mmsg.Way]] = [(b"a" * 100, way)] * 3
    queue += [(b"b" * 50, way), (b"c" * 50, way)]  # a shorter one ends a run; the next begins one
    queue += [(b"", way), (b"d", way)]  # nothing is no segment
    queue += [(b"e" * 10, way), (b"f" * 10, other_way)]
    queue += [(bytes([number]) * 20, way) for number in range(130)]
    sent(sender, list(queue), segments=True)
    datagrams: list[bytes] = []
    runs = []
    while len(datagrams) < len(queue):
        for run, _, size in received(receiver, 1):
            runs.append(len(run))
            datagrams += [run[at : at + size] for at in range(0, len(run), size)] if size else [run]
    assert datagrams == [datagram for datagram, _ in queue]
    assert runs == [350, 50, 0, 1, 10, 10, 64 * 20, 64 * 20, 2 * 20]


def test_a_run_is_no_longer_than_an_ip_packet(coalescing: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = coalescing
    way = way_to(receiver)
    datagrams = [bytes([number]) * 20_000 for number in range(7)]
    sent(sender, [(datagram, way) for datagram in datagrams], segments=True)
    found: list[bytes] = []
    while sum(map(len, found)) < 140_000:
        found += [run for run, _, _ in received(receiver, 1)]
    assert list(map(len, found)) == [60_000, 60_000, 20_000]
    assert b"".join(found) == b"".join(datagrams)


def test_singles_and_runs_of_several_peers_are_told_apart(
    sockets: Sockets, coalescing: tuple[socket.socket, socket.socket]
) -> None:
    sender, receiver = coalescing
    other = sockets.bound()
    way = way_to(receiver)
    expected = []
    for number in range(5):
        sent(sender, [(bytes([number]) * 300, way)] * 4, segments=True)
        sent(other, [(b"single", way)], segments=True)
        expected += [(bytes([number]) * 1200, Origin(sender.getsockname()), 300)]
        expected += [(b"single", Origin(other.getsockname()), 0)]
    found = received(receiver, 10)
    assert [(run, mmsg.origin_of(place), size) for run, place, size in found] == expected


def test_a_control_message_serves_one_call_only(coalescing: tuple[socket.socket, socket.socket]) -> None:
    """The structures keep what was written to them: a size of segments must not be there for the next datagram."""
    sender, receiver = coalescing
    way = way_to(receiver)
    sent(sender, [(b"x" * 10, way)] * 3, segments=True)
    sent(sender, [(b"y" * 30, way)])
    assert [(run, size) for run, _, size in received(receiver, 2)] == [(b"x" * 30, 10), (b"y" * 30, 0)]


def test_without_segments_each_datagram_goes_by_itself(
    coalescing: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = coalescing
    way = way_to(receiver)
    sent(sender, [(b"x" * 10, way)] * 70)
    assert [(run, size) for run, _, size in received(receiver, 70)] == [(b"x" * 10, 0)] * 70


# --- sockets bound to all addresses ----------------------------------------------------------------------------------


def reporting(sockets: Sockets, family: int, *, coalesced: bool = True) -> socket.socket:
    """A socket bound to all addresses, for which the kernel tells which was asked."""
    sock = sockets.bound(family, "::" if family == socket.AF_INET6 else "0.0.0.0")  # noqa: S104 - what is tested
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_PKTINFO", 8), 1)
    if coalesced:
        mmsg.coalesce(sock)
    return sock


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize(
    ("server_family", "family", "hosts"),
    [
        (socket.AF_INET, socket.AF_INET, ("127.0.0.1", "127.0.0.2")),
        (socket.AF_INET6, socket.AF_INET6, ("::1",)),
        (socket.AF_INET6, socket.AF_INET, ("127.0.0.1", "127.0.0.3")),
    ],
    ids=["IPv4", "IPv6", "IPv4 on a socket for both"],
)
def test_answers_leave_from_the_address_that_was_asked(
    sockets: Sockets, server_family: int, family: int, hosts: tuple[str, ...], segments: bool
) -> None:
    server = reporting(sockets, server_family)
    client = sockets.bound(family)
    port = server.getsockname()[1]
    for host in hosts:
        client.sendto(host.encode(), (host, port))
    found = received(server, len(hosts))
    assert len({place for _, place, _ in found}) == len(hosts)  # one peer, as many associations
    ways = [mmsg.Way(place) for _, place, _ in found]
    assert all(way.control for way in ways)
    for (datagram, place, _), way in zip(found, ways, strict=True):
        assert way.origin == mmsg.origin_of(place)
        sent(server, [(datagram, way)] * 3, segments=segments)
        for _ in range(3):
            answer, address = client.recvfrom(100)
            assert address[:2] == (answer.decode(), port)


def test_a_run_tells_which_address_was_asked(sockets: Sockets) -> None:
    server, client = reporting(sockets, socket.AF_INET), sockets.bound()
    if not mmsg.takes_segments(client):
        pytest.skip("the kernel knows no segments")
    port = server.getsockname()[1]
    for host in ("127.0.0.5", "127.0.0.6"):
        client.sendmsg([b"x" * 25], [mmsg.segment_control(10)], 0, (host, port))
    for host, (run, place, size) in zip(("127.0.0.5", "127.0.0.6"), received(server, 2), strict=True):
        assert (run, size) == (b"x" * 25, 10)
        origin = mmsg.origin_of(place)
        assert origin.address == client.getsockname()
        assert origin.local == (socket.inet_aton(host), 0)


def test_a_control_message_for_the_sender_of_one_is_not_for_the_next(sockets: Sockets) -> None:
    server, client = reporting(sockets, socket.AF_INET), sockets.bound()
    client.sendto(b"hello", ("127.0.0.7", server.getsockname()[1]))
    [(_, place, _)] = received(server, 1)
    plain = mmsg.Way(place[:16])
    sent(server, [(b"first", mmsg.Way(place)), (b"second", plain)])
    sent(server, [(b"third", plain)])
    hosts = [client.recvfrom(100)[1][0] for _ in range(3)]
    assert hosts == ["127.0.0.7", "127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize("server_family", LOOPBACK)
@pytest.mark.parametrize("family", LOOPBACK)
def test_a_place_means_what_pythons_calls_say(sockets: Sockets, server_family: int, family: int) -> None:
    if server_family == socket.AF_INET != family:
        pytest.skip("they cannot reach one another")
    server, client = reporting(sockets, server_family), sockets.bound(family)
    for _ in range(2):
        client.sendto(b"hello", (LOOPBACK[socket.AddressFamily(family)], server.getsockname()[1]))
    _, control, _, address = server.recvmsg(100, 100)
    expected = Origin(address, local_address(control))
    [(_, place, _)] = received(server, 1)
    assert mmsg.origin_of(place) == expected
    assert mmsg.Way(place).origin == expected


def link_local() -> tuple[str, int] | None:
    """An IPv6 address of ours that is one with its interface only."""
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        packed, index, _, scope, _, _ = line.split()
        if scope == "20":
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(packed)), int(index, 16)
    return None


def test_scopes_are_part_of_a_place(sockets: Sockets) -> None:
    found = link_local()
    if found is None:
        pytest.skip("there is no link-local address")
    host, scope = found
    server = reporting(sockets, socket.AF_INET6)
    client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sockets.made.append(client)
    client.bind((host, 0, 0, scope))
    client.settimeout(5)
    client.sendto(b"hello", (host, server.getsockname()[1], 0, scope))
    [(_, place, _)] = received(server, 1)
    way = mmsg.Way(place)
    assert way.origin.address == client.getsockname()
    assert way.origin.local == (socket.inet_pton(socket.AF_INET6, host), way.origin.local[1])  # type: ignore[index]
    sent(server, [(b"answer", way)])
    assert client.recvfrom(100) == (b"answer", (host, server.getsockname()[1], 0, scope))


# --- what the kernel refuses -----------------------------------------------------------------------------------------


def failing(number: int, *, after: int = 0) -> Callable[..., int]:
    """A call of the kernel that fails, from the one after so many on."""
    calls = iter(range(after))

    def call(*arguments: Any) -> int:
        if next(calls, None) is not None:
            return int(_SEND(*arguments))
        mmsg._ctypes.set_errno(number)
        return -1

    return call


_SEND: Any = getattr(mmsg, "_sendmmsg", None)


def test_an_error_in_the_middle_is_that_of_the_datagram_it_is_about(sockets: Sockets) -> None:
    """Those before it are sent and counted; then it is raised, and those after it follow."""
    sender, receiver = sockets.bound(), sockets.bound()
    way = way_to(receiver)
    queue = [(b"one", way), (bytes(LARGEST + 1), way), (b"two", way)]
    assert mmsg.send(sender.fileno(), queue, segments=False) == 1
    with pytest.raises(OSError, match="too long") as caught:
        mmsg.send(sender.fileno(), queue[1:], segments=False)
    assert caught.value.errno == errno.EMSGSIZE
    assert mmsg.send(sender.fileno(), queue[2:], segments=False) == 1
    assert [datagram for datagram, _, _ in received(receiver, 2)] == [b"one", b"two"]


def test_no_room_is_blocking(sockets: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, receiver = sockets.pair()
    monkeypatch.setattr(mmsg, "_sendmmsg", failing(errno.EAGAIN))
    with pytest.raises(BlockingIOError):
        mmsg.send(sender.fileno(), [(b"hello", mmsg.Way(None))], segments=False)
    monkeypatch.undo()
    sent(sender, [(b"hello", mmsg.Way(None))])
    assert receiver.recv(100) == b"hello"


def test_after_an_error_the_structures_are_as_before(
    coalescing: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, receiver = coalescing
    way = way_to(receiver)
    monkeypatch.setattr(mmsg, "_sendmmsg", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        mmsg.send(sender.fileno(), [(b"x" * 10, way)] * 3, segments=True)
    kept = mmsg._arena.outgoing
    monkeypatch.undo()
    sent(sender, [(b"y" * 30, way)])
    assert mmsg._arena.outgoing is kept is not None
    assert [(run, size) for run, _, size in received(receiver, 1)] == [(b"y" * 30, 0)]


def test_one_call_takes_no_more_than_its_arrays_hold(sockets: Sockets) -> None:
    sender, receiver = sockets.pair()
    way = mmsg.Way(None)
    assert mmsg.send(sender.fileno(), [(b"x", way)] * 100, segments=False) == 64
    assert len(received(receiver, 64, connected=True)) == 64
    assert mmsg.send(sender.fileno(), [(bytes(LARGEST), way)] * 6, segments=False) == 4
    assert {len(run) for run, _, _ in received(receiver, 4, connected=True)} == {LARGEST}


@pytest.mark.parametrize("name", ["_recvmmsg", "_sendmmsg"])
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EACCES])
def test_calls_that_a_sandbox_refuses_are_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    assert mmsg.permitted()
    monkeypatch.setattr(mmsg, name, failing(number))
    assert not mmsg.permitted()


def test_a_kernel_without_segments_says_so() -> None:
    one, other = socket.socketpair()  # which are not UDP's
    with one, other:
        assert not mmsg.coalesce(one)
        assert not mmsg.takes_segments(one)
    with pytest.raises(KeyError):
        mmsg.place_length(socket.AF_UNIX)


# --- memory, threads, processes --------------------------------------------------------------------------------------


def test_threads_do_not_get_into_each_others_way(sockets: Sockets) -> None:
    failures: list[str] = []

    def talk(number: int, sender: socket.socket, receiver: socket.socket) -> None:
        way = mmsg.Way(None)
        for turn in range(200):
            datagrams = [bytes([number, turn, index]) * (number + 1) * 50 for index in range(8)]
            mmsg.send(sender.fileno(), [(datagram, way) for datagram in datagrams], segments=turn % 2 > 0)
            found = b"".join(run for run, _, _ in mmsg.receive(receiver.fileno(), 64, 0))
            if found != b"".join(datagrams):
                failures.append(f"thread {number}, turn {turn}")

    pairs = [sockets.pair() for _ in range(4)]
    threads = [threading.Thread(target=talk, args=(number, *pair)) for number, pair in enumerate(pairs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_each_thread_has_structures_of_its_own(sockets: Sockets) -> None:
    sender, receiver = sockets.pair()
    found: list[Any] = []

    def talk() -> None:
        found.append((mmsg._arena.incoming, mmsg._arena.outgoing))
        sent(sender, [(b"hello", mmsg.Way(None))])
        received(receiver, 1, connected=True)
        found.append((mmsg._arena.incoming, mmsg._arena.outgoing))

    talk()
    thread = threading.Thread(target=talk)
    thread.start()
    thread.join()
    assert found[2] == (None, None)
    assert not set(found[1]) & set(found[3])
    assert (mmsg._arena.incoming, mmsg._arena.outgoing) == found[1]


def test_what_sends_amid_a_call_does_not_change_what_is_sent(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a finalizer does, or the handler of a signal, which may run at any moment of the thread."""
    sender, receiver = sockets.pair()
    other, other_receiver = sockets.pair(socket.AF_INET6)
    way = mmsg.Way(None)
    amid = iter([True])

    def interrupted(*arguments: Any) -> int:
        if next(amid, False):
            mmsg.send(other.fileno(), [(b"from within", way)] * 3, segments=True)
            other.send(b"to be read")
            assert mmsg.receive(other_receiver.fileno(), 64, 0)
        return int(_SEND(*arguments))

    monkeypatch.setattr(mmsg, "_sendmmsg", interrupted)
    sent(sender, [(b"first", way), (b"second one", way)])
    assert [run for run, _, _ in received(receiver, 2, connected=True)] == [b"first", b"second one"]


def test_what_reads_amid_a_call_does_not_change_what_is_read(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, receiver = sockets.pair()
    other, other_receiver = sockets.pair()
    sender.send(b"first")
    other.send(b"other")
    amid = iter([True])
    real = mmsg._recvmmsg

    def interrupted(*arguments: Any) -> int:
        count = int(real(*arguments))
        if next(amid, False):
            assert mmsg.receive(other_receiver.fileno(), 64, 0) == [(b"other", None, 0)]
        return count

    monkeypatch.setattr(mmsg, "_recvmmsg", interrupted)
    assert mmsg.receive(receiver.fileno(), 64, 0) == [(b"first", None, 0)]


def test_structures_that_were_left_half_written_are_not_used_again(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, receiver = sockets.pair()
    way = mmsg.Way(None)

    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(mmsg, "_sendmmsg", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mmsg.send(sender.fileno(), [(b"x" * 10, way)] * 3, segments=True)
    monkeypatch.undo()
    sent(sender, [(b"y" * 30, way)])
    mmsg.coalesce(receiver)
    assert received(receiver, 1, connected=True) == [(b"y" * 30, None, 0)]


def test_what_the_kernel_has_the_address_of_cannot_move() -> None:
    for side in (mmsg._Incoming(), mmsg._Outgoing()):
        for array in (side.names, side.control, side.vectors, side.headers):
            with pytest.raises(BufferError):
                array.append(0)


def test_bytes_of_the_wrong_length_are_refused_before_they_move_anything(sockets: Sockets) -> None:
    class Lying(bytes):
        __slots__ = ()

        def __len__(self) -> int:
            return 3

    sender, receiver = sockets.pair()
    way = mmsg.Way(None)
    with pytest.raises((BufferError, ValueError)):
        mmsg.send(sender.fileno(), [(Lying(300_000), way)], segments=False)
    sent(sender, [(b"hello", way)])
    assert received(receiver, 1, connected=True) == [(b"hello", None, 0)]


def resident() -> int:
    """KiB of memory that this process has."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_a_thread_that_reads_little_takes_little_memory() -> None:
    gc.collect()
    before = resident()
    sides = [mmsg._Incoming() for _ in range(8)]
    assert resident() - before < 2048  # and not four megabytes for each
    assert len(sides[0].data) == 64 * 65_536


@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)  # pytest-xdist's threads
def test_a_forked_process_has_structures_of_its_own(sockets: Sockets) -> None:
    sender, receiver = sockets.pair()
    child_sender, child_receiver = sockets.pair()
    way = mmsg.Way(None)
    sender.send(b"of the parent")
    assert received(receiver, 1, connected=True)[0][0] == b"of the parent"
    incoming = mmsg._arena.incoming
    assert incoming is not None
    child = os.fork()
    if not child:  # pragma: no cover - of another process
        status = 1
        try:
            sent(child_sender, [(b"of the child, which is longer", way)])
            if received(child_receiver, 1, connected=True)[0][0] == b"of the child, which is longer":
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert bytes(incoming.data[:13]) == b"of the parent"
