"""Clients and servers in event loops: messages, what was negotiated, addresses, and misuse."""

from __future__ import annotations

import asyncio
import inspect
import math
import socket
from typing import TYPE_CHECKING, Any

import pytest

import dtls
import dtls.asyncio
from dtls.asyncio import Server, connect, create_dtls_endpoint, serve
from dtls.endpoint import EndpointLimits
from dtls.engines.openssl.binding import lib

from .aio import HERE, PATIENCE, Handler, client_of, each_loop, echo, echoing, port_of, run, until
from .loopback import HOSTS, needs_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.certificates import IssuedCertificate
    from dtls.context import Context

# --- messages --------------------------------------------------------------------------------------------------------


@each_loop
@pytest.mark.parametrize("host", HOSTS)
def test_messages_go_both_ways(client: Context, server: Context, loop_name: str, host: str) -> None:
    async def main() -> None:
        async with (
            serve(echo, host, 0, context=server) as running,
            connect(host, port_of(running), context=client, timeout=PATIENCE) as connection,
        ):
            for number in range(200):
                await connection.send(b"message %d" % number)
                assert await connection.recv() == b"message %d" % number
            assert connection.get_extra_info("peername")[:2] == running.sockets[0].getsockname()[:2]
            (far,) = running.connections
            assert far.get_extra_info("peername") == connection.get_extra_info("sockname")
            assert far.get_extra_info("sockname")[:2] == connection.get_extra_info("peername")[:2]
        assert running.sockets == ()
        assert connection.is_closing()

    run(main, loop_name)


@each_loop
def test_connect_and_serve_can_be_awaited(client: Context, server: Context, loop_name: str) -> None:
    async def main() -> None:
        running = await echoing(server)
        assert running.is_serving()
        assert running.get_loop() is asyncio.get_running_loop()
        connection = await client_of(running, client)
        await connection.send(b"hello")
        assert await connection.recv() == b"hello"
        await connection.close()
        await connection.wait_closed()
        running.close()
        assert not running.is_serving()
        await running.wait_closed()

    run(main, loop_name)


@each_loop
def test_a_burst_comes_through_in_order_whether_or_not_it_is_waited_for(
    client: Context, server: Context, loop_name: str
) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            for _ in range(4):
                for number in range(40):
                    await connection.send(bytes([number]))
                assert [await connection.recv() for _ in range(40)] == [bytes([n]) for n in range(40)]

    run(main, loop_name)


@each_loop
def test_a_hundred_clients_do_not_hear_each_other(client: Context, server: Context, loop_name: str) -> None:
    async def one(running: Server, number: int) -> None:
        async with client_of(running, client) as connection:
            for turn in range(5):
                message = b"%d of client %d" % (turn, number)
                await connection.send(message)
                assert await connection.recv() == message

    async def main() -> None:
        async with echoing(server) as running:
            await asyncio.gather(*(one(running, number) for number in range(100)))
            assert running.statistics["handshakes_completed"] == 100

    run(main, loop_name)


def test_what_cannot_be_sent_is_refused_and_harms_nothing(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            limit = connection.max_message_size
            with pytest.raises(dtls.MessageTooLarge) as caught:
                await connection.send(bytes(limit + 1))
            assert caught.value.limit == limit
            with pytest.raises(ValueError, match="empty"):
                await connection.send(b"")
            with pytest.raises(TypeError):
                await connection.send("text")
            await connection.send(memoryview(bytearray(limit)))
            assert await connection.recv() == bytes(limit)

    run(main)


def test_what_was_negotiated_can_be_had(
    client: Context, server: Context, client_certificate: IssuedCertificate, ca: Any
) -> None:
    client.set_alpn_protocols(["coap"])
    server.set_alpn_protocols(["coap"])
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = dtls.CERT_REQUIRED

    async def main() -> None:
        handler = Handler()
        async with (
            serve(handler, HERE, 0, context=server, shutdown_timeout=0) as running,
            client_of(running, client) as near,
        ):
            far = await handler.first()
            assert (near.server_side, far.server_side) == (False, True)
            for end in (near, far):
                assert end.version() == "DTLSv1.2"
                assert end.cipher() == end.get_extra_info("cipher")
                assert end.selected_alpn_protocol() == "coap"
                assert end.get_extra_info("ssl_object") is end
                assert end.get_extra_info("compression") is None
                assert end.get_extra_info("nothing", "default") == "default"
                assert end.max_message_size > 1000
                assert end.getpeercert(True) == end.get_unverified_chain()[0] == end.get_verified_chain()[0]
            assert near.get_extra_info("sslcontext") is client
            assert near.getpeercert() == near.get_extra_info("peercert")
            assert far.getpeercert()["subject"] == ((("commonName", "a client"),),)
            assert "127.0.0.1" in repr(near)

    run(main)


@pytest.mark.skipif(not hasattr(lib, "i2d_SSL_SESSION"), reason="cryptography before 44 gives no session")
def test_a_session_is_resumed_and_keys_can_be_exported(client: Context, server: Context) -> None:
    server.session_tickets = True

    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server, shutdown_timeout=0) as running:
            async with client_of(running, client) as near:
                assert not near.session_reused
                session = near.session
                far = await handler.first()
                exported = [end.export_keying_material("EXPERIMENTAL", 32) for end in (near, far)]
                assert exported[0] == exported[1]
                assert near.get_channel_binding() == far.get_channel_binding() is not None
                assert near.server_hostname == far.server_hostname == "localhost"
                assert (near.context, far.context) == (client, server)
                assert near.psk_identity() is near.selected_srtp_profile() is None
            async with client_of(running, client, session=session) as near:
                assert near.session_reused
            transport, _ = await create_dtls_endpoint(
                asyncio.DatagramProtocol,
                remote_addr=running.sockets[0].getsockname(),
                context=client,
                server_hostname="localhost",
                session=session,
            )
            assert transport.get_extra_info("ssl_object").session_reused
            transport.abort()

    run(main)


