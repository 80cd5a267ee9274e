"""Blocking (and non-blocking) DTLS sockets, used as ``ssl.SSLSocket`` is.

::

    with dtls.create_connection(("device.example", 4433)) as sock:
        sock.send(b"hello")
        print(sock.recv())

What differs from TLS differs because datagrams do: a message is sent whole or not at all, it is received whole, and
messages may be lost or come out of order.
"""

from __future__ import annotations

import errno
import operator
import socket
import warnings
from typing import TYPE_CHECKING, Any

from .connection import ConnectionState
from .context import Purpose, create_default_context
from .driver import REFUSALS_TOLERATED, Driver
from .errors import AssociationReplaced, MessageTooLarge
from .kernel import now
from .negotiated import NegotiatedValues

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Self

    from .connection import Connection
    from .context import Context
    from .events import Event
    from .servers import DTLSServerSocket
    from .session import DTLSSession

_HANDSHAKING = ConnectionState.HANDSHAKING
MAX_AT_A_TIME = 64
"""Messages that ``recv_many`` gives if not told otherwise."""
SHUTDOWN_PATIENCE = 2.0
"""Seconds that ``unwrap`` waits for the peer's close_notify: a datagram may be lost, and many peers never answer."""


class DTLSSocket(NegotiatedValues):
    """One association with one peer, on a UDP socket of its own.

    Made by :func:`create_connection`, :meth:`dtls.Context.wrap_socket` and ``accept()`` of servers. One thread may
    send while another receives. ``fileno()`` is the UDP socket's and works with ``select``; what was read from it
    and not fetched yet is told by :meth:`pending`.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: Context,
        *,
        server_hostname: str | None = None,
        do_handshake_on_connect: bool = True,
        refusals_tolerated: int = REFUSALS_TOLERATED,
        session: DTLSSession | None = None,
    ) -> None:
        self._driver: Driver | None = None
        self._sock = sock
        self._timeout = sock.gettimeout()
        self._context = context
        self._server_hostname = server_hostname
        self._session = session
        self.do_handshake_on_connect = do_handshake_on_connect
        self._refusals_tolerated = refusals_tolerated
        self._closed = False

    @classmethod
    def _adopt(
        cls,
        sock: socket.socket,
        connection: Connection,
        *,
        peer: Any = None,
        divert: Callable[[bytes, Any], None] | None = None,
    ) -> Self:
        """A socket for an association that was begun elsewhere."""
        adopted = cls(sock, connection.context)
        adopted._timeout = None
        adopted._driver = Driver(sock, connection, peer=peer, divert=divert)
        return adopted

    def __repr__(self) -> str:
        state = "closed" if self._closed else "unconnected"
        if self._driver is not None and not self._closed:
            state = self._driver.connection.state.value
        return f"<{type(self).__name__} fd={self.fileno()} {state}>"

    # --- connecting ----------------------------------------------------------------------------------------------

    @property
    def server_side(self) -> bool:
        """Whether this side is the server."""
        return self.context.server_side

    def connect(self, address: Any) -> None:
        """Connect the UDP socket and, with ``do_handshake_on_connect``, complete the handshake.

        Raises what :meth:`do_handshake` raises; :exc:`ValueError` if it is connected already.
        """
        self._connect(address)
        if self.do_handshake_on_connect:
            self.do_handshake()

    def bind(self, address: Any) -> None:
        """Bind the UDP socket to an own address."""
        self._check_open()
        self._sock.bind(address)

    def connect_ex(self, address: Any) -> int:
        """As :meth:`connect`, but gives the error's number back; 0 for success."""
        try:
            self.connect(address)
        except OSError as error:
            return error.errno or -1
        return 0

    def _connect(self, address: Any) -> None:
        self._check_open()
        if self._driver is not None:
            message = "the socket is connected already"
            raise ValueError(message)
        self._sock.connect(address)
        self._begin()

    def _begin(self) -> None:
        """Begin the association on the connected socket."""
        peer = self._sock.getpeername() if self.server_side else None
        connection = self.context.connection(
            now(), server_hostname=self._server_hostname, peer_address=peer, session=self._session
        )
        self._driver = Driver(self._sock, connection, refusals_tolerated=self._refusals_tolerated)
        self._driver.flush()

    def do_handshake(self) -> None:
        """Complete the handshake.

        Raises :class:`~dtls.SSLCertVerificationError`, :class:`~dtls.PeerUnreachable`,
        :class:`~dtls.HandshakeTimeout` when ``context.handshake_timeout`` has passed, another
        :class:`~dtls.SSLError` for what the peer or OpenSSL says; and, leaving the handshake to be gone on with,
        :class:`~dtls.SSLTimeoutError` and, non-blocking, :class:`~dtls.SSLWantReadError`.
        """
        self._connected().handshake(self._timeout)

    def get_timeout(self) -> float | None:
        """For non-blocking use: seconds until :meth:`do_handshake` is to be called again even if nothing came."""
        return self._connected().seconds_to_timeout()

    # --- messages ------------------------------------------------------------------------------------------------

    def recv(self, bufsize: int = 65_535, flags: int = 0) -> bytes:
        """The next message, whole; ``b""`` when the peer has closed.

        Raises :class:`~dtls.MessageTooLarge` if it is longer than ``bufsize`` bytes (it can still be fetched),
        :class:`~dtls.SSLTimeoutError`, :class:`~dtls.SSLWantReadError`, or what ended the association.
        """
        if flags:
            raise _no_flags(flags)
        driver = self._ready()
        message = driver.receive(self._timeout)
        if message is None:
            return b""
        if len(message) > bufsize:
            driver.give_back(message)
            text = f"the next message has {len(message)} bytes and does not fit the {bufsize} bytes asked for"
            raise MessageTooLarge(text, limit=bufsize)
        return message

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:
        """The next message into ``buffer``; its length in bytes, 0 when the peer has closed. Else as :meth:`recv`."""
        with memoryview(buffer).cast("B") as view:
            message = self.recv(nbytes or len(view), flags)
            view[: len(message)] = message
        return len(message)

    def recvfrom(self, bufsize: int = 65_535, flags: int = 0) -> tuple[bytes, Any]:
        """As :meth:`recv`, with the peer's address."""
        return self.recv(bufsize, flags), self.getpeername()

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Send ``data`` as one message; its length in bytes.

        Raises :class:`~dtls.MessageTooLarge` over :attr:`max_message_size`, :exc:`ValueError` for an empty one,
        :class:`~dtls.SSLZeroReturnError` when the association is closed, and when the send buffer is full
        :class:`~dtls.SSLTimeoutError` or, non-blocking, :class:`~dtls.SSLWantWriteError`.
        """
        if flags:
            raise _no_flags(flags)
        self._ready().send(data, self._timeout)
        return len(data) if isinstance(data, bytes) else memoryview(data).nbytes

    def sendall(self, data: bytes | bytearray | memoryview, flags: int = 0) -> None:
        """As :meth:`send`: a message is sent whole or not at all."""
        self.send(data, flags)

    def recv_many(self, max_messages: int = MAX_AT_A_TIME) -> list[bytes]:
        """The messages that there are, in order, at least one and at most ``max_messages``; ``[]`` at the end.

        Waits for the first as :meth:`recv` does, and raises as it does; :exc:`ValueError` for a ``max_messages`` below
        1. Cheaper than :meth:`recv` for each: from the first call on, Linux gives datagrams of one size as one
        (``UDP_GRO``), so that only the methods of this object may read the socket.
        """
        most = operator.index(max_messages)
        if most < 1:
            text = f"max_messages must be at least 1, not {max_messages!r}"
            raise ValueError(text)
        return self._ready().receive_many(most, self._timeout)

    def send_many(self, messages: Iterable[bytes | bytearray | memoryview]) -> int:
        """Send messages, each as one datagram, in order: where they have the same length, at a fraction of the cost.

        Linux takes those as one (``UDP_SEGMENT``). Gives how many were sent: all of them, but for a send buffer that
        stays full until the timeout is over or, non-blocking, is full, and for what ends the association meanwhile.
        Raises as :meth:`send` if none was; for a message that cannot be sent, before any is.
        """
        return self._ready().send_many(list(messages), self._timeout)

    def pending(self) -> int:
        """The length in bytes of the next message, if one has been read and not fetched; 0 otherwise."""
        driver = self._driver
        messages = driver.messages if driver is not None else ()
        return len(messages[0]) if messages else 0

    @property
    def max_message_size(self) -> int:
        """The longest message in bytes that can be sent; 0 before the handshake."""
        return self._driver.connection.max_message_size if self._driver is not None else 0

    # --- the end -------------------------------------------------------------------------------------------------

    def unwrap(self) -> socket.socket:
        """Say close_notify, wait for the peer's (2 s at most), and give the plain UDP socket back.

        Non-blocking, it raises :class:`~dtls.SSLWantReadError` until the peer's has come. Raises
        :exc:`ValueError` before the handshake.
        """
        driver = self._driver
        if driver is None or not driver.connection.version():
            message = f"no association to unwrap: {self!r}"
            raise ValueError(message)
        self._check_open()
        driver.close_notify(self._timeout, patience=SHUTDOWN_PATIENCE)
        return self._detach()

    def detach(self) -> int:
        """Close this object without a word to the peer; the descriptor, which is the caller's from now on."""
        self._check_open()
        return self._detach().detach()

    def _detach(self) -> socket.socket:
        sock = self._sock
        if self._driver is not None:
            self._driver.detach()
        sock.settimeout(self._timeout)
        self._sock = socket.socket.__new__(socket.socket)  # a socket without a descriptor
        self._closed = True
        return sock

    def close(self) -> None:
        """Say close_notify, without waiting for an answer, and close the socket."""
        self._close(hands_on=True)

    def _close(self, *, hands_on: bool) -> None:
        if self._closed:
            return
        self._closed = True
        if self._driver is not None:
            self._driver.close(hands_on=hands_on)
        else:
            self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self._close(hands_on=False)

    # --- what was negotiated -------------------------------------------------------------------------------------

    def version(self) -> str | None:
        """``"DTLSv1.2"`` or ``"DTLSv1"``; ``None`` before the handshake."""
        return self._driver.connection.version() if self._driver is not None else None

    def cipher(self) -> tuple[str, str, int] | None:
        """The suite's name, the version that defined it, its secret bits; ``None`` before the handshake."""
        return self._driver.connection.cipher() if self._driver is not None else None

    def group(self) -> str | None:
        """The key-exchange group; raises :exc:`NotImplementedError` where ``cryptography`` is older than 46."""
        return self._driver.connection.group() if self._driver is not None else None

    def selected_alpn_protocol(self) -> str | None:
        """The application protocol agreed on (RFC 7301)."""
        return self._driver.connection.selected_alpn_protocol() if self._driver is not None else None

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The peer's certificate: a dictionary, as ``ssl.SSLSocket.getpeercert`` makes it, or the DER.

        The dictionary is empty for a certificate that was not verified. ``None`` if the peer sent none; raises
        :exc:`ValueError` before the handshake.
        """
        from .context import CERT_NONE  # noqa: PLC0415
        from .x509 import certificate_dict  # noqa: PLC0415 - seldom needed

        connection = self._negotiated()
        der = connection.peer_certificate()
        if der is None or binary_form:
            return der
        return {} if connection.context.verify_mode is CERT_NONE else certificate_dict(der)

    def get_verified_chain(self) -> list[bytes]:
        """The DERs of the path that was validated, the peer's own first (Python 3.13's ``ssl`` names it so)."""
        return self._negotiated().verified_chain()

    def get_unverified_chain(self) -> list[bytes]:
        """The DERs that the peer sent, its own first."""
        return self._negotiated().unverified_chain()

    @property
    def statistics(self) -> Counter[str]:
        """How many times something was dropped or done, by reason."""
        driver = self._connected()
        return driver.statistics + driver.connection.statistics

    # --- for the server that it was accepted from ----------------------------------------------------------------

    def _note(self, event: Event) -> None:
        """Take in what happened on the connection before it was ours."""
        if self._driver is not None:
            self._driver.note([event])

    def _deliver(self, datagram: bytes) -> None:
        """Take in a datagram of the peer that arrived elsewhere."""
        if self._driver is not None:
            self._driver.deliver(datagram)

    def _share_datagrams(self, shares: bool) -> None:
        """Whether the server is to see all datagrams of the peer."""
        if self._driver is not None:
            self._driver.shares = shares

    def _replace(self) -> list[bytes]:
        """The peer has begun anew: end, and give back what the kernel still holds of its datagrams."""
        return [] if self._driver is None else self._driver.abandon(AssociationReplaced())

    # --- the UDP socket ------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return -1 if self._closed else self._sock.fileno()

    def gettimeout(self) -> float | None:
        """Seconds that an operation may take; ``None`` for no limit, 0 for non-blocking."""
        return self._timeout

    def settimeout(self, value: float | None) -> None:
        """Set what :meth:`gettimeout` gives. The handshake's own deadline stands beside it."""
        if value is not None and value < 0:
            message = "Timeout value out of range"
            raise ValueError(message)
        self._timeout = None if value is None else float(value)
        if self._driver is None:
            self._sock.settimeout(value)

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Whether operations wait."""
        return self._timeout != 0

    def getpeername(self) -> Any:
        """The peer's address."""
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        """The own address."""
        return self._sock.getsockname()

    def getsockopt(self, *arguments: Any) -> Any:
        """As ``socket.socket.getsockopt``."""
        return self._sock.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """As ``socket.socket.setsockopt``."""
        self._sock.setsockopt(*arguments)

    @property
    def family(self) -> int:
        """The address family."""
        return self._sock.family

    @property
    def type(self) -> int:
        """``socket.SOCK_DGRAM``."""
        return self._sock.type

    @property
    def proto(self) -> int:
        """The protocol's number."""
        return self._sock.proto

    # --- inside --------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the DTLS socket is closed")

    def _connected(self) -> Driver:
        if self._driver is None:
            self._check_open()
            raise OSError(errno.ENOTCONN, "the DTLS socket is not connected: call connect() first")
        return self._driver

    def _ready(self) -> Driver:
        """The driver, with its handshake complete."""
        driver = self._driver
        if driver is None or self._closed:
            self._check_open()
            driver = self._connected()
        if driver.connection.state is _HANDSHAKING:
            driver.handshake(self._timeout)
        return driver

    def _negotiated(self) -> Connection:
        driver = self._connected()
        if not driver.connection.version():
            message = "handshake not done yet"
            raise ValueError(message)
        return driver.connection


