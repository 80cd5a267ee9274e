"""Stateless cookies: how a server learns that a peer can be reached at its address before it keeps any state.

RFC 6347, 4.2.1. A cookie is a salt and an HMAC-SHA-256 over the time slot, the salt, the peer's address, the client
random and what the ClientHello offers, written so that no two different inputs give the same bytes. The secret rotates;
the slot before the present one, under the secret that was in force then, still counts.

The session id is left out on purpose: Mbed TLS makes a new one for its second ClientHello when it resumes with a
ticket, and would loop for ever. So are the extensions: clients may pad or reorder them, and the handshake's Finished
covers them anyway.
"""

from __future__ import annotations

import hmac
import math
import os
import struct
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from .wire import RANDOM_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .wire import ClientHello

SALT_LENGTH = 8
MAC_LENGTH = 24
COOKIE_LENGTH = SALT_LENGTH + MAC_LENGTH
"""32 bytes: DTLS 1.0 allows no longer cookie."""
SECRET_LENGTH = 32


_HEAD = struct.Struct(f"!q{SALT_LENGTH}s{RANDOM_LENGTH}sHIII")
"""What has a fixed length, and the lengths of what follows: no two different inputs give the same bytes."""


class CookieFactory:
    """Makes and verifies cookies.

    :param slot: seconds of a time slot, greater than 0. A cookie counts for one to two slots.
    :param secret_lifetime: seconds after which a new secret is drawn, at least ``slot``.
    :param random_bytes: where secrets and salts come from.
    :raises ValueError: for a slot or lifetime out of range.
    """

    def __init__(
        self,
        *,
        slot: float = 60.0,
        secret_lifetime: float = 3600.0,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not 0 < slot < math.inf:
            msg = f"slot must be greater than 0 seconds and finite, not {slot!r}"
            raise ValueError(msg)
        if not slot <= secret_lifetime < math.inf:
            msg = f"secret_lifetime must be at least one slot ({slot!r} seconds), not {secret_lifetime!r}"
            raise ValueError(msg)
        self._slot_seconds = slot
        self._slots_per_secret = int(secret_lifetime // slot)
        self._random_bytes = random_bytes
        # HMACs with the key already in them: copied, they cost a fraction of new ones.
        self._key = self._new_key()
        self._key_since: int | None = None
        self._previous_key = self._key

    def generate(self, address: Hashable, hello: ClientHello, now: float) -> bytes:
        """A cookie of 32 bytes for the peer at ``address``; ``now`` is in seconds of a monotonic clock."""
        salt = self._random_bytes(SALT_LENGTH)
        slot = self._enter_slot(now)
        return salt + self._mac(self._key, slot, salt, address, hello)

    def verify(self, address: Hashable, hello: ClientHello, now: float) -> bool:
        """Whether ``hello.cookie`` was made here for this address and this hello, one to two slots ago at most."""
        cookie = hello.cookie
        if len(cookie) != COOKIE_LENGTH:
            return False
        slot = self._enter_slot(now)
        salt, mac = cookie[:SALT_LENGTH], cookie[SALT_LENGTH:]
        return any(
            hmac.compare_digest(self._mac(self._key_of(candidate), candidate, salt, address, hello), mac)
            for candidate in (slot, slot - 1)
        )

    def _enter_slot(self, now: float) -> int:
        slot = int(now // self._slot_seconds)
        if self._key_since is None:
            self._key_since = slot
        elif slot - self._key_since >= self._slots_per_secret:
            self._previous_key = self._key
            self._key = self._new_key()
            self._key_since = slot
        return slot

    def _new_key(self) -> HMAC:
        return HMAC(self._random_bytes(SECRET_LENGTH), SHA256())

    def _key_of(self, slot: int) -> HMAC:
        since = self._key_since
        return self._key if since is None or slot >= since else self._previous_key

    @staticmethod
    def _mac(key: HMAC, slot: int, salt: bytes, address: Hashable, hello: ClientHello) -> bytes:
        # repr() of a socket address is unambiguous: a tuple of strings and integers.
        place = repr(address).encode("utf-8", "backslashreplace")
        lengths = (len(place), len(hello.cipher_suites), len(hello.compression_methods))
        head = _HEAD.pack(slot, salt, hello.random, hello.version, *lengths)
        mac = key.copy()
        mac.update(head + place + hello.cipher_suites + hello.compression_methods)
        return mac.finalize()[:MAC_LENGTH]
