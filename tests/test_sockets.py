"""DTLS sockets over real UDP: blocking, time, errors, closing, and several threads at once."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import select
import signal
import socket
import ssl
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import dtls
from dtls import (
    HandshakeTimeout,
    MessageTooLarge,
    PeerUnreachable,
    SSLCertVerificationError,
    SSLError,
    SSLTimeoutError,
    SSLWantReadError,
    SSLWantWriteError,
    SSLZeroReturnError,
)
from dtls.certificates import CertificateAuthority
from dtls.driver import Driver
from dtls.kernel import wait_until_ready
from dtls.servers import DTLSServerSocket, create_server
from dtls.sockets import DTLSSocket, create_connection
from dtls.wire import DTLS_1_2, ContentType, build_record

from .loopback import HOSTS, PATIENCE, EchoServer, Worker, needs_ipv6, pair, relay, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dtls.certificates import IssuedCertificate
    from dtls.context import Context


@pytest.fixture
def ends(client: Context, server: Context) -> Iterator[tuple[DTLSSocket, DTLSSocket]]:
    """Both ends of an association."""
    near, far = pair(client, server)
    with near, far:
        yield near, far


waits_in_recv = pytest.mark.skipif(os.name != "posix", reason="nobody waits in recv here")


def udp(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


# --- ways to connect -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_and_a_server_talk(client: Context, server: Context, host: str) -> None:
    near, far = pair(client, server, host)
    with near, far:
        assert near.send(b"hello") == 5
        assert far.recv() == b"hello"
        assert far.send(bytearray(b"well met")) == 8
        assert near.recv(100) == b"well met"
        assert near.getpeername() == far.getsockname()
        far.send(memoryview(b"again"))
        assert near.recvfrom() == (b"again", far.getsockname())


def test_create_connection_finds_the_server_by_name(client: Context, server: Context) -> None:
    with (
        EchoServer(server) as echo,
        create_connection(("localhost", echo.address[1]), 5, context=client) as sock,
    ):
        assert sock.server_hostname == "localhost"
        assert sock.gettimeout() == 5
        sock.sendall(b"hello")
        assert sock.recv() == b"hello"


def test_create_connection_begins_at_the_source_address_it_is_given(client: Context, server: Context) -> None:
    with udp() as free:
        port = free.getsockname()[1]
    with (
        EchoServer(server) as echo,
        create_connection(echo.address, 5, ("127.0.0.1", port), context=client) as sock,
    ):
        assert sock.getsockname() == ("127.0.0.1", port)


def test_create_connection_tries_the_addresses_of_a_name_in_turn(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EchoServer(server) as echo, udp() as dead:
        nowhere = dead.getsockname()
        dead.close()

        def two_addresses(host: str, port: int, **_: Any) -> list[Any]:
            return [
                (socket.AF_INET, socket.SOCK_DGRAM, 17, "", address) for address in (nowhere, echo.address)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
        client.initial_retransmission_timeout = 0.1
        with create_connection(("localhost", 5684), 10, context=client) as sock:
            assert sock.getpeername() == echo.address
            sock.send(b"hello")
            assert sock.recv() == b"hello"


def test_create_connection_raises_the_last_error_when_no_address_answers(
    client: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with udp() as dead:
        nowhere = dead.getsockname()
    found = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", nowhere)] * 2
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    client.initial_retransmission_timeout = 0.1
    with pytest.raises(PeerUnreachable):
        create_connection(("localhost", 5684), 10, context=client)


def test_a_server_that_says_why_before_it_goes_is_told_by_what_it_said(client: Context) -> None:
    client.initial_retransmission_timeout = 0.1
    with udp() as server:
        server.settimeout(PATIENCE)
        connecting = Worker(lambda: create_connection(server.getsockname(), 10, context=client))
        _, address = server.recvfrom(2000)
        server.sendto(build_record(ContentType.ALERT, DTLS_1_2, 0, 0, b"\2\x31"), address)
    with pytest.raises(SSLError) as caught:
        connecting.result()
    assert not isinstance(caught.value, PeerUnreachable)
    assert "ACCESS_DENIED" in caught.value.reason


def test_a_timeout_too_short_for_a_second_refusal_tells_of_the_first(client: Context) -> None:
    with udp() as dead:
        nowhere = dead.getsockname()
    with pytest.raises(SSLTimeoutError, match="nothing listens"):
        create_connection(nowhere, 0.3, context=client)


def test_create_connection_verifies_by_default(server: Context) -> None:
    with EchoServer(server) as echo, pytest.raises(SSLCertVerificationError):
        create_connection(echo.address, 10)


def test_an_unconnected_socket_is_wrapped_and_connects_later(client: Context, server: Context) -> None:
    plain = udp()
    with EchoServer(server) as echo, client.wrap_socket(plain, server_hostname="localhost") as sock:
        assert plain.fileno() == -1
        assert isinstance(sock, DTLSSocket)
        assert (sock.version(), sock.cipher(), sock.max_message_size) == (None, None, 0)
        with pytest.raises(OSError, match="not connected") as caught:
            sock.send(b"too early")
        assert caught.value.errno == errno.ENOTCONN
        sock.connect(echo.address)
        sock.send(b"hello")
        assert sock.recv() == b"hello"
        with pytest.raises(ValueError, match="connected already"):
            sock.connect(echo.address)


def test_a_connected_socket_is_wrapped_and_shakes_hands_at_once(client: Context, server: Context) -> None:
    plain = udp()
    plain.settimeout(7)
    with EchoServer(server) as echo:
        plain.connect(echo.address)
        with client.wrap_socket(plain, server_hostname="localhost") as sock:
            assert isinstance(sock, DTLSSocket)
            assert sock.version() == "DTLSv1.2"
            assert sock.gettimeout() == 7


def test_a_handshake_may_be_left_for_later(client: Context, server: Context) -> None:
    plain = udp()
    with EchoServer(server) as echo:
        plain.connect(echo.address)
        with client.wrap_socket(plain, do_handshake_on_connect=False, server_hostname="localhost") as sock:
            assert isinstance(sock, DTLSSocket)
            assert sock.version() is None
            sock.send(b"the first message completes it")
            assert sock.version() == "DTLSv1.2"
            assert sock.recv() == b"the first message completes it"


def test_a_server_may_be_wrapped_around_a_bound_socket(client: Context, server: Context) -> None:
    listener = server.wrap_socket(udp(), server_side=True)
    assert isinstance(listener, DTLSServerSocket)
    with listener:
        near, far = pair(client, server, listener=listener)
        with near, far:
            near.send(b"hello")
            assert far.recv() == b"hello"


def test_a_server_for_one_peer_may_be_wrapped_around_a_connected_socket(
    client: Context, server: Context
) -> None:
    here, there = udp(), udp()
    here.connect(there.getsockname())
    there.connect(here.getsockname())
    there.settimeout(PATIENCE)
    here.settimeout(PATIENCE)
    wrapping = Worker(lambda: server.wrap_socket(there, server_side=True))
    with client.wrap_socket(here, server_hostname="localhost") as near, wrapping.result() as far:
        assert isinstance(near, DTLSSocket)
        near.send(b"hello")
        assert far.recv() == b"hello"
        assert far.server_side
        assert not near.server_side


def test_what_cannot_be_wrapped_is_refused_and_left_alone(client: Context, server: Context) -> None:
    with socket.socket() as stream:
        with pytest.raises(ValueError, match="SOCK_DGRAM"):
            client.wrap_socket(stream, server_hostname="localhost")
        assert stream.fileno() >= 0
    with udp() as plain:
        with pytest.raises(ValueError, match="client"):
            server.wrap_socket(plain)
        with pytest.raises(ValueError, match="server"):
            client.wrap_socket(plain, server_side=True, server_hostname="localhost")
        with pytest.raises(ValueError, match="client mode"):
            server.wrap_socket(plain, server_side=True, server_hostname="localhost")
        with pytest.raises(ValueError, match="check_hostname"):
            client.wrap_socket(plain)
        assert plain.fileno() >= 0
    with pytest.raises(ValueError, match="client socket"):
        create_connection(("127.0.0.1", 1), context=server)


def test_connect_ex_gives_the_number_of_the_error(client: Context, server: Context) -> None:
    client.initial_retransmission_timeout = 0.1
    with udp() as dead:
        nowhere = dead.getsockname()
    with client.wrap_socket(udp(), server_hostname="localhost") as sock:
        assert isinstance(sock, DTLSSocket)
        sock.settimeout(PATIENCE)
        assert sock.connect_ex(nowhere) == errno.ECONNREFUSED
    with EchoServer(server) as echo, client.wrap_socket(udp(), server_hostname="localhost") as sock:
        assert isinstance(sock, DTLSSocket)
        assert sock.connect_ex(echo.address) == 0


# --- messages --------------------------------------------------------------------------------------------------------


def test_many_messages_come_whole_and_in_order(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    for start in range(0, 2000, 50):
        messages = [f"message {number}".encode() * (number % 40 + 1) for number in range(start, start + 50)]
        for message in messages:
            near.send(message)
        assert [far.recv() for _ in messages] == messages


def test_one_thread_sends_while_another_receives(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    count, window = 10_000, threading.Semaphore(64)

    def echo() -> None:
        for _ in range(count):
            far.send(far.recv())

    def send() -> None:
        for number in range(count):
            assert window.acquire(timeout=PATIENCE)  # as many on the way as loopback holds without loss
            near.send(number.to_bytes(4, "big"))

    echoing, sending = Worker(echo), Worker(send)
    for number in range(count):
        assert near.recv() == number.to_bytes(4, "big")
        window.release()
    sending.result()
    echoing.result()


def test_a_message_that_does_not_fit_the_buffer_can_still_be_fetched(
    ends: tuple[DTLSSocket, DTLSSocket],
) -> None:
    near, far = ends
    near.send(b"0123456789")
    near.send(b"next")
    for _ in range(2):
        with pytest.raises(MessageTooLarge, match="10 bytes") as caught:
            far.recv(9)
        assert caught.value.limit == 9
    assert far.pending() == 10
    assert far.recv(10) == b"0123456789"
    assert far.recv() == b"next"
    assert far.pending() == 0


def test_recv_into_fills_a_buffer(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    buffer = bytearray(b"." * 12)
    near.send(b"hello")
    assert far.recv_into(buffer) == 5
    assert buffer == b"hello......."
    near.send(b"0123456789")
    with pytest.raises(MessageTooLarge):
        far.recv_into(buffer, 9)
    assert far.recv_into(memoryview(buffer)[2:]) == 10
    assert buffer == b"he0123456789"
    near.close()
    assert far.recv_into(buffer) == 0


def test_a_message_over_the_limit_is_refused_with_the_limit(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    limit = near.max_message_size
    assert 1200 < limit < near.context.mtu
    with pytest.raises(MessageTooLarge, match=str(limit)) as caught:
        near.send(bytes(limit + 1))
    assert caught.value.limit == limit
    assert caught.value.errno == errno.EMSGSIZE
    assert near.send(bytes(limit)) == limit
    assert far.recv() == bytes(limit)


def test_an_empty_message_is_refused(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    with pytest.raises(ValueError, match="empty"):
        near.send(b"")
    near.send(b"not empty")
    assert far.recv() == b"not empty"


def test_flags_are_refused(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, _ = ends
    with pytest.raises(ValueError, match="flags"):
        near.recv(100, socket.MSG_PEEK)
    with pytest.raises(ValueError, match="flags"):
        near.send(b"x", socket.MSG_DONTWAIT)


def test_a_stray_datagram_does_not_disturb(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    for garbage in (b"", b"\0", b"\x15\xfe\xfd\0\0\0\0\0\0\0\0\0\2\2\x28", b"\x17\xfe\xfd\0\1" + bytes(60)):
        near._sock.send(garbage)  # as if somebody had forged it
    near.send(b"hello")
    assert far.recv() == b"hello"


class FullSocket:
    """A socket whose send buffer is full until ``error`` says otherwise."""

    error: OSError | None = BlockingIOError(errno.EAGAIN, "no room")

    def __init__(self, end: DTLSSocket, monkeypatch: pytest.MonkeyPatch) -> None:
        driver = end._driver
        assert driver is not None
        self._send = driver._send
        monkeypatch.setattr(driver, "_send", self.send)

    def send(self, datagram: bytes) -> int:
        if self.error is not None:
            raise self.error
        return self._send(datagram)


class SlowSocket:
    """A socket at which something happens before a thread waits in ``recv``."""

    before_waiting: Callable[[], object]

    def __init__(self, end: DTLSSocket, monkeypatch: pytest.MonkeyPatch) -> None:
        driver = end._driver
        assert driver is not None
        self._sock = driver.sock
        monkeypatch.setattr(driver, "sock", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        if self._sock.gettimeout():
            self.before_waiting()
        return self._sock.recv(size)


@pytest.fixture
def full(ends: tuple[DTLSSocket, DTLSSocket], monkeypatch: pytest.MonkeyPatch) -> FullSocket:
    return FullSocket(ends[0], monkeypatch)


def test_what_the_send_buffer_does_not_take_goes_out_when_there_is_room(
    ends: tuple[DTLSSocket, DTLSSocket], full: FullSocket
) -> None:
    near, far = ends
    near.settimeout(0)
    near.send(b"first")
    with pytest.raises(SSLWantWriteError) as caught:
        near.send(b"second")
    assert isinstance(caught.value, ssl.SSLWantWriteError)
    full.error = None
    near.send(b"third")
    assert [far.recv(), far.recv()] == [b"first", b"third"]


def test_a_send_buffer_that_stays_full_is_waited_for_no_longer_than_the_timeout(
    ends: tuple[DTLSSocket, DTLSSocket], full: FullSocket
) -> None:
    near, _ = ends
    near.settimeout(0.05)
    near.send(b"first")
    with pytest.raises(SSLTimeoutError, match="send buffer"):
        near.send(b"second")
    full.error = None


def test_a_message_that_the_network_refuses_later_does_not_block_those_after_it(
    ends: tuple[DTLSSocket, DTLSSocket], full: FullSocket
) -> None:
    near, far = ends
    near.settimeout(0)
    near.send(b"first")
    full.error = OSError(errno.EMSGSIZE, "Message too long")
    with pytest.raises(MessageTooLarge):
        near.send(b"second")
    full.error = None
    near.send(b"third")
    assert far.recv() == b"third"
    assert near.statistics["socket_emsgsize"] == 1


def test_an_error_of_the_network_is_the_senders_to_know(
    ends: tuple[DTLSSocket, DTLSSocket], full: FullSocket
) -> None:
    near, far = ends
    full.error = OSError(errno.ENETUNREACH, "Network is unreachable")
    with pytest.raises(OSError, match="unreachable") as caught:
        near.send(b"first")
    assert caught.value.errno == errno.ENETUNREACH
    full.error = None
    near.send(b"second")
    assert far.recv() == b"second"


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [1e-9, 1e-6, 0.000_999_9, 0.999_999_9])
def test_the_shortest_timeouts_are_no_waits_for_ever(
    ends: tuple[DTLSSocket, DTLSSocket], timeout: float
) -> None:
    _, far = ends
    far.settimeout(timeout)
    with pytest.raises(SSLTimeoutError):
        far.recv()


@pytest.mark.parametrize("timeout", [None, 1e300])
def test_the_longest_timeouts_are_no_errors(
    ends: tuple[DTLSSocket, DTLSSocket], timeout: float | None
) -> None:
    near, far = ends
    far.settimeout(timeout)
    receiving = Worker(far.recv)
    near.send(b"hello")
    assert receiving.result() == b"hello"


@waits_in_recv
def test_an_unwrapped_socket_waits_as_long_as_its_own_timeout_says(
    ends: tuple[DTLSSocket, DTLSSocket],
) -> None:
    near, far = ends
    near.settimeout(0.01)
    with pytest.raises(SSLTimeoutError):
        near.recv()
    near.settimeout(PATIENCE)
    answering = Worker(far.recv)
    with near.unwrap() as plain:
        assert answering.result() == b""
        assert plain.gettimeout() == PATIENCE


def test_signals_do_not_make_a_timeout_longer(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    _, far = ends
    far.settimeout(0.2)
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with pytest.raises(SSLTimeoutError, match=r"0\.2 s"):
            far.recv()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rung


def test_an_exception_out_of_a_signal_handler_leaves_a_socket_that_can_be_closed(
    ends: tuple[DTLSSocket, DTLSSocket],
) -> None:
    near, far = ends
    far.settimeout(PATIENCE)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            far.recv()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    near.send(b"hello")
    assert far.recv() == b"hello"
    driver = far._driver
    assert driver is not None
    far.close()
    assert driver.sock.fileno() == -1


def test_threads_with_timeouts_of_their_own_wait_no_longer_than_that(
    ends: tuple[DTLSSocket, DTLSSocket],
) -> None:
    near, far = ends
    driver = far._driver
    assert driver is not None
    far.settimeout(PATIENCE)
    patient = Worker(far.recv)
    wait_for(lambda: driver._waiting)
    far.settimeout(0.05)
    with pytest.raises(SSLTimeoutError, match=r"0\.05 s"):
        far.recv()
    near.send(b"hello")
    assert patient.result() == b"hello"


@pytest.mark.parametrize("end", ["unwrap", "close"])
def test_the_end_of_the_association_ends_the_recv_of_every_thread(
    ends: tuple[DTLSSocket, DTLSSocket], end: str
) -> None:
    near, far = ends
    driver = far._driver
    assert driver is not None
    far.settimeout(None)
    receiving = [Worker(far.recv) for _ in range(3)]
    wait_for(lambda: driver._waiting == 3)
    if end == "unwrap":
        near.unwrap().close()
    else:
        near.close()
    assert [thread.result() for thread in receiving] == [b""] * 3


def test_recv_gives_up_after_the_timeout_and_may_be_called_again(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    far.settimeout(0.05)
    began = time.monotonic()
    with pytest.raises(SSLTimeoutError, match="in time") as caught:
        far.recv()
    assert 0.05 <= time.monotonic() - began < 5
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, socket.timeout)
    assert isinstance(caught.value, ssl.SSLError)
    near.send(b"hello")
    assert far.recv() == b"hello"


def test_timeouts_are_as_those_of_sockets(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    _, far = ends
    far.settimeout(3)
    assert (far.gettimeout(), far.getblocking()) == (3.0, True)
    far.setblocking(False)
    assert (far.gettimeout(), far.getblocking()) == (0.0, False)
    far.setblocking(True)
    assert (far.gettimeout(), far.getblocking()) == (None, True)
    with pytest.raises(ValueError, match="out of range"):
        far.settimeout(-1)


def test_an_accepted_socket_waits_without_limit(client: Context, server: Context) -> None:
    with create_server(("127.0.0.1", 0), context=server) as listener:
        listener.settimeout(PATIENCE)
        accepting = Worker(listener.accept)
        with create_connection(listener.getsockname(), PATIENCE, context=client, server_hostname="localhost"):
            far, _ = accepting.result()
            with far:
                assert far.gettimeout() is None


def test_a_non_blocking_recv_wants_a_datagram(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    far.setblocking(False)
    with pytest.raises(SSLWantReadError) as caught:
        far.recv()
    assert isinstance(caught.value, ssl.SSLWantReadError)
    near.send(b"hello")
    readable, _, _ = select.select([far], [], [], PATIENCE)
    assert readable == [far]
    assert far.recv() == b"hello"


def test_a_timeout_is_no_end_of_the_handshake(client: Context, server: Context) -> None:
    with udp() as silent, client.wrap_socket(udp(), server_hostname="localhost") as sock:
        assert isinstance(sock, DTLSSocket)
        sock.settimeout(0.05)
        with pytest.raises(SSLTimeoutError, match="handshake") as caught:
            sock.connect(silent.getsockname())
        assert not isinstance(caught.value, HandshakeTimeout)
        _, address = silent.recvfrom(2000)
        # Whoever was silent now speaks.
        silent.connect(address)
        silent.settimeout(PATIENCE)
        sock.settimeout(PATIENCE)
        serving = Worker(lambda: server.wrap_socket(silent, server_side=True))
        sock.do_handshake()
        with serving.result():
            assert sock.version() == "DTLSv1.2"


def shake_hands_without_blocking(sock: DTLSSocket) -> int:
    """The handshake of a non-blocking socket; how often it was called."""
    deadline = time.monotonic() + PATIENCE
    for calls in range(1, 1000):
        try:
            sock.do_handshake()
        except SSLWantReadError:
            seconds = sock.get_timeout()
            assert seconds is not None
            assert 0 <= seconds <= 1
            select.select([sock], [], [], seconds)
        else:
            return calls
        assert time.monotonic() < deadline
    pytest.fail("it does not wait for anything")


def test_a_handshake_without_blocking_is_driven_by_select_and_get_timeout(
    client: Context, server: Context
) -> None:
    with EchoServer(server) as echo, client.wrap_socket(udp(), server_hostname="localhost") as sock:
        assert isinstance(sock, DTLSSocket)
        sock.setblocking(False)
        with contextlib.suppress(SSLWantReadError):  # unless the server is very quick
            sock.connect(echo.address)
        assert shake_hands_without_blocking(sock) < 100
        assert sock.get_timeout() is None
        sock.send(b"hello")
        select.select([sock], [], [], PATIENCE)
        assert sock.recv() == b"hello"


def test_a_lost_flight_is_repeated_without_blocking_when_get_timeout_says_so(
    client: Context, server: Context
) -> None:
    client.initial_retransmission_timeout = 0.05
    with (
        EchoServer(server) as echo,
        relay(echo.address, lambda who, index, d: [] if (who, index) == ("client", 0) else [d]) as address,
        client.wrap_socket(udp(), server_hostname="localhost") as sock,
    ):
        assert isinstance(sock, DTLSSocket)
        sock.setblocking(False)
        with pytest.raises(SSLWantReadError):
            sock.connect(address)
        shake_hands_without_blocking(sock)
        assert sock.statistics["flights_repeated"] >= 1


# --- what was negotiated ---------------------------------------------------------------------------------------------


def test_an_association_says_what_was_negotiated(
    client: Context, server: Context, server_certificate: IssuedCertificate, ca: CertificateAuthority
) -> None:
    client.set_alpn_protocols(["coap", "other"])
    server.set_alpn_protocols(["coap"])
    near, far = pair(client, server)
    with near, far:
        for sock in (near, far):
            assert sock.version() == "DTLSv1.2"
            cipher = sock.cipher()
            assert cipher is not None
            assert (cipher[0].startswith("ECDHE-ECDSA-AES"), cipher[1], cipher[2] >= 128) == (
                True,
                "TLSv1.2",
                True,
            )
            assert sock.selected_alpn_protocol() == "coap"
        der = server_certificate.certificate.public_bytes(Encoding.DER)
        root = ca.certificate.public_bytes(Encoding.DER)
        assert near.getpeercert(binary_form=True) == der
        assert near.getpeercert()["subjectAltName"] == (
            ("DNS", "localhost"),
            ("IP Address", "127.0.0.1"),
            ("IP Address", "0:0:0:0:0:0:0:1"),
        )
        assert near.get_verified_chain() == [der, root]
        assert near.get_unverified_chain() == [der]
        assert far.getpeercert() is None
        assert far.getpeercert(binary_form=True) is None
        assert far.get_verified_chain() == []
        assert far.get_unverified_chain() == []


def test_a_server_knows_its_clients_certificate(
    client: Context, server: Context, client_certificate: IssuedCertificate, ca: CertificateAuthority
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    near, far = pair(client, server)
    with near, far:
        assert far.getpeercert()["subject"] == ((("commonName", "a client"),),)
        assert len(far.get_verified_chain()) == 2


def test_a_certificate_that_was_not_verified_gives_an_empty_dictionary(
    client: Context, server: Context
) -> None:
    client.check_hostname = False
    client.verify_mode = dtls.CERT_NONE
    near, far = pair(client, server)
    with near, far:
        assert near.getpeercert() == {}
        assert near.getpeercert(binary_form=True)


def test_nothing_is_negotiated_before_the_handshake(client: Context) -> None:
    with udp() as silent, client.wrap_socket(udp(), server_hostname="localhost") as sock:
        assert isinstance(sock, DTLSSocket)
        sock.settimeout(0)
        with pytest.raises(SSLWantReadError):
            sock.connect(silent.getsockname())
        assert (sock.version(), sock.cipher(), sock.selected_alpn_protocol()) == (None, None, None)
        for question in (sock.getpeercert, sock.get_verified_chain, sock.get_unverified_chain):
            with pytest.raises(ValueError, match="handshake not done"):
                question()
        with pytest.raises(ValueError, match="unwrap"):
            sock.unwrap()


def test_statistics_count_what_was_dropped(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    near._sock.send(b"\0")
    near.send(b"hello")
    assert far.recv() == b"hello"
    assert far.statistics["dropped_too_short"] == 1


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "server"])
def test_unwrap_gives_the_plain_socket_back(client: Context, server: Context, by_client: bool) -> None:
    near, far = pair(client, server)
    one, other = (near, far) if by_client else (far, near)
    unwrapping = Worker(one.unwrap)
    assert other.recv() == b""
    with unwrapping.result() as plain_one, other.unwrap() as plain_other:
        assert one.fileno() == other.fileno() == -1
        plain_one.send(b"in the clear")
        assert plain_other.recv(100) == b"in the clear"
        plain_other.send(b"so be it")
        assert plain_one.recv(100) == b"so be it"
        assert plain_one.gettimeout() == PATIENCE


def test_unwrap_does_not_wait_for_ever_for_a_peer_that_does_not_answer(
    ends: tuple[DTLSSocket, DTLSSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtls.sockets.SHUTDOWN_PATIENCE", 0.05)
    near, _ = ends
    near.settimeout(None)
    near.unwrap().close()


@waits_in_recv
def test_unwrap_sees_that_another_thread_has_received_the_peers_close_notify(
    ends: tuple[DTLSSocket, DTLSSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtls.sockets.SHUTDOWN_PATIENCE", 10 * PATIENCE)
    near, far = ends
    near.settimeout(None)
    driver = near._driver
    assert driver is not None
    receiving = Worker(near.recv)
    wait_for(lambda: driver._waiting)
    unwrapping = Worker(near.unwrap)
    assert far.recv() == b""
    assert receiving.result() == b""
    unwrapping.result().close()


@waits_in_recv
def test_unwrap_waits_for_threads_that_would_take_the_plaintext_away(
    ends: tuple[DTLSSocket, DTLSSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtls.sockets.SHUTDOWN_PATIENCE", 0.01)
    near, far = ends
    near.settimeout(None)
    driver = near._driver
    assert driver is not None
    receiving = [Worker(near.recv), Worker(near.recv)]
    wait_for(lambda: driver._waiting_in_recv == 2)
    with near.unwrap() as plain:
        assert not driver._waiting_in_recv
        assert [thread.result() for thread in receiving] == [b"", b""]
        plain.settimeout(PATIENCE)
        far._sock.send(b"in the clear")
        assert plain.recv(100) == b"in the clear"


def test_unwrap_without_blocking_wants_the_peers_close_notify(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    near.setblocking(False)
    with pytest.raises(SSLWantReadError):
        near.unwrap()
    assert far.recv() == b""
    select.select([near], [], [], PATIENCE)
    with near.unwrap() as plain:
        assert plain.gettimeout() == 0


def test_after_the_peers_close_recv_gives_nothing_and_send_raises(
    ends: tuple[DTLSSocket, DTLSSocket],
) -> None:
    near, far = ends
    near.send(b"last words")
    near.close()
    assert far.recv() == b"last words"
    assert far.recv() == b""
    assert far.recv() == b""
    with pytest.raises(SSLZeroReturnError) as caught:
        far.send(b"anybody there?")
    assert isinstance(caught.value, ssl.SSLZeroReturnError)


def test_a_closed_socket_does_nothing_any_more(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, _ = ends
    near.close()
    near.close()
    assert near.fileno() == -1
    assert "closed" in repr(near)
    for operation in (near.recv, near.unwrap, near.detach, near.getsockname, lambda: near.send(b"x")):
        with pytest.raises(OSError, match=r".") as caught:
            operation()
        assert caught.value.errno == errno.EBADF


def test_close_wakes_a_blocked_recv_in_another_thread(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, _ = ends
    near.settimeout(None)
    receiving = Worker(near.recv)
    driver = near._driver
    assert driver is not None
    wait_for(lambda: driver._waiting)
    near.close()
    assert receiving.result() == b""
    assert driver.sock.fileno() == -1  # and the descriptor is gone


def waits_by_poll(end: DTLSSocket) -> None:
    """As where there is no way to send without waiting on a socket that has a timeout."""
    driver = end._driver
    assert driver is not None
    driver._waits_in_recv = False


@waits_in_recv
def test_close_at_any_moment_of_another_threads_recv_ends_it(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = pair(client, server)
    slow = SlowSocket(near, monkeypatch)
    slow.before_waiting = near.close
    near.settimeout(None)
    with far:
        assert Worker(near.recv).result() == b""
    assert slow.fileno() == -1


def test_close_at_any_moment_of_another_threads_poll_ends_it(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = pair(client, server)
    waits_by_poll(near)
    waits = Driver._wait_until_ready
    closed = threading.Event()

    def close_first(driver: Driver, *, writable: bool, until: float) -> None:
        if driver is near._driver and not closed.is_set():
            closed.set()
            near.close()
        waits(driver, writable=writable, until=until)

    monkeypatch.setattr(Driver, "_wait_until_ready", close_first)
    near.settimeout(None)
    with far:
        assert Worker(near.recv).result() == b""


@pytest.mark.parametrize("way", [pytest.param("recv", marks=waits_in_recv), "poll"])
def test_the_descriptors_number_is_not_given_to_others_while_a_thread_waits_on_it(
    ends: tuple[DTLSSocket, DTLSSocket], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    near, _ = ends
    number = near.fileno()
    entered, go_on = threading.Event(), threading.Event()

    def arrive() -> None:
        entered.set()
        assert go_on.wait(PATIENCE)

    if way == "poll":
        waits_by_poll(near)
    else:
        SlowSocket(near, monkeypatch).before_waiting = arrive
    original = wait_until_ready

    def slow(descriptor: int, *, writable: bool, until: float) -> None:
        if descriptor == number:
            arrive()
        original(descriptor, writable=writable, until=until)

    monkeypatch.setattr("dtls.sending.wait_until_ready", slow)
    near.settimeout(None)
    receiving = Worker(near.recv)
    assert entered.wait(PATIENCE)
    near.close()
    with contextlib.ExitStack() as stack:
        newcomers = [stack.enter_context(udp()) for _ in range(50)]  # they fill the gaps
        assert number not in [newcomer.fileno() for newcomer in newcomers]
        go_on.set()
        assert receiving.result() == b""


def test_leaving_a_with_block_closes(client: Context, server: Context) -> None:
    near, far = pair(client, server)
    with far:
        with near:
            pass
        assert near.fileno() == -1
        assert far.recv() == b""


def test_a_socket_that_is_left_open_gives_a_warning_and_is_closed(client: Context, server: Context) -> None:
    near, far = pair(client, server)
    left_open = [near]
    del near
    with far:
        with pytest.warns(ResourceWarning, match="unclosed <DTLSSocket fd="):
            left_open.clear()
        assert far.recv() == b""


def test_detach_gives_the_descriptor_and_says_nothing(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    near, far = ends
    number = near.fileno()
    assert near.detach() == number
    assert near.fileno() == -1
    with socket.socket(fileno=number) as plain:
        assert plain.getpeername() == far.getsockname()
    far.settimeout(0)
    with pytest.raises(SSLWantReadError):
        far.recv()


def test_a_socket_cannot_be_pickled(ends: tuple[DTLSSocket, DTLSSocket]) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(ends[0])


def test_sockets_leave_no_descriptors_and_threads_behind(client: Context, server: Context) -> None:
    with udp() as probe:
        before = probe.fileno()
    threads = threading.active_count()
    for _ in range(5):
        near, far = pair(client, server)
        with near, far:
            near.send(b"hello")
            assert far.recv() == b"hello"
    with udp() as probe:
        assert probe.fileno() == before
    assert threading.active_count() == threads


# --- what goes wrong -------------------------------------------------------------------------------------------------


def failure_of(client: Context, address: Any, hostname: str = "localhost") -> OSError:
    """The error of a handshake, which must come within the deadline and leave nothing open."""
    began = time.monotonic()
    with pytest.raises(OSError, match=r".") as caught:
        create_connection(address, PATIENCE, context=client, server_hostname=hostname)
    assert time.monotonic() - began < PATIENCE / 2
    return caught.value


def test_the_errors_of_a_handshake_tell_what_is_wrong(
    client: Context, server: Context, ca: CertificateAuthority
) -> None:
    errors: dict[str, OSError] = {}
    with EchoServer(server) as echo:
        errors["wrong host name"] = failure_of(client, echo.address, "elsewhere.example")
        trusting_others = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
        trusting_others.load_verify_locations(cadata=CertificateAuthority("another CA").certificate_pem)
        errors["unknown CA"] = failure_of(trusting_others, echo.address)
    expired = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    expired.load_cert_chain(ca.issue("localhost", not_after=yesterday).private_key_and_chain_pem)
    with EchoServer(expired) as echo:
        errors["expired"] = failure_of(client, echo.address)
    server.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    client.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    client.initial_retransmission_timeout = 0.1
    with EchoServer(server) as echo:
        errors["no shared cipher"] = failure_of(client, echo.address)
        assert echo.listener.statistics["handshakes_failed"] >= 1
    with udp() as dead:
        nowhere = dead.getsockname()
    errors["no server"] = failure_of(client, nowhere)
    client.handshake_timeout = 0.3
    with udp() as silent:
        errors["silent server"] = failure_of(client, silent.getsockname())

    assert all(isinstance(error, SSLError) for error in errors.values())
    assert all(isinstance(error, ssl.SSLError) for error in errors.values())
    assert len({str(error) for error in errors.values()}) == len(errors)
    words = {
        "wrong host name": "elsewhere.example",
        "unknown CA": "issuer",
        "expired": "expired",
        "no shared cipher": "handshake",
        "no server": "not reachable",
        "silent server": "no answer from the server within 0.3 s",
    }
    for name, word in words.items():
        assert word in str(errors[name]), name
    for name in ("wrong host name", "unknown CA", "expired"):
        assert isinstance(errors[name], SSLCertVerificationError), name
    codes = {
        getattr(errors[name], "verify_code", None) for name in ("wrong host name", "unknown CA", "expired")
    }
    assert len(codes) == 3
    assert isinstance(errors["no server"], PeerUnreachable)
    assert isinstance(errors["no server"], ConnectionRefusedError)
    assert isinstance(errors["silent server"], HandshakeTimeout)
    assert isinstance(errors["silent server"], TimeoutError)
    assert "HANDSHAKE_FAILURE" in getattr(errors["no shared cipher"], "reason", "")


def test_a_failed_handshake_fails_again_when_asked_again(client: Context, server: Context) -> None:
    with EchoServer(server) as echo, client.wrap_socket(udp(), server_hostname="elsewhere.example") as sock:
        assert isinstance(sock, DTLSSocket)
        sock.settimeout(PATIENCE)
        for operation in (lambda: sock.connect(echo.address), sock.do_handshake, sock.recv):
            with pytest.raises(SSLCertVerificationError):
                operation()


def test_one_refusal_does_not_end_a_handshake(client: Context, server: Context) -> None:
    client.initial_retransmission_timeout = 0.2
    with udp() as late:
        address = late.getsockname()
    with client.wrap_socket(udp(), server_hostname="localhost") as sock:
        assert isinstance(sock, DTLSSocket)
        sock.settimeout(0)
        with pytest.raises(SSLWantReadError):
            sock.connect(address)

        def refused() -> int:
            with contextlib.suppress(SSLWantReadError):
                sock.do_handshake()
            return sock.statistics["refused_by_icmp"]

        assert wait_for(refused) == 1
        with create_server(address, context=server) as listener:
            listener.settimeout(PATIENCE)
            accepting = Worker(listener.accept)
            sock.settimeout(PATIENCE)
            sock.do_handshake()
            far, _ = accepting.result()
            with far:
                sock.send(b"hello")
                far.settimeout(PATIENCE)
                assert far.recv() == b"hello"


def test_refusals_do_not_end_an_association(client: Context, server: Context) -> None:
    near, far = pair(client, server)
    with near:
        address = far.getsockname()
        socket.socket(fileno=far.detach()).close()
        for number in range(5):
            near.send(b"anybody there?")
            with contextlib.suppress(SSLTimeoutError):
                near.settimeout(0.01)
                near.recv()
            assert near.version() == "DTLSv1.2", number
        assert near.statistics["refused_by_icmp"] >= 1
        assert near.getpeername() == address


@needs_ipv6
def test_the_family_is_that_of_the_address(client: Context, server: Context) -> None:
    near, far = pair(client, server, "::1")
    with near, far:
        assert near.family == far.family == socket.AF_INET6
        assert near.type == socket.SOCK_DGRAM
        assert near.proto in (0, socket.IPPROTO_UDP)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 70_000)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 70_000
