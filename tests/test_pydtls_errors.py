from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import pytest

import dtls
from dtls import err
from dtls.sslconnection import (
    CERT_REQUIRED,
    SSLConnection,
)
from tests.loopback import Worker
from tests.pydtls import accept, connections, raised, udp

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.certificates import CertificateAuthority, IssuedCertificate

SHORT = 0.05
"""Seconds that are meant to run out."""


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


def test_the_numbers_of_errors_are_pydtlss() -> None:
    assert {name: getattr(err, name) for name in err.__all__ if name.startswith("ERR_")} == {
        "ERR_BOTH_KEY_CERT_FILES_SVR": 298,
        "ERR_NO_CERTS": 331,
        "ERR_BOTH_KEY_CERT_FILES": 500,
        "ERR_NO_CIPHER": 501,
        "ERR_READ_TIMEOUT": 502,
        "ERR_WRITE_TIMEOUT": 503,
        "ERR_HANDSHAKE_TIMEOUT": 504,
        "ERR_PORT_UNREACHABLE": 505,
        "ERR_WRONG_SSL_VERSION": 0x1409210A,
        "ERR_WRONG_VERSION_NUMBER": 0x1408A10B,
        "ERR_COOKIE_MISMATCH": 0x1408A134,
        "ERR_CERTIFICATE_VERIFY_FAILED": 0x14090086,
        "ERR_NO_SHARED_CIPHER": 0x1408A0C1,
        "ERR_SSL_HANDSHAKE_FAILURE": 0x1410C0E5,
        "ERR_TLSV1_ALERT_UNKNOWN_CA": 0x14102418,
        "ERR_BAD_SIGNATURE": 0x1417B07B,
    }
    assert (err.SSL_ERROR_WANT_READ, err.SSL_ERROR_SYSCALL, err.SSL_ERROR_ZERO_RETURN) == (2, 5, 6)
    assert err.SSL_ERROR_TEXT[2] == "SSL_ERROR_WANT_READ"
    assert sorted(err.SSL_ERROR_TEXT) == list(range(9))


def test_a_package_error_has_a_number_and_a_text_and_no_queue() -> None:
    with pytest.raises(err.SSLError, match="timed out") as caught:
        err.raise_ssl_error(502)
    error = caught.value
    assert error.args == (502, "502: The read operation timed out")
    assert error.errno == 502
    assert not hasattr(error, "errqueue")
    assert not isinstance(error, TimeoutError)
    assert not isinstance(error, err.openssl_error())
    assert isinstance(error, (ssl.SSLError, OSError))
    assert isinstance(error, dtls.SSLError)


def test_an_openssl_error_has_a_number_a_queue_and_what_failed() -> None:
    queue = [(err.ERR_NO_SHARED_CIPHER, b"no shared cipher")]
    error = err.openssl_error()(1, queue, -1, "SSL_do_handshake")
    assert error.args == (1, queue)
    assert (error.errno, error.ssl_error, error.errqueue) == (1, 1, queue)
    assert (error.result, error.func) == (-1, "SSL_do_handshake")
    assert "no shared cipher" in str(error)
    assert isinstance(error, err.SSLError)
    assert isinstance(error, dtls.SSLError)


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("CERTIFICATE_VERIFY_FAILED", (err.ERR_CERTIFICATE_VERIFY_FAILED, b"certificate verify failed")),
        ("NO_SHARED_CIPHER", (err.ERR_NO_SHARED_CIPHER, b"no shared cipher")),
        ("UNSUPPORTED_PROTOCOL", (err.ERR_WRONG_SSL_VERSION, b"wrong ssl version")),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", (0x14000000 | 1040, b"sslv3 alert handshake failure")),
        ("SSL/TLS_ALERT_HANDSHAKE_FAILURE", (0x14000000 | 1040, b"sslv3 alert handshake failure")),
        ("TLSV1_ALERT_UNKNOWN_CA", (err.ERR_TLSV1_ALERT_UNKNOWN_CA, b"tlsv1 alert unknown ca")),
        ("TLSV1_ALERT_PROTOCOL_VERSION", (0x14000000 | 1070, b"tlsv1 alert protocol version")),
        ("TLSV1_ALERT_99", (0x14000000, b"tlsv1 alert 99")),
        ("SOMETHING_NEW", (0x14000000, b"something new")),
        ("", (0x14000000, b"in words")),
    ],
)
def test_the_queue_says_what_openssl_said(reason: str, entry: tuple[int, bytes]) -> None:
    assert err.entry(dtls.SSLError(1, "in words", reason=reason)) == entry


