"""When something is due, for many owners: a heap, with one entry for each owner at most."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

Owner = TypeVar("Owner")

_STALE = 64


class _Timer(Generic[Owner]):
    """An entry of the heap; without an owner when it counts no longer."""

    __slots__ = ("at", "number", "owner")

    def __init__(self, at: float, number: int, owner: Owner) -> None:
        self.at = at
        self.number = number
        self.owner: Owner | None = owner

    def __lt__(self, other: _Timer[Owner]) -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Timers(Generic[Owner]):
    """One timer for each owner, which must be hashable.

    An entry that is cancelled stays in the heap, but lets go of its owner at once, and such entries never outnumber
    the others by much.
    """

    def __init__(self) -> None:
        self._heap: list[_Timer[Owner]] = []
        self._timers: dict[Owner, _Timer[Owner]] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """How many entries are held, those that count no longer included."""
        return len(self._heap)

    def set_by(self, owner: Owner, at: float) -> None:
        """Have ``owner`` come up at ``at`` or before.

        A timer that is due earlier is left alone: it comes up early, and is then set anew. So what moves its owner's
        time further off again and again, as every message does for an idle time, costs nothing.
        """
        timer = self._timers.get(owner)
        if timer is not None:
            if timer.at <= at:
                return
            timer.owner = None
        timer = self._timers[owner] = _Timer(at, next(self._numbers), owner)
        heapq.heappush(self._heap, timer)
        if len(self._heap) > _STALE + 2 * len(self._timers):
            self._heap = list(self._timers.values())
            heapq.heapify(self._heap)

    def cancel(self, owner: Owner) -> None:
        """Have ``owner`` not come up; it need not have a timer."""
        timer = self._timers.pop(owner, None)
        if timer is not None:
            timer.owner = None

    def next(self) -> float | None:
        """When the first of all is due, or ``None``."""
        heap = self._heap
        while heap and heap[0].owner is None:
            heapq.heappop(heap)
        return heap[0].at if heap else None

    def pop_due(self, now: float) -> Owner | None:
        """The first owner that is due at ``now``, whose timer is gone then; ``None`` if there is none."""
        at = self.next()
        if at is None or at > now:
            return None
        owner = heapq.heappop(self._heap).owner
        if owner is not None:
            del self._timers[owner]
        return owner
