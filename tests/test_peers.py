"""Against GnuTLS, Mbed TLS, wolfSSL, pion and JSSE, each as client and as server; ``peers`` starts them.

What a stack cannot do is expected to fail, so that it is noticed when it can; ``-rx`` lists that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls import SSLCertVerificationError, SSLError
from dtls.certificates import CertificateAuthority
from dtls.wire import ContentType, split_records_untrusted

from .hellos import HelloFragments
from .loopback import PATIENCE, EchoServer, handshake_only, lose_each, relay
from .peers.expectations import (
    assert_both_see_the_same,
    assert_echoed,
    connect,
    expected,
    give_up_early,
    needs,
)
from .peers.programs import assert_client_is_served
from .peers.stacks import STACKS, Ability, Options, PeerFiles, Stack

if TYPE_CHECKING:
    from dtls.certificates import IssuedCertificate
    from dtls.context import Context

pytestmark = pytest.mark.peers

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


# --- its client, our server ------------------------------------------------------------------------------------------


def test_its_client_is_served(stack: Stack, peer_files: PeerFiles, server: Context) -> None:
    with EchoServer(server) as echo, stack.client(echo.address, Options(ca=peer_files.ca)) as program:
        stack.view(program)
        assert_client_is_served(program)
        assert_both_see_the_same(stack, program, echo.sockets[0], "localhost")
        assert echo.sockets[0].getpeercert() is None


def test_its_client_shows_its_certificate(
    stack: Stack, peer_files: PeerFiles, server: Context, ca: CertificateAuthority
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    options = Options(ca=peer_files.ca, own=peer_files.client)
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)
        assert echo.sockets[0].getpeercert()["subject"] == ((("commonName", "a client"),),)


def test_its_client_without_a_certificate_is_told_so(
    stack: Stack, peer_files: PeerFiles, server: Context, ca: CertificateAuthority
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    with EchoServer(server) as echo, stack.client(echo.address, Options(ca=peer_files.ca)) as program:
        program.expect(stack.refused)
        assert echo.sockets == []


@pytest.mark.parametrize("fault", ["another root", "another name"])
def test_its_client_refuses_a_server_that_is_not_the_one(
    stack: Stack, peer_files: PeerFiles, server: Context, fault: str
) -> None:
    options = Options(ca=peer_files.ca, name="elsewhere.example")
    if fault == "another root":
        options = Options(ca=peer_files.long_chain_ca)
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        program.expect(stack.refused)
        assert echo.sockets == []


def test_its_client_and_we_agree_on_a_protocol(stack: Stack, peer_files: PeerFiles, server: Context) -> None:
    server.set_alpn_protocols(["other", "echo"])
    options = Options(ca=peer_files.ca, alpn="echo")
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)
        assert echo.sockets[0].selected_alpn_protocol() == "echo"
        assert (view := stack.view(program)) is None or view.alpn in {"echo", None}


@by_every_aead
def test_its_client_talks_by_every_aead(
    stack: Stack, peer_files: PeerFiles, server: Context, suite: str
) -> None:
    server.set_ciphers(suite)
    options = Options(ca=peer_files.ca, ciphers=stack.only_when_named.get(suite))
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)
        assert_both_see_the_same(stack, program, echo.sockets[0], "localhost")


@pytest.mark.parametrize("mtu", [256, 512, 1350])
def test_its_client_takes_a_chain_longer_than_a_datagram(
    stack: Stack, peer_files: PeerFiles, long_chain: IssuedCertificate, mtu: int
) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.load_cert_chain(long_chain.private_key_and_chain_pem)
    server.mtu = mtu
    options = Options(ca=peer_files.long_chain_ca)
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)


@needs(Ability.SET_MTU)
@pytest.mark.parametrize("mtu", [256, 512])
def test_we_take_its_clients_chain_in_fragments(
    stack: Stack, peer_files: PeerFiles, server: Context, long_chain_ca: CertificateAuthority, mtu: int
) -> None:
    server.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    options = Options(ca=peer_files.ca, own=peer_files.long_client_chain, mtu=mtu)
    with EchoServer(server) as echo, stack.client(echo.address, options) as program:
        assert_client_is_served(program)
        assert len(echo.sockets[0].get_verified_chain()) == 4


@needs(Ability.CUT_HELLO)
@pytest.mark.parametrize("in_order", [True, False], ids=["in order", "in reverse"])
def test_its_client_gets_in_with_a_hello_in_two_fragments(
    stack: Stack, peer_files: PeerFiles, server: Context, in_order: bool
) -> None:
    fragments: set[int] = set()
    options = Options(ca=peer_files.ca, mtu=stack.hello_mtu)
    with (
        EchoServer(server) as echo,
        relay(echo.address, HelloFragments(fragments, swap=not in_order)) as address,
        stack.client(address, options) as program,
    ):
        assert_client_is_served(program)
        assert 1 in fragments
        assert echo.listener.statistics["cookies_accepted"] == 1


def test_our_close_ends_its_client(stack: Stack, peer_files: PeerFiles, server: Context) -> None:
    with EchoServer(server) as echo, stack.client(echo.address, Options(ca=peer_files.ca)) as program:
        assert_client_is_served(program)
        echo.sockets[0].close()
        program.expect(stack.closed)


def test_the_end_of_its_client_is_the_end_of_ours(
    stack: Stack, peer_files: PeerFiles, server: Context
) -> None:
    with EchoServer(server) as echo, stack.client(echo.address, Options(ca=peer_files.ca)) as program:
        assert_client_is_served(program)
        program.end_input()
        assert echo.worker(0).result() is True
        program.wait()


# --- our client, its server ------------------------------------------------------------------------------------------


def test_its_server_serves_us(stack: Stack, peer_files: PeerFiles, client: Context) -> None:
    with stack.server(Options(own=peer_files.server)) as (program, address), connect(client, address) as sock:
        assert_both_see_the_same(stack, program, sock, "")
        assert_echoed(stack, program, sock)
        assert sock.getpeercert()["subject"] == ((("commonName", "localhost"),),)


def test_we_show_our_certificate(
    stack: Stack, peer_files: PeerFiles, client: Context, client_certificate: IssuedCertificate
) -> None:
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    options = Options(ca=peer_files.ca, own=peer_files.server)
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert_both_see_the_same(stack, program, sock, "a client")
        assert_echoed(stack, program, sock)


@by_every_aead
def test_its_server_talks_by_every_aead(
    stack: Stack, peer_files: PeerFiles, client: Context, suite: str
) -> None:
    client.set_ciphers(suite)
    options = Options(own=peer_files.server, ciphers=stack.only_when_named.get(suite))
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert_both_see_the_same(stack, program, sock, "")
        assert_echoed(stack, program, sock)


@needs(Ability.REFUSE_NO_CERTIFICATE)
def test_we_are_told_that_a_certificate_is_wanted(
    stack: Stack, peer_files: PeerFiles, client: Context
) -> None:
    give_up_early(stack, Ability.REFUSE_NO_CERTIFICATE, client)
    client.initial_retransmission_timeout = 0.2
    with (
        stack.server(Options(ca=peer_files.ca, own=peer_files.server)) as (_, address),
        pytest.raises(SSLError, match=r"alert (no_certificate|bad_certificate)"),
    ):
        connect(client, address)


@needs(Ability.REFUSE_STRANGERS)
def test_we_are_told_that_our_certificate_is_not_trusted(
    stack: Stack, peer_files: PeerFiles, client: Context
) -> None:
    client.initial_retransmission_timeout = 0.2
    stranger = CertificateAuthority("another root").issue("a client", client=True)
    client.load_cert_chain(stranger.private_key_and_chain_pem)
    with (
        stack.server(Options(ca=peer_files.ca, own=peer_files.server)) as (_, address),
        pytest.raises(SSLError, match=r"alert (unknown_ca|bad_certificate|certificate_unknown)"),
    ):
        connect(client, address)


@pytest.mark.parametrize("fault", ["another root", "another name"])
def test_we_refuse_a_server_that_is_not_the_one(
    stack: Stack, peer_files: PeerFiles, client: Context, fault: str
) -> None:
    name, own = "elsewhere.example", peer_files.server
    if fault == "another root":
        name, own = "localhost", peer_files.long_chain
    with (
        stack.server(Options(own=own)) as (_, address),
        pytest.raises(SSLCertVerificationError),
    ):
        connect(client, address, name)


@needs(Ability.SET_MTU)
@pytest.mark.parametrize("mtu", [256, 512])
def test_we_take_a_chain_in_fragments(
    stack: Stack, peer_files: PeerFiles, long_chain_ca: CertificateAuthority, mtu: int
) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    options = Options(own=peer_files.long_chain, mtu=mtu)
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert len(sock.get_verified_chain()) == 4
        assert_echoed(stack, program, sock)


def test_we_take_a_chain_as_it_comes(
    stack: Stack, peer_files: PeerFiles, long_chain_ca: CertificateAuthority
) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    with (
        stack.server(Options(own=peer_files.long_chain)) as (program, address),
        connect(client, address) as sock,
    ):
        assert len(sock.get_verified_chain()) == 4
        assert_echoed(stack, program, sock)


@pytest.mark.parametrize("mtu", [256, 512])
def test_its_server_takes_our_chain_in_fragments(
    stack: Stack,
    peer_files: PeerFiles,
    long_chain_ca: CertificateAuthority,
    long_client_chain: IssuedCertificate,
    mtu: int,
) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    client.load_cert_chain(long_client_chain.private_key_and_chain_pem)
    client.mtu = mtu
    # RSA on both sides, since wolfSSL's server asks for certificates with its own kind of key only.
    options = Options(ca=peer_files.long_chain_ca, own=peer_files.long_chain)
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert_both_see_the_same(stack, program, sock, "a client")
        assert_echoed(stack, program, sock)


def test_its_server_and_we_agree_on_a_protocol(stack: Stack, peer_files: PeerFiles, client: Context) -> None:
    client.set_alpn_protocols(["other", "echo"])
    options = Options(own=peer_files.server, alpn="echo")
    with stack.server(options) as (program, address), connect(client, address) as sock:
        assert_echoed(stack, program, sock)
        assert sock.selected_alpn_protocol() == "echo"
        assert (view := stack.view(program)) is None or view.alpn in {"echo", None}


@needs(Ability.REASSEMBLE_HELLO)
def test_its_server_takes_our_hello_in_fragments(
    stack: Stack, peer_files: PeerFiles, client: Context
) -> None:
    give_up_early(stack, Ability.REASSEMBLE_HELLO, client)
    fragments: set[int] = set()
    client.set_alpn_protocols(["a" * 250])
    client.mtu = 256
    with (
        stack.server(Options(own=peer_files.server)) as (program, server),
        relay(server, HelloFragments(fragments)) as address,
        connect(client, address) as sock,
    ):
        assert_echoed(stack, program, sock)
    assert 1 in fragments


@needs(Ability.SPEAK, run=False)
def test_it_answers_our_close(
    stack: Stack, peer_files: PeerFiles, client: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtls.sockets.SHUTDOWN_PATIENCE", PATIENCE)
    with stack.server(Options(own=peer_files.server)) as (program, address), connect(client, address) as sock:
        assert_echoed(stack, program, sock)
        driver = sock._driver
        assert driver is not None
        sock.unwrap().close()
        assert driver.connection.state is dtls.ConnectionState.CLOSED
        program.expect("CLOSED")


@needs(Ability.SPEAK, run=False)
def test_the_end_of_its_server_is_the_end_of_ours(
    stack: Stack, peer_files: PeerFiles, client: Context
) -> None:
    with stack.server(Options(own=peer_files.server)) as (program, address), connect(client, address) as sock:
        assert_echoed(stack, program, sock)
        program.end_input()
        assert sock.recv() == b""
        assert program.wait() == 0


def test_it_serves_us_again(stack: Stack, peer_files: PeerFiles, client: Context) -> None:
    with stack.server(Options(own=peer_files.server)) as (program, address):
        for number in range(3):
            with connect(client, address) as sock:
                view = stack.view(program, number)
                assert view is None or not view.resumed
                assert_echoed(stack, program, sock)
            program.output = program.output.replace(b"hello", b"seen")  # the next ones are waited for anew


# --- a network that loses --------------------------------------------------------------------------------------------


def test_its_client_gets_through_whichever_datagram_is_lost(
    stack: Stack, peer_files: PeerFiles, server: Context
) -> None:
    def talk(tap: Any) -> None:
        with (
            EchoServer(server) as echo,
            relay(echo.address, handshake_only(tap)) as address,
            stack.client(address, Options(ca=peer_files.ca)) as program,
        ):
            assert_client_is_served(program)

    lose_each(talk)


def test_we_get_through_to_its_server_whichever_datagram_is_lost(
    stack: Stack, peer_files: PeerFiles, client: Context
) -> None:
    def talk(tap: Any) -> None:
        with (
            stack.server(Options(own=peer_files.server)) as (program, server),
            relay(server, handshake_only(tap)) as address,
            connect(client, address) as sock,
        ):
            assert_echoed(stack, program, sock)

    # What its last flight is worth is the next test's subject.
    unable = Ability.REPEAT_LAST_FLIGHT in stack.unable
    lose_each(talk, spare_last_of="server" if unable else None)


@needs(Ability.REPEAT_LAST_FLIGHT)
def test_its_server_repeats_its_last_flight(stack: Stack, peer_files: PeerFiles, client: Context) -> None:
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
        stack.server(Options(own=peer_files.server)) as (program, server),
        relay(server, lose_the_first) as address,
        connect(client, address) as sock,
    ):
        assert_echoed(stack, program, sock)
    assert lost
