"""Servers and clients in event loops, and under ``socketserver``, against the ``openssl`` program."""

from __future__ import annotations

import asyncio
import socketserver
from typing import TYPE_CHECKING, Any

import pytest

from dtls.asyncio import connect
from dtls.socketserver import DTLSServer, ThreadingDTLSServer

from .aio import HERE, each_loop, echoing, run, until
from .loopback import PATIENCE, Worker
from .peers.programs import Program, assert_client_is_served

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.certificates import CertificateAuthority, IssuedCertificate
    from dtls.context import Context


@pytest.fixture
def files(tmp_path: Path, ca: CertificateAuthority, server_certificate: IssuedCertificate) -> dict[str, str]:
    (tmp_path / "ca.pem").write_bytes(ca.certificate_pem)
    (tmp_path / "server.pem").write_bytes(server_certificate.private_key_and_chain_pem)
    return {name: str(tmp_path / f"{name}.pem") for name in ("ca", "server")}


def client_program(openssl: str, files: dict[str, str], address: Any) -> Program:
    return Program(
        openssl, "s_client", "-dtls1_2", "-connect", f"{address[0]}:{address[1]}", "-quiet", "-no_ign_eof",
        "-CAfile", files["ca"], "-verify_return_error", "-verify_hostname", "localhost",
    )  # fmt: skip


@each_loop
def test_an_asyncio_server_serves_its_clients(
    openssl: str, files: dict[str, str], server: Context, loop_name: str
) -> None:
    async def main() -> None:
        async with echoing(server, shutdown_timeout=0) as running:
            for _ in range(2):
                with client_program(openssl, files, running.sockets[0].getsockname()) as program:
                    await asyncio.to_thread(assert_client_is_served, program)
                    await asyncio.to_thread(program.wait)  # its standard input has ended
                await until(lambda: not running.connections)

    run(main, loop_name)


@each_loop
@pytest.mark.parametrize("options", [[], ["-listen"]], ids=["", "listen"])
def test_an_asyncio_client_is_served_by_its_server(
    openssl: str, files: dict[str, str], client: Context, loop_name: str, options: list[str]
) -> None:
    async def main(program: Program, port: int) -> None:
        async with connect(
            HERE, port, context=client, server_hostname="localhost", timeout=PATIENCE
        ) as connection:
            await connection.send(b"hello from the client\n")
            await asyncio.to_thread(program.expect, "hello from the client")
            program.write("hello from the server")
            assert await connection.recv() == b"hello from the server\n"

    with Program(
        openssl, "s_server", "-dtls1_2", "-accept", f"{HERE}:0", "-cert", files["server"], "-key", files["server"],
        *options,
    ) as program:  # fmt: skip
        port = int(program.expect(r"ACCEPT .*:(\d+)\r?\n").group(1))
        run(lambda: main(program, port), loop_name)


@pytest.mark.parametrize("kind", [DTLSServer, ThreadingDTLSServer])
def test_a_socketserver_serves_its_clients(
    openssl: str, files: dict[str, str], server: Context, kind: type[DTLSServer]
) -> None:
    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            message, sock = self.request
            sock.sendto(message, self.client_address)

    with kind((HERE, 0), Echo, context=server) as listening:
        worker = Worker(listening.serve_forever, 0.05)
        try:
            with client_program(openssl, files, listening.server_address) as program:
                assert_client_is_served(program)
        finally:
            listening.shutdown()
            worker.result()
