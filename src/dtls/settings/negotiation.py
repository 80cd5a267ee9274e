"""What to negotiate: versions, cipher suites, groups, signature algorithms, application protocols."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .base import Settings
from .constants import DTLSVersion, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_CIPHERS = (
    "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:DHE+AESGCM:DHE+CHACHA20:!AESCCM8:!aNULL:!PSK:!SRP:!DSS"
)
"""AEAD with forward secrecy only."""
MAX_ALPN_LENGTH = 255


_SEPARATORS = re.compile(r"[:, ;]+")


def cipher_words(ciphers: str) -> list[str]:
    """The words of a list of suites in OpenSSL's notation."""
    return _SEPARATORS.split(ciphers)


class NegotiationSettings(Settings):
    """What is offered, or chosen from."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._minimum_version = DTLSVersion.DTLSv1_2
        self._maximum_version = DTLSVersion.MAXIMUM_SUPPORTED
        self._cipher_string: str | None = None
        self._alpn_protocols: list[bytes] = []
        self._groups: str | None = None
        self._server_sigalgs: str | None = None
        self._srtp_profiles: list[str] = []

    @property
    def minimum_version(self) -> DTLSVersion:
        """The oldest version allowed. DTLS 1.0 also needs ``set_ciphers('DEFAULT:@SECLEVEL=0')`` or the like."""
        return self._minimum_version

    @minimum_version.setter
    def minimum_version(self, value: int) -> None:
        self._minimum_version = DTLSVersion(value)
        self._changed()

    @property
    def maximum_version(self) -> DTLSVersion:
        """The newest version allowed."""
        return self._maximum_version

    @maximum_version.setter
    def maximum_version(self, value: int) -> None:
        self._maximum_version = DTLSVersion(value)
        self._changed()

    def set_ciphers(self, ciphers: str) -> None:
        """The cipher suites by preference, in OpenSSL's notation. Raises :class:`~dtls.SSLError` if none is left.

        The default is AEAD with forward secrecy; with a pre-shared key, AEAD suites with PSK come before these in a
        server and in place of these in a client. AES-CCM-8, for CoAP (RFC 7252, 9.1.3), must be named:
        ``"PSK-AES128-CCM8"``, ``"ECDHE-ECDSA-AES128-CCM8"``. Its short tags need OpenSSL's security level 0, which is
        chosen then unless the string says ``@SECLEVEL`` itself; handshakes are signed with SHA-2 all the same, and
        certificates that level 2 would not accept (short keys, SHA-1) are refused.
        """
        self._try("_cipher_string", ciphers)

    def get_ciphers(self) -> list[dict[str, Any]]:
        """The suites ready for use, by preference, in the form of ``ssl.SSLContext.get_ciphers``.

        Dictionaries with ``id``, ``name``, ``protocol``, ``strength_bits``, ``alg_bits``, ``aead``, ``symmetric``,
        ``digest``, ``kea`` and ``auth``; ``description`` is not to be had.
        """
        return self._engine().ciphers()

    @property
    def cipher_string(self) -> str:
        """What ``set_ciphers`` was given, or ``DEFAULT_CIPHERS``."""
        return DEFAULT_CIPHERS if self._cipher_string is None else self._cipher_string

    @property
    def chose_ciphers(self) -> bool:
        """Whether ``set_ciphers`` was called."""
        return self._cipher_string is not None

    def set_groups(self, groups: str) -> None:
        """The key-exchange groups by preference, separated by colons: ``"X25519:P-256"`` (RFC 8422, 5.1.1).

        Raises :class:`~dtls.SSLError` if one of them is not known, and :exc:`NotImplementedError` for more than one
        where the ``cryptography`` package is too old.
        """
        self._try("_groups", groups)

    def set_ecdh_curve(self, curve_name: str) -> None:
        """The one key-exchange group; as :meth:`set_groups`."""
        self.set_groups(curve_name)

    def reset_groups(self) -> None:
        """The engine's own choice of groups again."""
        self._groups = None
        self._changed()

    @property
    def groups(self) -> str | None:
        """What :meth:`set_groups` was given; ``None`` for the engine's own choice."""
        return self._groups

    def set_server_sigalgs(self, sigalgs: str) -> None:
        """The signature algorithms for handshakes, separated by colons: ``"ECDSA+SHA256"`` (RFC 5246, 7.4.1.4.1).

        Raises :class:`~dtls.SSLError` if one of them is not known.
        """
        self._try("_server_sigalgs", sigalgs)

    @property
    def server_sigalgs(self) -> str | None:
        """What :meth:`set_server_sigalgs` was given; ``None`` for the engine's own choice."""
        return self._server_sigalgs

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """The application protocols to offer or to choose from, by preference (RFC 7301); 1 to 255 bytes each."""
        names = [name.encode() for name in alpn_protocols]
        if any(not 0 < len(name) <= MAX_ALPN_LENGTH for name in names):
            message = "an ALPN protocol has 1 to 255 bytes"
            raise ValueError(message)
        self._alpn_protocols = names
        self._changed()

    @property
    def alpn_protocols(self) -> list[bytes]:
        """What ``set_alpn_protocols`` was given."""
        return list(self._alpn_protocols)

    def set_srtp_profiles(self, profiles: Iterable[str]) -> None:
        """The protection profiles for SRTP to offer or to choose from, by preference (RFC 5764); none switches it off.

        For example ``["SRTP_AEAD_AES_128_GCM", "SRTP_AES128_CM_SHA1_80"]``. The keys are then
        ``export_keying_material("EXTRACTOR-dtls_srtp", …)``. Raises :class:`~dtls.SSLError` for one that the engine
        does not know.
        """
        names = [profiles] if isinstance(profiles, str) else list(profiles)
        if not all(name and ":" not in name for name in names):
            message = f"profiles are names such as 'SRTP_AES128_CM_SHA1_80', not {names!r}"
            raise ValueError(message)
        self._try("_srtp_profiles", names)

    @property
    def srtp_profiles(self) -> list[str]:
        """What :meth:`set_srtp_profiles` was given."""
        return list(self._srtp_profiles)
