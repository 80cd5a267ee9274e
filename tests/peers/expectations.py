"""What is expected of a stack: which tests it cannot pass, and what both sides see of an association."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dtls.sockets import DTLSSocket, create_connection
from tests.loopback import PATIENCE

from .programs import Program, assert_server_talks
from .stacks import STACKS, Ability, Stack, plain_suite

if TYPE_CHECKING:
    from dtls.context import Context


def expected(ability: Ability, *parameters: str, run: bool = True) -> list[Any]:
    """Every stack, with further parameters; a test is expected to fail with those that lack the ability."""
    return [
        pytest.param(
            name,
            *parameters,
            marks=pytest.mark.xfail(ability in stack.unable, reason=stack.unable.get(ability, ""), run=run),
        )
        for name, stack in STACKS.items()
    ]


def needs(ability: Ability, *, run: bool = True) -> pytest.MarkDecorator:
    """A test of what not every stack can do."""
    return pytest.mark.parametrize("stack", expected(ability, run=run), indirect=True, scope="module")


def give_up_early(stack: Stack, ability: Ability, context: Context) -> None:
    """Do not wait long for a handshake that is expected to fail."""
    if ability in stack.unable:
        context.handshake_timeout = 2.0


def connect(client: Context, address: tuple[str, int], name: str = "localhost") -> DTLSSocket:
    return create_connection(address, PATIENCE, context=client, server_hostname=name)


def assert_both_see_the_same(stack: Stack, program: Program, sock: DTLSSocket, peer: str) -> None:
    """Version, suite, and our common name as the other side sees it."""
    assert sock.version() == "DTLSv1.2"
    negotiated = sock.cipher()
    assert negotiated is not None
    ours = plain_suite(negotiated[0])
    assert ours.startswith("ECDHE")
    view = stack.view(program)
    if view is None:
        return
    assert view.peer == peer
    if view.suite is not None:
        # OpenSSL leaves the hash of the ChaCha20 suites out, GnuTLS that of all.
        assert ours.startswith(view.suite) or (view.suite.startswith(ours) and "CHACHA20" in ours)


def assert_echoed(stack: Stack, program: Program, sock: DTLSSocket) -> None:
    """Messages in both directions over an association with its server."""
    if Ability.SPEAK not in stack.unable:
        assert_server_talks(program, sock)
        return
    for message in (b"hello\n", b"and again\n"):
        sock.send(message)
        assert sock.recv() == message
