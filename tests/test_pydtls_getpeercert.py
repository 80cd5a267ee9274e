"""``getpeercert()`` beside what the standard library makes of the same certificate, each after a handshake of its own.

PyDTLS had ``notAfter`` as bytes, which is kept. All else is the standard library's.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type as ASN1Type
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from dtls.context import CERT_REQUIRED, PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context
from dtls.x509 import certificate_dict
from tests.loopback import pair
from tests.pydtls import connections

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)
END = dt.datetime(2051, 2, 3, 1, 2, 3, tzinfo=dt.timezone.utc)
"""From 2050 on, certificates have another form of time."""
Attribute = x509.NameAttribute
ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
KEY = ec.generate_private_key(ec.SECP256R1())
ROOT_NAME = x509.Name(
    [
        Attribute(NameOID.COUNTRY_NAME, "DE"),
        Attribute(NameOID.ORGANIZATION_NAME, "Zertifizierung für Prüfungen"),
        Attribute(NameOID.COMMON_NAME, "root"),
    ]
)
SUBJECT = x509.Name(
    [
        x509.RelativeDistinguishedName([Attribute(NameOID.COUNTRY_NAME, "DE")]),
        x509.RelativeDistinguishedName([Attribute(NameOID.LOCALITY_NAME, "München")]),
        x509.RelativeDistinguishedName(
            [
                Attribute(NameOID.COMMON_NAME, "Ünï €", _type=ASN1Type.BMPString),
                Attribute(NameOID.USER_ID, "u1"),
                Attribute(NameOID.SERIAL_NUMBER, "0007"),
            ]
        ),
        x509.RelativeDistinguishedName([Attribute(NameOID.ORGANIZATION_NAME, "東京 🗼")]),
        x509.RelativeDistinguishedName(
            [Attribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "東京", _type=ASN1Type.UniversalString)]
        ),
        x509.RelativeDistinguishedName([Attribute(NameOID.TITLE, "old", _type=ASN1Type.T61String)]),
        x509.RelativeDistinguishedName([Attribute(NameOID.EMAIL_ADDRESS, "a@b.example")]),
        x509.RelativeDistinguishedName([Attribute(NameOID.DOMAIN_COMPONENT, "example")]),
        x509.RelativeDistinguishedName([Attribute(x509.ObjectIdentifier("1.2.3.4"), "odd")]),
    ]
)
ALTERNATIVE_NAMES = x509.SubjectAlternativeName(
    [
        x509.DNSName("a.example"),
        x509.DNSName("*.b.example"),
        x509.DNSName("xn--mnchen-3ya.example"),
        x509.RFC822Name("x@y.example"),
        x509.UniformResourceIdentifier("https://user@u.example:8443/%20?q=1#f"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        x509.IPAddress(ipaddress.ip_address("::ffff:192.0.2.1")),
        x509.DirectoryName(SUBJECT),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4.5")),
    ]
)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


ACCESS = x509.AuthorityInformationAccess(
    [
        x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri("http://ocsp.example/1")),
        x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, uri("http://ca.example/root.crt")),
        x509.AccessDescription(AuthorityInformationAccessOID.OCSP, uri("http://ocsp.example/2")),
        x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, x509.DirectoryName(ROOT_NAME)),
    ]
)
REVOCATION = x509.CRLDistributionPoints(
    [
        x509.DistributionPoint([uri("http://crl.example/1"), uri("ldap://crl.example/2")], None, None, None),
        x509.DistributionPoint([x509.DirectoryName(ROOT_NAME)], None, None, None),
        x509.DistributionPoint([uri("http://crl.example/3")], None, None, None),
    ]
)


def made(
    *extensions: x509.ExtensionType, subject: x509.Name = SUBJECT, serial: int = 1, root: bool = False
) -> x509.Certificate:
    """Signed by the root, or the root itself."""
    builder = x509.CertificateBuilder(
        ROOT_NAME,
        ROOT_NAME if root else subject,
        (ROOT_KEY if root else KEY).public_key(),
        serial,
        BEGIN,
        END,
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=root)
    return builder.sign(ROOT_KEY, hashes.SHA256())


def pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


ROOT = pem_of(made(x509.BasicConstraints(ca=True, path_length=None), root=True))


def der_value(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


def named(*names: bytes) -> x509.Certificate:
    """With alternative names that are encoded already."""
    content = der_value(0x30, b"".join(names))
    return made(x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, content))


def in_latin_1() -> bytes:
    """With a subject as old authorities wrote it: as T61String, and not that in truth."""
    subject = x509.Name([Attribute(NameOID.COMMON_NAME, "M?nchen", _type=ASN1Type.T61String)])
    certificate = made(ALTERNATIVE_NAMES, subject=subject)
    content = certificate.tbs_certificate_bytes.replace(b"M?nchen", b"M\xfcnchen")
    signature = ROOT_KEY.sign(content, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
    whole = content + algorithm + der_value(3, b"\0" + signature)
    der = b"\x30\x82" + len(whole).to_bytes(2, "big") + whole
    return ssl.DER_cert_to_PEM_cert(der).encode()


DNS = der_value(0x82, b"a.example")
CERTIFICATES = {
    "everything": pem_of(made(ALTERNATIVE_NAMES, ACCESS, REVOCATION, serial=0xABCDE)),
    "no extension": pem_of(made()),
    "serial number with its highest bit set": pem_of(made(serial=0x80 << 8)),
    "longest serial number": pem_of(made(serial=2**159 - 1)),
    "empty subject": pem_of(made(ALTERNATIVE_NAMES, subject=x509.Name([]))),
    "NUL in a name": pem_of(named(der_value(0x82, b"a.example\0.b.example"), DNS)),
    "name that is not ASCII": pem_of(named(der_value(0x82, "ü.example".encode()), DNS)),
    "host name that is an address": pem_of(named(der_value(0x82, b"127.0.0.1"), DNS)),
}


def extended(oid: str) -> x509.Certificate:
    """With an extension that cannot be parsed, beside good ones."""
    return made(
        ALTERNATIVE_NAMES, x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x30\x03\x82\x05a")
    )


PEM_END = "-----END CERTIFICATE-----\n"
ODD_CERTIFICATES = {
    "subject in Latin-1": in_latin_1(),
    "address of five bytes": pem_of(named(DNS, der_value(0x87, bytes(5)))),
    "X.400 address": pem_of(named(DNS, der_value(0xA3, b""))),
    "EDI party name": pem_of(named(DNS, der_value(0xA5, der_value(0xA1, der_value(12, b"x"))))),
    "registered ID with a name": pem_of(named(DNS, der_value(0x88, b"\x55\x04\x03"))),
    "no alternative name": pem_of(named()),
    "malformed authority access": pem_of(extended("1.3.6.1.5.5.7.1.1")),
    "malformed policies": pem_of(extended("2.5.29.32")),
}


def identity(pem: bytes) -> bytes:
    """What a server loads."""
    form = serialization.PrivateFormat.PKCS8
    return KEY.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()) + pem


def standard_library_says(pem: bytes, folder: Path) -> dict[str, Any]:
    """What a TLS client learns of a server with this certificate."""
    path = folder / "server.pem"
    path.write_bytes(identity(pem))
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname = False
    client.load_verify_locations(cadata=ROOT.decode())
    server.load_cert_chain(path)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (near, far, near, far):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    described = near.getpeercert()
    assert described
    return dict(described)


def kept(described: dict[str, Any]) -> dict[str, Any]:
    """What PyDTLS says where the standard library says this."""
    return {**described, "notAfter": described["notAfter"].encode()}


@pytest.mark.parametrize("pem", CERTIFICATES.values(), ids=CERTIFICATES)
def test_a_client_of_pydtls_is_told_of_a_server_what_the_standard_library_tells(
    pem: bytes, tmp_path: Path
) -> None:
    expected = kept(standard_library_says(pem, tmp_path))
    with connections(identity(pem), client={"cert_reqs": CERT_REQUIRED, "ca_certs": ROOT}) as (near, _):
        described = near.getpeercert()
        assert described == expected
        assert near.getpeercertchain() == [described]


@pytest.mark.parametrize("pem", ODD_CERTIFICATES.values(), ids=ODD_CERTIFICATES)
def test_what_is_odd_about_a_certificate_hides_nothing_else(pem: bytes, tmp_path: Path) -> None:
    expected = kept(standard_library_says(pem, tmp_path))
    with connections(identity(pem), client={"cert_reqs": CERT_REQUIRED, "ca_certs": ROOT}) as (near, _):
        assert near.getpeercert() == expected


@pytest.mark.parametrize("pem", CERTIFICATES.values(), ids=CERTIFICATES)
def test_a_server_of_pydtls_is_told_the_same_of_a_client(pem: bytes, tmp_path: Path) -> None:
    expected = kept(standard_library_says(pem, tmp_path))
    own = {"keyfile": identity(pem), "certfile": identity(pem)}
    verifying = {"cert_reqs": CERT_REQUIRED, "ca_certs": ROOT}
    with connections(identity(pem), server=verifying, client=own) as (_, far):
        described = far.getpeercert()
        assert described == expected


@pytest.mark.parametrize("pem", CERTIFICATES.values(), ids=CERTIFICATES)
def test_the_modern_interface_tells_all_that_the_standard_library_tells(pem: bytes, tmp_path: Path) -> None:
    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    client.check_hostname = False
    client.load_verify_locations(cadata=ROOT)
    server.load_cert_chain(identity(pem))
    near, far = pair(client, server)
    with near, far:
        assert near.getpeercert() == standard_library_says(pem, tmp_path)


@given(st.data())
def test_whatever_stands_in_a_certificate_it_is_described_or_refused(data: st.DataObject) -> None:
    pem = data.draw(st.sampled_from([*CERTIFICATES.values(), *ODD_CERTIFICATES.values()]))
    der = bytearray(ssl.PEM_cert_to_DER_cert(pem.split(b"-----END CERTIFICATE-----")[0].decode() + PEM_END))
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        described = certificate_dict(bytes(der))
    except ValueError:
        return
    assert {"subject", "issuer", "version", "serialNumber", "notBefore", "notAfter"} <= described.keys()
