"""Servers in processes of their own, and clients that know which process they have, for ``test_asyncio_workers.py``."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dtls
from dtls.wire import HandshakeType, split_fragments_untrusted, split_records_untrusted

from .loopback import PATIENCE, Worker, wait_for

if TYPE_CHECKING:
    from dtls.context import Context
    from dtls.sockets import DTLSSocket

HERE = "127.0.0.1"
ROOT = Path(__file__).parent.parent
ENOUGH = 64
"""How many clients find each of two workers: all find the same one once in 2^63 times."""


class Running:
    """A server in processes of its own (:mod:`tests.worker_server`)."""

    def __init__(self, certificate: str, **options: Any) -> None:
        told = json.dumps({"certificate": certificate, **options})
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.worker_server", told],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: queue.Queue[list[str]] = queue.Queue()
        self.log: list[str] = []
        self.pids: set[int] = {self.process.pid}
        self.ports: list[int] = []
        self._readers = [Worker(self._read_output), Worker(self._read_log)]

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                what, pid, *more = line.split()
                self.pids.add(int(pid))
                self.said.put([what, pid, *more])

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.log.extend(stream)

    def next(self, wanted: str) -> int:
        """The process that says it next; what is said before that is passed over."""
        while True:
            what, pid, *more = self.said.get(timeout=PATIENCE)
            if what == wanted:
                if wanted == "serving":
                    self.ports = [int(port) for port in more]
                return int(pid)

    def serving(self, count: int) -> set[int]:
        """The next processes that serve."""
        return {self.next("serving") for _ in range(count)}

    @property
    def address(self) -> tuple[str, int]:
        return HERE, self.ports[0]

    def logged(self, words: str) -> str:
        """Wait for a line of the log with these words."""
        found: list[str] = wait_for(lambda: [line for line in self.log if words in line])
        return found[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the process that was started; its exit status. Nothing is left then."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.result()
        assert not [pid for pid in self.pids if is_alive(pid)]
        assert not [line for line in self.log if "Warning" in line or "never" in line or "ignored" in line], (
            self.log
        )
        return status

    def clear_up(self) -> None:
        for pid in {self.process.pid, *self.pids}:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.result()


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


class Client:
    """A client, and which worker it has."""

    def __init__(self, running: Running, context: Context, **options: Any) -> None:
        options = {"server_hostname": "localhost", **options}
        self.sock: DTLSSocket = dtls.create_connection(running.address, PATIENCE, context=context, **options)
        self.pid = self.ask()

    def ask(self) -> int:
        self.sock.send(b"who")
        pid, message = self.sock.recv().split()
        assert message == b"who"
        return int(pid)


def exchange(sock: socket.socket, datagram: bytes) -> bytes:
    sock.send(datagram)
    return sock.recv(65535)


def udp(running: Running) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    sock.connect(running.address)
    return sock


def server_random(datagram: bytes) -> bytes:
    fragment = split_fragments_untrusted(split_records_untrusted(datagram)[0].fragment)[0]
    assert fragment.message_type == HandshakeType.SERVER_HELLO
    return fragment.body[2:34]


def block(running: Running, client: Context) -> Client:
    """A client whose worker can do nothing any more."""
    one = Client(running, client)
    one.sock.send(b"block")
    assert one.sock.recv() == b"blocked"
    return one


def try_to_ask(one: Client) -> bool:
    """Ask until an answer comes: in a flood, datagrams are lost."""
    one.sock.settimeout(0.5)
    try:
        for _ in range(20):
            one.sock.send(b"who")
            with contextlib.suppress(TimeoutError):
                return int(one.sock.recv().split()[0]) == one.pid
        return False
    finally:
        one.sock.settimeout(PATIENCE)


def descriptors(pid: int | str = "self") -> list[str]:
    """What a process has open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that reads the directory
            found.append(str(entry.readlink()))
    return sorted(found)
