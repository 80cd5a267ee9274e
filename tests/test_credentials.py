"""Certificates, keys and anchors come in every form that people have, and errors say what is wrong with them."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from dtls import credentials
from dtls.certificates import CertificateAuthority, IssuedCertificate
from dtls.context import CERT_REQUIRED, PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context
from dtls.errors import SSLError

from .pair import Pair

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD = "pässword"  # noqa: S105 - of a key that lives for a test


@pytest.fixture(scope="module")
def identity(ca: CertificateAuthority) -> IssuedCertificate:
    """One with an intermediate."""
    return ca.intermediate().issue("localhost")


@pytest.fixture
def context() -> Context:
    return Context(PROTOCOL_DTLS_SERVER)


def write(directory: Path, name: str, data: bytes) -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def der(certificate: Any) -> bytes:
    return bytes(certificate.public_bytes(Encoding.DER))


def key_der(identity: IssuedCertificate) -> bytes:
    return identity.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def encrypted(identity: IssuedCertificate, encoding: Encoding, form: PrivateFormat) -> bytes:
    return identity.key.private_bytes(encoding, form, BestAvailableEncryption(PASSWORD.encode()))


# --- load_cert_chain: forms ------------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[IssuedCertificate, Path], tuple[Any, Any]]] = {
    "paths": lambda i, d: (write(d, "c.pem", i.chain_pem), write(d, "k.pem", i.key_pem)),
    "paths as text": lambda i, d: (str(write(d, "c.pem", i.chain_pem)), str(write(d, "k.pem", i.key_pem))),
    "one file": lambda i, d: (write(d, "all.pem", i.private_key_and_chain_pem), None),
    "one file, key last": lambda i, d: (write(d, "all.pem", i.chain_pem + i.key_pem), None),
    "PEM": lambda i, _: (i.chain_pem, i.key_pem),
    "PEM in one": lambda i, _: (i.private_key_and_chain_pem, None),
    "PEM with words around": lambda i, _: (
        b"subject=x\n" + i.chain_pem + b"\nthe end\n",
        b"a key:\n" + i.key_pem,
    ),
    "PEM with CRLF": lambda i, _: (i.chain_pem.replace(b"\n", b"\r\n"), i.key_pem.replace(b"\n", b"\r\n")),
    "DER": lambda i, _: (b"".join(map(der, (i.certificate, *i.chain))), key_der(i)),
    "DER in files": lambda i, d: (
        write(d, "c.der", b"".join(map(der, (i.certificate, *i.chain)))),
        write(d, "k.der", key_der(i)),
    ),
    "objects": lambda i, _: ([i.certificate, *i.chain], i.key),
    "a tuple and PEM": lambda i, _: ((i.certificate, *i.chain), i.key_pem),
    "a traditional key": lambda i, _: (
        i.chain_pem,
        i.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    ),
    "a traditional key in DER": lambda i, _: (
        i.chain_pem,
        i.key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_certificate_chain_and_its_key_are_taken_in_any_form(
    identity: IssuedCertificate, client: Context, context: Context, form: str, tmp_path: Path
) -> None:
    context.load_cert_chain(*FORMS[form](identity, tmp_path))
    assert context.identity is not None
    assert context.identity.chain == [der(link) for link in (identity.certificate, *identity.chain)]
    pair = Pair(client, context)
    pair.run()
    assert pair.established


def test_a_single_certificate_object_is_taken(identity: IssuedCertificate, context: Context) -> None:
    context.load_cert_chain(identity.certificate, identity.key)
    assert context.identity is not None
    assert context.identity.chain == [der(identity.certificate)]


def certificate_for(ca: CertificateAuthority, key: Any, *, client: bool = False) -> x509.Certificate:
    """A certificate for a key of a kind that authorities do not make for tests."""
    model = ca.issue("localhost", client=client).certificate
    return (
        x509.CertificateBuilder()
        .subject_name(model.subject)
        .issuer_name(model.issuer)
        .public_key(key.public_key())
        .serial_number(99)
        .not_valid_before(datetime.now(timezone.utc) - timedelta(days=1))
        .not_valid_after(datetime.now(timezone.utc) + timedelta(days=1))
        .sign(ca.key, hashes.SHA256())
    )


@pytest.mark.parametrize("kind", [ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey])
def test_edwards_keys_sign_for_clients_and_a_server_is_told_that_its_engine_cannot_use_them(
    ca: CertificateAuthority, client: Context, server: Context, context: Context, kind: Any
) -> None:
    key = kind.generate()
    client.load_cert_chain(certificate_for(ca, key, client=True), key)
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = CERT_REQUIRED
    pair = Pair(client, server)
    pair.run()
    assert pair.established, pair.events
    context.load_cert_chain(certificate_for(ca, key), key)
    with pytest.raises(SSLError, match="cannot use an Ed25519 or Ed448 key"):
        context.connection(0.0)


# --- load_cert_chain: passwords --------------------------------------------------------------------------------------

PASSWORDS: dict[str, Any] = {
    "text": PASSWORD,
    "bytes": PASSWORD.encode(),
    "a bytearray": bytearray(PASSWORD.encode()),
    "a callable for text": lambda: PASSWORD,
    "a callable for bytes": PASSWORD.encode,
}


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_an_encrypted_key_is_opened(
    identity: IssuedCertificate, context: Context, password: str, encoding: Encoding
) -> None:
    key = encrypted(identity, encoding, PrivateFormat.PKCS8)
    context.load_cert_chain(identity.chain_pem, key, PASSWORDS[password])
    assert context.identity is not None


def test_a_traditional_encrypted_key_is_opened(identity: IssuedCertificate, context: Context) -> None:
    key = encrypted(identity, Encoding.PEM, PrivateFormat.TraditionalOpenSSL)
    context.load_cert_chain(identity.chain_pem, key, PASSWORD)
    with pytest.raises(SSLError):
        context.load_cert_chain(identity.chain_pem, key, "wrong")


def test_an_encrypted_key_in_the_certificates_file_is_opened(
    identity: IssuedCertificate, context: Context, tmp_path: Path
) -> None:
    path = write(
        tmp_path, "all.pem", identity.chain_pem + encrypted(identity, Encoding.PEM, PrivateFormat.PKCS8)
    )
    context.load_cert_chain(path, password=PASSWORD)
    assert context.identity is not None


def test_a_password_that_nobody_needs_does_no_harm(identity: IssuedCertificate, context: Context) -> None:
    asked: list[int] = []

    def password() -> str:
        asked.append(1)
        return "x"

    context.load_cert_chain(identity.chain_pem, identity.key_pem, password)
    assert not asked, "nobody is asked in vain"


@pytest.mark.parametrize("password", ["wrong", b"wrong", lambda: "wrong"])
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_wrong_password_is_told_as_such(
    identity: IssuedCertificate, context: Context, password: Any, encoding: Encoding
) -> None:
    key = encrypted(identity, encoding, PrivateFormat.PKCS8)
    with pytest.raises(SSLError, match="password does not open") as caught:
        context.load_cert_chain(identity.chain_pem, key, password)
    assert caught.value.reason == "BAD_DECRYPT"
    assert context.identity is None


@pytest.mark.parametrize("password", [None, "", b"", lambda: ""])
def test_a_missing_password_is_told_as_such(
    identity: IssuedCertificate, context: Context, password: Any, tmp_path: Path
) -> None:
    path = write(tmp_path, "k.pem", encrypted(identity, Encoding.PEM, PrivateFormat.PKCS8))
    with pytest.raises(SSLError, match=r"k\.pem' is encrypted: give its password") as caught:
        context.load_cert_chain(identity.chain_pem, path, password)
    assert caught.value.reason == "BAD_PASSWORD_READ"


@pytest.mark.parametrize("password", [5, 1.5, lambda: None, lambda: 7, ["x"]])
def test_a_password_of_another_kind_is_refused(
    identity: IssuedCertificate, context: Context, password: Any
) -> None:
    key = encrypted(identity, Encoding.PEM, PrivateFormat.PKCS8)
    with pytest.raises(TypeError, match="password must be"):
        context.load_cert_chain(identity.chain_pem, key, password)


def test_what_a_password_callable_raises_comes_through(identity: IssuedCertificate, context: Context) -> None:
    def forget() -> str:
        raise LookupError

    with pytest.raises(LookupError):
        context.load_cert_chain(
            identity.chain_pem, encrypted(identity, Encoding.PEM, PrivateFormat.PKCS8), forget
        )


# --- load_cert_chain: what is wrong ----------------------------------------------------------------------------------


def test_a_key_of_another_certificate_is_refused(
    identity: IssuedCertificate, ca: CertificateAuthority, context: Context
) -> None:
    for key in (ca.issue("x").key_pem, ca.issue("x").key, ca.issue("x", key_type="rsa").key_pem):
        with pytest.raises(SSLError, match="does not belong") as caught:
            context.load_cert_chain(identity.chain_pem, key)
        assert (caught.value.reason, caught.value.library) == ("KEY_VALUES_MISMATCH", "X509")
    assert context.identity is None


def test_a_file_without_a_key_is_told_as_such(
    identity: IssuedCertificate, context: Context, tmp_path: Path
) -> None:
    certificates = write(tmp_path, "c.pem", identity.chain_pem)
    with pytest.raises(SSLError, match="no private key in the file of the certificate"):
        context.load_cert_chain(certificates)
    with pytest.raises(SSLError, match=r"no private key in .*c\.pem"):
        context.load_cert_chain(certificates, certificates)
    with pytest.raises(ValueError, match="a private key is needed"):
        context.load_cert_chain(identity.certificate)


def test_a_file_without_a_certificate_is_told_as_such(
    identity: IssuedCertificate, context: Context, tmp_path: Path
) -> None:
    for data in (identity.key_pem, b"", b"nothing", b"-----BEGIN NOTHING-----"):
        path = write(tmp_path, "empty.pem", data)
        with pytest.raises(SSLError, match=r"no certificate in .*empty\.pem") as caught:
            context.load_cert_chain(path, identity.key_pem)
        assert caught.value.reason == "PEM_LIB"
    with pytest.raises(ValueError, match="empty"):
        context.load_cert_chain([], identity.key)


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_a_file_that_is_not_there_is_an_os_error(
    identity: IssuedCertificate, context: Context, missing: str, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere.pem"
    sources = (nowhere, identity.key_pem) if missing == "certificate" else (identity.chain_pem, str(nowhere))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        context.load_cert_chain(*sources)
    with pytest.raises(OSError, match="directory"):
        context.load_cert_chain(tmp_path, identity.key_pem)


def test_damaged_data_is_told_as_such(identity: IssuedCertificate, context: Context) -> None:
    lines = identity.certificate_pem.splitlines(keepends=True)
    with pytest.raises(SSLError, match="not base64"):
        context.load_cert_chain(lines[0] + b"!!!!\n" + lines[-1], identity.key_pem)
    with pytest.raises(SSLError, match="cannot be read"):
        context.load_cert_chain(lines[0] + lines[1] + lines[-1], identity.key_pem)
    with pytest.raises(SSLError, match="cannot be read"):
        context.load_cert_chain(der(identity.certificate)[:-1], identity.key_pem)
    with pytest.raises(SSLError, match="cannot be read"):
        context.load_cert_chain(identity.chain_pem, key_der(identity)[:-1])
    key = identity.key_pem.splitlines(keepends=True)
    with pytest.raises(SSLError, match="private key in the data given cannot be read"):
        context.load_cert_chain(identity.chain_pem, key[0] + key[-1])


@pytest.mark.parametrize("make", [x25519.X25519PrivateKey.generate, lambda: dsa.generate_private_key(2048)])
def test_a_key_that_cannot_sign_for_dtls_is_refused(
    identity: IssuedCertificate, context: Context, make: Callable[[], Any]
) -> None:
    key = make()
    with pytest.raises(TypeError, match="cannot sign for DTLS"):
        context.load_cert_chain(identity.chain_pem, key)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TypeError, match="cannot sign for DTLS"):
        context.load_cert_chain(identity.chain_pem, pem)


def test_what_is_refused_leaves_the_earlier_identity(identity: IssuedCertificate, context: Context) -> None:
    context.load_cert_chain(identity.private_key_and_chain_pem)
    before = context.identity
    with pytest.raises(SSLError):
        context.load_cert_chain(b"nothing", identity.key_pem)
    assert context.identity is before


def test_a_key_below_the_security_level_is_refused_when_it_is_used(
    ca: CertificateAuthority, context: Context
) -> None:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the subject
    certificate = certificate_for(ca, key)
    context.load_cert_chain(certificate, key)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.connection(0.0)
    with pytest.raises(SSLError, match=r"refuses the certificate.*too small"):
        context.set_ciphers("DEFAULT:@SECLEVEL=3")


# --- load_verify_locations -------------------------------------------------------------------------------------------


@pytest.fixture
def fresh() -> Context:
    return Context(PROTOCOL_DTLS_CLIENT)


def verifies(client: Context, server: Context) -> bool:
    pair = Pair(client, server)
    pair.run()
    return pair.established


def test_anchors_are_taken_in_any_form(
    fresh: Context, server: Context, ca: CertificateAuthority, tmp_path: Path
) -> None:
    other = CertificateAuthority("somebody else")
    pem, encoded = ca.certificate_pem, der(ca.certificate)
    both = [der(other.certificate), encoded]
    forms: list[dict[str, Any]] = [
        {"cafile": write(tmp_path, "ca.pem", pem)},
        {"cafile": str(write(tmp_path, "ca.pem", pem))},
        {"cafile": write(tmp_path, "ca.der", encoded)},
        {"cafile": write(tmp_path, "both.pem", other.certificate_pem + pem)},
        {"cadata": pem},
        {"cadata": pem.decode()},
        {"cadata": bytearray(pem)},
        {"cadata": encoded},
        {"cadata": b"".join(both)},
        {"cadata": other.certificate_pem, "cafile": write(tmp_path, "ca.pem", pem)},
    ]
    for form in forms:
        context = Context(PROTOCOL_DTLS_CLIENT)
        context.load_verify_locations(**form)
        assert encoded in context.trusted_certificates, form
        assert verifies(context, server), form
    assert not verifies(fresh, server)


def test_anchors_are_found_in_a_directory_by_hash(
    fresh: Context, server: Context, ca: CertificateAuthority, openssl: str, tmp_path: Path
) -> None:
    path = write(tmp_path, "ca.pem", ca.certificate_pem)
    fresh.load_verify_locations(capath=tmp_path)
    assert not verifies(fresh, server), "its name is no hash yet"
    command = [openssl, "x509", "-hash", "-noout", "-in", str(path)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    path.rename(tmp_path / f"{name}.0")
    assert verifies(fresh, server)
    assert fresh.get_ca_certs() == [], "as in the ssl module"
    assert fresh.trusted_directories == [str(tmp_path)]


def test_anchors_must_come_from_somewhere(fresh: Context) -> None:
    with pytest.raises(TypeError, match="cannot be all omitted"):
        fresh.load_verify_locations()


def test_anchors_that_are_not_there_are_an_os_error(fresh: Context, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fresh.load_verify_locations(tmp_path / "nowhere.pem")
    with pytest.raises(FileNotFoundError):
        fresh.load_verify_locations(capath=tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError):
        fresh.load_verify_locations(capath=write(tmp_path, "file", b""))


@pytest.mark.parametrize("data", ["", "nothing", b"", b"\x30\x03abc", b"-----BEGIN NOTHING-----"])
def test_data_without_a_certificate_is_refused(fresh: Context, data: str | bytes) -> None:
    with pytest.raises(SSLError):
        fresh.load_verify_locations(cadata=data)
    assert fresh.trusted_certificates == []


@pytest.mark.parametrize("data", ["ä", 5, ["x"]])
def test_data_of_another_kind_is_refused(fresh: Context, data: Any) -> None:
    with pytest.raises(TypeError, match="ASCII string or a bytes-like object"):
        fresh.load_verify_locations(cadata=data)


# --- the system's anchors --------------------------------------------------------------------------------------------


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_environment_names_the_systems_anchors(
    no_environment: pytest.MonkeyPatch,
    fresh: Context,
    server: Context,
    ca: CertificateAuthority,
    tmp_path: Path,
) -> None:
    no_environment.setenv("SSL_CERT_FILE", str(write(tmp_path, "ca.pem", ca.certificate_pem)))
    fresh.load_default_certs()
    assert fresh.trusted_certificates == [der(ca.certificate)]
    assert fresh.trusted_directories == []
    assert verifies(fresh, server)


def test_the_environment_names_a_directory(
    no_environment: pytest.MonkeyPatch, fresh: Context, tmp_path: Path
) -> None:
    no_environment.setenv("SSL_CERT_DIR", str(tmp_path))
    fresh.load_default_certs()
    assert fresh.trusted_certificates == []
    assert fresh.trusted_directories == [str(tmp_path)]


def test_an_environment_that_leads_nowhere_trusts_nobody(
    no_environment: pytest.MonkeyPatch, fresh: Context, tmp_path: Path
) -> None:
    no_environment.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere"))
    no_environment.setenv("SSL_CERT_DIR", str(tmp_path / "nowhere"))
    fresh.load_default_certs()
    assert fresh.trusted_certificates == []
    assert fresh.trusted_directories == []


def test_a_certificate_that_cannot_be_read_is_left_out_of_the_systems(
    no_environment: pytest.MonkeyPatch, fresh: Context, ca: CertificateAuthority, tmp_path: Path
) -> None:
    bad = b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n"
    no_environment.setenv("SSL_CERT_FILE", str(write(tmp_path, "ca.pem", bad + ca.certificate_pem)))
    fresh.load_default_certs()
    assert fresh.trusted_certificates == [der(ca.certificate)]


def test_a_system_without_known_paths_is_searched_where_systems_keep_them(
    no_environment: pytest.MonkeyPatch, fresh: Context, ca: CertificateAuthority, tmp_path: Path
) -> None:
    paths = type("Paths", (), {"cafile": None, "capath": None})
    no_environment.setattr("ssl.get_default_verify_paths", paths)
    bundle = write(tmp_path, "bundle.crt", ca.certificate_pem)
    no_environment.setattr(credentials, "SYSTEM_BUNDLES", (str(tmp_path / "nowhere"), str(bundle)))
    fresh.load_default_certs()
    assert fresh.trusted_certificates == [der(ca.certificate)]


def test_the_system_trusts_somebody_or_says_where_to_look(no_environment: pytest.MonkeyPatch) -> None:
    found = credentials.load_system_trust()
    assert all(Path(path).is_dir() for path in found.directories)
    assert (
        len(set(found.certificates)) > 10
        or found.directories
        or not any(Path(path).is_file() for path in credentials.SYSTEM_BUNDLES)
    )


def test_openssl_reads_no_certificate_whose_bytes_are_gone() -> None:
    """Under an allocator that overwrites what is freed, so that it does not depend on luck."""
    program = (
        "import dtls; from dtls.certificates import CertificateAuthority;"
        "issued = CertificateAuthority().intermediate().issue('localhost');"
        "context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH);"
        "context.load_cert_chain(issued.private_key_and_chain_pem); context.check()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
