"""Certificates for the old package's suites: its names and its files' names, with new keys and dates.

Its own expired in 2024, and OpenSSL refuses their keys (1024 bits) and signatures (SHA-1) since version 3. Of use as
they are: those that are to be refused (``badcert.pem``, ``badkey.pem``, ``nullcert.pem``), and the root that vouches
for nobody here (``yahoo-cert.pem``).
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

    PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
"""The name of P-256, which ``openssl ecparam`` writes before a key."""


def _name(country: str, state: str, organization: str, common_name: str | None = None) -> x509.Name:
    attributes = [
        (NameOID.COUNTRY_NAME, country),
        (NameOID.STATE_OR_PROVINCE_NAME, state),
        (NameOID.ORGANIZATION_NAME, organization),
    ]
    if common_name is not None:
        attributes.append((NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


_ROOT = _name("US", "Washington", "Ray CA Inc", "RayCAInc")
_SERVER = _name("US", "Washington", "Ray Srv Inc", "RaySrvInc")
_STRANGER = _name("AU", "Some-State", "Internet Widgits Pty Ltd")


class _Issued(NamedTuple):
    certificate: x509.Certificate
    key: PrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """In the older of the two formats, except RSA keys of servers: as in the old files."""
        old = serialization.PrivateFormat.TraditionalOpenSSL
        pkcs8 = serialization.PrivateFormat.PKCS8
        is_ec = isinstance(self.key, ec.EllipticCurvePrivateKey)
        pem = self.key.private_bytes(
            serialization.Encoding.PEM,
            old if is_ec or self.certificate.subject == _STRANGER else pkcs8,
            serialization.NoEncryption(),
        )
        return _EC_PARAMETERS + pem if is_ec else pem


def _issue(subject: x509.Name, key: PrivateKey, issuer: _Issued | None = None) -> _Issued:
    """A root without ``issuer``; otherwise for any purpose, since servers and clients have the same."""
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    return _Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def write(folder: Path) -> None:
    """Put new certificates in the place of old ones; those are there already."""
    files: dict[str, bytes] = {}
    for suffix in "", "_ec":
        keys: list[PrivateKey] = [
            ec.generate_private_key(ec.SECP256R1()) if suffix else _rsa_key() for _ in range(2)
        ]
        # Both roots have the same name: a suite's case rests on that.
        root = _issue(_ROOT, keys[0])
        server = _issue(_SERVER, keys[1], root)
        files[f"ca-cert{suffix}.pem"] = root.pem
        files[f"server-cert{suffix}.pem"] = server.pem
        files[f"keycert{suffix}.pem"] = server.key_pem + server.pem
    stranger = _issue(_STRANGER, _rsa_key())
    files["wrongcert.pem"] = stranger.key_pem + stranger.pem
    for name, content in files.items():
        path = folder / name
        if not path.exists():
            message = f"the old package has no {name}"
            raise FileNotFoundError(message)
        path.write_bytes(content)
