"""The socket beneath: full buffers, errors of the kernel, and the end in each of these states."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls.asyncio import Server, channel, connect, create_dtls_endpoint, serve

from .aio import HERE, PATIENCE, each_loop, echo, echoing, run, until

if TYPE_CHECKING:
    from dtls.context import Context


class Obstructed(socket.socket):
    """A UDP socket whose send buffer is full when the test says so, or that fails as the test says."""

    full = False
    error: OSError | None = None

    def _obstruct(self) -> None:
        if self.full:
            raise BlockingIOError
        error, self.error = self.error, None
        if error is not None:
            raise error

    def send(self, *arguments: Any) -> int:
        self._obstruct()
        return super().send(*arguments)

    def sendto(self, *arguments: Any) -> int:
        self._obstruct()
        return super().sendto(*arguments)


def obstructed(running: Server) -> Obstructed:
    sock = Obstructed(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(running.sockets[0].getsockname())
    return sock


def client_on(sock: socket.socket, client: Context) -> Any:
    return connect(sock=sock, context=client, server_hostname="localhost", timeout=PATIENCE)


both_loops = pytest.mark.parametrize(
    "loop_name", ["asyncio", pytest.param("uvloop", marks=[each_loop.args[1][1].marks[0]])]
)


@both_loops
def test_send_waits_while_the_send_buffer_is_full(client: Context, server: Context, loop_name: str) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            sock = obstructed(running)
            async with client_on(sock, client) as connection:
                sock.full = True
                await connection.send(b"kept for later")
                waiting = [asyncio.ensure_future(connection.send(bytes([n]))) for n in range(100)]
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not any(task.done() for task in waiting)
                sock.full = False
                assert await connection.recv() == b"kept for later"
                assert [await connection.recv() for _ in range(100)] == [bytes([n]) for n in range(100)]
                await asyncio.gather(*waiting)

    run(main, loop_name)


def test_a_cancelled_send_sends_nothing_and_holds_nobody_up(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            sock = obstructed(running)
            async with client_on(sock, client) as connection:
                sock.full = True
                await connection.send(b"first")
                cancelled = asyncio.ensure_future(connection.send(b"cancelled"))
                second = asyncio.ensure_future(connection.send(b"second"))
                await asyncio.sleep(0)
                cancelled.cancel()
                await asyncio.sleep(0)
                sock.full = False
                assert [await connection.recv() for _ in range(2)] == [b"first", b"second"]
                await second
                assert cancelled.cancelled()

    run(main)


def test_closing_wakes_who_waits_for_room(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            sock = obstructed(running)
            connection = await client_on(sock, client)
            sock.full = True
            await connection.send(b"first")
            waiting = asyncio.ensure_future(connection.send(b"second"))
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(connection.close())
            await asyncio.sleep(0)
            assert not closing.done()  # what was taken is still to go out
            sock.full = False
            await closing
            with pytest.raises(dtls.SSLZeroReturnError):
                await waiting
            assert sock.fileno() == -1

    run(main)


def test_a_socket_that_stays_full_is_closed_all_the_same(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "FLUSH_PATIENCE", 0.05)

    async def main() -> None:
        async with echoing(server) as running:
            sock = obstructed(running)
            connection = await client_on(sock, client)
            sock.full = True
            await connection.send(b"never arrives")
            waiting = asyncio.ensure_future(connection.send(b"nor does this"))
            await asyncio.sleep(0)
            await connection.close()
            with pytest.raises(dtls.SSLZeroReturnError):
                await waiting
            assert sock.fileno() == -1
            assert connection.statistics["dropped_send_buffer_full"] >= 1

    run(main)


def test_what_a_handshake_says_is_repeated_if_the_buffer_was_full(client: Context, server: Context) -> None:
    client.initial_retransmission_timeout = 0.05

    async def main() -> None:
        async with echoing(server) as running:
            sock = obstructed(running)
            sock.full = True
            asyncio.get_running_loop().call_later(0.02, setattr, sock, "full", False)
            async with client_on(sock, client) as connection:
                await connection.send(b"hello")
                assert await connection.recv() == b"hello"

    run(main)


def test_a_server_whose_buffer_is_full_keeps_its_handlers_waiting(client: Context, server: Context) -> None:
    async def main() -> None:
        sock = Obstructed(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((HERE, 0))
        async with (
            serve(echo, sock=sock, context=server, shutdown_timeout=5),
            connect(*sock.getsockname(), context=client, timeout=PATIENCE) as connection,
        ):
            sock.full = True
            for number in range(10):
                await connection.send(bytes([number]))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(connection.recv(), 0.05)
            sock.full = False
            assert [await connection.recv() for _ in range(10)] == [bytes([n]) for n in range(10)]

    run(main)


def test_a_message_too_long_for_the_path_is_refused(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            sock = obstructed(running)
            async with client_on(sock, client) as connection:
                sock.error = OSError(errno.EMSGSIZE, "Message too long")
                with pytest.raises(dtls.MessageTooLarge, match="path") as caught:
                    await connection.send(bytes(1000))
                assert caught.value.limit == 999
                await connection.send(b"shorter")
                assert await connection.recv() == b"shorter"

    run(main)


@pytest.mark.parametrize(
    ("number", "arrives"), [(errno.ECONNREFUSED, True), (errno.ENETUNREACH, False), (errno.ENOBUFS, False)]
)
def test_what_the_kernel_complains_of_ends_nothing(
    client: Context, server: Context, number: int, arrives: bool
) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            sock = obstructed(running)
            async with client_on(sock, client) as connection:
                # A refusal is about an earlier datagram: this one has to be sent once more.
                sock.error = OSError(number, "something")
                await connection.send(b"perhaps")
                await connection.send(b"surely")
                assert await connection.recv() == (b"perhaps" if arrives else b"surely")
                name = f"socket_{errno.errorcode[number].lower()}"
                assert connection.statistics[name] == 1

    run(main)


def test_a_peer_that_vanishes_is_not_the_end_of_the_loop(client: Context, server: Context) -> None:
    """Its port refuses what is sent there: real ICMP errors, on a socket that is read all the time."""

    async def main() -> None:
        async with echoing(server) as running:
            connection = await connect(*running.sockets[0].getsockname(), context=client, timeout=PATIENCE)
            for link in running._links:
                link.channel.abort()
            for _ in range(5):
                await connection.send(b"anybody there?")
            await until(lambda: connection.statistics["socket_econnrefused"])
            assert not connection.is_closing()
            await connection.close()

    run(main)


# --- the datagram protocol's side ------------------------------------------------------------------------------------


class Recorder(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received: list[bytes] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append(data)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")


def test_a_protocol_is_paused_while_the_buffer_is_full_and_the_rest_is_bounded(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_UNSENT", 5)

    async def main() -> None:
        async with echoing(server) as running:
            sock = obstructed(running)
            transport, protocol = await create_dtls_endpoint(
                Recorder, sock=sock, context=client, server_hostname="localhost"
            )
            sock.full = True
            for number in range(10):
                transport.sendto(bytes([number]))
            assert transport.get_write_buffer_size() > 5
            assert protocol.calls == ["pause"]
            sock.full = False
            await until(lambda: len(protocol.received) == 5)
            assert protocol.received == [bytes([number]) for number in range(5)]
            assert protocol.calls == ["pause", "resume"]
            assert transport.get_write_buffer_size() == 0
            assert transport.get_extra_info("socket") is sock
            sock.full = True
            transport.sendto(b"goes out before the end")
            transport.close()
            assert transport.is_closing()
            sock.full = False
            await until(lambda: "lost" in protocol.calls)

    run(main)


def test_a_loop_without_readers_keeps_senders_waiting_too(client: Context, server: Context) -> None:
    async def main() -> None:
        async with (
            echoing(server) as running,
            connect(*running.sockets[0].getsockname(), context=client, timeout=PATIENCE) as connection,
        ):
            substitute: Any = connection._channel._transport.get_protocol()  # type: ignore[union-attr]
            substitute.pause_writing()
            waiting = asyncio.ensure_future(connection.send(b"hello"))
            await asyncio.sleep(0)
            assert not waiting.done()
            substitute.resume_writing()
            assert await connection.recv() == b"hello"
            await waiting

    run(main, "without readers")
