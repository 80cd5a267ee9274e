"""Short handshakes and handshakes with pre-shared keys stand up to strangers as the usual ones do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dtls.context import PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context, DTLSVersion
from dtls.engines.openssl.binding import lib
from dtls.flights import SentFlight
from dtls.wire import ContentType, HandshakeType, build_handshake

from .forge import Insider
from .pair import OTHER, Pair
from .test_hostile import HauntedPair, assert_lives, each_kind, forged

if TYPE_CHECKING:
    from dtls.session import DTLSSession

needs_sessions = pytest.mark.skipif(
    not hasattr(lib, "i2d_SSL_SESSION"), reason="cryptography before 44 gives no session"
)
KEY = bytes(range(16))


def resumable(client: Context, server: Context, kind: str) -> DTLSSession:
    server.session_tickets, server.session_cache = kind == "ticket", kind == "id"
    both = Pair(client, server)
    both.run()
    session = both.client.session
    assert session is not None
    return session


@needs_sessions
@each_kind
@pytest.mark.parametrize("cookies", [False, True])
@pytest.mark.parametrize("how", ["ticket", "id"])
def test_a_short_handshake_completes_among_forgeries(
    client: Context, server: Context, kind: str, cookies: bool, how: str
) -> None:
    session = resumable(client, server, how)
    pair = HauntedPair(client, server, cookies=cookies, session=session)
    pair.forged = forged(kind)
    pair.haunt()
    pair.run()
    assert pair.established, pair.events
    assert pair.client.session_reused
    pair.assert_talks()


@each_kind
@pytest.mark.parametrize("suite", ["PSK-AES128-GCM-SHA256", "ECDHE-PSK-CHACHA20-POLY1305", "PSK-AES128-CCM8"])
def test_a_handshake_with_a_key_completes_among_forgeries(kind: str, suite: str) -> None:
    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    client.set_psk("x", KEY)
    server.set_psks({"x": KEY})
    for context in (client, server):
        context.set_ciphers(suite)
    pair = HauntedPair(client, server, server_hostname=None)
    pair.forged = forged(kind)
    pair.run()
    assert pair.established, pair.events
    pair.assert_talks()


@needs_sessions
@pytest.mark.parametrize("how", ["ticket", "id"])
def test_sessions_of_dtls_1_0_are_resumed_by_those_who_ask_for_it(
    client: Context, server: Context, how: str
) -> None:
    for context in (client, server):
        context.minimum_version = context.maximum_version = DTLSVersion.DTLSv1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    pair = Pair(client, server, session=resumable(client, server, how))
    pair.run()
    assert pair.established
    assert pair.server.session_reused
    pair.assert_talks()
    assert pair.client.get_channel_binding() == pair.server.get_channel_binding() is not None


@needs_sessions
@pytest.mark.parametrize("receiver", OTHER)
def test_authentic_repeats_of_the_finished_end_no_resumed_association(
    client: Context, server: Context, receiver: str
) -> None:
    """On the client, whose last flight it asks for, and on the server, who waits for nothing any more."""
    pair = Pair(client, server, session=resumable(client, server, "ticket"))
    pair.run()
    assert pair.client.session_reused
    insider = Insider(pair.end(OTHER[receiver]))
    content = build_handshake(HandshakeType.FINISHED, 3, bytes(12))
    answered = len(pair.sent)
    for _ in range(500):
        pair.now += 0.01
        assert pair.deliver(receiver, insider.protect(ContentType.HANDSHAKE, content)) == []
    answers = len(pair.sent) - answered
    assert answers == 0 if receiver == "server" else 5 <= answers <= 5 / SentFlight.SPACING
    assert_lives(pair, receiver, insider)
