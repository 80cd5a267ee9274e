"""``do_patch()``: the standard library's ``ssl`` module learns DTLS, as PyDTLS taught it.

``ssl.wrap_socket`` takes datagram sockets; on Python 3.12 and later, which lack that function, it is supplied, for
stream sockets too. ``ssl.get_server_certificate`` knows the DTLS versions. Constants are added. Nothing else changes:
stream sockets are dealt with as before.
"""

from __future__ import annotations

import functools
import socket
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

from . import err, sslconnection
from .pydtls import config
from .pydtls.arguments import PROTOCOL_DTLS, PROTOCOL_DTLSv1, PROTOCOL_DTLSv1_2

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from .pydtls.arguments import PathOrPEM

__all__ = ["do_patch"]

_PROTOCOL_NAMES = {PROTOCOL_DTLSv1: "DTLSv1", PROTOCOL_DTLSv1_2: "DTLSv1.2", PROTOCOL_DTLS: "DTLS"}
_CONSTANTS = {
    "PROTOCOL_DTLSv1": PROTOCOL_DTLSv1,
    "PROTOCOL_DTLSv1_2": PROTOCOL_DTLSv1_2,
    "PROTOCOL_DTLS": PROTOCOL_DTLS,
}
_VERSIONS = ("DTLS_OPENSSL_VERSION", "DTLS_OPENSSL_VERSION_INFO", "DTLS_OPENSSL_VERSION_NUMBER")

_HAS_WRAP_SOCKET = bool(sys.version_info < (3, 12))
"""Whether Python has an ``ssl.wrap_socket`` of its own, which it says is deprecated."""

_lock = threading.Lock()


def do_patch() -> None:
    """Teach the ``ssl`` module DTLS. May be called again.

    Raises :exc:`ImportError` where Python has no ``ssl`` module; :class:`~dtls.SSLConnection` works there all the same.
    """
    try:
        import ssl  # noqa: PLC0415 - a Python without it is supported
    except ImportError as error:
        message = "do_patch() patches Python's ssl module, which this Python lacks; dtls.SSLConnection works without"
        raise ImportError(message) from error
    with _lock:
        if not hasattr(ssl, "PROTOCOL_DTLSv1"):
            _patch(ssl)


def _patch(ssl: Any) -> None:
    from .pydtls.sslsocket import DatagramSSLSocket  # noqa: PLC0415 - it needs the ssl module

    patched: dict[str, Any] = dict(_CONSTANTS)
    patched.update(
        {name: value for name, value in vars(config).items() if name.startswith("SSL_BUILD_CHAIN_")}
    )
    patched.update({name: getattr(sslconnection, name) for name in _VERSIONS})
    patched.update({name: getattr(err, name) for name in err.__all__ if name.startswith("ERR_")})
    patched["wrap_socket"] = _wrap_socket_for(ssl, DatagramSSLSocket)
    patched["get_server_certificate"] = _get_server_certificate_for(ssl)
    _let_construct(ssl.SSLSocket, DatagramSSLSocket)
    ssl._PROTOCOL_NAMES = _Names(ssl._PROTOCOL_NAMES)  # noqa: SLF001 - get_protocol_name() looks there
    # The constant that says that all is done comes last.
    patched["PROTOCOL_DTLSv1"] = patched.pop("PROTOCOL_DTLSv1")
    for name, value in patched.items():
        setattr(ssl, name, value)


class _Names(dict[int, str]):
    """Python's table of protocol names, which knows those of DTLS when it is asked.

    Whoever goes through it finds what was there before: to programs it is also the list of the versions of TLS.
    """

    def __missing__(self, number: int) -> str:
        return _PROTOCOL_NAMES[number]

    def __contains__(self, number: object) -> bool:
        return super().__contains__(number) or number in _PROTOCOL_NAMES

    def get(self, number: Any, default: Any = None) -> Any:
        return super().get(number, _PROTOCOL_NAMES.get(number, default))


def _let_construct(stream_class: Any, datagram_class: Any) -> None:
    """``ssl.SSLSocket(sock, ...)`` with a datagram socket, which PyDTLS allowed beside ``wrap_socket``."""
    original: Callable[..., None] = stream_class.__init__

    @functools.wraps(original)
    def construct(self: Any, sock: Any = None, *arguments: Any, **options: Any) -> None:
        if type(self) is stream_class and sslconnection.is_datagram_socket(sock):
            self.__class__ = datagram_class
            self.__init__(sock, *arguments, **options)
        else:
            original(self, sock, *arguments, **options)

    stream_class.__init__ = construct


