"""Against the ``openssl`` program: that somebody else's DTLS reads the RFC as we do, on good networks and bad."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import socketserver
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import dtls
import dtls.asyncio
from dtls import SSLCertVerificationError, SSLError
from dtls.certificates import CertificateAuthority
from dtls.sockets import create_connection
from dtls.socketserver import DTLSServer, ThreadingDTLSServer

from .aio import each_loop, echoing, run, until
from .loopback import HOSTS, PATIENCE, EchoServer, Worker, relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Self

    from dtls.certificates import IssuedCertificate
    from dtls.context import Context

EVERYTHING = "ALL:@SECLEVEL=0"


class Program:
    """A running ``openssl s_client`` or ``s_server``, its standard streams at hand."""

    def __init__(self, *arguments: str) -> None:
        self.output = b""
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def write(self, text: str) -> None:
        """A line on its standard input, which it sends as a message."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def expect(self, pattern: str, timeout: float = PATIENCE) -> re.Match[bytes]:
        """Wait for what is to appear on its standard output."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern.encode(), self.output)):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} within {timeout:g} s, but {self.output!r}"
            more = os.read(descriptor, 65536)
            assert more, f"ended without {pattern!r}, but with {self.output!r}"
            self.output += more
        return found

    def wait(self) -> int:
        """Let it go on to its end by itself; its exit status."""
        self.output += self._process.communicate(timeout=PATIENCE)[0]
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate(timeout=PATIENCE)


@dataclass
class Files:
    """Certificates and keys as the program takes them."""

    ca: str
    server: str
    client: str
    long_chain: str
    long_chain_ca: str


@pytest.fixture(scope="module")
def long_chain_ca() -> CertificateAuthority:
    return CertificateAuthority("a root", key_type="rsa")


@pytest.fixture(scope="module")
def long_chain(long_chain_ca: CertificateAuthority) -> IssuedCertificate:
    """A chain of three RSA certificates, which does not fit one datagram."""
    middle = long_chain_ca.intermediate("upper", key_type="rsa").intermediate("lower", key_type="rsa")
    issued = middle.issue("localhost", key_type="rsa")
    assert sum(len(entry.tbs_certificate_bytes) for entry in (issued.certificate, *issued.chain)) > 1500
    return issued


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def peers(openssl: str, files: Files) -> Peers:
    return Peers(openssl, files)


def assert_client_is_served(program: Program) -> None:
    """The program's messages come back to it."""
    for text in ("hello", "and again"):
        program.write(text)
        program.expect(text)


def assert_server_talks(program: Program, sock: dtls.DTLSSocket) -> None:
    """Messages go to the program and come from it."""
    sock.send(b"hello from the client\n")
    program.expect("hello from the client")
    program.write("hello from the server")
    assert sock.recv() == b"hello from the server\n"


def connect(client: Context, address: tuple[str, int]) -> dtls.DTLSSocket:
    return create_connection(address, PATIENCE, context=client, server_hostname="localhost")


# --- its client, our server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("options", [[], ["-mtu", "512"]], ids=["", "mtu 512"])
def test_its_client_is_served(peers: Peers, server: Context, host: str, options: list[str]) -> None:
    with EchoServer(server, host) as echo, peers.client(echo.address, *options) as program:
        assert_client_is_served(program)


def test_several_of_its_clients_are_served_at_once(peers: Peers, server: Context) -> None:
    with EchoServer(server) as echo, contextlib.ExitStack() as stack:
        programs = [stack.enter_context(peers.client(echo.address)) for _ in range(8)]
        for number, program in enumerate(programs):
            program.write(f"I am number {number}.")
        for number, program in enumerate(programs):
            program.expect(f"I am number {number}[.]")


@pytest.mark.parametrize("mtu", [256, 512, 1350])
def test_its_client_takes_a_chain_longer_than_a_datagram(
    peers: Peers, long_chain: IssuedCertificate, mtu: int
) -> None:
    server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
    server.load_cert_chain(long_chain.private_key_and_chain_pem)
    server.mtu = mtu
    with (
        EchoServer(server) as echo,
        peers.client(echo.address, ca=peers.files.long_chain_ca) as program,
    ):
        assert_client_is_served(program)


def test_its_client_may_speak_dtls_1_0(peers: Peers, server: Context) -> None:
    server.minimum_version = dtls.DTLSVersion.DTLSv1
    server.set_ciphers(EVERYTHING)
    with EchoServer(server) as echo, peers.client(echo.address, "-dtls1", "-cipher", EVERYTHING) as program:
        assert_client_is_served(program)
        assert echo.sockets[0].version() == "DTLSv1"


def test_its_client_shows_its_certificate(peers: Peers, server: Context, ca: CertificateAuthority) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    path = peers.files.client
    with EchoServer(server) as echo, peers.client(echo.address, "-cert", path, "-key", path) as program:
        assert_client_is_served(program)
        assert echo.sockets[0].getpeercert()["subject"] == ((("commonName", "a client"),),)


