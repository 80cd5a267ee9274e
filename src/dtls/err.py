"""PyDTLS's errors, as its users catch them: by number, by queue, by class.

Two kinds are raised by :class:`~dtls.sslconnection.SSLConnection` and by what ``do_patch()`` makes of ``ssl``. *Package
errors* have a number of their own and a text: ``SSLError(502, "502: The read operation timed out")``. *OpenSSL
errors*, of the class that :func:`openssl_error` gives, have an ``SSL_ERROR_*`` number and a queue of what OpenSSL
said: ``(1, [(336134278, b"certificate verify failed")])``.

Both are always :exc:`ssl.SSLError` (where Python has that module) and :class:`dtls.SSLError`, also before
``do_patch()``. Neither is a :exc:`TimeoutError`, as it was not in PyDTLS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from . import errors
from .wire import AlertDescription

if TYPE_CHECKING:
    from ssl import SSLError
else:
    try:
        from ssl import SSLError
    except ImportError:  # a Python built without OpenSSL
        from .errors import SSLError

__all__ = [
    "ERR_BAD_SIGNATURE",
    "ERR_BOTH_KEY_CERT_FILES",
    "ERR_BOTH_KEY_CERT_FILES_SVR",
    "ERR_CERTIFICATE_VERIFY_FAILED",
    "ERR_COOKIE_MISMATCH",
    "ERR_HANDSHAKE_TIMEOUT",
    "ERR_NO_CERTS",
    "ERR_NO_CIPHER",
    "ERR_NO_SHARED_CIPHER",
    "ERR_PORT_UNREACHABLE",
    "ERR_READ_TIMEOUT",
    "ERR_SSL_HANDSHAKE_FAILURE",
    "ERR_TLSV1_ALERT_UNKNOWN_CA",
    "ERR_WRITE_TIMEOUT",
    "ERR_WRONG_SSL_VERSION",
    "ERR_WRONG_VERSION_NUMBER",
    "SSL_ERROR_NONE",
    "SSL_ERROR_SSL",
    "SSL_ERROR_SYSCALL",
    "SSL_ERROR_TEXT",
    "SSL_ERROR_WANT_ACCEPT",
    "SSL_ERROR_WANT_CONNECT",
    "SSL_ERROR_WANT_READ",
    "SSL_ERROR_WANT_WRITE",
    "SSL_ERROR_WANT_X509_LOOKUP",
    "SSL_ERROR_ZERO_RETURN",
    "InvalidSocketError",
    "SSLError",
    "openssl_error",
    "raise_ssl_error",
]

SSL_ERROR_NONE = 0
SSL_ERROR_SSL = 1
SSL_ERROR_WANT_READ = 2
SSL_ERROR_WANT_WRITE = 3
SSL_ERROR_WANT_X509_LOOKUP = 4
SSL_ERROR_SYSCALL = 5
SSL_ERROR_ZERO_RETURN = 6
SSL_ERROR_WANT_CONNECT = 7
SSL_ERROR_WANT_ACCEPT = 8

SSL_ERROR_TEXT = {number: name for name, number in list(globals().items()) if name.startswith("SSL_ERROR_")}
"""The names of the numbers above."""

ERR_BOTH_KEY_CERT_FILES_SVR = 298
ERR_NO_CERTS = 331
ERR_BOTH_KEY_CERT_FILES = 500
ERR_NO_CIPHER = 501
ERR_READ_TIMEOUT = 502
ERR_WRITE_TIMEOUT = 503
ERR_HANDSHAKE_TIMEOUT = 504
ERR_PORT_UNREACHABLE = 505

# Library, function and reason in one number, as OpenSSL 1.0 and 1.1 packed them.
ERR_WRONG_SSL_VERSION = 0x1409210A
ERR_WRONG_VERSION_NUMBER = 0x1408A10B
ERR_COOKIE_MISMATCH = 0x1408A134
ERR_CERTIFICATE_VERIFY_FAILED = 0x14090086
ERR_NO_SHARED_CIPHER = 0x1408A0C1
ERR_SSL_HANDSHAKE_FAILURE = 0x1410C0E5
ERR_TLSV1_ALERT_UNKNOWN_CA = 0x14102418
ERR_BAD_SIGNATURE = 0x1417B07B

_PACKAGE_ERRORS = {
    ERR_BOTH_KEY_CERT_FILES_SVR: "A server needs both a key file and a certificate file",
    ERR_NO_CERTS: "There are no root certificates to verify the peer's certificate with",
    ERR_BOTH_KEY_CERT_FILES: "A key file and a certificate file are needed together",
    ERR_NO_CIPHER: "No cipher can be selected.",
    ERR_READ_TIMEOUT: "The read operation timed out",
    ERR_WRITE_TIMEOUT: "The write operation timed out",
    ERR_HANDSHAKE_TIMEOUT: "The handshake operation timed out",
    ERR_PORT_UNREACHABLE: "The peer address is not reachable",
}

_LIBRARY_SSL = 0x14000000
_LIBRARY_SYSTEM = 0x02001000
_ALERT_REASONS = 1000
"""OpenSSL numbers the reasons that stand for alerts from here."""
_MESSAGE_TOO_BIG = _LIBRARY_SSL | 334
_CODES = {
    "BAD_SIGNATURE": ERR_BAD_SIGNATURE,
    "CERTIFICATE_VERIFY_FAILED": ERR_CERTIFICATE_VERIFY_FAILED,
    "COOKIE_MISMATCH": ERR_COOKIE_MISMATCH,
    "NO_SHARED_CIPHER": ERR_NO_SHARED_CIPHER,
    "SSL_HANDSHAKE_FAILURE": ERR_SSL_HANDSHAKE_FAILURE,
    "WRONG_SSL_VERSION": ERR_WRONG_SSL_VERSION,
    "WRONG_VERSION_NUMBER": ERR_WRONG_VERSION_NUMBER,
}
_SSL3_ALERTS = frozenset(
    {
        AlertDescription.UNEXPECTED_MESSAGE,
        AlertDescription.BAD_RECORD_MAC,
        AlertDescription.HANDSHAKE_FAILURE,
        AlertDescription.NO_CERTIFICATE,
        AlertDescription.BAD_CERTIFICATE,
        AlertDescription.UNSUPPORTED_CERTIFICATE,
        AlertDescription.CERTIFICATE_REVOKED,
        AlertDescription.CERTIFICATE_EXPIRED,
        AlertDescription.CERTIFICATE_UNKNOWN,
        AlertDescription.ILLEGAL_PARAMETER,
    }
)
"""The alerts that SSL 3.0 had already: OpenSSL called them by that name, until its version 4."""
_TEXTS = {
    "PEM_LIB": "no start line",  # what OpenSSL says of a file without PEM
    "UNSUPPORTED_PROTOCOL": "wrong ssl version",  # PyDTLS's methods knew one version each, and said so
}

ErrorQueue = list[tuple[int, bytes]]


class InvalidSocketError(Exception):
    """The socket is not of the kind that is needed: not a datagram socket, or not a listening one."""


class PackageError(errors.SSLError):
    """An error with a number of PyDTLS's own."""

    def __init__(self, code: int, nested: object = None) -> None:
        super().__init__(
            code, f"{code}: {_PACKAGE_ERRORS[code]}" + (f" ({nested})" if nested is not None else "")
        )


