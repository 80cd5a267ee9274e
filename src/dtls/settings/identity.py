"""Who we are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.x509 import ocsp

from dtls import credentials
from dtls.errors import SSL_ERROR_SSL, SSLError

from .base import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.connection import Connection

    from .constants import Protocol

    OCSPCallback = Callable[[Connection, bytes], bool]


MAX_OCSP_RESPONSE = 16_000
"""Bytes: what a client's reassembly takes, and more than responders give."""


class IdentitySettings(Settings):
    """The certificate that is presented, and its key."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._identity: credentials.Identity | None = None
        self._identities: dict[str, credentials.Identity] = {}
        """By the kind of key."""
        self._ocsp_response: bytes | None = None
        self._ocsp_callback: OCSPCallback | None = None

    def load_cert_chain(
        self,
        certfile: credentials.CertificateSource,
        keyfile: credentials.KeySource | None = None,
        password: credentials.Password | None = None,
    ) -> None:
        """Present this certificate (with what leads from it to an anchor) and sign with this key.

        Each may be a path, PEM or DER data as bytes, or an object of ``cryptography``; the key may stand in the
        certificate's file. There may be one certificate for each kind of key (RSA, EC, …): which is presented depends
        on what the peer allows. A later call replaces an earlier one with the same kind. Raises
        :class:`~dtls.SSLError` for what cannot be read, decrypted, or does not match, and :exc:`OSError` for files that
        cannot be opened.
        """
        self._present(credentials.load_identity(certfile, keyfile, password))

    def _present(self, identity: credentials.Identity) -> None:
        self._identity = identity
        self._identities[credentials.key_kind(identity.key)] = identity
        self._changed()

    def build_cert_chain(
        self,
        *,
        with_root: bool = True,
        by_presented: bool = False,
        only_presented: bool = False,
        incomplete: bool = False,
    ) -> bool:
        """Present the path from the own certificate to a trust anchor from now on; whether it is valid.

        It is about the certificate that was loaded last.

        :param with_root: whether a self-signed anchor at its end is presented too.
        :param by_presented: whether it may lead by way of the certificates that ``load_cert_chain`` found.
        :param only_presented: whether it is made of those alone, with an anchor among them.
        :param incomplete: whether as much of a path as there is may do.
        :raises SSLError: if there is no own certificate, or no valid path unless ``incomplete``; nothing is changed.
        """
        identity = self._identity
        if identity is None:
            message = "no certificate was loaded: call load_cert_chain() first"
            raise SSLError(SSL_ERROR_SSL, message, reason="NO_CERTIFICATE_SET", library="SSL")
        chain, valid = self._engine().build_chain(
            identity, by_presented=by_presented, only_presented=only_presented
        )
        if not valid and not incomplete:
            message = "no valid path leads from the own certificate to a trust anchor"
            raise SSLError(SSL_ERROR_SSL, message, reason="CERTIFICATE_VERIFY_FAILED", library="SSL")
        if not with_root and len(chain) > 1 and credentials.is_self_signed(chain[-1]):
            chain.pop()
        self._present(identity._replace(chain=chain or identity.chain[:1], complete=True))
        return valid

    @property
    def identity(self) -> credentials.Identity | None:
        """What ``load_cert_chain`` loaded last."""
        return self._identity

    @property
    def identities(self) -> list[credentials.Identity]:
        """What ``load_cert_chain`` loaded, one for each kind of key."""
        return list(self._identities.values())

    def set_ocsp_response(self, response: bytes | None) -> None:
        """For servers: the OCSP response (DER) about the own certificate, for clients that ask (RFC 6066, 8).

        It is to be set anew before it grows old: that counts for new associations. ``None`` for none. Raises
        :exc:`ValueError` for what is no OCSP response.
        """
        if not self.server_side:
            message = "only a server shows OCSP responses"
            raise ValueError(message)
        if response is not None and not isinstance(response, (bytes, bytearray)):
            message = f"an OCSP response is bytes (DER), not {type(response).__name__}"
            raise TypeError(message)
        if response is not None and not 0 < len(response) <= MAX_OCSP_RESPONSE:
            message = f"an OCSP response has 1 to {MAX_OCSP_RESPONSE} bytes, not {len(response)}"
            raise ValueError(message)
        if response is not None:
            ocsp.load_der_ocsp_response(bytes(response))  # OpenSSL would say nothing, and show nothing
        begins_or_ends = (response is None) is not (self._ocsp_response is None)
        self._ocsp_response = None if response is None else bytes(response)
        if begins_or_ends:  # else what is there goes on, tickets' keys and all
            self._changed()

    @property
    def ocsp_response(self) -> bytes | None:
        """What :meth:`set_ocsp_response` was given."""
        return self._ocsp_response

    def set_ocsp_client_callback(self, callback: OCSPCallback | None) -> None:
        """For clients: ask for an OCSP response, and go on only if ``callback(connection, response)`` is ``True``.

        ``response`` is DER, and ``b""`` if the server shows none. Nothing about it has been verified: whose it is, who
        signed it and when is the callback's to judge (``cryptography.x509.ocsp`` parses it). What it raises, and what
        is neither ``True`` nor ``False``, ends the handshake. In a handshake that resumes a session it is not called.
        """
        if self.server_side:
            message = "only a client asks for OCSP responses"
            raise ValueError(message)
        if callback is not None and not callable(callback):
            message = f"the callback must be callable, not {type(callback).__name__}"
            raise TypeError(message)
        self._ocsp_callback = callback
        self._changed()

    @property
    def ocsp_client_callback(self) -> OCSPCallback | None:
        """What :meth:`set_ocsp_client_callback` was given."""
        return self._ocsp_callback
