"""What a finalizer, or the handler of a signal, does with one association in the midst of a call for another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dtls.engines.openssl import connection as engine

from .pair import Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from dtls.context import Context

OURS, OTHERS = b"ours" * 20, b"a secret of others' " * 4


def amid(patch: pytest.MonkeyPatch, name: str, then: Callable[[], object]) -> None:
    """Have ``then`` called once, right after OpenSSL's function has been."""
    call = getattr(engine, name)

    def interrupted(*arguments: Any) -> Any:
        result = call(*arguments)
        patch.setattr(engine, name, call)
        then()
        return result

    patch.setattr(engine, name, interrupted)


def two_pairs(client: Context, server: Context) -> tuple[Pair, Pair]:
    pairs = Pair(client, server), Pair(client, server)
    for pair in pairs:
        pair.run()
        assert pair.established
    return pairs


def test_a_message_is_the_one_that_came(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, others = two_pairs(client, server)
    datagram = ours.client.protect(OURS)
    amid(monkeypatch, "ssl_read", lambda: others.client.protect(OTHERS))
    assert ours.server.unprotect(datagram, ours.now) == OURS


def test_no_message_of_another_association_is_sent_in_the_clear(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, others = two_pairs(client, server)
    secret = others.client.protect(OTHERS)
    amid(monkeypatch, "bio_read", lambda: others.server.unprotect(secret, others.now))
    assert ours.server.unprotect(ours.client.protect(OURS), ours.now) == OURS
