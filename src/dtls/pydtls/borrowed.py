"""A UDP socket whose timeout belongs to somebody else.

PyDTLS's users set timeouts on the plain socket, whenever they like: ``connection.get_socket(True).settimeout(5)``. That
is a wish about the association's operations. What is done here on the way to them must never block, whatever mode
the socket is in, and must not change that mode, which another thread may be reading.
"""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING, Any

from dtls.err import PortUnreachable
from dtls.kernel import DONT_WAIT, can_poll

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from dtls.driver import Driver

    _Result = TypeVar("_Result")


class BorrowedSocket:
    """The methods of ``sock`` that a driver or a listener calls, each as if the socket were non-blocking.

    It owns nothing: ``sock`` is closed by its owner. That ICMP refuses our datagrams is raised by what receives, as
    :class:`~dtls.err.PortUnreachable`, or waits in :attr:`refused` until then if it was noticed in sending.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.refused = False
        """Whether ICMP has refused a datagram, as was noticed in sending."""

    @property
    def family(self) -> int:
        """The address family."""
        return self.sock.family

    @property
    def proto(self) -> int:
        """The protocol's number."""
        return self.sock.proto

    wait: Callable[[bool, float], None] | None = None
    """What waits for the socket, if its descriptor alone does not tell; see :class:`~dtls.driver.Driver`."""

    def attach(self, driver: Driver) -> None:
        """Be told which driver uses this socket."""

    def setblocking(self, flag: bool) -> None:
        """Nothing: the mode is the owner's."""

    def fileno(self) -> int:
        """The descriptor. Raises :exc:`OSError` (``EBADF``) if the owner has closed the socket."""
        descriptor = self.sock.fileno()
        if descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return descriptor

    def getsockname(self) -> Any:
        """The own address."""
        return self.sock.getsockname()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """As ``socket.socket.setsockopt``."""
        self.sock.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int) -> int:
        """As ``socket.socket.getsockopt``."""
        return self.sock.getsockopt(level, option)

    def recv(self, size: int) -> bytes:
        """One datagram. Raises :exc:`BlockingIOError` if there is none."""
        return self._receive(self.sock.recv, size)

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        """One datagram and where it came from. Raises :exc:`BlockingIOError` if there is none."""
        return self._receive(self.sock.recvfrom, size)

    def recvmsg(self, size: int, control: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """One datagram with what the kernel says of it. Raises :exc:`BlockingIOError` if there is none."""
        return self._receive(self.sock.recvmsg, size, control)

    def _receive(self, receive: Callable[..., _Result], *arguments: int) -> _Result:
        if self.refused or not DONT_WAIT or self.sock.gettimeout():
            self._prepare_to_receive()
        try:
            return receive(*arguments, DONT_WAIT)
        except TimeoutError:  # ready a moment ago, and somebody else took it
            raise BlockingIOError from None
        except ConnectionRefusedError:
            raise PortUnreachable from None

    def send(self, datagram: bytes) -> int:
        """Send to the connected peer. Raises :exc:`BlockingIOError` if there is no room."""
        if not DONT_WAIT or self.sock.gettimeout():
            self._prepare_to_send()
        for _ in range(2):
            try:
                return self.sock.send(datagram, DONT_WAIT)
            except TimeoutError:
                raise BlockingIOError from None
            except ConnectionRefusedError:
                # That was about an earlier datagram; this one was not sent.
                self.refused = True
        return len(datagram)

    def sendto(self, datagram: bytes, address: Any) -> int:
        """Send to ``address``. Raises :exc:`BlockingIOError` if there is no room."""
        if not DONT_WAIT or self.sock.gettimeout():
            self._prepare_to_send()
        return self.sock.sendto(datagram, DONT_WAIT, address)

    def sendmsg(
        self, buffers: Sequence[bytes], control: Sequence[tuple[int, int, bytes]], flags: int, address: Any
    ) -> int:
        """Send to ``address``, from an own address of choice. Raises :exc:`BlockingIOError` if there is no room."""
        if not DONT_WAIT or self.sock.gettimeout():
            self._prepare_to_send()
        return self.sock.sendmsg(buffers, control, flags | DONT_WAIT, address)

    # A socket with a timeout is waited for by Python itself, before any call: MSG_DONTWAIT, where there is such a
    # thing, does not do there. Of nearly all sockets there is nothing to be asked before.

    def _prepare_to_receive(self) -> None:
        if self.refused:
            self.refused = False
            raise PortUnreachable
        if not self._is_ready(writable=False):
            raise BlockingIOError

    def _prepare_to_send(self) -> None:
        if not self._is_ready(writable=True):
            raise BlockingIOError

    def _is_ready(self, *, writable: bool) -> bool:
        descriptor = self.fileno()
        if can_poll():
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT if writable else select.POLLIN)
            return bool(poll.poll(0))
        readers, writers = (
            ([], [descriptor]) if writable else ([descriptor], [])
        )  # pragma: no cover - Windows
        return any(select.select(readers, writers, [], 0))  # pragma: no cover


def borrow(sock: socket.socket) -> BorrowedSocket:
    """What a driver is given for ``sock``, which may be one to which a demultiplexer forwards."""
    lend: Callable[[], BorrowedSocket] | None = getattr(sock, "borrowed", None)
    return BorrowedSocket(sock) if lend is None else lend()
