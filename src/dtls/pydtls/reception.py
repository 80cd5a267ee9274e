"""The listening half of PyDTLS's ``SSLConnection``: who knocks, and who has proved its address.

Cookies are exchanged here, through the gate, at no cost that a stranger could run up. Each peer that has proved its
address gets a UDP socket of its own, on which its handshake runs: bound to the same port and connected to it. What
arrives on the wrong one of these sockets, between binding and connecting, is taken to where it belongs.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from dtls.cookie import CookieFactory
from dtls.driver import MAX_READS, Driver, now, wait_until_ready
from dtls.gate import Gate
from dtls.udp import Listener, Origin
from dtls.wire import DTLS_1_2, ClientHello, parse_client_hello_untrusted

from .borrowed import BorrowedSocket
from .config import configured

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from dtls.connection import ReceivedClientHello
    from dtls.context import Context

    from .config import SSL

MAX_PROVED = 128
"""How many peers that have proved their address wait to be accepted; the oldest gives way, and will repeat itself."""
HELLO_PATIENCE = 2.0
"""Seconds to wait for a peer's ClientHello with the cookie that it was just sent; it may be lost once."""

logger = logging.getLogger("dtls")


class Arrival(NamedTuple):
    """A peer that has proved its address."""

    origin: Origin
    hello: ReceivedClientHello


class Reception:
    """The cookie exchange on a bound UDP socket, which stays its owner's.

    ``statistics`` tells how many times something was dropped or done, by reason.
    """

    def __init__(
        self, sock: socket.socket, context: Context, configure: Callable[[SSL], object] | None = None
    ) -> None:
        self._sock = BorrowedSocket(sock)
        self._context = context
        self._configure = configure
        self._listener = Listener(cast("socket.socket", self._sock))  # it has the methods that are called
        self.statistics: Counter[str] = self._listener.statistics
        self._gate = Gate(CookieFactory(), self.statistics)
        self._lock = threading.Lock()  # the gate's; no driver's lock is taken under it
        self._proved: deque[Arrival] = deque(maxlen=MAX_PROVED)
        self._drivers: weakref.WeakValueDictionary[Origin, Driver] = weakref.WeakValueDictionary()

    def wait(self, timeout: float | None) -> Arrival | None:
        """The next peer; ``None`` when ``timeout`` seconds have passed, or what came was not worth waiting on."""
        limit = math.inf if timeout is None else now() + timeout
        until = limit
        reads = 0
        while True:
            if self._proved:
                return self._proved.popleft()
            received = self._listener.receive() if reads < MAX_READS else None
            if received is not None:
                reads += 1
                # After junk the caller may have better to do; after a cookie was sent, it will soon be back.
                until = min(limit, now() + HELLO_PATIENCE) if self._receive(*received) else now()
            elif timeout == 0 or reads >= MAX_READS or now() >= until:
                return None
            else:
                wait_until_ready(self._sock.fileno(), writable=False, until=until)

    def admit(self, arrival: Arrival) -> tuple[socket.socket, Driver]:
        """A socket of its own for a peer, and its association, which has answered the ClientHello.

        Raises :exc:`OSError` if there are no descriptors left.
        """
        origin = arrival.origin
        sock = self._listener.new_socket()
        try:
            strays = self._listener.branch(sock, origin)
            sock.settimeout(None)
            settings = configured(self._configure, sock.family)
            driver = Driver(
                cast("socket.socket", BorrowedSocket(sock)),
                self._context.connection(
                    now(), client_hello=arrival.hello, mtu=settings.mtu, timer=settings.timer
                ),
                peer=origin.address,
                divert=self._divert_from(origin),
                keeps_plaintext=True,
            )
        except BaseException:
            sock.close()
            raise
        self._drivers[origin] = driver
        driver.flush()
        for datagram, address in strays:
            self._receive(datagram, Origin(address, origin.local))
        return sock, driver

    def _divert_from(self, origin: Origin) -> Callable[[bytes, Any], None]:
        """What is to be done with datagrams of others that are found in a peer's socket later.

        A thread that waits in :meth:`wait` is not woken. It need not be: the one thing that it would want to see is a
        ClientHello with a cookie, which is repeated after a second and then arrives at the right socket.
        """
        reception = weakref.ref(self)

        def divert(datagram: bytes, address: Any) -> None:
            owner = reception()
            if owner is not None:
                owner._receive(datagram, Origin(address, origin.local))  # noqa: SLF001 - it is a part of this class

        return divert

    def _receive(self, datagram: bytes, origin: Origin) -> bool:
        """Whether more is to be expected of whoever sent this."""
        driver = self._drivers.get(origin)
        if driver is None:
            return self._judge(datagram, origin)
        driver.deliver(datagram)  # it came before that peer's socket was connected
        return False

    def _judge(self, datagram: bytes, origin: Origin) -> bool:
        with self._lock:
            verdict = self._gate.judge_untrusted(datagram, origin, now())
        if verdict.answer is not None:
            self._listener.send(verdict.answer, origin)
            return True
        if verdict.hello is None:
            return False
        hello = parse_client_hello_untrusted(verdict.hello.message.body)  # the gate has parsed it before
        if not self._speaks_our_version(hello):
            self.statistics["dropped_old_version"] += 1
            logger.info("the client at %s speaks too old a version of DTLS", origin.address)
            return False
        waiting = [arrival for arrival in self._proved if arrival.origin == origin]
        for arrival in waiting:  # it repeats itself
            self._proved.remove(arrival)
        self._proved.append(Arrival(origin, verdict.hello))
        return True

    def _speaks_our_version(self, hello: ClientHello) -> bool:
        """PyDTLS's servers for DTLS 1.2 alone leave clients for DTLS 1.0 without an answer."""
        return self._context.minimum_version.wire != DTLS_1_2 or hello.version <= DTLS_1_2
