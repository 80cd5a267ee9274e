"""What a task awaits until a message has come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator

    from typing_extensions import Self

current_task = asyncio.current_task


class Wakeup:
    """Awaited by one task at a time, any number of times; :meth:`now` has it go on at once, within the call.

    A future would have the task go on in the loop's next turn. For a message, that turn costs as much as all else that
    is done with it. To a task this is as good as a future: it has the methods that tasks use, and no others.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_context", "_loop", "_yielded")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._callback: Callable[[Any], object] | None = None
        self._context: contextvars.Context | None = None
        self._yielded = False

    # --- for who waits -------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, None]:
        """Wait. Raises :exc:`RuntimeError` if another task does so already."""
        if self._callback is not None:
            message = "recv() was called while another task waits in it"
            raise RuntimeError(message)
        self._yielded = False
        return self  # type: ignore[return-value] # an iterator is enough

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Self:
        if self._yielded:
            raise StopIteration
        self._yielded = self._asyncio_future_blocking = True
        return self

    # --- for who wakes -------------------------------------------------------------------------------------------

    def now(self) -> None:
        """Have the task go on, if one waits: at once, or in the loop's next turn if a task is what calls this."""
        callback, context = self._callback, self._context
        if callback is None or context is None:
            return
        if current_task(self._loop) is not None:
            self.soon()
            return
        self._callback = None
        try:
            context.run(callback, self)
        except RuntimeError:  # the task's context is in use just now; what its code raises stays in the task
            self._loop.call_soon(callback, self, context=context)

    def soon(self) -> None:
        """Have the task go on in the loop's next turn, if one waits."""
        self._schedule(self)

    # --- for the task --------------------------------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """As a future's."""
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: contextvars.Context) -> None:
        """As a future's."""
        self._callback, self._context = callback, context

    def result(self) -> None:
        """As a future's: there is something to look at."""

    def cancel(self, msg: Any = None) -> bool:
        """As a future's. Whoever waits next is another matter, also if that is before the cancelled task goes on."""
        return self._schedule(_Cancelled(msg))

    def _schedule(self, outcome: Any) -> bool:
        callback, self._callback = self._callback, None
        if callback is None:
            return False
        self._loop.call_soon(callback, outcome, context=self._context)
        return True


class _Cancelled:
    """What a task that was cancelled finds in place of a result."""

    __slots__ = ("_message",)

    def __init__(self, message: Any) -> None:
        self._message = message

    def result(self) -> None:
        if self._message is None:
            raise asyncio.CancelledError
        raise asyncio.CancelledError(self._message)
