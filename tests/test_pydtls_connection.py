from __future__ import annotations

import array
import ctypes
import errno
import gc
import logging
import socket
import ssl
import sys
import threading
import weakref
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls import err
from dtls.borrowed import BorrowedSocket
from dtls.certificates import CertificateAuthority, IssuedCertificate
from dtls.pydtls_context import cipher_string
from dtls.sslconnection import (
    CERT_NONE,
    CERT_OPTIONAL,
    CERT_REQUIRED,
    PROTOCOL_DTLS,
    PROTOCOL_DTLSv1,
    PROTOCOL_DTLSv1_2,
    SSLConnection,
)
from dtls.udp import Listener, Origin
from tests.hellos import OFFER, cookie_in, hello_body, whole
from tests.loopback import HOSTS, PATIENCE, Worker, relay, wait_for
from tests.pydtls import accept, connections, raised, run_python, udp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


# --- errors ----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("callback", ["cb_user_config_ssl_ctx", "cb_user_config_ssl"])
def test_callbacks_are_not_ignored(callback: str) -> None:
    with udp() as sock, pytest.raises(NotImplementedError, match=callback):
        SSLConnection(sock, **{callback: lambda _: None})  # type: ignore[arg-type]


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
            SSLConnection(sock, **options)  # type: ignore[arg-type]
        assert caught.value.args[0] == caught.value.ssl_error == caught.value.errno == 0
        assert caught.value.errqueue[-1][1] == text
        assert caught.value.__cause__ is not None


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


@pytest.mark.parametrize("cert_reqs", [CERT_OPTIONAL, CERT_REQUIRED])
def test_a_client_verifies_the_server_if_asked_and_never_its_name(
    ca: CertificateAuthority, cert_reqs: int
) -> None:
    pem = ca.issue("somebody-else.example").private_key_and_chain_pem
    with connections(pem, client={"cert_reqs": cert_reqs, "ca_certs": ca.certificate_pem}) as (near, far):
        certificate = near.getpeercert()
        assert sorted(certificate) == ["notAfter", "subject", "subjectAltName"]
        assert certificate["subject"] == ((("commonName", "somebody-else.example"),),)
        assert isinstance(certificate["notAfter"], bytes)
        assert certificate["notAfter"].endswith(b" GMT")
        assert certificate["subjectAltName"] == (("DNS", "somebody-else.example"),)
        assert near.peer_certificate() == certificate
        der = near.getpeercert(True)
        assert der == near.peer_certificate(binary_form=True) == near.getpeercertchain(True)[0]
        assert near.getpeercertchain()[0] == certificate
        assert far.getpeercert() is None
        assert far.getpeercert(True) is None
        assert far.getpeercertchain() == []


def test_a_certificate_that_is_not_verified_is_an_empty_dictionary(
    ends: tuple[SSLConnection, SSLConnection],
) -> None:
    near, _ = ends
    assert near.getpeercert() == {}
    assert near.getpeercert(True)[:1] == b"\x30"
    assert near.getpeercertchain()[0]["subject"]


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


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_messages_go_both_ways(pem: bytes, host: str) -> None:
    with connections(pem, host) as (near, far):
        assert near.write(b"there") == 5
        assert far.read() == b"there"
        assert far.write(b"and back") == 8
        assert near.read() == b"and back"


