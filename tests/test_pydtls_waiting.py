"""How PyDTLS's sockets wait in accept and in handshakes, and that the short ways lead where the careful ones do."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from dtls import driver as drivers
from dtls import err, kernel, sslconnection
from dtls.demux import osnet
from dtls.driver import Driver
from dtls.errors import SSLTimeoutError, SSLZeroReturnError
from dtls.kernel import now
from dtls.pydtls import arguments
from dtls.pydtls.borrowed import BorrowedSocket
from dtls.pydtls.reception import Reception
from dtls.pydtls.sslsocket import DatagramSSLSocket
from dtls.sockets import DTLSSocket
from dtls.sslconnection import CERT_REQUIRED, SSLConnection, is_datagram_socket, peer_of
from dtls.udp import Listener, Origin
from tests.hellos import OFFER, cookie_in, hello_body, whole
from tests.loopback import PATIENCE, Worker, wait_for
from tests.pydtls import accept, connections, raised, udp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dtls.certificates import CertificateAuthority, IssuedCertificate
    from dtls.context import Context

on_osnet = pytest.mark.parametrize("demux", ["osnet"], indirect=True)
polls = pytest.mark.skipif(not hasattr(select, "poll"), reason="there is no poll here")
SHORT = 0.05
"""Seconds that are meant to run out."""


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


@pytest.fixture
def default_timeout() -> Iterator[None]:
    """New sockets have a timeout."""
    socket.setdefaulttimeout(7.0)
    yield
    socket.setdefaulttimeout(None)


def proved_hello(listening: SSLConnection, client: socket.socket) -> bytes:
    """A ClientHello with the cookie that ``client`` was given, which has not been sent yet."""
    client.sendto(whole(hello_body(extensions=OFFER)), listening.get_socket(True).getsockname())
    assert listening.listen() is None
    body = hello_body(extensions=OFFER, cookie=cookie_in(client.recv(65535)))
    return whole(body, message_sequence=1, record_sequence=1)


# --- handshakes ---------------------------------------------------------------------------------------------------


@polls
@on_osnet
@pytest.mark.usefixtures("demux")
def test_a_handshake_that_may_wait_reads_only_what_has_come(
    pem: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fruitless: list[BorrowedSocket] = []

    def noting(name: str) -> None:
        read = getattr(BorrowedSocket, name)

        def receive(sock: BorrowedSocket, size: int) -> Any:
            try:
                return read(sock, size)
            except BlockingIOError:
                fruitless.append(sock)
                raise

        monkeypatch.setattr(BorrowedSocket, name, receive)

    noting("recv")
    noting("recvfrom")
    with connections(pem):
        assert not fruitless


def test_a_handshake_that_may_not_wait_reads_at_once(pem: bytes) -> None:
    with udp(bound=True) as bound, udp(timeout=0) as sock:
        SSLConnection(bound, pem, pem, server_side=True)
        sock.connect(bound.getsockname())
        near = SSLConnection(sock, do_handshake_on_connect=False)
        assert raised(near.do_handshake).errno == err.SSL_ERROR_WANT_READ


@polls
def test_a_handshake_that_is_interrupted_while_it_waits_is_counted_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted:
        def register(self, descriptor: int, events: int) -> None:
            assert descriptor >= 0

        def poll(self, milliseconds: int) -> None:
            raise KeyboardInterrupt

    with udp(bound=True) as silent, udp() as sock:
        sock.connect(silent.getsockname())
        near = SSLConnection(sock, do_handshake_on_connect=False)
        monkeypatch.setattr(drivers, "select", SimpleNamespace(poll=Interrupted, POLLIN=select.POLLIN))
        with pytest.raises(KeyboardInterrupt):
            near.do_handshake()
        assert near._driver is not None
        assert near._driver._waiting == 0


@polls
def test_a_refusal_that_was_noticed_in_sending_is_told_before_anything_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with udp(bound=True) as silent, udp() as sock:
        sock.connect(silent.getsockname())
        near = SSLConnection(sock, do_handshake_on_connect=False)
        driver: Any = near._driver
        driver.sock.refused = True
        monkeypatch.setattr(drivers, "select", SimpleNamespace(poll=SimpleNamespace))
        assert raised(near.do_handshake).errno == err.ERR_PORT_UNREACHABLE


def test_a_handshake_on_a_socket_that_its_owner_has_closed_says_so() -> None:
    with udp(bound=True) as silent:
        sock = udp()
        sock.connect(silent.getsockname())
        near = SSLConnection(sock, do_handshake_on_connect=False)
        sock.close()
        assert isinstance(raised(near.do_handshake), OSError)
        assert near._driver is not None
        assert near._driver._waiting == 0


def test_a_handshake_on_a_descriptor_that_was_closed_meanwhile_says_so(client: Context) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(peer.getsockname())
        driver = Driver(sock, client.connection(now(), server_hostname="localhost"))
        sock.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            driver.handshake(1.0)


def test_close_wakes_a_handshake_in_another_thread(client: Context) -> None:
    with udp(bound=True) as silent:
        sock = udp(timeout=None)
        sock.connect(silent.getsockname())
        with client.wrap_socket(sock, do_handshake_on_connect=False, server_hostname="localhost") as near:
            assert isinstance(near, DTLSSocket)
            shaking = Worker(near.do_handshake)
            driver = near._driver
            assert driver is not None
            wait_for(lambda: driver._waiting)
            near.close()
            with pytest.raises(SSLZeroReturnError):
                shaking.result()
            assert driver.sock.fileno() == -1  # and the descriptor is gone


@pytest.mark.parametrize(("side", "which"), [("server", 0), ("server", 1), ("client", 0), ("client", 2)])
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_flight_that_finds_no_room_is_sent_when_there_is_some(
    pem: bytes, monkeypatch: pytest.MonkeyPatch, side: str, which: int, timeout: float | None
) -> None:
    send = BorrowedSocket.send
    sent: list[bytes] = []

    def send_later(borrowed_socket: BorrowedSocket, datagram: bytes) -> int:
        # Of the server only what goes out on its peer's own socket passes here.
        if (borrowed_socket.sock is sock) == (side == "client"):
            sent.append(datagram)
            if len(sent) == which + 1:
                raise BlockingIOError
        return send(borrowed_socket, datagram)

    monkeypatch.setattr(BorrowedSocket, "send", send_later)
    with udp(bound=True) as bound, udp(timeout=timeout) as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        accepting = Worker(accept, listening)
        near = SSLConnection(sock)
        near.connect(bound.getsockname())
        far, _ = accepting.result()
        with far.get_socket(True):
            assert len(sent) > which
            for end in (near, far):
                assert end._driver is not None
                assert not end._driver.connection.statistics["flights_repeated"]


# --- accept -------------------------------------------------------------------------------------------------------


@on_osnet
@pytest.mark.usefixtures("demux")
def test_a_listening_socket_without_a_timeout_waits_by_itself(
    pem: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fruitless: list[None] = []
    receive = Listener.receive

    def noting(listener: Listener, through: socket.socket | None = None) -> Any:
        received = receive(listener, through)
        if received is None:
            fruitless.append(received)
        return received

    monkeypatch.setattr(Listener, "receive", noting)
    with udp(bound=True, timeout=None) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        accepting = Worker(listening.accept)
        SSLConnection(sock).connect(bound.getsockname())
        accepting.result()[0].get_socket(True).close()
        assert not fruitless


@polls
@on_osnet
@pytest.mark.usefixtures("demux")
def test_a_listening_descriptor_that_does_not_block_is_not_asked_again_and_again(
    pem: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shares the descriptor may have made it non-blocking, of which Python's timeout does not tell."""
    asked: list[Listener] = []
    receive = Listener.receive

    def noting(listener: Listener, through: socket.socket | None = None) -> Any:
        asked.append(listener)
        return receive(listener, through)

    monkeypatch.setattr(Listener, "receive", noting)
    with udp(bound=True, timeout=None) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        os.set_blocking(bound.fileno(), False)
        accepting = Worker(listening.accept)
        wait_for(lambda: asked)
        SSLConnection(sock).connect(bound.getsockname())
        accepting.result()[0].get_socket(True).close()
        assert len(asked) <= 4  # two ClientHellos, and two times in vain


