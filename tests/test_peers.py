"""Against GnuTLS, Mbed TLS, wolfSSL, pion and JSSE, each as client and as server; ``peers`` starts them.

What a stack cannot do is expected to fail, so that it is noticed when it can; ``-rx`` lists that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls import SSLCertVerificationError, SSLError
from dtls.certificates import CertificateAuthority
from dtls.sockets import create_connection
from dtls.wire import ContentType, split_records_untrusted

from .hellos import HelloFragments
from .loopback import PATIENCE, EchoServer, handshake_only, lose_each, relay
from .peers.programs import Program, assert_client_is_served, assert_server_talks
from .peers.stacks import STACKS, Ability, Credentials, Options, Stack, plain_suite

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.certificates import IssuedCertificate
    from dtls.context import Context

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are compiled: one directory for the workers of a session."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "peers"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="module", params=STACKS)
def stack(request: pytest.FixtureRequest, root: Path) -> Stack:
    return STACKS[request.param](root)


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


by_every_aead = pytest.mark.parametrize(
    ("stack", "suite"),
    [
        *[(name, "ECDHE-ECDSA-AES128-GCM-SHA256") for name in STACKS],
        *expected(Ability.CHACHA20, Ability.CHACHA20.value),
        *expected(Ability.CCM, Ability.CCM.value),
    ],
    indirect=["stack"],
    scope="module",
)


def give_up_early(stack: Stack, ability: Ability, context: Context) -> None:
    """Do not wait long for a handshake that is expected to fail."""
    if ability in stack.unable:
        context.handshake_timeout = 2.0


@pytest.fixture(scope="module")
def long_client_chain(lower_ca: CertificateAuthority) -> IssuedCertificate:
    return lower_ca.issue("a client", key_type="rsa", client=True)


@dataclass(frozen=True)
class Files:
    ca: str
    server: Credentials
    client: Credentials
    long_chain: Credentials
    long_chain_ca: str
    long_client_chain: Credentials


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    ca: CertificateAuthority,
    server_certificate: IssuedCertificate,
    client_certificate: IssuedCertificate,
    long_chain: IssuedCertificate,
    long_client_chain: IssuedCertificate,
    long_chain_ca: CertificateAuthority,
) -> Files:
    directory = tmp_path_factory.mktemp("certificates")

    def write(name: str, content: bytes) -> str:
        path = directory / name
        path.write_bytes(content)
        return str(path)

    def credentials(name: str, issued: IssuedCertificate) -> Credentials:
        return Credentials(write(f"{name}.pem", issued.chain_pem), write(f"{name}.key", issued.key_pem))

    return Files(
        ca=write("ca.pem", ca.certificate_pem),
        server=credentials("server", server_certificate),
        client=credentials("client", client_certificate),
        long_chain=credentials("long", long_chain),
        long_chain_ca=write("long_ca.pem", long_chain_ca.certificate_pem),
        long_client_chain=credentials("long_client", long_client_chain),
    )


def connect(client: Context, address: tuple[str, int], name: str = "localhost") -> dtls.DTLSSocket:
    return create_connection(address, PATIENCE, context=client, server_hostname=name)


def assert_both_see_the_same(stack: Stack, program: Program, sock: dtls.DTLSSocket, peer: str) -> None:
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


def assert_echoed(stack: Stack, program: Program, sock: dtls.DTLSSocket) -> None:
    """Messages in both directions over an association with its server."""
    if Ability.SPEAK not in stack.unable:
        assert_server_talks(program, sock)
        return
    for message in (b"hello\n", b"and again\n"):
        sock.send(message)
        assert sock.recv() == message


# --- its client, our server ------------------------------------------------------------------------------------------


def test_its_client_is_served(stack: Stack, files: Files, server: Context) -> None:
    with EchoServer(server) as echo, stack.client(echo.address, Options(ca=files.ca)) as program:
        stack.view(program)
        assert_client_is_served(program)
        assert_both_see_the_same(stack, program, echo.sockets[0], "localhost")
        assert echo.sockets[0].getpeercert() is None


def test_its_client_shows_its_certificate(
    stack: Stack, files: Files, server: Context, ca: CertificateAuthority
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    options = Options(ca=files.ca, own=files.client)
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)
        assert echo.sockets[0].getpeercert()["subject"] == ((("commonName", "a client"),),)


def test_its_client_without_a_certificate_is_told_so(
    stack: Stack, files: Files, server: Context, ca: CertificateAuthority
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    with EchoServer(server) as echo, stack.client(echo.address, Options(ca=files.ca)) as program:
        program.expect(stack.refused)
        assert echo.sockets == []


@pytest.mark.parametrize("fault", ["another root", "another name"])
def test_its_client_refuses_a_server_that_is_not_the_one(
    stack: Stack, files: Files, server: Context, fault: str
) -> None:
    options = Options(ca=files.ca, name="elsewhere.example")
    if fault == "another root":
        options = Options(ca=files.long_chain_ca)
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        program.expect(stack.refused)
        assert echo.sockets == []


def test_its_client_and_we_agree_on_a_protocol(stack: Stack, files: Files, server: Context) -> None:
    server.set_alpn_protocols(["other", "echo"])
    options = Options(ca=files.ca, alpn="echo")
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)
        assert echo.sockets[0].selected_alpn_protocol() == "echo"
        assert (view := stack.view(program)) is None or view.alpn in {"echo", None}


@by_every_aead
def test_its_client_talks_by_every_aead(stack: Stack, files: Files, server: Context, suite: str) -> None:
    server.set_ciphers(suite)
    options = Options(ca=files.ca, ciphers=stack.only_when_named.get(suite))
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)
        assert_both_see_the_same(stack, program, echo.sockets[0], "localhost")


@pytest.mark.parametrize("mtu", [256, 512, 1350])
def test_its_client_takes_a_chain_longer_than_a_datagram(
    stack: Stack, files: Files, long_chain: IssuedCertificate, mtu: int
) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.load_cert_chain(long_chain.private_key_and_chain_pem)
    server.mtu = mtu
    options = Options(ca=files.long_chain_ca)
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)


@needs(Ability.SET_MTU)
@pytest.mark.parametrize("mtu", [256, 512])
def test_we_take_its_clients_chain_in_fragments(
    stack: Stack, files: Files, server: Context, long_chain_ca: CertificateAuthority, mtu: int
) -> None:
    server.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    options = Options(ca=files.ca, own=files.long_client_chain, mtu=mtu)
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)
        assert len(echo.sockets[0].get_verified_chain()) == 4


@needs(Ability.CUT_HELLO)
@pytest.mark.parametrize("in_order", [True, False], ids=["in order", "in reverse"])
def test_its_client_gets_in_with_a_hello_in_two_fragments(
    stack: Stack, files: Files, server: Context, in_order: bool
) -> None:
    fragments: set[int] = set()
    options = Options(ca=files.ca, mtu=stack.hello_mtu)
    with (
        EchoServer(server) as echo,
        relay(echo.address, HelloFragments(fragments, swap=not in_order)) as address,
        stack.client(address, options) as program,
    ):
        assert_client_is_served(program)
        assert 1 in fragments
        assert echo.listener.statistics["cookies_accepted"] == 1


def test_our_close_ends_its_client(stack: Stack, files: Files, server: Context) -> None:
    with EchoServer(server) as echo, stack.client(echo.address, Options(ca=files.ca)) as program:
        assert_client_is_served(program)
        echo.sockets[0].close()
        program.expect(stack.closed)


def test_the_end_of_its_client_is_the_end_of_ours(stack: Stack, files: Files, server: Context) -> None:
    with EchoServer(server) as echo, stack.client(echo.address, Options(ca=files.ca)) as program:
        assert_client_is_served(program)
        program.end_input()
        assert echo.worker(0).result() is True
        program.wait()


# --- our client, its server ------------------------------------------------------------------------------------------


def test_its_server_serves_us(stack: Stack, files: Files, client: Context) -> None:
    with stack.server(Options(own=files.server)) as (program, address), connect(client, address) as sock:
        assert_both_see_the_same(stack, program, sock, "")
        assert_echoed(stack, program, sock)
        assert sock.getpeercert()["subject"] == ((("commonName", "localhost"),),)


def test_we_show_our_certificate(
    stack: Stack, files: Files, client: Context, client_certificate: IssuedCertificate
) -> None:
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    options = Options(ca=files.ca, own=files.server)
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert_both_see_the_same(stack, program, sock, "a client")
        assert_echoed(stack, program, sock)


@by_every_aead
def test_its_server_talks_by_every_aead(stack: Stack, files: Files, client: Context, suite: str) -> None:
    client.set_ciphers(suite)
    options = Options(own=files.server, ciphers=stack.only_when_named.get(suite))
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert_both_see_the_same(stack, program, sock, "")
        assert_echoed(stack, program, sock)


@needs(Ability.REFUSE_NO_CERTIFICATE)
def test_we_are_told_that_a_certificate_is_wanted(stack: Stack, files: Files, client: Context) -> None:
    give_up_early(stack, Ability.REFUSE_NO_CERTIFICATE, client)
    client.initial_retransmission_timeout = 0.2
    with (
        stack.server(Options(ca=files.ca, own=files.server)) as (_, address),
        pytest.raises(SSLError, match=r"alert (no_certificate|bad_certificate)"),
    ):
        connect(client, address)


@needs(Ability.REFUSE_STRANGERS)
def test_we_are_told_that_our_certificate_is_not_trusted(stack: Stack, files: Files, client: Context) -> None:
    client.initial_retransmission_timeout = 0.2
    stranger = CertificateAuthority("another root").issue("a client", client=True)
    client.load_cert_chain(stranger.private_key_and_chain_pem)
    with (
        stack.server(Options(ca=files.ca, own=files.server)) as (_, address),
        pytest.raises(SSLError, match=r"alert (unknown_ca|bad_certificate|certificate_unknown)"),
    ):
        connect(client, address)


@pytest.mark.parametrize("fault", ["another root", "another name"])
def test_we_refuse_a_server_that_is_not_the_one(
    stack: Stack, files: Files, client: Context, fault: str
) -> None:
    name, own = "elsewhere.example", files.server
    if fault == "another root":
        name, own = "localhost", files.long_chain
    with (
        stack.server(Options(own=own)) as (_, address),
        pytest.raises(SSLCertVerificationError),
    ):
        connect(client, address, name)


@needs(Ability.SET_MTU)
@pytest.mark.parametrize("mtu", [256, 512])
def test_we_take_a_chain_in_fragments(
    stack: Stack, files: Files, long_chain_ca: CertificateAuthority, mtu: int
) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    options = Options(own=files.long_chain, mtu=mtu)
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert len(sock.get_verified_chain()) == 4
        assert_echoed(stack, program, sock)


def test_we_take_a_chain_as_it_comes(stack: Stack, files: Files, long_chain_ca: CertificateAuthority) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    with stack.server(Options(own=files.long_chain)) as (program, address), connect(client, address) as sock:
        assert len(sock.get_verified_chain()) == 4
        assert_echoed(stack, program, sock)


@pytest.mark.parametrize("mtu", [256, 512])
def test_its_server_takes_our_chain_in_fragments(
    stack: Stack,
    files: Files,
    long_chain_ca: CertificateAuthority,
    long_client_chain: IssuedCertificate,
    mtu: int,
) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    client.load_cert_chain(long_client_chain.private_key_and_chain_pem)
    client.mtu = mtu
    # RSA on both sides, since wolfSSL's server asks for certificates with its own kind of key only.
    options = Options(ca=files.long_chain_ca, own=files.long_chain)
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert_both_see_the_same(stack, program, sock, "a client")
        assert_echoed(stack, program, sock)


def test_its_server_and_we_agree_on_a_protocol(stack: Stack, files: Files, client: Context) -> None:
    client.set_alpn_protocols(["other", "echo"])
    options = Options(own=files.server, alpn="echo")
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert_echoed(stack, program, sock)
        assert sock.selected_alpn_protocol() == "echo"
        assert (view := stack.view(program)) is None or view.alpn in {"echo", None}


@needs(Ability.REASSEMBLE_HELLO)
def test_its_server_takes_our_hello_in_fragments(stack: Stack, files: Files, client: Context) -> None:
    give_up_early(stack, Ability.REASSEMBLE_HELLO, client)
    fragments: set[int] = set()
    client.set_alpn_protocols(["a" * 250])
    client.mtu = 256
    with (
        stack.server(Options(own=files.server)) as (program, server),
        relay(server, HelloFragments(fragments)) as address,
        connect(client, address) as sock,
    ):
        assert_echoed(stack, program, sock)
    assert 1 in fragments


@needs(Ability.SPEAK, run=False)
def test_it_answers_our_close(
    stack: Stack, files: Files, client: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtls.sockets.SHUTDOWN_PATIENCE", PATIENCE)
    with stack.server(Options(own=files.server)) as (program, address), connect(client, address) as sock:
        assert_echoed(stack, program, sock)
        driver = sock._driver
        assert driver is not None
        sock.unwrap().close()
        assert driver.connection.state is dtls.ConnectionState.CLOSED
        program.expect("CLOSED")


@needs(Ability.SPEAK, run=False)
def test_the_end_of_its_server_is_the_end_of_ours(stack: Stack, files: Files, client: Context) -> None:
    with stack.server(Options(own=files.server)) as (program, address), connect(client, address) as sock:
        assert_echoed(stack, program, sock)
        program.end_input()
        assert sock.recv() == b""
        assert program.wait() == 0


def test_it_serves_us_again(stack: Stack, files: Files, client: Context) -> None:
    with stack.server(Options(own=files.server)) as (program, address):
        for number in range(3):
            with connect(client, address) as sock:
                view = stack.view(program, number)
                assert view is None or not view.resumed
                assert_echoed(stack, program, sock)
            program.output = program.output.replace(b"hello", b"seen")  # the next ones are waited for anew


# --- a network that loses --------------------------------------------------------------------------------------------


def test_its_client_gets_through_whichever_datagram_is_lost(
    stack: Stack, files: Files, server: Context
) -> None:
    def talk(tap: Any) -> None:
        with (
            EchoServer(server) as echo,
            relay(echo.address, handshake_only(tap)) as address,
            stack.client(address, Options(ca=files.ca)) as program,
        ):
            assert_client_is_served(program)

    lose_each(talk)


def test_we_get_through_to_its_server_whichever_datagram_is_lost(
    stack: Stack, files: Files, client: Context
) -> None:
    def talk(tap: Any) -> None:
        with (
            stack.server(Options(own=files.server)) as (program, server),
            relay(server, handshake_only(tap)) as address,
            connect(client, address) as sock,
        ):
            assert_echoed(stack, program, sock)

    # What its last flight is worth is the next test's subject.
    unable = Ability.REPEAT_LAST_FLIGHT in stack.unable
    lose_each(talk, spare_last_of="server" if unable else None)


@needs(Ability.REPEAT_LAST_FLIGHT)
def test_its_server_repeats_its_last_flight(stack: Stack, files: Files, client: Context) -> None:
    give_up_early(stack, Ability.REPEAT_LAST_FLIGHT, client)
    flights = 0
    lost = 0

    def lose_the_first(sender: str, index: int, datagram: bytes) -> list[bytes]:
        nonlocal flights, lost
        records = split_records_untrusted(datagram)
        changes = any(record.content_type == ContentType.CHANGE_CIPHER_SPEC for record in records)
        if sender == "client":
            flights += changes
        elif flights == 1 and (changes or records[0].epoch):
            lost += 1
            return []
        return [datagram]

    with (
        stack.server(Options(own=files.server)) as (program, server),
        relay(server, lose_the_first) as address,
        connect(client, address) as sock,
    ):
        assert_echoed(stack, program, sock)
    assert lost
