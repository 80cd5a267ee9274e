"""The errors of this package.

Everything that goes wrong with a peer or a handshake is an :class:`SSLError`. Where Python has the :mod:`ssl`
module, each class here is also the class of the same name there, so that ``except ssl.SSLError`` and
``except OSError`` catch it. What a caller does wrong (a message that is too long, a socket of the wrong kind) is a
:class:`ValueError` or :class:`TypeError` of the standard kind, or :class:`MessageTooLarge`.
"""

from __future__ import annotations

import errno as _errno
from typing import TYPE_CHECKING, Any

SSL_ERROR_SSL = 1
SSL_ERROR_WANT_READ = 2
SSL_ERROR_WANT_WRITE = 3
SSL_ERROR_SYSCALL = 5
SSL_ERROR_ZERO_RETURN = 6

if TYPE_CHECKING:
    import ssl as _ssl

    _SSLError = _ssl.SSLError
    _SSLCertVerificationError = _ssl.SSLCertVerificationError
    _SSLWantReadError = _ssl.SSLWantReadError
    _SSLWantWriteError = _ssl.SSLWantWriteError
    _SSLZeroReturnError = _ssl.SSLZeroReturnError
else:
    try:
        import ssl as _ssl
    except ImportError:  # a Python built without OpenSSL: this package still works
        _SSLError = OSError

        class _SSLCertVerificationError(OSError, ValueError):
            """Stands in for the class of the ssl module."""

        class _SSLWantReadError(OSError):
            """Stands in for the class of the ssl module."""

        class _SSLWantWriteError(OSError):
            """Stands in for the class of the ssl module."""

        class _SSLZeroReturnError(OSError):
            """Stands in for the class of the ssl module."""

    else:
        _SSLError = _ssl.SSLError
        _SSLCertVerificationError = _ssl.SSLCertVerificationError
        _SSLWantReadError = _ssl.SSLWantReadError
        _SSLWantWriteError = _ssl.SSLWantWriteError
        _SSLZeroReturnError = _ssl.SSLZeroReturnError


class SSLError(_SSLError):
    """Something about DTLS went wrong.

    ``errno`` is one of the ``SSL_ERROR_*`` numbers, ``library`` and ``reason`` are filled as the standard library
    fills them: ``library='SSL'``, ``reason='NO_SHARED_CIPHER'``; both are empty where no library gave one.
    """

    def __init__(
        self, number: int, message: str, *, reason: str | None = None, library: str | None = None
    ) -> None:
        super().__init__(number, message)
        self.reason = reason or ""
        self.library = library or ""

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[Any, ...]:
        # The classes below take other arguments than OSError, which would rebuild itself from number and message.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(error_class: type[SSLError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> SSLError:
    error = error_class.__new__(error_class, *arguments)
    OSError.__init__(error, *arguments)
    error.__dict__.update(attributes)
    return error


class SSLCertVerificationError(SSLError, _SSLCertVerificationError):
    """The peer's certificate was refused. ``verify_code`` and ``verify_message`` say why (X509_V_ERR_*)."""

    def __init__(self, message: str, *, verify_code: int, verify_message: str) -> None:
        super().__init__(SSL_ERROR_SSL, message, reason="CERTIFICATE_VERIFY_FAILED", library="SSL")
        self.verify_code = verify_code
        self.verify_message = verify_message


CertificateError = SSLCertVerificationError


class SSLWantReadError(SSLError, _SSLWantReadError):
    """A non-blocking call needs a datagram from the peer first: wait until the socket is readable."""

    def __init__(self, message: str = "the operation needs a datagram from the peer (non-blocking)") -> None:
        super().__init__(SSL_ERROR_WANT_READ, message)


class SSLWantWriteError(SSLError, _SSLWantWriteError):
    """A non-blocking call needs room in the socket's send buffer: wait until the socket is writable."""

    def __init__(self, message: str = "the socket's send buffer is full (non-blocking)") -> None:
        super().__init__(SSL_ERROR_WANT_WRITE, message)


class SSLZeroReturnError(SSLError, _SSLZeroReturnError):
    """The association was closed with close_notify (RFC 5246, 7.2.1); nothing more can be sent on it."""

    def __init__(self, message: str = "the association is closed (close_notify)") -> None:
        super().__init__(SSL_ERROR_ZERO_RETURN, message)


class SSLTimeoutError(SSLError, TimeoutError):
    """An operation took longer than the socket's timeout allows. It may be tried again."""

    def __init__(self, message: str) -> None:
        super().__init__(_errno.ETIMEDOUT, message)


class HandshakeTimeout(SSLTimeoutError):
    """The handshake did not complete before its deadline (``Context.handshake_timeout``). It cannot go on."""


class PeerUnreachable(SSLError, ConnectionRefusedError):
    """The peer's host says that nothing listens there (ICMP port unreachable)."""

    def __init__(self, message: str) -> None:
        super().__init__(_errno.ECONNREFUSED, message)


class AssociationReplaced(SSLError, ConnectionResetError):
    """The peer completed a new handshake from the same address; this association has ended (RFC 6347, 4.2.8)."""

    def __init__(self) -> None:
        super().__init__(_errno.ECONNRESET, "the peer has replaced this association by a new handshake")


class AssociationExpired(SSLError, TimeoutError):
    """Nothing came from the peer for the idle timeout; this association has ended (``EndpointLimits.idle_timeout``)."""

    def __init__(self) -> None:
        super().__init__(
            _errno.ETIMEDOUT, "nothing came from the peer for the idle timeout: the association has ended"
        )


class MessageTooLarge(SSLError, ValueError):
    """A message does not fit one datagram (or one buffer). ``limit`` is the largest size that fits, in bytes."""

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(_errno.EMSGSIZE, message)
        self.limit = limit
