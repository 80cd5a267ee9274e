"""The routing demultiplexer, which does itself what elsewhere the kernel does; and what the two have in common."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import select
import socket
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls import demux as demultiplexers
from dtls import err
from dtls.demux import osnet, router
from dtls.demux.routed import RoutedSocket
from dtls.errors import AssociationReplaced
from dtls.sslconnection import SSLConnection
from tests.hellos import OFFER, cookie_in, hello_body, whole
from tests.loopback import HOSTS, PATIENCE, Worker, wait_for
from tests.pydtls import accept, raised, udp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from dtls.certificates import IssuedCertificate


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


@pytest.fixture
def routing() -> Iterator[None]:
    dtls.force_routing_demux()
    yield
    dtls.reset_default_demux()


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with udp(bound=True) as sock:
        yield sock


@pytest.fixture
def listening(routing: None, bound: socket.socket, pem: bytes) -> SSLConnection:
    return SSLConnection(bound, pem, pem, server_side=True)


class Peers:
    """Clients of a listening connection, and what it accepted them as; everything is closed at the end."""

    def __init__(self, listening: SSLConnection) -> None:
        self._listening = listening
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self._stack.close()

    def new(self, sock: socket.socket | None = None) -> tuple[SSLConnection, SSLConnection]:
        """Both ends of a new association, from a new socket or a given one."""
        if sock is None:
            sock = self._stack.enter_context(udp(_host_of(self._listening)))
        sock.connect(self._listening.get_socket(True).getsockname())
        near = SSLConnection(sock, do_handshake_on_connect=False)
        connecting = Worker(near.do_handshake)
        far, address = accept(self._listening)
        connecting.result()
        assert address == sock.getsockname()
        self._stack.enter_context(far.get_socket(True)).settimeout(PATIENCE)
        return near, far


def _host_of(listening: SSLConnection) -> str:
    host: str = listening.get_socket(True).getsockname()[0]
    return host


def demux_of(listening: SSLConnection) -> router.UDPDemux:
    reception = listening._reception
    assert reception is not None
    demux = reception._demux
    assert isinstance(demux, router.UDPDemux)
    return demux


def routed(far: SSLConnection) -> RoutedSocket:
    sock = far.get_socket(True)
    assert isinstance(sock, RoutedSocket)
    return sock


def wait_until_waiting(listening: SSLConnection, threads: int) -> None:
    wait_for(lambda: len(demux_of(listening)._waiters) == threads)


# --- which one ----------------------------------------------------------------------------------------------------


def test_force_routing_demux_tells_whether_it_switched_and_can_be_taken_back() -> None:
    assert demultiplexers.UDPDemux is osnet.UDPDemux
    assert dtls.force_routing_demux()
    assert not dtls.force_routing_demux()
    dtls.reset_default_demux()
    assert demultiplexers.UDPDemux is osnet.UDPDemux
    dtls.reset_default_demux()
    assert dtls.force_routing_demux()
    dtls.reset_default_demux()


def test_a_socket_that_listens_already_keeps_its_way(bound: socket.socket, pem: bytes) -> None:
    listening = SSLConnection(bound, pem, pem, server_side=True)
    bound.settimeout(0)
    assert listening.accept() is None
    dtls.force_routing_demux()
    try:
        with Peers(listening) as peers:
            _, far = peers.new()
            assert type(far.get_socket(True)) is socket.socket
    finally:
        dtls.reset_default_demux()


# --- who sees to the listening socket --------------------------------------------------------------------------------


def test_accept_returns_none_after_a_datagram_was_only_forwarded(listening: SSLConnection) -> None:
    with Peers(listening) as peers:
        near, far = peers.new()
        near.write(b"forward me")
        assert listening.accept() is None
        assert select.select([far.get_socket(True)], [], [], PATIENCE)[0]
        assert far.read() == b"forward me"


def test_a_thread_that_reads_needs_nobody_in_accept(listening: SSLConnection) -> None:
    with Peers(listening) as peers:
        near, far = peers.new()
        for number in range(20):
            reading = Worker(far.read)
            near.write(b"%d" % number)
            assert reading.result() == b"%d" % number


def test_threads_that_wait_see_to_each_other_in_whatever_order_messages_come(
    listening: SSLConnection,
) -> None:
    """One of them leads; when it has its message, it rings for the next."""
    with Peers(listening) as peers:
        pairs = [peers.new() for _ in range(6)]
        for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]):
            readers = [Worker(far.read) for _, far in pairs]
            wait_until_waiting(listening, len(pairs))
            for index in order:
                pairs[index][0].write(b"for %d" % index)
                assert readers[index].result() == b"for %d" % index
        assert demux_of(listening)._leader is None


def test_a_leader_whose_time_is_up_rings_for_the_next(listening: SSLConnection) -> None:
    with Peers(listening) as peers:
        (_, leading), (near, following) = peers.new(), peers.new()
        leading.get_socket(True).settimeout(0.1)
        leader = Worker(raised, leading.read)
        wait_until_waiting(listening, 1)
        reader = Worker(following.read)
        assert leader.result().errno == err.ERR_READ_TIMEOUT
        near.write(b"for the follower")
        assert reader.result() == b"for the follower"


def test_a_thread_in_accept_leaves_the_others_to_see_to_themselves(listening: SSLConnection) -> None:
    with Peers(listening) as peers:
        near, far = peers.new()
        sock = listening.get_socket(True)
        sock.settimeout(0)
        assert listening.accept() is None  # as it is once if others have taken what was there
        sock.settimeout(0.1)
        accepting = Worker(listening.accept)
        wait_until_waiting(listening, 1)
        reader = Worker(far.read)
        assert accepting.result() is None
        near.write(b"for the reader")
        assert reader.result() == b"for the reader"


def test_a_reader_that_finds_a_new_client_wakes_the_thread_in_accept(
    listening: SSLConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Peers(listening) as peers, udp() as sock:
        _, far = peers.new()
        demux = demux_of(listening)
        accepting = Worker(accept, listening)
        wait_until_waiting(listening, 1)
        # The thread in accept is woken, but always comes too late.
        monkeypatch.setattr(demux._listener, "receive", lambda: None)
        reading = Worker(raised, far.read)
        wait_until_waiting(listening, 2)
        with demux._lock:
            demux._leader = next(waiter for waiter in demux._waiters if waiter.sock is not None)
            demux._put(far.get_socket(True).route, demux.bell)  # type: ignore[attr-defined]
        near = SSLConnection(sock, do_handshake_on_connect=False)
        near.connect(listening.get_socket(True).getsockname())
        connecting = Worker(near.do_handshake)
        other, address = accepting.result()
        connecting.result()
        assert address == sock.getsockname()
        other.get_socket(True).close()
        far.get_socket(True).close()
        assert reading.result().errno == errno.EBADF


def test_accept_does_not_wait_for_a_datagram_that_another_thread_took_after_select_had_told_of_it(
    listening: SSLConnection,
) -> None:
    """As ``socketserver`` has it: a server's loop selects, and handlers read in threads of their own."""
    with Peers(listening) as peers:
        near, far = peers.new()
        sock = listening.get_socket(True)
        sock.settimeout(None)
        near.write(b"for the handler")
        assert select.select([sock], [], [], PATIENCE)[0]
        assert far.read() == b"for the handler"
        assert Worker(listening.accept).result() is None


