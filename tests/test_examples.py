"""The examples run as they stand, each server against each client."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .loopback import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dtls.certificates import CertificateAuthority, IssuedCertificate

EXAMPLES = Path(__file__).parent.parent / "examples"
SERVERS = ["asyncio_echo_server.py", "datagram_protocol.py", "threaded_server.py"]
CLIENTS = ["asyncio_echo_client.py"]


@pytest.fixture
def directory(tmp_path: Path, ca: CertificateAuthority, server_certificate: IssuedCertificate) -> Path:
    """Where the examples find their certificates."""
    (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
    (tmp_path / "server.pem").write_bytes(server_certificate.chain_pem)
    (tmp_path / "server.key").write_bytes(server_certificate.key_pem)
    return tmp_path


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]


@contextlib.contextmanager
def running(name: str, directory: Path) -> Iterator[str]:
    """The port of a server, which is interrupted at the end as by Ctrl-C."""
    process = subprocess.Popen(
        command(name, "0"), cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on port "), process.communicate(timeout=PATIENCE)
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "Warning" not in errors
    assert "never" not in errors


@pytest.mark.parametrize("server_name", SERVERS)
@pytest.mark.parametrize("client_name", CLIENTS)
def test_each_client_is_served_by_each_server(directory: Path, server_name: str, client_name: str) -> None:
    with running(server_name, directory) as port:
        done = subprocess.run(
            command(client_name, port),
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert "connected: DTLSv1.2" in done.stdout
    assert "received: b'hello'" in done.stdout


def test_no_example_is_left_out() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(SERVERS + CLIENTS)
    listed = (EXAMPLES / "README.md").read_text()
    assert all(name in listed for name in SERVERS + CLIENTS)
