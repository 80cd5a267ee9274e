"""Host names become socket addresses, without blocking the loop and within a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from dtls.errors import SSLTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


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
    return _addresses(host, found)


def resolve_blocking(
    host: str | None, port: str | int | None, *, family: int = 0, flags: int = 0
) -> list[Address]:
    """As :func:`resolve`, where no loop runs: it takes as long as the system's resolver does."""
    return _addresses(
        host, socket.getaddrinfo(host or None, port, family=family, type=socket.SOCK_DGRAM, flags=flags)
    )


def _addresses(host: str | None, found: Iterable[Any]) -> list[Address]:
    addresses = [Address(family, proto, sockaddr) for family, _, proto, _, sockaddr in found]
    if not addresses:
        message = f"getaddrinfo() gives no address for {host!r}"
        raise OSError(message)
    return addresses


def hosts_of(host: str | Sequence[str] | None, port: int | str | None) -> list[str | None]:
    """The hosts that a server's ``host`` names. Raises :exc:`ValueError` for none, and without a port."""
    if port is None:
        message = "Neither host/port nor sock were specified"
        raise ValueError(message)
    hosts: list[str | None] = [host] if host is None or isinstance(host, str) else list(host)
    if not hosts:
        message = "host names no address; None stands for all interfaces"
        raise ValueError(message)
    return hosts


def bound_sockets(
    addresses: Iterable[Address], *, everywhere: bool, reuse_port: bool = False
) -> list[socket.socket]:
    """A socket for each address; port 0 takes a free one, the same for all. Raises :exc:`OSError`.

    :param everywhere: all interfaces were asked for, and it is no fault if there is no IPv6 here.
    """
    socks: list[socket.socket] = []
    chosen: int | None = None
    try:
        for address in dict.fromkeys(addresses):
            place = address
            if chosen is not None and not address.sockaddr[1]:
                place = address._replace(sockaddr=(address.sockaddr[0], chosen, *address.sockaddr[2:]))
            try:
                made = bound_socket(place, reuse_port=reuse_port)
            except OSError as error:
                if socks and everywhere and error.errno in _NO_SUCH_FAMILY:
                    continue
                raise
            socks.append(made)
            chosen = made.getsockname()[1]
    except BaseException:
        for made in socks:
            made.close()
        raise
    return socks


def bound_socket(address: Address, *, reuse_port: bool = False, only_ipv6: bool = True) -> socket.socket:
    """A UDP socket that is bound to ``address``. Raises :exc:`OSError`.

    ``only_ipv6`` keeps IPv4 for a socket of its own, as asyncio's stream servers do; its datagram endpoints do not.
    """
    sock = socket.socket(address.family, socket.SOCK_DGRAM, address.proto)
    try:
        sock.setblocking(False)
        if reuse_port:
            share_port(sock)
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


def share_port(sock: socket.socket) -> None:
    """Let other sockets of the same user be bound to its address; those that exist must allow it too.

    Raises :exc:`ValueError` where the system knows no SO_REUSEPORT.
    """
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
