"""What PyDTLS's callbacks are given.

``cb_user_config_ssl_ctx`` gets an :class:`SSLContext`, which configures all associations of a connection or a listening
socket; ``cb_user_config_ssl`` gets an :class:`SSL` for each one of them. Setters return 1 for success and 0 for
failure, as OpenSSL's do and PyDTLS's did; a failure changes nothing.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

from dtls.context import DTLSVersion
from dtls.errors import SSLError
from dtls.flights import MINIMUM_MTU, RetransmissionTimer
from dtls.wire import AlertDescription

from .arguments import cipher_string

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.context import Context

SSL_BUILD_CHAIN_FLAG_NONE = 0
SSL_BUILD_CHAIN_FLAG_UNTRUSTED = 1
SSL_BUILD_CHAIN_FLAG_NO_ROOT = 2
SSL_BUILD_CHAIN_FLAG_CHECK = 4
SSL_BUILD_CHAIN_FLAG_IGNORE_ERROR = 8
SSL_BUILD_CHAIN_FLAG_CLEAR_ERROR = 16

_CB_EXIT = 0x02
_CB_READ = 0x04
_CB_ALERT = 0x4000
_ST_CONNECT = 0x1000
_ST_ACCEPT = 0x2000
_MICROSECONDS = 1_000_000
_SHORTEST_WAIT = 0.001
"""Seconds. A callback that asks for none would have the flight repeated without end."""
_UDP_HEADER = 8
_IP_HEADERS = {socket.AF_INET: 20, socket.AF_INET6: 40}

logger = logging.getLogger("dtls.sslconnection")


def log_progress(conn: str, where: int, return_code: int) -> None:
    """Say at DEBUG what OpenSSL's info callback tells: states, alerts, results."""
    role = {_ST_CONNECT: "SSL_connect", _ST_ACCEPT: "SSL_accept"}.get(where & 0x3000, "SSL")
    if where & _CB_ALERT:
        direction = "read" if where & _CB_READ else "write"
        number = return_code & 0xFF
        names = {int(alert): alert.name.lower() for alert in AlertDescription}
        logger.debug("%s: alert %s: %s", role, direction, names.get(number, number))
    elif where & _CB_EXIT and return_code <= 0:
        logger.debug("%s: %s in %s", role, "failed" if not return_code else "stopped", conn)
    else:
        logger.debug("%s: %s", role, conn)


class SSLContext:
    """The settings that a connection's associations share."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def set_ciphers(self, ciphers: str) -> int:
        """The cipher suites by preference, in OpenSSL's notation: ``"ECDHE-ECDSA-AES256-SHA:AES256-SHA"``."""
        oldest = self._context.minimum_version
        text = cipher_string(ciphers, with_dtls_1_0=oldest is DTLSVersion.DTLSv1)
        return self._try(self._context.set_ciphers, text)

    def set_sigalgs(self, sigalgs: str) -> int:
        """The signature algorithms by preference: ``"ECDSA+SHA256:RSA+SHA256"``."""
        return self._try(self._context.set_server_sigalgs, sigalgs)

    def set_curves(self, curves: str | tuple[int, ...]) -> int:
        """The groups for key exchange by preference: names separated by colons, OpenSSL's or NIST's, or NIDs.

        ``"secp384r1:P-256"`` and ``(715, 415)`` are the same.
        """
        names = curves if isinstance(curves, str) else ":".join(_binding().curve_name(nid) for nid in curves)
        if not all(names.split(":")):  # a number that nobody knows has no name
            return 0
        return self._try(self._context.set_groups, names)

    def set_ecdh_curve(self, curve_name: str | None = None) -> int:
        """The one group for key exchange; ``None`` for OpenSSL's choice.

        Raises :exc:`IndexError` for a name that is not one of :meth:`get_ec_available`.
        """
        if not curve_name:
            self._context.reset_groups()
            return 1
        if curve_name not in self.get_ec_available():
            message = f"unknown curve {curve_name!r}: SSLContext.get_ec_available() tells the names of those there are"
            raise IndexError(message)
        return self._try(self._context.set_groups, curve_name)

    def build_cert_chain(self, flags: int = SSL_BUILD_CHAIN_FLAG_NONE) -> int:
        """Send the path from the own certificate to a root of ``ca_certs`` from now on.

        :param flags: ``SSL_BUILD_CHAIN_FLAG_*``: ``UNTRUSTED`` lets it lead by way of the certificates in the own
            file, ``CHECK`` makes it of those alone, ``NO_ROOT`` leaves the root out, and ``IGNORE_ERROR`` takes as
            much of a path as there is (2 is returned then). ``CLEAR_ERROR`` is accepted; nothing is left to clear.
        """
        try:
            valid = self._context.build_cert_chain(
                with_root=not flags & SSL_BUILD_CHAIN_FLAG_NO_ROOT,
                by_presented=bool(flags & SSL_BUILD_CHAIN_FLAG_UNTRUSTED),
                only_presented=bool(flags & SSL_BUILD_CHAIN_FLAG_CHECK),
                incomplete=bool(flags & SSL_BUILD_CHAIN_FLAG_IGNORE_ERROR),
            )
        except SSLError as error:
            logger.debug("the certificate chain stays as it is: %s", error)
            return 0
        return 1 if valid else 2

    def set_ssl_logging(
        self, enable: bool = False, func: Callable[[str, int, int], object] = log_progress
    ) -> None:
        """Have ``func(conn, where, return_code)`` called whenever a handshake gets on, or no longer.

        ``conn`` is the state in words. The numbers are those of OpenSSL's ``SSL_CTX_set_info_callback``. Without
        ``func`` they are put into words for the logger ``dtls.sslconnection``, at DEBUG.
        """
        self._context.set_info_callback(func if enable else None)

    @staticmethod
    def get_ec_nist2nid(nist: str | tuple[str, ...]) -> tuple[int, ...]:
        """The NIDs of curves by NIST's names (``"P-384:P-256"``, or a tuple); 0 for a name that NIST has not given."""
        names = nist if isinstance(nist, tuple) else nist.split(":")
        known = _binding().NIST_CURVES
        return tuple(_binding().curve_number(name) if name in known else 0 for name in names)

    @staticmethod
    def get_ec_nid2nist(nid: int | tuple[int, ...]) -> str:
        """NIST's names of curves by NID, separated by colons. :exc:`ValueError` for a curve to which it gave none."""
        nist = {_binding().curve_number(name): name for name in _binding().NIST_CURVES}
        nids = nid if isinstance(nid, tuple) else (nid,)
        if unknown := [number for number in nids if number not in nist]:
            message = f"NIST has no name for the curves with the NIDs {unknown}"
            raise ValueError(message)
        return ":".join(nist[number] for number in nids)

    @staticmethod
    def get_ec_available(bAsName: bool = True) -> list[Any]:  # noqa: N803 - PyDTLS's name
        """The elliptic curves that are built in: their names, or their NIDs, sorted."""
        numbers = _binding().curves()
        return sorted(_binding().curve_name(nid) for nid in numbers) if bAsName else sorted(numbers)

    @staticmethod
    def _try(setter: Callable[[str], None], value: str) -> int:
        try:
            setter(value)
        except SSLError as error:
            logger.debug("refused: %s", error)
            return 0
        return 1


