"""Sessions, exported keys and what else a complete handshake leaves: more of what ``binding.py`` binds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .binding import OpenSSLError, clear_errors, ffi, lib, need, take_errors

if TYPE_CHECKING:
    from .binding import Handle

need(
    """
    SSL_CTX_set_session_cache_mode SSL_CTX_set_session_id_context SSL_CTX_set_timeout
    SSL_CTX_set_tlsext_use_srtp SSL_RECEIVED_SHUTDOWN SSL_SENT_SHUTDOWN SSL_SESSION_free SSL_SESS_CACHE_OFF
    SSL_SESS_CACHE_SERVER SSL_export_keying_material SSL_get1_session SSL_get_extms_support SSL_get_finished
    SSL_get_peer_finished SSL_get_selected_srtp_profile SSL_session_reused SSL_set_session SSL_set_shutdown
    SSL_set_tlsext_status_type TLSEXT_STATUSTYPE_ocsp
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


SERIALIZES = hasattr(lib, "i2d_SSL_SESSION")
"""Whether it can be known what is in a session."""


def _need_serialization() -> None:
    if not SERIALIZES:
        message = "sessions of clients need cryptography 44 or later"
        raise NotImplementedError(message)


def export_keying_material(ssl: Handle, label: bytes, length: int, context: bytes | None) -> bytes:
    """RFC 5705. Raises :class:`~.binding.OpenSSLError`."""
    clear_errors()
    out = ffi.new("unsigned char[]", length)
    given = ffi.NULL if context is None else context
    size = 0 if context is None else len(context)
    if (
        lib.SSL_export_keying_material(ssl, out, length, label, len(label), given, size, context is not None)
        != 1
    ):
        raise OpenSSLError(take_errors())
    return bytes(ffi.buffer(out, length))


def finished_message(ssl: Handle, *, of_peer: bool) -> bytes:
    """The verify_data of the last Finished of either side."""
    get = lib.SSL_get_peer_finished if of_peer else lib.SSL_get_finished
    room = ffi.new("char[]", _MAX_FINISHED)
    length = get(ssl, room, _MAX_FINISHED)
    return bytes(ffi.buffer(room, min(length, _MAX_FINISHED)))


_MAX_FINISHED = 64


def has_extended_master_secret(ssl: Handle) -> bool:
    """Whether the master secret is bound to the handshake (RFC 7627)."""
    return bool(lib.SSL_get_extms_support(ssl) == 1)


def use_srtp(context: Handle, profiles: bytes) -> None:
    """The SRTP profiles, separated by colons. Raises :class:`~.binding.OpenSSLError` if one is not known."""
    clear_errors()
    if lib.SSL_CTX_set_tlsext_use_srtp(context, profiles):  # 0 is success here
        raise OpenSSLError(take_errors())


def selected_srtp_profile(ssl: Handle) -> str | None:
    """The SRTP profile agreed on."""
    profile = lib.SSL_get_selected_srtp_profile(ssl)
    return None if profile == ffi.NULL else str(ffi.string(profile.name).decode())


def ask_for_status(ssl: Handle) -> None:
    """Have a client ask for an OCSP response."""
    lib.SSL_set_tlsext_status_type(ssl, lib.TLSEXT_STATUSTYPE_ocsp)
