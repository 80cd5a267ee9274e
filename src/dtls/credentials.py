"""Certificates, keys and trust anchors as users bring them: files, bytes, ``cryptography`` objects, the system's.

ASN.1 and decryption are ``cryptography``'s. All that is here is finding out what somebody meant, and saying what is
wrong with it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from .errors import SSL_ERROR_SSL, SSLError

if TYPE_CHECKING:
    from collections.abc import Iterable


PrivateKey = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)
CertificateSource = str | os.PathLike[str] | bytes | x509.Certificate | Sequence[x509.Certificate]
"""A path, PEM or DER data, a certificate, or a list of certificates with the peer's own first."""
KeySource = str | os.PathLike[str] | bytes | PrivateKey
"""A path, PEM or DER data, or a private key."""
Password = str | bytes | bytearray | Callable[[], str | bytes | bytearray]

_PEM_CERTIFICATE = re.compile(
    rb"-----BEGIN (?:X509 )?CERTIFICATE-----(.*?)-----END (?:X509 )?CERTIFICATE-----", re.DOTALL
)
_PEM_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_PEM_MARK = b"-----BEGIN "

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
)
"""Where systems keep their trust anchors in one file."""


class Identity(NamedTuple):
    """Who one side is: its certificate and what leads to an anchor (DER, its own first), and its private key.

    A chain that is not ``complete`` may be completed from the trust anchors when it is sent.
    """

    chain: list[bytes]
    key: PrivateKey
    complete: bool = False


def key_kind(key: PrivateKey) -> str:
    """Which kind of key it is; of each, one certificate can be presented."""
    if isinstance(key, rsa.RSAPrivateKey):
        return "RSA"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return "EC"
    return "Ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else "Ed448"


def _error(message: str, reason: str, library: str = "SSL") -> SSLError:
    return SSLError(SSL_ERROR_SSL, f"[{library}: {reason}] {message}", reason=reason, library=library)


def _read(source: str | os.PathLike[str] | bytes) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _name_of(source: object) -> str:
    return "the data given" if isinstance(source, bytes) else repr(os.fspath(cast("Any", source)))


