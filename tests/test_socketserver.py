"""Servers used as socketserver.UDPServer is: the same hooks, the same handlers, and DTLS beneath."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls.endpoint import EndpointLimits
from dtls.sockets import create_connection
from dtls.socketserver import DTLSServer, ThreadingDTLSServer
from dtls.udp import Listener

from .loopback import HOSTS, PATIENCE, Worker, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dtls.context import Context
    from dtls.sockets import DTLSSocket

HERE = "127.0.0.1"


class Upper(socketserver.BaseRequestHandler):
    """The example of Python's documentation."""

    def handle(self) -> None:
        data = self.request[0].strip()
        sock = self.request[1]
        sock.sendto(data.upper(), self.client_address)


class UpperByStreams(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


@contextlib.contextmanager
def serving(server: DTLSServer) -> Iterator[Any]:
    """The server's address, while ``serve_forever`` runs."""
    with server:
        worker = Worker(server.serve_forever, 0.01)
        try:
            yield server.server_address
        finally:
            server.shutdown()
            worker.result()


def client_of(address: Any, client: Context) -> DTLSSocket:
    return create_connection(address[:2], PATIENCE, context=client, server_hostname="localhost")


def ask(sock: DTLSSocket, message: bytes) -> bytes:
    sock.send(message)
    return sock.recv()


@pytest.mark.parametrize("handler", [Upper, UpperByStreams])
@pytest.mark.parametrize("kind", [DTLSServer, ThreadingDTLSServer])
def test_handlers_for_udp_servers_serve_dtls(
    client: Context, server: Context, kind: Any, handler: Any
) -> None:
    with (
        serving(kind((HERE, 0), handler, context=server)) as address,
        client_of(address, client) as one,
        client_of(address, client) as other,
    ):
        for number in range(20):
            assert ask(one, b"one %d" % number) == b"ONE %d" % number
            assert ask(other, b"other %d" % number) == b"OTHER %d" % number


@pytest.mark.parametrize("host", HOSTS)
def test_both_address_families_are_served(client: Context, server: Context, host: str) -> None:
    class Server(DTLSServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with serving(Server((host, 0), Upper, context=server)) as address, client_of(address, client) as sock:
        assert ask(sock, b"hello") == b"HELLO"


def test_a_wildcard_socket_answers_from_the_address_that_was_asked(client: Context, server: Context) -> None:
    with (
        serving(DTLSServer(("", 0), Upper, context=server)) as address,
        client_of(("127.0.0.2", address[1]), client) as sock,
    ):
        assert ask(sock, b"hello") == b"HELLO"


def test_the_hooks_are_called_as_those_of_udp_servers(client: Context, server: Context) -> None:
    seen: list[str] = []

    class Server(DTLSServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            seen.append("verify")
            return bool(request[0] != b"no")

        def process_request(self, request: Any, client_address: Any) -> None:
            seen.append("process")
            super().process_request(request, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            seen.append("error")

    class Handler(Upper):
        def handle(self) -> None:
            if self.request[0] == b"fail":
                raise ArithmeticError
            super().handle()

    with serving(Server((HERE, 0), Handler, context=server)) as address, client_of(address, client) as sock:
        sock.send(b"no")
        sock.send(b"fail")
        assert ask(sock, b"yes") == b"YES"
    assert seen == ["verify", "verify", "process", "error", "verify", "process"]


def test_a_handler_that_says_nothing_sends_nothing(client: Context, server: Context) -> None:
    class Silent(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            if self.rfile.read() == b"speak":
                self.wfile.write(b"hello")

    with (
        serving(DTLSServer((HERE, 0), Silent, context=server)) as address,
        client_of(address, client) as sock,
    ):
        sock.send(b"say nothing")
        assert ask(sock, b"speak") == b"hello"


def test_threads_answer_while_others_wait(client: Context, server: Context) -> None:
    gate = threading.Event()

    class Handler(Upper):
        def handle(self) -> None:
            if self.request[0] == b"slow":
                assert gate.wait(PATIENCE)
            super().handle()

    with (
        serving(ThreadingDTLSServer((HERE, 0), Handler, context=server)) as address,
        client_of(address, client) as slow,
        client_of(address, client) as quick,
    ):
        slow.send(b"slow")
        assert ask(quick, b"quick") == b"QUICK"
        gate.set()
        assert slow.recv() == b"SLOW"


def test_many_threads_and_many_clients_at_once(client: Context, server: Context) -> None:
    def one(address: Any, number: int) -> None:
        with client_of(address, client) as sock:
            for turn in range(20):
                assert ask(sock, b"%d of %d" % (turn, number)) == b"%d OF %d" % (turn, number)

    with serving(ThreadingDTLSServer((HERE, 0), Upper, context=server)) as address:
        for worker in [Worker(one, address, number) for number in range(10)]:
            worker.result()


def test_handle_request_handles_one_message_and_no_handshake(client: Context, server: Context) -> None:
    with DTLSServer((HERE, 0), Upper, context=server) as listening:
        worker = Worker(client_of, listening.server_address, client)
        asked = Worker(lambda: ask(worker.result(), b"hello"))
        listening.handle_request()
        assert asked.result() == b"HELLO"
        worker.result().close()


def test_handle_request_gives_up_after_its_timeout(server: Context) -> None:
    timed_out: list[bool] = []

    class Server(DTLSServer):
        timeout = 0.02

        def handle_timeout(self) -> None:
            timed_out.append(True)

    with (
        Server((HERE, 0), Upper, context=server) as listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noisy,
    ):
        noisy.sendto(b"noise", listening.server_address)
        listening.handle_request()
    assert timed_out == [True]


def test_get_request_without_a_message_is_an_os_error(server: Context) -> None:
    with DTLSServer((HERE, 0), Upper, context=server) as listening, pytest.raises(BlockingIOError):
        listening.get_request()


def test_binding_may_wait(client: Context, server: Context) -> None:
    listening = DTLSServer((HERE, 0), Upper, bind_and_activate=False, context=server)
    listening.server_bind()
    listening.server_activate()
    with serving(listening) as address, client_of(address, client) as sock:
        assert ask(sock, b"hello") == b"HELLO"


def test_a_server_that_was_never_bound_can_be_closed(server: Context) -> None:
    DTLSServer((HERE, 0), Upper, bind_and_activate=False, context=server).server_close()


def test_a_port_that_is_taken_is_an_error(server: Context) -> None:
    with DTLSServer((HERE, 0), Upper, context=server) as listening, pytest.raises(OSError, match="in use"):
        DTLSServer(listening.server_address, Upper, context=server)


def test_closing_tells_every_peer(client: Context, server: Context) -> None:
    with serving(DTLSServer((HERE, 0), Upper, context=server)) as address:
        sock = client_of(address, client)
        assert ask(sock, b"hello") == b"HELLO"
    with sock:
        assert sock.recv() == b""


def test_who_has_gone_cannot_be_sent_to(client: Context, server: Context) -> None:
    listening = DTLSServer((HERE, 0), Upper, context=server)
    with serving(listening) as address:
        with client_of(address, client) as sock:
            own = sock.getsockname()
            assert ask(sock, b"hello") == b"HELLO"
            association = listening.association(own)
            assert association is not None
            assert association.connection.version() == "DTLSv1.2"
            with pytest.raises(dtls.MessageTooLarge):
                listening.send_message(bytes(5000), own)
            listening.send_message(b"unasked", own)
            assert sock.recv() == b"unasked"
        wait_for(lambda: listening.association(own) is None)
        with pytest.raises(dtls.SSLZeroReturnError, match="no association"):
            listening.send_message(b"hello", own)
    with pytest.raises(dtls.SSLError):
        listening.send_message(b"hello", own)


def test_idle_peers_are_forgotten(client: Context, server: Context) -> None:
    limits = EndpointLimits(idle_timeout=0.05)
    listening = DTLSServer((HERE, 0), Upper, context=server, limits=limits)
    with serving(listening) as address, client_of(address, client) as sock:
        assert sock.recv() == b""
        assert listening.statistics["associations_expired"] == 1


def test_a_full_send_buffer_is_waited_for(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = DTLSServer((HERE, 0), Upper, context=server)
    with serving(listening) as address, client_of(address, client) as sock:
        assert ask(sock, b"hello") == b"HELLO"
        listener: Any = listening._listener
        transmit, refusals = listener.transmit, [2]

        def reluctant(*arguments: Any) -> None:
            if refusals[0]:
                refusals[0] -= 1
                raise BlockingIOError
            transmit(*arguments)

        monkeypatch.setattr(listener, "transmit", reluctant)
        assert ask(sock, b"hello") == b"HELLO"
        assert refusals == [0]
        refusals[0] = 10**9
        monkeypatch.setattr("dtls.socketserver.SEND_PATIENCE", 0.02)
        with pytest.raises(dtls.SSLTimeoutError):
            listening.send_message(b"hello", sock.getsockname())


def test_strangers_and_noise_call_no_handler(client: Context, server: Context) -> None:
    called: list[bytes] = []

    class Handler(Upper):
        def handle(self) -> None:
            called.append(self.request[0])
            super().handle()

    with (
        serving(DTLSServer((HERE, 0), Handler, context=server)) as address,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        client_of(address, client) as sock,
    ):
        for noise in (b"", b"\x16", b"\x17\xfe\xfd" + bytes(50), bytes(1500)):
            stranger.sendto(noise, address)
        assert ask(sock, b"hello") == b"HELLO"
    assert called == [b"hello"]


def test_a_clients_context_is_refused(client: Context) -> None:
    with pytest.raises(ValueError, match="server"):
        DTLSServer((HERE, 0), Upper, context=client)


@pytest.mark.skipif(not hasattr(socketserver, "ForkingMixIn"), reason="this system does not fork")
def test_forking_is_refused(server: Context) -> None:
    """Two processes would encrypt different messages under one key and record number."""

    class Forking(socketserver.ForkingMixIn, DTLSServer):
        pass

    with pytest.raises(TypeError, match="fork"):
        Forking((HERE, 0), Upper, context=server)


def test_the_socket_of_a_request_tells_where_it_is(client: Context, server: Context) -> None:
    seen: list[Any] = []

    class Handler(Upper):
        def handle(self) -> None:
            seen.extend([self.request[1].getsockname(), self.request[1].fileno(), repr(self.request[1])])
            self.request[1].sendto(b"with flags", 0, self.client_address)

    listening = DTLSServer((HERE, 0), Handler, context=server)
    with serving(listening) as address, client_of(address, client) as sock:
        assert ask(sock, b"hello") == b"with flags"
        assert seen[:2] == [address, listening.fileno()]
        assert "DTLSServer" in seen[2]


def test_who_waits_for_room_when_the_server_closes_is_told(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DTLSServer((HERE, 0), Upper, context=server) as serving_one:
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                serving_one.timeout = 0.01
                serving_one.handle_request()

        worker = Worker(serve)
        with client_of(serving_one.server_address, client) as sock:
            assert ask(sock, b"hello") == b"HELLO"
            stop.set()
            worker.result()
            full = threading.Event()

            def transmit(*_: Any) -> None:
                full.set()
                raise BlockingIOError

            monkeypatch.setattr(Listener, "transmit", transmit)
            sending = Worker(serving_one.send_message, b"too late", sock.getsockname())
            assert full.wait(PATIENCE)
            serving_one.server_close()
            with pytest.raises(dtls.SSLZeroReturnError):
                sending.result()
