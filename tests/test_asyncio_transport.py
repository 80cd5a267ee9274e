"""Code that was written for ``loop.create_datagram_endpoint`` goes on working, and is secure."""

from __future__ import annotations

import asyncio
import functools
import gc
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls.asyncio import DTLSDatagramTransport, create_dtls_endpoint
from dtls.endpoint import EndpointLimits

from .aio import HERE, PATIENCE, each_loop, run, until
from .loopback import needs_ipv6

if TYPE_CHECKING:
    from dtls.context import Context


class EchoProtocol(asyncio.DatagramProtocol):
    """The example of Python's documentation, without a word of DTLS."""

    transport: Any = None

    def __init__(self) -> None:
        self.lost: list[Exception | None] = []
        self.errors: list[Exception] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class ClientProtocol(EchoProtocol):
    def __init__(self) -> None:
        super().__init__()
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))


async def echo_server(server: Context, **options: Any) -> tuple[Any, EchoProtocol]:
    return await create_dtls_endpoint(EchoProtocol, (HERE, 0), context=server, **options)


async def client_of(transport: Any, client: Context, **options: Any) -> tuple[Any, ClientProtocol]:
    address = transport.get_extra_info("sockname")
    options = {"timeout": PATIENCE, **options}
    return await create_dtls_endpoint(ClientProtocol, remote_addr=address, context=client, **options)


@each_loop
def test_existing_protocols_talk_over_dtls(client: Context, server: Context, loop_name: str) -> None:
    async def main() -> None:
        transport, protocol = await echo_server(server)
        assert isinstance(transport, asyncio.DatagramTransport)
        assert protocol.transport is transport
        ends = [await client_of(transport, client) for _ in range(3)]
        for number, (near, spoken) in enumerate(ends):
            for turn in range(20):
                near.sendto(b"%d of %d" % (turn, number))
                near.sendto(b"again", near.get_extra_info("peername"))
                assert await spoken.received.get() == (b"%d of %d" % (turn, number), near._channel.peername)
                assert (await spoken.received.get())[0] == b"again"
        for near, spoken in ends:
            near.close()
            assert near.is_closing()
            near.sendto(b"after the end, which is no error")
            await until(functools.partial(getattr, spoken, "lost"))
            assert spoken.lost == [None]
        await until(lambda: not len(transport._link.endpoint))
        transport.close()
        transport.close()
        await until(lambda: protocol.lost)
        assert protocol.lost == [None]
        assert protocol.errors == []

    run(main, loop_name)


@each_loop
def test_the_servers_end_is_the_clients_connection_lost(
    client: Context, server: Context, loop_name: str
) -> None:
    async def main() -> None:
        transport, protocol = await echo_server(server)
        near, spoken = await client_of(transport, client)
        transport.abort()
        await until(lambda: spoken.lost)
        assert spoken.lost == [None]
        assert near.is_closing()
        await until(lambda: protocol.lost)

    run(main, loop_name)


