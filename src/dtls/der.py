"""Certificates taken apart as far as is needed to show the parts of an odd one to a parser that refuses the whole.

This is tag, length and value, and no more: what the parts mean is for ``cryptography`` to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

SEQUENCE, OBJECT_IDENTIFIER, OCTET_STRING, UTF8_STRING = 0x30, 0x06, 0x04, 0x0C
_EXTENSIONS = 0xA3
_VERSION = 0xA0
_ISSUER_AT, _SUBJECT_AT = 2, 4
"""Behind the version, which may be left out (RFC 5280, 4.1)."""
_ONE_BYTE_STRINGS = frozenset((0x12, 0x13, 0x14, 0x16, 0x1A))
"""NumericString, PrintableString, T61String, IA5String, VisibleString."""
_LONG_FORM = 0x80
_MAX_LENGTH_BYTES = 4
_LONG_TAG = 0x1F


class Element(NamedTuple):
    """A tag and a value."""

    tag: int
    value: bytes


def elements(data: bytes) -> list[Element]:
    """What stands in ``data``, one after another. Raises :exc:`ValueError` if it is not DER."""
    found: list[Element] = []
    offset = 0
    while offset < len(data):
        header = data[offset : offset + 2]
        if len(header) < len(b"tl") or header[0] & _LONG_TAG == _LONG_TAG:
            message = "cut short, or a tag of several bytes"
            raise ValueError(message)
        tag, length = header
        offset += 2
        if length >= _LONG_FORM:
            count = length - _LONG_FORM
            if not 0 < count <= _MAX_LENGTH_BYTES:
                message = "a length of no known form"
                raise ValueError(message)
            length = int.from_bytes(data[offset : offset + count], "big")
            offset += count
        if offset + length > len(data):
            message = "a value is cut short"
            raise ValueError(message)
        found.append(Element(tag, data[offset : offset + length]))
        offset += length
    return found


def encode(tag: int, value: bytes) -> bytes:
    """An element's bytes."""
    length = len(value)
    if length < _LONG_FORM:
        return bytes((tag, length)) + value
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, _LONG_FORM | len(size))) + size + value


def joined(parts: Iterable[Element]) -> bytes:
    """Elements one after another."""
    return b"".join(encode(*part) for part in parts)


def inside(data: bytes) -> list[Element]:
    """What stands in the one element that ``data`` is. Raises :exc:`ValueError`."""
    (only,) = elements(data)
    return elements(only.value)


def extensions(certificate: bytes) -> dict[bytes, Element]:
    """A certificate's extensions by the bytes of their identifiers. Raises :exc:`ValueError`, also for a double one."""
    found: dict[bytes, Element] = {}
    for part in elements(inside(certificate)[0].value):
        if part.tag == _EXTENSIONS:
            for extension in inside(part.value):
                identifier = elements(extension.value)[0].value
                if identifier in found:
                    message = "an extension stands there twice"
                    raise ValueError(message)
                found[identifier] = extension
    return found


def with_extension(certificate: bytes, extension: Element | None) -> bytes:
    """The certificate with no extension but this one. Its signature is that of the original."""
    body, *rest = inside(certificate)
    parts = [part for part in elements(body.value) if part.tag != _EXTENSIONS]
    if extension is not None:
        parts.append(Element(_EXTENSIONS, encode(SEQUENCE, encode(*extension))))
    return encode(SEQUENCE, joined([Element(SEQUENCE, joined(parts)), *rest]))


def with_plain_names(certificate: bytes) -> bytes:
    """The certificate with issuer and subject in UTF-8 where they are in strings of one byte for each character.

    OpenSSL, and so the standard library, takes these for Latin-1, whatever they are called.
    """
    body, *rest = inside(certificate)
    parts = elements(body.value)
    first = 1 if parts[0].tag == _VERSION else 0
    for index in (first + _ISSUER_AT, first + _SUBJECT_AT):
        parts[index] = Element(SEQUENCE, _plain_name(parts[index].value))
    return encode(SEQUENCE, joined([Element(SEQUENCE, joined(parts)), *rest]))


def _plain_name(name: bytes) -> bytes:
    return joined(
        Element(
            rdn.tag, joined(Element(SEQUENCE, _plain_attribute(pair.value)) for pair in elements(rdn.value))
        )
        for rdn in elements(name)
    )


def _plain_attribute(pair: bytes) -> bytes:
    identifier, text = elements(pair)
    if text.tag in _ONE_BYTE_STRINGS:
        text = Element(UTF8_STRING, text.value.decode("latin-1").encode())
    return joined((identifier, text))
