"""The certificates for demonstrations and tests are what OpenSSL, the ssl module and RFC 5280 expect."""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dtls.certificates import CertificateAuthority, IssuedCertificate, KeyType

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="session")
def intermediate(ca: CertificateAuthority) -> CertificateAuthority:
    return ca.intermediate()


def openssl_verify(
    openssl: str, directory: Path, root: CertificateAuthority, issued: IssuedCertificate, *options: str
) -> subprocess.CompletedProcess[str]:
    (directory / "root.pem").write_bytes(root.certificate_pem)
    (directory / "chain.pem").write_bytes(issued.chain_pem)
    command = [openssl, "verify", "-x509_strict", *options]
    command += ["-CAfile", "root.pem", "-untrusted", "chain.pem", "chain.pem"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def handshake(directory: Path, root: CertificateAuthority, issued: IssuedCertificate, name: str) -> None:
    """A TLS handshake in memory; raises what the client raises."""
    pem = directory / "server.pem"
    pem.write_bytes(issued.private_key_and_chain_pem)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(pem)
    client_context = ssl.create_default_context(cadata=root.certificate_pem.decode())
    client_in, server_in = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(client_in, server_in, server_hostname=name)
    server = server_context.wrap_bio(server_in, client_in, server_side=True)
    pending = [client, server]
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            pending.remove(side)
        if not pending:
            return
    pytest.fail("the handshake does not end")


def extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    return certificate.extensions.get_extension_for_class(kind)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_authority_accepts_every_name(
    tmp_path: Path, ca: CertificateAuthority, server_certificate: IssuedCertificate, name: str
) -> None:
    handshake(tmp_path, ca, server_certificate, name)


@pytest.mark.parametrize("name", ["example.org", "127.0.0.2"])
def test_a_client_refuses_a_name_the_certificate_is_not_for(
    tmp_path: Path, ca: CertificateAuthority, server_certificate: IssuedCertificate, name: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path, ca, server_certificate, name)


def test_a_client_that_trusts_another_authority_of_the_same_name_refuses(
    tmp_path: Path, server_certificate: IssuedCertificate
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, CertificateAuthority(), server_certificate, "localhost")


def test_a_chain_through_two_intermediates_is_accepted_by_who_trusts_the_root_only(
    tmp_path: Path, ca: CertificateAuthority, intermediate: CertificateAuthority
) -> None:
    lower = intermediate.intermediate("lower CA")
    issued = lower.issue("localhost")
    assert issued.chain == (lower.certificate, intermediate.certificate)
    handshake(tmp_path, ca, issued, "localhost")


def test_an_expired_certificate_is_refused_as_expired(tmp_path: Path, ca: CertificateAuthority) -> None:
    issued = ca.issue("localhost", not_after=NOW - timedelta(days=400))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(tmp_path, ca, issued, "localhost")


def test_a_certificate_of_the_future_is_refused_as_not_yet_valid(
    tmp_path: Path, ca: CertificateAuthority
) -> None:
    issued = ca.issue("localhost", not_before=NOW + timedelta(days=400))
    with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        handshake(tmp_path, ca, issued, "localhost")


def test_given_bounds_of_validity_are_the_certificates(ca: CertificateAuthority) -> None:
    start = datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
    end = start + timedelta(days=7)
    issued = ca.issue("localhost", not_before=start, not_after=end)
    assert issued.certificate.not_valid_before_utc == start
    assert issued.certificate.not_valid_after_utc == end


def test_a_certificate_cannot_expire_before_it_becomes_valid(ca: CertificateAuthority) -> None:
    with pytest.raises(ValueError):
        ca.issue("localhost", not_before=NOW, not_after=NOW - timedelta(days=1))


def test_a_certificate_without_a_name_is_refused(ca: CertificateAuthority) -> None:
    with pytest.raises(ValueError, match="at least one name"):
        ca.issue()


def test_an_unknown_kind_of_key_is_refused(ca: CertificateAuthority) -> None:
    with pytest.raises(ValueError, match="key_type"):
        ca.issue("localhost", key_type="dsa")  # type: ignore[arg-type]


@pytest.mark.parametrize("key_type", ["ec", "rsa"])
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_the_strict_checks_of_openssl_accept_what_is_issued_for_its_purpose_only(
    tmp_path: Path,
    openssl: str,
    ca: CertificateAuthority,
    intermediate: CertificateAuthority,
    key_type: KeyType,
    client: bool,
) -> None:
    issued = intermediate.issue("localhost", key_type=key_type, client=client)
    purposes = ["sslserver", "sslclient"]
    results = [openssl_verify(openssl, tmp_path, ca, issued, "-purpose", purpose) for purpose in purposes]
    assert [result.returncode == 0 for result in results] == [not client, client], results


def test_a_root_with_an_rsa_key_issues_certificates(tmp_path: Path, openssl: str) -> None:
    root = CertificateAuthority("RSA root", key_type="rsa")
    assert isinstance(root.key, rsa.RSAPrivateKey)
    result = openssl_verify(openssl, tmp_path, root, root.issue("localhost"))
    assert result.returncode == 0, result


def test_a_leaf_is_no_authority_and_names_its_issuers_key(
    ca: CertificateAuthority, server_certificate: IssuedCertificate
) -> None:
    leaf = server_certificate.certificate
    basic, usage = extension(leaf, x509.BasicConstraints), extension(leaf, x509.KeyUsage)
    assert basic.critical
    assert not basic.value.ca
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    issuer_key = extension(ca.certificate, x509.SubjectKeyIdentifier).value.digest
    assert extension(leaf, x509.AuthorityKeyIdentifier).value.key_identifier == issuer_key
    leaf.verify_directly_issued_by(ca.certificate)


def test_an_authority_may_sign_certificates_and_nothing_else(intermediate: CertificateAuthority) -> None:
    basic = extension(intermediate.certificate, x509.BasicConstraints)
    usage = extension(intermediate.certificate, x509.KeyUsage)
    assert basic.critical
    assert basic.value.ca
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature


def test_addresses_and_dns_names_are_told_apart(ca: CertificateAuthority) -> None:
    names = ["example.org", "192.0.2.1", "2001:db8::1", "*.example.net"]
    san = extension(ca.issue(*names).certificate, x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.DNSName) == ["example.org", "*.example.net"]
    assert san.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(name) for name in names[1:3]]


