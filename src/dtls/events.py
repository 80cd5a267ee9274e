"""What happened on an association: the events that a :class:`~dtls.connection.Connection` gives back.

They are immutable, named in the past tense, and engine-neutral.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .errors import SSLError


class HandshakeCompleted(NamedTuple):
    """The handshake is complete and the peer verified as the context asks; messages can be sent."""

    version: str
    """``"DTLSv1.2"`` or ``"DTLSv1"``."""
    cipher: str
    """The cipher suite's name as OpenSSL writes it."""


class HandshakeFailed(NamedTuple):
    """The handshake has ended without success; the connection is of no further use. ``error`` says why."""

    error: SSLError


class DataReceived(NamedTuple):
    """One message of the peer, whole and authenticated."""

    data: bytes


class PeerClosed(NamedTuple):
    """The peer sent close_notify (RFC 5246, 7.2.1); our own was sent in answer if it had not been before."""


class AlertReceived(NamedTuple):
    """An authenticated fatal alert of the peer, or a fault of the association itself, has ended it."""

    error: SSLError


Event = HandshakeCompleted | HandshakeFailed | DataReceived | PeerClosed | AlertReceived
