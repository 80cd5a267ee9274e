"""A demonstration: a real client and a real server, two processes, speak DTLS over UDP on loopback.

Run it with ``python -m dtls.cli.demo`` or ``make demo``. The datagrams shown are those on the wire: they pass through a
relay here, which sees what any third party sees. It ends with status 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import dtls
from dtls.certificates import CertificateAuthority
from dtls.engines.openssl.binding import version as openssl_version
from dtls.wire import ContentType

from .ends import run_client, run_server
from .ladder import Ladder, SeenRecord, read_datagram_untrusted
from .relay import Observation, Relay, Side
from .screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from typing_extensions import Self

DEADLINE = 30.0
"""Seconds after which the demonstration has failed."""
MESSAGES = ("Hello, datagrams!", "one message, one record, one datagram", "Grüße aus Python", "over and out")
_FULL_HANDSHAKE = [1, 2, 3, 4, 5, 6]
_EXCERPT = 18
_TWICE = 2  # once lost, once arrived


class DemoError(Exception):
    """Something did not go as it should."""


class End:
    """A child process at one end; what it tells goes to ``events``."""

    def __init__(self, role: Side, setup: dict[str, Any], events: queue.Queue[Any]) -> None:
        self.role = role
        command = [sys.executable, "-m", "dtls.cli.demo", "--end", role]
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._events = events
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.tell(setup)

    def tell(self, instruction: dict[str, Any]) -> None:
        """Write one line to the child."""
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        try:
            self._process.stdin.write(json.dumps(instruction) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            message = f"the {self.role}'s process has ended early"
            raise DemoError(message) from None

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        for line in self._process.stdout:
            self._events.put((self.role, json.loads(line)))
        self._events.put((self.role, {"event": "ended"}))

    def close(self) -> None:
        """End the child if it has not ended."""
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Scene:
    """One client and one server with a relay between them."""

    def __init__(
        self,
        server: End,
        server_port: int,
        authority: str,
        events: queue.Queue[Any],
        ladder: Ladder,
        deadline: float,
        loses: Callable[[Side, bytes], bool] | None = None,
    ) -> None:
        self._server = server
        self._events = events
        self._ladder = ladder
        self._deadline = deadline
        self.draws = True
        self.records: list[tuple[Side, SeenRecord]] = []
        self.datagrams: list[tuple[Side, bytes]] = []
        self._relay = Relay(server_port, lambda seen: events.put(("wire", seen)), loses)
        self._client = End("client", {"port": self._relay.port, "authority": authority}, events)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()
        self._relay.close()
        while not self._events.empty():
            self._events.get()

    def tell(self, **instruction: Any) -> None:
        """Tell the client what to do."""
        self._client.tell(instruction)

    def wait_for(self, source: Side, event: str) -> dict[str, Any]:
        """Go on until ``source`` tells of ``event``, drawing what passes on the wire meanwhile."""
        while True:
            origin, told = self.next()
            if origin == source and told["event"] == event:
                return told
            if told["event"] in ("ended", "failed"):
                message = f"the {origin}: {told.get('text', 'its process ended early')}"
                raise DemoError(message)

    def wait_for_both_ends(self) -> None:
        """Go on until the client has closed and has had the server's answer, and the server has seen it close."""
        missing = {"closed", "peer_closed"}
        while missing:
            origin, told = self.next()
            missing.discard(told["event"])
            if missing and told["event"] == "ended" and (origin == "server" or "closed" in missing):
                message = f"the {origin} did not see the other side close"
                raise DemoError(message)

    def next(self) -> tuple[Side, dict[str, Any]]:
        """The next thing that one of the ends tells."""
        while True:
            try:
                origin, told = self._events.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                message = f"the demonstration took longer than {DEADLINE:g} s"
                raise DemoError(message) from None
            if origin != "wire":
                return origin, told
            self._note(told)

    def _note(self, seen: Observation) -> None:
        self.datagrams.append((seen.sender, seen.datagram))
        if self.draws:
            self.records += [(seen.sender, record) for record in self._ladder.draw(seen)]


def show(screen: Screen, *, corrupts: bool = False) -> None:
    """The whole demonstration. Raises :class:`DemoError`. ``corrupts`` makes the server echo something else."""
    deadline = time.monotonic() + DEADLINE
    screen.line((f"dtls {dtls.__version__}", "strong"), "  Datagram TLS for Python")
    screen.line((f"{openssl_version()[1]} through cryptography, Python {platform.python_version()}", "dim"))
    authority = CertificateAuthority("Demonstration CA")
    certificate = authority.issue("localhost", "127.0.0.1")
    events: queue.Queue[Any] = queue.Queue()
    setup = {
        "chain": certificate.chain_pem.decode(),
        "key": certificate.key_pem.decode(),
        "peers": 2,
        "corrupts": corrupts,
    }
    server = End("server", setup, events)
    try:
        port = _port(events, deadline)
        trust = authority.certificate_pem.decode()
        ladder = Ladder(screen)
        with Scene(server, port, trust, events, ladder, deadline) as scene:
            _show_handshake(screen, ladder, scene)
            _show_messages(screen, scene)
            _show_end(screen, ladder, scene)
        ladder = Ladder(screen)
        with Scene(server, port, trust, events, ladder, deadline, loses=_LosesFlight(5)) as scene:
            _show_loss(screen, ladder, scene)
    finally:
        server.close()


