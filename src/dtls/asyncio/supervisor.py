"""The process that has started a server's workers: it forks them, replaces those that die, and ends them."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from dtls.kernel import now, wait_until_ready

from .addresses import Address, bound_socket, share_port
from .worker import HELD_BACK, MAX_REPORT, OPENED, ends, run_forked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import NoReturn

    from typing_extensions import Self

    from .worker import Job

logger = logging.getLogger("dtls")

FIRST_PAUSE = 0.1
"""Seconds until a worker that has died soon after its start is replaced; doubled each time that happens again."""
MAX_PAUSE = 30.0
"""Seconds at most: whoever can make a worker die must not keep a core busy with making new ones."""
SETTLED_SECONDS = 10.0
"""A worker that has run so long has not died soon after its start."""
KILL_PATIENCE = 5.0
"""Seconds that the system has to end a process that was killed."""
LONGEST_WAIT = 3600.0
"""Seconds; the system takes no longer times than some weeks."""


class Supervisor:
    """Runs ``count`` workers on the addresses of ``socks``, which are taken over."""

    def __init__(self, job: Job, socks: Sequence[socket.socket], count: int) -> None:
        self._job = job
        self._places = [_Place(0, socks)]
        self._lifeline = -1, -1
        try:
            for sock in socks:
                # Set when they are bound already: a port that somebody else serves is an error, and nobody but the
                # same user can join.
                share_port(sock)
            for number in range(1, count):
                self._places.append(_Place(number, _beside(socks)))
            # Workers have the end to read: it is at its end when this process has gone, in whichever way.
            self._lifeline = os.pipe()
        except BaseException:
            self._release()
            raise

    def run(self) -> None:
        """Return at SIGTERM, raise :exc:`KeyboardInterrupt` at SIGINT.

        Raises :exc:`RuntimeError` for a worker that ends before any has served in its place.
        """
        try:
            with _Signals() as signals:
                try:
                    told = self._supervise(signals)
                finally:
                    self._end(signals)
        finally:
            self._release()
        if told == signal.SIGINT:
            raise KeyboardInterrupt

    def _supervise(self, signals: _Signals) -> int:
        for place in self._places:
            self._start(place, signals)
        while True:
            told = signals.wait(min(place.start_at for place in self._places))
            if told is not None:
                return told
            for place in self._places:
                how = place.ended()
                if how is not None:
                    place.await_next(how)
                if place.start_at <= now():
                    self._start(place, signals)

    def _start(self, place: _Place, signals: _Signals) -> None:
        def work(report: int) -> int:
            signals.let_go()
            reader, writer = self._lifeline
            os.close(writer)
            for other in self._places:
                other.let_go(keep_socks=other is place)
            return run_forked(self._job, place.socks, reader, report)

        try:
            place.start(work)
        except OSError as error:  # no process or descriptor is left
            if not place.has_served:
                raise
            place.await_next(f"no process: {error.strerror}")

    def _end(self, signals: _Signals) -> None:
        """Have the workers close. Those that do not in time are killed; all are, if we are told again."""
        self._send(signal.SIGTERM)
        if not self._wait_for_ends(signals, self._job.closing_seconds):
            for place in self._running():
                logger.error("%s is killed: it has not closed", place)
            self._send(signal.SIGKILL)
            self._wait_for_ends(signals, KILL_PATIENCE)
            for place in self._running():
                logger.error("%s was killed and does not end", place)

    def _wait_for_ends(self, signals: _Signals, seconds: float) -> bool:
        until = now() + seconds
        while self._running():
            if now() >= until or signals.wait(until) is not None:
                return False
        return True

    def _running(self) -> list[_Place]:
        for place in self._places:
            place.ended()
        return [place for place in self._places if place.pid is not None]

    def _send(self, signum: int) -> None:
        for place in self._running():
            if place.pid is not None:
                os.kill(place.pid, signum)  # until it is waited for, no other process can have its number

    def _release(self) -> None:
        for place in self._places:
            place.let_go()
        for descriptor in self._lifeline:
            if descriptor >= 0:
                os.close(descriptor)


class _Place:
    """A worker, and then the next one with the same sockets."""

    def __init__(self, number: int, socks: Sequence[socket.socket]) -> None:
        self.socks = socks
        self.pid: int | None = None
        self.start_at = math.inf
        """When the next worker is to be started."""
        self.has_served = False
        """Whether any worker here has let peers in."""
        self._number = number
        self._report = -1
        self._started_at = -math.inf
        self._pause = 0.0

    def __str__(self) -> str:
        return f"worker {self._number}, process {self.pid},"

    def start(self, work: Callable[[int], int]) -> None:
        """Have a new process exit with the result of ``work(report)``. Raises :exc:`OSError` if there can be none."""
        self.start_at = math.inf
        self._started_at = now()
        self._report, report = os.pipe()
        try:
            os.set_blocking(self._report, False)
            self.pid = _forked(lambda: work(report))
        except BaseException:
            self._close_report()
            raise
        finally:
            os.close(report)

    def ended(self) -> str | None:
        """If its process has ended since the last time: how, in words."""
        if self.pid is None:
            return None
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has waited for it
            how = "has ended"
        else:
            if not pid:
                return None
            how = _in_words(os.waitstatus_to_exitcode(status))
        report = b""
        with contextlib.suppress(BlockingIOError):  # a process of its own making has the other end
            report = os.read(self._report, MAX_REPORT)
        self._close_report()
        how = f"process {self.pid} {how}"
        self.pid = None
        if report == OPENED:
            self.has_served = True
        elif report:
            how += f":\n{report.decode(errors='replace')}"
        return how

    def await_next(self, how: str) -> None:
        """The worker has ended as ``how`` tells: when will the next one start? :exc:`RuntimeError` for none."""
        if not self.has_served:
            message = f"worker {self._number} cannot serve: {how}"
            raise RuntimeError(message)
        settled = now() - self._started_at >= SETTLED_SECONDS
        self._pause = 0.0 if settled else min(MAX_PAUSE, 2 * self._pause or FIRST_PAUSE)
        self.start_at = now() + self._pause
        logger.error("worker %d: %s; the next one starts in %.1f s", self._number, how, self._pause)

    def let_go(self, *, keep_socks: bool = False) -> None:
        """Close the descriptors."""
        self._close_report()
        if not keep_socks:
            for sock in self.socks:
                sock.close()

    def _close_report(self) -> None:
        if self._report >= 0:
            os.close(self._report)
            self._report = -1


class _Signals:
    """The signals that end a server, and SIGCHLD to wake up, in place of whatever they did before."""

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._ends = ends()
        self._descriptor_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {
            number: signal.signal(number, lambda *_: None) for number in (*self._ends, signal.SIGCHLD)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # one that is not Python's cannot be put back
                signal.signal(number, handler)
        signal.set_wakeup_fd(self._descriptor_before)
        self._close()

    def wait(self, until: float) -> int | None:
        """Wait for a signal, or until a time has come; the number of one that is to end everything."""
        wait_until_ready(self._reader.fileno(), writable=False, until=min(until, now() + LONGEST_WAIT))
        arrived = b""
        with contextlib.suppress(BlockingIOError):
            arrived = self._reader.recv(4096)
        return next((number for number in arrived if number in self._ends), None)

    def let_go(self) -> None:
        """In a new process: signals are no longer told here. SIGCHLD is as it was."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, self._before[signal.SIGCHLD] or signal.SIG_DFL)
        self._close()

    def _close(self) -> None:
        self._reader.close()
        self._writer.close()


def _beside(socks: Iterable[socket.socket]) -> list[socket.socket]:
    """More sockets, bound to the same addresses."""
    made: list[socket.socket] = []
    try:
        for sock in socks:
            address = Address(sock.family, sock.proto, sock.getsockname())
            made.append(bound_socket(address, reuse_port=True))
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def _forked(work: Callable[[], int]) -> int:
    """The number of a new process, which does ``work`` and exits with its result."""
    _flush()  # what waits in buffers would be written by both
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        pid = os.fork()
        if not pid:
            _exit_after(work)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _exit_after(work: Callable[[], int]) -> NoReturn:
    status = 1
    try:
        status = work()
        _flush()
    except BaseException:
        logger.exception("the worker ends")
    finally:
        os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more; it is closed
                stream.flush()


def _in_words(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"
