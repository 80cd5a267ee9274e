"""Servers and clients of ``dtls.wrapper``, the server driven step by step in the thread of the test."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from dtls import err
from dtls.wrapper import DtlsSocket, wrap_server
from tests.loopback import PATIENCE, Worker
from tests.pydtls import raised, udp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dtls.pydtls.wrapper_server import Server

LARGEST = 16_384
STEP = 0.02


class Clock:
    """The time that clients expire by."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def step(server: DtlsSocket) -> tuple[bytes, Any] | None:
    with contextlib.suppress(TimeoutError):
        return server.recvfrom(LARGEST)
    return None


def pump(server: DtlsSocket, condition: Callable[[], Any]) -> list[tuple[bytes, Any]]:
    """What a server receives until a condition is true."""
    deadline = time.monotonic() + PATIENCE
    received = []
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        if (message := step(server)) is not None:
            received.append(message)
    return received


def receive(server: DtlsSocket, count: int = 1) -> list[tuple[bytes, Any]]:
    received: list[tuple[bytes, Any]] = []
    deadline = time.monotonic() + PATIENCE
    while len(received) < count:
        assert time.monotonic() < deadline, f"only {received}"
        if (message := step(server)) is not None:
            received.append(message)
    return received


class Recorder:
    """A callback that remembers errors, and what to say of them."""

    def __init__(self, *, ignore: bool = True) -> None:
        self.errors: list[Any] = []
        self.ignore = ignore

    def __call__(self, error: Any) -> bool:
        self.errors.append(error)
        return self.ignore

    @property
    def peers(self) -> list[Any]:
        return [error.peer for error in self.errors]


def ignore(_error: Any) -> bool:
    return True


@contextlib.contextmanager
def listening(pem: bytes, host: str = "127.0.0.1", **options: Any) -> Iterator[DtlsSocket]:
    with wrap_server(udp(host), certfile=pem, **options) as server:
        server.bind((host, 0))
        server.listen(0)
        server.settimeout(STEP)
        yield server


def make_client(host: str = "127.0.0.1", **options: Any) -> DtlsSocket:
    client = DtlsSocket(udp(host), **options)
    client.settimeout(PATIENCE)
    return client


def attempt(server: DtlsSocket, client: DtlsSocket, address: Any = None) -> Any:
    """What becomes of a client's handshake: ``None``, or its error."""
    client.connect(address or server.getsockname())

    def shake_hands() -> OSError | None:
        try:
            client.do_handshake()
        except OSError as error:
            return error
        return None

    shaking = Worker(shake_hands)
    pump(server, lambda: not shaking.is_alive())
    return shaking.result()


@contextlib.contextmanager
def connected(server: DtlsSocket, *, address: Any = None, **options: Any) -> Iterator[DtlsSocket]:
    host = server.getsockname()[0]
    with make_client(host, **options) as client:
        assert attempt(server, client, address) is None
        pump(server, lambda: all(session.handshake_done for session in server._clients.values()))
        yield client


def reason_of(error: Any) -> str:
    text: str = error.errqueue[-1][1].decode()
    return text


@contextlib.contextmanager
def half_open(server: DtlsSocket) -> Iterator[DtlsSocket]:
    """A client that falls silent when it has proved its address."""
    with make_client(server.getsockname()[0]) as client:
        client.settimeout(0)
        client.connect(server.getsockname())
        deadline = time.monotonic() + PATIENCE
        while not server._clients:
            assert time.monotonic() < deadline
            assert raised(client.do_handshake).args[0] == err.SSL_ERROR_WANT_READ
            step(server)
        yield client


def group_of(conn: Any) -> str | None:
    with contextlib.suppress(NotImplementedError):  # older versions of cryptography do not tell
        group: str = conn._connection._driver.connection.group()
        return group
    return None


def break_off(server: DtlsSocket, client: DtlsSocket) -> None:
    """Close a client's socket without a word: ICMP tells the server as soon as that sends something."""
    address = client.getsockname()
    client._sock.close()
    assert server.sendto(b"is anybody there?", address)


def inside(server: DtlsSocket) -> Server:
    """What serves the clients."""
    assert server._server is not None
    return server._server