def _port(events: queue.Queue[Any], deadline: float) -> int:
    try:
        _, told = events.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        message = "the server's process does not start"
        raise DemoError(message) from None
    if told["event"] != "listening":
        message = "the server's process ended early"
        raise DemoError(message)
    return int(told["port"])


class _LosesFlight:
    """Loses the first datagram of a flight, once."""

    def __init__(self, flight: int) -> None:
        self._flight = flight
        self._lost = False

    def __call__(self, sender: Side, datagram: bytes) -> bool:
        records = read_datagram_untrusted(sender, datagram)
        loses = not self._lost and any(record.flight == self._flight for record in records)
        self._lost = self._lost or loses
        return loses


def _show_handshake(screen: Screen, ladder: Ladder, scene: Scene) -> None:
    screen.heading("1  The handshake", "as it passes on the wire")
    ladder.begin()
    told = scene.wait_for("client", "negotiated")
    if ladder.flights != _FULL_HANDSHAKE:
        message = f"the flights were {ladder.flights}, not {_FULL_HANDSHAKE}"
        raise DemoError(message)
    screen.heading("2  What was negotiated", "as the client knows it")
    screen.row("version", (told["version"], "strong"))
    screen.row("cipher suite", (told["cipher"], "strong"))
    screen.row("key exchange", str(told["group"]))
    screen.row("application", str(told["alpn"]))
    screen.row("server certificate", f"{told['subject']}, issued by {told['issuer']}")
    screen.row("name verified", f"{told['name']}")
    screen.row("largest datagram", f"{told['mtu']} bytes, so messages of up to {told['largest']} bytes")
    if told["version"] != "DTLSv1.2":
        message = f"{told['version']} was negotiated, not DTLSv1.2"
        raise DemoError(message)


def _show_messages(screen: Screen, scene: Scene) -> None:
    screen.heading("3  Messages", "sent by the client, echoed by the server")
    scene.draws = False
    times = []
    instructions: list[dict[str, Any]] = [{"text": text} for text in MESSAGES]
    for instruction in [*instructions, {"beyond": 0}]:
        scene.tell(do="echo", **instruction)
        told = scene.wait_for("client", "echoed")
        if not told["same"]:
            message = "an echo was not what had been sent"
            raise DemoError(message)
        times.append(told["milliseconds"])
        what = repr(instruction["text"]) if "text" in instruction else "the largest that fits"
        screen.line(
            ("  ✓ ", "good"), f"{told['size']:>5} bytes  {told['milliseconds']:7.3f} ms  ", (what, "dim")
        )
    screen.row("round trips", f"{min(times):.3f} ms at best, median {statistics.median(times):.3f} ms")
    scene.tell(do="echo", beyond=1)
    told = scene.wait_for("client", "refused")
    screen.line(
        ("  ✗ ", "bad"), f"{told['size']:>5} bytes  refused: ", (told["text"].partition(": ")[2], "dim")
    )
    _show_secrecy(screen, scene)


def _show_secrecy(screen: Screen, scene: Scene) -> None:
    plaintext = MESSAGES[0].encode()
    on_the_wire = [
        datagram
        for sender, datagram in scene.datagrams
        if sender == "client" and datagram[0] == ContentType.APPLICATION_DATA
    ]
    if any(plaintext in datagram for datagram in on_the_wire):
        message = "a message went over the wire in plaintext"
        raise DemoError(message)
    screen.row("the first message", repr(MESSAGES[0]))
    screen.row("on the wire", f"{on_the_wire[0][13 : 13 + _EXCERPT].hex(' ')} …")


def _show_end(screen: Screen, ladder: Ladder, scene: Scene) -> None:
    screen.heading("4  The end", "both sides say close_notify")
    scene.draws = True
    before = len(scene.records)
    ladder.begin()
    scene.tell(do="close")
    scene.wait_for_both_ends()
    alerts = {sender for sender, record in scene.records[before:] if record.name.startswith("Alert")}
    if alerts != {"client", "server"}:
        message = "close_notify did not go both ways"
        raise DemoError(message)


def _show_loss(screen: Screen, ladder: Ladder, scene: Scene) -> None:
    screen.heading("5  The same once more", "with a datagram lost on purpose")
    ladder.begin()
    scene.wait_for("client", "negotiated")
    if ladder.flights.count(5) < _TWICE:
        message = "the lost flight was not sent again"
        raise DemoError(message)
    scene.draws = False
    scene.tell(do="echo", text=MESSAGES[0])
    if not scene.wait_for("client", "echoed")["same"]:
        message = "an echo was not what had been sent"
        raise DemoError(message)
    screen.line()
    screen.check("the handshake completed all the same, and a message was echoed")
    scene.tell(do="close")
    scene.wait_for_both_ends()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration or, with ``--end``, one of its two ends; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dtls.cli.demo", description=__doc__)
    parser.add_argument("--end", choices=("client", "server"), help=argparse.SUPPRESS)
    end = parser.parse_args(arguments).end
    if end is not None:
        try:
            (run_client if end == "client" else run_server)()
        except KeyboardInterrupt:
            return 130
        return 0
    screen = Screen.on(sys.stdout)
    try:
        show(screen)
    except DemoError as error:
        screen.line()
        screen.line(("✗ The demonstration failed: ", "bad"), str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    screen.line()
    screen.check("everything was as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
