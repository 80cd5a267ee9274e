"""Does a datagram cost more when there are more associations? ``python -m benchmarks.routing``.

One ``dtls.asyncio`` server in a process of its own, with an idle timeout, so that every association has its timer. Its
CPU per echo is measured with few associations; with many, of which as few speak; and with many that all speak. The
second row over the first is what routing and timers cost. The third holds what the processor's caches make of so many
keys, too.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import dtls
import dtls.asyncio
from dtls.certificates import CertificateAuthority

from .settings import CIPHER, LOOPBACK, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from dtls.sockets import DTLSSocket

MESSAGE = b"m" * 200
WINDOW = 10
"""How many messages are on their way at a time: none is lost to a full buffer."""
ROUNDS = 7
ECHOES = 20_000
FEW, MANY = 10, 10_000


class Row(NamedTuple):
    """What was measured."""

    associations: int
    speaking: int
    micros: list[float]
    """Microseconds of the server's CPU for one echo, in each round."""

    @property
    def median(self) -> float:
        return statistics.median(self.micros)


async def _echo(connection: dtls.asyncio.DTLSConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def _serve(credentials: bytes, pipe: Connection) -> None:
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.load_cert_chain(credentials)
    context.set_ciphers(CIPHER)
    limits = dtls.EndpointLimits(idle_timeout=3600)
    over = asyncio.Event()

    def asked() -> None:
        if pipe.recv():
            pipe.send((time.process_time(), len(server.connections)))
        else:
            over.set()

    server = await dtls.asyncio.serve(_echo, LOOPBACK, 0, context=context, limits=limits, shutdown_timeout=0)
    asyncio.get_running_loop().add_reader(pipe.fileno(), asked)
    pipe.send(server.sockets[0].getsockname()[1])
    await over.wait()
    asyncio.get_running_loop().remove_reader(pipe.fileno())
    server.abort()
    await server.wait_closed()


def _run_server(credentials: bytes, pipe: Connection) -> None:
    """The server's process."""
    gc.disable()  # its pauses grow with all that is held, and are no matter of routing
    asyncio.run(_serve(credentials, pipe))


def _echoes(sockets: Sequence[DTLSSocket], count: int) -> None:
    at = 0
    for _ in range(count // WINDOW):
        window = [sockets[(at + number) % len(sockets)] for number in range(WINDOW)]
        at += WINDOW
        for sock in window:
            sock.send(MESSAGE)
        for sock in window:
            assert sock.recv() == MESSAGE


def _ask(pipe: Connection) -> Any:
    pipe.send(True)
    assert pipe.poll(PATIENCE), "the server's process is silent"
    return pipe.recv()


def run(few: int, many: int, rounds: int, echoes: int) -> list[Row]:
    """The three rows."""
    authority = CertificateAuthority()
    credentials = authority.issue("localhost", LOOPBACK).private_key_and_chain_pem
    context = dtls.create_default_context(cadata=authority.certificate_pem)
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_run_server, args=(credentials, theirs), daemon=True)
    process.start()
    sockets: list[DTLSSocket] = []
    try:
        assert ours.poll(PATIENCE), "the server's process is silent"
        address = (LOOPBACK, ours.recv())

        def measure(speaking: int) -> Row:
            micros = []
            _echoes(sockets[:speaking], max(echoes // 10, speaking))  # warm
            for _ in range(rounds):
                begun, associations = _ask(ours)
                assert associations == len(sockets)
                _echoes(sockets[:speaking], echoes)
                micros.append((_ask(ours)[0] - begun) / echoes * 1e6)
            return Row(len(sockets), speaking, micros)

        def grow(count: int) -> None:
            while len(sockets) < count:
                sockets.append(dtls.create_connection(address, PATIENCE, context=context))

        grow(few)
        rows = [measure(few)]
        grow(many)
        return [*rows, measure(few), measure(many)]
    finally:
        ours.send(False)
        process.join(PATIENCE)
        process.terminate()
        for sock in sockets:
            sock.close()
        ours.close()
        theirs.close()


def table(rows: Sequence[Row]) -> str:
    """A line for each row: medians, the spread in brackets, and the ratio to the first row."""
    lines = [f"{'associations':>12}{'speaking':>10}{'server us CPU per echo':>28}{'ratio':>8}"]
    for row in rows:
        spread = f"{row.median:.1f} ({min(row.micros):.1f} to {max(row.micros):.1f})"
        lines.append(
            f"{row.associations:12,}{row.speaking:10,}{spread:>28}{row.median / rows[0].median:8.2f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument("--few", type=int, default=FEW)
    parser.add_argument("--many", type=int, default=MANY, help="each takes about 170 kB, both sides together")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--echoes", type=int, default=ECHOES, help="in each round")
    options = parser.parse_args(arguments)
    print(table(run(options.few, options.many, options.rounds, options.echoes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
