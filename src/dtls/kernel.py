"""What is done with the kernel's UDP sockets beneath associations: to wait for them, and to let go of them."""

from __future__ import annotations

import _socket
import contextlib
import math
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST_DATAGRAM = 65_535
MAX_READS = 256
"""How many datagrams are read in a row before a lock is given up."""
DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
"""For a single call not to wait, whatever mode the socket is in; 0 where there is no such thing (Windows)."""

now = time.monotonic
_PLAIN = socket.socket if issubclass(socket.socket, _socket.socket) else None
"""The class of sockets whose numbers are at hand; others may have been put in the place of Python's own."""


def numbers_of(sock: Any) -> Any:
    """What has the ``family`` and the ``type`` of a socket, as numbers where that is quicker.

    The members of enumerations that a plain socket gives for them are made each time.
    """
    return super(_PLAIN, sock) if _PLAIN is not None and type(sock) is _PLAIN else sock


def can_poll() -> bool:
    """Whether there is ``poll``; libraries that put others in the place of Python's sockets may take it away."""
    return hasattr(select, "poll")


def wait_until_ready(
    descriptor: int, *, writable: bool, until: float, also_readable: Sequence[int] = ()
) -> bool:
    """Wait until a descriptor is readable (or writable, if asked for), or the time ``until`` has come: whether it is.

    ``also_readable`` are further descriptors, to be readable.
    """
    seconds = until - now()
    if can_poll():
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLOUT if writable else select.POLLIN)
        for other in also_readable:
            poll.register(other, select.POLLIN)
        # Rounded up: a wait that ends a millisecond early would be a busy loop.
        return bool(poll.poll(None if seconds == math.inf else max(0, math.ceil(seconds * 1000))))
    readers = [descriptor, *also_readable]  # pragma: no cover - Windows
    writers = [descriptor] if writable else []  # pragma: no cover
    limit = None if seconds == math.inf else max(0.0, seconds)  # pragma: no cover
    return any(select.select(readers, writers, writers, limit))  # pragma: no cover


def same_address(one: Any, other: Any) -> bool:
    """Whether two socket addresses are the same peer; IPv6 flow labels do not tell peers apart."""
    return bool(one[:2] == other[:2] and one[3:] == other[3:])


def lead_nowhere(sock: socket.socket) -> list[bytes]:
    """Take a connected socket's datagrams and its peer away: it is readable for ever, and nothing arrives any more.

    It is not closed, since another thread may be about to wait on the descriptor, and its number may soon be somebody
    else's; and it stays the same open file, or an ``epoll`` that watches it would forget it without a word.
    """
    left: list[bytes] = []
    sock.setblocking(False)
    with contextlib.suppress(OSError):  # nothing left
        while len(left) < MAX_READS:
            left.append(sock.recv(LARGEST_DATAGRAM))
    with contextlib.suppress(OSError):  # it may have lost its peer; then nobody waits for datagrams of it
        sock.shutdown(socket.SHUT_RDWR)  # wakes those who wait on it already, and all who will
    try:
        sock.connect(sock.getsockname())  # nobody but itself
    except OSError:  # pragma: no cover - systems that do not connect a socket once it is shut down
        dead, other = socket.socketpair()
        other.close()
        with dead:
            os.dup2(dead.fileno(), sock.fileno(), inheritable=False)
    return left
