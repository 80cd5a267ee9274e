"""What a UDP socket is read and written by: Python's own calls, or, on Linux, calls for many datagrams at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import mmsg
from .kernel import LARGEST_DATAGRAM
from .udp import Listener, Origin, control_for

if TYPE_CHECKING:
    import socket
    from collections import Counter
    from collections.abc import Callable, Collection

MAX_READS = 64
"""How many datagrams are taken in at a time, before others have their turn: a flood must not starve them."""
MAX_RUNS = 8
"""How many runs of segments are taken in at a time, each of which may hold 50 datagrams and more."""

Arrival = tuple[bytes, Any, int]
"""Bytes, the place they came from, and the size of the segments they consist of, 0 for a single datagram."""


class PlainWay(NamedTuple):
    """How a datagram gets to a peer by Python's calls."""

    origin: Origin


class Port:
    """Reads and writes ``sock``, which is non-blocking, by Python's calls: one for each datagram.

    A *place* is where datagrams come from, and tells peers apart: ``None`` on a connected socket, an address, or, on
    a socket bound to all addresses, an :class:`~dtls.udp.Origin`. A *way* is made of it once, and leads back there.

    :param statistics: takes what the kernel complains of.
    """

    gathers = False
    """Whether sending many datagrams at a time is cheaper than sending each."""
    segments = False
    """Whether a run of segments can be sent."""

    def __init__(self, sock: socket.socket, statistics: Counter[str]) -> None:
        self.sock = sock
        try:
            self.peername: Any = sock.getpeername()
        except OSError:
            self.peername = None
            self._listener = Listener(sock, branches=False)
            self._listener.statistics = statistics
            self._reports_local = self._listener.reports_local
        self._read = self._choose_call()

    def _choose_call(self) -> Callable[[], Arrival]:
        """Bound methods of the socket where they will do: each datagram is read by one call in C.

        (``recvfrom`` is faster than ``recvfrom_into`` a reused buffer: the bytes are needed as an object anyway.)
        """
        receive = self.sock.recv
        if self.peername is not None:
            return lambda: (receive(LARGEST_DATAGRAM), None, 0)
        if self._reports_local:
            return self._read_with_origin
        receive_from = self.sock.recvfrom
        return lambda: (*receive_from(LARGEST_DATAGRAM), 0)

    def _read_with_origin(self) -> Arrival:
        arrival = self._listener.receive()
        if arrival is None:
            raise BlockingIOError
        return (*arrival, 0)

    def receive_into(self, batch: list[Arrival]) -> None:
        """Append what has arrived. Raises :exc:`OSError` for what the kernel complains of; what was read counts."""
        read = self._read
        try:
            for _ in range(MAX_READS):
                batch.append(read())  # noqa: PERF401 - what was read before an error counts
        except (BlockingIOError, InterruptedError):
            pass

    def way(self, place: Any) -> Any:
        """How datagrams get back to a place."""
        return PlainWay(place if isinstance(place, Origin) else Origin(place))

    def send(self, datagram: bytes, way: Any) -> None:
        """Send one datagram. Raises :exc:`BlockingIOError` if there is no room, :exc:`OSError`."""
        sock = self.sock
        if self.peername is not None:
            sock.send(datagram)
            return
        address, local = way.origin
        if local is None:
            sock.sendto(datagram, address)
        else:
            sock.sendmsg([datagram], [control_for(sock.family, local)], 0, address)

    def send_run(self, datagrams: bytes, size: int, way: Any) -> bool:  # noqa: ARG002 - see BatchPort
        """Send a run of segments of ``size`` bytes; false if that is not possible here. Else as :meth:`send`."""
        return False

    def send_many(self, queue: Collection[tuple[bytes, Any]]) -> int:
        """Send what stands at the head of a queue, as pairs of datagram and way: how many of them, at least 1.

        Raises as :meth:`send`, for the first.
        """
        taken = 0
        try:
            for datagram, way in queue:
                self.send(datagram, way)
                taken += 1
        except OSError:
            if not taken:
                raise
        return taken

    def own_address(self, origin: Origin) -> Any:
        """Which address of ours a peer writes to."""
        return self.sock.getsockname() if origin.local is None else self._listener.own_address(origin)


class BatchPort(Port):
    """By calls of Linux for many datagrams at a time, and for segments. Places are bytes: see :mod:`dtls.mmsg`.

    The socket is asked for its descriptor at each call: once it is closed, the number may be somebody else's.
    """

    gathers = True

    def __init__(self, sock: socket.socket, statistics: Counter[str]) -> None:
        super().__init__(sock, statistics)
        self._name_length = mmsg.place_length(sock.family) if self.peername is None else 0
        mmsg.coalesce(sock)
        self._most = MAX_READS
        self.segments = mmsg.takes_segments(sock)

    def receive_into(self, batch: list[Arrival]) -> None:
        """As :meth:`Port.receive_into`."""
        found = mmsg.receive(self.sock.fileno(), self._most, self._name_length)
        self._most = MAX_READS
        for arrival in found:
            if arrival[2]:
                self._most = MAX_RUNS  # as long as runs come, few are many datagrams
                break
        batch += found

    def way(self, place: Any) -> Any:
        """As :meth:`Port.way`."""
        return mmsg.way_to(place)

    def send_run(self, datagrams: bytes, size: int, way: Any) -> bool:
        """As :meth:`Port.send_run`; false as well if the kernel does not take them as segments."""
        if not self.segments:
            return False
        address, local = way.origin
        control = [mmsg.segment_control(size)] if len(datagrams) > size else []
        if local is not None:
            control.append(control_for(self.sock.family, local))
        try:
            self.sock.sendmsg([datagrams], control, 0, address)
        except OSError as error:
            if len(datagrams) <= size or error.errno not in mmsg.SEGMENTS_REFUSED:
                raise
            return False  # whether it was because of the segments is seen by send_many
        return True

    def send_many(self, queue: Collection[tuple[bytes, Any]]) -> int:
        """As :meth:`Port.send_many`.

        Segments are given up if the kernel refuses them, and takes the same datagrams one by one: else it may be one
        peer's fault, who gave an address that nothing can be sent to, and not to be paid for by all others.
        """
        try:
            return mmsg.send(self.sock.fileno(), queue, segments=self.segments)
        except OSError as error:
            if not self.segments or error.errno not in mmsg.SEGMENTS_REFUSED:
                raise
        taken = mmsg.send(self.sock.fileno(), queue, segments=False)
        self.segments = False
        return taken


def port_of(sock: socket.socket, statistics: Counter[str]) -> Port:
    """The best way to read and write a UDP socket, which is made non-blocking."""
    sock.setblocking(False)
    if mmsg.can_batch(sock):
        return BatchPort(sock, statistics)
    return Port(sock, statistics)
