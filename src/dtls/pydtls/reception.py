"""The listening half of PyDTLS's ``SSLConnection``: who knocks, and who has proved its address.

Cookies are exchanged here, through the gate, at no cost that a stranger could run up. Each peer that has proved its
address gets a UDP socket of its own from the demultiplexer (:mod:`dtls.demux`), on which its handshake runs.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple

from dtls.cookie import CookieFactory
from dtls.demux import new_demux
from dtls.gate import Gate
from dtls.kernel import MAX_READS, now
from dtls.udp import Origin
from dtls.wire import DTLS_1_2

from .borrowed import BorrowedSocket
from .config import configured

if TYPE_CHECKING:
    import socket
    from collections import Counter
    from collections.abc import Callable

    from dtls.connection import ReceivedClientHello
    from dtls.context import Context
    from dtls.driver import Driver

    from .config import SSL

MAX_PROVED = 128
"""How many peers that have proved their address wait to be accepted; the oldest gives way, and will repeat itself."""
MAX_REMEMBERED = 4096
"""How many handshakes are remembered, so that a repeated ClientHello does not begin one again."""
HELLO_PATIENCE = 2.0
"""Seconds to wait for a peer's ClientHello with the cookie that it was just sent; it may be lost once."""

logger = logging.getLogger("dtls")


class Arrival(NamedTuple):
    """A peer that has proved its address."""

    origin: Origin
    hello: ReceivedClientHello
    random: bytes
    """The client random, which tells a repeated ClientHello from that of a new handshake."""


