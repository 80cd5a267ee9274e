"""Which cipher suites a context means, in OpenSSL's notation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtls.settings.negotiation import cipher_words

if TYPE_CHECKING:
    from dtls.context import Context

    from .binding_suites import Suite

PSK_CIPHERS = "kECDHEPSK+CHACHA20:kPSK+AESGCM:kPSK+CHACHA20:kPSK+AESCCM:!AESCCM8"
"""AEAD; with forward secrecy first, which OpenSSL has with ChaCha20-Poly1305 alone."""
STRONG_SIGNATURES = ":".join(
    [f"{kind}+SHA{bits}" for kind in ("ECDSA", "RSA-PSS", "RSA") for bits in (256, 384, 512)]
    + ["ed25519", "ed448"]
)
"""What security level 0 would not insist on."""


def cipher_list(context: Context) -> str:
    """The suites for ``context``, as ``SSL_CTX_set_cipher_list`` takes them."""
    chosen = context.cipher_string
    if not context.chose_ciphers and context.uses_psk:
        if not context.server_side:
            return PSK_CIPHERS
        return f"{PSK_CIPHERS}:{chosen.replace(':!PSK', '')}"
    if lowers_level(context):
        chosen += ":!aNULL:!eNULL:@SECLEVEL=0"
    if context.psk_client is not None and not context.verify_mode.wants_certificate:
        # Else whoever has a certificate, which nobody looks at, could stand in for whoever has the key.
        chosen += ":!aRSA:!aECDSA:!aDSS:!aNULL"
    return chosen


def lowers_level(context: Context) -> bool:
    """Whether the security level must be 0 because a suite with short tags was named."""
    return "@SECLEVEL" not in context.cipher_string and bool(named_ccm8(context.cipher_string))


def named_ccm8(ciphers: str) -> list[str]:
    """The words of a list that ask for tags of 8 bytes."""
    return [word for word in cipher_words(ciphers) if "CCM8" in word and not word.startswith(("!", "-", "+"))]


def missing_suites(ciphers: str, names: list[str]) -> list[str]:
    """The suites with tags of 8 bytes that were asked for by their whole name and are not among ``names``.

    OpenSSL passes over what it does not offer, and the peer would say nothing but that there is no common suite.
    """
    return [word for word in named_ccm8(ciphers) if word.endswith("-CCM8") and word not in names]


def described(suite: Suite) -> dict[str, Any]:
    """A suite in the form of ``ssl.SSLContext.get_ciphers``: what is not bound is read off its name."""
    exchange, authentication = _exchange_and_authentication(suite.name)
    aead = any(word in suite.name for word in ("GCM", "CCM", "POLY1305"))
    return {
        "id": 0x0300_0000 | suite.number,
        "name": suite.name,
        "protocol": suite.protocol,
        "strength_bits": suite.strength_bits,
        "alg_bits": suite.algorithm_bits,
        "aead": aead,
        "symmetric": _symmetric(suite),
        "digest": None if aead else _digest(suite.name),
        "kea": f"kx-{exchange}",
        "auth": f"auth-{authentication}",
    }


def _exchange_and_authentication(name: str) -> tuple[str, str]:
    for prefix, exchange, authentication in _BEGINNINGS:
        if name.startswith(prefix):
            return exchange, authentication
    return "rsa", "rsa"


_BEGINNINGS = (
    ("ECDHE-PSK-", "ecdhe-psk", "psk"),
    ("DHE-PSK-", "dhe-psk", "psk"),
    ("RSA-PSK-", "rsa-psk", "rsa"),
    ("PSK-", "psk", "psk"),
    ("ECDHE-ECDSA-", "ecdhe", "ecdsa"),
    ("ECDHE-RSA-", "ecdhe", "rsa"),
    ("AECDH-", "ecdhe", "null"),
    ("DHE-RSA-", "dhe", "rsa"),
    ("DHE-DSS-", "dhe", "dss"),
    ("ADH-", "dhe", "null"),
    ("SRP-RSA-", "srp", "rsa"),
    ("SRP-", "srp", "srp"),
)


def _symmetric(suite: Suite) -> str | None:
    name, bits = suite.name, suite.algorithm_bits
    if "CHACHA20" in name:
        return "chacha20-poly1305"
    for word in ("AES", "CAMELLIA", "ARIA"):
        if word in name:
            mode = next((mode for mode in ("GCM", "CCM8", "CCM") if mode in name), "CBC").lower()
            return f"{word.lower()}-{bits}-{mode}"
    return None


def _digest(name: str) -> str | None:
    return {"SHA": "sha1", "SHA256": "sha256", "SHA384": "sha384", "MD5": "md5"}.get(name.rpartition("-")[2])
