"""How associations and servers in event loops end: by whom, when a task is cancelled, and that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import random
import socket
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import dtls
import dtls.asyncio
from dtls.asyncio import DTLSConnection, Server, connect, serve
from dtls.asyncio.channel import Channel
from dtls.endpoint import EndpointLimits
from dtls.wire import HandshakeType

from .aio import HERE, PATIENCE, Handler, client_of, each_loop, echo, echoing, run, until
from .hellos import hello_body, whole

if TYPE_CHECKING:
    from dtls.context import Context

# --- the end ---------------------------------------------------------------------------------------------------------


@each_loop
def test_the_peers_close_ends_the_messages(client: Context, server: Context, loop_name: str) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def handler(connection: DTLSConnection) -> None:
            assert [message async for message in connection] == [b"last words"]
            assert await connection.recv() == b""
            with pytest.raises(dtls.SSLZeroReturnError):
                await connection.send(b"too late")
            await connection.wait_closed()
            ended.set()

        async with serve(handler, HERE, 0, context=server) as running:
            async with client_of(running, client) as connection:
                await connection.send(b"last words")
            await ended.wait()

    run(main, loop_name)


@each_loop
def test_a_handler_that_returns_closes_its_association(
    client: Context, server: Context, loop_name: str
) -> None:
    async def handler(connection: DTLSConnection) -> None:
        await connection.send(b"bye")

    async def main() -> None:
        async with (
            serve(handler, HERE, 0, context=server) as running,
            client_of(running, client) as connection,
        ):
            assert [message async for message in connection] == [b"bye"]
            await connection.wait_closed()
            assert running.connections == frozenset()

    run(main, loop_name)


def test_after_close_there_is_nothing_to_receive_and_nothing_can_be_sent(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            connection = await client_of(running, client)
            waiting = asyncio.ensure_future(connection.recv())
            await asyncio.sleep(0)
            await connection.close()
            assert await waiting == b""
            assert await connection.recv() == b""
            assert [message async for message in connection] == []
            with pytest.raises(dtls.SSLZeroReturnError):
                await connection.send(b"hello")
            await connection.close()
            assert "closed" in repr(connection)

    run(main)


def test_a_handlers_fault_ends_its_association_and_no_other(client: Context, server: Context) -> None:
    async def handler(connection: DTLSConnection) -> None:
        async for message in connection:
            if message == b"fail":
                raise ArithmeticError
            await connection.send(message)

    errors: list[dict[str, Any]] = []

    async def main() -> None:
        async with (
            serve(handler, HERE, 0, context=server) as running,
            client_of(running, client) as one,
            client_of(running, client) as other,
        ):
            await one.send(b"fail")
            assert await one.recv() == b""
            await other.send(b"hello")
            assert await other.recv() == b"hello"
        (context,) = errors
        assert isinstance(context["exception"], ArithmeticError)
        assert "handler" in context["message"]

    run(main, errors=errors)


def test_a_handler_that_sends_to_who_has_gone_is_not_at_fault(client: Context, server: Context) -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def handler(connection: DTLSConnection) -> None:
            await gone.wait()
            await connection.wait_closed()
            await connection.send(b"too late")

        async with serve(handler, HERE, 0, context=server) as running:
            await (await client_of(running, client)).close()
            gone.set()
            await until(lambda: running.statistics["handshakes_completed"] and not running.connections)

    run(main)


def test_a_handler_that_is_no_coroutine_function_is_reported(client: Context, server: Context) -> None:
    errors: list[dict[str, Any]] = []

    async def main() -> None:
        async with (
            serve(lambda _: None, HERE, 0, context=server) as running,  # type: ignore[arg-type,return-value]
            client_of(running, client) as connection,
        ):
            assert await connection.recv() == b""
        assert isinstance(errors[0]["exception"], TypeError)

    run(main, errors=errors)


def test_an_idle_association_ends_its_handler_without_a_fault(client: Context, server: Context) -> None:
    async def main() -> None:
        ended: list[BaseException] = []

        async def handler(connection: DTLSConnection) -> None:
            try:
                await connection.recv()
            except dtls.AssociationExpired as error:
                ended.append(error)
                raise

        limits = EndpointLimits(idle_timeout=0.05)
        async with serve(handler, HERE, 0, context=server, limits=limits) as running:
            async with client_of(running, client) as connection:
                assert await connection.recv() == b""
            await until(lambda: not running.connections)
            assert len(ended) == 1
            assert running.statistics["associations_expired"] == 1

    run(main)


def test_messages_are_signs_of_life(client: Context, server: Context) -> None:
    async def main() -> None:
        limits = EndpointLimits(idle_timeout=PATIENCE)
        async with echoing(server, limits=limits) as running, client_of(running, client) as connection:
            (association,) = running._links[0].endpoint.established.values()
            before = association.heard_at
            await connection.send(b"hello")
            assert await connection.recv() == b"hello"
            assert association.heard_at > before

    run(main)


def test_nobody_can_join_a_servers_port(server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            (sock,) = running.sockets
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        async with echoing(server, reuse_port=True) as running:
            (sock,) = running.sockets
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)

    run(main)


def test_a_client_that_restarts_on_the_same_port_gets_in_and_the_old_association_ends(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        handler = Handler()
        async with serve(handler, HERE, 0, context=server, shutdown_timeout=0) as running:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind((HERE, 0))
                own = probe.getsockname()
            first = await client_of(running, client, local_addr=own)
            old = await handler.first()
            first._channel.abort()  # killed: no word to anybody
            async with client_of(running, client, local_addr=own) as second:
                with pytest.raises(dtls.AssociationReplaced):
                    await old.recv()
                with pytest.raises(dtls.AssociationReplaced):
                    await old.send(b"to whom?")
                assert old.is_closing()
                await until(lambda: len(handler.connections) == 2)
                await handler.connections[1].send(b"welcome back")
                assert await second.recv() == b"welcome back"
                assert second.get_extra_info("sockname") == own
            first._end(None)

    run(main)


def test_a_forged_hello_from_a_peers_address_changes_nothing(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            sock = connection.get_extra_info("socket")
            for forged in (whole(hello_body()), whole(hello_body(cookie=bytes(32)), message_sequence=1)):
                sock.send(forged)
                await connection.send(b"hello")
                assert await connection.recv() == b"hello"
            assert running.statistics["cookies_sent"] == 3
            assert running.statistics["handshakes_begun"] == len(running.connections) == 1

    run(main)


@each_loop
def test_a_thousand_handshakes_at_once_all_complete(client: Context, server: Context, loop_name: str) -> None:
    count = 1000 if loop_name == "asyncio" else 200
    patience = 100.0  # what overflows the socket's buffer is repeated, later and later
    client.handshake_timeout = server.handshake_timeout = patience

    async def main() -> None:
        underway = 0

        async def one(running: Server, number: int) -> None:
            nonlocal underway
            async with client_of(running, client, timeout=patience) as connection:
                underway = max(underway, sum(link.endpoint.handshakes for link in running._links))
                await all_there.wait()
                async with some:  # a socket's buffer does not hold a thousand messages
                    await connection.send(b"%d" % number)
                    assert await connection.recv() == b"%d" % number

        all_there, some = asyncio.Event(), asyncio.Semaphore(20)
        async with echoing(server) as running:
            clients = [asyncio.ensure_future(one(running, number)) for number in range(count)]
            await until(lambda: len(running.connections) == count or any(task.done() for task in clients))
            assert running.statistics["handshakes_completed"] == count
            all_there.set()
            await asyncio.gather(*clients)
        assert underway > 1

    run(main, loop_name, debug=False, patience=patience)


def test_a_thousand_handshakes_may_be_under_way_at_once(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clients' last flights are held back until the server is in a handshake with each of them."""
    count, patience = 1000, 100.0
    client.handshake_timeout = server.handshake_timeout = patience
    held: dict[Channel, tuple[bytes, Any]] = {}
    released = False
    offer = Channel.offer

    def hold(channel: Channel, datagram: bytes, way: Any) -> None:
        is_last_flight = datagram[:1] == b"\x16" and datagram[13] == HandshakeType.CLIENT_KEY_EXCHANGE
        if is_last_flight and not released:
            held.setdefault(channel, (datagram, way))
        else:
            offer(channel, datagram, way)

    async def main() -> None:
        nonlocal released
        monkeypatch.setattr(Channel, "offer", hold)
        async with echoing(server) as running:
            (endpoint,) = (link.endpoint for link in running._links)
            clients = [
                asyncio.ensure_future(opened(client_of(running, client, timeout=patience)))
                for _ in range(count)
            ]
            await until(lambda: endpoint.handshakes == count and len(held) == count)
            assert len(endpoint) == 0
            released = True
            for number, (channel, flight) in enumerate(held.items()):
                offer(channel, *flight)
                if number % 50 == 0:  # more than a socket's buffer holds would have to be repeated
                    await until(lambda done=number: len(endpoint) >= done)  # type: ignore[misc]
            connections = await asyncio.gather(*clients)
            assert running.statistics["handshakes_completed"] == count
            assert endpoint.handshakes == 0
            for connection in connections:
                await connection.close()

    run(main, debug=False, patience=patience)


