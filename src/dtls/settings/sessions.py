"""Sessions: which of them a server resumes, and which ones a client may offer."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from .constants import ALWAYS, Options
from .identity import IdentitySettings
from .negotiation import NegotiationSettings, cipher_words
from .pins import PinSettings
from .psk import PSKSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .constants import Protocol

DEFAULT_SESSION_TIMEOUT = 7_200
"""Seconds; OpenSSL's for DTLS."""
MAX_SESSION_TIMEOUT = 604_800
"""Seconds: a week. The longer, the more a stolen secret opens (RFC 5246, F.1.4 speaks of 24 hours)."""


class SessionSettings(PinSettings, IdentitySettings, PSKSettings, NegotiationSettings):
    """How associations are resumed by shorter handshakes (RFC 5246, 7.3; RFC 5077)."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._session_tickets = not self.server_side
        self._session_cache = False
        self._session_timeout = DEFAULT_SESSION_TIMEOUT
        self._prefers_own_ciphers = True

    @property
    def options(self) -> Options:
        """Switches with the names and numbers of the ``ssl`` module; those for TLS only are passed over.

        ``OP_NO_TICKET`` is the opposite of :attr:`session_tickets`. ``OP_CIPHER_SERVER_PREFERENCE``, which is on, has a
        server choose by its own order of suites. ``OP_NO_COMPRESSION`` and ``OP_NO_RENEGOTIATION`` cannot be switched
        off: :exc:`ValueError`.
        """
        options = ALWAYS
        if not self._session_tickets:
            options |= Options.OP_NO_TICKET
        if self._prefers_own_ciphers:
            options |= Options.OP_CIPHER_SERVER_PREFERENCE
        return options

    @options.setter
    def options(self, value: int) -> None:
        if value & ALWAYS != ALWAYS:
            message = "OP_NO_COMPRESSION and OP_NO_RENEGOTIATION cannot be switched off"
            raise ValueError(message)
        self._session_tickets = not value & Options.OP_NO_TICKET
        self._prefers_own_ciphers = bool(value & Options.OP_CIPHER_SERVER_PREFERENCE)
        self._changed()

    @property
    def session_tickets(self) -> bool:
        """Whether tickets are used (RFC 5077): by clients unless told otherwise, by servers if told so.

        A server keeps nothing for them. Its keys are made with the settings, and made anew whenever a setting is
        changed or :meth:`renew_session_keys` called; until then, who steals them reads what was said in the time.
        """
        return self._session_tickets

    @session_tickets.setter
    def session_tickets(self, value: bool) -> None:
        self._session_tickets = bool(value)
        self._changed()

    @property
    def session_cache(self) -> bool:
        """For servers: whether they remember sessions by their ids, 20,480 of them at most. Off unless told otherwise.

        The oldest give way. With tickets as well, it serves clients that know none.
        """
        return self._session_cache

    @session_cache.setter
    def session_cache(self, value: bool) -> None:
        self._session_cache = bool(value)
        self._changed()

    @property
    def session_timeout(self) -> int:
        """For how many seconds a session can be resumed, 1 to 604,800."""
        return self._session_timeout

    @session_timeout.setter
    def session_timeout(self, value: int) -> None:
        if not 1 <= value <= MAX_SESSION_TIMEOUT:
            message = f"session_timeout must be 1 to {MAX_SESSION_TIMEOUT} seconds, not {value!r}"
            raise ValueError(message)
        self._session_timeout = int(value)
        self._changed()

    def renew_session_keys(self) -> None:
        """For servers: forget all sessions and make new keys for tickets. Clients then shake hands in full.

        A session lets in whom its full handshake has let in, until its time has passed: a pre-shared key or a
        certificate that has been taken back since is not asked for. This ends that at once.
        """
        self._changed()

    def set_session_ticket_keys(self, keys: Sequence[bytes]) -> None:
        """Share the keys of tickets among several servers: raises :exc:`NotImplementedError` in this engine.

        OpenSSL can do it (``SSL_CTX_set_tlsext_ticket_keys``), but no version of ``cryptography`` up to 50 binds it.
        """
        del keys
        message = (
            "ticket keys cannot be given: no known version of cryptography (42 to 50) binds OpenSSL's "
            "SSL_CTX_set_tlsext_ticket_keys; each server makes keys of its own, and renew_session_keys() makes new ones"
        )
        raise NotImplementedError(message)

    def _check_session(self, session: object, server_hostname: str | None) -> None:
        from dtls.session import DTLSSession  # noqa: PLC0415 - seldom needed

        if not isinstance(session, DTLSSession):
            message = f"a DTLSSession is needed, not {type(session).__name__}"
            raise TypeError(message)
        if self.server_side:
            message = "a session can be given to clients only; servers are asked for theirs by clients"
            raise ValueError(message)
        if session.scope != self._engine().session_scope(server_hostname):
            message = (
                "the session was made with other settings about trust, another own certificate, or another "
                "server_hostname: what was verified then is not what is to be verified now"
            )
            raise ValueError(message)

    def trust_digest(self) -> bytes:
        """Stands for what a client verifies, and as whom it appears. A session is resumed by the same only.

        A short handshake verifies no certificate: what was accepted by one context must not be let in by another.
        """
        pins = self.pinned_fingerprints
        described = (
            int(self.verify_mode),
            int(self.verify_flags),
            self.verify_depth,
            self.check_hostname,
            sorted(self.trusted_certificates),
            sorted(self.trusted_directories),
            None if pins is None else sorted(pins),
            self.trust_callback is not None,
            self.ocsp_client_callback is not None,
            # A lower level of security lets weaker certificates in.
            sorted(word for word in cipher_words(self.cipher_string) if "@" in word or "CCM8" in word),
            [identity.chain[0] for identity in self.identities],
            self.uses_psk,
            self.psk_digest,
        )
        return hashlib.sha256(repr(described).encode()).digest()