# --- the queue -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (EndpointLimits(queued_messages=3), 3),
        (EndpointLimits(queued_bytes=1000), 2),
        (EndpointLimits(queued_bytes=1), 1),
    ],
    ids=["messages", "bytes", "one in any case"],
)
def test_the_newest_messages_are_dropped_when_nobody_reads(
    client: Context, server: Context, limits: EndpointLimits, kept: int
) -> None:
    async def main() -> None:
        handler = Handler()
        async with (
            serve(handler, HERE, 0, context=server, limits=limits, shutdown_timeout=0) as running,
            client_of(running, client) as near,
        ):
            far = await handler.first()
            for number in range(10):
                await near.send(bytes([number]) * 400)
            await until(lambda: far.statistics["dropped_queue_full"] == 10 - kept)
            assert running.statistics["dropped_queue_full"] == 10 - kept
            for number in range(kept):
                assert await far.recv() == bytes([number]) * 400
            for number in range(kept):
                await near.send(bytes([number]) * 400)
            await until(lambda: len(far._messages) == kept)  # there is room again for as many

    run(main)


def test_a_sender_without_pause_leaves_the_loop_to_others(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            heard = asyncio.ensure_future(connection.recv())
            for _ in range(100_000):
                await connection.send(b"hello")
                if heard.done():
                    break
            else:
                pytest.fail("nobody else had a turn")
            assert await heard == b"hello"

    run(main)


# --- who is there ----------------------------------------------------------------------------------------------------


def test_each_address_of_a_name_is_tried_in_turn(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind((HERE, 0))
                addresses = [silent.getsockname(), running.sockets[0].getsockname()]
                _resolve_to(monkeypatch, addresses)
                async with connect("localhost", 1, context=client, timeout=1) as connection:
                    await connection.send(b"hello")
                    assert await connection.recv() == b"hello"

    run(main)


def _resolve_to(monkeypatch: pytest.MonkeyPatch, addresses: list[Any]) -> None:
    found = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", address) for address in addresses]

    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return found

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


def test_the_error_that_tells_most_is_raised_and_has_the_others_as_notes(
    server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = dtls.create_default_context(cadata=_another_root())

    async def main() -> None:
        async with echoing(server) as running:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind((HERE, 0))
                _resolve_to(monkeypatch, [running.sockets[0].getsockname(), silent.getsockname()])
                with pytest.raises(dtls.SSLCertVerificationError) as caught:
                    await connect("localhost", 1, context=stranger, timeout=1)
        notes = getattr(caught.value, "__notes__", None)
        assert notes is None or "did not complete" in notes[0]

    run(main)


def _another_root() -> bytes:
    from dtls.certificates import CertificateAuthority  # noqa: PLC0415 - one test needs another root

    return CertificateAuthority().certificate_pem


def test_a_port_where_nobody_listens_is_told_from_silence(client: Context) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HERE, 0))
        port = silent.getsockname()[1]

        async def main() -> None:
            with pytest.raises(dtls.HandshakeTimeout, match="did not complete"):
                await connect(HERE, port, context=client, timeout=0.05)
            silent.close()
            client.initial_retransmission_timeout = 0.05
            with pytest.raises(dtls.PeerUnreachable):
                await connect(HERE, port, context=client, timeout=PATIENCE)

        run(main)


def test_the_contexts_own_deadline_counts_too(client: Context) -> None:
    client.handshake_timeout = 0.05
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HERE, 0))

        async def main() -> None:
            for timeout in (None, PATIENCE):
                with pytest.raises(dtls.HandshakeTimeout):
                    await connect(*silent.getsockname(), context=client, timeout=timeout)

        run(main)


def test_a_name_that_does_not_resolve_is_an_os_error(client: Context) -> None:
    async def main() -> None:
        with pytest.raises(OSError, match=r".+"):
            await connect("does-not-exist.invalid", 1, context=client, timeout=5)

    run(main)


