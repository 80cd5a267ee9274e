"""Clients of a ``DtlsSocket`` that begin anew, from the address of an association that stands.

Where the kernel tells clients apart, it brings their ClientHello to the socket of the old association, and so does the
routing demultiplexer in the midst of a handshake. That association stays untouched until a cookie has proved that it is
the client who begins anew, and not somebody who uses its address (RFC 6347, 4.2.8).
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from typing import Any

from dtls.gate import begins_client_hello
from dtls.kernel import DONT_WAIT, same_address
from dtls.udp import Origin

_PEEKED = 93
"""Bytes of a datagram that hold a ClientHello's random and the length of its cookie, whatever its session id."""
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_SCOPE = 3
"""Where an IPv6 address has its interface."""


class HelloWatch:
    """Tells the ClientHellos of one client's new handshake from repeated ones."""

    def __init__(self) -> None:
        self._asked_for_cookie = b""
        """The random of the latest ClientHello without a cookie, by which the client began anew."""
        self._judges_fragments = False
        """Whether further fragments of a ClientHello belong to such a one."""

    def begins_anew_untrusted(self, hello: bytes) -> bool:
        """Whether a ClientHello, of which the beginning is given, may be the first of another handshake.

        A client that is shaking hands repeats its ClientHello, with the cookie that it was given before. One that
        begins anew has no cookie yet, or answers the request that it got for a ClientHello of the same random.
        """
        if int.from_bytes(hello[19:22], "big"):  # a fragment from further behind
            return self._judges_fragments
        random, session_id_length = hello[27:59], hello[59:60]
        cookie_at = 60 + (session_id_length[0] if session_id_length else 0)
        cookie_length = hello[cookie_at : cookie_at + 1]
        if cookie_length == b"\x00":
            self._asked_for_cookie = random
        self._judges_fragments = bool(cookie_length) and random == self._asked_for_cookie
        return self._judges_fragments

    def take(self, listening: Any, conn: Any, address: Any, *, shakes_hands: bool) -> bool:
        """Whether a client's next datagram began a handshake anew, and was given to whom the cookies are asked of.

        :param listening: the socket that accepts clients; it may have one to accept after that.
        :param conn: the client's socket so far.
        :param shakes_hands: whether that has not completed its handshake.
        :raises ConnectionRefusedError: if ICMP says that nothing listens at ``address`` any more. That is told once.
        """
        plain = conn._plain  # noqa: SLF001 - below the association, which would pass it over
        if shakes_hands and _has_error(plain):
            return False  # it would be lost by looking at what is behind it, and is for the handshake
        try:
            beginning, sender = plain.recvfrom(_PEEKED, socket.MSG_PEEK | DONT_WAIT)
        except ConnectionRefusedError:
            raise
        except OSError:
            return False
        if not begins_client_hello(beginning) or not same_address(sender, address):
            return False
        if not self.begins_anew_untrusted(beginning):
            return False
        with contextlib.suppress(OSError):
            hello = plain.recv(65_535, DONT_WAIT)
            reception = listening._connection._receptionist()  # noqa: SLF001 - where clients are accepted
            reception._judge(hello, _origin(listening, conn, address))  # noqa: SLF001 - as above
        return True


def _has_error(plain: Any) -> bool:
    """Whether the kernel has an error to tell of a socket, where it can be asked without losing that."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(plain.fileno(), 0)
    return bool(poll.poll(0))


def _origin(listening: Any, conn: Any, address: Any) -> Origin:
    """Where a datagram on a client's socket came from, as the listening socket would tell it."""
    route = getattr(conn._plain, "route", None)  # noqa: SLF001 - the routing demultiplexer knows
    if route is not None:
        known: Origin = route.origin
        return known
    if sys.platform != "linux" or listening.getsockname()[0] not in _WILDCARDS:
        return Origin(address)  # as dtls.udp.Listener has it
    own = conn.getsockname()
    packed = socket.inet_pton(conn.family, own[0].partition("%")[0])
    return Origin(address, (packed, own[_SCOPE] if len(own) > _SCOPE else 0))