# --- the constructor -------------------------------------------------------------------------------------------------


def test_a_client_needs_key_and_certificate_together(pem: bytes) -> None:
    with udp() as sock:
        assert raised(lambda: SSLConnection(sock, keyfile=pem)).args[0] == 500
        assert raised(lambda: SSLConnection(sock, certfile=pem)).args[0] == 500


def test_a_server_needs_key_and_certificate() -> None:
    with udp(bound=True) as sock:
        assert raised(lambda: SSLConnection(sock, server_side=True)).errno == 298


def test_a_stream_socket_is_refused() -> None:
    with socket.socket() as sock, pytest.raises(err.InvalidSocketError):
        SSLConnection(sock)


def test_a_useless_cipher_list_is_501() -> None:
    with udp() as sock, pytest.raises(err.SSLError, match=r"No cipher can be selected\.") as caught:
        SSLConnection(sock, ciphers="^$:,;?*'dorothyx")
    assert caught.value.errno == 501


def test_unusable_files_are_openssl_errors_without_an_association(
    pem: bytes, ca: CertificateAuthority, tmp_path: Path
) -> None:
    other = ca.issue("other").key_pem
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    missing = str(tmp_path / "missing.pem")
    for options, text in (
        ({"keyfile": missing, "certfile": missing}, b"No such file or directory"),
        ({"keyfile": str(empty), "certfile": str(empty)}, b"no start line"),
        ({"keyfile": b"-----BEGIN nonsense", "certfile": pem}, b"no start line"),
        ({"keyfile": other, "certfile": pem}, b"key values mismatch"),
        ({"ca_certs": missing}, b"No such file or directory"),
        ({"ca_certs": str(empty)}, b"no certificate or crl found"),
    ):
        with udp() as sock, pytest.raises(err.openssl_error()) as caught:
            SSLConnection(sock, **options)
        assert caught.value.args[0] == caught.value.ssl_error == caught.value.errno == 0
        assert caught.value.errqueue[-1][1] == text
        assert caught.value.__cause__ is not None


def test_a_certificate_that_openssl_refuses_is_refused_when_the_server_is_made(
    ca: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtls.certificates._RSA_BITS", 1024)
    weak = ca.issue("localhost", key_type="rsa").private_key_and_chain_pem
    with udp(bound=True) as sock:
        error = raised(lambda: SSLConnection(sock, weak, weak, True, ciphers="DEFAULT:@SECLEVEL=2"))
    assert error.args == (0, [(0x14000000, b"ee key too small")])


def test_certificates_may_be_files_or_pem_data(pem: bytes, ca: CertificateAuthority, tmp_path: Path) -> None:
    identity, root = tmp_path / "identity.pem", tmp_path / "root.pem"
    identity.write_bytes(pem)
    root.write_bytes(ca.certificate_pem)
    for name in (str(identity), bytes(identity), identity):
        with connections(name, client={"ca_certs": str(root), "cert_reqs": CERT_REQUIRED}) as (near, _):  # type: ignore[arg-type]
            assert near.getpeercert()
    with connections(pem, client={"ca_certs": ca.certificate_pem, "cert_reqs": CERT_REQUIRED}) as (near, _):
        assert near.getpeercert()


def test_a_connection_on_a_connected_socket_shakes_hands_at_once(pem: bytes) -> None:
    with udp(bound=True) as one, udp(bound=True) as other:
        one.connect(other.getsockname())
        other.connect(one.getsockname())
        server = Worker(SSLConnection, other, pem, pem, True)
        client = SSLConnection(one)
        far = server.result()
        client.write(b"there")
        assert far.read() == b"there"
        assert far.get_socket(True) is other


def test_a_handshake_may_be_left_for_later(pem: bytes) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        client = SSLConnection(sock, do_handshake_on_connect=False)
        client.connect(bound.getsockname())
        assert client.cipher() is None
        shaking = Worker(client.do_handshake)
        far, address = accept(listening)
        assert address == sock.getsockname()
        with far.get_socket(True):
            assert far.cipher() is None
            far.do_handshake()
            shaking.result()
            assert far.cipher() == client.cipher() is not None
