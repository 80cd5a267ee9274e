"""Datagram protocols made secure: :func:`create_dtls_endpoint` in place of ``loop.create_datagram_endpoint``."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dtls.endpoint import Endpoint
from dtls.udp import PeerAddress, Peers

from .addresses import bound_socket, check_udp, resolve
from .client import open_link
from .link import ServerLink
from .negotiated import NegotiatedView, extra_info

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from dtls.connection import Connection
    from dtls.context import Context
    from dtls.cookie import CookieFactory
    from dtls.endpoint import Association, CookiePolicy, EndpointLimits
    from dtls.errors import SSLError
    from dtls.session import DTLSSession

    from .channel import Channel
    from .client import ClientLink

logger = logging.getLogger("dtls")

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)


class DTLSDatagramTransport(asyncio.DatagramTransport):
    """What the two ends' transports share. Made by :func:`create_dtls_endpoint`."""

    def __init__(self, protocol: asyncio.BaseProtocol, channel: Channel) -> None:
        super().__init__()
        self._protocol: Any = protocol
        self._channel = channel
        self._loop = channel.loop
        self._closing = False
        self._lost = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._closing else self._channel.sockname}>"

    # --- as asyncio's transports ---------------------------------------------------------------------------------

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol."""
        return self._protocol  # type: ignore[no-any-return] # it is one, whichever

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set another protocol."""
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Whether it is closed or closing."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """How many bytes wait for room in the socket's send buffer."""
        return self._channel.unsent_bytes

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``socket``, ``sockname``, ``peername`` (of a client), and what the two kinds of transports add."""
        if name == "socket":
            return self._channel.sock
        if name == "sockname":
            return self._channel.sockname
        if name == "peername" and self._channel.peername is not None:
            return self._channel.peername
        return default

    def _transmit(self, connection: Connection, data: bytes | bytearray | memoryview, way: Any) -> None:
        """Send one message. What cannot be sent is told to the protocol, or counted, as plain UDP has it."""
        if not data or type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                message = f"data argument must be a bytes-like object, not {type(data).__name__!r}"
                raise TypeError(message)
            if not data:  # this engine cannot send it
                self._channel.statistics["dropped_empty_messages"] += 1
                return
        try:
            self._channel.transmit(connection.protect(data), way)
        except OSError as error:
            self._call(self._protocol.error_received, error)

    # --- what the link calls -------------------------------------------------------------------------------------

    def error_received(self, error: OSError) -> None:
        """Tell the protocol what the kernel says about something that was sent before."""
        self._call(self._protocol.error_received, error)

    def room_changed(self, full: bool) -> None:
        """Have the protocol pause writing, or go on."""
        self._call(self._protocol.pause_writing if full else self._protocol.resume_writing)

    def _call(self, method: Callable[..., object], *arguments: Any) -> None:
        """A fault of the protocol is the loop's to report, and does not keep other datagrams from coming in."""
        try:
            method(*arguments)
        except Exception as error:  # noqa: BLE001 - it is passed on
            self._report(error)

    def _hand_over(self, message: bytes, address: Any) -> None:
        """A message for the protocol: as :meth:`_call`, in fewer steps, since every message comes here."""
        if self._closing:
            return
        try:
            self._protocol.datagram_received(message, address)
        except Exception as error:  # noqa: BLE001 - it is passed on
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {
                "message": "Fatal error: a protocol's method failed",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._loop.call_soon(self._call, self._protocol.connection_lost, error)


class ClientTransport(DTLSDatagramTransport):
    """One association with one server."""

    def __init__(self, protocol: asyncio.BaseProtocol, link: ClientLink) -> None:
        super().__init__(protocol, link.channel)
        self._link = link
        link.watcher = self

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Send one message; ``addr`` must be the server's or ``None``, :exc:`ValueError` otherwise."""
        peer = self._channel.peername
        if addr is not None and addr != peer and tuple(addr) != peer[:2]:
            message = f"Invalid address: must be None or {peer}"
            raise ValueError(message)
        if not self._closing:
            self._transmit(self._link.connection, data, self._link.way)

    def close(self) -> None:
        """Say close_notify, and close when nothing waits to be sent any more."""
        if not self._closing:
            self._closing = True
            self._link.close_connection(self)

    def abort(self) -> None:
        """Close now."""
        self._closing = True
        if self._link.sink is None:  # within connection_made, which must end first
            self._loop.call_soon(self._link.abort)
        else:
            self._link.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's transports: ``ssl_object``, ``sslcontext``, ``peercert``, ``cipher`` and ``compression`` too."""
        found = super().get_extra_info(name, _MISSING)
        if found is _MISSING:
            found = extra_info(NegotiatedView(self._link.connection), name, default)
        return found

    @property
    def statistics(self) -> Counter[str]:
        """How many times something was dropped or done, by reason."""
        return self._link.connection.statistics + self._channel.statistics

    def _deliver(self, message: bytes) -> None:
        self._hand_over(message, self._channel.peername)

    def _deliver_many(self, messages: list[bytes]) -> None:
        for message in messages:
            self._deliver(message)

    def _end(self, error: SSLError | None) -> None:
        self._lose(error)


class _Peer:
    """One association of a server's transport."""

    __slots__ = ("_transport", "address", "association", "connection", "way")

    def __init__(self, transport: ServerTransport, association: Association) -> None:
        self._transport = transport
        self.association = association
        self.connection = association.connection
        self.way = transport._channel.port.way(association.address)
        self.address = PeerAddress.of(self.way.origin, association.address)

    def close(self) -> None:
        association = self.association
        self._transport._link.close_association(association)
        association.application = None  # which is us: the keys are to go now, not at a collection of garbage

    def _deliver(self, message: bytes) -> None:
        self._transport._hand_over(message, self.address)

    def _deliver_many(self, messages: list[bytes]) -> None:
        for message in messages:
            if self.association.application is self:  # the protocol may close it amid them
                self._deliver(message)

    def _end(self, error: SSLError | None) -> None:
        self._transport._forget(self, error)


class ServerTransport(DTLSDatagramTransport):
    """Any number of associations on one socket, told apart by their addresses."""

    def __init__(self, protocol: asyncio.BaseProtocol, sock: socket.socket, endpoint: Endpoint) -> None:
        self._link = ServerLink(asyncio.get_running_loop(), sock, endpoint, self._make_peer)
        super().__init__(protocol, self._link.channel)
        self._link.watcher = self
        self._peers: Peers[_Peer] = Peers()

    async def _open(self) -> None:
        await self._channel.open()

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Send one message to a peer that has an association.

        ``addr`` is best what ``datagram_received`` was given: on a socket bound to all addresses it tells apart peers
        of one address that write to several of ours. To another address, or a plain one with several, it is dropped
        and counted as ``sendto_unknown_address``: plain UDP would not raise either.
        """
        peer = self._peers.get(addr)
        if peer is None:
            if addr is None:
                message = "a server's transport must be told where to send: sendto(data, addr)"
                raise ValueError(message)
            self._channel.statistics["sendto_unknown_address"] += 1
            logger.info("no association with %s: a message of %d bytes is dropped", addr, len(data))
        elif not self._closing:
            self._transmit(peer.connection, data, peer.way)

    def close(self) -> None:
        """Say close_notify to every peer, and close when nothing waits to be sent any more."""
        if not self._closing:
            self._closing = True
            self._link.close(lambda: self._lose(None))

    def abort(self) -> None:
        """Close now."""
        self.close()
        self._channel.abort()

    def close_association(self, addr: Any) -> None:
        """Say close_notify to one peer and forget it; one that is not known is no error."""
        peer = self._peers.get(addr)
        if peer is not None:
            self._peers.discard(peer.address, peer)
            peer.close()

    def negotiated(self, addr: Any) -> NegotiatedView | None:
        """What was negotiated with one peer: its certificate, the cipher and so on; ``None`` for one not known."""
        peer = self._peers.get(addr)
        return None if peer is None else NegotiatedView(peer.association.connection)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's transports, and ``sslcontext``. For one peer, see :meth:`negotiated`."""
        if name == "sslcontext":
            return self._link.endpoint.context
        return super().get_extra_info(name, default)

    @property
    def statistics(self) -> Counter[str]:
        """How many times something was dropped or done, by reason."""
        return self._link.statistics

    def _make_peer(self, _: ServerLink, association: Association) -> _Peer:
        peer = _Peer(self, association)
        self._peers.add(peer.address, peer)
        return peer

    def _forget(self, peer: _Peer, error: SSLError | None) -> None:
        self._peers.discard(peer.address, peer)
        if error is not None:
            logger.info("association with %s ended: %s", peer.address, error)


_MISSING = object()


async def create_dtls_endpoint(
    protocol_factory: Callable[[], ProtocolT],
    local_addr: tuple[str, int] | None = None,
    remote_addr: tuple[str, int] | None = None,
    *,
    context: Context,
    server_hostname: str | None = None,
    session: DTLSSession | None = None,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool = False,
    sock: socket.socket | None = None,
    timeout: float | None = None,
    limits: EndpointLimits | None = None,
    cookie_policy: CookiePolicy = "always",
    cookies: CookieFactory | None = None,
) -> tuple[DTLSDatagramTransport, ProtocolT]:
    """A transport and a protocol, as ``loop.create_datagram_endpoint`` gives them, for messages protected by DTLS.

    With a client's context it connects to ``remote_addr``, and ``connection_made`` is called when the handshake is
    complete. With a server's it listens at ``local_addr``, and ``connection_made`` is called at once;
    ``datagram_received`` and ``sendto`` tell peers apart by their addresses.

    :param context: says which of the two it is.
    :param server_hostname: of a client: the name to verify; by default the host of ``remote_addr``.
    :param session: of a client: as in :func:`connect`.
    :param sock: a UDP socket, connected (a client's) or bound (a server's), instead of addresses; it is taken over.
    :param timeout: of a client: as in :func:`connect`.
    :param limits: of a server, as are ``cookie_policy`` and ``cookies``: see :class:`dtls.Endpoint`. Its queues are not
        used: messages go to the protocol as they come.
    :raises SSLError: and other errors as :func:`connect` and :func:`serve` do.
    """
    if context.server_side:
        if remote_addr is not None or server_hostname is not None or session is not None:
            message = (
                "remote_addr, server_hostname and session are for clients, and the context is a server's"
            )
            raise ValueError(message)
        endpoint = Endpoint(context, cookie_policy=cookie_policy, limits=limits, cookies=cookies)
        if sock is None:
            if local_addr is None:
                message = "a server needs local_addr or sock"
                raise ValueError(message)
            found = await resolve(*local_addr, family=family, proto=proto, flags=flags | socket.AI_PASSIVE)
            sock = bound_socket(found[0], reuse_port=reuse_port, only_ipv6=False)
        elif local_addr is not None:
            message = "local_addr and sock can not be specified at the same time"
            raise ValueError(message)
        else:
            check_udp(sock, connected=False)
        return await _listen(protocol_factory, sock, endpoint)
    if sock is None and remote_addr is None:
        message = "a client needs remote_addr, or a sock that is connected"
        raise ValueError(message)
    host, port = (None, None) if remote_addr is None else remote_addr
    protocols: list[ProtocolT] = []

    def make_transport(link: ClientLink) -> ClientTransport:
        # Before any message: the first may have come in the datagram that completed the handshake.
        protocols.append(protocol_factory())
        transport = ClientTransport(protocols[0], link)
        protocols[0].connection_made(transport)
        return transport

    link = await open_link(
        host,
        port,
        context=context,
        server_hostname=host if server_hostname is None else server_hostname,
        session=session,
        make_sink=make_transport,
        local_addr=local_addr,
        family=family,
        proto=proto,
        flags=flags,
        reuse_port=reuse_port,
        sock=sock,
        timeout=timeout,
    )
    return cast("ClientTransport", link.sink), protocols[0]


async def _listen(
    protocol_factory: Callable[[], ProtocolT], sock: socket.socket, endpoint: Endpoint
) -> tuple[ServerTransport, ProtocolT]:
    try:
        protocol = protocol_factory()
        transport = ServerTransport(protocol, sock, endpoint)
    except BaseException:
        sock.close()
        raise
    try:
        protocol.connection_made(transport)
        if not transport.is_closing():
            await transport._open()
    except BaseException:
        transport.abort()
        raise
    return transport, protocol
