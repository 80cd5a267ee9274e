"""Text on a terminal or in a pipe: colour and line-drawing characters where they can be shown, plain text elsewhere."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, TextIO, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

NARROWEST, WIDEST = 80, 100
_WITHOUT_TERMINAL = 88
_STYLES = {
    "heading": "1",
    "dim": "2",
    "client": "36",
    "server": "35",
    "good": "32",
    "bad": "1;31",
    "strong": "1",
}
# One character for one, so that what was laid out with the left column stays in line with the right one.
_ASCII = str.maketrans("─│├┤▶◀✓✗·—µ", "-|++><*x.-u")

Piece: TypeAlias = "str | tuple[str, str]"
"""Text, or text and the name of its style."""


class Screen:
    """Where a program prints.

    :param colour: whether to use ANSI colours.
    :param ascii_only: whether to replace line-drawing characters.
    :param width: columns that may be filled.
    """

    def __init__(self, stream: TextIO, *, colour: bool, ascii_only: bool, width: int) -> None:
        self._stream = stream
        self._colour = colour
        self._ascii_only = ascii_only
        self.width = max(NARROWEST, min(width, WIDEST))

    @classmethod
    def on(cls, stream: TextIO, environment: Mapping[str, str] = os.environ) -> Screen:
        """What ``stream`` can show. Colour needs a terminal, and no NO_COLOR (https://no-color.org)."""
        terminal = stream.isatty()
        colour = terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
        if os.name == "nt":  # the old console prints escape sequences as they are
            colour = colour and bool(environment.get("WT_SESSION") or environment.get("TERM"))
        try:
            "─│▶✓µ".encode(stream.encoding or "ascii")
            ascii_only = False
        except (UnicodeEncodeError, LookupError):
            ascii_only = True
        width = shutil.get_terminal_size((_WITHOUT_TERMINAL, 24)).columns if terminal else _WITHOUT_TERMINAL
        return cls(stream, colour=colour, ascii_only=ascii_only, width=width)

    def line(self, *pieces: Piece) -> None:
        """Print one line, at once: somebody is watching."""
        text = "".join(self._styled(piece) for piece in pieces).rstrip()
        if self._ascii_only:
            text = text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
        self._stream.write(text + "\n")
        self._stream.flush()

    def heading(self, text: str, remark: str = "") -> None:
        """Begin a section."""
        self.line()
        self.line((text, "heading"), (f"  {remark}" if remark else "", "dim"))
        self.line(("─" * self.width, "dim"))

    def row(self, name: str, *pieces: Piece) -> None:
        """One line of a list: what it is, and the value."""
        self.line((f"  {name:<20}", "dim"), *pieces)

    def check(self, text: str) -> None:
        """Something that was verified."""
        self.line(("  ✓ ", "good"), text)

    def _styled(self, piece: Piece) -> str:
        if isinstance(piece, str):
            return piece
        text, style = piece
        if not (self._colour and text and style):
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def length(*pieces: Piece) -> int:
    """How many columns the pieces fill."""
    return sum(len(piece if isinstance(piece, str) else piece[0]) for piece in pieces)
