"""A UDP socket in an event loop: read many datagrams at a wake-up, written straight, waited for when it is full.

asyncio's own ``DatagramProtocol`` reads one datagram at a wake-up, each into a new buffer of 256 KiB, which costs more
than all that DTLS does with it. So the descriptor is watched by ``add_reader``; where a loop has none (Windows's
proactor), ``create_datagram_endpoint`` serves in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import warnings
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Protocol

from dtls import mmsg
from dtls.ports import Port, port_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from dtls.ports import Arrival

MAX_UNSENT = 1_024
"""How many datagrams wait for room in the socket's send buffer; what is more is dropped and counted."""
MAX_WOKEN = 64
"""How many of those who wait for room are woken at a time; more would find it gone."""
MAX_GATHERED = 64
"""How many datagrams are gathered, to be sent by one call, before they are sent."""
SENDS_IN_A_ROW = 4
"""After so many datagrams sent with none coming in between, those that follow are gathered."""
FLUSH_PATIENCE = 1.0
"""Seconds that a socket which is closed is left to get rid of what waits for room."""


class Consumer(Protocol):
    """What a channel hands its datagrams to."""

    def datagrams_received(self, batch: list[Arrival]) -> None:
        """Take in datagrams: triples of bytes, place, and the size of the segments they consist of or 0."""

    def error_received(self, error: OSError) -> None:
        """The kernel says something about what was sent before."""

    def room_changed(self, full: bool) -> None:
        """Whether the socket's send buffer is full from now on."""


class _Nobody:
    """The consumer of a channel that is closed."""

    def datagrams_received(self, batch: list[Arrival]) -> None:
        """They are too late."""

    def error_received(self, error: OSError) -> None:
        """It is too late."""

    def room_changed(self, full: bool) -> None:
        """It is too late."""


