"""One association as a coroutine sees it: messages are awaited, iterated over, and sent."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from dtls.connection import ConnectionState
from dtls.errors import MessageTooLarge, SSLZeroReturnError

from .negotiated import Negotiated, extra_info
from .wakeup import Wakeup

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

    from dtls.connection import Connection
    from dtls.endpoint import EndpointLimits
    from dtls.errors import SSLError

    from .channel import Channel

SENDS_IN_A_ROW = 64
"""After so many messages sent without waiting, the other tasks of the loop have their turn: reading is one of them."""

MAX_AT_A_TIME = 64
"""Messages that ``recv_many`` gives if it is not told."""
SENT_AT_A_TIME = 256
"""Messages that ``send_many`` sends before the other tasks have their turn: half a millisecond's."""


class Owner(Protocol):
    """What runs a :class:`DTLSConnection`: a client's link, or a server's."""

    def close_connection(self, connection: DTLSConnection) -> None:
        """Say close_notify, and let go of the association; calls :meth:`DTLSConnection._end` at last."""


class DTLSConnection(Negotiated):
    """One association. Made by :func:`dtls.asyncio.connect`, and by :func:`dtls.asyncio.serve` for its handler.

    One task may receive at a time, while any others send. All of it may be cancelled: no message is lost by it.
    """

    __slots__ = (
        "__weakref__",
        "_channel",
        "_closed_waiters",
        "_closing",
        "_connection",
        "_error",
        "_loop",
        "_messages",
        "_most_bytes",
        "_most_messages",
        "_over",
        "_owner",
        "_peername",
        "_queued_bytes",
        "_receives",
        "_sent",
        "_sockname",
        "_wakeup",
        "_way",
    )

    def __init__(
        self,
        owner: Owner,
        channel: Channel,
        connection: Connection,
        *,
        way: Any,
        peername: Any,
        sockname: Any,
        limits: EndpointLimits,
    ) -> None:
        self._owner: Owner | None = owner
        self._channel = channel
        self._loop = channel.loop
        self._connection = connection
        self._way = way
        self._peername = peername
        self._sockname = sockname
        self._most_messages = limits.queued_messages
        self._most_bytes = limits.queued_bytes
        self._messages: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wakeup = Wakeup(channel.loop)
        self._closed_waiters: list[asyncio.Future[None]] = []
        self._sent = 0
        self._receives = True
        """Whether messages may still come; those that are queued can be had in any case."""
        self._closing = False
        self._over = False
        self._error: SSLError | None = None

    def __repr__(self) -> str:
        state = "closed" if self._over else self._connection.state.value
        return f"<{type(self).__name__} with {self._peername!r}, {state}>"

    # --- messages ------------------------------------------------------------------------------------------------

    async def recv(self) -> bytes:
        """The next message, whole; ``b""`` when the peer or this side has closed.

        Raises what else ended the association: :class:`~dtls.AssociationReplaced`,
        :class:`~dtls.AssociationExpired`, an :class:`~dtls.SSLError` for a fatal alert; and :exc:`RuntimeError` if
        another task waits here already.
        """
        messages = self._messages
        while not messages:
            if not self._receives:
                self._raise_error()
                return b""
            await self._wakeup
        message = messages.popleft()
        self._queued_bytes -= len(message)
        return message

    async def recv_many(self, max_messages: int = MAX_AT_A_TIME) -> list[bytes]:
        """The messages that there are, in order, at least one and at most ``max_messages``; ``[]`` at the end.

        Cheaper than :meth:`recv` for each. Raises as it does, and :exc:`ValueError` for a ``max_messages`` below 1.
        """
        if max_messages < 1:
            text = f"max_messages must be at least 1, not {max_messages!r}"
            raise ValueError(text)
        messages = self._messages
        while not messages:
            if not self._receives:
                self._raise_error()
                return []
            await self._wakeup
        if len(messages) <= max_messages:
            taken = list(messages)
            messages.clear()
            self._queued_bytes = 0
            return taken
        taken = [messages.popleft() for _ in range(max_messages)]
        self._queued_bytes -= sum(map(len, taken))
        return taken

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next message; the iteration ends when the peer or this side has closed. Raises as :meth:`recv`."""
        messages = self._messages
        while not messages:
            if not self._receives:
                self._raise_error()
                raise StopAsyncIteration
            await self._wakeup
        message = messages.popleft()
        self._queued_bytes -= len(message)
        return message

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)

    async def send(self, message: bytes | bytearray | memoryview) -> None:
        """Send one message; waits only while the socket's send buffer is full.

        Raises :class:`~dtls.MessageTooLarge` over :attr:`max_message_size`, :exc:`ValueError` for an empty one,
        :class:`~dtls.SSLZeroReturnError` when the association is closed, and otherwise what ended it.
        """
        channel = self._channel
        self._sent += 1
        if not self._sent % SENDS_IN_A_ROW and not channel.full:
            await asyncio.sleep(0)
        while channel.full:
            await channel.room()
        if self._closing:
            raise self._closed_error()
        datagram = self._connection.protect(message)
        try:
            channel.transmit(datagram, self._way)
        except OSError:
            raise _too_long_for_the_path(message, self.max_message_size) from None

    async def send_many(self, messages: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send messages, each as one datagram, in order: where they have the same length, at a fraction of the cost.

        Linux takes those as one (``UDP_SEGMENT``). Raises as :meth:`send`; messages before the one that cannot be
        sent may have been sent then.
        """
        channel = self._channel
        rest = iter(messages)
        while batch := list(itertools.islice(rest, SENT_AT_A_TIME)):
            await asyncio.sleep(0)
            while channel.full:
                await channel.room()
            if self._closing:
                raise self._closed_error()
            for datagrams, size in self._connection.protect_many(batch):
                channel.transmit_run(datagrams, size, self._way)

    def _closed_error(self) -> SSLError:
        return SSLZeroReturnError() if self._error is None else self._error.with_traceback(None)

    @property
    def statistics(self) -> Counter[str]:
        """How many times something was dropped or done, by reason; of the socket too where it is this peer's only."""
        counters = self._connection.statistics
        return counters if self._channel.peername is None else counters + self._channel.statistics

    # --- the end -------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Say close_notify and end the association; its answer is not waited for. May be called again."""
        self._start_closing()
        await self.wait_closed()

    def _start_closing(self) -> None:
        if not self._closing and self._owner is not None:
            self._closing = True
            self._stop_receiving()
            self._owner.close_connection(self)

    async def wait_closed(self) -> None:
        """Wait until the association has ended, by whichever side."""
        if not self._over:
            waiter = self._loop.create_future()
            self._closed_waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._closed_waiters:
                    self._closed_waiters.remove(waiter)

    def is_closing(self) -> bool:
        """Whether the association has ended, or is about to: nothing can be sent any more."""
        return self._closing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- what there is to know -----------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What asyncio's transports have under the same names.

        ``peername``, ``sockname``, ``socket``, ``sslcontext``, ``peercert``, ``cipher``, ``compression``, and
        ``ssl_object``, which is this object: it has the methods one asks that for.
        """
        if name == "peername":
            return self._peername
        if name == "sockname":
            return self._sockname
        if name == "socket":
            return self._channel.sock
        return extra_info(self, name, default)

    # --- what the owner calls ------------------------------------------------------------------------------------

    def _deliver(self, message: bytes) -> None:
        """A message of the peer has come."""
        messages = self._messages
        if not self._receives:
            self._connection.statistics["dropped_after_close"] += 1
        elif messages and (
            len(messages) >= self._most_messages or self._queued_bytes + len(message) > self._most_bytes
        ):
            self._connection.statistics["dropped_queue_full"] += 1
        else:
            self._queued_bytes += len(message)
            messages.append(message)
            self._wakeup.now()

    def _deliver_many(self, messages: list[bytes]) -> None:
        """Several messages of the peer have come."""
        queue = self._messages
        length = sum(map(len, messages))
        if (
            self._receives
            and len(queue) + len(messages) <= self._most_messages
            and self._queued_bytes + length <= self._most_bytes
        ):
            queue.extend(messages)
            self._queued_bytes += length
            self._wakeup.now()
        else:
            for message in messages:
                self._deliver(message)

    def _stop_receiving(self) -> None:
        self._receives = False
        self._wakeup.soon()

    def _ended_by(self, error: BaseException) -> bool:
        """Whether ``error`` is what ended the association, or only says that it has ended."""
        inner = getattr(error, "exceptions", ()) if type(error).__name__.endswith("ExceptionGroup") else ()
        if inner:  # of a handler with a TaskGroup
            return all(map(self._ended_by, inner))
        over = self._connection.state is not ConnectionState.ESTABLISHED
        return error is self._error or (over and isinstance(error, SSLZeroReturnError))

    def _end(self, error: SSLError | None) -> None:
        """The association has ended: by close_notify, or by ``error``."""
        if self._over:
            return
        self._over = True
        self._error = error
        self._closing = True
        self._owner = (
            None  # which knows us: the keys are to go when the last who uses us does, not at a collection
        )
        self._stop_receiving()
        waiters, self._closed_waiters = self._closed_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _too_long_for_the_path(message: bytes | bytearray | memoryview, limit: int) -> MessageTooLarge:
    length = len(message)
    text = f"a message of {length} bytes is too long for the network path; lower Context.mtu"
    return MessageTooLarge(text, limit=min(limit, length - 1))