def test_connection_made_of_a_client_comes_after_the_handshake(client: Context, server: Context) -> None:
    made: list[Any] = []

    class Impatient(ClientProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            made.append(transport.get_extra_info("cipher"))
            self.transport.sendto(b"at once")

    async def main() -> None:
        transport, _ = await echo_server(server)
        address = transport.get_extra_info("sockname")
        near, spoken = await create_dtls_endpoint(Impatient, remote_addr=address, context=client)
        assert (await spoken.received.get())[0] == b"at once"
        assert made == [near.get_extra_info("cipher")]
        assert made[0]
        near.abort()
        transport.close()

    run(main)


def test_a_client_may_only_send_to_its_server(client: Context, server: Context) -> None:
    async def main() -> None:
        transport, _ = await echo_server(server)
        near, spoken = await client_of(transport, client)
        with pytest.raises(ValueError, match="Invalid address"):
            near.sendto(b"hello", (HERE, 1))
        near.close()
        transport.close()
        await until(lambda: spoken.lost)

    run(main)


def test_an_address_without_an_association_is_counted_and_not_raised(
    client: Context, server: Context, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dtls")

    async def main() -> None:
        transport, protocol = await echo_server(server)
        transport.sendto(b"hello", (HERE, 9))
        assert transport.statistics["sendto_unknown_address"] == 1
        assert "no association" in caplog.text
        assert protocol.errors == []
        with pytest.raises(ValueError, match="where to send"):
            transport.sendto(b"hello")
        transport.close()

    run(main)


def test_what_cannot_be_sent_goes_to_error_received_or_is_counted(client: Context, server: Context) -> None:
    async def main() -> None:
        transport, _ = await echo_server(server)
        near, spoken = await client_of(transport, client)
        near.sendto(bytes(5000))
        assert isinstance(spoken.errors[0], dtls.MessageTooLarge)
        near.sendto(b"")
        assert near.statistics["dropped_empty_messages"] == 1
        with pytest.raises(TypeError, match="bytes-like"):
            near.sendto("text")
        near.sendto(bytearray(b"hello"))
        assert (await spoken.received.get())[0] == b"hello"
        near.close()
        transport.close()
        await until(lambda: spoken.lost)

    run(main)


def test_a_protocols_fault_is_reported_and_ends_nothing(client: Context, server: Context) -> None:
    class Faulty(EchoProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            if data == b"fail":
                raise ArithmeticError
            super().datagram_received(data, addr)

    errors: list[dict[str, Any]] = []

    async def main() -> None:
        transport, _ = await create_dtls_endpoint(Faulty, (HERE, 0), context=server)
        near, spoken = await client_of(transport, client)
        near.sendto(b"fail")
        near.sendto(b"hello")
        assert (await spoken.received.get())[0] == b"hello"
        assert [type(context["exception"]) for context in errors] == [ArithmeticError]
        near.close()
        transport.close()
        await until(lambda: spoken.lost)

    run(main, errors=errors)


def test_a_protocol_that_closes_hears_no_more(client: Context, server: Context) -> None:
    """Not even of the next message in the same datagram."""

    class Closing(EchoProtocol):
        heard = 0

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.heard += 1
            self.transport.close()

    async def main() -> None:
        near: Any
        far, far_protocol = await echo_server(server)
        address = far.get_extra_info("sockname")
        near, near_protocol = await create_dtls_endpoint(Closing, remote_addr=address, context=client)
        await until(lambda: len(far._link.endpoint))
        (association,) = far._link.endpoint.established.values()
        protect = association.connection.protect
        where = near.get_extra_info("sockname")
        far.get_extra_info("socket").sendto(protect(b"one") + protect(b"two"), where)
        await until(lambda: near_protocol.lost)
        assert near_protocol.heard == 1
        far.set_protocol(heard := Closing())
        heard.connection_made(far)
        near, near_protocol = await create_dtls_endpoint(Closing, remote_addr=address, context=client)
        protect = near._link.connection.protect
        near.get_extra_info("socket").send(protect(b"one") + protect(b"two"))
        await until(lambda: heard.lost)
        assert heard.heard == 1
        await until(lambda: near_protocol.lost)
        assert far_protocol.lost == []

    run(main)


def test_a_factory_that_fails_leaves_no_socket(client: Context, server: Context) -> None:
    def fail() -> EchoProtocol:
        raise ArithmeticError

    async def main() -> None:
        with pytest.raises(ArithmeticError):
            await create_dtls_endpoint(fail, (HERE, 0), context=server)
        transport, _ = await echo_server(server)
        with pytest.raises(ArithmeticError):
            await create_dtls_endpoint(fail, remote_addr=transport.get_extra_info("sockname"), context=client)
        transport.close()

    run(main)


def test_one_peer_can_be_looked_at_and_closed(client: Context, server: Context) -> None:
    async def main() -> None:
        transport, _ = await echo_server(server)
        near, spoken = await client_of(transport, client)
        address = near.get_extra_info("sockname")
        far = transport.negotiated(address)
        assert far.version() == near.get_extra_info("ssl_object").version() == "DTLSv1.2"
        assert transport.negotiated((HERE, 1)) is None
        assert transport.get_extra_info("sslcontext") is server
        assert near.get_extra_info("sslcontext") is client
        assert transport.get_extra_info("peername", 7) == 7
        transport.close_association((HERE, 1))
        transport.close_association(address)
        await until(lambda: spoken.lost)
        assert transport.negotiated(address) is None
        transport.close()

    run(main)


def test_a_peer_that_is_idle_is_forgotten(client: Context, server: Context) -> None:
    async def main() -> None:
        transport, _ = await echo_server(server, limits=EndpointLimits(idle_timeout=0.05))
        near, spoken = await client_of(transport, client)
        address = near.get_extra_info("sockname")
        await until(lambda: spoken.lost)
        transport.sendto(b"hello", address)
        assert transport.statistics["sendto_unknown_address"] == 1
        transport.close()

    run(main)


def test_a_wildcard_server_is_answered_by_plain_addresses(client: Context, server: Context) -> None:
    async def main() -> None:
        transport, _ = await create_dtls_endpoint(EchoProtocol, ("0.0.0.0", 0), context=server)  # noqa: S104
        port = transport.get_extra_info("sockname")[1]
        for host in ("127.0.0.2", "127.0.0.3"):
            near, spoken = await create_dtls_endpoint(
                ClientProtocol, remote_addr=(host, port), context=client, server_hostname="localhost"
            )
            near.sendto(b"hello")
            assert await spoken.received.get() == (b"hello", (host, port))
            near.close()
        transport.close()
        await until(lambda: spoken.lost)

    run(main)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"remote_addr": (HERE, 1)}, "for clients"),
        ({"server_hostname": "x", "local_addr": (HERE, 0)}, "for clients"),
        ({}, "local_addr or sock"),
    ],
)
def test_a_servers_arguments_are_checked(server: Context, options: dict[str, Any], words: str) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=words):
            await create_dtls_endpoint(EchoProtocol, context=server, **options)

    run(main)


