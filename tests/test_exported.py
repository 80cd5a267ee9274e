"""What a handshake leaves for others: keys, channel bindings, SRTP profiles, OCSP responses, key logs, numbers."""

from __future__ import annotations

import errno
import os
import ssl
import stat
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

import dtls
from dtls.context import PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context
from dtls.engines.openssl.binding import lib
from dtls.errors import SSLCertVerificationError, SSLError

from .loopback import pair
from .pair import Pair

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.certificates import CertificateAuthority
    from dtls.connection import Connection

LABEL = "EXPERIMENTAL dtls tests"
SRTP = "EXTRACTOR-dtls_srtp"


def finish(client: Context, server: Context, **options: Any) -> Pair:
    both = Pair(client, server, **options)
    both.run()
    return both


@pytest.fixture
def both(client: Context, server: Context) -> Pair:
    done = finish(client, server)
    assert done.established
    return done


# --- exported keying material (RFC 5705) -----------------------------------------------------------------------------


@pytest.mark.parametrize("context", [None, b"", b"something"])
@pytest.mark.parametrize("length", [1, 60, 65_535])
def test_both_sides_export_the_same(both: Pair, context: bytes | None, length: int) -> None:
    ours = both.client.export_keying_material(LABEL, length, context)
    assert len(ours) == length
    assert ours == both.server.export_keying_material(LABEL, length, context)


def test_label_context_and_association_matter(client: Context, server: Context, both: Pair) -> None:
    another = finish(client, server)
    exported = {
        both.client.export_keying_material(LABEL, 32),
        both.client.export_keying_material(LABEL, 32, b""),
        both.client.export_keying_material(LABEL, 32, b"x"),
        both.client.export_keying_material(SRTP, 32),
        another.client.export_keying_material(LABEL, 32),
    }
    assert len(exported) == 5


def test_nothing_is_exported_before_the_handshake_is_complete(client: Context) -> None:
    connection = client.connection(0.0, server_hostname="localhost")
    with pytest.raises(SSLError, match="not complete"):
        connection.export_keying_material(LABEL, 32)


def test_it_is_exported_after_the_end_too(both: Pair) -> None:
    before = both.client.export_keying_material(LABEL, 32)
    both.client.close(both.now)
    both.settle()
    assert both.client.export_keying_material(LABEL, 32) == before


@pytest.mark.parametrize("length", [0, -1, 65_536])
def test_lengths_out_of_range_are_refused(both: Pair, length: int) -> None:
    with pytest.raises(ValueError):
        both.client.export_keying_material(LABEL, length)


def test_labels_that_cannot_be_are_refused(both: Pair) -> None:
    for label in ("", "ü"):
        with pytest.raises(ValueError):
            both.client.export_keying_material(label, 32)
    for label in ("client finished", "server finished", "master secret", "key expansion"):
        with pytest.raises(SSLError, match="label"):
            both.client.export_keying_material(label, 32)
    assert both.client.export_keying_material(LABEL, 32)


# --- channel bindings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "length"), [("tls-unique", 12), ("tls-exporter", 32)])
def test_both_sides_have_the_same_channel_binding(
    client: Context, server: Context, both: Pair, kind: str, length: int
) -> None:
    binding = both.client.get_channel_binding(kind)
    assert binding is not None
    assert len(binding) == length
    assert binding == both.server.get_channel_binding(kind)
    assert binding != finish(client, server).client.get_channel_binding(kind)


@pytest.mark.skipif(not hasattr(lib, "i2d_SSL_SESSION"), reason="cryptography before 44 gives no session")
@pytest.mark.parametrize("kind", ["tls-unique", "tls-exporter"])
def test_a_resumed_association_has_a_channel_binding_of_its_own(
    client: Context, server: Context, kind: str
) -> None:
    server.session_tickets = True
    first = finish(client, server)
    second = finish(client, server, session=first.client.session)
    assert second.client.session_reused
    binding = second.client.get_channel_binding(kind)
    assert binding is not None
    assert binding == second.server.get_channel_binding(kind)
    assert binding != first.client.get_channel_binding(kind)


def test_tls_exporter_is_what_rfc_9266_says(both: Pair) -> None:
    exported = both.client.export_keying_material("EXPORTER-Channel-Binding", 32, b"")
    assert both.client.get_channel_binding("tls-exporter") == exported


