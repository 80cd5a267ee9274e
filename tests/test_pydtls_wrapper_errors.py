"""What becomes of clients of a ``DtlsSocket`` that fail, and of their errors."""

from __future__ import annotations

import contextlib
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from dtls import err
from dtls.pydtls.wrapper_server import Ignored
from dtls.test.suite.insider import Insider
from dtls.wire import ContentType
from tests.loopback import PATIENCE, Worker
from tests.pydtls import raised
from tests.wrapped import (
    LARGEST,
    STEP,
    Recorder,
    break_off,
    connected,
    ignore,
    inside,
    listening,
    make_client,
    pump,
    reason_of,
    receive,
    step,
)

if TYPE_CHECKING:
    from dtls.certificates import CertificateAuthority, IssuedCertificate
    from dtls.wrapper import DtlsSocket


both_ways = pytest.mark.usefixtures("demux")
"""The others need ICMP, which tells connected sockets only."""


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


def fail_handshake(server: DtlsSocket) -> Any:
    """Have a client fail in its handshake; its address."""
    with make_client(ciphers="AES256-SHA", handshake_timeout=STEP) as client:
        address = None

        def give_up() -> Any:
            nonlocal address
            client.connect(server.getsockname())
            address = client.getsockname()
            return raised(client.do_handshake)

        failing = Worker(give_up)
        while failing.is_alive():
            step(server)
        failing.result()
        return address


