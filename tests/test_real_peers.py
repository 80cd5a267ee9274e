"""Against the ``openssl`` program: that somebody else's DTLS reads the RFC as we do, on good networks and bad."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls import SSLCertVerificationError, SSLError
from dtls.sockets import create_connection

from .hellos import HelloFragments
from .loopback import HOSTS, PATIENCE, EchoServer, handshake_only, lose_each, relay
from .peers.openssl import Peers, connect
from .peers.programs import assert_client_is_served, assert_server_talks

if TYPE_CHECKING:
    from dtls.certificates import CertificateAuthority, IssuedCertificate
    from dtls.context import Context

EVERYTHING = "ALL:@SECLEVEL=0"


# --- its client, our server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("options", [[], ["-mtu", "512"]], ids=["", "mtu 512"])
def test_its_client_is_served(peers: Peers, server: Context, host: str, options: list[str]) -> None:
    with EchoServer(server, host) as echo, peers.client(echo.address, *options) as program:
        assert_client_is_served(program)


def test_several_of_its_clients_are_served_at_once(peers: Peers, server: Context) -> None:
    with EchoServer(server) as echo, contextlib.ExitStack() as stack:
        programs = [stack.enter_context(peers.client(echo.address)) for _ in range(8)]
        for number, program in enumerate(programs):
            program.write(f"I am number {number}.")
        for number, program in enumerate(programs):
            program.expect(f"I am number {number}[.]")


@pytest.mark.parametrize("mtu", [256, 512, 1350])
def test_its_client_takes_a_chain_longer_than_a_datagram(
    peers: Peers, long_chain: IssuedCertificate, mtu: int
) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.load_cert_chain(long_chain.private_key_and_chain_pem)
    server.mtu = mtu
    with (
        EchoServer(server) as echo,
        peers.client(echo.address, ca=peers.files.long_chain_ca) as program,
    ):
        assert_client_is_served(program)


@pytest.mark.parametrize("in_order", [True, False], ids=["in order", "in reverse"])
def test_its_client_gets_in_with_a_hello_in_two_fragments(
    peers: Peers, server: Context, in_order: bool
) -> None:
    fragments: set[int] = set()
    with (
        EchoServer(server) as echo,
        relay(echo.address, HelloFragments(fragments, swap=not in_order)) as address,
        peers.client(address, "-mtu", "256") as program,
    ):
        assert_client_is_served(program)
        assert 1 in fragments
        assert echo.listener.statistics["cookies_accepted"] == 1


def test_its_client_may_speak_dtls_1_0(peers: Peers, server: Context) -> None:
    server.minimum_version = dtls.DTLSVersion.DTLSv1
    server.set_ciphers(EVERYTHING)
    with EchoServer(server) as echo, peers.client(echo.address, "-dtls1", "-cipher", EVERYTHING) as program:
        assert_client_is_served(program)
        assert echo.sockets[0].version() == "DTLSv1"


def test_its_client_and_we_agree_on_a_protocol(peers: Peers, server: Context) -> None:
    server.set_alpn_protocols(["other", "echo"])
    with EchoServer(server) as echo, peers.client(echo.address, "-alpn", "echo") as program:
        assert_client_is_served(program)
        assert echo.sockets[0].selected_alpn_protocol() == "echo"


def test_its_client_shows_its_certificate(peers: Peers, server: Context, ca: CertificateAuthority) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    path = peers.files.client
    with EchoServer(server) as echo, peers.client(echo.address, "-cert", path, "-key", path) as program:
        assert_client_is_served(program)
        assert echo.sockets[0].getpeercert()["subject"] == ((("commonName", "a client"),),)


def test_its_client_without_a_certificate_is_told_so(
    peers: Peers, server: Context, ca: CertificateAuthority
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    with EchoServer(server) as echo, peers.client(echo.address) as program:
        program.expect("alert")
        assert echo.sockets == []


def test_close_notify_ends_its_client_and_its_end_ends_ours(peers: Peers, server: Context) -> None:
    with EchoServer(server) as echo:
        with peers.client(echo.address) as program:
            assert_client_is_served(program)
            echo.sockets[0].close()
            program.wait()
        with peers.client(echo.address) as program:
            assert_client_is_served(program)
            program.wait()  # its standard input has ended
            assert echo.worker(1).result() is True


# --- our client, its server ------------------------------------------------------------------------------------------

# Without -mtu it takes the path for one of 256 bytes, and sends fragments of 228.
SERVERS = {"": [], "mtu 512": ["-mtu", "512"], "mtu 1300": ["-mtu", "1300"], "listen": ["-listen"]}


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS.keys())
def test_its_server_serves_us(peers: Peers, client: Context, options: list[str]) -> None:
    with peers.server(*options) as (program, address), connect(client, address) as sock:
        assert sock.version() == "DTLSv1.2"
        assert_server_talks(program, sock)


@pytest.mark.parametrize("host", HOSTS[1:])
def test_its_server_serves_us_over_ipv6(peers: Peers, client: Context, host: str) -> None:
    with peers.server(host=host) as (program, address), connect(client, address) as sock:
        assert_server_talks(program, sock)


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS.keys())
def test_we_take_a_chain_longer_than_a_datagram(
    peers: Peers, long_chain_ca: CertificateAuthority, options: list[str]
) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    with (
        peers.server(*options, certificate=peers.files.long_chain) as (program, address),
        connect(client, address) as sock,
    ):
        assert len(sock.get_verified_chain()) == 4
        assert len(sock.get_unverified_chain()) >= 3
        assert_server_talks(program, sock)


@pytest.mark.parametrize("options", [[], ["-mtu", "512"]], ids=["", "mtu 512"])
def test_its_server_takes_our_hello_in_fragments(peers: Peers, client: Context, options: list[str]) -> None:
    fragments: set[int] = set()
    client.set_alpn_protocols(["a" * 250])
    client.mtu = 256
    with (
        peers.server(*options) as (program, server),
        relay(server, HelloFragments(fragments)) as address,
        connect(client, address) as sock,
    ):
        assert_server_talks(program, sock)
    assert fragments


def test_its_server_may_speak_dtls_1_0(peers: Peers, client: Context) -> None:
    client.minimum_version = client.maximum_version = dtls.DTLSVersion.DTLSv1
    client.set_ciphers(EVERYTHING)
    with (
        peers.server("-dtls1", "-cipher", EVERYTHING) as (program, address),
        connect(client, address) as sock,
    ):
        assert sock.version() == "DTLSv1"
        assert_server_talks(program, sock)


def test_its_server_and_we_agree_on_a_protocol(peers: Peers, client: Context) -> None:
    client.set_alpn_protocols(["other", "echo"])
    with peers.server("-alpn", "echo") as (program, address), connect(client, address) as sock:
        assert_server_talks(program, sock)
        assert sock.selected_alpn_protocol() == "echo"


def test_we_show_our_certificate(
    peers: Peers, client: Context, client_certificate: IssuedCertificate
) -> None:
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    options = ("-Verify", "1", "-verify_return_error", "-CAfile", peers.files.ca)
    with peers.server(*options) as (program, address), connect(client, address) as sock:
        program.expect("CN *= *a client")
        assert_server_talks(program, sock)


def test_we_are_told_that_a_certificate_is_wanted(peers: Peers, client: Context) -> None:
    client.initial_retransmission_timeout = 0.2
    options = ("-Verify", "1", "-verify_return_error", "-CAfile", peers.files.ca)
    with peers.server(*options) as (_, address), pytest.raises(SSLError) as caught:
        connect(client, address)
    assert "HANDSHAKE_FAILURE" in caught.value.reason or "CERTIFICATE" in caught.value.reason


def test_its_server_with_another_name_is_refused(peers: Peers, client: Context) -> None:
    with peers.server() as (_, address), pytest.raises(SSLCertVerificationError, match="elsewhere"):
        create_connection(address, PATIENCE, context=client, server_hostname="elsewhere.example")


def test_it_answers_our_close_notify(peers: Peers, client: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtls.sockets.SHUTDOWN_PATIENCE", PATIENCE)
    with peers.server() as (program, address), connect(client, address) as sock:
        assert_server_talks(program, sock)
        driver = sock._driver
        assert driver is not None
        sock.unwrap().close()
        assert driver.connection.state is dtls.ConnectionState.CLOSED


# --- a network that loses --------------------------------------------------------------------------------------------


def test_its_client_gets_through_whichever_datagram_is_lost(peers: Peers, server: Context) -> None:
    def talk(tap: Any) -> None:
        with (
            EchoServer(server) as echo,
            relay(echo.address, handshake_only(tap)) as address,
            peers.client(address) as program,
        ):
            assert_client_is_served(program)

    lose_each(talk)


def test_we_get_through_to_its_server_whichever_datagram_is_lost(peers: Peers, client: Context) -> None:
    def talk(tap: Any) -> None:
        with (
            peers.server("-mtu", "1300") as (program, server),
            relay(server, handshake_only(tap)) as address,
            connect(client, address) as sock,
        ):
            assert_server_talks(program, sock)

    lose_each(talk)


def test_we_get_through_to_its_listening_server_whichever_datagram_is_lost(
    peers: Peers, client: Context
) -> None:
    def talk(tap: Any) -> None:
        with (
            peers.server("-listen", "-mtu", "1300") as (program, server),
            relay(server, handshake_only(tap)) as address,
            connect(client, address) as sock,
        ):
            assert_server_talks(program, sock)

    lose_each(talk)


def test_our_finished_is_repeated_under_a_new_record_number(peers: Peers, client: Context) -> None:
    """OpenSSL drops a record number that it has seen: its last flight, if lost, would never be asked for again."""
    finished: list[bytes] = []
    lost: list[bytes] = []

    def tap(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender == "client" and (at := datagram.find(b"\x16\xfe\xfd\x00\x01")) >= 0:
            finished.append(datagram[at + 5 : at + 11])
        # Its last flight begins with a NewSessionTicket or the ChangeCipherSpec.
        if sender == "server" and finished and not lost:
            lost.append(datagram)
            return []
        return [datagram]

    with (
        peers.server("-mtu", "1300") as (program, server),
        relay(server, tap) as address,
        connect(client, address) as sock,
    ):
        assert_server_talks(program, sock)
    assert lost
    assert len(finished) >= 2
    assert len(set(finished)) >= 2
