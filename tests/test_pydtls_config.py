from __future__ import annotations

import contextlib
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from dtls import SSL, SSLContext, err
from dtls.certificates import CertificateAuthority
from dtls.context import PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context
from dtls.engines.openssl import binding
from dtls.pydtls.config import (
    SSL_BUILD_CHAIN_FLAG_CHECK,
    SSL_BUILD_CHAIN_FLAG_IGNORE_ERROR,
    SSL_BUILD_CHAIN_FLAG_NO_ROOT,
    SSL_BUILD_CHAIN_FLAG_NONE,
    SSL_BUILD_CHAIN_FLAG_UNTRUSTED,
)
from dtls.sslconnection import CERT_NONE, CERT_REQUIRED, PROTOCOL_DTLSv1, SSLConnection
from tests.loopback import Worker, relay
from tests.pydtls import accept, connections, raised, udp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dtls.certificates import IssuedCertificate

several_groups = pytest.mark.skipif(
    not hasattr(binding.lib, "SSL_CTX_set1_curves_list"),
    reason="this version of cryptography can set one group only",
)
SECP384R1, PRIME256V1 = 715, 415
P_256, P_384, P_521 = "prime256v1", "secp384r1", "secp521r1"


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


@pytest.fixture(scope="module")
def rsa(ca: CertificateAuthority) -> bytes:
    return ca.issue("localhost", "127.0.0.1", key_type="rsa").private_key_and_chain_pem


def with_context(configure: Callable[[SSLContext], object]) -> dict[str, Any]:
    return {"cb_user_config_ssl_ctx": configure}


def failure(certificate: bytes, *, server: Any = None, client: Any = None) -> tuple[Any, Any]:
    """How the handshake of two connections fails, at the client's and at the server's end."""
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, certificate, certificate, server_side=True, **(server or {}))
        accepting = Worker(raised, accept, listening)
        near = SSLConnection(sock, **(client or {}))
        return raised(near.connect, bound.getsockname()), accepting.result()


# --- the context -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["server", "client"])
def test_set_ciphers_chooses_the_suite(pem: bytes, end: str) -> None:
    suite = "ECDHE-ECDSA-CHACHA20-POLY1305"
    ends: dict[str, Any] = {end: with_context(lambda context: context.set_ciphers(suite))}
    with connections(pem, **ends) as (near, far):
        assert near.cipher() == far.cipher() == (suite.encode(), b"TLSv1.2", 256)


def test_a_set_of_ciphers_from_the_callback_gets_the_security_level_that_dtls_1_0_needs(rsa: bytes) -> None:
    def choose(context: SSLContext) -> None:
        assert context.set_ciphers("ECDHE-RSA-AES256-SHA") == 1

    with connections(
        rsa, server=with_context(choose), client={"ssl_version": 256, **with_context(choose)}
    ) as ends:
        assert [end.version() for end in ends] == ["DTLSv1", "DTLSv1"]


@pytest.mark.parametrize(
    ("setter", "value"),
    [("set_ciphers", "no such suite"), ("set_sigalgs", "RSA+SHA265"), ("set_curves", "P-257")],
)
def test_a_setter_returns_0_for_what_is_not_known_and_changes_nothing(
    pem: bytes, setter: str, value: str
) -> None:
    results = []
    with connections(
        pem, client=with_context(lambda context: results.append(getattr(context, setter)(value)))
    ) as (near, _):
        assert near.cipher()
    assert results == [0]


def test_set_sigalgs_of_a_client_is_what_the_server_may_sign_with(pem: bytes) -> None:
    with connections(pem, client=with_context(lambda c: c.set_sigalgs("ECDSA+SHA384:ECDSA+SHA256"))) as ends:
        assert ends[0].cipher()
    near, far = failure(pem, client=with_context(lambda context: context.set_sigalgs("RSA+SHA256")))
    assert near.errqueue[-1][1] == b"sslv3 alert handshake failure"
    assert isinstance(far, err.openssl_error())


def test_set_sigalgs_of_a_server_is_what_it_signs_with(pem: bytes) -> None:
    _, far = failure(
        pem,
        server=with_context(lambda context: context.set_sigalgs("ECDSA+SHA512")),
        client=with_context(lambda context: context.set_sigalgs("ECDSA+SHA256")),
    )
    assert isinstance(far, err.openssl_error())


def group(end: SSLConnection) -> str | None:
    driver = end._driver
    assert driver is not None
    with contextlib.suppress(NotImplementedError):  # older versions of cryptography do not tell
        return driver.connection.group()
    return None


