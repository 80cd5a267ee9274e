"""Certificates that are pinned or judged by the application: nobody else gets a word in, in either role."""

from __future__ import annotations

import hashlib
import ssl
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from dtls.certificates import CertificateAuthority, IssuedCertificate
from dtls.connection import ConnectionState
from dtls.context import (
    CERT_NONE,
    CERT_OPTIONAL,
    CERT_REQUIRED,
    PROTOCOL_DTLS_CLIENT,
    PROTOCOL_DTLS_SERVER,
    Context,
)
from dtls.engines.openssl.association import Association
from dtls.errors import SSLCertVerificationError, SSLError
from dtls.settings.pins import as_fingerprint

from .loopback import pair
from .pair import OTHER, Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.certificates import KeyType

NOW = datetime.now(timezone.utc)
REJECTED = 28


def der(issued: IssuedCertificate) -> bytes:
    return issued.certificate.public_bytes(Encoding.DER)


def fingerprint(issued: IssuedCertificate) -> str:
    return hashlib.sha256(der(issued)).hexdigest()


@pytest.fixture(scope="module")
def own() -> IssuedCertificate:
    """What nobody's authority has issued, as far as the other side knows."""
    return CertificateAuthority("somebody's own").issue("somebody")


@pytest.fixture(scope="module")
def other() -> IssuedCertificate:
    return CertificateAuthority("somebody else's own").issue("somebody")


def ends(certificate: IssuedCertificate) -> dict[str, Context]:
    """A client and a server that both show this certificate, and trust nobody yet."""
    contexts = {"client": Context(PROTOCOL_DTLS_CLIENT), "server": Context(PROTOCOL_DTLS_SERVER)}
    for context in contexts.values():
        context.load_cert_chain(certificate.private_key_and_chain_pem)
    contexts["client"].check_hostname = False
    contexts["client"].verify_mode = CERT_NONE
    return contexts


def finish(contexts: dict[str, Context]) -> Pair:
    both = Pair(contexts["client"], contexts["server"], server_hostname=None)
    both.run()
    return both


def refusal(both: Pair, name: str) -> SSLCertVerificationError:
    error = both.failure(name)
    assert isinstance(error, SSLCertVerificationError), both.events
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert error.verify_code == REJECTED
    assert both.end(name).state is ConnectionState.FAILED
    assert not both.end(name).max_message_size
    return error


# --- pinned fingerprints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", OTHER)
def test_a_pinned_certificate_needs_no_authority(own: IssuedCertificate, judge: str) -> None:
    contexts = ends(own)
    contexts[judge].set_pinned_fingerprints(fingerprint(own))
    both = finish(contexts)
    assert both.established
    assert both.end(judge).peer_certificate() == der(own)
    assert both.end(judge).verified_chain() == [], "no path was validated"
    both.assert_talks()


@pytest.mark.parametrize("judge", OTHER)
def test_another_certificate_is_refused_before_anything_is_heard(
    own: IssuedCertificate, other: IssuedCertificate, judge: str
) -> None:
    contexts = ends(other)
    contexts[judge].set_pinned_fingerprints(fingerprint(own))
    both = finish(contexts)
    assert "pinned" in str(refusal(both, judge))
    told = both.failure(OTHER[judge])
    assert isinstance(told, SSLError)
    assert "BAD_CERTIFICATE" in told.reason


@pytest.mark.parametrize("judge", OTHER)
def test_a_valid_path_does_not_help_a_certificate_that_is_not_pinned(
    ca: CertificateAuthority, own: IssuedCertificate, judge: str
) -> None:
    contexts = ends(ca.issue("localhost") if judge == "client" else ca.issue("a client", client=True))
    contexts[judge].load_verify_locations(cadata=ca.certificate_pem)
    contexts[judge].set_pinned_fingerprints(fingerprint(own))
    refusal(finish(contexts), judge)


def test_the_issuer_of_a_certificate_is_not_the_certificate(ca: CertificateAuthority) -> None:
    contexts = ends(ca.issue("localhost"))
    root = ca.certificate.public_bytes(Encoding.DER)
    contexts["client"].set_pinned_fingerprints(hashlib.sha256(root).digest())
    refusal(finish(contexts), "client")


def test_both_sides_may_pin_each_other(own: IssuedCertificate) -> None:
    contexts = ends(own)
    for context in contexts.values():
        context.set_pinned_fingerprints([b"\0" * 32, fingerprint(own)])
    finish(contexts).assert_talks()


