"""PyDTLS's tests of the ``ssl`` module with datagrams, written anew: ``python3 -m dtls.test.unit``.

They run on an installed package, over sockets on loopback, and need nothing but the standard library. Each runs in
four ways: over IPv4 and IPv6, with the kernel telling a server's clients apart (``osnet``) and with the routing
demultiplexer (``router``). The exit status is 0 if all is well, 1 if something failed, 2 for a mistake on the command
line, 5 if no test was found.
"""

from __future__ import annotations

import argparse
import platform
import sys
import threading
import time
import unittest
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import dtls

from . import suite, support

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

_NOTHING_FOUND = 5
_EPILOG = """further options are unittest's:
  -v, -q                verbose or quiet
  -f                    stop at the first failure
  -k PATTERN            only tests whose names match
  -b, -c, --locals      buffer output, catch Ctrl-C, show local variables
and so are names of tests: ThreadedTests, ThreadedTests.test_echo, or test_echo alone."""


class _Leftovers(unittest.TestCase):
    """The last test of each way."""

    before: support.Footprint
    complaints: list[str]

    def test_nothing_is_left_behind(self) -> None:
        """No thread, no descriptor, no warning of an unclosed resource, no error that nobody caught."""
        found = support.left_behind(self.before)
        self.assertEqual(found, "", "left behind")  # noqa: PT009 - this is a test of unittest
        self.assertEqual(self.complaints, [], "reported meanwhile")  # noqa: PT009 - as above


class _Runner(unittest.TextTestRunner):
    """Sees to it that nothing is left behind."""

    def run(self, test: Any) -> Any:
        """Run the tests of one way, and one more."""
        complaints: list[str] = []
        support.certificates()  # once, and outside of any test
        _Leftovers.before = support.Footprint.now()
        _Leftovers.complaints = complaints
        everything = unittest.TestSuite([test, _Leftovers("test_nothing_is_left_behind")])
        hooks = sys.unraisablehook, threading.excepthook
        with warnings.catch_warnings():
            # Those are raised where nobody can catch them, and shown at best.
            warnings.simplefilter("always", ResourceWarning)
            show = warnings.showwarning

            def note(message: Any, category: Any, *rest: Any, **options: Any) -> None:
                if issubclass(category, ResourceWarning):
                    complaints.append(str(message))
                show(message, category, *rest, **options)

            def note_unraisable(unraisable: Any) -> None:
                complaints.append(repr(unraisable.exc_value))
                hooks[0](unraisable)

            def note_in_thread(arguments: Any) -> None:
                complaints.append(repr(arguments.exc_value))
                hooks[1](arguments)

            warnings.showwarning = note
            sys.unraisablehook, threading.excepthook = note_unraisable, note_in_thread
            try:
                return super().run(everything)
            finally:
                sys.unraisablehook, threading.excepthook = hooks


class _Loader(unittest.TestLoader):
    """Finds a test by its own name, too."""

    def loadTestsFromName(self, name: str, module: ModuleType | None = None) -> unittest.TestSuite:  # noqa: N802 - unittest calls it so
        """As ever; ``test_echo`` alone is any class's."""
        if module is not None and "." not in name and name.startswith("test_"):
            cases = [case for case in _cases(module) if hasattr(case, name)]
            if cases:
                return self.suiteClass([case(name) for case in cases])
        return super().loadTestsFromName(name, module)


def _cases(module: ModuleType) -> Iterator[type[unittest.TestCase]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            yield value


class _Outcome(NamedTuple):
    """How one way went."""

    way: support.Way
    run: int = 0
    failed: int = 0
    skipped: int = 0
    not_run: str = ""


def _say(text: str) -> None:
    """Where unittest writes, so that the order stays."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _run(way: support.Way, arguments: Sequence[str]) -> _Outcome:
    reason = support.use(way)
    title = f"{way.name}: demultiplexer {way.demux}, {way.protocol}"
    if reason is not None:
        _say(f"\n=== {title}: not run, {reason}")
        return _Outcome(way, not_run=reason)
    _say(f"\n=== {title}")
    program = unittest.TestProgram(
        module=suite,
        argv=["python3 -m dtls.test.unit", *arguments],
        testRunner=_Runner,
        testLoader=_Loader(),
        exit=False,
    )
    result = program.result
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    return _Outcome(way, result.testsRun - 1, failed, len(result.skipped))


def _ways(text: str) -> list[support.Way]:
    names = text.split(",")
    unknown = [name for name in names if name not in support.WAYS]
    if unknown:
        message = f"unknown: {', '.join(unknown)}; there are {', '.join(support.WAYS)}"
        raise argparse.ArgumentTypeError(message)
    return [support.WAYS[name] for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests in all ways that are asked for; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m dtls.test.unit",
        description="Test PyDTLS's interface of the installed package over loopback.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="%(prog)s [-h] [--ways WAYS] [unittest's options] [tests ...]",
    )
    parser.add_argument(
        "--ways",
        type=_ways,
        default=list(support.WAYS.values()),
        help=f"ways to run in, separated by commas, out of {','.join(support.WAYS)} (default: all)",
    )
    options, rest = parser.parse_known_args(arguments)
    began = time.monotonic()
    _say(
        f"dtls {dtls.__version__}, {dtls.sslconnection.DTLS_OPENSSL_VERSION}, "
        f"Python {platform.python_version()}, {platform.system()}"
    )
    try:
        outcomes = [_run(way, rest) for way in options.ways]
    finally:
        support.use(support.WAYS["osnet4"])
    return _summarise(outcomes, time.monotonic() - began)


def _summarise(outcomes: Sequence[_Outcome], seconds: float) -> int:
    _say("\n=== summary")
    for outcome in outcomes:
        counts = f"{outcome.run} tests, {outcome.failed} failed, {outcome.skipped} skipped"
        _say(f"{outcome.way.name}: " + (f"not run, {outcome.not_run}" if outcome.not_run else counts))
    tests = sum(outcome.run for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    ways = sum(not outcome.not_run for outcome in outcomes)
    verdict = "FAILED" if failed else "OK" if tests else "NOTHING RAN"
    plural = "" if ways == 1 else "s"
    _say(
        f"{verdict}: {ways} way{plural}, {tests} tests, {failed} failed, {skipped} skipped, in {seconds:.1f} s"
    )
    if failed:
        return 1
    return 0 if tests else _NOTHING_FOUND


if __name__ == "__main__":
    sys.exit(main())
