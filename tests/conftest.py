"""What several tests share. Certificates are made once, since an RSA key takes its time."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import hypothesis
import pytest

import dtls
from dtls.certificates import CertificateAuthority, IssuedCertificate
from dtls.context import CERT_REQUIRED, PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context

from .peers.openssl import Files, Peers
from .peers.programs import missing
from .peers.stacks import STACKS, Credentials, PeerFiles, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A busy machine is not a failure; the time limit of each test guards against what never ends.
hypothesis.settings.register_profile("dtls", deadline=None)
hypothesis.settings.load_profile("dtls")


@pytest.fixture(scope="session")
def ca() -> CertificateAuthority:
    """The root that the tests trust."""
    return CertificateAuthority()


@pytest.fixture(scope="session")
def server_certificate(ca: CertificateAuthority) -> IssuedCertificate:
    """A certificate for this host under each of its names."""
    return ca.issue("localhost", "127.0.0.1", "::1")


@pytest.fixture(scope="session")
def client_certificate(ca: CertificateAuthority) -> IssuedCertificate:
    """A certificate for a client."""
    return ca.issue("a client", client=True)


@pytest.fixture
def mutual(
    client: Context, server: Context, client_certificate: IssuedCertificate
) -> tuple[Context, Context]:
    """A client and a server that both authenticate."""
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    server.load_verify_locations(cadata=client.trusted_certificates[0])
    server.verify_mode = CERT_REQUIRED
    return client, server


@pytest.fixture(scope="session")
def long_chain_ca() -> CertificateAuthority:
    return CertificateAuthority("a root", key_type="rsa")


@pytest.fixture(scope="session")
def lower_ca(long_chain_ca: CertificateAuthority) -> CertificateAuthority:
    """An authority two steps below the root, RSA as all above it."""
    return long_chain_ca.intermediate("upper", key_type="rsa").intermediate("lower", key_type="rsa")


@pytest.fixture(scope="session")
def long_chain(lower_ca: CertificateAuthority) -> IssuedCertificate:
    """A chain of three RSA certificates, which does not fit one datagram."""
    issued = lower_ca.issue("localhost", key_type="rsa")
    assert sum(len(entry.tbs_certificate_bytes) for entry in (issued.certificate, *issued.chain)) > 1500
    return issued


@pytest.fixture(scope="session")
def long_client_chain(lower_ca: CertificateAuthority) -> IssuedCertificate:
    """As :func:`long_chain`, for a client."""
    return lower_ca.issue("a client", key_type="rsa", client=True)


@pytest.fixture
def client(ca: CertificateAuthority) -> Context:
    """A client that trusts the root."""
    context = Context(PROTOCOL_DTLS_CLIENT)
    context.load_verify_locations(cadata=ca.certificate_pem)
    return context


@pytest.fixture
def server(server_certificate: IssuedCertificate) -> Context:
    """A server with a certificate."""
    context = Context(PROTOCOL_DTLS_SERVER)
    context.load_cert_chain(server_certificate.private_key_and_chain_pem)
    return context


@pytest.fixture(params=["osnet", "router"])
def demux(request: pytest.FixtureRequest) -> Iterator[str]:
    """How PyDTLS's listening sockets tell their peers apart: each test that asks for this is run with both."""
    if request.param == "router":
        dtls.force_routing_demux()
    yield request.param
    dtls.reset_default_demux()


@pytest.fixture(scope="session")
def openssl() -> str:
    """The path of the ``openssl`` program, a peer that somebody else wrote."""
    path = shutil.which("openssl")
    if path is None:
        missing("the openssl program is not on PATH")
    return path


@pytest.fixture(scope="session")
def peer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are compiled: one directory for the workers of a session."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "peers"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="session", params=STACKS)
def stack(request: pytest.FixtureRequest, peer_directory: Path) -> Stack:
    """Each of the stacks that others wrote."""
    return STACKS[request.param](peer_directory)


@pytest.fixture(scope="session")
def peer_files(
    tmp_path_factory: pytest.TempPathFactory,
    ca: CertificateAuthority,
    server_certificate: IssuedCertificate,
    client_certificate: IssuedCertificate,
    long_chain: IssuedCertificate,
    long_client_chain: IssuedCertificate,
    long_chain_ca: CertificateAuthority,
) -> PeerFiles:
    """The certificates above, for programs."""
    directory = tmp_path_factory.mktemp("certificates")

    def write(name: str, content: bytes) -> str:
        path = directory / name
        path.write_bytes(content)
        return str(path)

    def credentials(name: str, issued: IssuedCertificate) -> Credentials:
        return Credentials(write(f"{name}.pem", issued.chain_pem), write(f"{name}.key", issued.key_pem))

    return PeerFiles(
        ca=write("ca.pem", ca.certificate_pem),
        server=credentials("server", server_certificate),
        client=credentials("client", client_certificate),
        long_chain=credentials("long", long_chain),
        long_chain_ca=write("long_ca.pem", long_chain_ca.certificate_pem),
        long_client_chain=credentials("long_client", long_client_chain),
    )


@pytest.fixture(scope="session")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    ca: CertificateAuthority,
    server_certificate: IssuedCertificate,
    client_certificate: IssuedCertificate,
    long_chain: IssuedCertificate,
    long_chain_ca: CertificateAuthority,
) -> Files:
    directory: Path = tmp_path_factory.mktemp("certificates")

    def write(name: str, content: bytes) -> str:
        path = directory / name
        path.write_bytes(content)
        return str(path)

    return Files(
        ca=write("ca.pem", ca.certificate_pem),
        server=write("server.pem", server_certificate.private_key_and_chain_pem),
        client=write("client.pem", client_certificate.private_key_and_chain_pem),
        long_chain=write("long.pem", long_chain.private_key_and_chain_pem),
        long_chain_ca=write("long_ca.pem", long_chain_ca.certificate_pem),
    )


@pytest.fixture(scope="session")
def peers(openssl: str, files: Files) -> Peers:
    return Peers(openssl, files)
