"""Real sockets on loopback: servers in threads, pairs of sockets, and a relay that loses what it is told to.

Nothing here sleeps: threads wait for sockets, and whoever waits for a thread does so with a deadline.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from dtls.servers import create_server
from dtls.sockets import DTLSSocket, create_connection
from dtls.wire import ContentType, split_leading_records_untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

    from dtls.context import Context
    from dtls.servers import DTLSServerSocket

PATIENCE = 20.0
"""Seconds after which a test has failed. Only what hangs takes so long."""


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


HOSTS = [
    "127.0.0.1",
    pytest.param("::1", marks=pytest.mark.skipif(not _has_ipv6(), reason="there is no IPv6 here")),
]
needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="there is no IPv6 here")


class Worker(threading.Thread):
    """A thread whose result, or whose error, is fetched by :meth:`result`."""

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._work, self._arguments = work, arguments
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work(*self._arguments)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error

    def result(self, timeout: float = PATIENCE) -> Any:
        """What the work gave, or its error raised."""
        self.join(timeout)
        assert not self.is_alive(), "the thread does not end"
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return self._result


def wait_for(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Wait for what no descriptor tells: another thread's arrival in a system call, say."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.001)
    return value


def pair(
    client: Context, server: Context, host: str = "127.0.0.1", *, listener: DTLSServerSocket | None = None
) -> tuple[DTLSSocket, DTLSSocket]:
    """Both ends of a new association; operations on them have a deadline."""
    with contextlib.ExitStack() as stack:
        if listener is None:
            listener = stack.enter_context(create_server((host, 0), context=server))
        listener.settimeout(PATIENCE)
        accepting = Worker(listener.accept)
        try:
            near = create_connection(
                listener.getsockname()[:2], PATIENCE, context=client, server_hostname="localhost"
            )
        except BaseException:
            listener.close()
            with contextlib.suppress(OSError):
                accepting.result()
            raise
        far, address = accepting.result()
        far.settimeout(PATIENCE)
        assert address == near.getsockname()
    return near, far


def drain(sock: DTLSSocket) -> list[bytes]:
    """The messages that are there, without waiting."""
    sock.settimeout(0)
    messages = []
    with contextlib.suppress(BlockingIOError, OSError):
        while message := sock.recv():
            messages.append(message)
    sock.settimeout(PATIENCE)
    return messages


class EchoServer:
    """Answers each message by the same one, for every peer, until it is left."""

    def __init__(self, context: Context, host: str = "127.0.0.1", **options: Any) -> None:
        self.listener = create_server((host, 0), context=context, **options)
        self.address: tuple[str, int] = self.listener.getsockname()[:2]
        self.sockets: list[DTLSSocket] = []
        self.workers: list[Worker] = []
        self._acceptor = Worker(self._accept)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                if self.listener.fileno() < 0:
                    return
                raise
            self.sockets.append(sock)
            self.workers.append(Worker(self._echo, sock))

    @staticmethod
    def _echo(sock: DTLSSocket) -> bool:
        """Whether the peer has closed, not we."""
        # The socket is closed at the end: a new client may be given the port of an old one, and the kernel would still
        # send what comes from there to the old one's socket, which nobody reads any more.
        with sock, contextlib.suppress(OSError):
            while message := sock.recv():
                sock.send(message)
            return True
        return False

    def worker(self, number: int) -> Worker:
        """The thread that serves the client of that number, from 0; it may serve before it is on the list."""
        workers: list[Worker] = wait_for(lambda: self.workers[number : number + 1])
        return workers[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.listener.close()
        self._acceptor.result()
        for sock in self.sockets:
            sock.close()
        for worker in self.workers:
            worker.result()


@contextlib.contextmanager
def relay(server: Any, tap: Callable[[str, int, bytes], list[bytes]]) -> Iterator[tuple[str, int]]:
    """The address of a relay to ``server`` for one client. ``tap(sender, index, datagram)`` says what goes on."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    front, back = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    wake, waker = socket.socketpair()
    counts = {"client": 0, "server": 0}

    def run() -> None:
        client: Any = None
        with selectors.DefaultSelector() as selector:
            for sock in (front, back, wake):
                selector.register(sock, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is wake:
                        return
                    with contextlib.suppress(OSError):  # nobody listens there any more
                        sender = "client" if key.fileobj is front else "server"
                        if sender == "client":
                            datagram, client = front.recvfrom(65535)
                        else:
                            datagram = back.recv(65535)
                        index = counts[sender]
                        counts[sender] += 1
                        for arrival in tap(sender, index, datagram):
                            if sender == "client":
                                back.send(arrival)
                            elif client is not None:
                                front.sendto(arrival, client)

    with front, back, wake, waker:
        front.bind((server[0], 0))
        back.connect(server[:2])
        worker = Worker(run)
        try:
            yield front.getsockname()[:2]
        finally:
            waker.send(b"\0")
            worker.result()


def handshake_only(tap: Any) -> Any:
    """Count and lose datagrams of the handshake only: messages and alerts nobody repeats."""
    counts = {"client": 0, "server": 0}

    def selecting(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if datagram[0] in {ContentType.ALERT, ContentType.APPLICATION_DATA}:
            return [datagram]
        number = counts[sender]
        counts[sender] += 1
        result: list[bytes] = tap(sender, number, datagram)
        return result

    return selecting


def recorded(talk: Callable[[Any], None]) -> dict[str, int]:
    """How many datagrams each side sends when nothing is lost."""
    counts = {"client": 0, "server": 0}

    def count(sender: str, index: int, datagram: bytes) -> list[bytes]:
        counts[sender] = index + 1
        return [datagram]

    talk(count)
    return counts


def _is_of_last_flight(datagram: bytes) -> bool:
    """Whether a datagram brings a ChangeCipherSpec or something protected."""
    records, _ = split_leading_records_untrusted(datagram)
    return any(record.epoch or record.content_type == ContentType.CHANGE_CIPHER_SPEC for record in records)


def lose_each(talk: Callable[[Any], None], *, spare_last_of: str | None = None, at_least: int = 3) -> None:
    """Run ``talk`` once for every datagram of a handshake, with that one lost, all at the same time.

    :param spare_last_of: the side whose last flight is not lost: ``"client"`` or ``"server"``.
    :param at_least: how many datagrams each side sends at least.
    """
    counts = recorded(talk)
    assert min(counts.values()) >= at_least
    workers = {}
    for sender, count in counts.items():
        for lost in range(count):

            def lose(who: str, index: int, datagram: bytes, key: Any = (sender, lost)) -> list[bytes]:
                # By what is in it: a side that is slow repeats itself, and sends more than it did before.
                spared = who == spare_last_of and _is_of_last_flight(datagram)
                return [] if (who, index) == key and not spared else [datagram]

            workers[sender, lost] = Worker(talk, lose)
    failures = {}
    for key, worker in workers.items():
        try:
            worker.result()
        except (AssertionError, OSError) as error:
            failures[key] = error
    assert not failures, (counts, failures)
