"""``python3 -m dtls.test.unit``, run as users run it; and that it fails when something is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

WAYS = {
    "osnet4": "osnet4: demultiplexer osnet, IPv4",
    "osnet6": "osnet6: demultiplexer osnet, IPv6",
    "router4": "router4: demultiplexer router, IPv4",
    "router6": "router6: demultiplexer router, IPv6",
}
TESTS = 50
"""So many there are at least; some may be skipped."""

pytestmark = pytest.mark.timeout(300)


def run(*arguments: str, code: str | None = None) -> tuple[int, str]:
    """The exit status of the suite and what it says; ``code`` goes before it, in the same process."""
    start = ["-m", "dtls.test.unit"]
    if code is not None:
        start = [
            "-c",
            textwrap.dedent(code) + "\nimport sys\nfrom dtls.test import unit\nsys.exit(unit.main())",
        ]
    done = subprocess.run(
        [sys.executable, "-W", "error", *start, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=280,
        check=False,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )
    return done.returncode, done.stdout.decode(errors="replace")


def counts(printed: str, way: str) -> tuple[int, int, int]:
    """How many tests were run, failed and were skipped in a way, as the summary says."""
    match = re.search(rf"^{way}: (\d+) tests, (\d+) failed, (\d+) skipped$", printed, re.MULTILINE)
    assert match, printed
    run, failed, skipped = map(int, match.groups())
    return run, failed, skipped


def skip_if_not_run(printed: str, way: str) -> None:
    match = re.search(rf"^{way}: not run, (.*)$", printed, re.MULTILINE)
    if match:
        pytest.skip(match[1])


@pytest.mark.parametrize("way", WAYS)
def test_every_test_passes_in_each_way_and_nothing_is_left_behind(way: str) -> None:
    status, printed = run("--ways", way, "-v")
    skip_if_not_run(printed, way)
    assert status == 0, printed
    assert f"\n=== {WAYS[way]}\n" in printed
    tests, failed, skipped = counts(printed, way)
    assert tests >= TESTS
    assert failed == 0
    assert skipped == 0, printed
    last = printed.splitlines()[-1]
    assert re.fullmatch(rf"OK: 1 way, {tests} tests, 0 failed, {skipped} skipped, in [\d.]+ s", last)
    assert len(re.findall(r"^test_nothing_is_left_behind ", printed, re.MULTILINE)) == 1


def test_it_runs_in_four_ways_one_after_the_other_and_sums_up() -> None:
    status, printed = run("-k", "test_constants", "-k", "test_ciphers")
    assert status == 0, printed
    headings = re.findall(r"^=== (\w+): demultiplexer", printed, re.MULTILINE)
    assert headings == list(WAYS)
    run_ways = [way for way in WAYS if f"\n{way}: not run" not in printed]
    assert run_ways
    assert all(counts(printed, way) == (2, 0, 0) for way in run_ways)
    assert printed.splitlines()[-1].startswith(
        f"OK: {len(run_ways)} ways, {2 * len(run_ways)} tests, 0 failed"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ThreadedTests.test_unreachable"], 1),
        (["test_unreachable", "BasicSocketTests.test_constants"], 2),
        (["BasicSocketTests"], 5),
        (["-k", "*test_consta*"], 1),
        (["-v", "-f", "-k", "BasicSocketTests.test_c"], 2),
    ],
)
def test_tests_are_chosen_as_unittest_chooses_them(arguments: list[str], expected: int) -> None:
    status, printed = run("--ways", "osnet4", *arguments)
    skip_if_not_run(printed, "osnet4")
    assert status == 0, printed
    assert counts(printed, "osnet4") == (expected, 0, 0)


def test_mistakes_on_the_command_line_are_told() -> None:
    status, printed = run("--ways", "osnet4,pigeon")
    assert status == 2
    assert "unknown: pigeon; there are osnet4, osnet6, router4, router6" in printed
    status, printed = run("-k", "no_such_test")
    assert status == 5
    assert printed.splitlines()[-1].startswith("NOTHING RAN")
    status, printed = run("--ways", "osnet4", "test_no_such")
    assert status == 1, printed
    status, printed = run("--help")
    assert status == 0
    assert "--ways" in printed


MUTATIONS = {
    # The blind spots of the old suite.
    "cookies are never verified": (
        """
        from dtls.cookie import CookieFactory
        CookieFactory.verify = lambda self, address, hello, now: True
        """,
        "test_cookie_is_verified",
    ),
    "get_timeout() is always None": (
        """
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        DatagramSSLSocket.get_timeout = lambda self: None
        """,
        "test_client_repeats_its_hello",
    ),
    "get_timeout() of a server is always None": (
        """
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        original = DatagramSSLSocket.get_timeout
        DatagramSSLSocket.get_timeout = lambda self: None if self.server_side else original(self)
        """,
        "test_server_repeats_its_flight",
    ),
    "get_timeout() stands still": (
        """
        from datetime import timedelta
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        original = DatagramSSLSocket.get_timeout
        DatagramSSLSocket.get_timeout = lambda self: original(self) and timedelta(seconds=1)
        """,
        "test_client_repeats_its_hello",
    ),
    "handle_timeout() is always False": (
        """
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        DatagramSSLSocket.handle_timeout = lambda self: False
        """,
        "test_client_repeats_its_hello",
    ),
    "handle_timeout() is always True": (
        """
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        original = DatagramSSLSocket.handle_timeout
        DatagramSSLSocket.handle_timeout = lambda self: original(self) or True
        """,
        "test_nothing_is_due_otherwise",
    ),
    "handle_timeout() repeats nothing": (
        """
        from dtls.driver import Driver
        Driver.handle_timeout = lambda self: self.connection.next_timeout() is not None
        """,
        "test_client_repeats_its_hello",
    ),
    "cipher() is always None": (
        """
        from dtls.sslconnection import SSLConnection
        SSLConnection.cipher = lambda self: None
        """,
        "test_cipher",
    ),
    "cipher() is text": (
        """
        from dtls.sslconnection import SSLConnection
        SSLConnection.cipher = lambda self: self._driver and self._driver.connection.cipher()
        """,
        "test_cipher",
    ),
    "connect_ex() is always 0": (
        """
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        original = DatagramSSLSocket.connect_ex
        DatagramSSLSocket.connect_ex = lambda self, address: 0 * original(self, address)
        """,
        "test_connect_ex",
    ),
    # Old faults.
    "subjectAltName is left out": (
        """
        from dtls import sslconnection
        original = sslconnection._describe
        def describe(der):
            described = original(der)
            described.pop("subjectAltName", None)
            return described
        sslconnection._describe = describe
        """,
        "test_getpeercert",
    ),
    "setblocking() is ignored": (
        """
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        DatagramSSLSocket.setblocking = lambda self, flag: None
        """,
        "test_timeouts_after_connect",
    ),
    "a descriptor has two owners": (
        """
        import socket
        from dtls.pydtls import sslsocket
        def moved(sock):
            other = socket.socket(fileno=sock.fileno())
            other.settimeout(sock.gettimeout())
            return other
        sslsocket._moved = moved
        """,
        "test_failed_connect_leaves_other_descriptors_alone",
    ),
    "what unwrap() gives is detached": (
        """
        from dtls.pydtls import sslsocket
        original = sslsocket.DatagramSSLSocket.unwrap
        def unwrap(self):
            sock = original(self)
            sock.close()
            return sock
        sslsocket.DatagramSSLSocket.unwrap = unwrap
        """,
        "test_unwrap_and_plain_text_and_wrap_again",
    ),
    # The network.
    "nothing is ever repeated": (
        """
        from dtls.driver import Driver
        Driver.handle_timeout = lambda self: False
        from dtls.test import support
        support.PATIENCE = 3
        """,
        "test_lost_flights",
    ),
    # What is left behind.
    "a thread goes on": (
        """
        import threading
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        original = DatagramSSLSocket.listen
        def listen(self, backlog=0):
            threading.Thread(target=threading.Event().wait, args=(20,), daemon=True).start()
            original(self, backlog)
        DatagramSSLSocket.listen = listen
        """,
        "test_ciphers",
    ),
    "a descriptor stays open": (
        """
        import os
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        original = DatagramSSLSocket.listen
        def listen(self, backlog=0):
            os.dup(self.fileno())
            original(self, backlog)
        DatagramSSLSocket.listen = listen
        """,
        "test_ciphers",
    ),
    "a socket is not closed": (
        """
        import socket
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        original = DatagramSSLSocket.listen
        def listen(self, backlog=0):
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            original(self, backlog)
        DatagramSSLSocket.listen = listen
        """,
        "test_nothing_is_left_behind",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", MUTATIONS)
def test_the_suite_notices_when(fault: str) -> None:
    mutation, noticed_by = MUTATIONS[fault]
    chosen = "test_ciphers" if noticed_by == "test_nothing_is_left_behind" else noticed_by
    status, printed = run("--ways", "osnet4", chosen, code=mutation)
    skip_if_not_run(printed, "osnet4")
    assert status == 1, printed
    assert re.search(rf"^(FAIL|ERROR): {noticed_by} ", printed, re.MULTILINE), printed
    assert counts(printed, "osnet4")[1] >= 1
