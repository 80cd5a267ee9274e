"""Pre-shared keys authenticate both sides, identities are bytes, and what callbacks do wrong ends one handshake."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from dtls.connection import ConnectionState
from dtls.context import CERT_NONE, PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context
from dtls.errors import HandshakeTimeout, SSLError

from .loopback import pair
from .pair import OTHER, Pair, losing

if TYPE_CHECKING:
    import dtls
    from dtls.certificates import CertificateAuthority

KEY = bytes(range(16))


@pytest.fixture
def server() -> Context:
    """A server with one key and no certificate."""
    context = Context(PROTOCOL_DTLS_SERVER)
    context.set_psks({"sensor 1": KEY})
    return context


@pytest.fixture
def client() -> Context:
    """A client with that key."""
    context = Context(PROTOCOL_DTLS_CLIENT)
    context.set_psk("sensor 1", KEY)
    return context


def finish(client: Context, server: Context, **options: Any) -> Pair:
    both = Pair(client, server, **{"server_hostname": None, **options})
    both.run()
    return both


def noting(said: list[Any], answer: Any) -> Any:
    """A callback that notes what it is given."""

    def callback(what: object) -> Any:
        said.append(what)
        return answer

    return callback


def refused(both: Pair, name: str) -> SSLError:
    error = both.failure(name)
    assert isinstance(error, SSLError), both.events
    return error


# --- keys in common --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cookies", [False, True])
def test_a_key_in_common_authenticates_both_sides_without_certificates(
    client: Context, server: Context, cookies: bool
) -> None:
    both = finish(client, server, cookies=cookies)
    assert both.established
    assert both.client.psk_identity() == both.server.psk_identity() == b"sensor 1"
    assert both.client.cipher() == ("ECDHE-PSK-CHACHA20-POLY1305", "TLSv1.2", 256)
    assert both.client.peer_certificate() is None
    both.assert_talks()


@pytest.mark.parametrize("suite", ["PSK-AES128-GCM-SHA256", "PSK-AES128-CCM", "ECDHE-PSK-AES128-CBC-SHA256"])
def test_the_suite_is_the_one_that_is_named(client: Context, server: Context, suite: str) -> None:
    client.set_ciphers(suite)
    server.set_ciphers(suite)
    both = finish(client, server)
    cipher = both.client.cipher()
    assert cipher is not None
    assert cipher[0] == suite
    both.assert_talks()


@pytest.mark.parametrize("lost", [(name, index) for name in OTHER for index in range(2)])
def test_the_handshake_survives_the_loss_of_any_datagram(
    client: Context, server: Context, lost: tuple[str, int]
) -> None:
    both = finish(client, server, tap=losing(lost))
    assert both.established
    both.assert_talks()


def test_psk_identity_is_known_when_the_handshake_is_complete(client: Context, server: Context) -> None:
    both = Pair(client, server, server_hostname=None)
    assert both.client.psk_identity() is None
    both.run()
    assert both.client.psk_identity() == b"sensor 1"


def test_there_is_no_identity_where_certificates_were_used(
    ca: CertificateAuthority,
) -> None:
    issued = ca.issue("localhost")
    both_server = Context(PROTOCOL_DTLS_SERVER)
    both_server.load_cert_chain(issued.private_key_and_chain_pem)
    both_server.set_psks({"sensor 1": KEY})
    with_certificates = Context(PROTOCOL_DTLS_CLIENT)
    with_certificates.load_verify_locations(cadata=ca.certificate_pem)
    both = finish(with_certificates, both_server, server_hostname="localhost")
    assert both.established
    assert both.server.psk_identity() is None


def test_a_server_with_both_serves_clients_with_either(ca: CertificateAuthority, client: Context) -> None:
    both_server = Context(PROTOCOL_DTLS_SERVER)
    both_server.load_cert_chain(ca.issue("localhost").private_key_and_chain_pem)
    both_server.set_psks({"sensor 1": KEY})
    assert finish(client, both_server).server.psk_identity() == b"sensor 1"


def test_sockets_tell_the_identity(client: Context, server: Context) -> None:
    near, far = pair(client, server)
    with near, far:
        assert near.psk_identity() == far.psk_identity() == b"sensor 1"
        near.send(b"21.5 C")
        assert far.recv() == b"21.5 C"


# --- what is offered -------------------------------------------------------------------------------------------------


def suites(context: Context) -> set[str]:
    return {suite["name"] for suite in context.get_ciphers()}


@pytest.mark.parametrize("protocol", [PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER])
def test_no_psk_suite_is_offered_without_a_key(protocol: dtls.Protocol) -> None:
    assert not any("PSK" in name for name in suites(Context(protocol)))


def test_a_client_with_a_key_offers_only_suites_that_use_it(client: Context) -> None:
    assert suites(client)
    assert all("PSK" in name for name in suites(client))
    assert not any("CCM8" in name or "CBC" in name or "RSA" in name for name in suites(client))


def test_a_server_with_a_key_prefers_the_suites_that_use_it(server: Context) -> None:
    names = [suite["name"] for suite in server.get_ciphers()]
    assert "PSK" in names[0]
    assert "PSK" not in names[-1]


def test_a_client_with_a_key_needs_no_host_name_unless_it_offers_certificates(
    client: Context, server: Context
) -> None:
    assert client.check_hostname
    assert finish(client, server).established
    client.set_ciphers("PSK-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
    with pytest.raises(ValueError, match="server_hostname"):
        client.connection(0.0)


def test_a_certificate_that_nobody_verifies_does_not_stand_in_for_the_key(
    ca: CertificateAuthority, client: Context
) -> None:
    client.check_hostname = False
    client.verify_mode = CERT_NONE
    client.set_ciphers("PSK-AES128-GCM-SHA256:ECDHE+AESGCM")
    impostor = Context(PROTOCOL_DTLS_SERVER)
    impostor.load_cert_chain(ca.issue("localhost").private_key_and_chain_pem)
    both = finish(client, impostor)
    assert not both.established
    assert refused(both, "server").reason == "NO_SHARED_CIPHER"


def test_a_key_can_be_taken_back(client: Context, server: Context) -> None:
    client.set_psk_client_callback(None)
    server.set_psks(None)
    assert not any("PSK" in name for name in suites(client) | suites(server))


# --- callbacks -------------------------------------------------------------------------------------------------------


def test_callbacks_have_the_signatures_of_the_standard_library() -> None:
    said: list[object] = []

    def psk_of_client(hint: str | None) -> tuple[str | None, bytes]:
        said.append(hint)
        return "the identity", KEY

    def psk_of_server(identity: str | None) -> bytes:
        said.append(identity)
        return KEY

    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    client.set_psk_client_callback(psk_of_client)
    server.set_psk_server_callback(psk_of_server, "the hint")
    assert finish(client, server).established
    assert said == ["the hint", "the identity"]


def test_without_hint_and_identity_callbacks_get_none() -> None:
    said: list[object] = []
    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    client.set_psk_client_callback(noting(said, (None, KEY)))
    server.set_psk_server_callback(noting(said, KEY))
    both = finish(client, server)
    assert both.established
    assert said == [None, None]
    assert both.server.psk_identity() == b""


@pytest.mark.parametrize("identity", ["größer", "\udcff\udcfe", b"\xff\xfe", "x" * 256])
def test_identities_are_text_or_bytes(identity: str | bytes) -> None:
    expected = identity if isinstance(identity, bytes) else identity.encode("utf-8", "surrogateescape")
    text: list[object] = []
    binary: list[object] = []
    client = Context(PROTOCOL_DTLS_CLIENT)
    client.set_psk(identity, KEY)
    for seen, binary_form in ((text, False), (binary, True)):
        server = Context(PROTOCOL_DTLS_SERVER)
        server.set_psk_server_callback(noting(seen, KEY), binary_form=binary_form)
        both = finish(client, server)
        assert both.established
        assert both.server.psk_identity() == expected
    assert binary == [expected]
    assert text == [expected.decode("utf-8", "surrogateescape")]


@pytest.mark.parametrize("key", ["ein Schlüssel", "ein Schlüssel".encode()])
def test_a_mapping_may_have_text_or_bytes(key: Any) -> None:
    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    client.set_psk("ein Schlüssel", KEY)
    server.set_psks({key: KEY})
    assert finish(client, server).established


def test_a_mapping_is_asked_at_each_handshake(client: Context) -> None:
    keys: dict[str, bytes] = {}
    server = Context(PROTOCOL_DTLS_SERVER)
    server.set_psks(keys)
    assert not finish(client, server).established
    keys["sensor 1"] = KEY
    assert finish(client, server).established


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [b"", None])
def test_an_identity_that_is_not_known_is_refused_and_the_client_told(
    client: Context, server: Context, answer: Any
) -> None:
    server.set_psk_server_callback(lambda _: answer)
    both = finish(client, server)
    error = refused(both, "server")
    assert error.reason == "PSK_IDENTITY_NOT_FOUND"
    assert "sensor 1" in str(error)
    assert "UNKNOWN_PSK_IDENTITY" in refused(both, "client").reason
    assert "does not know the PSK identity" in str(refused(both, "client"))


def test_another_key_is_not_accepted_and_the_error_says_what_to_look_at(
    client: Context, server: Context
) -> None:
    client.set_psk("sensor 1", KEY[::-1])
    both = finish(client, server)
    for name in OTHER:
        error = refused(both, name)
        assert isinstance(error, HandshakeTimeout)
        assert "same key" in str(error)
        assert "sensor 1" in str(error)
    assert len(both.sent) < 60


@pytest.mark.parametrize("side", ["client", "server"])
def test_what_a_callback_raises_ends_the_handshake_with_its_cause_and_no_secret_in_the_log(
    client: Context, server: Context, side: str, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    def fail(said: object) -> Any:
        raise LookupError(said, "a secret")

    if side == "client":
        client.set_psk_client_callback(fail)
    else:
        server.set_psk_server_callback(fail)
    with caplog.at_level(logging.DEBUG):
        both = finish(client, server)
    error = refused(both, side)
    assert isinstance(error.__cause__, LookupError)
    assert error.reason == "CALLBACK_FAILED"
    assert "LookupError" in caplog.text
    assert "secret" not in caplog.text
    assert capfd.readouterr() == ("", "")
    assert both.end(side).state is ConnectionState.FAILED


@pytest.mark.parametrize("answer", [None, 1, "text", (), ("i", "k"), (1, KEY), ("i", KEY * 33), ("i\0", KEY)])
def test_nonsense_from_a_client_callback_is_its_error(client: Context, server: Context, answer: Any) -> None:
    client.set_psk_client_callback(lambda _: answer)
    error = refused(finish(client, server), "client")
    assert isinstance(error.__cause__, (TypeError, ValueError))


@pytest.mark.parametrize("answer", [1, "text", KEY * 33])
def test_nonsense_from_a_server_callback_is_its_error(client: Context, server: Context, answer: Any) -> None:
    server.set_psk_server_callback(lambda _: answer)
    both = finish(client, server)
    assert isinstance(refused(both, "server").__cause__, (TypeError, ValueError))
    assert "INTERNAL_ERROR" in refused(both, "client").reason


def test_a_client_callback_that_has_no_key_ends_the_handshake(client: Context, server: Context) -> None:
    client.set_psk_client_callback(lambda _: ("sensor 1", b""))
    assert refused(finish(client, server), "client").reason == "PSK_IDENTITY_NOT_FOUND"


def test_keyboard_interrupt_in_a_callback_is_not_swallowed(client: Context, server: Context) -> None:
    def interrupt(_: object) -> bytes:
        raise KeyboardInterrupt

    server.set_psk_server_callback(interrupt)
    both = Pair(client, server, server_hostname=None)
    with pytest.raises(KeyboardInterrupt):
        both.run()
    both.run()
    assert refused(both, "server").reason == "CALLBACK_FAILED", "it is raised once, and the handshake is over"


def test_an_identity_with_nul_is_refused_on_both_sides(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="NUL"):
        client.set_psk("sensor 1\0x", KEY)
    assert finish(client, server).established, "what was set before stands"
    # A client of another engine may well say such a thing; OpenSSL would cut it and find sensor 1's key.
    from dtls.engines.openssl.association import Association  # noqa: PLC0415

    def note_with_nul(self: Association, body: bytes) -> None:
        assert body.endswith(b"sensor 1")
        self._offered_identity = b"sensor 1\0x"

    client.set_ciphers("PSK-AES128-GCM-SHA256")
    monkeypatch.setattr(Association, "note_key_exchange", note_with_nul)
    both = finish(client, server)
    assert "NUL" in str(refused(both, "server"))
    assert "UNKNOWN_PSK_IDENTITY" in refused(both, "client").reason


def test_a_second_identity_is_not_looked_up_for_the_first(server: Context) -> None:
    """A ClientKeyExchange that comes along with another one must not lend its identity to it."""
    from dtls.engines.openssl.association import Association  # noqa: PLC0415

    association = Association(server, server.connection(0.0))  # type: ignore[arg-type]
    for identity in (b"sensor 1", b"somebody else"):
        association.note_key_exchange(len(identity).to_bytes(2, "big") + identity)
    assert association.psk_for_server() == KEY
    assert association.psk_identity == b"sensor 1"


@pytest.mark.parametrize("kind", ["ticket", "id"])
def test_a_server_that_could_not_tell_whose_session_it_is_resumes_none(
    client: Context, server: Context, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With cryptography before 44 the identity that a session was made with is not known."""
    server.session_tickets, server.session_cache = kind == "ticket", kind == "id"
    monkeypatch.setattr("dtls.engines.openssl.binding_sessions.SERIALIZES", False)
    server._changed()
    both = finish(client, server)
    assert both.established
    assert both.server.psk_identity() == b"sensor 1"
    assert not server._engine()._resumes
    sent = b"".join(datagram for name, datagram in both.sent if name == "server")
    assert sent[25 + 2 + 32] == 0, "no session id"


