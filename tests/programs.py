"""The ``openssl`` program as a peer that somebody else wrote, in either role."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dtls.sockets import create_connection

from .loopback import PATIENCE, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

    import dtls
    from dtls.context import Context


class Program:
    """A running ``openssl s_client`` or ``s_server``, its standard streams at hand."""

    def __init__(self, *arguments: str) -> None:
        self.output = b""
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

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


@dataclass
class Files:
    """Certificates and keys as the program takes them."""

    ca: str
    server: str
    client: str
    long_chain: str
    long_chain_ca: str


class Peers:
    """Starts the program in either role."""

    def __init__(self, openssl: str, files: Files) -> None:
        self.openssl = openssl
        self.files = files

    def client(self, address: tuple[str, int], *options: str, ca: str = "") -> Program:
        host, port = address
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        version = [] if "-dtls1" in options else ["-dtls1_2"]
        return Program(
            self.openssl, "s_client", *version, "-connect", where, "-quiet", "-no_ign_eof",
            "-CAfile", ca or self.files.ca, "-verify_return_error", "-verify_hostname", "localhost", *options,
        )  # fmt: skip

    @contextlib.contextmanager
    def server(
        self, *options: str, certificate: str = "", host: str = "127.0.0.1"
    ) -> Iterator[tuple[Program, tuple[str, int]]]:
        path = certificate or self.files.server
        version = [] if "-dtls1" in options else ["-dtls1_2"]
        where = f"[{host}]:0" if ":" in host else f"{host}:0"
        with Program(
            self.openssl, "s_server", *version, "-accept", where,
            "-cert", path, "-key", path, "-cert_chain", path, *options,
        ) as program:  # fmt: skip
            port = int(program.expect(r"ACCEPT .*:(\d+)\r?\n").group(1))
            yield program, (host, port)


def assert_client_is_served(program: Program) -> None:
    """The program's messages come back to it."""
    for text in ("hello", "and again"):
        program.write(text)
        program.expect(text)


def assert_server_talks(program: Program, sock: dtls.DTLSSocket) -> None:
    """Messages go to the program and come from it."""
    sock.send(b"hello from the client\n")
    program.expect("hello from the client")
    program.write("hello from the server")
    assert sock.recv() == b"hello from the server\n"


def connect(client: Context, address: tuple[str, int]) -> dtls.DTLSSocket:
    return create_connection(address, PATIENCE, context=client, server_hostname="localhost")


def handshake_only(tap: Any) -> Any:
    """Count and lose datagrams of the handshake only: what carries messages nobody repeats."""
    counts = {"client": 0, "server": 0}

    def selecting(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if datagram[0] == 23:
            return [datagram]
        number = counts[sender]
        counts[sender] += 1
        result: list[bytes] = tap(sender, number, datagram)
        return result

    return selecting


def recorded(talk: Callable[[Any], None]) -> dict[str, int]:
    """How many datagrams each side sends when nothing is lost."""
    counts = {"client": 0, "server": 0}

    def count(sender: str, index: int, datagram: bytes) -> list[bytes]:
        counts[sender] = index + 1
        return [datagram]

    talk(count)
    return counts


def lose_each(talk: Callable[[Any], None], *, at_least: int = 3) -> None:
    """Run ``talk`` once for every datagram of a handshake, with that one lost, all at the same time."""
    counts = recorded(talk)
    assert min(counts.values()) >= at_least
    workers = {}
    for sender, count in counts.items():
        for lost in range(count):

            def lose(who: str, index: int, datagram: bytes, key: Any = (sender, lost)) -> list[bytes]:
                return [] if (who, index) == key else [datagram]

            workers[sender, lost] = Worker(talk, lose)
    failures = {}
    for key, worker in workers.items():
        try:
            worker.result()
        except (AssertionError, OSError) as error:
            failures[key] = error
    assert not failures, (counts, failures)
