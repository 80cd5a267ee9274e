"""The kernel demultiplexes: each peer has a UDP socket of its own, bound to the same port and connected to the peer.

The kernel prefers the connected socket for that peer's datagrams, so nothing is forwarded and no thread depends on
another. What arrives between binding a socket and connecting it, from whoever, is taken to where it belongs.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, cast

from dtls.driver import Driver
from dtls.kernel import wait_until_ready
from dtls.pydtls.borrowed import BorrowedSocket
from dtls.udp import Listener, Origin, Taken

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
        self._drivers: weakref.WeakValueDictionary[Origin, Driver] = weakref.WeakValueDictionary()
        self.send = self._listener.send

    def wait(self, until: float) -> None:
        """Wait until something has arrived at the listening socket, or the time ``until`` has come."""
        wait_until_ready(self._sock.fileno(), writable=False, until=until)

    def wake(self) -> None:
        """Nothing: what is found in a peer's socket, and would interest whoever waits here, is soon repeated."""

    def take(self) -> Taken | None:
        """The next datagram of the listening socket, if there is one."""
        received = self._listener.receive()
        if received is None:
            return None
        datagram, origin = received
        return Taken(b"" if self.forward(datagram, origin) else datagram, origin)

    def forward(self, datagram: bytes, origin: Origin) -> bool:
        """Whether the datagram is of an accepted peer, which has it now: it came before its socket was connected."""
        driver = self._drivers.get(origin)
        if driver is None or _is_closed(driver):
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
            sock.settimeout(None)
        except BaseException:
            sock.close()
            raise
        return sock, strays

    def drive(self, sock: socket.socket, connection: Connection, origin: Origin) -> Driver:
        """Let an association run on the socket of :meth:`get_connection`."""
        driver = Driver(
            cast("socket.socket", BorrowedSocket(sock)),
            connection,
            peer=origin.address,
            divert=self._divert_from(origin),
            keeps_plaintext=True,
        )
        self._drivers[origin] = driver
        return driver

    def _divert_from(self, origin: Origin) -> Callable[[bytes, Any], None]:
        """What is to be done with datagrams of others that are found in a peer's socket later."""
        drivers, receive = (
            self._drivers,
            self._receive,
        )  # the listening socket shall not live as long as its peers

        def divert(datagram: bytes, address: Any) -> None:
            stranger = Origin(address, origin.local)
            driver = drivers.get(stranger)
            if driver is None or _is_closed(driver):
                receive(datagram, stranger)
            else:
                driver.deliver(datagram)

        return divert


def _is_closed(driver: Driver) -> bool:
    """Whether the user has closed the socket, though somebody still holds the association: an error, perhaps."""
    return cast("BorrowedSocket", driver.sock).sock.fileno() < 0
