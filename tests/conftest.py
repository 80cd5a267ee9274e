"""What several tests share. Certificates are made once, since an RSA key takes its time."""

from __future__ import annotations

import os
import shutil

import hypothesis
import pytest

from dtls.certificates import CertificateAuthority, IssuedCertificate

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
def openssl() -> str:
    """The path of the ``openssl`` program, a peer that somebody else wrote."""
    path = shutil.which("openssl")
    if path is None:
        reason = "the openssl program is not on PATH"
        if os.environ.get("DTLS_REQUIRE_PEERS") == "1":
            pytest.fail(f"{reason}, and DTLS_REQUIRE_PEERS=1 asks for it")
        pytest.skip(reason)
    return path
