"""``send_many`` and ``recv_many`` over real UDP: in runs where the kernel makes them, one by one elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from dtls import (
    AlertReceived,
    AssociationReplaced,
    MessageTooLarge,
    SSLError,
    SSLTimeoutError,
    SSLWantReadError,
    SSLWantWriteError,
    SSLZeroReturnError,
    mmsg,
)
from dtls.connection import ConnectionState, Unprotected
from dtls.sending import MAX_SENT_AT_A_TIME, MAX_UNSENT
from dtls.servers import DTLSServerSocket, create_server
from dtls.udp import Listener, Origin
from dtls.wire import RECORD_HEADER_LENGTH, HandshakeType

from .loopback import HOSTS, PATIENCE, Worker, pair, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dtls.context import Context
    from dtls.driver import Driver
    from dtls.sockets import DTLSSocket

Ends = tuple["DTLSSocket", "DTLSSocket"]


def _makes_runs() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return mmsg.available and mmsg.takes_segments(sock) and mmsg.coalesce(sock)


in_runs = pytest.mark.skipif(not _makes_runs(), reason="the kernel makes no runs of datagrams")


@pytest.fixture
def ends(client: Context, server: Context) -> Iterator[Ends]:
    """Both ends of an association; the first has heard the second, and neither has anything to repeat."""
    near, far = pair(client, server)
    with near, far:
        near.send(b"first")
        assert far.recv() == b"first"
        yield near, far


def driver_of(end: DTLSSocket) -> Driver:
    assert end._driver is not None
    return end._driver


def texts(count: int, length: int = 500) -> list[bytes]:
    return [number.to_bytes(2, "big") * (length // 2) for number in range(count)]


def receive(end: DTLSSocket, count: int) -> list[bytes]:
    """So many messages."""
    found: list[bytes] = []
    while len(found) < count:
        some = end.recv_many()
        assert some
        found += some
    return found


def begin_runs(ends: Ends) -> None:
    """Have the second end read runs from now on."""
    near, far = ends
    near.send(b"begin")
    assert far.recv_many() == [b"begin"]


def send_run(sock: Any, datagrams: list[bytes], address: Any = None) -> None:
    """Send datagrams that arrive as one run."""
    sock.sendmsg([b"".join(datagrams)], [mmsg.segment_control(len(datagrams[0]))], 0, address)


class Kernel:
    """Sees what is sent and read, and may refuse it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusal: OSError | None = None
        self.runs_sent = 0
        self.runs_read = 0
        self.reads = 0
        sendmsg, receive = socket.socket.sendmsg, mmsg.receive

        def send(sock: socket.socket, *arguments: Any) -> int:
            self.runs_sent += 1
            if self.refusal is not None:
                raise self.refusal
            return sendmsg(sock, *arguments)

        def read(*arguments: Any) -> list[tuple[bytes, Any, int]]:
            self.reads += 1
            found = receive(*arguments)
            self.runs_read += sum(bool(size) for _, _, size in found)
            return found

        monkeypatch.setattr(socket.socket, "sendmsg", send)
        monkeypatch.setattr(mmsg, "receive", read)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


