"""PyDTLS's tests of ``dtls.wrapper``, written anew: ``python3 -m dtls.test.unit_wrapper``.

They run as those of :mod:`dtls.test.unit` do: on an installed package, over loopback, in the same four ways, with the
same options and the same exit status.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
import unittest
from typing import TYPE_CHECKING

import dtls

from . import support, unit
from .suite import wrapper_suite

if TYPE_CHECKING:
    from collections.abc import Sequence

# ruff: noqa: SLF001 - the parts of the other program are this one's, too


def _run(way: support.Way, arguments: Sequence[str]) -> unit._Outcome:
    reason = support.use(way)
    title = f"{way.name}: demultiplexer {way.demux}, {way.protocol}"
    if reason is not None:
        unit._say(f"\n=== {title}: not run, {reason}")
        return unit._Outcome(way, not_run=reason)
    unit._say(f"\n=== {title}")
    program = unittest.TestProgram(
        module=wrapper_suite,
        argv=["python3 -m dtls.test.unit_wrapper", *arguments],
        testRunner=unit._Runner,
        testLoader=unit._Loader(),
        exit=False,
    )
    result = program.result
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    return unit._Outcome(way, result.testsRun - 1, failed, len(result.skipped))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests in all ways that are asked for; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m dtls.test.unit_wrapper",
        description="Test dtls.wrapper of the installed package over loopback.",
        epilog=unit._EPILOG.replace(
            "ThreadedTests, ThreadedTests.test_echo, or test_echo alone",
            "WrapperServerTests, WrapperServerTests.test_close_twice, or test_close_twice alone",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="%(prog)s [-h] [--ways WAYS] [unittest's options] [tests ...]",
    )
    parser.add_argument(
        "--ways",
        type=unit._ways,
        default=list(support.WAYS.values()),
        help=f"ways to run in, separated by commas, out of {','.join(support.WAYS)} (default: all)",
    )
    options, rest = parser.parse_known_args(arguments)
    began = time.monotonic()
    unit._say(
        f"dtls {dtls.__version__}, {dtls.sslconnection.DTLS_OPENSSL_VERSION}, "
        f"Python {platform.python_version()}, {platform.system()}"
    )
    try:
        outcomes = [_run(way, rest) for way in options.ways]
    finally:
        support.use(support.WAYS["osnet4"])
    return unit._summarise(outcomes, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
