"""PyDTLS's :class:`SSLConnection`: DTLS on a plain UDP socket, which stays the caller's.

A client::

    connection = SSLConnection(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    connection.connect(("127.0.0.1", 28000))
    connection.write(b"Hi there")
    connection.unwrap().close()

A server listens on a bound socket, and has a connection and a socket for each peer::

    listening = SSLConnection(bound, keyfile="key.pem", certfile="cert.pem", server_side=True)
    while not (accepted := listening.accept()):
        pass
    connection, address = accepted

Every operation waits as long as the timeout of the connection's socket allows, which is set on the socket itself:
``connection.get_socket(True).settimeout(5)``. Errors are those of :mod:`dtls.err`.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .connection import ConnectionState
from .context import CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED
from .driver import Driver
from .err import (
    ERR_BOTH_KEY_CERT_FILES,
    ERR_BOTH_KEY_CERT_FILES_SVR,
    ERR_HANDSHAKE_TIMEOUT,
    ERR_PORT_UNREACHABLE,
    ERR_READ_TIMEOUT,
    ERR_WRITE_TIMEOUT,
    SSL_ERROR_NONE,
    SSL_ERROR_SSL,
    SSL_ERROR_SYSCALL,
    SSL_ERROR_ZERO_RETURN,
    TRANSLATED,
    InvalidSocketError,
    OpenSSLError,
    PortUnreachable,
    raise_ssl_error,
    translate,
)
from .kernel import now, numbers_of
from .pydtls.arguments import PROTOCOL_DTLS, PROTOCOL_DTLSv1, PROTOCOL_DTLSv1_2, make_context
from .pydtls.borrowed import BorrowedSocket, borrow
from .pydtls.config import SSL, SSLContext, configured
from .pydtls.reception import Arrival, Reception
from .sending import send_first
from .sockets import SHUTDOWN_PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from .context import Context
    from .pydtls.arguments import PathOrPEM

__all__ = [
    "CERT_NONE",
    "CERT_OPTIONAL",
    "CERT_REQUIRED",
    "DTLS_OPENSSL_VERSION",
    "DTLS_OPENSSL_VERSION_INFO",
    "DTLS_OPENSSL_VERSION_NUMBER",
    "PROTOCOL_DTLS",
    "SSL",
    "PROTOCOL_DTLSv1",
    "PROTOCOL_DTLSv1_2",
    "SSLConnection",
    "SSLContext",
]

DTLS_OPENSSL_VERSION: str
DTLS_OPENSSL_VERSION_INFO: tuple[int, int, int, int, int]
DTLS_OPENSSL_VERSION_NUMBER: int

ALERT_PATIENCE = 3.0
"""Seconds for which an ICMP refusal in a handshake is passed over when an alert came that is not believed yet."""
_DATAGRAM = int(socket.SOCK_DGRAM)
_SHUTDOWN_IN_HANDSHAKE = 0x14000197  # SSL_R_SHUTDOWN_WHILE_IN_INIT

length_of = len  # which is the name of a parameter, too

_making_receptions = threading.Lock()

logger = logging.getLogger("dtls")


class SSLConnection:
    """One DTLS association on a UDP socket, or a UDP socket that listens for clients.

    :param sock: a UDP socket, used and not taken over. Connected to a peer, it begins the association at once (and
        completes the handshake, with ``do_handshake_on_connect``); a server's that is not connected listens.
    :param keyfile: the private key: a file's path, or PEM data (bytes); needed together with ``certfile``, and by
        servers.
    :param certfile: the certificate and what leads from it to a root, likewise.
    :param cert_reqs: ``CERT_NONE``, ``CERT_OPTIONAL`` or ``CERT_REQUIRED``; a client takes the latter two for the same.
    :param ssl_version: ``PROTOCOL_DTLSv1``, ``PROTOCOL_DTLSv1_2`` or ``PROTOCOL_DTLS``. The last is any version for
        servers and 1.2 for clients.
    :param ca_certs: the root certificates to verify the peer's with, likewise.
    :param suppress_ragged_eofs: accepted as in the ``ssl`` module; datagrams have no ragged ends.
    :param ciphers: cipher suites in OpenSSL's notation, by default ``"DEFAULT"``.
    :param cb_user_config_ssl_ctx: called with an :class:`SSLContext` that has further settings, here.
    :param cb_user_config_ssl: called with an :class:`SSL`, that has more, for each association.
    :raises SSLError: package errors 298, 500 and 501; OpenSSL errors with number 0 for files that are of no use; what
        :meth:`do_handshake` raises.
    :raises InvalidSocketError: for a socket that is not a datagram socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        keyfile: PathOrPEM | None = None,
        certfile: PathOrPEM | None = None,
        server_side: bool = False,
        cert_reqs: int = CERT_NONE,
        ssl_version: int = PROTOCOL_DTLS,
        ca_certs: PathOrPEM | None = None,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        ciphers: str | None = None,
        cb_user_config_ssl_ctx: Callable[[SSLContext], object] | None = None,
        cb_user_config_ssl: Callable[[SSL], object] | None = None,
    ) -> None:
        if bool(keyfile) != bool(certfile):
            raise_ssl_error(ERR_BOTH_KEY_CERT_FILES)
        if server_side and not keyfile:
            raise_ssl_error(ERR_BOTH_KEY_CERT_FILES_SVR)
        if not is_datagram_socket(sock):
            message = "sock must be a datagram socket (SOCK_DGRAM)"
            raise InvalidSocketError(message)
        context = make_context(
            server_side=server_side,
            keyfile=keyfile,
            certfile=certfile,
            cert_reqs=cert_reqs,
            ssl_version=ssl_version,
            ca_certs=ca_certs,
            ciphers=ciphers,
            to_be_changed=cb_user_config_ssl_ctx is not None,
        )
        if cb_user_config_ssl_ctx is not None:
            cb_user_config_ssl_ctx(SSLContext(context))
        self._set_up(context, sock, do_handshake_on_connect, suppress_ragged_eofs, cb_user_config_ssl)
        peer = peer_of(sock)
        if peer is not None:
            self._begin(peer)
            if do_handshake_on_connect and sock.gettimeout() != 0:
                self.do_handshake()
        else:
            self._listens = server_side

    def _set_up(
        self,
        context: Context,
        sock: socket.socket,
        do_handshake_on_connect: bool,
        suppress_ragged_eofs: bool,
        configure: Callable[[SSL], object] | None,
        driver: Driver | None = None,
    ) -> None:
        self._context = context
        self._sock = sock
        # Looked up once: each message passes through them.
        self._recv, self._send = sock.recv, sock.send
        self._do_handshake_on_connect = do_handshake_on_connect
        self._suppress_ragged_eofs = suppress_ragged_eofs
        self._configure = configure
        self._driver = driver

    # Until something else is known.
    _listens = False
    _reception: Reception | None = None
    _arrival: Arrival | None = None
    _established = False
    _refused_at: float | None = None

    def __repr__(self) -> str:
        state = "listening" if self._listens else "unconnected"
        if self._driver is not None:
            state = self._driver.connection.state.value
        return f"<{type(self).__name__} fd={self._sock.fileno()} {state}>"

    def get_socket(self, inbound: bool) -> socket.socket:  # noqa: ARG002 - there is one socket for both directions
        """The UDP socket, on which timeouts are set; the same for both directions."""
        return self._sock

    # --- servers -------------------------------------------------------------------------------------------------

    def listen(self) -> Any:
        """Exchange cookies, until a client has proved its address: that address, for :meth:`accept`.

        ``None`` when the socket's timeout has passed, when what came was of no use, or belonged to a peer that was
        accepted before. Raises :class:`~dtls.err.InvalidSocketError` on a connection that does not listen.
        """
        reception = self._receptionist()
        self._arrival = reception.wait(self._sock.gettimeout())
        return None if self._arrival is None else self._arrival.origin.address

    def accept(self) -> tuple[Self, Any] | None:
        """A connection with the client that :meth:`listen` told of last, and its address; listens if need be.

        ``None`` when :meth:`listen` gives none. The new connection's socket has no timeout. Its handshake is completed
        here, with ``do_handshake_on_connect``, and raises what :meth:`do_handshake` raises.
        """
        reception = self._receptionist()
        arrival, self._arrival = self._arrival, None
        if arrival is None:
            arrival = reception.wait(self._sock.gettimeout())
            if arrival is None:
                return None
        admitted = reception.admit(arrival)
        if admitted is None:
            return None
        sock, driver = admitted
        accepted = type(self).__new__(type(self))
        accepted._set_up(  # noqa: SLF001 - it is one of us
            self._context,
            sock,
            self._do_handshake_on_connect,
            self._suppress_ragged_eofs,
            self._configure,
            driver,
        )
        if self._do_handshake_on_connect:
            try:
                accepted.do_handshake()
            except BaseException:
                sock.close()
                raise
        return accepted, arrival.origin.address

    def _receptionist(self) -> Reception:
        if not self._listens:
            message = "listen and accept need a server's socket that is not connected"
            raise InvalidSocketError(message)
        if self._reception is None:
            with _making_receptions:  # threads may begin to accept at the same time
                if self._reception is None:
                    self._reception = Reception(self._sock, self._context, self._configure)
        return self._reception

    # --- the handshake -------------------------------------------------------------------------------------------

    def connect(self, peer_address: Any) -> None:
        """Connect the socket to a server and, with ``do_handshake_on_connect``, complete the handshake."""
        self._sock.connect(peer_address)
        self._begin(self._sock.getpeername())
        if self._do_handshake_on_connect:
            self.do_handshake()

    def _begin(self, peer: Any) -> None:
        try:
            mtu, timer = configured(self._configure, self._sock)
            connection = self._context.connection(
                now(), peer_address=peer if self._context.server_side else None, mtu=mtu, timer=timer
            )
        except TRANSLATED as error:
            raise translate(error, ERR_HANDSHAKE_TIMEOUT, "SSL_new", ssl_error=SSL_ERROR_NONE) from error
        # It has the methods that a driver calls. Refusals are its own affair: they are told at once, and do not last.
        borrowed: Any = borrow(self._sock)
        # All else can be done while the peer looks at what we say.
        unsent = send_first(borrowed, connection)
        self._driver = Driver(borrowed, connection, wait=borrowed.wait)
        borrowed.attach(self._driver)
        for datagram in unsent:
            self._driver.keep(datagram)

    def do_handshake(self) -> None:
        """Complete the handshake.

        Raises package errors 504 when the socket's timeout has passed and 505 when ICMP says that nothing listens
        there; OpenSSL errors ``SSL_ERROR_WANT_READ`` on a non-blocking socket, and ``SSL_ERROR_SSL`` with OpenSSL's
        reason when either side refuses. After the former three the handshake can be gone on with.
        """
        self._handshake(self._association(), ERR_HANDSHAKE_TIMEOUT)

    def _handshake(self, driver: Driver, timeout_code: int) -> None:
        timeout = self._sock.gettimeout()
        began = now()
        while True:
            # 0 means not to wait at all, which is something else than a time that has passed.
            remaining = max(0.001, timeout - (now() - began)) if timeout else timeout
            try:
                driver.handshake(remaining)
            except PortUnreachable as error:
                if not self._awaits_alert(driver):
                    raise translate(error, timeout_code, "SSL_do_handshake") from error
            except TRANSLATED as error:
                raise translate(error, timeout_code, "SSL_do_handshake") from error
            else:
                break
        self._established = True

    def _awaits_alert(self, driver: Driver) -> bool:
        """Whether the peer seems to have said why it closed its socket: the alert, soon to be believed, tells more."""
        if self._refused_at is None:
            self._refused_at = now()
        return bool(driver.connection.statistics["held_alert"]) and now() - self._refused_at < ALERT_PATIENCE

    def get_timeout(self) -> timedelta | None:
        """When :meth:`handle_timeout` is due, from now; zero if it is overdue, ``None`` if there is nothing to do."""
        seconds = None if self._listens else self._association().seconds_to_timeout()
        return None if seconds is None else timedelta(seconds=seconds)

    def handle_timeout(self) -> bool:
        """Repeat what the peer has not answered, if it is time. True if it was, False if not or there was nothing.

        For non-blocking sockets: blocking operations repeat by themselves. Raises what ends the handshake.
        """
        if self._listens:
            return False
        driver = self._association()
        due = driver.handle_timeout()
        if driver.error is not None and not self._established:
            raise translate(driver.error, ERR_HANDSHAKE_TIMEOUT, "DTLSv1_handle_timeout") from driver.error
        return due

    # --- messages ------------------------------------------------------------------------------------------------

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """Up to ``len`` bytes of the next message, the rest of which is for the next call.

        With ``buffer`` they are put there, and their number is returned. Completes the handshake if need be. Raises
        OpenSSL error ``SSL_ERROR_ZERO_RETURN`` whenever the peer has closed, ``SSL_ERROR_WANT_READ`` on a
        non-blocking socket; package errors 502 for a timeout and 505 for an ICMP refusal.
        """
        if buffer is not None:
            return self._read_into(buffer, len)
        if not self._established:
            self._handshake(self._association(), ERR_READ_TIMEOUT)
        driver: Driver = self._driver  # type: ignore[assignment] # there is one, whose handshake is complete
        timeout = self._sock.gettimeout()
        began = now() if timeout else 0.0
        try:
            # It waits as its own timeout says. No stranger's datagram is left from before it was connected.
            message = driver.receive_through(self._recv)
        except ConnectionRefusedError as error:
            raise translate(error, ERR_READ_TIMEOUT, "SSL_read") from error
        except OSError:  # whoever tries again will find out what to do
            message = None
        if message is None:
            # 0 means not to wait at all, which is something else than a time that has passed.
            message = self._receive(driver, max(0.001, timeout - (now() - began)) if timeout else timeout)
        if length_of(message) > len:
            driver.give_back(message[len:])
            return message[:len]
        return message

    def _read_into(self, buffer: Any, most: int) -> int:
        with memoryview(buffer) as view, view.cast("B") as target:
            part = memoryview(self.read(min(most, target.nbytes)))
            target[: part.nbytes] = part
            return part.nbytes

    def _receive(self, driver: Driver, timeout: float | None) -> bytes:
        message = None
        # What arrives after the peer's close_notify is not ours to read.
        if driver.messages or driver.connection.state is not ConnectionState.CLOSED:
            try:
                message = driver.receive(timeout)
            except TRANSLATED as error:
                raise translate(error, ERR_READ_TIMEOUT, "SSL_read") from error
        if message is None:
            raise OpenSSLError(SSL_ERROR_ZERO_RETURN, [], 0, "SSL_read")
        return message

    def write(self, data: Any) -> int:
        """Send ``data`` (bytes-like, or text as UTF-8) as one message of up to 16,384 bytes; their number.

        Completes the handshake if need be. Raises package errors 503 for a timeout, that of the handshake included,
        and 505 for an ICMP refusal; OpenSSL errors for a message that is too long (``SSL_ERROR_SSL``) or empty
        (``SSL_ERROR_SYSCALL``), and after the end (``SSL_ERROR_ZERO_RETURN``).
        """
        if not self._established:
            self._handshake(self._association(), ERR_WRITE_TIMEOUT)
        driver: Driver = self._driver  # type: ignore[assignment] # as in `read`
        borrowed: BorrowedSocket = driver.sock  # type: ignore[assignment] # see where it was made
        message = data if type(data) is bytes else _bytes_of(data)
        length = len(message)
        if not length:
            raise OpenSSLError(SSL_ERROR_SYSCALL, [], 0, "SSL_write")
        try:
            if not driver.send_through(self._send, message):
                driver.send(message, self._sock.gettimeout())
        except ConnectionRefusedError:
            borrowed.refused = True
        except TRANSLATED as error:
            raise translate(error, ERR_WRITE_TIMEOUT, "SSL_write") from error
        if borrowed.refused:
            borrowed.refused = False
            raise_ssl_error(ERR_PORT_UNREACHABLE)
        return length

    def pending(self) -> int:
        """How many bytes of a message have been read from the socket and not fetched; ``select`` does not tell."""
        messages = self._driver.messages if self._driver is not None else ()
        return len(messages[0]) if messages else 0

    # --- the end -------------------------------------------------------------------------------------------------

    def shutdown(self) -> socket.socket | None:
        """Say close_notify and wait for the peer's; the plain UDP socket, for what is to be said in plaintext.

        ``None`` if this connection listens. Without a timeout the wait ends after two seconds. Raises package error
        502 when the socket's timeout has passed, 505 for an ICMP refusal; OpenSSL errors ``SSL_ERROR_WANT_READ``
        on a non-blocking socket, and ``SSL_ERROR_SSL`` before the handshake is complete or after it has failed.
        """
        if self._listens:
            return None
        driver = self._association()
        if not driver.connection.version():
            queue = [(_SHUTDOWN_IN_HANDSHAKE, b"shutdown while in init")]
            raise OpenSSLError(SSL_ERROR_SSL, queue, func="SSL_shutdown")
        timeout = self._sock.gettimeout()
        # When the peer's has come already, what follows it is not ours to read.
        if driver.connection.state is not ConnectionState.CLOSED:
            try:
                answered = driver.close_notify(timeout, patience=timeout or SHUTDOWN_PATIENCE)
                if driver.error is not None:
                    raise driver.error
            except TRANSLATED as error:
                raise translate(error, ERR_READ_TIMEOUT, "SSL_shutdown") from error
            if not answered and timeout is not None:
                raise_ssl_error(ERR_READ_TIMEOUT)
        driver.detach()
        return self._sock

    def unwrap(self) -> socket.socket | None:
        """As :meth:`shutdown`, and never raises: the association has ended, whatever the peer has to say."""
        try:
            return self.shutdown()
        except Exception as error:  # noqa: BLE001 - that is the promise
            logger.info("the association ended without ceremony: %s", error)
        if self._driver is not None:
            self._driver.connection.close(now())  # a handshake: the peer need not wait for it
            self._driver.flush()
            self._driver.detach()
        return self._sock

    # --- what was negotiated -------------------------------------------------------------------------------------

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The peer's certificate: DER if asked for, or the dictionary of the standard library's ``getpeercert``.

        But ``notAfter`` is bytes, as it was in PyDTLS. The dictionary is empty if certificates are not verified
        (``CERT_NONE``). ``None`` if there is no certificate.
        """
        der = self._driver.connection.peer_certificate() if self._driver is not None else None
        if der is None or binary_form:
            return der
        return {} if self._context.verify_mode is CERT_NONE else _describe(der)

    def peer_certificate(self, binary_form: bool = False) -> Any:
        """As :meth:`getpeercert`."""
        return self.getpeercert(binary_form)

    def getpeercertchain(self, binary_form: bool = False) -> list[Any] | None:
        """What the peer sent, its own certificate first, each as :meth:`getpeercert` has it.

        On the server's side the client's own certificate is left out. ``None`` before the handshake.
        """
        if self._driver is None or not self._driver.connection.version():
            return None
        chain = self._driver.connection.unverified_chain()
        if self._context.server_side:
            del chain[:1]
        return chain if binary_form else [_describe(der) for der in chain]

    def cipher(self) -> tuple[bytes, bytes, int] | None:
        """The suite's name, the version that defined it, its secret bits; ``None`` before the handshake."""
        cipher = self._driver.connection.cipher() if self._driver is not None else None
        return None if cipher is None else (cipher[0].encode(), cipher[1].encode(), cipher[2])

    def version(self) -> str | None:
        """``"DTLSv1.2"`` or ``"DTLSv1"``; ``None`` before the handshake."""
        return self._driver.connection.version() if self._driver is not None else None

    def _association(self) -> Driver:
        if self._driver is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._driver


