"""One end of a connection that the throughput test measures, and what both ends know of what they are to do.

Sockets are non-blocking and waited for with ``select``, in the same way for all transports: this is also a
demonstration of how that is done with PyDTLS's interface. Beside the connection that is measured there is a
:class:`~.perf_jobs.Channel` on which the two sides agree; it is part of every wait, so that neither waits for somebody
who is gone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import secrets
import select
import ssl
import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

from dtls.err import ERR_PORT_UNREACHABLE

from .perf_jobs import PerfError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from .perf_jobs import Channel

TRANSPORTS = ("tcp", "udp", "ssl", "dtls")
INBOUND, OUTBOUND = DIRECTIONS = ("inbound", "outbound")
"""From the client to the server, and back."""
SMALLEST, LARGEST = 32, 16_384
"""Bytes of a message. DTLS has no larger ones."""
MOST = 10_000_000
"""Messages in one direction."""
HIGHEST_PORT = 0xFFFF
LONGEST_TIMEOUT = 600.0
"""Seconds."""
HELLO, MESSAGE, END = b"h", b"s", b"t"
"""The kinds of messages, of which each has one as its first byte."""
HEAD = 12
"""Bytes of a message before the filler."""
_TOKEN = 16
_WANTED = {ssl.SSL_ERROR_WANT_READ: False, ssl.SSL_ERROR_WANT_WRITE: True}
"""The errors that mean that the socket is to be waited for, and whether that is for writing."""
_NOBODY_THERE = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    ERR_PORT_UNREACHABLE,
)


def _is_ascii(value: Any) -> bool:
    return isinstance(value, str) and value.isascii()


@dataclass(frozen=True)
class Job:
    """What a client is to do; all that it learns about it.

    ``anchors`` is the certificate (PEM) to verify the server's with. The connection's first message has the token. Of
    the port the client learns when there is one.
    """

    number: int
    transport: str
    port: int
    chunks: int
    size: int
    directions: tuple[str, ...]
    timeout: float
    ciphers: str | None
    anchors: str
    token: str = field(default_factory=lambda: secrets.token_hex(_TOKEN), repr=False)

    @property
    def is_datagram(self) -> bool:
        """Whether messages may be lost."""
        return self.transport in ("udp", "dtls")

    @property
    def is_secure(self) -> bool:
        """Whether messages are encrypted."""
        return self.transport in ("ssl", "dtls")

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Job:
        """The job that a manager has sent. Raises :class:`PerfError` if it is none that can be done."""
        values: dict[str, Any] = {item.name: message.get(item.name) for item in fields(cls)}
        ways, timeout, ciphers = values["directions"], values["timeout"], values["ciphers"]
        values["directions"] = tuple(ways) if isinstance(ways, list) else ()
        if not (
            all(type(values[name]) is int for name in ("number", "port", "chunks", "size"))
            and all(_is_ascii(values[name]) for name in ("transport", "anchors", "token"))
            and (ciphers is None or _is_ascii(ciphers))
            and values["transport"] in TRANSPORTS
            and values["directions"] in (DIRECTIONS, (INBOUND,), (OUTBOUND,))
            and 1 <= values["port"] <= HIGHEST_PORT
            and 1 <= values["chunks"] <= MOST
            and SMALLEST <= values["size"] <= LARGEST
            and isinstance(timeout, int | float)
            and 0 < timeout <= LONGEST_TIMEOUT
            and len(values["token"]) == 2 * _TOKEN
        ):
            text = "the manager has sent a job that cannot be done"
            raise PerfError(text)
        return cls(**values)

    def marker(self, kind: bytes) -> bytes:
        """A greeting, or an end marker, which nobody else can know."""
        return kind + self.token.encode()

    def filler(self) -> bytes:
        """What each message ends with."""
        return hashlib.shake_256(self.token.encode()).digest(self.size - HEAD)


@dataclass(frozen=True)
class Transfer:
    """What was received in one direction. ``seconds`` are those from the first to the last message's arrival."""

    sent: int
    received: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The directions that were asked for, and the cipher suite if there is one."""

    inbound: Transfer | None
    outbound: Transfer | None
    cipher: str | None


@dataclass(frozen=True)
class Identity:
    """A server's key and certificates, and the root that vouches for them; all PEM."""

    key_and_chain: bytes
    root: bytes


class PeerFailedError(PerfError):
    """The other side says that it cannot go on, and why."""


def describe(error: BaseException) -> str:
    """What went wrong, as short as it can be said."""
    queue = getattr(error, "errqueue", None)
    if queue:
        text = queue[-1][1]
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def is_passing(error: OSError) -> bool:
    """Whether a non-blocking socket says by it that it is to be waited for."""
    return isinstance(error, BlockingIOError) or (
        isinstance(error, ssl.SSLError) and error.args[0] in _WANTED
    )


