"""``DtlsSocket`` as client and as server. Importing it patches the ``ssl`` module, which other tests do not mind."""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from dtls import err
from dtls.wrapper import DtlsSocket, wrap_server
from tests.loopback import HOSTS, PATIENCE, Worker, needs_ipv6
from tests.pydtls import raised, run_python, udp
from tests.wrapped import LARGEST, STEP, connected, inside, listening, make_client, pump, receive

if TYPE_CHECKING:
    from dtls.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("demux")


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


# --- messages --------------------------------------------------------------------------------------------------------


def test_importing_it_is_enough_to_patch_ssl() -> None:
    run_python("import dtls.wrapper, ssl; ssl.PROTOCOL_DTLS, ssl.wrap_socket")


@pytest.mark.parametrize("host", HOSTS)
def test_messages_go_to_and_fro(pem: bytes, host: str) -> None:
    with listening(pem, host) as server, make_client(host) as client:
        sending = Worker(client.sendto, "grüße", server.getsockname())
        ((message, address),) = receive(server)
        assert sending.result() == 7
        assert (message, address) == ("grüße".encode(), client.getsockname())
        assert len(address) == (4 if ":" in host else 2)
        assert server.sendto(b"to four parts or two", address) == 20
        assert client.recvfrom(LARGEST) == (b"to four parts or two", server.getsockname())
        assert server.sendto("to two", address[:2]) == 6
        assert client.recvfrom(LARGEST)[0] == b"to two"
        assert server.sendto(b"x", (address[0], 1)) == server.sendto(b"x", ("localhost", address[1])) == 0
        assert client.sendto(b"again", ("the address is known", 1)) == client.send(b"again") == 5
        assert [message for message, _ in receive(server, 2)] == [b"again", b"again"]


@needs_ipv6
def test_an_address_may_be_written_in_other_ways(pem: bytes) -> None:
    with listening(pem, "::1") as server, connected(server) as client:
        port = client.getsockname()[1]
        for address in (("0:0:0:0:0:0:0:1", port), ("::1", port, 7, 0), ["::1", port]):
            assert server.sendto(b"x", address) == 1


