"""Servers that are used as ``socketserver.UDPServer`` is: a handler is called for each message.

::

    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            message, sock = self.request
            sock.sendto(message.upper(), self.client_address)

    with dtls.socketserver.ThreadingDTLSServer(("", 4433), Echo, context=context) as server:
        server.serve_forever()

A request is one message and the socket to answer on, as ``UDPServer`` has it; messages of a peer whose handshake is
complete, and no others. All peers share the server's UDP socket.
"""

from __future__ import annotations

import logging
import selectors
import socketserver
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from .endpoint import Endpoint
from .errors import SSLTimeoutError, SSLZeroReturnError
from .events import DataReceived, HandshakeCompleted, HandshakeFailed
from .kernel import now, wait_until_ready
from .udp import Listener, Origin, PeerAddress, Peers

if TYPE_CHECKING:
    import socket
    from collections import Counter
    from collections.abc import Callable

    from typing_extensions import Self

    from .context import Context
    from .endpoint import Association, CookiePolicy, EndpointEvent, EndpointLimits

MAX_READS = 64
"""How many datagrams that are no messages are read in a row before the loop looks at its other business."""
SEND_PATIENCE = 5.0
"""Seconds that ``sendto`` waits for room in the socket's send buffer."""
_GLANCE = 0.1
"""Seconds after which it is looked at whether the server was closed meanwhile."""

logger = logging.getLogger("dtls")


class SecuredSocket:
    """What a handler is given to answer on: it has the methods of a UDP socket that answering takes."""

    def __init__(self, server: DTLSServer) -> None:
        self._server = server

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._server!r}>"

    def sendto(self, data: bytes | bytearray | memoryview, *arguments: Any) -> int:
        """``sendto(data, address)`` or ``sendto(data, flags, address)``: send one message; its length in bytes.

        An empty one is not sent: no handler that says nothing has to mind. Raises :class:`~dtls.MessageTooLarge`,
        :class:`~dtls.SSLZeroReturnError` if there is no association with ``address`` any more, and
        :class:`~dtls.SSLTimeoutError` if the socket's send buffer stays full for 5 s. Any thread may call it.
        """
        self._server.send_message(data, arguments[-1])
        return len(data)

    def getsockname(self) -> Any:
        """The server's own address."""
        return self._server.socket.getsockname()

    def fileno(self) -> int:
        """The descriptor of the server's UDP socket: what is read from it is still encrypted."""
        return self._server.fileno()


