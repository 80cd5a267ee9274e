"""The benchmarks must run, and notice when they measure nothing. How fast anything is does not matter here."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmarks need Linux: affinity, clocks of other processes", allow_module_level=True)

from benchmarks import __main__ as command
from benchmarks import aims, document, measure, processes, routing, workers
from benchmarks.build import LOAD, CompileError, Program
from benchmarks.measure import Failure, Measurement, Results
from benchmarks.report import WIDE, Report
from benchmarks.stacks import STACKS, Stack
from benchmarks.works import QUICK, WORKS
from tests.peers.programs import missing

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.works import Work

needs_load = pytest.mark.usefixtures("load")
ECHO = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
print("LISTENING", sock.getsockname()[1], "a test", flush=True)
while True:
    message, address = sock.recvfrom(2048)
    sock.sendto(b"count 0" if len(message) < 100 else {answer}, address)
"""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def load() -> None:
    if reason := LOAD.lacks():
        missing(f"the load cannot be compiled: {reason}")


def _run(monkeypatch: pytest.MonkeyPatch, script: str, *works: Work) -> Results:
    """Results of plain UDP's works on a server that is this script."""
    monkeypatch.setattr(Stack, "command", lambda _: [sys.executable, "-c", script])
    monkeypatch.setattr(processes, "PATIENCE", 2.0)
    return measure.run(works or [WORKS["ping-pong"]], [STACKS["plain"]], 2, QUICK)


def _report(values: dict[tuple[str, str], float], **others: Any) -> Report:
    measurements = [Measurement(work, stack, value, **others) for (work, stack), value in values.items()]
    return Report({"rounds": "1"}, {}, Results(measurements, [], {}))


def _check(report: Report, work: str, stack: str, against: str) -> aims.Check:
    titles = (WORKS[work].title, STACKS[stack].title)
    return next(
        check
        for check in aims.checks(report)
        if (check.work, check.stack) == titles and check.against.startswith(against)
    )


# --- it runs ---------------------------------------------------------------------------------------------------------


def _assert_complete(report: Report, names: list[str]) -> None:
    """Every stack that is there did every work that is for it, or said why not."""
    cannot = {
        ("resumed", "mbedtls"),
        *((work, "dtls") for work in ("echo-5000", "echo-10000")),
        *(
            (work, name)
            for work in ("in-batched", "out-batched")
            for name in STACKS
            if STACKS[name].lacks_batches()
        ),
    }
    assert {(one.work, one.stack) for one in report.results.failures} <= cannot
    for work in WORKS.values():
        for name in set(work.stacks) & set(names) - set(report.left_out):
            measured = report.of(work.name, name)
            assert measured or (work.name, name) in cannot, (work.name, name)
            assert all(one.value > 0 for one in measured if work.name != "memory")


@needs_load
def test_every_work_is_done_or_it_is_said_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name, stack in STACKS.items() if stack.own or not stack.secured]
    file = tmp_path / "run.json"
    assert command.main(["--quick", "--stacks", *names, "--json", str(file)]) == 0
    report = Report.from_json(json.loads(file.read_text()))
    printed = capsys.readouterr().out
    assert report.table() in printed
    assert not report.left_out
    _assert_complete(report, names)


@pytest.mark.peers
@needs_load
def test_the_stacks_of_others_do_every_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name, stack in STACKS.items() if stack.secured and not stack.own]
    file = tmp_path / "run.json"
    assert command.main(["--quick", "--stacks", *names, "dtls-serve", "--json", str(file)]) == 0
    report = Report.from_json(json.loads(file.read_text()))
    assert aims.table(report) in capsys.readouterr().out
    _assert_complete(report, names)
    for name, reason in report.left_out.items():
        if name != "mbedtls" or sys.version_info < (3, 13):  # it has no wheels there
            missing(f"{name}: {reason}")


@needs_load
def test_a_stack_that_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = STACKS["trio"]._replace(needs=("no_such_package",), distributions="no-such-package")
    monkeypatch.setitem(STACKS, "trio", absent)
    assert command.main(["--quick", "--stacks", "plain", "trio", "--only", "ping-pong"]) == 0
    printed = capsys.readouterr().out
    assert "left out: trio DTLSEndpoint: not installed: no-such-package" in printed
    assert "  plain UDP, blocking" in printed


