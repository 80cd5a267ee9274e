"""A server has several names: the one that the client asks for says which context answers it."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtls.connection import ConnectionState
from dtls.context import CERT_REQUIRED, PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context
from dtls.errors import SSLError
from dtls.wire import (
    AlertDescription,
    ClientHello,
    WireError,
    server_name_untrusted,
    split_records_untrusted,
)

from .loopback import Worker, pair
from .pair import Pair

if TYPE_CHECKING:
    from dtls.certificates import CertificateAuthority
    from dtls.connection import Connection

KEY = bytes(range(16))


def server_for(ca: CertificateAuthority, name: str) -> Context:
    context = Context(PROTOCOL_DTLS_SERVER)
    context.load_cert_chain(ca.issue(name).private_key_and_chain_pem)
    return context


@pytest.fixture
def contexts(ca: CertificateAuthority) -> dict[str, Context]:
    """One context for each of two names."""
    return {name: server_for(ca, name) for name in ("a.example", "b.example")}


@pytest.fixture
def front(ca: CertificateAuthority) -> Context:
    """Who is there when neither is asked for."""
    return server_for(ca, "front.example")


def finish(client: Context, server: Context, name: str | None, **options: Any) -> Pair:
    both = Pair(client, server, server_hostname=name, **options)
    both.run()
    return both


@pytest.mark.parametrize("cookies", [False, True])
@pytest.mark.parametrize("name", ["a.example", "b.example", "B.Example", "front.example"])
def test_each_name_is_answered_by_its_own_context(
    client: Context, front: Context, contexts: dict[str, Context], name: str, cookies: bool
) -> None:
    front.set_sni_contexts(contexts)
    both = finish(client, front, name, cookies=cookies)
    assert both.established, both.events
    assert both.server.context is contexts.get(name.lower(), front)
    assert both.server.server_hostname == name
    both.assert_talks()


def test_the_callback_gets_the_connection_the_name_and_the_context(client: Context, front: Context) -> None:
    said: list[tuple[Connection, str | None, Context]] = []

    def note(connection: Connection, name: str | None, context: Context) -> None:
        said.append((connection, name, context))

    front.sni_callback = note
    assert front.sni_callback is note
    both = finish(client, front, "front.example")
    assert both.established
    assert said == [(both.server, "front.example", front)], "it is called once"


def test_without_a_name_the_callback_gets_none(client: Context, front: Context) -> None:
    said: list[str | None] = []

    def note(_: Connection, name: str | None, __: Context) -> None:
        said.append(name)

    front.sni_callback = note
    client.check_hostname = False
    assert finish(client, front, None).established
    assert said == [None]


def test_the_server_knows_the_name_asked_for_without_a_callback_too(client: Context, front: Context) -> None:
    both = finish(client, front, "front.example")
    assert both.server.server_hostname == "front.example"
    assert both.client.server_hostname == "front.example"
    client.check_hostname = False
    assert finish(client, front, None).server.server_hostname is None


@pytest.mark.parametrize("resumes", [False, True])
def test_the_name_is_not_acknowledged(
    client: Context, front: Context, contexts: dict[str, Context], resumes: bool
) -> None:
    """RFC 6066, 3 asks for it; pion 2.2's client drops a ServerHello that has it."""
    for context in (front, *contexts.values()):
        context.session_tickets = context.session_cache = resumes
    front.set_sni_contexts(contexts)
    both = finish(client, front, "a.example")
    assert both.established
    hello = next(datagram for name, datagram in both.sent if name == "server")
    message = split_records_untrusted(hello)[0].fragment[12:]
    extensions = message[2 + 32 + 1 + message[34] + 2 + 1 + 2 :]
    kinds = []
    while extensions:
        kinds.append(int.from_bytes(extensions[:2], "big"))
        extensions = extensions[4 + int.from_bytes(extensions[2:4], "big") :]
    assert 0xFF01 in kinds
    assert 0 not in kinds


