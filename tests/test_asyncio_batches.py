"""Many messages at a time: ``send_many`` and ``recv_many``, and what comes from the kernel as one run."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls import mmsg
from dtls.asyncio import DTLSConnection, connect, create_dtls_endpoint, serve
from dtls.connection import Connection, ConnectionState
from dtls.endpoint import EndpointLimits
from dtls.events import DataReceived

from .aio import HERE, Handler, client_of, each_loop, echoing, port_of, run, until

if TYPE_CHECKING:
    from typing_extensions import Self

    from dtls.context import Context
    from dtls.session import DTLSSession


def numbered(count: int, size: int = 2) -> list[bytes]:
    return [number.to_bytes(2, "big") * (size // 2) for number in range(count)]


async def all_of(connection: DTLSConnection, count: int) -> list[bytes]:
    """As many messages, by as many calls as it takes."""
    found: list[bytes] = []
    while len(found) < count:
        many = await connection.recv_many()
        assert many, f"it ended after {len(found)}"
        found += many
    return found


# --- send_many and recv_many -----------------------------------------------------------------------------------------


@each_loop
def test_many_messages_go_and_come_in_order(client: Context, server: Context, loop_name: str) -> None:
    sizes = [10, 10, 10, 8, 8, 1000, 1000, 30, 30, 30, 30, 1, 2, 3, 1200, 1200] * 9
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]

    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            await connection.send_many(messages)
            assert await all_of(connection, len(messages)) == messages
            await connection.send_many([])
            await connection.send_many(bytearray(message) for message in messages[:3])
            await connection.send(b"after")
            assert await all_of(connection, 4) == [*messages[:3], b"after"]

    run(main, loop_name)


@each_loop
def test_send_does_not_overtake_send_many(client: Context, server: Context, loop_name: str) -> None:
    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server) as running:
            connection = await client_of(running, client)
            other = await handler.first()
            await connection.send_many(numbered(10))
            await connection.send(b"last")
            await connection.close()
            assert await all_of(other, 11) == [*numbered(10), b"last"]
            assert await other.recv_many() == []
            handler.release.set()

    run(main, loop_name)


def test_recv_many_gives_what_there_is_and_no_more_than_asked_for(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        async with (
            serve(handler, HERE, 0, context=server) as running,
            client_of(running, client) as connection,
        ):
            other = await handler.first()
            await connection.send_many(numbered(10))
            await until(lambda: len(other._messages) == 10)
            assert await other.recv_many(3) == numbered(10)[:3]
            assert other._queued_bytes == 14
            assert await other.recv() == numbered(10)[3]
            assert await other.recv_many(1) == numbered(10)[4:5]
            assert await other.recv_many() == numbered(10)[5:]
            assert other._queued_bytes == 0
            for wrong in (0, -1):
                with pytest.raises(ValueError, match="at least 1"):
                    await other.recv_many(wrong)
            handler.release.set()

    run(main)


@pytest.mark.parametrize(
    ("messages", "error", "match"),
    [
        ([b"fine", b""], ValueError, "empty"),
        ([b"fine", bytes(20_000)], dtls.MessageTooLarge, "bytes"),
        ([b"fine", "text"], TypeError, "bytes"),
        (b"not a list", TypeError, "int"),
        (5, TypeError, "iterable"),
    ],
)
def test_what_cannot_be_sent_raises_and_the_association_goes_on(
    client: Context, server: Context, messages: Any, error: type[Exception], match: str
) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            with pytest.raises(error, match=match):
                await connection.send_many(messages)
            await connection.send_many([b"next"])
            assert await connection.recv() == b"next"  # none of those before the wrong one was sent

    run(main)


def test_the_newest_beyond_the_limits_are_dropped_and_counted(client: Context, server: Context) -> None:
    async def main() -> None:
        for limits, kept in ((EndpointLimits(queued_messages=10), 10), (EndpointLimits(queued_bytes=700), 7)):
            handler = Handler()
            async with (
                serve(handler, HERE, 0, context=server, limits=limits) as running,
                client_of(running, client) as connection,
            ):
                other = await handler.first()
                messages = numbered(30, 100)
                await connection.send_many(messages)
                await until(lambda: other.statistics["dropped_queue_full"] == 30 - kept)  # noqa: B023 - called now
                assert await other.recv_many() == messages[:kept]
                await connection.send_many(messages[:2])
                assert await all_of(other, 2) == messages[:2]
                handler.release.set()

    run(main)


def test_a_message_longer_than_the_limit_is_held_if_it_is_the_only_one(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        handler = Handler()
        async with (
            serve(handler, HERE, 0, context=server, limits=EndpointLimits(queued_bytes=1)) as running,
            client_of(running, client) as connection,
        ):
            other = await handler.first()
            await connection.send_many(numbered(3, 50))
            await until(lambda: other.statistics["dropped_queue_full"] == 2)
            assert await other.recv_many() == numbered(1, 50)
            handler.release.set()

    run(main)


@each_loop
@pytest.mark.parametrize("call", ["recv", "recv_many"])
def test_a_wait_that_is_cancelled_loses_nothing(
    client: Context, server: Context, call: str, loop_name: str
) -> None:
    async def main() -> None:
        handler = Handler()
        async with (
            serve(handler, HERE, 0, context=server) as running,
            client_of(running, client) as connection,
        ):
            other = await handler.first()
            # Before anything has come.
            waiting = asyncio.ensure_future(getattr(other, call)())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            await connection.send_many(numbered(5))
            assert await all_of(other, 5) == numbered(5)
            # In the moment in which they have come, and the task has not been told yet.
            waiting = asyncio.ensure_future(getattr(other, call)())
            await asyncio.sleep(0)
            other._deliver_many(numbered(5))
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            assert await other.recv_many() == numbered(5)
            handler.release.set()

    run(main, loop_name)


@pytest.mark.parametrize("one", ["recv", "recv_many", "__anext__"])
@pytest.mark.parametrize("other", ["recv", "recv_many", "__anext__"])
def test_two_tasks_cannot_wait_at_a_time_and_the_first_goes_on(
    client: Context, server: Context, one: str, other: str
) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            waiting = asyncio.ensure_future(getattr(connection, one)())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await getattr(connection, other)()
            await connection.send(b"hello")
            assert await waiting in (b"hello", [b"hello"])
            await connection.send(b"again")
            assert await getattr(connection, other)() in (b"again", [b"again"])

    run(main)


def test_send_many_that_is_cancelled_leaves_whole_messages_and_a_working_association(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        handler = Handler()
        async with (
            serve(handler, HERE, 0, context=server) as running,
            client_of(running, client) as connection,
        ):
            other = await handler.first()
            sending = asyncio.ensure_future(connection.send_many(numbered(1000)))
            for _ in range(3):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            await connection.send(b"last")
            found: list[bytes] = []
            while b"last" not in found:
                found += await other.recv_many()
            assert 0 < len(found) < 1001
            assert found == [*numbered(len(found) - 1), b"last"]
            handler.release.set()

    run(main)


def test_closing_wakes_recv_many_and_ends_send_many(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server) as running:
            connection = await client_of(running, client)
            other = await handler.first()
            waiting = asyncio.ensure_future(connection.recv_many())
            sending = asyncio.ensure_future(connection.send_many(numbered(500)))
            await asyncio.sleep(0)
            await connection.close()
            assert await waiting == []
            with pytest.raises(dtls.SSLZeroReturnError):
                await sending
            with pytest.raises(dtls.SSLZeroReturnError):
                await connection.send_many([b"late"])
            assert await connection.recv_many() == []
            found = []
            while many := await other.recv_many():
                found += many
            assert found == numbered(len(found))
            handler.release.set()

    run(main)


def test_what_ended_the_association_is_raised_after_what_is_queued(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            connection._deliver_many(numbered(3))
            connection._end(dtls.AssociationExpired())
            assert await connection.recv_many(2) == numbered(2)
            assert await connection.recv() == numbered(3)[2]
            for call in (connection.recv_many, connection.recv, lambda: connection.send_many([b"x"])):
                with pytest.raises(dtls.AssociationExpired):
                    await call()

    run(main)


def test_what_comes_after_the_end_is_counted_and_not_queued(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        async with (
            serve(handler, HERE, 0, context=server) as running,
            client_of(running, client) as connection,
        ):
            other = await handler.first()
            other._stop_receiving()
            await connection.send_many(numbered(5))
            await until(lambda: other.statistics["dropped_after_close"] == 5)
            assert await other.recv_many() == []
            handler.release.set()

    run(main)


# --- runs as the kernel gives them -----------------------------------------------------------------------------------


class Segmenting:
    """A client without input and output, on a socket that sends runs: it says what stands in them."""

    def __init__(self, port: int, context: Context, session: DTLSSession | None = None) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        if not mmsg.takes_segments(self.sock):
            self.sock.close()
            pytest.skip("the kernel knows no segments")
        self.connection: Connection = self.begin(port, context, session)

    def begin(self, port: int, context: Context, session: DTLSSession | None) -> Connection:
        self.sock.connect((HERE, port))
        return context.connection(time.monotonic(), server_hostname="localhost", session=session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close(time.monotonic())
        with self.sock:
            for datagram in self.connection.datagrams_to_send(time.monotonic()):
                self.sock.send(datagram)

    async def receive(self) -> list[Any]:
        datagram = await asyncio.get_running_loop().sock_recv(self.sock, 65_535)
        return self.connection.receive_datagram(datagram, time.monotonic())

    async def shake_hands(self) -> list[bytes]:
        """Until it is complete: the client's last datagrams, which are not sent."""
        while True:
            datagrams = self.connection.datagrams_to_send(time.monotonic())
            if self.connection.state is ConnectionState.ESTABLISHED:
                return datagrams
            for datagram in datagrams:
                self.sock.send(datagram)
            await self.receive()

    async def establish(self) -> None:
        for datagram in await self.shake_hands():
            self.sock.send(datagram)

    def send_run(self, *datagrams: bytes) -> None:
        """Send datagrams as one run; all but the last have one length."""
        size = len(datagrams[0])
        assert all(len(datagram) == size for datagram in datagrams[:-1])
        assert len(datagrams[-1]) <= size
        self.sock.sendmsg([b"".join(datagrams)], [mmsg.segment_control(size)])

    def protected(self, *messages: bytes) -> list[bytes]:
        return [self.connection.protect(message) for message in messages]

    def of_length(self, length: int, first: bytes) -> bytes:
        """A message whose datagram has that length."""
        expansion = len(self.connection.protect(b"x")) - 1
        return first.ljust(length - expansion, b".")


