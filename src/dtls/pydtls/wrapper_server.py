"""The server in a ``DtlsSocket``: it accepts clients, shakes hands with them, reads what they say, and drops them.

One thread does all of that, in steps. Each step waits for the listening socket and for the sockets of all clients by
``select``, and it is left to ``accept`` what arrives at the listening socket: a new client, or, with the routing
demultiplexer, what is then found in the sockets of the clients.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import threading
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from dtls.err import (
    ERR_HANDSHAKE_TIMEOUT,
    ERR_PORT_UNREACHABLE,
    SSL_ERROR_SSL,
    SSL_ERROR_WANT_READ,
    SSL_ERROR_WANT_WRITE,
    SSL_ERROR_ZERO_RETURN,
    PackageError,
    SSLError,
)
from dtls.errors import MessageTooLarge
from dtls.kernel import DONT_WAIT, now

from .wrapper_hello import HelloWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    IgnoreCallback = Callable[[Any], object]

_AT_ONCE = timedelta(0)

logger = logging.getLogger("dtls.wrapper")


class Ignored(NamedTuple):
    """Callbacks that say of an error whether it is to be forgotten, by what a client failed in."""

    in_handshake: IgnoreCallback | None = None
    """If it is not given, ``read`` is asked."""
    read: IgnoreCallback | None = None
    write: IgnoreCallback | None = None


class ClientSession:
    """What a server knows of a client.

    :param address: the client's address, as the kernel tells it.
    :param descriptor: that of its socket.
    :param timeout: seconds of silence after which it is dropped; ``None`` for no limit.
    """

    def __init__(self, address: Any, descriptor: int, timeout: float | None) -> None:
        self.address = address
        self.host, self.port = address[:2]
        self.descriptor = descriptor
        self.timeout = timeout
        self.handshake_done = False
        self.hellos = HelloWatch()
        self.last_update = now()

    def getAddr(self) -> Any:  # noqa: N802 - PyDTLS's name
        """The client's address: host and port, and two numbers more with IPv6."""
        return self.address

    def updateTimestamp(self) -> None:  # noqa: N802 - PyDTLS's name
        """Something came from the client."""
        self.last_update = now()

    @property
    def expires_at(self) -> float | None:
        """When it is dropped if it stays silent; ``None`` for never."""
        return None if self.timeout is None else self.last_update + self.timeout

    def expired(self) -> bool:
        """Whether it has been silent for too long."""
        at = self.expires_at
        return at is not None and now() >= at


