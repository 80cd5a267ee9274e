"""What a UDP socket is read and written by: Python's calls and those for many datagrams keep the same promises."""

from __future__ import annotations

import errno
import os
import platform
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dtls import mmsg, ports
from dtls.kernel import now, wait_until_ready
from dtls.ports import BatchPort, Port, port_of

from . import sandboxed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dtls.ports import Arrival

HERE = "127.0.0.1"
needs_batches = pytest.mark.skipif(not mmsg.available, reason="there are no such calls here")


class Own(socket.socket):
    """A kind of socket that somebody else has written."""


class Ports:
    """Makes ports, whose sockets are closed after the test."""

    def __init__(self, kind: type[socket.socket]) -> None:
        self.kind = kind
        self.made: list[socket.socket] = []
        self.statistics: Counter[str] = Counter()

    def bound(self, host: str = HERE, family: int = socket.AF_INET) -> Port:
        sock = self.kind(family, socket.SOCK_DGRAM)
        self.made.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind((host, 0))
        return port_of(sock, self.statistics)

    def connected(self, other: Port) -> Port:
        sock = self.kind(other.sock.family, socket.SOCK_DGRAM)
        self.made.append(sock)
        sock.connect(other.sock.getsockname())
        return port_of(sock, self.statistics)


def made(kind: type[socket.socket]) -> Iterator[Ports]:
    ports = Ports(kind)
    yield ports
    for sock in ports.made:
        sock.close()


@pytest.fixture(
    params=[pytest.param(socket.socket, id="batches", marks=needs_batches), pytest.param(Own, id="calls")]
)
def every(request: pytest.FixtureRequest) -> Iterator[Ports]:
    """Ports of each kind."""
    yield from made(request.param)


@pytest.fixture
def batches() -> Iterator[Ports]:
    """Ports by calls for many datagrams, which know segments."""
    if not mmsg.available:
        pytest.skip("there are no such calls here")
    yield from made(socket.socket)


def received(port: Port, count: int) -> list[Arrival]:
    """As many datagrams, segments one by one."""
    found: list[Arrival] = []
    while len(found) < count:
        wait_until_ready(port.sock.fileno(), writable=False, until=now() + 5)
        batch: list[Arrival] = []
        port.receive_into(batch)
        assert batch, f"only {len(found)} came"
        for data, place, size in batch:
            found += (
                [(data[at : at + size], place, 0) for at in range(0, len(data), size)]
                if size
                else [(data, place, 0)]
            )
    rest: list[Arrival] = []
    port.receive_into(rest)
    assert not rest
    return found


def sent(port: Port, queue: list[tuple[bytes, Any]]) -> None:
    while queue:
        taken = port.send_many(queue)
        assert 0 < taken <= len(queue)
        queue = queue[taken:]


# --- both kinds ------------------------------------------------------------------------------------------------------


def test_the_kind_is_chosen_by_what_there_is(every: Ports) -> None:
    port = every.bound()
    assert type(port) is (Port if every.kind is Own else BatchPort)
    assert port.gathers is (every.kind is not Own)
    assert not port.sock.getblocking()