def test_a_client_that_gets_nothing_times_out_with_a_bare_error(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as client:
        client.settimeout(STEP)
        for timeout in (STEP, 0):
            client.settimeout(timeout)
            error = raised(client.recvfrom, 1)
            assert type(error) is socket.timeout
            assert error.args == ()
        server.settimeout(0)
        assert raised(server.recvfrom, 1).args == ()
        assert client.gettimeout() == client.timeout == server.gettimeout() == server.timeout == 0
        server.setblocking(True)
        assert server.gettimeout() is None
        with pytest.raises(ValueError, match="range"):
            server.settimeout(-1)
        for end in (client, server):
            with pytest.raises(ValueError, match="flags"):
                end.recvfrom(1, 1)


def test_the_end_is_told_to_a_client(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as client:
        server.close()
        assert raised(client.recvfrom, 1).args == (err.SSL_ERROR_ZERO_RETURN, [])


def test_the_rest_of_a_message_is_served_though_select_is_silent(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as client:
        server.settimeout(PATIENCE)
        client.send(bytes(2500))
        address = client.getsockname()
        received = [server.recvfrom(1000) for _ in range(3)]
        assert received == [(bytes(1000), address), (bytes(1000), address), (bytes(500), address)]


def test_what_a_client_has_buffered_is_found_when_nothing_else_is_there(pem: bytes) -> None:
    with listening(pem) as server, connected(server):
        (conn,) = server._clients
        conn._connection._driver.give_back(b"read by somebody else")
        server.settimeout(PATIENCE)
        assert server.recvfrom(LARGEST)[0] == b"read by somebody else"


def test_a_server_takes_turns(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as one, connected(server) as other:
        for _ in range(3):
            one.send(b"one")
            other.send(b"other")
        senders = [message for message, _ in receive(server, 6)]
        assert sorted(senders[:2]) == sorted(senders[2:4]) == [b"one", b"other"]


def test_an_unreachable_or_silent_host_is_a_write_timeout() -> None:
    with udp(bound=True) as silent:
        address = silent.getsockname()
        with make_client() as client:
            client.settimeout(STEP)
            client.connect(address)
            error = raised(client.write, "x")
            assert error.errno == err.ERR_WRITE_TIMEOUT
            assert not hasattr(error, "errqueue")
            assert client.gettimeout() == STEP
    with make_client(handshake_timeout=0.005) as client:
        client.settimeout(STEP)
        client.connect(address)
        error = raised(client.write, "x")
        assert error.errno == err.ERR_WRITE_TIMEOUT
        assert not hasattr(error, "errqueue")
    with make_client(handshake_timeout=0.005) as client:
        client.settimeout(None)
        client.connect(address)
        assert raised(client.write, "x").errno == err.ERR_PORT_UNREACHABLE


def test_a_client_waits_for_a_server_that_is_about_to_start(pem: bytes) -> None:
    with udp(bound=True) as early:
        address = early.getsockname()
    with make_client(handshake_timeout=STEP) as client:
        writing = Worker(client.sendto, b"early", address)
        with wrap_server(udp(), certfile=pem) as server:
            server.bind(address)
            server.listen(0)
            server.settimeout(STEP)
            assert receive(server)[0][0] == b"early"
            assert writing.result() == 5


def epoll_of(server: DtlsSocket) -> int:
    descriptor: int = getattr(inside(server)._selector, "fileno", server.fileno)()
    return descriptor


@pytest.mark.parametrize("host", HOSTS)
def test_one_call_is_enough_for_a_message_that_is_there(pem: bytes, host: str) -> None:
    with listening(pem, host) as server, connected(server) as client:
        for timeout in (PATIENCE, 0, None):
            server.settimeout(timeout)
            client.send(b"hello")
            assert server.recvfrom(LARGEST) == (b"hello", client.getsockname())


def test_a_client_that_is_accepted_in_listen_is_served(pem: bytes) -> None:
    with wrap_server(udp(bound=True), certfile=pem) as server, make_client() as client:
        client.settimeout(0)
        client.connect(server.getsockname())
        deadline = time.monotonic() + PATIENCE
        while not server._clients:
            assert time.monotonic() < deadline
            assert raised(client.do_handshake).args[0] == err.SSL_ERROR_WANT_READ
            server.listen(0)
        server.settimeout(STEP)
        client.settimeout(PATIENCE)
        writing = Worker(client.write, b"early")
        assert receive(server)[0][0] == b"early"
        writing.result()


# --- the end ---------------------------------------------------------------------------------------------------------


def test_closing_a_server_tells_all_clients_and_closes_all_sockets(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as one, connected(server) as other:
        descriptors = [
            server.fileno(),
            epoll_of(server),
            *(conn.fileno() for conn in server._clients),
        ]
        server.close()
        for descriptor in descriptors:
            assert raised(os.fstat, descriptor).errno == errno.EBADF
        for client in (one, other):
            assert raised(client.read, 1).args == (err.SSL_ERROR_ZERO_RETURN, [])
        server.close()
        assert "closed" in repr(server)
        with pytest.raises(ValueError, match="write"):
            server.write(b"x")
        for operation, arguments in ((server.recvfrom, (1,)), (server.sendto, (b"x", one.getsockname()))):
            assert raised(operation, *arguments).errno == errno.EBADF


def test_closing_a_client_says_so_to_the_server_and_does_not_wait(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as client:
        client.settimeout(None)  # the server does not answer now
        descriptor = client.fileno()
        client.close()
        assert raised(os.fstat, descriptor).errno == errno.EBADF
        client.close()
        with pytest.raises(ValueError, match="write"):
            client.write(b"x")
        pump(server, lambda: not server._clients)


def test_closing_what_was_never_used() -> None:
    for end in (DtlsSocket(), DtlsSocket(server_side=True), DtlsSocket(None)):
        with end:
            assert end.family == socket.AF_INET
        assert end.fileno() == -1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends when its timeout has passed")
def test_closing_a_server_ends_another_thread_s_wait(pem: bytes) -> None:
    with listening(pem) as server, connected(server):
        server.settimeout(None)
        waiting = Worker(raised, server.recvfrom, 1)
        pump_until = time.monotonic() + PATIENCE
        while not inside(server).waiting:
            assert time.monotonic() < pump_until
        descriptor = server.fileno()
        server.close()
        assert waiting.result().errno == errno.EBADF
        assert raised(os.fstat, descriptor).errno == errno.EBADF


def test_what_is_not_closed_is_told_and_there_is_no_reference_cycle(pem: bytes) -> None:
    with listening(pem) as server, connected(server):
        pass
    gc.collect()
    gc.disable()
    try:
        server = wrap_server(udp(bound=True), certfile=pem, handshake_timeout=1)
        server.listen(0)
        client = make_client(handshake_timeout=1)
        client.connect(server.getsockname())
        gone = weakref.ref(server), weakref.ref(client)
        with pytest.warns(ResourceWarning, match="unclosed"):
            del server
        with pytest.warns(ResourceWarning, match="unclosed"):
            del client
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


def test_unknown_attributes_are_those_of_the_wrapped_socket() -> None:
    with make_client() as client:
        assert client.getsockopt == client._sock.getsockopt
        assert client.proto == 0
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = client.no_such_thing
    with pytest.raises(AttributeError, match="bind"):
        _ = DtlsSocket.__new__(DtlsSocket).bind


def test_a_stream_socket_is_refused_and_left_open() -> None:
    with socket.socket() as stream:
        with pytest.raises(err.InvalidSocketError):
            DtlsSocket(stream)
        assert stream.fileno() >= 0


def test_a_connected_socket_begins_at_once(pem: bytes) -> None:
    with listening(pem) as server, udp() as plain:
        plain.connect(server.getsockname())
        with DtlsSocket(plain, user_mtu=600) as client:
            sending = Worker(client.sendto, b"x", server.getsockname())
            assert receive(server)[0][0] == b"x"
            assert sending.result() == 1


def test_a_server_must_listen_first(pem: bytes) -> None:
    with wrap_server(udp(bound=True), certfile=pem) as server, udp() as stranger:
        stranger.sendto(b"x", server.getsockname())
        with pytest.raises(ValueError, match="listen"):
            server.recvfrom(1)
