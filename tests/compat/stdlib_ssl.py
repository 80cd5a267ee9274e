"""CPython's own tests of its ``ssl`` module, before and after ``do_patch()``: ``python -m tests.compat.stdlib_ssl``.

Each test must end in the same way, be it well or not: streams know nothing of datagrams. That needs a Python that
carries its tests; many that systems install do not.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 300
"""It takes half a minute."""
DEFAULT = "test.test_ssl"


def is_there(module: str = DEFAULT) -> bool:
    """Whether this Python carries its tests."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def outcomes(modules: Sequence[str], *, patched: bool) -> dict[str, str]:
    """How each test ends, in a process of its own. Raises :exc:`RuntimeError` if that does not end well."""
    script = str(Path(__file__).with_name("record_tests.py"))
    with tempfile.TemporaryDirectory(prefix="dtls-compat-") as folder:
        file = Path(folder, "outcomes.json")
        command = [sys.executable, script, *["--patched"] * patched, str(file), *modules]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            message = f"{' '.join(command)}: more than {_SECONDS} s\n{(error.output or b'').decode(errors='replace')}"
            raise RuntimeError(message) from None
        if done.returncode:
            message = (
                f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout.decode(errors='replace')}"
            )
            raise RuntimeError(message)
        recorded: dict[str, str] = json.loads(file.read_text())
        return recorded


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """In words, for each test that does not end in the same way."""
    return [
        f"{name}: {before.get(name, 'not run')} before, {after.get(name, 'not run')} after"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def summary(recorded: dict[str, str]) -> str:
    """How many tests ended how."""
    counts = collections.Counter(outcome.partition(":")[0] for outcome in recorded.values())
    return f"{len(recorded)} outcomes, " + ", ".join(
        f"{number} {kind}" for kind, number in counts.most_common()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, compare, print; 0 if all end in the same way, 1 if not, 2 if this Python does not carry its tests."""
    parser = argparse.ArgumentParser(description="Compare CPython's tests before and after do_patch().")
    parser.add_argument(
        "--control", action="store_true", help="compare with themselves: which are not dependable?"
    )
    parser.add_argument("modules", nargs="*", default=[DEFAULT], help=f"which of CPython's tests ({DEFAULT})")
    options = parser.parse_args(arguments)
    missing = [module for module in options.modules if not is_there(module)]
    if missing:
        print(f"NOT RUN: this Python does not carry {', '.join(missing)}")
        return 2
    before = outcomes(options.modules, patched=False)
    print(f"before do_patch(): {summary(before)}", flush=True)
    after = outcomes(options.modules, patched=not options.control)
    print(f"{'once more' if options.control else 'after do_patch()'}: {summary(after)}")
    differing = differences(before, after)
    for line in differing:
        print(f"    {line}")
    verdict = f"DIFFERENT: {len(differing)}" if differing else "OK, all the same"
    print(f"{verdict}: {' '.join(options.modules)} on Python {sys.version.split()[0]}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
