"""What is left of a run: medians, with the least and the most, and ratios of medians within the run."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from .measure import Failure, Measurement, Results
from .settings import CIPHER, MESSAGE_SIZE, MTU
from .stacks import PLAIN_ASYNCIO, PYOPENSSL, STACKS, C
from .works import WORKS

if TYPE_CHECKING:
    from collections.abc import Sequence

_REFERENCES = {PLAIN_ASYNCIO: "/ asyncio", C: "/ C", PYOPENSSL: "/ pyOpenSSL"}
_MEDIAN, _RATE, _BUSY, _LOST, _KEPT = "median (min to max)", "per second", "busy", "lost", "bytes kept"
_NARROW_COLUMNS = {_MEDIAN: 24, _BUSY: 6, _LOST: 7, "/ asyncio": 11, "/ C": 7, _KEPT: 11}
_ALL_COLUMNS = {
    _MEDIAN: 24,
    _RATE: 12,
    _BUSY: 6,
    _LOST: 7,
    "/ asyncio": 11,
    "/ C": 7,
    "/ pyOpenSSL": 13,
    _KEPT: 12,
}
WIDE = 106
"""Columns of a terminal that has room for all."""
_UNITS = {"us": "us of the server's CPU for an operation", "KB": "KB of the server's memory for one"}
_SIGNIFICANT = 100


class Spread(NamedTuple):
    """The values of several rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        form = ".2f" if self.median < 10 else ".1f" if self.median < _SIGNIFICANT else ",.0f"
        return f"{self.median:{form}} ({self.least:{form}} to {self.most:{form}})"


class Report(NamedTuple):
    """A run, as it is written to a file and read from it."""

    conditions: dict[str, Any]
    """What it was run on, and how: text and numbers by name."""
    left_out: dict[str, str]
    """Why a stack was not there, by its name."""
    results: Results

    def to_json(self) -> dict[str, Any]:
        """As :meth:`from_json` takes it."""
        return {
            "conditions": self.conditions,
            "left out": self.left_out,
            "libraries": self.results.libraries,
            "failures": [failure._asdict() for failure in self.results.failures],
            "measurements": [measurement._asdict() for measurement in self.results.measurements],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """What :meth:`to_json` gave."""
        results = Results(
            [Measurement(**fields) for fields in data["measurements"]],
            [Failure(**fields) for fields in data["failures"]],
            data["libraries"],
        )
        return cls(data["conditions"], data["left out"], results)

    def of(self, work: str, stack: str) -> list[Measurement]:
        """All rounds of a work on a stack."""
        return [one for one in self.results.measurements if (one.work, one.stack) == (work, stack)]

    def value(self, work: str, stack: str) -> float | None:
        """The median; ``None`` if it was not measured."""
        values = [one.value for one in self.of(work, stack)]
        return statistics.median(values) if values else None

    def rate(self, work: str, stack: str) -> float | None:
        """The median of operations per second; ``None`` if it was not measured."""
        rates = [one.per_second for one in self.of(work, stack) if one.per_second is not None]
        return statistics.median(rates) if rates else None

    def kept(self, work: str, stack: str) -> float | None:
        """The median of bytes that stay; ``None`` if it was not measured."""
        kept = [one.kept for one in self.of(work, stack) if one.kept is not None]
        return statistics.median(kept) if kept else None

    def heading(self) -> str:
        """What was measured with what."""
        lines = [f"{name}: {value}" for name, value in self.conditions.items()]
        lines.append(f"{CIPHER}, {MESSAGE_SIZE}-byte messages, MTU {MTU}")
        by_library: dict[str, list[str]] = {}
        for name, library in self.results.libraries.items():
            by_library.setdefault(library, []).append(STACKS[name].title)
        lines += [f"{'; '.join(titles)}: {library}" for library, titles in by_library.items()]
        lines += [f"left out: {STACKS[name].title}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)

    def table(self, width: int = WIDE) -> str:
        """A block for each work, a line for each stack; less of it in fewer columns than :data:`WIDE`."""
        columns = _ALL_COLUMNS if width >= WIDE else _NARROW_COLUMNS
        return "\n".join(line for work in WORKS for line in self._block(work, columns))

    def _block(self, work: str, columns: dict[str, int]) -> list[str]:
        failures = {one.stack: one.reason for one in self.results.failures if one.work == work}
        measured = {stack: self.of(work, stack) for stack in STACKS}
        cells = {stack: self._cells(work, rounds) for stack, rounds in measured.items() if rounds}
        columns = {
            title: size for title, size in columns.items() if any(row[title] for row in cells.values())
        }
        lines = []
        for stack in STACKS.values():
            if stack.name in cells:
                row = "".join(f"{cells[stack.name][title]:>{size}}" for title, size in columns.items())
                lines.append(f"  {stack.title:23}{row}".rstrip())
            elif stack.name in failures:
                lines.append(f"  {stack.title:23}{'-':>6}  {failures[stack.name]}")
        if not lines:
            return []
        titles = "".join(f"{title:>{size}}" for title, size in columns.items())
        return [f"{WORKS[work].title}: {_UNITS[WORKS[work].unit]}", f"{'':25}{titles}".rstrip(), *lines, ""]

    def _cells(self, work: str, measured: list[Measurement]) -> dict[str, str]:
        """What stands in each column."""
        spread = Spread.of([one.value for one in measured])
        rate, kept = self.rate(work, measured[0].stack), self.kept(work, measured[0].stack)
        busy = [one.busy for one in measured if one.busy is not None]
        lost = [one.lost for one in measured if one.lost is not None]
        cells = {
            _MEDIAN: str(spread),
            _RATE: f"{rate:,.0f}" if rate is not None else "",
            _BUSY: f"{statistics.median(busy):.0%}" if busy else "",
            _LOST: f"{statistics.mean(lost):.1%}" if lost else "",
            _KEPT: f"{max(0.0, kept):,.0f}" if kept is not None else "",
        }
        for stack, title in _REFERENCES.items():
            reference = self.value(work, stack)
            cells[title] = f"{spread.median / reference:.2f}" if reference else ""
        return cells
