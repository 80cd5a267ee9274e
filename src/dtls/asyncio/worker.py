"""One of the processes of a server: it makes ready, serves, and closes when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .server import ANSWER_PATIENCE, CANCEL_PATIENCE, Server

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from dtls.endpoint import Endpoint

    from .server import Handler

    Lifespan = Callable[[Server], AbstractAsyncContextManager[object]]
    LoopFactory = Callable[[], asyncio.AbstractEventLoop]

logger = logging.getLogger("dtls")

LEAVE_PATIENCE = 5.0
"""Seconds beyond a server's own deadlines that a worker has to leave its ``lifespan`` and to end."""
OPENED = b"\0"
"""What a worker reports when it serves. Before that it may report why it cannot."""
MAX_REPORT = 16_384
"""Bytes of such a report; a pipe takes as many from somebody who must not wait for its reader."""
HELD_BACK = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGCHLD") if hasattr(signal, name)
)
"""Signals that wait while a process is made: each of the two is to get its own, when it listens."""


@dataclass(frozen=True)
class Job:
    """What each worker does."""

    handler: Handler
    shutdown_timeout: float
    new_endpoint: Callable[[], Endpoint]
    lifespan: Lifespan | None
    loop_factory: LoopFactory | None

    @property
    def closing_seconds(self) -> float:
        """How long a worker may take to end when it was told to."""
        return self.shutdown_timeout + CANCEL_PATIENCE + ANSWER_PATIENCE + LEAVE_PATIENCE


def run(
    job: Job,
    socks: Sequence[socket.socket],
    *,
    lifeline: int | None = None,
    opened: Callable[[], object] = lambda: None,
) -> None:
    """Serve in this process until SIGTERM comes or the server is closed. Raises :exc:`KeyboardInterrupt` at SIGINT.

    :param lifeline: a descriptor that becomes readable when the process that started this one has gone.
    :param opened: called when peers are let in.
    """
    worker = _Worker(job, opened)
    numbers = ends()
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=job.loop_factory) as runner:
            runner.run(worker.run(socks, lifeline, numbers))
    else:
        asyncio.run(worker.run(socks, lifeline, numbers))
    if worker.told == signal.SIGINT:
        raise KeyboardInterrupt


def ends() -> frozenset[int]:
    """The signals that end a server.

    A SIGINT that does not raise :exc:`KeyboardInterrupt` is left alone, as ``asyncio.run`` does.
    """
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return frozenset({signal.SIGTERM, signal.SIGINT} if interrupts else {signal.SIGTERM})


def run_forked(job: Job, socks: Sequence[socket.socket], lifeline: int, report: int) -> int:
    """As :func:`run`, in a process that was made for it; its exit status.

    :param report: the descriptor of a pipe, which takes :data:`OPENED`, or why this worker cannot serve.
    """
    # Ctrl-C goes to all processes of a terminal. The one that started us answers it; programs that we start are to get
    # it as they always do, which they would not if it was ignored.
    signal.signal(signal.SIGINT, lambda *_: None)
    is_open = False

    def opened() -> None:
        nonlocal is_open
        is_open = True
        os.write(report, OPENED)
        os.close(report)

    try:
        run(job, socks, lifeline=lifeline, opened=opened)
    except BaseException:  # it must not get into the code that forked
        if is_open:
            logger.exception("the worker ends")
        else:
            os.write(report, traceback.format_exc().encode(errors="replace")[-MAX_REPORT:])
        return 1
    return 0


class _Worker:
    """One server, from what is done before it serves to what is done after."""

    def __init__(self, job: Job, opened: Callable[[], object]) -> None:
        self.told = 0
        """The number of the signal that has ended it; 0 for none."""
        self._job = job
        self._opened = opened
        self._task: asyncio.Task[Any] | None = None
        self._server: Server | None = None

    async def run(self, socks: Sequence[socket.socket], lifeline: int | None, ends: Iterable[int]) -> None:
        """Serve until one of the signals ``ends`` comes."""
        self._task = asyncio.current_task()
        with contextlib.ExitStack() as stack:
            for number in ends:
                stack.enter_context(_told(number, self._end))
            if lifeline is not None:
                stack.enter_context(_left_alone(lifeline, self._end, self._job.closing_seconds))
                # Whoever forked us has held them back until somebody is here to listen.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
            try:
                await self._serve(socks)
            except asyncio.CancelledError:
                if not self.told:
                    raise

    async def _serve(self, socks: Sequence[socket.socket]) -> None:
        server = Server(self._job.handler, self._job.shutdown_timeout)
        server.take(socks, self._job.new_endpoint)
        try:
            lifespan = contextlib.nullcontext() if self._job.lifespan is None else self._job.lifespan(server)
            async with lifespan, server:
                await server.open()
                self._server = server
                self._opened()
                await server.wait_closed()
        finally:
            server.abort()  # it is closed already, unless the lifespan could not be entered

    def _end(self, number: int) -> None:
        again, self.told = bool(self.told), number
        server, task = self._server, self._task
        if server is not None and not again:
            server.close()  # and no cancellation: whatever is to be done after serving is done as ever
            return
        if server is not None:
            server.abort()
        if task is not None:
            task.cancel()


@contextlib.contextmanager
def _told(number: int, end: Callable[[int], object]) -> Iterator[None]:
    """Call ``end`` with the number of a signal when it comes."""
    loop = asyncio.get_running_loop()
    previous = signal.getsignal(number)
    try:
        loop.add_signal_handler(number, end, number)
    except NotImplementedError:  # Windows, where SIGINT cancels the task and nobody sends SIGTERM
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
        if previous is not None:
            signal.signal(number, previous)


@contextlib.contextmanager
def _left_alone(lifeline: int, end: Callable[[int], object], seconds: float) -> Iterator[None]:
    """Call ``end`` when the process that would end this one has gone, and end it if it has not ended in time."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(lifeline)
        logger.error("the process that started this worker has gone: the worker ends")
        # A thread, since the loop may be what does not end.
        late = threading.Timer(min(seconds, threading.TIMEOUT_MAX), os._exit, (1,))
        late.daemon = True
        late.start()
        end(signal.SIGTERM)

    loop.add_reader(lifeline, gone)
    try:
        yield
    finally:
        loop.remove_reader(lifeline)