def test_answers_find_their_way(every: Ports) -> None:
    server = every.bound()
    clients = [every.connected(server) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(bytes([number]), client.way(None))
    found = received(server, 3)
    assert [datagram for datagram, _, _ in found] == [b"\0", b"\1", b"\2"]
    for (_, place, _), client in zip(found, clients, strict=True):
        way = server.way(place)
        assert way.origin.address == client.sock.getsockname()
        assert server.own_address(way.origin) == server.sock.getsockname()
        server.send(b"one", way)
        sent(server, [(b"two", way), (b"six", way), (b"", way)])
        assert [datagram for datagram, _, _ in received(client, 4)] == [b"one", b"two", b"six", b""]


def test_a_run_arrives_as_the_datagrams_it_consists_of(every: Ports) -> None:
    server = every.bound()
    client = every.connected(server)
    if not client.send_run(b"a" * 10 + b"b" * 10 + b"c", 10, client.way(None)):
        assert not client.segments
        return
    client.send_run(b"single", 6, client.way(None))
    datagrams = [datagram for datagram, _, _ in received(server, 4)]
    assert datagrams == [b"a" * 10, b"b" * 10, b"c", b"single"]


@pytest.mark.parametrize(
    ("host", "family", "asked", "asks"),
    [
        ("0.0.0.0", socket.AF_INET, "127.0.0.9", socket.AF_INET),  # noqa: S104 - what is tested
        ("::", socket.AF_INET6, "::1", socket.AF_INET6),
        ("::", socket.AF_INET6, "127.0.0.9", socket.AF_INET),
    ],
    ids=["IPv4", "IPv6", "both"],
)
@pytest.mark.skipif(not mmsg.available, reason="only Linux tells which address was asked")
def test_a_port_of_all_addresses_answers_from_the_one_that_was_asked(
    every: Ports, host: str, family: int, asked: str, asks: int
) -> None:
    server = every.bound(host, family)
    with socket.socket(asks, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((asked, server.sock.getsockname()[1]))  # it hears nobody else
        client.send(b"hello")
        [(_, place, _)] = received(server, 1)
        way = server.way(place)
        own = server.own_address(way.origin)
        assert own[0].removeprefix("::ffff:") == asked
        server.send(b"by itself", way)
        sent(server, [(b"first", way), (b"other", way)])
        answers = [b"by itself", b"first", b"other"]
        if server.send_run(b"a run", 2, way):
            answers += [b"a ", b"ru", b"n"]
        assert [client.recv(100) for _ in answers] == answers


def test_a_refusal_is_raised_and_what_waits_is_still_read(every: Ports) -> None:
    server = every.bound()
    client = every.connected(server)
    client.send(b"hello", client.way(None))
    [(_, place, _)] = received(server, 1)
    server.send(b"waits", server.way(place))
    server.sock.close()
    client.send(b"refused", client.way(None))
    batch: list[Arrival] = []
    with pytest.raises(ConnectionRefusedError):
        client.receive_into(batch)
    assert batch + received(client, 1 - len(batch)) == [(b"waits", None, 0)]


def test_one_that_is_too_long_stands_in_nobodys_way(every: Ports) -> None:
    server = every.bound()
    client = every.connected(server)
    way = client.way(None)
    queue = [(b"before", way), (bytes(70_000), way), (b"after", way)]
    assert client.send_many(queue) == 1
    with pytest.raises(OSError, match="too long") as caught:
        client.send_many(queue[1:])
    assert caught.value.errno == errno.EMSGSIZE
    assert client.send_many(queue[2:]) == 1
    assert [datagram for datagram, _, _ in received(server, 2)] == [b"before", b"after"]


@pytest.mark.parametrize("end", ["close", "detach"])
@pytest.mark.parametrize("connected", [True, False])
def test_a_number_that_was_the_sockets_is_left_alone_when_it_is_somebody_elses(
    every: Ports, end: str, connected: bool
) -> None:
    """Whoever has the socket may close it; the kernel gives the number to the next who opens anything."""
    server = every.bound()
    port = every.connected(server) if connected else every.bound()
    with socket.socket(server.sock.family, socket.SOCK_DGRAM) as teller:
        teller.sendto(b"hello", server.sock.getsockname())
    [(_, place, _)] = received(server, 1)
    way = port.way(None if connected else place)
    assert received(port, 0) == []
    number = port.sock.fileno()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((HERE, 0))
        stranger.connect(server.sock.getsockname())
        if end == "detach":
            assert port.sock.detach() == number
        else:
            port.sock.close()
        os.dup2(stranger.fileno(), number)
        try:
            server.sock.sendto(b"for the stranger", stranger.getsockname())
            calls: list[Callable[[], object]] = [
                lambda: port.receive_into([]),
                lambda: port.send(b"x", way),
                lambda: port.send_many([(b"x", way), (b"y", way)]),
            ]
            if port.segments:
                calls.append(lambda: port.send_run(b"xx", 1, way))
            for call in calls:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    call()
        finally:
            os.close(number)
        assert stranger.recv(100) == b"for the stranger"
        assert received(server, 0) == []


# --- many at a time --------------------------------------------------------------------------------------------------


def test_a_sandbox_that_refuses_the_calls_gets_pythons(
    batches: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmsg, "permitted", lambda: False)
    server = batches.bound()
    client = batches.connected(server)
    assert type(server) is type(client) is Port
    sent(client, [(b"hello", client.way(None))] * 3)
    assert [datagram for datagram, _, _ in received(server, 3)] == [b"hello"] * 3


@pytest.mark.skipif(platform.machine() not in sandboxed.NUMBERS, reason="the calls' numbers are not known")
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_a_real_sandbox_gets_pythons_calls(batches: Ports, number: int) -> None:
    assert type(batches.bound()) is BatchPort
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.sandboxed", str(number)],
        cwd=Path(__file__).parent.parent,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if not done.stdout:
        pytest.skip("there are no filters of system calls here")
    assert done.stdout == "echoed by Port"


def test_a_kernel_that_refuses_the_options_gets_single_datagrams(
    batches: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmsg, "SOL_UDP", 0xFF)
    server = batches.bound()
    client = batches.connected(server)
    assert type(client) is BatchPort
    assert not client.segments
    assert not client.send_run(b"xx", 1, client.way(None))
    sent(client, [(b"hello", client.way(None))] * 3)
    batch: list[Arrival] = []
    server.receive_into(batch)
    assert [(datagram, size) for datagram, _, size in batch] == [(b"hello", 0)] * 3


def refusing(number: int, *, also_singles: bool = False) -> Callable[..., int]:
    """``mmsg.send``, of a kernel that refuses segments as some network devices, tunnels and paths have it do."""
    send = mmsg.send

    def call(descriptor: int, queue: Any, *, segments: bool) -> int:
        pairs = list(queue)
        if also_singles or (segments and len(pairs) > 1 and len(pairs[0][0]) >= len(pairs[1][0])):
            raise OSError(number, os.strerror(number))
        return send(descriptor, pairs, segments=segments)

    return call


refusals = pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP])


