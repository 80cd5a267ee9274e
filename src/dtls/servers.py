"""Blocking DTLS servers: one UDP socket that listens, and a socket of its own for each peer.

The listening socket runs the handshakes, through an :class:`~dtls.endpoint.Endpoint`, while a thread is in
``accept()``. When one is complete, and before our last flight tells the peer so, a second UDP socket is bound to the
same port and connected to the peer: the kernel then routes the peer's datagrams there. Binding and connecting are
two steps, and datagrams that arrive between or beside them land on the wrong socket; each is handed to where it
belongs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import socket
import threading
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakValueDictionary

from .endpoint import Endpoint
from .errors import SSLTimeoutError, SSLWantReadError
from .events import HandshakeCompleted, HandshakeFailed
from .gate import begins_client_hello
from .kernel import now
from .sockets import DTLSSocket
from .udp import Listener, Origin, Waker

if TYPE_CHECKING:
    from collections import Counter
    from types import TracebackType

    from typing_extensions import Self

    from .context import Context
    from .endpoint import Association, CookiePolicy, EndpointEvent, EndpointLimits

DEFAULT_BACKLOG = 128
"""How many completed associations wait for ``accept()`` before the listening socket is left unread."""
MAX_READS = 64
"""How many datagrams are taken in between two looks at the clock."""

logger = logging.getLogger("dtls")


class DTLSServerSocket:
    """A listening UDP socket. :meth:`accept` completes handshakes and gives a :class:`DTLSSocket` for each peer.

    Made by :func:`create_server` and :meth:`dtls.Context.wrap_socket`. Handshakes go on only while a thread is in
    ``accept()``; several threads may be. Close an accepted socket when its peer has gone: as long as it is open, the
    kernel gives it all that comes from the peer's address and port, a new handshake too, and somebody must read it.
    ``fileno()`` is readable when ``accept()`` has something to do.
    ``sock`` is taken over, and closed if anything goes wrong.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: Context,
        *,
        backlog: int = DEFAULT_BACKLOG,
        cookie_policy: CookiePolicy = "always",
        limits: EndpointLimits | None = None,
    ) -> None:
        self._closed = True  # until everything below has gone well
        self._timeout = sock.gettimeout()
        self.context = context
        self.backlog = max(1, backlog)
        try:
            self._endpoint = Endpoint(context, cookie_policy=cookie_policy, limits=limits)
            self._listener = Listener(sock)
            self._waker = Waker(self._listener.sock)
        except BaseException:
            sock.close()
            raise
        self._lock = threading.RLock()
        self._completed: deque[tuple[DTLSSocket, Any]] = deque()
        self._strays: deque[tuple[bytes, Origin]] = deque()
        self._accepted: WeakValueDictionary[Any, DTLSSocket] = WeakValueDictionary()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed"
        if not self._closed:
            with contextlib.suppress(OSError):  # its own finalizer may have come before ours
                state = str(self.getsockname())
        return f"<{type(self).__name__} fd={self.fileno()} {state}>"

    def accept(self) -> tuple[DTLSSocket, Any]:
        """The next peer that has completed its handshake, and its address.

        Handshakes that fail are logged and counted, not raised. Raises :class:`~dtls.SSLTimeoutError` when the
        timeout has passed, :class:`~dtls.SSLWantReadError` if it is 0 and nobody is there, :exc:`OSError` when the
        socket is closed, also while another thread waits here.
        """
        deadline = math.inf if self._timeout is None else now() + self._timeout
        while True:
            with self._lock:
                self._check_open()
                self._waker.clear()
                if not self._completed:
                    self._advance()
                if self._completed:
                    peer = self._completed.popleft()
                    # It may have got its socket while nobody was here (by a datagram that an accepted socket handed
                    # on), and what it had sent before that waits here: perhaps nobody comes again until it is served.
                    self._advance()
                    if self._completed:
                        self._waker.wake()  # there is something to do for the next one who calls
                    return peer
                until = min(deadline, self._next_timeout())
            if self._timeout == 0:
                message = "no peer has completed its handshake (non-blocking)"
                raise SSLWantReadError(message)
            if now() >= deadline:
                message = f"no peer completed its handshake within {self._timeout:g} s"
                raise SSLTimeoutError(message)
            self._waker.wait(until)

    def listen(self, backlog: int = DEFAULT_BACKLOG) -> None:
        """Set the backlog, as ``socket.listen`` does; a UDP socket listens anyway."""
        self._check_open()
        self.backlog = max(1, backlog)

    def get_timeout(self) -> float | None:
        """For non-blocking use: seconds until :meth:`accept` is to be called again even if nothing came."""
        with self._lock:
            at = self._next_timeout()
        return None if at == math.inf else max(0.0, at - now())

    @property
    def statistics(self) -> Counter[str]:
        """How many times something was dropped or done, by reason."""
        with self._lock:
            return self._endpoint.statistics + self._listener.statistics

    @property
    def handshakes(self) -> int:
        """How many handshakes are under way."""
        return self._endpoint.handshakes

    def close(self) -> None:
        """Close the listening socket and what nobody has accepted. Accepted sockets go on by themselves."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for waiting, _ in self._completed:
                waiting.close()
            self._completed.clear()
            self._endpoint.close_all(now())
            self._flush()
            self._waker.close()
            self._listener.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self.close()

    # --- the UDP socket ------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """A descriptor that is readable when :meth:`accept` has something to do; -1 when closed."""
        return self._waker.fileno()

    def getsockname(self) -> Any:
        """The own address."""
        return self._listener.sock.getsockname()

    def gettimeout(self) -> float | None:
        """Seconds that :meth:`accept` may take; ``None`` for no limit, 0 for non-blocking."""
        return self._timeout

    def settimeout(self, value: float | None) -> None:
        """Set what :meth:`gettimeout` gives."""
        if value is not None and value < 0:
            message = "Timeout value out of range"
            raise ValueError(message)
        self._timeout = None if value is None else float(value)

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self.settimeout(None if flag else 0.0)

    def getsockopt(self, *arguments: Any) -> Any:
        """As ``socket.socket.getsockopt``."""
        return self._listener.sock.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """As ``socket.socket.setsockopt``."""
        self._listener.sock.setsockopt(*arguments)

    @property
    def family(self) -> int:
        """The address family."""
        return self._listener.sock.family

    @property
    def type(self) -> int:
        """``socket.SOCK_DGRAM``."""
        return self._listener.sock.type

    # --- inside, all under the lock ------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the DTLS server socket is closed")

    def _next_timeout(self) -> float:
        at = self._endpoint.next_timeout()
        return math.inf if at is None else at

    def _advance(self) -> None:
        """Without waiting: timers that are due, strays, and what has arrived."""
        if self._next_timeout() <= now():
            self._note(self._endpoint.handle_timeout(now()))
            self._flush()
        for _ in range(MAX_READS):
            if self._closed or len(self._completed) >= self.backlog:
                break
            arrival = self._listener.receive()
            if arrival is None:
                break
            self._receive(*arrival)

    def _receive(self, datagram: bytes, origin: Origin) -> None:
        """Take in a datagram, and those that a new socket was found to hold because of it."""
        self._receive_one(datagram, origin)
        while self._strays:
            self._receive_one(*self._strays.popleft())

    def _receive_one(self, datagram: bytes, origin: Origin) -> None:
        accepted = self._accepted.get(origin)
        hello = begins_client_hello(datagram)
        if accepted is not None and not hello:
            # It came before the peer's own socket was connected, or was handed on by it. While a new handshake is
            # under way it may be for either; neither minds the other's.
            accepted._deliver(datagram)  # noqa: SLF001 - sockets and servers are one interface in two files
        if hello or accepted is None or self._endpoint.is_handshaking(origin):
            self._note(self._endpoint.receive_datagram(datagram, origin, now()))
            self._flush()
            if accepted is not None:
                accepted._share_datagrams(self._endpoint.is_handshaking(origin))  # noqa: SLF001

    def _flush(self) -> None:
        for origin, datagram in self._endpoint.datagrams_to_send(now()):
            self._listener.send(datagram, cast("Origin", origin))

    def _take_stray(self, datagram: bytes, origin: Origin) -> None:
        """A datagram that arrived at an accepted socket and may not be for its association.

        Called by whoever read it, without that socket's lock: that one is taken with ours held, never before it.
        """
        with self._lock:
            if not self._closed:
                self._receive(datagram, origin)
                # Somebody may be there to be accepted now, or a timer be due earlier.
                self._waker.wake()
            elif not begins_client_hello(datagram) and (accepted := self._accepted.get(origin)) is not None:
                accepted._deliver(datagram)  # noqa: SLF001

    def _note(self, events: list[EndpointEvent]) -> None:
        handed_over: dict[Association, DTLSSocket | None] = {}
        for association, event in events:
            origin = cast("Origin", association.address)
            if isinstance(event, HandshakeCompleted):
                handed_over[association] = self._hand_over(association)
            elif isinstance(event, HandshakeFailed):
                logger.info("handshake with %s failed: %s", origin.address, event.error)
                standing = self._accepted.get(origin)
                if standing is not None:
                    standing._share_datagrams(False)  # noqa: SLF001
            elif (accepted := handed_over.get(association)) is not None:
                # Messages that overtook the end of the handshake.
                accepted._note(event)  # noqa: SLF001

    def _hand_over(self, association: Association) -> DTLSSocket | None:
        """Give a new association a socket of its own; only then our last flight may tell the peer that it stands."""
        origin = cast("Origin", association.address)
        left: list[bytes] = []
        sock: socket.socket | None = None
        try:
            sock = self._listener.new_socket()
            replaced = self._accepted.pop(origin, None)
            if replaced is not None and replaced.fileno() >= 0:
                self._endpoint.count("associations_replaced")
                left = replaced._replace()
            strays = self._listener.branch(sock, origin)
        except OSError as error:
            # No descriptor is left, say. The close_notify tells the peer.
            if sock is not None:
                sock.close()
            logger.warning("no socket for the peer at %s: %s", origin.address, error)
            self._endpoint.count("peer_sockets_failed")
            self._endpoint.close(association, now())
            return None
        connection = self._endpoint.release(association)

        def divert(datagram: bytes, address: Any) -> None:
            self._take_stray(datagram, Origin(address, origin.local))

        accepted = DTLSSocket._adopt(sock, connection, peer=origin.address, divert=divert)  # noqa: SLF001
        self._accepted[origin] = accepted
        self._completed.append((accepted, origin.address))
        self._strays.extend((datagram, origin) for datagram in left)
        self._strays.extend((datagram, Origin(address, origin.local)) for datagram, address in strays)
        return accepted


def create_server(
    address: tuple[str, int],
    *,
    context: Context,
    family: int | None = None,
    backlog: int = DEFAULT_BACKLOG,
    dualstack_ipv6: bool = False,
    cookie_policy: CookiePolicy = "always",
    limits: EndpointLimits | None = None,
) -> DTLSServerSocket:
    """A DTLS server on ``address`` (host and port; port 0 takes a free one).

    ::

        with dtls.create_server(("", 4433), context=context) as server:
            while True:
                sock, address = server.accept()
                threading.Thread(target=serve, args=(sock,)).start()

    :param context: a server's context, with a certificate.
    :param family: by default that of ``address``; ``socket.AF_INET`` for an empty host.
    :param backlog: how many completed associations wait for ``accept()``.
    :param dualstack_ipv6: with ``socket.AF_INET6``: serve IPv4 peers too.
    :param cookie_policy: see :class:`dtls.Endpoint`.
    :raises OSError: if the address cannot be bound.
    """
    host, port = address
    if family is None:
        family = socket.AF_INET
        if host:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
            family = found[0][0]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dualstack_ipv6 else 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return DTLSServerSocket(sock, context, backlog=backlog, cookie_policy=cookie_policy, limits=limits)
