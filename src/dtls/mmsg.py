"""Many datagrams in one call of Linux's kernel: ``recvmmsg(2)``, ``sendmmsg(2)``, ``UDP_GRO`` and ``UDP_SEGMENT``.

Python has none of these calls, so they are made through :mod:`ctypes`, one for many datagrams. The structures of the
calls lie in byte arrays of the thread, made once; nothing is allocated for a datagram but its bytes.

A *place* here is the kernel's own form of an address, ``struct sockaddr``, as bytes, and behind it, on sockets bound
to all addresses, which of ours the datagram was sent to. It is hashed and compared at a fraction of what Python's
tuples cost, and goes back to the kernel as it is; :func:`origin_of` tells what it means.

*Segments* are datagrams of one peer and one size (the last may be shorter) in one run of bytes: the kernel takes and
gives them as one, which costs little more than one datagram.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any

from .connection import MAX_RUN_LENGTH, MAX_SEGMENTS
from .udp import Origin, control_for, local_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
WAYS_REMEMBERED = 1_024
"""Each takes about 500 bytes."""
MAX_BATCH = 64
"""Datagrams, or runs of segments, in one call."""
SEGMENTS_REFUSED = frozenset({errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP})
"""What the kernel says where the network device, or the path, takes no segments."""

_SLOT = 65_536
_NAME = 28
_CONTROL = 256
"""Room for control messages: ours, and those of options that whoever made the socket has set, as of time stamps."""
_MSG_DONTWAIT = 0x40
# struct mmsghdr and struct iovec, in the machine's own sizes and alignment.
_HEADER = struct.Struct("@PIPNPNi0PI0P")
_VECTOR = struct.Struct("@PN")
_AT_NAME_LENGTH = struct.calcsize("@P0I")
_AT_CONTROL_LENGTH = struct.calcsize("@PIPNP0N")
_AT_LENGTH = struct.calcsize("@PIPNPNi0P")
_NAME_POINTER = struct.Struct("@PI")
_CONTROL_HEADER = struct.Struct("@Nii")
_UNSIGNED = struct.Struct("@I")
_LENGTH = struct.Struct("@N")
_SIZE = struct.Struct("@H")
_ALIGNMENT = struct.calcsize("N")
_IPV4 = struct.Struct("!2xH4s")
_IPV6 = struct.Struct("!2xH4x16s")
_SCOPE = struct.Struct("@24xI")
_SOCKADDR_LENGTHS: dict[int, int] = {socket.AF_INET: 16, socket.AF_INET6: 28}


def _calls() -> tuple[Any, Callable[[Any], int], Callable[..., int], Callable[..., int]] | None:
    """ctypes, the address of a byte array, ``recvmmsg`` and ``sendmmsg``; ``None`` where they are not to be had."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes  # noqa: PLC0415 - not every Python has it

        library = ctypes.CDLL(None, use_errno=True)
        receive, send = library.recvmmsg, library.sendmmsg
    except (ImportError, OSError, AttributeError):
        return None
    number, unsigned, pointer = ctypes.c_int, ctypes.c_uint, ctypes.c_void_p
    receive.argtypes, receive.restype = (number, pointer, unsigned, number, pointer), number
    send.argtypes, send.restype = (number, pointer, unsigned, number), number

    def address_of(array: Any) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))

    return ctypes, address_of, receive, send


_found = _calls()
available = _found is not None
"""Whether there are such calls here."""
if _found is not None:
    _ctypes, _address_of, _recvmmsg, _sendmmsg = _found


def permitted() -> bool:
    """Whether the kernel takes the calls: the filters of sandboxes may refuse what is not common."""
    for call, arguments in ((_recvmmsg, (-1, None, 0, 0, None)), (_sendmmsg, (-1, None, 0, 0))):
        _ctypes.set_errno(0)
        if call(*arguments) < 0 and _ctypes.get_errno() != errno.EBADF:
            return False
    return True


def place_length(family: int) -> int:
    """The length in bytes of a place without an address of ours; :exc:`KeyError` for families that are not IP."""
    return _SOCKADDR_LENGTHS[family]


def can_batch(sock: socket.socket) -> bool:
    """Whether the calls are for this socket: whoever has written a kind of their own wants its methods called."""
    return available and type(sock) is socket.socket and sock.family in _SOCKADDR_LENGTHS and permitted()