def test_neither_dates_nor_names_of_a_pinned_certificate_matter() -> None:
    expired = CertificateAuthority("old").issue(
        "elsewhere", not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=8)
    )
    contexts = ends(expired)
    contexts["client"].set_pinned_fingerprints(fingerprint(expired))
    both = Pair(contexts["client"], contexts["server"], server_hostname="localhost")
    both.run()
    assert both.established


def test_a_name_counts_for_those_who_ask_for_it(own: IssuedCertificate) -> None:
    contexts = ends(own)
    contexts["client"].set_pinned_fingerprints(fingerprint(own))
    contexts["client"].check_hostname = True
    both = Pair(contexts["client"], contexts["server"], server_hostname="localhost")
    both.run()
    error = both.failure("client")
    assert isinstance(error, SSLCertVerificationError)
    assert "localhost" in str(error)


def test_a_client_without_certificate_is_refused_by_a_server_that_pins(own: IssuedCertificate) -> None:
    contexts = ends(own)
    contexts["client"] = Context(PROTOCOL_DTLS_CLIENT)
    contexts["client"].check_hostname = False
    contexts["client"].verify_mode = CERT_NONE
    contexts["server"].set_pinned_fingerprints(fingerprint(own))
    both = finish(contexts)
    assert not both.established
    assert isinstance(both.failure("server"), SSLError)


@pytest.mark.parametrize("judge", OTHER)
def test_a_key_in_common_does_not_stand_in_for_a_pinned_certificate(
    own: IssuedCertificate, judge: str
) -> None:
    contexts = ends(own)
    contexts["client"].set_psk("x", b"k" * 16)
    contexts["server"].set_psks({"x": b"k" * 16})
    assert finish(contexts).established
    contexts[judge].set_pinned_fingerprints(fingerprint(own))
    both = finish(contexts)
    assert "shows none" in str(refusal(both, judge))
    assert not both.received(judge)


@pytest.mark.parametrize("form", ["{}", "sha-256 {}", "SHA-256  {}", " {} "])
def test_fingerprints_come_in_many_forms(form: str) -> None:
    digest = bytes(range(32))
    for text in (digest.hex(), digest.hex().upper(), digest.hex(":"), digest.hex(":").upper()):
        assert as_fingerprint(form.format(text)) == digest
    assert as_fingerprint(digest) == digest


def test_what_is_no_fingerprint_is_refused_and_changes_nothing() -> None:
    context = Context(PROTOCOL_DTLS_CLIENT)
    for nonsense in ("", "00" * 31, "00" * 33, "xy" * 32, b"\0" * 20, [], ["00"], "sha-1 " + "00" * 20):
        with pytest.raises(ValueError):
            context.set_pinned_fingerprints(nonsense)
    for mistyped in (1, [1], [None]):
        with pytest.raises(TypeError):
            context.set_pinned_fingerprints(mistyped)  # type: ignore[arg-type]
    assert context.check_hostname
    assert context.pinned_fingerprints is None


@pytest.mark.parametrize("protocol", [PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER])
def test_pinning_asks_for_certificates_and_its_end_makes_things_what_they_were(protocol: Any) -> None:
    context = Context(protocol)
    before = context.verify_mode, context.check_hostname
    context.set_pinned_fingerprints("00" * 32)
    context.dangerously_trust_by_callback(lambda _: True)
    assert (context.verify_mode, context.check_hostname) == (CERT_REQUIRED, False)
    for weaker in (CERT_NONE, CERT_OPTIONAL):
        with pytest.raises(ValueError):
            context.verify_mode = weaker
    context.set_pinned_fingerprints(None)
    assert context.verify_mode is CERT_REQUIRED
    context.dangerously_trust_by_callback(None)
    assert (context.verify_mode, context.check_hostname) == before


@pytest.mark.parametrize("setting", ["pin", "callback"])
@pytest.mark.parametrize("judge", OTHER)
def test_what_is_unset_during_a_handshake_still_counts_for_it(
    own: IssuedCertificate, other: IssuedCertificate, judge: str, setting: str
) -> None:
    """Else nothing at all would decide: OpenSSL was told that path validation does not."""
    contexts = ends(other)
    if setting == "pin":
        contexts[judge].set_pinned_fingerprints(fingerprint(own))
    else:
        contexts[judge].dangerously_trust_by_callback(lambda _: False)
    both = Pair(contexts["client"], contexts["server"], server_hostname=None)
    contexts[judge].set_pinned_fingerprints(None)
    contexts[judge].dangerously_trust_by_callback(None)
    both.run()
    refusal(both, judge)


