"""What the throughput test has found: as a table, as bars on a terminal, as a picture (SVG), and as figures (JSON)."""

from __future__ import annotations

import math
import os
import platform
import shutil
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO
from xml.sax.saxutils import escape

from dtls.sslconnection import DTLS_OPENSSL_VERSION

from .perf_flow import DIRECTIONS, INBOUND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .perf_flow import Outcome, Transfer

MIB = 1 << 20
REFERENCE = "udp"
"""The suite that others are compared with."""
_EIGHTHS = " ▏▎▍▌▋▊▉"
_WITHOUT_TERMINAL = 80
_WIDEST = 100


@dataclass(frozen=True)
class Result:
    """A test that has been run: its outcome, or the error that it failed with, or why it could not be run here.

    :param suite: what was measured, in a word.
    :param title: what was measured, for people.
    :param demux: how datagrams found their connection, if that was chosen.
    :param size: bytes of a message.
    :param chunks: how many were to be sent in each direction.
    """

    suite: str
    title: str
    size: int
    chunks: int
    demux: str | None = None
    outcome: Outcome | None = None
    error: str = ""
    unavailable: str = ""

    @property
    def directions(self) -> list[str]:
        """Those that were measured."""
        return [way for way in DIRECTIONS if self.transfer(way) is not None]

    @property
    def verdict(self) -> str:
        """Why there is no outcome."""
        return f"not available: {self.unavailable}" if self.unavailable else f"failed: {self.error}"

    def transfer(self, direction: str) -> Transfer | None:
        """What was received in a direction."""
        transfer: Transfer | None = getattr(self.outcome, direction, None)
        return transfer

    def messages_per_second(self, direction: str) -> float | None:
        """The rate from the first message's arrival on; ``None`` without two messages that came at different times."""
        transfer = self.transfer(direction)
        if transfer is None or transfer.received < 2 or transfer.seconds <= 0:  # noqa: PLR2004 - it says so
            return None
        return (transfer.received - 1) / transfer.seconds

    def mib_per_second(self, direction: str) -> float | None:
        """The same in MiB of payload."""
        rate = self.messages_per_second(direction)
        return None if rate is None else rate * self.size / MIB

    def lost(self, direction: str) -> int | None:
        """How many messages were sent and not received."""
        transfer = self.transfer(direction)
        return None if transfer is None else transfer.sent - transfer.received


def ratio(results: Sequence[Result], result: Result, direction: str) -> float | None:
    """The rate compared with that of plain UDP, of the same size, measured last before it or else after it."""
    place = results.index(result)
    ordered = [*results[place::-1], *results[place:]]
    own = result.mib_per_second(direction)
    for other in ordered:
        rate = (
            other.mib_per_second(direction) if (other.suite, other.size) == (REFERENCE, result.size) else None
        )
        if rate:
            return None if own is None else own / rate
    return None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"  # noqa: PLR2004 - enough digits


def _loss(transfer: Transfer) -> str:
    lost = transfer.sent - transfer.received
    return f"{lost:,} ({lost / transfer.sent:.1%})" if lost else "0"


def table(results: Sequence[Result]) -> list[str]:
    """All results, a line for each direction."""
    row = "{:<18} {:>6} {:<9} {:>8} {:>10} {:>15} {:>6}".format
    lines = [row("Transport", "Bytes", "Direction", "MiB/s", "Messages/s", "Lost", "/ UDP")]
    lines.append("-" * len(lines[0]))
    for result in results:
        begin = (result.title, f"{result.size:,}")
        if result.outcome is None:
            lines.append(f"{begin[0]:<18} {begin[1]:>6} {result.verdict}")
        for direction in result.directions:
            transfer, compared = result.transfer(direction), ratio(results, result, direction)
            rate = result.messages_per_second(direction)
            lines.append(
                row(
                    *begin,
                    direction,
                    _number(result.mib_per_second(direction)),
                    "-" if rate is None else f"{rate:,.0f}",
                    "" if transfer is None else _loss(transfer),
                    "-" if compared is None else f"{compared:.2f}",
                )
            )
            begin = ("", "")
    lines.append("")
    lines.append("Rates are of payload received. / UDP: compared with Raw UDP in the same case.")
    return lines