def test_all_settings_of_the_context_count_that_answers(
    ca: CertificateAuthority, client: Context, front: Context, contexts: dict[str, Context]
) -> None:
    contexts["a.example"].load_verify_locations(cadata=ca.certificate_pem)
    contexts["a.example"].verify_mode = CERT_REQUIRED
    contexts["b.example"].set_alpn_protocols(["coap"])
    contexts["b.example"].set_psks({"x": KEY})
    front.set_sni_contexts(contexts)
    assert not finish(client, front, "a.example").established, "a.example wants a certificate"
    client.set_alpn_protocols(["coap"])
    assert finish(client, front, "b.example").server.selected_alpn_protocol() == "coap"
    assert finish(client, front, "front.example").server.selected_alpn_protocol() is None
    with_key = Context(PROTOCOL_DTLS_CLIENT)
    with_key.set_psk("x", KEY)
    assert finish(with_key, front, "b.example").server.psk_identity() == b"x"
    assert not finish(with_key, front, "front.example").established


@pytest.mark.parametrize("cookies", [False, True])
@pytest.mark.parametrize("alert", [AlertDescription.UNRECOGNIZED_NAME, AlertDescription.ACCESS_DENIED])
def test_the_callback_may_refuse_a_client(
    client: Context, front: Context, alert: AlertDescription, cookies: bool
) -> None:
    front.sni_callback = lambda _, __, ___: int(alert)
    both = finish(client, front, "front.example", cookies=cookies)
    for name in ("client", "server"):
        error = both.failure(name)
        assert isinstance(error, SSLError), both.events
        assert alert.name in error.reason
        assert both.end(name).state is ConnectionState.FAILED


