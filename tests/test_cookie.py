"""A cookie shows that a peer has received something at its address, and shows nothing else."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtls.cookie import COOKIE_LENGTH, KEPT_SECRETS, SALT_LENGTH, SECRET_LENGTH, CookieFactory
from dtls.wire import DTLS_1_0, DTLS_1_2, MAX_COOKIE_LENGTH, ClientHello

if TYPE_CHECKING:
    from collections.abc import Hashable

SLOT = 60.0
LIFETIME = 600.0
ADDRESS = ("192.0.2.1", 4433)
HELLO = ClientHello(
    version=DTLS_1_2,
    random=bytes(range(32)),
    session_id=b"",
    cookie=b"",
    cipher_suites=b"\xc0\x2b\xc0\x2f",
    compression_methods=b"\x00",
    extensions=b"",
)


class CountedBytes:
    """Random bytes that a test can predict and count: every draw differs from all before it."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._numbers = count(1)

    def __call__(self, length: int) -> bytes:
        self.lengths.append(length)
        return next(self._numbers).to_bytes(length, "big")

    @property
    def secrets(self) -> int:
        return self.lengths.count(SECRET_LENGTH)


@pytest.fixture
def random_bytes() -> CountedBytes:
    return CountedBytes()


@pytest.fixture
def factory(random_bytes: CountedBytes) -> CookieFactory:
    return CookieFactory(slot=SLOT, secret_lifetime=LIFETIME, random_bytes=random_bytes)


def answered(
    factory: CookieFactory, now: float, *, address: Hashable = ADDRESS, hello: ClientHello = HELLO
) -> ClientHello:
    """The second ClientHello of a peer that was given its cookie at ``now``."""
    return hello._replace(cookie=factory.generate(address, hello, now))


def test_a_cookie_counts_for_the_address_and_hello_it_was_made_for(factory: CookieFactory) -> None:
    assert factory.verify(ADDRESS, answered(factory, 0.0), 0.0)


def test_a_cookie_has_the_32_bytes_that_every_version_allows(factory: CookieFactory) -> None:
    assert len(factory.generate(ADDRESS, HELLO, 0.0)) == COOKIE_LENGTH == 32


def test_two_cookies_for_the_same_hello_differ_and_both_count(factory: CookieFactory) -> None:
    first, second = answered(factory, 0.0), answered(factory, 0.0)
    assert first.cookie[:SALT_LENGTH] != second.cookie[:SALT_LENGTH]
    assert first.cookie[SALT_LENGTH:] != second.cookie[SALT_LENGTH:]
    assert factory.verify(ADDRESS, first, 0.0)
    assert factory.verify(ADDRESS, second, 0.0)


def test_a_cookie_may_be_shown_again(factory: CookieFactory) -> None:
    # Nothing is remembered: a retransmitted ClientHello must count like the first.
    hello = answered(factory, 0.0)
    assert [factory.verify(ADDRESS, hello, 1.0) for _ in range(3)] == [True] * 3


def test_cookies_of_another_server_do_not_count() -> None:
    ours, theirs = CookieFactory(), CookieFactory()
    assert not ours.verify(ADDRESS, answered(theirs, 0.0), 0.0)


@pytest.mark.parametrize("base", [0.0, 6000.0, -6000.0])
def test_a_cookie_counts_in_its_slot_and_the_next_and_no_longer(factory: CookieFactory, base: float) -> None:
    hello = answered(factory, base + 59.0)
    outcome = {age: factory.verify(ADDRESS, hello, base + age) for age in (59.0, 60.0, 119.9, 120.0, 180.0)}
    assert outcome == {59.0: True, 60.0: True, 119.9: True, 120.0: False, 180.0: False}


def test_a_cookie_of_a_later_slot_does_not_count(factory: CookieFactory) -> None:
    hello = answered(factory, 2 * SLOT)
    assert not factory.verify(ADDRESS, hello, SLOT)


@pytest.mark.parametrize(
    "address",
    [("192.0.2.1", 4434), ("192.0.2.2", 4433), ("192.0.2.14", 433), ("192.0.2.1", 4433, 0, 0), b"192.0.2.1"],
)
def test_a_cookie_is_refused_from_another_address(factory: CookieFactory, address: Hashable) -> None:
    hello = answered(factory, 0.0)
    assert not factory.verify(address, hello, 0.0)


@pytest.mark.parametrize(
    "address", [("fe80::1", 4433, 0, 2), b"\x00\xff connection id", "/run/peer\udcff", 17]
)
def test_every_kind_of_address_can_be_used(factory: CookieFactory, address: Hashable) -> None:
    hello = answered(factory, 0.0, address=address)
    assert factory.verify(address, hello, 0.0)
    assert not factory.verify(ADDRESS, hello, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"version": DTLS_1_0},
        {"random": bytes(32)},
        {"cipher_suites": b"\xc0\x2f\xc0\x2b"},
        {"cipher_suites": b"\xc0\x2b"},
        {"compression_methods": b"\x01\x00"},
    ],
    ids=["version", "random", "order of cipher suites", "fewer cipher suites", "compression methods"],
)
def test_a_cookie_is_refused_with_another_hello(factory: CookieFactory, change: dict[str, bytes]) -> None:
    hello = answered(factory, 0.0)._replace(**change)  # type: ignore[arg-type]
    assert not factory.verify(ADDRESS, hello, 0.0)


