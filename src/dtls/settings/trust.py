"""Whom to trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtls import credentials

from .base import Settings
from .constants import CERT_NONE, CERT_REQUIRED, Protocol, Purpose, VerifyFlags, VerifyMode

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable


MAX_VERIFY_DEPTH = 100
"""Certificates between the peer's and an anchor: what OpenSSL goes through at most."""


MAX_NAMED_AUTHORITIES = 32
"""How many authorities' names a server tells; more would be more datagrams for each handshake than they are worth."""


class TrustSettings(Settings):
    """Whether and how the peer's certificate is verified."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._check_hostname = not self.server_side
        self._verify_mode = CERT_NONE if self.server_side else CERT_REQUIRED
        self._verify_flags = VerifyFlags.VERIFY_X509_TRUSTED_FIRST
        self._trusted: dict[bytes, None] = {}
        self._trusted_directories: list[str] = []
        self._verify_depth: int | None = None
        self._named_authorities: dict[bytes, None] = {}
        self._sends_ca_names = True

    @property
    def check_hostname(self) -> bool:
        """Whether the certificate must be for ``server_hostname`` (RFC 6125). True implies ``CERT_REQUIRED``."""
        return self._check_hostname

    @check_hostname.setter
    def check_hostname(self, value: bool) -> None:
        if value and self._verify_mode is CERT_NONE:
            self._verify_mode = CERT_REQUIRED
        self._check_hostname = bool(value)
        self._changed()

    @property
    def verify_mode(self) -> VerifyMode:
        """Whether the peer's certificate is asked for and verified.

        Setting ``CERT_NONE`` while ``check_hostname`` is true raises :exc:`ValueError`.
        """
        return self._verify_mode

    @verify_mode.setter
    def verify_mode(self, value: int) -> None:
        mode = VerifyMode(value)
        self._check_verify_mode(mode)
        self._verify_mode = mode
        self._changed()

    def _check_verify_mode(self, mode: VerifyMode) -> None:
        """Raise :exc:`ValueError` if another setting does not go with it."""
        if mode is CERT_NONE and self._check_hostname:
            message = "Cannot set verify_mode to CERT_NONE when check_hostname is enabled."
            raise ValueError(message)

    @property
    def verify_flags(self) -> VerifyFlags:
        """How certificates are verified (X509_V_FLAG_*)."""
        return self._verify_flags

    @verify_flags.setter
    def verify_flags(self, value: int) -> None:
        self._verify_flags = VerifyFlags(value)
        self._changed()

    @property
    def verify_depth(self) -> int | None:
        """How many certificates may stand between the peer's own and an anchor; ``None`` for the engine's 100."""
        return self._verify_depth

    @verify_depth.setter
    def verify_depth(self, value: int | None) -> None:
        if value is not None and not 0 <= value <= MAX_VERIFY_DEPTH:
            message = f"verify_depth must be 0 to {MAX_VERIFY_DEPTH} or None, not {value!r}"
            raise ValueError(message)
        self._verify_depth = value
        self._changed()

    @property
    def sends_ca_names(self) -> bool:
        """For servers: whether clients are told which authorities are trusted (RFC 5246, 7.4.4), if few enough.

        These are the ones that :meth:`load_verify_locations` was given, 32 of them at most; else none are told.
        """
        return self._sends_ca_names

    @sends_ca_names.setter
    def sends_ca_names(self, value: bool) -> None:
        self._sends_ca_names = bool(value)
        self._changed()

    def load_verify_locations(
        self,
        cafile: str | os.PathLike[str] | None = None,
        capath: str | os.PathLike[str] | None = None,
        cadata: str | bytes | None = None,
    ) -> None:
        """Trust the certificates in a file (PEM or DER), a directory (files named by hash), or data.

        Raises :exc:`TypeError` if nothing is given, :exc:`OSError` for what cannot be opened, and
        :class:`~dtls.SSLError` for what holds no certificate.
        """
        if cafile is None and capath is None and cadata is None:
            message = "cafile, capath and cadata cannot be all omitted"
            raise TypeError(message)
        ders: list[bytes] = []
        if cafile is not None:
            ders += credentials.load_anchors(cafile)
        if cadata is not None:
            ders += credentials.load_anchors(_certificate_data(cadata))
        self._named_authorities.update(dict.fromkeys(ders))
        self._trust(ders)
        if capath is not None:
            self._trusted_directories.append(credentials.existing_directory(capath))
            self._changed()

    def load_default_certs(self, purpose: Any = Purpose.SERVER_AUTH) -> None:
        """Trust what the system trusts. ``purpose`` is accepted as in the ``ssl`` module."""
        as_purpose(purpose)
        found = credentials.load_system_trust()
        self._trusted_directories += found.directories
        self._trust(found.certificates)

    def get_ca_certs(self, binary_form: bool = False) -> list[Any]:
        """The trust anchors loaded so far, as dictionaries or as DER; those in directories are not among them."""
        from dtls.x509 import certificate_dict  # noqa: PLC0415 - seldom needed

        ders = list(self._trusted)
        return ders if binary_form else [certificate_dict(der) for der in ders]

    def _trust(self, ders: Iterable[bytes]) -> None:
        self._trusted.update(dict.fromkeys(ders))
        self._changed()

    @property
    def trusted_certificates(self) -> list[bytes]:
        """The DERs of the trust anchors loaded so far."""
        return list(self._trusted)

    @property
    def named_authorities(self) -> list[bytes]:
        """The DERs of those among them whose names a server may tell clients."""
        few = self._sends_ca_names and len(self._named_authorities) <= MAX_NAMED_AUTHORITIES
        return list(self._named_authorities) if few else []

    @property
    def trusted_directories(self) -> list[str]:
        """The directories in which further trust anchors are looked for."""
        return list(self._trusted_directories)


def _certificate_data(cadata: str | bytes) -> bytes:
    if isinstance(cadata, str) and cadata.isascii():
        return cadata.encode()
    if isinstance(cadata, (bytes, bytearray, memoryview)):
        return bytes(cadata)
    message = "cadata should be an ASCII string or a bytes-like object"
    raise TypeError(message)


def as_purpose(purpose: Any) -> Purpose:
    """Our own :class:`Purpose`, or the ``ssl`` module's of the same name."""
    try:
        return Purpose[purpose.name]
    except (AttributeError, KeyError):
        message = f"purpose must be Purpose.SERVER_AUTH or Purpose.CLIENT_AUTH, not {purpose!r}"
        raise TypeError(message) from None
