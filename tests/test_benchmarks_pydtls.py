"""What measures PyDTLS's interface must run, and notice when it measures nothing, also without the old package."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("resource", reason="there is no account of processor time here")

from benchmarks import pydtls
from benchmarks.pydtls import NEW, OLD, PLAIN, WORKS, Credentials, Measurement, Stack

if TYPE_CHECKING:
    from pathlib import Path


def _measured(stack: str, *, seconds: float, cpu: float, done: int = 90) -> list[Measurement]:
    return [
        Measurement(work.title, stack, "a library", "3", "a suite", 100, done, seconds, cpu, cpu)
        for work in WORKS
    ]


def test_plain_udp_and_this_package_do_every_kind_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert pydtls.main(["--rounds", "1", "--seconds", "0.02"]) == 0
    printed = capsys.readouterr().out
    assert "ECDHE-RSA-AES256-GCM-SHA384 and ECDHE-ECDSA-AES256-GCM-SHA384" in printed
    for work in WORKS:
        rows = [line for line in printed.splitlines() if line.startswith(f"{work.title:22}")]
        assert [PLAIN in row for row in rows].count(True) == (work.kind != "handshakes")
        assert [NEW in row[:36] for row in rows].count(True) == 1
        assert any(f"{work.documented:,.0f}" in row for row in rows if "as documented" in row)


def test_the_package_to_compare_with_is_the_one_on_the_path_given(tmp_path: Path) -> None:
    (tmp_path / "dtls.py").write_text("raise ImportError('this is the old one')")
    stack = pydtls.old_stack(str(tmp_path), "libraries", sys.executable)
    assert stack.environment["LD_LIBRARY_PATH"].split(os.pathsep)[0] == "libraries"
    with pytest.raises(RuntimeError, match="old package, handshakes, RSA 2048: a process failed"):
        pydtls.measure(stack, WORKS[0], 0.01, Credentials(tmp_path))


def test_a_process_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydtls, "PATIENCE", 0.2)
    (tmp_path / "dtls.py").write_text("import threading\nthreading.Event().wait()")
    stack = Stack(NEW, sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)})
    with pytest.raises(RuntimeError, match="failed or took too long"):
        pydtls.measure(stack, WORKS[0], 0.01, Credentials(tmp_path))


def test_the_table_compares_medians_and_tells_what_was_lost() -> None:
    measurements = [
        *_measured(OLD, seconds=1.0, cpu=0.001),
        *_measured(NEW, seconds=2.0, cpu=0.003),
        *_measured(NEW, seconds=4.0, cpu=0.003),
        *_measured(NEW, seconds=5.0, cpu=0.003),
    ]
    rows = [line for line in pydtls.table(measurements).splitlines() if NEW in line]
    assert len(rows) == len(WORKS)
    for row in rows:
        assert "22 (18 to 45)" in row  # 90 in 4 s
        assert "10.0%" in row
        assert row.split()[-3:] == ["0.25", "3.00", "3.00"]
    assert "documented" not in pydtls.table(measurements)


def test_documented_figures_are_scaled_by_plain_udp_of_the_same_run() -> None:
    plain = _measured(PLAIN, seconds=1.0, cpu=0.001, done=100)
    echo = next(work for work in WORKS if work.title == "echo")
    rows = [
        line for line in pydtls.table(plain).splitlines() if line.startswith(f"{echo.title:22}old, scaled")
    ]
    assert rows[0].split()[-2:] == ["50", "0%"]  # half of plain UDP's 100 a second