def _no_flags(flags: int) -> ValueError:
    return ValueError(f"flags must be 0 for a DTLS socket, not {flags!r}")


def wrap_socket(
    context: Context,
    sock: socket.socket,
    *,
    server_side: bool = False,
    do_handshake_on_connect: bool = True,
    server_hostname: str | None = None,
    session: DTLSSession | None = None,
) -> DTLSSocket | DTLSServerSocket:
    """Secure a UDP socket, which is taken over: ``sock`` is detached and must not be used any more.

    A connected socket begins its handshake at once (and completes it, with ``do_handshake_on_connect`` and unless it
    is non-blocking); a client's that is not connected does so in ``connect()``. A server's that is not connected gives
    a :class:`~dtls.servers.DTLSServerSocket`, whose ``accept()`` gives one :class:`DTLSSocket` per peer.

    Raises :exc:`ValueError` for a socket that is not UDP or a context for the other role; and what
    :meth:`DTLSSocket.do_handshake` raises.
    """
    if sock.type != socket.SOCK_DGRAM:
        message = "only datagram sockets (SOCK_DGRAM) can speak DTLS; use the ssl module for TCP"
        raise ValueError(message)
    if server_side != context.server_side:
        role = "server" if server_side else "client"
        message = f"Cannot create a {role} socket with a {context.protocol.name} context"
        raise ValueError(message)
    if server_side:
        from .servers import DTLSServerSocket  # noqa: PLC0415 - servers stand above sockets

        if server_hostname is not None or session is not None:
            message = "server_hostname and session can only be specified in client mode"
            raise ValueError(message)
        if not _is_connected(sock):
            return DTLSServerSocket(_take_over(sock), context)
    elif not server_hostname and context.requires_server_hostname:
        message = "check_hostname requires server_hostname"
        raise ValueError(message)
    secured = DTLSSocket(
        _take_over(sock),
        context,
        server_hostname=server_hostname,
        do_handshake_on_connect=do_handshake_on_connect,
        session=session,
    )
    try:
        if _is_connected(secured._sock):  # noqa: SLF001
            secured._begin()  # noqa: SLF001
            if do_handshake_on_connect and secured.gettimeout() != 0:
                secured.do_handshake()
    except BaseException:
        secured.close()
        raise
    return secured


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _take_over(sock: socket.socket) -> socket.socket:
    timeout = sock.gettimeout()
    taken = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    taken.settimeout(timeout)
    return taken


