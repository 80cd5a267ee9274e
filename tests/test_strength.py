"""Naming a suite with short tags lowers OpenSSL's security level, and nothing that this side asks of certificates."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from dtls import PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context, SSLCertVerificationError
from dtls.engines.openssl.strength import weakness
from dtls.events import HandshakeCompleted, HandshakeFailed

from .pair import Pair

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.certificates import CertificateAuthority

CCM8 = "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-CCM8"


def issued(ca: CertificateAuthority, key: Any) -> x509.Certificate:
    """A certificate for this host with a key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(ca.key, hashes.SHA256())
    )


def pair_of(ca: CertificateAuthority, key: Any, ciphers: str) -> Pair:
    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    client.load_verify_locations(cadata=ca.certificate_pem)
    client.set_ciphers(ciphers)
    server.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256:@SECLEVEL=0")
    server.load_cert_chain(issued(ca, key), key)
    return Pair(client, server)


def test_a_weak_certificate_is_refused_by_a_client_that_names_ccm8(ca: CertificateAuthority) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    pair = pair_of(ca, weak, CCM8)
    pair.run()
    [failed] = [event for event in pair.events["client"] if isinstance(event, HandshakeFailed)]
    assert isinstance(failed.error, SSLCertVerificationError)
    assert "1024 bits" in str(failed.error)
    assert not any(isinstance(event, HandshakeCompleted) for event in pair.events["client"])


def test_a_strong_certificate_is_taken_by_a_client_that_names_ccm8(ca: CertificateAuthority) -> None:
    pair = pair_of(ca, ec.generate_private_key(ec.SECP256R1()), CCM8)
    pair.run()
    assert pair.established


def test_who_says_the_level_gets_it(ca: CertificateAuthority) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    pair = pair_of(ca, weak, f"{CCM8}:@SECLEVEL=0")
    pair.run()
    assert pair.established


def test_short_keys_and_weak_signatures_are_weak_but_not_an_anchor_s_own(ca: CertificateAuthority) -> None:
    good = issued(ca, ec.generate_private_key(ec.SECP256R1())).public_bytes(Encoding.DER)
    root = ca.certificate.public_bytes(Encoding.DER)
    assert weakness([]) is None
    assert weakness([good, root]) is None
    short = issued(ca, ec.generate_private_key(ec.SECP192R1())).public_bytes(Encoding.DER)
    assert "192 bits" in str(weakness([short, root]))
    assert "192 bits" in str(weakness([good, short]))
    assert "cannot be told" in str(weakness([b"no certificate"]))


def test_sha_1_is_weak_wherever_it_decides(ca: CertificateAuthority, tmp_path: Path, openssl: str) -> None:
    made = tmp_path / "old.der"
    command = "req -x509 -sha1 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=old -outform DER"
    keys = ["-keyout", str(tmp_path / "old.key"), "-out", str(made)]
    subprocess.run([openssl, *command.split(), *keys], check=True, capture_output=True, timeout=60)
    old, root = made.read_bytes(), ca.certificate.public_bytes(Encoding.DER)
    assert "SHA1" in str(weakness([old, root]))
    assert "SHA1" in str(weakness([root, old, root]))
    assert "SHA1" in str(weakness([old])), "what is pinned as an anchor and shown itself"
    assert weakness([root, old]) is None, "an anchor is trusted whatever it is signed with"
