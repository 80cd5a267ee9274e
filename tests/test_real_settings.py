"""Against the ``openssl`` program: what else a context can be told means to it what it means to us."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

import dtls
from dtls.certificates import CertificateAuthority
from dtls.engines.openssl import binding_sessions
from dtls.errors import SSLError

from .loopback import PATIENCE, EchoServer, Worker, handshake_only, lose_each, relay
from .peers.openssl import Peers, connect
from .peers.programs import Program, assert_client_is_served, assert_server_talks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_sessions = pytest.mark.skipif(
    not binding_sessions.SERIALIZES, reason="cryptography before 44 gives no session"
)


KEY = bytes(range(16))
IDENTITY = "sensor 1"


# --- pre-shared keys -------------------------------------------------------------------------------------------------


def program_client(openssl: str, address: tuple[str, int], *options: str) -> Program:
    return Program(
        openssl,
        "s_client",
        "-dtls1_2",
        "-connect",
        f"{address[0]}:{address[1]}",
        "-quiet",
        "-no_ign_eof",
        *options,
    )


@pytest.fixture
def psk_server(openssl: str) -> Iterator[tuple[Program, tuple[str, int]]]:
    with Program(
        openssl, "s_server", "-dtls1_2", "-accept", "127.0.0.1:0", "-nocert", "-psk", KEY.hex(),
        "-psk_identity", IDENTITY, "-psk_hint", "the hint", "-cipher", "PSK:@SECLEVEL=0",
    ) as program:  # fmt: skip
        port = int(program.expect(r"ACCEPT .*:(\d+)\r?\n").group(1))
        yield program, ("127.0.0.1", port)


@pytest.mark.parametrize("suite", [None, "PSK-AES128-GCM-SHA256", "PSK-AES128-CCM8"])
def test_its_server_and_we_have_a_key_in_common(
    psk_server: tuple[Program, tuple[str, int]], suite: str | None
) -> None:
    program, address = psk_server
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.set_psk(IDENTITY, KEY)
    if suite is not None:
        client.set_ciphers(suite)
    with connect(client, address) as sock:
        assert sock.psk_identity() == IDENTITY.encode()
        assert_server_talks(program, sock)


def test_its_server_gives_us_a_hint(psk_server: tuple[Program, tuple[str, int]]) -> None:
    program, address = psk_server
    hints: list[str | None] = []
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)

    def answer(hint: str | None) -> tuple[str, bytes]:
        hints.append(hint)
        return IDENTITY, KEY

    client.set_psk_client_callback(answer)
    with connect(client, address) as sock:
        assert_server_talks(program, sock)
    assert hints == ["the hint"]


def test_its_server_has_another_key(psk_server: tuple[Program, tuple[str, int]]) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.set_psk(IDENTITY, KEY[::-1])
    client.handshake_timeout = 2.0
    with pytest.raises(SSLError, match="same key"):
        connect(client, psk_server[1])


@pytest.mark.parametrize("suite", ["PSK", "PSK-AES128-CCM8:@SECLEVEL=0"])
def test_its_client_and_we_have_a_key_in_common(openssl: str, suite: str) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.set_psks({IDENTITY: KEY})
    if "CCM8" in suite:
        server.set_ciphers("PSK-AES128-CCM8")
    with (
        EchoServer(server) as echo,
        program_client(
            openssl, echo.address, "-psk", KEY.hex(), "-psk_identity", IDENTITY, "-cipher", suite
        ) as program,
    ):
        assert_client_is_served(program)
        assert echo.sockets[0].psk_identity() == IDENTITY.encode()


def test_its_client_is_told_that_we_do_not_know_it(openssl: str) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.set_psks({"sensor 2": KEY})
    with (
        EchoServer(server) as echo,
        program_client(
            openssl, echo.address, "-psk", KEY.hex(), "-psk_identity", IDENTITY, "-cipher", "PSK"
        ) as program,
    ):
        program.expect("alert unknown psk identity|alert number 115")


# --- sessions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ticket", "id"])
def test_its_client_resumes_with_us(openssl: str, server: dtls.Context, kind: str, tmp_path: Path) -> None:
    server.session_tickets, server.session_cache = kind == "ticket", kind == "id"
    path = str(tmp_path / "session.pem")
    with EchoServer(server) as echo:
        for option, resumed in (("-sess_out", False), ("-sess_in", True), ("-sess_in", True)):
            before = len(echo.sockets)
            with program_client(openssl, echo.address, "-servername", "localhost", option, path) as program:
                assert_client_is_served(program)
                assert echo.sockets[before].session_reused is resumed
                program.wait()


@needs_sessions
@pytest.mark.parametrize("kind", ["ticket", "id"])
def test_we_resume_with_its_server(peers: Peers, client: dtls.Context, kind: str) -> None:
    options = [] if kind == "ticket" else ["-no_ticket"]
    session = None
    with peers.server("-mtu", "1300", *options) as (program, address):
        for resumed in (False, True, True):
            with dtls.create_connection(
                address, PATIENCE, context=client, server_hostname="localhost", session=session
            ) as sock:
                assert sock.session_reused is resumed
                session = sock.session
                assert session is not None
                assert session.has_ticket is (kind == "ticket")
                assert_server_talks(program, sock)
                program.output = b""


@pytest.mark.parametrize("kind", ["ticket", "id"])
def test_its_client_resumes_with_us_whichever_datagram_is_lost(
    openssl: str, server: dtls.Context, tmp_path: Path, kind: str
) -> None:
    server.session_tickets, server.session_cache = kind == "ticket", kind == "id"
    path = str(tmp_path / "session.pem")
    with EchoServer(server) as echo:
        with program_client(openssl, echo.address, "-sess_out", path) as program:
            assert_client_is_served(program)
            program.wait()

        def talk(tap: Any) -> None:
            with (
                relay(echo.address, handshake_only(tap)) as address,
                program_client(openssl, address, "-sess_in", path) as program,
            ):
                assert_client_is_served(program)

        lose_each(talk, at_least=2)
        assert all(sock.session_reused for sock in echo.sockets[1:])


@needs_sessions
@pytest.mark.parametrize("options", [[], ["-no_ticket"]], ids=["ticket", "id"])
def test_we_resume_with_its_server_whichever_datagram_is_lost(
    peers: Peers, client: dtls.Context, options: list[str]
) -> None:
    def talk(tap: Any) -> None:
        with peers.server("-mtu", "1300", *options) as (program, where):
            with connect(client, where) as sock:
                session = sock.session
                assert_server_talks(program, sock)
            program.output = b""
            with (
                relay(where, handshake_only(tap)) as address,
                dtls.create_connection(
                    address, PATIENCE, context=client, server_hostname="localhost", session=session
                ) as sock,
            ):
                assert sock.session_reused
                # Whoever reads repeats the client's last flight when the server repeats its own.
                receiving = Worker(sock.recv)
                program.expect("Reused session-id")
                sock.send(b"hello from the client\n")
                program.expect("hello from the client")
                program.write("hello from the server")
                assert receiving.result() == b"hello from the server\n"

    lose_each(talk, at_least=2)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.example", "b.example"])
def test_its_client_is_answered_by_the_name_it_asks_for(
    openssl: str, server: dtls.Context, ca: CertificateAuthority, name: str
) -> None:
    inner = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    inner.load_cert_chain(ca.issue("b.example").private_key_and_chain_pem)
    server.load_cert_chain(ca.issue("a.example").private_key_and_chain_pem)
    server.set_sni_contexts({"b.example": inner})
    with (
        EchoServer(server) as echo,
        Program(
            openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{echo.address[1]}", "-servername", name
        ) as program,
    ):
        program.expect(f"subject=CN *= *{name}")
        assert_client_is_served(program)
        assert echo.sockets[0].server_hostname == name


def test_its_client_is_told_that_a_name_is_not_known(openssl: str, server: dtls.Context) -> None:
    server.sni_callback = lambda _, name, __: None if name == "a.example" else 112
    with EchoServer(server) as echo:
        with program_client(openssl, echo.address, "-servername", "b.example") as program:
            program.expect("unrecognized name|alert number 112")
        with program_client(openssl, echo.address, "-servername", "a.example") as program:
            assert_client_is_served(program)


# --- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ECDSA", "RSA"])
def test_its_client_gets_the_certificate_with_the_kind_of_key_it_knows(
    openssl: str, kind: str, tmp_path: Path
) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    roots = {"EC": CertificateAuthority("EC root"), "RSA": CertificateAuthority("RSA root", key_type="rsa")}
    for name, root in roots.items():
        key_type: Any = name.lower()
        middle = root.intermediate(f"{name} middle", key_type=key_type)
        server.load_cert_chain(middle.issue(f"{name}.example", key_type=key_type).private_key_and_chain_pem)
    trusted = tmp_path / "roots.pem"
    trusted.write_bytes(b"".join(root.certificate_pem for root in roots.values()))
    short = kind.removesuffix("DSA")
    with (
        EchoServer(server) as echo,
        Program(
            openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{echo.address[1]}", "-CAfile", str(trusted),
            "-verify_return_error", "-showcerts", "-cipher", f"ECDHE-{kind}-AES128-GCM-SHA256",
        ) as program,
    ):  # fmt: skip
        program.expect(f"subject=CN *= *{short}[.]example")
        assert program.output.count(b"BEGIN CERTIFICATE") == 2, "its own chain, and not the other's"
        assert_client_is_served(program)


def test_its_client_sees_which_authorities_we_trust(
    openssl: str, server: dtls.Context, ca: CertificateAuthority
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_OPTIONAL
    with (
        EchoServer(server) as echo,
        Program(openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{echo.address[1]}") as program,
    ):
        program.expect("Acceptable client certificate CA names\r?\n.*CN *=")
        assert_client_is_served(program)


# --- what a handshake leaves -----------------------------------------------------------------------------------------


def test_its_client_exports_what_we_export(openssl: str, server: dtls.Context) -> None:
    server.set_srtp_profiles(["SRTP_AES128_CM_SHA1_80"])
    with (
        EchoServer(server) as echo,
        Program(
            openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{echo.address[1]}",
            "-use_srtp", "SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80", "-alpn", "webrtc,coap",
            "-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", "60",
        ) as program,
    ):  # fmt: skip
        exported = program.expect(r"Keying material: ([0-9A-F]{120})").group(1)
        program.expect("SRTP Extension negotiated, profile=SRTP_AES128_CM_SHA1_80")
        assert_client_is_served(program)
        sock = echo.sockets[0]
        assert sock.export_keying_material("EXTRACTOR-dtls_srtp", 60) == bytes.fromhex(exported.decode())
        assert sock.selected_srtp_profile() == "SRTP_AES128_CM_SHA1_80"


def test_its_server_exports_what_we_export(peers: Peers, client: dtls.Context) -> None:
    client.set_srtp_profiles(["SRTP_AEAD_AES_128_GCM", "SRTP_AES128_CM_SHA1_80"])
    client.set_alpn_protocols(["coap"])
    options = (
        "-use_srtp",
        "SRTP_AES128_CM_SHA1_80",
        "-alpn",
        "webrtc,coap",
        "-keymatexport",
        "EXTRACTOR-dtls_srtp",
        "-keymatexportlen",
        "60",
    )
    with peers.server(*options) as (program, address), connect(client, address) as sock:
        exported = program.expect(r"Keying material: ([0-9A-F]{120})").group(1)
        assert sock.export_keying_material("EXTRACTOR-dtls_srtp", 60) == bytes.fromhex(exported.decode())
        assert sock.selected_srtp_profile() == "SRTP_AES128_CM_SHA1_80"
        assert sock.selected_alpn_protocol() == "coap"
        assert_server_talks(program, sock)


def test_its_client_is_shown_our_ocsp_response(openssl: str, server: dtls.Context) -> None:
    response = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    server.set_ocsp_response(response.public_bytes(Encoding.DER))
    with (
        EchoServer(server) as echo,
        Program(
            openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{echo.address[1]}", "-status"
        ) as program,
    ):
        program.expect("OCSP Response Status: trylater")
        assert_client_is_served(program)