@pytest.mark.parametrize("change", [{"session_id": bytes(32)}, {"extensions": b"\x00\x15\x00\x00"}])
def test_session_id_and_extensions_may_change_between_the_hellos(
    factory: CookieFactory, change: dict[str, bytes]
) -> None:
    hello = answered(factory, 0.0)._replace(**change)  # type: ignore[arg-type]
    assert factory.verify(ADDRESS, hello, 0.0)


@given(
    st.lists(st.binary(max_size=6), min_size=2, max_size=2),
    st.lists(st.binary(max_size=6), min_size=2, max_size=2),
)
def test_bytes_that_move_from_one_field_to_the_next_make_another_hello(
    one: list[bytes], other: list[bytes]
) -> None:
    factory = CookieFactory(random_bytes=CountedBytes())
    given_cookie = answered(
        factory, 0.0, hello=HELLO._replace(cipher_suites=one[0], compression_methods=one[1])
    )
    shown = given_cookie._replace(cipher_suites=other[0], compression_methods=other[1])
    assert factory.verify(ADDRESS, shown, 0.0) == (one == other)


def test_a_field_boundary_cannot_be_moved_without_changing_the_joined_bytes(factory: CookieFactory) -> None:
    hello = HELLO._replace(cipher_suites=b"\x00\x2f\x00\x35", compression_methods=b"\x01\x00")
    moved = hello._replace(cipher_suites=b"\x00\x2f", compression_methods=b"\x00\x35\x01\x00")
    shown = answered(factory, 0.0, hello=hello)
    assert factory.verify(ADDRESS, shown, 0.0)
    assert not factory.verify(ADDRESS, moved._replace(cookie=shown.cookie), 0.0)
    # Likewise between the address and the random that follows it.
    shown = answered(factory, 0.0, address=b"peer", hello=HELLO._replace(random=b"12" + bytes(30)))
    assert not factory.verify(b"peer1", shown._replace(random=b"2" + bytes(30)), 0.0)


@pytest.mark.parametrize(
    "length", [0, 1, SALT_LENGTH, COOKIE_LENGTH - 1, COOKIE_LENGTH + 1, MAX_COOKIE_LENGTH]
)
def test_a_cookie_of_another_length_is_refused(factory: CookieFactory, length: int) -> None:
    cookie = (answered(factory, 0.0).cookie + bytes(MAX_COOKIE_LENGTH))[:length]
    assert not factory.verify(ADDRESS, HELLO._replace(cookie=cookie), 0.0)


def test_a_cookie_with_any_bit_changed_is_refused(factory: CookieFactory) -> None:
    hello = answered(factory, 0.0)
    for bit in range(8 * COOKIE_LENGTH):
        changed = (int.from_bytes(hello.cookie, "big") ^ 1 << bit).to_bytes(COOKIE_LENGTH, "big")
        assert not factory.verify(ADDRESS, hello._replace(cookie=changed), 0.0), bit


def test_the_secret_is_kept_for_its_lifetime_and_drawn_anew_after_it(
    factory: CookieFactory, random_bytes: CountedBytes
) -> None:
    start = 30.0
    factory.generate(ADDRESS, HELLO, start)
    factory.generate(ADDRESS, HELLO, LIFETIME - 1)
    assert random_bytes.secrets == 1
    factory.generate(ADDRESS, HELLO, LIFETIME)
    assert random_bytes.secrets == 2


def test_verifying_draws_a_new_secret_too(factory: CookieFactory, random_bytes: CountedBytes) -> None:
    hello = answered(factory, 0.0)
    assert not factory.verify(ADDRESS, hello, LIFETIME)
    assert random_bytes.secrets == 2


def test_a_cookie_made_just_before_the_secret_changes_counts_just_after(
    factory: CookieFactory, random_bytes: CountedBytes
) -> None:
    factory.generate(ADDRESS, HELLO, 0.0)
    old = answered(factory, LIFETIME - 1.0)
    new = answered(factory, LIFETIME + 1.0)
    assert random_bytes.secrets == 2
    assert factory.verify(ADDRESS, old, LIFETIME + 1.0)
    assert factory.verify(ADDRESS, new, LIFETIME + 1.0)
    assert not factory.verify(ADDRESS, old, LIFETIME + SLOT)
    assert factory.verify(ADDRESS, new, LIFETIME + SLOT)