class DTLSServer(socketserver.UDPServer):
    """A :class:`socketserver.UDPServer` whose peers speak DTLS.

    Class attributes and hooks are the same; ``max_packet_size`` has no use, since a message comes whole.
    :class:`socketserver.ForkingMixIn` is refused, since two processes must not use one association's keys.
    ``RequestHandlerClass`` may be a :class:`socketserver.DatagramRequestHandler` too. Retransmissions happen when
    ``serve_forever`` polls, so that its ``poll_interval`` should stay below a second.

    :param context: a server's context, with a certificate.
    :param limits: see :class:`dtls.EndpointLimits`; ``idle_timeout`` ends the associations of peers that went away.
    :param cookie_policy: see :class:`dtls.Endpoint`.
    :raises OSError: if the address cannot be bound.
    """

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Callable[[Any, Any, Self], socketserver.BaseRequestHandler],  # noqa: N803 - as there
        bind_and_activate: bool = True,
        *,
        context: Context,
        limits: EndpointLimits | None = None,
        cookie_policy: CookiePolicy = "always",
    ) -> None:
        if isinstance(self, getattr(socketserver, "ForkingMixIn", ())):
            message = (
                "a DTLS server cannot fork for each message: two processes would encrypt under one key with the"
                " same numbers; use ThreadingMixIn"
            )
            raise TypeError(message)
        self.context = context
        self._endpoint = Endpoint(context, limits=limits, cookie_policy=cookie_policy)
        self._lock = threading.RLock()
        """Held for whatever the endpoint does: handlers in threads send while others are read."""
        self._requests: deque[tuple[bytes, Any]] = deque()
        self._peers: Peers[Association] = Peers()
        self._secured = SecuredSocket(self)
        self._listener: Listener | None = None
        super().__init__(server_address, RequestHandlerClass, bind_and_activate)

    # --- hooks of socketserver -----------------------------------------------------------------------------------

    def server_bind(self) -> None:
        """Bind the UDP socket; from now on datagrams are answered from the address that they were sent to."""
        super().server_bind()
        self._listener = Listener(self.socket, branches=False)

    def get_request(self) -> tuple[tuple[bytes, socket.socket], Any]:  # type: ignore[override] # as UDPServer's
        """The next message with the socket to answer on, and the peer's address.

        Raises :exc:`BlockingIOError` if what has arrived is no message: a step of a handshake, or noise.
        """
        reads = 0
        while not self._requests and reads < MAX_READS and self._receive():
            reads += 1
        if not self._requests:
            raise BlockingIOError
        message, address = self._requests.popleft()
        return (message, cast("socket.socket", self._secured)), address

    def service_actions(self) -> None:
        """Between two polls of ``serve_forever``: timers, and further messages of a datagram that held several."""
        super().service_actions()
        self._handle_timers()
        for _ in range(len(self._requests)):
            self._process(*self.get_request())

    def handle_request(self) -> None:
        """Handle one message; within ``timeout`` seconds, if that is set, or else call ``handle_timeout``."""
        limits = [
            seconds for seconds in (self.timeout, self.socket.gettimeout() or None) if seconds is not None
        ]
        deadline = now() + min(limits) if limits else None
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            while True:
                self._handle_timers()
                try:
                    request, address = self.get_request()
                except BlockingIOError:
                    if deadline is not None and now() >= deadline:
                        self.handle_timeout()
                        return
                    selector.select(self._seconds_until(deadline))
                    continue
                self._process(request, address)
                return

    def _process(self, request: Any, address: Any) -> None:
        """As ``BaseServer`` does when it has got a request."""
        if not self.verify_request(request, address):
            self.shutdown_request(request)
            return
        try:
            self.process_request(request, address)
        except Exception:  # noqa: BLE001 - the hook for errors reports it
            self.handle_error(request, address)
            self.shutdown_request(request)
        except BaseException:
            self.shutdown_request(request)
            raise

    def server_close(self) -> None:
        """Say close_notify to every peer, and close the socket."""
        with self._lock:
            if self._listener is not None:
                self._endpoint.close_all(now())
                self._flush()
                self._listener = None
        super().server_close()

    # --- messages ------------------------------------------------------------------------------------------------

    def send_message(self, data: bytes | bytearray | memoryview, address: Any) -> None:
        """Send one message to a peer: see :meth:`SecuredSocket.sendto`."""
        if not len(data):
            return
        deadline = now() + SEND_PATIENCE
        with self._lock:
            association = self._peers.get(address)
            if association is None:
                message = f"there is no association with {address!r}: the peer has closed, or was never there"
                raise SSLZeroReturnError(message)
            datagram = association.connection.protect(data)
        while True:
            with self._lock:
                if self._listener is None:
                    message = "the server is closed"
                    raise SSLZeroReturnError(message)
                try:
                    self._listener.transmit(datagram, cast("Origin", association.address))
                except BlockingIOError:
                    descriptor = self.fileno()
                else:
                    return
            if now() >= deadline:
                message = "the socket's send buffer did not empty in time"
                raise SSLTimeoutError(message)
            wait_until_ready(descriptor, writable=True, until=min(deadline, now() + _GLANCE))

    def association(self, address: Any) -> Association | None:
        """The association with a peer: its ``connection`` tells certificate, cipher and so on."""
        return self._peers.get(address)

    @property
    def statistics(self) -> Counter[str]:
        """How many times something was dropped or done, by reason."""
        with self._lock:
            total = self._endpoint.statistics
            return total if self._listener is None else total + self._listener.statistics

    # --- inside --------------------------------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Take in one datagram; false if there is none."""
        with self._lock:
            arrival = None if self._listener is None else self._listener.receive()
            if arrival is None:
                return False
            datagram, origin = arrival
            self._note(self._endpoint.receive_datagram(datagram, origin, now()))
            self._flush()
        return True

    def _note(self, events: list[EndpointEvent]) -> None:
        for association, event in events:
            origin = cast("Origin", association.address)
            address = PeerAddress.of(origin)
            if isinstance(event, DataReceived):
                self._requests.append((event.data, address))
            elif isinstance(event, HandshakeCompleted):
                self._peers.add(address, association)
            elif isinstance(event, HandshakeFailed):
                logger.info("handshake with %s failed: %s", address, event.error)
            else:
                self._peers.discard(address, association)

    def _flush(self) -> None:
        for origin, datagram in self._endpoint.datagrams_to_send(now()):
            if self._listener is not None:
                self._listener.send(datagram, cast("Origin", origin))

    def _handle_timers(self) -> None:
        with self._lock:
            at = self._endpoint.next_timeout()
            if at is not None and at <= now():
                self._note(self._endpoint.handle_timeout(now()))
                self._flush()

    def _seconds_until(self, deadline: float | None) -> float | None:
        with self._lock:
            at = self._endpoint.next_timeout()
        times = [time for time in (at, deadline) if time is not None]
        return max(0.0, min(times) - now()) if times else None


class ThreadingDTLSServer(socketserver.ThreadingMixIn, DTLSServer):
    """A :class:`DTLSServer` that handles each message in a thread of its own."""
