from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any

import pytest

from dtls import err
from dtls.certificates import CertificateAuthority, IssuedCertificate
from dtls.pydtls.arguments import cipher_string
from dtls.sslconnection import (
    CERT_NONE,
    CERT_OPTIONAL,
    CERT_REQUIRED,
    PROTOCOL_DTLS,
    PROTOCOL_DTLSv1,
    PROTOCOL_DTLSv1_2,
    SSLConnection,
)
from tests.loopback import Worker
from tests.pydtls import accept, connections, raised, udp

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT = 0.05
"""Seconds that are meant to run out."""


@pytest.fixture(scope="module")
def rsa(ca: CertificateAuthority) -> bytes:
    """A certificate with its key; RSA, since DTLS 1.0 has no other usual one."""
    return ca.issue("localhost", "127.0.0.1", "::1", key_type="rsa").private_key_and_chain_pem


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


@pytest.fixture
def ends(pem: bytes) -> Iterator[tuple[SSLConnection, SSLConnection]]:
    with connections(pem) as both:
        yield both


# --- versions and suites ---------------------------------------------------------------------------------------------

ANY, OLD, NEW = PROTOCOL_DTLS, PROTOCOL_DTLSv1, PROTOCOL_DTLSv1_2
TLS_1_0 = 3
"""ssl.PROTOCOL_TLSv1: a number that PyDTLS does not know."""


@pytest.mark.parametrize(
    ("server", "client", "version"),
    [
        (ANY, ANY, "DTLSv1.2"),
        (ANY, NEW, "DTLSv1.2"),
        (NEW, ANY, "DTLSv1.2"),
        (NEW, NEW, "DTLSv1.2"),
        (TLS_1_0, TLS_1_0, "DTLSv1.2"),
        (ANY, OLD, "DTLSv1"),
        (OLD, OLD, "DTLSv1"),
        (TLS_1_0, OLD, "DTLSv1"),
    ],
)
@pytest.mark.parametrize("ciphers", [None, "ALL", "DEFAULT"])
def test_versions_are_negotiated_as_the_numbers_say(
    rsa: bytes, server: int, client: int, version: str, ciphers: str | None
) -> None:
    with connections(
        rsa,
        server={"ssl_version": server, "ciphers": ciphers},
        client={"ssl_version": client, "ciphers": ciphers},
    ) as (near, far):
        assert near.version() == far.version() == version
        expected = (b"ECDHE-RSA-AES256-GCM-SHA384", b"TLSv1.2", 256)
        if version == "DTLSv1":
            expected = (b"ECDHE-RSA-AES256-SHA", b"TLSv1.0", 256)
        assert near.cipher() == far.cipher() == expected


@pytest.mark.parametrize("client", [ANY, NEW])
def test_a_server_for_dtls_1_0_alone_is_the_wrong_version(rsa: bytes, client: int) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(
            bound, rsa, rsa, server_side=True, ssl_version=OLD, do_handshake_on_connect=False
        )
        connection = SSLConnection(sock, ssl_version=client)
        connecting = Worker(connection.connect, bound.getsockname())
        far, _ = accept(listening)
        with far.get_socket(True) as accepted, pytest.raises(err.openssl_error()) as caught:
            connecting.result()
        assert accepted.fileno() == -1
        assert caught.value.args[0] == 1
        assert caught.value.errqueue[-1] == (err.ERR_WRONG_SSL_VERSION, b"wrong ssl version")


