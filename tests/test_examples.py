"""The examples run as they stand, each server against each client."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dtls

from .loopback import PATIENCE, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dtls.certificates import CertificateAuthority, IssuedCertificate

KEY = bytes(range(16))
EXAMPLES = Path(__file__).parent.parent / "examples"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
PAIRS = [
    ("asyncio_echo_server.py", "asyncio_echo_client.py"),
    ("datagram_protocol.py", "asyncio_echo_client.py"),
    ("threaded_server.py", "asyncio_echo_client.py"),
    ("psk_server.py", "psk_client.py"),
    ("mutual_server.py", "mutual_client.py"),
    pytest.param("workers_server.py", "asyncio_echo_client.py", marks=linux_only),
]


@pytest.fixture
def directory(
    tmp_path: Path,
    ca: CertificateAuthority,
    server_certificate: IssuedCertificate,
    client_certificate: IssuedCertificate,
) -> Path:
    """Where the examples find their certificates."""
    (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
    (tmp_path / "server.pem").write_bytes(server_certificate.chain_pem)
    (tmp_path / "server.key").write_bytes(server_certificate.key_pem)
    (tmp_path / "client.pem").write_bytes(client_certificate.chain_pem)
    (tmp_path / "client.key").write_bytes(client_certificate.key_pem)
    (tmp_path / "psk.key").write_bytes(KEY)
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


def output_of(name: str, directory: Path, port: str | int) -> str:
    """What a client prints."""
    done = subprocess.run(
        command(name, str(port)),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(("server_name", "client_name"), PAIRS)
def test_a_client_is_served_by_a_server_of_its_kind(
    directory: Path, server_name: str, client_name: str
) -> None:
    with running(server_name, directory) as port:
        printed = output_of(client_name, directory, port)
    assert "connected: DTLSv1.2" in printed
    assert ("PSK" in printed) is server_name.startswith("psk")
    assert "received: b'hello'" in printed


def test_a_server_for_mutual_authentication_refuses_who_has_no_certificate(directory: Path) -> None:
    with running("mutual_server.py", directory) as port:
        done = subprocess.run(
            command("asyncio_echo_client.py", port),
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode
    assert "received" not in done.stdout


def test_the_coap_server_answers_a_request_protected_by_ccm_8(directory: Path) -> None:
    context = dtls.create_default_context()
    context.set_psk("sensor 1", KEY)
    context.set_ciphers("PSK-AES128-CCM8")
    with (
        running("coap_server.py", directory) as port,
        dtls.create_connection(("localhost", int(port)), PATIENCE, context=context) as sock,
    ):
        cipher = sock.cipher()
        assert cipher is not None
        assert cipher[0] == "PSK-AES128-CCM8"
        for noise in (b"\x42", b"\x40\x02\0\0"):  # cut off; no GET
            sock.send(noise)
        sock.send(b"\x42\x01\x12\x34to\xb4temp")  # a confirmable GET of /temp with the token "to"
        assert sock.recv() == b"\x62\x45\x12\x34to\xff21.5 C"


def test_the_light_client_streams_frames_under_its_suite(directory: Path) -> None:
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.set_psks({"sensor 1": KEY})
    context.set_ciphers("PSK-AES128-GCM-SHA256")

    def receive_frames() -> list[bytes]:
        sock, _ = listening.accept()
        with sock:
            sock.settimeout(PATIENCE)
            return list(iter(sock.recv, b""))

    with dtls.create_server(("localhost", 0), context=context) as listening:
        listening.settimeout(PATIENCE)
        receiving = Worker(receive_frames)
        printed = output_of("hue_entertainment.py", directory, listening.getsockname()[1])
        frames = receiving.result()
    assert printed.splitlines() == ["connected: DTLSv1.2 PSK-AES128-GCM-SHA256", "streamed 25 frames"]
    assert [frame[11] for frame in frames] == list(range(25))
    assert {(frame[:9], len(frame)) for frame in frames} == {(b"HueStream", 16 + 36 + 7)}


def test_no_example_is_left_out() -> None:
    shown = {name for pair in PAIRS for name in getattr(pair, "values", pair)} | {
        "coap_server.py",
        "hue_entertainment.py",
    }
    assert {path.name for path in EXAMPLES.glob("*.py")} == shown
    listed = (EXAMPLES / "README.md").read_text()
    assert all(name in listed for name in shown)
