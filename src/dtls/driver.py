"""One association on one UDP socket: the blocking and non-blocking I/O that every socket-like interface stands on.

The kernel's socket never blocks; waiting is done here, outside the lock, so that one thread may send while another
waits to receive, and so that retransmissions happen on time whatever the user's timeout is. Timeouts are as in the
``socket`` module: seconds, ``None`` for no limit, 0 for "do not wait".
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import socket
import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from .connection import ConnectionState
from .errors import (
    MessageTooLarge,
    PeerUnreachable,
    SSLError,
    SSLTimeoutError,
    SSLWantReadError,
    SSLWantWriteError,
    SSLZeroReturnError,
)
from .events import AlertReceived, DataReceived, Event, HandshakeFailed
from .gate import begins_client_hello
from .kernel import LARGEST_DATAGRAM, MAX_READS, lead_nowhere, now, same_address, wait_until_ready
from .wire import ContentType

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection

MAX_UNSENT = 64
"""How many datagrams wait for room in the send buffer, before what the peer will ask for again is dropped."""
REFUSALS_TOLERATED = 1
"""How many ICMP refusals in a row a handshake survives: anybody can forge one, and a server may be just starting."""
_LOST_ON_THE_WAY = frozenset(
    {errno.ENOBUFS, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EPERM}
)

LOOK_AGAIN = 2.0
"""Seconds after which a thread that waits looks at what others may have done: another may have read what woke both."""
_GLANCE = 0.05
"""The same for one that waits for what another thread is likely to read."""
STRANGERS_TIME = 0.1
"""Seconds after connecting a server's socket, in which others' datagrams that were under way to it may turn up."""
_NO_MESSAGE = "no message came in time"
_NO_LISTENER = (
    "the handshake timed out, and ICMP says that nothing listens at the peer's port (anybody can forge that)"
)
_PLAINTEXT_HANDSHAKE = bytes([ContentType.HANDSHAKE])

# Looked up once: an attribute of an enumeration's class is slow to get on some Pythons.
_HANDSHAKING, _ESTABLISHED = ConnectionState.HANDSHAKING, ConnectionState.ESTABLISHED


class Driver:
    """Runs ``connection`` on ``sock``, which must be connected to the peer and is made non-blocking.

    :param peer: the peer's address if datagrams of others may still arrive on ``sock``.
    :param divert: takes datagrams that may not be for this association: a stranger's, and ClientHellos of the peer,
        which may begin anew. Called without the lock; gives back through :meth:`deliver` what was for us after all.
    :param keeps_plaintext: only strangers' datagrams are diverted: the handshake itself is run here.
    :param wait: waits for ``sock``, given ``writable`` and ``until`` as :func:`wait_until_ready` has them, if the
        descriptor alone does not tell when there is something to read.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        *,
        peer: Any = None,
        divert: Callable[[bytes, Any], None] | None = None,
        refusals_tolerated: int = REFUSALS_TOLERATED,
        keeps_plaintext: bool = False,
        wait: Callable[[bool, float], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.connection = connection
        self.statistics: Counter[str] = Counter()
        self.messages: deque[bytes] = deque()
        self.error: SSLError | None = None
        """What ended the association, if it did not end by close_notify."""
        self._peer = peer
        self._divert = divert
        self._keeps_plaintext = keeps_plaintext
        self._wait_elsewhere = wait
        self.shares = False
        """Whether ``divert`` gets a copy of everything, since the peer is in a new handshake."""
        self._refusals_tolerated = refusals_tolerated
        self._refusals = 0
        self._unsent: deque[bytes] = deque()
        self._diverted: deque[tuple[bytes, Any]] = deque()
        self._lock = threading.RLock()
        self._closed = False
        self._owns_socket = True
        self._waiting = 0
        """How many threads wait for the socket; the last to wake closes it if it is to be closed."""
        # ``recv`` may wait where there is another way to send that does not, whatever mode the socket is in.
        self._waits_in_recv = os.name == "posix" and isinstance(sock, socket.socket)
        self._recv_timeout = 0.0
        self._send: Callable[[bytes], int] = (
            functools.partial(os.write, sock.fileno()) if self._waits_in_recv else sock.send
        )
        self._waiting_in_recv = 0
        self._left: threading.Condition | None = None
        """Notified when a thread no longer waits in ``recv``, once somebody wants to know."""
        self._strangers_until = -math.inf if peer is None else now() + STRANGERS_TIME
        """Until when the sender of each datagram is looked at."""

    # --- what callers do -----------------------------------------------------------------------------------------

    def handshake(self, timeout: float | None) -> None:
        """Complete the handshake. Raises its error, :class:`SSLWantReadError` or :class:`SSLTimeoutError`."""
        deadline = _deadline(timeout)
        while True:
            self.advance()
            with self._lock:
                if self.error is not None:
                    raise self.error.with_traceback(None)
                if self.connection.state is not _HANDSHAKING:
                    if self._closed:
                        raise SSLZeroReturnError
                    return
            refused = self.statistics["refused_by_icmp"]  # once, which is not enough to believe it
            self._wait(deadline, timeout, _NO_LISTENER if refused else "the handshake timed out")

    def receive(self, timeout: float | None) -> bytes | None:
        """The next message; ``None`` when the peer has closed. Raises what ended the association otherwise."""
        deadline = None
        if self._waits_in_recv and timeout != 0:
            deadline = _deadline(timeout)
            message = self._wait_in_recv(deadline)
            if message is not None:
                return message
        return self._receive_step_by_step(timeout, deadline)

    def _wait_in_recv(self, deadline: float) -> bytes | None:
        """The next message, if it is what arrives next, within two seconds, and there is nothing else to do.

        That is what nearly every call comes to. The socket's own ``recv`` waits for it, in C.
        """
        began = now()
        with self._lock:
            seconds = min(deadline - began, LOOK_AGAIN)
            if not self._is_idle() or seconds <= 0:
                return None
            if seconds != self._recv_timeout:
                self._set_recv_timeout(seconds)
            self._waiting += 1
            self._waiting_in_recv += 1
        datagram, sender, problem = None, self._peer, None
        try:
            if began > self._strangers_until:
                datagram = self.sock.recv(LARGEST_DATAGRAM)
            else:
                datagram, sender = self.sock.recvfrom(LARGEST_DATAGRAM)
        except (TimeoutError, BlockingIOError):  # the latter if another thread has read at this moment
            pass
        except OSError as error:
            problem = error
        except BaseException:
            with self._lock:
                self._done_waiting_in_recv()
            raise
        with self._lock:
            self._done_waiting_in_recv()
            if self._closed:
                return None
            if problem is not None:
                self._note_error_of_another(problem)
            return None if datagram is None else self._message_of(datagram, sender)

    def _done_waiting_in_recv(self) -> None:
        self._waiting_in_recv -= 1
        self._done_waiting()
        if self._left is not None:
            self._left.notify_all()

    def _message_of(self, datagram: bytes, sender: Any) -> bytes | None:
        """The message that a datagram brings, or the first of those that wait since it came; ``None`` if it is none."""
        if self._divert is not None and (
            self.shares or datagram[:1] == _PLAINTEXT_HANDSHAKE or sender != self._peer
        ):
            if self._is_ours(datagram, sender):
                self._deliver(datagram)
            return None
        return self._message_of_ours(datagram)

    def _message_of_ours(self, datagram: bytes) -> bytes | None:
        """The same of one that is for us for certain."""
        found = self.connection.unprotect(datagram, now())
        if type(found) is bytes and not self.messages:
            return found
        self._take_in(found)
        return self.messages.popleft() if self.messages and not self._diverted else None

    def _set_recv_timeout(self, seconds: float) -> None:
        """How long the socket's ``recv`` waits; 0 for not at all. Who waits in it already is not concerned."""
        self.sock.settimeout(seconds)
        self._recv_timeout = seconds

    def _receive_step_by_step(self, timeout: float | None, deadline: float | None) -> bytes | None:
        """The same for all there may be to do: what came before, timers, what is diverted, the end."""
        while True:
            with self._lock:
                messages = self.messages
                if not messages:
                    self._advance(messages=1)
                if not self._diverted:
                    if messages:
                        return messages.popleft()
                    if self._is_over():
                        return None
            if self._diverted:
                self._hand_on()
                with self._lock:  # some of it may have been for us; if not, the time still runs
                    if messages:
                        return messages.popleft()
                    if self._is_over():
                        return None
            if deadline is None:
                deadline = _deadline(timeout)
            self._wait(deadline, timeout, _NO_MESSAGE)

    def _is_idle(self) -> bool:
        """Whether there is nothing to do but to wait for the next datagram."""
        return self.connection.state is _ESTABLISHED and not (
            self.messages or self._unsent or self._diverted or self.shares or self._closed or self.error
        )

    def give_back(self, message: bytes) -> None:
        """Put a message, or the rest of one, at the head of the queue again."""
        with self._lock:
            self.messages.appendleft(message)

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
            if timeout == 0:
                raise SSLWantWriteError
            if deadline is None:
                deadline = _deadline(timeout)
            self._wait_until_ready(writable=True, until=deadline)
            if now() >= deadline:
                message_text = "the socket's send buffer did not empty in time"
                raise SSLTimeoutError(message_text)

    def receive_through(self, receive: Callable[[int], bytes]) -> bytes | None:
        """The next message if the socket's own ``receive``, which may wait and is called without the lock, gives it.

        ``None`` if it gives something else, or there is more to do than to wait for this descriptor: then
        :meth:`receive` is to be called. Raises what ``receive`` raises.
        """
        if self._wait_elsewhere is not None or not self._is_idle():
            return None
        datagram = receive(LARGEST_DATAGRAM)
        with self._lock:
            return self._message_of_ours(datagram)

    def send_through(self, send: Callable[[bytes], int], message: bytes | bytearray | memoryview) -> bool:
        """Send one message by the socket's own ``send``, which may wait for room and is called without the lock.

        False if others have to be sent before it: then :meth:`send` is to be called. Raises
        :exc:`ConnectionRefusedError` if ICMP has refused an earlier datagram (this one is sent nevertheless), and
        what :meth:`send` raises.
        """
        with self._lock:
            if self._unsent or self.error or self.connection.keeps_flight:
                return False
            datagram = self.connection.protect(message)
        try:
            send(datagram)
        except ConnectionRefusedError:
            self.send_sealed(datagram, len(message))
            raise
        except OSError:  # no room, or worse
            self.send_sealed(datagram, len(message))
        return True

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

    def close_notify(self, timeout: float | None, *, patience: float) -> bool:
        """Say close_notify and wait for the peer's, ``patience`` seconds at most; whether it came.

        Raises :class:`SSLWantReadError` if ``timeout`` is 0 and it has not come yet; what else ended the association.
        """
        with self._lock:
            self.connection.close(now())
            self._flush_quietly()
        deadline = now() + (patience if timeout is None else min(timeout, patience))
        while True:
            self.advance()
            with self._lock:
                if self.error is not None:
                    raise self.error.with_traceback(None)
                if self._closed or self.connection.state is not ConnectionState.CLOSING:
                    return self.connection.state is ConnectionState.CLOSED
                # Another thread that waits may take the peer's away, which is not noticed from here.
                until = min(deadline, now() + _GLANCE) if self._waiting else deadline
            if timeout == 0:
                raise SSLWantReadError
            if now() >= deadline:
                return False
            self._wait_until_ready(writable=False, until=until)

    def seconds_to_timeout(self) -> float | None:
        """Seconds until something is to be repeated or given up; ``None`` if nothing is."""
        with self._lock:
            at = self.connection.next_timeout()
            return None if at is None else max(0.0, at - now())

    def close(self) -> None:
        """Say close_notify if that can be done at once, and close the socket. Wakes threads that wait on it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self.connection.close(now())
                self._flush()
            except OSError:
                self.statistics["close_notify_lost"] += 1
            with contextlib.suppress(OSError):  # it may have lost its peer
                self.sock.shutdown(socket.SHUT_RDWR)  # wakes threads that wait on it
            self._close_if_unused()

    def detach(self) -> socket.socket:
        """Give the kernel's socket away; nothing is said to the peer."""
        with self._lock:
            self._closed = True
            self._owns_socket = False
            if self._waiting_in_recv:
                # They would take away what is said in plaintext. None of them waits for long.
                self._left = threading.Condition(self._lock)
                self._left.wait_for(lambda: not self._waiting_in_recv, 2 * LOOK_AGAIN)
            return self.sock

    @property
    def takes_client_hellos(self) -> bool:
        """Whether a ClientHello may be for this association, which has begun or was given up for plaintext."""
        handshaking = self.connection.state is _HANDSHAKING and self.error is None
        return handshaking or (self._closed and not self._owns_socket)

    def abandon(self, error: SSLError) -> list[bytes]:
        """End the association from outside, waking whoever waits on it; what the kernel still holds of it."""
        with self._lock:
            if self.error is None:
                self.error = error
            return [] if self._closed else lead_nowhere(self.sock)

    # --- datagrams -----------------------------------------------------------------------------------------------

    def advance(self, messages: int = 0) -> None:
        """Without waiting: timers that are due, what has arrived, what is to be sent.

        ``messages`` stops reading when so many messages are there; 0 reads what there is while the state lasts.
        Not to be called with the lock held: what is diverted goes to a server, which has a lock of its own.
        """
        with self._lock:
            self._advance(messages)
        self._hand_on()

    def _advance(self, messages: int = 0) -> None:
        """As :meth:`advance`, with the lock held; nothing is handed on."""
        connection = self.connection
        at = connection.next_timeout()
        if at is not None and at <= now():
            self.handle_timeout()
        before = connection.state
        for _ in range(MAX_READS):
            if self._closed or self.error is not None:
                break
            datagram = self._read()
            if datagram is None:
                break
            self._deliver(datagram)
            if (messages and len(self.messages) >= messages) or connection.state is not before:
                break
        if self._unsent:
            self._flush_quietly()

    def handle_timeout(self) -> bool:
        """Repeat or give up what is due, without reading anything; whether something was due."""
        with self._lock:
            at = self.connection.next_timeout()
            if at is None or at > now():
                return False
            self._note(self.connection.handle_timeout(now()))
            self._flush_quietly()
            return True

    def deliver(self, datagram: bytes) -> None:
        """Take in a datagram of the peer, however it came here."""
        with self._lock:
            self._deliver(datagram)

    def _deliver(self, datagram: bytes) -> None:
        self._refusals = 0
        self._take_in(self.connection.unprotect(datagram, now()))

    def _take_in(self, found: bytes | list[Event]) -> None:
        if isinstance(found, bytes):
            self.messages.append(found)
        else:
            self._note(found)
            self._flush_quietly()

    def note(self, events: list[Event]) -> None:
        """Take in what happened on the connection while somebody else drove it."""
        with self._lock:
            self._note(events)

    def flush(self) -> None:
        """Send what waits to be sent."""
        with self._lock:
            self._flush_quietly()

    def _read(self) -> bytes | None:
        """The next datagram for us, if one has arrived."""
        if self._recv_timeout:
            self._set_recv_timeout(0.0)
        while True:
            try:
                if self._peer is None:
                    return self.sock.recv(LARGEST_DATAGRAM)
                datagram, address = self.sock.recvfrom(LARGEST_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                self._note_error_of_another(error)
                if self.error is not None:
                    return None
            else:
                if address == self._peer and not self.shares and datagram[:1] != _PLAINTEXT_HANDSHAKE:
                    return datagram  # nearly every datagram in an association's life
                if self._is_ours(datagram, address):
                    return datagram

    def _note_error_of_another(self, error: OSError) -> None:
        """What the kernel says while reading is about a datagram sent before, unless it is about the socket itself."""
        if isinstance(error, ConnectionRefusedError):
            self._note_refusal()
        elif error.errno in _LOST_ON_THE_WAY or error.errno == errno.ECONNRESET:
            self._count(error)
        else:
            raise error

    def _is_ours(self, datagram: bytes, address: Any) -> bool:
        if not same_address(address, self._peer):
            self.statistics["strangers_datagrams"] += 1
            if self._divert is not None:
                self._diverted.append((datagram, address))
            return False
        if self._divert is None or self._keeps_plaintext:
            return True
        if self.shares or begins_client_hello(datagram):
            self._diverted.append((datagram, self._peer))
            return False
        return True

    def _hand_on(self) -> None:
        """Let the server have what was diverted, without the lock: the server takes its own, and then perhaps ours."""
        while self._diverted and self._divert is not None:
            try:
                datagram, address = self._diverted.popleft()
            except IndexError:  # another thread was faster
                return
            self._divert(datagram, address)

    def _note(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, DataReceived):
                self.messages.append(event.data)
            elif isinstance(event, (HandshakeFailed, AlertReceived)):
                self.error = event.error

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
        if len(self._unsent) < MAX_UNSENT:
            self._unsent.append(datagram)
        else:
            self.statistics["dropped_unsent"] += 1

    def _transmit(self, datagram: bytes) -> bool:
        """Whether the kernel took it, or it is lost as any datagram may be."""
        for _ in range(2):
            try:
                self._send(datagram)
            except (BlockingIOError, InterruptedError):
                return False
            except ConnectionRefusedError:
                # That was about an earlier datagram; this one was not sent.
                self._note_refusal()
                continue
            except OSError as error:
                if error.errno not in _LOST_ON_THE_WAY or self.connection.state is _ESTABLISHED:
                    raise
                self._count(error)
            return True
        return True

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

    def _is_over(self) -> bool:
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self._closed or self.connection.state in (ConnectionState.CLOSED, ConnectionState.CLOSING)

    def _send_error(self, error: OSError, length: int) -> OSError:
        if error.errno != errno.EMSGSIZE:
            return error
        text = f"a message of {length} bytes is too long for the network path; lower Context.mtu"
        return MessageTooLarge(text, limit=min(self.connection.max_message_size, length - 1))


def _deadline(timeout: float | None) -> float:
    return math.inf if timeout is None else now() + timeout