class Channel:
    """Runs ``sock``, which is taken over, for a consumer. For places and ways see :class:`dtls.ports.Port`.

    Where many datagrams can be sent by one call, those that answer several which came together, and those of a row,
    are gathered until the loop has had its turn. One alone is sent at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, consumer: Consumer) -> None:
        self.closed = True  # until everything below has gone well
        self.statistics: Counter[str] = Counter()
        """What the kernel did not take or complained of, by reason."""
        self.port: Port = port_of(sock, self.statistics)
        self.sock = sock
        self.sockname: Any = sock.getsockname()
        self.peername = self.port.peername
        self.loop = loop
        self.full = False
        """Whether the send buffer is full: those who can wait should wait for :meth:`room`."""
        self._consumer = consumer
        self._queue: deque[tuple[bytes, Any]] = deque()
        """What is gathered or, when the send buffer is full, waits for room."""
        self._gathers = False
        self._retries = False
        """Whether the first of them is tried for the second time."""
        self._in_a_row = 0
        self._flush_is_due = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closing: asyncio.TimerHandle | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._on_closed: Callable[[], object] | None = None
        self.closed = False

    async def open(self) -> None:
        """Begin to read."""
        try:
            self.loop.add_reader(self.sock.fileno(), self._on_readable)
        except NotImplementedError:
            self._transport, _ = await self.loop.create_datagram_endpoint(
                lambda: _Substitute(self), sock=self.sock
            )
            self._transport.set_write_buffer_limits(high=0)  # type: ignore[attr-defined] # of all loops' transports
            self.port = _TransportPort(self.sock, self.statistics, self._transport)

    def __repr__(self) -> str:
        return f"<dtls.asyncio.{type(self).__name__} {'closed' if self.closed else self.sockname}>"

    def __del__(self) -> None:
        if getattr(self, "closed", True):
            return
        # The loop watches an open channel and so keeps it: whoever comes here outlived the loop.
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self.sock.close()

    # --- reading -------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        batch: list[Arrival] = []
        try:
            self.port.receive_into(batch)
        except OSError as error:
            self._note(error)
        if not batch:
            return
        self._in_a_row = 0
        if len(batch) == 1:
            self._flush_in_turn()  # nothing may overtake what is gathered
            self._gathers = self.closed
            self._consumer.datagrams_received(batch)
            return
        self._gathers = self._flush_is_due = self.port.gathers
        try:
            self._consumer.datagrams_received(batch)
        finally:
            self._flush_in_turn()

    def _note(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, "error").lower()
        self.statistics[f"socket_{name}"] += 1
        self._consumer.error_received(error)

    # --- writing -------------------------------------------------------------------------------------------------

    def transmit(self, datagram: bytes, way: Any) -> None:
        """Send a datagram now, with others in a moment, or when there is room.

        Raises :exc:`OSError` (EMSGSIZE) for one that is too long, if it is sent now.
        """
        if self._gathers or self.full:
            self._gather(datagram, way)
            return
        self._in_a_row += 1
        if self._in_a_row >= SENDS_IN_A_ROW:
            self._gathers = self.port.gathers
        try:
            self.port.send(datagram, way)
        except (BlockingIOError, InterruptedError):
            self._gather(datagram, way)
            self._become_full()
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise
            self._note(error)
            if isinstance(error, ConnectionRefusedError) and not self.closed:
                # It was about an earlier datagram; this one has not been sent.
                self.offer(datagram, way)

    def transmit_run(self, datagrams: bytes, size: int, way: Any) -> None:
        """As :meth:`transmit`, of datagrams of ``size`` bytes in one run, the last of which may be shorter."""
        self._flush_in_turn()
        if self.full or self.closed or not self._sends_run(datagrams, size, way):
            for datagram in mmsg.split(datagrams, size):
                self._gather(datagram, way)
            self._flush_in_turn()  # what is sent next might not be gathered, and overtake them

    def _sends_run(self, datagrams: bytes, size: int, way: Any) -> bool:
        """Send a run, if it can be sent as one and there is room."""
        try:
            return self.port.send_run(datagrams, size, way)
        except (BlockingIOError, InterruptedError):
            self._become_full()
        except OSError as error:
            self._note(error)
            return not isinstance(error, ConnectionRefusedError)  # which was about an earlier datagram
        return False

    def offer(self, datagram: bytes, way: Any) -> None:
        """Send a datagram unless there is no room. It is lost then, as any may be: its sender repeats it."""
        if self.full:
            self.statistics["dropped_send_buffer_full"] += 1
            return
        if self._gathers:
            self._gather(datagram, way)
            return
        try:
            self.port.send(datagram, way)
        except (BlockingIOError, InterruptedError):
            self.statistics["dropped_send_buffer_full"] += 1
        except OSError as error:
            self._note(error)

    def _gather(self, datagram: bytes, way: Any) -> None:
        queue = self._queue
        if self.closed:
            self.statistics["dropped_after_close"] += 1
            return
        if len(queue) >= MAX_UNSENT:
            self.statistics["dropped_send_buffer_full"] += 1
            return
        queue.append((datagram, way))
        if self.full:
            return
        if len(queue) >= MAX_GATHERED:
            self.flush()
        elif self.loop.is_closed():
            self.flush()  # it has no turns any more
        elif not self._flush_is_due:
            self._flush_is_due = True
            self.loop.call_soon(self._flush_in_turn)

    def _flush_in_turn(self) -> None:
        self._flush_is_due = False
        if self._queue and not self.full:
            self.flush()

    def flush(self) -> None:
        """Send what is gathered, as far as there is room."""
        queue = self._queue
        while queue and not self.closed:
            try:
                taken = self.port.send_many(queue)
            except (BlockingIOError, InterruptedError):
                self._become_full()
                return
            except OSError as error:
                # If it was about an earlier datagram, this one has not been sent.
                self._retries = isinstance(error, ConnectionRefusedError) and not self._retries
                if not self._retries:
                    queue.popleft()
                self._note(error)  # at last: whoever hears of it may send, or close
                continue
            self._retries = False
            if taken >= len(queue):
                queue.clear()
            else:
                for _ in range(taken):
                    queue.popleft()

    def _become_full(self) -> None:
        if not self.full:
            self.full = True
            if not self.loop.is_closed():
                self.loop.add_writer(self.sock.fileno(), self._on_writable)
            self._consumer.room_changed(True)

    def _on_writable(self) -> None:
        self.flush()
        if not self._queue and not self.closed:
            self._has_room()

    def _has_room(self) -> None:
        was_full, self.full = self.full, False
        self._wake(MAX_WOKEN)
        if not self._waiters and self._transport is None:
            self.loop.remove_writer(self.sock.fileno())
        if was_full:
            self._consumer.room_changed(False)
        if self._closing is not None and not self.closed:
            self._release()

    def _wake(self, count: int) -> None:
        waiters = self._waiters
        while waiters and count:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    @property
    def unsent_bytes(self) -> int:
        """The length in bytes of what waits for room."""
        return sum(len(datagram) for datagram, _ in self._queue)

    async def room(self) -> None:
        """Wait until there may be room, or the channel is closed."""
        waiter = self.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    # --- the end -------------------------------------------------------------------------------------------------

    def close(self, on_closed: Callable[[], object] | None = None) -> None:
        """Read no more; close the socket when nothing waits for room any more, within a second. Then ``on_closed``."""
        if self.closed or self._closing is not None:
            return
        self._on_closed = on_closed
        if not self.full:
            self.flush()
        if not self._queue:
            self._release()
            return
        if self._transport is None:
            self.loop.remove_reader(self.sock.fileno())
        self._closing = self.loop.call_later(FLUSH_PATIENCE, self._release)

    def abort(self) -> None:
        """Close the socket now."""
        if not self.closed:
            self._consumer = _Nobody()  # whoever aborts because of an error would do so at each one
            if not self.full:
                self.flush()
            self._release()

    def _release(self) -> None:
        self.closed = True
        self.full = False
        self._gathers = True  # what is sent from now on goes nowhere
        if self._queue:
            self.statistics["dropped_send_buffer_full"] += len(self._queue)
            self._queue.clear()
        if self._closing is not None:
            self._closing.cancel()
        if not self.loop.is_closed():
            self._stop_watching()
        self.sock.close()
        self._wake(len(self._waiters))
        # What knew one another lets go, so that the keys need not wait for a collection of garbage.
        self._consumer = _Nobody()
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed()

    def _stop_watching(self) -> None:
        descriptor = self.sock.fileno()
        if self._transport is not None:
            self._transport.abort()
        elif descriptor >= 0:
            # A loop that cannot watch has said so in open(), and has nothing to forget.
            with contextlib.suppress(NotImplementedError):
                self.loop.remove_reader(descriptor)
                self.loop.remove_writer(descriptor)

    # --- loops that cannot watch descriptors ---------------------------------------------------------------------

    def _substitute_full(self, full: bool) -> None:
        if full:
            self.full = True
            self._consumer.room_changed(True)
        else:
            self._on_writable()


class _Substitute(asyncio.DatagramProtocol):
    """Reads for a channel by asyncio's own transport."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def datagram_received(self, data: bytes, addr: Any) -> None:
        channel = self._channel
        if not channel.closed:
            channel._consumer.datagrams_received([(data, None if channel.peername else addr, 0)])

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError) and not self._channel.closed:
            self._channel._note(exc)

    def pause_writing(self) -> None:
        self._channel._substitute_full(True)

    def resume_writing(self) -> None:
        self._channel._substitute_full(False)


