"""Certificates as dictionaries, in the form of ``ssl.SSLSocket.getpeercert``.

Parsing is ``cryptography``'s. What is here is the form alone: names as the standard library has them from OpenSSL,
and the same keys, present and absent in the same cases.
"""

from __future__ import annotations

import ipaddress
import warnings
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from .der import (
    OCTET_STRING,
    SEQUENCE,
    Element,
    elements,
    encode,
    extensions,
    inside,
    joined,
    with_extension,
    with_plain_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONG_NAMES = {
    "0.9.2342.19200300.100.1.1": "userId",
    "0.9.2342.19200300.100.1.25": "domainComponent",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName",
    "1.2.840.113549.1.9.8": "unstructuredAddress",
    "1.2.643.3.131.1.1": "INN",
    "1.2.643.100.1": "OGRN",
    "1.2.643.100.3": "SNILS",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionLocalityName",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionStateOrProvinceName",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionCountryName",
    "2.5.4.3": "commonName",
    "2.5.4.4": "surname",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "countryName",
    "2.5.4.7": "localityName",
    "2.5.4.8": "stateOrProvinceName",
    "2.5.4.9": "streetAddress",
    "2.5.4.10": "organizationName",
    "2.5.4.11": "organizationalUnitName",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.14": "searchGuide",
    "2.5.4.15": "businessCategory",
    "2.5.4.16": "postalAddress",
    "2.5.4.17": "postalCode",
    "2.5.4.18": "postOfficeBox",
    "2.5.4.20": "telephoneNumber",
    "2.5.4.41": "name",
    "2.5.4.42": "givenName",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.45": "x500UniqueIdentifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
}
"""OpenSSL's long names of the attributes that names are made of; others appear as dotted numbers."""

DistinguishedName = tuple[tuple[tuple[str, str], ...], ...]


def certificate_dict(der: bytes) -> dict[str, Any]:
    """What ``getpeercert()`` of the standard library says of the certificate.

    Extensions that cannot be parsed are left out. Raises :exc:`ValueError` if ``der`` is no certificate.
    """
    try:
        return _describe(der)
    except (
        x509.InvalidVersion,
        TypeError,
        KeyError,
    ) as error:  # cryptography's, for certificates that are none
        message = f"not a certificate: {error}"
        raise ValueError(message) from error


def _describe(der: bytes) -> dict[str, Any]:
    with warnings.catch_warnings():
        # What is odd about somebody else's certificate is not the caller's to mend.
        warnings.simplefilter("ignore")
        certificate = x509.load_der_x509_certificate(der)
        named = x509.load_der_x509_certificate(with_plain_names(der))
        described: dict[str, Any] = {
            "subject": _name(named.subject),
            "issuer": _name(named.issuer),
            "version": certificate.version.value + 1,
            "serialNumber": _serial_number(certificate.serial_number),
            "notBefore": _time(certificate.not_valid_before_utc),
            "notAfter": _time(certificate.not_valid_after_utc),
        }
        alternative_names = _alternative_names(der)
        if alternative_names is not None:
            described["subjectAltName"] = alternative_names
        optional = {
            "OCSP": _access(der, AuthorityInformationAccessOID.OCSP),
            "caIssuers": _access(der, AuthorityInformationAccessOID.CA_ISSUERS),
            "crlDistributionPoints": _distribution_points(der),
        }
    described.update({key: value for key, value in optional.items() if value})
    return described


def _name(name: x509.Name) -> DistinguishedName:
    return tuple(tuple(map(_attribute, rdn)) for rdn in name.rdns)


def _attribute(attribute: x509.NameAttribute[Any]) -> tuple[str, str]:
    value = attribute.value
    text = value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")
    dotted = attribute.oid.dotted_string
    return _LONG_NAMES.get(dotted, dotted), text


def _serial_number(number: int) -> str:
    digits = f"{abs(number):X}"
    return ("-" if number < 0 else "") + ("0" if len(digits) % 2 else "") + digits


def _time(when: datetime) -> str:
    return f"{_MONTHS[when.month - 1]} {when.day:2d} {when:%H:%M:%S} {when.year} GMT"


_SUBJECT_ALTERNATIVE_NAME = bytes((0x55, 0x1D, 17))
_AUTHORITY_INFORMATION_ACCESS = bytes((0x2B, 6, 1, 5, 5, 7, 1, 1))
_CRL_DISTRIBUTION_POINTS = bytes((0x55, 0x1D, 31))


def _extension(der: bytes, identifier: bytes) -> Any:
    """The value of an extension, whatever the others are like; ``None`` if there is none or it cannot be parsed."""
    try:
        extension = extensions(der).get(identifier)
        return None if extension is None else _parsed(der, extension)
    except (ValueError, x509.UnsupportedGeneralNameType):
        return None


def _parsed(der: bytes, extension: Element) -> Any:
    """The value of ``extension``, parsed as that of a certificate that has no other."""
    (only,) = x509.load_der_x509_certificate(with_extension(der, extension)).extensions
    return only.value


def _address(name: x509.IPAddress) -> tuple[str, str]:
    address = name.value
    if isinstance(address, ipaddress.IPv6Address):
        # Not the shortest form: OpenSSL writes all eight groups.
        groups = [address.packed[i : i + 2] for i in range(0, 16, 2)]
        return "IP Address", ":".join(f"{int.from_bytes(group, 'big'):X}" for group in groups)
    if isinstance(address, ipaddress.IPv4Address):
        return "IP Address", str(address)
    return "IP Address", "<invalid>"


_FORMS: dict[type[x509.GeneralName], Callable[[Any], tuple[str, Any]]] = {
    x509.DNSName: lambda name: ("DNS", name.value),
    x509.RFC822Name: lambda name: ("email", name.value),
    x509.UniformResourceIdentifier: lambda name: ("URI", name.value),
    x509.DirectoryName: lambda name: ("DirName", _name(name.value)),
    x509.RegisteredID: lambda name: (
        "Registered ID",
        _LONG_NAMES.get(name.value.dotted_string, name.value.dotted_string),
    ),
    x509.OtherName: lambda _: ("othername", "<unsupported>"),
    x509.IPAddress: _address,
}


_NOT_TOLD = {
    0xA0: ("othername", "<unsupported>"),
    0xA3: ("X400Name", "<unsupported>"),
    0xA5: ("EdiPartyName", "<unsupported>"),
    0x87: ("IP Address", "<invalid>"),
}
"""What is said, by their tags (RFC 5280, 4.2.1.6), of names that ``cryptography`` does not parse."""


def _alternative_names(der: bytes) -> tuple[tuple[str, Any], ...] | None:
    """The subject's alternative names, one by one; ``None`` without a list, or if it is not well formed."""
    try:
        extension = extensions(der).get(_SUBJECT_ALTERNATIVE_NAME)
        if extension is None:
            return None
        *head, value = elements(extension.value)
        return tuple(_alternative_name(der, head, name) for name in inside(value.value))
    except ValueError:
        return None


def _alternative_name(der: bytes, head: list[Element], name: Element) -> tuple[str, Any]:
    alone = encode(OCTET_STRING, encode(SEQUENCE, encode(*name)))
    try:
        (parsed,) = _parsed(der, Element(SEQUENCE, joined(head) + alone))
    except (ValueError, x509.UnsupportedGeneralNameType):
        if name.tag in _NOT_TOLD:
            return _NOT_TOLD[name.tag]
        raise ValueError from None
    return _FORMS[type(parsed)](parsed)


def _access(der: bytes, method: x509.ObjectIdentifier) -> tuple[str, ...]:
    descriptions = _extension(der, _AUTHORITY_INFORMATION_ACCESS) or ()
    return _locations(entry.access_location for entry in descriptions if entry.access_method == method)


def _distribution_points(der: bytes) -> tuple[str, ...]:
    points = _extension(der, _CRL_DISTRIBUTION_POINTS) or ()
    return _locations(name for point in points for name in point.full_name or ())


def _locations(names: Iterable[x509.GeneralName]) -> tuple[str, ...]:
    return tuple(name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))