# --- bars on a terminal ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """What a stream can show: block characters and colours, and how many columns."""

    unicode: bool
    colour: bool
    width: int

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] = os.environ) -> Style:
        """Files and pipes get ASCII alone. Colour needs a terminal, and no NO_COLOR (https://no-color.org)."""
        if not stream.isatty():
            return cls(False, False, _WITHOUT_TERMINAL)
        try:
            f"█{_EIGHTHS}".encode(stream.encoding or "ascii")
            drawable = True
        except (UnicodeEncodeError, LookupError):
            drawable = False
        colour = not environment.get("NO_COLOR") and environment.get("TERM", "dumb") != "dumb"
        return cls(drawable, colour, min(_WIDEST, shutil.get_terminal_size().columns))


def bars(results: Sequence[Result], style: Style) -> list[str]:
    """A bar for each direction of each result; nothing if no rate is known."""
    most = _highest(results)
    if not most:
        return []
    names = _names(results)
    title_width = max(map(len, names))
    longest = max(10, style.width - title_width - len("  outbound ") - len(" 12,345.6"))
    lines = ["Throughput in MiB/s", ""]
    for name, result in zip(names, results, strict=True):
        title = name
        if result.outcome is None:
            lines.append(f"{title:<{title_width}}  {result.verdict.partition(':')[0]}")
        for way in result.directions:
            rate = result.mib_per_second(way)
            bar = _bar((rate or 0.0) / most * longest, style)
            if style.colour:
                bar = f"\x1b[{36 if way == INBOUND else 33}m{bar}\x1b[0m"
            lines.append(f"{title:<{title_width}}  {way:<8} {bar} {_number(rate)}")
            title = ""
    return lines


def _names(results: Sequence[Result]) -> list[str]:
    """The titles, with the sizes if there are several."""
    if len({result.size for result in results}) == 1:
        return [result.title for result in results]
    return [f"{result.title}, {result.size:,} B" for result in results]


def _highest(results: Sequence[Result]) -> float:
    return max((result.mib_per_second(way) or 0.0 for result in results for way in DIRECTIONS), default=0.0)


def _bar(columns: float, style: Style) -> str:
    if not style.unicode:
        return "#" * max(1, round(columns))
    whole, eighths = divmod(max(1, round(columns * 8)), 8)
    return "█" * whole + _EIGHTHS[eighths].strip()


# --- figures ---------------------------------------------------------------------------------------------------------