def coalesce(sock: socket.socket) -> bool:
    """Have the kernel give datagrams of one peer as segments; whether it will. Reads must be :func:`receive`'s then."""
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def stop_coalescing(sock: socket.socket) -> None:
    """Have the kernel give each datagram by itself again, but for those it holds already."""
    with contextlib.suppress(OSError):
        sock.setsockopt(SOL_UDP, UDP_GRO, 0)


def takes_segments(sock: socket.socket) -> bool:
    """Whether the kernel knows segments; the network device may still refuse them."""
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def segment_control(size: int) -> tuple[int, int, bytes]:
    """What tells ``sendmsg`` that its bytes are segments of ``size`` bytes."""
    return SOL_UDP, UDP_SEGMENT, _SIZE.pack(size)


def segment_size(control: Sequence[tuple[int, int, bytes]]) -> int:
    """The size of the segments that ``recvmsg`` gave, from its control messages; 0 for a single datagram."""
    for level, kind, data in control:
        if level == SOL_UDP and kind == UDP_GRO:
            return int.from_bytes(data[:4], sys.byteorder)
    return 0


def split(datagrams: bytes, size: int) -> list[bytes]:
    """The datagrams of a run of segments of ``size`` bytes; of a single datagram, whose ``size`` is 0, itself."""
    if not size:
        return [datagrams]
    return [datagrams[at : at + size] for at in range(0, len(datagrams), size)]


def origin_of(place: bytes) -> Origin:
    """What a place means: the peer's address as sockets have it, and which of ours it was sent to."""
    family = int.from_bytes(place[:2], sys.byteorder)
    length = _SOCKADDR_LENGTHS[family]
    address: Any
    if family == socket.AF_INET:
        port, packed = _IPV4.unpack_from(place)
        address = (socket.inet_ntop(family, packed), port)
    else:
        port, packed = _IPV6.unpack_from(place)
        (scope,) = _SCOPE.unpack_from(place)
        flow = int.from_bytes(place[4:8], "big")
        address = (socket.inet_ntop(family, packed), port, flow, scope)
    if len(place) == length:
        return Origin(address)
    packed = place[length:]
    if family == socket.AF_INET:
        return Origin(address, (packed, 0))
    return Origin(address, (packed[:16], int.from_bytes(packed[16:], sys.byteorder)))


class Way:
    """How a datagram gets to a peer: where it is sent, from which address of ours, and what the calls want of both.

    Made once for an association, of a place that was received; of none, for a socket that is connected.
    """

    __slots__ = ("control", "name", "origin")

    def __init__(self, place: bytes | None) -> None:
        self.origin = _NOWHERE if place is None else origin_of(place)
        self.name = place or b""
        self.control = b""
        if self.origin.local is not None:
            family = int.from_bytes(self.name[:2], sys.byteorder)
            self.name = self.name[: _SOCKADDR_LENGTHS[family]]
            self.control = _control_message(*control_for(family, self.origin.local))


_NOWHERE = Origin(None)


@functools.lru_cache(maxsize=WAYS_REMEMBERED)
def way_to(place: bytes | None) -> Way:
    """The way to a place; the last ones are remembered, since a handshake's datagrams come one after the other."""
    return Way(place)


def _control_message(level: int, kind: int, data: bytes) -> bytes:
    length = _CONTROL_HEADER.size + len(data)
    return _CONTROL_HEADER.pack(length, level, kind) + data + bytes(-length % _ALIGNMENT)


def _place_of(name: bytes, local: tuple[bytes, int] | None) -> bytes:
    if local is None:
        return name
    packed, interface = local
    return name + packed + (interface.to_bytes(4, sys.byteorder) if len(packed) == 16 else b"")  # noqa: PLR2004


