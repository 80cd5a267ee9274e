"""Others' suites, see :mod:`tests.compat`; here they are skipped, with the reason, where they cannot be had."""

from __future__ import annotations

import json
import textwrap
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.compat import old_suites, stdlib_ssl
from tests.compat.old_suites import NotAvailableError, Suite
from tests.pydtls import run_python

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    try:
        old_suites.download(folder)
    except NotAvailableError as error:
        pytest.skip(f"the old package cannot be had: {error}")
    return folder


@pytest.fixture(scope="module")
def old_tests(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    old_suites.prepare(wheels, folder)
    return folder


# --- the old package's suites ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suite", "options"), [pytest.param(*run, id=old_suites.name_of(*run)) for run in old_suites.RUNS]
)
def test_the_old_packages_suite_passes(
    suite: Suite, options: tuple[str, ...], wheels: Path, old_tests: Path
) -> None:
    reason = old_suites.lacking(suite)
    if reason:
        pytest.skip(reason)
    result = old_suites.run(suite, options, wheels, old_tests)
    assert result.wrong is None, result.printed


def test_little_is_changed_in_the_old_tests(wheels: Path, tmp_path: Path) -> None:
    changes = old_suites.prepare(wheels, tmp_path).splitlines()
    assert len([line for line in changes if line[:1] == "+" and line[:3] != "+++"]) == 2
    with zipfile.ZipFile(next(wheels.glob("python3_dtls-*.whl"))) as wheel:
        old = {name.removeprefix("dtls/test/"): wheel.read(name) for name in wheel.namelist()}
    changed = {
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file() and old[path.relative_to(tmp_path).as_posix()] != path.read_bytes()
    }
    renewed = "ca-cert", "ca-cert_ec", "keycert", "keycert_ec", "server-cert", "server-cert_ec", "wrongcert"
    assert changed == {"unit.py", *(f"certs/{name}.pem" for name in renewed)}


FAULTS = {
    "a test that fails": "import unittest\nclass T(unittest.TestCase):\n def test(self): self.fail()\nunittest.main()",
    "no test": "import unittest\nunittest.main()",
    "a test that is skipped": (
        "import unittest\nclass T(unittest.TestCase):\n def test(self): self.skipTest('why')\nunittest.main()"
    ),
    "an exception in a thread": (
        "import threading, unittest\nclass T(unittest.TestCase):\n"
        " def test(self): t = threading.Thread(target=int, args=('x',)); t.start(); t.join()\nunittest.main()"
    ),
    "one round of two": (
        "import unittest\nclass T(unittest.TestCase):\n def test(self): pass\nunittest.main(exit=False)"
    ),
}


def run_suite(code: str, folder: Path, *options: str, rounds: int = 1) -> old_suites.Result:
    (folder / "suite.py").write_text(code)
    with zipfile.ZipFile(folder / "pyasyncore-0.whl", "w") as wheel:
        wheel.writestr("asyncore/__init__.py", "ours = True")
    return old_suites.run(Suite("suite.py", tests=(1,) * rounds), options, folder, folder)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_runner_notices(fault: str, tmp_path: Path) -> None:
    result = run_suite(FAULTS[fault], tmp_path, rounds=2 if fault == "one round of two" else 1)
    assert result.wrong, result.printed


def test_the_runner_takes_away_what_newer_pythons_lack_and_gives_asyncore(tmp_path: Path) -> None:
    code = """
        import asyncore, dtls, ssl, unittest
        class T(unittest.TestCase):
            def test(self):
                assert asyncore.ours and not hasattr(ssl, "match_hostname")
                assert ssl.wrap_socket.__module__ == "dtls.patch"
                assert dtls.reset_default_demux is dtls.force_routing_demux
        unittest.main()
    """
    result = run_suite(textwrap.dedent(code), tmp_path, "--bare", "--routing")
    assert result.wrong is None, result.printed


# --- CPython's -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not stdlib_ssl.is_there(), reason="this Python does not carry its own tests")
def test_every_test_of_pythons_ssl_module_ends_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    status = stdlib_ssl.main([])
    assert status == 0, capsys.readouterr().out


def test_a_test_that_ends_otherwise_is_a_difference() -> None:
    before = {
        "same": "ok",
        "worse": "ok",
        "gone": "ok",
        "elsewhere": "failed: AssertionError at test_ssl.py:1",
    }
    after = {
        "same": "ok",
        "worse": "failed: E",
        "elsewhere": "failed: AssertionError at test_ssl.py:2",
        "new": "ok",
    }
    assert stdlib_ssl.differences(before, after) == [
        "elsewhere: failed: AssertionError at test_ssl.py:1 before, failed: AssertionError at test_ssl.py:2 after",
        "gone: ok before, not run after",
        "new: not run before, ok after",
        "worse: ok before, failed: E after",
    ]


KNOW_DATAGRAMS = {"wrap_socket", "get_server_certificate", "get_protocol_name", "_PROTOCOL_NAMES"}


def test_of_the_ssl_module_nothing_is_replaced_but_what_is_to_know_datagrams() -> None:
    code = """
        import json, ssl
        before = dict(vars(ssl))
        classes = {name: dict(vars(value)) for name, value in before.items() if isinstance(value, type)}
        import dtls
        dtls.do_patch()
        changed = [name for name in before if vars(ssl)[name] is not before[name]]
        for name, members in classes.items():
            now = vars(before[name])
            changed += [f"{name}.{key}" for key in now if now[key] is not members.get(key)]
        print(json.dumps(changed))
    """
    changed = set(json.loads(run_python(textwrap.dedent(code))))
    assert "get_server_certificate" in changed
    assert changed - KNOW_DATAGRAMS == {"SSLSocket.__init__"}
