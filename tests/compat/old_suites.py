"""Runs the test suites of the old package, python3-dtls 1.3.0, against this one: ``python -m tests.compat.old_suites``.

Its wheel comes from PyPI. Of that only the tests are unpacked, beside nothing else, so that their ``import dtls``
finds this package. What is changed in them is told, and is this: certificates that are valid now, and the newest
version of OpenSSL that they have heard of. ``asyncore`` comes from PyPI's pyasyncore where Python has none.

Each suite runs again after ``ssl.wrap_socket``, ``ssl.match_hostname`` and ``asyncore`` were taken away before this
package was imported, which then has to do without them. The suite ``unit.py`` runs with the routing demultiplexer too,
which it was meant to do by itself (it leaves its loop after the first round).
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import dtls
from tests.compat import certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HERE = Path(__file__).parent
_DOWNLOAD_SECONDS = 60
_SUITE_SECONDS = 180
"""They take a tenth of that."""
_ECHO_ADDRESS = "127.0.0.1", 28000
"""The echo server knows no other."""

_PATCHES = [
    # A version below 2, as a number and as the first part of a tuple; 5 stands for what is still to come.
    ("unit.py", r"(assertLess\(n, 0x)2(0{7}\))", r"\g<1>5\2"),
    ("unit.py", r"(assertLess\(major, )2\)", r"\g<1>5)"),
]


class NotAvailableError(Exception):
    """The old package cannot be had: there is no connection to PyPI, most likely."""


class Suite(NamedTuple):
    """A suite, and what it says when all is well."""

    script: str
    arguments: tuple[str, ...] = ()
    tests: tuple[int, ...] = ()
    """How many tests each of its rounds has."""


UNIT = Suite("unit.py", ("-v",), (22, 22))
WRAPPER = Suite("unit_wrapper.py", ("-v",), (13,))
ECHO = Suite("echo_seq.py")
RUNS: list[tuple[Suite, tuple[str, ...]]] = [
    (UNIT, ()),
    (UNIT, ("--routing",)),
    (WRAPPER, ()),
    (ECHO, ()),
    (UNIT, ("--bare",)),
    (UNIT, ("--bare", "--routing")),
    (WRAPPER, ("--bare",)),
    (ECHO, ("--bare",)),
]


class Result(NamedTuple):
    """What came of a run."""

    name: str
    wrong: str | None
    """What is wrong, if something is."""
    closing: list[str]
    printed: str


# --- preparations ----------------------------------------------------------------------------------------------------


def download(folder: Path) -> None:
    """Put both wheels into ``folder``, with this Python's pip."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    command += ["--quiet", "--dest", str(folder), "--requirement", str(_HERE / "wheels.txt")]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        message = f"pip download takes more than {_DOWNLOAD_SECONDS} s"
        raise NotAvailableError(message) from None
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines() or ["it does not say why"]
        # A wrong hash is no absence.
        if any("HASH" in line.upper() for line in lines):
            raise RuntimeError("\n".join(lines))
        message = f"pip download: {lines[-1]}"
        raise NotAvailableError(message)


def _wheel(folder: Path, name: str) -> Path:
    (path,) = folder.glob(f"{name}-*.whl")
    return path


def prepare(wheels: Path, folder: Path) -> str:
    """Put the old tests into ``folder``, with what is to be changed in them; that as a diff without context."""
    prefix = "dtls/test/"
    with zipfile.ZipFile(_wheel(wheels, "python3_dtls")) as wheel:
        for member in wheel.infolist():
            if member.filename.startswith(prefix) and not member.is_dir():
                path = folder / member.filename.removeprefix(prefix)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(wheel.read(member))
    certificates.write(folder / "certs")
    changes: list[str] = []
    for name in sorted({name for name, _, _ in _PATCHES}):
        path = folder / name
        old = new = path.read_bytes().decode()
        for patched, pattern, replacement in _PATCHES:
            if patched == name:
                new, number = re.subn(pattern, replacement, new)
                if number != 1:
                    message = f"{pattern!r} is {number} times in {name}"
                    raise RuntimeError(message)
        path.write_bytes(new.encode())
        changes += difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, n=0, lineterm="")
    return "\n".join(changes)


# --- runs ------------------------------------------------------------------------------------------------------------


def run(suite: Suite, options: Sequence[str], wheels: Path, folder: Path) -> Result:
    """Run one suite in one way."""
    command = [sys.executable, "-u", str(_HERE / "as_user.py"), *options]
    if "--bare" in options or sys.version_info >= (3, 12):
        command += ["--asyncore", str(_wheel(wheels, "pyasyncore"))]
    command += [str(folder / suite.script), *suite.arguments]
    return _result(
        name_of(suite, options), suite, *(_run_echo if suite is ECHO else _run_tests)(command, folder)
    )


def _start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )


def _run_tests(command: Sequence[str], folder: Path) -> tuple[int | None, str]:
    with _start(command, folder) as process:
        try:
            printed = process.communicate(timeout=_SUITE_SECONDS)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return None, process.communicate()[0].decode(errors="replace")
        return process.returncode, printed.decode(errors="replace")