async def opened(connecting: Any) -> DTLSConnection:
    connection: DTLSConnection = await connecting
    return connection


@each_loop
def test_noise_harms_nobody(client: Context, server: Context, loop_name: str) -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable, not secret

    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            own = connection.get_extra_info("socket")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.connect(running.sockets[0].getsockname())
                for sock in (own, stranger):
                    for beginning in (
                        b"",
                        b"\x14",
                        b"\x15",
                        b"\x16\xfe\xfd",
                        b"\x17\xfe\xfd\0\1",
                        b"\x19",
                        b"\xff",
                    ):
                        for length in (0, 1, 12, 13, 14, 60, 1400):
                            sock.send(beginning + chance.randbytes(length))
                        await connection.send(beginning + b"hello")
                        assert await connection.recv() == beginning + b"hello"
            assert len(running.connections) == 1
            assert running.statistics["dropped_no_association"] > 0

    run(main, loop_name)


def test_a_handler_that_cancels_itself_ends_its_association(client: Context, server: Context) -> None:
    async def handler(connection: DTLSConnection) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await connection.recv()

    async def main() -> None:
        async with (
            serve(handler, HERE, 0, context=server) as running,
            client_of(running, client) as connection,
        ):
            assert await connection.recv() == b""
            assert running.connections == frozenset()
            assert running.is_serving()

    run(main)


