"""What OpenSSL knows of cipher suites: more of what ``binding.py`` binds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .binding import c_text, ffi, lib, need

if TYPE_CHECKING:
    from .binding import Handle

need("SSL_CIPHER_find SSL_CIPHER_get_bits SSL_CIPHER_get_name SSL_CIPHER_get_version")


class Suite(NamedTuple):
    """A cipher suite as OpenSSL describes it."""

    number: int
    name: str
    protocol: str
    strength_bits: int
    algorithm_bits: int


def suites(ssl: Handle) -> dict[str, Suite]:
    """All suites that OpenSSL knows, by name. It is asked for the numbers one by one: no other way is bound."""
    found: dict[str, Suite] = {}
    bits = ffi.new("int *")
    for high in (0x00, 0xC0, 0xCC):
        for low in range(256):
            cipher = lib.SSL_CIPHER_find(ssl, bytes((high, low)))
            if cipher != ffi.NULL:
                name = c_text(lib.SSL_CIPHER_get_name(cipher))
                strength = int(lib.SSL_CIPHER_get_bits(cipher, bits))
                protocol = c_text(lib.SSL_CIPHER_get_version(cipher))
                found[name] = Suite(high << 8 | low, name, protocol, strength, int(bits[0]))
    return found