def test_closing_a_socket_in_another_thread_ends_its_reading_and_passes_the_lead_on(
    listening: SSLConnection,
) -> None:
    with Peers(listening) as peers:
        (_, closed), (near, far) = peers.new(), peers.new()
        leader = Worker(raised, closed.read)
        wait_until_waiting(listening, 1)
        reader = Worker(far.read)
        wait_until_waiting(listening, 2)
        closed.get_socket(True).close()
        assert leader.result().errno == errno.EBADF
        near.write(b"still here")
        assert reader.result() == b"still here"


# --- what is forwarded, and what is not ----------------------------------------------------------------------------


def test_a_client_that_begins_anew_at_its_address_is_accepted_and_the_old_association_ends(
    listening: SSLConnection,
) -> None:
    with Peers(listening) as peers, udp() as sock:
        near, old = peers.new(sock)
        near.write(b"old")
        assert old.read() == b"old"
        reading = Worker(raised, old.read)
        near, far = peers.new(sock)
        near.write(b"new")
        assert far.read() == b"new"
        assert isinstance(reading.result().__cause__, AssociationReplaced)
        far.write(b"answer")
        assert near.read() == b"answer"


def test_until_the_new_handshake_is_complete_the_old_association_goes_on(listening: SSLConnection) -> None:
    with Peers(listening) as peers, udp() as sock:
        near, old = peers.new(sock)
        # Another handshake begins, whose cookie is good, and which is never gone on with.
        sock.send(whole(hello_body(extensions=OFFER)))
        listening.get_socket(True).settimeout(0.05)
        assert listening.accept() is None
        cookie = cookie_in(sock.recv(65535))
        listening._do_handshake_on_connect = False
        sock.send(whole(hello_body(cookie=cookie, extensions=OFFER), message_sequence=1, record_sequence=1))
        far, _ = accept(listening)
        near.write(b"the old one lives")
        assert old.read() == b"the old one lives"
        far.get_socket(True).close()
        near.write(b"and goes on")
        assert old.read() == b"and goes on"