def test_tls_unique_is_the_client_s_finished(both: Pair) -> None:
    """Taken from OpenSSL on the client: its own message."""
    from dtls.engines.openssl import binding_sessions  # noqa: PLC0415

    sent = binding_sessions.finished_message(both.client._ssl, of_peer=False)  # type: ignore[attr-defined]
    assert both.server.get_channel_binding() == sent


def test_other_channel_bindings_are_refused_as_by_the_standard_library(client: Context, both: Pair) -> None:
    with pytest.raises(ValueError, match="channel binding type not implemented"):
        both.client.get_channel_binding("tls-server-end-point")
    assert client.connection(0.0, server_hostname="localhost").get_channel_binding() is None


# --- SRTP (RFC 5764) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "allowed", "agreed"),
    [
        (["SRTP_AES128_CM_SHA1_80"], ["SRTP_AES128_CM_SHA1_80"], "SRTP_AES128_CM_SHA1_80"),
        (
            ["SRTP_AEAD_AES_128_GCM", "SRTP_AES128_CM_SHA1_80"],
            ["SRTP_AES128_CM_SHA1_80"],
            "SRTP_AES128_CM_SHA1_80",
        ),
        (["SRTP_AEAD_AES_128_GCM"], ["SRTP_AES128_CM_SHA1_80"], None),
        ([], ["SRTP_AES128_CM_SHA1_80"], None),
        (["SRTP_AES128_CM_SHA1_80"], [], None),
    ],
)
def test_an_srtp_profile_is_agreed_on(
    client: Context, server: Context, offered: list[str], allowed: list[str], agreed: str | None
) -> None:
    client.set_srtp_profiles(offered)
    server.set_srtp_profiles(allowed)
    done = finish(client, server)
    assert done.established
    assert done.client.selected_srtp_profile() == done.server.selected_srtp_profile() == agreed
    assert done.client.export_keying_material(SRTP, 60) == done.server.export_keying_material(SRTP, 60)


def test_profiles_that_are_none_are_refused_and_change_nothing(client: Context) -> None:
    client.set_srtp_profiles(["SRTP_AES128_CM_SHA1_80"])
    with pytest.raises(SSLError, match="SRTP_NONSENSE"):
        client.set_srtp_profiles(["SRTP_NONSENSE"])
    for nonsense in ([""], ["a:b"]):
        with pytest.raises(ValueError):
            client.set_srtp_profiles(nonsense)
    assert client.srtp_profiles == ["SRTP_AES128_CM_SHA1_80"]
    client.set_srtp_profiles("SRTP_AEAD_AES_128_GCM")
    assert client.srtp_profiles == ["SRTP_AEAD_AES_128_GCM"]


# --- OCSP responses (RFC 6066, 8) ------------------------------------------------------------------------------------


def response_of(status: ocsp.OCSPResponseStatus) -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


OLD, NEW = (
    response_of(status)
    for status in (ocsp.OCSPResponseStatus.TRY_LATER, ocsp.OCSPResponseStatus.INTERNAL_ERROR)
)


@pytest.mark.parametrize("response", [None, OLD])
def test_the_server_s_ocsp_response_is_shown_to_clients_that_ask(
    client: Context, server: Context, response: bytes | None
) -> None:
    shown: list[tuple[Connection, bytes]] = []

    def judge(connection: Connection, said: bytes) -> bool:
        shown.append((connection, said))
        return True

    server.set_ocsp_response(response)
    assert server.ocsp_response == response
    assert finish(client, server).established, "clients that do not ask"
    client.set_ocsp_client_callback(judge)
    done = finish(client, server)
    assert shown == [(done.client, response or b"")]
    done.assert_talks()


def test_a_response_may_be_set_anew_without_ending_sessions(client: Context, server: Context) -> None:
    shown: list[bytes] = []
    client.set_ocsp_client_callback(lambda _, said: not shown.append(said))  # type: ignore[func-returns-value]
    server.set_ocsp_response(OLD)
    engine = server._engine()
    finish(client, server)
    server.set_ocsp_response(NEW)
    finish(client, server)
    assert shown == [OLD, NEW]
    assert server._engine() is engine


