"""Datagrams and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtls.flights import MINIMUM_MTU

from .base import Settings, positive_seconds

if TYPE_CHECKING:
    from .constants import Protocol

DEFAULT_MTU = 1350
"""Bytes of a datagram. Under every usual path's limit, and under the 1400 bytes that some stacks read at most."""
MAXIMUM_MTU = 65_507
DEFAULT_HANDSHAKE_TIMEOUT = 30.0
DEFAULT_INITIAL_RETRANSMISSION_TIMEOUT = 1.0
"""Seconds, as RFC 6347, 4.2.4.1 recommends."""


class DatagramSettings(Settings):
    """How long datagrams may be, and how long to wait for them."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._mtu = DEFAULT_MTU
        self._handshake_timeout = DEFAULT_HANDSHAKE_TIMEOUT
        self._initial_retransmission_timeout = DEFAULT_INITIAL_RETRANSMISSION_TIMEOUT
        self._idle_timeout: float | None = None
        self.mtu_back_off = True
        """Whether flights that are lost twice are cut for paths of 1,280 bytes, then of 576 (RFC 6347, 4.1.1.1).

        Messages are not: ``max_message_size`` stays what :attr:`mtu` makes it. ``statistics["mtu_backed_off"]`` tells
        that it happened, and so that the MTU may be too large."""
        self.limits_messages_to_mtu = True
        """Whether messages over the MTU are refused. Off, records of up to 16,384 bytes are left to IP to fragment."""

    @property
    def mtu(self) -> int:
        """The largest UDP payload in bytes, 208 to 65,507. Flights are cut to it; longer messages are refused."""
        return self._mtu

    @mtu.setter
    def mtu(self, value: int) -> None:
        self._mtu = usable_mtu(value)

    @property
    def handshake_timeout(self) -> float:
        """Seconds in which a handshake must complete, greater than 0."""
        return self._handshake_timeout

    @handshake_timeout.setter
    def handshake_timeout(self, value: float) -> None:
        self._handshake_timeout = positive_seconds("handshake_timeout", value)

    @property
    def initial_retransmission_timeout(self) -> float:
        """Seconds after which a flight is first repeated, greater than 0; it doubles (RFC 6347, 4.2.4.1)."""
        return self._initial_retransmission_timeout

    @initial_retransmission_timeout.setter
    def initial_retransmission_timeout(self, value: float) -> None:
        self._initial_retransmission_timeout = positive_seconds("initial_retransmission_timeout", value)

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without a word from the peer after which a server forgets an association; ``None`` for never.

        Where many peers come and go without saying so, this bounds what they leave behind. It is for whoever keeps many
        associations: :class:`~dtls.Endpoint` and what stands on it. A single :class:`~dtls.Connection` never expires.
        """
        return self._idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, value: float | None) -> None:
        self._idle_timeout = None if value is None else positive_seconds("idle_timeout", value)


def usable_mtu(value: int) -> int:
    """``value``, a number of bytes that flights can be cut to; :exc:`ValueError` otherwise."""
    if not MINIMUM_MTU <= value <= MAXIMUM_MTU:
        message = f"mtu must be {MINIMUM_MTU} to {MAXIMUM_MTU} bytes, not {value!r}"
        raise ValueError(message)
    return int(value)
