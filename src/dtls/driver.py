"""One association on one UDP socket: the blocking and non-blocking I/O that every socket-like interface stands on.

The kernel's socket never blocks; waiting is done here, outside the lock, so that one thread may send while another
waits to receive, and so that retransmissions happen on time whatever the user's timeout is. Timeouts are as in the
``socket`` module: seconds, ``None`` for no limit, 0 for "do not wait".
"""

from __future__ import annotations

import contextlib
import errno
import math
import select
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from . import mmsg
from .connection import ConnectionState
from .errors import SSLError, SSLWantReadError, SSLZeroReturnError
from .events import AlertReceived, DataReceived, Event, HandshakeFailed
from .gate import begins_client_hello
from .kernel import LARGEST_DATAGRAM, MAX_READS, can_poll, lead_nowhere, now, same_address
from .runs import RunReader
from .sending import LOOK_AGAIN, LOST_ON_THE_WAY, NOTHING_WAITS, Sender, deadline_of, release_if_taken
from .wire import ContentType

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection

REFUSALS_TOLERATED = 1
"""How many ICMP refusals in a row a handshake survives: anybody can forge one, and a server may be just starting."""
_GLANCE = 0.05
"""As ``LOOK_AGAIN``, for a thread that waits for what another is likely to read."""
STRANGERS_TIME = 0.1
"""Seconds after connecting a server's socket, in which others' datagrams that were under way to it may turn up."""
_NO_MESSAGE = "no message came in time"
_NO_LISTENER = (
    "the handshake timed out, and ICMP says that nothing listens at the peer's port (anybody can forge that)"
)
_PLAINTEXT_HANDSHAKE = bytes([ContentType.HANDSHAKE])

# Looked up once: an attribute of an enumeration's class is slow to get on some Pythons.
_HANDSHAKING, _ESTABLISHED = ConnectionState.HANDSHAKING, ConnectionState.ESTABLISHED


