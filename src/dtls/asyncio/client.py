"""A client's association in an event loop: :func:`connect`, and the link beneath it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Protocol, cast

from dtls.connection import ConnectionState
from dtls.context import Purpose, create_default_context
from dtls.driver import REFUSALS_TOLERATED
from dtls.endpoint import EndpointLimits
from dtls.errors import HandshakeTimeout, PeerUnreachable, SSLError, SSLTimeoutError
from dtls.events import AlertReceived, DataReceived, HandshakeCompleted, HandshakeFailed, PeerClosed

from .addresses import check_udp, connected_socket, resolve
from .channel import Alarm, Channel
from .connection import DTLSConnection
from .opening import Opening

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from dtls.context import Context
    from dtls.events import Event
    from dtls.ports import Arrival
    from dtls.session import DTLSSession

    from .addresses import Address

logger = logging.getLogger("dtls")

_HANDSHAKING = ConnectionState.HANDSHAKING


class Sink(Protocol):
    """Where the messages of one association go."""

    def _deliver(self, message: bytes) -> None:
        """A message has come."""

    def _deliver_many(self, messages: list[bytes]) -> None:
        """Several have come, in order."""

    def _end(self, error: SSLError | None) -> None:
        """The association has ended: by close_notify, or by ``error``. May be called again."""


class Watcher(Protocol):
    """What hears of a link's socket."""

    def error_received(self, error: OSError) -> None:
        """The kernel says something about what was sent before."""

    def room_changed(self, full: bool) -> None:
        """Whether the socket's send buffer is full from now on."""


class Watched:
    """A link that passes on what its channel says of the socket."""

    watcher: Watcher | None = None
    """Whoever wants to hear of the socket's errors and of its room."""

    def error_received(self, error: OSError) -> None:
        """Pass on what the kernel says; it ends nothing, since anybody can forge what provokes it."""
        if self.watcher is not None:
            self.watcher.error_received(error)

    def room_changed(self, full: bool) -> None:
        """Whether the socket's send buffer is full."""
        if self.watcher is not None:
            self.watcher.room_changed(full)