class SegmentingServer(Segmenting):
    """As :class:`Segmenting`, of one client."""

    def begin(self, port: int, context: Context, session: DTLSSession | None) -> Connection:
        assert session is None
        self.sock.bind((HERE, port))
        return context.connection(time.monotonic())

    async def meet(self) -> None:
        """Wait for the client."""
        hello, address = await until(self._first)
        self.sock.connect(address)
        self.connection.receive_datagram(hello, time.monotonic())

    def _first(self) -> tuple[bytes, Any] | None:
        try:
            return self.sock.recvfrom(65_535)
        except BlockingIOError:
            return None


def forged(datagram: bytes) -> bytes:
    return datagram[:-1] + bytes([datagram[-1] ^ 1])


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_forged_record_in_a_run_costs_only_itself(client: Context, server: Context, at: int) -> None:
    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server) as running:
            with Segmenting(port_of(running), client) as peer:
                await peer.establish()
                other = await handler.first()
                records = peer.protected(*numbered(5))
                records[at] = forged(records[at])
                peer.send_run(*records)
                await until(lambda: len(other._messages) == 4)
                expected = numbered(5)
                del expected[at]
                assert await other.recv_many() == expected
                assert sum(other.statistics.values()) >= 1
                peer.send_run(*peer.protected(*numbered(3)))
                assert await all_of(other, 3) == numbered(3)
            handler.release.set()

    run(main)


