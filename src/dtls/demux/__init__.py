"""How the datagrams that arrive at a listening UDP socket find the sockets of the peers that were accepted.

Two ways: :mod:`dtls.demux.osnet` lets the kernel do it, which has a connected socket for each peer, bound to the same
port; :mod:`dtls.demux.router` does it itself, and forwards. The first is the better one where the kernel prefers a
connected socket to one that is not (Linux, BSD); the second works everywhere and is the default where the first does
not work (Windows).

Listening sockets take the way that is the default when they begin to listen.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from . import osnet, router

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.pydtls.borrowed import BorrowedSocket
    from dtls.udp import Origin

__all__ = ["UDPDemux", "force_routing_demux", "new_demux", "reset_default_demux"]

_DEFAULT: type[osnet.UDPDemux | router.UDPDemux] = (
    router.UDPDemux if sys.platform in ("win32", "cygwin") else osnet.UDPDemux
)
UDPDemux: type[osnet.UDPDemux | router.UDPDemux] = _DEFAULT
"""The way that sockets take that begin to listen now."""


def force_routing_demux() -> bool:
    """From now on sockets that begin to listen forward datagrams themselves. False if they have done so before."""
    global UDPDemux  # noqa: PLW0603 - the setting is the process's, as it was in PyDTLS
    changed = UDPDemux is not router.UDPDemux
    UDPDemux = router.UDPDemux
    return changed


def reset_default_demux() -> None:
    """Take :func:`force_routing_demux` back: sockets that begin to listen do as the platform does best."""
    global UDPDemux  # noqa: PLW0603 - as above
    UDPDemux = _DEFAULT


def new_demux(
    sock: BorrowedSocket, receive: Callable[[bytes, Origin], object]
) -> osnet.UDPDemux | router.UDPDemux:
    """The demultiplexer of a socket that begins to listen.

    ``receive`` is called, by whatever thread, with datagrams of peers that have not been accepted, which were found by
    somebody who waited for a peer.
    """
    return UDPDemux(sock, receive)
