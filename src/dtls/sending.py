"""One association on one UDP socket: what goes out, datagram by datagram or many, and what both directions wait by."""

from __future__ import annotations

import abc
import contextlib
import errno
import functools
import math
import os
import socket
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from . import mmsg
from .connection import MAX_SEGMENTS, ConnectionState
from .errors import (
    MessageTooLarge,
    PeerUnreachable,
    SSLError,
    SSLTimeoutError,
    SSLWantReadError,
    SSLWantWriteError,
    SSLZeroReturnError,
)
from .kernel import now, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .connection import Connection

MAX_UNSENT = 64
"""How many datagrams wait for room in the send buffer, before what the peer will ask for again is dropped."""
MAX_SENT_AT_A_TIME = min(MAX_SEGMENTS, MAX_UNSENT)
"""How many messages are protected and sent in a row before the lock is given up: all of them may have to wait."""
LOST_ON_THE_WAY = frozenset(
    {errno.ENOBUFS, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EPERM}
)
LOOK_AGAIN = 2.0
"""Seconds after which a thread that waits looks at what others may have done: another may have read what woke both."""

NOTHING_WAITS: deque[Any] = deque(maxlen=0)
"""Stands for a queue until there is something to put in: few associations need those that it stands for."""
_RLock = type(threading.RLock())
"""What ``threading.RLock()`` makes, without a call of Python's."""
_POSIX = os.name == "posix"
# Looked up once: an attribute of an enumeration's class is slow to get on some Pythons.
_HANDSHAKING, _ESTABLISHED = ConnectionState.HANDSHAKING, ConnectionState.ESTABLISHED


