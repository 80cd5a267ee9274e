"""The socket of one peer whose datagrams are forwarded.

Its descriptor is that of a UDP socket on loopback, to which :class:`dtls.demux.router.UDPDemux` forwards what the peer
sends, so that ``select`` tells when there is something to read. What is sent on it goes out through the listening
socket.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

from dtls.kernel import DONT_WAIT, LARGEST_DATAGRAM, now
from dtls.pydtls.borrowed import BorrowedSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dtls.driver import Driver

    from .router import Route, UDPDemux

LOOPBACK = "127.0.0.1"
BELL_SIZE = 16
"""Length in bytes of the datagram that makes a thread look again."""
MAX_DRAINED = 1024
"""How many datagrams are taken off a new socket before it is connected; more cannot have come in that moment."""
_PEEK = socket.MSG_PEEK


class RoutedSocket(socket.socket):
    """A connected UDP socket, for whoever uses it: timeouts, addresses, sending and receiving are as of one.

    While a thread waits in one of its operations, it sees to what arrives at the listening socket; a program that waits
    by ``select`` has to watch the listening socket, too, and to call ``accept`` when it is readable.
    """

    def __init__(self, router: UDPDemux, route: Route, fileno: int | None = None) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM, fileno=fileno)
        super().setblocking(False)
        self.router = router
        self.route = route
        self._seconds = socket.getdefaulttimeout()
        self._gone = False
        self._alarmed = False
        """Whether a thread that waits here is to go back to its caller."""
        self._reading = threading.Lock()
        self._found: deque[bytes] = deque()
        """What was read from the listening socket for us by a thread that waited, and is about to fetch it."""

    def open_to(self, forwarder: Any) -> None:
        """Be where the socket at the address ``forwarder`` can send to, and nobody else."""
        super().bind((LOOPBACK, 0))
        super().connect(forwarder)
        with contextlib.suppress(BlockingIOError):  # there is no more
            for _ in range(MAX_DRAINED):
                super().recv(1)

    def moved(self) -> RoutedSocket:
        """A new object for this socket; this one is closed."""
        descriptor = super().detach()
        other = RoutedSocket(self.router, self.route, descriptor)
        other._seconds = self._seconds
        self.route.hold(other)
        return other

    def attach(self, driver: Driver) -> None:
        """Be told which association runs on this socket."""
        self.route.attach(driver)

    @property
    def internal_address(self) -> Any:
        """Where the descriptor is bound, on loopback."""
        return super().getsockname()

    def borrowed(self) -> BorrowedRoute:
        """What a driver is given for this socket."""
        return BorrowedRoute(self)

    # --- for those who wait by themselves ------------------------------------------------------------------------

    def receive(self, size: int, *, peek: bool = False) -> bytes:
        """One datagram of the peer. Raises :exc:`BlockingIOError` if there is none; never waits."""
        self._check_open()
        self.router.settle(self.route)
        with self._reading:
            if not self._found:
                datagram = self.take_forwarded()
                if datagram is None:
                    datagram = self.router.service(self)
                if datagram is None:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                if not peek:
                    return datagram[:size]
                self._found.append(datagram)
            return (self._found[0] if peek else self._found.popleft())[:size]

    def take_forwarded(self) -> bytes | None:
        """The next datagram that was forwarded to us; ``None`` if there is none."""
        try:
            datagram = super().recv(LARGEST_DATAGRAM)
            while datagram in self.router.signals:
                self._alarmed |= datagram == self.router.alarm
                datagram = super().recv(LARGEST_DATAGRAM)
        except BlockingIOError:
            return None
        return datagram

    def transmit(self, datagram: bytes) -> None:
        """Send to the peer. Raises :exc:`BlockingIOError` if there is no room; never waits."""
        self._check_open()
        self.router.transmit(datagram, self.route.origin)

    def wait(self, writable: bool, until: float) -> None:
        """Wait until there may be something to read (or room to write), or the time ``until`` has come."""
        self.router.wait_for(self, writable, until)

    def has_news(self) -> bool:
        """Whether there is something to see, a datagram or an error perhaps. Forgets that somebody has rung."""
        read = super().recv
        with self._reading:
            if self._found or self._gone or self._alarmed:
                self._alarmed = False
                return True
            try:
                while read(BELL_SIZE + 1, _PEEK) == self.router.bell:
                    read(BELL_SIZE)
            except BlockingIOError:
                return False
            except OSError:  # for whoever reads
                return True
            return True

    def look(self) -> bool:
        """As :meth:`has_news`, having seen to the listening socket."""
        with self._reading:
            if not self._found:
                datagram = self.router.service(self)
                if datagram is not None:
                    self._found.append(datagram)
            return bool(self._found)

    # --- as sockets ----------------------------------------------------------------------------------------------

    @property
    def family(self) -> socket.AddressFamily:
        """The listening socket's address family."""
        return self.router.family

    @property
    def timeout(self) -> float | None:
        """What :meth:`gettimeout` gives."""
        return self._seconds

    def gettimeout(self) -> float | None:
        """Seconds that an operation may take; ``None`` for no limit, 0 for non-blocking."""
        return self._seconds

    def settimeout(self, value: float | None) -> None:
        """Set what :meth:`gettimeout` gives."""
        if value is not None:
            value = float(value)
            if not value >= 0:
                message = "Timeout value out of range"
                raise ValueError(message)
        self._seconds = value

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self._seconds = None if flag else 0.0

    def getblocking(self) -> bool:
        """Whether operations wait."""
        return self._seconds != 0

    def getpeername(self) -> Any:
        """The peer's address."""
        super().getpeername()  # fails if we are closed
        return self.route.origin.address

    def getsockname(self) -> Any:
        """The address that the peer writes to."""
        super().getsockname()  # fails if we are closed
        return self.router.own_address(self.route.origin)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send one datagram to the peer."""
        datagram = bytes(data)
        self._patiently(lambda: self.transmit(datagram), flags, writable=True)
        return len(datagram)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As :meth:`send`."""
        self.send(data, flags)

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """As :meth:`send`. Raises :exc:`OSError` (``EISCONN``) for another address than the peer's."""
        if flags_and_address[-1] != self.route.origin.address:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        return self.send(data, *flags_and_address[:-1])

    def sendmsg(  # type: ignore[override] # no control messages, and no other address
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0
    ) -> int:
        """As :meth:`send`, of several buffers. Control messages are not known."""
        if list(ancdata):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return self.send(b"".join(buffers), flags)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """One datagram of the peer, cut off after ``bufsize`` bytes."""
        received: bytes = self._patiently(
            lambda: self.receive(bufsize, peek=bool(flags & _PEEK)), flags, writable=False
        )
        return received

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As :meth:`recv`, into ``buffer``; the number of bytes."""
        with memoryview(buffer) as view, view.cast("B") as target:
            datagram = self.recv(min(nbytes or target.nbytes, target.nbytes), flags)
            target[: len(datagram)] = datagram
        return len(datagram)

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """As :meth:`recv`, with the peer's address."""
        return self.recv(bufsize, flags), self.route.origin.address

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """As :meth:`recv_into`, with the peer's address."""
        return self.recv_into(buffer, nbytes, flags), self.route.origin.address

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> Any:  # noqa: ARG002 - as socket's
        """As :meth:`recvfrom`, in the form of ``socket.recvmsg``."""
        datagram = self.recv(LARGEST_DATAGRAM, flags)
        cut_off = socket.MSG_TRUNC if len(datagram) > bufsize else 0
        return datagram[:bufsize], [], cut_off, self.route.origin.address

    def bind(self, address: Any) -> NoReturn:  # noqa: ARG002 - as socket's
        """:exc:`OSError` (``EINVAL``): it is bound."""
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def connect(self, address: Any) -> NoReturn:  # noqa: ARG002 - as socket's
        """:exc:`OSError` (``EISCONN``): it is connected."""
        raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))

    def connect_ex(self, address: Any) -> int:  # noqa: ARG002 - as socket's
        """``EISCONN``: it is connected."""
        return errno.EISCONN

    def dup(self) -> NoReturn:
        """:exc:`OSError` (``EOPNOTSUPP``): the route ends at one socket."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def detach(self) -> int:
        """Close this object; the descriptor of the inner socket, to which nothing is forwarded any more."""
        self._leave()
        return super().detach()

    def _real_close(self, *_arguments: Any) -> None:
        self._leave()
        super()._real_close()  # type: ignore[misc] # what close() calls when the last file of makefile() is closed

    def _check_open(self) -> None:
        if self._gone or self.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _leave(self) -> None:
        if self.fileno() >= 0:  # else we were closed before, or moved, and the route is another's
            self._gone = True
            self.router.remove_connection(self.route)

    def _patiently(self, operation: Callable[[], Any], flags: int, *, writable: bool) -> Any:
        seconds = 0 if flags & DONT_WAIT else self._seconds
        until = math.inf if seconds is None else now() + seconds
        while True:
            try:
                return operation()
            except BlockingIOError:
                if seconds == 0:
                    raise
            if now() >= until:
                message = "timed out"
                raise TimeoutError(message)
            self.wait(writable, until)


class BorrowedRoute(BorrowedSocket):
    """A routed socket as a driver sees it."""

    sock: RoutedSocket

    def recv(self, size: int) -> bytes:
        """One datagram. Raises :exc:`BlockingIOError` if there is none."""
        return self.sock.receive(size)

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        """One datagram and where it came from. Raises :exc:`BlockingIOError` if there is none."""
        return self.sock.receive(size), self.sock.getpeername()

    def send(self, datagram: bytes) -> int:
        """Send to the peer. Raises :exc:`BlockingIOError` if there is no room."""
        self.sock.transmit(datagram)
        return len(datagram)

    def attach(self, driver: Driver) -> None:
        """Be told which driver uses this socket."""
        self.sock.attach(driver)

    def wait(self, writable: bool, until: float) -> None:
        """Wait for this socket, see :meth:`RoutedSocket.wait`."""
        self.sock.wait(writable, until)
