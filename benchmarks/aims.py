"""What this package aims at, and whether a run met it. Each aim is a ratio within the run, unless it is absolute."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .stacks import MBEDTLS, OWN, OWN_PROTOCOL, OWN_SERVE, PION, PLAIN, PLAIN_ASYNCIO, PYOPENSSL, STACKS, C
from .works import WORKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .report import Report

KEPT_BY_CHANCE = 64.0
"""Bytes for each of thousands of ClientHellos, below which a server's memory has only been allocated otherwise."""


class Check(NamedTuple):
    """One figure that is aimed at."""

    work: str
    stack: str
    against: str
    """What it is compared with."""
    aim: str
    measured: str
    met: bool | None
    """``None`` if something was not measured."""


class _Aim(NamedTuple):
    work: str
    stacks: tuple[str, ...]
    against: str
    aim: str
    limit: float
    measure: Callable[[Report, str, str], float | None]
    """Of a report, a work and one of the stacks."""
    form: str = ".2f"
    at_least: bool = False

    def check(self, report: Report, stack: str) -> Check:
        found = self.measure(report, self.work, stack)
        met = None if found is None else found >= self.limit if self.at_least else found <= self.limit
        measured = "not measured" if found is None else format(found, self.form)
        return Check(WORKS[self.work].title, STACKS[stack].title, self.against, self.aim, measured, met)


def _ratio(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


def _at_most(
    limit: float, reference: str, work: str, stacks: tuple[str, ...], other: str | None = None
) -> _Aim:
    """The CPU of a work is at most so much of another stack's, for the same work or for ``other``."""
    against = STACKS[reference].title + (" (single)" if other else "")
    return _Aim(
        work, stacks, against, f"<= {limit:.2f}", limit,
        lambda report, work, stack: _ratio(report.value(work, stack), report.value(other or work, reference)),
    )  # fmt: skip


def _growth(report: Report, work: str, stack: str) -> float | None:
    """How much more an echo costs with many associations, over how much more it costs the program in C."""
    own = _ratio(report.value(work, stack), report.value("echo-100", stack))
    return _ratio(own, _ratio(report.value(work, C), report.value("echo-100", C)))


def _rate(report: Report, work: str, stack: str) -> float | None:
    return _ratio(report.rate(work, stack), report.rate(work, PLAIN_ASYNCIO))


_ASYNCIO = (OWN_SERVE, OWN_PROTOCOL)
_BATCHING = (OWN, OWN_SERVE)
_BULK = (OWN, OWN_SERVE, OWN_PROTOCOL)

_AIMS = (
    *(
        _at_most(limit, reference, "echo-100", _ASYNCIO)
        for limit, reference in ((0.40, PLAIN_ASYNCIO), (0.6, MBEDTLS), (0.7, PION), (1.6, C))
    ),
    *(
        aim
        for work in ("echo-1000", "echo-5000")
        for aim in (
            _at_most(0.6, PLAIN_ASYNCIO, work, _ASYNCIO),
            _Aim(work, _ASYNCIO, "growth from 100 over C's", "<= 1.00", 1.0, _growth),
        )
    ),
    _at_most(0.22, PLAIN_ASYNCIO, "in", _BULK),
    _at_most(0.35, MBEDTLS, "in", _BULK),
    _at_most(1.2, C, "in-batched", _BATCHING, other="in"),
    _at_most(1.0, PLAIN, "in-batched", _BATCHING, other="in"),
    _at_most(0.5, PLAIN, "out-batched", _BATCHING, other="out"),
    _Aim(
        "ping-pong", _ASYNCIO, "round trips of plain asyncio", ">= 1.00", 1.0, _rate, at_least=True,
    ),
    *(
        _at_most(limit, reference, "full", _BULK)
        for limit, reference in ((1.2, C), (0.75, PYOPENSSL), (1.0, PION))
    ),
    _Aim("memory", _ASYNCIO, "", "<= 66 KB", 66.0, lambda report, work, stack: report.value(work, stack), ".1f"),
    _Aim("hello", _BULK, "", "<= 40 us", 40.0, lambda report, work, stack: report.value(work, stack), ".1f"),
    _Aim(
        "hello", _BULK, "memory kept", f"< {KEPT_BY_CHANCE:.0f} bytes", KEPT_BY_CHANCE,
        lambda report, work, stack: report.kept(work, stack), ".0f",
    ),
)  # fmt: skip


def checks(report: Report) -> list[Check]:
    """All aims, each for every stack that it is for."""
    return [aim.check(report, stack) for aim in _AIMS for stack in aim.stacks]


def table(report: Report) -> str:
    """A line for each aim of which something was measured, by work; empty if nothing was."""
    lines, last = [], ""
    for work, stack, against, aim, measured, met in checks(report):
        if met is None:
            continue
        if work != last:
            lines += ["", work]
            last = work
        lines.append(f" {stack:23}{against:28}{aim:>10}{measured:>9}  {'met' if met else 'missed'}")
    if not lines:
        return ""
    return "\n".join([f"{'Aims':24}{'against':28}{'aim':>10}{'measured':>9}", *lines])