def test_its_client_without_a_certificate_is_told_so(
    peers: Peers, server: Context, ca: CertificateAuthority
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED
    with EchoServer(server) as echo, peers.client(echo.address) as program:
        program.expect("alert")
        assert echo.sockets == []


def test_close_notify_ends_its_client_and_its_end_ends_ours(peers: Peers, server: Context) -> None:
    with EchoServer(server) as echo:
        with peers.client(echo.address) as program:
            assert_client_is_served(program)
            echo.sockets[0].close()
            program.wait()
        with peers.client(echo.address) as program:
            assert_client_is_served(program)
            program.wait()  # its standard input has ended
            assert echo.workers[1].result() is True


# --- our client, its server ------------------------------------------------------------------------------------------

# Without -mtu it takes the path for one of 256 bytes, and sends fragments of 228.
SERVERS = {"": [], "mtu 512": ["-mtu", "512"], "mtu 1300": ["-mtu", "1300"], "listen": ["-listen"]}


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS.keys())
def test_its_server_serves_us(peers: Peers, client: Context, options: list[str]) -> None:
    with peers.server(*options) as (program, address), connect(client, address) as sock:
        assert sock.version() == "DTLSv1.2"
        assert_server_talks(program, sock)


@pytest.mark.parametrize("host", HOSTS[1:])
def test_its_server_serves_us_over_ipv6(peers: Peers, client: Context, host: str) -> None:
    with peers.server(host=host) as (program, address), connect(client, address) as sock:
        assert_server_talks(program, sock)


@pytest.mark.parametrize("options", SERVERS.values(), ids=SERVERS.keys())
def test_we_take_a_chain_longer_than_a_datagram(
    peers: Peers, long_chain_ca: CertificateAuthority, options: list[str]
) -> None:
    client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
    client.load_verify_locations(cadata=long_chain_ca.certificate_pem)
    with (
        peers.server(*options, certificate=peers.files.long_chain) as (program, address),
        connect(client, address) as sock,
    ):
        assert len(sock.get_verified_chain()) == 4
        assert len(sock.get_unverified_chain()) >= 3
        assert_server_talks(program, sock)


def test_its_server_may_speak_dtls_1_0(peers: Peers, client: Context) -> None:
    client.minimum_version = client.maximum_version = dtls.DTLSVersion.DTLSv1
    client.set_ciphers(EVERYTHING)
    with (
        peers.server("-dtls1", "-cipher", EVERYTHING) as (program, address),
        connect(client, address) as sock,
    ):
        assert sock.version() == "DTLSv1"
        assert_server_talks(program, sock)


def test_we_show_our_certificate(
    peers: Peers, client: Context, client_certificate: IssuedCertificate
) -> None:
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    options = ("-Verify", "1", "-verify_return_error", "-CAfile", peers.files.ca)
    with peers.server(*options) as (program, address), connect(client, address) as sock:
        program.expect("CN *= *a client")
        assert_server_talks(program, sock)


def test_we_are_told_that_a_certificate_is_wanted(peers: Peers, client: Context) -> None:
    client.initial_retransmission_timeout = 0.2
    options = ("-Verify", "1", "-verify_return_error", "-CAfile", peers.files.ca)
    with peers.server(*options) as (_, address), pytest.raises(SSLError) as caught:
        connect(client, address)
    assert "HANDSHAKE_FAILURE" in caught.value.reason or "CERTIFICATE" in caught.value.reason


def test_its_server_with_another_name_is_refused(peers: Peers, client: Context) -> None:
    with peers.server() as (_, address), pytest.raises(SSLCertVerificationError, match="elsewhere"):
        create_connection(address, PATIENCE, context=client, server_hostname="elsewhere.example")