@pytest.mark.parametrize("curves", ["secp384r1", "P-384", (SECP384R1,)])
def test_set_curves_takes_names_of_openssl_and_nist_and_numbers(rsa: bytes, curves: Any) -> None:
    with connections(rsa, client=with_context(lambda context: context.set_curves(curves))) as (near, _):
        assert group(near) in (P_384, None)
    near_error, _ = failure(
        rsa,
        client={"ciphers": "ECDHE", **with_context(lambda context: context.set_curves(curves))},
        server=with_context(lambda context: context.set_curves(P_521)),
    )
    assert near_error.errqueue[-1][1] == b"sslv3 alert handshake failure"


@several_groups
@pytest.mark.parametrize("curves", ["secp521r1:P-384", (716, SECP384R1)])
def test_set_curves_takes_several(rsa: bytes, curves: Any) -> None:
    with connections(
        rsa,
        client=with_context(lambda context: context.set_curves(curves)),
        server=with_context(lambda context: context.set_curves("P-256:P-384")),
    ) as (near, _):
        assert group(near) == P_384


def test_set_ecdh_curve_is_the_one_group_of_a_server(rsa: bytes) -> None:
    with connections(rsa, server=with_context(lambda context: context.set_ecdh_curve(P_521))) as (near, _):
        assert group(near) in (P_521, None)
    near_error, _ = failure(
        rsa,
        server=with_context(lambda context: context.set_ecdh_curve(P_521)),
        client={"ciphers": "ECDHE", **with_context(lambda context: context.set_curves(P_384))},
    )
    assert near_error.errqueue[-1][1] == b"sslv3 alert handshake failure"


def test_set_ecdh_curve_without_a_name_leaves_the_choice_to_openssl(rsa: bytes) -> None:
    def choose(context: SSLContext) -> None:
        assert context.set_ecdh_curve(P_521) == context.set_ecdh_curve(None) == context.set_ecdh_curve() == 1

    with connections(
        rsa, server=with_context(choose), client=with_context(lambda context: context.set_curves(P_384))
    ) as (near, _):
        assert near.cipher()


def test_set_ecdh_curve_says_what_there_is_to_choose_from() -> None:
    with pytest.raises(IndexError, match=r"'secp385r1'.*get_ec_available"):
        SSLContext(Context(PROTOCOL_DTLS_SERVER)).set_ecdh_curve("secp385r1")


def test_names_and_numbers_of_curves_are_translated() -> None:
    assert SSLContext.get_ec_nist2nid("P-384") == (SECP384R1,)
    assert SSLContext.get_ec_nist2nid("P-384:P-256") == SSLContext.get_ec_nist2nid(("P-384", "P-256"))
    assert SSLContext.get_ec_nist2nid("secp384r1") == SSLContext.get_ec_nist2nid("") == (0,)
    assert SSLContext.get_ec_nid2nist(SECP384R1) == "P-384"
    assert SSLContext.get_ec_nid2nist((SECP384R1, PRIME256V1)) == "P-384:P-256"
    with pytest.raises(ValueError, match=r"\[714\]"):  # secp256k1
        SSLContext.get_ec_nid2nist((SECP384R1, 714))
    names = SSLContext.get_ec_available()
    assert {P_256, P_384, P_521} <= set(names)
    assert names == sorted(names)
    numbers = SSLContext.get_ec_available(bAsName=False)
    assert {SECP384R1, PRIME256V1} <= set(numbers)
    assert numbers == sorted(numbers)
    assert len(numbers) == len(names)


def test_what_the_callback_of_a_context_raises_comes_out(pem: bytes) -> None:
    def fail(_context: SSLContext) -> None:
        raise LookupError

    with udp() as sock, pytest.raises(LookupError):
        SSLConnection(sock, cb_user_config_ssl_ctx=fail)


# --- certificate chains ----------------------------------------------------------------------------------------------


class Chains:
    """A server with ``certificates`` in its own file and ``anchors`` to trust."""

    def __init__(self, certificates: bytes, anchors: bytes | None) -> None:
        self.context = Context(PROTOCOL_DTLS_SERVER)
        self.context.load_cert_chain(certificates)
        if anchors is not None:
            self.context.load_verify_locations(cadata=anchors)

    def build(self, flags: int) -> tuple[int, int]:
        """What is returned, and how many certificates are sent then."""
        result = SSLContext(self.context).build_cert_chain(flags)
        assert self.context.identity is not None
        return result, len(self.context.identity.chain)


def leaf_only(certificate: IssuedCertificate) -> bytes:
    return certificate.key_pem + certificate.certificate_pem


