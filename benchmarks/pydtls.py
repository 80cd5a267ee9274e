"""Measure PyDTLS's interface, blocking sockets over loopback: of this package and, where it is found, of the old one.

``python -m benchmarks.pydtls [--old PYTHONPATH --old-libraries DIR --old-python EXE] [--rounds N] [--seconds S]``

The old package, python3-dtls 1.3.0, needs a directory with itself in it (``--old``), one with ``libssl.so.1.1`` and
``libcrypto.so.1.1`` (``--old-libraries``) and Python 3.11 at most (``--old-python``). Without it, its figures as they
were measured once are printed beside. Both sides run the same program, ``pydtls_peer.py``, whichever the package.

Where an idle core takes long to wake, echoes measure little else; all on one core (``taskset -c 0 python -m ...``) they
say more of the packages, and what goes one way says less.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dtls
from dtls.certificates import CertificateAuthority

from .pydtls_peer import ECHO, HANDSHAKES, MESSAGE_SIZE, ONE_WAY, WAIT, Job

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dtls.certificates import KeyType

ROUNDS = 5
SECONDS = 1.0
PATIENCE = 20.0
"""Seconds that anything may take beyond the time that is measured, before it is ended."""

PLAIN, OLD, NEW = "plain UDP", "old package", "this package"
_PEER = Path(__file__).with_name("pydtls_peer.py")
_COLUMNS = (
    ("per second (min to max)", 31),
    ("lost", 7),
    ("server us CPU (min to max)", 29),
    ("client us CPU", 15),
    ("/ plain", 9),
    ("/ old", 8),
    ("server CPU / old", 18),
    ("client CPU / old", 18),
)


class Work(NamedTuple):
    """A kind of work."""

    title: str
    kind: str
    key_type: KeyType
    with_timeout: bool
    documented: float
    """What the old package did in a second where its interface was described (Python 3.11, OpenSSL 1.1.1)."""
    documented_plain: float | None
    """What plain UDP did there."""
    documented_lost: float = 0.0


WORKS = (
    Work("handshakes, RSA 2048", HANDSHAKES, "rsa", False, 400, None),
    Work("handshakes, P-256", HANDSHAKES, "ec", False, 700, None),
    Work("echo", ECHO, "rsa", False, 20_000, 40_000),
    Work("echo, timeout set", ECHO, "rsa", True, 9_300, 40_000),
    Work("one way", ONE_WAY, "rsa", False, 90_000, 115_000, 0.1),
)
CIPHERS: dict[KeyType, str] = {"rsa": "ECDHE-RSA-AES256-GCM-SHA384", "ec": "ECDHE-ECDSA-AES256-GCM-SHA384"}


class Stack(NamedTuple):
    """Something to measure: which interpreter runs it, and with what it finds it."""

    name: str
    python: str
    environment: dict[str, str]

    def does(self, work: Work) -> bool:
        """Whether there is such a thing in it. Plain UDP shakes no hands."""
        return self.name != PLAIN or work.kind != HANDSHAKES


class Measurement(NamedTuple):
    """One run of one kind of work on one stack."""

    title: str
    stack: str
    library: str
    python: str
    cipher: str | None
    sent: int
    """Operations that the client began; those that the server saw are as many, but for losses of what goes one way."""
    done: int
    seconds: float
    server_cpu: float
    """Seconds for what the server saw."""
    client_cpu: float
    """Seconds for what the client began."""

    @property
    def rate(self) -> float:
        """Operations that were done in a second."""
        return self.done / self.seconds


def new_stack(name: str = NEW) -> Stack:
    """The package that is imported here, or plain UDP, in the interpreter that runs this."""
    here = str(Path(dtls.__file__).parents[1])
    return Stack(name, sys.executable, {**os.environ, "PYTHONPATH": here})


def old_stack(path: str, libraries: str | None, python: str) -> Stack:
    """The old package in the directory ``path``."""
    environment = {**os.environ, "PYTHONPATH": path}
    if libraries is not None:
        others = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, (libraries, others)))
    return Stack(OLD, python, environment)


class Credentials:
    """Certificates of either kind, in files below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for key_type in CIPHERS:
            authority = CertificateAuthority(key_type=key_type)
            issued = authority.issue("localhost", "127.0.0.1", key_type=key_type)
            self.path(key_type, "server").write_bytes(issued.private_key_and_chain_pem)
            self.path(key_type, "client").write_bytes(authority.certificate_pem)

    def path(self, key_type: KeyType, role: str) -> Path:
        """What that side is told as its certificate, or the one it trusts."""
        return self._directory / f"{key_type}-{role}.pem"


