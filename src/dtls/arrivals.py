"""How a thread waits for datagrams on a socket that is connected to one peer, while a handshake needs nothing else."""

from __future__ import annotations

import math
import select
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


class Arrivals(Protocol):
    """A way to wait."""

    def begin(self, seconds: float) -> Callable[[int], Any]:
        """What gives the next datagram, of so many bytes at most, each time that it is called; without any lock.

        With its sender, if that was asked for. It raises :exc:`BlockingIOError` after so many seconds without one (more
        than 0), or if another thread was faster; else what the kernel says.
        """

    def as_told(self, error: OSError) -> OSError:
        """What users are told of an error that was raised."""

    def done(self) -> None:
        """It is not waited this way any more. Does not raise."""


class ByPoll:
    """For sockets that do not block, whatever they are: ``poll``, and then a read."""

    def __init__(self, sock: socket.socket, *, tells_sender: bool) -> None:
        self._sock = sock
        self._read = sock.recvfrom if tells_sender else sock.recv
        self._poll = select.poll()
        self._milliseconds = 0

    def begin(self, seconds: float) -> Callable[[int], Any]:
        """See :class:`Arrivals`."""
        # Rounded up: a wait that ends a millisecond early would be a busy loop.
        self._milliseconds = math.ceil(seconds * 1000)
        return self._receive

    def _receive(self, size: int) -> Any:
        descriptor = self._sock.fileno()
        if descriptor >= 0:  # else reading will tell that it is closed
            self._poll.register(descriptor, select.POLLIN)
            if not self._poll.poll(self._milliseconds):
                raise BlockingIOError
        return self._read(size)

    def as_told(self, error: OSError) -> OSError:
        """See :class:`Arrivals`."""
        return error

    def done(self) -> None:
        """See :class:`Arrivals`."""


def arrivals_of(sock: Any, *, tells_sender: bool) -> Arrivals:
    """The quickest way to wait for ``sock``, which may have one of its own.

    :param tells_sender: whether datagrams of others than the peer may arrive.
    """
    own = getattr(sock, "arrivals", None)
    arrivals: Arrivals = (
        ByPoll(sock, tells_sender=tells_sender) if own is None else own(tells_sender=tells_sender)
    )
    return arrivals