def test_a_clients_arguments_are_checked(client: Context) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="remote_addr"):
            await create_dtls_endpoint(EchoProtocol, (HERE, 0), context=client)

    run(main)


def test_a_server_takes_a_socket_of_ones_own_but_not_two_places(client: Context, server: Context) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((HERE, 0))
            with pytest.raises(ValueError, match="same time"):
                await create_dtls_endpoint(EchoProtocol, (HERE, 0), sock=sock, context=server)
            transport, _ = await create_dtls_endpoint(EchoProtocol, sock=sock, context=server)
            near, spoken = await client_of(transport, client)
            near.sendto(b"hello")
            assert (await spoken.received.get())[0] == b"hello"
            near.close()
            transport.abort()
            await until(lambda: spoken.lost)
            assert sock.fileno() == -1

    run(main)


def test_a_client_that_is_cancelled_in_its_handshake_leaves_nothing(client: Context) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HERE, 0))

        async def main() -> None:
            attempt = asyncio.ensure_future(
                create_dtls_endpoint(ClientProtocol, remote_addr=silent.getsockname(), context=client)
            )
            for _ in range(5):
                await asyncio.sleep(0)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt

        run(main)
        gc.collect()


def test_the_protocol_can_be_changed(server: Context) -> None:
    async def main() -> None:
        transport, protocol = await echo_server(server)
        assert transport.get_protocol() is protocol
        other = EchoProtocol()
        transport.set_protocol(other)
        assert isinstance(transport, DTLSDatagramTransport)
        assert "Transport" in repr(transport)
        transport.close()
        await until(lambda: other.lost)

    run(main)


