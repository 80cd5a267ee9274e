"""The transfers of the throughput test: messages from a client to a server, and then back, as fast as they go.

A message is a kind (one byte), a number (ten digits), a colon, and filler that both sides know. Datagrams may be lost:
after the last message comes an end marker, again and again until the other side says what it has received. If all
are lost, the receiver ends after some seconds of silence.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import select
import socket
import ssl
import tempfile
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import dtls
from dtls import do_patch

from .perf_flow import (
    END,
    HEAD,
    HELLO,
    INBOUND,
    MESSAGE,
    OUTBOUND,
    Flow,
    Identity,
    Job,
    Outcome,
    PeerFailedError,
    Transfer,
    describe,
    is_passing,
)
from .perf_jobs import PerfError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .perf_jobs import Channel

    Progress: TypeAlias = Callable[[str, int, int], None]
    """Is told the direction, how many messages have been transferred, and of how many."""

DEMUXES = ("osnet", "router")
"""How a DTLS server's datagrams find their connection: the kernel tells them apart, or they are forwarded."""
MARKER_INTERVAL = 0.05
"""Seconds between two end markers."""
BUFFER = 1 << 20
"""Bytes that each datagram socket's receive buffer is asked to hold; the system may give it less."""
MOST_CANDIDATES = 16
"""How many may be connected, at the same time, who have not shown yet that they are our client."""
_STEP = 0.1
"""Seconds after which candidates are looked at in any case."""
_LONGEST = 1e9
"""Seconds that no transfer takes."""
_STRIDE = 256
"""Messages between two looks at what else goes on."""

patched_ssl = cast("Any", ssl)
"""The ``ssl`` module with what ``do_patch()`` adds."""


# --- one direction ---------------------------------------------------------------------------------------------------


def send_all(flow: Flow, direction: str, progress: Progress) -> None:
    """Send all messages."""
    chunks, filler = flow.job.chunks, flow.job.filler()
    for number in range(chunks):
        flow.send(b"s%010d:" % number + filler)
        if not number % _STRIDE:
            flow.check()
            progress(direction, number, chunks)
    if not flow.job.is_datagram:
        # The end does not wait for others to be acknowledged (Nagle): that can take longer than the whole transfer.
        flow.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    progress(direction, chunks, chunks)


def end(flow: Flow) -> Transfer:
    """Send end markers, for datagrams, until the other side says what it has received: that."""
    job = flow.job
    deadline = time.monotonic() + 2 * job.timeout + 1
    while (remaining := deadline - time.monotonic()) > 0:
        if job.is_datagram:
            with contextlib.suppress(OSError):  # it may have ended already, and say so in a moment
                flow.send(job.marker(END))
        message = flow.hear("received", MARKER_INTERVAL if job.is_datagram else remaining)
        if message is not None:
            count, seconds = message.get("count"), message.get("seconds")
            if (
                type(count) is int
                and 0 < count <= job.chunks
                and isinstance(seconds, int | float)
                and 0 <= seconds < _LONGEST
            ):
                return Transfer(job.chunks, count, float(seconds))
            break
    text = "the other side does not say what it has received"
    raise PerfError(text)


def receive_all(flow: Flow, direction: str, progress: Progress) -> Transfer:
    """Receive messages until the last one or an end marker comes or, of datagrams, nothing useful for too long."""
    job = flow.job
    filler, final = job.filler(), job.marker(END)
    seen = bytearray(job.chunks)
    count = 0
    first = last = time.perf_counter()
    while count < job.chunks:
        message = flow.receive()
        if message is None or message == final:
            break
        number = _number_untrusted(message, filler, job.chunks)
        if number is None or seen[number]:
            if not job.is_datagram:
                text = "something else arrived than what was sent"
                raise PerfError(text)
            # A greeting repeated before it was known to have arrived, a duplicate, or what a stranger has sent.
            if time.perf_counter() - last > job.timeout:
                break
            continue
        seen[number] = 1
        last = time.perf_counter()
        if not count:
            first = last
        if not count % _STRIDE:
            progress(direction, number, job.chunks)
        count += 1
    if count < job.chunks and not job.is_datagram:
        flow.pause(1.0)  # the other side may have said why
    if not count or (count < job.chunks and not job.is_datagram):
        text = f"{count} of {job.chunks} messages have arrived, and no more came"
        raise PerfError(text)
    progress(direction, job.chunks, job.chunks)
    return Transfer(job.chunks, count, last - first)


def _number_untrusted(message: bytes, filler: bytes, chunks: int) -> int | None:
    if message[:1] != MESSAGE or message[HEAD:] != filler:
        return None
    digits = message[1 : HEAD - 1]
    number = int(digits) if digits.isdigit() else chunks
    return number if number < chunks else None


# --- the server ------------------------------------------------------------------------------------------------------