def test_a_secret_that_was_replaced_makes_no_cookie_of_the_new_slot(random_bytes: CountedBytes) -> None:
    # Whoever learned the old secret must not profit from it in the slots of the new one.
    fixed = b"old secret".ljust(SECRET_LENGTH)
    draws = iter([fixed, bytes(SALT_LENGTH), b"new secret".ljust(SECRET_LENGTH), bytes(SALT_LENGTH)])
    factory = CookieFactory(slot=SLOT, secret_lifetime=SLOT, random_bytes=lambda _: next(draws))
    factory.generate(ADDRESS, HELLO, 0.0)
    thief = CookieFactory(slot=SLOT, random_bytes=lambda length: fixed[:length])
    stolen = answered(thief, SLOT)
    assert not factory.verify(ADDRESS, stolen, SLOT)


@pytest.mark.parametrize("lifetime", [SLOT, 1.5 * SLOT, 2 * SLOT])
def test_every_cookie_counts_one_slot_later_even_with_the_shortest_lives_of_secrets(lifetime: float) -> None:
    factory = CookieFactory(slot=SLOT, secret_lifetime=lifetime)
    half = SLOT / 2
    given_out: list[ClientHello] = []
    for step in range(20):
        given_out.append(answered(factory, step * half))
        # Two halves of a slot ago, in the order of time: a monotonic clock does not go back.
        assert step < 2 or factory.verify(ADDRESS, given_out[step - 2], step * half), step


@given(st.floats(min_value=-1e9, max_value=1e9), st.floats(min_value=0.0, max_value=500.0))
def test_the_age_at_which_a_cookie_stops_counting_is_one_to_two_slots(now: float, age: float) -> None:
    factory = CookieFactory(slot=SLOT, secret_lifetime=LIFETIME)
    counts = factory.verify(ADDRESS, answered(factory, now), now + age)
    if age <= SLOT - 0.001:
        assert counts
    if age >= 2 * SLOT:
        assert not counts


@pytest.mark.parametrize("slot", [0.0, -1.0])
def test_a_slot_of_no_length_is_refused(slot: float) -> None:
    with pytest.raises(ValueError, match="slot must be greater than 0"):
        CookieFactory(slot=slot)


def test_a_secret_that_lives_less_than_a_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        CookieFactory(slot=60.0, secret_lifetime=59.9)
    CookieFactory(slot=60.0, secret_lifetime=60.0)


# --- shared by several processes -------------------------------------------------------------------------------------


def sharing(secret: bytes = bytes(range(SECRET_LENGTH))) -> CookieFactory:
    return CookieFactory(slot=SLOT, secret_lifetime=LIFETIME, secret=secret)


def test_a_cookie_counts_at_every_factory_with_the_same_secret() -> None:
    one, other = sharing(), sharing()
    assert other.verify(ADDRESS, answered(one, 0.0), 0.0)
    assert one.verify(ADDRESS, answered(other, 1.0), 1.0)


def test_a_cookie_of_a_factory_with_another_secret_does_not_count() -> None:
    assert not sharing(b"another".ljust(SECRET_LENGTH)).verify(ADDRESS, answered(sharing(), 0.0), 0.0)


@pytest.mark.parametrize("begun", [0.0, 1.0, LIFETIME / 2 + 7.0, LIFETIME - 1.0])
def test_factories_that_began_at_different_times_change_the_shared_secret_together(begun: float) -> None:
    first, second = sharing(), sharing()
    first.generate(ADDRESS, HELLO, 0.0)
    second.generate(ADDRESS, HELLO, begun)
    for change in (LIFETIME, 2 * LIFETIME, 7 * LIFETIME):
        before, after = answered(first, change - 1.0), answered(first, change + 1.0)
        late = sharing()  # of a process that has just been started
        for factory in (second, late):
            assert factory.verify(ADDRESS, before, change - 0.5)
            assert factory.verify(ADDRESS, before, change + 1.0)
            assert factory.verify(ADDRESS, after, change + 1.0)
            assert not factory.verify(ADDRESS, before, change + SLOT)


def test_the_shared_secret_of_one_period_makes_no_cookie_of_the_next() -> None:
    factory = sharing()
    learned = factory._secret_of(0)
    assert learned not in {factory._secret_of(1), factory._secret_of(-1), bytes(range(SECRET_LENGTH))}
    thief = CookieFactory(slot=SLOT, secret_lifetime=1e9, random_bytes=lambda length: learned[:length])
    assert factory.verify(ADDRESS, answered(thief, LIFETIME - 1.0), LIFETIME - 1.0)
    assert not factory.verify(ADDRESS, answered(thief, LIFETIME), LIFETIME)


def test_nothing_is_kept_of_secrets_that_are_over() -> None:
    for factory in (sharing(), CookieFactory(slot=SLOT, secret_lifetime=LIFETIME)):
        for period in range(20):
            factory.verify(ADDRESS, answered(factory, period * LIFETIME), period * LIFETIME)
        assert len(factory._keys) == KEPT_SECRETS


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes, not 31"):
        CookieFactory(secret=bytes(31))
    with pytest.raises(TypeError):
        CookieFactory(secret="x" * SECRET_LENGTH)  # type: ignore[arg-type]