class Server:
    """The clients of a socket that listens, or is about to.

    :param sock: what ``ssl.wrap_socket`` has made, for a server; it is closed by :meth:`close`.
    :param client_timeout: seconds of silence after which a client is dropped; ``None`` for never.
    :param waits_for_handshakes: whether a new client's handshake is waited for, as long as the timeout allows.
    :param ignored: what errors are forgotten.
    """

    def __init__(
        self, sock: Any, *, client_timeout: float | None, waits_for_handshakes: bool, ignored: Ignored
    ) -> None:
        self._sock = sock
        self._client_timeout = client_timeout
        self._waits_for_handshakes = waits_for_handshakes
        self.ignored = ignored
        self.timeout: float | None = None
        """The most seconds that :meth:`receive` waits; ``None`` for no limit, 0 for not at all."""
        self.clients: dict[Any, ClientSession] = {}
        """By socket."""
        self.waiting = 0
        """How many threads wait; the last to wake closes what they wait on if it is to be closed."""
        self._shaking: dict[Any, None] = {}
        """The clients whose handshake is not complete."""
        self._by_address: dict[tuple[str, int], Any] = {}
        self._ready: deque[Any] = deque()
        """Sockets to look after before anybody is waited for."""
        self._next_expiry: float | None = None
        """No client expires before that time."""
        self._selector: selectors.BaseSelector | None = None
        self._lock = threading.RLock()
        """For what is above. It is not held while waiting for whoever comes next."""
        self._closed = False

    def listen(self, backlog: int) -> None:
        """Have clients accepted from now on. Raises what is wrong with the certificate, say."""
        self._sock.listen(backlog)
        with self._lock:
            self._sock.setblocking(False)  # it is only asked when there is something
            # From now on, the kernel tells which of our addresses a client writes to.
            self._accept()

    def close(self) -> None:
        """Say close_notify to all clients, and close all sockets, the listening one too. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for conn in list(self.clients):
                self._drop(conn)
            self._ready.clear()
            if self.waiting:
                with contextlib.suppress(OSError):  # it has no peer; Linux wakes those who wait all the same
                    self._sock.shutdown(socket.SHUT_RDWR)
            else:
                self._release()

    def _release(self) -> None:
        if self._selector is not None:
            self._selector.close()
        self._sock.close()

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    # --- messages ------------------------------------------------------------------------------------------------

    def receive(self, bufsize: int) -> tuple[bytes, Any]:
        """Take one step; a client's message and its address if there is one, else :exc:`TimeoutError`."""
        with self._lock:
            self._check_open()
            self._serve_timers()
            goes_on = bool(self._ready)
        if not goes_on:
            self._look(wait=True)
        received, forwarded = self._attend_to_the_ready(bufsize)
        if received is None and forwarded:
            self._look(wait=False)
            received, _ = self._attend_to_the_ready(bufsize)
        if received is not None:
            return received
        with self._lock:
            self._serve_timers()
        raise TimeoutError

    def send(self, buf: Any, address: Any) -> int:
        """Send a message to a client, if there is one of that address; the number of its bytes, or 0."""
        with self._lock:
            self._check_open()
            conn = self._find(address)
            session = self.clients.get(conn)
            if session is None or not session.handshake_done:
                return 0
            try:
                sent: int = self._send(conn, buf)
            except OSError as error:
                callback = self.ignored.write
                if _ended_association(error):
                    self._fail(conn, session, error, callback)
                else:
                    self._judge(error, session.address, callback)
                    self._drop(conn)
                return 0
            return sent

    def _send(self, conn: Any, buf: Any) -> int:
        try:
            sent: int = conn.send(buf)
        except SSLError as error:
            if error.args[0] != SSL_ERROR_WANT_WRITE or self.timeout == 0:
                raise
            conn.settimeout(self.timeout)
            try:
                sent = conn.send(buf)
            finally:
                conn.settimeout(0.0)
        return sent

    def _find(self, address: Any) -> Any:
        """The client of an address, however that is written; ``None`` if there is none."""
        address = tuple(address)
        conn = self._by_address.get(address[:2])
        if conn is None:
            try:
                flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
                host, port = socket.getnameinfo(address, flags)
            except OSError:
                return None
            conn = self._by_address.get((host, int(port)))
        return conn

    # --- one step ------------------------------------------------------------------------------------------------

    def _look(self, *, wait: bool) -> None:
        """Note whose socket is readable, waiting for one if need be, and who has something that was read before."""
        with self._lock:
            self._check_open()
            if self._selector is None:
                self._selector = selectors.DefaultSelector()
                self._selector.register(self._sock.fileno(), selectors.EVENT_READ, self._sock)
                for conn in self.clients:  # who was accepted in listen()
                    if conn.fileno() >= 0:
                        self._selector.register(conn.fileno(), selectors.EVENT_READ, conn)
            selector = self._selector
            self.waiting += 1
        try:
            events = selector.select(0)
            if not events and wait:
                with self._lock:
                    if self._closed or self._find_what_select_does_not_tell():
                        return
                    seconds = self._seconds_to_wait()
                events = selector.select(seconds)
            with self._lock:
                self._ready.extend(key.data for key, _ in events)
        finally:
            with self._lock:
                self.waiting -= 1
                if self._closed and not self.waiting:
                    self._release()

    def _find_what_select_does_not_tell(self) -> bool:
        """Whether there is something to do though all sockets are silent."""
        for conn in list(self.clients):
            if conn.fileno() < 0:  # somebody has closed it
                self._drop(conn)
            elif conn.pending():
                self._ready.append(conn)
        # A client's socket may have come upon others' datagrams, in which somebody has proved its address.
        return self._accept() or bool(self._ready)

    def _seconds_to_wait(self) -> float | None:
        """Until something is to be done, or the user's patience ends; ``None`` for ever."""
        times = [] if self.timeout is None else [self.timeout]
        if self._next_expiry is not None:
            times.append(max(0.0, self._next_expiry - now()))
        open_ones = (conn for conn in self._shaking if conn.fileno() >= 0)
        times.extend(due.total_seconds() for conn in open_ones if (due := conn.get_timeout()) is not None)
        return min(times, default=None)

    def _attend_to_the_ready(self, bufsize: int) -> tuple[tuple[bytes, Any] | None, bool]:
        """A message, if there is one; and whether there may be more to read, since something was accepted or forwarded.

        The ready ones behind whoever sent the message stay ready.
        """
        accepting = False
        with self._lock:
            self._check_open()
            while self._ready:
                conn = self._ready.popleft()
                if conn is self._sock:
                    accepting = True
                    self._accept()
                    continue
                received = self._attend_to(conn, bufsize)
                if received is not None:
                    return received, accepting
        return None, accepting

    def _attend_to(self, conn: Any, bufsize: int) -> tuple[bytes, Any] | None:
        """Do what there is to do for a client whose socket is readable; its message if there is one."""
        session = self.clients.get(conn)
        if session is None:  # it was dropped meanwhile
            return None
        try:
            began_anew = session.hellos.take(
                self._sock, conn, session.address, shakes_hands=not session.handshake_done
            )
        except ConnectionRefusedError:
            self._fail(conn, session, PackageError(ERR_PORT_UNREACHABLE), self.ignored.read)
            return None
        if began_anew:
            self._ready.append(self._sock)  # the client may have proved its address now
            return None
        if session.handshake_done:
            return self._read(conn, session, bufsize)
        self._shake_hands(conn, session)
        return None

    def _serve_timers(self) -> None:
        for conn in list(self._shaking):
            session = self.clients.get(conn)
            if session is None or conn.fileno() < 0:
                self._drop(conn)
                continue
            try:
                if conn.get_timeout() == _AT_ONCE:
                    conn.handle_timeout()
            except SSLError as error:
                self._fail(conn, session, error, self._handshake_callback())
        if self._next_expiry is not None and now() >= self._next_expiry:
            self._drop_silent_clients()

    def _drop_silent_clients(self) -> None:
        for conn, session in list(self.clients.items()):
            if not session.expired() or conn in self._ready:
                continue
            # One that has written, to a server that had no time to read it, is not silent.
            if _has_arrived(conn):
                self._ready.append(conn)
            else:
                logger.info("the client %s has been silent for too long", session.address)
                self._drop(conn)
        times = [at for session in self.clients.values() if (at := session.expires_at) is not None]
        self._next_expiry = min(times, default=None)

    # --- a client ------------------------------------------------------------------------------------------------

    def _accept(self) -> bool:
        """Let the listening socket do what is to be done; whether there is a new client."""
        try:
            accepted = self._sock.accept()
        except OSError as error:
            self._judge(error, None, self._handshake_callback())
            return False
        if accepted is None:
            return False
        conn, address = accepted
        self._drop_predecessor(conn, address)
        session = ClientSession(address, conn.fileno(), self._client_timeout)
        if session.expires_at is not None and self._next_expiry is None:
            self._next_expiry = session.expires_at  # nobody who was there before expires later
        self.clients[conn] = session
        self._shaking[conn] = None
        self._by_address[address[:2]] = conn
        if self._selector is not None:
            self._selector.register(session.descriptor, selectors.EVENT_READ, conn)
        conn.settimeout(self.timeout if self._waits_for_handshakes else 0.0)
        try:
            self._shake_hands(conn, session)
        finally:
            if conn in self.clients:
                conn.settimeout(0.0)
        return True

    def _drop_predecessor(self, conn: Any, address: Any) -> None:
        """Forget whom a new client takes the place of: its own former self, or one whose socket somebody has closed."""
        known = self._by_address.get(address[:2])
        for other, session in list(self.clients.items()):
            if other is known or session.descriptor == conn.fileno():
                # It would not understand a farewell any more.
                self._drop(other, farewell=False)

    def _shake_hands(self, conn: Any, session: ClientSession) -> None:
        try:
            conn.do_handshake()
        except OSError as error:
            if not _goes_on(error):
                self._fail(conn, session, error, self._handshake_callback())
            return
        session.handshake_done = True
        self._shaking.pop(conn, None)
        logger.debug("the handshake with %s is complete", session.address)
        if conn.pending():
            self._ready.append(conn)

    def _handshake_callback(self) -> IgnoreCallback | None:
        return self.ignored.in_handshake or self.ignored.read

    def _read(self, conn: Any, session: ClientSession, bufsize: int) -> tuple[bytes, Any] | None:
        try:
            data: bytes = conn.recv(bufsize)
        except OSError as error:
            if isinstance(error, SSLError) and error.args[0] == SSL_ERROR_ZERO_RETURN:
                logger.debug("the client %s has closed", session.address)
                self._drop(conn)
            elif not _goes_on(error):
                self._fail(conn, session, error, self.ignored.read)
            return None
        session.updateTimestamp()
        if not data:
            return None
        if conn.pending():  # select does not tell
            self._ready.append(conn)
        return data, session.address

    def _fail(
        self, conn: Any, session: ClientSession, error: OSError, callback: IgnoreCallback | None
    ) -> None:
        """Drop a client because of an error, and raise that unless the callback says to ignore it."""
        self._drop(conn)
        self._judge(error, session.address, callback)

    @staticmethod
    def _judge(error: Any, peer: Any, callback: IgnoreCallback | None) -> None:
        error.peer = peer
        _forget_frames(error)
        if callable(callback) and callback(error):
            logger.info("ignored, from %s: %s", peer, error)
            return
        raise error

    def _drop(self, conn: Any, *, farewell: bool = True) -> None:
        """Forget a client, and close its socket."""
        self._shaking.pop(conn, None)
        session = self.clients.pop(conn, None)
        if session is None:
            return
        logger.debug("the client %s is dropped", session.address)
        if self._by_address.get(session.address[:2]) is conn:
            del self._by_address[session.address[:2]]
        if self._selector is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(session.descriptor)
        if farewell:
            say_farewell(conn)
        else:
            conn.close()


