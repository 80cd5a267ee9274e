"""Runs CPython's own tests in this process and writes down how each ended.

``record_tests.py [--patched] FILE MODULE...``; with ``--patched`` after ``dtls.do_patch()``. Nothing of the internet is
asked for.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    Details = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Record(unittest.TestResult):
    """How each test ended, and each part of a test that failed."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, str] = {}

    def _write_down(self, test: Any, outcome: str) -> None:
        name = test.id()
        # A test that fails may fail once more, when it is cleaned up after.
        self.outcomes[name] = f"{self.outcomes[name]}; {outcome}" if name in self.outcomes else outcome

    def addSuccess(self, test: Any) -> None:  # noqa: N802 - unittest calls it so
        super().addSuccess(test)
        self._write_down(test, "ok")

    def addFailure(self, test: Any, err: Details) -> None:  # noqa: N802 - as above
        super().addFailure(test, err)
        self._write_down(test, f"failed: {_place(err)}")

    def addError(self, test: Any, err: Details) -> None:  # noqa: N802 - as above
        super().addError(test, err)
        self._write_down(test, f"error: {_place(err)}")

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802 - as above
        super().addSkip(test, reason)
        self._write_down(test, f"skipped: {reason}")

    def addExpectedFailure(self, test: Any, err: Details) -> None:  # noqa: N802 - as above
        super().addExpectedFailure(test, err)
        self._write_down(test, "failed as expected")

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802 - as above
        super().addUnexpectedSuccess(test)
        self._write_down(test, "ok, unexpectedly")

    def addSubTest(self, test: Any, subtest: Any, err: Details | None) -> None:  # noqa: N802 - as above
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._write_down(subtest, f"failed: {_place(err)}")


def _place(err: Details) -> str:
    """What was raised, and at which line of CPython's tests: texts may have addresses in them."""
    kind, _, traceback = err
    place = ""
    while traceback is not None:
        path = Path(traceback.tb_frame.f_code.co_filename)
        if path.name.startswith("test_"):
            place = f" at {path.name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return f"{kind.__name__ if kind else 'nothing'}{place}"


def main() -> None:
    """Run the tests. Failing ones are no failure here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--patched", action="store_true")
    parser.add_argument("file", type=Path)
    parser.add_argument("modules", nargs="+")
    options = parser.parse_args()
    # This file's folder, which Python has put there, has nothing that CPython's tests want.
    del sys.path[0]
    if options.patched:
        import dtls  # noqa: PLC0415 - only if it is asked for

        dtls.do_patch()
    support: Any = importlib.import_module("test.support")  # it imports the ssl module
    support.use_resources = []  # no network, no long times; None, the default, is everything
    support.verbose = 0
    suite = unittest.defaultTestLoader.loadTestsFromNames(options.modules)
    record = Record()
    suite.run(record)
    import ssl  # noqa: PLC0415 - as above

    assert hasattr(ssl, "PROTOCOL_DTLS") == options.patched
    options.file.write_text(json.dumps(record.outcomes))


if __name__ == "__main__":
    main()
