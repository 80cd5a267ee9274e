"""``DtlsSocket`` as the server of many clients: they fall silent, begin anew, and are many."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from dtls import err
from dtls.pydtls import wrapper_server
from dtls.wrapper import wrap_server
from tests.loopback import HOSTS, PATIENCE, Worker, relay
from tests.pydtls import raised, udp
from tests.wrapped import STEP, Clock, attempt, connected, half_open, listening, make_client, receive, step

if TYPE_CHECKING:
    from dtls.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("demux")


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(wrapper_server, "now", clock)
    return clock


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_silent_client_is_dropped_and_one_that_writes_is_not(pem: bytes, clock: Clock) -> None:
    with (
        listening(pem, client_timeout=60) as server,
        connected(server) as silent,
        connected(server) as talker,
    ):
        clock.time += 59
        step(server)
        assert len(server._clients) == 2
        talker.send(b"here")
        receive(server)
        descriptor = next(
            conn for conn in server._clients if conn.getpeername() == silent.getsockname()
        ).fileno()
        clock.time += 1
        step(server)
        (conn,) = server._clients
        assert conn.getpeername() == talker.getsockname()
        assert raised(os.fstat, descriptor).errno == errno.EBADF
        assert raised(silent.recv, 1).args == (err.SSL_ERROR_ZERO_RETURN, [])
        assert server.sendto(b"x", silent.getsockname()) == 0
        clock.time += 59
        step(server)
        assert server._clients == {}


def test_a_client_whose_message_waits_is_not_silent(pem: bytes, clock: Clock) -> None:
    with listening(pem, client_timeout=60) as server, connected(server) as client:
        client.send(b"the server was busy")
        clock.time += 1000
        assert receive(server)[0][0] == b"the server was busy"
        assert len(server._clients) == 1


def test_clients_stay_for_ever_unless_there_is_a_limit(pem: bytes, clock: Clock) -> None:
    with listening(pem) as server, connected(server):
        clock.time += 1e9
        step(server)
        assert len(server._clients) == 1


def test_a_client_that_does_not_complete_its_handshake_is_dropped_too(pem: bytes, clock: Clock) -> None:
    with listening(pem, client_timeout=60) as server, half_open(server):
        clock.time += 61
        step(server)
        assert server._clients == {}


def test_the_handshake_timeout_is_when_flights_are_repeated(pem: bytes) -> None:
    for timeout, least, most in ((100, 50, 100), (None, 0, 1)):
        with listening(pem, handshake_timeout=timeout) as server, half_open(server):
            (conn,) = server._clients
            assert least <= conn.get_timeout().total_seconds() <= most
        with udp(bound=True) as silent, make_client(handshake_timeout=timeout) as client:
            client.connect(silent.getsockname())
            assert least <= client.get_timeout().total_seconds() <= most


def test_a_flight_is_repeated_though_nothing_comes_and_no_timeout_is_set(pem: bytes) -> None:
    lost = []

    def tap(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender == "server" and index == 1:  # behind the HelloVerifyRequest
            lost.append(datagram)
            return []
        return [datagram]

    with (
        listening(pem, handshake_timeout=STEP) as server,
        relay(server.getsockname(), tap) as address,
        make_client(handshake_timeout=100) as client,
    ):
        server.settimeout(None)
        writing = Worker(client.sendto, b"x", address)
        assert receive(server)[0][0] == b"x"
        assert writing.result() == 1
        assert lost


# --- clients that begin anew -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("wildcard", [False, True])
def test_a_client_may_begin_anew_from_the_same_address(pem: bytes, host: str, wildcard: bool) -> None:
    with wrap_server(udp(host), certfile=pem) as server:
        server.bind((("::" if ":" in host else "0.0.0.0") if wildcard else host, 0))  # noqa: S104 - all is asked for
        server.listen(0)
        server.settimeout(STEP)
        place = (host, server.getsockname()[1])
        with make_client(host) as client:
            assert attempt(server, client, place) is None
            client.send(b"first")
            ((_, address),) = receive(server)
            (old,) = server._clients
            client._sock.close()  # without a word
        for number in (b"second", b"third"):
            with make_client(host, handshake_timeout=100) as client:  # nothing is repeated
                client.bind(address)
                assert attempt(server, client, place) is None
                client.send(number)
                assert receive(server) == [(number, address)]
                assert server.sendto(b"back", address) == 4
                assert client.recv(10) == b"back"
                assert len(server._clients) == 1
                assert old.fileno() == -1
                client._sock.close()


def test_a_client_may_begin_anew_in_the_midst_of_a_handshake(pem: bytes) -> None:
    with listening(pem) as server:
        with half_open(server) as client:
            address = client.getsockname()
            client._sock.close()
        with make_client(handshake_timeout=100) as client:
            client.bind(address)
            assert attempt(server, client) is None
            client.send(b"x")
            assert receive(server) == [(b"x", address)]
            assert len(server._clients) == 1


def test_a_client_may_begin_anew_with_a_hello_in_fragments(pem: bytes) -> None:
    with listening(pem) as server:
        with connected(server) as client:
            address = client.getsockname()
            client._sock.close()
        with make_client(handshake_timeout=100, user_mtu=236) as client:
            client.bind(address)
            assert attempt(server, client) is None
            client.send(b"x")
            assert receive(server) == [(b"x", address)]


def test_a_forged_hello_does_not_end_an_association(pem: bytes) -> None:
    """Somebody who uses a client's address does not see the cookie that is sent there."""
    with udp(bound=True) as witness, make_client() as other:
        other.connect(witness.getsockname())
        hello = witness.recv(2000)
    with listening(pem) as server, connected(server) as client:
        for forged in (hello, hello, hello[:-1], hello[:30]):
            client._sock._plain.send(forged)
        client.send(b"still here")
        assert receive(server)[0][0] == b"still here"
        assert server.sendto(b"so am I", client.getsockname())
        assert client.recv(100) == b"so am I"