def test_the_first_name_is_the_common_name_cut_to_what_rfc_5280_allows(ca: CertificateAuthority) -> None:
    long_name = "a" * 60 + ".example.org"
    for name in ("localhost", long_name):
        subject = ca.issue(name, "other").certificate.subject
        assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == name[:64]


def test_a_client_certificate_is_for_clients_only(ca: CertificateAuthority) -> None:
    usage = extension(ca.issue("alice", client=True).certificate, x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(
    ("key_type", "expected"), [("ec", ec.EllipticCurvePrivateKey), ("rsa", rsa.RSAPrivateKey)]
)
def test_the_key_is_of_the_kind_asked_for_and_fits_the_certificate(
    ca: CertificateAuthority, key_type: KeyType, expected: type[Any]
) -> None:
    issued = ca.issue("localhost", key_type=key_type)
    assert isinstance(issued.key, expected)
    loaded = serialization.load_pem_private_key(issued.key_pem, password=None)
    assert loaded.public_key() == issued.certificate.public_key()
    assert extension(issued.certificate, x509.KeyUsage).value.key_encipherment == (key_type == "rsa")


def test_an_encrypted_key_opens_with_its_password_only(server_certificate: IssuedCertificate) -> None:
    pem = server_certificate.key_pem_encrypted(b"swordfish")
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    loaded = serialization.load_pem_private_key(pem, b"swordfish")
    assert loaded.public_key() == server_certificate.certificate.public_key()
    with pytest.raises(ValueError):
        serialization.load_pem_private_key(pem, b"sardine")
    with pytest.raises(TypeError):
        serialization.load_pem_private_key(pem, None)


def test_the_chain_is_the_leaf_and_then_the_intermediates_without_the_root(
    ca: CertificateAuthority, intermediate: CertificateAuthority
) -> None:
    issued = intermediate.issue("localhost")
    loaded = x509.load_pem_x509_certificates(issued.chain_pem)
    assert loaded == [issued.certificate, intermediate.certificate]
    assert issued.private_key_and_chain_pem == issued.key_pem + issued.chain_pem
    assert x509.load_pem_x509_certificates(issued.certificate_pem) == [issued.certificate]
    assert x509.load_pem_x509_certificate(ca.certificate_pem) == ca.certificate
    assert ca.issue("localhost").chain == ()
