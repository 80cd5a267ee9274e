"""The standard library's own decoder says what a certificate's dictionary must be."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from dtls.x509 import certificate_dict

if TYPE_CHECKING:
    from pathlib import Path

KEY = ec.generate_private_key(ec.SECP256R1())
SUBJECT = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
        x509.NameAttribute(NameOID.COMMON_NAME, "Ünï"),
        x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@b.c"),
        x509.NameAttribute(x509.ObjectIdentifier("1.2.3.4"), "odd"),
    ]
)
ALTERNATIVE_NAMES = x509.SubjectAlternativeName(
    [
        x509.DNSName("a.example"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        x509.RFC822Name("x@y.example"),
        x509.UniformResourceIdentifier("http://u.example/"),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "d")])),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4.5")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3.4.6"), b"\x0c\x01a"),
    ]
)
AUTHORITY_ACCESS = x509.AuthorityInformationAccess(
    [
        x509.AccessDescription(method, x509.UniformResourceIdentifier(f"http://{host}.example/"))
        for method, host in (
            (AuthorityInformationAccessOID.OCSP, "ocsp"),
            (AuthorityInformationAccessOID.CA_ISSUERS, "ca"),
        )
    ]
)
DISTRIBUTION_POINTS = x509.CRLDistributionPoints(
    [
        x509.DistributionPoint(
            [x509.UniformResourceIdentifier(f"http://crl.example/{number}") for number in (1, 2)],
            None,
            None,
            None,
        )
    ]
)
SEVERAL_VALUES = x509.Name(
    [
        x509.RelativeDistinguishedName(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, "m"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o"),
                x509.NameAttribute(NameOID.USER_ID, "u"),
            ]
        ),
        x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "dc")]),
    ]
)


def make(*extensions: x509.ExtensionType, subject: x509.Name = SUBJECT, serial: int = 1) -> x509.Certificate:
    begin = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)
    end = dt.datetime(2036, 11, 20, tzinfo=dt.timezone.utc)
    builder = x509.CertificateBuilder(subject, subject, KEY.public_key(), serial, begin, end)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256())


def standard_library_says(certificate: x509.Certificate, folder: Path) -> dict[str, Any]:
    decode = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)
    if decode is None:
        pytest.skip("this Python's ssl module does not give its decoder away")
    path = folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    described: dict[str, Any] = decode(str(path))
    return described


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(make(), id="no extensions"),
        pytest.param(make(serial=0xABC), id="serial number of odd length"),
        pytest.param(make(serial=2**159 - 1), id="longest serial number"),
        pytest.param(make(ALTERNATIVE_NAMES), id="every kind of alternative name"),
        pytest.param(make(x509.SubjectAlternativeName([x509.DNSName("")])), id="empty alternative name"),
        pytest.param(make(AUTHORITY_ACCESS), id="authority access"),
        pytest.param(make(DISTRIBUTION_POINTS), id="distribution points"),
        pytest.param(make(ALTERNATIVE_NAMES, AUTHORITY_ACCESS, DISTRIBUTION_POINTS), id="all extensions"),
        pytest.param(make(subject=SEVERAL_VALUES), id="several values in a relative name"),
        pytest.param(make(subject=x509.Name([])), id="empty subject"),
    ],
)
def test_a_certificate_is_described_as_the_standard_library_does(
    certificate: x509.Certificate, tmp_path: Path
) -> None:
    expected = standard_library_says(certificate, tmp_path)
    described = certificate_dict(certificate.public_bytes(Encoding.DER))
    assert described == expected
    assert list(described) == list(expected)


@pytest.mark.parametrize(
    "oid", sorted({oid for oid in vars(NameOID).values() if isinstance(oid, x509.ObjectIdentifier)}, key=str)
)
def test_every_attribute_that_cryptography_names_has_the_standard_librarys_name(
    oid: x509.ObjectIdentifier, tmp_path: Path
) -> None:
    certificate = make(subject=x509.Name([x509.NameAttribute(oid, "DE")]))
    expected = standard_library_says(certificate, tmp_path)
    assert certificate_dict(certificate.public_bytes(Encoding.DER)) == expected


def test_an_extension_that_cannot_be_parsed_is_left_out() -> None:
    garbled = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x82\x05a")
    described = certificate_dict(make(garbled).public_bytes(Encoding.DER))
    assert "subjectAltName" not in described
    assert described["serialNumber"] == "01"


def test_what_is_no_certificate_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        certificate_dict(b"\x30\x03\x02\x01\x01")