class OpenSSLError(errors.SSLError):
    """An error that OpenSSL reports, or would.

    ``errno``, ``ssl_error`` and ``args[0]`` are the ``SSL_ERROR_*`` number, 0 where there was no association yet;
    ``errqueue`` and ``args[1]`` are a list of pairs of packed code and text (bytes). ``func`` names what failed.
    For a certificate that was refused here, ``verify_code`` and ``verify_message`` say why (X509_V_ERR_*).
    """

    verify_code: int
    verify_message: str

    def __init__(
        self, ssl_error: int, errqueue: ErrorQueue, result: int = -1, func: str = "", *, reason: str = ""
    ) -> None:
        # The queue stands where other errors have a text: that is PyDTLS's form.
        super().__init__(ssl_error, errqueue, reason=reason, library="SSL" if reason else "")  # type: ignore[arg-type]
        self.ssl_error = ssl_error
        self.errqueue = errqueue
        self.result = result
        self.func = func

    def __str__(self) -> str:
        return str(self.args)


class PortUnreachable(OSError):
    """ICMP said that nothing listens at the peer's port; becomes :data:`ERR_PORT_UNREACHABLE`.

    It has no ``errno`` on purpose: nobody on its way shall take it for something that passes.
    """


def openssl_error() -> type[OpenSSLError]:
    """The class of OpenSSL errors, for ``except`` clauses."""
    return OpenSSLError