def test_a_repeated_hello_does_not_begin_a_handshake_anew(pem: bytes) -> None:
    """A client that lost our flight repeats its hello, cookie and all."""
    kept = {}

    def tap(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender == "server" and index == 1:
            return []
        if sender == "client" and index == 1:
            kept["hello"] = datagram
        return [datagram]

    with (
        listening(pem, handshake_timeout=100) as server,
        relay(server.getsockname(), tap) as address,
        make_client(handshake_timeout=STEP) as client,
    ):
        client.connect(address)
        shaking = Worker(client.do_handshake)
        conns: set[Any] = set()
        while shaking.is_alive():
            step(server)
            conns.update(server._clients)
        shaking.result()
        assert kept
        assert len(conns) == 1


def test_a_client_that_a_client_s_socket_came_upon_is_accepted(pem: bytes) -> None:
    """With the routing demultiplexer, whoever reads for a client takes what is there for the others, too."""
    with listening(pem) as server, connected(server), make_client() as other:
        other.settimeout(0)
        other.connect(server.getsockname())
        deadline = time.monotonic() + PATIENCE
        while len(server._clients) == 1:
            assert time.monotonic() < deadline
            assert raised(other.do_handshake).args[0] == err.SSL_ERROR_WANT_READ
            (conn,) = server._clients
            assert raised(conn.recv, 1).args[0] == err.SSL_ERROR_WANT_READ
            step(server)


# --- many ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_hundreds_of_clients_beyond_the_limit_of_select(pem: bytes) -> None:
    import resource  # noqa: PLC0415 - not on Windows

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip("too few descriptors are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2048), limits[1]))
    count = 200
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        server = stack.enter_context(listening(pem))
        with contextlib.ExitStack() as fillers:
            while (filler := os.dup(0)) < 1024:
                fillers.callback(os.close, filler)
            fillers.callback(os.close, filler)
            clients = [stack.enter_context(make_client()) for _ in range(count)]

            def connect() -> None:
                for client in clients:
                    client.connect(server.getsockname())
                    client.send(b"hello")

            connecting = Worker(connect)
            received = receive(server, count)
            connecting.result()
        assert max(conn.fileno() for conn in server._clients) > 1024
        assert {address for _, address in received} == {client.getsockname() for client in clients}
        for client in clients:
            client.send(b"at once")
        assert len({address for _, address in receive(server, count)}) == count
        for client in clients:
            assert server.sendto(b"you", client.getsockname()) == 3
            assert client.recvfrom(10) == (b"you", server.getsockname())
