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

from dtls.kernel import LARGEST_DATAGRAM
from dtls.udp import Listener, Origin

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

MAX_READS = 64
"""How many datagrams are taken in before other callbacks of the loop have their turn: a flood must not starve them."""
MAX_UNSENT = 1_024
"""How many datagrams wait for room in the socket's send buffer; what is more is dropped and counted."""
MAX_WOKEN = 64
"""How many of those who wait for room are woken at a time; more would find it gone."""
FLUSH_PATIENCE = 1.0
"""Seconds that a socket which is closed is left to get rid of what waits for room."""


class Consumer(Protocol):
    """What a channel hands its datagrams to."""

    def datagrams_received(self, batch: list[Any]) -> None:
        """Take in datagrams: of a connected socket as bytes, of another as pairs of datagram and place."""

    def error_received(self, error: OSError) -> None:
        """The kernel says something about what was sent before."""

    def room_changed(self, full: bool) -> None:
        """Whether the socket's send buffer is full from now on."""


class _Nobody:
    """The consumer of a channel that is closed."""

    def datagrams_received(self, batch: list[Any]) -> None:
        """They are too late."""

    def error_received(self, error: OSError) -> None:
        """It is too late."""

    def room_changed(self, full: bool) -> None:
        """It is too late."""


class Channel:
    """Runs ``sock``, which is taken over, for a consumer.

    A *place* is where datagrams come from and go to: ``None`` on a connected socket, an address, or, on a socket
    bound to all addresses, an :class:`~dtls.udp.Origin`, which also holds which of ours the peer writes to.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, consumer: Consumer) -> None:
        self.closed = True  # until everything below has gone well
        sock.setblocking(False)
        self.sock = sock
        self.sockname: Any = sock.getsockname()
        self.loop = loop
        self.statistics: Counter[str] = Counter()
        """What the kernel did not take or complained of, by reason."""
        self.full = False
        """Whether the send buffer is full: those who can wait should wait for :meth:`room`."""
        self._consumer = consumer
        self._unsent: deque[tuple[bytes, Any]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closing: asyncio.TimerHandle | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._on_closed: Callable[[], object] | None = None
        self._receive: Callable[[int], Any]
        self._send: Callable[[bytes, Any], object]
        self._choose_calls()
        self.closed = False

    def _choose_calls(self) -> None:
        """Bound methods of the socket where they will do: each datagram is read by one call in C.

        (``recvfrom`` is faster than ``recvfrom_into`` a reused buffer: the bytes are needed as an object anyway.)
        """
        sock = self.sock
        try:
            self.peername: Any = sock.getpeername()
        except OSError:
            self.peername = None
            listener = Listener(sock, branches=False)
            listener.statistics = self.statistics
            self.own_address: Callable[[Origin], Any] = listener.own_address
            if listener.reports_local:
                self._receive = _receive_from(listener)
                self._send = listener.transmit
            else:
                self._receive, self._send = sock.recvfrom, sock.sendto
        else:
            self._receive = sock.recv
            self._send = lambda datagram, _: sock.send(datagram)

    async def open(self) -> None:
        """Begin to read."""
        try:
            self.loop.add_reader(self.sock.fileno(), self._on_readable)
        except NotImplementedError:
            self._transport, _ = await self.loop.create_datagram_endpoint(
                lambda: _Substitute(self), sock=self.sock
            )
            self._transport.set_write_buffer_limits(high=0)  # type: ignore[attr-defined] # of all loops' transports
            self._send = self._send_by_transport

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
        receive = self._receive
        batch = []
        try:
            for _ in range(MAX_READS):
                batch.append(receive(LARGEST_DATAGRAM))  # noqa: PERF401 - what was read before an error counts
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._note(error)
        if batch:
            self._consumer.datagrams_received(batch)

    def _note(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, "error").lower()
        self.statistics[f"socket_{name}"] += 1
        self._consumer.error_received(error)

    # --- writing -------------------------------------------------------------------------------------------------

    def transmit(self, datagram: bytes, place: Any) -> None:
        """Send a datagram now, or when there is room. Raises :exc:`OSError` (EMSGSIZE) for one that is too long."""
        if self.full:
            self._keep(datagram, place)
            return
        try:
            self._send(datagram, place)
        except (BlockingIOError, InterruptedError):
            self._keep(datagram, place)
        except OSError as error:
            self._after_error(error, datagram, place)

    def offer(self, datagram: bytes, place: Any) -> None:
        """Send a datagram if there is room now. It is lost otherwise, as any may be: its sender repeats it."""
        if self.full:
            self.statistics["dropped_send_buffer_full"] += 1
            return
        try:
            self._send(datagram, place)
        except (BlockingIOError, InterruptedError):
            self.statistics["dropped_send_buffer_full"] += 1
        except OSError as error:
            self._note(error)

    def _after_error(self, error: OSError, datagram: bytes, place: Any) -> None:
        if error.errno == errno.EMSGSIZE:
            raise error
        self._note(error)
        if isinstance(error, ConnectionRefusedError) and not self.closed:
            # It was about an earlier datagram; this one has not been sent.
            self.offer(datagram, place)

    def _keep(self, datagram: bytes, place: Any) -> None:
        if self.closed or len(self._unsent) >= MAX_UNSENT:
            self.statistics["dropped_send_buffer_full"] += 1
            return
        self._unsent.append((datagram, place))
        if not self.full:
            self.full = True
            self.loop.add_writer(self.sock.fileno(), self._on_writable)
            self._consumer.room_changed(True)

    def _on_writable(self) -> None:
        unsent = self._unsent
        while unsent:
            try:
                self._send(*unsent[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._note(error)
                if self.closed:
                    return
            unsent.popleft()
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
        return sum(len(datagram) for datagram, _ in self._unsent)

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
        if not self._unsent:
            self._release()
            return
        if self._transport is None:
            self.loop.remove_reader(self.sock.fileno())
        self._closing = self.loop.call_later(FLUSH_PATIENCE, self._release)

    def abort(self) -> None:
        """Close the socket now."""
        if not self.closed:
            self._release()

    def _release(self) -> None:
        self.closed = True
        self.full = False
        self._send = _send_nowhere
        if self._unsent:
            self.statistics["dropped_send_buffer_full"] += len(self._unsent)
            self._unsent.clear()
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

    def _send_by_transport(self, datagram: bytes, place: Any) -> None:
        if self._transport is not None and not self.closed:
            self._transport.sendto(datagram, self.peername if place is None else place)

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
            channel._consumer.datagrams_received([data if channel.peername else (data, addr)])

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError) and not self._channel.closed:
            self._channel._note(exc)

    def pause_writing(self) -> None:
        self._channel._substitute_full(True)

    def resume_writing(self) -> None:
        self._channel._substitute_full(False)


def _send_nowhere(datagram: bytes, place: Any) -> None:
    """What is sent on a closed channel is lost on the way."""


def _receive_from(listener: Listener) -> Callable[[int], tuple[bytes, Origin]]:
    def receive(_: int) -> tuple[bytes, Origin]:
        arrival = listener.receive()
        if arrival is None:
            raise BlockingIOError
        return arrival

    return receive


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
