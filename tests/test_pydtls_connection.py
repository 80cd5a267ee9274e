from __future__ import annotations

import array
import ctypes
import errno
import gc
import socket
import sys
import threading
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls import err
from dtls.sslconnection import (
    CERT_REQUIRED,
    SSLConnection,
)
from dtls.wire import ContentType
from tests.loopback import HOSTS, PATIENCE, Worker, relay, wait_for
from tests.pydtls import accept, connections, raised, run_python, udp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dtls.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("demux")

SHORT = 0.05
"""Seconds that are meant to run out."""


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


@pytest.fixture
def ends(pem: bytes) -> Iterator[tuple[SSLConnection, SSLConnection]]:
    with connections(pem) as both:
        yield both


class InterruptedLock:
    """A lock whose ``acquire`` raises, as the handler of a signal may: after the lock was taken, or before."""

    def __init__(self, lock: Any, taken: bool) -> None:
        self._lock, self._taken = lock, taken

    def acquire(self) -> None:
        if self._taken:
            self._lock.acquire()
        raise KeyboardInterrupt

    def release(self) -> None:
        self._lock.release()


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_messages_go_both_ways(pem: bytes, host: str) -> None:
    with connections(pem, host) as (near, far):
        assert near.write(b"there") == 5
        assert far.read() == b"there"
        assert far.write(b"and back") == 8
        assert near.read() == b"and back"


