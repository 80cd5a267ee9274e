"""Sessions, exported keys and what else a complete handshake leaves: more of what ``binding.py`` binds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .binding import OpenSSLError, clear_errors, ffi, lib, need, take_errors

if TYPE_CHECKING:
    from .binding import Handle

need(
    """
    SSL_CTX_set_session_cache_mode SSL_CTX_set_session_id_context SSL_CTX_set_timeout SSL_SESSION_free
    SSL_RECEIVED_SHUTDOWN SSL_SENT_SHUTDOWN SSL_SESS_CACHE_OFF SSL_SESS_CACHE_SERVER SSL_get1_session
    SSL_session_reused SSL_set_session SSL_set_shutdown
    """
)


def remember_sessions(context: Handle, timeout: int, *, by_id: bool) -> None:
    """For how many seconds sessions count, and whether a server keeps them: at most 20,480, OpenSSL's default."""
    lib.SSL_CTX_set_timeout(context, timeout)
    mode = lib.SSL_SESS_CACHE_SERVER if by_id else lib.SSL_SESS_CACHE_OFF
    lib.SSL_CTX_set_session_cache_mode(context, mode)


def name_session_group(context: Handle, name: bytes) -> None:
    """Each SSL made from now on resumes only what one with the same name, at most 32 bytes, has begun."""
    lib.SSL_CTX_set_session_id_context(context, name, len(name))


def keep_session(ssl: Handle) -> None:
    """Say that an association that is about to be forgotten has ended well, whatever became of close_notify.

    OpenSSL would forget its session too, for fear of truncation attacks, which datagrams do not know: a client that was
    switched off without a word could not resume.
    """
    lib.SSL_set_shutdown(ssl, lib.SSL_SENT_SHUTDOWN | lib.SSL_RECEIVED_SHUTDOWN)


def session_reused(ssl: Handle) -> bool:
    """Whether the handshake was a short one."""
    return bool(lib.SSL_session_reused(ssl))


def session(ssl: Handle) -> bytes | None:
    """The DER of OpenSSL's SSL_SESSION; ``None`` before there is one. Secret."""
    _need_serialization()
    handle = lib.SSL_get1_session(ssl)
    if handle == ffi.NULL:
        return None
    handle = ffi.gc(handle, lib.SSL_SESSION_free)
    length = lib.i2d_SSL_SESSION(handle, ffi.NULL)
    if length <= 0:
        return None
    data = ffi.new("unsigned char[]", length)
    lib.i2d_SSL_SESSION(handle, ffi.new("unsigned char **", data))
    return bytes(ffi.buffer(data, length))


def offer_session(ssl: Handle, der: bytes) -> None:
    """Have a client offer a session. Raises :class:`~.binding.OpenSSLError` for what is none."""
    _need_serialization()
    clear_errors()
    data: Any = ffi.new("unsigned char[]", der)
    handle = lib.d2i_SSL_SESSION(ffi.NULL, ffi.new("unsigned char **", data), len(der))
    if handle == ffi.NULL:
        raise OpenSSLError(take_errors())
    handle = ffi.gc(handle, lib.SSL_SESSION_free)
    if lib.SSL_set_session(ssl, handle) != 1:
        raise OpenSSLError(take_errors())


def _need_serialization() -> None:
    if not hasattr(lib, "i2d_SSL_SESSION"):
        message = "sessions of clients need cryptography 44 or later"
        raise NotImplementedError(message)
