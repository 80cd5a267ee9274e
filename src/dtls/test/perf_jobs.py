"""How the throughput test's server and its clients agree on what to do: lines of JSON over TCP, each authenticated.

Both sides know a key, and prove it to each other by answering a challenge (HMAC with SHA-256 over fresh random numbers
of both); neither sends it. Each later line carries a code over its text and its number, under a key of this connection
and direction, so that nobody can add, change, repeat or leave out lines. Nothing is encrypted: there are no secrets in
them. What arrives is never more than what JSON can say, and is checked where it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import queue
import secrets
import select
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = "dtls.test.test_perf"
VERSION = 1
SHORTEST_KEY = 16
"""Characters of a key. Whoever has listened to a handshake can try keys as fast as machines allow."""
HANDSHAKE_PATIENCE = 10.0
"""Seconds for both to prove that they know the key, and for a line to be taken by the network."""
GOODBYE_PATIENCE = 2.0
"""Seconds for clients to end when they are told to."""
LONGEST_LINE = 16_384
LONGEST_NAME = 80
MOST_UNREAD = 64
"""Messages that may have arrived and not been looked at. Neither side ever sends so many without an answer."""
MAX_STRANGERS = 16
"""How many connections may be at proving that they know the key at the same time."""
_STEP = 0.2
_NONCE = 32


class PerfError(Exception):
    """Something failed that people are to be told about; the text says what."""


class Gone(PerfError):
    """The other side has closed the connection, has died, or cannot be understood any more."""


class Refused(PerfError):
    """One of the two does not know the key."""


class Channel:
    """A connection to the other side over which messages (dictionaries) go. It takes ``sock`` over.

    ``name`` says in errors who the other side is.
    """

    def __init__(self, sock: socket.socket, name: str) -> None:
        self.sock = sock
        self.name = name
        self._arrived = bytearray()
        self._lines: deque[bytes] = deque()
        self._next: dict[str, Any] | None = None
        self._keys: tuple[bytes, bytes] | None = None
        self._counts = [0, 0]
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(sock)

    def fileno(self) -> int:
        """The descriptor, for ``select``."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    def part(self, seconds: float) -> None:
        """Close the connection when the other side has; what it still has to say is not heard.

        If it were closed at once, then the system might take back what has been sent.
        """
        deadline = time.monotonic() + seconds
        with contextlib.suppress(PerfError):
            while (remaining := deadline - time.monotonic()) > 0 and self.receive(remaining) is not None:
                pass
        self.close()

    def secure(self, sending: bytes, receiving: bytes) -> None:
        """Authenticate all messages from now on with these keys."""
        self._keys = sending, receiving

    def send(self, **message: Any) -> None:
        """Send a message. Raises :class:`Gone`, also if it cannot be sent in time."""
        text = json.dumps(message, separators=(",", ":")).encode()
        if self._keys is not None:
            text = self._code(0, text) + b" " + text
        rest = memoryview(text + b"\n")
        deadline = time.monotonic() + HANDSHAKE_PATIENCE
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    raise Gone(self.name + " does not read what it is sent") from None
                select.select([], [self.sock], [], seconds)
            except OSError as error:
                why = f"{self.name} has gone: {error.strerror}"
                raise Gone(why) from None

    def poll(self) -> None:
        """Take in what has arrived, without waiting. Raises :class:`Gone`."""
        while True:
            try:
                part = self.sock.recv(LONGEST_LINE)
            except BlockingIOError:
                return
            except OSError as error:
                part, why = b"", f"{self.name} has gone: {error.strerror}"
            else:
                why = self.name + " has gone"
            if not part:
                if self._lines:
                    return  # its last words come first
                raise Gone(why)
            self._arrived += part
            *lines, rest = self._arrived.split(b"\n")
            self._lines.extend(bytes(line) for line in lines)
            self._arrived = rest
            if len(rest) > LONGEST_LINE or len(self._lines) > MOST_UNREAD:
                raise Gone(self.name + " sends something else than messages")

    def peek(self) -> dict[str, Any] | None:
        """The next message that has been taken in, which stays. Raises :class:`Gone` if it is not one.

        It is looked at no earlier than this: what the keys are may depend on the message before it.
        """
        if self._next is None and self._lines:
            self._next = self._parse_untrusted(self._lines.popleft())
        return self._next

    def take(self) -> dict[str, Any] | None:
        """The same, and it goes."""
        message, self._next = self.peek(), None
        return message

    def receive(self, seconds: float | None) -> dict[str, Any] | None:
        """The next message; ``None`` if none comes in time. Raises :class:`Gone`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while (message := self.take()) is None:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self.sock], [], [], remaining)[0]:
                return None
            self.poll()
        return message

    def _parse_untrusted(self, line: bytes) -> dict[str, Any]:
        if self._keys is not None:
            code, _, line = line.partition(b" ")
            if not hmac.compare_digest(code, self._code(1, line)):
                raise Gone(self.name + " sent a message that is not authentic")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise Gone(self.name + " sent something else than a message")
        return message

    def _code(self, direction: int, text: bytes) -> bytes:
        if self._keys is None:
            return b""
        number = self._counts[direction]
        self._counts[direction] += 1
        return _mac(self._keys[direction], number.to_bytes(8, "big") + text).encode()


def _keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice, within half a minute, when the other machine is no longer there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


# --- proving the key -------------------------------------------------------------------------------------------------


def show(address: Any) -> str:
    """Host and port as people write them."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_name() -> str:
    """What this process is called by others."""
    return printable(f"process {os.getpid()} on {socket.gethostname()}")