class Driver(Sender):
    """Runs ``connection`` on ``sock``, which must be connected to the peer and is made non-blocking.

    :param peer: the peer's address if datagrams of others may still arrive on ``sock``.
    :param divert: takes datagrams that may not be for this association: a stranger's, and ClientHellos of the peer,
        which may begin anew. Called without the lock; gives back through :meth:`deliver` what was for us after all.
    :param keeps_plaintext: only strangers' datagrams are diverted: the handshake itself is run here.
    :param wait: waits for ``sock``, given ``writable`` and ``until`` as :func:`wait_until_ready` has them, if the
        descriptor alone does not tell when there is something to read.
    """

    # What stays so in many an association.
    _may_read_runs = True
    _waiting_in_recv = 0
    _left: threading.Condition | None = None
    """Notified when a thread no longer waits in ``recv``, once somebody wants to know."""

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
        super().__init__(sock, connection, refusals_tolerated=refusals_tolerated, wait=wait)
        self.messages: deque[bytes] = deque()
        self._peer = peer
        self._divert = divert
        self._keeps_plaintext = keeps_plaintext
        self.shares = False
        """Whether ``divert`` gets a copy of everything, since the peer is in a new handshake."""
        self._diverted: deque[tuple[bytes, Any]] = NOTHING_WAITS
        self._runs: RunReader | None = None
        """What reads the socket once many messages have been asked for at a time."""
        self._strangers_until = -math.inf if peer is None else now() + STRANGERS_TIME
        """Until when the sender of each datagram is looked at."""

    # --- what callers do -----------------------------------------------------------------------------------------

    def handshake(self, timeout: float | None) -> None:
        """Complete the handshake. Raises its error, :class:`SSLWantReadError` or :class:`SSLTimeoutError`."""
        deadline = deadline_of(timeout)
        waits_by_poll = timeout != 0 and can_poll() and self._wait_elsewhere is None
        while not (waits_by_poll and self._complete_by_poll(deadline)):
            if timeout == 0 or now() < deadline:
                self.advance()
            else:  # reading may have taken all the time there was
                self.handle_timeout()
            with self._lock:
                if self.error is not None:
                    raise self.error.with_traceback(None)
                if self.connection.state is not _HANDSHAKING:
                    if self._closed:
                        raise SSLZeroReturnError
                    return
            refused = self.statistics["refused_by_icmp"]  # once, which is not enough to believe it
            self._wait(deadline, timeout, _NO_LISTENER if refused else "the handshake timed out")
        if self._diverted:
            self._hand_on()

    def _complete_by_poll(self, deadline: float) -> bool:
        """Complete the handshake, if nothing is to be done but to take in the peer's datagrams; whether it is complete.

        That is what nearly every handshake comes to. Each is waited for before the socket is read.
        """
        connection, sock, poll = self.connection, self.sock, select.poll()
        # A borrowed socket tells of a refusal to whoever reads, and its descriptor does not.
        tells_of_refusals = hasattr(sock, "refused")
        ready: list[tuple[int, int]] | None = None
        counted: bool = False
        try:
            while True:
                with self._lock:
                    began = now()
                    if counted:
                        self._waiting -= 1
                        counted = False
                        if self._closed:
                            self._close_if_unused()
                            return False
                        datagram = self._read() if ready and self.error is None else None
                        if datagram is None:
                            return False
                        self._refusals = 0
                        self._take_in(connection.unprotect(datagram, began))
                    if self._closed or self.error is not None:
                        return False
                    if connection.state is not _HANDSHAKING:
                        return ready is not None and connection.state is _ESTABLISHED and not self._unsent
                    until = min(deadline, began + LOOK_AGAIN)
                    at = connection.next_timeout()
                    if at is not None and at < until:
                        until = at
                    refused = tells_of_refusals and sock.refused  # type: ignore[attr-defined] # see above
                    descriptor = sock.fileno()
                    if until <= began or descriptor < 0 or refused or self._unsent or self._diverted:
                        return False
                    self._waiting += 1
                    counted = True
                poll.register(descriptor, select.POLLIN)
                ready = poll.poll(math.ceil((until - began) * 1000))
        finally:
            if counted:
                with self._lock:
                    self._done_waiting()

    def receive(self, timeout: float | None) -> bytes | None:
        """The next message; ``None`` when the peer has closed. Raises what ended the association otherwise."""
        deadline = None
        if timeout != 0:
            deadline = deadline_of(timeout)
            message = self._wait_in_recv(deadline)
            if message is not None:
                return message
        return self._receive_step_by_step(timeout, deadline)

    def receive_many(self, most: int, timeout: float | None) -> list[bytes]:
        """The messages that there are, at least one and at most ``most``; none when the peer has closed.

        Raises as :meth:`receive`. From the first call on, the kernel gives runs of datagrams where it can.
        """
        with self._lock:
            if self._may_read_runs and self.connection.state is _ESTABLISHED:
                self._begin_to_read_runs()
            if 0 < len(self.messages) < most:
                self._advance(most)
        first = self._receive_step_by_step(timeout, None, most)
        if first is None:
            return []
        with self._lock:
            messages = self.messages
            return [first, *(messages.popleft() for _ in range(min(most - 1, len(messages))))]

    def _wait_in_recv(self, deadline: float) -> bytes | None:
        """The next message, if it is what arrives next, within two seconds, and there is nothing else to do.

        That is what nearly every call comes to. The socket's own ``recv`` waits for it, in C.
        """
        began = now()
        with self._lock:
            seconds = min(deadline - began, LOOK_AGAIN)
            if not (self._waits_in_recv and self._is_idle()) or seconds <= 0:
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
        return self._first_with(found)

    def _first_with(self, found: bytes | list[Event]) -> bytes | None:
        """The first message that waits when what a datagram brought has been taken in; ``None`` if there is none."""
        self._take_in(found)
        return self.messages.popleft() if self.messages and not self._diverted else None

    def _receive_step_by_step(
        self, timeout: float | None, deadline: float | None, most: int = 1
    ) -> bytes | None:
        """The same for all there may be to do: what came before, timers, what is diverted, the end."""
        while True:
            with self._lock:
                messages = self.messages
                if not messages:
                    self._advance(most)
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
                deadline = deadline_of(timeout)
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

    def receive_through(self, receive: Callable[[int], bytes]) -> bytes | None:
        """The next message if the socket's own ``receive``, which may wait and is called without the lock, gives it.

        ``None`` if it gives something else, or there is more to do than to wait for this descriptor: then
        :meth:`receive` is to be called. Raises what ``receive`` raises.
        """
        # Each message passes here, so what `_is_idle` and `_message_of_ours` do is written out.
        connection, messages = self.connection, self.messages
        if (
            messages
            or connection.state is not _ESTABLISHED
            or self._unsent
            or self._diverted
            or self.shares
            or self._closed
            or self.error
            or self._wait_elsewhere is not None
        ):
            return None
        datagram = receive(LARGEST_DATAGRAM)
        lock = self._lock
        try:  # see `send_through`
            lock.acquire()
        except BaseException:
            release_if_taken(lock)
            raise
        try:
            found = connection.unprotect(datagram, now())
            if type(found) is bytes and not messages:
                return found
            return self._first_with(found)
        finally:
            lock.release()

    def close_notify(self, timeout: float | None, *, patience: float) -> bool:
        """Say close_notify and wait for the peer's, ``patience`` seconds at most; whether it came.

        Raises :class:`SSLWantReadError` if ``timeout`` is 0 and it has not come yet; what else ended the association.
        """
        with self._lock:
            if self._runs is not None:
                self._advance()  # what has come already is still told apart
                self._stop_reading_runs()
            self.connection.close(now())
            self._flush_quietly()
        deadline = now() + (patience if timeout is None else min(timeout, patience))
        while True:
            if self.connection.state is ConnectionState.CLOSING:  # afterwards it is plaintext that comes
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

    def close(self, *, hands_on: bool = True) -> None:
        """Say close_notify if that can be done at once, and close the socket. Wakes threads that wait on it.

        ``hands_on`` is false for who must not wait for a server's lock: a finalizer, which may come at any moment.
        """
        with self._lock:
            if self._closed:
                return
            if hands_on and self._divert is not None:
                self._look_for_others()
            self._closed = True
            try:
                self.connection.close(now())
                self._flush()
            except OSError:
                self.statistics["close_notify_lost"] += 1
            self._unsent.clear()
            with contextlib.suppress(OSError):  # it may have lost its peer
                self.sock.shutdown(socket.SHUT_RDWR)  # wakes threads that wait on it
            self._close_if_unused()
        if hands_on:
            self._hand_on()

    def _look_for_others(self) -> None:
        """What is left on a server's socket may be others': their datagrams are the server's to have.

        Strangers' may have come before it was connected, and at any time a ClientHello of whoever has the peer's
        address and port by now.
        """
        runs = self._runs
        for _ in range(MAX_READS):
            try:
                if runs is not None:
                    for datagrams, sender, size in runs.read(mmsg.MAX_BATCH):
                        for datagram in mmsg.split(datagrams, size):
                            self._is_ours(datagram, sender)
                    if runs.drained:
                        return
                else:
                    if self._recv_timeout:
                        self._set_recv_timeout(0.0)
                    self._is_ours(*self.sock.recvfrom(LARGEST_DATAGRAM))
            except OSError as error:
                # About a datagram sent before; or there is nothing left, or the descriptor has been closed already.
                if not isinstance(error, ConnectionRefusedError) and error.errno not in LOST_ON_THE_WAY:
                    return

    def detach(self) -> socket.socket:
        """Give the kernel's socket away; nothing is said to the peer."""
        with self._lock:
            self._closed = True
            self._owns_socket = False
            self._stop_reading_runs()
            self._unsent.clear()  # a thread that waits for room is not to send it in plaintext's way
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
            if self._closed:
                return []
            left = [] if self._runs is None else self._runs.rest()
            return left + lead_nowhere(self.sock)

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
        if self._runs is not None:
            self._advance_by_runs(self._runs, messages)
        else:
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

    def _advance_by_runs(self, runs: RunReader, messages: int) -> None:
        """The reading of :meth:`_advance`, many datagrams in a call. All that has been read is taken in."""
        reads = 0
        while reads < MAX_READS and not self._closed and self.error is None:
            reads += 1
            try:
                arrivals = runs.read(max(1, messages - len(self.messages)) if messages else mmsg.MAX_BATCH)
            except OSError as error:
                self._note_error_of_another(error)
                continue
            reads += len(arrivals)
            for datagrams, sender, size in arrivals:
                self._deliver_run(datagrams, sender, size)
            if runs.drained or self._runs is None or (messages and len(self.messages) >= messages):
                break

    def _deliver_run(self, datagrams: bytes, sender: Any, size: int) -> None:
        """Take in what one sender has sent: datagrams of ``size`` bytes, or a single one if that is 0."""
        if not size:
            self._deliver_if_ours(datagrams, sender)
            return
        at, end = 0, len(datagrams)
        is_ours = self._peer is None or (not self.shares and same_address(sender, self._peer))
        while at < end:
            if is_ours:
                found = self.connection.unprotect_many(datagrams[at:], size, now())
                at += found.taken
                self.messages += found.messages
                if found.events is not None:
                    self._take_in(found.events)
                    continue
            if at < end:
                self._deliver_if_ours(datagrams[at : at + size], sender)
                at += size

    def _deliver_if_ours(self, datagram: bytes, sender: Any) -> None:
        if self._peer is None or self._is_ours(datagram, sender):
            self._deliver(datagram)

    def _begin_to_read_runs(self) -> None:
        if self._waiting_in_recv or self._closed:
            return  # who waits there would take a run for one datagram
        self._may_read_runs = False
        if mmsg.can_batch(self.sock):
            self._runs = RunReader(self.sock, self._peer)
            self._waits_in_recv = False

    def _stop_reading_runs(self) -> None:
        """Nothing but the end is expected now, and then perhaps plaintext, which whoever reads it wants one by one."""
        if self._runs is not None:
            self._runs.stop()
            self._runs = None

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
            if found:
                self._note(found)
            if self._runs is not None and self.connection.state is not _ESTABLISHED:
                self._stop_reading_runs()  # before the peer is answered
            self._flush_quietly()

    def note(self, events: list[Event]) -> None:
        """Take in what happened on the connection while somebody else drove it."""
        with self._lock:
            self._note(events)

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
                if address == self._peer and (
                    self._keeps_plaintext or not (self.shares or datagram[:1] == _PLAINTEXT_HANDSHAKE)
                ):
                    return datagram  # nearly every datagram in an association's life
                if self._is_ours(datagram, address):
                    return datagram

    def _note_error_of_another(self, error: OSError) -> None:
        """What the kernel says while reading is about a datagram sent before, unless it is about the socket itself."""
        if isinstance(error, ConnectionRefusedError):
            self._note_refusal()
        elif error.errno in LOST_ON_THE_WAY or error.errno == errno.ECONNRESET:
            self._count(error)
        else:
            raise error

    def _is_ours(self, datagram: bytes, address: Any) -> bool:
        if not same_address(address, self._peer):
            self.statistics["strangers_datagrams"] += 1
            if self._divert is not None:
                self._keep_diverted(datagram, address)
            return False
        if self._divert is None or self._keeps_plaintext:
            return True
        if self.shares or begins_client_hello(datagram):
            self._keep_diverted(datagram, self._peer)
            return False
        return True

    def _keep_diverted(self, datagram: bytes, address: Any) -> None:
        if self._diverted is NOTHING_WAITS:
            self._diverted = deque()
        self._diverted.append((datagram, address))

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

    def _is_over(self) -> bool:
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self._closed or self.connection.state in (ConnectionState.CLOSED, ConnectionState.CLOSING)