def test_it_answers_our_close_notify(peers: Peers, client: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtls.sockets.SHUTDOWN_PATIENCE", PATIENCE)
    with peers.server() as (program, address), connect(client, address) as sock:
        assert_server_talks(program, sock)
        driver = sock._driver
        assert driver is not None
        sock.unwrap().close()
        assert driver.connection.state is dtls.ConnectionState.CLOSED


# --- a network that loses --------------------------------------------------------------------------------------------


def handshake_only(tap: Any) -> Any:
    """Count and lose datagrams of the handshake only: what carries messages nobody repeats."""
    counts = {"client": 0, "server": 0}

    def selecting(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if datagram[0] == 23:
            return [datagram]
        number = counts[sender]
        counts[sender] += 1
        result: list[bytes] = tap(sender, number, datagram)
        return result

    return selecting


def recorded(talk: Callable[[Any], None]) -> dict[str, int]:
    """How many datagrams each side sends when nothing is lost."""
    counts = {"client": 0, "server": 0}

    def count(sender: str, index: int, datagram: bytes) -> list[bytes]:
        counts[sender] = index + 1
        return [datagram]

    talk(count)
    return counts


def lose_each(talk: Callable[[Any], None]) -> None:
    """Run ``talk`` once for every datagram of a handshake, with that one lost, all at the same time."""
    counts = recorded(talk)
    assert min(counts.values()) >= 3
    workers = {}
    for sender, count in counts.items():
        for lost in range(count):

            def lose(who: str, index: int, datagram: bytes, key: Any = (sender, lost)) -> list[bytes]:
                return [] if (who, index) == key else [datagram]

            workers[sender, lost] = Worker(talk, lose)
    failures = {}
    for key, worker in workers.items():
        try:
            worker.result()
        except (AssertionError, OSError) as error:
            failures[key] = error
    assert not failures, (counts, failures)


def test_its_client_gets_through_whichever_datagram_is_lost(peers: Peers, server: Context) -> None:
    def talk(tap: Any) -> None:
        with (
            EchoServer(server) as echo,
            relay(echo.address, handshake_only(tap)) as address,
            peers.client(address) as program,
        ):
            assert_client_is_served(program)

    lose_each(talk)


def test_we_get_through_to_its_server_whichever_datagram_is_lost(peers: Peers, client: Context) -> None:
    def talk(tap: Any) -> None:
        with (
            peers.server("-mtu", "1300") as (program, server),
            relay(server, handshake_only(tap)) as address,
            connect(client, address) as sock,
        ):
            assert_server_talks(program, sock)

    lose_each(talk)


def test_we_get_through_to_its_listening_server_whichever_datagram_is_lost(
    peers: Peers, client: Context
) -> None:
    def talk(tap: Any) -> None:
        with (
            peers.server("-listen", "-mtu", "1300") as (program, server),
            relay(server, handshake_only(tap)) as address,
            connect(client, address) as sock,
        ):
            assert_server_talks(program, sock)

    lose_each(talk)


def test_our_finished_is_repeated_under_a_new_record_number(peers: Peers, client: Context) -> None:
    """OpenSSL drops a record number that it has seen: its last flight, if lost, would never be asked for again."""
    finished: list[bytes] = []
    lost: list[bytes] = []

    def tap(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender == "client" and (at := datagram.find(b"\x16\xfe\xfd\x00\x01")) >= 0:
            finished.append(datagram[at + 5 : at + 11])
        # Its last flight begins with a NewSessionTicket or the ChangeCipherSpec.
        if sender == "server" and finished and not lost:
            lost.append(datagram)
            return []
        return [datagram]

    with (
        peers.server("-mtu", "1300") as (program, server),
        relay(server, tap) as address,
        connect(client, address) as sock,
    ):
        assert_server_talks(program, sock)
    assert lost
    assert len(finished) >= 2
    assert len(set(finished)) >= 2


# --- in event loops --------------------------------------------------------------------------------------------------


@each_loop
def test_an_asyncio_server_serves_its_clients(peers: Peers, server: Context, loop_name: str) -> None:
    async def main() -> None:
        async with echoing(server, shutdown_timeout=0) as running:
            address = running.sockets[0].getsockname()
            for _ in range(2):
                with peers.client(address) as program:
                    await asyncio.to_thread(assert_client_is_served, program)
                    await asyncio.to_thread(program.wait)  # its standard input has ended
                await until(lambda: not running.connections)

    run(main, loop_name)


@each_loop
@pytest.mark.parametrize("options", [[], ["-listen"]], ids=["", "listen"])
def test_an_asyncio_client_is_served_by_its_server(
    peers: Peers, client: Context, loop_name: str, options: list[str]
) -> None:
    async def main(program: Program, address: tuple[str, int]) -> None:
        async with dtls.asyncio.connect(
            *address, context=client, server_hostname="localhost", timeout=PATIENCE
        ) as connection:
            await connection.send(b"hello from the client\n")
            await asyncio.to_thread(program.expect, "hello from the client")
            program.write("hello from the server")
            assert await connection.recv() == b"hello from the server\n"

    with peers.server(*options) as (program, address):
        run(lambda: main(program, address), loop_name)


@pytest.mark.parametrize("kind", [DTLSServer, ThreadingDTLSServer])
def test_a_socketserver_serves_its_clients(peers: Peers, server: Context, kind: type[DTLSServer]) -> None:
    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            message, sock = self.request
            sock.sendto(message, self.client_address)

    with kind(("127.0.0.1", 0), Echo, context=server) as listening:
        worker = Worker(listening.serve_forever, 0.05)
        try:
            with peers.client(listening.socket.getsockname()) as program:
                assert_client_is_served(program)
        finally:
            listening.shutdown()
            worker.result()