class _TransportPort(Port):
    """Writes by asyncio's own transport, which reads for a channel, too."""

    def __init__(
        self, sock: socket.socket, statistics: Counter[str], transport: asyncio.DatagramTransport
    ) -> None:
        super().__init__(sock, statistics)
        if mmsg.available:
            mmsg.stop_coalescing(sock)  # asyncio would take segments for one datagram
        self._transport = transport

    def send(self, datagram: bytes, way: Any) -> None:
        self._transport.sendto(datagram, self.peername or way.origin.address)


class Alarm:
    """One timer of a loop, for what is due first. ``at`` is in seconds of ``time.monotonic()``."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, now: Callable[[], float], ring: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._now = now
        self._ring: Callable[[], object] | None = ring
        self._at = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def set_by(self, at: float | None) -> None:
        """Ring at ``at`` or before, or not at all; one that rings too early is to be set again."""
        if self._handle is not None:
            if at is not None and self._at <= at:
                return
            self._handle.cancel()
            self._handle = None
        if at is not None and self._ring is not None:
            self._at = at
            self._handle = self._loop.call_later(max(0.0, at - self._now()), self._rings)

    def _rings(self) -> None:
        self._handle = None
        if self._ring is not None:
            self._ring()

    def stop(self) -> None:
        """Ring no more."""
        self.set_by(None)
        self._ring = None
