"""Stateless cookies: how a server learns that a peer can be reached at its address before it keeps any state.

RFC 6347, 4.2.1. A cookie is a salt and an HMAC-SHA-256 over the time slot, the salt, the peer's address, the client
random and what the ClientHello offers, written so that no two different inputs give the same bytes. The secret rotates;
the slot before the present one, under the secret that was in force then, still counts. Secrets change at fixed numbers
of slots, not some time after the first cookie, so that processes that share a master secret change them together.

The session id is left out on purpose: Mbed TLS makes a new one for its second ClientHello when it resumes with a
ticket, and would loop for ever. So are the extensions: clients may pad or reorder them, and the handshake's Finished
covers them anyway.
"""

from __future__ import annotations

import math
import os
import struct
from hmac import compare_digest
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
KEPT_SECRETS = 2
"""The present one, and the one before it for cookies of the slot before."""

_PERIOD = struct.Struct("!18sq")
_HEAD = struct.Struct(f"!q{SALT_LENGTH}s{RANDOM_LENGTH}sHIII")
"""What has a fixed length, and the lengths of what follows: no two different inputs give the same bytes."""


class CookieFactory:
    """Makes and verifies cookies.

    Servers share them through one factory. Those in several processes, which receive on one port, each have a factory
    with the same ``secret``, ``slot`` and ``secret_lifetime``; and their clock must be the same: ``time.monotonic()``
    is for all processes of a Linux machine, and is not for those of two machines.

    :param slot: seconds of a time slot, greater than 0. A cookie counts for one to two slots.
    :param secret_lifetime: seconds after which a new secret is taken, at least ``slot``.
    :param secret: at least 32 random bytes to share, from which the secrets of all times are derived. By default
        each is drawn when its time has come, so that nobody who reads one learns a later one.
    :param random_bytes: where secrets and salts come from.
    :raises ValueError: for a slot or lifetime out of range, or a shorter secret.
    """

    def __init__(
        self,
        *,
        slot: float = 60.0,
        secret_lifetime: float = 3600.0,
        secret: bytes | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not 0 < slot < math.inf:
            msg = f"slot must be greater than 0 seconds and finite, not {slot!r}"
            raise ValueError(msg)
        if not slot <= secret_lifetime < math.inf:
            msg = f"secret_lifetime must be at least one slot ({slot!r} seconds), not {secret_lifetime!r}"
            raise ValueError(msg)
        if secret is not None and len(secret) < SECRET_LENGTH:
            msg = f"secret must have at least {SECRET_LENGTH} bytes, not {len(secret)}"
            raise ValueError(msg)
        self._slot_seconds = slot
        self._slots_per_secret = int(secret_lifetime // slot)
        self._random_bytes = random_bytes
        self._master = None if secret is None else HMAC(secret, SHA256())
        # By the number of the period. HMACs with the key already in them: copied, they cost a fraction of new ones.
        self._keys: dict[int, HMAC] = {}

    def generate(self, address: Hashable, hello: ClientHello, now: float) -> bytes:
        """A cookie of 32 bytes for the peer at ``address``; ``now`` is in seconds of a monotonic clock."""
        slot = int(now // self._slot_seconds)
        salt = self._random_bytes(SALT_LENGTH)
        return salt + self._mac(slot, salt, address, hello)

    def verify(self, address: Hashable, hello: ClientHello, now: float) -> bool:
        """Whether ``hello.cookie`` was made here for this address and this hello, one to two slots ago at most."""
        cookie = hello.cookie
        if len(cookie) != COOKIE_LENGTH:
            return False
        slot = int(now // self._slot_seconds)
        salt, mac = cookie[:SALT_LENGTH], cookie[SALT_LENGTH:]
        return compare_digest(self._mac(slot, salt, address, hello), mac) or compare_digest(
            self._mac(slot - 1, salt, address, hello), mac
        )

    def _mac(self, slot: int, salt: bytes, address: Hashable, hello: ClientHello) -> bytes:
        period = slot // self._slots_per_secret
        key = self._keys.get(period)
        mac = (self._new_key(period) if key is None else key).copy()
        version, random, _, _, cipher_suites, compression_methods, _ = hello
        # repr() of a socket address is unambiguous: a tuple of strings and integers.
        place = repr(address).encode("utf-8", "backslashreplace")
        head = _HEAD.pack(
            slot, salt, random, version, len(place), len(cipher_suites), len(compression_methods)
        )
        mac.update(head + place + cipher_suites + compression_methods)
        return mac.finalize()[:MAC_LENGTH]

    def _new_key(self, period: int) -> HMAC:
        # Servers in several threads may share the factory: the first secret drawn counts.
        key = self._keys.setdefault(period, HMAC(self._secret_of(period), SHA256()))
        if len(self._keys) > KEPT_SECRETS:
            self._keys.pop(min(self._keys), None)
        return key

    def _secret_of(self, period: int) -> bytes:
        if self._master is None:
            return self._random_bytes(SECRET_LENGTH)
        derivation = self._master.copy()
        derivation.update(_PERIOD.pack(b"dtls cookie secret", period))
        return derivation.finalize()
