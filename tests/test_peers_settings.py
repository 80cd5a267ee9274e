"""Pre-shared keys and sessions against GnuTLS, Mbed TLS, wolfSSL, pion and JSSE, each as client and as server."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

import dtls
from dtls.errors import SSLError

from .loopback import PATIENCE, EchoServer
from .peers.expectations import assert_echoed, connect
from .peers.programs import assert_client_is_served
from .peers.stacks import STACKS, Options, PeerFiles, Stack

if TYPE_CHECKING:
    from dtls.context import Context

pytestmark = pytest.mark.peers

KEY = bytes(range(16))
IDENTITY = "sensor-1"
WITH_PSK = Options(psk_identity=IDENTITY, psk_key=KEY)

CLIENTS = {("pion", "ticket"): "knows no tickets"}
SERVERS = {("mbedtls", "id"): "its server, as it is set up, remembers no session"}


def each_kind(unable: dict[tuple[str, str], str]) -> pytest.MarkDecorator:
    """Every stack with every kind of session."""
    return pytest.mark.parametrize(
        ("stack", "kind"),
        [
            pytest.param(
                *pair,
                marks=pytest.mark.xfail(pair in unable, reason=unable.get(pair, ""), raises=AssertionError),
            )
            for pair in itertools.product(STACKS, ("ticket", "id"))
        ],
        indirect=["stack"],
        scope="module",
    )


with_psk = pytest.mark.parametrize(
    "stack", [name for name in STACKS if name != "jsse"], indirect=True, scope="module"
)  # JSSE has none


# --- pre-shared keys -------------------------------------------------------------------------------------------------


@with_psk
def test_its_client_and_we_have_a_key_in_common(stack: Stack) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.set_psks({IDENTITY: KEY})
    if stack.name == "wolfssl":
        server.set_groups("P-256")  # it offers X25519 too, and then says "Bad ECC Peer Key" with ECDHE-PSK
    with EchoServer(server) as echo, stack.client(echo.address, WITH_PSK) as program:
        assert_client_is_served(program)
        assert echo.sockets[0].psk_identity() == IDENTITY.encode()


@with_psk
def test_its_client_is_told_that_we_do_not_know_it(stack: Stack) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.set_psks({"somebody else": KEY})
    with EchoServer(server) as echo, stack.client(echo.address, WITH_PSK) as program:
        program.expect(stack.refused)
        assert echo.sockets == []


@with_psk
def test_its_server_and_we_have_a_key_in_common(stack: Stack) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.set_psk(IDENTITY, KEY)
    with stack.server(WITH_PSK) as (program, address), connect(client, address) as sock:
        assert sock.psk_identity() == IDENTITY.encode()
        assert_echoed(stack, program, sock)


@with_psk
def test_its_server_does_not_accept_another_key(stack: Stack) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.set_psk(IDENTITY, KEY[::-1])
    client.handshake_timeout = 3.0
    with stack.server(WITH_PSK) as (_, address), pytest.raises(SSLError):
        connect(client, address)


# --- sessions --------------------------------------------------------------------------------------------------------


@each_kind(CLIENTS)
def test_its_client_resumes_with_us(stack: Stack, peer_files: PeerFiles, server: Context, kind: str) -> None:
    server.session_tickets, server.session_cache = kind == "ticket", kind == "id"
    options = Options(ca=peer_files.ca, resume=True)
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        view = stack.view(program, 1)
        assert_client_is_served(program)
        assert [sock.session_reused for sock in echo.sockets] == [False, True]
        assert view is None or view.resumed in {True, None}


@each_kind(SERVERS)
def test_we_resume_with_its_server(stack: Stack, peer_files: PeerFiles, client: Context, kind: str) -> None:
    client.session_tickets = kind == "ticket"
    with stack.server(Options(own=peer_files.server)) as (program, address):
        with connect(client, address) as sock:
            assert_echoed(stack, program, sock)
            session = sock.session
        assert session is not None
        program.output = b""
        with dtls.create_connection(
            address, PATIENCE, context=client, server_hostname="localhost", session=session
        ) as sock:
            assert sock.session_reused
            assert_echoed(stack, program, sock)
