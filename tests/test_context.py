"""A Context is told what to do as ssl.SSLContext is, refuses what makes no sense, and verifies peers as it was told."""

from __future__ import annotations

import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import dtls
from dtls.certificates import CertificateAuthority, IssuedCertificate
from dtls.connection import ConnectionState
from dtls.context import (
    CERT_NONE,
    CERT_OPTIONAL,
    CERT_REQUIRED,
    DEFAULT_MTU,
    PROTOCOL_DTLS_CLIENT,
    PROTOCOL_DTLS_SERVER,
    Context,
    DTLSVersion,
    Protocol,
    Purpose,
    VerifyFlags,
    VerifyMode,
    create_default_context,
)
from dtls.errors import SSLCertVerificationError, SSLError
from dtls.events import HandshakeFailed

from .pair import OTHER, Pair

if TYPE_CHECKING:
    from pathlib import Path

EXPIRED, NOT_YET_VALID, SELF_SIGNED, UNKNOWN_ISSUER, SELF_SIGNED_IN_CHAIN = 10, 9, 18, 20, 19
WRONG_PURPOSE, WRONG_HOST, WRONG_ADDRESS = 26, 62, 64
NOW = datetime.now(timezone.utc)


def client_context() -> Context:
    return Context(PROTOCOL_DTLS_CLIENT)


def server_with(identity: IssuedCertificate) -> Context:
    context = Context(PROTOCOL_DTLS_SERVER)
    context.load_cert_chain(identity.private_key_and_chain_pem)
    return context


def finish(client: Context, server: Context, server_hostname: str | None = "localhost") -> Pair:
    pair = Pair(client, server, server_hostname=server_hostname)
    pair.run()
    return pair


def refusal(pair: Pair) -> SSLCertVerificationError:
    error = pair.failure("client")
    assert isinstance(error, SSLCertVerificationError), error
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert error.reason == "CERTIFICATE_VERIFY_FAILED"
    assert error.verify_message
    assert error.verify_message in str(error)
    assert pair.server.state is ConnectionState.FAILED
    return error


# --- names and defaults of the ssl module ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(PROTOCOL_DTLS_CLIENT, ssl.PROTOCOL_TLS_CLIENT), (PROTOCOL_DTLS_SERVER, ssl.PROTOCOL_TLS_SERVER)],
)
def test_a_new_context_has_the_defaults_of_the_ssl_module(ours: Protocol, theirs: int) -> None:
    context, standard = Context(ours), ssl.SSLContext(theirs)
    assert context.check_hostname == standard.check_hostname
    assert int(context.verify_mode) == int(standard.verify_mode)
    assert context.verify_mode.name == standard.verify_mode.name
    assert context.get_ca_certs() == standard.get_ca_certs() == []


@pytest.mark.parametrize(
    "name",
    [
        "check_hostname",
        "create_default_context",
        "get_ca_certs",
        "get_ciphers",
        "keylog_filename",
        "load_cert_chain",
        "load_default_certs",
        "load_verify_locations",
        "maximum_version",
        "minimum_version",
        "options",
        "session_stats",
        "set_alpn_protocols",
        "set_ciphers",
        "sni_callback",
        "verify_flags",
        "verify_mode",
        "wrap_socket",
    ],
)
def test_names_are_those_of_the_ssl_module(name: str) -> None:
    home: Any = ssl.SSLContext if hasattr(ssl.SSLContext, name) else ssl
    assert hasattr(home, name)
    assert hasattr(dtls if home is ssl else Context, name)


@pytest.mark.parametrize("mode", [*VerifyMode])
def test_verify_modes_and_flags_have_the_numbers_of_the_ssl_module(mode: VerifyMode) -> None:
    assert int(ssl.VerifyMode[mode.name]) == int(mode)
    for flag in VerifyFlags.__members__.values():
        if flag.name is not None and hasattr(ssl, flag.name):
            assert int(getattr(ssl, flag.name)) == int(flag)


def test_values_of_the_ssl_module_are_understood() -> None:
    context = client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_OPTIONAL
    assert context.verify_mode is CERT_OPTIONAL
    context.verify_flags = ssl.VERIFY_X509_STRICT
    assert context.verify_flags == VerifyFlags.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    assert context.minimum_version is DTLSVersion.MINIMUM_SUPPORTED
    assert create_default_context(ssl.Purpose.CLIENT_AUTH).server_side