@pytest.mark.parametrize(
    "message",
    [
        "grüße",
        b"gr\xc3\xbc\xc3\x9fe",
        bytearray(b"gr\xc3\xbc\xc3\x9fe"),
        memoryview(b"gr\xc3\xbc\xc3\x9fe"),
        ctypes.create_string_buffer(b"gr\xc3\xbc\xc3\x9fe", 7),
        array.array("B", b"gr\xc3\xbc\xc3\x9fe"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_write_takes_text_and_all_that_has_bytes(
    ends: tuple[SSLConnection, SSLConnection], message: Any
) -> None:
    near, far = ends
    assert near.write(message) == 7
    assert far.read() == b"gr\xc3\xbc\xc3\x9fe"


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("name", ["read", "write"])
def test_a_signals_handler_that_raises_leaves_the_connection_to_other_threads(
    ends: tuple[SSLConnection, SSLConnection], name: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    far.write(b"to be lost")
    with monkeypatch.context() as patch:
        driver: Any = near._driver
        patch.setattr(driver, "_lock", InterruptedLock(driver._lock, taken))
        with pytest.raises(KeyboardInterrupt):
            near.read() if name == "read" else near.write(b"not sent")
    assert Worker(near.write, b"there").result() == 5
    assert far.read() == b"there"
    if name == "write":
        assert near.read() == b"to be lost"
    far.write(b"and back")
    assert Worker(near.read).result() == b"and back"


def test_a_message_may_have_16384_bytes_and_no_more(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    largest = bytes(range(256)) * 64
    assert near.write(largest) == 16384
    assert far.read(20000) == largest
    error = raised(near.write, bytes(16385))
    assert error.args == (1, [(0x1400014E, b"dtls message too big")])
    near.write(b"still here")
    assert far.read() == b"still here"


def test_an_empty_message_is_a_system_call_error(ends: tuple[SSLConnection, SSLConnection]) -> None:
    for nothing in (b"", "", bytearray()):
        assert raised(ends[0].write, nothing).args == (5, [])


def test_the_rest_of_a_message_is_for_the_next_read(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    message = bytes(range(256)) * 12
    near.write(message)
    near.write(b"next")
    assert far.pending() == 0
    parts = [far.read()]
    assert far.pending() == len(message) - 1024
    parts += [far.read(), far.read()]
    assert [len(part) for part in parts] == [1024, 1024, 1024]
    assert b"".join(parts) == message
    assert far.pending() == 0
    assert (far.read(2), far.read()) == (b"ne", b"xt")


def test_read_fills_a_buffer(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    near.write(b"abcdef")
    buffer = bytearray(4)
    assert far.read(1024, buffer) == 4
    assert buffer == b"abcd"
    assert far.read(1, buffer) == 1
    assert far.read(buffer=buffer) == 1
    assert buffer == b"fbcd"


def test_one_thread_writes_while_another_reads(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    reading = Worker(lambda: [far.read() for _ in range(100)])
    for number in range(100):
        near.write(str(number))
        assert far.write(b"x") == 1
    assert reading.result() == [str(number).encode() for number in range(100)]


# --- time-outs -------------------------------------------------------------------------------------------------------


def test_the_timeout_is_that_of_the_socket(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    for end in ends:
        assert end.get_socket(True) is end.get_socket(False)
        end.get_socket(True).settimeout(SHORT)
        error = raised(end.read)
        assert error.args == (502, "502: The read operation timed out")
        assert not isinstance(error, TimeoutError)
        assert end.get_socket(True).gettimeout() == SHORT
    near.write(b"still here")
    assert far.read() == b"still here"


def test_a_socket_without_blocking_wants_to_read(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    far.get_socket(True).setblocking(False)
    error = raised(far.read)
    assert error.args == (err.SSL_ERROR_WANT_READ, [])
    assert isinstance(error, err.openssl_error())
    near.write(b"now")
    assert wait_for(lambda: _readable(far)) == b"now"


def _readable(connection: SSLConnection) -> Any:
    try:
        return connection.read()
    except err.SSLError as error:
        assert error.args[0] == err.SSL_ERROR_WANT_READ  # noqa: PT017 - nothing else may come
        return None


def test_a_socket_may_be_made_blocking_while_it_is_in_use(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    for timeout in (0, None, PATIENCE, None, 0, PATIENCE):
        far.get_socket(True).settimeout(timeout)
        near.write(b"again")
        assert wait_for(lambda: _readable(far)) == b"again"


def test_a_silent_peer_times_the_handshake_out_and_it_can_be_gone_on_with(pem: bytes) -> None:
    with udp(bound=True) as bound, udp(timeout=SHORT) as sock:
        client = SSLConnection(sock)
        error = raised(client.connect, bound.getsockname())
        assert error.args == (504, "504: The handshake operation timed out")
        assert isinstance(error.__cause__, dtls.SSLTimeoutError)
        assert raised(client.do_handshake).errno == 504
        sock.settimeout(PATIENCE)
        accepting = Worker(accept, SSLConnection(bound, pem, pem, server_side=True))
        client.do_handshake()
        far, _ = accepting.result()
        far.get_socket(True).close()


def test_a_write_or_read_that_has_to_shake_hands_times_out_by_its_own_number() -> None:
    with udp(bound=True) as silent, udp(timeout=SHORT) as sock:
        client = SSLConnection(sock, do_handshake_on_connect=False)
        client.connect(silent.getsockname())
        error = raised(client.write, b"x")
        assert error.args == (503, "503: The write operation timed out")
        assert not hasattr(error, "errqueue")
        assert raised(client.read).errno == 502


def test_a_handshake_without_blocking_is_driven_by_get_timeout_and_handle_timeout(pem: bytes) -> None:
    lost = []

    def lose_the_first(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender == "client" and not index:
            lost.append(datagram)
            return []
        return [datagram]

    with udp(bound=True) as bound:
        accepting = Worker(accept, SSLConnection(bound, pem, pem, server_side=True))
        with relay(bound.getsockname(), lose_the_first) as address, udp(timeout=0) as sock:
            client = SSLConnection(sock, do_handshake_on_connect=False)
            client.connect(address)
            assert raised(client.do_handshake).args == (err.SSL_ERROR_WANT_READ, [])
            wait_for(lambda: lost)
            due = client.get_timeout()
            assert due is not None
            assert timedelta() < due <= timedelta(seconds=1)
            assert client.handle_timeout() is False
            wait_for(lambda: client.get_timeout() == timedelta())
            assert client.handle_timeout() is True
            wait_for(lambda: _is_done(client))
            assert client.get_timeout() is None
            assert client.handle_timeout() is False
            accepting.result()[0].get_socket(True).close()


def test_a_server_that_only_writes_repeats_its_last_flight(pem: bytes) -> None:
    lost: list[bytes] = []

    def lose_the_finished(sender: str, _: int, datagram: bytes) -> list[bytes]:
        if sender == "server" and datagram[0] == ContentType.CHANGE_CIPHER_SPEC and not lost:
            lost.append(datagram)
            return []
        return [datagram]

    def be_quick(ssl: Any) -> None:
        ssl.DTLS_set_timer_cb(lambda _ssl, _microseconds: 50_000)

    with udp(bound=True) as bound, udp() as sock:
        accepting = Worker(accept, SSLConnection(bound, pem, pem, server_side=True))
        with relay(bound.getsockname(), lose_the_finished) as address:
            client = SSLConnection(sock, cb_user_config_ssl=be_quick)
            connecting = Worker(client.connect, address)
            server, _ = accepting.result()
            with server.get_socket(True):
                wait_for(lambda: server.write(b"news") and not connecting.is_alive())
                connecting.result()
                assert client.read() == b"news"
                assert client.write(b"heard") == server.write(b"again") == 5
                assert server.read() == b"heard"
    assert lost


def _is_done(connection: SSLConnection) -> bool:
    try:
        connection.do_handshake()
    except err.SSLError as error:
        assert error.args[0] == err.SSL_ERROR_WANT_READ  # noqa: PT017 - nothing else may come
        return False
    return True


def test_handle_timeout_raises_what_ends_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtls.pydtls.arguments.HANDSHAKE_TIMEOUT", SHORT)
    with udp(bound=True) as silent, udp(timeout=0) as sock:
        # With a callback it has a context of its own, with the time-out of now.
        client = SSLConnection(sock, do_handshake_on_connect=False, cb_user_config_ssl_ctx=id)
        client.connect(silent.getsockname())
        wait_for(lambda: client.get_timeout() == timedelta())
        assert raised(client.handle_timeout).errno == 504


# --- ICMP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_closed_port_is_505_at_once(host: str, timeout: float | None) -> None:
    with udp(host, bound=True) as closed:
        address = closed.getsockname()
    with (
        udp(host, timeout=timeout) as sock,
        pytest.raises(err.SSLError, match="The peer address is not reachable") as caught,
    ):
        SSLConnection(sock).connect(address)
    assert caught.value.args == (505, "505: The peer address is not reachable")


def test_a_handshake_goes_on_when_the_server_is_started_after_all(pem: bytes) -> None:
    with udp(bound=True) as closed:
        address = closed.getsockname()
    with udp() as sock:
        client = SSLConnection(sock)
        assert raised(client.connect, address).errno == 505
        with udp(timeout=PATIENCE) as bound:
            bound.bind(address)
            accepting = Worker(accept, SSLConnection(bound, pem, pem, server_side=True))
            client.do_handshake()
            accepting.result()[0].get_socket(True).close()


def test_a_peer_that_is_gone_is_505_for_read_and_for_write(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    far.get_socket(True).close()  # the listening socket, which would take its place, says nothing to ICMP
    gone = udp(bound=True)
    gone.connect(near.get_socket(True).getsockname())
    near.get_socket(True).connect(gone.getsockname())
    gone.close()
    near.write(b"is anybody there?")
    assert raised(near.read).args == (505, "505: The peer address is not reachable")
    near.write(b"nobody?")
    assert raised(near.write, b"really?").errno == 505


# --- the end ---------------------------------------------------------------------------------------------------------


def test_the_end_is_told_each_time(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    near.write(b"last words")
    unwrapping = Worker(near.unwrap)
    assert far.read() == b"last words"
    for operation in (far.read, far.read, lambda: far.write(b"too late")):
        error = raised(operation)
        assert error.args == (err.SSL_ERROR_ZERO_RETURN, [])
        assert isinstance(error, err.openssl_error())
    assert unwrapping.result() is near.get_socket(True)
    assert raised(near.read).args == raised(near.write, b"x").args == (err.SSL_ERROR_ZERO_RETURN, [])


@pytest.mark.parametrize("host", HOSTS)
def test_after_the_end_the_sockets_speak_plaintext(pem: bytes, host: str) -> None:
    with connections(pem, host) as (near, far):
        unwrapping = Worker(near.shutdown)
        assert raised(far.read).args[0] == err.SSL_ERROR_ZERO_RETURN
        plain = unwrapping.result()
        plain.send(b"in plaintext")
        # Not even asking again makes the association swallow what is not its own.
        assert raised(far.read).args[0] == err.SSL_ERROR_ZERO_RETURN
        other = far.unwrap()
        assert isinstance(other, socket.socket)
        assert other.recv(100) == b"in plaintext"
        other.send(b"likewise")
        assert plain.recv(100) == b"likewise"


def test_a_socket_may_be_secured_again_after_plaintext(pem: bytes) -> None:
    with connections(pem) as (near, far):
        closing = Worker(near.shutdown)
        raised(far.read)
        plain, other = closing.result(), far.unwrap()
        assert other is not None
        server = Worker(SSLConnection, other, pem, pem, True)
        again = SSLConnection(plain)
        server.result()
        assert again.version() == "DTLSv1.2"


def test_shutdown_says_what_it_waits_for_and_unwrap_does_not(
    ends: tuple[SSLConnection, SSLConnection],
) -> None:
    near, far = ends
    sock = near.get_socket(True)
    sock.settimeout(0)
    assert raised(near.shutdown).args == (err.SSL_ERROR_WANT_READ, [])
    sock.settimeout(SHORT)
    assert raised(near.shutdown).errno == 502
    assert near.unwrap() is sock
    assert sock.gettimeout() == SHORT
    assert raised(far.read).args[0] == err.SSL_ERROR_ZERO_RETURN


def test_shutdown_does_not_wait_for_ever(
    ends: tuple[SSLConnection, SSLConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtls.sslconnection.SHUTDOWN_PATIENCE", SHORT)
    near, _ = ends
    near.get_socket(True).settimeout(None)
    assert near.shutdown() is near.get_socket(True)


@pytest.mark.parametrize("timeout", [0, SHORT])
def test_unwrap_never_raises(timeout: float) -> None:
    with udp(bound=True) as silent, udp(timeout=timeout) as sock:
        client = SSLConnection(sock, do_handshake_on_connect=False)
        assert client.unwrap() is sock
        client.connect(silent.getsockname())
        assert raised(client.shutdown).args[0] == err.SSL_ERROR_SSL
        assert client.unwrap() is sock
        assert client.unwrap() is sock
        silent.recv(65535)
        assert silent.recv(65535)[:1] == b"\x15"  # an alert, so that the server need not wait


# --- what it leaves behind -------------------------------------------------------------------------------------------


def _number_raised(operation: Callable[..., Any], *arguments: Any) -> Any:
    return raised(operation, *arguments).errno


def test_a_connection_is_in_no_reference_cycle(pem: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        with udp(bound=True) as silent, udp(timeout=SHORT) as sock:
            client = SSLConnection(sock)
            gone = weakref.ref(client)
            with pytest.raises(err.SSLError):
                client.connect(silent.getsockname())
            del client
            assert gone() is None
        with udp(bound=True) as bound, udp() as sock:
            listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
            client = SSLConnection(sock, cert_reqs=CERT_REQUIRED)
            # A thread that kept the error would be in a cycle of its own making.
            connecting = Worker(_number_raised, client.connect, bound.getsockname())
            far, _ = accept(listening)
            assert connecting.result() == 1
            raised(far.do_handshake)
            gone_too = [weakref.ref(client), weakref.ref(far), weakref.ref(listening)]
            far.get_socket(True).close()
            connecting.join()
            del client, far, listening, connecting
            assert [reference() for reference in gone_too] == [None, None, None]
    finally:
        gc.enable()


def test_the_socket_stays_the_callers(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, _ = ends
    sock = near.get_socket(True)
    sock.close()
    assert raised(near.read).errno == raised(near.do_handshake).errno == errno.EBADF
    assert near.unwrap() is sock


def test_nothing_is_left_running() -> None:
    assert threading.active_count() == 1


def test_it_works_in_a_python_without_ssl(server_certificate: IssuedCertificate, tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    pem.write_bytes(server_certificate.private_key_and_chain_pem)
    code = """
import sys
sys.modules["ssl"] = sys.modules["_ssl"] = None
import socket, threading
import dtls
from dtls import err
bound, sock = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
with bound, sock:
    bound.bind(("127.0.0.1", 0))
    bound.settimeout(20)
    sock.settimeout(20)
    listening = dtls.SSLConnection(bound, sys.argv[1], sys.argv[1], server_side=True)
    def serve():
        while not (accepted := listening.accept()):
            pass
        with accepted[0].get_socket(True):
            accepted[0].write(accepted[0].read())
            accepted[0].unwrap()
    server = threading.Thread(target=serve)
    server.start()
    client = dtls.SSLConnection(sock)
    client.connect(bound.getsockname())
    client.write(b"no ssl")
    print(client.read())
    try:
        client.read()
    except err.SSLError as error:
        print(error.args, isinstance(error, dtls.SSLError))
    server.join()
try:
    dtls.do_patch()
except ImportError as error:
    print(error)
"""
    printed = run_python(code, str(pem))
    assert "b'no ssl'\n(6, []) True\n" in printed
    assert "do_patch() patches Python's ssl module, which this Python lacks" in printed


def test_importing_dtls_does_not_patch() -> None:
    code = "print(hasattr(ssl, 'PROTOCOL_DTLSv1'), dtls.VERSION, 'dtls.pydtls.sslsocket' in sys.modules)"
    assert run_python(f"import sys, ssl, dtls; {code}") == "False (2, 0, 0) False\n"


def test_the_openssl_version_is_known() -> None:
    module = sys.modules["dtls.sslconnection"]
    info = module.DTLS_OPENSSL_VERSION_INFO
    assert module.DTLS_OPENSSL_VERSION.startswith("OpenSSL {}.{}.{}".format(*info[:3]))
    assert info[0] == module.DTLS_OPENSSL_VERSION_NUMBER >> 28
    with pytest.raises(AttributeError):
        _ = module.DTLS_OPENSSL_VERSION_X
