"""Trust without authorities: pinned certificates, and what the application says of a certificate."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from .constants import CERT_REQUIRED, VerifyMode
from .trust import TrustSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .constants import Protocol

    TrustCallback = Callable[[bytes], bool]

_SDP = re.compile(r"sha-256\s+", re.IGNORECASE)
_DIGEST_LENGTH = 32


class PinSettings(TrustSettings):
    """What counts in place of path validation."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._pins: frozenset[bytes] | None = None
        self._trust_callback: TrustCallback | None = None
        self._before: tuple[VerifyMode, bool] | None = None

    def set_pinned_fingerprints(self, fingerprints: str | bytes | Iterable[str | bytes] | None) -> None:
        """The peer's certificate must be one of these, and nothing else about it counts; ``None`` ends that.

        Neither issuer nor validity nor name are looked at (the name is, if ``check_hostname`` is set to true
        afterwards). It makes ``verify_mode`` ``CERT_REQUIRED`` and ``check_hostname`` false; ending it makes them what
        they were. A peer with another certificate or none (with a pre-shared key, say) is refused with
        :class:`~dtls.SSLCertVerificationError`. WebRTC authenticates so (RFC 8122, RFC 8827, 6.5).

        :param fingerprints: SHA-256 of the certificate's DER, one or several: 32 bytes, or hexadecimal with or without
            colons, with or without ``"sha-256 "`` before it, as SDP has it.
        :raises ValueError: for what is no such fingerprint, and if there is none.
        """
        pins = None
        if fingerprints is not None:
            several = [fingerprints] if isinstance(fingerprints, (str, bytes)) else fingerprints
            pins = frozenset(map(as_fingerprint, several))
            if not pins:
                message = "there is no fingerprint to pin; None ends pinning"
                raise ValueError(message)
        self._pins = pins
        self._trust_otherwise()

    def dangerously_trust_by_callback(self, callback: TrustCallback | None) -> None:
        """Trust a peer's certificate if ``callback(der)`` is true, whatever path validation says; ``None`` ends that.

        This is for trust on first use: remember the certificate the first time, and compare it ever after. Whoever
        stands between at the first time, or always where the callback always says yes, reads and changes everything.
        It makes ``verify_mode`` ``CERT_REQUIRED`` and ``check_hostname`` false; ending it makes them what they were.
        With fingerprints pinned, these must fit too. The callback is asked once for each handshake, before this side
        says that it is content; what it raises, and what is neither ``True`` nor ``False``, ends the handshake.
        """
        if callback is not None and not callable(callback):
            message = f"the callback must be callable, not {type(callback).__name__}"
            raise TypeError(message)
        self._trust_callback = callback
        self._trust_otherwise()

    def _trust_otherwise(self) -> None:
        if not self.trusts_otherwise:
            if self._before is not None:
                self._verify_mode, self._check_hostname = self._before
            self._before = None
        elif self._before is None:
            self._before = self._verify_mode, self._check_hostname
            self._verify_mode, self._check_hostname = CERT_REQUIRED, False
        self._changed()

    @property
    def pinned_fingerprints(self) -> frozenset[bytes] | None:
        """What :meth:`set_pinned_fingerprints` was given; ``None`` without."""
        return self._pins

    @property
    def trust_callback(self) -> TrustCallback | None:
        """What :meth:`dangerously_trust_by_callback` was given."""
        return self._trust_callback

    @property
    def trusts_otherwise(self) -> bool:
        """Whether something else than path validation decides about certificates."""
        return self._pins is not None or self._trust_callback is not None

    def _check_verify_mode(self, mode: VerifyMode) -> None:
        super()._check_verify_mode(mode)
        if self.trusts_otherwise and mode is not CERT_REQUIRED:
            message = (
                "verify_mode must be CERT_REQUIRED while certificates are pinned or judged by a callback"
            )
            raise ValueError(message)


def is_pinned(pins: frozenset[bytes], certificate: bytes) -> bool:
    """Whether the certificate (DER) has one of these fingerprints."""
    digest = hashlib.sha256(certificate).digest()
    return any(hmac.compare_digest(pin, digest) for pin in pins)


def as_fingerprint(fingerprint: object) -> bytes:
    """The 32 bytes of a SHA-256 fingerprint. Raises :exc:`ValueError` and :exc:`TypeError`."""
    if isinstance(fingerprint, str):
        text = _SDP.sub("", fingerprint.strip(), count=1)
        try:
            fingerprint = bytes.fromhex(text.replace(":", ""))
        except ValueError:
            fingerprint = b""
    if not isinstance(fingerprint, bytes):
        message = f"a fingerprint is str or bytes, not {type(fingerprint).__name__}"
        raise TypeError(message)
    if len(fingerprint) != _DIGEST_LENGTH:
        message = "a fingerprint is the SHA-256 of a certificate: 32 bytes, or 64 hexadecimal digits"
        raise ValueError(message)
    return fingerprint
