"""Throughput of PyDTLS beside that of TCP, UDP and TLS, between two processes or two machines.

``python3 -m dtls.test.test_perf`` asks what to measure; ``-h`` tells the rest. Each test sends messages from a client
to this process (inbound), and then back (outbound), and measures at the receiving end. The client is another process,
or one on another machine that was started with ``-c`` and waits for jobs from a manager that was started with ``-s``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from dtls.certificates import CertificateAuthority

from .perf_flow import Identity, Job, describe
from .perf_jobs import PROGRAM, Manager, PerfError, apply, show
from .perf_options import KEY_VARIABLE, parse
from .perf_report import MIB, Result, Style, bars, figures, svg, table
from .perf_transfer import bound_socket, demultiplexing, serve, work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType, TracebackType

    from typing_extensions import Self

    from .perf_flow import Outcome, Transfer
    from .perf_jobs import Channel
    from .perf_options import Options

START_PATIENCE = 60.0
"""Seconds for the client's process to start."""
STOP_PATIENCE = 5.0
"""Seconds for it to end by itself."""
_WRONG, _INTERRUPTED, _PIPE_BROKEN, _TERMINATED = 1, 130, 141, 143


class Suite(NamedTuple):
    """What can be chosen."""

    title: str
    transport: str
    demux: str | None = None


SUITES = {
    "tcp": Suite("Raw TCP", "tcp"),
    "udp": Suite("Raw UDP", "udp"),
    "ssl": Suite("SSL (TCP)", "ssl"),
    "dtls": Suite("DTLS (UDP)", "dtls"),
}
ROUTED = Suite("DTLS (UDP, router)", "dtls", "router")
OSNET = Suite("DTLS (UDP, osnet)", "dtls", "osnet")


def suites_of(protocols: Sequence[str], demuxes: Sequence[str]) -> list[Suite]:
    """What is to be run: DTLS once for each demultiplexer that was asked for."""
    chosen = {"osnet": OSNET, "router": ROUTED}
    found: list[Suite] = []
    for protocol in protocols:
        if protocol == "dtls" and demuxes:
            found.extend(chosen[name] for name in demuxes)
        else:
            found.append(SUITES[protocol])
    return found


def say(text: str = "") -> None:
    """Print a line at once."""
    _write(text + "\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more. What Python writes at its end must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_PIPE_BROKEN) from None


def show_progress(direction: str, done: int, total: int) -> None:
    """How far a transfer is, on a terminal."""
    if sys.stdout.isatty():
        columns = 40 * done // total
        text = f"  {direction:<9} [{'#' * columns:<40}] {done / total:4.0%}"
        _write("\r" + (text if done < total else " " * len(text) + "\r"))


# --- clients ---------------------------------------------------------------------------------------------------------


class LocalClient:
    """A client in another process of this machine. :meth:`stop` must be called in the end."""

    def __init__(self, address: Any, key: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed in stop()
        warnings = [f"-W{option}" for option in sys.warnoptions]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, *warnings, "-m", PROGRAM, "--client", show(address)],
                env={**os.environ, KEY_VARIABLE: key},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C is for this process, which stops that one
            )
        except BaseException:
            self._errors.close()
            raise

    def check(self) -> None:
        """Raise :class:`PerfError` if the process has ended."""
        status = self._process.poll()
        if status is None:
            return
        how = f"with exit status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                how = f"by {signal.Signals(-status).name}"
        message = f"the client, process {self._process.pid}, has ended {how}{self._last_words()}"
        raise PerfError(message)

    def has_ended(self) -> bool:
        """Whether it is not there any more."""
        return self._process.poll() is not None

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1]}" if said else ""

    def stop(self) -> None:
        """See that it ends; it was told to before, or its connection was closed."""
        try:
            self._process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait(STOP_PATIENCE)
            self._errors.close()


def run_client(address: tuple[str, int], key: str, patience: float) -> None:
    """Wait for jobs and do them, until told to stop. Raises :class:`PerfError` and :exc:`OSError`."""
    try:
        sock = socket.create_connection(address, patience)
    except OSError as error:
        why = f"cannot connect to the manager at {show(address)}: {describe(error)}"
        raise PerfError(why) from None
    with contextlib.closing(apply(sock, address, key)) as channel:
        say(f"Connected to {channel.name}; waiting for a job (Ctrl-C ends)")
        while True:
            # The kernel watches over this connection, see Channel: when the manager's machine is gone, this ends.
            message = channel.receive(None) or {}
            if message.get("do") == "stop":
                say("The manager is done")
                return
            if message.get("do") == "job":
                do_job(channel, message)


