"""Where a server of this package spends its time on a message: ``python -m benchmarks.profile``.

The server runs under ``cProfile``, which makes each call dearer: what is written in C looks cheaper than it is, what
is written in Python dearer. So it tells what is called and how often, and what to look at; how fast it is, only
``python -m benchmarks`` tells.
"""

from __future__ import annotations

import argparse
import os
import pstats
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .measure import credentials_in
from .processes import Cores, processes
from .settings import PATIENCE
from .stacks import OWN, OWN_PROTOCOL, OWN_SERVE, STACKS, Stack
from .works import ASSOCIATING_SECONDS, WORKS, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

OPERATIONS = 40_000
SHOWN = 25
_WORKS = [name for name, work in WORKS.items() if work.kind in ("echo", "handshakes")]


class _Profiled(Stack):
    """A stack whose server writes a profile when it is interrupted."""

    file: Path

    def command(self) -> list[str]:
        python, *rest = super().command()
        return [python, "-m", "cProfile", "-o", str(self.file), *rest]


def run(stack_name: str, work: Work, directory: Path) -> tuple[pstats.Stats, int]:
    """The profile of a server, and the number of operations that it has done."""
    stack = _Profiled(*STACKS[stack_name])
    stack.file = directory / "profile"
    with processes(stack, work, credentials_in(directory), Cores.choose()) as (server, load):
        if work.kind == "echo":
            load.associate(work.associations, ASSOCIATING_SECONDS)
        words = (work.window,) if work.kind == "echo" else (work.window, int(work.resume))
        tally = load.run(" ".join(map(str, (work.kind, work.operations, *words))), PATIENCE)
        os.kill(server.pid, signal.SIGINT)
        until = time.monotonic() + PATIENCE
        while not (stack.file.exists() and stack.file.stat().st_size):
            if time.monotonic() > until:
                message = "the server wrote no profile"
                raise TimeoutError(message)
            time.sleep(0.05)
        server.wait(PATIENCE)
    return pstats.Stats(str(stack.file)), tally.done


def table(profile: Any, operations: int, shown: int) -> str:
    """The functions in which most time was spent: calls and microseconds for one operation."""
    lines = [f"{'calls':>8}{'own us':>9}{'all us':>9}  function"]
    rows = sorted(profile.stats.items(), key=lambda row: -row[1][2])
    for (file, line, name), (_, calls, own, all_, _) in rows[:shown]:
        place = name if file == "~" else f"{Path(file).name}:{line} {name}"
        each, own_us, all_us = calls / operations, own / operations * 1e6, all_ / operations * 1e6
        lines.append(f"{each:8.2f}{own_us:9.2f}{all_us:9.2f}  {place.strip('<>')}")
    total = sum(row[2] for row in profile.stats.values()) / operations * 1e6
    calls = sum(row[1] for row in profile.stats.values()) / operations
    lines.append(f"{calls:8.1f}{total:9.2f}{'':9}  all of them, waiting and setting up included")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--stack", choices=(OWN, OWN_SERVE, OWN_PROTOCOL), default=OWN_SERVE)
    parser.add_argument("--work", choices=_WORKS, default="echo-100")
    parser.add_argument("--operations", type=int, default=OPERATIONS)
    parser.add_argument("--shown", type=int, default=SHOWN, metavar="N", help="functions")
    options = parser.parse_args(arguments)
    work = WORKS[options.work]._replace(operations=options.operations)
    with tempfile.TemporaryDirectory() as directory:
        profile, operations = run(options.stack, work, Path(directory))
    print(f"{STACKS[options.stack].title}: {work.title}, {operations:,} operations\n")
    print(table(profile, operations, options.shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