def is_datagram_socket(sock: Any) -> bool:
    """Whether ``sock`` is a datagram socket."""
    return bool(getattr(numbers_of(sock), "type", None) == _DATAGRAM)


def peer_of(sock: socket.socket) -> Any:
    """The address that a socket is connected to; ``None`` if it is not."""
    try:
        own = sock.getsockname()
        # Who has no port has no peer. To be told so by an error takes much longer.
        return sock.getpeername() if type(own) is not tuple or own[1] else None
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.EINVAL):
            raise
        return None


def _bytes_of(data: Any) -> bytes:
    if isinstance(data, str):
        return data.encode()
    with memoryview(data) as view:  # its items may be of any kind and size
        return view.tobytes()


def _describe(der: bytes) -> dict[str, Any]:
    from .x509 import certificate_dict  # noqa: PLC0415 - seldom needed

    described = certificate_dict(der)
    described["notAfter"] = described["notAfter"].encode()
    return described


def _openssl_version() -> dict[str, Any]:
    from .engines.openssl import binding  # noqa: PLC0415 - the engine is loaded when it is needed

    number, text = binding.version()
    # Since OpenSSL 3 the third part of the version stands where letters used to be numbered.
    info = (number >> 28, number >> 20 & 0xFF, number >> 4 & 0xFF, 0, number & 0xF)
    return {
        "DTLS_OPENSSL_VERSION": text,
        "DTLS_OPENSSL_VERSION_INFO": info,
        "DTLS_OPENSSL_VERSION_NUMBER": number,
    }


def __getattr__(name: str) -> Any:
    if name.startswith("DTLS_OPENSSL_VERSION"):
        versions = _openssl_version()
        if name in versions:
            return versions[name]
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