def measure(stack: Stack, work: Work, seconds: float, credentials: Credentials) -> Measurement:
    """Do one kind of work on one stack. Raises :exc:`RuntimeError` if either side fails or takes too long."""

    def job(role: str, port: int) -> Job:
        return Job(
            role=role,
            work=work.kind,
            secured=stack.name != PLAIN,
            with_timeout=work.with_timeout,
            ciphers=CIPHERS[work.key_type],
            pem=str(credentials.path(work.key_type, role)),
            seconds=seconds,
            patience=seconds + PATIENCE,
            port=port,
        )

    with _started(stack, job("server", 0)) as server:
        introduction = _told(server, stack, work)
        with _started(stack, job("client", introduction["port"])) as client:
            began = _told(client, stack, work)
            done = _told(server, stack, work)
    assert 0 < done["operations"] <= began["operations"], f"{stack.name}, {work.title}: {began}, {done}"
    assert work.kind == ONE_WAY or done["operations"] == began["operations"], f"{stack.name}, {work.title}"
    assert began["cipher"] == done["cipher"], f"{stack.name}, {work.title}: the sides disagree"
    return Measurement(
        work.title,
        stack.name,
        introduction["library"],
        introduction["python"],
        began["cipher"],
        began["operations"],
        done["operations"],
        done["seconds"],
        done["cpu"],
        began["cpu"],
    )