def test_a_server_without_the_right_name_is_refused(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            with pytest.raises(dtls.SSLCertVerificationError):
                await client_of(running, client, server_hostname="other.example")

    run(main)


@pytest.mark.parametrize("everywhere", [None, ""])
def test_all_interfaces_means_both_families_on_one_port(
    client: Context, server: Context, everywhere: str | None
) -> None:
    async def main() -> None:
        async with serve(echo, everywhere, 0, context=server) as running:
            ports = {sock.getsockname()[1] for sock in running.sockets}
            assert len(ports) == 1
            families = {sock.family for sock in running.sockets}
            assert socket.AF_INET in families
            for host in [HERE] + ["::1"] * (socket.AF_INET6 in families):
                async with connect(host, port_of(running), context=client, timeout=5) as connection:
                    await connection.send(b"hello")
                    assert await connection.recv() == b"hello"

    run(main)


def test_a_wildcard_socket_answers_from_the_address_that_was_asked(client: Context, server: Context) -> None:
    async def main() -> None:
        async with serve(echo, "0.0.0.0", 0, context=server) as running:  # noqa: S104 - that is what is tested
            for host in ("127.0.0.2", "127.0.0.3"):
                # The client's socket is connected, and hears no other address than the one it asked.
                async with connect(
                    host, port_of(running), context=client, server_hostname="localhost", timeout=5
                ) as connection:
                    await connection.send(b"hello")
                    assert await connection.recv() == b"hello"
                    (far,) = running.connections
                    assert far.get_extra_info("sockname") == (host, port_of(running))
                await until(lambda: not running.connections)

    run(main)


@needs_ipv6
def test_a_dual_stack_socket_of_ones_own_serves_both_families(client: Context, server: Context) -> None:
    async def main() -> None:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        async with serve(echo, sock=sock, context=server) as running:
            for host in (HERE, "::1"):
                async with connect(host, port_of(running), context=client, timeout=5) as connection:
                    await connection.send(b"hello")
                    assert await connection.recv() == b"hello"

    run(main)


def test_a_connected_socket_of_ones_own_can_be_used(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect(running.sockets[0].getsockname())
            async with connect(sock=sock, context=client, server_hostname="localhost") as connection:
                assert connection.get_extra_info("socket") is sock
                await connection.send(b"hello")
                assert await connection.recv() == b"hello"
            assert sock.fileno() == -1

    run(main)


# --- misuse ----------------------------------------------------------------------------------------------------------


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda c, s: connect(HERE, 1, context=s), "client"),
        (lambda c, s: connect(context=c), "not specified"),
        (lambda c, s: connect(HERE, 1, context=c, timeout=0), "timeout"),
        (lambda c, s: connect(HERE, 1, context=c, timeout=math.inf), "timeout"),
        (lambda c, s: serve(echo, HERE, 0, context=s, shutdown_timeout=math.inf), "shutdown_timeout"),
        (lambda c, s: serve(echo, HERE, 0, context=c), "server's context"),
        (lambda c, s: serve(echo, context=s), "specified"),
        (lambda c, s: serve(echo, HERE, 0, context=s, shutdown_timeout=-1), "shutdown_timeout"),
        (lambda c, s: serve(echo, HERE, 0, context=s, cookie_policy="perhaps"), "cookie_policy"),  # type: ignore[arg-type]
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    client: Context, server: Context, wrong: Callable[[Context, Context], Any], words: str
) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=words):
            await wrong(client, server)

    run(main)


def test_sockets_of_the_wrong_kind_are_refused(client: Context, server: Context) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream, _udp() as plain, _udp() as bound:
            bound.bind((HERE, 0))
            plain.connect(bound.getsockname())
            attempts: list[tuple[Any, str]] = [
                (connect(sock=stream, context=client, server_hostname="x"), "only UDP"),
                (connect(sock=bound, context=client, server_hostname="x"), "connected"),
                (connect(HERE, 1, sock=plain, context=client, server_hostname="x"), "together"),
                (serve(echo, sock=plain, context=server), "connected"),
                (serve(echo, HERE, 1, sock=bound, context=server), "same time"),
            ]
            for attempt, words in attempts:
                with pytest.raises(ValueError, match=words):
                    await attempt
            with pytest.raises(TypeError, match="handler"):
                await serve(None, HERE, 0, context=server)  # type: ignore[arg-type]

    run(main)


def test_a_port_that_is_taken_is_an_error_and_leaves_no_socket(server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            with pytest.raises(OSError, match="cannot bind"):
                await serve(echo, HERE, port_of(running), context=server)
            with pytest.raises(OSError, match="cannot bind"):
                await serve(echo, [HERE, "127.0.0.2"], port_of(running), context=server)

    run(main)


def test_the_public_names_stay_as_they_are() -> None:
    assert sorted(dtls.asyncio.__all__) == [
        "DTLSConnection",
        "DTLSDatagramTransport",
        "Server",
        "connect",
        "create_dtls_endpoint",
        "run_server",
        "serve",
    ]
    assert [*inspect.signature(connect).parameters][:4] == ["host", "port", "context", "server_hostname"]
    assert [*inspect.signature(serve).parameters][:4] == ["handler", "host", "port", "context"]