def printable(text: str, longest: int = 500) -> str:
    """What can be shown of a text that somebody else wrote."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:longest])


def admit(sock: socket.socket, address: Any, key: str) -> Channel:
    """The manager's side: a channel to a client that knows the key, which learns that the manager does, too.

    Raises :class:`PerfError`, and closes ``sock`` then.
    """
    return _agree(Channel(sock, show(address)), key, _admit)


def apply(sock: socket.socket, address: Any, key: str) -> Channel:
    """The client's side of :func:`admit`."""
    return _agree(Channel(sock, f"the manager at {show(address)}"), key, _apply)


def _agree(channel: Channel, key: str, agree: Callable[[Channel, str], None]) -> Channel:
    try:
        agree(channel, key)
    except BaseException:
        channel.close()
        raise
    return channel


def _admit(channel: Channel, key: str) -> None:
    nonce = secrets.token_hex(_NONCE)
    channel.send(program=PROGRAM, version=VERSION, nonce=nonce)
    answer = _receive(channel)
    theirs, name, proof = (_text_untrusted(answer, field) for field in ("nonce", "name", "proof"))
    transcript = f"{nonce} {theirs} {name}"
    if not _is_proof(proof, key, "client", transcript):
        channel.send(refused="the key is wrong")
        raise Refused(channel.name + " does not know the key")
    channel.send(proof=_mac(key.encode(), f"manager {transcript}".encode()))
    _secure(channel, key, transcript, "to client", "to manager")
    channel.name = f"the client ({name[:LONGEST_NAME]}, {channel.name})"


def _apply(channel: Channel, key: str) -> None:
    greeting = _receive(channel)
    if (greeting.get("program"), greeting.get("version")) != (PROGRAM, VERSION):
        raise Gone(channel.name + " is another program, or another version of this one")
    nonce, name = secrets.token_hex(_NONCE), own_name()
    transcript = f"{_text_untrusted(greeting, 'nonce')} {nonce} {name}"
    channel.send(nonce=nonce, name=name, proof=_mac(key.encode(), f"client {transcript}".encode()))
    answer = _receive(channel)
    if "refused" in answer:
        raise Refused(channel.name + " has another key")
    if not _is_proof(_text_untrusted(answer, "proof"), key, "manager", transcript):
        raise Refused(channel.name + " does not know the key")
    _secure(channel, key, transcript, "to manager", "to client")


def _is_proof(proof: str, key: str, whose: str, transcript: str) -> bool:
    expected = _mac(key.encode(), f"{whose} {transcript}".encode())
    return hmac.compare_digest(proof.encode(), expected.encode())