def create_connection(
    address: tuple[str, int],
    timeout: float | None = None,
    source_address: tuple[str, int] | None = None,
    *,
    context: Context | None = None,
    server_hostname: str | None = None,
    session: DTLSSession | None = None,
) -> DTLSSocket:
    """Connect to a DTLS server and complete the handshake.

    :param address: host name or address, and port. Every address that the name has is tried in turn.
    :param timeout: seconds that each operation may take, as ``settimeout`` sets it; the handshake with one address
        included.
    :param source_address: the own address and port.
    :param context: by default ``create_default_context()``: certificate and host name are verified.
    :param server_hostname: the name to verify and to ask for; by default the host of ``address``.
    :param session: what to resume if the server agrees: :attr:`DTLSSocket.session` of an earlier association.
    :raises SSLError: and its subclasses, see :meth:`DTLSSocket.do_handshake`; with several addresses, the last error.
    :raises OSError: if the name cannot be resolved or no socket be made.
    """
    host, port = address
    if context is None:
        context = create_default_context(Purpose.SERVER_AUTH)
    if context.server_side:
        message = f"Cannot create a client socket with a {context.protocol.name} context"
        raise ValueError(message)
    name = host if server_hostname is None else server_hostname
    problem: OSError | None = None
    for family, _, proto, _, found in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        try:
            return _connect_to(found, family, proto, timeout, source_address, context, name, session)
        except OSError as error:
            problem = error
    if problem is None:
        message = f"getaddrinfo() gives no address for {host!r}"
        raise OSError(message)
    try:
        raise problem
    finally:
        problem = None  # the traceback would hold this frame, and this frame the error


def _connect_to(
    address: Any,
    family: int,
    proto: int,
    timeout: float | None,
    source_address: tuple[str, int] | None,
    context: Context,
    server_hostname: str,
    session: DTLSSession | None,
) -> DTLSSocket:
    secured = DTLSSocket(
        socket.socket(family, socket.SOCK_DGRAM, proto),
        context,
        server_hostname=server_hostname,
        session=session,
    )
    try:
        secured.settimeout(timeout)
        if source_address is not None:
            secured.bind(source_address)
        secured.connect(address)
    except BaseException:
        secured.close()
        raise
    return secured