def test_build_cert_chain_sends_the_root_unless_told_otherwise(
    ca: CertificateAuthority, server_certificate: IssuedCertificate
) -> None:
    chains = Chains(leaf_only(server_certificate), ca.certificate_pem)
    assert chains.build(SSL_BUILD_CHAIN_FLAG_NONE) == (1, 2)
    assert chains.build(SSL_BUILD_CHAIN_FLAG_NO_ROOT) == (1, 1)


@pytest.mark.parametrize(
    ("flags", "length"), [(SSL_BUILD_CHAIN_FLAG_NONE, 2), (SSL_BUILD_CHAIN_FLAG_NO_ROOT, 1)]
)
def test_the_client_sees_the_chain_that_was_built(
    ca: CertificateAuthority, server_certificate: IssuedCertificate, flags: int, length: int
) -> None:
    server = {"ca_certs": ca.certificate_pem, **with_context(lambda context: context.build_cert_chain(flags))}
    client = {"ca_certs": ca.certificate_pem, "cert_reqs": CERT_REQUIRED}
    with connections(leaf_only(server_certificate), server=server, client=client) as (near, _):
        assert len(near.getpeercertchain() or []) == length


def test_build_cert_chain_goes_by_way_of_the_own_files_certificates_if_told_to(
    ca: CertificateAuthority,
) -> None:
    issued = ca.intermediate("between").issue("localhost")
    chains = Chains(issued.private_key_and_chain_pem, ca.certificate_pem)
    assert chains.build(SSL_BUILD_CHAIN_FLAG_NONE) == (0, 2)
    assert chains.build(SSL_BUILD_CHAIN_FLAG_UNTRUSTED) == (1, 3)


def test_build_cert_chain_checks_the_own_files_certificates_alone_if_told_to(
    ca: CertificateAuthority,
) -> None:
    issued = ca.intermediate("between").issue("localhost")
    assert Chains(issued.private_key_and_chain_pem, ca.certificate_pem).build(SSL_BUILD_CHAIN_FLAG_CHECK) == (
        0,
        2,
    )
    complete = issued.private_key_and_chain_pem + ca.certificate_pem
    assert Chains(complete, None).build(SSL_BUILD_CHAIN_FLAG_CHECK) == (1, 3)


def test_build_cert_chain_changes_nothing_on_failure_or_takes_what_there_is(
    server_certificate: IssuedCertificate,
) -> None:
    chains = Chains(server_certificate.private_key_and_chain_pem, None)
    assert chains.build(SSL_BUILD_CHAIN_FLAG_NONE)[0] == 0
    assert chains.build(SSL_BUILD_CHAIN_FLAG_IGNORE_ERROR) == (2, 1)
    assert SSLContext(Context(PROTOCOL_DTLS_CLIENT)).build_cert_chain() == 0


# --- logging ---------------------------------------------------------------------------------------------------------