def test_a_context_belongs_to_one_role() -> None:
    assert not client_context().server_side
    assert Context(PROTOCOL_DTLS_SERVER).server_side
    with pytest.raises(ValueError):
        Context(2)  # type: ignore[arg-type]
    assert "PROTOCOL_DTLS_CLIENT" in repr(client_context())


# --- check_hostname and verify_mode ----------------------------------------------------------------------------------


def test_cert_none_needs_check_hostname_to_be_off_first() -> None:
    context, standard = client_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ValueError) as expected:
        standard.verify_mode = ssl.CERT_NONE
    with pytest.raises(ValueError) as caught:
        context.verify_mode = CERT_NONE
    assert str(caught.value) == str(expected.value)
    assert context.verify_mode is CERT_REQUIRED
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    assert context.verify_mode is CERT_NONE


@pytest.mark.parametrize("protocol", [*Protocol])
def test_check_hostname_asks_for_a_certificate(protocol: Protocol) -> None:
    context = Context(protocol)
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    context.check_hostname = True
    assert context.verify_mode is CERT_REQUIRED
    context.check_hostname = False
    assert context.verify_mode is CERT_REQUIRED, "turning it off again relaxes nothing else"


def test_check_hostname_leaves_cert_optional_alone() -> None:
    context = client_context()
    context.check_hostname = False
    context.verify_mode = CERT_OPTIONAL
    context.check_hostname = True
    assert context.verify_mode is CERT_OPTIONAL


@pytest.mark.parametrize("value", [3, -1, 17])
def test_an_unknown_verify_mode_is_refused(value: int) -> None:
    with pytest.raises(ValueError):
        client_context().verify_mode = value


# --- whom to connect to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", ".example", "nul\0byte", "\0"])
def test_an_impossible_server_name_is_refused(client: Context, name: str) -> None:
    with pytest.raises(ValueError, match="server_hostname"):
        client.connection(0.0, server_hostname=name)


def test_check_hostname_needs_a_name(client: Context) -> None:
    with pytest.raises(ValueError, match="check_hostname requires server_hostname"):
        client.connection(0.0)
    client.check_hostname = False
    assert client.connection(0.0).server_hostname is None


def test_a_server_is_given_no_server_name(server: Context) -> None:
    with pytest.raises(ValueError, match="client mode"):
        server.connection(0.0, server_hostname="localhost")


@pytest.mark.parametrize("name", ["x" * 300, "ä..example", "ä" * 64 + ".example"])
def test_a_name_that_dns_cannot_have_is_refused(client: Context, name: str) -> None:
    with pytest.raises((SSLError, ValueError)):
        client.connection(0.0, server_hostname=name)


@pytest.mark.parametrize(
    ("issued", "asked"),
    [
        (["localhost"], "localhost"),
        (["localhost"], "LOCALHOST"),
        (["localhost"], "localhost."),
        (["other.example", "device.example"], "device.example"),
        (["*.example.org"], "device.example.org"),
        (["127.0.0.1"], "127.0.0.1"),
        (["::1"], "::1"),
        (["::1"], "0:0:0:0:0:0:0:1"),
        (["fe80::1"], "fe80::1%eth0"),
        (["xn--bcher-kva.example"], "bücher.example"),
        (["xn--bcher-kva.example"], "xn--bcher-kva.example"),
    ],
)
def test_a_certificate_for_the_server_is_accepted(
    ca: CertificateAuthority, client: Context, issued: list[str], asked: str
) -> None:
    pair = finish(client, server_with(ca.issue(*issued)), asked)
    assert pair.established, pair.failure("client")
    assert pair.client.server_hostname == asked