def raise_ssl_error(code: int, nested: object = None) -> NoReturn:
    """Raise the package error ``code``."""
    raise PackageError(code, nested)


TRANSLATED = (errors.SSLError, PortUnreachable)
"""What :func:`translate` is for; other errors (a closed socket, say) are raised as they are."""


def translate(
    error: OSError, timeout_code: int, func: str, *, ssl_error: int = SSL_ERROR_SSL
) -> PackageError | OpenSSLError:
    """What PyDTLS would raise for ``error``, which is to be its cause.

    :param timeout_code: the package error for a timeout.
    :param func: what OpenSSL's function for the operation is called.
    :param ssl_error: the number for what OpenSSL says.
    """
    # An association keeps what ended it. With its traceback it would keep alive everybody who ever met it.
    error.__traceback__ = None
    if isinstance(error, errors.SSLTimeoutError):
        return PackageError(timeout_code)
    if isinstance(error, errors.MessageTooLarge):
        return OpenSSLError(SSL_ERROR_SSL, [(_MESSAGE_TOO_BIG, b"dtls message too big")], func=func)
    for kind, number, result in _SIGNALS:
        if isinstance(error, kind):
            return OpenSSLError(number, [], result, func)
    if isinstance(error, errors.SSLError) and not isinstance(error, errors.PeerUnreachable):
        translated = OpenSSLError(ssl_error, [entry(error)], func=func, reason=error.reason)
        if isinstance(error, errors.SSLCertVerificationError):
            translated.verify_code = error.verify_code
            translated.verify_message = error.verify_message
        return translated
    return PackageError(ERR_PORT_UNREACHABLE)


_SIGNALS: tuple[tuple[type[errors.SSLError], int, int], ...] = (
    (errors.SSLWantReadError, SSL_ERROR_WANT_READ, -1),
    (errors.SSLWantWriteError, SSL_ERROR_WANT_WRITE, -1),
    (errors.SSLZeroReturnError, SSL_ERROR_ZERO_RETURN, 0),
)


def entry(error: errors.SSLError) -> tuple[int, bytes]:
    """The code and the text that OpenSSL's queue has, or would have, for an error of this package."""
    reason = error.reason
    if not reason:
        return _LIBRARY_SSL, str(error).encode()
    if "ALERT_" in reason:
        name = reason.rpartition("ALERT_")[2]
        number = AlertDescription.__members__.get(name)
        era = "sslv3" if number in _SSL3_ALERTS else "tlsv1"
        code = _LIBRARY_SSL if number is None else _LIBRARY_SSL | _ALERT_REASONS + number
        if number == AlertDescription.UNKNOWN_CA:
            code = ERR_TLSV1_ALERT_UNKNOWN_CA
        return code, f"{era} alert {name.lower().replace('_', ' ')}".encode()
    text = _TEXTS.get(reason) or reason.lower().replace("_", " ")
    return _CODES.get(text.upper().replace(" ", "_"), _LIBRARY_SSL), text.encode()


def file_error(error: OSError, func: str) -> OpenSSLError:
    """The OpenSSL error for a file that cannot be opened, which is to be its cause."""
    text = error.strerror or str(error)
    queue = [(_LIBRARY_SYSTEM | (error.errno or 0), text.encode())]
    return OpenSSLError(SSL_ERROR_NONE, queue, 0, func)
