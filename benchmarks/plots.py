"""Draws a run: a few SVG files with few colours, which are read on light and on dark pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .stacks import (
    MBEDTLS,
    OWN,
    OWN_PROTOCOL,
    OWN_SERVE,
    PION,
    PLAIN,
    PLAIN_ASYNCIO,
    PYOPENSSL,
    STACKS,
    TRIO,
    C,
)
from .works import ECHO_SIZES, WORKS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .report import Report

OWN_COLOUR, PLAIN_COLOUR, PEER_COLOUR = "#0b6e99", "#8a8f98", "#d9a05b"
DARKER = {PLAIN_COLOUR: "#5d636b", PEER_COLOUR: "#96591a"}
"""For words in these colours."""
INK, FAINT, PAPER = "#24292f", "#d8dde3", "#fbfbf9"
_WIDTH = 7.6
_BAR, _GAP = 0.62, 0.9
_BEYOND = 3.0
"""A bar so many times as long as the longest but one is cut, and says how long it is."""

_BARS = (
    ("ping-pong", "Ping-pong: CPU for a round trip, in microseconds", ("ping-pong",)),
    ("bulk-in", "Bulk in: CPU for a message of 1,200 bytes, in microseconds", ("in", "in-batched")),
    ("bulk-out", "Bulk out: CPU for a message of 1,200 bytes, in microseconds", ("out", "out-batched")),
    ("handshakes", "Handshakes: CPU for one, in microseconds", ("full", "resumed")),
    ("memory", "Memory of an idle association, in KB", ("memory",)),
    ("hello", "ClientHello without cookie: CPU for one, in microseconds", ("hello",)),
)
_PUSHES = 200
"""Rounds in which names that cover each other are moved apart."""
_LINES = (OWN_SERVE, OWN_PROTOCOL, PLAIN_ASYNCIO, PYOPENSSL, MBEDTLS, C, PION)
_STYLES = {
    OWN_PROTOCOL: "--",
    PLAIN_ASYNCIO: "--",
    MBEDTLS: (0, (5, 1)),
    PION: (0, (1, 1)),
    C: "-.",
    PYOPENSSL: "-",
}
_BY_COST = (PLAIN, PLAIN_ASYNCIO, OWN, OWN_SERVE, OWN_PROTOCOL, C, PYOPENSSL, MBEDTLS, PION, TRIO)


def write(report: Report, folder: Path) -> dict[Path, str]:
    """Write the plots of what was measured; their files and titles."""
    import matplotlib as mpl  # noqa: PLC0415 - only for plots

    # Text stays text, in whatever sans-serif font the reader has; two files differ by their figures only.
    mpl.use("svg")
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "dtls",
            "font.size": 10,
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    if any(report.of(f"echo-{size}", stack) for size in ECHO_SIZES for stack in _LINES):
        title = "Echo: CPU for a message of 1,200 bytes, in microseconds"
        written[_save(_draw_echo(report, title), folder / "echo.svg")] = title
    for name, title, works in _BARS:
        if any(report.of(work, stack) for work in works for stack in STACKS):
            written[_save(_draw_bars(report, title, works), folder / f"{name}.svg")] = title
    return written


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, facecolor=PAPER, metadata={"Date": None})
    return path


def _colour(stack: str) -> str:
    if STACKS[stack].own:
        return OWN_COLOUR
    return PEER_COLOUR if STACKS[stack].secured else PLAIN_COLOUR


def _new_figure(height: float, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - only for plots

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot(facecolor=PAPER)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    figure.suptitle(title, x=0.015, ha="left", fontsize=11, fontweight="bold")
    return figure, axes


# --- bars ------------------------------------------------------------------------------------------------------------


def _draw_bars(report: Report, title: str, works: Sequence[str]) -> Any:
    """A group of bars for each work, each bar with its stack's name before it and its figure behind it."""
    groups = [
        (
            WORKS[work].title,
            [(stack, value) for stack in _BY_COST if (value := report.value(work, stack)) is not None],
        )
        for work in works
    ]
    groups = [(name, sorted(bars, key=lambda bar: bar[1])) for name, bars in groups if bars]
    count = sum(len(bars) for _, bars in groups)
    figure, axes = _new_figure(0.55 + 0.27 * (count + _GAP * len(groups)), title)
    longest = _longest([value for _, bars in groups for _, value in bars])
    at, places, names = 0.0, [], []
    for name, bars in groups:
        if len(groups) > 1:
            axes.text(-0.01 * longest, at, name, fontsize=9.5, fontstyle="italic", ha="left", va="center")
            at += _GAP
        for stack, value in bars:
            _draw_bar(axes, at, value, longest, stack)
            places.append(at)
            names.append(STACKS[stack].title)
            at += 1
        at += _GAP / 2
    axes.set_yticks(places, names)
    for label, stack_title in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if stack_title.startswith("dtls") else "normal")
    axes.set_ylim(at - _GAP / 2 - 0.4, -0.7)
    axes.set_xlim(0, longest * 1.16)
    axes.set_xticks([])
    return figure