class SSL:
    """The settings of one association; they count if they are made in the callback.

    :param family: the address family, ``AF_INET`` or ``AF_INET6``.
    """

    def __init__(self, family: int = socket.AF_INET) -> None:
        self._headers = _IP_HEADERS.get(socket.AddressFamily(family), 0) + _UDP_HEADER
        self._timer_callback: Callable[[SSL, int], int] | None = None
        self.mtu: int | None = None
        """The largest UDP payload of a handshake in bytes; ``None`` for the default."""

    def set_mtu(self, mtu: int | None = None) -> None:
        """The largest UDP payload of a handshake in bytes, at least 208; ``None`` for the default.

        Raises :exc:`ValueError` for less.
        """
        if mtu and mtu < MINIMUM_MTU:
            message = f"the MTU must be at least {MINIMUM_MTU} bytes without headers of IP and UDP, not {mtu}"
            raise ValueError(message)
        self.mtu = mtu or None

    def set_link_mtu(self, mtu: int | None = None) -> None:
        """As :meth:`set_mtu`, headers of IP and UDP included: 28 bytes with IPv4, 48 with IPv6."""
        self.set_mtu(mtu and mtu - self._headers)

    def DTLS_set_timer_cb(self, cb: Callable[[SSL, int], int]) -> None:  # noqa: N802 - PyDTLS's name
        """Let ``cb(ssl, timer_us)`` say for how many microseconds to wait until a flight is repeated.

        It is given 0 for a flight that is sent for the first time, and for each repeat what it returned before.
        """
        self._timer_callback = cb

    @property
    def timer(self) -> RetransmissionTimer | None:
        """The timer that the user's callback sets; ``None`` for the usual one."""
        return None if self._timer_callback is None else CallbackTimer(self, self._timer_callback)


def configured(
    configure: Callable[[SSL], object] | None, sock: socket.socket
) -> tuple[int | None, RetransmissionTimer | None]:
    """The MTU and the timer of a new association, if the user's callback has set them."""
    if configure is None:
        return None, None
    settings = SSL(sock.family)
    configure(settings)
    return settings.mtu, settings.timer


class CallbackTimer(RetransmissionTimer):
    """A retransmission timer that asks a callback for its durations, as OpenSSL's does."""

    __slots__ = ("_callback", "_ssl")

    def __init__(self, ssl: SSL, callback: Callable[[SSL, int], int]) -> None:
        super().__init__(0.0)
        self._ssl = ssl
        self._callback = callback

    def start(self, now: float) -> None:
        """A new flight was sent."""
        self.repeats = 0
        self._ask(now, 0)

    def back_off(self, now: float) -> None:
        """The flight was repeated because the time was up."""
        self.repeats += 1
        self._ask(now, round(self._duration * _MICROSECONDS))

    def _ask(self, now: float, microseconds: int) -> None:
        self._duration = max(_SHORTEST_WAIT, self._callback(self._ssl, microseconds) / _MICROSECONDS)
        self.due = now + self._duration


def _binding() -> Any:
    from dtls.engines.openssl import binding  # noqa: PLC0415 - the engine is loaded when it is needed

    return binding