def _wrap_socket_for(ssl: ModuleType, datagram_class: Any) -> Callable[..., Any]:
    def wrap_socket(
        sock: socket.socket,
        keyfile: PathOrPEM | None = None,
        certfile: PathOrPEM | None = None,
        server_side: bool = False,
        cert_reqs: int = sslconnection.CERT_NONE,
        ssl_version: int = PROTOCOL_DTLS,
        ca_certs: PathOrPEM | None = None,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        ciphers: str | None = None,
        cb_user_config_ssl_ctx: Callable[[Any], object] | None = None,
        cb_user_config_ssl: Callable[[Any], object] | None = None,
    ) -> Any:
        """Secure a socket: DTLS for a datagram socket, TLS as ever for another. ``sock`` is taken over.

        The arguments and the errors of a datagram socket are those of :class:`dtls.SSLConnection`, most of which come
        when it is connected or begins to listen; ``certfile`` alone stands for both files.
        """
        if sslconnection.is_datagram_socket(sock):
            return datagram_class(
                sock,
                keyfile,
                certfile,
                server_side,
                cert_reqs,
                ssl_version,
                ca_certs,
                do_handshake_on_connect,
                suppress_ragged_eofs,
                ciphers,
                cb_user_config_ssl_ctx,
                cb_user_config_ssl,
            )
        if cb_user_config_ssl_ctx is not None or cb_user_config_ssl is not None:
            message = "cb_user_config_ssl_ctx and cb_user_config_ssl are for datagram sockets"
            raise ValueError(message)
        if _HAS_WRAP_SOCKET:
            message = "ssl.wrap_socket() is deprecated, use SSLContext.wrap_socket()"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        return _wrap_stream(
            ssl,
            sock,
            keyfile=keyfile,
            certfile=certfile,
            server_side=server_side,
            cert_reqs=ssl.VerifyMode(cert_reqs),
            # The default here is for datagrams; for streams it was, and is, any version of TLS.
            ssl_version=ssl.PROTOCOL_TLS if ssl_version in _PROTOCOL_NAMES else ssl_version,
            ca_certs=ca_certs,
            do_handshake_on_connect=do_handshake_on_connect,
            suppress_ragged_eofs=suppress_ragged_eofs,
            ciphers=ciphers,
        )

    return wrap_socket


def _wrap_stream(
    ssl: Any,
    sock: socket.socket,
    *,
    keyfile: Any,
    certfile: Any,
    server_side: bool,
    cert_reqs: int,
    ssl_version: int,
    ca_certs: Any,
    do_handshake_on_connect: bool,
    suppress_ragged_eofs: bool,
    ciphers: str | None,
) -> Any:
    """What ``ssl.wrap_socket`` does until Python 3.11, and did."""
    if server_side and not certfile:
        message = "certfile must be specified for server-side operations"
        raise ValueError(message)
    if keyfile and not certfile:
        message = "certfile must be specified"
        raise ValueError(message)
    if ssl_version == ssl.PROTOCOL_TLS and not _HAS_WRAP_SOCKET:
        # The same without the warning that it is deprecated.
        ssl_version = ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(ssl_version)
    if not _HAS_WRAP_SOCKET:
        context.check_hostname = False
    context.verify_mode = cert_reqs
    if ca_certs:
        context.load_verify_locations(ca_certs)
    if certfile:
        context.load_cert_chain(certfile, keyfile)
    if ciphers:
        context.set_ciphers(ciphers)
    return context.wrap_socket(
        sock,
        server_side=server_side,
        do_handshake_on_connect=do_handshake_on_connect,
        suppress_ragged_eofs=suppress_ragged_eofs,
    )


def _get_server_certificate_for(ssl: Any) -> Callable[..., str]:
    of_stream: Callable[..., str] = ssl.get_server_certificate
    default = ssl.PROTOCOL_TLS_CLIENT

    @functools.wraps(of_stream)
    def get_server_certificate(
        addr: tuple[Any, ...],
        ssl_version: int = default,
        ca_certs: PathOrPEM | None = None,
        **options: Any,
    ) -> str:
        if ssl_version not in _PROTOCOL_NAMES:
            return of_stream(addr, ssl_version, ca_certs, **options)
        return _get_datagram_server_certificate(ssl, addr, ssl_version, ca_certs, **options)

    return get_server_certificate


def _get_datagram_server_certificate(
    ssl: Any,
    addr: tuple[Any, ...],
    ssl_version: int,
    ca_certs: PathOrPEM | None,
    timeout: float | None = None,
) -> str:
    """The certificate (PEM) of the DTLS server at ``addr``, verified if ``ca_certs`` is given."""
    found = socket.getaddrinfo(addr[0], addr[1], type=socket.SOCK_DGRAM)
    family, _, proto, _, address = found[0]
    with socket.socket(family, socket.SOCK_DGRAM, proto) as sock:
        sock.settimeout(timeout)
        connection = sslconnection.SSLConnection(
            sock,
            cert_reqs=sslconnection.CERT_NONE if ca_certs is None else sslconnection.CERT_REQUIRED,
            ssl_version=ssl_version,
            ca_certs=ca_certs,
        )
        connection.connect(address)
        certificate: str = ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True))
        connection.get_socket(False).settimeout(0)
        connection.unwrap()  # says close_notify, and does not wait
        return certificate
