"""Many timers at the price of one: what is due comes up in order, what is cancelled never, and nothing piles up."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from dtls.timers import Timers


def test_owners_come_up_in_the_order_of_their_times() -> None:
    timers: Timers[str] = Timers()
    for owner, at in (("third", 3.0), ("first", 1.0), ("second", 2.0)):
        timers.set_by(owner, at)
    assert timers.next() == 1.0
    assert [timers.pop_due(2.0) for _ in range(3)] == ["first", "second", None]
    assert timers.next() == 3.0


def test_an_owner_that_is_cancelled_does_not_come_up() -> None:
    timers: Timers[str] = Timers()
    timers.set_by("gone", 1.0)
    timers.set_by("here", 2.0)
    timers.cancel("gone")
    timers.cancel("never there")
    assert timers.next() == 2.0
    assert [timers.pop_due(9.0) for _ in range(2)] == ["here", None]
    assert timers.next() is None


def test_an_earlier_time_counts_and_a_later_one_leaves_the_heap_alone() -> None:
    timers: Timers[str] = Timers()
    timers.set_by("owner", 5.0)
    timers.set_by("owner", 3.0)
    assert timers.next() == 3.0
    entries = len(timers)
    timers.set_by("owner", 9.0)
    assert len(timers) == entries
    assert [timers.pop_due(3.0), timers.pop_due(9.0)] == ["owner", None]


def test_one_timer_that_is_set_anew_all_the_time_does_not_pile_up() -> None:
    timers: Timers[str] = Timers()
    for number in range(10_000):
        timers.set_by("owner", -float(number))
        timers.cancel("other")
    assert len(timers) < 100
    for _ in range(10_000):
        timers.set_by("other", 1.0)
        timers.cancel("other")
    assert len(timers) < 200


def test_an_owner_that_is_cancelled_is_let_go_of_at_once() -> None:
    class Owner:
        pass

    timers: Timers[Owner] = Timers()
    owner = Owner()
    kept = weakref.ref(owner)
    timers.set_by(Owner(), 1.0)
    timers.set_by(owner, 2.0)
    timers.cancel(owner)
    del owner
    gc.collect()
    assert kept() is None


@given(st.lists(st.tuples(st.sampled_from(["set", "cancel", "pop"]), st.integers(0, 9), st.integers(0, 50))))
def test_they_do_what_a_table_of_times_would_do(steps: list[tuple[str, int, int]]) -> None:
    timers: Timers[int] = Timers()
    table: dict[int, float] = {}
    for step, owner, at in steps:
        if step == "set":
            timers.set_by(owner, at)
            table[owner] = min(table.get(owner, at), at)
        elif step == "cancel":
            timers.cancel(owner)
            table.pop(owner, None)
        else:
            due = timers.pop_due(at)
            if due is None:
                assert all(time > at for time in table.values())
            else:
                assert table.pop(due) <= at
        assert timers.next() == min(table.values(), default=None)
