"""What a second worker brings to ``dtls.asyncio.run_server``: ``python -m benchmarks.workers`` (Linux).

Servers with one and with two workers echo the messages of load processes, in turn: at once, and after the handler has
computed for a while, as handlers of applications do. Printed are the messages in a second, all together, and the CPU of
the server for one, all workers together. Nothing is pinned to a core: the load takes its share of the same cores, so
that on a machine with two of them two workers cannot bring the double.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dtls
import dtls.asyncio
from dtls.certificates import CertificateAuthority

from .settings import CIPHER, LOOPBACK, PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

MESSAGE = b"m" * 200
WORKERS = (1, 2)
WORK = (0, 100)
"""Microseconds of CPU that a handler computes for each message."""
LOADS = 2
"""How many processes make the load."""
PEERS = 50
"""How many associations each of them has."""
WINDOW = 10
"""How many messages of a load process are on their way at a time."""
ROUNDS, SECONDS = 5, 3.0
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.3

_PROCESSES = multiprocessing.get_context("spawn")


class Run(NamedTuple):
    """One server, measured once."""

    work: int
    workers: int
    messages: int
    seconds: float
    cpu: list[float]
    """Seconds of CPU that each worker took."""

    @property
    def rate(self) -> float:
        return self.messages / self.seconds

    @property
    def micros(self) -> float:
        """Microseconds of the server's CPU for one message."""
        return sum(self.cpu) / self.messages * 1e6

    @property
    def larger_share(self) -> float:
        """How much of the CPU the worker took that had most to do: 1/workers if all had the same."""
        return max(self.cpu) / sum(self.cpu)


def _serve(credentials: bytes, work: int, workers: int, pipe: Connection) -> None:
    async def echo(connection: dtls.asyncio.DTLSConnection) -> None:
        async for message in connection:
            if work:
                until = time.thread_time_ns() + work * 1000
                while time.thread_time_ns() < until:
                    pass
            await connection.send(message)

    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.load_cert_chain(credentials)
    context.set_ciphers(CIPHER)

    @contextlib.asynccontextmanager
    async def lifespan(server: dtls.asyncio.Server) -> AsyncIterator[None]:
        pipe.send((os.getpid(), server.sockets[0].getsockname()[1]))
        yield

    dtls.asyncio.run_server(
        echo, LOOPBACK, 0, context=context, workers=workers, lifespan=lifespan, shutdown_timeout=1
    )


def _load(authority: bytes, port: int, pipe: Connection) -> None:
    context = dtls.create_default_context(cadata=authority)
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(dtls.create_connection((LOOPBACK, port), PATIENCE, context=context))
            for _ in range(PEERS)
        ]
        pipe.send(None)
        until, count, at = time.monotonic() + pipe.recv(), 0, 0
        while time.monotonic() < until:
            window = [sockets[(at + number) % PEERS] for number in range(WINDOW)]
            at += WINDOW
            for sock in window:
                sock.send(MESSAGE)
            for sock in window:
                assert sock.recv() == MESSAGE
            count += WINDOW
        pipe.send(count)


def _received(pipe: Connection) -> Any:
    assert pipe.poll(PATIENCE), "a process is silent"
    return pipe.recv()


def _cpu_of(pid: int) -> float:
    """Seconds of CPU of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _process(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A process that is told to end at the end, and the pipe to it."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=target, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join(PATIENCE)
        process.kill()
        process.join(PATIENCE)
        ours.close()


def measure(
    work: int, workers: int, seconds: float, authority: CertificateAuthority, credentials: bytes
) -> Run:
    """Run a server under load."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_process(_serve, credentials, work, workers))
        places = [_received(server) for _ in range(workers)]
        pids = [pid for pid, _ in places]
        port = places[0][1]
        loads = [stack.enter_context(_process(_load, authority.certificate_pem, port)) for _ in range(LOADS)]
        for load in loads:
            _received(load)
        begun = [_cpu_of(pid) for pid in pids]
        for load in loads:
            load.send(seconds)
        assert all(load.poll(seconds + PATIENCE) for load in loads), "a load process is silent"
        messages = sum(load.recv() for load in loads)
        cpu = [_cpu_of(pid) - before for pid, before in zip(pids, begun, strict=True)]
    assert messages > 0
    assert sum(cpu) > 0
    return Run(work, workers, messages, seconds, cpu)


def run(rounds: int, seconds: float) -> list[Run]:
    """All numbers of workers in turn, so that a change of the machine's mood meets all of them."""
    authority = CertificateAuthority()
    credentials = authority.issue("localhost", LOOPBACK).private_key_and_chain_pem
    return [
        measure(work, workers, seconds, authority, credentials)
        for _ in range(rounds)
        for work in WORK
        for workers in WORKERS
    ]


def table(runs: Sequence[Run]) -> str:
    """A line for each kind of handler and number of workers: medians, the spread in brackets."""
    lines = [
        f"{'handler us':>10}{'workers':>9}{'messages/s':>28}{'server us CPU':>24}{'larger share':>14}{'rate ratio':>12}"
    ]
    for work in WORK:
        first = statistics.median(one.rate for one in runs if (one.work, one.workers) == (work, WORKERS[0]))
        for workers in WORKERS:
            own = [one for one in runs if (one.work, one.workers) == (work, workers)]
            rates, micros = [one.rate for one in own], [one.micros for one in own]
            rate = statistics.median(rates)
            spread = f"{rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
            cost = f"{statistics.median(micros):.1f} ({min(micros):.1f} to {max(micros):.1f})"
            share = statistics.median(one.larger_share for one in own)
            lines.append(f"{work:10}{workers:9}{spread:>28}{cost:>24}{share:14.2f}{rate / first:12.2f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short round: shows that it runs, not how fast"
    )
    options = parser.parse_args(arguments)
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if options.quick else (ROUNDS, SECONDS)
    cpus = len(os.sched_getaffinity(0))
    print(f"{cpus} CPUs; {LOADS} load processes of {PEERS} associations; {rounds} rounds of {seconds:g} s\n")
    print(table(run(rounds, seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