def surroundings() -> dict[str, str]:
    """What the figures were measured with."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "openssl": ssl.OPENSSL_VERSION,
        "dtls_openssl": DTLS_OPENSSL_VERSION,
    }


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """All figures, for JSON."""
    return {"format": 1, **surroundings(), "results": [_figures(results, result) for result in results]}


def _figures(results: Sequence[Result], result: Result) -> dict[str, Any]:
    described: dict[str, Any] = {
        "protocol": result.suite,
        "title": result.title,
        "demux": result.demux,
        "size": result.size,
        "messages": result.chunks,
        "cipher": result.outcome.cipher if result.outcome else None,
        "error": result.error or None,
        "not_available": result.unavailable or None,
    }
    for direction in DIRECTIONS:
        transfer = result.transfer(direction)
        described[direction] = transfer and {
            "sent": transfer.sent,
            "received": transfer.received,
            "lost": result.lost(direction),
            "seconds": transfer.seconds,
            "mib_per_second": result.mib_per_second(direction),
            "messages_per_second": result.messages_per_second(direction),
            "ratio_to_raw_udp": ratio(results, result, direction),
        }
    return described


# --- the picture -----------------------------------------------------------------------------------------------------

_WIDTH, _LEFT, _RIGHT, _TOP = 860, 190, 130, 118
_BAR, _BAR_GAP, _GROUP_GAP, _LABEL, _FOOT = 20, 4, 22, 36, 76
_SVG_STYLE = """
    text { font-family: system-ui, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif; fill: #1f2933; }
    .title { font-size: 21px; font-weight: 600; }
    .small { font-size: 12.5px; fill: #52606d; }
    .name { font-size: 14.5px; font-weight: 600; }
    .value { font-size: 13px; }
    .loss { font-size: 12px; fill: #a3361c; }
    .grid { stroke: #e4e7eb; }
    .axis { stroke: #9aa5b1; }
    .inbound { fill: #0b69a3; }
    .outbound { fill: #e08c1a; }
"""


def svg(results: Sequence[Result]) -> str:
    """A bar chart of all results, which stands by itself."""
    step, ticks = _scale(_highest(results))
    heights = [_group_height(result) for result in results]
    bottom = _TOP + sum(heights)
    height = bottom + _FOOT
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    scale = (_WIDTH - _LEFT - _RIGHT) / (step * ticks)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title description">',
        '<title id="title">Throughput of TCP, UDP, TLS and DTLS</title>',
        f'<desc id="description">{escape(_description(results))}</desc>',
        f"<style>{_SVG_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(28, 40, "title", "Throughput"),
        _text(28, 63, "small", _conditions(results)),
        *_legend(28, 88),
    ]
    for index in range(ticks + 1):
        x = _LEFT + index * step * scale
        kind = "grid" if index else "axis"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 20, "small", f"{index * step:,.10g}", anchor="middle"))
    middle = _LEFT + step * ticks * scale / 2
    parts.append(_text(middle, bottom + 40, "small", "MiB/s of payload received", anchor="middle"))
    top = _TOP + _GROUP_GAP / 2
    for result, taken in zip(results, heights, strict=True):
        parts.extend(_group(result, top, taken - _GROUP_GAP, scale))
        top += taken
    surrounding = surroundings()
    remark = f"{surrounding['python']}, {surrounding['system']}; DTLS: {surrounding['dtls_openssl']}"
    parts.append(_text(28, height - 14, "small", remark))
    return "\n".join([*parts, "</svg>", ""])


def _group_height(result: Result) -> int:
    """As much as its bars need, and no less than its name does."""
    bars = len(result.directions)
    return max(bars * (_BAR + _BAR_GAP) - _BAR_GAP, _LABEL) + _GROUP_GAP


def _group(result: Result, top: float, height: float, scale: float) -> list[str]:
    middle = top + height / 2
    parts = [
        _text(_LEFT - 14, middle - 3, "name", result.title, anchor="end"),
        _text(_LEFT - 14, middle + 13, "small", f"{result.size:,} bytes", anchor="end"),
    ]
    if result.outcome is None:
        return [*parts, _text(_LEFT + 8, middle + 5, "loss", result.verdict.partition(":")[0])]
    top = middle - (len(result.directions) * (_BAR + _BAR_GAP) - _BAR_GAP) / 2
    for index, direction in enumerate(result.directions):
        rate = result.mib_per_second(direction)
        y = top + index * (_BAR + _BAR_GAP)
        width = max(1.0, (rate or 0.0) * scale)
        parts.append(
            f'<rect class="{direction}" x="{_LEFT}" y="{y:g}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
        )
        label = escape(_number(rate))
        transfer = result.transfer(direction)
        if transfer is not None and transfer.received < transfer.sent:
            lost = (transfer.sent - transfer.received) / transfer.sent
            label += f'<tspan class="loss" dx="8">{max(lost, 0.001):.1%} lost</tspan>'
        parts.append(f'<text class="value" x="{_LEFT + width + 8:.1f}" y="{y + 15:g}">{label}</text>')
    return parts


def _legend(x: float, y: float) -> list[str]:
    parts = []
    for direction, explained in zip(DIRECTIONS, ("client to server", "server to client"), strict=True):
        parts.append(f'<rect class="{direction}" x="{x}" y="{y - 10}" width="12" height="12" rx="2"/>')
        parts.append(_text(x + 19, y, "small", f"{direction} ({explained})"))
        x += 210
    return parts


def _text(x: float, y: float, kind: str, text: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _scale(most: float) -> tuple[float, int]:
    """The distance of the axis's marks, and how many there are: four to eight, at round numbers."""
    if most <= 0:
        return 1.0, 5
    power = 10.0 ** math.floor(math.log10(most / 4))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if most / (step * power) <= 7)  # noqa: PLR2004 - see above
    return step, math.ceil(most / step)


def _conditions(results: Sequence[Result]) -> str:
    """The amounts and the cipher suites."""
    amounts = sorted({(result.size, result.chunks) for result in results})
    text = "; ".join(f"{chunks:,} messages of {size:,} bytes" for size, chunks in amounts[:2])
    if len(amounts) > 2:  # noqa: PLR2004 - see above: the line is full
        text = f"messages of {', '.join(f'{size:,}' for size, _ in amounts)} bytes"
    outcomes = [result.outcome for result in results if result.outcome is not None]
    ciphers = sorted({outcome.cipher.partition(",")[0] for outcome in outcomes if outcome.cipher})
    return "; ".join([text, *ciphers[:2]])


def _description(results: Sequence[Result]) -> str:
    said = []
    for result in results:
        name = f"{result.title}, {result.size:,} bytes"
        if result.outcome is None:
            said.append(f"{name}: {result.verdict}")
        else:
            rates = (f"{_number(result.mib_per_second(way))} MiB/s {way}" for way in result.directions)
            said.append(f"{name}: {', '.join(rates)}")
    return "; ".join(said)
