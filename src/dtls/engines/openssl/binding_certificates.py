"""OpenSSL's certificates, keys and anchors: loaded, presented, trusted, and what a peer has shown."""

from __future__ import annotations

from typing import Any

from .binding import Handle, clear_errors, ffi, lib, read_all, require

_X509_V_OK = 0
_SSL_MODE_NO_AUTO_CHAIN = 0x8


def _memory_bio_of(data: bytes) -> Handle:
    """A BIO to read ``data`` from. OpenSSL copies nothing: the bytes live as long as the BIO does."""

    def free(bio: Handle, _read_from: bytes = data) -> None:
        lib.BIO_free(bio)

    return ffi.gc(require(lib.BIO_new_mem_buf(data, len(data))), free)


def load_certificate(der: bytes) -> Handle:
    """An X509 of the DER encoding. Raises :class:`OpenSSLError`."""
    clear_errors()
    return ffi.gc(require(lib.d2i_X509_bio(_memory_bio_of(der), ffi.NULL)), lib.X509_free)


def load_private_key(der: bytes) -> Handle:
    """An EVP_PKEY of the DER encoding (PKCS 8). Raises :class:`OpenSSLError`."""
    clear_errors()
    return ffi.gc(require(lib.d2i_PrivateKey_bio(_memory_bio_of(der), ffi.NULL)), lib.EVP_PKEY_free)


def build_chain(certificate: bytes, untrusted: list[bytes], store: Handle) -> tuple[list[bytes], bool]:
    """The path from a certificate to an anchor in an X509_STORE, by way of ``untrusted``, and whether it is valid.

    Without an anchor it is as much of a path as was found. All certificates are DER.
    """
    clear_errors()
    leaf = load_certificate(certificate)
    owned = [load_certificate(der) for der in untrusted]
    stack = ffi.gc(require(lib.sk_X509_new_null()), lib.sk_X509_free)
    for link in owned:
        require(lib.sk_X509_push(stack, link))
    path = ffi.gc(require(lib.X509_STORE_CTX_new()), lib.X509_STORE_CTX_free)
    require(lib.X509_STORE_CTX_init(path, store, leaf, stack))
    valid = lib.X509_verify_cert(path) == 1
    found = lib.X509_STORE_CTX_get1_chain(path)
    chain = _chain_ders(found)
    for index in range(len(chain)):
        lib.X509_free(lib.sk_X509_value(found, index))
    lib.sk_X509_free(found)
    clear_errors()
    return chain, valid


def store_of(certificates: list[bytes]) -> Handle:
    """An X509_STORE that trusts these certificates (DER)."""
    clear_errors()
    store = ffi.gc(require(lib.X509_STORE_new()), lib.X509_STORE_free)
    for der in certificates:
        require(lib.X509_STORE_add_cert(store, load_certificate(der)))
    return store


def store_of_context(context: Handle) -> Handle:
    """The X509_STORE of a context's anchors; it lives as long as the context."""
    return lib.SSL_CTX_get_cert_store(context)


def certificate_der(certificate: Handle) -> bytes:
    """The DER of an X509."""
    bio = ffi.gc(require(lib.BIO_new(lib.BIO_s_mem())), lib.BIO_free)
    require(lib.i2d_X509_bio(bio, certificate))
    return read_all(bio)


def use_certificate(context: Handle, certificate: Handle, key: Handle, chain: list[Handle]) -> None:
    """The certificate, its key and what is sent along with it. Raises :class:`OpenSSLError` if they do not match."""
    clear_errors()
    require(lib.SSL_CTX_use_certificate(context, certificate))
    require(lib.SSL_CTX_use_PrivateKey(context, key))
    require(lib.SSL_CTX_check_private_key(context))
    for link in chain:
        # add_extra_chain_cert takes the reference over, so it gets one of its own.
        own = lib.d2i_X509_bio(_memory_bio_of(certificate_der(link)), ffi.NULL)
        require(own)
        require(lib.SSL_CTX_add_extra_chain_cert(context, own))


def use_certificate_beside_others(context: Handle, pem_path: bytes, key: Handle) -> None:
    """As :func:`use_certificate`, from a file with all certificates: each kind of key has a chain of its own so.

    The functions that would do it without a file are not bound.
    """
    clear_errors()
    require(lib.SSL_CTX_use_certificate_chain_file(context, pem_path))
    require(lib.SSL_CTX_use_PrivateKey(context, key))
    require(lib.SSL_CTX_check_private_key(context))


def send_chain_as_it_is(context: Handle) -> None:
    """Do not complete a chain of one certificate from the trust anchors."""
    lib.SSL_CTX_set_mode(context, _SSL_MODE_NO_AUTO_CHAIN)


def trust_certificate(context: Handle, certificate: Handle) -> None:
    """Add a trust anchor. Raises :class:`OpenSSLError`."""
    clear_errors()
    require(lib.X509_STORE_add_cert(lib.SSL_CTX_get_cert_store(context), certificate))


def name_authority(context: Handle, certificate: Handle) -> None:
    """Tell clients that certificates of this authority are welcome. Raises :class:`OpenSSLError`."""
    clear_errors()
    require(lib.SSL_CTX_add_client_CA(context, certificate))


def trust_directory(context: Handle, path: bytes) -> None:
    """Look for trust anchors in a directory of files named by hash. Raises :class:`OpenSSLError`."""
    clear_errors()
    require(lib.X509_STORE_load_locations(lib.SSL_CTX_get_cert_store(context), ffi.NULL, path))


def peer_certificate(ssl: Handle) -> bytes | None:
    """The DER of the peer's certificate."""
    certificate = lib.SSL_get_peer_certificate(ssl)
    if certificate == ffi.NULL:
        return None
    return certificate_der(ffi.gc(certificate, lib.X509_free))


def _chain_ders(stack: Any) -> list[bytes]:
    if stack == ffi.NULL:
        return []
    return [certificate_der(lib.sk_X509_value(stack, i)) for i in range(lib.sk_X509_num(stack))]


def peer_chain(ssl: Handle) -> list[bytes]:
    """The DERs that the peer sent. On a server OpenSSL leaves the peer's own certificate out."""
    return _chain_ders(lib.SSL_get_peer_cert_chain(ssl))


def verified_chain(ssl: Handle) -> list[bytes]:
    """The DERs of the path that was verified, the peer's own first; empty if OpenSSL found fault with it."""
    if lib.SSL_get_verify_result(ssl) != _X509_V_OK:
        return []
    return _chain_ders(lib.SSL_get0_verified_chain(ssl))