def bound_socket(address: Any, kind: socket.SocketKind) -> socket.socket:
    """A socket bound to an address as ``getsockname()`` gives it."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM and os.name == "posix":
            # Else a fixed port could not be used again for some minutes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def demultiplexing(name: str | None) -> Iterator[str | None]:
    """New listening DTLS sockets use this one of :data:`DEMUXES`, or the system's usual one. Gives why not, if not."""
    if name is None:
        yield None
        return
    dtls.reset_default_demux()
    try:
        switched = dtls.force_routing_demux()
        if name == "router":
            yield None
        else:
            dtls.reset_default_demux()
            yield None if switched else "this system has the routing demultiplexer only"
    finally:
        dtls.reset_default_demux()


def serve(channel: Channel, identity: Identity, job: Job, progress: Progress) -> Outcome:
    """Have a client do a job, and do the server's part. Raises :class:`PerfError` and :exc:`OSError`.

    The client is waited for at the address at which it has found the manager; ``job.port`` 0 is any port.
    """
    do_patch()
    results: dict[str, Transfer] = {}
    try:
        with contextlib.ExitStack() as stack:
            listener = _listening(channel, identity, job)
            stack.callback(listener.close)
            job = replace(job, port=listener.getsockname()[1])
            channel.send(do="job", job=job.number, **asdict(job))
            flow = _meet(listener, channel, job)
            stack.callback(hang_up, flow)
            flow.tell("ready")
            if INBOUND in job.directions:
                result = results[INBOUND] = receive_all(flow, INBOUND, progress)
                flow.tell("received", count=result.received, seconds=result.seconds)
            if OUTBOUND in job.directions:
                send_all(flow, OUTBOUND, progress)
                results[OUTBOUND] = end(flow)
            cipher = f"{_text(flow.sock.cipher()[0])}, {flow.sock.version()}" if job.is_secure else None
            return Outcome(results.get(INBOUND), results.get(OUTBOUND), cipher)
    except PeerFailedError:
        raise
    except BaseException as error:
        with contextlib.suppress(PerfError):
            channel.send(do="abort", job=job.number, reason=describe(error))
        raise


def _text(text: str | bytes) -> str:
    """PyDTLS has bytes where the standard library has text."""
    return text.decode() if isinstance(text, bytes) else text


def _listening(channel: Channel, identity: Identity, job: Job) -> Any:
    """The server's socket: it listens, or is ready to receive if there is nothing to listen with."""
    host, _, *rest = channel.sock.getsockname()
    kind = socket.SOCK_DGRAM if job.is_datagram else socket.SOCK_STREAM
    sock: Any = bound_socket((host, job.port, *rest), kind)
    try:
        if job.is_datagram:
            _enlarge(sock)
        if job.is_secure:
            sock = _secured(sock, job, server_side=True, certfile=identity.key_and_chain)
        if job.transport != "udp":
            sock.listen(5)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(sock: socket.socket, job: Job, **pem: Any) -> Any:
    """What ``ssl.wrap_socket`` makes of a socket, of either kind. ``pem`` names its parameters."""
    if job.is_datagram:
        return patched_ssl.wrap_socket(sock, do_handshake_on_connect=False, ciphers=job.ciphers, **pem)
    ciphers = job.ciphers
    if ciphers and "NULL" in ciphers and "@SECLEVEL" not in ciphers:
        # OpenSSL has suites without encryption at this level only. For DTLS the package sees to it.
        ciphers += ":@SECLEVEL=0"
    with contextlib.ExitStack() as stack:
        # For streams the ssl module reads certificates from files only.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="dtls-perf-"))
        for name, value in pem.items():
            if isinstance(value, bytes):
                path = Path(directory, f"{name}.pem")
                path.touch(0o600)
                path.write_bytes(value)
                pem[name] = str(path)
        stack.enter_context(warnings.catch_warnings())
        # Of old Pythons: the function, and naming a version, are deprecated for streams.
        warnings.simplefilter("ignore", DeprecationWarning)
        return patched_ssl.wrap_socket(
            sock,
            # What DTLS 1.2 corresponds to, so that both have the same cipher suites.
            ssl_version=ssl.PROTOCOL_TLSv1_2,
            do_handshake_on_connect=False,
            ciphers=ciphers,
            **pem,
        )


def _enlarge(sock: Any) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)


