"""The ``openssl`` program, in either role."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dtls.sockets import create_connection
from tests.loopback import PATIENCE

from .programs import Program

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dtls
    from dtls.context import Context


@dataclass
class Files:
    """Certificates and keys as the program takes them."""

    ca: str
    server: str
    client: str
    long_chain: str
    long_chain_ca: str


class Peers:
    """Starts the program in either role."""

    def __init__(self, openssl: str, files: Files) -> None:
        self.openssl = openssl
        self.files = files

    def client(self, address: tuple[str, int], *options: str, ca: str = "") -> Program:
        host, port = address
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        version = [] if "-dtls1" in options else ["-dtls1_2"]
        return Program(
            self.openssl, "s_client", *version, "-connect", where, "-quiet", "-no_ign_eof",
            "-CAfile", ca or self.files.ca, "-verify_return_error", "-verify_hostname", "localhost", *options,
        )  # fmt: skip

    @contextlib.contextmanager
    def server(
        self, *options: str, certificate: str = "", host: str = "127.0.0.1"
    ) -> Iterator[tuple[Program, tuple[str, int]]]:
        path = certificate or self.files.server
        version = [] if "-dtls1" in options else ["-dtls1_2"]
        where = f"[{host}]:0" if ":" in host else f"{host}:0"
        with Program(
            self.openssl, "s_server", *version, "-accept", where,
            "-cert", path, "-key", path, "-cert_chain", path, *options,
        ) as program:  # fmt: skip
            port = int(program.expect(r"ACCEPT .*:(\d+)\r?\n").group(1))
            yield program, (host, port)


def connect(client: Context, address: tuple[str, int]) -> dtls.DTLSSocket:
    return create_connection(address, PATIENCE, context=client, server_hostname="localhost")
