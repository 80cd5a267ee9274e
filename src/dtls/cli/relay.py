"""A UDP relay between a client and a server: it forwards, writes down what it saw, and loses what it is told to."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

Side: TypeAlias = Literal["client", "server"]

_LOOPBACK = "127.0.0.1"
_LARGEST_DATAGRAM = 65_535
_POLL_INTERVAL = 0.1


class Observation(NamedTuple):
    """One datagram on its way."""

    at: float
    """Seconds of ``time.monotonic``."""
    sender: Side
    datagram: bytes
    lost: bool
    """Whether the relay did not forward it."""


class Relay:
    """Relays between one client, which sends to :attr:`port` first, and the server on ``server_port``.

    :param observe: called with each datagram before it is forwarded, in the relay's thread.
    :param loses: says which datagrams are not forwarded.
    """

    def __init__(
        self,
        server_port: int,
        observe: Callable[[Observation], None],
        loses: Callable[[Side, bytes], bool] | None = None,
    ) -> None:
        self._observe = observe
        self._loses = loses
        self._client: Any = None
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._front.bind((_LOOPBACK, 0))
            self._back.connect((_LOOPBACK, server_port))
        except BaseException:
            self._close_sockets()
            raise
        self.port = int(self._front.getsockname()[1])
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def inject(self, datagram: bytes) -> None:
        """Send the server something that the client did not send. It cannot tell from the address."""
        self._back.send(datagram)

    def close(self) -> None:
        """Stop relaying."""
        self._stopping.set()
        self._thread.join()
        self._close_sockets()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _close_sockets(self) -> None:
        self._front.close()
        self._back.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            readable, _, _ = select.select([self._front, self._back], [], [], _POLL_INTERVAL)
            for sock in readable:
                # ICMP says that an end is gone: the processes themselves will tell why.
                with contextlib.suppress(OSError):
                    self._relay(sock)

    def _relay(self, sock: socket.socket) -> None:
        sender: Side
        if sock is self._front:
            datagram, self._client = sock.recvfrom(_LARGEST_DATAGRAM)
            sender = "client"
        else:
            datagram, sender = sock.recv(_LARGEST_DATAGRAM), "server"
        lost = self._loses is not None and self._loses(sender, datagram)
        self._observe(Observation(time.monotonic(), sender, datagram, lost))
        if lost:
            return
        if sender == "client":
            self._back.send(datagram)
        elif self._client is not None:
            self._front.sendto(datagram, self._client)