@pytest.mark.parametrize(
    ("issued", "asked", "code"),
    [
        (["other.example"], "localhost", WRONG_HOST),
        (["*.example.org"], "example.org", WRONG_HOST),
        (["*.example.org"], "a.b.example.org", WRONG_HOST),
        (["d*.example.org"], "device.example.org", WRONG_HOST),
        (["localhost"], "127.0.0.1", WRONG_ADDRESS),
        (["127.0.0.2"], "127.0.0.1", WRONG_ADDRESS),
        (["127.0.0.1"], "localhost", WRONG_HOST),
        (["::2"], "::1", WRONG_ADDRESS),
        (["bucher.example"], "bücher.example", WRONG_HOST),
    ],
)
def test_a_certificate_for_somebody_else_is_refused(
    ca: CertificateAuthority, client: Context, issued: list[str], asked: str, code: int
) -> None:
    error = refusal(finish(client, server_with(ca.issue(*issued)), asked))
    assert error.verify_code == code
    assert f"not valid for {asked!r}" in error.verify_message


def leaf_for(
    name: str, issuer: CertificateAuthority | None, *, alternative: bool
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate as simple as can be, self-signed if nobody issues it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
    )
    if alternative:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer.key if issuer else key, hashes.SHA256()), key


def test_the_common_name_does_not_count(ca: CertificateAuthority, client: Context) -> None:
    certificate, key = leaf_for("localhost", ca, alternative=False)
    server = Context(PROTOCOL_DTLS_SERVER)
    server.load_cert_chain(certificate, key)
    assert refusal(finish(client, server)).verify_code == WRONG_HOST


def test_without_check_hostname_a_certificate_for_anybody_is_accepted(
    ca: CertificateAuthority, client: Context
) -> None:
    client.check_hostname = False
    for name in ("localhost", None, "127.0.0.1"):
        assert finish(client, server_with(ca.issue("other.example")), name).established


# --- which certificates to accept ------------------------------------------------------------------------------------


def test_an_expired_certificate_is_refused(ca: CertificateAuthority, client: Context) -> None:
    server = server_with(ca.issue("localhost", not_after=NOW - timedelta(hours=1)))
    error = refusal(finish(client, server))
    assert (error.verify_code, error.verify_message) == (EXPIRED, "certificate has expired")


def test_a_certificate_that_is_not_yet_valid_is_refused(ca: CertificateAuthority, client: Context) -> None:
    server = server_with(ca.issue("localhost", not_before=NOW + timedelta(hours=1)))
    error = refusal(finish(client, server))
    assert error.verify_code == NOT_YET_VALID
    assert "not yet valid" in error.verify_message


def test_a_certificate_of_an_unknown_authority_is_refused_and_the_server_is_told(client: Context) -> None:
    pair = finish(client, server_with(CertificateAuthority("somebody else").issue("localhost")))
    assert refusal(pair).verify_code == UNKNOWN_ISSUER
    error = pair.failure("server")
    assert isinstance(error, SSLError)
    assert "UNKNOWN_CA" in error.reason
    assert "does not trust the authority" in str(error)


def test_an_unknown_authority_whose_root_is_sent_along_is_refused(client: Context) -> None:
    stranger = CertificateAuthority("somebody else")
    identity = stranger.issue("localhost")
    server = Context(PROTOCOL_DTLS_SERVER)
    server.load_cert_chain([identity.certificate, stranger.certificate], identity.key)
    assert refusal(finish(client, server)).verify_code == SELF_SIGNED_IN_CHAIN


def test_a_self_signed_certificate_is_refused_unless_it_is_trusted(client: Context) -> None:
    certificate, key = leaf_for("localhost", None, alternative=True)
    server = Context(PROTOCOL_DTLS_SERVER)
    server.load_cert_chain(certificate, key)
    assert refusal(finish(client, server)).verify_code == SELF_SIGNED
    client.load_verify_locations(cadata=certificate.public_bytes(Encoding.DER))
    assert finish(client, server).established


def test_a_missing_intermediate_is_an_unknown_issuer(ca: CertificateAuthority, client: Context) -> None:
    identity = ca.intermediate().issue("localhost")
    server = Context(PROTOCOL_DTLS_SERVER)
    server.load_cert_chain(identity.certificate, identity.key)
    assert refusal(finish(client, server)).verify_code == UNKNOWN_ISSUER


def test_a_clients_certificate_is_no_servers(client: Context, client_certificate: IssuedCertificate) -> None:
    client.check_hostname = False
    assert refusal(finish(client, server_with(client_certificate))).verify_code == WRONG_PURPOSE


