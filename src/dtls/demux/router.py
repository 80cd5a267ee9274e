"""Forwarding: one UDP socket receives everything, and sends on what each accepted peer has sent.

Nothing is asked of the kernel but UDP on loopback. Somebody has to see to the listening socket: whoever waits in
``accept``, or else one of the threads that wait for a peer, which leads the others. When it has got what it waited for,
it rings for the next.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, cast

from dtls.connection import ConnectionState
from dtls.driver import Driver
from dtls.errors import AssociationReplaced
from dtls.gate import begins_client_hello, is_plaintext
from dtls.kernel import MAX_READS, now, wait_until_ready
from dtls.pydtls.borrowed import BorrowedSocket, borrow
from dtls.udp import Listener, Origin

from .routed import BELL_SIZE, LOOPBACK, RoutedSocket

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from dtls.connection import Connection

_NOWHERE = Origin(None)

logger = logging.getLogger("dtls")


class Route:
    """From a peer to the socket that it was given."""

    def __init__(self, origin: Origin, on_loss: Callable[[Route], None]) -> None:
        self.origin = origin
        self.target: Any = None
        """The inner address of its socket."""
        self.predecessor: Route | None = None
        """Which the peer's protected records go to as well, until the handshake on this one is complete."""
        self._on_loss = on_loss
        self._driver: weakref.ref[Driver] | None = None
        self._socket: weakref.ref[RoutedSocket] | None = None

    def hold(self, sock: RoutedSocket) -> None:
        """End at ``sock``. The route is lost when that is."""
        self.target = sock.internal_address
        self._socket = weakref.ref(sock, self._lose)

    def _lose(self, held: weakref.ref[RoutedSocket]) -> None:
        if held is self._socket:
            self._on_loss(self)

    def attach(self, driver: Driver) -> None:
        """Be told which association runs there."""
        self._driver = weakref.ref(driver)

    @property
    def driver(self) -> Driver | None:
        """Of the association that runs there, if there is one."""
        return self._driver() if self._driver is not None else None

    @property
    def takes_client_hellos(self) -> bool:
        """Whether a ClientHello of this peer is not that of a new association."""
        driver = self.driver
        return driver is None or driver.takes_client_hellos

    @property
    def is_established(self) -> bool:
        """Whether the handshake is complete."""
        driver = self.driver
        return driver is not None and driver.connection.state is ConnectionState.ESTABLISHED


class _Waiter:
    """A thread that waits for a peer, or in ``accept``."""

    __slots__ = ("sock",)

    def __init__(self, sock: RoutedSocket | None) -> None:
        self.sock = sock


