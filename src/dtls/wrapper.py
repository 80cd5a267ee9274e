"""PyDTLS's :class:`DtlsSocket`: one object that is a DTLS client, or a server with all of its clients.

A client is used like a UDP socket that knows its server::

    client = wrap_client(None, cert_reqs=ssl.CERT_REQUIRED, ca_certs="ca.pem")
    client.sendto(b"Hi there", ("127.0.0.1", 28000))
    answer, address = client.recvfrom(16384)

and a server like a UDP socket that many clients write to::

    server = wrap_server(bound, keyfile="key.pem", certfile="cert.pem")
    server.settimeout(1.0)
    server.listen(0)
    while True:
        try:
            message, address = server.recvfrom(16384)
        except socket.timeout:
            continue
        server.sendto(message, address)

Handshakes, retransmission and the end of associations are looked after in ``recvfrom``. Importing this module patches
the ``ssl`` module, see :func:`dtls.do_patch`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import weakref
from typing import TYPE_CHECKING, Any

from .err import (
    ERR_PORT_UNREACHABLE,
    ERR_READ_TIMEOUT,
    ERR_WRITE_TIMEOUT,
    SSL_ERROR_WANT_READ,
    InvalidSocketError,
    PackageError,
    SSLError,
)
from .kernel import now
from .patch import do_patch
from .pydtls.arguments import PROTOCOL_DTLS, PROTOCOL_DTLSv1_2
from .pydtls.config import SSL_BUILD_CHAIN_FLAG_NONE
from .pydtls.wrapper_server import Ignored, Server, say_farewell
from .sslconnection import CERT_NONE, SSL, SSLContext, is_datagram_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from .pydtls.arguments import PathOrPEM
    from .pydtls.wrapper_server import ClientSession, IgnoreCallback

do_patch()

__all__ = ["DtlsSocket", "wrap_client", "wrap_server"]

_MICROSECONDS = 1_000_000

logger = logging.getLogger("dtls.wrapper")


def wrap_client(
    sock: socket.socket | None,
    keyfile: PathOrPEM | None = None,
    certfile: PathOrPEM | None = None,
    cert_reqs: int | None = CERT_NONE,
    ssl_version: int | None = PROTOCOL_DTLSv1_2,
    ca_certs: PathOrPEM | None = None,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    ciphers: str | None = None,
    curves: str | tuple[int, ...] | None = None,
    sigalgs: str | None = None,
    user_mtu: int | None = None,
    client_cert_options: int | None = SSL_BUILD_CHAIN_FLAG_NONE,
    ssl_logging: bool = False,
    handshake_timeout: float | None = None,
) -> DtlsSocket:
    """A client, that shakes hands when it connects; the arguments are those of :class:`DtlsSocket`."""
    return DtlsSocket(
        sock,
        keyfile,
        certfile,
        server_side=False,
        cert_reqs=cert_reqs,
        ssl_version=ssl_version,
        ca_certs=ca_certs,
        do_handshake_on_connect=do_handshake_on_connect,
        suppress_ragged_eofs=suppress_ragged_eofs,
        ciphers=ciphers,
        curves=curves,
        sigalgs=sigalgs,
        user_mtu=user_mtu,
        server_cert_options=client_cert_options,
        ssl_logging=ssl_logging,
        handshake_timeout=handshake_timeout,
    )


def wrap_server(
    sock: socket.socket | None,
    keyfile: PathOrPEM | None = None,
    certfile: PathOrPEM | None = None,
    cert_reqs: int | None = CERT_NONE,
    ssl_version: int | None = PROTOCOL_DTLS,
    ca_certs: PathOrPEM | None = None,
    do_handshake_on_connect: bool = False,
    suppress_ragged_eofs: bool = True,
    ciphers: str | None = None,
    curves: str | tuple[int, ...] | None = None,
    sigalgs: str | None = None,
    user_mtu: int | None = None,
    server_key_exchange_curve: str | None = None,
    server_cert_options: int | None = SSL_BUILD_CHAIN_FLAG_NONE,
    ssl_logging: bool = False,
    client_timeout: float | None = None,
    handshake_timeout: float | None = None,
    cb_ignore_ssl_exception_in_handshake: IgnoreCallback | None = None,
    cb_ignore_ssl_exception_read: IgnoreCallback | None = None,
    cb_ignore_ssl_exception_write: IgnoreCallback | None = None,
) -> DtlsSocket:
    """A server of any version; the arguments are those of :class:`DtlsSocket`."""
    return DtlsSocket(
        sock,
        keyfile,
        certfile,
        server_side=True,
        cert_reqs=cert_reqs,
        ssl_version=PROTOCOL_DTLS if ssl_version is None else ssl_version,
        ca_certs=ca_certs,
        do_handshake_on_connect=do_handshake_on_connect,
        suppress_ragged_eofs=suppress_ragged_eofs,
        ciphers=ciphers,
        curves=curves,
        sigalgs=sigalgs,
        user_mtu=user_mtu,
        server_key_exchange_curve=server_key_exchange_curve,
        server_cert_options=server_cert_options,
        ssl_logging=ssl_logging,
        client_timeout=client_timeout,
        handshake_timeout=handshake_timeout,
        cb_ignore_ssl_exception_in_handshake=cb_ignore_ssl_exception_in_handshake,
        cb_ignore_ssl_exception_read=cb_ignore_ssl_exception_read,
        cb_ignore_ssl_exception_write=cb_ignore_ssl_exception_write,
    )


class DtlsSocket:
    """A DTLS client, or a DTLS server with all of its clients, on one UDP socket.

    Attributes and methods that are not described here are those of the wrapped socket (``_sock``), which is what
    ``ssl.wrap_socket`` gives: ``bind``, ``connect``, ``listen``, ``read``, ``getpeercert``, ``cipher``. A server's
    clients are the keys of ``_clients``, sockets of the same kind.

    :param sock: a UDP socket, which is taken over; ``None`` makes one for IPv4.
    :param keyfile: the private key: a file's path, or PEM data (bytes); that in ``certfile`` if not given.
    :param certfile: the certificate and what leads from it to a root, likewise; servers need one.
    :param server_side: whether it is a server.
    :param cert_reqs: ``ssl.CERT_NONE`` (which ``None`` stands for, too), ``CERT_OPTIONAL`` or ``CERT_REQUIRED``.
    :param ssl_version: ``ssl.PROTOCOL_DTLSv1``, ``PROTOCOL_DTLSv1_2`` (also ``None``) or ``PROTOCOL_DTLS`` (any).
    :param ca_certs: the root certificates to verify the peer's with: a file's path, or PEM data.
    :param do_handshake_on_connect: whether a client shakes hands in ``connect``, instead of when it first reads or
        writes; whether a server's ``recvfrom`` waits for a new client's handshake, as long as the timeout allows,
        instead of serving others meanwhile.
    :param suppress_ragged_eofs: accepted as in the ``ssl`` module; datagrams have no ragged ends.
    :param ciphers: cipher suites in OpenSSL's notation, by default ``"DEFAULT"``.
    :param curves: groups for key exchange by preference, ``"secp384r1:prime256v1"`` or a tuple of NIDs. Those that
        OpenSSL does not know are left out, with a warning in the log; if that leaves none, OpenSSL chooses.
    :param sigalgs: signature algorithms, ``"ECDSA+SHA256:RSA+SHA256"``; likewise.
    :param user_mtu: the longest IP packet of a handshake in bytes, headers included: its datagrams are 28 bytes shorter
        with IPv4, 48 with IPv6. At least 236 and 256.
    :param server_key_exchange_curve: the one curve for key exchange with a server; ``None`` for OpenSSL's choice. An
        unknown one raises :exc:`IndexError` from ``listen``.
    :param server_cert_options: ``ssl.SSL_BUILD_CHAIN_FLAG_*``, how the own chain is built from ``ca_certs``: with the
        root (``NONE``) or without it (``NO_ROOT``). For clients, too.
    :param ssl_logging: whether the steps of handshakes are logged, at ``DEBUG``.
    :param client_timeout: seconds of silence after which a server drops a client; ``None`` for never.
    :param handshake_timeout: seconds after which a flight of the handshake that was not answered is repeated, each
        time; ``None`` for 1 s at first, doubling.
    :param cb_ignore_ssl_exception_in_handshake: called by a server with the error of a handshake, which has the
        client's address as ``peer``. The client is dropped; if the callback returns true the error is forgotten,
        otherwise it is raised from :meth:`recvfrom`. If it is not given, the next one is asked.
    :param cb_ignore_ssl_exception_read: likewise, for errors of clients whose handshake is complete.
    :param cb_ignore_ssl_exception_write: likewise, for errors in :meth:`sendto`, which returns 0 then.
    :raises InvalidSocketError: for a socket that is not a datagram socket.
    :raises ValueError: for a ``user_mtu`` that is too small.
    """

    def __init__(
        self,
        sock: socket.socket | None = None,
        keyfile: PathOrPEM | None = None,
        certfile: PathOrPEM | None = None,
        server_side: bool = False,
        cert_reqs: int | None = CERT_NONE,
        ssl_version: int | None = PROTOCOL_DTLSv1_2,
        ca_certs: PathOrPEM | None = None,
        do_handshake_on_connect: bool = False,
        suppress_ragged_eofs: bool = True,
        ciphers: str | None = None,
        curves: str | tuple[int, ...] | None = None,
        sigalgs: str | None = None,
        user_mtu: int | None = None,
        server_key_exchange_curve: str | None = None,
        server_cert_options: int | None = SSL_BUILD_CHAIN_FLAG_NONE,
        ssl_logging: bool = False,
        client_timeout: float | None = None,
        handshake_timeout: float | None = None,
        cb_ignore_ssl_exception_in_handshake: IgnoreCallback | None = None,
        cb_ignore_ssl_exception_read: IgnoreCallback | None = None,
        cb_ignore_ssl_exception_write: IgnoreCallback | None = None,
    ) -> None:
        self._server_side = bool(server_side)
        self._has_certificate = bool(certfile)
        self._do_handshake_on_connect = do_handshake_on_connect
        self._curves = curves
        self._sigalgs = sigalgs
        self._user_mtu = user_mtu
        self._server_key_exchange_curve = server_key_exchange_curve
        self._server_cert_options = server_cert_options or SSL_BUILD_CHAIN_FLAG_NONE
        self._ssl_logging = ssl_logging
        self._handshake_timeout = handshake_timeout
        self._server: Server | None = None
        self._closed = False

        own = sock if isinstance(sock, socket.socket) else socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._sock = self._wrap(
                own,
                keyfile=keyfile,
                certfile=certfile,
                server_side=self._server_side,
                cert_reqs=CERT_NONE if cert_reqs is None else cert_reqs,
                ssl_version=PROTOCOL_DTLSv1_2 if ssl_version is None else ssl_version,
                ca_certs=ca_certs,
                do_handshake_on_connect=do_handshake_on_connect and not self._server_side,
                suppress_ragged_eofs=suppress_ragged_eofs,
                ciphers=ciphers,
            )
        except BaseException:
            if own is not sock:
                own.close()
            raise
        if self._server_side:
            self._server = Server(
                self._sock,
                client_timeout=client_timeout,
                waits_for_handshakes=do_handshake_on_connect,
                ignored=Ignored(
                    cb_ignore_ssl_exception_in_handshake,
                    cb_ignore_ssl_exception_read,
                    cb_ignore_ssl_exception_write,
                ),
            )

    @property
    def _clients(self) -> dict[Any, ClientSession]:
        return {} if self._server is None else self._server.clients

    def _wrap(self, sock: socket.socket, **options: Any) -> Any:
        if not is_datagram_socket(sock):
            message = "sock must be a datagram socket (SOCK_DGRAM)"
            raise InvalidSocketError(message)
        if self._user_mtu:
            SSL(sock.family).set_link_mtu(self._user_mtu)  # complains now, not when a client comes
        import ssl  # noqa: PLC0415 - as do_patch() has made it

        wrap_socket: Any = vars(ssl)["wrap_socket"]
        # The wrapped socket keeps these; a reference to this object, or a bound method, would make a cycle.
        me = weakref.proxy(self)
        return wrap_socket(
            sock,
            cb_user_config_ssl_ctx=lambda context: me.user_config_ssl_ctx(context),  # noqa: PLW0108 - as above
            cb_user_config_ssl=lambda settings: me.user_config_ssl(settings),  # noqa: PLW0108 - as above
            **options,
        )

    def __getattr__(self, name: str) -> Any:
        sock = self.__dict__.get("_sock")
        if sock is None:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(message)
        return getattr(sock, name)

    def __repr__(self) -> str:
        role = f"server, {len(self._clients)} clients" if self._server_side else "client"
        state = "closed " if self._closed else ""
        return f"<{type(self).__name__} {state}{role} {self.__dict__.get('_sock')!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    # --- settings ------------------------------------------------------------------------------------------------

    def user_config_ssl_ctx(self, _ctx: SSLContext) -> None:
        """Apply the arguments that all associations share. A subclass may add to that."""
        _ctx.set_ssl_logging(self._ssl_logging)
        if self._curves:
            _set_known("curves", _ctx.set_curves, self._curves)
        if self._sigalgs:
            _set_known("sigalgs", _ctx.set_sigalgs, self._sigalgs)
        if self._has_certificate:
            built = _ctx.build_cert_chain(flags=self._server_cert_options)
            if not built and self._server_cert_options:
                logger.warning("no certificate chain as asked for can be built; it stays as it is")
        curve = self._server_key_exchange_curve
        if self._server_side and curve:
            available = SSLContext.get_ec_available()
            if curve not in available:
                message = f"unknown server_key_exchange_curve {curve!r}; there are {', '.join(available)}"
                raise IndexError(message)
            if not _ctx.set_ecdh_curve(curve):
                logger.warning("server_key_exchange_curve %r cannot be used for DTLS", curve)

    def user_config_ssl(self, _ssl: SSL) -> None:
        """Apply the arguments that concern one association. A subclass may add to that."""
        if self._user_mtu:
            _ssl.set_link_mtu(self._user_mtu)
        if self._handshake_timeout:
            duration = int(self._handshake_timeout * _MICROSECONDS)
            _ssl.DTLS_set_timer_cb(functools.partial(_always, duration))

    def settimeout(self, value: float | None) -> None:
        """The most seconds that an operation waits: ``None`` for no limit, 0 for not at all.

        A server's :meth:`recvfrom` may come back earlier, when there was something else to do than to receive.
        """
        if self._server is None:
            self._sock.settimeout(value)
            return
        if value is not None and value < 0:
            message = "Timeout value out of range"
            raise ValueError(message)
        self._server.timeout = value

    def gettimeout(self) -> float | None:
        """What :meth:`settimeout` has set."""
        timeout: float | None = self._sock.gettimeout() if self._server is None else self._server.timeout
        return timeout

    @property
    def timeout(self) -> float | None:
        """What :meth:`gettimeout` gives."""
        return self.gettimeout()

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self.settimeout(None if flag else 0.0)

    def listen(self, backlog: int = 0) -> None:
        """Be a server: clients are served by :meth:`recvfrom`. Raises what is wrong with the certificate, say."""
        if self._server is None:
            self._sock.listen(backlog)
        else:
            self._server.listen(backlog)

    # --- messages ------------------------------------------------------------------------------------------------

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """Up to ``bufsize`` bytes of the next message, and its sender's address; the rest stays for the next call.

        Raises :exc:`socket.timeout` (:exc:`TimeoutError`) if there is none in time; a server's also after a step in
        which clients were accepted, shook hands or were dropped, so call it again and again. Raises errors of clients
        that no callback forgives, with the client's address as ``peer``; it may be called again all the same.
        """
        if flags:
            message = f"flags must be 0 for a DTLS socket, not {flags!r}"
            raise ValueError(message)
        if self._server is not None:
            return self._server.receive(bufsize)
        try:
            data: bytes = self._sock.recv(bufsize)
        except SSLError as error:
            if error.args[0] not in (ERR_READ_TIMEOUT, SSL_ERROR_WANT_READ):
                raise
        else:
            if data:
                return data, self._sock.getpeername()
        raise TimeoutError

    def sendto(self, buf: Any, address: Any) -> int:
        """Send ``buf`` (bytes-like, or text as UTF-8) as one message; the number of its bytes.

        A client connects to ``address`` first, unless it is connected. A server returns 0 if there is no client of that
        address (two or four parts with IPv6) whose handshake is complete, or if
        ``cb_ignore_ssl_exception_write`` forgives the error; others are raised with ``address`` as ``peer``.
        """
        if self._server is not None:
            return self._server.send(buf, address)
        if not self._is_connected():
            self._sock.connect(address)
        return self.write(buf)

    def write(self, data: Any) -> int:
        """Send a message to the peer, as ``ssl.SSLSocket`` does, after the handshake if that is still to be done.

        With a timeout, the handshake does not give up because ICMP says that nothing listens there: the server may be
        about to start, and anybody can say so. Raises package error 503 when the time has passed.
        """
        timeout = self._sock.gettimeout()
        if not timeout:
            sent: int = self._sock.write(data)
            return sent
        deadline = now() + timeout
        try:
            while True:
                try:
                    sent = self._sock.write(data)
                except SSLError as error:
                    if error.args[0] != ERR_PORT_UNREACHABLE or self._sock.cipher():
                        raise
                    if now() >= deadline:
                        raise PackageError(ERR_WRITE_TIMEOUT) from error
                    self._sock.settimeout(max(0.001, deadline - now()))
                else:
                    return sent
        finally:
            with contextlib.suppress(OSError):  # it may be closed
                self._sock.settimeout(timeout)

    def send(self, data: Any, flags: int = 0) -> int:
        """As :meth:`write`; a client that is not connected is a plain socket, which complains."""
        if flags or not self._is_connected():
            sent: int = self._sock.send(data, flags)
            return sent
        return self.write(data)

    def _is_connected(self) -> bool:
        try:
            self._sock.get_timeout()  # needs an association
        except AttributeError:
            return False
        return True

    def close(self) -> None:
        """Say close_notify to the peer, or to all clients, and close all sockets. May be called again.

        A server's ends the wait of another thread in :meth:`recvfrom`, which raises :exc:`OSError` (``EBADF``).
        """
        if self._closed:
            return
        self._closed = True
        if self._server is None:
            say_farewell(self._sock)
        else:
            self._server.close()


def _set_known(name: str, setter: Callable[[Any], int], wanted: str | tuple[int, ...]) -> None:
    """Set those of a list that OpenSSL knows, and warn of the others; of none, OpenSSL chooses by itself."""
    try:
        if setter(wanted):
            return
    except NotImplementedError:  # several of them cannot be set here; one that is left could
        logger.debug("%s: %s cannot be set together with this version of cryptography", name, wanted)
    by_name = isinstance(wanted, str)
    items = dict.fromkeys(wanted.split(":") if isinstance(wanted, str) else wanted)
    known = [item for item in items if setter(item if by_name else (item,))]
    unknown = [str(item) for item in items if item not in known]
    if unknown:
        logger.warning("%s: OpenSSL does not know %s", name, ", ".join(unknown))
    if known:
        setter(":".join(map(str, known)) if by_name else tuple(known))


def _always(duration: int, _ssl: SSL, _previous: int) -> int:
    """A retransmission timer that does not back off, in microseconds."""
    return duration
