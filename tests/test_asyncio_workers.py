"""A server of several processes: one port, one secret for cookies, one set of ticket keys, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls.asyncio import run_server, supervisor, workers

from .aio import echo, needs_uvloop
from .hellos import OFFER, cookie_in, hello_body, whole
from .loopback import PATIENCE, Worker, needs_ipv6, wait_for
from .processes import (
    ENOUGH,
    HERE,
    Client,
    Running,
    block,
    descriptors,
    exchange,
    is_alive,
    server_random,
    try_to_ask,
    udp,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dtls.context import Context

    from .peers.openssl import Files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads datagrams over processes")


@pytest.fixture
def start(files: Files) -> Iterator[Callable[..., Running]]:
    """Starts servers; whatever is left of them when a test fails is killed."""
    running = []

    def begin(**options: Any) -> Running:
        running.append(Running(files.server, **options))
        return running[-1]

    yield begin
    for one in running:
        one.clear_up()


@pytest.fixture
def crowd(client: Context) -> Iterator[Callable[..., list[Client]]]:
    """Makes clients, which are closed at the end."""
    with contextlib.ExitStack() as stack:

        def gather(running: Running, count: int = ENOUGH) -> list[Client]:
            clients = []
            for _ in range(count):
                clients.append(Client(running, client))
                stack.enter_context(clients[-1].sock)
            return clients

        yield gather


# --- one port --------------------------------------------------------------------------------------------------------


def test_200_clients_are_all_served_and_each_of_three_workers_has_some(
    start: Callable[..., Running], crowd: Callable[..., list[Client]]
) -> None:
    running = start(workers=3)
    pids = running.serving(3)
    clients = crowd(running, 200)
    assert {one.pid for one in clients} == pids
    assert running.process.pid not in pids
    assert [one.ask() for one in clients] == [one.pid for one in clients]
    assert running.end() == 0


@needs_ipv6
def test_all_addresses_have_one_port_and_are_all_served(
    start: Callable[..., Running], client: Context
) -> None:
    running = start(workers=2, host=None)
    pids = running.serving(2)
    assert len(running.ports) == 2
    assert len(set(running.ports)) == 1
    for host in (HERE, "::1"):
        found = set()
        for _ in range(ENOUGH):
            with dtls.create_connection(
                (host, running.ports[0]), PATIENCE, context=client, server_hostname="localhost"
            ) as sock:
                sock.send(b"who")
                found.add(int(sock.recv().split()[0]))
        assert found == pids
    assert running.end() == 0


@pytest.mark.parametrize("count", [1, 2])
def test_a_port_that_somebody_serves_is_not_shared(start: Callable[..., Running], count: int) -> None:
    running = start(workers=2)
    running.serving(2)
    late = start(workers=count, port=running.ports[0])
    assert late.ended() == 1
    assert "OSError: [Errno 98] cannot bind" in late.log[-1]
    assert late.said.empty()
    assert running.end() == 0


def test_a_port_whose_owner_would_share_it_is_not_taken(server: Context) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((HERE, 0))
        with pytest.raises(OSError, match="cannot bind") as caught:
            run_server(echo, HERE, sock.getsockname()[1], context=server, workers=1)
    assert caught.value.errno == errno.EADDRINUSE


def test_an_address_of_another_machine_is_an_error_and_leaves_nothing_open(server: Context) -> None:
    before = descriptors()
    with pytest.raises(OSError, match=r"192\.0\.2\.1") as caught:
        run_server(echo, [HERE, "192.0.2.1"], 0, context=server, workers=1)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert descriptors() == before


@needs_uvloop
@pytest.mark.skipif(sys.version_info < (3, 11), reason="loop_factory needs Python 3.11")
def test_workers_may_have_another_event_loop(
    start: Callable[..., Running], crowd: Callable[..., list[Client]]
) -> None:
    running = start(workers=2, uvloop=True)
    pids = running.serving(2)
    assert {one.pid for one in crowd(running)} == pids
    assert running.end() == 0
    assert running.next("left") in pids


# --- what is shared, and what must not be ----------------------------------------------------------------------------


def test_a_session_of_one_worker_is_resumed_by_another(
    start: Callable[..., Running], client: Context
) -> None:
    running = start(workers=2)
    running.serving(2)
    first = Client(running, client)
    session = first.sock.session
    first.sock.close()
    assert session is not None
    assert session.has_ticket
    seen = set()
    for _ in range(ENOUGH):
        again = Client(running, client, session=session)
        assert again.sock.session_reused
        seen.add(again.pid)
        again.sock.close()
    assert len(seen) == 2
    assert running.end() == 0


def test_no_worker_repeats_another_ones_random_numbers(
    start: Callable[..., Running], crowd: Callable[..., list[Client]]
) -> None:
    running = start(workers=2)
    running.serving(2)
    numbers: dict[int, list[bytes]] = {}
    for one in crowd(running):
        one.sock.send(b"random")
        numbers.setdefault(one.pid, []).append(one.sock.recv())
    assert len(numbers) == 2
    for kind in (0, 1):
        drawn = [answer.split()[kind] for answers in numbers.values() for answer in answers]
        assert len(set(drawn)) == len(drawn) == ENOUGH
    salts, randoms = set(), set()
    for _ in range(ENOUGH):
        with udp(running) as sock:
            # Another random for each: the same one from a port that is used again would be the same handshake.
            own = os.urandom(32)
            cookie = cookie_in(exchange(sock, whole(hello_body(random=own, extensions=OFFER))))
            salts.add(cookie[:8])
            hello = hello_body(random=own, cookie=cookie, extensions=OFFER)
            answer = exchange(sock, whole(hello, message_sequence=1))
            randoms.add(server_random(answer))
    assert len(salts) == len(randoms) == ENOUGH
    assert running.end() == 0


# --- a worker dies ---------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_the_others_peers_notice_nothing(
    start: Callable[..., Running], crowd: Callable[..., list[Client]], client: Context
) -> None:
    running = start(workers=2)
    running.serving(2)
    clients = crowd(running)
    victim = clients[0].pid
    lost = [one for one in clients if one.pid == victim]
    spared = [one for one in clients if one.pid != victim]
    assert spared
    for one in clients:  # amid traffic
        one.sock.send(b"who")
    os.kill(victim, signal.SIGKILL)
    for one in spared:
        assert int(one.sock.recv().split()[0]) == one.pid
    (successor,) = running.serving(1)
    assert successor not in {one.pid for one in clients}
    for one in lost:
        place = one.sock.getsockname()
        one.sock.close()
        again = Client(running, client, source_address=place)
        assert again.pid == successor
        again.sock.close()
    assert [one.ask() for one in spared] == [one.pid for one in spared]
    assert f"process {victim} was killed by SIGKILL; the next one starts in 0.1 s" in running.logged(
        str(victim)
    )
    assert running.end() == 0


def test_a_handshake_goes_on_with_the_successor_of_the_worker_that_gave_the_cookie(
    start: Callable[..., Running],
) -> None:
    running = start(workers=2)
    pids = running.serving(2)
    with contextlib.ExitStack() as stack:
        asked = []
        for _ in range(20):
            sock = stack.enter_context(udp(running))
            asked.append((sock, cookie_in(exchange(sock, whole(hello_body(extensions=OFFER))))))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        # Before the successors are there: what comes in between waits for them.
        for sock, cookie in asked:
            sock.send(whole(hello_body(cookie=cookie, extensions=OFFER), message_sequence=1))
        assert running.serving(2).isdisjoint(pids)
        for sock, _ in asked:
            assert server_random(sock.recv(65535))
    assert running.end() == 0


@pytest.mark.parametrize(
    ("order", "words"), [(b"die", "exited with status 7"), (None, "exited with status 0")]
)
def test_a_worker_that_ends_by_itself_is_replaced(
    start: Callable[..., Running], client: Context, order: bytes | None, words: str
) -> None:
    running = start(workers=2)
    pids = running.serving(2)
    one = Client(running, client)
    with one.sock:
        if order:
            one.sock.send(order)
        else:
            os.kill(one.pid, signal.SIGTERM)  # this one is told, and closes as the whole server would
            assert one.sock.recv() == b""
        assert running.serving(1).isdisjoint(pids)
    running.logged(f"process {one.pid} {words}")
    assert running.end() == 0


def test_nothing_is_left_open_however_often_workers_are_replaced(start: Callable[..., Running]) -> None:
    running = start(workers=2)
    (victim, _) = running.serving(2)
    before = descriptors(running.process.pid)
    for _ in range(4):
        os.kill(victim, signal.SIGKILL)
        (victim,) = running.serving(1)
    assert len(descriptors(running.process.pid)) == len(before)
    sockets = [link for link in descriptors(victim) if link.startswith("socket:")]
    assert len(sockets) == 3, sockets  # a UDP socket, and the loop's pair
    assert running.end() == 0


def test_a_successor_that_cannot_start_is_tried_again_while_the_others_serve(
    start: Callable[..., Running], client: Context, tmp_path: Path
) -> None:
    trouble = tmp_path / "trouble"
    running = start(workers=2, later=str(trouble))
    pids = running.serving(2)
    trouble.touch()
    one = Client(running, client)
    victim = next(iter(pids - {one.pid}))
    os.kill(victim, signal.SIGKILL)
    running.logged("LookupError: no database today")
    running.logged("the next one starts in 0.4 s")
    trouble.unlink()
    (successor,) = running.serving(1)
    with one.sock:
        assert one.ask() == one.pid
        assert successor not in pids
    assert running.end() == 0


def test_the_pause_before_a_successor_grows_to_a_bound_and_is_forgotten_when_one_has_lasted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 1000.0
    monkeypatch.setattr(supervisor, "now", lambda: clock)
    place = supervisor._Place(0, [])
    place.has_served = True
    pauses = []
    for lived in [0.0] * 10 + [supervisor.SETTLED_SECONDS, 0.0]:
        place._started_at = clock
        clock += lived
        place.await_next("has ended")
        pauses.append(place.start_at - clock)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 0.0, 0.1])


def test_a_flood_of_hellos_from_many_addresses_harms_no_worker_and_no_peer(
    start: Callable[..., Running], crowd: Callable[..., list[Client]]
) -> None:
    running = start(workers=2)
    pids = running.serving(2)
    clients = crowd(running, 20)
    hello = whole(hello_body(extensions=OFFER))
    with contextlib.ExitStack() as stack:
        crowd_of_sockets = []
        for number in range(200):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((f"127.0.{number % 8 + 1}.{number % 250 + 1}", 0))
            crowd_of_sockets.append(sock)
        for turn in range(50):
            for number, sock in enumerate(crowd_of_sockets):
                sock.sendto(hello if number % 3 else os.urandom(40), running.address)
            if turn % 10 == 0:
                assert all(try_to_ask(one) for one in clients)
    assert all(try_to_ask(one) for one in clients)
    assert {one.pid for one in clients} == pids
    assert running.end() == 0
    assert not [line for line in running.log if "ERROR" in line]


# --- the beginning ---------------------------------------------------------------------------------------------------


def test_workers_that_cannot_start_end_it_and_say_why(start: Callable[..., Running]) -> None:
    running = start(workers=3, mood="fail")
    assert running.ended() == 1
    text = "".join(running.log)
    assert re.search(r"RuntimeError: worker \d cannot serve: process \d+ exited with status 1:\n", text)
    assert "LookupError: no database today" in text


def test_a_single_worker_that_cannot_start_raises_what_it_met(start: Callable[..., Running]) -> None:
    running = start(workers=1, mood="fail")
    assert running.ended() == 1
    assert running.log[-1] == "LookupError: no database today\n"


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_ended_while_workers_are_starting(
    start: Callable[..., Running], count: int, number: int
) -> None:
    running = start(workers=count, mood="hang")
    for _ in range(count):
        running.next("starting")
    if number == signal.SIGTERM:
        assert running.end(number) == 0
        running.next("returned")
    else:
        assert running.end(number) == -signal.SIGINT
        assert running.log[-1] == "KeyboardInterrupt\n"


def test_a_worker_that_is_killed_before_it_has_served_ends_it(start: Callable[..., Running]) -> None:
    running = start(workers=2, mood="hang")
    os.kill(running.next("starting"), signal.SIGKILL)
    assert running.ended() == 1
    assert re.search(
        r"RuntimeError: worker \d cannot serve: process \d+ was killed by SIGKILL", running.log[-1]
    )


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"workers": 0}, ValueError, "at least 1"),
        ({"workers": -3}, ValueError, "at least 1"),
        ({"workers": "2"}, TypeError, "a number of processes"),
        ({"workers": 1.5}, TypeError, "a number of processes"),
        ({"port": None}, ValueError, "Neither host/port"),
        ({"host": []}, ValueError, "no address"),
        ({"shutdown_timeout": -1}, ValueError, "shutdown_timeout"),
        ({"shutdown_timeout": float("inf")}, ValueError, "shutdown_timeout"),
        ({"lifespan": 17}, TypeError, "lifespan"),
        ({"handler": None}, TypeError, "coroutine function"),
        ({"cookie_policy": "sometimes"}, ValueError, "cookie_policy"),
    ],
)
def test_what_makes_no_sense_is_refused(
    server: Context, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments: dict[str, Any] = {
        "handler": echo,
        "host": HERE,
        "port": 0,
        "context": server,
        "workers": 1,
        **options,
    }
    with pytest.raises(error, match=words):
        run_server(**arguments)


def test_a_clients_context_is_refused(client: Context) -> None:
    with pytest.raises(ValueError, match="server's context"):
        run_server(echo, HERE, 0, context=client, workers=1)


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="this Python can")
def test_a_loop_factory_needs_a_later_python(server: Context) -> None:
    with pytest.raises(NotImplementedError, match=r"uvloop.install\(\)"):
        run_server(echo, HERE, 0, context=server, workers=1, loop_factory=asyncio.new_event_loop)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="loop_factory needs Python 3.11")
def test_a_loop_that_cannot_be_made_leaves_nothing_open(server: Context) -> None:
    def factory() -> asyncio.AbstractEventLoop:
        raise LookupError

    before = descriptors()
    with pytest.raises(LookupError):
        run_server(echo, HERE, 0, context=server, workers=1, loop_factory=factory)
    assert descriptors() == before


def test_it_is_not_called_while_a_loop_runs(server: Context) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="while one runs"):
            run_server(echo, HERE, 0, context=server, workers=1)

    asyncio.run(main())


def test_it_is_not_called_in_another_thread(server: Context) -> None:
    with pytest.raises(RuntimeError, match="main thread"):
        Worker(lambda: run_server(echo, HERE, 0, context=server, workers=1)).result()


def test_no_process_is_forked_beside_threads(server: Context) -> None:
    over = threading.Event()
    worker = Worker(over.wait, PATIENCE)
    try:
        with pytest.raises(RuntimeError, match=f"{worker.name}: start threads in lifespan"):
            run_server(echo, HERE, 0, context=server, workers=2)
    finally:
        over.set()
        worker.result()


def test_elsewhere_than_on_linux_there_is_one_worker(
    server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotImplementedError, match="use workers=1"):
        run_server(echo, HERE, 0, context=server, workers=2)
    assert workers._count(None) == workers._count(1) == 1


def test_by_default_there_is_a_worker_for_each_usable_cpu() -> None:
    assert workers._count(None) == len(os.sched_getaffinity(0))


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_all_workers_gracefully(
    start: Callable[..., Running], crowd: Callable[..., list[Client]], count: int, number: int
) -> None:
    running = start(workers=count)
    pids = running.serving(count)
    assert (pids == {running.process.pid}) is (count == 1)
    clients = crowd(running)
    assert {one.pid for one in clients} == pids
    running.process.send_signal(number)
    for one in clients:
        assert one.sock.recv() == b""  # close_notify
        one.sock.close()
    status = running.ended()
    left = [running.said.get(timeout=PATIENCE) for _ in range(count)]
    assert {int(pid) for _, pid, _ in left} == pids
    # The code after a lifespan's yield has run, and then the server had no socket open.
    assert {(what, socks) for what, _, socks in left} == {("left", "0")}
    if number == signal.SIGTERM:
        assert status == 0
        running.next("returned")
    else:
        assert status == -signal.SIGINT
        assert running.log[-1] == "KeyboardInterrupt\n"


def test_ctrl_c_in_a_terminal_goes_to_all_processes_and_still_closes_them(
    start: Callable[..., Running], client: Context
) -> None:
    running = start(workers=2)
    pids = running.serving(2)
    one = Client(running, client)
    for pid in (*pids, running.process.pid):
        os.kill(pid, signal.SIGINT)
    with one.sock:
        assert one.sock.recv() == b""
    assert running.ended() == -signal.SIGINT
    assert {running.next("left"), running.next("left")} == pids


def test_a_worker_that_does_not_end_is_killed_at_the_second_signal(
    start: Callable[..., Running], client: Context
) -> None:
    running = start(workers=2, shutdown_timeout=1000)
    pids = running.serving(2)
    stuck = block(running, client)
    with stuck.sock:
        running.process.send_signal(signal.SIGTERM)
        assert {running.next("left")} == pids - {stuck.pid}
        assert running.end() == 0
    running.logged(f"process {stuck.pid}, is killed: it has not closed")


def test_a_worker_that_does_not_end_is_killed_when_its_time_is_over(
    start: Callable[..., Running], client: Context
) -> None:
    running = start(workers=2, shutdown_timeout=0, patience=0)
    running.serving(2)
    stuck = block(running, client)
    with stuck.sock:
        assert running.end() == 0
    running.logged(f"process {stuck.pid}, is killed: it has not closed")


def test_workers_end_when_the_process_that_started_them_is_killed(
    start: Callable[..., Running], crowd: Callable[..., list[Client]]
) -> None:
    running = start(workers=2)
    pids = running.serving(2)
    clients = crowd(running)
    running.process.kill()
    for one in clients:
        assert one.sock.recv() == b""
        one.sock.close()
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    assert running.ended() == -signal.SIGKILL
    running.logged("the process that started this worker has gone")
    # And the port is free.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(running.address)


def test_a_worker_that_is_left_alone_does_not_outlive_its_patience(
    start: Callable[..., Running], client: Context
) -> None:
    running = start(workers=2, shutdown_timeout=0, patience=0, mood="stay")
    pids = running.serving(2)
    running.process.kill()
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    assert running.ended() == -signal.SIGKILL
    assert running.said.empty()


def test_handlers_of_signals_are_as_they_were_afterwards() -> None:
    def taken() -> list[Any]:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]

    before, opened = taken(), descriptors()
    with supervisor._Signals() as signals:
        assert all(one is not other for one, other in zip(before, taken(), strict=True))
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(time.monotonic() + PATIENCE) == signal.SIGTERM
        assert signals.wait(time.monotonic()) is None
    assert taken() == before
    assert signal.set_wakeup_fd(-1) == -1
    assert descriptors() == opened


def test_a_sigint_that_somebody_else_handles_is_left_to_him() -> None:
    caught = itertools.count()
    before = signal.signal(signal.SIGINT, lambda *_: next(caught))
    try:
        with supervisor._Signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.wait(time.monotonic() + PATIENCE) is None
    finally:
        signal.signal(signal.SIGINT, before)
    assert next(caught) == 1