def test_where_nothing_decides_nobody_is_trusted(own: IssuedCertificate) -> None:
    """OpenSSL asks only where something does; were that to change, path validation must not be overruled."""
    server = Context(PROTOCOL_DTLS_SERVER)
    association = Association(server, server.connection(0.0))  # type: ignore[arg-type]
    assert not association.trust.decides
    assert association.judge(der(own), 0) == REJECTED


# --- trust on first use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", OTHER)
def test_the_application_may_decide(own: IssuedCertificate, judge: str) -> None:
    seen: list[bytes] = []

    def decide(certificate: bytes) -> bool:
        seen.append(certificate)
        return certificate == der(own)

    contexts = ends(own)
    contexts[judge].dangerously_trust_by_callback(decide)
    finish(contexts).assert_talks()
    assert seen == [der(own)], "it is asked once"


@pytest.mark.parametrize("judge", OTHER)
def test_the_application_may_refuse(own: IssuedCertificate, judge: str) -> None:
    contexts = ends(own)
    contexts[judge].dangerously_trust_by_callback(lambda _: False)
    assert "callback does not trust" in str(refusal(finish(contexts), judge))


@pytest.mark.parametrize("judge", OTHER)
@pytest.mark.parametrize("answer", [None, 1, "yes", b""])
def test_what_is_neither_true_nor_false_is_no_trust(own: IssuedCertificate, judge: str, answer: Any) -> None:
    contexts = ends(own)
    contexts[judge].dangerously_trust_by_callback(lambda _: answer)
    both = finish(contexts)
    assert not both.established
    error = both.failure(judge)
    assert error is not None
    assert isinstance(error.__cause__, TypeError)


@pytest.mark.parametrize("judge", OTHER)
def test_what_the_callback_raises_is_the_cause(
    own: IssuedCertificate, judge: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: bytes) -> bool:
        reason = "the disk is full"
        raise OSError(reason)

    contexts = ends(own)
    contexts[judge].dangerously_trust_by_callback(fail)
    error = finish(contexts).failure(judge)
    assert error is not None
    assert isinstance(error.__cause__, OSError)
    assert "OSError" in caplog.text


