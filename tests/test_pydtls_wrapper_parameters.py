"""What the arguments of a ``DtlsSocket`` do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from dtls import err
from dtls.certificates import CertificateAuthority
from dtls.pydtls.arguments import PROTOCOL_DTLSv1, PROTOCOL_DTLSv1_2
from dtls.pydtls.config import SSL_BUILD_CHAIN_FLAG_NO_ROOT, SSL_BUILD_CHAIN_FLAG_NONE
from dtls.pydtls.sslsocket import DatagramSSLSocket
from dtls.pydtls.wrapper_server import Ignored
from dtls.sslconnection import CERT_NONE, CERT_REQUIRED
from dtls.wrapper import DtlsSocket, wrap_client, wrap_server
from tests.loopback import HOSTS, PATIENCE, Worker, relay
from tests.pydtls import raised, udp
from tests.wrapped import (
    STEP,
    Recorder,
    attempt,
    connected,
    group_of,
    ignore,
    inside,
    listening,
    make_client,
    pump,
    reason_of,
    receive,
    step,
)

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.certificates import IssuedCertificate


@pytest.fixture(scope="module")
def rsa(ca: CertificateAuthority) -> bytes:
    return ca.issue("localhost", "127.0.0.1", "::1", key_type="rsa").private_key_and_chain_pem


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


def test_certfile_alone_stands_for_the_key_too_and_keyfile_prevails(
    pem: bytes, ca: CertificateAuthority, tmp_path: Path
) -> None:
    (tmp_path / "both.pem").write_bytes(pem)
    with (
        wrap_server(udp(bound=True), certfile=str(tmp_path / "both.pem")) as server,
        wrap_server(udp(bound=True), ca.issue("x").key_pem, pem) as other,
        wrap_server(udp(bound=True)) as third,
    ):
        server.listen(0)
        assert b"mismatch" in raised(other.listen, 0).errqueue[-1][1]
        assert raised(third.listen, 0).errno == err.ERR_BOTH_KEY_CERT_FILES_SVR


def test_a_client_verifies_when_it_is_told_to(pem: bytes, ca: CertificateAuthority) -> None:
    other = CertificateAuthority()  # of the same name
    with listening(pem, cb_ignore_ssl_exception_in_handshake=ignore) as server:
        for reqs, root, good in (
            (None, None, True),
            (CERT_NONE, other, True),
            (CERT_REQUIRED, ca, True),
            (CERT_REQUIRED, other, False),
        ):
            ca_certs = root and root.certificate_pem
            with make_client(cert_reqs=reqs, ca_certs=ca_certs) as client:
                error = attempt(server, client)
                assert (error is None) is good
                if error is None:
                    assert bool(client.getpeercert()) is bool(reqs)
                else:
                    assert reason_of(error) == "certificate verify failed"


def test_a_server_verifies_when_it_is_told_to(
    pem: bytes, ca: CertificateAuthority, client_certificate: IssuedCertificate
) -> None:
    seen = Recorder()
    with listening(
        pem,
        cert_reqs=CERT_REQUIRED,
        ca_certs=ca.certificate_pem,
        cb_ignore_ssl_exception_in_handshake=seen,
    ) as server:
        mine = client_certificate.private_key_and_chain_pem
        with connected(server, certfile=mine):
            (conn,) = server._clients
            assert conn.getpeercert()["subject"] == ((("commonName", "a client"),),)
        with make_client(handshake_timeout=STEP) as client:
            assert "handshake failure" in reason_of(attempt(server, client))
            assert seen.peers == [client.getsockname()]
        assert reason_of(seen.errors[0]) == "peer did not return a certificate"


def test_the_version_is_what_was_asked_for(rsa: bytes) -> None:
    with listening(rsa) as server:
        for version, name in (
            (PROTOCOL_DTLSv1, "DTLSv1"),
            (PROTOCOL_DTLSv1_2, "DTLSv1.2"),
            (None, "DTLSv1.2"),
        ):
            with connected(server, ssl_version=version) as client:
                assert client.version() == name
    with listening(rsa, ssl_version=PROTOCOL_DTLSv1) as server, make_client() as client:
        inside(server).ignored = Ignored(ignore)
        assert reason_of(attempt(server, client)) == "wrong ssl version"


def test_a_client_shakes_hands_in_connect_if_it_is_told_to(pem: bytes) -> None:
    with listening(pem) as server:
        for client, does in ((wrap_client(udp()), True), (make_client(), False)):
            with client:
                connecting = Worker(client.connect, server.getsockname())
                while connecting.is_alive():
                    step(server)
                connecting.result()
                assert (client.cipher() is not None) is does


@pytest.mark.parametrize("waits", [True, False])
def test_a_server_waits_for_the_handshake_if_it_is_told_to(
    pem: bytes, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = []
    original = DatagramSSLSocket.do_handshake

    def do_handshake(self: DatagramSSLSocket, block: bool = False) -> None:
        timeouts.append(self.gettimeout())
        original(self, block)

    monkeypatch.setattr(DatagramSSLSocket, "do_handshake", do_handshake)
    with listening(pem, do_handshake_on_connect=waits) as server, make_client() as client:
        client.connect(server.getsockname())
        writing = Worker(client.write, b"x")
        server.settimeout(PATIENCE)
        received = pump(server, lambda: server._clients)
        assert timeouts[0] == (PATIENCE if waits else 0)
        ((conn, session),) = server._clients.items()
        assert session.handshake_done or not waits
        assert conn.gettimeout() == 0
        assert (received or receive(server))[0][0] == b"x"
        assert writing.result() == 1


def test_ciphers_of_either_end_count(pem: bytes) -> None:
    suite = "ECDHE-ECDSA-CHACHA20-POLY1305"
    for at_server in (True, False):
        ends = [{"ciphers": suite}, {}] if at_server else [{}, {"ciphers": suite}]
        with listening(pem, **ends[0]) as server, connected(server, **ends[1]) as client:
            assert client.cipher()[0] == suite.encode()
    with listening(pem) as server, make_client(ciphers="no such suite") as client:
        assert raised(client.connect, server.getsockname()).errno == err.ERR_NO_CIPHER


@pytest.mark.parametrize("option", ["curves", "server_key_exchange_curve"])
def test_a_server_s_curve_is_the_one_that_is_used(rsa: bytes, option: str) -> None:
    with listening(
        rsa, ciphers="ECDHE", cb_ignore_ssl_exception_in_handshake=ignore, **{option: "secp384r1"}
    ) as server:
        with connected(server) as client:
            assert group_of(client._sock) in ("secp384r1", None)
        with connected(server, curves="secp384r1"):
            pass
        with make_client(curves="prime256v1", handshake_timeout=STEP) as client:
            assert "handshake failure" in reason_of(attempt(server, client))


def test_the_key_exchange_curve_prevails_and_is_the_server_s(rsa: bytes) -> None:
    options = {"curves": "prime256v1", "server_key_exchange_curve": "secp384r1"}
    with listening(rsa, ciphers="ECDHE", **options) as server, connected(server, curves="secp384r1"):
        pass


def test_curves_of_a_client_must_include_that_of_the_certificate(pem: bytes) -> None:
    with listening(pem, cb_ignore_ssl_exception_in_handshake=ignore) as server:
        with connected(server, curves="prime256v1"):
            pass
        with make_client(curves="secp384r1", handshake_timeout=STEP) as client:
            assert "handshake failure" in reason_of(attempt(server, client))


def test_sigalgs_of_either_end_count(pem: bytes) -> None:
    for mine, theirs, good in (
        (None, "ECDSA+SHA256", True),
        (None, "RSA+SHA256", False),
        ("ECDSA+SHA512", "ECDSA+SHA256", False),
    ):
        with (
            listening(pem, sigalgs=mine, cb_ignore_ssl_exception_in_handshake=ignore) as server,
            make_client(sigalgs=theirs, handshake_timeout=STEP) as client,
        ):
            assert (attempt(server, client) is None) is good


def test_unknown_curves_and_sigalgs_are_told_and_passed_over(
    pem: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(pem) as server:
        for option in ({"curves": "P-257"}, {"sigalgs": "RSA+SHA265"}):
            caplog.clear()
            with connected(server, **option) as client:
                assert client.cipher()
            warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
            assert [record.name for record in warnings] == ["dtls.wrapper"]
            ((name, value),) = option.items()
            assert name in warnings[0].getMessage()
            assert value in warnings[0].getMessage()


@pytest.mark.parametrize(("curves", "unknown"), [("P-257:secp384r1:P-257", "P-257"), ((715, 0), "0")])
def test_those_curves_that_are_known_count(
    rsa: bytes, curves: str | tuple[int, ...], unknown: str, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(
        rsa, curves=curves, ciphers="ECDHE", cb_ignore_ssl_exception_in_handshake=ignore
    ) as server:
        assert caplog.messages == [f"curves: OpenSSL does not know {unknown}"]
        with connected(server, curves="secp384r1"):
            pass
        with make_client(curves="prime256v1", handshake_timeout=STEP) as client:
            assert "handshake failure" in reason_of(attempt(server, client))


def test_an_unknown_key_exchange_curve_is_an_error_that_names_those_there_are(pem: bytes) -> None:
    with (
        wrap_server(udp(bound=True), certfile=pem, server_key_exchange_curve="secp385r1") as server,
        pytest.raises(IndexError, match=r"secp385r1.*prime256v1.*secp384r1"),
    ):
        server.listen(0)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("mtu", [300, 600])
def test_no_datagram_of_a_handshake_is_longer_than_the_link_takes(rsa: bytes, host: str, mtu: int) -> None:
    longest = {"client": 0, "server": 0}

    def tap(sender: str, _index: int, datagram: bytes) -> list[bytes]:
        longest[sender] = max(longest[sender], len(datagram))
        return [datagram]

    payload = mtu - (48 if ":" in host else 28)
    for sender in ("client", "server"):
        longest.update(client=0, server=0)
        options: dict[str, dict[str, Any]] = {"client": {"certfile": rsa}, "server": {}}
        options[sender]["user_mtu"] = mtu
        with (
            listening(rsa, host, **options["server"]) as server,
            relay(server.getsockname(), tap) as address,
            connected(server, address=address, **options["client"]),
        ):
            pass
        assert longest[sender] <= payload
        if sender == "server":  # its certificate fills datagrams
            assert longest[sender] > payload - 60
            assert longest["client"] > 0


def test_an_mtu_that_is_too_small_is_refused_at_once() -> None:
    with udp() as sock, pytest.raises(ValueError, match="MTU"):
        DtlsSocket(sock, user_mtu=100)


@pytest.mark.parametrize(
    ("options", "length"), [(SSL_BUILD_CHAIN_FLAG_NONE, 2), (SSL_BUILD_CHAIN_FLAG_NO_ROOT, 1)]
)
def test_the_chain_is_sent_with_or_without_the_root(
    pem: bytes, ca: CertificateAuthority, client_certificate: IssuedCertificate, options: int, length: int
) -> None:
    root = ca.certificate_pem
    client = client_certificate.private_key_and_chain_pem
    with (
        listening(pem, ca_certs=root, cert_reqs=CERT_REQUIRED, server_cert_options=options) as server,
        connected(server, certfile=client, ca_certs=root, server_cert_options=options) as near,
    ):
        assert len(near.getpeercertchain()) == length
        (far,) = server._clients
        assert len(far.getpeercertchain()) == length - 1  # the client's own is left out there


def test_a_chain_that_cannot_be_built_is_told(pem: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with (
        listening(pem, server_cert_options=SSL_BUILD_CHAIN_FLAG_NO_ROOT) as server,
        connected(server) as client,
    ):
        assert len(client.getpeercertchain()) == 1
    assert "chain" in caplog.text


def test_handshakes_are_logged_if_asked_for_and_secrets_never(
    pem: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for server_logs, client_logs in ((False, False), (True, False), (False, True)):
        caplog.clear()
        with (
            listening(pem, ssl_logging=server_logs) as server,
            connected(server, ssl_logging=client_logs) as client,
        ):
            client.send(b"a well-kept secret")
            receive(server)
        steps = [record for record in caplog.records if record.name == "dtls.sslconnection"]
        assert {record.levelno for record in steps} <= {logging.DEBUG}
        assert any("SSL_accept" in record.getMessage() for record in steps) is server_logs
        assert any("SSL_connect" in record.getMessage() for record in steps) is client_logs
        assert "secret" not in caplog.text


# --- time ------------------------------------------------------------------------------------------------------------
