"""The benchmarks must run, and notice when they measure nothing. How fast anything is does not matter here."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("OpenSSL", reason="pyOpenSSL, which the benchmarks compare with, is not installed")

from benchmarks import routing, workers
from benchmarks.__main__ import run, table
from benchmarks.stacks import STACKS
from benchmarks.work import WORK


def test_every_stack_does_every_kind_of_work() -> None:
    measurements = run(1, {"handshakes": 2, "echo": 5, "one way": 20})
    assert {(one.work, one.stack) for one in measurements} == {
        (work, stack.name) for work in WORK for stack in STACKS
    }
    assert all(one.operations > 0 and one.seconds > 0 for one in measurements)
    assert all(one.operations == 5 for one in measurements if one.work == "echo")
    printed = table(measurements)
    assert all(f"{work:12}{stack.name:12}" in printed for work in WORK for stack in STACKS)


def test_routing_is_measured_with_few_and_with_many_associations() -> None:
    rows = routing.run(2, 6, rounds=1, echoes=30)
    assert [(row.associations, row.speaking) for row in rows] == [(2, 2), (6, 2), (6, 6)]
    assert all(row.median > 0 for row in rows)
    assert len(routing.table(rows).splitlines()) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads datagrams over processes")
def test_servers_with_one_and_with_two_workers_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert workers.main(["--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[-4:]] == [["0", "1"], ["0", "2"], ["100", "1"], ["100", "2"]]