def is_self_signed(der: bytes) -> bool:
    """Whether a certificate (DER) was issued with its own key."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def load_identity(
    certificates: CertificateSource, key: KeySource | None, password: Password | None
) -> Identity:
    """The identity that ``load_cert_chain`` is asked for; raises :class:`~dtls.SSLError` and :exc:`OSError`."""
    chain: list[x509.Certificate]
    data = b""
    if isinstance(certificates, x509.Certificate):
        chain = [certificates]
    elif isinstance(certificates, (str, bytes, os.PathLike)):
        data = _read(certificates)
        chain = [_parse(der, _name_of(certificates)) for der in certificates_in(data)]
        if not chain:
            message = f"there is no certificate in {_name_of(certificates)} (PEM or DER is expected)"
            raise _error(message, "PEM_LIB")
    else:
        chain = list(certificates)
        if not chain:
            message = "the list of certificates is empty"
            raise ValueError(message)
    private_key = _load_key(key, data, password)
    if _public_bytes(chain[0].public_key()) != _public_bytes(private_key.public_key()):
        message = "the private key does not belong to the (first) certificate"
        raise _error(message, "KEY_VALUES_MISMATCH", "X509")
    return Identity([link.public_bytes(Encoding.DER) for link in chain], private_key)


def _public_bytes(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _load_key(key: KeySource | None, beside: bytes, password: Password | None) -> PrivateKey:
    if key is None:
        if not beside:
            message = "a private key is needed beside the certificate"
            raise ValueError(message)
        return _parse_key(beside, "the file of the certificate", password)
    if isinstance(key, (str, bytes, os.PathLike)):
        return _parse_key(_read(key), _name_of(key), password)
    return _check_key(key)


def _check_key(key: object) -> PrivateKey:
    if not isinstance(
        key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    ):
        message = f"a {type(key).__name__} cannot sign for DTLS: an RSA, EC or Ed25519 private key is needed"
        raise TypeError(message)
    return key


def _parse_key(data: bytes, place: str, password: Password | None) -> PrivateKey:
    match = _PEM_PRIVATE_KEY.search(data)
    if match is None and _PEM_MARK in data:
        message = f"there is no private key in {place}"
        raise _error(message, "PEM_LIB")
    load: Any = load_pem_private_key if match else load_der_private_key
    pem_or_der = match.group(0) if match else data
    try:
        try:
            return _check_key(load(pem_or_der, None))
        except TypeError as error:
            if "encrypted" not in str(error):
                raise
    except (ValueError, NotImplementedError):
        message = f"the private key in {place} cannot be read"
        raise _error(message, "PEM_LIB") from None
    secret = b"" if password is None else _password_bytes(password)
    if not secret:
        message = f"the private key in {place} is encrypted: give its password"
        raise _error(message, "BAD_PASSWORD_READ", "PEM")
    try:
        return _check_key(load(pem_or_der, secret))
    except (ValueError, NotImplementedError):
        # Once in a while a wrong password yields something that looks decrypted and cannot be parsed.
        message = f"the password does not open the private key in {place}"
        raise _error(message, "BAD_DECRYPT", "PEM") from None


def _password_bytes(password: Password) -> bytes:
    secret = password() if callable(password) else password
    if isinstance(secret, str):
        secret = secret.encode()
    if not isinstance(secret, (bytes, bytearray)):
        message = "a password must be a string, bytes, or a callable that returns one of them"
        raise TypeError(message)
    return bytes(secret)


def _parse(der: bytes, place: str) -> x509.Certificate:
    try:
        with warnings.catch_warnings():
            # What a certificate should not have is for whoever made it; users of it can do nothing about it.
            warnings.simplefilter("ignore")
            return x509.load_der_x509_certificate(der)
    except ValueError:
        message = f"a certificate in {place} cannot be read"
        raise _error(message, "ASN1_LIB", "X509") from None


def certificates_in(data: bytes) -> list[bytes]:
    """The DERs in PEM data, or in DER data one after another, in order; empty if there is none."""
    if _PEM_MARK not in data:
        return _split_der(data)
    ders = []
    for match in _PEM_CERTIFICATE.finditer(data):
        try:
            ders.append(base64.b64decode(b"".join(match.group(1).split()), validate=True))
        except binascii.Error:
            message = "a certificate in the PEM data is not base64"
            raise _error(message, "BAD_BASE64_DECODE", "PEM") from None
    return ders


def _split_der(data: bytes) -> list[bytes]:
    """The ASN.1 sequences that stand one after another; what is left of the data goes with the last."""
    ders = []
    while data[:1] == b"\x30":
        length = int.from_bytes(data[1:2], "big")
        header = 2
        if length & 0x80:  # so many bytes of length follow
            header += length & 0x7F
            length = int.from_bytes(data[2:header], "big")
        end = header + length
        if data[end : end + 1] != b"\x30":
            end = len(data)
        ders.append(data[:end])
        data = data[end:]
    return ders


def load_anchors(source: str | os.PathLike[str] | bytes) -> list[bytes]:
    """The DERs of trust anchors in a file or in data; raises :class:`~dtls.SSLError` if there is none."""
    ders = certificates_in(_read(source))
    if not ders:
        message = f"there is no certificate in {_name_of(source)} (PEM or DER is expected)"
        raise _error(message, "NO_CERTIFICATE_OR_CRL_FOUND", "X509")
    for der in ders:
        _parse(der, _name_of(source))
    return ders


def existing_directory(path: str | os.PathLike[str]) -> str:
    """``path`` as text; raises :exc:`OSError` if it is no directory."""
    os.scandir(path).close()
    return os.fsdecode(path)


class SystemTrust(NamedTuple):
    """The system's trust anchors."""

    certificates: list[bytes]
    directories: list[str]


def load_system_trust() -> SystemTrust:
    """What this system trusts, found as the ``ssl`` module finds it, or else where systems usually keep it.

    Where ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` is in the environment, that counts and nothing else: a path that leads
    nowhere trusts nobody. Certificates that cannot be read are left out.
    """
    if sys.platform == "win32":
        return SystemTrust(_windows_anchors(), [])
    cafile = os.environ.get("SSL_CERT_FILE")
    capath = os.environ.get("SSL_CERT_DIR")
    if cafile is None and capath is None:
        cafile, capath = _system_paths()
    certificates: list[bytes] = []
    if cafile and Path(cafile).is_file():
        certificates += _readable(certificates_in(Path(cafile).read_bytes()))
    return SystemTrust(certificates, [capath] if capath and Path(capath).is_dir() else [])


def _system_paths() -> tuple[str | None, str | None]:
    """The system's file and directory of trust anchors, where nobody has named others."""
    try:
        import ssl  # noqa: PLC0415 - a Python without it is supported
    except ImportError:
        pass
    else:
        paths = ssl.get_default_verify_paths()
        if paths.cafile or paths.capath:  # they exist
            return paths.cafile, paths.capath
    return next((path for path in SYSTEM_BUNDLES if Path(path).is_file()), None), None


def _windows_anchors() -> list[bytes]:
    import ssl  # noqa: PLC0415 - a Python without it is supported

    enumerate_certificates: Any = getattr(ssl, "enum_certificates", None)
    if enumerate_certificates is None:
        return []
    server_authentication = "1.3.6.1.5.5.7.3.1"
    found: list[bytes] = []
    for store in ("CA", "ROOT"):
        for der, encoding, trust in enumerate_certificates(store):
            if encoding == "x509_asn" and (trust is True or server_authentication in trust):
                found.append(der)
    return list(_readable(found))


def _readable(ders: Iterable[bytes]) -> Iterable[bytes]:
    for der in ders:
        try:
            _parse(der, "the system's store")
        except SSLError:
            continue
        yield der
