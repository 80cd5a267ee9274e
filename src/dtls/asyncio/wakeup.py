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
    is done with it.
    """

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: _Waiting | None = None

    def __await__(self) -> Generator[Any, None, None]:
        """Wait. Raises :exc:`RuntimeError` if another task does so already."""
        waiting = self._waiting
        if waiting is not None and not waiting.done:
            message = "recv() was called while another task waits in it"
            raise RuntimeError(message)
        waiting = self._waiting = _Waiting(self._loop)
        return waiting  # type: ignore[return-value] # an iterator is enough

    @property
    def is_awaited(self) -> bool:
        """Whether a task waits."""
        return self._waiting is not None and not self._waiting.done

    def now(self) -> None:
        """Have the task go on, if one waits: at once, or in the loop's next turn if a task is what calls this."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.go_on(at_once=True)

    def soon(self) -> None:
        """Have the task go on in the loop's next turn, if one waits."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.go_on(at_once=False)


class _Waiting:
    """One wait of one task, to which it is as good as a future: it has the methods that tasks use, and no others."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_cancelled",
        "_context",
        "_loop",
        "_yielded",
        "done",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done = False
        """Whether the task goes on, or is about to."""
        self._asyncio_future_blocking = False
        self._loop = loop
        self._callback: Callable[[Any], object] | None = None
        self._cancelled: tuple[Any, ...] | None = None
        self._context: contextvars.Context | None = None
        self._yielded = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Self:
        if self._yielded:
            raise StopIteration
        self._yielded = self._asyncio_future_blocking = True
        return self

    def go_on(self, *, at_once: bool) -> None:
        """Have the task go on."""
        if self.done:
            return
        self.done = True  # from here on, who cancels the task must do so in another way
        callback, context = self._callback, self._context
        self._callback = self._context = None  # which may know whoever holds us
        if callback is None or context is None:
            return
        if at_once and current_task(self._loop) is None:
            try:
                context.run(callback, self)
            except (
                RuntimeError
            ):  # the task's context is in use just now; what its code raises stays in the task
                pass
            else:
                return
        self._loop.call_soon(callback, self, context=context)

    # --- for the task --------------------------------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """As a future's."""
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: contextvars.Context) -> None:
        """As a future's."""
        self._callback, self._context = callback, context

    def result(self) -> None:
        """As a future's: there is something to look at, or the task was cancelled."""
        if self._cancelled is not None:
            raise asyncio.CancelledError(*self._cancelled)

    def cancel(self, msg: Any = None) -> bool:
        """As a future's: false if the task goes on anyway."""
        if self.done:
            return False
        self._cancelled = () if msg is None else (msg,)
        self.go_on(at_once=False)
        return True