def test_without_a_compiler_a_slower_load_does_what_it_can(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    names = ["plain-asyncio", "dtls-serve", "c", "pion"]
    file = tmp_path / "run.json"
    assert command.main(["--quick", "--stacks", *names, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "load: in Python: a C compiler is not installed" in printed
    assert "libssl-dev" in printed
    report = Report.from_json(json.loads(file.read_text()))
    assert set(report.left_out) == {"c", "pion"}
    _assert_complete(report, names)


@needs_load
def test_a_program_with_faults_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "faulty.c").write_text("int main(void) { return nothing; }")
    program = Program("faulty", (str(tmp_path / "faulty.c"),), ("ssl",))
    with pytest.raises(CompileError, match="nothing"):
        program.built()


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--rounds", "0"], ["--stacks", "telnet"]])
def test_what_it_is_told_is_checked(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)


def test_works_are_named_by_the_beginning_of_their_names() -> None:
    assert [work.name for work in measure.select(["echo", "in"])] == [
        "echo-100", "echo-1000", "echo-5000", "echo-10000", "in", "in-batched",
    ]  # fmt: skip
    assert list(measure.select(None)) == list(WORKS.values())


def test_routing_is_measured_with_few_and_with_many_associations() -> None:
    rows = routing.run(2, 6, rounds=1, echoes=30)
    assert [(row.associations, row.speaking) for row in rows] == [(2, 2), (6, 2), (6, 6)]
    assert all(row.median > 0 for row in rows)
    assert len(routing.table(rows).splitlines()) == 4


def test_servers_with_one_and_with_two_workers_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert workers.main(["--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[-4:]] == [["0", "1"], ["0", "2"], ["100", "1"], ["100", "2"]]


# --- it notices ------------------------------------------------------------------------------------------------------


def test_the_clock_is_that_of_the_process() -> None:
    before = time.process_time()
    between = processes.cpu_of(os.getpid())
    assert before <= between <= time.process_time()


@needs_load
def test_the_memory_that_a_server_takes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    hoarding = ECHO.format(answer="hoard.append(b'x' * 500_000) or message").replace(
        "while", "hoard = []\nwhile"
    )
    results = _run(monkeypatch, hoarding, WORKS["memory"]._replace(stacks=("plain",)))
    assert all(one.value > 450 for one in results.measurements)
    assert len(results.measurements) == 2


@needs_load
def test_something_else_than_an_echo_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    results = _run(monkeypatch, ECHO.format(answer="b'x' * len(message)"))
    assert results.measurements == []
    reason = "the load ended: something else came back than was sent"
    assert results.failures == [Failure("ping-pong", "plain", reason)]


@needs_load
def test_silence_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    results = _run(monkeypatch, ECHO.format(answer="b'x'"))
    assert results.failures == [Failure("ping-pong", "plain", "nothing was answered in 0.9 s")]


@needs_load
def test_a_server_that_fails_is_shown_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    results = _run(monkeypatch, "raise SystemExit('no such thing')")
    assert results.failures == [Failure("ping-pong", "plain", "the server ended: no such thing")]


@needs_load
def test_a_server_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    results = _run(monkeypatch, "import threading; threading.Event().wait()")
    assert results.failures == [Failure("ping-pong", "plain", "the server said nothing for 2 s")]


# --- what is made of it ----------------------------------------------------------------------------------------------


def test_a_row_has_the_median_the_spread_and_ratios() -> None:
    values = [Measurement("in", "dtls", value, 1000.0, 0.5, 0.25) for value in (3.0, 9.0, 4.0)]
    references = [Measurement("in", "c", 2.0, 1.0), Measurement("in", "plain-asyncio", 8.0, 1.0)]
    failures = [Failure("in", "trio", "is tired")]
    table = Report({}, {}, Results(values + references, failures, {})).table()
    row = next(line for line in table.splitlines() if line.startswith("  dtls, blocking"))
    assert row.split()[2:] == ["4.00", "(3.00", "to", "9.00)", "1,000", "50%", "25.0%", "0.50", "2.00"]
    assert "is tired" in table


def test_the_tables_fit_the_terminal() -> None:
    measurements = [
        Measurement(name, stack, 1234.5, 1e6, 1.0, 0.123, 1e5 if name == "hello" else None)
        for name, work in WORKS.items()
        for stack in work.stacks
    ]
    report = Report({}, {}, Results(measurements, [], {}))
    assert [line for line in report.table().splitlines() if len(line) > WIDE] == []
    narrow = "\n".join((report.table(80), aims.table(report)))
    assert [line for line in narrow.splitlines() if len(line) > 80] == []


def test_an_aim_is_a_ratio_within_the_run() -> None:
    report = _report(
        {("echo-100", "dtls-serve"): 10.0, ("echo-100", "plain-asyncio"): 24.0, ("echo-100", "c"): 7.0}
    )
    against_plain = _check(report, "echo-100", "dtls-serve", "plain")
    assert (against_plain.measured, against_plain.met) == ("0.42", False)
    against_c = _check(report, "echo-100", "dtls-serve", "C on")
    assert (against_c.measured, against_c.met) == ("1.43", True)
    assert _check(report, "echo-100", "dtls-serve", "pion").met is None
    assert "pion" not in aims.table(report)


def test_growth_is_compared_with_that_of_the_program_in_c() -> None:
    values = {("echo-100", "dtls-serve"): 10.0, ("echo-100", "c"): 5.0, ("echo-1000", "c"): 8.0}
    slower = _report({**values, ("echo-1000", "dtls-serve"): 20.0})
    assert _check(slower, "echo-1000", "dtls-serve", "growth")[4:] == ("1.25", False)
    alike = _report({**values, ("echo-1000", "dtls-serve"): 16.0})
    assert _check(alike, "echo-1000", "dtls-serve", "growth")[4:] == ("1.00", True)


def test_more_round_trips_are_better() -> None:
    values = {("ping-pong", "dtls-serve"): 10.0, ("ping-pong", "plain-asyncio"): 10.0}
    assert _check(_report(values, per_second=5.0), "ping-pong", "dtls-serve", "round").met
    report = _report(values, per_second=5.0)
    report.results.measurements[0] = report.results.measurements[0]._replace(per_second=4.0)
    assert not _check(report, "ping-pong", "dtls-serve", "round").met


def test_what_a_server_keeps_of_a_hello_is_held_against_it() -> None:
    values = {("hello", "dtls-serve"): 10.0}
    assert _check(_report(values, kept=0.0), "hello", "dtls-serve", "memory").met
    assert not _check(_report(values, kept=400.0), "hello", "dtls-serve", "memory").met


def test_a_run_is_the_same_when_it_is_read_again() -> None:
    results = Results([Measurement("in", "c", 2.0)], [Failure("in", "trio", "is tired")], {"c": "OpenSSL"})
    report = Report({"rounds": "1"}, {"pion": "no Go"}, results)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_plots_show_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from benchmarks import plots  # noqa: PLC0415 - only with matplotlib

    report = _report({(work, stack): 7.25 for work in WORKS for stack in WORKS[work].stacks})
    written = plots.write(report, tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    for path, title in written.items():
        words = "".join(ET.fromstring(path.read_text()).itertext())  # noqa: S314 - our own
        assert title in words
        assert "C on OpenSSL" in words
    assert plots.write(_report({("memory", "c"): 44.0}), tmp_path / "few").keys() == {
        tmp_path / "few" / "memory.svg"
    }


def test_the_page_gets_the_run_between_its_markers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    page = tmp_path / "page.md"
    names = ("aims", "table", "plots")
    page.write_text(
        "\n".join(f"before\n<!-- benchmarks: {n} -->\nold {n}\n<!-- end of {n} -->" for n in names)
    )
    report = _report({("memory", "c"): 44.0, ("memory", "dtls-serve"): 66.0})
    for _ in range(2):
        document.update(report, page, tmp_path / "plots")
        text = page.read_text()
        assert "old" not in text
        assert text.count("before\n") == 3
        assert text.count("](plots/memory.svg)") == 1
        assert report.table().strip() in text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="no markers"):
        document.update(report, page, tmp_path / "plots")
    assert all(name in document.PAGE.read_text() for name in ("benchmarks: aims", "benchmarks: table"))
