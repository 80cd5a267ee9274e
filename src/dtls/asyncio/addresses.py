"""Host names become socket addresses, without blocking the loop and within a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from dtls.errors import SSLTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Address(NamedTuple):
    """One address of a name, and what kind of socket it takes."""

    family: int
    proto: int
    sockaddr: Any


async def resolve(
    host: str | None,
    port: str | int | None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    timeout: float | None = None,
) -> list[Address]:
    """Every address of ``host``, by the system's preference.

    Raises :exc:`OSError` (``socket.gaierror``) if it has none, :class:`~dtls.SSLTimeoutError` if that took too long.
    """
    host = host or None  # an empty one means all interfaces, as it does to a socket
    wanted: dict[str, Any] = {"family": family, "type": socket.SOCK_DGRAM, "proto": proto}
    found: list[Any] = []
    with contextlib.suppress(socket.gaierror):  # a name, not an address: that may take time
        found = socket.getaddrinfo(host, port, flags=flags | socket.AI_NUMERICHOST, **wanted)
    if not found:
        loop = asyncio.get_running_loop()
        try:
            found = await asyncio.wait_for(
                loop.getaddrinfo(host, port, flags=flags, **wanted),
                timeout,
            )
        except asyncio.TimeoutError:
            message = f"the name {host!r} was not resolved in time"
            raise SSLTimeoutError(message) from None
    if not found:
        message = f"getaddrinfo() gives no address for {host!r}"
        raise OSError(message)
    return [Address(family, proto, sockaddr) for family, _, proto, _, sockaddr in found]


def bound_socket(address: Address, *, reuse_port: bool = False, only_ipv6: bool = True) -> socket.socket:
    """A UDP socket that is bound to ``address``. Raises :exc:`OSError`.

    ``only_ipv6`` keeps IPv4 for a socket of its own, as asyncio's stream servers do; its datagram endpoints do not.
    """
    sock = socket.socket(address.family, socket.SOCK_DGRAM, address.proto)
    try:
        sock.setblocking(False)
        if reuse_port:
            _share_port(sock)
        if address.family == socket.AF_INET6 and only_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address.sockaddr)
        except OSError as error:
            text = f"cannot bind to {address.sockaddr!r}: {error.strerror}"
            raise OSError(error.errno, text) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _share_port(sock: socket.socket) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        message = "reuse_port not supported by socket module"
        raise ValueError(message)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def connected_socket(
    remote: Address, local: Sequence[Address] | None, *, reuse_port: bool = False
) -> socket.socket:
    """A UDP socket that is connected to ``remote``, from an own address of the same family. Raises :exc:`OSError`."""
    own = remote._replace(sockaddr=None)
    if local is not None:
        own = _of_same_family(remote, local)
        sock = bound_socket(own, reuse_port=reuse_port)
    else:
        sock = socket.socket(remote.family, socket.SOCK_DGRAM, remote.proto)
    try:
        sock.setblocking(False)
        sock.connect(remote.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _of_same_family(remote: Address, local: Iterable[Address]) -> Address:
    for address in local:
        if address.family == remote.family:
            return address
    message = f"no own address has the family of {remote.sockaddr!r}"
    raise OSError(message)


def check_udp(sock: socket.socket, *, connected: bool) -> None:
    """Raise :exc:`ValueError` for a socket that is not what is needed."""
    if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        message = "only UDP sockets (SOCK_DGRAM) can speak DTLS; use ssl for TCP"
        raise ValueError(message)
    try:
        sock.getpeername()
    except OSError:
        if connected:
            message = "sock must be connected to the server: call its connect() first"
            raise ValueError(message) from None
    else:
        if not connected:
            message = "sock must not be connected: a server's socket hears every peer"
            raise ValueError(message)
