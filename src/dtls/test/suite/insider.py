"""What a peer can send that has the keys and uses them for mischief."""

from __future__ import annotations

import hmac
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dtls.engines.openssl import binding
from dtls.wire import DTLS_1_2, build_record

_FIRST = 1000
"""The number of its first record: beyond those of the end whose keys it has."""


class Insider:
    """Sends records under the keys of one end of an association that uses AES-128-GCM with SHA-256 (RFC 5288).

    That end can receive messages all the while; its own messages will be taken for old ones.
    """

    def __init__(self, sock: Any) -> None:
        connection = sock._connection._driver.connection  # noqa: SLF001 - keys are nobody's business
        if connection.cipher()[0] != "ECDHE-RSA-AES128-GCM-SHA256":
            message = "the insider is made for one cipher suite"
            raise ValueError(message)
        lib, ffi, handle = binding.lib, binding.ffi, connection._ssl  # noqa: SLF001 - as above

        def read(function: Any, source: Any, size: int) -> bytes:
            out = ffi.new("unsigned char[]", size)
            return bytes(ffi.buffer(out, function(source, out, size)))

        master = read(lib.SSL_SESSION_get_master_key, lib.SSL_get_session(handle), 48)
        seed = read(lib.SSL_get_server_random, handle, 32) + read(lib.SSL_get_client_random, handle, 32)
        block = _prf(master, b"key expansion" + seed, 2 * (16 + 4))
        mine = int(connection.server_side)
        self._aead = AESGCM(block[16 * mine :][:16])
        self._salt = block[32 + 4 * mine :][:4]
        self._number = _FIRST
        self._driver = sock._connection._driver  # noqa: SLF001 - as above

    def send(self, content_type: int, content: bytes) -> None:
        """Send a record that the peer must take for authentic."""
        number = (1 << 48 | self._number).to_bytes(8, "big")
        additional = (
            number + bytes([content_type]) + DTLS_1_2.to_bytes(2, "big") + len(content).to_bytes(2, "big")
        )
        sealed = number + self._aead.encrypt(self._salt + number, content, additional)
        self._driver.sock.send(build_record(content_type, DTLS_1_2, 1, self._number, sealed))
        self._number += 1


def _prf(secret: bytes, seed: bytes, length: int) -> bytes:
    """RFC 5246, 5."""
    out, a = b"", seed
    while len(out) < length:
        a = hmac.new(secret, a, "sha256").digest()
        out += hmac.new(secret, a + seed, "sha256").digest()
    return out[:length]
