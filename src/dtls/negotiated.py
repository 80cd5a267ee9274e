"""What sockets tell of their handshake beyond the usual: keys in common, names, sessions, exported keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .connection import CHANNEL_BINDING_TYPES
from .session import DTLSSession

if TYPE_CHECKING:
    from .connection import Connection
    from .context import Context
    from .driver import Driver


class NegotiatedValues:
    """Part of :class:`~dtls.DTLSSocket`."""

    _context: Context
    _driver: Driver | None
    _server_hostname: str | None
    _session: DTLSSession | None

    def _negotiated(self) -> Connection:
        """The connection, with its handshake complete; raises :exc:`OSError` and :exc:`ValueError`."""
        raise NotImplementedError

    @property
    def context(self) -> Context:
        """The settings that count; on an accepted socket the ones that ``sni_callback`` has chosen."""
        return self._context if self._driver is None else self._driver.connection.context

    @property
    def server_hostname(self) -> str | None:
        """The server's name: what a client asks for, or what an accepted socket's client asked for (RFC 6066, 3)."""
        return self._driver.connection.server_hostname if self._driver is not None else self._server_hostname

    def psk_identity(self) -> bytes | None:
        """The identity whose pre-shared key authenticates both sides; ``None`` without PSK or before the handshake."""
        return self._driver.connection.psk_identity() if self._driver is not None else None

    def selected_srtp_profile(self) -> str | None:
        """The SRTP protection profile agreed on (RFC 5764)."""
        return self._driver.connection.selected_srtp_profile() if self._driver is not None else None

    def export_keying_material(self, label: str, length: int, context: bytes | None = None) -> bytes:
        """``length`` bytes that only the two sides know (RFC 5705).

        See :meth:`dtls.Connection.export_keying_material`. Raises :exc:`ValueError` before the handshake too.
        """
        return self._negotiated().export_keying_material(label, length, context)

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """As ``ssl.SSLSocket.get_channel_binding``; see :meth:`dtls.Connection.get_channel_binding`."""
        if cb_type not in CHANNEL_BINDING_TYPES:
            message = f"{cb_type} channel binding type not implemented"
            raise ValueError(message)
        return self._driver.connection.get_channel_binding(cb_type) if self._driver is not None else None

    @property
    def session(self) -> DTLSSession | None:
        """What a later association can resume, as ``ssl.SSLSocket.session``; it is secret. ``None`` if there is none.

        Setting it before ``connect()`` offers it to the server. Raises :exc:`ValueError` when set later, and
        :exc:`NotImplementedError` where ``cryptography`` is older than 44.
        """
        return self._driver.connection.session if self._driver is not None else self._session

    @session.setter
    def session(self, session: DTLSSession | None) -> None:
        if session is not None and not isinstance(session, DTLSSession):
            message = f"Value is not a DTLSSession, but {type(session).__name__}"
            raise TypeError(message)
        if self._driver is not None:
            message = "Cannot set session after handshake."
            raise ValueError(message)
        self._session = session

    @property
    def session_reused(self) -> bool:
        """Whether the handshake resumed a session."""
        return self._driver is not None and self._driver.connection.session_reused
