"""What a channel gathers: it leaves before the loop sleeps, in order, and before the end; on every kind of port."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
from typing import TYPE_CHECKING, Any

import pytest

from dtls import mmsg
from dtls.asyncio import channel as channels
from dtls.asyncio.channel import Channel
from dtls.kernel import now, wait_until_ready
from dtls.ports import BatchPort, Port

from .aio import HERE, each_loop, run, until
from .test_asyncio_channel import Obstructed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dtls.ports import Arrival

needs_batches = pytest.mark.skipif(not mmsg.available, reason="there are no such calls here")


class Recorder:
    """A consumer, which does with datagrams what the test says."""

    def __init__(self) -> None:
        self.batches: list[list[Arrival]] = []
        self.errors: list[OSError] = []
        self.room: list[bool] = []
        self.then: Callable[[Arrival], object] = lambda _: None

    def datagrams_received(self, batch: list[Arrival]) -> None:
        self.batches.append(batch)
        for arrival in batch:
            self.then(arrival)

    def error_received(self, error: OSError) -> None:
        self.errors.append(error)

    def room_changed(self, full: bool) -> None:
        self.room.append(full)


class Bench:
    """A channel, and the socket of its peer."""

    def __init__(self, kind: type[socket.socket] = socket.socket) -> None:
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.peer.bind((HERE, 0))
        self.peer.setblocking(False)
        sock = kind(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(self.peer.getsockname())
        self.peer.connect(sock.getsockname())
        self.consumer = Recorder()
        self.channel = Channel(asyncio.get_running_loop(), sock, self.consumer)
        self.way = self.channel.port.way(None)

    def transmit(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self.channel.transmit(datagram, self.way)

    def arrived(self) -> list[bytes]:
        """What the peer has got so far."""
        found = []
        try:
            while True:
                found.append(self.peer.recv(65_535))
        except BlockingIOError:
            return found

    def read(self, *datagrams: bytes) -> None:
        """Have the channel read datagrams of its peer now, as its loop would."""
        for datagram in datagrams:
            self.peer.send(datagram)
        wait_until_ready(self.channel.sock.fileno(), writable=False, until=now() + 5)
        self.channel._on_readable()

    def close(self) -> None:
        self.channel.abort()
        self.peer.close()


def on_bench(
    test: Callable[[Bench], Coroutine[Any, Any, None]],
    kind: type[socket.socket] = socket.socket,
    loop_name: str = "asyncio",
) -> None:
    async def main() -> None:
        bench = Bench(kind)
        try:
            await bench.channel.open()
            await test(bench)
        finally:
            bench.close()

    run(main, loop_name)


def numbered(first: int, last: int) -> list[bytes]:
    return [number.to_bytes(2, "big") for number in range(first, last)]


# --- when ------------------------------------------------------------------------------------------------------------


@each_loop
def test_a_message_alone_is_sent_at_once(loop_name: str) -> None:
    async def test(bench: Bench) -> None:
        bench.transmit(b"alone")
        assert bench.arrived() == [b"alone"]

    on_bench(test, loop_name=loop_name)


@needs_batches
def test_an_answer_to_one_that_came_alone_is_sent_at_once() -> None:
    async def test(bench: Bench) -> None:
        bench.consumer.then = lambda _: bench.transmit(b"answer")
        bench.read(b"question")
        assert bench.arrived() == [b"answer"]
        bench.consumer.then = lambda _: (bench.channel.offer(b"a", bench.way), bench.transmit(b"b"))  # type: ignore[func-returns-value]
        bench.read(b"question")
        assert bench.arrived() == [b"a", b"b"]

    on_bench(test)


@needs_batches
def test_answers_to_several_leave_together_before_the_loop_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        calls: list[int] = []
        send_many = BatchPort.send_many

        def counting(port: BatchPort, queue: Any) -> int:
            calls.append(len(queue))
            return send_many(port, queue)

        monkeypatch.setattr(BatchPort, "send_many", counting)
        bench.consumer.then = lambda arrival: bench.transmit(arrival[0])
        bench.read(*numbered(0, 10))
        assert bench.arrived() == numbered(0, 10)
        assert calls == [10]
        # Tasks that were woken by them answer in the loop's next turn: those answers are gathered, too.
        bench.transmit(*numbered(0, 5))
        assert bench.arrived() == []
        await asyncio.sleep(0)
        assert bench.arrived() == numbered(0, 5)
        assert calls == [10, 5]

    on_bench(test)


@needs_batches
def test_what_is_sent_in_a_row_is_gathered_for_a_turn_of_the_loop() -> None:
    async def test(bench: Bench) -> None:
        bench.transmit(*numbered(0, 20))
        at_once = bench.arrived()
        assert at_once == numbered(0, channels.SENDS_IN_A_ROW)
        await asyncio.sleep(0)
        assert at_once + bench.arrived() == numbered(0, 20)

    on_bench(test)


@needs_batches
def test_no_more_is_gathered_than_one_call_takes() -> None:
    async def test(bench: Bench) -> None:
        bench.transmit(*numbered(0, channels.SENDS_IN_A_ROW + channels.MAX_GATHERED - 1))
        assert len(bench.arrived()) == channels.SENDS_IN_A_ROW
        bench.transmit(b"the last")
        assert len(bench.arrived()) == channels.MAX_GATHERED

    on_bench(test)


@needs_batches
def test_a_consumer_that_is_interrupted_keeps_nothing_back() -> None:
    async def test(bench: Bench) -> None:
        def interrupt(_: Arrival) -> None:
            bench.transmit(b"answer")
            raise KeyboardInterrupt

        bench.consumer.then = interrupt
        with pytest.raises(KeyboardInterrupt):
            bench.read(b"one", b"other")
        assert bench.arrived() == [b"answer"]
        bench.consumer.then = lambda _: None
        bench.transmit(b"later")
        await asyncio.sleep(0)
        assert bench.arrived() == [b"later"]

    on_bench(test)


# --- order -----------------------------------------------------------------------------------------------------------


def without_segments(patch: pytest.MonkeyPatch) -> type[socket.socket]:
    patch.setattr(mmsg, "takes_segments", lambda _: False)
    return socket.socket


def refused_segments(patch: pytest.MonkeyPatch) -> type[socket.socket]:
    patch.setattr(BatchPort, "send_run", lambda *_: False)
    return socket.socket


KINDS: dict[str, Callable[[pytest.MonkeyPatch], type[socket.socket]]] = {
    "batches": lambda _: socket.socket,
    "no segments": without_segments,
    "refused segments": refused_segments,
    "calls": lambda _: Obstructed,
}


def hinder(patch: pytest.MonkeyPatch, chance: random.Random) -> None:
    """Have the send buffer be full every now and then, whichever call is made."""

    def hindered(call: Any) -> Any:
        def made(*arguments: Any, **named: Any) -> Any:
            if chance.random() < 0.1:
                raise BlockingIOError(errno.EAGAIN, "as a full buffer has it")
            return call(*arguments, **named)

        return made

    patch.setattr(Port, "send", hindered(Port.send))
    patch.setattr(BatchPort, "send_run", hindered(BatchPort.send_run))
    patch.setattr(mmsg, "send", hindered(mmsg.send))


def dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable, not secret


class Traffic:
    """Messages, runs, offers and reads of one or several at a time, in any order."""

    def __init__(self, bench: Bench, chance: random.Random) -> None:
        self.bench = bench
        self.chance = chance
        self.number = 0
        self.promised: list[bytes] = []
        self.offered: list[bytes] = []
        bench.consumer.then = lambda _: self.transmit()

    def some(self, count: int) -> list[bytes]:
        self.number += count
        return numbered(self.number - count, self.number)

    def transmit(self) -> None:
        self.promised += (datagrams := self.some(1))
        self.bench.transmit(*datagrams)

    def transmit_run(self) -> None:
        self.promised += (datagrams := self.some(self.chance.randrange(1, 20)))
        self.bench.channel.transmit_run(b"".join(datagrams), 2, self.bench.way)

    def offer(self) -> None:
        self.offered += (datagrams := self.some(1))
        self.bench.channel.offer(datagrams[0], self.bench.way)

    def read(self) -> None:
        self.bench.read(*[b"read"] * self.chance.choice([1, 3]))

    async def go_on(self) -> None:
        steps = (self.transmit, self.transmit_run, self.offer, self.read)
        for _ in range(150):
            if self.chance.random() < 0.1:
                await asyncio.sleep(0)
            self.chance.choice(steps)()

    async def end(self) -> list[bytes]:
        """What has arrived after the end, with what is said last."""
        channel = self.bench.channel
        await until(lambda: not channel.full)
        channel.offer(LAST, self.bench.way)
        closed = channel.loop.create_future()
        channel.close(lambda: closed.set_result(None))
        await closed
        return self.bench.arrived()


LAST = b"close_notify"
seeds = pytest.mark.parametrize("seed", range(5))


@pytest.mark.parametrize("kind", KINDS)
@seeds
def test_nothing_overtakes(monkeypatch: pytest.MonkeyPatch, kind: str, seed: int) -> None:
    async def test(bench: Bench) -> None:
        traffic = Traffic(bench, dice(seed))
        await traffic.go_on()
        assert await traffic.end() == [*numbered(0, traffic.number), LAST]

    on_bench(test, KINDS[kind](monkeypatch))


@pytest.mark.parametrize("kind", KINDS)
@seeds
def test_nothing_overtakes_nor_is_sent_twice_while_buffers_are_full(
    monkeypatch: pytest.MonkeyPatch, kind: str, seed: int
) -> None:
    hinder(monkeypatch, dice(seed))

    async def test(bench: Bench) -> None:
        traffic = Traffic(bench, dice(seed))
        await traffic.go_on()
        arrived = [datagram for datagram in await traffic.end() if datagram != LAST]
        assert arrived == sorted(set(arrived))
        assert set(traffic.promised) <= set(arrived) <= {*traffic.promised, *traffic.offered}

    on_bench(test, KINDS[kind](monkeypatch))


@needs_batches
def test_a_full_buffer_in_the_middle_of_a_call_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        room = iter([3, 0, 2])
        real = mmsg._sendmmsg

        def call(descriptor: int, headers: int, count: int, flags: int) -> int:
            allowed = next(room, count)
            if not allowed:
                mmsg._ctypes.set_errno(errno.EAGAIN)
                return -1
            return int(real(descriptor, headers, min(count, allowed), flags))

        monkeypatch.setattr(mmsg, "_sendmmsg", call)
        bench.channel.port.segments = False
        bench.transmit(*numbered(0, 12))
        bench.channel.flush()
        assert bench.channel.full
        assert bench.arrived() == numbered(0, 7)
        bench.transmit(b"later")
        waiting = asyncio.ensure_future(bench.channel.room())
        await waiting
        assert bench.arrived() == [*numbered(7, 12), b"later"]
        assert bench.consumer.room[0] is True
        await until(lambda: not bench.channel.full)
        assert bench.consumer.room == [True, False]

    on_bench(test)


@needs_batches
@pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.ENETUNREACH, errno.EPERM])
def test_one_that_the_kernel_does_not_take_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def test(bench: Bench) -> None:
        send = mmsg.send

        def call(descriptor: int, queue: Any, *, segments: bool) -> int:
            pairs = list(queue)
            if pairs[0][0] == b"bad":
                raise OSError(number, os.strerror(number))
            count = next((at for at, (datagram, _) in enumerate(pairs) if datagram == b"bad"), len(pairs))
            return send(descriptor, pairs[:count], segments=segments)

        monkeypatch.setattr(mmsg, "send", call)
        bench.transmit(*numbered(0, 7), b"bad", *numbered(7, 12), b"bad")
        await asyncio.sleep(0)
        assert bench.arrived() == numbered(0, 12)
        assert bench.channel.statistics[f"socket_{errno.errorcode[number].lower()}"] == 2
        assert [error.errno for error in bench.consumer.errors] == [number] * 2
        assert not bench.channel.full

    on_bench(test)


@needs_batches
def test_a_refusal_of_what_was_sent_before_costs_none_of_what_is_gathered() -> None:
    async def test(bench: Bench) -> None:
        address = bench.peer.getsockname()
        own = bench.channel.sock.getsockname()
        bench.transmit(*numbered(0, 10))
        bench.peer.close()
        bench.channel.sock.send(b"refused")
        bench.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bench.peer.bind(address)
        bench.peer.connect(own)
        bench.peer.setblocking(False)
        bench.channel.flush()
        assert bench.arrived() == numbered(channels.SENDS_IN_A_ROW, 10)
        assert bench.channel.statistics["socket_econnrefused"] == 1

    on_bench(test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_of_what_was_sent_before_costs_no_run(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async def test(bench: Bench) -> None:
        address = bench.peer.getsockname()
        own = bench.channel.sock.getsockname()
        bench.peer.close()
        bench.channel.sock.send(b"refused")
        bench.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bench.peer.bind(address)
        bench.peer.connect(own)
        bench.peer.setblocking(False)
        bench.channel.transmit_run(b"".join(numbered(0, 10)), 2, bench.way)
        assert bench.arrived() == numbered(0, 10)
        assert [error.errno for error in bench.consumer.errors] == [errno.ECONNREFUSED]

    on_bench(test, KINDS[kind](monkeypatch))


@needs_batches
def test_a_run_that_the_network_does_not_take_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> bool:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(BatchPort, "send_run", unreachable)

    async def test(bench: Bench) -> None:
        bench.channel.transmit_run(b"".join(numbered(0, 10)), 2, bench.way)
        await asyncio.sleep(0)
        assert bench.arrived() == []
        assert bench.channel.statistics == {"socket_enetunreach": 1}

    on_bench(test)


@needs_batches
@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.EPERM])
@pytest.mark.parametrize("then", ["nothing", "sends", "closes", "aborts"])
def test_errors_at_every_call_come_to_an_end_whatever_is_done_about_them(
    monkeypatch: pytest.MonkeyPatch, number: int, then: str
) -> None:
    async def test(bench: Bench) -> None:
        calls: list[list[bytes]] = []
        heard: list[OSError] = []

        def failing(_: int, queue: Any, **__: Any) -> int:
            calls.append([datagram for datagram, _ in queue])
            raise OSError(number, os.strerror(number))

        def react(error: OSError) -> None:
            heard.append(error)
            if then == "sends" and len(calls) < 10:
                bench.transmit(b"another")
            elif then == "closes":
                bench.channel.close()
            elif then == "aborts":
                bench.channel.abort()

        bench.transmit(*numbered(0, 50))
        monkeypatch.setattr(mmsg, "send", failing)
        monkeypatch.setattr(bench.consumer, "error_received", react)
        bench.channel.flush()
        tries = 2 if number == errno.ECONNREFUSED else 1
        for datagram in numbered(channels.SENDS_IN_A_ROW, 50):
            assert 1 <= sum(queue[0] == datagram for queue in calls) <= tries
        assert {error.errno for error in heard} == {number}
        assert then != "aborts" or len(heard) == 1
        assert bench.channel.closed is (then in {"closes", "aborts"})
        assert not bench.channel._queue or then == "sends"

    on_bench(test)


def test_what_waits_for_room_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MAX_UNSENT", 100)

    async def test(bench: Bench) -> None:
        sock: Any = bench.channel.sock
        sock.full = True
        bench.transmit(*numbered(0, 50))
        bench.channel.transmit_run(b"".join(numbered(50, 110)), 2, bench.way)
        bench.channel.offer(b"offered", bench.way)
        assert bench.channel.statistics["dropped_send_buffer_full"] == 11
        assert bench.channel.unsent_bytes == 200
        sock.full = False
        await until(lambda: not bench.channel.full)
        assert bench.arrived() == numbered(0, 100)

    on_bench(test, Obstructed)


# --- the end ---------------------------------------------------------------------------------------------------------


@needs_batches
@pytest.mark.parametrize("end", ["close", "abort"])
def test_what_is_gathered_goes_out_before_the_end(end: str) -> None:
    async def test(bench: Bench) -> None:
        bench.transmit(*numbered(0, 20))
        bench.channel.offer(b"close_notify", bench.way)
        getattr(bench.channel, end)()
        assert bench.channel.sock.fileno() == -1
        assert bench.arrived() == [*numbered(0, 20), b"close_notify"]

    on_bench(test)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_after_the_end_goes_nowhere(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The number of the descriptor belongs to somebody else by then."""

    async def test(bench: Bench) -> None:
        channel = bench.channel
        number = channel.sock.fileno()
        bench.transmit(*numbered(0, 20))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            channel.abort()
            before = bench.arrived()
            stranger.connect(bench.peer.getsockname())
            os.dup2(stranger.fileno(), number)
            try:
                bench.transmit(b"late", b"late")
                channel.transmit_run(b"latelate", 4, bench.way)
                channel.offer(b"late", bench.way)
                channel.flush()
                channel.close()
                for _ in range(3):
                    await asyncio.sleep(0)
            finally:
                os.close(number)
            bench.peer.connect(stranger.getsockname())
            stranger.send(b"of the stranger")
            assert bench.arrived() == [b"of the stranger"]
        assert before == numbered(0, 20)
        assert channel.statistics["dropped_after_close"] == 5

    on_bench(test, KINDS[kind](monkeypatch))


