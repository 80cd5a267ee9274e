"""What ``programs/load.c`` does, in Python on this package, for machines without a C compiler.

It is slower than the servers, which wait for it: what they cost is measured all the same, but with the price of
sleeping and waking in it. Commands and answers are those of ``load.c``.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from typing import Any, NamedTuple

import dtls
from benchmarks.settings import GROUP, LOOPBACK, PATIENCE

SILENCE = 0.25
"""Seconds without an answer after which what is under way is lost."""
LARGEST = 65_535
_RANDOM = slice(27, 35)  # a part of a ClientHello's random, in its datagram


class Tally(NamedTuple):
    """What is told of the work done."""

    done: int
    lost: int
    resumed: int = 0


class Load:
    """The associations, and the work over them."""

    def __init__(self, kind: str, port: int, cipher: str, mtu: int, size: int) -> None:
        self._address = (LOOPBACK, port)
        self._message = b"m" * size
        self._associations: list[Any] = []
        self._context: dtls.Context | None = None
        if kind == "dtls":
            self._context = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
            self._context.check_hostname = False
            self._context.verify_mode = dtls.CERT_NONE
            self._context.set_ciphers(cipher)
            self._context.set_groups(GROUP)
            self._context.mtu = mtu

    def associate(self, count: int) -> None:
        """Have so many associations."""
        while len(self._associations) < count:
            self._associations.append(self._connect())

    def _connect(self, session: Any = None) -> Any:
        if self._context is not None:
            sock: Any = dtls.create_connection(
                self._address, PATIENCE, context=self._context, session=session
            )
        else:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect(self._address)
            sock.send(b"count")
        sock.settimeout(SILENCE)
        return sock

    def _drained(self) -> Any:
        """The first association, with no answers left of earlier work."""
        sock = self._associations[0]
        sock.setblocking(False)
        while True:
            try:
                sock.recv(LARGEST)
            except (BlockingIOError, dtls.SSLWantReadError):
                break
        sock.settimeout(SILENCE)
        return sock

    def echo(self, count: int, window: int, until: float) -> Tally:
        """Echoes over all associations in turn."""
        sent = done = 0
        while sent < count and time.monotonic() < until:
            turn = [
                self._associations[(sent + at) % len(self._associations)]
                for at in range(min(window, count - sent))
            ]
            for sock in turn:
                sock.send(self._message)
            done += sum(self._echoed(sock) for sock in turn)
            sent += len(turn)
        return Tally(done, sent - done)

    def _echoed(self, sock: Any) -> bool:
        try:
            while len(answer := sock.recv(LARGEST)) != len(self._message):
                pass
        except TimeoutError:
            return False
        if answer != self._message:
            sys.exit("something else came back than was sent")
        return True

    def send_in(self, count: int, window: int, until: float) -> Tally:
        """Messages to the server, which is asked now and then what has come."""
        sock = self._drained()
        before = came = self._ask(sock)
        sent = 0
        while sent < count and time.monotonic() < until:
            for _ in range(min(window, count - sent)):
                sock.send(self._message)
                sent += 1
            came = self._ask(sock)
        return Tally(came - before, sent - (came - before))

    def _ask(self, sock: Any) -> int:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            sock.send(b"count")
            try:
                return int(sock.recv(LARGEST).removeprefix(b"count "))
            except TimeoutError:
                continue
        sys.exit("the server does not say what has come")

    def take_out(self, count: int, _: int, until: float) -> Tally:
        """Messages of the server."""
        sock = self._drained()
        sock.send(b"send %d" % count)
        came = 0
        while time.monotonic() < until:
            try:
                message = sock.recv(LARGEST)
            except TimeoutError:
                break
            if message.startswith(b"sent "):
                break
            came += 1
        if came == 0:
            sys.exit("the server sent nothing")
        return Tally(count, count - came)

    def shake_hands(self, count: int, resume: int, until: float) -> Tally:
        """Handshakes, one after the other."""
        session, resumed, done = None, 0, 0
        if resume:
            with self._connect() as sock:
                session = sock.session
        while done < count and time.monotonic() < until:
            with self._connect(session) as sock:
                resumed += bool(sock.session_reused)
            done += 1
        return Tally(done, count - done, resumed)

    def send_hellos(self, count: int, ports: int, until: float) -> Tally:
        """ClientHellos without a cookie, one after the other."""
        assert self._context is not None
        hello = bytearray(self._context.connection(0.0).datagrams_to_send(0.0)[0])
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(ports)]
        done = sent = 0
        for sock in sockets:
            sock.connect(self._address)
            sock.settimeout(SILENCE)
        while sent < count and time.monotonic() < until:
            hello[_RANDOM] = struct.pack("!Q", sent)
            sock = sockets[sent % ports]
            sock.send(hello)
            sent += 1
            try:
                done += sock.recv(LARGEST)[13] == 3
            except TimeoutError:
                continue
        for sock in sockets:
            sock.close()
        return Tally(done, sent - done)

    def work(self, kind: str, numbers: list[int], seconds: float) -> Tally:
        """Do what a command says."""
        until = time.monotonic() + seconds
        if kind == "handshakes":
            return self.shake_hands(numbers[0], numbers[2], until)
        if kind == "hellos":
            return self.send_hellos(numbers[0], numbers[1], until)
        methods = {"echo": self.echo, "in": self.send_in, "out": self.take_out}
        return methods[kind](numbers[0], numbers[1], until)


def main() -> None:
    """Obey the lines of the standard input."""
    kind, port, cipher, mtu, size, _ = sys.argv[1:]
    load = Load(kind, int(port), cipher, int(mtu), int(size))
    for line in sys.stdin:
        command, *numbers, seconds = line.split()
        if command == "associate":
            load.associate(int(numbers[0]))
            print("associated", numbers[0], flush=True)
            continue
        print("ready", flush=True)
        if not sys.stdin.readline():
            return
        begun = time.monotonic()
        tally = load.work(command, [int(number) for number in numbers], float(seconds))
        print("done", tally.done, tally.lost, tally.resumed, time.monotonic() - begun, flush=True)


if __name__ == "__main__":
    main()
