"""The two processes of a measurement, each on a core of its own, and what is seen of the server from outside."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple

from .build import LOAD, CompileError
from .settings import CIPHER, MESSAGE_SIZE, MTU, PATIENCE
from .stacks import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .stacks import Stack
    from .works import Work

_CPU_CLOCK_OF_PROCESS = 2  # CPUCLOCK_SCHED of <linux/posix-timers.h>: nanoseconds that the scheduler counted
_TICKS = 0.012
"""Seconds in which a processor's timer ticks at least once, however it is set."""
_MOST_TICKS = 40
_AT_REST = 0.0001
"""Seconds of CPU within such a time below which a server rests; its timers may go on."""


class Unable(Exception):
    """Something could not be measured, and why."""


class Credentials(NamedTuple):
    """Files with a server's certificate and key."""

    certificate: Path
    key: Path


class Cores(NamedTuple):
    """Where the two run."""

    server: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        """The first and the last that this process may use."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1])


class Tally(NamedTuple):
    """What the load says of work done, and what the server spent on it."""

    done: int
    lost: int
    resumed: int
    seconds: float
    cpu: float
    """Seconds of the server's CPU."""


def cpu_of(pid: int) -> float:
    """Seconds that all threads of a process have run, as far as the scheduler has counted."""
    return time.clock_gettime((-pid - 1) << 3 | _CPU_CLOCK_OF_PROCESS)


@contextlib.contextmanager
def _on(core: int) -> Iterator[None]:
    """Be on a core for a moment: a process that is started meanwhile stays there, with all its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A process that talks by lines, on one core."""

    def __init__(self, name: str, command: Sequence[str], core: int, errors: int) -> None:
        self._name = name
        self._errors = errors
        self._heard = b""
        with _on(core):
            self._popen = subprocess.Popen(  # noqa: S603 - it is ours
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(line.encode() + b"\n")
            self._popen.stdin.flush()
        except OSError as error:
            raise Unable(self.last_words()) from error

    def line(self, patience: float) -> str:
        """The next line of its standard output; raises :exc:`Unable` if it ends or takes too long."""
        assert self._popen.stdout is not None
        descriptor, until = self._popen.stdout.fileno(), time.monotonic() + patience
        while b"\n" not in self._heard:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                message = f"the {self._name} said nothing for {patience:g} s"
                raise Unable(message)
            more = os.read(descriptor, 4096)
            if not more:
                raise Unable(self.last_words())
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def last_words(self) -> str:
        """What it wrote to its standard error last."""
        said = os.pread(self._errors, 65_536, 0).decode(errors="replace").strip().splitlines()
        return f"the {self._name} ended: {said[-1] if said else 'it said nothing'}"

    def wait(self, patience: float) -> None:
        """Wait until it has ended by itself."""
        self._popen.wait(patience)

    def end(self) -> None:
        """Kill it."""
        self._popen.kill()
        self._popen.communicate()


class Server(Process):
    """A stack's server."""

    def __init__(self, stack: Stack, work: Work, credentials: Credentials, core: int, errors: int) -> None:
        arguments = (
            "echo" if work.echo else "sink", "batch" if work.batch else "one",
            "single" if work.single else "many",
            credentials.certificate, credentials.key, CIPHER, MTU, MESSAGE_SIZE,
        )  # fmt: skip
        super().__init__("server", [*stack.command(), *map(str, arguments)], core, errors)
        self.port = 0
        self.library = ""
        """What it runs on, in its own words."""

    def wait_until_it_listens(self) -> None:
        """Its first line says where."""
        _, port, self.library = self.line(PATIENCE).split(" ", 2)
        self.port = int(port)

    def cpu(self) -> float:
        """Seconds that all its threads have run, once they rest.

        Of a thread that runs, Linux counts the time up to the last tick only. What a server does after its last answer,
        as a collection of garbage, belongs to the work before.
        """
        now = cpu_of(self.pid)
        for _ in range(_MOST_TICKS):
            before = now
            time.sleep(_TICKS)
            now = cpu_of(self.pid)
            if now - before < _AT_REST:
                break
        return now

    def memory(self) -> int:
        """Bytes of it that are resident."""
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - not a file in truth
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def load_command() -> tuple[list[str], str]:
    """What starts the load, and why it is not the one in C; empty if it is."""
    try:
        return [str(LOAD.built())], ""
    except CompileError as error:
        return [sys.executable, "-m", "benchmarks.slow_load"], str(error).strip().splitlines()[0]


class Load(Process):
    """The load, see ``programs/load.c``."""

    def __init__(self, stack: Stack, server: Server, cores: Cores, errors: int) -> None:
        self._server = server
        kind, wait = "dtls" if stack.secured else "plain", "spin" if cores.load != cores.server else "wait"
        arguments = (kind, server.port, CIPHER, MTU, MESSAGE_SIZE, wait)
        super().__init__("load", [*load_command()[0], *map(str, arguments)], cores.load, errors)

    def associate(self, count: int, seconds: float) -> None:
        """Have so many associations."""
        self.tell(f"associate {count} {seconds}")
        self.line(seconds + PATIENCE)

    def run(self, command: str, seconds: float) -> Tally:
        """Do some work, for so many seconds at most."""
        self.tell(f"{command} {seconds}")
        self.line(seconds + PATIENCE)
        before = self._server.cpu()
        self.tell("go")
        words = self.line(2 * seconds + PATIENCE).split()
        cpu = self._server.cpu() - before
        done, lost, resumed = map(int, words[1:4])
        return Tally(done, lost, resumed, float(words[4]), cpu)


@contextlib.contextmanager
def processes(
    stack: Stack, work: Work, credentials: Credentials, cores: Cores
) -> Iterator[tuple[Server, Load]]:
    """A server and a load for it; both are ended."""
    with contextlib.ExitStack() as resources:
        errors = [resources.enter_context(tempfile.TemporaryFile()).fileno() for _ in range(2)]
        server = Server(stack, work, credentials, cores.server, errors[0])
        resources.callback(server.end)
        server.wait_until_it_listens()
        load = Load(stack, server, cores, errors[1])
        resources.callback(load.end)
        yield server, load