def test_a_server_for_dtls_1_2_alone_leaves_an_older_client_without_an_answer(
    rsa: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dtls")
    with udp(bound=True) as bound, udp(timeout=10 * SHORT) as sock:
        listening = SSLConnection(bound, rsa, rsa, server_side=True, ssl_version=NEW)
        connecting = Worker(SSLConnection(sock, ssl_version=OLD).connect, bound.getsockname())
        assert listening.listen() is None
        with pytest.raises(err.SSLError) as caught:
            connecting.result()
        assert caught.value.errno == 504
    assert "too old a version" in caplog.text


def test_dtls_1_0_gets_the_security_level_it_needs_and_nothing_weaker_slips_in() -> None:
    assert cipher_string(None, with_dtls_1_0=False) == "DEFAULT"
    assert cipher_string("ALL", with_dtls_1_0=False) == "ALL"
    assert cipher_string("ALL", with_dtls_1_0=True) == "ALL:!aNULL:!eNULL:@SECLEVEL=0"
    assert cipher_string("ALL:!aNULL", with_dtls_1_0=False) == "ALL:!aNULL"
    assert cipher_string("ALL:@SECLEVEL=1", with_dtls_1_0=True) == "ALL:@SECLEVEL=1"
    assert cipher_string("NULL", with_dtls_1_0=False) == "NULL:@SECLEVEL=0"
    assert cipher_string("AECDH-AES128-SHA", with_dtls_1_0=True) == "AECDH-AES128-SHA:@SECLEVEL=0"


def test_no_shared_cipher_is_told_to_both_sides(pem: bytes) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        connecting = Worker(
            SSLConnection(sock, ciphers="ECDHE-RSA-AES256-SHA384").connect, bound.getsockname()
        )
        far, _ = accept(listening)
        with far.get_socket(True):
            error = raised(far.do_handshake)
            assert error.errqueue == [(err.ERR_NO_SHARED_CIPHER, b"no shared cipher")]
            assert error.args[0] == 1
            far.get_socket(True).getpeername()
            with pytest.raises(err.openssl_error()) as caught:
                connecting.result()
        assert caught.value.errqueue[-1][1] == b"sslv3 alert handshake failure"


# --- certificates ----------------------------------------------------------------------------------------------------


def _first(chain: list[Any] | None) -> Any:
    assert chain
    return chain[0]


@pytest.mark.parametrize("cert_reqs", [CERT_OPTIONAL, CERT_REQUIRED])
def test_a_client_verifies_the_server_if_asked_and_never_its_name(
    ca: CertificateAuthority, cert_reqs: int
) -> None:
    pem = ca.issue("somebody-else.example").private_key_and_chain_pem
    with connections(pem, client={"cert_reqs": cert_reqs, "ca_certs": ca.certificate_pem}) as (near, far):
        certificate = near.getpeercert()
        assert {"issuer", "notAfter", "serialNumber", "subject", "subjectAltName"} <= certificate.keys()
        assert certificate["subject"] == ((("commonName", "somebody-else.example"),),)
        assert isinstance(certificate["notAfter"], bytes)
        assert certificate["notAfter"].endswith(b" GMT")
        assert certificate["subjectAltName"] == (("DNS", "somebody-else.example"),)
        assert near.peer_certificate() == certificate
        der = near.getpeercert(True)
        assert der == near.peer_certificate(binary_form=True) == _first(near.getpeercertchain(True))
        assert _first(near.getpeercertchain()) == certificate
        assert far.getpeercert() is None
        assert far.getpeercert(True) is None
        assert far.getpeercertchain() == []


def test_a_certificate_that_is_not_verified_is_an_empty_dictionary(
    ends: tuple[SSLConnection, SSLConnection],
) -> None:
    near, _ = ends
    assert near.getpeercert() == {}
    assert near.getpeercert(True)[:1] == b"\x30"
    assert _first(near.getpeercertchain())["subject"]


@pytest.mark.parametrize("trusted", [True, False])
def test_a_wrong_root_fails_the_verification(pem: bytes, trusted: bool) -> None:
    root = CertificateAuthority().certificate_pem if trusted else None
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        client = SSLConnection(sock, cert_reqs=CERT_REQUIRED, ca_certs=root)
        connecting = Worker(client.connect, bound.getsockname())
        far, _ = accept(listening)
        with far.get_socket(True):
            with pytest.raises(err.openssl_error()) as caught:
                connecting.result()
            assert caught.value.errqueue == [
                (err.ERR_CERTIFICATE_VERIFY_FAILED, b"certificate verify failed")
            ]
            assert caught.value.verify_code
            assert caught.value.verify_message
            error = raised(far.do_handshake)
            assert error.errqueue == [(err.ERR_TLSV1_ALERT_UNKNOWN_CA, b"tlsv1 alert unknown ca")]


def test_a_server_verifies_its_client_if_asked(
    pem: bytes, ca: CertificateAuthority, client_certificate: IssuedCertificate
) -> None:
    own = client_certificate.private_key_and_chain_pem
    with connections(
        pem,
        server={"cert_reqs": CERT_REQUIRED, "ca_certs": ca.certificate_pem},
        client={"keyfile": own, "certfile": own},
    ) as (_, far):
        assert far.getpeercert()["subject"] == ((("commonName", "a client"),),)
        assert far.getpeercertchain() == []


@pytest.mark.parametrize(("cert_reqs", "refused"), [(CERT_OPTIONAL, False), (CERT_REQUIRED, True)])
def test_a_client_without_a_certificate_is_refused_only_where_one_is_required(
    pem: bytes, ca: CertificateAuthority, cert_reqs: int, refused: bool
) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(
            bound,
            pem,
            pem,
            server_side=True,
            cert_reqs=cert_reqs,
            ca_certs=ca.certificate_pem,
            do_handshake_on_connect=False,
        )
        connecting = Worker(SSLConnection(sock).connect, bound.getsockname())
        far, _ = accept(listening)
        with far.get_socket(True):
            if refused:
                assert raised(far.do_handshake).errqueue[-1][1] == b"peer did not return a certificate"
                with pytest.raises(err.openssl_error()) as caught:
                    connecting.result()
                assert b"alert handshake failure" in caught.value.errqueue[-1][1]
            else:
                far.do_handshake()
                connecting.result()
                assert far.getpeercert() is None


def test_nothing_is_known_before_the_handshake() -> None:
    with udp() as sock:
        client = SSLConnection(sock, cert_reqs=CERT_NONE)
        assert (client.cipher(), client.version(), client.getpeercert(), client.getpeercertchain()) == (
            None,
        ) * 4
        assert client.pending() == 0
        assert raised(client.read).errno == raised(client.write, b"x").errno == errno.ENOTCONN
        assert raised(client.do_handshake).errno == raised(client.get_timeout).errno == errno.ENOTCONN


def test_an_alert_says_more_than_the_closed_port_behind_it(pem: bytes) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        client = SSLConnection(sock, ciphers="ECDHE-RSA-AES256-SHA384")
        connecting = Worker(client.connect, bound.getsockname())
        far, _ = accept(listening)
        assert raised(far.do_handshake).args[0] == err.SSL_ERROR_SSL
        far.get_socket(True).close()
        bound.close()
        with pytest.raises(err.openssl_error()) as caught:
            connecting.result()
        assert caught.value.errqueue[-1][1] == b"sslv3 alert handshake failure"