class Reception:
    """The cookie exchange on a bound UDP socket, which stays its owner's.

    ``statistics`` tells how many times something was dropped or done, by reason.
    """

    def __init__(
        self, sock: socket.socket, context: Context, configure: Callable[[SSL], object] | None = None
    ) -> None:
        self._sock = sock
        self._context = context
        self._configure = configure
        self._demux = new_demux(BorrowedSocket(sock), _unless_gone(self))
        self.statistics: Counter[str] = self._demux.statistics
        self._gate = Gate(CookieFactory(), self.statistics)
        self._lock = threading.Lock()  # of gate and queue; no driver's lock is taken under it
        self._proved: deque[Arrival] = deque(maxlen=MAX_PROVED)
        self._admitted: OrderedDict[tuple[Origin, bytes], None] = OrderedDict()
        """The latest handshakes that were begun, oldest first."""

    def wait(self, timeout: float | None) -> Arrival | None:
        """The next peer; ``None`` when ``timeout`` seconds have passed, or what came was not worth waiting on."""
        limit = until = math.inf if timeout is None else now() + timeout
        reads = 0
        while True:
            arrival = self._next_arrival() if self._proved else None
            if arrival is not None or reads >= MAX_READS:
                return arrival
            taken = self._demux.take(until)
            if taken is not None:
                reads += 1
                datagram, origin = taken
                found = self._examine(datagram, origin) if datagram else False
                if type(found) is Arrival:
                    if not self._proved:
                        return found
                    self._queue(found)
                # After junk the caller may have better to do; after a cookie was sent, it will soon be back.
                until = min(limit, now() + HELLO_PATIENCE) if found else now()
            elif now() >= until:
                return None

    def _next_arrival(self) -> Arrival | None:
        with self._lock:
            arrival = self._proved.popleft() if self._proved else None
        if arrival is not None and self._proved:
            self._demux.wake()  # for other threads that wait to accept, one of which may have been woken in vain
        return arrival

    def admit(self, arrival: Arrival) -> tuple[socket.socket, Driver] | None:
        """A socket of its own for a peer, and its association, which has answered the ClientHello.

        ``None`` if the handshake was begun already: the peer has repeated itself, and two threads were told of it.
        Raises :exc:`OSError` if there are no descriptors left.
        """
        origin = arrival.origin
        if not self._remember(arrival):
            return None
        try:
            sock, strays = self._demux.get_connection(origin)
        except BaseException:
            self._forget(arrival)
            raise
        try:
            mtu, timer = configured(self._configure, sock)
            connection = self._context.connection(now(), client_hello=arrival.hello, mtu=mtu, timer=timer)
            driver = self._demux.drive(sock, connection, origin)
        except BaseException:
            sock.close()
            self._forget(arrival)
            raise
        driver.flush()
        for datagram, address in strays:
            stray = Origin(address, origin.local)
            if not self._demux.forward(datagram, stray):
                self._judge(datagram, stray)
        return sock, driver

    def _remember(self, arrival: Arrival) -> bool:
        """Note that a handshake is begun; false if it was before."""
        handshake = arrival.origin, arrival.random
        with self._lock:
            if handshake in self._admitted:
                self.statistics["dropped_repeated_hello"] += 1
                return False
            self._admitted[handshake] = None
            if len(self._admitted) > MAX_REMEMBERED:
                self._admitted.popitem(last=False)
            # It may have been repeated, and read by another thread, since it was taken from the queue.
            if self._proved:
                for repeat in [one for one in self._proved if (one.origin, one.random) == handshake]:
                    self._proved.remove(repeat)
                    self.statistics["dropped_repeated_hello"] += 1
        return True

    def _forget(self, arrival: Arrival) -> None:
        """A handshake could not be begun: when the peer repeats itself, it may go better."""
        with self._lock:
            self._admitted.pop((arrival.origin, arrival.random), None)

    def receive_elsewhere(self, datagram: bytes, origin: Origin) -> None:
        """Take in a datagram of a peer that has not been accepted, found by whoever waited for something else."""
        if self._sock.fileno() < 0:
            self.statistics["dropped_not_listening"] += 1
            return
        self._judge(datagram, origin)
        if self._proved:
            self._demux.wake()

    def _judge(self, datagram: bytes, origin: Origin) -> None:
        """Answer a datagram, or queue the peer that has proved its address by it."""
        found = self._examine(datagram, origin)
        if type(found) is Arrival:
            self._queue(found)

    def _examine(self, datagram: bytes, origin: Origin) -> Arrival | bool:
        """Answer a datagram: whether more is to be expected of whoever sent it, or who has proved its address by it."""
        with self._lock:
            answer, hello, offer = self._gate.judge_untrusted(datagram, origin, now())
        if answer is not None:
            self._demux.send(answer, origin)
            # The client will soon be back, and just now it is busy itself.
            self._context._engine().make_ready()  # noqa: SLF001 - the engine's own translation of the settings
            return True
        if hello is None or offer is None:
            return False
        if offer.version > DTLS_1_2 and not self._speaks_dtls_1_0():
            self.statistics["dropped_old_version"] += 1
            logger.info("the client at %s speaks too old a version of DTLS", origin.address)
            return False
        if (origin, offer.random) in self._admitted:
            # Perhaps it waited here while the association came and went. Nobody would answer.
            self.statistics["dropped_repeated_hello"] += 1
            return False
        return Arrival(origin, hello, offer.random)

    def _queue(self, arrival: Arrival) -> None:
        with self._lock:
            if (arrival.origin, arrival.random) in self._admitted:  # meanwhile
                self.statistics["dropped_repeated_hello"] += 1
                return
            for repeated in [one for one in self._proved if one.origin == arrival.origin]:
                self._proved.remove(repeated)
            self._proved.append(arrival)

    def _speaks_dtls_1_0(self) -> bool:
        """PyDTLS's servers for DTLS 1.2 alone leave clients for DTLS 1.0 without an answer."""
        return self._context.minimum_version.wire != DTLS_1_2


def _unless_gone(reception: Reception) -> Callable[[bytes, Origin], None]:
    """``receive_elsewhere`` of a reception that may be gone when its peers' sockets still find datagrams."""
    reference = weakref.ref(reception)

    def receive(datagram: bytes, origin: Origin) -> None:
        owner = reference()
        if owner is not None:
            owner.receive_elsewhere(datagram, origin)

    return receive
