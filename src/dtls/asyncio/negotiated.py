"""What was negotiated on one association, under the names that asyncio and the ``ssl`` module have for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtls.context import CERT_NONE
from dtls.x509 import certificate_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.connection import Connection
    from dtls.context import Context
    from dtls.session import DTLSSession


class Negotiated:
    """Looks into a :class:`dtls.Connection`, whose handshake is complete. It is what ``ssl_object`` is elsewhere."""

    __slots__ = ()
    _connection: Connection

    @property
    def context(self) -> Context:
        """The settings that count: on a server's side the ones that ``sni_callback`` has chosen."""
        return self._connection.context

    @property
    def server_hostname(self) -> str | None:
        """The server's name: what the client asked for (RFC 6066, 3)."""
        return self._connection.server_hostname

    @property
    def server_side(self) -> bool:
        """Whether this side is the server."""
        return self._connection.server_side

    @property
    def max_message_size(self) -> int:
        """The longest message in bytes that can be sent."""
        return self._connection.max_message_size

    def version(self) -> str | None:
        """``"DTLSv1.2"`` or ``"DTLSv1"``."""
        return self._connection.version()

    def cipher(self) -> tuple[str, str, int] | None:
        """The suite's name, the version that defined it, its secret bits."""
        return self._connection.cipher()

    def group(self) -> str | None:
        """The key-exchange group; raises :exc:`NotImplementedError` where ``cryptography`` is older than 46."""
        return self._connection.group()

    def selected_alpn_protocol(self) -> str | None:
        """The application protocol agreed on (RFC 7301)."""
        return self._connection.selected_alpn_protocol()

    def psk_identity(self) -> bytes | None:
        """The identity whose pre-shared key authenticates both sides; ``None`` without PSK."""
        return self._connection.psk_identity()

    def selected_srtp_profile(self) -> str | None:
        """The SRTP protection profile agreed on (RFC 5764)."""
        return self._connection.selected_srtp_profile()

    def export_keying_material(self, label: str, length: int, context: bytes | None = None) -> bytes:
        """``length`` bytes that only the two sides know (RFC 5705): :meth:`dtls.Connection.export_keying_material`."""
        return self._connection.export_keying_material(label, length, context)

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """As ``ssl.SSLObject.get_channel_binding``; see :meth:`dtls.Connection.get_channel_binding`."""
        return self._connection.get_channel_binding(cb_type)

    @property
    def session(self) -> DTLSSession | None:
        """What a later association can resume; it is secret. ``None`` if there is none.

        Raises :exc:`NotImplementedError` where ``cryptography`` is older than 44.
        """
        return self._connection.session

    @property
    def session_reused(self) -> bool:
        """Whether the handshake resumed a session."""
        return self._connection.session_reused

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The peer's certificate: a dictionary, as ``ssl.SSLSocket.getpeercert`` makes it, or the DER.

        The dictionary is empty for a certificate that was not verified. ``None`` if the peer sent none.
        """
        der = self._connection.peer_certificate()
        if der is None or binary_form:
            return der
        return {} if self._connection.context.verify_mode is CERT_NONE else certificate_dict(der)

    def get_verified_chain(self) -> list[bytes]:
        """The DERs of the path that was validated, the peer's own first."""
        return self._connection.verified_chain()

    def get_unverified_chain(self) -> list[bytes]:
        """The DERs that the peer sent, its own first."""
        return self._connection.unverified_chain()


class NegotiatedView(Negotiated):
    """What was negotiated on the association of ``connection``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection


_EXTRA_INFO: dict[str, Callable[[Negotiated], Any]] = {
    "ssl_object": lambda negotiated: negotiated,
    "sslcontext": lambda negotiated: negotiated._connection.context,
    "peercert": lambda negotiated: negotiated.getpeercert(),
    "cipher": lambda negotiated: negotiated.cipher(),
    "compression": lambda _: None,
}


def extra_info(negotiated: Negotiated, name: str, default: Any) -> Any:
    """What asyncio's secured transports give as extra information under ``name``."""
    found = _EXTRA_INFO.get(name)
    return default if found is None else found(negotiated)