def test_records_that_come_twice_in_a_run_are_given_once(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server) as running:
            with Segmenting(port_of(running), client) as peer:
                await peer.establish()
                other = await handler.first()
                records = peer.protected(*numbered(4))
                peer.send_run(
                    records[0], records[0], records[2], records[1], records[2], records[3], records[0]
                )
                assert await all_of(other, 4) == [numbered(4)[number] for number in (0, 2, 1, 3)]
                peer.send_run(*records)
                peer.send_run(*peer.protected(b"end of it"))
                assert await other.recv_many() == [b"end of it"]
            handler.release.set()

    run(main)


def test_a_client_hello_in_a_run_is_answered_and_the_messages_are_delivered(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server) as running:
            with Segmenting(port_of(running), client) as peer:
                await peer.establish()
                other = await handler.first()
                await until(lambda: running.connections)
                [hello] = client.connection(time.monotonic(), server_hostname="localhost").datagrams_to_send(
                    0
                )
                messages = [peer.of_length(len(hello), name) for name in (b"one", b"two", b"three")]
                one, two, three = peer.protected(*messages)
                cookies = running.statistics["cookies_sent"]
                peer.send_run(one, hello, two, forged(hello), three)
                assert await all_of(other, 3) == messages
                assert running.statistics["cookies_sent"] > cookies
            handler.release.set()

    run(main)


