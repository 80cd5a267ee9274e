"""UDP sockets of servers: answers from the address that was asked, sockets that branch off, threads that are woken."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import sys
import threading
from collections import Counter
from typing import Any, Generic, NamedTuple, TypeVar

from .kernel import LARGEST_DATAGRAM, now, wait_until_ready

_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)  # Linux's number; Python names it since 3.14 only
_IPV4_PACKET_INFO = struct.Struct("=i4s4s")
_IPV6_PACKET_INFO = struct.Struct("=16sI")
_CONTROL_SPACE = 64
_IPV4_ADDRESS_PARTS = 2
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
Found = TypeVar("Found")
MAX_STRAYS = 1024
"""How many datagrams are taken off a new socket before it is connected; more cannot have come in that moment."""


class Origin(NamedTuple):
    """Where a datagram came from: the peer's address, and which of ours it was sent to if that is not plain."""

    address: Any
    local: tuple[bytes, int] | None = None
    """Address (4 or 16 bytes) and interface."""

    def __repr__(self) -> str:
        """Cookies are made of it: for IPv4 it is short and soon made, and no other looks like that."""
        address, local = self
        if local is None and type(address) is tuple and len(address) == _IPV4_ADDRESS_PARTS:
            return f"{address[0]} {address[1]}"
        return tuple.__repr__(self)


class Listener:
    """A UDP socket that many peers write to. Datagrams are answered from the address they were sent to.

    On a socket bound to all addresses the kernel would otherwise choose one by itself, which the peer may not know.

    :param branches: whether other sockets are to :meth:`branch` off to the same port.
    """

    def __init__(self, sock: socket.socket, *, branches: bool = True) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._family, self._proto = sock.family, sock.proto
        self.statistics: Counter[str] = Counter()
        self.reports_local = self._ask_for_local_addresses()
        """Whether the kernel tells which address of ours a datagram was sent to."""
        if not branches:
            return
        # Set when the socket is bound already: a second server on the port still gets EADDRINUSE, and sockets that
        # branch off do not. Only those of the same user may: unlike SO_REUSEADDR's, such a port cannot be hijacked.
        self._sharing = getattr(socket, "SO_REUSEPORT", socket.SO_REUSEADDR)
        sock.setsockopt(socket.SOL_SOCKET, self._sharing, 1)

    def _ask_for_local_addresses(self) -> bool:
        if sys.platform != "linux" or self.sock.getsockname()[0] not in _WILDCARDS:
            return False
        if self.sock.family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            self.sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        return True

    def receive(self, through: socket.socket | None = None) -> tuple[bytes, Origin] | None:
        """The next datagram, if there is one.

        :param through: another object for the same socket, whose timeout is to count.
        """
        sock = self.sock if through is None else through
        while True:
            try:
                if not self.reports_local:
                    datagram, address = sock.recvfrom(LARGEST_DATAGRAM)
                    # What Origin(...) does, without a call of Python's.
                    return datagram, tuple.__new__(Origin, (address, None))
                datagram, control, _, address = sock.recvmsg(LARGEST_DATAGRAM, _CONTROL_SPACE)
                return datagram, Origin(address, local_address(control))
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                if through is not None and isinstance(error, TimeoutError):
                    return None
                # Errors of earlier datagrams; a closed socket is for the caller.
                if error.errno in (errno.EBADF, errno.ENOTSOCK):
                    raise
                self._count(error)

    def send(self, datagram: bytes, origin: Origin) -> None:
        """Send to where a datagram came from. What the kernel does not take is lost, as any datagram may be."""
        try:
            if origin.local is None:
                self.sock.sendto(datagram, origin.address)
            else:
                self.transmit(datagram, origin)
        except OSError as error:
            self._count(error)

    def transmit(self, datagram: bytes, origin: Origin) -> None:
        """As :meth:`send`. Raises what the kernel says, :exc:`BlockingIOError` if there is no room."""
        if origin.local is None:
            self.sock.sendto(datagram, origin.address)
        else:
            self.sock.sendmsg([datagram], [control_for(self.sock.family, origin.local)], 0, origin.address)

    def own_address(self, origin: Origin) -> Any:
        """Which address of ours the peer writes to."""
        own = self.sock.getsockname()
        if origin.local is None:
            return own
        packed, interface = origin.local
        host = socket.inet_ntop(self.sock.family, packed)
        if self.sock.family == socket.AF_INET:
            return host, own[1]
        link_local = packed[:2] == b"\xfe\x80"
        return host, own[1], 0, interface if link_local else 0

    def new_socket(self) -> socket.socket:
        """A socket that may be bound to the same address. Raises :exc:`OSError` if no descriptor is left."""
        sock = socket.socket(self._family, socket.SOCK_DGRAM, self._proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, self._sharing, 1)
            if self._family == socket.AF_INET6:
                only = self.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        except BaseException:
            sock.close()
            raise
        return sock

    def branch(self, sock: socket.socket, origin: Origin) -> list[tuple[bytes, Any]]:
        """Bind a :meth:`new_socket` to our address and connect it to the peer; what came to it before that."""
        sock.bind(self.sock.getsockname() if origin.local is None else self.own_address(origin))
        sock.connect(origin.address)
        return self._strays(sock)

    def _strays(self, sock: socket.socket) -> list[tuple[bytes, Any]]:
        strays: list[tuple[bytes, Any]] = []
        if not wait_until_ready(sock.fileno(), writable=False, until=0.0):  # as nearly always
            return strays
        sock.setblocking(False)
        while len(strays) < MAX_STRAYS:
            try:
                strays.append(sock.recvfrom(LARGEST_DATAGRAM))
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._count(error)
        return strays

    def _count(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, "error").lower()
        self.statistics[f"socket_{name}"] += 1