def _longest(values: Sequence[float]) -> float:
    """The length of the longest bar that is drawn whole."""
    ordered = sorted(values)
    if len(ordered) > 1 and ordered[-1] > _BEYOND * ordered[-2]:
        return ordered[-2] * 1.25
    return ordered[-1]


def _draw_bar(axes: Any, at: float, value: float, longest: float, stack: str) -> None:
    length = min(value, longest)
    axes.barh(at, length, _BAR, color=_colour(stack))
    form = ".2f" if value < 10 else ".1f" if value < 100 else ",.0f"
    text = format(value, form)
    if value > longest:
        axes.barh(at, longest * 0.012, _BAR * 1.4, left=longest * 0.93, color=PAPER)  # cut
    axes.text(
        length + longest * 0.012,
        at,
        text,
        va="center",
        fontsize=9.5,
        fontweight="bold" if STACKS[stack].own else "normal",
    )


# --- lines -----------------------------------------------------------------------------------------------------------


def _draw_echo(report: Report, title: str) -> Any:
    figure, axes = _new_figure(4.6, title)
    ends = []
    for stack in _LINES:
        points = [
            (size, value) for size in ECHO_SIZES if (value := report.value(f"echo-{size}", stack)) is not None
        ]
        if not points:
            continue
        sizes, values = zip(*points, strict=True)
        axes.plot(
            sizes, values, color=_colour(stack), linestyle=_STYLES.get(stack, "-"),
            linewidth=2.4 if STACKS[stack].own else 1.6, marker="o", markersize=4,
        )  # fmt: skip
        ends.append((values[-1], sizes[-1], stack))
    axes.set_xscale("log")
    axes.set_xticks(ECHO_SIZES, [f"{size:,}" for size in ECHO_SIZES])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlim(ECHO_SIZES[0] * 0.85, ECHO_SIZES[-1] * 4.8)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("associations", loc="left")
    _label_ends(axes, ends)
    return figure


def _label_ends(axes: Any, ends: list[tuple[float, int, str]]) -> None:
    """Each line's name at its end, moved where it would cover another's."""
    apart = axes.get_ylim()[1] * 0.052
    ends = sorted(ends)
    places = [value for value, _, _ in ends]
    for _ in range(_PUSHES):
        for at in range(1, len(places)):
            missing = apart - (places[at] - places[at - 1])
            if missing > 0:
                places[at - 1] -= missing / 2
                places[at] += missing / 2
    for place, (_, size, stack) in zip(places, ends, strict=True):
        axes.text(
            size * 1.12, place, STACKS[stack].title, color=DARKER.get(_colour(stack), OWN_COLOUR), va="center",
            fontsize=9.5, fontweight="bold" if STACKS[stack].own else "normal",
        )  # fmt: skip