def _run_echo(command: Sequence[str], folder: Path) -> tuple[int | None, str]:
    """Talk to the echo server, which serves one client and ends."""
    _wait_for(_echo_port_is_free)
    with _start(command, folder) as process:
        try:
            talked = _converse(process, str(folder / "certs" / "ca-cert.pem"))
        except (OSError, AssertionError) as error:
            process.kill()
            printed = process.communicate()[0].decode(errors="replace")
            return None, f"{printed}\nclient: {type(error).__name__}: {error}\n"
        try:
            rest = process.communicate(timeout=_SUITE_SECONDS)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return None, talked + process.communicate()[0].decode(errors="replace")
        return process.returncode, talked + rest.decode(errors="replace")


def _echo_port_is_free() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(_ECHO_ADDRESS)
        return True
    return False


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SUITE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            message = f"something else has port {_ECHO_ADDRESS[1]}"
            raise RuntimeError(message)
        time.sleep(0.2)


def _converse(process: subprocess.Popen[bytes], root: str) -> str:
    """What the server has printed until it was ready, and what its client has to say."""
    assert process.stdout is not None
    lines = [b""]
    while b"Listen invocation" not in lines[-1]:
        line = process.stdout.readline()
        if not line:
            break
        lines.append(line)
    printed = b"".join(lines).decode(errors="replace")
    if "Listen invocation" not in printed:
        message = f"the server ends:\n{printed}"
        raise AssertionError(message)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        client = dtls.SSLConnection(sock, cert_reqs=dtls.CERT_REQUIRED, ca_certs=root)
        client.connect(_ECHO_ADDRESS)
        for number in range(3):
            client.write(f"message {number}")
            answer = client.read()
            if answer != f"Back to you: message {number}".encode():
                message = f"the server answers {answer!r}"
                raise AssertionError(message)
        client.shutdown()  # it raises if the server does not answer
    return printed + "client: three messages came back, the server took leave\n"


def _result(name: str, suite: Suite, status: int | None, printed: str) -> Result:
    closing = re.findall(
        r"^(?:Ran \d+ tests? in .*|OK\b.*|FAILED\b.*|client: .*|\d+ exceptions .*)$", printed, re.MULTILINE
    )
    rounds = tuple(map(int, re.findall(r"^Ran (\d+) tests? in ", printed, re.MULTILINE)))
    wrong = None
    if status is None:
        wrong = f"stopped after {_SUITE_SECONDS} s" if suite is not ECHO else "the conversation failed"
    elif status:
        wrong = f"exit status {status}"
    elif rounds != suite.tests:
        wrong = f"{rounds} tests were run, and not {suite.tests}"
    elif len(re.findall(r"^OK$", printed, re.MULTILINE)) != len(
        suite.tests
    ):  # with skipped tests it would say so
        wrong = "not every round ends with a plain OK"
    return Result(name, wrong, closing, printed)


def name_of(suite: Suite, options: Sequence[str]) -> str:
    """What a run is called."""
    return " ".join([suite.script, *options])


def lacking(suite: Suite) -> str | None:
    """What this version has not got yet that the suite is about, in words."""
    if suite is WRAPPER and importlib.util.find_spec("dtls.wrapper") is None:
        return "this version has no dtls.wrapper"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print the closing lines; 0 if all is well, 1 if not, 2 if the old package cannot be had."""
    parser = argparse.ArgumentParser(description="Run the old package's test suites against this package.")
    parser.add_argument(
        "--wheels", type=Path, help="where both wheels are, or are put; else they are fetched anew"
    )
    parser.add_argument("--verbose", action="store_true", help="print all that the suites print")
    parser.add_argument("-k", dest="pattern", default="", help="only the runs whose names contain this")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dtls-compat-") as temporary:
        wheels = options.wheels or Path(temporary, "wheels")
        wheels.mkdir(exist_ok=True)
        if not list(wheels.glob("python3_dtls-*.whl")):
            try:
                download(wheels)
            except NotAvailableError as error:
                print(f"NOT RUN: {error}")
                return 2
        folder = Path(temporary, "tests")
        folder.mkdir()
        print("What is changed in the old tests, beside certificates:")
        print(prepare(wheels, folder), flush=True)
        failed = 0
        for suite, ways in RUNS:
            name = name_of(suite, ways)
            if options.pattern not in name:
                continue
            if reason := lacking(suite):
                print(f"=== {name}: NOT RUN: {reason}")
                continue
            result = run(suite, ways, wheels, folder)
            failed += result.wrong is not None
            report(result, verbose=options.verbose)
        print("OK" if not failed else f"FAILED: {failed} runs", f"on Python {sys.version.split()[0]}")
    return 1 if failed else 0


def report(result: Result, *, verbose: bool) -> None:
    """Print the closing lines of a run, and all of it if something is wrong."""
    if verbose or result.wrong:
        print(result.printed)
    print(f"=== {result.name}: {result.wrong or 'as it should be'}")
    for line in result.closing:
        print(f"    {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
