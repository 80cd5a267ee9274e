"""The seam: what one DTLS association promises, whichever engine runs it.

A :class:`Connection` is sans-IO. It has no socket, no thread and no clock: datagrams go in, datagrams come out, and
the time is an argument. Whoever drives it does the same few things over and over::

    events = connection.receive_datagram(datagram, now)     # or handle_timeout(now), when next_timeout() has come
    for datagram in connection.datagrams_to_send(now):      # after every call
        ...

Noise of the network never raises and never ends an association. What an attacker could have forged is dropped and
counted in ``statistics`` by reason.
"""

from __future__ import annotations

import abc
import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from .context import Context
    from .events import Event
    from .reassembly import Message
    from .session import DTLSSession


CHANNEL_BINDING_TYPES = ("tls-unique", "tls-exporter")
"""RFC 5929, RFC 9266."""


class ConnectionState(enum.Enum):
    """Where an association stands."""

    HANDSHAKING = "handshaking"
    ESTABLISHED = "established"
    CLOSING = "closing"
    """Our close_notify is out, the peer's has not come; what still comes is discarded."""
    CLOSED = "closed"
    FAILED = "failed"


class ReceivedClientHello(NamedTuple):
    """A ClientHello that proved its sender's address: what a server-side connection begins with."""

    message: Message
    record_sequence: int
    """Of the record that completed it; the server's records go on from there (RFC 6347, 4.2.1)."""
    record_version: int
    cookie_verified: bool


MAX_SEGMENTS = 64
"""Datagrams in one run of bytes: as many as every kernel that knows segments takes (Linux 4.18 and later)."""
MAX_RUN_LENGTH = 65_000
"""Bytes of such a run: with its headers it must fit an IP packet."""


class Unprotected(NamedTuple):
    """What became of a run of datagrams."""

    messages: list[bytes]
    taken: int
    """How many bytes of the run have been taken in: up to a datagram that is not just a message, or to its end."""
    events: list[Event] | None
    """What the last datagram that was taken in has brought if it was no message after all; ``None`` if all were."""


