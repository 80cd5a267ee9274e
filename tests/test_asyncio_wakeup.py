"""What a task awaits until a message has come: to the task as good as a future, but it goes on at once."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from typing import Any

import pytest

from dtls.asyncio.wakeup import Wakeup

from .aio import each_loop, run, until

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")


class Waiter:
    """A task that waits for one wake-up after the other."""

    def __init__(self, task_class: Any = asyncio.Task, context: Any = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.wakeup = Wakeup(self.loop)
        self.seen: list[str] = []
        if context is None:
            self.task = task_class(self.wait(), loop=self.loop)
        else:
            self.task = task_class(self.wait(), loop=self.loop, context=context)

    async def wait(self) -> None:
        variable.set("the waiter's")
        while True:
            await self.wakeup
            self.seen.append(variable.get())

    async def is_waiting(self) -> None:
        await until(lambda: self.wakeup.is_awaited)

    async def wake_in_a_callback(self) -> list[str]:
        """What the waiter has seen by the end of a callback of the loop that wakes it."""
        seen: list[list[str]] = []

        def callback() -> None:
            self.wakeup.now()
            seen.append(list(self.seen))

        self.loop.call_soon(callback)
        await until(lambda: seen)
        return seen[0]

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


@each_loop
def test_a_task_goes_on_within_the_callback_that_wakes_it(loop_name: str) -> None:
    async def main() -> None:
        waiter = Waiter()
        await waiter.is_waiting()
        assert await waiter.wake_in_a_callback() == ["the waiter's"]
        assert await waiter.wake_in_a_callback() == ["the waiter's"] * 2, "it waits again at once"
        assert variable.get() == "nobody's"
        await waiter.end()

    run(main, loop_name)


def test_a_task_written_in_python_can_wait_too() -> None:
    async def main() -> None:
        waiter = Waiter(asyncio.tasks._PyTask)  # type: ignore[attr-defined]
        await waiter.is_waiting()
        assert await waiter.wake_in_a_callback() == ["the waiter's"]
        await waiter.end()

    run(main)


def test_a_task_that_wakes_another_is_not_interrupted() -> None:
    async def main() -> None:
        waiter = Waiter()
        await waiter.is_waiting()
        waiter.wakeup.now()
        assert waiter.seen == []
        await until(lambda: waiter.seen)
        await waiter.is_waiting()
        await waiter.end()

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs Python 3.11")
def test_a_task_whose_context_is_in_use_goes_on_a_little_later() -> None:
    async def main() -> None:
        context = contextvars.copy_context()
        waiter = Waiter(context=context)
        await waiter.is_waiting()
        seen: list[int] = []

        def callback() -> None:
            waiter.wakeup.now()
            seen.append(len(waiter.seen))

        waiter.loop.call_soon(callback, context=context)
        await until(lambda: waiter.seen)
        assert seen == [0]
        await waiter.is_waiting()
        await waiter.end()

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12")
def test_a_task_that_began_eagerly_can_wait() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - newer Pythons only
        waiter = Waiter(lambda coroutine, loop: loop.create_task(coroutine))
        assert waiter.wakeup.is_awaited, "it began to wait at once"
        assert await waiter.wake_in_a_callback() == ["the waiter's"]
        loop.set_task_factory(None)
        await waiter.end()

    run(main)


def test_a_wake_up_that_nobody_waits_for_is_forgotten() -> None:
    async def main() -> None:
        wakeup = Wakeup(asyncio.get_running_loop())
        wakeup.now()
        wakeup.soon()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_await(wakeup), 0.001)

    run(main)


async def _await(wakeup: Wakeup) -> None:
    await wakeup


def test_only_one_task_waits_at_a_time_and_the_first_is_not_harmed() -> None:
    async def main() -> None:
        waiter = Waiter()
        await waiter.is_waiting()
        with pytest.raises(RuntimeError, match="another task"):
            await waiter.wakeup
        assert await waiter.wake_in_a_callback() == ["the waiter's"]
        await waiter.end()

    run(main)


def test_another_may_wait_before_a_cancelled_task_has_gone_on() -> None:
    """Each gets what is meant for it: the one its cancellation, the other its wake-up."""

    async def main() -> None:
        wakeup = Wakeup(asyncio.get_running_loop())
        first = asyncio.ensure_future(_await(wakeup))
        await until(lambda: wakeup.is_awaited)
        second = asyncio.ensure_future(_await(wakeup))
        first.cancel()
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(wakeup.now)
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    run(main)


def test_a_cancellation_has_its_message() -> None:
    async def main() -> None:
        heard: list[Any] = []

        async def wait(wakeup: Wakeup) -> None:
            try:
                await wakeup
            except asyncio.CancelledError as error:
                heard.append(error.args)
                raise

        wakeup = Wakeup(asyncio.get_running_loop())
        for message in ((), ("why",)):
            task = asyncio.ensure_future(wait(wakeup))
            await until(lambda: wakeup.is_awaited)
            task.cancel(*message)
            await asyncio.wait([task])
        assert heard == [(), ("why",)]

    run(main)


def test_what_a_task_raises_when_it_goes_on_stays_in_the_task() -> None:
    async def main() -> None:
        wakeup = Wakeup(asyncio.get_running_loop())

        async def fail() -> None:
            await wakeup
            raise RuntimeError

        task = asyncio.ensure_future(fail())
        await until(lambda: wakeup.is_awaited)
        asyncio.get_running_loop().call_soon(wakeup.now)
        with pytest.raises(RuntimeError):
            await task
        wakeup.now()

    run(main)


def test_a_task_that_is_cancelled_twice_leaves_the_next_one_alone() -> None:
    async def main() -> None:
        wakeup = Wakeup(asyncio.get_running_loop())
        first = asyncio.ensure_future(_await(wakeup))
        await until(lambda: wakeup.is_awaited)
        first.cancel()
        second = asyncio.ensure_future(_await(wakeup))
        asyncio.get_running_loop().call_soon(first.cancel)
        await asyncio.wait([first])
        assert first.cancelled()
        await asyncio.sleep(0)
        assert not second.done()
        asyncio.get_running_loop().call_soon(wakeup.now)
        await second

    run(main)


def test_a_task_that_is_cancelled_when_it_is_about_to_go_on_is_cancelled() -> None:
    async def main() -> None:
        wakeup = Wakeup(asyncio.get_running_loop())
        first = asyncio.ensure_future(_await(wakeup))
        await until(lambda: wakeup.is_awaited)
        wakeup.soon()
        second = asyncio.ensure_future(_await(wakeup))
        assert first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert not second.done()
        asyncio.get_running_loop().call_soon(wakeup.now)
        await second

    run(main)


def test_nothing_is_kept_of_a_wait_that_is_over() -> None:
    """The context of a task may know the connection that knows the wake-up: keys are not to wait for a collection."""

    async def main() -> None:
        held: contextvars.ContextVar[Wakeup] = contextvars.ContextVar("held")
        gone: list[weakref.ref[object]] = []

        class Known(Wakeup):
            """Wake-ups themselves have no room for who refers to them weakly."""

        async def wait(wakeup: Wakeup) -> None:
            held.set(wakeup)
            await wakeup

        for end in ("now", "cancel"):
            wakeup = Known(asyncio.get_running_loop())
            gone.append(weakref.ref(wakeup))
            task = asyncio.ensure_future(wait(wakeup))
            await until(lambda known=wakeup: known.is_awaited)  # type: ignore[misc]
            if end == "now":
                wakeup.now()
            else:
                task.cancel()
            await asyncio.wait([task])
            del task, wakeup
        await asyncio.sleep(0)
        assert [one() for one in gone] == [None, None]

    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()
