"""Writes the tables and plots of a run to the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import aims
from .stacks import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from .report import Report

PAGE = ROOT / "docs" / "performance.md"
PLOTS = PAGE.with_name("plots")


def update(report: Report, page: Path = PAGE, plots_folder: Path = PLOTS) -> None:
    """Put the run between the page's markers, and the plots beside it."""
    from . import plots  # noqa: PLC0415 - matplotlib is needed for nothing else

    images = plots.write(report, plots_folder)
    text = page.read_text(encoding="utf-8")
    text = _replace(text, "aims", f"```\n{aims.table(report)}\n```")
    text = _replace(text, "table", f"```\n{report.heading()}\n\n{report.table().rstrip()}\n```")
    links = [f"![{title}]({plots_folder.name}/{path.name})" for path, title in images.items()]
    text = _replace(text, "plots", "\n\n".join(links))
    page.write_text(text, encoding="utf-8")


def _replace(text: str, name: str, content: str) -> str:
    """The text with something else between two markers."""
    begin, end = f"<!-- benchmarks: {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        message = f"the page has no markers {begin} and {end}"
        raise ValueError(message)
    return f"{before}{begin}\n{content}\n{end}{after}"