class Full:
    """A send buffer without room, for one end."""

    def __init__(self, end: DTLSSocket, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = BlockingIOError(errno.EAGAIN, "no room")
        kernel.refusal = self.error
        self._kernel = kernel
        self._send = driver_of(end)._send
        monkeypatch.setattr(driver_of(end), "_send", self.send)

    def send(self, datagram: bytes) -> int:
        if self.error is not None:
            raise self.error
        return self._send(datagram)

    def refuse(self, error: OSError | None) -> None:
        self.error = self._kernel.refusal = error


@pytest.fixture
def full(ends: Ends, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Full:
    return Full(ends[0], kernel, monkeypatch)


@pytest.fixture(params=[pytest.param("runs", marks=in_runs), "one by one"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With what Linux has, and as on other systems."""
    if request.param != "runs":
        monkeypatch.setattr(mmsg, "available", False)
    found: str = request.param
    return found


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_many_messages_come_whole_and_in_order(client: Context, server: Context, host: str, way: str) -> None:
    near, far = pair(client, server, host)
    with near, far:
        for sender, receiver in ((near, far), (far, near)):
            for lengths in ([500] * 100, [1, 2, 3, 200, 200, 100, 1000, 1000, 1], range(1, 100), [800]):
                sent = [bytes([number % 256]) * length for number, length in enumerate(lengths)]
                assert sender.send_many(sent) == len(sent)
                assert receive(receiver, len(sent)) == sent
    assert not near.statistics["dropped_unsent"], way


@in_runs
def test_runs_are_sent_and_read_as_one(ends: Ends, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = ends
    begin_runs(ends)
    monkeypatch.setattr(driver_of(far).connection, "unprotect", None)
    kernel.reads = 0
    assert near.send_many(texts(100)) == 100
    assert kernel.runs_sent == 2
    assert receive(far, 100) == texts(100)
    assert kernel.runs_read == 2
    assert kernel.reads <= 5


@in_runs
def test_all_runs_that_wait_are_read_but_no_more_than_are_wanted(ends: Ends) -> None:
    near, far = ends
    begin_runs(ends)
    near.send_many(texts(20))
    assert far.recv_many() == texts(20)
    for _ in range(3):
        near.send_many(texts(20))
    assert far.recv_many(20) == texts(20)
    assert far.pending() == 0, "a flood of runs waits in the kernel, which bounds it"
    near.send_many(texts(20))
    assert far.recv_many() == texts(20) * 3


@in_runs
def test_datagrams_that_wait_by_themselves_are_read_in_one_call(ends: Ends, kernel: Kernel) -> None:
    near, far = ends
    begin_runs(ends)
    for message in texts(40):
        near.send(message)
    kernel.reads = 0
    assert far.recv_many(40) == texts(40)
    assert kernel.reads == 1


def test_messages_may_be_any_kind_of_bytes_from_any_iterable(ends: Ends, way: str) -> None:
    near, far = ends
    kinds: list[Any] = [
        b"12345678",
        bytearray(b"12345678"),
        memoryview(b"12345678").cast("I"),
        memoryview(b"1122334455667788")[::2],
    ]
    assert near.send_many(kind for kind in kinds) == 4
    assert receive(far, 4) == [b"12345678"] * 4, way
    assert near.send_many(()) == 0
    assert near.send_many(iter([b"last"])) == 1
    assert far.recv_many() == [b"last"]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (b"", ValueError, "empty"),
        (bytes(1400), MessageTooLarge, "1400 bytes"),
        ("text", TypeError, "encode it"),
        (7, TypeError, "'int'"),
        (None, TypeError, "'NoneType'"),
    ],
)
def test_nothing_is_sent_if_one_message_cannot_be(
    ends: Ends, wrong: Any, error: type[Exception], words: str
) -> None:
    near, far = ends
    with pytest.raises(error, match=words):
        near.send_many([*texts(100), wrong])
    near.send(b"next")
    assert far.recv_many() == [b"next"]


def test_what_is_no_iterable_of_messages_is_refused(ends: Ends) -> None:
    near, _ = ends
    with pytest.raises(TypeError):
        near.send_many(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'int'"):
        near.send_many(b"bytes")  # type: ignore[arg-type]


def test_recv_many_gives_no_more_than_it_is_asked_for_and_keeps_the_rest(ends: Ends, way: str) -> None:
    near, far = ends
    assert near.send_many(texts(100, 300)) == 100
    found = []
    for most in (1, 10, 64, 25):
        wait_for(lambda: far.pending() or select.select([far], [], [], 0)[0])
        some = far.recv_many(most)
        assert 0 < len(some) <= most
        found += some
    found += receive(far, 100 - len(found)) if len(found) < 100 else []
    assert found == texts(100, 300), way
    far.settimeout(0)
    with pytest.raises(SSLWantReadError):
        far.recv_many()


@in_runs
def test_what_is_left_of_a_run_is_pending_and_comes_before_what_follows(ends: Ends) -> None:
    near, far = ends
    begin_runs(ends)
    near.send_many(texts(10))
    assert far.recv_many(4) == texts(10)[:4]
    assert far.pending() == 500
    near.send(b"after")
    assert far.recv_many() == [*texts(10)[4:], b"after"]
    assert far.pending() == 0


@pytest.mark.parametrize(
    ("most", "error", "words"),
    [
        (0, ValueError, "at least 1"),
        (-1, ValueError, "at least 1"),
        (1.5, TypeError, "float"),
        ("3", TypeError, "str"),
    ],
)
def test_recv_many_wants_a_number_of_messages(
    ends: Ends, most: Any, error: type[Exception], words: str
) -> None:
    near, far = ends
    near.send_many(texts(3))
    with pytest.raises(error, match=words):
        far.recv_many(most)
    assert receive(far, 3) == texts(3)


def test_recv_and_recv_many_take_turns(ends: Ends, way: str) -> None:
    near, far = ends
    sent = texts(30)
    for _ in range(3):
        near.send_many(sent)
        assert [far.recv() for _ in range(10)] == sent[:10], way
        assert receive(far, 20) == sent[10:]
        near.send_many(sent)
        assert [far.recv() for _ in range(30)] == sent
        near.send(b"single")
        assert far.recv() == b"single"


@in_runs
def test_recv_takes_runs_apart_and_waits_as_before(ends: Ends, kernel: Kernel) -> None:
    near, far = ends
    begin_runs(ends)
    near.send_many(texts(20))
    assert [far.recv() for _ in range(20)] == texts(20)
    assert kernel.runs_read == 1
    far.settimeout(0.01)
    with pytest.raises(SSLTimeoutError):
        far.recv()
    far.settimeout(None)
    receiving = Worker(far.recv)
    wait_for(lambda: driver_of(far)._waiting)
    near.send(b"late")
    assert receiving.result() == b"late"


@in_runs
def test_a_thread_that_waits_in_recv_is_given_no_run_for_a_datagram(ends: Ends, kernel: Kernel) -> None:
    near, far = ends
    receiving = Worker(far.recv)
    wait_for(lambda: driver_of(far)._waiting_in_recv)
    far.settimeout(0)
    with pytest.raises(SSLWantReadError):
        far.recv_many()
    far.settimeout(PATIENCE)
    insider = [driver_of(near).connection.protect(message) for message in texts(3)]
    send_run(near._sock, [insider[1], bytes(len(insider[0])), insider[2]])
    assert receiving.result() == texts(3)[1]
    assert far.recv() == texts(3)[2]
    # When nobody waits there any more, runs begin.
    begin_runs(ends)
    near.send_many(texts(20))
    assert receive(far, 20) == texts(20)
    assert kernel.runs_read == 1


def test_two_threads_send_and_two_receive(ends: Ends, way: str) -> None:
    count, turns = 40, 20

    def send(end: DTLSSocket) -> None:
        for _ in range(turns):
            end.send_many(texts(count, 100))
            assert acknowledged[end].acquire(timeout=PATIENCE)

    def collect(end: DTLSSocket, sender: DTLSSocket) -> list[bytes]:
        found: list[bytes] = []
        for _ in range(turns):
            found += receive(end, count)
            acknowledged[sender].release()
        return found

    near, far = ends
    acknowledged = {near: threading.Semaphore(0), far: threading.Semaphore(0)}
    workers = [Worker(send, near), Worker(send, far)]
    collecting = [Worker(collect, far, near), Worker(collect, near, far)]
    for worker in workers:
        worker.result()
    for worker in collecting:
        assert worker.result() == texts(count, 100) * turns, way


class Watched:
    """A lock that notes when it is free again."""

    def __init__(self, notes: list[object]) -> None:
        self._lock, self._notes, self._depth = threading.RLock(), notes, 0

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._notes.append("free")
        self._lock.release()


def test_other_threads_have_their_turn_between_the_batches(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, _ = ends
    driver = driver_of(near)
    notes: list[object] = []
    send_batch = driver._send_batch

    def note(batch: list[bytes]) -> int:
        notes.append(len(batch))
        return send_batch(batch)

    monkeypatch.setattr(driver, "_send_batch", note)
    monkeypatch.setattr(driver, "_lock", Watched(notes))
    assert near.send_many(texts(150, 20)) == 150
    most = MAX_SENT_AT_A_TIME
    assert notes == [most, "free", most, "free", 150 - 2 * most, "free"]
    assert most <= MAX_UNSENT, "all of a batch may have to wait"


# --- time ------------------------------------------------------------------------------------------------------------


def test_recv_many_waits_as_the_timeout_says(ends: Ends, way: str) -> None:
    near, far = ends
    for _ in range(2):
        far.settimeout(0.01)
        with pytest.raises(SSLTimeoutError):
            far.recv_many()
        far.settimeout(0)
        with pytest.raises(SSLWantReadError):
            far.recv_many()
        far.settimeout(None)
        receiving = Worker(far.recv_many)
        wait_for(lambda: driver_of(far)._waiting)
        near.send(b"late")
        assert receiving.result() == [b"late"], way


def test_what_the_send_buffer_does_not_take_waits_for_room_and_goes_out_first(ends: Ends, full: Full) -> None:
    near, far = ends
    near.settimeout(0)
    sent = near.send_many(texts(120))
    assert sent == MAX_SENT_AT_A_TIME
    with pytest.raises(SSLWantWriteError):
        near.send_many(texts(120)[sent:])
    assert near.send_many([]) == 0
    full.refuse(None)
    assert near.send_many(texts(120)[sent:]) == 120 - sent
    assert receive(far, 120) == texts(120)
    assert not near.statistics["dropped_unsent"]


def test_no_message_overtakes_one_that_waits_for_room(
    ends: Ends, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    send = driver_of(near)._send
    left = iter([True, True, False])

    def send_some(datagram: bytes) -> int:
        kernel.refusal = None
        if not next(left, True):
            raise BlockingIOError(errno.EAGAIN, "no room")
        return send(datagram)

    kernel.refusal = BlockingIOError(errno.EAGAIN, "no room for all")
    monkeypatch.setattr(driver_of(near), "_send", send_some)
    sent = [*texts(5), *texts(5, 600), *texts(5, 700)]
    assert near.send_many(sent) == 15
    assert receive(far, 15) == sent


def test_a_run_that_has_no_room_goes_out_in_pieces_and_the_next_is_a_run_again(
    ends: Ends, kernel: Kernel
) -> None:
    near, far = ends
    kernel.refusal = BlockingIOError(errno.EAGAIN, "no room for all")
    assert near.send_many(texts(20)) == 20
    assert receive(far, 20) == texts(20)
    kernel.refusal = None
    assert near.send_many(texts(20)) == 20
    assert receive(far, 20) == texts(20)
    if _makes_runs():
        assert kernel.runs_sent == 2


def test_send_many_gives_up_after_the_timeout_and_tells_how_many_it_was(ends: Ends, full: Full) -> None:
    near, far = ends
    near.settimeout(0.05)
    sent = near.send_many(texts(200))
    assert sent == MAX_SENT_AT_A_TIME
    with pytest.raises(SSLTimeoutError, match="send buffer"):
        near.send_many(texts(200)[sent:])
    full.refuse(None)
    near.settimeout(PATIENCE)
    near.send(b"last")
    assert receive(far, sent + 1) == [*texts(200)[:sent], b"last"]


@pytest.mark.parametrize("count", [1, 50, 100])
def test_send_many_waits_until_everything_is_out(ends: Ends, full: Full, count: int) -> None:
    near, far = ends
    near.settimeout(None)
    sending = Worker(near.send_many, texts(count))
    wait_for(lambda: driver_of(near)._waiting)
    full.refuse(None)
    assert sending.result() == count
    near.close()
    assert receive(far, count) == texts(count)


@in_runs
def test_a_thread_that_waits_in_recv_does_not_make_a_full_send_buffer_wait(
    ends: Ends, kernel: Kernel
) -> None:
    """The socket's own timeout, which ``recv`` waits by, would be waited for by ``sendmsg`` as well."""
    near, far = ends
    receiving = Worker(near.recv)
    wait_for(lambda: driver_of(near)._waiting_in_recv)
    assert near._sock.gettimeout()
    assert near.send_many(texts(10)) == 10
    assert near._sock.gettimeout() == 0
    assert kernel.runs_sent == 1
    assert receive(far, 10) == texts(10)
    far.send(b"done")
    assert receiving.result() == b"done"


# --- what the kernel refuses -----------------------------------------------------------------------------------------


@in_runs
@pytest.mark.parametrize("number", sorted(mmsg.SEGMENTS_REFUSED))
def test_what_is_refused_as_a_run_is_sent_one_by_one_from_then_on(
    ends: Ends, kernel: Kernel, number: int
) -> None:
    near, far = ends
    kernel.refusal = OSError(number, os.strerror(number))
    for _ in range(2):
        assert near.send_many(texts(100)) == 100
        assert receive(far, 100) == texts(100)
    assert kernel.runs_sent == 1


@in_runs
@pytest.mark.parametrize("call", ["setsockopt", "getsockopt"])
def test_a_kernel_that_knows_no_runs_is_asked_once(
    ends: Ends, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    asked = []

    def refuse(_sock: socket.socket, level: int, option: int, *_: Any) -> int:
        asked.append((level, option))
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    monkeypatch.setattr(socket.socket, call, refuse)
    near, far = ends
    for _ in range(3):
        assert near.send_many(texts(30)) == 30
        assert receive(far, 30) == texts(30)
    assert asked == [(17, 104 if call == "setsockopt" else 103)]
    assert kernel.runs_read == 0


def test_a_message_too_long_for_the_path_is_told_if_it_is_the_first(
    ends: Ends, kernel: Kernel, full: Full
) -> None:
    near, far = ends
    full.refuse(OSError(errno.EMSGSIZE, "Message too long"))
    for _ in range(2):
        with pytest.raises(MessageTooLarge, match="500 bytes is too long for the network path"):
            near.send_many(texts(100))
    full.refuse(None)
    before = kernel.runs_sent
    assert near.send_many(texts(100)) == 100
    assert receive(far, 100) == texts(100)
    if _makes_runs():
        assert kernel.runs_sent == before + 2, "it was not because of the runs"


def test_an_error_after_some_were_sent_is_left_for_the_next_call(
    ends: Ends, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    monkeypatch.setattr(mmsg, "available", False)
    full.refuse(None)
    send, left = full.send, [70]

    def send_some(datagram: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        left[0] -= 1
        return send(datagram)

    monkeypatch.setattr(driver_of(near), "_send", send_some)
    assert near.send_many(texts(120)) == 70
    with pytest.raises(OSError, match="unreachable"):
        near.send_many(texts(120)[70:])
    left[0] = 120
    assert near.send_many(texts(120)[70:]) == 50
    assert receive(far, 120) == texts(120)


def test_refusals_do_not_end_an_association(ends: Ends, way: str) -> None:
    near, far = ends
    near.settimeout(0.01)
    with pytest.raises(SSLTimeoutError):
        near.recv_many()
    socket.socket(fileno=far.detach()).close()
    for _ in range(3):
        assert near.send_many(texts(10)) == 10
        with pytest.raises(SSLTimeoutError):
            near.recv_many()
    assert near.statistics["refused_by_icmp"] > 0, way


@pytest.mark.parametrize("reads_runs", [pytest.param(True, marks=in_runs), False])
def test_stray_datagrams_do_not_disturb(ends: Ends, *, reads_runs: bool) -> None:
    near, far = ends
    if reads_runs:
        begin_runs(ends)
    before = far.statistics["dropped_unauthenticated"]
    sealed = [driver_of(near).connection.protect(message) for message in texts(6)]
    spoiled = sealed[2][:-1] + bytes([sealed[2][-1] ^ 1])
    arrivals = [sealed[0], spoiled, sealed[1], sealed[0], bytes(len(spoiled)), sealed[3]]
    if reads_runs:
        send_run(near._sock, [*arrivals, sealed[4], sealed[5][:50]])
    else:
        for datagram in (*arrivals, b"", sealed[4]):
            near._sock.send(datagram)
    near.send(b"last")
    expected = [texts(6)[number] for number in (0, 1, 3, 4)]
    assert receive(far, 5) == [*expected, b"last"]
    assert far.statistics["dropped_unauthenticated"] - before == 2


# --- servers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def handed_on(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, Any]]:
    """What accepted sockets hand on to their server, and whose it is."""
    found: list[tuple[bytes, Any]] = []
    take_stray = DTLSServerSocket._take_stray

    def take(listening: DTLSServerSocket, datagram: bytes, origin: Origin) -> None:
        found.append((datagram, origin.address))
        take_stray(listening, datagram, origin)

    monkeypatch.setattr(DTLSServerSocket, "_take_stray", take)
    return found


@in_runs
@pytest.mark.parametrize("host", HOSTS)
def test_a_run_of_a_stranger_is_handed_on_one_by_one_under_its_own_address(
    client: Context,
    server: Context,
    monkeypatch: pytest.MonkeyPatch,
    handed_on: list[tuple[bytes, Any]],
    host: str,
) -> None:
    [hello] = client.connection(0.0, server_hostname="localhost").datagrams_to_send(0.0)

    def branch(listener: Listener, sock: socket.socket, origin: Origin) -> list[tuple[bytes, Any]]:
        """What comes between bind and connect is left in the socket."""
        mmsg.coalesce(sock)
        sock.bind(listener.own_address(origin))
        sock.connect(stranger.getsockname())
        send_run(stranger, [hello, hello, bytes(20)], sock.getsockname())
        stranger.sendto(hello, sock.getsockname())
        sock.connect(origin.address)
        return []

    monkeypatch.setattr(Listener, "branch", branch)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as stranger:
        stranger.bind((host, 0))
        stranger.settimeout(PATIENCE)
        with create_server((host, 0), context=server) as listening:
            near, far = pair(client, server, host, listener=listening)
            with near, far:
                near.send_many(texts(20))
                assert receive(far, 20) == texts(20)
                whose = stranger.getsockname()
                assert handed_on == [(hello, whose), (hello, whose), (bytes(20), whose), (hello, whose)]
                assert far.statistics["strangers_datagrams"] == 4
            assert stranger.recv(2000)[RECORD_HEADER_LENGTH] == HandshakeType.HELLO_VERIFY_REQUEST


@in_runs
def test_a_client_hello_within_a_run_is_handed_on(
    client: Context, server: Context, handed_on: list[tuple[bytes, Any]]
) -> None:
    [hello] = client.connection(0.0, server_hostname="localhost").datagrams_to_send(0.0)
    with create_server(("127.0.0.1", 0), context=server) as listening:
        near, far = pair(client, server, listener=listening)
        with near, far:
            begin_runs((near, far))
            connection = driver_of(near).connection
            length = len(hello) - len(connection.protect(b"x")) + 1
            sealed = [connection.protect(message) for message in texts(3, length // 2 * 2)]
            if len(sealed[0]) != len(hello):  # an odd length
                sealed = [connection.protect(message + b"!") for message in texts(3, length // 2 * 2)]
            send_run(near._sock, [sealed[0], hello, sealed[1], hello, sealed[2]])
            assert [message[:2] for message in receive(far, 3)] == [text[:2] for text in texts(3)]
            assert handed_on == [(hello, near.getsockname())] * 2


@in_runs
def test_while_the_peer_begins_anew_runs_are_shared_with_the_server(
    client: Context, server: Context, handed_on: list[tuple[bytes, Any]]
) -> None:
    with create_server(("127.0.0.1", 0), context=server) as listening:
        near, far = pair(client, server, listener=listening)
        with near, far:
            begin_runs((near, far))
            far._share_datagrams(True)
            near.send_many(texts(5))
            assert receive(far, 5) == texts(5)
            assert len(handed_on) == 5
            assert {address for _, address in handed_on} == {near.getsockname()}


@in_runs
def test_an_association_that_is_replaced_leaves_its_runs_one_by_one(ends: Ends, kernel: Kernel) -> None:
    near, far = ends
    begin_runs(ends)
    connection = driver_of(near).connection
    sealed = [connection.protect(message) for message in texts(20)]
    send_run(near._sock, sealed)
    near._sock.send(b"single")
    assert far._replace() == [*sealed, b"single"]
    reads = kernel.reads
    with pytest.raises(AssociationReplaced):
        far.recv_many()
    assert kernel.reads == reads, "the socket leads nowhere"


# --- the end ---------------------------------------------------------------------------------------------------------


def test_messages_before_the_peers_close_come_and_then_nothing(ends: Ends, way: str) -> None:
    near, far = ends
    near.send_many(texts(10))
    near.close()
    assert receive(far, 10) == texts(10)
    assert far.recv_many() == far.recv_many() == [], way
    assert far.recv() == b""
    with pytest.raises(SSLZeroReturnError):
        far.send_many(texts(3))


@in_runs
def test_a_close_notify_at_the_end_of_a_run_is_heard(ends: Ends) -> None:
    near, far = ends
    begin_runs(ends)
    connection = driver_of(near).connection
    sealed = [connection.protect(message) for message in texts(5)]
    connection.close(0.0)
    send_run(near._sock, [*sealed, *connection.datagrams_to_send(0.0)])
    assert far.recv_many() == texts(5)
    assert far.recv_many() == []


def test_close_wakes_a_blocked_recv_many_in_another_thread(ends: Ends, way: str) -> None:
    _, far = ends
    far.settimeout(None)
    receiving = Worker(far.recv_many)
    wait_for(lambda: driver_of(far)._waiting)
    far.close()
    assert receiving.result() == [], way
    with pytest.raises(OSError, match="closed"):
        far.recv_many()
    with pytest.raises(OSError, match="closed"):
        far.send_many([b"late"])


@pytest.mark.parametrize("end", ["close", "detach"])
def test_what_ends_the_association_meanwhile_is_told_by_the_next_call(
    ends: Ends, full: Full, end: str
) -> None:
    near, _ = ends
    near.settimeout(None)
    sending = Worker(near.send_many, texts(200))
    wait_for(lambda: driver_of(near)._waiting)
    given: socket.socket | None = None
    if end == "close":
        near.close()
    else:
        number = near.detach()
        given = socket.socket(fileno=number)
        full.refuse(None)
    with given or contextlib.nullcontext():
        assert sending.result() == MAX_SENT_AT_A_TIME
        assert not driver_of(near)._unsent, "nothing is sent on a socket that is somebody else's"


def test_nothing_is_sent_by_a_socket_that_was_given_away_meanwhile(
    ends: Ends, full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    driver = driver_of(near)
    near.send(b"kept")
    sending = Worker(near.send, b"late")
    wait_for(lambda: driver._waiting)
    with socket.socket(fileno=near.detach()):
        full.refuse(None)
        with pytest.raises(SSLZeroReturnError):
            sending.result()
    send_batch = driver_of(far)._send_batch
    given: list[socket.socket] = []

    def send_and_give_away(batch: list[bytes]) -> int:
        sent = send_batch(batch)
        if not given:
            given.append(socket.socket(fileno=far.detach()))
        return sent

    monkeypatch.setattr(driver_of(far), "_send_batch", send_and_give_away)
    assert far.send_many(texts(100)) == MAX_SENT_AT_A_TIME
    given[0].close()


@in_runs
def test_an_error_within_a_run_is_told_after_the_messages_before_it(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    begin_runs(ends)
    connection = driver_of(far).connection
    unprotect_many = connection.unprotect_many
    error = SSLError(1, "the end")

    def fail(datagrams: bytes, size: int, now: float) -> Unprotected:
        found = unprotect_many(datagrams[: 2 * size], size, now)
        return Unprotected(found.messages[:1], found.taken, [AlertReceived(error)])

    monkeypatch.setattr(connection, "unprotect_many", fail)
    near.send_many(texts(2))
    assert far.recv_many() == texts(1)
    with pytest.raises(SSLError) as caught:
        far.recv_many()
    assert caught.value is error


@in_runs
def test_plaintext_behind_the_answer_to_our_close_notify_is_left_for_its_reader(ends: Ends) -> None:
    near, far = ends
    begin_runs(ends)
    unwrapping = Worker(far.unwrap)
    connection = driver_of(near).connection
    wait_for(lambda: driver_of(far).connection.state is ConnectionState.CLOSING)
    connection.close(0.0)
    send_run(near._sock, [*connection.datagrams_to_send(0.0), b"plain"])
    with unwrapping.result() as plain:
        assert plain.recv(100) == b"plain"


@pytest.mark.parametrize("first", ["near", "far"])
def test_an_unwrapped_socket_reads_datagrams_one_by_one(ends: Ends, way: str, first: str) -> None:
    near, far = ends
    for sender, receiver in (ends, reversed(ends)):
        sender.send_many(texts(5))
        assert receive(receiver, 5) == texts(5)
    one, other = (near, far) if first == "near" else (far, near)
    unwrapping = Worker(one.unwrap)
    assert other.recv_many() == []
    plain_one = unwrapping.result()
    with plain_one:
        plain_one.send(b"early")
        with other.unwrap() as plain_other:
            assert plain_other.recv(100) == b"early"
            for sock, peer in ((plain_one, plain_other), (plain_other, plain_one)):
                if way == "runs":
                    assert sock.getsockopt(mmsg.SOL_UDP, mmsg.UDP_GRO) == 0
                    send_run(peer, [b"plain 1", b"plain 2", b"3"])
                else:
                    for datagram in (b"plain 1", b"plain 2", b"3"):
                        peer.send(datagram)
                assert [sock.recv(100) for _ in range(3)] == [b"plain 1", b"plain 2", b"3"]


@in_runs
def test_unwrap_hears_the_close_notify_behind_runs_that_wait(ends: Ends) -> None:
    near, far = ends
    begin_runs(ends)
    connection = driver_of(near).connection
    sealed = [connection.protect(message) for message in texts(5)]
    connection.close(0.0)
    spoiled = sealed[1][:13] + bytes(len(sealed[1]) - 13)
    garbage = bytes(len(spoiled))
    send_run(near._sock, [sealed[0], garbage, sealed[2], *connection.datagrams_to_send(0.0)])
    with far.unwrap() as plain:
        assert driver_of(far).connection.state.value == "closed"
        near._sock.send(b"plain")
        plain.settimeout(PATIENCE)
        assert plain.recv(100)  # the association's answer is the other way
        assert near._sock.recv(100)


@in_runs
@pytest.mark.parametrize("end", ["closed", "detached"])
def test_no_runs_begin_after_the_end(ends: Ends, end: str) -> None:
    near, far = ends
    driver = driver_of(far)
    if end == "closed":
        near.close()
        assert far.recv() == b""
        assert far.recv_many() == []
        plain = far._sock
    else:
        plain = driver.detach()
        assert driver.receive_many(10, None) == []
    with plain:
        assert plain.getsockopt(mmsg.SOL_UDP, mmsg.UDP_GRO) == 0


@in_runs
def test_a_detached_socket_reads_datagrams_one_by_one(ends: Ends) -> None:
    near, far = ends
    begin_runs(ends)
    with socket.socket(fileno=far.detach()) as plain:
        plain.settimeout(PATIENCE)
        send_run(near._sock, [b"plain 1", b"plain 2", b"3"])
        assert [plain.recv(100) for _ in range(3)] == [b"plain 1", b"plain 2", b"3"]


def test_many_messages_complete_a_handshake_that_was_left_for_later(client: Context, server: Context) -> None:
    with create_server(("127.0.0.1", 0), context=server) as listening:
        listening.settimeout(PATIENCE)
        accepting = Worker(listening.accept)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(listening.getsockname())
            near = client.wrap_socket(sock, server_hostname="localhost", do_handshake_on_connect=False)
        with near:
            assert near.send_many(texts(3)) == 3  # type: ignore[union-attr]
            far, _ = accepting.result()
            with far:
                far.settimeout(PATIENCE)
                assert receive(far, 3) == texts(3)
