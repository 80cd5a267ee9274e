"""Certificates for demonstrations and tests, not for production.

A :class:`CertificateAuthority` lives in memory, its key unprotected, and issues what it is asked for::

    ca = CertificateAuthority()
    server = ca.issue("localhost", "127.0.0.1", "::1")
    server.private_key_and_chain_pem  # what a server loads
    ca.certificate_pem  # what its clients trust

The certificates follow RFC 5280 closely enough for OpenSSL's strict checks, so that a test that expects one
to be refused sees it refused for the reason the test is about.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

KeyType: TypeAlias = Literal["ec", "rsa"]
"""``"ec"`` is P-256, ``"rsa"`` is RSA with 2048 bits. The latter takes a noticeable time to make."""

_RSA_BITS = 2048
_LONGEST_COMMON_NAME = 64  # ub-common-name, RFC 5280, appendix A.1
_SLACK = timedelta(days=1)  # clocks differ
_LIFETIME = timedelta(days=365)


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate, its private key, and the intermediates between it and the root (nearest first)."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def certificate_pem(self) -> bytes:
        """The certificate alone."""
        return _pem(self.certificate)

    @property
    def chain_pem(self) -> bytes:
        """The certificate and the intermediates after it, without the root: what a peer is sent."""
        return b"".join(map(_pem, (self.certificate, *self.chain)))

    @property
    def key_pem(self) -> bytes:
        """The private key, not encrypted (PKCS #8)."""
        return _key_pem(self.key, serialization.NoEncryption())

    def key_pem_encrypted(self, password: bytes) -> bytes:
        """The private key, encrypted with ``password`` (PKCS #8); ``ValueError`` if that is empty."""
        return _key_pem(self.key, serialization.BestAvailableEncryption(password))

    @property
    def private_key_and_chain_pem(self) -> bytes:
        """The private key, not encrypted, and the chain: all that one side needs, as one file holds it."""
        return self.key_pem + self.chain_pem


class CertificateAuthority:
    """Issues certificates: a root, or below ``issuer`` if that is given.

    :param name: the common name in its own certificate.
    :param key_type: the kind of its own key; what it issues may have another.
    :param issuer: the authority that vouches for this one; see :meth:`intermediate`.
    """

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[x509.Certificate, ...]
    """This authority and those above it, nearest first, without the root: empty for a root."""

    def __init__(
        self,
        name: str = "dtls test CA",
        *,
        key_type: KeyType = "ec",
        issuer: CertificateAuthority | None = None,
    ) -> None:
        self.key = _make_key(key_type)
        subject = _subject(name)
        issuer_name, issuer_key = (issuer.certificate.subject, issuer.key) if issuer else (subject, self.key)
        self.certificate = (
            _builder(subject, self.key, issuer_name, issuer_key, _validity(None, None))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .sign(issuer_key, hashes.SHA256())
        )
        self.chain = (self.certificate, *issuer.chain) if issuer else ()

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate: what a peer trusts, if this is a root."""
        return _pem(self.certificate)

    def intermediate(
        self, name: str = "dtls test intermediate CA", *, key_type: KeyType = "ec"
    ) -> CertificateAuthority:
        """An authority below this one. The chains of what it issues contain it."""
        return CertificateAuthority(name, key_type=key_type, issuer=self)

    def issue(
        self,
        *names: str,
        key_type: KeyType = "ec",
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        client: bool = False,
    ) -> IssuedCertificate:
        """A certificate with a new key.

        :param names: DNS names and IP addresses it is for, at least one; the first is its common name too.
        :param key_type: the kind of its key.
        :param not_before: when it becomes valid, with a time zone; a day ago unless told otherwise.
        :param not_after: when it expires, with a time zone; in a year unless told otherwise.
        :param client: whether it is for a client; it is for a server otherwise.
        :raises ValueError: if there is no name, one is not ASCII, or it would expire before it becomes valid.
        """
        if not names:
            msg = "a certificate needs at least one name"
            raise ValueError(msg)
        key = _make_key(key_type)
        validity = _validity(not_before, not_after)
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            _builder(_subject(names[0]), key, self.certificate.subject, self.key, validity)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            # An RSA key also decrypts the premaster secret in the older key exchange (RFC 5246, 7.4.2).
            .add_extension(
                _key_usage(digital_signature=True, key_encipherment=key_type == "rsa"), critical=True
            )
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        )
        return IssuedCertificate(builder.sign(self.key, hashes.SHA256()), key, self.chain)


def _builder(
    subject: x509.Name,
    key: PrivateKey,
    issuer: x509.Name,
    issuer_key: PrivateKey,
    validity: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    """What all certificates have in common. The key identifiers let a verifier find the issuer by its key."""
    public, issuer_public = key.public_key(), issuer_key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False)
    )


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _validity(not_before: datetime | None, not_after: datetime | None) -> tuple[datetime, datetime]:
    """One bound given alone moves the other, so that an expired certificate needs no more than its expiry."""
    now = datetime.now(timezone.utc)
    start = not_before or min(now, not_after or now) - _SLACK
    end = not_after or max(now, start) + _LIFETIME
    return start, end


def _make_key(key_type: KeyType) -> PrivateKey:
    if key_type == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    if key_type == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    msg = f"key_type must be 'ec' or 'rsa', not {key_type!r}"
    raise ValueError(msg)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_COMMON_NAME])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: PrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