@pytest.mark.skipif(not hasattr(asyncio, "TaskGroup"), reason="needs Python 3.11")
@pytest.mark.parametrize("at_fault", [False, True])
def test_the_end_that_a_task_group_tells_of_is_no_fault_of_the_handler(
    client: Context, server: Context, at_fault: bool
) -> None:
    errors: list[dict[str, Any]] = []

    async def say(connection: DTLSConnection, *, too_late: bool) -> None:
        assert await connection.recv() == b""
        if at_fault and not too_late:
            raise RuntimeError
        await connection.send(b"too late")

    async def handler(connection: DTLSConnection) -> None:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
            group.create_task(say(connection, too_late=True))

    async def faulty(connection: DTLSConnection) -> None:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
            group.create_task(say(connection, too_late=False))

    async def main() -> None:
        async with serve(faulty if at_fault else handler, HERE, 0, context=server) as running:
            async with client_of(running, client):
                pass
            await until(lambda: not running.connections)

    run(main, errors=errors)
    assert bool(errors) is at_fault


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="needs Python 3.12")
def test_tasks_may_be_eager(client: Context, server: Context) -> None:
    """A handler then runs before the association's messages can reach it, and may end at once."""

    async def handler(connection: DTLSConnection) -> None:
        await connection.send(b"welcome")
        if await connection.recv() == b"again":
            await connection.send(b"bye")

    async def at_once(connection: DTLSConnection) -> None:
        pass

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        async with (
            serve(handler, HERE, 0, context=server) as running,
            client_of(running, client) as connection,
        ):
            assert await connection.recv() == b"welcome"
            await connection.send(b"again")
            assert [message async for message in connection] == [b"bye"]
        async with serve(at_once, HERE, 0, context=server) as running:
            async with client_of(running, client) as connection:
                assert await connection.recv() == b""
            assert running.connections == frozenset()

    run(main)


# --- closing a server ------------------------------------------------------------------------------------------------