def local_address(control: list[tuple[int, int, bytes]]) -> tuple[bytes, int] | None:
    """Which address of ours a datagram was sent to, from its control messages; see :class:`Origin`."""
    for level, kind, data in control:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= _IPV4_PACKET_INFO.size:
            _, local, _ = _IPV4_PACKET_INFO.unpack_from(data)
            return local, 0
        if (
            level == socket.IPPROTO_IPV6
            and kind == socket.IPV6_PKTINFO
            and len(data) >= _IPV6_PACKET_INFO.size
        ):
            packed, interface = _IPV6_PACKET_INFO.unpack_from(data)
            return packed, interface
    return None


def control_for(family: int, local: tuple[bytes, int]) -> tuple[int, int, bytes]:
    """The control message that has a datagram sent from the address ``local`` of ours."""
    packed, interface = local
    if family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IPV6_PACKET_INFO.pack(packed, interface)
    return socket.IPPROTO_IP, _IP_PKTINFO, _IPV4_PACKET_INFO.pack(0, packed, b"\0\0\0\0")


class PeerAddress(tuple[Any, ...]):  # noqa: SLOT001 - a tuple has no room for what this one knows
    """A peer's address as sockets have it, which also knows which of ours the peer writes to.

    One address may write to several of ours, as behind a NAT: each is an association of its own.
    """

    place: Any
    """What tells the peer apart: an :class:`Origin`, or another form of it."""

    @classmethod
    def of(cls, origin: Origin, place: Any = None) -> PeerAddress:
        """The address of an origin, which ``place`` stands for if it is given."""
        address = cls(origin.address)
        address.place = origin if place is None else place
        return address


class Peers(Generic[Found]):
    """Associations by their addresses, where whoever sends to a peer names its address only."""

    def __init__(self) -> None:
        self._by_place: dict[Any, Found] = {}
        self._by_address: dict[Any, dict[Any, Found]] = {}

    def add(self, address: PeerAddress, found: Found) -> None:
        """Know a new one."""
        self._by_place[address.place] = found
        self._by_address.setdefault(address, {})[address.place] = found

    def discard(self, address: PeerAddress, found: Found) -> None:
        """Forget one that has ended; there may be a later one."""
        place = address.place
        if self._by_place.get(place) is found:
            del self._by_place[place]
            del self._by_address[address][place]
            if not self._by_address[address]:
                del self._by_address[address]

    def get(self, address: Any) -> Found | None:
        """The one at ``address``; an IPv6 address may be given without flow label and scope.

        ``None`` for a plain address with several: a message must not go to another than it is meant for.
        """
        if type(address) is PeerAddress:
            return self._by_place.get(address.place)
        there = self._by_address.get(address)
        if there is None and isinstance(address, tuple) and len(address) == 2:  # noqa: PLR2004 - host and port
            there = self._by_address.get((*address, 0, 0))
        if there is None or len(there) > 1:
            return None
        (found,) = there.values()
        return found


class Waker:
    """Wakes threads that wait for a socket.

    ``fileno()`` is readable when the socket is or a wake-up is due, where the system can join two descriptors (Linux).
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._closing = False
        self._waiting = 0
        self._woken = False
        self._joined: select.epoll | None = None
        self._reader, self._writer = socket.socketpair()
        try:
            self._reader.setblocking(False)
            self._writer.setblocking(False)
            if hasattr(select, "epoll"):
                self._joined = select.epoll()
                self._joined.register(sock.fileno(), select.EPOLLIN)
                self._joined.register(self._reader.fileno(), select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """A descriptor to wait on; -1 when closed."""
        if self._closing:
            return -1
        return self._sock.fileno() if self._joined is None else self._joined.fileno()

    def wake(self) -> None:
        """Make whoever waits look again."""
        with contextlib.suppress(OSError):  # it is full of wake-ups, or closed
            self._writer.send(b"\0")
        self._woken = True

    def wait(self, until: float) -> None:
        """Wait until the socket is readable, somebody wakes us, or the time ``until`` has come."""
        with self._lock:
            if self._closing:
                return
            self._waiting += 1
            descriptor = self.fileno()
        if (
            self._joined is None
        ):  # pragma: no cover - elsewhere wake-ups are noticed within a quarter of a second
            until = min(until, now() + 0.25)
        try:
            wait_until_ready(descriptor, writable=False, until=until)
        finally:
            with self._lock:
                self._waiting -= 1
                self._release_if_done()

    def clear(self) -> None:
        """Forget the wake-ups; to be called before looking, so that what comes later wakes again."""
        if self._woken:
            self._woken = False
            with contextlib.suppress(OSError):  # nothing left
                while self._reader.recv(4096):
                    pass

    def close(self) -> None:
        """Wake everybody for good; the descriptors go when nobody waits on them any more."""
        with self._lock:
            self._closing = True
            self._writer.close()  # the end of its stream cannot be cleared away by the first who wakes
            self._release_if_done()

    def _release_if_done(self) -> None:
        if self._closing and not self._waiting:
            if self._joined is not None:
                self._joined.close()
            self._reader.close()