def test_a_timeout_that_comes_about_while_a_listener_waits_is_nothing_to_count() -> None:
    with udp(bound=True, timeout=0) as bound:
        listener = Listener(bound)
        bound.settimeout(0.001)
        assert listener.receive(through=bound) is None
        assert not listener.statistics


def test_a_client_that_another_thread_found_before_comes_first(
    pem: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with udp(bound=True) as bound, udp(bound=True) as first, udp(bound=True) as second:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        bound.settimeout(0)
        hellos = [proved_hello(listening, client) for client in (first, second)]
        reception = listening._reception
        assert reception is not None
        take = reception._demux.take

        def take_late(until: float) -> Any:
            monkeypatch.setattr(reception._demux, "take", take)
            reception.receive_elsewhere(hellos[0], Origin(first.getsockname()))
            return take(until)

        monkeypatch.setattr(reception._demux, "take", take_late)
        second.sendto(hellos[1], bound.getsockname())
        assert listening.listen() == first.getsockname()
        assert listening.listen() == second.getsockname()


def test_a_client_that_was_accepted_and_has_gone_is_not_told_of_again(pem: bytes, demux: str) -> None:
    with udp(bound=True) as bound, udp(bound=True) as client:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        bound.settimeout(SHORT)
        client.sendto(whole(hello_body()), bound.getsockname())  # without a group: there will be no handshake
        assert listening.listen() is None
        body = hello_body(cookie=cookie_in(client.recv(65535)))
        twice = whole(body, message_sequence=1, record_sequence=1)
        client.sendto(twice, bound.getsockname())
        client.sendto(twice, bound.getsockname())
        assert listening.listen() == client.getsockname()
        assert isinstance(raised(listening.accept), err.openssl_error())
        assert listening.listen() is None, demux


def test_threads_that_begin_to_accept_at_the_same_time_share_the_cookies(
    pem: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Reception] = []
    both = threading.Barrier(2)

    class Slow(Reception):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(SHORT)  # for another thread to come here, too

    monkeypatch.setattr(sslconnection, "Reception", Slow)
    with udp(bound=True) as bound:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        bound.settimeout(0)
        threads = [Worker(listening.listen) for _ in range(2)]
        assert [thread.result() for thread in threads] == [None, None]
    assert len(made) == 1


@pytest.mark.parametrize("when", ["when it was waited", "when it is read"])
def test_a_signals_handler_that_raises_leaves_no_thread_counted_as_waiting(
    client: Context, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    class Interrupted(BaseException):
        pass

    with udp(bound=True) as peer:
        sock = udp()
        sock.connect(peer.getsockname())
        driver = Driver(sock, client.connection(now(), server_hostname="localhost"))
        peer.sendto(b"noise", sock.getsockname())

        def interrupt(*_arguments: object) -> Any:
            raise Interrupted

        def interrupted_now() -> float:
            if driver._waiting:
                interrupt()
            return now()

        if when == "when it was waited":
            monkeypatch.setattr(drivers, "now", interrupted_now)
        else:
            monkeypatch.setattr(driver, "_read", interrupt)
        with pytest.raises(Interrupted):
            driver.handshake(5.0)
        assert driver._waiting == 0
        monkeypatch.undo()
        driver.close()
        assert sock.fileno() < 0


@polls
def test_a_read_that_takes_all_the_time_there_was_is_not_begun_again(
    client: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[float] = []
    with udp(bound=True) as peer, udp() as sock:
        sock.connect(peer.getsockname())
        driver = Driver(sock, client.connection(now(), server_hostname="localhost"))
        peer.sendto(b"noise", sock.getsockname())

        def slow_read() -> None:
            reads.append(now())
            while now() < reads[0] + SHORT:
                pass

        monkeypatch.setattr(driver, "_read", slow_read)
        with pytest.raises(SSLTimeoutError):
            driver.handshake(SHORT)
        assert len(reads) == 1
        driver.close()


@polls
def test_a_flight_that_is_due_when_the_time_is_over_is_still_repeated(client: Context) -> None:
    client.initial_retransmission_timeout = SHORT
    with udp(bound=True) as peer, udp() as sock:
        peer.settimeout(0)
        sock.connect(peer.getsockname())
        driver = Driver(sock, client.connection(now(), server_hostname="localhost"))
        driver.flush()
        with pytest.raises(SSLTimeoutError):
            driver.handshake(SHORT)
        assert [peer.recv(2000)[13] for _ in range(2)] == [1, 1]
        driver.close()


class Wrapping:
    """A socket's class that another library puts in the place of Python's own: it has one, and is none."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._sock = socket.SocketType(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_sockets_of_a_class_that_stands_in_pythons_place_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", Wrapping)
    sock: Any = Wrapping(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        assert is_datagram_socket(sock)
        for plain in (kernel._PLAIN, None):  # put there after this package was imported, or before
            monkeypatch.setattr(kernel, "_PLAIN", plain)
            assert kernel.numbers_of(sock).family == socket.AF_INET
    finally:
        sock.close()


def test_a_handshake_does_without_poll_where_another_library_has_taken_it_away(
    pem: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "poll", raising=False)
    with connections(pem) as (near, far):
        near.write(b"hello")
        assert far.read() == b"hello"


def test_a_server_makes_ready_for_the_client_that_it_sent_a_cookie(pem: bytes) -> None:
    with udp(bound=True) as bound, udp(bound=True) as client:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        bound.settimeout(0)
        engine = listening._context._engine()
        for _ in range(2):  # who asks again costs no more
            hello = proved_hello(listening, client)
            [(ready, _, _)] = engine._ready
        client.sendto(hello, bound.getsockname())
        assert listening.listen() == client.getsockname()
        accepted = listening.accept()
        assert accepted is not None
        with accepted[0].get_socket(True):
            assert not engine._ready
            connection: Any = accepted[0]._driver and accepted[0]._driver.connection
            assert connection._ssl is ready


def test_a_client_that_was_accepted_meanwhile_is_not_queued(pem: bytes) -> None:
    with udp(bound=True) as bound, udp(bound=True) as client:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        bound.settimeout(0)
        client.sendto(proved_hello(listening, client), bound.getsockname())
        assert listening.listen() == client.getsockname()
        reception, arrival = listening._reception, listening._arrival
        assert reception is not None
        assert arrival is not None
        accepted = listening.accept()
        assert accepted is not None
        with accepted[0].get_socket(True):
            reception._queue(arrival)  # by a thread that judged its ClientHello just before
            assert reception.wait(0) is None
            assert reception.statistics["dropped_repeated_hello"] == 1


@on_osnet
@pytest.mark.usefixtures("demux")
def test_an_association_is_known_as_long_as_somebody_holds_it(pem: bytes) -> None:
    with udp(bound=True) as bound, udp(bound=True) as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        sock.connect(bound.getsockname())
        found = []
        for _ in range(2):  # one client, twice
            near = SSLConnection(sock, do_handshake_on_connect=False)
            connecting = Worker(near.do_handshake)
            far, _ = accept(listening)
            connecting.result()
            far.get_socket(True).close()
            found.append(far)
        del far
        assert listening._reception is not None
        demux = listening._reception._demux
        assert isinstance(demux, osnet.UDPDemux)
        found.pop(0)
        gc.collect()
        (reference,) = demux._drivers.values()
        assert reference() is found[0]._driver
        found.clear()
        gc.collect()
        assert not demux._drivers


@pytest.mark.usefixtures("demux", "default_timeout")
def test_an_accepted_connection_has_no_timeout_whatever_the_default_is(pem: bytes) -> None:
    with connections(pem) as (_, far):  # which sets one
        listening = udp(bound=True)
        with listening, udp() as sock:
            server = SSLConnection(listening, pem, pem, server_side=True)
            connecting = Worker(SSLConnection(sock).connect, listening.getsockname())
            other, _ = accept(server)
            connecting.result()
            with other.get_socket(True) as own:
                assert own.gettimeout() is None
        assert far.get_socket(True).gettimeout() is not None


# --- sockets and files --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("default_timeout")
@pytest.mark.parametrize("timeout", [None, 0.0, SHORT])
def test_a_socket_that_is_taken_over_keeps_its_timeout_whatever_the_default_is(timeout: float | None) -> None:
    with DatagramSSLSocket(udp(timeout=timeout)) as sock:
        assert sock.gettimeout() == timeout
        assert sock.getblocking() is (timeout != 0.0)
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_DGRAM)


def test_datagram_sockets_are_told_from_others_of_every_class() -> None:
    class Own(socket.socket):
        pass

    for kind in (socket.socket, Own):
        with kind(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, kind(socket.AF_INET) as stream:
            assert is_datagram_socket(datagrams) is True
            assert is_datagram_socket(stream) is False
    assert is_datagram_socket(object()) is False


class Refusing:
    """A connected socket on which so many datagrams in a row are refused, for earlier ones."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.sent: list[bytes] = []

    def gettimeout(self) -> None:
        return None

    def recv(self, _size: int, _flags: int) -> bytes:
        raise AssertionError  # what was refused is told first

    def send(self, datagram: bytes, _flags: int) -> int:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionRefusedError
        self.sent.append(datagram)
        return len(datagram)


@pytest.mark.skipif(not hasattr(socket, "MSG_DONTWAIT"), reason="sockets are asked before, here")
@pytest.mark.parametrize(("refusals", "sent"), [(1, [b"again"]), (2, [])])
def test_what_was_refused_for_an_earlier_datagram_is_sent_again_once(
    refusals: int, sent: list[bytes]
) -> None:
    plain: Any = Refusing(refusals)
    borrowed = BorrowedSocket(plain)
    assert borrowed.send(b"again") == 5
    assert plain.sent == sent
    assert borrowed.refused
    with pytest.raises(err.PortUnreachable):
        borrowed.recv(1)
    assert not borrowed.refused


def test_a_file_of_certificates_is_read_to_its_end(
    pem: bytes, ca: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "_AT_A_TIME", 100)
    path = tmp_path / "ca.pem"
    path.write_bytes(ca.certificate_pem)
    for source in (path, str(path), os.fsencode(path)):
        with connections(pem, client={"ca_certs": source, "cert_reqs": CERT_REQUIRED}) as (near, _):
            assert near.getpeercert()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read."""
    read, files = arguments._read, []

    def noted(where: str) -> tuple[os.stat_result, bytes]:
        files.append(where)
        return read(where)

    monkeypatch.setattr(arguments, "_read", noted)
    return files


def set_age(path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file have been changed so long ago."""
    changed = path.stat().st_ctime_ns
    monkeypatch.setattr(arguments, "time", SimpleNamespace(time_ns=lambda: changed + int(seconds * 1e9)))


def test_a_file_of_certificates_that_has_not_changed_is_not_read_again(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(b"one")
    set_age(path, 60, monkeypatch)
    assert [arguments._contents(path) for _ in range(3)] == [b"one"] * 3
    assert reads == [str(path)]


@pytest.mark.parametrize("how", ["written", "replaced", "made longer", "moved back in time"])
def test_a_file_of_certificates_that_has_changed_is_read_again(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    path.write_bytes(b"one")
    set_age(path, 60, monkeypatch)
    assert arguments._contents(path) == b"one"
    times = path.stat()
    # Where the clock of the file system has not moved on, nothing but the rule about files just changed could tell.
    wait_for(lambda: other.write_bytes(b"two") and other.stat().st_mtime_ns > times.st_mtime_ns)
    if how == "written":
        path.write_bytes(b"two")
    elif how == "replaced":
        other.replace(path)
    elif how == "made longer":
        path.write_bytes(b"two" * 2)
    else:
        path.write_bytes(b"two")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert arguments._contents(path) == path.read_bytes()
    assert reads == [str(path)] * 2


def test_a_file_of_certificates_that_has_just_changed_is_read_again(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(b"one")
    set_age(path, 1, monkeypatch)
    assert [arguments._contents(path) for _ in range(2)] == [b"one"] * 2
    assert reads == [str(path)] * 2


def test_what_was_read_of_one_file_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    link = tmp_path / "link"

    def point_to(name: str) -> None:
        (tmp_path / "new").symlink_to(tmp_path / name)
        (tmp_path / "new").replace(link)

    point_to("one")
    set_age(tmp_path / "two", 60, monkeypatch)
    read = arguments._read

    def read_late(where: str) -> tuple[os.stat_result, bytes]:
        point_to("two")
        return read(where)

    monkeypatch.setattr(arguments, "_read", read_late)
    assert arguments._contents(link) == b"two"
    monkeypatch.setattr(arguments, "_read", read)
    point_to("one")
    assert arguments._contents(link) == b"one"


def test_only_so_many_files_of_certificates_are_remembered(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        path = tmp_path / f"{number}.pem"
        path.write_bytes(b"%d" % number)
        set_age(path, 60, monkeypatch)
        assert arguments._contents(path) == b"%d" % number
    assert len(arguments._files) <= 16
    assert len(reads) == 40


def test_a_socket_without_a_port_has_no_peer_and_is_not_asked_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with udp() as sock, udp(bound=True) as bound:
        assert peer_of(SimpleNamespace(getsockname=sock.getsockname)) is None  # type: ignore[arg-type]
        assert peer_of(bound) is None
        sock.connect(bound.getsockname())
        assert peer_of(sock) == bound.getsockname()


def test_a_directory_is_no_file_of_certificates(tmp_path: Path) -> None:
    with udp(bound=True) as bound, udp() as sock:
        sock.connect(bound.getsockname())
        error = raised(lambda: SSLConnection(sock, ca_certs=tmp_path, do_handshake_on_connect=False))
        assert isinstance(error, err.openssl_error())
        assert error.errno == 0