@contextlib.contextmanager
def _started(stack: Stack, job: Job) -> Iterator[subprocess.Popen[str]]:
    """One side's process, which has ended afterwards in any case."""
    command = [stack.python, "-W", "ignore", str(_PEER), json.dumps(job._asdict())]
    with subprocess.Popen(command, env=stack.environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - it is ours
        # What waits for its words finds their end.
        limit = threading.Timer(job.patience, process.kill)
        limit.start()
        try:
            yield process
        finally:
            limit.cancel()
            process.kill()
            limit.join()


def _told(process: subprocess.Popen[str], stack: Stack, work: Work) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        message = f"{stack.name}, {work.title}: a process failed or took too long"
        raise RuntimeError(message)
    told: dict[str, Any] = json.loads(line)
    return told


def run(stacks: Sequence[Stack], rounds: int, seconds: float) -> list[Measurement]:
    """All work on all stacks, interleaved, so that a change of the machine's mood meets all of them."""
    with tempfile.TemporaryDirectory() as directory:
        credentials = Credentials(Path(directory))
        return [
            measure(stack, work, seconds, credentials)
            for _ in range(rounds)
            for work in WORKS
            for stack in stacks
            if stack.does(work)
        ]


class Summary(NamedTuple):
    """What is left of several measurements of the same: medians, with the least and the most."""

    rate: tuple[float, float, float]
    lost: float
    server: tuple[float, float, float]
    """Microseconds of CPU for an operation that the server saw."""
    client: tuple[float, float, float]
    """Microseconds of CPU for an operation that the client began."""

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> Summary:
        """Of measurements of one kind of work on one stack."""
        return cls(
            _spread([one.rate for one in measurements]),
            1 - sum(one.done for one in measurements) / sum(one.sent for one in measurements),
            _spread([one.server_cpu / one.done * 1e6 for one in measurements]),
            _spread([one.client_cpu / one.sent * 1e6 for one in measurements]),
        )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def table(measurements: Sequence[Measurement]) -> str:
    """Medians, and ratios of medians within the run; the documented figures where the old package was not measured."""
    summaries = {
        (title, stack): Summary.of([one for one in measurements if (one.title, one.stack) == (title, stack)])
        for title, stack in {(one.title, one.stack) for one in measurements}
    }
    lines = [" " * 36 + "".join(f"{title:>{width}}" for title, width in _COLUMNS)]
    for work in WORKS:
        plain, old = summaries.get((work.title, PLAIN)), summaries.get((work.title, OLD))
        for name in (PLAIN, OLD, NEW):
            summary = summaries.get((work.title, name))
            if summary is not None:
                cells = _cells(summary, plain, old)
                lines.append(f"{work.title:22}{name:14}{cells}".rstrip())
        if old is None:
            lines += _documented(work, summaries.get((work.title, NEW)), plain)
        lines.append("")
    return "\n".join(lines)


def _cells(summary: Summary, plain: Summary | None, old: Summary | None) -> str:
    rate, server = summary.rate, summary.server
    cells = [
        f"{rate[0]:,.0f} ({rate[1]:,.0f} to {rate[2]:,.0f})",
        f"{summary.lost:.1%}",
        f"{server[0]:.1f} ({server[1]:.1f} to {server[2]:.1f})",
        f"{summary.client[0]:.1f}",
        _ratio(rate[0], plain and plain.rate[0]),
        _ratio(rate[0], old and old.rate[0]),
        _ratio(server[0], old and old.server[0]),
        _ratio(summary.client[0], old and old.client[0]),
    ]
    return "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


def _ratio(value: float, other: float | None) -> str:
    return f"{value / other:.2f}" if other else ""


def _documented(work: Work, new: Summary | None, plain: Summary | None) -> list[str]:
    """The old package's figures of once, and what they would be if it and plain UDP went with the machine alike."""
    figures = [("as documented", work.documented)]
    if plain is not None and work.documented_plain is not None:
        figures.append(("scaled", work.documented * plain.rate[0] / work.documented_plain))
    return [
        f"{work.title:22}{f'old, {how}':20}{f'{rate:,.0f}':>25}{work.documented_lost:7.0%}"
        + (f"   this package / that: {new.rate[0] / rate:.2f}" if new is not None else "")
        for how, rate in figures
    ]


def heading(measurements: Sequence[Measurement]) -> str:
    """What was measured with what."""
    lines = [
        f"{name}: Python {one.python}" + (f", {one.library}" if name != PLAIN else "")
        for name in (PLAIN, OLD, NEW)
        for one in measurements[::-1]
        if one.stack == name
    ]
    suites = sorted({f"{one.title}, {one.stack}: {one.cipher}" for one in measurements if one.cipher})
    agreed = {one.cipher for one in measurements if one.cipher} == set(CIPHERS.values())
    lines = list(dict.fromkeys(lines))
    lines += [f"DTLS 1.2, {' and '.join(CIPHERS.values())}"] if agreed else suites
    lines.append(f"{MESSAGE_SIZE}-byte messages; the timeout that is set is {WAIT:g} s")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pydtls", description=__doc__)
    parser.add_argument("--old", metavar="PYTHONPATH", help="directory with the old package 'dtls' in it")
    parser.add_argument(
        "--old-libraries", metavar="DIR", help="directory with libssl.so.1.1, libcrypto.so.1.1"
    )
    parser.add_argument(
        "--old-python", metavar="EXE", default=sys.executable, help="Python for the old package"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every measurement to FILE")
    options = parser.parse_args(arguments)
    stacks = [new_stack(PLAIN), new_stack()]
    if options.old is not None:
        stacks.insert(1, old_stack(options.old, options.old_libraries, options.old_python))
    measurements = run(stacks, options.rounds, options.seconds)
    print(heading(measurements))
    print(
        f"{options.rounds} interleaved rounds of {options.seconds:g} s each, on {platform.system()}; medians; "
        "CPU in microseconds per operation\n"
    )
    print(table(measurements))
    if options.json:
        options.json.write_text(json.dumps([one._asdict() for one in measurements], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
