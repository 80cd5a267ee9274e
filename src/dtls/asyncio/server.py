"""A server in an event loop: :func:`serve` runs a handler for each association."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections import Counter
from typing import TYPE_CHECKING

from dtls.cookie import CookieFactory
from dtls.endpoint import Endpoint
from dtls.udp import PeerAddress

from .addresses import bound_sockets, check_udp, hosts_of, resolve
from .connection import DTLSConnection
from .link import ServerLink
from .opening import Opening

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from dtls.context import Context
    from dtls.endpoint import Association, CookiePolicy, EndpointLimits

    Handler = Callable[[DTLSConnection], Awaitable[object]]

logger = logging.getLogger("dtls")

DEFAULT_SHUTDOWN_TIMEOUT = 10.0
"""Seconds that handlers have to finish when a server is closed."""
ANSWER_PATIENCE = 1.0
"""Seconds at most that a server waits for the peers' close_notify: many peers never answer."""
CANCEL_PATIENCE = 1.0
"""Seconds that a handler has to end when it was cancelled."""


class Server:
    """A server, as ``asyncio.Server`` is one; made by :func:`serve`.

    ``limits`` and counters are each socket's own; all sockets share the secrets of cookies.
    """

    def __init__(self, handler: Handler, shutdown_timeout: float) -> None:
        check_server(handler, shutdown_timeout)
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._shutdown_timeout = shutdown_timeout
        self._links: list[ServerLink] = []
        self._tasks: dict[asyncio.Task[None], DTLSConnection] = {}
        self._serving = True
        self._closed = False
        self._step: asyncio.TimerHandle | None = None
        self._answers_awaited = False
        self._waiters: list[asyncio.Future[None]] = []
        self._serving_forever: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={[sock.getsockname() for sock in self.sockets]!r}>"

    # --- as asyncio.Server ---------------------------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it runs in."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether new peers get in."""
        return self._serving

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The UDP sockets; none when the server is closed."""
        return tuple(link.channel.sock for link in self._links if not link.channel.closed)

    @property
    def connections(self) -> frozenset[DTLSConnection]:
        """The associations whose handlers run."""
        return frozenset(self._tasks.values())

    @property
    def statistics(self) -> Counter[str]:
        """How many times something was dropped or done, by reason, on all sockets."""
        total: Counter[str] = Counter()
        for link in self._links:
            total.update(link.statistics)
        return total

    def close(self) -> None:
        """Let nobody in any more, and close when the handlers have ended; :meth:`wait_closed` waits for that.

        The handlers' ``recv`` gives what is queued and then ``b""``; they can still send. After ``shutdown_timeout``
        seconds they are cancelled. Peers are told by close_notify. May be called again.
        """
        if not self._serving:
            return
        self._serving = False
        self._set_step(self._shutdown_timeout, self.abort)
        for link in self._links:
            link.refuse_handshakes()
        for connection in self._tasks.values():
            connection._stop_receiving()
        if self._serving_forever is not None and not self._serving_forever.done():
            self._serving_forever.cancel()
        self._advance()

    def abort(self) -> None:
        """Close without waiting: the handlers are cancelled, the peers told by close_notify."""
        if self._closed:
            return
        self._serving = False
        self._set_step(CANCEL_PATIENCE, self._finish)
        for task in self._tasks:
            task.cancel()
        for link in self._links:
            link.close()
        if not self._tasks:
            self._finish()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its handlers have ended."""
        if self._closed:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def serve_forever(self) -> None:
        """Wait until this is cancelled, or the server closed; then close it. Raises :exc:`asyncio.CancelledError`."""
        if self._serving_forever is not None:
            message = f"server {self!r} is already being awaited on serve_forever()"
            raise RuntimeError(message)
        if not self._serving:
            message = f"server {self!r} is closed"
            raise RuntimeError(message)
        self._serving_forever = self._loop.create_future()
        try:
            await self._serving_forever
        finally:
            self._serving_forever = None
            await self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        self.close()
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            self.abort()
            raise

    # --- associations --------------------------------------------------------------------------------------------

    def make_sink(self, link: ServerLink, association: Association) -> DTLSConnection:
        """A peer has completed its handshake: its handler begins."""
        channel = link.channel
        way = channel.port.way(association.address)
        connection = DTLSConnection(
            _Owner(self, link, association),
            channel,
            association.connection,
            way=way,
            peername=PeerAddress.of(way.origin, association.address),
            sockname=channel.port.own_address(way.origin),
            limits=link.endpoint.limits,
        )
        task = self._loop.create_task(self._handle(connection))
        self._tasks[task] = connection
        task.add_done_callback(self._handled)
        return connection

    async def _handle(self, connection: DTLSConnection) -> None:
        try:
            await self._handler(connection)
        except Exception as error:  # noqa: BLE001 - one handler's fault is not the other associations'
            if connection._ended_by(error):
                logger.info("the association with %s ended: %s", connection.get_extra_info("peername"), error)
            else:
                message = f"Unhandled exception in the handler of {connection!r}"
                # Not with this task as "task": since Python 3.12 that is for others than the task itself to report.
                self._loop.call_exception_handler({"message": message, "exception": error})

    def _handled(self, task: asyncio.Task[None]) -> None:
        # Here, and not at the end of the task: one that is cancelled before its first step never comes to its end.
        self._tasks.pop(task)._start_closing()
        if not self._serving:
            self._advance()

    # --- the end -------------------------------------------------------------------------------------------------

    def take(self, socks: Sequence[socket.socket], new_endpoint: Callable[[], Endpoint]) -> None:
        """Take sockets over, to be read when :meth:`open` is called; they are closed if anything goes wrong."""
        try:
            for sock in socks:
                link = ServerLink(self._loop, sock, new_endpoint(), self.make_sink)
                link.on_event = self._advance
                self._links.append(link)
        except BaseException:
            self._drop()
            for sock in socks:
                sock.close()
            raise

    async def open(self) -> None:
        """Begin to serve, unless it is closed already; if anything goes wrong, the sockets are closed."""
        try:
            for link in self._links:
                if not link.channel.closed:
                    await link.channel.open()
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        for link in self._links:
            link.channel.abort()

    def _advance(self) -> None:
        """When the handlers have ended, wait for the peers' close_notify; when these have come, it is over."""
        if self._serving or self._closed or self._tasks:
            return
        if not self._answers_awaited:
            self._answers_awaited = True
            for link in self._links:
                link.close_all(patience=ANSWER_PATIENCE)
            return  # each of them has come here again
        if not any(len(link.endpoint) for link in self._links):
            self._finish()

    def _set_step(self, seconds: float, call: Callable[[], object]) -> None:
        if self._step is not None:
            self._step.cancel()
        self._step = self._loop.call_later(seconds, call)

    def _finish(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._step is not None:
            self._step.cancel()
        if self._tasks:
            logger.warning("%d handlers go on although they were cancelled", len(self._tasks))
        for link in self._links:
            link.close()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class _Owner:
    """Closes one association of a server."""

    __slots__ = ("_association", "_link", "_server")

    def __init__(self, server: Server, link: ServerLink, association: Association) -> None:
        self._server = server
        self._link = link
        self._association = association

    def close_connection(self, connection: DTLSConnection) -> None:
        # While the server goes on, a late answer does no harm. When it closes, its socket stays a little for it.
        patience = 0.0 if self._server.is_serving() else ANSWER_PATIENCE
        self._link.close_association(self._association, patience=patience)
        connection._end(None)


def endpoint_factory(
    context: Context, cookie_policy: CookiePolicy, limits: EndpointLimits | None, cookies: CookieFactory
) -> Callable[[], Endpoint]:
    """What makes the endpoint of each of a server's sockets.

    It has made one to try: what is wrong with the arguments is said before there is any socket.
    """

    def new_endpoint() -> Endpoint:
        return Endpoint(context, cookie_policy=cookie_policy, limits=limits, cookies=cookies)

    new_endpoint()
    return new_endpoint


def check_server(handler: Handler, shutdown_timeout: float) -> None:
    """Raise for what no server can be made with: :exc:`TypeError`, :exc:`ValueError`."""
    if not callable(handler):
        message = f"handler must be a coroutine function, not {handler!r}"
        raise TypeError(message)
    if not 0 <= shutdown_timeout < math.inf:
        message = f"shutdown_timeout must be at least 0 seconds and finite, not {shutdown_timeout!r}"
        raise ValueError(message)


def serve(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    context: Context,
    family: int = 0,
    flags: int = socket.AI_PASSIVE,
    sock: socket.socket | None = None,
    reuse_port: bool = False,
    limits: EndpointLimits | None = None,
    cookie_policy: CookiePolicy = "always",
    cookies: CookieFactory | None = None,
    shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
) -> Opening[Server]:
    """Run ``handler(connection)`` for each association of a server.

    It is entered by ``async with``, which closes the server at the end, or awaited.

    :param handler: a coroutine function that takes a :class:`DTLSConnection`. When it returns the association is
        closed. What it raises goes to the loop's exception handler and ends only that association; what ended the
        association itself (:class:`~dtls.AssociationReplaced`, say) is merely logged.
    :param host: a name or address, or several; ``None`` or ``""`` for all interfaces, IPv4 and IPv6.
    :param port: 0 takes a free one, the same for all addresses.
    :param context: a server's context, with a certificate.
    :param sock: a bound UDP socket instead of ``host`` and ``port``; it is taken over.
    :param limits: security limits, of each socket; ``idle_timeout`` among them, and how much is queued for a
        handler that does not read: what is more is dropped and counted, the newest first.
    :param cookie_policy: see :class:`dtls.Endpoint`.
    :param cookies: to share cookie secrets with other servers.
    :param shutdown_timeout: seconds that handlers have to finish when the server is closed.
    :raises OSError: if an address cannot be bound.
    :raises ValueError: for arguments that do not go together.
    """

    async def open() -> Server:
        server = Server(handler, shutdown_timeout)
        new_endpoint = endpoint_factory(
            context, cookie_policy, limits, CookieFactory() if cookies is None else cookies
        )
        if sock is not None:
            if host is not None or port is not None:
                message = "host/port and sock can not be specified at the same time"
                raise ValueError(message)
            check_udp(sock, connected=False)
            socks = [sock]
        else:
            hosts = hosts_of(host, port)
            found = [await resolve(one, port, family=family, flags=flags) for one in hosts]
            addresses = [address for those in found for address in those]
            socks = bound_sockets(addresses, everywhere=not all(hosts), reuse_port=reuse_port)
        server.take(socks, new_endpoint)
        await server.open()
        return server

    return Opening(open)