def test_a_finished_and_messages_in_one_run(client: Context, server: Context) -> None:
    """As a client that resumes sends them: its Finished is the last of the handshake."""
    server.session_tickets = True

    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server) as running:
            async with client_of(running, client) as connection:
                await handler.first()
                session = connection.session
            with Segmenting(port_of(running), client, session) as peer:
                [last] = await peer.shake_hands()
                assert peer.connection.session_reused
                messages = [peer.of_length(len(last), name) for name in (b"one", b"two")]
                peer.send_run(last, *peer.protected(*messages, b"short"))
                other = await until(lambda: next(iter(handler.connections[1:]), None))
                assert await all_of(other, 3) == [*messages, b"short"]
            handler.release.set()

    run(main)


def test_a_close_notify_in_a_run_ends_it_there(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server) as running:
            with Segmenting(port_of(running), client) as peer:
                await peer.establish()
                other = await handler.first()
                messages = peer.protected(*numbered(4, 4))
                peer.connection.close(time.monotonic())
                [alert] = peer.connection.datagrams_to_send(time.monotonic())
                size = len(messages[0])
                assert len(alert) <= size
                peer.sock.sendmsg([b"".join(messages) + alert], [mmsg.segment_control(size)])
                assert await all_of(other, 4) == numbered(4, 4)
                assert await other.recv_many() == []
                assert other.is_closing()
            handler.release.set()

    run(main)


