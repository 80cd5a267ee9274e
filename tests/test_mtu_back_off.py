"""A path that takes less than was thought loses the same flight again and again, until it is cut smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dtls.certificates import CertificateAuthority
from dtls.context import CERT_REQUIRED, PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context
from dtls.errors import HandshakeTimeout
from dtls.flights import BACK_OFF_MTUS, MINIMUM_MTU, Packer, SentFlight

from .pair import OTHER, Pair

if TYPE_CHECKING:
    from collections.abc import Callable

LOWEST = BACK_OFF_MTUS[-1]


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority("RSA root", key_type="rsa")


@pytest.fixture
def contexts(authority: CertificateAuthority) -> tuple[Context, Context]:
    """Both sides show certificates that need several datagrams."""
    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    middle = authority.intermediate("middle", key_type="rsa")
    client.load_cert_chain(middle.issue("a client", key_type="rsa", client=True).private_key_and_chain_pem)
    server.load_cert_chain(middle.issue("localhost", key_type="rsa").private_key_and_chain_pem)
    for context in (client, server):
        context.load_verify_locations(cadata=authority.certificate_pem)
    server.verify_mode = CERT_REQUIRED
    return client, server


def path_of(limit: int) -> Callable[[str, int, bytes], list[bytes]]:
    """A path that loses longer datagrams without a word."""
    return lambda _, __, datagram: [datagram] if len(datagram) <= limit else []


@pytest.mark.parametrize("limit", [1232, 1000, LOWEST])
def test_a_handshake_completes_over_a_path_that_takes_less(
    contexts: tuple[Context, Context], limit: int
) -> None:
    both = Pair(*contexts, tap=path_of(limit))
    both.run()
    assert both.established, both.events
    for name in OTHER:
        assert both.end(name).statistics["mtu_backed_off"] == (1 if limit == 1232 else 2)
    both.assert_talks()


def test_with_back_off_switched_off_it_does_not(contexts: tuple[Context, Context]) -> None:
    for context in contexts:
        assert context.mtu_back_off
        context.mtu_back_off = False
    both = Pair(*contexts, tap=path_of(1232))
    both.run()
    assert isinstance(both.failure("client"), HandshakeTimeout)
    assert not both.client.statistics["mtu_backed_off"]


def test_the_first_repeat_is_as_large_as_the_flight_was(contexts: tuple[Context, Context]) -> None:
    both = Pair(*contexts, tap=lambda sender, _, datagram: [] if sender == "server" else [datagram])
    both.settle()
    largest = [max(len(datagram) for name, datagram in both.sent if name == "server")]
    for _ in range(4):
        due = both.server.next_timeout()
        assert due is not None
        both.server.handle_timeout(due)
        largest.append(max(map(len, both.server.datagrams_to_send(due))))
    assert largest[:2] == [1350, 1350]
    assert largest[2:] == [1232, LOWEST, LOWEST]


def test_messages_are_not_limited_by_it(contexts: tuple[Context, Context]) -> None:
    limits = set()
    for limit in (65_507, LOWEST):
        both = Pair(*contexts, tap=path_of(limit))
        both.run()
        limits.add(both.client.max_message_size)
    assert len(limits) == 1


@pytest.mark.parametrize("mtu", [MINIMUM_MTU, LOWEST, 900, 1350, 9000])
def test_it_never_grows_and_has_an_end(mtu: int) -> None:
    flight = SentFlight(Packer(mtu))
    assert not flight.back_off(0)
    assert flight.packer.mtu == mtu
    for repeats in range(1, 10):
        before = flight.packer.mtu
        changed = flight.back_off(repeats)
        assert flight.packer.mtu <= before
        assert changed is (flight.packer.mtu < before)
    assert flight.packer.mtu == min(mtu, LOWEST)


def test_an_idle_time_is_a_setting_for_whoever_keeps_many_associations() -> None:
    context = Context(PROTOCOL_DTLS_SERVER)
    assert context.idle_timeout is None
    context.idle_timeout = 90
    assert context.idle_timeout == 90.0
    for nonsense in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="idle_timeout"):
            context.idle_timeout = nonsense
    context.idle_timeout = None
    assert context.idle_timeout is None
