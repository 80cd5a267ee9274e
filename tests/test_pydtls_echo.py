"""What the echo server of PyDTLS prints and does, run as people run it."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest

from dtls import err
from dtls.sslconnection import PROTOCOL_DTLS, PROTOCOL_DTLSv1, SSLConnection
from dtls.test import echo_seq
from tests.loopback import HOSTS
from tests.pydtls import Program, raised, udp

if TYPE_CHECKING:
    from collections.abc import Iterator


def echo_server(*arguments: str, host: str = "127.0.0.1") -> Program:
    return Program.python("-m", "dtls.test.echo_seq", "--host", host, "--port", "0", *arguments)


def address_of(server: Program) -> tuple[str, int]:
    printed = server.wait_for("\n")
    host, _, port = printed.partition("Listening on ")[2].partition("\n")[0].rpartition(":")
    return host.strip("[]"), int(port)


@pytest.fixture
def server() -> Iterator[Program]:
    with echo_server() as program:
        yield program


def converse(address: tuple[str, int], *messages: bytes, ssl_version: int = PROTOCOL_DTLS) -> list[bytes]:
    with udp(address[0]) as sock:
        client = SSLConnection(sock, ssl_version=ssl_version)
        client.connect(address)
        answers = []
        for message in messages:
            client.write(message)
            answers.append(client.read(20000))
        assert client.shutdown() is sock
        return answers


@pytest.mark.parametrize("host", HOSTS)
def test_messages_come_back(host: str) -> None:
    with echo_server("--count", "1", host=host) as server:
        address = address_of(server)
        assert address[0] == host
        assert converse(address, b"one", b"two") == [b"Back to you: one", b"Back to you: two"]
        assert server.end() == 0
        for line in (
            "Cookies exchanged with",
            "Handshake complete: ECDHE-RSA-",
            "Received 3 bytes: one",
            "Done with",
        ):
            assert line in server.seen


def test_clients_are_served_one_after_the_other_old_ones_too(server: Program) -> None:
    address = address_of(server)
    for version in (PROTOCOL_DTLS, PROTOCOL_DTLSv1):
        assert converse(address, b"hi", ssl_version=version) == [b"Back to you: hi"]


def test_the_longest_message_and_one_that_is_no_text_come_back(server: Program) -> None:
    address = address_of(server)
    longest = b"\xff" * 16384
    (answer,) = converse(address, longest)
    assert answer == (b"Back to you: " + longest)[:16384]


def test_bad_clients_do_not_end_it(server: Program) -> None:
    address = address_of(server)
    with udp() as stranger:
        stranger.sendto(b"no DTLS", address)
    with udp() as sock:
        picky = SSLConnection(sock, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
        assert raised(picky.connect, address).args[0] == err.SSL_ERROR_SSL
    server.wait_for("Lost 127.0.0.1")
    with udp() as sock:
        gone = SSLConnection(sock)
        gone.connect(address)
        gone.write(b"and away")
        assert gone.read()
    # Nothing tells the server of this one, so that it finds out by itself when it next waits or sends.
    server.wait_for("and away")
    with udp() as sock:
        sock.connect(address)
        SSLConnection(sock, do_handshake_on_connect=False)  # a ClientHello, and no more
    server.wait_for("Waiting for a message")


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """A job in the background ignores SIGINT, and what it starts inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_when_told_to(number: signal.Signals) -> None:
    with echo_server() as server:
        address = address_of(server)
        server.signal(number)
        assert server.end() == 0
        assert server.seen.endswith("Stopped\n")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(address)


def test_it_says_goodbye_to_its_client_when_it_is_stopped(server: Program) -> None:
    address = address_of(server)
    with udp() as sock:
        client = SSLConnection(sock)
        client.connect(address)
        client.write(b"hi")
        client.read()
        server.signal(signal.SIGTERM)
        assert raised(client.read).args[0] == err.SSL_ERROR_ZERO_RETURN
        assert server.end() == 0


def test_openssl_talks_to_it(server: Program, openssl: str) -> None:
    host, port = address_of(server)
    arguments = [openssl, "s_client", "-dtls1_2", "-quiet", "-connect", f"{host}:{port}"]
    with Program(arguments) as client:
        client.say("hello from elsewhere\n")
        client.wait_for("Back to you: hello from elsewhere")
    assert "Received 21 bytes: hello from elsewhere" in server.seen or server.wait_for("Received 21 bytes")


def test_port_28000_is_where_it_is_found() -> None:
    assert echo_seq.DEFAULT_PORT == 28000
    with Program.python("-m", "dtls.test.echo_seq", "-h") as program:
        assert program.end() == 0
        assert "(default: 28000)" in program.seen
        assert "(default: 127.0.0.1)" in program.seen