class _Candidate:
    """Somebody who has come to the server's port, and may be our client: who says the token is."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._secured = not flow.job.is_secure
        self._expected = flow.job.marker(HELLO)
        self._said = b""

    def fileno(self) -> int:
        """The descriptor, for ``select``."""
        return cast("int", self.flow.sock.fileno())

    def proceed(self) -> str | None:
        """Go on as far as possible without waiting: empty if it is our client, else why it is not; ``None`` if open."""
        sock = self.flow.sock
        try:
            self.flow.repeat_flight()
            if not self._secured:
                sock.do_handshake()
                self._secured = True
            while len(self._said) < len(self._expected):
                part: bytes = sock.recv(len(self._expected) - len(self._said))
                if not part:
                    break
                self._said += part
        except OSError as error:
            return None if is_passing(error) else describe(error)
        return "" if hmac.compare_digest(self._said, self._expected) else "it is not our client"


def _meet(listener: Any, channel: Channel, job: Job) -> Flow:
    """The connection with our client. Strangers are sent away, and do not keep it waiting."""
    deadline = time.monotonic() + job.timeout
    reason = nobody = f"{channel.name} does not come within {job.timeout:g} seconds"
    watched = Flow(listener, channel, job)
    candidates: list[_Candidate] = []
    try:
        while (remaining := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select(
                [channel, listener, *candidates], [], [], min(remaining, _STEP if candidates else remaining)
            )
            if channel in readable:
                watched.check()
            if listener in readable:
                if job.transport == "udp":
                    if _is_greeted(listener, job):
                        return watched
                    continue
                candidates.extend(_candidates(listener, channel, job))
                while len(candidates) > MOST_CANDIDATES:
                    candidates.pop(0).flow.sock.close()
            ours, refused = _sort_out(candidates)
            if ours is not None:
                return ours
            if refused:
                reason = f"{nobody}; somebody came and went: {refused}"
    finally:
        for candidate in candidates:
            candidate.flow.sock.close()
    raise PerfError(reason)


def _sort_out(candidates: list[_Candidate]) -> tuple[Flow | None, str]:
    """Our client, if it is among them; and why a stranger was sent away, if one was."""
    refused = ""
    for candidate in list(candidates):
        state = candidate.proceed()
        if state is not None:
            candidates.remove(candidate)
            if not state:
                return candidate.flow, refused
            candidate.flow.sock.close()
            refused = state
    return None, refused


def _is_greeted(sock: socket.socket, job: Job) -> bool:
    """Whether our client's greeting has arrived; then the socket is connected to it."""
    try:
        greeting, address = sock.recvfrom(2048)
        if not hmac.compare_digest(greeting, job.marker(HELLO)):
            return False
        sock.connect(address)
    except OSError:  # an ICMP error, which somebody may have forged
        return False
    return True


def _candidates(listener: Any, channel: Channel, job: Job) -> Iterator[_Candidate]:
    """Who has just come, if anybody: some datagrams are only answered, or handed on."""
    try:
        accepted = listener.accept()
    except OSError:  # a stranger's affair
        return
    if accepted is not None:
        sock = accepted[0]
        sock.setblocking(False)
        if job.is_datagram:
            _enlarge(sock)
        yield _Candidate(Flow(sock, channel, job, listener if job.is_datagram else None))


def hang_up(flow: Flow) -> None:
    """Close the connection, with a word to the other side if the protocol has one."""
    if flow.job.transport == "dtls":
        with contextlib.suppress(OSError, ValueError):
            flow.sock.unwrap().close()
    flow.sock.close()


# --- the client ------------------------------------------------------------------------------------------------------


def work(channel: Channel, job: Job) -> dict[str, Transfer]:
    """The client's part of a job: what was received, by direction. Raises as :func:`serve` does."""
    do_patch()
    results: dict[str, Transfer] = {}
    try:
        with contextlib.ExitStack() as stack:
            flow = _connect(channel, job)
            stack.callback(hang_up, flow)
            _greet(flow)
            if INBOUND in job.directions:
                send_all(flow, INBOUND, _silent)
                results[INBOUND] = end(flow)
            if OUTBOUND in job.directions:
                result = results[OUTBOUND] = receive_all(flow, OUTBOUND, _silent)
                flow.tell("received", count=result.received, seconds=result.seconds)
            return results
    except PeerFailedError:
        raise
    except BaseException as error:
        with contextlib.suppress(PerfError):
            channel.send(do="failed", job=job.number, reason=describe(error))
        raise


def _silent(_direction: str, _done: int, _all: int) -> None:
    """The server shows how far things are."""


def _connect(channel: Channel, job: Job) -> Flow:
    """Connect to the port in the job, at the manager's own address and nowhere else."""
    host, _, *rest = channel.sock.getpeername()
    sock: Any = socket.socket(
        channel.sock.family, socket.SOCK_DGRAM if job.is_datagram else socket.SOCK_STREAM
    )
    try:
        if job.is_datagram:
            _enlarge(sock)
        if job.is_secure:
            sock = _secured(sock, job, cert_reqs=ssl.CERT_REQUIRED, ca_certs=job.anchors.encode())
        sock.settimeout(job.timeout)
        flow = Flow(sock, channel, job)
        try:
            sock.connect((host, job.port, *rest))
        except OSError as error:
            flow.look_for_reason(error)
            raise
        sock.setblocking(False)
        if job.is_secure:
            flow.handshake()
    except BaseException:
        sock.close()
        raise
    return flow


def _greet(flow: Flow) -> None:
    """Say who we are until the server is ready."""
    job = flow.job
    deadline = time.monotonic() + job.timeout
    said = False
    while (remaining := deadline - time.monotonic()) > 0:
        if job.is_datagram or not said:
            flow.send(job.marker(HELLO))
            said = True
        if flow.hear("ready", MARKER_INTERVAL if job.is_datagram else remaining) is not None:
            return
    text = f"the server is not ready within {job.timeout:g} seconds"
    raise PerfError(text)
