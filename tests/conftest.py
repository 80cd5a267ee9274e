"""What several tests share. Certificates are made once, since an RSA key takes its time."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import hypothesis
import pytest

import dtls
from dtls.certificates import CertificateAuthority, IssuedCertificate
from dtls.context import PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        reason = "the openssl program is not on PATH"
        if os.environ.get("DTLS_REQUIRE_PEERS") == "1":
            pytest.fail(f"{reason}, and DTLS_REQUIRE_PEERS=1 asks for it")
        pytest.skip(reason)
    return path