def test_a_forged_hello_from_a_clients_address_changes_nothing(listening: SSLConnection) -> None:
    with Peers(listening) as peers, udp() as sock:
        near, far = peers.new(sock)
        for _ in range(3):
            sock.send(whole(hello_body(extensions=OFFER)))
        near.write(b"mine")
        assert far.read() == b"mine"
        listening.get_socket(True).settimeout(0)
        assert listening.accept() is None
        assert listening._reception is not None
        assert listening._reception.statistics["cookies_sent"] == 4


def test_a_hello_that_the_network_repeats_is_not_a_new_client(listening: SSLConnection) -> None:
    repeated: list[bytes] = []
    with Peers(listening) as peers, udp() as sock:
        take = demux_of_when_listening(listening).take

        def keep(until: float) -> Any:
            taken = take(until)
            if taken is not None and taken[0]:
                repeated.append(taken[0])
            return taken

        demux_of(listening).take = keep  # type: ignore[method-assign]
        near, far = peers.new(sock)
        assert len(repeated) == 2
        sock.send(repeated[1])
        near.write(b"mine")
        assert far.read() == b"mine"
        listening.get_socket(True).settimeout(0)
        assert listening.accept() is None
        assert listening._reception is not None
        assert listening._reception.statistics["dropped_repeated_hello"] == 1
        # Nor when the association has ended: nobody would answer.
        far.get_socket(True).close()
        sock.send(repeated[1])
        assert listening.accept() is None
        assert listening._reception.statistics["dropped_repeated_hello"] == 2


def demux_of_when_listening(listening: SSLConnection) -> router.UDPDemux:
    sock = listening.get_socket(True)
    timeout = sock.gettimeout()
    sock.settimeout(0)
    assert listening.accept() is None
    sock.settimeout(timeout)
    return demux_of(listening)


def test_what_a_strangers_address_sends_reaches_no_peer(listening: SSLConnection) -> None:
    with Peers(listening) as peers, udp() as stranger, udp() as sock:
        near, far = peers.new(sock)
        inner = far.get_socket(True).internal_address  # type: ignore[attr-defined]
        stranger.sendto(b"past the router", inner)  # it is connected to the router alone
        stranger.sendto(b"\x17\xfe\xfd", listening.get_socket(True).getsockname())
        near.write(b"mine")
        assert far.read() == b"mine"
        assert far._driver is not None
        assert not far._driver.connection.statistics