def _receive(channel: Channel) -> dict[str, Any]:
    message = channel.receive(HANDSHAKE_PATIENCE)
    if message is None:
        raise Gone(channel.name + " is silent")
    return message


def _text_untrusted(message: dict[str, Any], field: str) -> str:
    value = message.get(field)
    if not isinstance(value, str) or not value.isprintable():  # what is printable can be encoded, too
        error = f"a message without a usable {field!r}"
        raise Gone(error)
    return value


def _secure(channel: Channel, key: str, transcript: str, sending: str, receiving: str) -> None:
    keys = (_mac(key.encode(), f"{label} {transcript}".encode()).encode() for label in (sending, receiving))
    channel.secure(*keys)


def _mac(key: bytes, text: bytes) -> str:
    return hmac.new(key, text, hashlib.sha256).hexdigest()


# --- the manager -----------------------------------------------------------------------------------------------------


class Manager:
    """Lets clients in that know the key, and keeps them until there is work. It takes ``listener`` over.

    :param listener: a TCP socket that listens.
    :param say: is told, in any thread, who has come and who was refused.
    """

    def __init__(self, listener: socket.socket, key: str, say: Callable[[str], None]) -> None:
        self.address: Any = listener.getsockname()
        self._listener = listener
        self._key = key
        self._say = say
        self._idle: queue.SimpleQueue[Channel] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._strangers: deque[socket.socket] = deque()
        self._lock = threading.Lock()
        listener.settimeout(_STEP)
        self._thread = threading.Thread(target=self._receive_clients, daemon=True)
        self._thread.start()

    def _receive_clients(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:  # it has left already, or there are no descriptors
                self._stopping.wait(_STEP)
                continue
            with self._lock:
                self._strangers.append(sock)
                if len(self._strangers) > MAX_STRANGERS:
                    # A client proves itself at once. Who has not, does not keep others out: its thread notices this.
                    with contextlib.suppress(OSError):
                        self._strangers.popleft().shutdown(socket.SHUT_RDWR)
            threading.Thread(target=self._receive_client, args=(sock, address), daemon=True).start()

    def _receive_client(self, sock: socket.socket, address: Any) -> None:
        try:
            try:
                channel = admit(sock, address, self._key)
            finally:
                with self._lock, contextlib.suppress(ValueError):
                    self._strangers.remove(sock)
        except (PerfError, OSError) as error:
            if not self._stopping.is_set():
                self._say(f"Refused: {error}")
        else:
            self._say(f"Connected: {channel.name}")
            self._idle.put(channel)
            if self._stopping.is_set():
                self._dismiss()

    def next_client(self, seconds: float, check: Callable[[], None] | None = None) -> Channel:
        """A client for a job. ``check`` is called while waiting, and may raise.

        Raises :class:`PerfError` if none comes.
        """
        deadline = time.monotonic() + seconds
        while True:
            if check is not None:
                check()
            try:
                channel = self._idle.get(timeout=_STEP)
            except queue.Empty:
                if time.monotonic() >= deadline:
                    message = f"no client came within {seconds:g} seconds"
                    raise PerfError(message) from None
                continue
            try:
                channel.poll()
            except Gone as error:
                self._say(f"Gone: {error}")
                channel.close()
            else:
                return channel

    def give_back(self, channel: Channel) -> None:
        """The client is free for another job."""
        self._idle.put(channel)

    def stop(self) -> None:
        """Tell the clients to stop, and let no more in."""
        self._stopping.set()
        self._thread.join(HANDSHAKE_PATIENCE)
        self._listener.close()
        with self._lock:
            for stranger in self._strangers:
                with contextlib.suppress(OSError):
                    stranger.shutdown(socket.SHUT_RDWR)
        self._dismiss()

    def _dismiss(self) -> None:
        channels: list[Channel] = []
        with contextlib.suppress(queue.Empty):
            while True:
                channels.append(self._idle.get_nowait())
        for channel in channels:
            with contextlib.suppress(PerfError):
                channel.send(do="stop")
        deadline = time.monotonic() + GOODBYE_PATIENCE
        for channel in channels:
            channel.part(deadline - time.monotonic())