@refusals
def test_refused_segments_go_one_by_one_none_lost_and_none_twice(
    batches: Ports, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    server = batches.bound()
    client = batches.connected(server)
    if not client.segments:
        pytest.skip("the kernel knows no segments")
    monkeypatch.setattr(mmsg, "send", refusing(number))
    way = client.way(None)
    datagrams = [bytes([index]) * 100 for index in range(100)]
    sent(client, [(datagram, way) for datagram in datagrams])
    assert [datagram for datagram, _, _ in received(server, 100)] == datagrams
    assert not client.segments  # it is not tried again


@refusals
def test_who_cannot_be_sent_to_at_all_does_not_cost_the_others_their_segments(
    batches: Ports, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As an attacker would have it, who only needs to forge a datagram from port 0, or an ICMP message."""
    server = batches.bound()
    client = batches.connected(server)
    if not client.segments:
        pytest.skip("the kernel knows no segments")
    way = client.way(None)
    with monkeypatch.context() as patch:
        patch.setattr(mmsg, "send", refusing(number, also_singles=True))
        with pytest.raises(OSError) as caught:
            client.send_many([(b"x", way), (b"y", way)])
        assert caught.value.errno == number
    assert client.segments


def test_an_answer_to_port_0_does_not_cost_the_others_their_segments(batches: Ports) -> None:
    server = batches.bound()
    segments = server.segments
    nowhere = server.way(
        int(socket.AF_INET).to_bytes(2, sys.byteorder) + bytes(2) + socket.inet_aton(HERE) + bytes(8)
    )
    assert nowhere.origin.address == (HERE, 0)
    calls: list[Callable[[], object]] = [
        lambda: server.send_many([(b"x", nowhere), (b"y", nowhere)]),
        lambda: server.send_many([(b"x", nowhere)]),
    ]
    if segments:
        calls.append(lambda: server.send_run(b"x", 1, nowhere))
    for call in calls:
        with pytest.raises(OSError, match="Invalid argument"):
            call()
    assert not segments or server.send_run(b"xy", 1, nowhere) is False
    assert server.segments is segments


def test_a_run_that_is_refused_is_given_back(batches: Ports) -> None:
    client = batches.connected(batches.bound())
    segments = client.segments
    assert client.send_run(b"x" * 200, 1, client.way(None)) is False  # more segments than any kernel takes
    assert client.segments is segments


def test_a_single_datagram_that_is_too_long_does_not_cost_segments(batches: Ports) -> None:
    client = batches.connected(batches.bound())
    if not client.segments:
        pytest.skip("the kernel knows no segments")
    with pytest.raises(OSError, match="too long"):
        client.send_run(bytes(66_000), 66_000, client.way(None))
    with pytest.raises(OSError, match="too long"):
        client.send_many([(bytes(66_000), client.way(None))])
    assert client.segments


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENETUNREACH, errno.EPERM])
def test_what_else_the_kernel_says_is_raised(
    batches: Ports, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    client = batches.connected(batches.bound())
    segments = client.segments
    calls: list[bool] = []

    def failing(*_: Any, segments: bool) -> int:
        calls.append(segments)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(mmsg, "send", failing)
    with pytest.raises(OSError) as caught:
        client.send_many([(b"x", client.way(None))])
    assert caught.value.errno == number
    assert calls == [segments]
    assert client.segments is segments


def test_runs_are_counted_by_their_datagrams(batches: Ports) -> None:
    """A read takes few runs, each of many datagrams, so that others have their turn; single ones are many again."""
    server = batches.bound()
    client = batches.connected(server)
    if not client.segments:
        pytest.skip("the kernel knows no segments")

    def read() -> list[Arrival]:
        batch: list[Arrival] = []
        server.receive_into(batch)
        return batch

    for _ in range(2 + ports.MAX_RUNS):
        client.send_run(b"x" * 60, 1, client.way(None))
    first = read()
    assert {size for _, _, size in first} == {1}
    for _ in range(2 * ports.MAX_RUNS):
        client.send_run(b"x" * 60, 1, client.way(None))
    assert len(read()) == ports.MAX_RUNS
    assert len(read()) == ports.MAX_RUNS
    assert read() == []
    for _ in range(100):
        client.send(b"single", client.way(None))
    assert len(read()) == ports.MAX_READS
    assert len(read()) == 100 - ports.MAX_READS
