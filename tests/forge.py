"""Datagrams that no good peer sends: what strangers forge, and what takes the keys to make."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dtls.engines.openssl import binding
from dtls.wire import (
    DTLS_1_0,
    DTLS_1_2,
    MAX_RECORD_SEQUENCE,
    RECORD_HEADER_LENGTH,
    AlertDescription,
    ContentType,
    HandshakeType,
    build_handshake,
    build_hello_verify_request,
    build_record,
)

if TYPE_CHECKING:
    from dtls.connection import Connection

MESSAGE_SEQUENCES = (*range(12), 0xFFFF)
WHOLE_DATAGRAM = 1350


def record(
    content_type: int, content: bytes, *, epoch: int = 0, sequence: int = 0, version: int = DTLS_1_2
) -> bytes:
    return build_record(content_type, version, epoch, sequence, content)


def handshake(kind: int, sequence: int, body: bytes, offset: int, length: int) -> bytes:
    return record(ContentType.HANDSHAKE, build_handshake(kind, sequence, body, offset=offset, length=length))


def _header(kind: int, total: int, sequence: int, offset: int, length: int) -> bytes:
    return (
        bytes([kind])
        + total.to_bytes(3, "big")
        + sequence.to_bytes(2, "big")
        + offset.to_bytes(3, "big")
        + length.to_bytes(3, "big")
    )


def forgeries() -> dict[str, list[bytes]]:
    """What a stranger can send at any time, by kind. None of it is a whole, well-formed handshake message."""
    kinds = [int(kind) for kind in HandshakeType]
    garbage = bytes(range(256)) * 6
    lies = {
        "fragments past their total": [
            record(ContentType.HANDSHAKE, _header(kind, 10, sequence, offset, 5) + bytes(5))
            for kind in kinds
            for sequence in MESSAGE_SEQUENCES
            for offset in (6, 2**24 - 5)
        ],
        "fragments of nothing": [
            handshake(kind, sequence, b"", 0, total)
            for kind in kinds
            for sequence in MESSAGE_SEQUENCES
            for total in (0, 1, 90)
            if total or kind != HandshakeType.SERVER_HELLO_DONE
        ],
        "fragments of messages over every limit": [
            handshake(kind, sequence, b"x", offset, 2**24 - 1)
            for kind in kinds
            for sequence in MESSAGE_SEQUENCES
            for offset in (0, 2**24 - 2)
        ],
        "many fragments of sixteen megabytes": [
            handshake(kind, sequence, b"x", 1000 * number, 2**24 - 1)
            for kind in (HandshakeType.CERTIFICATE, HandshakeType.CLIENT_KEY_EXCHANGE)
            for sequence in range(4)
            for number in range(20)
        ],
        "fragments with a lying total": [
            handshake(kind, sequence, b"x", 0, total)
            for kind in kinds
            for sequence in MESSAGE_SEQUENCES
            for total in (23, 301, 1777, 4001, 15_001, 100_001)
        ],
        "fragments cut short": [
            record(ContentType.HANDSHAKE, _header(kind, 100, sequence, 0, 100) + bytes(size))
            for kind in kinds
            for sequence in (0, 1, 2)
            for size in (0, 1, 99)
        ]
        + [record(ContentType.HANDSHAKE, bytes(size)) for size in range(12)],
    }
    return lies | {
        "alerts": [
            record(ContentType.ALERT, bytes([level, description]), version=version)
            for level in (1, 2)
            for description in (*AlertDescription, 41, 60, 255)
            for version in (DTLS_1_0, DTLS_1_2)
        ],
        "malformed alerts": [
            record(ContentType.ALERT, content)
            for content in (b"", b"\x02", b"\x02\x28\x00", b"\x00\x00", b"\xff\x28", b"\x02\x28" * 9)
        ],
        "application data": [
            record(ContentType.APPLICATION_DATA, bytes(size), sequence=sequence)
            for size in (0, 1, 2, 24, 100, 1300)
            for sequence in (0, 3, MAX_RECORD_SEQUENCE)
        ],
        "short records": [record(ContentType.HANDSHAKE, garbage[:40])[:size] for size in range(53)],
        "wild record numbers": [
            record(kind, content, sequence=sequence)
            for kind in range(20, 25)
            for content in (b"", b"\x01", b"\x02\x28", garbage[:60])
            for sequence in (2**32, 2**48 - 2, MAX_RECORD_SEQUENCE)
        ],
        "garbage of epoch 1": [
            record(kind, garbage[:size], epoch=1, sequence=sequence)
            for kind in range(19, 26)
            for size in range(65)
            for sequence in (0, 1)
        ],
        "long garbage of epoch 1": [
            record(
                kind, garbage[: WHOLE_DATAGRAM - RECORD_HEADER_LENGTH], epoch=1, sequence=MAX_RECORD_SEQUENCE
            )
            for kind in range(20, 24)
        ]
        * 5,
        "later epochs": [
            record(kind, garbage[:size], epoch=epoch, sequence=1)
            for kind in range(20, 24)
            for size in (0, 1, 2, 40, 100)
            for epoch in (2, 3, 255, 256, 65_535)
        ],
        "wrong ChangeCipherSpecs": [
            record(ContentType.CHANGE_CIPHER_SPEC, content)
            for content in (b"", b"\x00", b"\x02", b"\x01\x01")
        ],
        "early ChangeCipherSpecs": [
            record(ContentType.CHANGE_CIPHER_SPEC, b"\x01", version=version, sequence=sequence)
            for version in (DTLS_1_0, DTLS_1_2)
            for sequence in (0, 9, MAX_RECORD_SEQUENCE)
        ],
        "ends of handshakes": [
            record(ContentType.CHANGE_CIPHER_SPEC, b"\x01", version=version, sequence=sequence)
            + record(ContentType.HANDSHAKE, garbage[:size], epoch=1, sequence=number, version=version)
            for version in (DTLS_1_0, DTLS_1_2)
            for sequence in range(12)
            for size in (0, 8, 39, 40, 48, 256, 257)
            for number in (0, 1)
        ],
        "unknown content types": [
            record(kind, content)
            for kind in (*range(20), *range(24, 256))
            for content in (b"", b"\x01", garbage)
        ],
        "unknown versions": [
            record(kind, content, version=version)
            for kind in range(20, 24)
            for content in (b"\x01", b"\x02\x28", garbage[:100])
            for version in (0x0303, 0xFEFC, 0xFE00, 0xFEFE, 0x0100, 0, 0xFFFF)
        ],
        "hellos out of place": [
            record(ContentType.HANDSHAKE, build_handshake(HandshakeType.HELLO_REQUEST, sequence, b""))
            for sequence in MESSAGE_SEQUENCES
        ],
        "empty datagrams": [b""],
        "garbage": [
            garbage[start : start + size] for start in (0, 20, 100) for size in (1, 13, 14, 100, 1300)
        ],
    }


def forgeries_for(receiver: str) -> dict[str, list[bytes]]:
    """What may be sent to one end: the above, and whole messages that only the other role accepts."""
    out_of_place = (
        [
            record(ContentType.HANDSHAKE, build_handshake(HandshakeType.CLIENT_HELLO, sequence, bytes(60)))
            for sequence in MESSAGE_SEQUENCES
        ]
        if receiver == "client"
        else [build_hello_verify_request(b"cookie", 0)]
    )
    every = forgeries()
    every["hellos out of place"] += out_of_place
    return every


class Insider:
    """Makes records under the keys of one end of an association, for a suite with AES-GCM (RFC 5288)."""

    def __init__(self, connection: Connection, sequence: int = 1000) -> None:
        lib, ffi = binding.lib, binding.ffi
        ssl: Any = connection._ssl  # type: ignore[attr-defined]
        session = lib.SSL_get_session(ssl)

        def read(function: Any, handle: Any, size: int) -> bytes:
            out = ffi.new("unsigned char[]", size)
            return bytes(ffi.buffer(out, function(handle, out, size)))

        master = read(lib.SSL_SESSION_get_master_key, session, 48)
        seed = read(lib.SSL_get_server_random, ssl, 32) + read(lib.SSL_get_client_random, ssl, 32)
        cipher = connection.cipher()
        assert cipher is not None
        digest = "sha384" if "SHA384" in cipher[0] else "sha256"
        key_length = 32 if "AES256" in cipher[0] else 16
        block = _prf(digest, master, b"key expansion" + seed, 2 * key_length + 8)
        mine = int(connection.server_side)
        self._aead = AESGCM(block[mine * key_length :][:key_length])
        self._salt = block[2 * key_length + 4 * mine :][:4]
        self.sequence = sequence

    def protect(self, content_type: int, content: bytes, *, version: int = DTLS_1_2) -> bytes:
        """A datagram of one record that the peer takes for authentic."""
        number = (1 << 48 | self.sequence).to_bytes(8, "big")
        additional = (
            number + bytes([content_type]) + version.to_bytes(2, "big") + len(content).to_bytes(2, "big")
        )
        sealed = number + self._aead.encrypt(self._salt + number, content, additional)
        self.sequence += 1
        return build_record(content_type, version, 1, self.sequence - 1, sealed)


def _prf(digest: str, secret: bytes, seed: bytes, length: int) -> bytes:
    """RFC 5246, 5."""
    out, a = b"", seed
    while len(out) < length:
        a = hmac.new(secret, a, digest).digest()
        out += hmac.new(secret, a + seed, digest).digest()
    return out[:length]
