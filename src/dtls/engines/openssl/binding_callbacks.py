"""The callbacks of OpenSSL, more of what ``binding.py`` binds: what calls back into Python.

Each is set for an SSL_CTX and tells an association by the address of its SSL. What is returned must be kept as long as
the SSL_CTX. What is called must not raise; if it did, cffi would print it and give OpenSSL a 0, which refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .binding import OpenSSLError, clear_errors, ffi, lib, need, take_errors
from .binding_certificates import certificate_der

if TYPE_CHECKING:
    from collections.abc import Callable

    from .binding import Handle

need(
    """
    OPENSSL_malloc SSL_CTX_set_keylog_callback SSL_CTX_set_psk_client_callback
    SSL_CTX_set_psk_server_callback SSL_CTX_set_tlsext_status_cb
    SSL_CTX_use_psk_identity_hint SSL_TLSEXT_ERR_NOACK SSL_TLSEXT_ERR_OK SSL_get_ex_data_X509_STORE_CTX_idx
    SSL_get_tlsext_status_ocsp_resp SSL_set_tlsext_status_ocsp_resp X509_STORE_CTX_get0_cert
    X509_STORE_CTX_get_error X509_STORE_CTX_get_ex_data X509_STORE_CTX_set_error
    """
)


def address_of(ssl: Handle) -> int:
    """What tells an SSL from all others that are alive."""
    return int(ffi.cast("uintptr_t", ssl))


def find_psk_for_client(
    context: Handle, find: Callable[[int, bytes | None], tuple[bytes, bytes] | None]
) -> object:
    """Have ``find(ssl, hint)`` say a client's identity and key; ``None`` ends the handshake."""

    @ffi.callback("unsigned int(SSL *, char *, char *, unsigned int, unsigned char *, unsigned int)")  # type: ignore[untyped-decorator]
    def callback(ssl: Any, hint: Any, identity: Any, room: int, psk: Any, psk_room: int) -> int:
        found = find(address_of(ssl), None if hint == ffi.NULL else bytes(ffi.string(hint)))
        if found is None or len(found[0]) > room or len(found[1]) > psk_room:
            return 0
        ffi.memmove(identity, found[0] + b"\0", len(found[0]) + 1)
        ffi.memmove(psk, found[1], len(found[1]))
        return len(found[1])

    lib.SSL_CTX_set_psk_client_callback(context, callback)
    return callback


def find_psk_for_server(context: Handle, find: Callable[[int], bytes | None]) -> object:
    """Have ``find(ssl)`` say the client's key; empty if it is not known, ``None`` for an internal error."""

    @ffi.callback("unsigned int(SSL *, char *, unsigned char *, unsigned int)")  # type: ignore[untyped-decorator]
    def callback(ssl: Any, _identity: Any, psk: Any, room: int) -> int:
        found = find(address_of(ssl))
        if found is None or len(found) > room:
            return room + 1
        ffi.memmove(psk, found, len(found))
        return len(found)

    lib.SSL_CTX_set_psk_server_callback(context, callback)
    return callback


def hint_at_identity(context: Handle, hint: bytes) -> None:
    """What clients are told before they choose an identity. Raises :class:`~.binding.OpenSSLError`."""
    clear_errors()
    if lib.SSL_CTX_use_psk_identity_hint(context, hint) != 1:
        raise OpenSSLError(take_errors())


def judge_certificates(judge: Callable[[int, bytes, int], int]) -> object:
    """A callback for :func:`~.binding.set_verification`: ``judge(ssl, certificate, fault)`` has the last word.

    It is given the DER of the peer's own certificate and the X509_V_ERR_* that path validation finds (0 for none), and
    gives the one that counts. It is called for each certificate of the path and each fault.
    """
    index = lib.SSL_get_ex_data_X509_STORE_CTX_idx()

    @ffi.callback("int(int, X509_STORE_CTX *)")  # type: ignore[untyped-decorator]
    def callback(_valid: int, path: Any) -> int:
        ssl = ffi.cast("SSL *", lib.X509_STORE_CTX_get_ex_data(path, index))
        own = certificate_der(lib.X509_STORE_CTX_get0_cert(path))
        fault = judge(address_of(ssl), own, int(lib.X509_STORE_CTX_get_error(path)))
        lib.X509_STORE_CTX_set_error(path, fault)
        return int(not fault)

    return callback


def log_keys(context: Handle, note: Callable[[bytes], None]) -> object:
    """Have ``note`` called with each line of a key log in NSS's format."""

    @ffi.callback("void(SSL *, char *)")  # type: ignore[untyped-decorator]
    def callback(_ssl: Any, line: Any) -> None:
        note(bytes(ffi.string(line)))

    lib.SSL_CTX_set_keylog_callback(context, callback)
    return callback


def show_status(context: Handle, find: Callable[[], bytes | None]) -> object:
    """Have ``find`` say the OCSP response for a client that asks; ``None`` for none."""

    @ffi.callback("int(SSL *, void *)")  # type: ignore[untyped-decorator]
    def callback(ssl: Any, _argument: Any) -> int:
        response = find()
        if response is None:
            return int(lib.SSL_TLSEXT_ERR_NOACK)
        own = lib.OPENSSL_malloc(len(response))  # it belongs to the SSL from then on
        if own == ffi.NULL:
            return int(lib.SSL_TLSEXT_ERR_NOACK)
        ffi.memmove(own, response, len(response))
        lib.SSL_set_tlsext_status_ocsp_resp(ssl, own, len(response))
        return int(lib.SSL_TLSEXT_ERR_OK)

    lib.SSL_CTX_set_tlsext_status_cb(context, callback)
    return callback


def judge_status(context: Handle, judge: Callable[[int, bytes], bool]) -> object:
    """Have ``judge(ssl, response)`` say whether a client goes on with the OCSP response that the server shows."""

    @ffi.callback("int(SSL *, void *)")  # type: ignore[untyped-decorator]
    def callback(ssl: Any, _argument: Any) -> int:
        where = ffi.new("unsigned char **")
        length = lib.SSL_get_tlsext_status_ocsp_resp(ssl, where)
        response = bytes(ffi.buffer(where[0], length)) if length > 0 else b""
        return int(judge(address_of(ssl), response))

    lib.SSL_CTX_set_tlsext_status_cb(context, callback)
    return callback