class ClientLink(Watched):
    """Runs a client's connection on its connected UDP socket, which is taken over.

    :param make_sink: called when the handshake is complete.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: Context,
        server_hostname: str | None,
        session: DTLSSession | None,
        make_sink: Callable[[ClientLink], Sink],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.connection = context.connection(
            time.monotonic(), server_hostname=server_hostname, session=session
        )
        self.channel = Channel(loop, sock, self)
        self.way = self.channel.port.way(None)
        self._alarm = Alarm(loop, time.monotonic, self._handle_timeout)
        self._make_sink = make_sink
        self.sink: Sink | None = None
        self._shaken: asyncio.Future[None] = loop.create_future()
        self._refusals = 0

    async def handshake(self, timeout: float) -> None:
        """Complete the handshake. Raises its error, :class:`~dtls.HandshakeTimeout` after ``timeout`` seconds."""
        channel = self.channel
        await channel.open()
        text = f"the server at {channel.peername!r} did not complete the handshake within {timeout:g} s"
        deadline = channel.loop.call_later(timeout, self._fail, HandshakeTimeout(text))
        try:
            self._go_on([])
            await self._shaken
        finally:
            deadline.cancel()

    # --- what the channel calls ----------------------------------------------------------------------------------

    def datagrams_received(self, batch: list[Arrival]) -> None:
        """Take in what the socket has."""
        connection, sink = self.connection, self.sink
        now = time.monotonic()
        self._refusals = 0
        for datagram, _, size in batch:
            if size:
                self._receive_segments(datagram, size, now)
                sink = self.sink
                continue
            found = connection.unprotect(datagram, now)
            if type(found) is bytes and sink is not None:
                sink._deliver(found)
            else:
                self._go_on(found)  # type: ignore[arg-type] # mypy does not narrow by `type() is`
                sink = self.sink

    def _receive_segments(self, datagrams: bytes, size: int, now: float) -> None:
        connection = self.connection
        at = 0
        while at < len(datagrams):
            found = connection.unprotect_many(datagrams[at:], size, now)
            at += found.taken
            if found.messages and self.sink is not None:
                self.sink._deliver_many(found.messages)
            if found.events is not None:
                self._go_on(found.events)
            elif at < len(datagrams):
                self._go_on(connection.receive_datagram(datagrams[at : at + size], now))
                at += size

    def error_received(self, error: OSError) -> None:
        """ICMP says that nothing listens at the peer's port. Anybody can say so; it counts in a handshake only."""
        if not (isinstance(error, ConnectionRefusedError) and self.connection.state is _HANDSHAKING):
            super().error_received(error)
            return
        self._refusals += 1
        if self._refusals > REFUSALS_TOLERATED:
            text = f"nothing listens at {self.channel.peername!r} (ICMP port unreachable)"
            self._fail(PeerUnreachable(text))

    # --- inside --------------------------------------------------------------------------------------------------

    def _handle_timeout(self) -> None:
        self._go_on(self.connection.handle_timeout(time.monotonic()))

    def _go_on(self, events: list[Event]) -> None:
        """After anything but a mere message: events, what is to be sent, the next timeout."""
        for event in events:
            self._note(event)
        connection, channel = self.connection, self.channel
        for datagram in connection.datagrams_to_send(time.monotonic()):
            channel.offer(datagram, self.way)
        ended = connection.state not in (_HANDSHAKING, ConnectionState.ESTABLISHED)
        if ended or channel.closed:
            self._alarm.stop()
        else:
            self._alarm.set_by(connection.next_timeout())
        if ended and connection.state is not ConnectionState.CLOSING:
            channel.close()

    def _note(self, event: Event) -> None:
        sink = self.sink
        if isinstance(event, HandshakeCompleted):
            self._establish()
        elif isinstance(event, HandshakeFailed):
            self._fail(event.error)
        elif sink is not None and isinstance(event, DataReceived):
            sink._deliver(event.data)
        elif sink is not None and isinstance(event, PeerClosed):
            sink._end(None)
        elif sink is not None and isinstance(event, AlertReceived):
            sink._end(event.error)

    def _establish(self) -> None:
        try:
            self.sink = self._make_sink(self)
        except Exception as error:  # noqa: BLE001 - a protocol's fault is raised where the handshake is waited for
            self._fail(error)
        if not self._shaken.done():
            self._shaken.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self._shaken.done():
            self._shaken.set_exception(error)

    # --- the end -------------------------------------------------------------------------------------------------

    def close_connection(self, sink: Sink) -> None:
        """Say close_notify and close the socket."""
        self.connection.close(time.monotonic())
        self._go_on([])
        self.channel.close(lambda: sink._end(None))

    def abort(self) -> None:
        """Say close_notify if that can be done at once, and close the socket now."""
        self.connection.close(time.monotonic())
        self._go_on([])
        self.channel.abort()
        if self.sink is not None:
            self.sink._end(None)
        if self._shaken.done() and not self._shaken.cancelled():
            self._shaken.exception()  # somebody has seen it, or does not want to know
        else:
            self._shaken.cancel()


async def open_link(
    host: str | None,
    port: str | int | None,
    *,
    context: Context,
    server_hostname: str | None,
    session: DTLSSession | None,
    make_sink: Callable[[ClientLink], Sink],
    local_addr: tuple[str, int] | None = None,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool = False,
    sock: socket.socket | None = None,
    timeout: float | None = None,
) -> ClientLink:
    """A link whose handshake is complete, with one of the addresses of ``host`` or on ``sock``. See :func:`connect`."""
    if context.server_side:
        message = f"Cannot create a client with a {context.protocol.name} context"
        raise ValueError(message)
    seconds = context.handshake_timeout if timeout is None else timeout
    if not 0 < seconds < math.inf:
        message = f"timeout must be greater than 0 seconds and finite, not {timeout!r}"
        raise ValueError(message)
    deadline = time.monotonic() + seconds

    def attempt(made: socket.socket, share: float) -> Awaitable[ClientLink]:
        return _handshake_on(made, share, context, server_hostname, session, make_sink)

    if sock is not None:
        if host is not None or port is not None or local_addr is not None:
            message = "host, port and local_addr cannot be specified together with sock"
            raise ValueError(message)
        check_udp(sock, connected=True)
        return await attempt(sock, seconds)
    if host is None and port is None:
        message = "host and port was not specified and no sock specified"
        raise ValueError(message)
    remotes = await resolve(host, port, family=family, proto=proto, flags=flags, timeout=seconds)
    locals_ = None
    if local_addr is not None:
        locals_ = await resolve(*local_addr, family=family, proto=proto, timeout=deadline - time.monotonic())
    return await _try_each(remotes, locals_, deadline, attempt, reuse_port=reuse_port)


