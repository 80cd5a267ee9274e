"""What an association has agreed on, as OpenSSL tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtls.connection import CHANNEL_BINDING_TYPES, Connection
from dtls.errors import SSL_ERROR_SSL, SSLError
from dtls.session import DTLSSession

from . import binding, binding_certificates, binding_sessions
from .errors import ssl_error

if TYPE_CHECKING:
    from .association import Association
    from .context import EngineContext

MAX_EXPORTED = 65_535
"""Bytes of keying material at a time; more than any protocol asks for."""
_CHANNEL_BINDING_LABEL = "EXPORTER-Channel-Binding"


class Negotiated(Connection):
    """The part of a connection that is asked and changes nothing."""

    _ssl: binding.Handle
    _engine_context: EngineContext
    _association: Association
    _server_hostname: str | None
    _max_message_size = 0

    @property
    def max_message_size(self) -> int:
        return self._max_message_size

    @property
    def _was_established(self) -> bool:
        return self._max_message_size > 0

    def version(self) -> str | None:
        return binding.version_name(self._ssl) if self._was_established else None

    def cipher(self) -> tuple[str, str, int] | None:
        return binding.current_cipher(self._ssl) if self._was_established else None

    def group(self) -> str | None:
        return binding.group_name(self._ssl) if self._was_established else None

    def selected_alpn_protocol(self) -> str | None:
        name = binding.selected_alpn(self._ssl)
        return None if name is None else name.decode("utf-8", "surrogateescape")

    def psk_identity(self) -> bytes | None:
        if not self._was_established:
            return None
        if self._association.psk_identity is None and binding_sessions.session_reused(self._ssl):
            session = self.session
            return None if session is None else session.psk_identity
        return self._association.psk_identity

    def export_keying_material(self, label: str, length: int, context: bytes | None = None) -> bytes:
        if not 0 < length <= MAX_EXPORTED:
            message = f"1 to {MAX_EXPORTED} bytes can be exported, not {length!r}"
            raise ValueError(message)
        name = label.encode("ascii")
        if not name:
            message = "the label must not be empty"
            raise ValueError(message)
        if not self._was_established:
            raise SSLError(SSL_ERROR_SSL, "the handshake is not complete: there are no keys to export yet")
        try:
            return binding_sessions.export_keying_material(self._ssl, name, length, context)
        except binding.OpenSSLError as error:
            raise ssl_error(error.errors, f"nothing can be exported under the label {label!r}") from None

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        if cb_type not in CHANNEL_BINDING_TYPES:
            message = f"{cb_type} channel binding type not implemented"
            raise ValueError(message)
        # Without RFC 7627 another association can be made to have the same binding (RFC 9266, 4.2).
        if not self._was_established or not binding_sessions.has_extended_master_secret(self._ssl):
            return None
        if cb_type == "tls-exporter":
            return self.export_keying_material(_CHANNEL_BINDING_LABEL, 32, b"")
        # RFC 5929, 3.1: the first Finished, which is the client's in a full handshake, the server's in a short one.
        short = binding_sessions.session_reused(self._ssl)
        return binding_sessions.finished_message(self._ssl, of_peer=self.server_side is not short)

    def selected_srtp_profile(self) -> str | None:
        return binding_sessions.selected_srtp_profile(self._ssl) if self._was_established else None

    @property
    def session(self) -> DTLSSession | None:
        state = binding_sessions.session(self._ssl) if self._was_established else None
        if state is None:
            return None
        session = DTLSSession(state, self._engine_context.session_scope(self._server_hostname))
        return session if session.id or session.has_ticket else None

    @property
    def session_reused(self) -> bool:
        return self._was_established and binding_sessions.session_reused(self._ssl)

    def peer_certificate(self) -> bytes | None:
        return binding_certificates.peer_certificate(self._ssl)

    def unverified_chain(self) -> list[bytes]:
        chain = binding_certificates.peer_chain(self._ssl)
        own = self.peer_certificate() if self.server_side else None
        return chain if own is None else [own, *chain]

    def verified_chain(self) -> list[bytes]:
        return [] if self._association.trust.decides else binding_certificates.verified_chain(self._ssl)