class Connection(abc.ABC):
    """One association of two peers, made by :meth:`dtls.Context.connection`. Its handshake starts at once.

    ``now`` is always in seconds of one monotonic clock. Not for two threads at a time.
    """

    server_side: bool
    state: ConnectionState
    statistics: Counter[str]
    """How many times something was dropped or done, by reason."""

    @property
    @abc.abstractmethod
    def context(self) -> Context:
        """What is to be done. In a server's ``sni_callback`` another server's context may be assigned, to answer."""

    @context.setter
    @abc.abstractmethod
    def context(self, context: Context) -> None: ...

    @property
    @abc.abstractmethod
    def server_hostname(self) -> str | None:
        """The server's name: what a client was told to ask for, or what a server is asked for (RFC 6066, 3)."""

    @abc.abstractmethod
    def receive_datagram(self, datagram: bytes, now: float) -> list[Event]:
        """Take in one datagram of the peer, or of somebody who pretends to be. Does not raise."""

    @abc.abstractmethod
    def send(self, message: bytes | bytearray | memoryview, now: float) -> None:
        """Protect ``message`` as one record, which will be one datagram.

        Raises :class:`~dtls.MessageTooLarge` over ``max_message_size``, :exc:`ValueError` if it is empty,
        :class:`~dtls.SSLZeroReturnError` when the association is closed, and :class:`~dtls.SSLError` before the
        handshake is complete or after it failed.
        """

    @abc.abstractmethod
    def unprotect(self, datagram: bytes, now: float) -> bytes | list[Event]:
        """As :meth:`receive_datagram`; of a datagram that carried one message and nothing else, just the message."""

    @abc.abstractmethod
    def protect(self, message: bytes | bytearray | memoryview) -> bytes:
        """As :meth:`send`; the datagram is returned, and is not among those of :meth:`datagrams_to_send`."""

    @abc.abstractmethod
    def unprotect_many(self, datagrams: bytes, size: int, now: float) -> Unprotected:
        """As :meth:`unprotect`, of datagrams of ``size`` bytes in one run, the last of which may be shorter.

        It stops at the first that is not just a message: :meth:`unprotect` is for that one.
        """

    @abc.abstractmethod
    def protect_many(self, messages: Sequence[bytes | bytearray | memoryview]) -> list[tuple[bytes, int]]:
        """As :meth:`protect`; in order, runs of datagrams of one size, and that size.

        A run has at most ``MAX_SEGMENTS`` datagrams and ``MAX_RUN_LENGTH`` bytes. Raises as :meth:`send` does, before
        any message is protected.
        """

    @abc.abstractmethod
    def datagrams_to_send(self, now: float) -> list[bytes]:
        """What is to be sent to the peer now, in order; the caller has it from then on."""

    @abc.abstractmethod
    def next_timeout(self) -> float | None:
        """The time at which :meth:`handle_timeout` is due, or ``None``."""

    @abc.abstractmethod
    def handle_timeout(self, now: float) -> list[Event]:
        """Repeat what is due to be repeated, give up what has passed its deadline. Early calls do nothing."""

    @abc.abstractmethod
    def close(self, now: float) -> None:
        """Say close_notify (RFC 5246, 7.2.1). May be called in any state, and again."""

    @property
    @abc.abstractmethod
    def keeps_flight(self) -> bool:
        """Whether the handshake's last flight is ours, and the peer may still ask for it again: read what it says.

        It ends with the first message that the peer has protected (RFC 6347, 4.2.4).
        """

    @property
    @abc.abstractmethod
    def max_message_size(self) -> int:
        """The longest message in bytes that one datagram of the context's MTU carries; 0 before the handshake."""

    @abc.abstractmethod
    def version(self) -> str | None:
        """``"DTLSv1.2"`` or ``"DTLSv1"``, as the ``ssl`` module names versions; ``None`` before the handshake."""

    @abc.abstractmethod
    def cipher(self) -> tuple[str, str, int] | None:
        """The suite's name, the version that defined it and its secret bits, as ``ssl.SSLSocket.cipher`` gives them."""

    @abc.abstractmethod
    def group(self) -> str | None:
        """The key-exchange group's name. Raises :exc:`NotImplementedError` where the engine does not know it."""

    @abc.abstractmethod
    def selected_alpn_protocol(self) -> str | None:
        """The application protocol agreed on (RFC 7301)."""

    @abc.abstractmethod
    def psk_identity(self) -> bytes | None:
        """The identity whose pre-shared key authenticates both sides (RFC 4279); ``None`` with a suite without PSK."""

    @abc.abstractmethod
    def selected_srtp_profile(self) -> str | None:
        """The SRTP protection profile agreed on (RFC 5764)."""

    @abc.abstractmethod
    def export_keying_material(self, label: str, length: int, context: bytes | None = None) -> bytes:
        """``length`` bytes, 1 to 65,535, that only the two sides know, for another protocol's use (RFC 5705).

        :param label: ASCII; what for. Labels of one's own begin with ``EXPERIMENTAL``.
        :param context: what they are to be bound to; ``None`` and ``b""`` are different.
        :raises SSLError: before the handshake is complete, and for labels that the protocol itself uses.
        :raises ValueError: for a length out of range, an empty label, one that is not ASCII.
        """

    @abc.abstractmethod
    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """Bytes that stand for this association, ``"tls-unique"`` (RFC 5929) or ``"tls-exporter"`` (RFC 9266).

        ``None`` before the handshake is complete, and without extended_master_secret (RFC 7627), where they would not
        be its own. Raises :exc:`ValueError` for other types.
        """

    @property
    @abc.abstractmethod
    def session(self) -> DTLSSession | None:
        """What can be resumed, on complete handshakes; ``None`` if the server has not offered that. It is secret.

        Raises :exc:`NotImplementedError` where ``cryptography`` is older than 44.
        """

    @property
    @abc.abstractmethod
    def session_reused(self) -> bool:
        """Whether the handshake was a short one, which resumed a session."""

    @abc.abstractmethod
    def peer_certificate(self) -> bytes | None:
        """The DER of the peer's certificate, verified or not; ``None`` if it sent none."""

    @abc.abstractmethod
    def unverified_chain(self) -> list[bytes]:
        """The DERs that the peer sent, its own first."""

    @abc.abstractmethod
    def verified_chain(self) -> list[bytes]:
        """The DERs of the path that was validated, the peer's own first; empty if none was."""