def test_settings_that_make_no_sense_are_refused(client: Context, server: Context) -> None:
    for identity, key in (("x" * 257, KEY), ("x", KEY * 33), ("x", b"")):
        with pytest.raises(ValueError):
            client.set_psk(identity, key)
    mistyped: list[tuple[Any, Any]] = [(1, KEY), ("x", "text"), (None, KEY)]
    for identity, key in mistyped:
        with pytest.raises(TypeError):
            client.set_psk(identity, key)
    with pytest.raises(ValueError, match="set_psks"):
        server.set_psk("x", KEY)
    with pytest.raises(SSLError, match="server callback"):
        client.set_psks({"x": KEY})
    with pytest.raises(SSLError, match="client callback"):
        server.set_psk_client_callback(lambda _: ("x", KEY))
    for nonsense in (b"key", ["x"], 1):
        with pytest.raises(TypeError):
            server.set_psks(nonsense)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        server.set_psks({"x": b""})
    with pytest.raises(TypeError):
        server.set_psks({"x": "text"})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        server.set_psk_server_callback("no callback")  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        server.set_psk_server_callback(lambda _: KEY, "h" * 257)
    assert finish(client, server).established, "what was set before stands"


# --- AES-CCM for CoAP (RFC 7252, 9.1.3) ------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", ["PSK-AES128-CCM8", "PSK-AES256-CCM8"])
def test_ccm_8_is_had_by_naming_it(client: Context, server: Context, suite: str) -> None:
    client.set_ciphers(suite)
    server.set_ciphers(suite)
    both = finish(client, server)
    cipher = both.server.cipher()
    assert cipher is not None
    assert cipher[0] == suite
    both.assert_talks()


def test_ccm_8_with_certificates_is_had_by_naming_it(ca: CertificateAuthority) -> None:
    server, client = Context(PROTOCOL_DTLS_SERVER), Context(PROTOCOL_DTLS_CLIENT)
    server.load_cert_chain(ca.issue("localhost").private_key_and_chain_pem)
    client.load_verify_locations(cadata=ca.certificate_pem)
    for context in (client, server):
        context.set_ciphers("ECDHE-ECDSA-AES128-CCM8")
    both = finish(client, server, server_hostname="localhost")
    assert both.established
    both.assert_talks()


def test_ccm_8_that_another_word_shuts_out_is_an_error_that_says_so(client: Context) -> None:
    with pytest.raises(SSLError, match="one by one"):
        client.set_ciphers("DEFAULT:PSK-AES128-CCM8")


@pytest.mark.parametrize("ciphers", ["ALL", "PSK", "PSK:!AESCCM8"])
def test_ccm_8_is_not_had_by_the_way(client: Context, server: Context, ciphers: str) -> None:
    client.set_ciphers("PSK-AES128-CCM8")
    server.set_ciphers(ciphers)
    assert not finish(client, server).established