@pytest.mark.parametrize("second", ["message", "close_notify"])
def test_a_protocol_may_close_an_association_amid_a_datagram(
    client: Context, server: Context, second: str
) -> None:
    """And the datagrams of others that were read with it are not lost."""

    class Closing(EchoProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            if data == b"close":
                self.transport.close_association(addr)
            else:
                super().datagram_received(data, addr)

    async def main() -> None:
        far: Any
        far, _ = await create_dtls_endpoint(Closing, (HERE, 0), context=server)
        near, protocol = await client_of(far, client)
        other, other_protocol = await client_of(far, client)
        connection = near._link.connection
        datagram = connection.protect(b"close")
        if second == "message":
            datagram += connection.protect(b"again")
        else:
            connection.close(0.0)
            datagram += b"".join(connection.datagrams_to_send(0.0))
        places = {
            far._link.address_of(one.address): one.address for one in far._link.endpoint.established.values()
        }
        batch = [
            (datagram, places[near.get_extra_info("sockname")], 0),
            (other._link.connection.protect(b"still there"), places[other.get_extra_info("sockname")], 0),
        ]
        far._link.datagrams_received(batch)
        assert (await other_protocol.received.get())[0] == b"still there"
        near.abort()
        other.close()
        far.close()
        await until(lambda: protocol.lost and other_protocol.lost)

    run(main)


def same_address_to(hosts: list[str], port: int, client: Context) -> list[dtls.DTLSSocket]:
    """Clients that have one address and port, each connected to another address of the server."""
    made: list[dtls.DTLSSocket] = []
    own = (HERE, 0)
    for host in hosts:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(own)
        own = sock.getsockname()
        sock.connect((host, port))
        sock.settimeout(PATIENCE)
        secured = client.wrap_socket(sock, server_hostname="localhost")
        assert isinstance(secured, dtls.DTLSSocket)
        made.append(secured)
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is told which address was asked")
def test_clients_of_one_address_that_ask_several_of_ours_get_their_own_answers(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        far: Any
        far, protocol = await create_dtls_endpoint(EchoProtocol, ("0.0.0.0", 0), context=server)  # noqa: S104
        port = far.get_extra_info("sockname")[1]
        ends = await loop.run_in_executor(None, same_address_to, [HERE, "127.0.0.9"], port, client)
        for turn in range(3):
            for number, end in enumerate(ends):
                end.send(b"%d of %d" % (turn, number))
                assert await loop.run_in_executor(None, end.recv) == b"%d of %d" % (turn, number)
        plain = ends[0].getsockname()
        far.sendto(b"to whom?", plain)
        assert far.statistics["sendto_unknown_address"] == 1
        assert far.negotiated(plain) is None
        ends.pop().close()
        await until(lambda: len(far._link.endpoint) == 1)
        far.sendto(b"to the one who is left", plain)
        assert await loop.run_in_executor(None, ends[0].recv) == b"to the one who is left"
        ends[0].close()
        far.close()
        await until(lambda: protocol.lost)

    run(main)


@pytest.mark.parametrize("way", ["close", "abort"])
@pytest.mark.parametrize("role", ["client", "server"])
def test_a_protocol_may_close_as_soon_as_it_is_connected(
    client: Context, server: Context, role: str, way: str
) -> None:
    class Shy(EchoProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            getattr(transport, way)()

    async def main() -> None:
        if role == "server":
            transport, protocol = await create_dtls_endpoint(Shy, (HERE, 0), context=server)
        else:
            far, far_protocol = await echo_server(server)
            address = far.get_extra_info("sockname")
            transport, protocol = await create_dtls_endpoint(Shy, remote_addr=address, context=client)
            await until(lambda: not len(far._link.endpoint))
            far.close()
            await until(lambda: far_protocol.lost)
        assert transport.is_closing()
        await until(lambda: protocol.lost)
        assert protocol.lost == [None]

    run(main)


@needs_ipv6
def test_a_server_at_all_ipv6_addresses_has_ipv4_peers_too_as_asyncio_s_have(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        far, far_protocol = await create_dtls_endpoint(EchoProtocol, ("::", 0), context=server)
        port = far.get_extra_info("sockname")[1]
        near, protocol = await create_dtls_endpoint(ClientProtocol, remote_addr=(HERE, port), context=client)
        near.sendto(b"hello")
        assert (await protocol.received.get())[0] == b"hello"
        near.close()
        far.close()
        await until(lambda: protocol.lost and far_protocol.lost)

    run(main)