def say_farewell(conn: Any) -> None:
    """Say close_notify, without waiting for an answer, and close a socket; it may be closed already."""
    with contextlib.suppress(OSError, ValueError):
        conn.settimeout(0.0)
        conn.unwrap().close()
    conn.close()


def _forget_frames(error: BaseException) -> None:
    """Take away an error's traceback, which would keep alive the association as long as somebody keeps the error."""
    origin: BaseException | None = error
    done: set[int] = set()
    while origin is not None and id(origin) not in done:  # an error may be in the context of its own cause
        done.add(id(origin))
        origin.__traceback__ = None
        origin = origin.__cause__ or origin.__context__


def _goes_on(error: OSError) -> bool:
    """Whether an operation has only not come to an end yet."""
    return isinstance(error, SSLError) and error.args[0] in (
        SSL_ERROR_WANT_READ,
        SSL_ERROR_WANT_WRITE,
        ERR_HANDSHAKE_TIMEOUT,
    )


def _ended_association(error: OSError) -> bool:
    """Whether nothing can be sent any more after an error in sending, which may be about that one message."""
    if not isinstance(error, SSLError):
        return error.errno == errno.EBADF
    if error.args[0] == SSL_ERROR_SSL:
        return not isinstance(error.__cause__, MessageTooLarge)
    return error.args[0] in (SSL_ERROR_ZERO_RETURN, ERR_PORT_UNREACHABLE)


def _has_arrived(conn: Any) -> bool:
    """Whether something waits in a client's socket, or behind it."""
    if conn.pending():
        return True
    with contextlib.suppress(OSError):
        conn._plain.recv(1, socket.MSG_PEEK | DONT_WAIT)  # noqa: SLF001 - not taken from the association
        return True
    return False
