"""Both ends of PyDTLS's interface on loopback, and programs run as users run them."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from dtls.sslconnection import SSLConnection
from tests.loopback import PATIENCE, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Self

    from dtls.certificates import CertificateAuthority


def udp(host: str = "127.0.0.1", *, timeout: float | None = PATIENCE, bound: bool = False) -> socket.socket:
    """A UDP socket for ``host``'s address family."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(timeout)
    if bound:
        sock.bind((host, 0))
    return sock


def accept(listening: Any) -> tuple[Any, Any]:
    """The next client of a listening connection or socket: junk and time-outs give ``None``."""
    deadline = time.monotonic() + PATIENCE
    while (accepted := listening.accept()) is None:
        assert time.monotonic() < deadline, "no client comes"
    client, address = accepted
    return client, address


def raised(operation: Callable[..., Any], *arguments: Any) -> Any:
    """The :exc:`OSError` that an operation raises."""
    try:
        value = operation(*arguments)
    except OSError as error:
        return error
    message = f"nothing was raised, but {value!r} returned"
    raise AssertionError(message)


@contextlib.contextmanager
def connections(
    certificate: bytes, host: str = "127.0.0.1", *, server: Any = None, client: Any = None
) -> Iterator[tuple[SSLConnection, SSLConnection]]:
    """Two connected :class:`SSLConnection`, the client's first; ``server`` and ``client`` are further arguments."""
    with udp(host, bound=True) as bound, udp(host) as sock:
        listening = SSLConnection(bound, certificate, certificate, server_side=True, **(server or {}))
        accepting = Worker(accept, listening)
        near = SSLConnection(sock, **(client or {}))
        near.connect(bound.getsockname())
        far, address = accepting.result()
        assert address == sock.getsockname()
        with far.get_socket(True):
            far.get_socket(True).settimeout(PATIENCE)
            yield near, far


class Program:
    """A program under observation: its lines are waited for, it is ended by its own process id."""

    def __init__(self, arguments: Sequence[str], **environment: str) -> None:
        self.seen = ""
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )

    @classmethod
    def python(cls, *arguments: str) -> Self:
        """This Python, with warnings as errors."""
        return cls([sys.executable, "-W", "error", *arguments])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # it has ended, and will not read what is left
                    pipe.close()

    def say(self, text: str) -> None:
        """Write to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def wait_for(self, text: str, *, after: int = 0) -> str:
        """All it has printed, once ``text`` is there, behind so many characters."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        descriptor = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while text not in self.seen[after:]:
                assert selector.select(max(0.0, deadline - time.monotonic())), f"no {text!r} in: {self.seen}"
                chunk = os.read(descriptor, 65536)
                assert chunk, f"it ended without {text!r}: {self.seen}"
                self.seen += chunk.decode(errors="replace")
        return self.seen

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self, patience: float = PATIENCE) -> int:
        """Wait until it ends; its exit status."""
        assert self._process.stdout is not None
        status = self._process.wait(patience)
        self.seen += self._process.stdout.read().decode(errors="replace")
        return status


def run_python(code: str, *arguments: str, patience: float = PATIENCE) -> str:
    """What a piece of Python prints in a process of its own, where it must end well."""
    with Program.python("-c", code, *arguments) as program:
        status = program.end(patience)
        assert status == 0, program.seen
        return program.seen


PROLOGUE = """
import contextlib, errno, gc, os, select, socket, sys, threading, time, weakref
import dtls
from dtls import do_patch
assert do_patch() is None
import ssl
from dtls import err
from tests.loopback import PATIENCE, Worker, wait_for
from tests.pydtls import accept, raised, udp
host, pem, root = sys.argv[1:4]

def wrap(timeout=PATIENCE, **options):
    return ssl.wrap_socket(udp(host, timeout=timeout), **options)

def listen(**options):
    server = wrap(server_side=True, certfile=pem, **options)
    server.bind((host, 0))
    server.listen(5)
    return server

def pair(server_options={}, **options):
    server = listen(**server_options)
    accepting = Worker(accept, server)
    client = wrap(**options)
    client.connect(server.getsockname())
    far, address = accepting.result()
    assert address == client.getsockname()
    far.settimeout(PATIENCE)
    server.close()
    return client, far
"""


class Bench:
    """Runs a piece of Python after ``do_patch()``, with certificates at hand; it asserts, and must end well."""

    def __init__(self, ca: CertificateAuthority, directory: Path) -> None:
        self.pem, self.root = directory / "server.pem", directory / "root.pem"
        # RSA, since DTLS 1.0 has no other usual one.
        identity = ca.issue("localhost", "127.0.0.1", "::1", key_type="rsa")
        self.pem.write_bytes(identity.private_key_and_chain_pem)
        self.root.write_bytes(ca.certificate_pem)

    def run(self, code: str, host: str = "127.0.0.1", *, patience: float = PATIENCE) -> str:
        """What it prints. Warnings are errors there."""
        program = PROLOGUE + textwrap.dedent(code)
        return run_python(program, host, str(self.pem), str(self.root), patience=patience)
