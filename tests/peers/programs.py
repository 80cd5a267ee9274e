"""A program at the other end: its standard streams at hand, what it prints waited for."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.loopback import PATIENCE

if TYPE_CHECKING:
    from typing_extensions import Self

    from dtls import DTLSSocket


def missing(reason: str) -> NoReturn:
    """Skip a test whose peer is not installed, or fail it where ``DTLS_REQUIRE_PEERS=1`` asks for all of them."""
    if os.environ.get("DTLS_REQUIRE_PEERS") == "1":
        pytest.fail(f"{reason}, and DTLS_REQUIRE_PEERS=1 asks for it")
    pytest.skip(reason)


class Program:
    """A running program; it is killed, by its process, when it is left."""

    def __init__(self, *arguments: str) -> None:
        self.output = b""
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def write(self, text: str) -> None:
        """A line on its standard input, which it sends as a message."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def expect(self, pattern: str, timeout: float = PATIENCE) -> re.Match[bytes]:
        """Wait for what is to appear on its standard output."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern.encode(), self.output)):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} within {timeout:g} s, but {self.output!r}"
            more = os.read(descriptor, 65536)
            assert more, f"ended without {pattern!r}, but with {self.output!r}"
            self.output += more
        return found

    def end_input(self) -> None:
        """The end of its standard input, at which it closes its association."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.stdin = None  # else communicate() flushes it

    def wait(self) -> int:
        """Let it go on to its end by itself; its exit status."""
        self.output += self._process.communicate(timeout=PATIENCE)[0]
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate(timeout=PATIENCE)


def assert_client_is_served(program: Program) -> None:
    """The program's messages come back to it."""
    for text in ("hello", "and again"):
        program.write(text)
        program.expect(text)


def assert_server_talks(program: Program, sock: DTLSSocket) -> None:
    """Messages go to the program and come from it."""
    sock.send(b"hello from the client\n")
    program.expect("hello from the client")
    program.write("hello from the server")
    assert sock.recv() == b"hello from the server\n"