class _Side:
    """The structures for calls in one direction."""

    def __init__(self, slot: int, data: Any) -> None:
        self.data = data
        self.names = bytearray(MAX_BATCH * _NAME)
        self.control = bytearray(MAX_BATCH * _CONTROL)
        self.vectors = bytearray(MAX_BATCH * _VECTOR.size)
        self.headers = bytearray(MAX_BATCH * _HEADER.size)
        self.at_data = _address_of(self.data)
        self.at_names = _address_of(self.names)
        control, vectors = map(_address_of, (self.control, self.vectors))
        for index in range(MAX_BATCH):
            _VECTOR.pack_into(self.vectors, index * _VECTOR.size, self.at_data + index * slot, slot)
            _HEADER.pack_into(
                self.headers,
                index * _HEADER.size,
                self.at_names + index * _NAME,
                _NAME,
                vectors + index * _VECTOR.size,
                1,
                control + index * _CONTROL,
                _CONTROL,
                0,
                0,
            )
        self.at_headers = _address_of(self.headers)
        self.pristine = bytes(self.headers)
        # The kernel has their addresses: what is viewed cannot move, whatever is assigned to it.
        arrays = (data, self.names, self.control, self.vectors, self.headers)
        self._views = [memoryview(array) for array in arrays]


class _Incoming(_Side):
    """For ``recvmmsg``. Pages of the long array that no datagram has reached take no memory."""

    def __init__(self) -> None:
        # Not a byte array, which is written to when it is made; private, or a process and its forks would share it.
        super().__init__(_SLOT, mmap.mmap(-1, MAX_BATCH * _SLOT, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._view = memoryview(self.data)
        self._name_view = memoryview(self.names)
        self._used = 0
        gap = _AT_LENGTH - _AT_CONTROL_LENGTH - struct.calcsize("N")
        rest = _HEADER.size - _AT_LENGTH - struct.calcsize("I")
        self._lengths = [
            struct.Struct("@" + f"{_AT_CONTROL_LENGTH}xN{gap}xI{rest}x" * count)
            for count in range(MAX_BATCH + 1)
        ]

    def receive(self, descriptor: int, most: int, name_length: int) -> list[tuple[bytes, Any, int]]:
        used = self._used * _HEADER.size
        self.headers[:used] = self.pristine[:used]
        self._used = most
        count = _recvmmsg(descriptor, self.at_headers, most, _MSG_DONTWAIT, None)
        if count < 0:
            number = _ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(number, os.strerror(number))
        self._used = count
        found = self._lengths[count].unpack_from(self.headers)
        view, names = self._view, bytes(self.names)
        arrivals: list[tuple[bytes, Any, int]] = []
        at = name_at = 0
        for control_length, length in zip(found[::2], found[1::2]):  # noqa: B905 - slow on some Pythons
            datagram = view[at : at + length].tobytes()
            place = names[name_at : name_at + name_length] if name_length else None
            if control_length:
                size, local = self._read_control(at // _SLOT * _CONTROL, control_length)
                arrivals.append((datagram, place if place is None else _place_of(place, local), size))
            else:
                arrivals.append((datagram, place, 0))
            at += _SLOT
            name_at += _NAME
        return arrivals

    def _read_control(self, at: int, length: int) -> tuple[int, tuple[bytes, int] | None]:
        messages: list[tuple[int, int, bytes]] = []
        end = at + min(length, _CONTROL)
        while at + _CONTROL_HEADER.size <= end:
            own, level, kind = _CONTROL_HEADER.unpack_from(self.control, at)
            messages.append((level, kind, bytes(self.control[at + _CONTROL_HEADER.size : at + own])))
            at += max(own, _CONTROL_HEADER.size) + -own % _ALIGNMENT
        size = segment_size(messages)
        return size, local_address(messages)


class _Outgoing(_Side):
    """For ``sendmmsg``. The headers stay as they are but for what few datagrams need: control messages."""

    def __init__(self) -> None:
        super().__init__(0, bytearray(4 * _SLOT))
        self._name_length = -1
        self._vectors = [struct.Struct("@" + "PN" * count) for count in range(MAX_BATCH + 1)]
        self._controlled: list[int] = []
        """Where headers stand that have control messages, to be cleared when they are sent."""
        for index in range(MAX_BATCH):
            self._set_control_length(index * _HEADER.size, 0)

    def send(self, descriptor: int, queue: Iterable[tuple[bytes, Way]], *, segments: bool) -> int:
        numbers = self._lay_out(queue, segments=segments)
        sent = _sendmmsg(descriptor, self.at_headers, len(numbers), _MSG_DONTWAIT)
        error = _ctypes.get_errno() if sent < 0 else 0
        for at in self._controlled:
            self._set_control_length(at, 0)
        self._controlled.clear()
        if error:
            raise OSError(error, os.strerror(error))
        return sum(numbers[:sent])

    def _lay_out(self, queue: Iterable[tuple[bytes, Way]], *, segments: bool) -> list[int]:
        """Copy datagrams one after the other and write the headers of the runs they form: the length of each run."""
        datagrams: list[bytes] = []
        names: list[bytes] = []
        vectors: list[int] = []
        numbers: list[int] = []
        previous: Way | None = None
        size = begun = 0
        at, limit = self.at_data, self.at_data + len(self.data)
        for datagram, way in queue:
            length = len(datagram)
            end = at + length
            if end > limit:
                break
            if (
                way is previous
                and 0 < length <= size
                and end - begun <= MAX_RUN_LENGTH
                and numbers[-1] < MAX_SEGMENTS
            ):
                if numbers[-1] == 1:
                    segments_control = way.control + _control_message(*segment_control(size))
                    self._set_control(len(numbers) - 1, segments_control)
                numbers[-1] += 1
                vectors[-1] = end - begun
                if length < size:
                    previous = None  # only the last of a run may be shorter
            elif len(numbers) == MAX_BATCH:
                break
            else:
                if way.control:
                    self._set_control(len(numbers), way.control)
                names.append(way.name)
                vectors += (at, length)
                numbers.append(1)
                begun, size = at, length
                previous = way if segments else None
            datagrams.append(datagram)
            at = end
        data = b"".join(datagrams)
        self.data[: len(data)] = data
        joined = b"".join(names)
        self.names[: len(joined)] = joined
        if len(names[0]) != self._name_length:
            self._set_name_length(len(names[0]))
        self._vectors[len(numbers)].pack_into(self.vectors, 0, *vectors)
        return numbers

    def _set_name_length(self, length: int) -> None:
        self._name_length = length
        for index in range(MAX_BATCH):
            at = index * _HEADER.size
            _NAME_POINTER.pack_into(self.headers, at, self.at_names + index * length, length)

    def _set_control(self, index: int, control: bytes) -> None:
        at = index * _CONTROL
        self.control[at : at + len(control)] = control
        self._set_control_length(index * _HEADER.size, len(control))
        self._controlled.append(index * _HEADER.size)

    def _set_control_length(self, at: int, length: int) -> None:
        _LENGTH.pack_into(self.headers, at + _AT_CONTROL_LENGTH, length)


class _Arena(threading.local):
    """Each thread has its own. One that is in use is not here: a finalizer, or the handler of a signal, may send too.

    It comes back in good order only; one that an interruption has left half written is given up.
    """

    incoming: _Incoming | None = None
    outgoing: _Outgoing | None = None


_arena = _Arena()


def receive(descriptor: int, most: int, name_length: int) -> list[tuple[bytes, Any, int]]:
    """What has arrived: triples of bytes, place and the size of segments, 0 for a single datagram.

    :param most: of them, 1 to ``MAX_BATCH``. Fewer come only if there is nothing more.
    :param name_length: what :func:`place_length` says; 0 on a connected socket, whose places are ``None``.
    :raises OSError: what the kernel complains of; nothing has been taken from it then.
    """
    incoming, _arena.incoming = _arena.incoming or _Incoming(), None
    try:
        found = incoming.receive(descriptor, most, name_length)
    except OSError:
        _arena.incoming = incoming
        raise
    _arena.incoming = incoming
    return found


def send(descriptor: int, queue: Iterable[tuple[bytes, Way]], *, segments: bool) -> int:
    """Send datagrams, as many as one call takes: how many were taken from the head of ``queue``, at least 1.

    :param queue: pairs of datagram and way, not empty; none longer than 65,535 bytes.
    :param segments: whether datagrams of the same way and size that stand together may be handed over as segments.
    :raises OSError: for the first of them, or the first that stand together; nothing was sent.
    """
    outgoing, _arena.outgoing = _arena.outgoing or _Outgoing(), None
    try:
        taken = outgoing.send(descriptor, queue, segments=segments)
    except OSError:
        _arena.outgoing = outgoing
        raise
    _arena.outgoing = outgoing
    return taken