def test_a_servers_certificate_is_no_clients(
    client: Context, server: Context, ca: CertificateAuthority, server_certificate: IssuedCertificate
) -> None:
    client.load_cert_chain(server_certificate.private_key_and_chain_pem)
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = CERT_REQUIRED
    pair = finish(client, server)
    error = pair.failure("server")
    assert isinstance(error, SSLCertVerificationError)
    assert error.verify_code == WRONG_PURPOSE
    assert isinstance(pair.failure("client"), SSLError)


def test_an_intermediate_may_be_the_anchor_if_partial_chains_are_allowed(ca: CertificateAuthority) -> None:
    authority = ca.intermediate()
    server = server_with(authority.issue("localhost"))
    context = client_context()
    context.load_verify_locations(cadata=authority.certificate_pem)
    assert not finish(context, server).established
    context.verify_flags |= VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    assert finish(context, server).established


def test_cert_none_accepts_everybody() -> None:
    context = client_context()
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    assert finish(context, server_with(CertificateAuthority("somebody").issue("nobody"))).established


def test_a_client_that_trusts_nobody_accepts_nobody(server: Context) -> None:
    assert refusal(finish(client_context(), server)).verify_code == UNKNOWN_ISSUER


@pytest.mark.parametrize("mode", [CERT_OPTIONAL, CERT_REQUIRED])
def test_a_client_verifies_whatever_the_word_is_if_not_cert_none(server: Context, mode: VerifyMode) -> None:
    context = client_context()
    context.verify_mode = mode
    assert not finish(context, server).established


# --- clients' certificates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [CERT_OPTIONAL, CERT_REQUIRED])
def test_a_good_client_certificate_is_accepted(
    client: Context,
    server: Context,
    ca: CertificateAuthority,
    client_certificate: IssuedCertificate,
    mode: VerifyMode,
) -> None:
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = mode
    pair = finish(client, server)
    assert pair.established
    assert pair.server.peer_certificate() == client_certificate.certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize("mode", [CERT_OPTIONAL, CERT_REQUIRED])
def test_a_bad_client_certificate_is_refused(
    client: Context, server: Context, ca: CertificateAuthority, mode: VerifyMode
) -> None:
    client.load_cert_chain(
        CertificateAuthority("somebody").issue("me", client=True).private_key_and_chain_pem
    )
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = mode
    pair = finish(client, server)
    error = pair.failure("server")
    assert isinstance(error, SSLCertVerificationError)
    assert error.verify_code == UNKNOWN_ISSUER
    assert "UNKNOWN_CA" in getattr(pair.failure("client"), "reason", "")


def test_a_client_certificate_is_not_asked_for_by_default(
    client: Context, server: Context, client_certificate: IssuedCertificate
) -> None:
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    pair = finish(client, server)
    assert pair.established
    assert pair.server.peer_certificate() is None


