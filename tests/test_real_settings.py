"""Against the ``openssl`` program: what else a context can be told means to it what it means to us."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import dtls
from dtls.errors import SSLError

from .loopback import PATIENCE, EchoServer
from .programs import Program, assert_client_is_served, assert_server_talks

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = bytes(range(16))
IDENTITY = "sensor 1"


def connect(client: dtls.Context, address: tuple[str, int]) -> dtls.DTLSSocket:
    return dtls.create_connection(address, PATIENCE, context=client, server_hostname="localhost")


# --- pre-shared keys -------------------------------------------------------------------------------------------------


def program_client(openssl: str, address: tuple[str, int], *options: str) -> Program:
    return Program(
        openssl,
        "s_client",
        "-dtls1_2",
        "-connect",
        f"{address[0]}:{address[1]}",
        "-quiet",
        "-no_ign_eof",
        *options,
    )


@pytest.fixture
def psk_server(openssl: str) -> Iterator[tuple[Program, tuple[str, int]]]:
    with Program(
        openssl, "s_server", "-dtls1_2", "-accept", "127.0.0.1:0", "-nocert", "-psk", KEY.hex(),
        "-psk_identity", IDENTITY, "-psk_hint", "the hint", "-cipher", "PSK:@SECLEVEL=0",
    ) as program:  # fmt: skip
        port = int(program.expect(r"ACCEPT .*:(\d+)\r?\n").group(1))
        yield program, ("127.0.0.1", port)


@pytest.mark.parametrize("suite", [None, "PSK-AES128-GCM-SHA256", "PSK-AES128-CCM8"])
def test_its_server_and_we_have_a_key_in_common(
    psk_server: tuple[Program, tuple[str, int]], suite: str | None
) -> None:
    program, address = psk_server
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.set_psk(IDENTITY, KEY)
    if suite is not None:
        client.set_ciphers(suite)
    with connect(client, address) as sock:
        assert sock.psk_identity() == IDENTITY.encode()
        assert_server_talks(program, sock)


def test_its_server_gives_us_a_hint(psk_server: tuple[Program, tuple[str, int]]) -> None:
    program, address = psk_server
    hints: list[str | None] = []
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)

    def answer(hint: str | None) -> tuple[str, bytes]:
        hints.append(hint)
        return IDENTITY, KEY

    client.set_psk_client_callback(answer)
    with connect(client, address) as sock:
        assert_server_talks(program, sock)
    assert hints == ["the hint"]


def test_its_server_has_another_key(psk_server: tuple[Program, tuple[str, int]]) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.set_psk(IDENTITY, KEY[::-1])
    client.handshake_timeout = 2.0
    with pytest.raises(SSLError, match="same key"):
        connect(client, psk_server[1])


@pytest.mark.parametrize("suite", ["PSK", "PSK-AES128-CCM8:@SECLEVEL=0"])
def test_its_client_and_we_have_a_key_in_common(openssl: str, suite: str) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.set_psks({IDENTITY: KEY})
    if "CCM8" in suite:
        server.set_ciphers("PSK-AES128-CCM8")
    with (
        EchoServer(server) as echo,
        program_client(
            openssl, echo.address, "-psk", KEY.hex(), "-psk_identity", IDENTITY, "-cipher", suite
        ) as program,
    ):
        assert_client_is_served(program)
        assert echo.sockets[0].psk_identity() == IDENTITY.encode()


def test_its_client_is_told_that_we_do_not_know_it(openssl: str) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.set_psks({"sensor 2": KEY})
    with (
        EchoServer(server) as echo,
        program_client(
            openssl, echo.address, "-psk", KEY.hex(), "-psk_identity", IDENTITY, "-cipher", "PSK"
        ) as program,
    ):
        program.expect("alert unknown psk identity|alert number 115")