def test_what_is_pinned_counts_beside_the_callback(own: IssuedCertificate, other: IssuedCertificate) -> None:
    contexts = ends(own)
    contexts["client"].dangerously_trust_by_callback(lambda _: True)
    contexts["client"].set_pinned_fingerprints(fingerprint(other))
    assert "pinned" in str(refusal(finish(contexts), "client"))
    with pytest.raises(TypeError):
        contexts["client"].dangerously_trust_by_callback("yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["pin", "callback"])
def test_sockets_are_held_to_it_too(own: IssuedCertificate, other: IssuedCertificate, setting: str) -> None:
    settings: dict[str, Callable[[Context, bool], None]] = {
        "pin": lambda context, good: context.set_pinned_fingerprints(fingerprint(own if good else other)),
        "callback": lambda context, good: context.dangerously_trust_by_callback(lambda _: good),
    }
    contexts = ends(own)
    settings[setting](contexts["client"], True)
    near, far = pair(contexts["client"], contexts["server"])
    with near, far:
        assert near.getpeercert(binary_form=True) == der(own)
        assert near.getpeercert()["subject"]
    settings[setting](contexts["client"], False)
    with pytest.raises(SSLCertVerificationError):
        pair(contexts["client"], contexts["server"])


# --- several own certificates ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds() -> dict[str, tuple[CertificateAuthority, IssuedCertificate]]:
    """By the kind of key: a root, and a certificate that an intermediate authority has issued."""
    found = {}
    key_types: dict[str, KeyType] = {"ECDSA": "ec", "RSA": "rsa"}
    for kind, key_type in key_types.items():
        root = CertificateAuthority(f"{kind} root", key_type=key_type)
        middle = root.intermediate(f"{kind} middle", key_type=key_type)
        found[kind] = root, middle.issue("localhost", key_type=key_type)
    return found


@pytest.mark.parametrize("order", [("ECDSA", "RSA"), ("RSA", "ECDSA")])
@pytest.mark.parametrize("wanted", ["ECDSA", "RSA"])
def test_a_server_shows_the_certificate_with_the_kind_of_key_that_its_client_allows(
    kinds: dict[str, tuple[CertificateAuthority, IssuedCertificate]], order: tuple[str, str], wanted: str
) -> None:
    server, client = Context(PROTOCOL_DTLS_SERVER), Context(PROTOCOL_DTLS_CLIENT)
    for kind in order:
        server.load_cert_chain(kinds[kind][1].private_key_and_chain_pem)
    client.load_verify_locations(cadata=kinds[wanted][0].certificate_pem)
    client.set_ciphers(f"ECDHE-{wanted}-AES128-GCM-SHA256")
    both = Pair(client, server)
    both.run()
    assert both.established, both.events
    assert len(both.client.unverified_chain()) == 2, "its own chain, and not the other's"
    assert both.client.peer_certificate() == der(kinds[wanted][1])
    assert server.identity is not None
    assert server.identity.chain[0] == der(kinds[order[1]][1]), "the one that was loaded last"


def test_a_certificate_replaces_the_one_with_the_same_kind_of_key(ca: CertificateAuthority) -> None:
    context = Context(PROTOCOL_DTLS_SERVER)
    for name in ("first", "localhost"):
        context.load_cert_chain(ca.issue(name).private_key_and_chain_pem)
    assert len(context.identities) == 1
    client = Context(PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=ca.certificate_pem)
    both = Pair(client, context)
    both.run()
    assert both.established


# --- client certificates ---------------------------------------------------------------------------------------------


def mutual(ca: CertificateAuthority) -> dict[str, Context]:
    contexts = ends(ca.issue("localhost"))
    contexts["client"].load_cert_chain(ca.issue("a client", client=True).private_key_and_chain_pem)
    contexts["server"].load_verify_locations(cadata=ca.certificate_pem)
    contexts["server"].verify_mode = CERT_REQUIRED
    return contexts


def names_asked_for(both: Pair) -> bytes:
    """The CertificateRequest of a server, and what it sent beside it."""
    return b"".join(datagram for name, datagram in both.sent if name == "server")


def test_a_server_names_the_authorities_that_it_trusts(ca: CertificateAuthority) -> None:
    contexts = mutual(ca)
    subject = ca.certificate.subject.public_bytes()
    contexts["server"].mtu = 8000
    assert names_asked_for(finish(contexts)).count(len(subject).to_bytes(2, "big") + subject) == 1
    contexts["server"].sends_ca_names = False
    both = finish(contexts)
    assert len(subject).to_bytes(2, "big") + subject not in names_asked_for(both)
    assert both.established


def test_a_server_that_trusts_many_names_none(ca: CertificateAuthority) -> None:
    contexts = mutual(ca)
    for number in range(33):
        another = CertificateAuthority(f"authority {number}")
        contexts["server"].load_verify_locations(cadata=another.certificate_pem)
    contexts["server"].mtu = 8000
    both = finish(contexts)
    assert both.established
    assert b"authority 7" not in names_asked_for(both)


@pytest.mark.parametrize(("depth", "succeeds"), [(0, False), (1, True), (None, True)])
def test_the_depth_of_a_path_is_limited(depth: int | None, succeeds: bool) -> None:
    root = CertificateAuthority("root")
    contexts = ends(root.intermediate("middle").issue("localhost"))
    client = contexts["client"]
    client.verify_mode = CERT_REQUIRED
    client.load_verify_locations(cadata=root.certificate_pem)
    client.verify_depth = depth
    assert client.verify_depth == depth
    assert finish(contexts).established is succeeds
    for nonsense in (-1, 101):
        with pytest.raises(ValueError):
            client.verify_depth = nonsense


@pytest.mark.parametrize("shows", [False, True])
def test_an_optional_client_certificate_is_verified_if_it_comes(
    ca: CertificateAuthority, shows: bool
) -> None:
    contexts = mutual(ca)
    contexts["server"].verify_mode = CERT_OPTIONAL
    if not shows:
        contexts["client"] = ends(ca.issue("localhost"))["client"]
        contexts["client"].load_cert_chain(
            CertificateAuthority("x").issue("y", client=True).private_key_and_chain_pem
        )
    both = finish(contexts)
    assert both.established is shows
    anonymous = Context(PROTOCOL_DTLS_CLIENT)
    anonymous.load_verify_locations(cadata=ca.certificate_pem)
    both = Pair(anonymous, contexts["server"])
    both.run()
    assert both.established
    assert both.server.peer_certificate() is None