def test_ssl_logging_says_how_a_handshake_gets_on(pem: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dtls.sslconnection")
    with connections(pem, server=with_context(lambda context: context.set_ssl_logging(enable=True))):
        text = caplog.text
    assert "SSL_accept: " in text
    assert "SSL_connect" not in text
    assert "Finished" in text or "finished" in text


def test_ssl_logging_names_alerts(pem: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dtls.sslconnection")
    log = with_context(lambda context: context.set_ssl_logging(enable=True))
    failure(pem, client={"ca_certs": pem, "cert_reqs": CERT_REQUIRED, **log})
    assert "SSL: alert write: unknown_ca" in caplog.text


def test_ssl_logging_goes_to_a_function_of_the_users(pem: bytes) -> None:
    seen: list[tuple[str, int, int]] = []

    def log(context: SSLContext) -> None:
        context.set_ssl_logging(enable=True, func=lambda *what: seen.append(what))

    with connections(pem, client=with_context(log)):
        assert any(where & 0x20 for _, where, _ in seen)  # SSL_CB_HANDSHAKE_DONE
        assert all(isinstance(state, str) for state, _, _ in seen)


def test_ssl_logging_can_be_switched_off(pem: bytes) -> None:
    seen: list[object] = []

    def log(context: SSLContext) -> None:
        context.set_ssl_logging(enable=True, func=lambda *what: seen.append(what))
        context.set_ssl_logging(enable=False)

    with connections(pem, client=with_context(log)):
        assert not seen


# --- one association -------------------------------------------------------------------------------------------------


def sizes_of_a_handshake(certificate: bytes, host: str, **ends: Any) -> list[int]:
    """How long the datagrams of a handshake are."""
    sizes: list[int] = []

    def look(_sender: str, _index: int, datagram: bytes) -> list[bytes]:
        sizes.append(len(datagram))
        return [datagram]

    with udp(host, bound=True) as bound, udp(host) as sock:
        listening = SSLConnection(bound, certificate, certificate, server_side=True, **ends)
        accepting = Worker(accept, listening)
        with relay(bound.getsockname(), look) as between:
            near = SSLConnection(sock, **ends)
            near.connect(between)
            far, _ = accepting.result()
            far.get_socket(True).close()
    return sizes


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(("setter", "mtu"), [("set_mtu", 300), ("set_link_mtu", 300), ("set_link_mtu", 256)])
def test_the_mtu_limits_the_datagrams_of_both_ends(rsa: bytes, host: str, setter: str, mtu: int) -> None:
    limit = mtu if setter == "set_mtu" else mtu - (48 if ":" in host else 28)
    sizes = sizes_of_a_handshake(rsa, host, cb_user_config_ssl=lambda ssl: getattr(ssl, setter)(mtu))
    assert limit - 20 < max(sizes) <= limit


def test_without_an_mtu_it_is_the_default() -> None:
    settings = SSL()
    settings.set_mtu(300)
    settings.set_mtu()
    assert settings.mtu is None
    settings.set_link_mtu(None)
    assert settings.mtu is None


def test_an_mtu_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 208 bytes"):
        SSL().set_mtu(207)
    with pytest.raises(ValueError, match="at least 208 bytes"):
        SSL(socket.AF_INET6).set_link_mtu(255)


def test_the_callback_of_associations_is_called_for_each(pem: bytes) -> None:
    seen: list[SSL] = []
    with connections(pem, server={"cb_user_config_ssl": seen.append}):
        assert len(seen) == 1
        assert isinstance(seen[0], SSL)


def test_the_timer_that_the_callback_asks_for_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def duration(_ssl: SSL, timer_us: int) -> int:
        asked.append(timer_us)
        return timer_us * 3 or 7_000_000

    offset = 0.0
    clock = time.monotonic
    for module in ("dtls.driver", "dtls.sslconnection"):
        monkeypatch.setattr(f"{module}.now", lambda: clock() + offset)
    with udp(bound=True) as silent, udp(timeout=0) as sock:
        connection = SSLConnection(sock, cb_user_config_ssl=lambda ssl: ssl.DTLS_set_timer_cb(duration))
        assert raised(connection.connect, silent.getsockname()).errno == err.SSL_ERROR_WANT_READ
        assert asked == [0]
        for due in (7, 21, 63):
            left = connection.get_timeout()
            assert left is not None
            assert due - 5 < left.total_seconds() <= due
            assert connection.handle_timeout() is False
            offset += due
            assert connection.handle_timeout() is True
        assert asked == [0, 7_000_000, 21_000_000, 63_000_000]
        silent.setblocking(False)
        hellos = [silent.recv(2000) for _ in range(4)]
        assert len({hello[13:] for hello in hellos}) == 1  # the same but for the record's number


def test_a_timer_that_asks_for_no_time_does_not_run_wild(pem: bytes) -> None:
    with udp(bound=True) as silent, udp(timeout=0.05) as sock:
        connection = SSLConnection(sock, cb_user_config_ssl=lambda ssl: ssl.DTLS_set_timer_cb(lambda *_: 0))
        assert raised(connection.connect, silent.getsockname()).errno == err.ERR_HANDSHAKE_TIMEOUT
        count = 0
        silent.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while silent.recv(2000):
                count += 1
        assert 1 < count <= 60


def test_clients_that_say_the_same_share_a_context_until_a_file_changes(
    ca: CertificateAuthority, pem: bytes, tmp_path: Path
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(ca.certificate_pem)
    with udp() as one, udp() as other:

        def context(sock: socket.socket, **options: Any) -> Context:
            return SSLConnection(sock, **options)._context

        options: dict[str, Any] = {"ca_certs": str(roots), "cert_reqs": CERT_REQUIRED}
        first = context(one, **options)
        assert context(other, **options) is first
        for different in (
            {"cert_reqs": CERT_NONE},
            {"ciphers": "ECDHE"},
            {"ssl_version": PROTOCOL_DTLSv1},
            {"keyfile": pem, "certfile": pem},
            {"cb_user_config_ssl_ctx": id},
        ):
            assert context(other, **{**options, **different}) is not first
        roots.write_bytes(CertificateAuthority().certificate_pem)
        assert context(other, **options).get_ca_certs(True) != first.get_ca_certs(True)