def test_a_missing_client_certificate_that_is_required_is_an_error_on_both_sides(
    client: Context, server: Context, ca: CertificateAuthority
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = CERT_REQUIRED
    pair = finish(client, server)
    error = pair.failure("server")
    assert isinstance(error, SSLError)
    assert error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    assert "requires a client certificate" in str(error)
    assert "wants a certificate from this side" in str(pair.failure("client"))


def test_a_server_without_a_certificate_says_so(client: Context) -> None:
    pair = finish(client, Context(PROTOCOL_DTLS_SERVER))
    error = pair.failure("server")
    assert isinstance(error, SSLError)
    assert error.reason == "NO_SHARED_CIPHER"
    assert "certificate" in str(error)


# --- what to negotiate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ciphers", ["no-such-suite", "", ":::"])
def test_a_list_without_a_known_cipher_suite_is_refused_and_changes_nothing(
    client: Context, server: Context, ciphers: str
) -> None:
    before = client.get_ciphers()
    with pytest.raises(SSLError, match="No cipher can be selected") as caught:
        client.set_ciphers(ciphers)
    assert caught.value.reason == "NO_CIPHER_MATCH"
    assert client.get_ciphers() == before
    assert finish(client, server).established


def test_get_ciphers_tells_the_suites_in_order() -> None:
    context = client_context()
    wanted = ["ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"]
    context.set_ciphers(":".join(wanted))
    assert [suite["name"] for suite in context.get_ciphers()] == wanted
    assert context.cipher_string == ":".join(wanted)


@pytest.mark.parametrize("protocol", [*Protocol])
def test_by_default_every_cipher_suite_is_authenticated_encryption_with_forward_secrecy(
    protocol: Protocol,
) -> None:
    names = [suite["name"] for suite in Context(protocol).get_ciphers()]
    assert len(names) > 5
    for name in names:
        assert name.startswith(("ECDHE-", "DHE-")), name
        assert any(mode in name for mode in ("GCM", "CHACHA20", "CCM")), name
        assert "CCM8" not in name
        assert "PSK" not in name


def test_dtls_1_0_needs_an_explicit_word() -> None:
    assert client_context().minimum_version is DTLSVersion.DTLSv1_2
    assert client_context().maximum_version is DTLSVersion.MAXIMUM_SUPPORTED


@pytest.mark.parametrize("attribute", ["minimum_version", "maximum_version"])
@pytest.mark.parametrize("value", [0, 5, 0x0303, 0xFEFC])
def test_a_version_that_is_none_is_refused(attribute: str, value: int) -> None:
    context = client_context()
    with pytest.raises(ValueError):
        setattr(context, attribute, value)


def test_versions_that_leave_nothing_are_an_error_that_says_so(client: Context) -> None:
    client.maximum_version = DTLSVersion.DTLSv1
    connection = client.connection(0.0, server_hostname="localhost")
    (event,) = connection.handle_timeout(0.0)
    assert isinstance(event, HandshakeFailed)
    assert event.error.reason == "NO_PROTOCOLS_AVAILABLE"
    assert "minimum_version" in str(event.error)


def test_dtls_1_0_without_a_security_level_that_allows_it_is_an_error_at_once(client: Context) -> None:
    client.minimum_version = client.maximum_version = DTLSVersion.DTLSv1
    connection = client.connection(0.0, server_hostname="localhost")
    assert connection.next_timeout() == float("-inf")
    (event,) = connection.handle_timeout(0.0)
    assert isinstance(event, HandshakeFailed)
    assert "SECLEVEL=0" in str(event.error)


@pytest.mark.parametrize("protocols", [[""], ["x" * 256], ["coap", ""]])
def test_an_impossible_application_protocol_is_refused(protocols: list[str]) -> None:
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        client_context().set_alpn_protocols(protocols)


def test_application_protocols_are_counted_in_bytes() -> None:
    context = client_context()
    context.set_alpn_protocols(["ä" * 127])
    assert context.alpn_protocols == ["ä".encode() * 127]
    with pytest.raises(ValueError):
        context.set_alpn_protocols(["ä" * 128])


# --- datagrams and time ----------------------------------------------------------------------------------------------


def test_the_mtu_has_bounds() -> None:
    context = client_context()
    assert context.mtu == DEFAULT_MTU
    for good in (208, 65_507):
        context.mtu = good
        assert context.mtu == good
    for bad in (207, 0, -1, 65_508):
        with pytest.raises(ValueError, match="208 to 65507"):
            context.mtu = bad
    assert context.mtu == 65_507


@pytest.mark.parametrize("attribute", ["handshake_timeout", "initial_retransmission_timeout"])
def test_times_are_greater_than_zero_and_finite(attribute: str) -> None:
    context = client_context()
    setattr(context, attribute, 0.001)
    assert getattr(context, attribute) == 0.001
    for bad in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=attribute):
            setattr(context, attribute, bad)
    assert getattr(context, attribute) == 0.001


# --- anchors ---------------------------------------------------------------------------------------------------------


def test_anchors_are_told_as_der_and_as_dictionaries(ca: CertificateAuthority) -> None:
    context = client_context()
    context.load_verify_locations(cadata=ca.certificate_pem)
    context.load_verify_locations(cadata=ca.certificate_pem)
    der = ca.certificate.public_bytes(Encoding.DER)
    assert context.get_ca_certs(binary_form=True) == [der]
    standard = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    standard.load_verify_locations(cadata=ca.certificate_pem.decode())
    assert context.get_ca_certs() == standard.get_ca_certs()


