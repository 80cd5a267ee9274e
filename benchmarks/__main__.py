"""Measure this package beside plain UDP and the DTLS stacks of others, in one run: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import aims, document
from .measure import run, select
from .processes import Cores, load_command
from .report import WIDE, Report
from .stacks import STACKS
from .works import FULL, QUICK, WORKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .stacks import Stack
    from .works import Work

ROUNDS = 5
CLEAR_LINE = "\r\x1b[K"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"WORK: {', '.join(WORKS)}, or a beginning as 'echo'. NAME: {', '.join(STACKS)}.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a moment of each: shows that it runs, not how fast"
    )
    parser.add_argument("--only", nargs="+", metavar="WORK", help="measure nothing else")
    parser.add_argument("--stacks", nargs="+", metavar="NAME", choices=STACKS, help="measure no others")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"{ROUNDS} if not given, 1 with --quick")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the run to FILE")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="file", help="measure nothing, read the run of FILE"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write plots (SVG) to FOLDER")
    parser.add_argument(
        "--update-docs",
        action="store_true",
        help="write the tables to docs/performance.md, the plots to docs/plots",
    )
    options = parser.parse_args(arguments)
    options.works = list(select(options.only))
    if not options.works:
        parser.error(f"no work of these names: {' '.join(options.only)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def measure(works: Sequence[Work], names: Sequence[str], rounds: int, *, quick: bool) -> Report:
    """A run of what is there."""
    left_out = {name: reason for name in names if (reason := STACKS[name].lacks())}
    stacks: list[Stack] = [STACKS[name] for name in names if name not in left_out]
    cores = Cores.choose()
    conditions = {
        "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
        "machine": f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores",
        "cores": f"server on {cores.server}, load on {cores.load}",
        "load": "in C, the same for all",
        "rounds": f"{rounds}, interleaved; medians"
        + (", each of a moment only: NO FIGURES" if quick else ""),
    }
    if reason := load_command()[1]:
        conditions["load"] = (
            f"in Python: {reason} (on Debian: apt-get install gcc libc6-dev libssl-dev). "
            "SLOWER THAN THE SERVERS, which sleep and wake at their own cost"
        )
    terminal = sys.stderr.isatty()

    def progress(line: str) -> None:
        if terminal:
            print(f"{CLEAR_LINE}{line}", end="", file=sys.stderr, flush=True)

    results = run(works, stacks, rounds, QUICK if quick else FULL, progress)
    progress("")
    return Report(conditions, left_out, results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and write what is asked for; the exit status."""
    options = parse(arguments)
    if options.file:
        report = Report.from_json(json.loads(options.file.read_text(encoding="utf-8")))
    else:
        rounds = options.rounds or (1 if options.quick else ROUNDS)
        report = measure(options.works, options.stacks or list(STACKS), rounds, quick=options.quick)
    columns = shutil.get_terminal_size((WIDE, 0)).columns
    print("\n\n".join((report.heading(), report.table(columns), aims.table(report))).rstrip())
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    if options.update_docs:
        document.update(report)
    if options.plots:
        from . import plots  # noqa: PLC0415 - matplotlib is needed for nothing else

        plots.write(report, options.plots)
    return 0


if __name__ == "__main__":
    # As by Ctrl-C: the processes that were started are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