def do_job(channel: Channel, message: dict[str, Any]) -> None:
    """Do one job. One that fails does not end the client."""
    try:
        job = Job.from_message(message)
        directions = " and ".join(job.directions)
        say(f"Job {job.number}: {job.transport}, {job.chunks:,} messages of {job.size:,} bytes {directions}")
        results = work(channel, job)
    except (PerfError, OSError) as error:
        channel.poll()  # if the manager is gone, that is the end
        say(f"Failed: {describe(error)}; waiting for the next job")
    else:
        done = ", ".join(f"{way} {result.received:,} received" for way, result in results.items())
        say(f"Done: {done}; waiting for the next job")


# --- tests -----------------------------------------------------------------------------------------------------------


class Session:
    """The tests of one start of the program, and their results.

    With ``options.server`` remote clients do the jobs, otherwise a process of this machine.
    """

    def __init__(self, options: Options) -> None:
        self.results: list[Result] = []
        self._options = options
        self._local: LocalClient | None = None
        authority = CertificateAuthority()
        issued = authority.issue("localhost", "127.0.0.1", "::1")
        self._identity = Identity(issued.private_key_and_chain_pem, authority.certificate_pem)
        self._key = options.key or secrets.token_urlsafe(32)
        self._jobs = 0
        listener = self._listen()
        self._manager = Manager(listener, self._key, say if options.server else lambda _text: None)

    def _listen(self) -> socket.socket:
        options = self._options
        loopback = "::1" if options.ipv6 else "127.0.0.1"
        host, port = options.server or (loopback, 0)
        family = socket.AF_INET6 if options.ipv6 else socket.AF_UNSPEC if host else socket.AF_INET
        try:
            found = socket.getaddrinfo(
                host or None, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            listener = bound_socket(found[0][4], socket.SOCK_STREAM)
        except OSError as error:
            where = show((host, port)) if host else f"port {port}"
            message = f"clients cannot come to {where}: {describe(error)}"
            raise PerfError(message) from None
        listener.listen(128)
        return listener

    def __enter__(self) -> Self:
        if self._options.server:
            self._introduce()
        return self

    def _introduce(self) -> None:
        say(f"Waiting for clients at {show(self._manager.address)}")
        if self._options.key is None:
            host = self._options.server and self._options.server[0]
            where = show((host or socket.gethostname(), self._manager.address[1]))
            say("Start them with this key, which was made for this run:")
            say(f"  {KEY_VARIABLE}={self._key} python3 -m {PROGRAM} -c {where}")

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        try:
            self._manager.stop()
        finally:
            if self._local is not None:
                self._local.stop()

    def run(self, suite: Suite, size: int) -> None:
        """Do one test, and say how it went. Raises nothing that has to do with the test."""
        options = self._options
        chunks = options.chunks(size)
        began = Result(suite.transport, suite.title, size, chunks, suite.demux)
        ways = "each way" if len(options.directions) > 1 else options.directions[0]
        amount = f"{chunks:,} messages of {size:,} bytes ({chunks * size / MIB:,.4g} MiB)"
        say(f"\n{suite.title}: {amount} {ways}")
        with demultiplexing(suite.demux) as unavailable:
            if unavailable is not None:
                say(f"  Not available: {unavailable}")
                self.results.append(replace(began, unavailable=unavailable))
                return
            try:
                outcome = self._measure(suite, size, chunks)
            except (PerfError, OSError) as error:
                say(f"  Failed: {describe(error)}")
                self.results.append(replace(began, error=describe(error)))
                return
        result = replace(began, outcome=outcome)
        self.results.append(result)
        for way in result.directions:
            say(_summary(result, way))
        if outcome.cipher:
            say(f"  {outcome.cipher}")

    def _measure(self, suite: Suite, size: int, chunks: int) -> Outcome:
        options = self._options
        channel = self._client()
        self._jobs += 1
        job = Job(
            number=self._jobs,
            transport=suite.transport,
            port=options.port,
            chunks=chunks,
            size=size,
            directions=options.directions,
            timeout=options.timeout,
            ciphers=options.ciphers,
            anchors=self._identity.root.decode(),
        )
        try:
            return serve(channel, self._identity, job, show_progress)
        finally:
            self._manager.give_back(channel)

    def _client(self) -> Channel:
        if self._options.server:
            return self._manager.next_client(self._options.wait)
        if self._local is not None and self._local.has_ended():
            self._local.stop()
            self._local = None
        if self._local is None:
            with uninterrupted():  # else there could be a process that nobody knows of
                self._local = LocalClient(self._manager.address, self._key)
        return self._manager.next_client(START_PATIENCE, self._local.check)


def _summary(result: Result, way: str) -> str:
    transfer: Transfer | None = result.transfer(way)
    rate = result.mib_per_second(way)
    if transfer is None:
        return ""
    speed = "too short to measure" if rate is None else f"{rate:,.1f} MiB/s"
    lost = transfer.sent - transfer.received
    return f"  {way.capitalize():<9} {transfer.seconds:.3f} seconds, {speed}, {lost:,} lost"


# --- what people see -------------------------------------------------------------------------------------------------


def run_menu(session: Session, options: Options) -> None:
    """Ask what to measure, and measure it, until told to stop: by 0, end of file, or Ctrl-C."""
    choices: dict[int, tuple[str, list[Suite]]] = {0: ("Exit", [])}
    suites = [*suites_of(list(SUITES), options.demuxes)]
    if not options.demuxes:
        suites.append(ROUTED)
    for suite in suites:
        with demultiplexing(suite.demux) as unavailable:
            remark = "" if unavailable is None else " - not available"
        choices[len(choices)] = (suite.title + remark, [suite])
    choices[len(choices)] = ("All of these", suites)
    while True:
        say("\nSelect protocol:\n")
        for number, (title, _) in choices.items():
            say(f"\t{number}: {title}")
        try:
            answer = input("\nProtocol: ").strip()
        except (EOFError, KeyboardInterrupt):
            say()
            return
        if not (answer.isascii() and answer.isdigit() and int(answer[:4]) in choices):
            say(f"Invalid selection: type a number from 0 to {len(choices) - 1}")
            continue
        chosen = choices[int(answer)][1]
        if not chosen:
            return
        for size in options.sizes:
            for suite in chosen:
                session.run(suite, size)


def report(results: Sequence[Result], options: Options) -> bool:
    """Show what was found, and write it where it was asked for; whether all of that went well."""
    if not results:
        return True
    for lines in (table(results), bars(results, Style.of(sys.stdout))):
        say()
        for line in lines:
            say(line)
    written = True
    for path, content in (
        (options.json, json.dumps(figures(results), indent=2) + "\n"),
        (options.plot, svg(results)),
    ):
        if path is None:
            continue
        try:
            path.write_text(content, "utf-8")
        except OSError as error:
            complain(f"{path} cannot be written: {describe(error)}")
            written = False
        else:
            say(f"\nWritten: {path}")
    return written


def complain(text: str) -> None:
    """Print an error."""
    print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)


class TerminatedError(BaseException):
    """SIGTERM came. Nothing but the end of the program catches it."""


@contextlib.contextmanager
def orderly_termination() -> Iterator[None]:
    """Clean up after SIGTERM too."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until the end of this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _frame: came.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for first in came[:1]:
            signal.raise_signal(first)


def manage(options: Options) -> int:
    """Run tests; the exit status."""
    status = 0
    with Session(options) as session:
        try:
            if options.run is None:
                run_menu(session, options)
            else:
                for size in options.sizes:
                    for suite in suites_of(options.run, options.demuxes):
                        session.run(suite, size)
        except KeyboardInterrupt:
            say("\nInterrupted")
            status = _INTERRUPTED
        results = session.results
    if not report(results, options) or any(result.outcome is None for result in results):
        status = status or _WRONG
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # names of machines may be in any script
    try:
        with orderly_termination():
            options = parse(arguments)
            if options.client:
                run_client(options.client, options.key or "", options.timeout)
                return 0
            return manage(options)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except TerminatedError:
        return _TERMINATED
    except PerfError as error:
        complain(str(error))
    except OSError as error:
        complain(describe(error))
    return _WRONG


if __name__ == "__main__":
    sys.exit(main())