async def _try_each(
    remotes: Sequence[Address],
    locals_: Sequence[Address] | None,
    deadline: float,
    attempt: Callable[[socket.socket, float], Awaitable[ClientLink]],
    *,
    reuse_port: bool,
) -> ClientLink:
    """Each address gets a fair share of the time that is left."""
    errors: list[tuple[Any, OSError]] = []
    for number, remote in enumerate(remotes):
        share = (deadline - time.monotonic()) / (len(remotes) - number)
        if share <= 0:
            break
        try:
            return await attempt(connected_socket(remote, locals_, reuse_port=reuse_port), share)
        except OSError as error:
            logger.info("no association with %s: %s", remote.sockaddr, error)
            errors.append((remote.sockaddr, error))
    try:
        raise _most_telling(errors)
    finally:
        errors.clear()  # the tracebacks would hold this frame, and this frame the errors


def _most_telling(errors: Sequence[tuple[Any, OSError]]) -> OSError:
    """What a peer has said tells more than that none is there, and that more than silence; of two such, the last."""
    if not errors:
        return SSLTimeoutError("the time was over before any address of the host could be tried")

    def telling(entry: tuple[Any, OSError]) -> int:
        error = entry[1]
        if isinstance(error, PeerUnreachable):
            return 2
        if isinstance(error, TimeoutError):
            return 1
        return 3 if isinstance(error, SSLError) else 0

    chosen: OSError = max(reversed(errors), key=telling)[1]
    add_note = getattr(chosen, "add_note", None)  # Python 3.11
    if add_note is not None:
        for sockaddr, error in errors:
            if error is not chosen:
                add_note(f"and with {sockaddr}: {error}")
    return chosen


async def _handshake_on(
    sock: socket.socket,
    seconds: float,
    context: Context,
    server_hostname: str | None,
    session: DTLSSession | None,
    make_sink: Callable[[ClientLink], Sink],
) -> ClientLink:
    try:
        link = ClientLink(sock, context, server_hostname, session, make_sink)
    except BaseException:
        sock.close()
        raise
    try:
        await link.handshake(seconds)
    except BaseException:
        link.abort()
        raise
    return link


def _connection_of(link: ClientLink) -> DTLSConnection:
    channel = link.channel
    return DTLSConnection(
        link,
        channel,
        link.connection,
        way=link.way,
        peername=channel.peername,
        sockname=channel.sockname,
        limits=EndpointLimits(),
    )


def connect(
    host: str | None = None,
    port: str | int | None = None,
    *,
    context: Context | None = None,
    server_hostname: str | None = None,
    session: DTLSSession | None = None,
    local_addr: tuple[str, int] | None = None,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    sock: socket.socket | None = None,
    timeout: float | None = None,
) -> Opening[DTLSConnection]:
    """Connect to a DTLS server and complete the handshake.

    It is entered by ``async with``, which closes the association at the end, or awaited.

    :param host: name or address. Every address that a name has is tried in turn, each with a fair share of the time
        that is left.
    :param context: by default ``dtls.create_default_context()``: certificate and host name are verified.
    :param server_hostname: the name to verify and to ask for; by default ``host``. Needed with ``sock``.
    :param session: what to resume if the server agrees: :attr:`DTLSConnection.session` of an earlier association.
    :param local_addr: the own host and port.
    :param family: ``socket.AF_INET`` or ``AF_INET6`` for only such addresses; ``proto`` and ``flags`` as in
        ``loop.create_datagram_endpoint``.
    :param sock: a connected UDP socket instead of ``host`` and ``port``; it is taken over.
    :param timeout: seconds for all of it; by default ``context.handshake_timeout``, which bounds each in any case.
    :raises SSLError: :class:`~dtls.SSLCertVerificationError`, :class:`~dtls.PeerUnreachable`,
        :class:`~dtls.HandshakeTimeout`, or another for what the server says; with several addresses, the most
        telling error, the others as its notes.
    :raises OSError: if the name cannot be resolved or no socket be made.
    :raises ValueError: for arguments that do not go together.
    """

    async def open() -> DTLSConnection:
        chosen = create_default_context(Purpose.SERVER_AUTH) if context is None else context
        link = await open_link(
            host,
            port,
            context=chosen,
            server_hostname=(host or None) if server_hostname is None else server_hostname,
            session=session,
            make_sink=_connection_of,
            local_addr=local_addr,
            family=family,
            proto=proto,
            flags=flags,
            sock=sock,
            timeout=timeout,
        )
        return cast("DTLSConnection", link.sink)  # as make_sink made it

    return Opening(open)