@pytest.mark.parametrize("wrong", [True, 256, -1, "no", LookupError("a secret")])
def test_what_goes_wrong_in_the_callback_is_told_here_and_hidden_there(
    client: Context, front: Context, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(*_: object) -> Any:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    front.sni_callback = answer
    both = finish(client, front, "front.example")
    error = both.failure("server")
    assert isinstance(error, SSLError)
    assert isinstance(error.__cause__, (TypeError, LookupError))
    told = both.failure("client")
    assert isinstance(told, SSLError)
    assert "INTERNAL_ERROR" in told.reason
    assert "secret" not in caplog.text


def test_a_context_that_the_engine_does_not_take_refuses_only_its_own_clients(
    client: Context, front: Context, contexts: dict[str, Context]
) -> None:
    contexts["a.example"].set_psks({"x": KEY})
    contexts["a.example"]._psk_identity_hint = b"x" * 300  # which its setter would have refused
    contexts["a.example"]._changed()
    front.set_sni_contexts(contexts)
    assert isinstance(finish(client, front, "a.example").failure("server"), SSLError)
    assert finish(client, front, "b.example").established


def test_the_context_is_changed_in_the_callback_only(client: Context, front: Context) -> None:
    problems: list[str] = []

    def answer(connection: Connection, _: str | None, __: Context) -> None:
        for nonsense in (None, "context", client):
            with pytest.raises((TypeError, ValueError)) as caught:
                connection.context = nonsense  # type: ignore[assignment]
            problems.append(str(caught.value))

    front.sni_callback = answer
    both = finish(client, front, "front.example")
    assert both.established
    assert len(problems) == 3
    with pytest.raises(ValueError, match="sni_callback"):
        both.server.context = front
    with pytest.raises(ValueError):
        both.client.context = front
    front.sni_callback = None
    untouched = front.connection(0.0)
    with pytest.raises(ValueError, match="sni_callback"):
        untouched.context = front


def test_settings_that_make_no_sense_are_refused(client: Context, front: Context) -> None:
    with pytest.raises(ValueError):
        client.sni_callback = lambda *_: None
    with pytest.raises(TypeError):
        front.sni_callback = "no callback"  # type: ignore[assignment]
    with pytest.raises(ValueError):
        front.set_sni_contexts({"a.example": client})
    with pytest.raises(TypeError):
        front.set_sni_contexts({"a.example": "nonsense"})  # type: ignore[dict-item]
    front.sni_callback = lambda *_: None
    front.sni_callback = None
    assert front.sni_callback is None


def test_a_certificate_that_nobody_verified_is_not_described_whatever_the_first_context_says(
    client: Context, server: Context, ca: CertificateAuthority
) -> None:
    inner = server_for(ca, "localhost")
    inner.dangerously_trust_by_callback(lambda _: True)
    server.set_sni_contexts({"localhost": inner})
    client.load_cert_chain(ca.issue("a client", client=True).private_key_and_chain_pem)
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for sock in (listener, near):
        sock.bind(("127.0.0.1", 0))
    listener.connect(near.getsockname())
    near.connect(listener.getsockname())
    far = Worker(lambda: server.wrap_socket(listener, server_side=True))
    with client.wrap_socket(near, server_hostname="localhost"), far.result() as accepted:
        assert accepted.context is inner
        assert accepted.getpeercert()["subject"] == ((("commonName", "a client"),),)


def test_accepted_sockets_have_the_context_and_the_name(
    client: Context, server: Context, ca: CertificateAuthority
) -> None:
    inner = server_for(ca, "localhost")
    server.set_sni_contexts({"localhost": inner})
    near, far = pair(client, server)
    with near, far:
        assert far.context is inner
        assert far.server_hostname == near.server_hostname == "localhost"


def test_extensions_that_are_not_well_formed_do_not_get_past_the_callback(
    client: Context, front: Context
) -> None:
    called: list[str | None] = []

    def note(_: Connection, name: str | None, __: Context) -> None:
        called.append(name)

    front.sni_callback = note
    name = b"front.example"

    def garble(sender: str, _: int, datagram: bytes) -> list[bytes]:
        return [datagram.replace(name, b"front\0example")] if sender == "client" else [datagram]

    both = finish(client, front, name.decode(), tap=garble)
    assert not called
    error = both.failure("server")
    assert isinstance(error, SSLError)
    assert "malformed" in str(error)
    told = both.failure("client")
    assert isinstance(told, SSLError)
    assert "DECODE_ERROR" in told.reason


# --- the extension ---------------------------------------------------------------------------------------------------


def hello(extensions: bytes) -> ClientHello:
    return ClientHello(0xFEFD, b"\0" * 32, b"", b"", b"\0\1", b"\0", extensions)


@pytest.mark.parametrize(
    ("extensions", "name"),
    [
        (b"", None),
        (bytes.fromhex("000a0000"), None),
        (bytes.fromhex("0000000600040000 0178".replace(" ", "")), b"x"),
        (bytes.fromhex("000a0002abcd 0000000600040000 0178".replace(" ", "")), b"x"),
        (bytes.fromhex("0000000a0008 0100017a 00000178".replace(" ", "")), b"x"),
        (bytes.fromhex("000000060004 0100017a".replace(" ", "")), None),
    ],
)
def test_the_name_is_found_in_its_extension(extensions: bytes, name: bytes | None) -> None:
    assert server_name_untrusted(hello(extensions)) == name


@given(st.binary(max_size=80))
def test_no_extensions_raise_anything_else(extensions: bytes) -> None:
    with contextlib.suppress(WireError):
        name = server_name_untrusted(hello(extensions))
        assert name is None or name in extensions


@pytest.mark.parametrize(
    "extensions",
    [
        "00",
        "0000",
        "000000",
        "00000001",
        "0000000100",
        "00000002 0000",
        "0000000400020000",
        "00000005 0003000001",
        "00000006 0004 00 0001 00",
        "00000105 0103 00 0100" + "61" * 256,
    ],
)
def test_extensions_that_are_not_well_formed_are_told(extensions: str) -> None:
    with pytest.raises(WireError, match="bad_client_hello"):
        server_name_untrusted(hello(bytes.fromhex(extensions.replace(" ", ""))))


def test_check_looks_at_the_contexts_for_other_names_too(server: Context) -> None:
    """So that what is made once for each, keys of session tickets among it, is made before a process forks."""
    others = {name: new_server() for name in ("a.example", "b.example")}
    server.set_sni_contexts(others)
    server.check()
    made = [context._engine_context for context in others.values()]
    assert None not in made
    assert [context._engine() for context in others.values()] == made


def new_server() -> Context:
    return Context(PROTOCOL_DTLS_SERVER)