@each_loop
def test_a_server_that_closes_lets_handlers_finish(client: Context, server: Context, loop_name: str) -> None:
    async def main() -> None:
        async def handler(connection: DTLSConnection) -> None:
            async for message in connection:
                await connection.send(message)
            await connection.send(b"the last of me")

        async with serve(handler, HERE, 0, context=server) as running:
            connection = await client_of(running, client)
            await connection.send(b"hello")
            assert await connection.recv() == b"hello"
            running.close()
            assert not running.is_serving()
            assert [message async for message in connection] == [b"the last of me"]
            await running.wait_closed()
            assert running.sockets == ()
            assert "closes_unanswered" not in running.statistics
            await connection.close()

    run(main, loop_name)


def test_a_closing_server_cancels_handlers_at_the_deadline(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        async with (
            serve(handler, HERE, 0, context=server, shutdown_timeout=0.05) as running,
            client_of(running, client) as connection,
        ):
            await handler.first()
            running.close()
            assert handler.cancelled == 0
            await running.wait_closed()
            assert handler.cancelled == 1
            assert await connection.recv() == b""

    run(main)


def test_a_closing_server_does_not_wait_for_ever_for_peers_that_are_gone(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            connection = await client_of(running, client)
            connection._channel.abort()
            running.close()
            await running.wait_closed()
            assert running.statistics["closes_unanswered"] == 1
            connection._end(None)

    run(main)


def test_a_handler_that_ignores_its_cancellation_does_not_keep_the_server(
    client: Context, server: Context, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        done = asyncio.Event()

        async def stubborn(connection: DTLSConnection) -> None:
            while not done.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await done.wait()

        running = await serve(stubborn, HERE, 0, context=server, shutdown_timeout=0)
        async with client_of(running, client):
            await until(lambda: running.connections)
            running.close()
            await running.wait_closed()
        assert "cancelled" in caplog.text
        done.set()
        await until(lambda: not running.connections)

    run(main)


def test_leaving_a_server_can_be_cut_short(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        serving: list[Server] = []

        async def until_told(told: asyncio.Event) -> None:
            async with serve(handler, HERE, 0, context=server, shutdown_timeout=PATIENCE) as running:
                serving.append(running)
                await told.wait()

        told = asyncio.Event()
        task = asyncio.ensure_future(until_told(told))
        await until(lambda: serving)
        async with client_of(serving[0], client):
            await handler.first()
            told.set()
            await until(lambda: not serving[0].is_serving())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await serving[0].wait_closed()
            assert handler.cancelled == 1

    run(main)


def test_a_closing_server_gives_up_handshakes_and_lets_nobody_in(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        running = await serve(handler, HERE, 0, context=server, shutdown_timeout=5)
        async with client_of(running, client):
            await handler.first()
            running.close()
            with pytest.raises(dtls.HandshakeTimeout):
                await client_of(running, client, timeout=0.2)
            handler.release.set()
            await running.wait_closed()
            running.close()
            await running.wait_closed()

    run(main)


@each_loop
def test_serve_forever_ends_when_it_is_cancelled(client: Context, server: Context, loop_name: str) -> None:
    async def main() -> None:
        running = await echoing(server)
        serving = asyncio.ensure_future(running.serve_forever())
        async with client_of(running, client) as connection:
            with pytest.raises(RuntimeError, match="already"):
                await running.serve_forever()
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert await connection.recv() == b""
        assert running.sockets == ()
        with pytest.raises(RuntimeError, match="closed"):
            await running.serve_forever()

    run(main, loop_name)


def test_serve_forever_ends_when_the_server_is_closed(server: Context) -> None:
    async def main() -> None:
        running = await echoing(server)
        serving = asyncio.ensure_future(running.serve_forever())
        await asyncio.sleep(0)
        running.close()
        with pytest.raises(asyncio.CancelledError):
            await serving

    run(main)


def test_a_server_may_be_aborted_while_it_closes(client: Context, server: Context) -> None:
    async def main() -> None:
        handler = Handler()
        running = await serve(handler, HERE, 0, context=server, shutdown_timeout=PATIENCE)
        async with client_of(running, client):
            await handler.first()
            running.close()
            running.abort()
            await running.wait_closed()
            assert handler.cancelled == 1
            running.abort()

    run(main)


# --- cancellation ----------------------------------------------------------------------------------------------------


@each_loop
def test_a_cancelled_recv_loses_no_message(client: Context, server: Context, loop_name: str) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            for number in range(50):
                waiting = asyncio.ensure_future(connection.recv())
                await asyncio.sleep(0)
                await connection.send(bytes([number]))
                # The message and the cancellation meet in the same step of the loop.
                await until(functools.partial(_message_or_end, connection, waiting))
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert await waiting == bytes([number])
                    continue
                assert await connection.recv() == bytes([number])

    run(main, loop_name)


def _message_or_end(connection: DTLSConnection, waiting: asyncio.Future[bytes]) -> bool:
    return bool(connection._messages) or waiting.done()


def test_a_recv_that_is_cancelled_at_the_moment_of_delivery_loses_no_message(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            waiting = asyncio.ensure_future(connection.recv())
            await asyncio.sleep(0)
            connection._deliver(b"exactly now")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await connection.recv() == b"exactly now"

    run(main)


def test_recv_with_a_timeout_can_be_tried_again(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(connection.recv(), 0.01)
            await connection.send(b"hello")
            assert await asyncio.wait_for(connection.recv(), PATIENCE) == b"hello"

    run(main)


def test_two_tasks_cannot_wait_for_messages_at_once(client: Context, server: Context) -> None:
    async def main() -> None:
        async with echoing(server) as running, client_of(running, client) as connection:
            waiting = asyncio.ensure_future(connection.recv())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await connection.recv()
            await connection.send(b"hello")
            assert await waiting == b"hello"

    run(main)


@each_loop
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13])
def test_a_cancelled_connect_leaves_nothing(
    client: Context, server: Context, loop_name: str, steps: int
) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            task = asyncio.ensure_future(_connected(running, client))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await task).close()
            assert steps or task.cancelled()

    run(main, loop_name)


def test_a_connect_that_is_cancelled_when_it_has_succeeded_tells_the_server(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        async with echoing(server) as running:
            task = asyncio.ensure_future(_connected(running, client))
            for _ in range(10_000):
                await asyncio.sleep(0)
                if running.connections:
                    break
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await task).close()
            await until(lambda: not running.connections)

    run(main)


async def _connected(running: Server, client: Context) -> DTLSConnection:
    connection = await client_of(running, client)
    assert isinstance(connection, DTLSConnection)
    return connection


def test_the_end_of_the_loop_ends_servers_and_clients(client: Context, server: Context) -> None:
    """``asyncio.run`` cancels every task when its main one is over."""

    async def main() -> None:
        started = asyncio.Event()

        async def serving() -> None:
            async with echoing(server) as running, client_of(running, client) as connection:
                await connection.send(b"hello")
                await connection.recv()
                started.set()
                await connection.recv()

        task = asyncio.ensure_future(serving())
        await started.wait()
        assert not task.done()

    asyncio.run(main(), debug=True)
    gc.collect()


def test_what_is_left_open_when_the_loop_ends_gives_a_resource_warning(
    client: Context, server: Context
) -> None:
    async def main() -> None:
        running = await echoing(server)
        await client_of(running, client)
        await until(lambda: running.connections)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert {warning.category for warning in caught} == {ResourceWarning}
    assert any("unclosed <dtls.asyncio.Channel" in str(warning.message) for warning in caught)


def test_what_is_made_and_not_awaited_does_nothing(client: Context, server: Context) -> None:
    connect("localhost", 1, context=client)
    serve(echo, "localhost", 1, context=server)
    gc.collect()


@pytest.mark.parametrize("closer", ["client", "server"])
def test_the_keys_of_an_ended_association_go_at_once(client: Context, server: Context, closer: str) -> None:
    """Without a collection of garbage: each holds tens of kilobytes."""

    async def main() -> None:
        kept: list[weakref.ref[Any]] = []

        async def handler(connection: DTLSConnection) -> None:
            kept.append(weakref.ref(connection._connection))
            async for message in connection:
                await connection.send(message)
                if closer == "server":
                    return

        async with serve(handler, HERE, 0, context=server) as running:
            for _ in range(3):
                async with client_of(running, client) as connection:
                    await connection.send(b"hello")
                    assert await connection.recv() == b"hello"
                    kept.append(weakref.ref(connection._connection))
                del connection
            await until(lambda: not running.connections)
            await until(lambda: not len(running._links[0].endpoint))
            await asyncio.sleep(0)
            assert [ref() for ref in kept] == [None] * 6

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()