class Flow:
    """One end of the connection that is measured, with the channel beside it.

    :param listener: a DTLS socket that listens and must go on being listened to: datagrams for ``sock`` may come that
        way.
    """

    def __init__(self, sock: Any, channel: Channel, job: Job, listener: Any = None) -> None:
        self.sock = sock
        self.job = job
        self._channel = channel
        self._listener = listener
        self._room = job.size + 64 if job.is_datagram else job.size

    def wait(self, *, writing: bool = False, seconds: float) -> bool:
        """Whether the socket has become ready in time. Raises :class:`PerfError` when the other side has given up."""
        deadline = time.monotonic() + seconds
        others = [self._channel] if self._listener is None else [self._channel, self._listener]
        while (remaining := deadline - time.monotonic()) > 0:
            due = self._retransmission()
            pause = remaining if due is None else min(remaining, max(due, 0.001))
            readers = others if writing else [*others, self.sock]
            readable, writable, _ = select.select(readers, [self.sock] if writing else [], [], pause)
            if self._channel in readable:
                self.check()
            if self._listener in readable:
                self._pass_on()
            if self.sock in readable or self.sock in writable:
                return True
            if not readable and due is not None:
                self.sock.handle_timeout()
        return False

    def _retransmission(self) -> float | None:
        """Seconds until a flight of the handshake is to be repeated."""
        if self.job.transport != "dtls":
            return None
        due = self.sock.get_timeout()
        return None if due is None else float(due.total_seconds())

    def _pass_on(self) -> None:
        """Serve the socket that listens: it hands on what belongs to this connection. Nobody else is let in."""
        with contextlib.suppress(ssl.SSLError):  # a stranger's affair
            accepted = self._listener.accept()
            if accepted is not None:
                accepted[0].close()

    def check(self) -> None:
        """Raise :class:`PerfError` when the other side has given up or is gone."""
        self._channel.poll()
        while (message := self._channel.peek()) is not None:
            if message.get("job") == self.job.number and message.get("do") in ("ready", "received"):
                return
            self._channel.take()
            if message.get("job") != self.job.number:
                continue  # the last words of an earlier job
            why = printable(str(message.get("reason")))
            error = f"{self._channel.name} has given up: {why}"
            raise PeerFailedError(error)

    def hear(self, what: str, seconds: float) -> dict[str, Any] | None:
        """The message that is waited for; ``None`` if it does not come in time."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            message = self._channel.take()
            if message is not None and message["do"] == what:
                return message
            remaining = deadline - time.monotonic()
            if message is None and (
                remaining <= 0 or not select.select([self._channel], [], [], remaining)[0]
            ):
                return None

    def pause(self, seconds: float) -> None:
        """Wait until the other side says something. Raises :class:`PerfError` if it is that it has given up."""
        if self._channel.peek() is None:
            select.select([self._channel], [], [], seconds)
            self.check()

    def look_for_reason(self, error: OSError) -> None:
        """If the other side has closed the connection, wait for what it says about that. Raises :class:`PerfError`."""
        if error.errno in _NOBODY_THERE:
            self.pause(1.0)

    def tell(self, what: str, **details: Any) -> None:
        """Say something about this job."""
        self._channel.send(do=what, job=self.job.number, **details)

    def persist(self, operation: Callable[..., Any], *arguments: Any, writing: bool = False) -> Any:
        """Do something on the socket, waiting for it as often as it takes, as long as each wait is short enough.

        ``None`` if it is not. Other errors are the operation's.
        """
        ends = time.monotonic() + self.job.timeout
        while True:
            try:
                return operation(*arguments)
            except OSError as error:
                if is_passing(error):
                    ready = self.wait(writing=_WANTED.get(error.args[0], writing), seconds=self.job.timeout)
                elif error.errno == errno.ENOBUFS:
                    # Some systems say so when they mean the former, and then select() does not wait.
                    ready = time.monotonic() < ends
                    self.pause(0.001)
                else:
                    self.look_for_reason(error)
                    raise
            if not ready:
                return None

    def repeat_flight(self) -> None:
        """Repeat a flight of the handshake, if that is due."""
        due = self._retransmission()
        if due is not None and due <= 0:
            self.sock.handle_timeout()

    def handshake(self) -> None:
        """Complete the handshake. Raises :class:`PerfError` if it takes too long, :exc:`OSError` if it fails."""
        ends = time.monotonic() + self.job.timeout

        def step() -> bool:
            if time.monotonic() > ends:
                raise self._silence()
            self.sock.do_handshake()
            return True

        if not self.persist(step):
            raise self._silence()

    def send(self, message: bytes) -> None:
        """Send a message. Raises :class:`PerfError` if nobody takes it."""
        rest = memoryview(message)
        while rest:
            sent = self.persist(self.sock.send, rest, writing=True)
            if sent is None:
                raise self._silence()
            if self.job.is_datagram:
                return
            rest = rest[sent:]

    def receive(self) -> bytes | None:
        """A message; ``None`` if none comes in time or, of a stream, if the other side has closed it."""
        if self.job.is_datagram:
            return cast("bytes | None", self.persist(self.sock.recv, self._room))
        return self.receive_exactly(self._room)

    def receive_exactly(self, size: int) -> bytes | None:
        """So many bytes of a stream, likewise."""
        message: bytes = self.persist(self.sock.recv, size)
        if not message or len(message) == size:
            return message or None
        parts, missing = [message], size - len(message)
        while missing:
            part: bytes = self.persist(self.sock.recv, missing)
            if not part:
                return None
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _silence(self) -> PerfError:
        return PerfError(f"{self._channel.name} does not answer within {self.job.timeout:g} seconds")