class UDPDemux:
    """The sockets of the peers of one listening socket. Arguments as for :func:`dtls.demux.new_demux`."""

    def __init__(self, sock: BorrowedSocket, receive: Callable[[bytes, Origin], object]) -> None:
        self._sock = sock
        self._receive = receive
        self._listener = Listener(cast("socket.socket", sock))  # it has the methods that are called
        self.statistics: Counter[str] = self._listener.statistics
        self.family = socket.AddressFamily(sock.family)
        self.send = self._listener.send
        self.bell = secrets.token_bytes(BELL_SIZE)
        """What is forwarded to a thread that waits, to make it see to the listening socket. A peer does not know it."""
        self.alarm = secrets.token_bytes(BELL_SIZE)
        """Likewise, to make it go back to its caller."""
        self.signals = frozenset((self.bell, self.alarm))
        self._lock = threading.RLock()  # of the following; collecting garbage may come in at any time
        self._routes: dict[Origin, Route] = {}
        self._order = threading.Lock()
        """Held from reading a datagram to forwarding it, so that none is overtaken."""
        self._taken_by_others = False
        """Whether whoever was told that the listening socket is readable would look in vain for the reason."""
        self._waiters: list[_Waiter] = []
        self._leader: _Waiter | None = None
        self._accepting = 0
        # The listening socket once more, while there are routes, which may survive it; and what forwards.
        self._root: Listener | None = None
        self._forwarder: socket.socket | None = None

    # --- routes --------------------------------------------------------------------------------------------------

    def get_connection(self, origin: Origin) -> tuple[RoutedSocket, list[tuple[bytes, Any]]]:
        """A socket for the peer. The list is empty: nothing comes to it that is not forwarded.

        Raises :exc:`OSError` if there are no descriptors left.
        """
        with self._lock:
            forwarder = self._open_forwarder()
            if self._root is None:
                self._root = Listener(cast("socket.socket", BorrowedSocket(_again(self._sock.sock))))
                self._root.statistics = self.statistics
            route = Route(origin, self._lost(weakref.ref(self)))
            sock = RoutedSocket(self, route)
            try:
                sock.open_to(forwarder.getsockname())
            except BaseException:
                sock.close()
                raise
            route.hold(sock)
            sock.settimeout(None)
            route.predecessor = self._routes.get(origin)
            self._routes[origin] = route
        return sock, []

    def drive(self, sock: socket.socket, connection: Connection, origin: Origin) -> Driver:  # noqa: ARG002
        """Let an association run on the socket of :meth:`get_connection`."""
        borrowed = borrow(sock)
        driver = Driver(cast("socket.socket", borrowed), connection, wait=borrowed.wait)
        borrowed.attach(driver)
        return driver

    def remove_connection(self, route: Route) -> None:
        """Forward nothing to this route's socket any more, which is about to be closed."""
        with self._lock:
            if any(waiter.sock is not None and waiter.sock.route is route for waiter in self._waiters):
                self._put(route, self.alarm)  # and whoever waits there gets an error
            current = self._routes.get(route.origin)
            if current is route:
                if route.predecessor is not None:
                    self._routes[route.origin] = route.predecessor
                else:
                    del self._routes[route.origin]
            while current is not None:
                if current.predecessor is route:
                    current.predecessor = route.predecessor
                current = current.predecessor
            if not self._routes:
                self._routes.clear()
            self._close_what_is_not_needed()

    @staticmethod
    def _lost(reference: weakref.ref[UDPDemux]) -> Callable[[Route], None]:
        def lost(route: Route) -> None:
            demux = reference()
            if demux is not None:
                demux.remove_connection(route)

        return lost

    def _open_forwarder(self) -> socket.socket:
        if self._forwarder is None:
            forwarder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                forwarder.bind((LOOPBACK, 0))
                forwarder.setblocking(False)
            except BaseException:
                forwarder.close()
                raise
            self._forwarder = forwarder
        return self._forwarder

    def _close_what_is_not_needed(self) -> None:
        if self._root is not None and not self._routes:
            cast("BorrowedSocket", self._root.sock).sock.close()
            self._root = None
        if self._forwarder is not None and not self._routes and not self._accepting:
            self._forwarder.close()
            self._forwarder = None

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # of a constructor that failed
            self._routes.clear()
            self._close_what_is_not_needed()

    def own_address(self, origin: Origin) -> Any:
        """Which address of ours the peer writes to."""
        return self._active_root().own_address(origin)

    def _active_root(self) -> Listener:
        root = self._root
        return self._listener if root is None else root

    # --- datagrams -----------------------------------------------------------------------------------------------

    def transmit(self, datagram: bytes, origin: Origin) -> None:
        """Send to a peer. Raises what the kernel says, :exc:`BlockingIOError` if there is no room."""
        self._active_root().transmit(datagram, origin)

    def take(self, until: float) -> tuple[bytes, Origin] | None:
        """The next datagram of the listening socket; an empty one if it was of an accepted peer, which has it now.

        If there is none, it is waited for until the time ``until`` has come at most, or :meth:`wake` is called:
        ``None`` then, it is to be called again. An empty one is also what somebody else has taken.
        """
        with self._order:
            taken_by_others, self._taken_by_others = self._taken_by_others, False
            received = self._listener.receive()
            if received is not None:
                datagram, origin = received
                return b"" if self.forward(datagram, origin) else datagram, origin
        if taken_by_others:
            return b"", _NOWHERE
        if until > now():
            self._wait(until)
        return None

    def forward(self, datagram: bytes, origin: Origin) -> bool:
        """Whether the datagram is of an accepted peer, whose socket has it now."""
        route = self._route_for(datagram, origin)
        if route is None:
            return False
        self._put(route, datagram)
        return True

    def service(self, sock: RoutedSocket) -> bytes | None:
        """Take what has arrived at the listening socket to where it belongs.

        The first datagram for ``sock`` is returned; ``None`` when there is none.
        """
        root = self._active_root()
        for _ in range(MAX_READS):
            with self._order:
                datagram = sock.take_forwarded()  # it was before whatever we may find
                received = root.receive() if datagram is None else None
                if received is None:
                    return datagram
                self._taken_by_others = True
                datagram, origin = received
                found = self._route_for(datagram, origin)
                if found is sock.route:
                    return datagram
                if found is not None:
                    self._put(found, datagram)
            if found is None:
                self._receive(datagram, origin)
        return None

    def _route_for(self, datagram: bytes, origin: Origin) -> Route | None:
        route = self._routes.get(origin)
        if route is None:
            return None
        self.settle(route)
        if route.predecessor is not None and not is_plaintext(datagram):
            # Until the new handshake is complete, nobody knows whether it is not the old association's.
            self._put(route.predecessor, datagram)
        if begins_client_hello(datagram) and not route.takes_client_hellos:
            return None  # somebody at that address wants to begin anew: it has to prove its address first
        return route

    def settle(self, route: Route) -> None:
        """Now that its handshake is complete, if it is, the peer has no other association."""
        predecessor = route.predecessor
        if predecessor is None or not route.is_established:
            return
        route.predecessor = None
        while predecessor is not None:
            driver = predecessor.driver
            if driver is not None and driver.error is None:
                driver.error = AssociationReplaced()  # without its lock: somebody may wait for ours
            self._put(predecessor, self.alarm)
            predecessor = predecessor.predecessor

    def _put(self, route: Route, datagram: bytes) -> None:
        forwarder = self._forwarder
        if forwarder is None:
            return
        if logger.isEnabledFor(logging.DEBUG) and datagram not in self.signals:
            logger.debug("forwarding %d bytes from %s", len(datagram), route.origin.address)
        try:
            forwarder.sendto(datagram, route.target)
        except OSError:  # there is no room, or the socket has just been closed
            self.statistics["dropped_not_forwarded"] += 1

    # --- waiting -------------------------------------------------------------------------------------------------

    def _wait(self, until: float) -> None:
        """Wait for the listening socket, for :meth:`wake`, or until the time ``until`` has come. For ``accept``."""
        with self._lock:
            self._accepting += 1
            forwarder = self._open_forwarder()
        waiter = self._enter(None)
        try:
            wait_until_ready(
                self._sock.fileno(), writable=False, until=until, also_readable=(forwarder.fileno(),)
            )
        finally:
            self._leave(waiter)
            with contextlib.suppress(OSError):  # there is no more
                for _ in range(MAX_READS):
                    forwarder.recv(1)
            with self._lock:
                self._accepting -= 1
                self._close_what_is_not_needed()

    def wake(self) -> None:
        """Let whoever waits in :meth:`take` look again."""
        forwarder = self._forwarder
        if self._accepting and forwarder is not None:
            with contextlib.suppress(OSError):
                forwarder.sendto(self.bell, forwarder.getsockname())

    def wait_for(self, sock: RoutedSocket, writable: bool, until: float) -> None:
        """Wait until a peer's socket may be read (or written to), or the time ``until`` has come.

        Sees to the listening socket meanwhile, unless another thread does.
        """
        waiter = self._enter(sock)
        try:
            while not sock.has_news():
                leads = self._leader is waiter
                root = self._active_root().sock.fileno()
                if writable:
                    wait_until_ready(root, writable=True, until=until, also_readable=(sock.fileno(),))
                else:
                    also = (root,) if leads else ()
                    wait_until_ready(sock.fileno(), writable=False, until=until, also_readable=also)
                if writable or until <= now() or (leads and sock.look()):
                    break
        finally:
            self._leave(waiter)

    def _enter(self, sock: RoutedSocket | None) -> _Waiter:
        waiter = _Waiter(sock)
        with self._lock:
            self._waiters.append(waiter)
            if self._leader is None:
                self._leader = waiter
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock:
            self._waiters.remove(waiter)
            if self._leader is waiter:
                self._leader = next((other for other in self._waiters if other.sock is not None), None)
                if self._leader is not None and self._leader.sock is not None:
                    self._put(self._leader.sock.route, self.bell)


def _again(sock: socket.socket) -> socket.socket:
    """The same socket, with a descriptor of its own. Its mode, which the two have in common, is left as it is."""
    if sys.platform == "win32":  # pragma: no cover - where descriptors of sockets are not the C library's
        return sock.dup()
    return socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))
