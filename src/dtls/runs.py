"""Reading one peer's socket many datagrams at a time, runs of segments among them: Linux only, see :mod:`dtls.mmsg`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from . import mmsg
from .kernel import MAX_READS

if TYPE_CHECKING:
    import socket


class RunReader:
    """Has the kernel coalesce what comes for ``sock``, until :meth:`stop`; nothing else may read it meanwhile.

    :param peer: the peer's address if each datagram's sender is to be told.
    """

    def __init__(self, sock: socket.socket, peer: Any) -> None:
        self._sock = sock
        self._peer = peer
        self._name_length = 0 if peer is None else mmsg.place_length(sock.family)
        self._place: bytes | None = None
        """Where datagrams of the peer come from, once it is known."""
        self._runs_come = False
        self.drained = False
        """Whether the last :meth:`read` has left nothing."""
        mmsg.coalesce(sock)

    def read(self, wanted: int) -> list[tuple[bytes, Any, int]]:
        """Without waiting, what has arrived: triples of bytes, sender, and size of the segments, 0 for one datagram.

        :param wanted: messages, at least 1. Of runs, one may bring ``MAX_SEGMENTS`` of them.
        :raises OSError: what the kernel complains of; nothing has been read then.
        """
        most = 1 if self._runs_come else min(wanted, mmsg.MAX_BATCH)
        found = mmsg.receive(self._sock.fileno(), most, self._name_length)
        self.drained = len(found) < most
        self._runs_come = any(size for _, _, size in found)
        if not self._name_length:
            return found
        return [(datagrams, self._sender(place), size) for datagrams, place, size in found]

    def _sender(self, place: bytes) -> Any:
        if place == self._place:
            return self._peer
        address = mmsg.origin_of(place).address
        if address == self._peer:
            self._place = place
        return address

    def rest(self) -> list[bytes]:
        """The datagrams that are left, as far as there are not too many."""
        left: list[bytes] = []
        with contextlib.suppress(OSError):
            while len(left) < MAX_READS:
                for datagrams, _, size in self.read(mmsg.MAX_BATCH):
                    left += mmsg.split(datagrams, size)
                if self.drained:
                    break
        return left

    def stop(self) -> None:
        """Have the kernel give each datagram by itself again."""
        mmsg.stop_coalescing(self._sock)