def test_what_is_forwarded_is_told_at_debug_level_without_its_content(
    listening: SSLConnection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dtls")
    with Peers(listening) as peers, udp() as sock:
        near, far = peers.new(sock)
        caplog.clear()
        near.write(b"secret")
        assert listening.accept() is None
        assert far.read() == b"secret"
        (record,) = [record for record in caplog.records if "forward" in record.message]
        assert record.levelno == logging.DEBUG
        assert str(sock.getsockname()) in record.message
        assert "secret" not in caplog.text


def test_a_datagram_that_finds_no_room_is_counted(listening: SSLConnection) -> None:
    with Peers(listening) as peers:
        _, far = peers.new()
        demux = demux_of(listening)
        route = routed(far).route
        route.target = ("192.0.2.1", 9)  # a socket bound to loopback cannot send there
        demux._put(route, b"lost")
        assert demux.statistics["dropped_not_forwarded"] == 1


# --- lifetimes ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("demux")
def test_a_client_whose_socket_was_closed_can_come_again_though_somebody_holds_its_association(
    bound: socket.socket, pem: bytes
) -> None:
    listening = SSLConnection(bound, pem, pem, server_side=True)
    with Peers(listening) as peers, udp() as sock:
        _, held = peers.new(sock)
        held.get_socket(True).close()
        near, far = peers.new(sock)
        near.write(b"again")
        assert far.read() == b"again"
        assert held.get_socket(True).fileno() < 0


def test_accepted_sockets_outlive_the_listening_one(listening: SSLConnection) -> None:
    with Peers(listening) as peers, udp() as newcomer:
        near, far = peers.new()
        address = listening.get_socket(True).getsockname()
        listening.get_socket(True).close()
        newcomer.sendto(whole(hello_body(extensions=OFFER)), address)
        near.write(b"still here")
        assert far.read() == b"still here"
        far.write(b"so am I")
        assert near.read() == b"so am I"
        assert far.get_socket(True).getsockname() == address
        assert demux_of(listening).statistics["dropped_not_listening"] == 1  # it gets no answer


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_nothing_is_left_when_the_last_peer_has_gone(listening: SSLConnection) -> None:
    before = descriptors()
    with Peers(listening) as peers:
        for _ in range(3):
            peers.new()
        assert len(descriptors()) == len(before) + 8  # two for each peer, two of the router
    assert descriptors() == before
    assert not demux_of(listening)._routes


def test_a_routed_socket_that_is_not_closed_is_warned_of_and_forgotten(listening: SSLConnection) -> None:
    before = descriptors()
    with udp() as sock:
        connecting = Worker(SSLConnection(sock).connect, listening.get_socket(True).getsockname())
        far, _ = accept(listening)
        connecting.result()
        del connecting
        with pytest.warns(ResourceWarning):
            del far
    assert descriptors() == before
    assert not demux_of(listening)._routes


def test_a_router_is_in_no_reference_cycle(routing: None, bound: socket.socket, pem: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        with Peers(listening) as peers:
            near, far = peers.new()
            near.write(b"here")
            assert far.read() == b"here"
        gone = weakref.ref(demux_of(listening))
        del peers, near, far, listening
        assert gone() is None
    finally:
        gc.enable()


# --- the socket that accept() gives ----------------------------------------------------------------------------------


@pytest.fixture(params=HOSTS)
def plain(
    request: pytest.FixtureRequest, routing: None, pem: bytes
) -> Iterator[tuple[socket.socket, RoutedSocket]]:
    """Plain UDP sockets connected to each other after unwrap; the second one is routed."""
    with udp(request.param, bound=True) as bound:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        with Peers(listening) as peers:
            near, far = peers.new()
            unwrapping = Worker(near.unwrap)
            assert raised(far.read).args[0] == err.SSL_ERROR_ZERO_RETURN
            far.unwrap()
            yield unwrapping.result(), routed(far)


def test_a_routed_socket_sends_and_receives_as_a_connected_udp_socket_does(
    plain: tuple[socket.socket, RoutedSocket],
) -> None:
    near, far = plain
    peer = near.getsockname()
    assert far.getpeername() == peer
    assert far.family == near.family
    assert far.getsockname() == near.getpeername()
    assert far.send(b"send") == 4
    far.sendall(memoryview(b"sendall"))
    assert far.sendto(b"sendto", peer) == 6
    assert far.sendto(b"sendto", 0, peer) == 6
    assert far.sendmsg([b"send", bytearray(b"msg")]) == 7
    assert [near.recv(100) for _ in range(5)] == [b"send", b"sendall", b"sendto", b"sendto", b"sendmsg"]
    for number in range(6):
        near.send(b"%d and more" % number)
    buffer = bytearray(10)
    assert far.recv(100, socket.MSG_PEEK) == b"0 and more"
    assert far.recv(1) == b"0"
    assert far.recvfrom(5) == (b"1 and", peer)
    assert far.recv_into(buffer) == 10
    assert buffer == b"2 and more"
    assert far.recvfrom_into(buffer, 3) == (3, peer)
    assert far.recvmsg(100) == (b"4 and more", [], 0, peer)
    assert far.recvmsg(1) == (b"5", [], socket.MSG_TRUNC, peer)


def test_empty_datagrams_are_forwarded_too(plain: tuple[socket.socket, RoutedSocket]) -> None:
    near, far = plain
    near.send(b"")
    near.send(b"next")
    assert far.recv(10) == b""
    assert far.recv(10) == b"next"
    far.send(b"")
    assert near.recv(10) == b""


def test_a_routed_sockets_timeouts_are_those_of_sockets(plain: tuple[socket.socket, RoutedSocket]) -> None:
    near, far = plain
    far.settimeout(0.05)
    assert far.gettimeout() == far.timeout == 0.05
    assert far.getblocking()
    with pytest.raises(TimeoutError):
        far.recv(10)
    far.setblocking(False)
    assert far.gettimeout() == 0
    assert not far.getblocking()
    with pytest.raises(BlockingIOError):
        far.recv(10)
    with pytest.raises(ValueError, match="out of range"):
        far.settimeout(-1)
    far.setblocking(True)
    assert far.gettimeout() is None
    with pytest.raises(BlockingIOError):
        far.recv(10, socket.MSG_DONTWAIT)
    near.send(b"at last")
    assert far.recv(10) == b"at last"


def test_a_routed_socket_stays_connected_to_its_peer(plain: tuple[socket.socket, RoutedSocket]) -> None:
    near, far = plain
    with udp(near.getsockname()[0], bound=True) as other:
        assert raised(far.connect, other.getsockname()).errno == errno.EISCONN
        assert far.connect_ex(other.getsockname()) == errno.EISCONN
        assert raised(far.sendto, b"x", other.getsockname()).errno == errno.EISCONN
        assert raised(far.bind, other.getsockname()).errno == errno.EINVAL
    assert raised(far.dup).errno == errno.EOPNOTSUPP
    assert raised(far.sendmsg, [b"x"], [(socket.SOL_SOCKET, 1, b"")]).errno == errno.EOPNOTSUPP


def test_a_closed_routed_socket_says_so(plain: tuple[socket.socket, RoutedSocket]) -> None:
    _, far = plain
    far.close()
    far.close()
    assert far.fileno() == -1
    for operation in (
        lambda: far.recv(10),
        lambda: far.send(b"x"),
        far.getpeername,
        far.getsockname,
    ):
        assert raised(operation).errno == errno.EBADF


def test_select_tells_of_what_was_forwarded(plain: tuple[socket.socket, RoutedSocket]) -> None:
    near, far = plain
    near.send(b"one")
    near.send(b"two")
    far.setblocking(False)
    assert far.recv(10) == b"one"  # which looks at the listening socket, too
    assert far.recv(10) == b"two"
    assert not select.select([far], [], [], 0)[0]