class Sender(abc.ABC):
    """The half of :class:`~dtls.driver.Driver` that sends ``connection``'s datagrams on ``sock``, and that waits."""

    # What stays so in many an association.
    _refusals = 0
    _owns_socket = True
    _waiting = 0
    """How many threads wait for the socket; the last to wake closes it if it is to be closed."""
    _sends_segments: bool | None = None
    """Whether the kernel takes datagrams of one size as one; ``None`` until somebody wants to know."""

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        *,
        refusals_tolerated: int,
        wait: Callable[[bool, float], None] | None,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.connection = connection
        # Empty: its constructor takes long to put nothing in.
        self.statistics: Counter[str] = Counter.__new__(Counter)
        self.error: SSLError | None = None
        """What ended the association, if it did not end by close_notify."""
        self._wait_elsewhere = wait
        self._refusals_tolerated = refusals_tolerated
        self._may_keep_flight = True
        self._unsent: deque[bytes] = NOTHING_WAITS
        self._lock = _RLock()
        self._closed = False
        # ``recv`` may wait where there is another way to send that does not, whatever mode the socket is in.
        self._waits_in_recv = _POSIX and isinstance(sock, socket.socket)
        self._recv_timeout = 0.0
        self._send: Callable[[bytes], int] = (
            functools.partial(os.write, sock.fileno()) if self._waits_in_recv else sock.send
        )

    @abc.abstractmethod
    def advance(self, messages: int = 0) -> None:
        """Take in what has arrived, without waiting."""

    # --- one message ---------------------------------------------------------------------------------------------

    def send(self, message: bytes | bytearray | memoryview, timeout: float | None) -> None:
        """Send one message. Raises as :meth:`~dtls.connection.Connection.send`, and for a full send buffer."""
        deadline = None
        if self.connection.keeps_flight:
            # Whoever only sends would not hear that the peer has not got it.
            self.advance(messages=1)
        while True:
            with self._lock:
                if self._unsent:
                    self._send_unsent()
                if self.error is not None:
                    raise self.error.with_traceback(None)
                if not self._unsent:
                    datagram = self.connection.protect(message)
                    try:
                        self._send(datagram)
                    except OSError:  # no room, or worse, or about an earlier datagram
                        self.send_sealed(datagram, len(message))
                    return
            if deadline is None:
                deadline = deadline_of(timeout)
            self._wait_for_room(timeout, deadline)

    def send_through(self, send: Callable[[bytes], int], message: bytes | bytearray | memoryview) -> bool:
        """Send one message by the socket's own ``send``, which may wait for room and is called without the lock.

        False if others have to be sent before it: then :meth:`send` is to be called. Raises
        :exc:`ConnectionRefusedError` if ICMP has refused an earlier datagram (this one is sent nevertheless), and
        what :meth:`send` raises.
        """
        lock = self._lock
        try:  # as `with lock` does, in half the time
            lock.acquire()
        except BaseException:
            release_if_taken(lock)
            raise
        try:
            if self._unsent or self.error or (self._may_keep_flight and self._keeps_flight()):
                return False
            datagram = self.connection.protect(message)
        finally:
            lock.release()
        try:
            send(datagram)
        except ConnectionRefusedError:
            self.send_sealed(datagram, len(message))
            raise
        except OSError:  # no room, or worse
            self.send_sealed(datagram, len(message))
        return True

    def _keeps_flight(self) -> bool:
        """Whether the peer may not have got our last flight. Once it has, there is none any more."""
        connection = self.connection
        keeps_flight = connection.keeps_flight
        self._may_keep_flight = keeps_flight or connection.state is _HANDSHAKING
        return keeps_flight

    def send_sealed(self, datagram: bytes, length: int) -> None:
        """Send what a message of ``length`` bytes has become, or have it wait for room.

        Raises :exc:`OSError`, :class:`~dtls.MessageTooLarge` for what the network path does not take.
        """
        with self._lock:
            try:
                if not self._transmit(datagram):
                    self.keep(datagram)
            except OSError as error:
                raise self._send_error(error, length) from None

    def _send_error(self, error: OSError, length: int) -> OSError:
        if error.errno != errno.EMSGSIZE:
            return error
        text = f"a message of {length} bytes is too long for the network path; lower Context.mtu"
        return MessageTooLarge(text, limit=min(self.connection.max_message_size, length - 1))

    # --- many messages -------------------------------------------------------------------------------------------

    def send_many(self, messages: Sequence[bytes | bytearray | memoryview], timeout: float | None) -> int:
        """Send messages in order, each as one datagram; how many. Those that wait for room in the end count as sent.

        Raises as :meth:`send`: for a message that cannot be sent before any is, for all else if none was.
        """
        own = [self._checked(message) for message in messages]
        if self.connection.keeps_flight:
            self.advance(messages=1)
        deadline = deadline_of(timeout)
        sent = 0
        try:
            while sent < len(own) or (self._unsent and timeout != 0):
                with self._lock:  # others have their turn after each batch
                    has_room = self._is_there_room()
                    if has_room:
                        sent += self._send_batch(own[sent : sent + MAX_SENT_AT_A_TIME])
                if not has_room:
                    self._wait_for_room(timeout, deadline)
        except OSError:
            if not sent:
                raise
        return sent

    def _checked(self, message: bytes | bytearray | memoryview) -> bytes:
        """A message as it is now, if it can be sent."""
        try:
            own = message if isinstance(message, bytes) else bytes(memoryview(message))
        except TypeError:
            own = b""
        if not 0 < len(own) <= self.connection.max_message_size:
            with self._lock:
                self.connection.protect(message)  # raises what is wrong with it
        return own

    def _is_there_room(self) -> bool:
        """Whether nothing waits to be sent any more. Raises what has ended the association."""
        if self._closed:
            raise SSLZeroReturnError
        if self._unsent:
            self._send_unsent()
        if self.error is not None:
            raise self.error.with_traceback(None)
        return not self._unsent

    def _send_batch(self, batch: list[bytes]) -> int:
        """Send messages, or have them wait for room: how many. Raises :exc:`OSError` if it is none."""
        taken = 0
        runs = self.connection.protect_many(batch)
        try:
            for datagrams, size in runs:
                if self._send_segments(datagrams, size):
                    taken += -(-len(datagrams) // size)
                    continue
                for datagram in mmsg.split(datagrams, size):
                    if self._unsent or not self._transmit(datagram):
                        self.keep(datagram)
                    taken += 1
        except OSError as error:
            self._sends_segments = None  # if it was refused too, it was not because of that
            if not taken:
                raise self._send_error(error, len(batch[0])) from None
        return taken

    def _send_segments(self, datagrams: bytes, size: int) -> bool:
        """Send a run of datagrams as one; false if it was not sent, and each is to be sent by itself."""
        if len(datagrams) <= size or self._unsent:
            return False
        if self._sends_segments is None:
            self._sends_segments = mmsg.can_batch(self.sock) and mmsg.takes_segments(self.sock)
        if not self._sends_segments:
            return False
        if self._recv_timeout:
            self._set_recv_timeout(0.0)  # which ``sendmsg`` would wait for, too
        try:
            self.sock.sendmsg([datagrams], [mmsg.segment_control(size)])
        except OSError as error:  # no room for all, say, or about an earlier datagram
            if error.errno in mmsg.SEGMENTS_REFUSED:
                self._sends_segments = False
            return False
        return True

    # --- datagrams -----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what waits to be sent."""
        with self._lock:
            self._flush_quietly()

    def _flush(self) -> None:
        for datagram in self.connection.datagrams_to_send(now()):
            if self._unsent or not self._transmit(datagram):
                self.keep(datagram)

    def _flush_quietly(self) -> None:
        """As far as the socket lets us; what is lost is repeated by its timer."""
        if self._unsent:
            self._send_unsent()
        try:
            self._flush()
        except OSError as error:
            self._count(error)

    def _send_unsent(self) -> None:
        """What waited for room goes out; if the kernel refuses it now, it is lost as any datagram may be."""
        while self._unsent:
            try:
                if not self._transmit(self._unsent[0]):
                    return
            except OSError as error:
                self._count(error)
            self._unsent.popleft()

    def keep(self, datagram: bytes) -> None:
        """Send a datagram when there is room in the send buffer."""
        if self._unsent is NOTHING_WAITS:
            self._unsent = deque()
        if len(self._unsent) < MAX_UNSENT:
            self._unsent.append(datagram)
        else:
            self.statistics["dropped_unsent"] += 1

    def _transmit(self, datagram: bytes, *, again: bool = True) -> bool:
        """Whether the kernel took it, or it is lost as any datagram may be."""
        try:
            self._send(datagram)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionRefusedError:
            # That was about an earlier datagram; this one was not sent.
            self._note_refusal()
            if again:
                return self._transmit(datagram, again=False)
        except OSError as error:
            if error.errno not in LOST_ON_THE_WAY or self.connection.state is _ESTABLISHED:
                raise
            self._count(error)
        return True

    def _note_refusal(self) -> None:
        """ICMP says that nothing listens at the peer's port. Anybody can say so; it counts in a handshake only."""
        self.statistics["refused_by_icmp"] += 1
        self._refusals += 1
        handshaking = self.connection.state is _HANDSHAKING
        # An alert that is held, and soon to be believed, says why nothing listens there any more.
        says_why = bool(self.connection.statistics["held_alert"])
        if handshaking and self._refusals > self._refusals_tolerated and not says_why:
            text = "The peer address is not reachable: nothing listens on its port (ICMP port unreachable)"
            self.error = PeerUnreachable(text)

    def _count(self, error: OSError) -> None:
        self.statistics[f"socket_{errno.errorcode.get(error.errno or 0, 'error').lower()}"] += 1

    # --- waiting -------------------------------------------------------------------------------------------------

    def _wait(self, deadline: float, timeout: float | None, complaint: str) -> None:
        if timeout == 0:
            raise SSLWantReadError
        if now() >= deadline:
            text = f"{complaint} ({timeout:g} s)"
            raise SSLTimeoutError(text)
        at = self.connection.next_timeout()
        self._wait_until_ready(
            writable=bool(self._unsent), until=deadline if at is None else min(deadline, at)
        )

    def _wait_for_room(self, timeout: float | None, deadline: float) -> None:
        """Wait for the send buffer."""
        if timeout == 0:
            raise SSLWantWriteError
        self._wait_until_ready(writable=True, until=deadline)
        if self._closed:
            raise SSLZeroReturnError
        if now() >= deadline:
            text = "the socket's send buffer did not empty in time"
            raise SSLTimeoutError(text)

    def _wait_until_ready(self, *, writable: bool, until: float) -> None:
        """Wait outside the lock. While a thread waits, the descriptor's number is nobody else's."""
        with self._lock:
            if self._closed:
                return
            self._waiting += 1
            descriptor = self.sock.fileno()
        until = min(until, now() + LOOK_AGAIN)
        try:
            if self._wait_elsewhere is None:
                wait_until_ready(descriptor, writable=writable, until=until)
            else:
                self._wait_elsewhere(writable, until)
        finally:
            with self._lock:
                self._done_waiting()

    def _done_waiting(self) -> None:
        self._waiting -= 1
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and self._owns_socket and not self._waiting:
            self.sock.close()

    def _set_recv_timeout(self, seconds: float) -> None:
        """How long the socket's ``recv`` waits; 0 for not at all. Who waits in it already is not concerned."""
        self.sock.settimeout(seconds)
        self._recv_timeout = seconds


def send_first(sock: socket.socket, connection: Connection) -> list[bytes]:
    """Send what a new association has to say, on a socket that does not block; what is left, for a :class:`Sender`."""
    datagrams = connection.datagrams_to_send(now())
    for number, datagram in enumerate(datagrams):
        try:
            sock.send(datagram)
        except OSError:  # who tries again will find out what it means
            return datagrams[number:]
    return []


def deadline_of(timeout: float | None) -> float:
    """When a timeout that begins now is over."""
    return math.inf if timeout is None else now() + timeout


def release_if_taken(lock: threading.RLock) -> None:
    """Release a lock if it was taken before its ``acquire`` raised, as the handler of a signal may have it do."""
    with contextlib.suppress(RuntimeError):  # it is not ours
        lock.release()