# --- create_default_context ------------------------------------------------------------------------------------------


def test_the_default_client_verifies_strictly_against_what_it_is_given(
    ca: CertificateAuthority, server: Context, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(ca.certificate_pem)
    for arguments in ({"cafile": path}, {"cafile": str(path)}, {"cadata": ca.certificate_pem}):
        context = create_default_context(**arguments)
        assert not context.server_side
        assert context.check_hostname
        assert context.verify_mode is CERT_REQUIRED
        assert VerifyFlags.VERIFY_X509_STRICT in context.verify_flags
        assert VerifyFlags.VERIFY_X509_PARTIAL_CHAIN in context.verify_flags
        assert finish(context, server).established


def test_the_default_server_asks_for_no_certificate(ca: CertificateAuthority) -> None:
    context = create_default_context(Purpose.CLIENT_AUTH)
    assert context.server_side
    assert context.verify_mode is CERT_NONE
    assert context.get_ca_certs() == []
    with_anchors = create_default_context(Purpose.CLIENT_AUTH, cadata=ca.certificate_pem)
    assert with_anchors.verify_mode is CERT_NONE, "as in the ssl module"


@pytest.mark.parametrize("purpose", [None, "SERVER_AUTH", 1])
def test_a_purpose_that_is_none_is_refused(purpose: object) -> None:
    with pytest.raises(TypeError, match="Purpose"):
        create_default_context(purpose)
    with pytest.raises(TypeError):
        client_context().load_default_certs(purpose)


# --- changes and threads ---------------------------------------------------------------------------------------------


def test_what_is_changed_later_counts_for_new_associations_only(
    ca: CertificateAuthority, client: Context, server: Context
) -> None:
    client.check_hostname = False
    before = Pair(client, server)
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    client.set_alpn_protocols(["coap"])
    client.check_hostname = True
    server.load_cert_chain(ca.issue("other.example").private_key_and_chain_pem)
    server.set_alpn_protocols(["coap"])
    before.run()
    assert before.established
    cipher = before.client.cipher()
    assert cipher is not None
    assert cipher[0] != "ECDHE-ECDSA-AES128-GCM-SHA256"
    assert before.client.selected_alpn_protocol() is None
    assert refusal(finish(client, server)).verify_code == WRONG_HOST
    after = finish(client, server, "other.example")
    cipher = after.client.cipher()
    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"
    assert after.client.selected_alpn_protocol() == "coap"


def test_a_later_certificate_takes_the_place_of_the_earlier(
    ca: CertificateAuthority, client: Context, server: Context
) -> None:
    assert finish(client, server).established
    identity = ca.issue("localhost")
    server.load_cert_chain(identity.private_key_and_chain_pem)
    pair = finish(client, server)
    assert pair.client.peer_certificate() == identity.certificate.public_bytes(Encoding.DER)


def test_an_association_outlives_its_contexts(client: Context, server: Context) -> None:
    pair = Pair(client, server)
    for context in (client, server):
        context._changed()
    del client, server
    pair.run()
    assert pair.established
    pair.assert_talks()


def test_threads_share_a_context(client: Context, server: Context) -> None:
    threads = 8
    together = threading.Barrier(threads)

    def work(number: int) -> bool:
        together.wait(30)
        if number == 0:
            for mtu in range(300, 330):
                client.mtu = mtu
                client.verify_flags |= VerifyFlags.VERIFY_X509_STRICT
                client.set_alpn_protocols(["coap"])
        return all(finish(client, server).established for _ in range(10))

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(work, range(threads)))
    engine = client._engine()
    assert client._engine() is engine, "settings are translated once"


def test_a_refused_certificate_does_not_stick_to_the_context(
    ca: CertificateAuthority, client: Context, server: Context
) -> None:
    bad = server_with(CertificateAuthority("somebody else").issue("localhost"))
    for _ in range(3):
        assert refusal(finish(client, bad)).verify_code == UNKNOWN_ISSUER
        assert finish(client, server).established
    assert set(OTHER) == {"client", "server"}
