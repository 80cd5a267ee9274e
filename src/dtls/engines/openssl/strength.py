"""What OpenSSL's usual security level would not accept of a path of certificates, where that level had to be lowered.

A suite with short tags (AES-CCM-8) is had at level 0 only, which by the way lets in certificates signed with MD5 and
SHA-1, and short keys. Who names such a suite has said nothing about those.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

SHORTEST_DIGEST = 28
"""Bytes: SHA-224's, for 112 bits of security (level 2)."""
SHORTEST_RSA_KEY = 2048
SHORTEST_EC_KEY = 224


def weakness(path: list[bytes]) -> str | None:
    """What is too weak in a path (DER, the peer's own first, an anchor last); ``None`` if nothing is."""
    for position, der in enumerate(path):
        try:
            certificate = x509.load_der_x509_certificate(der)
            key = certificate.public_key()
            digest = certificate.signature_hash_algorithm
        except (ValueError, UnsupportedAlgorithm):
            return "a certificate whose strength cannot be told"
        if isinstance(key, (rsa.RSAPublicKey, dsa.DSAPublicKey)) and key.key_size < SHORTEST_RSA_KEY:
            return f"a certificate with a key of {key.key_size} bits"
        if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < SHORTEST_EC_KEY:
            return f"a certificate with a key of {key.key_size} bits on an elliptic curve"
        is_anchor = position == len(path) - 1 and position > 0
        if digest is not None and digest.digest_size < SHORTEST_DIGEST and not is_anchor:
            return f"a certificate signed with {digest.name.upper()}"
    return None
