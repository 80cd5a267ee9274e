"""What ``ssl.wrap_socket`` gives for a UDP socket after ``do_patch()``: an ``ssl.SSLSocket`` that speaks DTLS.

It is an :class:`ssl.SSLSocket` by inheritance, so that ``isinstance`` says so, and by nothing else: every method is
replaced. It has no descriptor of its own either. A plain UDP socket inside has it, on which an
:class:`~dtls.sslconnection.SSLConnection` works; nothing in there refers to what is here, so that there is no reference
cycle, and no descriptor has two owners.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any, NoReturn

from dtls.demux.routed import RoutedSocket
from dtls.err import ERR_HANDSHAKE_TIMEOUT, SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, InvalidSocketError
from dtls.kernel import numbers_of
from dtls.sslconnection import CERT_NONE, SSLConnection, is_datagram_socket, peer_of

from .arguments import PROTOCOL_DTLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from typing_extensions import Self

    from .arguments import PathOrPEM

_TO_BE_GONE_ON_WITH = (SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, ERR_HANDSHAKE_TIMEOUT)


class DatagramSSLSocket(ssl.SSLSocket):
    """A UDP socket that speaks DTLS once it is connected, or has clients accepted once it listens.

    Until then it is the plain socket that it was made from, which it takes over (``sock`` is detached). The arguments
    are those of :class:`~dtls.sslconnection.SSLConnection`, which is made by :meth:`connect` and :meth:`listen`, or at
    once for a connected socket; ``certfile`` alone stands for both files.
    """

    _connection: SSLConnection | None

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
        cb_user_config_ssl_ctx: Callable[[Any], object] | None = None,
        cb_user_config_ssl: Callable[[Any], object] | None = None,
    ) -> None:
        if not is_datagram_socket(sock):
            message = "sock must be a datagram socket (SOCK_DGRAM)"
            raise InvalidSocketError(message)
        self.keyfile = keyfile or certfile
        self.certfile = certfile
        self.server_side = server_side
        self.cert_reqs = cert_reqs
        self.ssl_version = ssl_version
        self.ca_certs = ca_certs
        self.do_handshake_on_connect = do_handshake_on_connect
        self.suppress_ragged_eofs = suppress_ragged_eofs
        self.ciphers = ciphers
        self._callbacks = cb_user_config_ssl_ctx, cb_user_config_ssl
        connected = peer_of(sock) is not None
        self._take(_moved(sock), None)
        if connected:
            try:
                self._connection = self._secure(server_side=server_side, do_handshake=do_handshake_on_connect)
            except BaseException:
                self.close()
                raise

    def _take(self, plain: socket.socket, connection: SSLConnection | None) -> None:
        # socket.socket's own constructor, which would open a descriptor, is not called. These are its attributes.
        self._io_refs = 0
        self._closed = False
        self._plain = plain
        self._connection = connection
        self._listening = False

    def _secure(self, *, server_side: bool, do_handshake: bool) -> SSLConnection:
        return SSLConnection(
            self._plain,
            self.keyfile,
            self.certfile,
            server_side,
            self.cert_reqs,
            self.ssl_version,
            self.ca_certs,
            do_handshake,
            self.suppress_ragged_eofs,
            self.ciphers,
            *self._callbacks,
        )

    def __repr__(self) -> str:
        what = (
            "closed" if self._closed else repr(self._plain if self._connection is None else self._connection)
        )
        return f"<{type(self).__module__}.{type(self).__qualname__} {what}>"

    # --- connecting and accepting --------------------------------------------------------------------------------

    def connect(self, addr: Any) -> None:
        """Connect the socket and, with ``do_handshake_on_connect``, complete the handshake.

        Raises :exc:`ValueError` if it is connected or listens, and what ``SSLConnection`` and its ``connect`` raise. A
        handshake that only needs more time on a non-blocking socket can be gone on with.
        """
        self._begin(addr)
        try:
            self._shake_hands()
        except BaseException as error:
            if getattr(error, "errno", None) not in (SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE):
                self._connection = None
            raise

    def connect_ex(self, addr: Any) -> int:
        """As :meth:`connect`, but gives the number of the error back: 504, 505, 1 for one of OpenSSL's; 0 if none.

        After a timeout (504), too, the handshake can be gone on with.
        """
        try:
            self._begin(addr)
            self._shake_hands()
        except OSError as error:
            if error.errno not in _TO_BE_GONE_ON_WITH:
                self._connection = None
            return error.errno or errno.EIO
        return 0

    def _begin(self, addr: Any) -> None:
        self._check_unused("connect")
        self._plain.connect(addr)
        self._connection = self._secure(server_side=False, do_handshake=False)

    def _shake_hands(self) -> None:
        if self.do_handshake_on_connect:
            self._begun().do_handshake()

    def listen(self, backlog: int = 0) -> None:  # noqa: ARG002 - datagrams have no backlog
        """Be a server. May be called again. Raises :exc:`ValueError` if the socket is connected."""
        if self._listening:
            return
        self._check_unused("listen")
        self._connection = self._secure(server_side=True, do_handshake=self.do_handshake_on_connect)
        self._listening = True

    def accept(self) -> tuple[Self, Any] | None:  # type: ignore[override] # PyDTLS's says None, too
        """A socket of this kind for a new client, and its address; else ``None``, see ``SSLConnection.accept``.

        Raises :exc:`ValueError` before :meth:`listen`.
        """
        if not self._listening or self._connection is None:
            message = "accept on a DTLS socket that does not listen: call listen() first"
            raise ValueError(message)
        accepted = self._connection.accept()
        if accepted is None:
            return None
        connection, address = accepted
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__, server_side=True)
        other._take(connection.get_socket(True), connection)  # noqa: SLF001 - it is one of us
        return other, address

    def do_handshake(self, block: bool = False) -> None:
        """Complete the handshake, see ``SSLConnection``; with ``block`` also on a non-blocking socket."""
        connection = self._connected()
        timeout = self._plain.gettimeout()
        if timeout == 0 and block:
            self._plain.settimeout(None)
            try:
                connection.do_handshake()
            finally:
                self._plain.settimeout(timeout)
        else:
            connection.do_handshake()

    def get_timeout(self) -> timedelta | None:
        """When :meth:`handle_timeout` is due, see ``SSLConnection``. :exc:`AttributeError` before connect or listen."""
        return self._begun().get_timeout()

    def handle_timeout(self) -> bool:
        """Repeat what is due, see ``SSLConnection``. :exc:`AttributeError` before connect or listen."""
        return self._begun().handle_timeout()

    # --- messages ------------------------------------------------------------------------------------------------

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """Up to ``len`` bytes of a message, see ``SSLConnection``. :exc:`ValueError` on a socket not connected."""
        if self._connection is None:
            message = "read on a closed, unconnected or unwrapped DTLS socket"
            raise ValueError(message)
        return self._connection.read(len, buffer)

    def write(self, data: Any) -> int:
        """Send a message, see ``SSLConnection``. :exc:`ValueError` on a socket not connected."""
        if self._connection is None:
            message = "write on a closed, unconnected or unwrapped DTLS socket"
            raise ValueError(message)
        return self._connection.write(data)

    def send(self, data: Any, flags: int = 0) -> int:
        """As :meth:`write`; on a socket not connected, as a plain socket."""
        connection = self._connection
        if connection is None:
            return self._unsecured().send(data, flags)
        if flags:
            raise _no_flags(flags)
        return connection.write(data)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As :meth:`send`: a message is sent whole or not at all."""
        self.send(data, flags)

    def sendto(self, data: Any, flags_or_addr: Any, addr: Any = None) -> int:
        """As a plain socket; :exc:`ValueError` if this one is connected or listens."""
        self._check_plain("sendto")
        if addr is None:
            return self._plain.sendto(data, flags_or_addr)
        return self._plain.sendto(data, flags_or_addr, addr)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As :meth:`read`; on a socket not connected, as a plain socket."""
        connection = self._connection
        if connection is None:
            return self._unsecured().recv(buflen, flags)
        if flags:
            raise _no_flags(flags)
        return connection.read(buflen)  # type: ignore[no-any-return] # bytes, without a buffer

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """As :meth:`recv`, into ``buffer``; the number of bytes."""
        if self._connection is None:
            return self._unsecured().recv_into(buffer, nbytes or 0, flags)
        if flags:
            raise _no_flags(flags)
        received: int = self._connection.read(nbytes or memoryview(buffer).nbytes, buffer)
        return received

    def recvfrom(self, buflen: int = 1024, flags: int = 0) -> tuple[bytes, Any]:
        """As a plain socket; :exc:`ValueError` if this one is connected or listens."""
        self._check_plain("recvfrom")
        return self._plain.recvfrom(buflen, flags)

    def recvfrom_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> tuple[int, Any]:
        """As a plain socket; :exc:`ValueError` if this one is connected or listens."""
        self._check_plain("recvfrom_into")
        return self._plain.recvfrom_into(buffer, nbytes or 0, flags)

    def sendmsg(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Not implemented: it could send in plaintext by mistake."""
        raise self._not_implemented("sendmsg")

    def recvmsg(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Not implemented."""
        raise self._not_implemented("recvmsg")

    def recvmsg_into(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Not implemented."""
        raise self._not_implemented("recvmsg_into")

    def sendmsg_afalg(self, *_arguments: Any, **_options: Any) -> int:
        """Not implemented."""
        raise self._not_implemented("sendmsg_afalg")

    def sendfile(self, *_arguments: Any, **_options: Any) -> int:
        """:exc:`ValueError`, as plain UDP sockets raise it: a file is a stream."""
        message = "only SOCK_STREAM type sockets are supported"
        raise ValueError(message)

    def pending(self) -> int:
        """How many bytes of a message have been read from the socket and not fetched."""
        return 0 if self._connection is None else self._connection.pending()

    # --- the end -------------------------------------------------------------------------------------------------

    def unwrap(self) -> socket.socket:
        """End the association, without ever raising an error of it; the plain UDP socket, which is the caller's now.

        Raises :exc:`ValueError` if there is no association (any more).
        """
        connection = self._connection
        if connection is None or self._listening:
            message = f"No SSL wrapper around {self!r}"
            raise ValueError(message)
        connection.unwrap()
        return self._let_go()

    def shutdown(self, how: int) -> None:
        """Shut the UDP socket down. Nothing is said to the peer; for that there is :meth:`unwrap`."""
        self._connection = None
        self._listening = False
        self._plain.shutdown(how)

    def detach(self) -> int:
        """Close this object without a word to the peer; the descriptor, which is the caller's now."""
        return self._let_go().detach()

    def close(self) -> None:
        """Close the UDP socket when the last file that ``makefile`` made is closed too. Does not raise."""
        self._closed = True
        if self._io_refs <= 0:
            self._real_close()

    def _real_close(self, _ss: Any = None) -> None:
        self._connection = None
        self._listening = False
        try:  # noqa: SIM105 - every socket comes here, and this way is the shortest
            self._plain.close()
        except OSError:  # it promises not to raise, and the descriptor is gone in any case
            pass

    def _let_go(self) -> socket.socket:
        self._connection = None
        self._listening = False
        return _moved(self._plain)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def __del__(self) -> None:
        # The plain socket looks after itself.
        pass

    # --- what was negotiated -------------------------------------------------------------------------------------

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The peer's certificate, see ``SSLConnection``."""
        return self._connected().getpeercert(binary_form)

    def getpeercertchain(self, binary_form: bool = False) -> Any:
        """The certificates that the peer sent, see ``SSLConnection``."""
        return self._connected().getpeercertchain(binary_form)

    def cipher(self) -> Any:
        """Name (bytes), version that defined it (bytes) and secret bits of the suite; ``None`` before the handshake."""
        return None if self._connection is None else self._connection.cipher()

    def version(self) -> str | None:
        """``"DTLSv1.2"`` or ``"DTLSv1"``; ``None`` before the handshake."""
        return None if self._connection is None else self._connection.version()

    def compression(self) -> None:
        """``None``: there is never any."""

    def selected_alpn_protocol(self) -> None:
        """``None``: PyDTLS offers no application protocols."""

    def selected_npn_protocol(self) -> None:
        """``None``: there is no such thing any more."""

    def shared_ciphers(self) -> None:
        """``None``: not known."""

    def get_verified_chain(self) -> Any:
        """Not implemented; see :meth:`getpeercertchain`."""
        raise self._not_implemented("get_verified_chain")

    def get_unverified_chain(self) -> Any:
        """Not implemented; see :meth:`getpeercertchain`."""
        raise self._not_implemented("get_unverified_chain")

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:  # noqa: ARG002 - as SSLSocket's
        """Not implemented."""
        raise self._not_implemented("get_channel_binding")

    def verify_client_post_handshake(self) -> None:
        """Not implemented: DTLS 1.2 has no such thing."""
        raise self._not_implemented("verify_client_post_handshake")

    @property
    def context(self) -> Any:  # type: ignore[override] # there is none to set
        """:exc:`AttributeError`: the settings are attributes of their own, as arguments of ``wrap_socket`` were."""
        message = "a DTLS socket of ssl.wrap_socket() has no SSLContext"
        raise AttributeError(message)

    @property
    def session(self) -> None:  # type: ignore[override] # there is none to set
        """``None``: sessions are not resumed."""

    @property
    def session_reused(self) -> None:
        """``None``: sessions are not resumed."""

    # --- the UDP socket ------------------------------------------------------------------------------------------

    def bind(self, address: Any) -> None:
        """As ``socket.socket.bind``."""
        self._plain.bind(address)

    def fileno(self) -> int:
        """The UDP socket's descriptor; -1 when closed."""
        return self._plain.fileno()

    def gettimeout(self) -> float | None:
        """Seconds that an operation may take; ``None`` for no limit, 0 for non-blocking."""
        return self._plain.gettimeout()

    def settimeout(self, value: float | None) -> None:
        """Set what :meth:`gettimeout` gives."""
        self._plain.settimeout(value)

    @property
    def timeout(self) -> float | None:
        """What :meth:`gettimeout` gives."""
        return self._plain.gettimeout()

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self._plain.setblocking(flag)

    def getblocking(self) -> bool:
        """Whether operations wait."""
        return self._plain.getblocking()

    def getpeername(self) -> Any:
        """The peer's address."""
        return self._plain.getpeername()

    def getsockname(self) -> Any:
        """The own address."""
        return self._plain.getsockname()

    def getsockopt(self, *arguments: Any) -> Any:
        """As ``socket.socket.getsockopt``."""
        return self._plain.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """As ``socket.socket.setsockopt``."""
        self._plain.setsockopt(*arguments)

    def get_inheritable(self) -> bool:
        """As ``socket.socket.get_inheritable``."""
        return self._plain.get_inheritable()

    def set_inheritable(self, inheritable: bool) -> None:
        """As ``socket.socket.set_inheritable``."""
        self._plain.set_inheritable(inheritable)

    def dup(self) -> Self:
        """Not implemented: an association has one owner."""
        raise self._not_implemented("dup")

    @property
    def family(self) -> socket.AddressFamily:
        """The address family."""
        return self._plain.family

    @property
    def type(self) -> socket.SocketKind:
        """``socket.SOCK_DGRAM``."""
        return self._plain.type

    @property
    def proto(self) -> int:
        """The protocol's number."""
        return self._plain.proto

    # --- inside --------------------------------------------------------------------------------------------------

    def _check_unused(self, doing: str) -> None:
        if self._connection is not None:
            message = f"attempt to {doing} a DTLS socket that is connected or listens already"
            raise ValueError(message)

    def _check_plain(self, name: str) -> None:
        if self._connection is not None:
            message = f"{name} not allowed on a DTLS socket that is connected or listens"
            raise ValueError(message)

    def _unsecured(self) -> socket.socket:
        """The plain socket, to be used as such: not if it has a peer whose association ended or failed.

        Otherwise what is meant to be secret would go out in plaintext after an error that somebody has ignored.
        """
        if peer_of(self._plain) is not None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._plain

    def _connected(self) -> SSLConnection:
        """The association; :exc:`OSError` without a peer, :exc:`AttributeError` if there is none (any more)."""
        self._plain.getpeername()
        return self._begun()

    def _begun(self) -> SSLConnection:
        if self._connection is None:
            message = "the DTLS socket is not connected and does not listen"
            raise AttributeError(message)
        return self._connection

    def _not_implemented(self, name: str) -> NotImplementedError:
        return NotImplementedError(f"{name} is not implemented for {type(self).__name__}")


def _moved(sock: socket.socket) -> socket.socket:
    """A new socket object with the descriptor and the timeout of ``sock``, which is detached."""
    if isinstance(sock, RoutedSocket):
        return sock.moved()
    timeout = sock.gettimeout()
    numbers = numbers_of(sock)
    moved = socket.socket(numbers.family, numbers.type, sock.proto, fileno=sock.detach())
    if moved.gettimeout() != timeout:
        moved.settimeout(timeout)
    return moved


def _no_flags(flags: int) -> ValueError:
    return ValueError(f"flags must be 0 for a DTLS socket, not {flags!r}")