@needs_batches
@pytest.mark.parametrize("end", ["close", "detach"])
def test_a_socket_that_its_user_has_closed_takes_nothing_gathered_to_a_stranger(end: str) -> None:
    async def test(bench: Bench) -> None:
        channel = bench.channel
        number = channel.sock.fileno()
        channel.loop.remove_reader(number)  # or the loop would watch the stranger
        bench.transmit(*numbered(0, 20))
        channel.flush()
        assert bench.arrived() == numbered(0, 20)
        bench.transmit(*numbered(20, 40))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind((HERE, 0))
            stranger.connect(bench.peer.getsockname())
            getattr(channel.sock, end)()
            os.dup2(stranger.fileno(), number)
            try:
                await asyncio.sleep(0)
                channel._on_readable()
                bench.transmit(b"late")
                channel.transmit_run(b"latelate", 4, bench.way)
                channel.abort()
            finally:
                os.close(number)
            assert bench.arrived() == []
            bench.peer.connect(stranger.getsockname())
            stranger.send(b"of the stranger")
            assert bench.arrived() == [b"of the stranger"]
        assert channel.statistics["socket_ebadf"] > 0

    on_bench(test)


@needs_batches
def test_what_is_gathered_goes_out_even_when_the_loop_is_closed() -> None:
    """Whoever aborts then, as a finalizer may, still says close_notify."""
    loop = asyncio.SelectorEventLoop()

    async def main() -> Bench:
        bench = Bench()
        await bench.channel.open()
        bench.read(b"one", b"two")
        return bench

    bench = loop.run_until_complete(main())
    bench.channel.loop.remove_reader(bench.channel.sock.fileno())
    loop.close()
    bench.channel.offer(b"close_notify", bench.way)
    bench.channel.abort()
    assert bench.arrived() == [b"close_notify"]
    bench.peer.close()


@needs_batches
def test_a_loop_that_cannot_watch_gets_no_segments() -> None:
    """asyncio's own transport takes what it reads for one datagram, however many the kernel gives as one."""

    async def test(bench: Bench) -> None:
        if not mmsg.takes_segments(bench.peer):
            pytest.skip("the kernel knows no segments")
        assert type(bench.channel.port) not in {Port, BatchPort}
        bench.peer.sendmsg([b"x" * 30], [mmsg.segment_control(10)])
        await until(lambda: len(bench.consumer.batches) == 3)
        assert bench.consumer.batches == [[(b"x" * 10, None, 0)]] * 3

    on_bench(test, loop_name="without readers")
