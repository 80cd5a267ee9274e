"""The kernel demultiplexes: each peer has a UDP socket of its own, bound to the same port and connected to the peer.

The kernel prefers the connected socket for that peer's datagrams, so nothing is forwarded and no thread depends on
another. What arrives between binding a socket and connecting it, from whoever, is taken to where it belongs.
"""

from __future__ import annotations

import functools
import math
import weakref
from typing import TYPE_CHECKING, Any, cast

from dtls.driver import Driver
from dtls.kernel import wait_until_ready
from dtls.pydtls.borrowed import BorrowedSocket
from dtls.sending import send_first
from dtls.udp import Listener, Origin

if TYPE_CHECKING:
    import socket
    from collections import Counter
    from collections.abc import Callable

    from dtls.connection import Connection


class UDPDemux:
    """The sockets of the peers of one listening socket. Arguments as for :func:`dtls.demux.new_demux`."""

    def __init__(self, sock: BorrowedSocket, receive: Callable[[bytes, Origin], object]) -> None:
        self._sock = sock
        self._receive = receive
        self._listener = Listener(cast("socket.socket", sock))  # it has the methods that are called
        self.statistics: Counter[str] = self._listener.statistics
        self._drivers: _Drivers = {}
        self.send = self._listener.send

    def wake(self) -> None:
        """Nothing: what is found in a peer's socket, and would interest whoever waits here, is soon repeated."""

    def take(self, until: float) -> tuple[bytes, Origin] | None:
        """The next datagram of the listening socket, which is waited for until the time ``until`` has come at most.

        It is empty if it was of an accepted peer, which has it now. Before the time has come, there may be none
        because another thread was faster.
        """
        listener, received = self._listener, None
        if until == math.inf:  # as of a socket without a timeout, which waits by itself
            received = listener.receive(self._sock.sock)
        if received is None:
            if not wait_until_ready(self._sock.fileno(), writable=False, until=until):
                return None
            received = listener.receive()
            if received is None:
                return None
        if received[1] in self._drivers and self.forward(*received):
            return b"", received[1]
        return received

    def forward(self, datagram: bytes, origin: Origin) -> bool:
        """Whether the datagram is of an accepted peer, which has it now: it came before its socket was connected."""
        driver = _open_driver(self._drivers, origin)
        if driver is None:
            return False
        driver.deliver(datagram)
        return True

    def get_connection(self, origin: Origin) -> tuple[socket.socket, list[tuple[bytes, Any]]]:
        """A socket for the peer, and what arrived there before it was connected.

        Raises :exc:`OSError` if there are no descriptors left.
        """
        sock = self._listener.new_socket()
        try:
            strays = self._listener.branch(sock, origin)
            if sock.gettimeout() is not None:
                sock.settimeout(None)
        except BaseException:
            sock.close()
            raise
        return sock, strays

    def drive(self, sock: socket.socket, connection: Connection, origin: Origin) -> Driver:
        """Let an association run on the socket of :meth:`get_connection`."""
        borrowed: Any = BorrowedSocket(sock)  # it has the methods that are called
        # The peer waits for its answer, and all else can be done while it looks at that.
        unsent = send_first(borrowed, connection)
        # The listening socket shall not live as long as its peers.
        drivers = self._drivers
        driver = Driver(
            borrowed,
            connection,
            peer=origin.address,
            divert=functools.partial(_divert, drivers, self._receive, origin.local),
            keeps_plaintext=True,
        )
        for datagram in unsent:
            driver.keep(datagram)

        def forget(gone: weakref.ref[Driver]) -> None:
            # Whichever thread collects garbage comes here, at any time: a lock might be its own already.
            found = drivers.pop(origin, None)
            if found is not None and found is not gone:
                drivers.setdefault(origin, found)

        drivers[origin] = weakref.ref(driver, forget)
        return driver


_Drivers = dict[Origin, "weakref.ref[Driver]"]
"""The associations of accepted peers, as long as somebody else holds them."""


def _open_driver(drivers: _Drivers, origin: Origin) -> Driver | None:
    """The association of a peer, whose socket has not been closed.

    The user may have closed it, though somebody still holds the association: an error, perhaps.
    """
    reference = drivers.get(origin)
    driver = None if reference is None else reference()
    if driver is None:
        return None
    borrowed: Any = driver.sock  # see where it was made
    return None if borrowed.sock.fileno() < 0 else driver


def _divert(
    drivers: _Drivers,
    receive: Callable[[bytes, Origin], object],
    local: tuple[bytes, int] | None,
    datagram: bytes,
    address: Any,
) -> None:
    """Take a datagram of somebody else, that was found in a peer's socket, to where it belongs."""
    stranger = Origin(address, local)
    driver = _open_driver(drivers, stranger)
    if driver is None:
        receive(datagram, stranger)
    else:
        driver.deliver(datagram)