@pytest.mark.parametrize(
    "message",
    [
        "grüße",
        b"gr\xc3\xbc\xc3\x9fe",
        bytearray(b"gr\xc3\xbc\xc3\x9fe"),
        memoryview(b"gr\xc3\xbc\xc3\x9fe"),
        (ctypes.c_char * 7)(*b"gr\xc3\xbc\xc3\x9fe"),
        array.array("B", b"gr\xc3\xbc\xc3\x9fe"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_write_takes_text_and_all_that_has_bytes(
    ends: tuple[SSLConnection, SSLConnection], message: Any
) -> None:
    near, far = ends
    assert near.write(message) == 7
    assert far.read() == b"gr\xc3\xbc\xc3\x9fe"


def test_a_message_may_have_16384_bytes_and_no_more(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    largest = bytes(range(256)) * 64
    assert near.write(largest) == 16384
    assert far.read(20000) == largest
    error = raised(near.write, bytes(16385))
    assert error.args == (1, [(0x1400014E, b"dtls message too big")])
    near.write(b"still here")
    assert far.read() == b"still here"


def test_an_empty_message_is_a_system_call_error(ends: tuple[SSLConnection, SSLConnection]) -> None:
    for nothing in (b"", "", bytearray()):
        assert raised(ends[0].write, nothing).args == (5, [])


def test_the_rest_of_a_message_is_for_the_next_read(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    message = bytes(range(256)) * 12
    near.write(message)
    near.write(b"next")
    assert far.pending() == 0
    parts = [far.read()]
    assert far.pending() == len(message) - 1024
    parts += [far.read(), far.read()]
    assert [len(part) for part in parts] == [1024, 1024, 1024]
    assert b"".join(parts) == message
    assert far.pending() == 0
    assert (far.read(2), far.read()) == (b"ne", b"xt")


def test_read_fills_a_buffer(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    near.write(b"abcdef")
    buffer = bytearray(4)
    assert far.read(1024, buffer) == 4
    assert buffer == b"abcd"
    assert far.read(1, buffer) == 1
    assert far.read(buffer=buffer) == 1
    assert buffer == b"fbcd"


def test_one_thread_writes_while_another_reads(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    reading = Worker(lambda: [far.read() for _ in range(100)])
    for number in range(100):
        near.write(str(number))
        assert far.write(b"x") == 1
    assert reading.result() == [str(number).encode() for number in range(100)]


# --- time-outs -------------------------------------------------------------------------------------------------------


def test_the_timeout_is_that_of_the_socket(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    for end in ends:
        assert end.get_socket(True) is end.get_socket(False)
        end.get_socket(True).settimeout(SHORT)
        error = raised(end.read)
        assert error.args == (502, "502: The read operation timed out")
        assert not isinstance(error, TimeoutError)
        assert end.get_socket(True).gettimeout() == SHORT
    near.write(b"still here")
    assert far.read() == b"still here"


def test_a_socket_without_blocking_wants_to_read(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    far.get_socket(True).setblocking(False)
    error = raised(far.read)
    assert error.args == (err.SSL_ERROR_WANT_READ, [])
    assert isinstance(error, err.openssl_error())
    near.write(b"now")
    assert wait_for(lambda: _readable(far)) == b"now"


def _readable(connection: SSLConnection) -> Any:
    try:
        return connection.read()
    except err.SSLError as error:
        assert error.args[0] == err.SSL_ERROR_WANT_READ  # noqa: PT017 - nothing else may come
        return None


def test_a_socket_may_be_made_blocking_while_it_is_in_use(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    for timeout in (0, None, PATIENCE, None, 0, PATIENCE):
        far.get_socket(True).settimeout(timeout)
        near.write(b"again")
        assert wait_for(lambda: _readable(far)) == b"again"


def test_a_silent_peer_times_the_handshake_out_and_it_can_be_gone_on_with(pem: bytes) -> None:
    with udp(bound=True) as bound, udp(timeout=SHORT) as sock:
        client = SSLConnection(sock)
        error = raised(client.connect, bound.getsockname())
        assert error.args == (504, "504: The handshake operation timed out")
        assert isinstance(error.__cause__, dtls.SSLTimeoutError)
        assert raised(client.do_handshake).errno == 504
        sock.settimeout(PATIENCE)
        accepting = Worker(accept, SSLConnection(bound, pem, pem, server_side=True))
        client.do_handshake()
        far, _ = accepting.result()
        far.get_socket(True).close()


def test_a_write_or_read_that_has_to_shake_hands_times_out_by_its_own_number() -> None:
    with udp(bound=True) as silent, udp(timeout=SHORT) as sock:
        client = SSLConnection(sock, do_handshake_on_connect=False)
        client.connect(silent.getsockname())
        error = raised(client.write, b"x")
        assert error.args == (503, "503: The write operation timed out")
        assert not hasattr(error, "errqueue")
        assert raised(client.read).errno == 502


def test_a_handshake_without_blocking_is_driven_by_get_timeout_and_handle_timeout(pem: bytes) -> None:
    lost = []

    def lose_the_first(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender == "client" and not index:
            lost.append(datagram)
            return []
        return [datagram]

    with udp(bound=True) as bound:
        accepting = Worker(accept, SSLConnection(bound, pem, pem, server_side=True))
        with relay(bound.getsockname(), lose_the_first) as address, udp(timeout=0) as sock:
            client = SSLConnection(sock, do_handshake_on_connect=False)
            client.connect(address)
            assert raised(client.do_handshake).args == (err.SSL_ERROR_WANT_READ, [])
            wait_for(lambda: lost)
            due = client.get_timeout()
            assert due is not None
            assert timedelta() < due <= timedelta(seconds=1)
            assert client.handle_timeout() is False
            wait_for(lambda: client.get_timeout() == timedelta())
            assert client.handle_timeout() is True
            wait_for(lambda: _is_done(client))
            assert client.get_timeout() is None
            assert client.handle_timeout() is False
            accepting.result()[0].get_socket(True).close()


def _is_done(connection: SSLConnection) -> bool:
    try:
        connection.do_handshake()
    except err.SSLError as error:
        assert error.args[0] == err.SSL_ERROR_WANT_READ  # noqa: PT017 - nothing else may come
        return False
    return True


def test_handle_timeout_raises_what_ends_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtls.pydtls_context.HANDSHAKE_TIMEOUT", SHORT)
    with udp(bound=True) as silent, udp(timeout=0) as sock:
        client = SSLConnection(sock, do_handshake_on_connect=False)
        client.connect(silent.getsockname())
        wait_for(lambda: client.get_timeout() == timedelta())
        assert raised(client.handle_timeout).errno == 504


# --- ICMP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_closed_port_is_505_at_once(host: str, timeout: float | None) -> None:
    with udp(host, bound=True) as closed:
        address = closed.getsockname()
    with (
        udp(host, timeout=timeout) as sock,
        pytest.raises(err.SSLError, match="The peer address is not reachable") as caught,
    ):
        SSLConnection(sock).connect(address)
    assert caught.value.args == (505, "505: The peer address is not reachable")


def test_a_handshake_goes_on_when_the_server_is_started_after_all(pem: bytes) -> None:
    with udp(bound=True) as closed:
        address = closed.getsockname()
    with udp() as sock:
        client = SSLConnection(sock)
        assert raised(client.connect, address).errno == 505
        with udp(timeout=PATIENCE) as bound:
            bound.bind(address)
            accepting = Worker(accept, SSLConnection(bound, pem, pem, server_side=True))
            client.do_handshake()
            accepting.result()[0].get_socket(True).close()


def test_a_peer_that_is_gone_is_505_for_read_and_for_write(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    far.get_socket(True).close()  # the listening socket, which would take its place, says nothing to ICMP
    gone = udp(bound=True)
    gone.connect(near.get_socket(True).getsockname())
    near.get_socket(True).connect(gone.getsockname())
    gone.close()
    near.write(b"is anybody there?")
    assert raised(near.read).args == (505, "505: The peer address is not reachable")
    near.write(b"nobody?")
    assert raised(near.write, b"really?").errno == 505


# --- the end ---------------------------------------------------------------------------------------------------------


def test_the_end_is_told_each_time(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, far = ends
    near.write(b"last words")
    unwrapping = Worker(near.unwrap)
    assert far.read() == b"last words"
    for operation in (far.read, far.read, lambda: far.write(b"too late")):
        error = raised(operation)
        assert error.args == (err.SSL_ERROR_ZERO_RETURN, [])
        assert isinstance(error, err.openssl_error())
    assert unwrapping.result() is near.get_socket(True)
    assert raised(near.read).args == raised(near.write, b"x").args == (err.SSL_ERROR_ZERO_RETURN, [])


@pytest.mark.parametrize("host", HOSTS)
def test_after_the_end_the_sockets_speak_plaintext(pem: bytes, host: str) -> None:
    with connections(pem, host) as (near, far):
        unwrapping = Worker(near.shutdown)
        assert raised(far.read).args[0] == err.SSL_ERROR_ZERO_RETURN
        plain = unwrapping.result()
        plain.send(b"in plaintext")
        # Not even asking again makes the association swallow what is not its own.
        assert raised(far.read).args[0] == err.SSL_ERROR_ZERO_RETURN
        other = far.unwrap()
        assert type(other) is socket.socket
        assert other.recv(100) == b"in plaintext"
        other.send(b"likewise")
        assert plain.recv(100) == b"likewise"


def test_a_socket_may_be_secured_again_after_plaintext(pem: bytes) -> None:
    with connections(pem) as (near, far):
        closing = Worker(near.shutdown)
        raised(far.read)
        plain, other = closing.result(), far.unwrap()
        assert other is not None
        server = Worker(SSLConnection, other, pem, pem, True)
        again = SSLConnection(plain)
        server.result()
        assert again.version() == "DTLSv1.2"


def test_shutdown_says_what_it_waits_for_and_unwrap_does_not(
    ends: tuple[SSLConnection, SSLConnection],
) -> None:
    near, far = ends
    sock = near.get_socket(True)
    sock.settimeout(0)
    assert raised(near.shutdown).args == (err.SSL_ERROR_WANT_READ, [])
    sock.settimeout(SHORT)
    assert raised(near.shutdown).errno == 502
    assert near.unwrap() is sock
    assert sock.gettimeout() == SHORT
    assert raised(far.read).args[0] == err.SSL_ERROR_ZERO_RETURN


def test_shutdown_does_not_wait_for_ever(
    ends: tuple[SSLConnection, SSLConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtls.sslconnection.SHUTDOWN_PATIENCE", SHORT)
    near, _ = ends
    near.get_socket(True).settimeout(None)
    assert near.shutdown() is near.get_socket(True)


@pytest.mark.parametrize("timeout", [0, SHORT])
def test_unwrap_never_raises(timeout: float) -> None:
    with udp(bound=True) as silent, udp(timeout=timeout) as sock:
        client = SSLConnection(sock, do_handshake_on_connect=False)
        assert client.unwrap() is sock
        client.connect(silent.getsockname())
        assert raised(client.shutdown).args[0] == err.SSL_ERROR_SSL
        assert client.unwrap() is sock
        assert client.unwrap() is sock
        silent.recv(65535)
        assert silent.recv(65535)[:1] == b"\x15"  # an alert, so that the server need not wait


# --- servers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_listen_tells_of_a_client_and_accept_gives_it(pem: bytes, host: str) -> None:
    with udp(host, bound=True) as bound, udp(host) as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        connecting = Worker(SSLConnection(sock).connect, bound.getsockname())
        assert wait_for(listening.listen) == sock.getsockname()
        accepted = listening.accept()
        assert accepted is not None
        far, address = accepted
        connecting.result()
        with far.get_socket(True) as own:
            assert address == sock.getsockname() == own.getpeername()
            assert own.getsockname() == bound.getsockname()
            assert own.gettimeout() is None


def test_listen_and_accept_give_none_when_nobody_comes(pem: bytes) -> None:
    with udp(bound=True) as bound, udp() as nobody:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        for timeout in (0, SHORT):
            bound.settimeout(timeout)
            assert listening.listen() is None
            assert listening.accept() is None
        for timeout in (0, PATIENCE, None):  # junk is not waited after, or this would hang
            bound.settimeout(timeout)
            nobody.sendto(b"junk", bound.getsockname())
            assert listening.accept() is None
        assert listening.get_timeout() is None
        assert listening.handle_timeout() is False
        assert listening.shutdown() is listening.unwrap() is None


def test_a_datagram_of_a_known_client_is_taken_to_it(
    pem: bytes, ends: tuple[SSLConnection, SSLConnection]
) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        client = SSLConnection(sock)
        connecting = Worker(client.connect, bound.getsockname())
        far, address = accept(listening)
        connecting.result()
        with far.get_socket(True):
            arrival = Listener(bound), Origin(address)
            assert arrival
            seen: list[bytes] = []
            with udp(bound=True) as eavesdropper:
                sock.connect(eavesdropper.getsockname())
                client.write(b"astray")
                seen.append(eavesdropper.recv(65535))
                sock.connect(bound.getsockname())
            reception = listening._reception
            assert reception is not None
            reception._receive(seen[0], Origin(address))
            assert far.pending() == 6
            assert far.read() == b"astray"


def test_a_hello_without_a_cookie_costs_nothing_and_is_not_told_of(pem: bytes) -> None:
    with udp(bound=True) as bound, udp() as stranger:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        bound.settimeout(0)
        for _ in range(3):
            stranger.sendto(whole(hello_body()), bound.getsockname())
            assert listening.accept() is None
            assert cookie_in(stranger.recv(65535))


def test_a_cookie_counts_for_one_address_only(pem: bytes) -> None:
    with udp(bound=True) as bound, udp(bound=True) as stranger, udp() as other:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        bound.settimeout(0)
        stranger.sendto(whole(hello_body()), bound.getsockname())
        assert listening.listen() is None
        hello = whole(
            hello_body(cookie=cookie_in(stranger.recv(65535))), message_sequence=1, record_sequence=1
        )
        other.sendto(hello, bound.getsockname())
        assert listening.listen() is None
        stranger.sendto(hello, bound.getsockname())
        assert listening.listen() == stranger.getsockname()


def test_listen_and_accept_need_a_listening_socket(ends: tuple[SSLConnection, SSLConnection]) -> None:
    for end in ends:
        with pytest.raises(err.InvalidSocketError):
            end.listen()
        with pytest.raises(err.InvalidSocketError):
            end.accept()


def test_strangers_datagrams_in_a_new_socket_are_handed_on(
    pem: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may put them there between binding and connecting; here they are put there by hand."""
    stranger = udp(bound=True)
    branch, recvfrom = Listener.branch, BorrowedSocket.recvfrom
    found_at_once = [whole(hello_body(extensions=OFFER))]
    found_later: list[bytes] = []

    def branch_with_strays(self: Listener, sock: socket.socket, origin: Origin) -> list[tuple[bytes, Any]]:
        return branch(self, sock, origin) + [(stray, stranger.getsockname()) for stray in found_at_once]

    def recvfrom_with_strays(self: BorrowedSocket, size: int) -> tuple[bytes, Any]:
        if found_later and self.sock is not bound:
            return found_later.pop(), stranger.getsockname()
        return recvfrom(self, size)

    monkeypatch.setattr(Listener, "branch", branch_with_strays)
    monkeypatch.setattr(BorrowedSocket, "recvfrom", recvfrom_with_strays)
    with stranger, udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        client = SSLConnection(sock)
        connecting = Worker(client.connect, bound.getsockname())
        far, _ = accept(listening)
        connecting.result()
        with far.get_socket(True):
            cookie = cookie_in(stranger.recv(65535))  # the first was answered
            found_later.append(
                whole(hello_body(cookie=cookie, extensions=OFFER), message_sequence=1, record_sequence=1)
            )
            client.write(b"mine")
            assert far.read() == b"mine"
            bound.settimeout(0)
            assert listening.listen() == stranger.getsockname()


def test_many_clients_are_served_through_one_port_at_a_time(pem: bytes) -> None:
    with udp(bound=True) as bound:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        sockets = [udp() for _ in range(8)]
        clients = [SSLConnection(sock) for sock in sockets]
        connecting = [Worker(client.connect, bound.getsockname()) for client in clients]
        accepted = {}
        for _ in clients:
            far, address = accept(listening)
            accepted[address] = far, Worker(far.do_handshake)
        for worker in [*connecting, *(worker for _, worker in accepted.values())]:
            worker.result()
        for sock, client in zip(sockets, clients, strict=True):
            client.write(str(sock.getsockname()))
        for address, (far, _) in accepted.items():
            assert far.read() == str(address).encode()
            far.get_socket(True).close()
        for sock in sockets:
            sock.close()


def test_a_handshake_that_fails_in_accept_leaves_no_socket_behind(
    pem: bytes, ca: CertificateAuthority
) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(
            bound, pem, pem, server_side=True, cert_reqs=CERT_REQUIRED, ca_certs=ca.certificate_pem
        )
        connecting = Worker(raised, SSLConnection(sock).connect, bound.getsockname())
        assert raised(accept, listening).errqueue[-1][1] == b"peer did not return a certificate"
        assert connecting.result().errno in (1, 505)


def test_an_accepted_connection_outlives_the_listening_one(pem: bytes) -> None:
    with connections(pem) as (near, far):  # the listening one is gone by now, but for its socket
        gc.collect()
        near.write(b"still here")
        assert far.read() == b"still here"


# --- what it leaves behind -------------------------------------------------------------------------------------------


def test_a_connection_is_in_no_reference_cycle(pem: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        with udp(bound=True) as silent, udp(timeout=SHORT) as sock:
            client = SSLConnection(sock)
            gone = weakref.ref(client)
            with pytest.raises(err.SSLError):
                client.connect(silent.getsockname())
            del client
            assert gone() is None
        with udp(bound=True) as bound, udp() as sock:
            listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
            client = SSLConnection(sock, cert_reqs=CERT_REQUIRED)
            connecting = Worker(raised, client.connect, bound.getsockname())
            far, _ = accept(listening)
            connecting.result()
            raised(far.do_handshake)
            gone_too = [weakref.ref(client), weakref.ref(far), weakref.ref(listening)]
            far.get_socket(True).close()
            connecting.join()
            del client, far, listening, connecting
            assert [reference() for reference in gone_too] == [None, None, None]
    finally:
        gc.enable()


def test_the_socket_stays_the_callers(ends: tuple[SSLConnection, SSLConnection]) -> None:
    near, _ = ends
    sock = near.get_socket(True)
    sock.close()
    assert raised(near.read).errno == raised(near.do_handshake).errno == errno.EBADF
    assert near.unwrap() is sock


def test_nothing_is_left_running() -> None:
    assert threading.active_count() == 1


def test_it_works_in_a_python_without_ssl(server_certificate: IssuedCertificate, tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"
    pem.write_bytes(server_certificate.private_key_and_chain_pem)
    code = """
import sys
sys.modules["ssl"] = sys.modules["_ssl"] = None
import socket, threading
import dtls
from dtls import err
bound, sock = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
with bound, sock:
    bound.bind(("127.0.0.1", 0))
    bound.settimeout(20)
    sock.settimeout(20)
    listening = dtls.SSLConnection(bound, sys.argv[1], sys.argv[1], server_side=True)
    def serve():
        while not (accepted := listening.accept()):
            pass
        with accepted[0].get_socket(True):
            accepted[0].write(accepted[0].read())
            accepted[0].unwrap()
    server = threading.Thread(target=serve)
    server.start()
    client = dtls.SSLConnection(sock)
    client.connect(bound.getsockname())
    client.write(b"no ssl")
    print(client.read())
    try:
        client.read()
    except err.SSLError as error:
        print(error.args, isinstance(error, dtls.SSLError))
    server.join()
try:
    dtls.do_patch()
except ImportError as error:
    print(error)
"""
    printed = run_python(code, str(pem))
    assert "b'no ssl'\n(6, []) True\n" in printed
    assert "do_patch() patches Python's ssl module, which this Python lacks" in printed


def test_importing_dtls_does_not_patch() -> None:
    code = "import ssl, dtls; print(hasattr(ssl, 'PROTOCOL_DTLSv1'), dtls.VERSION, 'dtls.sslsocket' in sys.modules)"
    assert run_python(f"import sys; {code}") == "False (2, 0, 0) False\n"


def test_the_openssl_version_is_known() -> None:
    module = sys.modules["dtls.sslconnection"]
    info = module.DTLS_OPENSSL_VERSION_INFO
    assert module.DTLS_OPENSSL_VERSION.startswith("OpenSSL {}.{}.{}".format(*info[:3]))
    assert info[0] == module.DTLS_OPENSSL_VERSION_NUMBER >> 28
    with pytest.raises(AttributeError):
        _ = module.DTLS_OPENSSL_VERSION_X