def test_runs_from_strangers_are_counted_by_their_datagrams(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            with Segmenting(port_of(running), client) as stranger:
                stranger.send_run(*[b"\x17\xfe\xfd" + bytes(50)] * 20, b"short")
                await until(lambda: running.statistics["dropped_no_association"] == 21)
                stranger.send_run(*[b"\x16garbage"] * 9)
                await until(lambda: sum(running.statistics.values()) == 30)
                assert len(running._links[0].endpoint) == running._links[0].endpoint.handshakes == 0

    run(main)


def test_a_flood_of_runs_keeps_nobody_out(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            with Segmenting(port_of(running), client) as attacker:
                await attacker.establish()
                garbage = forged(attacker.connection.protect(b"garbage"))
                for turn in range(40):
                    for _ in range(4):
                        attacker.send_run(*[garbage] * 64)
                        attacker.send_run(*[bytes([turn]) * 30] * 64)
                    await connection.send(bytes([turn]))
                    assert await connection.recv() == bytes([turn])
            assert sum(running.statistics.values()) >= 40 * 4 * 128

    run(main)


def test_a_client_takes_a_finished_messages_and_forgeries_in_one_run(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        with SegmentingServer(0, server) as peer:
            port = peer.sock.getsockname()[1]
            opening = asyncio.ensure_future(
                connect(HERE, port, context=client, server_hostname="localhost").__aenter__()
            )
            await peer.meet()
            *others, last = await peer.shake_hands()
            assert not others
            one, two, three = (peer.of_length(len(last), name) for name in (b"one", b"two", b"three"))
            records = peer.protected(one, two, b"lost", three)
            records[2] = forged(peer.protected(two)[0])
            peer.send_run(last, *records, *peer.protected(b"short"))
            connection = await opening
            assert await all_of(connection, 4) == [one, two, three, b"short"]
            many = [peer.of_length(100, b"%d" % number) for number in range(20)]
            records = peer.protected(*many)
            peer.send_run(*records[:10], forged(records[10]), b"\x16" * 100, *records[11:], b"?")
            assert await all_of(connection, 19) == many[:10] + many[11:]
            await connection.close()

    run(main)


def test_a_handler_that_ends_amid_a_run_keeps_nothing_from_the_others(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        heard: list[bytes] = []

        async def once(connection: DTLSConnection) -> None:
            heard.append(await connection.recv())

        async with serve(once, HERE, 0, context=server) as running:
            with Segmenting(port_of(running), client) as peer, Segmenting(port_of(running), client) as other:
                for each in (peer, other):
                    await each.establish()
                await until(lambda: len(running.connections) == 2)
                records = peer.protected(*numbered(6))
                peer.send_run(*records[:3], forged(records[3]), b"?" * len(records[0]), *records[4:])
                other.send_run(*other.protected(b"other", b"other"))
                await until(lambda: not running.connections)
                assert sorted(heard) == [numbered(1)[0], b"other"]
                for each in (peer, other):
                    while each.connection.state is ConnectionState.ESTABLISHED:
                        await each.receive()
                assert len(running._links[0].endpoint) == 0

    run(main)


def test_a_run_is_a_sign_of_life(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server) as running:
            with Segmenting(port_of(running), client) as peer:
                await peer.establish()
                other = await handler.first()
                [association] = running._links[0].endpoint.established.values()
                association.heard_at = 0.0
                peer.send_run(*peer.protected(*numbered(5)))
                assert await all_of(other, 5) == numbered(5)
                assert association.heard_at > 0
                association.heard_at = 0.0
                peer.send_run(*map(forged, peer.protected(*numbered(5))))
                peer.send_run(*[b"garbage"] * 5)
                await until(lambda: sum(running.statistics.values()) >= 10)
                assert association.heard_at == 0  # anybody can send those
            handler.release.set()

    run(main)


# --- runs, where a protocol takes messages ---------------------------------------------------------------------------


class Closing(asyncio.DatagramProtocol):
    """Closes the association, or the transport, at the second message."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.received: list[bytes] = []
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append(data)
        if len(self.received) == 2:
            self.transport.sendto(b"answer", addr)
            if self.what == "close_association":
                self.transport.close_association(addr)
            else:
                getattr(self.transport, self.what)()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


@pytest.mark.parametrize("what", ["close_association", "close", "abort"])
def test_a_protocol_that_closes_amid_a_run_gets_no_more_of_it(
    client: Context, server: Context, what: str
) -> None:
    async def main() -> None:
        transport, protocol = await create_dtls_endpoint(lambda: Closing(what), (HERE, 0), context=server)
        with Segmenting(transport.get_extra_info("sockname")[1], client) as peer:
            await peer.establish()
            peer.send_run(*peer.protected(*numbered(5)))
            events: list[Any] = []
            while peer.connection.state is ConnectionState.ESTABLISHED:
                events += await peer.receive()
            # What was sent before the close has left before the close_notify.
            assert [event.data for event in events if isinstance(event, DataReceived)] == [b"answer"]
        assert protocol.received == numbered(2)
        transport.abort()
        await until(lambda: protocol.lost)

    run(main)


class Fed:
    """A server's link that is given datagrams of one peer by hand."""

    def __init__(self, link: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.link = link
        self.place = b"\2\0" + bytes(14) if link.channel.port.gathers else (HERE, 9)
        self.answers: list[bytes] = []
        monkeypatch.setattr(link.channel, "offer", lambda answer, _: self.answers.append(answer))

    def give(self, datagram: bytes, size: int = 0) -> list[bytes]:
        self.answers = []
        self.link.datagrams_received([(datagram, self.place, size)])
        return self.answers

    def shake_hands(self, client: Context, session: Any = None) -> tuple[Connection, list[bytes]]:
        """A client, and its last flight if that ends the handshake and so was not given."""
        made = client.connection(0.0, server_hostname="localhost", session=session)
        while flight := made.datagrams_to_send(0.0):
            if made.state is ConnectionState.ESTABLISHED:
                return made, flight
            for answer in [answer for datagram in flight for answer in self.give(datagram)]:
                made.receive_datagram(answer, 0.0)
        return made, []


@pytest.mark.parametrize("as_run", [False, True])
def test_data_that_overtake_a_new_handshakes_end_are_its_own_also_in_a_run(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch, as_run: bool
) -> None:
    """The peer begins anew, from the same address, while its old association stands."""
    server.session_tickets = True
    got: list[bytes] = []

    async def handler(connection: DTLSConnection) -> None:
        async for message in connection:
            got.append(message)  # noqa: PERF401 - as they come

    async def main() -> None:
        async with serve(handler, HERE, 0, context=server) as running:
            (link,) = running._links
            fed = Fed(link, monkeypatch)
            first, _ = fed.shake_hands(client)
            second, last_flight = fed.shake_hands(client, first.session)
            assert second.session_reused
            assert last_flight
            [(together, size)] = second.protect_many(numbered(6))
            for datagrams in [together] if as_run else mmsg.split(together, size):
                fed.give(datagrams, size if as_run else 0)
            for datagram in last_flight:
                fed.give(datagram)
            await until(lambda: len(got) == 6)
            assert got == numbered(6)

    run(main)