@both_ways
def test_an_error_in_a_handshake_is_raised_unless_the_callback_says_otherwise(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as bystander:
        callbacks: list[Any] = [None, Recorder(ignore=False), "not callable"]
        for callback in callbacks:
            inside(server).ignored = Ignored(callback)
            error: Any = raised(fail_handshake, server)
            assert error.errno == err.SSL_ERROR_SSL
            assert reason_of(error) == "no shared cipher"
            assert error.peer[0] == "127.0.0.1"
            assert len(server._clients) == 1
        seen = Recorder()
        inside(server).ignored = Ignored(seen, lambda _: pytest.fail("that is for reading"))
        address = fail_handshake(server)
        assert address in seen.peers  # and again, when it repeats what it has said
        bystander.send(b"service goes on")
        assert receive(server)[0][0] == b"service goes on"


@both_ways
def test_the_callback_for_reading_is_asked_about_handshakes_if_there_is_none_for_them(pem: bytes) -> None:
    seen = Recorder()
    with listening(pem, cb_ignore_ssl_exception_read=seen) as server:
        address = fail_handshake(server)
        assert address in seen.peers  # and again, when it repeats what it has said


@pytest.mark.parametrize("forgiven", [True, False])
def test_an_error_in_reading_concerns_nobody_else(pem: bytes, forgiven: bool) -> None:
    seen = Recorder(ignore=forgiven)
    with (
        listening(pem, cb_ignore_ssl_exception_read=seen) as server,
        connected(server) as lost,
        connected(server) as bystander,
        connected(server) as other,
    ):
        address = lost.getsockname()
        bystander.send(b"one")
        break_off(server, lost)
        other.send(b"two")
        received: list[bytes] = []
        errors: list[Any] = []
        deadline = time.monotonic() + PATIENCE
        while len(received) < 2 or not seen.errors:
            assert time.monotonic() < deadline
            try:
                message = step(server)
            except err.SSLError as error:
                errors.append(error)
            else:
                received += [message[0]] if message else []
        assert sorted(received) == [b"one", b"two"]
        assert seen.peers == [address]
        assert errors == ([] if forgiven else seen.errors)
        assert seen.errors[0].errno == err.ERR_PORT_UNREACHABLE
        assert len(server._clients) == 2


def test_an_error_in_reading_is_raised_without_a_callback(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as client:
        break_off(server, client)
        error = raised(pump, server, lambda: False)
        assert error.errno == err.ERR_PORT_UNREACHABLE
        assert error.peer[0] == "127.0.0.1"
        assert server._clients == {}


@both_ways
def test_an_error_in_writing_is_raised_unless_the_callback_says_otherwise(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as client:
        address = client.getsockname()
        error = raised(server.sendto, bytes(LARGEST + 1), address)
        assert reason_of(error) == "dtls message too big"
        assert error.peer == address
        assert server.sendto(b"that was about one message", address)
        inside(server).ignored = Ignored(write=lambda _: False)
        assert raised(server.sendto, b"", address).peer == address
        assert len(server._clients) == 1
        seen = Recorder()
        inside(server).ignored = Ignored(write=seen)
        assert server.sendto(b"", address) == 0
        assert seen.peers == [address]
        assert server._clients == {}


@pytest.mark.parametrize("callback", [None, ignore])
def test_a_client_that_is_found_gone_in_writing_is_dropped(pem: bytes, callback: Any) -> None:
    with listening(pem, cb_ignore_ssl_exception_write=callback) as server, connected(server) as client:
        address = client.getsockname()
        break_off(server, client)
        if callback is None:
            assert raised(server.sendto, b"x", address).errno == err.ERR_PORT_UNREACHABLE
        else:
            assert server.sendto(b"x", address) == 0
        assert server._clients == {}


@both_ways
def test_a_full_send_buffer_is_waited_for(pem: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(pem) as server, connected(server) as client:
        (conn,) = server._clients
        timeouts = []

        def send(data: bytes) -> int:
            timeouts.append(conn.gettimeout())
            if conn.gettimeout() == 0:
                raise err.OpenSSLError(err.SSL_ERROR_WANT_WRITE, [])
            return len(data)

        monkeypatch.setattr(conn, "send", send)
        assert server.sendto(b"four", client.getsockname()) == 4
        assert timeouts == [0, STEP]
        assert conn.gettimeout() == 0
        server.settimeout(0)
        assert raised(server.sendto, b"four", client.getsockname()).args[0] == err.SSL_ERROR_WANT_WRITE
        assert len(server._clients) == 1


@both_ways
def test_a_client_that_closes_is_dropped_without_an_error(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as client:
        (conn,) = server._clients
        client.close()
        pump(server, lambda: not server._clients)
        assert conn.fileno() == -1


@both_ways
def test_a_client_whose_socket_somebody_closes_is_forgotten(pem: bytes) -> None:
    with listening(pem) as server, connected(server), connected(server):
        for count in (1, 0):
            conn = next(iter(server._clients))
            plain = conn.unwrap() if count else conn
            plain.close()
            while len(server._clients) > count:
                step(server)
        with connected(server) as client:  # it may have the descriptor of those
            client.send(b"new")
            assert receive(server)[0][0] == b"new"


def test_an_error_that_is_kept_keeps_no_association_alive(pem: bytes) -> None:
    with listening(pem) as server, connected(server) as client:
        drivers = [weakref.ref(conn._connection._driver) for conn in server._clients]
        break_off(server, client)
        error = raised(pump, server, lambda: False)
        assert error.peer
        assert [driver() for driver in drivers] == [None]


@both_ways
@pytest.mark.parametrize("forgiven", [True, False])
def test_nor_does_one_that_a_callback_keeps(ca: CertificateAuthority, forgiven: bool) -> None:
    seen = Recorder(ignore=forgiven)
    rsa = ca.issue("localhost", key_type="rsa").private_key_and_chain_pem
    with (
        listening(rsa, cb_ignore_ssl_exception_read=seen) as server,
        connected(server, ciphers="ECDHE-RSA-AES128-GCM-SHA256") as client,
    ):
        drivers = [weakref.ref(conn._connection._driver) for conn in server._clients]
        Insider(client._sock).send(ContentType.ALERT, b"\x02\x50")
        with contextlib.nullcontext() if forgiven else pytest.raises(err.SSLError):
            pump(server, lambda: not server._clients)
        assert "internal error" in reason_of(seen.errors[0])
        assert seen.peers == [client.getsockname()]
        assert [driver() for driver in drivers] == [None]
