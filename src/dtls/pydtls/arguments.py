"""PyDTLS's constructor arguments as a :class:`~dtls.Context`, with PyDTLS's own defaults.

They are laxer than this package's: no certificate is verified unless it is asked for, names are never compared, the
cipher suites are OpenSSL's ``DEFAULT``, and servers serve DTLS 1.0 too.
"""

from __future__ import annotations

import functools
import os
import stat
import time
from typing import TYPE_CHECKING

from dtls.context import (
    CERT_NONE,
    PROTOCOL_DTLS_CLIENT,
    PROTOCOL_DTLS_SERVER,
    Context,
    DTLSVersion,
    VerifyMode,
)
from dtls.err import ERR_NO_CIPHER, SSL_ERROR_NONE, PackageError, file_error, translate
from dtls.errors import SSLError
from dtls.settings.negotiation import cipher_words

if TYPE_CHECKING:
    PathOrPEM = str | os.PathLike[str] | bytes

PROTOCOL_DTLSv1 = 256
PROTOCOL_DTLSv1_2 = 258
PROTOCOL_DTLS = 259

HANDSHAKE_TIMEOUT = 483.0
"""Seconds. After twelve unanswered repeats, so long in all, OpenSSL used to give a handshake up."""
_READING = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_AT_A_TIME = 65_536
"""Bytes: more than a file of certificates mostly has."""
_SETTLED_AFTER = 2_500_000_000
"""Nanoseconds; file systems tell times apart that are no nearer than two seconds, at worst."""
_MAX_FILES = 16
_files: dict[str, tuple[tuple[int, ...], bytes]] = {}
"""What was read from files of certificates, and what told that they are the same."""
_1_0, _1_2 = DTLSVersion.DTLSv1, DTLSVersion.DTLSv1_2
_UNAUTHENTICATED_OR_UNENCRYPTED = ("NULL", "ADH", "AECDH")


def make_context(
    *,
    server_side: bool,
    keyfile: PathOrPEM | None,
    certfile: PathOrPEM | None,
    cert_reqs: int,
    ssl_version: int,
    ca_certs: PathOrPEM | None,
    ciphers: str | None,
    to_be_changed: bool = False,
) -> Context:
    """The context that PyDTLS's arguments describe.

    Clients that say the same and have no private key share one, unless it is ``to_be_changed``: to make one takes as
    long as a handshake. Files may also be given as PEM data (bytes). Raises package error 501 for a useless
    ``ciphers``, and OpenSSL errors with number 0 for files that cannot be opened or used.
    """
    versions = protocol_versions(ssl_version, server_side=server_side)
    try:
        anchors = _contents(ca_certs) if ca_certs else None
        settings = server_side, cert_reqs or CERT_NONE, versions, anchors, ciphers
        if not (server_side or certfile or to_be_changed):
            return _shared_context(*settings)
        context = _context(*settings)
        if certfile:
            context.load_cert_chain(_source(certfile), _source(keyfile) if keyfile else None)
        if server_side:
            context.check()  # OpenSSL has its say about the certificate now, not when a client comes
    except PackageError:
        raise
    except SSLError as error:
        raise translate(error, 0, "SSL_CTX_use_certificate_chain_file", ssl_error=SSL_ERROR_NONE) from error
    except OSError as error:
        raise file_error(error, "SSL_CTX_use_certificate_chain_file") from error
    return context


def _context(
    server_side: bool,
    cert_reqs: int,
    versions: tuple[DTLSVersion, DTLSVersion],
    anchors: bytes | None,
    ciphers: str | None,
) -> Context:
    context = Context(PROTOCOL_DTLS_SERVER if server_side else PROTOCOL_DTLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = VerifyMode(cert_reqs)
    context.limits_messages_to_mtu = False
    context.sends_ca_names = False
    context.session_tickets = False
    context.mtu_back_off = False
    context.handshake_timeout = HANDSHAKE_TIMEOUT
    context.minimum_version, context.maximum_version = versions
    if anchors is not None:
        context.load_verify_locations(cadata=anchors)
    try:
        context.set_ciphers(cipher_string(ciphers, with_dtls_1_0=versions[0] is _1_0))
    except SSLError as error:
        raise PackageError(ERR_NO_CIPHER, error) from None
    return context


_shared_context = functools.lru_cache(maxsize=16)(_context)


def protocol_versions(ssl_version: int, *, server_side: bool) -> tuple[DTLSVersion, DTLSVersion]:
    """The oldest and the newest version. A client that may speak any is one for DTLS 1.2; other numbers mean any."""
    if ssl_version == PROTOCOL_DTLSv1:
        return _1_0, _1_0
    if ssl_version == PROTOCOL_DTLSv1_2 or not server_side:
        return _1_2, _1_2
    return _1_0, _1_2


def cipher_string(ciphers: str | None, *, with_dtls_1_0: bool) -> str:
    """The user's cipher suites, with the security level they need.

    DTLS 1.0 signs with SHA-1 and MD5, which OpenSSL 3 and later allow at security level 0 only. That level would
    also let in suites without authentication or encryption by the way, as part of ``ALL`` say: those are shut out
    unless they are named. A level that the user sets stands.
    """
    ciphers = ciphers or "DEFAULT"
    if "@SECLEVEL" in ciphers:
        return ciphers
    chosen = [word for word in cipher_words(ciphers) if not word.startswith(("!", "-"))]
    if any(weakness in word for word in chosen for weakness in _UNAUTHENTICATED_OR_UNENCRYPTED):
        return f"{ciphers}:@SECLEVEL=0"
    if with_dtls_1_0:
        return f"{ciphers}:!aNULL:!eNULL:@SECLEVEL=0"
    return ciphers


def _contents(source: PathOrPEM) -> bytes:
    where = source if type(source) is str else _source(source)
    if isinstance(where, bytes):
        return where
    # Every client asks for this file. What tells that it has not changed takes a fraction of the time to read it.
    known = _files.get(where)
    if known is not None and known[0] == _stamp(os.stat(where)):  # noqa: PTH116 - a Path takes longer
        return known[1]
    status, contents = _read(where)
    # A file that has just been changed may be changed again without another time to show for it.
    if (
        stat.S_ISREG(status.st_mode)
        and time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_AFTER
    ):
        if len(_files) >= _MAX_FILES:
            _files.clear()
        _files[where] = _stamp(status), contents
    return contents


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """What is different when a file is another, or has changed."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(where: str) -> tuple[os.stat_result, bytes]:
    """A file's contents, and what told of it, of that very file, before it was read."""
    descriptor = os.open(where, _READING)
    try:
        status = os.fstat(descriptor)
        contents = os.read(descriptor, _AT_A_TIME)
        while more := os.read(descriptor, _AT_A_TIME):
            contents += more
    finally:
        os.close(descriptor)
    return status, contents


def _source(source: PathOrPEM) -> str | bytes:
    """A path as text, or PEM data as bytes; bytes without PEM are a path."""
    if isinstance(source, bytes) and b"-----BEGIN " in source:
        return source
    return os.fsdecode(source)