def test_a_client_may_refuse_what_it_is_shown(client: Context, server: Context) -> None:
    client.set_ocsp_client_callback(lambda *_: False)
    done = finish(client, server)
    assert isinstance(done.failure("client"), SSLCertVerificationError)
    told = done.failure("server")
    assert isinstance(told, SSLError)
    assert "BAD_CERTIFICATE_STATUS_RESPONSE" in told.reason


@pytest.mark.parametrize("wrong", [None, 1, LookupError()])
def test_what_goes_wrong_in_the_ocsp_callback_is_no_trust(
    client: Context, server: Context, wrong: Any
) -> None:
    def judge(*_: object) -> Any:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    client.set_ocsp_client_callback(judge)
    error = finish(client, server).failure("client")
    assert error is not None
    assert isinstance(error.__cause__, (TypeError, LookupError))


def test_ocsp_settings_that_make_no_sense_are_refused(client: Context, server: Context) -> None:
    with pytest.raises(ValueError):
        client.set_ocsp_response(b"x")
    with pytest.raises(ValueError):
        server.set_ocsp_client_callback(lambda *_: True)
    for nonsense in (b"", b"x", OLD + b"x" * 16_000):
        with pytest.raises(ValueError):
            server.set_ocsp_response(nonsense)
    with pytest.raises(TypeError):
        server.set_ocsp_response("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        client.set_ocsp_client_callback("x")  # type: ignore[arg-type]


# --- key logs --------------------------------------------------------------------------------------------------------


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize("role", ["client", "server"])
def test_the_key_log_has_the_master_secret(
    client: Context, server: Context, role: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.log"
    context = {"client": client, "server": server}[role]
    context.keylog_filename = path
    assert context.keylog_filename == path
    done = finish(client, server)
    header, line = lines(path)
    assert header.startswith("# TLS secrets log file")
    label, random, secret = line.split()
    assert label == "CLIENT_RANDOM"
    assert bytes.fromhex(random) in done.sent[0][1]
    assert len(bytes.fromhex(secret)) == 48
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_log_is_appended_to(client: Context, server: Context, tmp_path: Path) -> None:
    path = tmp_path / "keys.log"
    path.write_text("what was there before\n")
    client.keylog_filename = server.keylog_filename = str(path)
    finish(client, server)
    assert lines(path)[0] == "what was there before"
    assert len(lines(path)) == 3
    client.keylog_filename = server.keylog_filename = None
    finish(client, server)
    assert len(lines(path)) == 3


def test_a_key_log_that_cannot_be_opened_is_an_error_and_changes_nothing(
    client: Context, tmp_path: Path
) -> None:
    client.keylog_filename = tmp_path / "keys.log"
    with pytest.raises(FileNotFoundError):
        client.keylog_filename = tmp_path / "nowhere" / "keys.log"
    with pytest.raises(IsADirectoryError):
        client.keylog_filename = tmp_path
    assert client.keylog_filename == tmp_path / "keys.log"


def test_a_full_disk_is_told_once_and_ends_no_association(
    client: Context, server: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    client.keylog_filename = tmp_path / "keys.log"

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dtls.settings.diagnosis.os.write", full)
    for _ in range(2):
        finish(client, server).assert_talks()
    assert caplog.text.count("cannot be written") == 1


@pytest.mark.parametrize("purpose", [dtls.Purpose.SERVER_AUTH, dtls.Purpose.CLIENT_AUTH])
def test_a_default_context_heeds_the_environment(
    purpose: dtls.Purpose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ca: CertificateAuthority
) -> None:
    path = str(tmp_path / "keys.log")
    monkeypatch.setenv("SSLKEYLOGFILE", path)
    assert dtls.create_default_context(purpose, cadata=ca.certificate_pem).keylog_filename == path
    assert Context(PROTOCOL_DTLS_CLIENT).keylog_filename is None
    monkeypatch.delenv("SSLKEYLOGFILE")
    assert dtls.create_default_context(purpose, cadata=ca.certificate_pem).keylog_filename is None


# --- numbers and suites ----------------------------------------------------------------------------------------------


def test_handshakes_are_counted(client: Context, server: Context) -> None:
    assert client.session_stats() == server.session_stats() == dict.fromkeys(client.session_stats(), 0)
    assert set(client.session_stats()) < set(ssl.create_default_context().session_stats())
    finish(client, server)
    finish(client, server, server_hostname="elsewhere")
    assert client.session_stats() == {
        "connect": 2, "connect_good": 1, "accept": 0, "accept_good": 0, "hits": 0, "misses": 0,
    }  # fmt: skip
    assert server.session_stats()["accept"] == 2
    assert server.session_stats()["accept_good"] == 1


@pytest.mark.skipif(not hasattr(lib, "i2d_SSL_SESSION"), reason="cryptography before 44 gives no session")
def test_resumed_and_refused_sessions_are_counted(client: Context, server: Context) -> None:
    server.session_tickets = True
    session = finish(client, server).client.session
    finish(client, server, session=session)
    server.renew_session_keys()
    finish(client, server, session=session)
    for context in (client, server):
        numbers = context.session_stats()
        assert (numbers["hits"], numbers["misses"]) == (1, 1)


def test_suites_are_described_as_by_the_standard_library() -> None:
    ours = {suite["name"]: suite for suite in Context(PROTOCOL_DTLS_SERVER).get_ciphers()}
    standard = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    standard.set_ciphers("ALL:@SECLEVEL=0")
    theirs: dict[str, dict[str, Any]] = {suite["name"]: dict(suite) for suite in standard.get_ciphers()}
    compared = 0
    for name in ours.keys() & theirs.keys():
        expected = {key: value for key, value in theirs[name].items() if key != "description"}
        assert ours[name] == {**expected, "symmetric": ours[name]["symmetric"]}
        assert ours[name]["symmetric"].replace("-", "") in str(expected["symmetric"]).replace(
            "-", ""
        ).replace("id", "")
        compared += 1
    assert compared >= 8


def test_every_suite_can_be_described(server: Context) -> None:
    server.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    server.set_psks({"x": b"k"})
    described = server.get_ciphers()
    assert len(described) > 100
    for suite in described:
        assert suite["kea"]
        assert suite["auth"]
        assert suite["strength_bits"] <= suite["alg_bits"] or not suite["alg_bits"]
    assert {suite["kea"] for suite in described} > {"kx-ecdhe", "kx-psk", "kx-rsa"}


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER])
def test_options_have_the_numbers_of_the_ssl_module(protocol: Any) -> None:
    for option in dtls.Options:
        assert option.name is not None
        assert int(ssl.Options[option.name]) == int(option)
    context = Context(protocol)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_SSLv3
    assert not context.session_tickets
    assert context.options & ssl.OP_NO_TICKET
    context.options &= ~ssl.OP_NO_TICKET
    assert context.session_tickets
    for always in (ssl.OP_NO_COMPRESSION, ssl.OP_NO_RENEGOTIATION):
        with pytest.raises(ValueError, match="cannot be switched off"):
            context.options &= ~always


@pytest.mark.parametrize("own", [True, False])
def test_a_server_chooses_by_its_own_order_unless_told_otherwise(
    client: Context, server: Context, own: bool
) -> None:
    suites = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"]
    client.set_ciphers(":".join(suites))
    server.set_ciphers(":".join(reversed(suites)))
    if not own:
        server.options &= ~dtls.Options.OP_CIPHER_SERVER_PREFERENCE
    cipher = finish(client, server).client.cipher()
    assert cipher is not None
    assert cipher[0] == (suites[1] if own else suites[0])


# --- sockets ---------------------------------------------------------------------------------------------------------


def test_sockets_tell_all_this(client: Context, server: Context) -> None:
    for context in (client, server):
        context.set_srtp_profiles(["SRTP_AES128_CM_SHA1_80"])
    near, far = pair(client, server)
    with near, far:
        assert near.selected_srtp_profile() == far.selected_srtp_profile() == "SRTP_AES128_CM_SHA1_80"
        assert near.export_keying_material(SRTP, 60) == far.export_keying_material(SRTP, 60)
        for kind in ("tls-unique", "tls-exporter"):
            assert near.get_channel_binding(kind) == far.get_channel_binding(kind) is not None
        with pytest.raises(ValueError):
            near.get_channel_binding("nonsense")
