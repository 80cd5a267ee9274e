"""Servers over real UDP: many peers on one port, each with a socket of its own, and nobody in another's way."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import select
import selectors
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from dtls import (
    AssociationReplaced,
    DataReceived,
    EndpointEvent,
    EndpointLimits,
    HandshakeCompleted,
    SSLTimeoutError,
    SSLWantReadError,
)
from dtls.connection import ConnectionState
from dtls.endpoint import Endpoint
from dtls.servers import DTLSServerSocket, create_server
from dtls.sockets import DTLSSocket, create_connection
from dtls.udp import Listener, Origin, Waker
from dtls.wire import ContentType, HandshakeType, parse_client_hello_untrusted

from .hellos import OFFER, hello_body, whole
from .loopback import HOSTS, PATIENCE, EchoServer, Worker, drain, needs_ipv6, pair, relay, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dtls.context import Context

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have one address on loopback, and no epoll"
)


@pytest.fixture
def listener(server: Context) -> Iterator[DTLSServerSocket]:
    with create_server(("127.0.0.1", 0), context=server) as listening:
        listening.settimeout(PATIENCE)
        yield listening


def connect(client: Context, listener: DTLSServerSocket, port: int = 0) -> DTLSSocket:
    return create_connection(
        listener.getsockname()[:2],
        PATIENCE,
        ("127.0.0.1", port),
        context=client,
        server_hostname="localhost",
    )


def vanish(sock: DTLSSocket) -> int:
    """End as a process that is killed does, without a word; the port it had."""
    port: int = sock.getsockname()[1]
    socket.socket(fileno=sock.detach()).close()
    return port


def assert_talks(near: DTLSSocket, far: DTLSSocket) -> None:
    near.send(b"hello")
    assert far.recv() == b"hello"
    far.send(b"well met")
    assert near.recv() == b"well met"


class Visitor:
    """A client that does not block."""

    def __init__(self, context: Context, address: Any) -> None:
        plain = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
        plain.setblocking(False)
        plain.connect(address[:2])
        sock = context.wrap_socket(plain, server_hostname="localhost")
        assert isinstance(sock, DTLSSocket)
        self.sock = sock
        self.go_on()

    def go_on(self) -> bool:
        """Whether the handshake is complete."""
        with contextlib.suppress(SSLWantReadError):
            self.sock.do_handshake()
        return self.sock.version() is not None


# --- accepting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_each_peer_gets_a_socket_of_its_own_on_the_servers_port(
    client: Context, server: Context, host: str
) -> None:
    with create_server((host, 0), context=server) as listener, contextlib.ExitStack() as stack:
        pairs = [pair(client, server, listener=listener) for _ in range(5)]
        for near, far in pairs:
            stack.enter_context(near)
            stack.enter_context(far)
            assert far.getsockname() == listener.getsockname()
            assert far.getpeername() == near.getsockname()
        for number, (near, _) in enumerate(pairs):
            near.send(b"message %d" % number)
        for number, (_, far) in enumerate(pairs):
            assert far.recv() == b"message %d" % number
        assert listener.statistics["handshakes_completed"] == 5
        assert listener.handshakes == 0


def allow_descriptors(count: int) -> None:
    """Raise the limit of open files if it is lower, as far as the system lets us."""
    try:
        import resource  # noqa: PLC0415 - Windows has none, and needs none
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def echo_once(sock: DTLSSocket) -> bool:
    """Answer a message if there is one; false when the peer has closed."""
    try:
        message = sock.recv()
    except SSLWantReadError:
        return True
    if message:
        sock.send(message)
    return bool(message)


def serve_in_one_thread(listener: DTLSServerSocket, stop: socket.socket) -> int:
    """An echo server that never blocks but in one select, until it is told to stop; how many it has served."""
    served = 0
    listener.settimeout(0)
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(stop, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(listener.get_timeout()):
                if key.fileobj is stop:
                    return served
                if isinstance(key.fileobj, DTLSSocket) and not echo_once(key.fileobj):
                    selector.unregister(key.fileobj)
            with contextlib.suppress(SSLWantReadError):
                while True:
                    sock, _ = listener.accept()
                    served += 1
                    stack.enter_context(sock).settimeout(0)
                    selector.register(sock, selectors.EVENT_READ)
                    echo_once(sock)


class Guest(Visitor):
    """A client that asks one question, again every second until it is answered: either may get lost."""

    def __init__(self, context: Context, address: Any) -> None:
        super().__init__(context, address)
        self.question = b"I am %d" % self.sock.getsockname()[1]
        self.ask_at = -1.0

    def is_due(self, now: float) -> bool:
        """Whether it has something to do although nothing came."""
        return self.ask_at <= now if self.sock.version() else self.sock.get_timeout() == 0

    def is_answered(self, now: float) -> bool:
        """Go on; whether the answer is there, which must be the right one."""
        if not self.go_on():
            return False
        if self.ask_at <= now:
            self.sock.send(self.question)
            self.ask_at = now + 1
        try:
            answer = self.sock.recv()
        except SSLWantReadError:
            return False
        assert answer == self.question
        return True


def test_a_server_that_only_sends_repeats_its_last_flight(client: Context, server: Context) -> None:
    client.initial_retransmission_timeout = 0.05
    finished: list[bytes] = []

    def tap(sender: str, _: int, datagram: bytes) -> list[bytes]:
        if sender == "server" and datagram[0] == ContentType.CHANGE_CIPHER_SPEC and not finished:
            finished.append(datagram)
            return []
        return [datagram]

    with (
        create_server(("127.0.0.1", 0), context=server) as listening,
        relay(listening.getsockname(), tap) as address,
    ):
        listening.settimeout(PATIENCE)
        connecting = Worker(lambda: create_connection(address, PATIENCE, context=client))
        accepted, _ = listening.accept()
        with accepted:
            wait_for(lambda: accepted.send(b"news") and not connecting.is_alive())
            with connecting.result() as sock:
                assert sock.recv() == b"news"
    assert finished


def test_a_strangers_datagram_that_was_late_for_a_new_socket_is_handed_on_under_its_own_address(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    [hello] = client.connection(0.0, server_hostname="localhost").datagrams_to_send(0.0)
    handed_on: list[Any] = []
    take_stray = DTLSServerSocket._take_stray

    def branch(listener: Listener, sock: socket.socket, origin: Origin) -> list[tuple[bytes, Any]]:
        """The stranger's datagram comes when what came before connecting has been taken off already."""
        sock.bind(listener.own_address(origin))
        sock.connect(stranger.getsockname())
        stranger.sendto(hello, sock.getsockname())
        sock.connect(origin.address)
        return []

    def take(listening: DTLSServerSocket, datagram: bytes, origin: Origin) -> None:
        handed_on.append((datagram, origin.address))
        take_stray(listening, datagram, origin)

    monkeypatch.setattr(Listener, "branch", branch)
    monkeypatch.setattr(DTLSServerSocket, "_take_stray", take)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.settimeout(PATIENCE)
        with create_server(("127.0.0.1", 0), context=server) as listening:
            near, far = pair(client, server, listener=listening)
            with near, far:
                near.send(b"hello")
                assert far.recv() == b"hello"
            assert handed_on == [(hello, stranger.getsockname())]
            assert stranger.recv(2000)[13] == HandshakeType.HELLO_VERIFY_REQUEST


def test_five_hundred_clients_are_served_at_the_same_time(client: Context, server: Context) -> None:
    """Every one begins before the first is done, and each message comes back to its sender."""
    count = 500
    allow_descriptors(3 * count)
    # What loopback loses when so many speak at a time is repeated; here that should not take long.
    client.initial_retransmission_timeout = server.initial_retransmission_timeout = 0.5
    client.handshake_timeout = server.handshake_timeout = 40
    deadline = time.monotonic() + 40
    stop, stopper = socket.socketpair()
    with stop, stopper, create_server(("127.0.0.1", 0), context=server, backlog=count) as listener:
        serving = Worker(serve_in_one_thread, listener, stop)
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            waiting = {Guest(client, listener.getsockname()) for _ in range(count)}
            for guest in waiting:
                stack.enter_context(guest.sock)
                selector.register(guest.sock, selectors.EVENT_READ, guest)
            while waiting:
                ready = {key.data for key, _ in selector.select(0.05)}
                now = time.monotonic()
                assert now < deadline, f"{len(waiting)} clients are still waiting"
                for guest in list(waiting):
                    if (guest in ready or guest.is_due(now)) and guest.is_answered(now):
                        waiting.remove(guest)
                        selector.unregister(guest.sock)
        stopper.send(b"\0")
        assert serving.result() == count


def test_nobody_is_held_up_by_strangers_who_send_garbage(client: Context, server: Context) -> None:
    stop = threading.Event()

    def spray(address: Any) -> None:
        garbage = (
            b"",
            b"\x16",
            whole(hello_body()),
            whole(hello_body())[:30],
            bytes(1200),
            b"\x16\xfe\xfd\0\0",
        )
        with contextlib.ExitStack() as stack:
            strangers = [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(20)
            ]
            strangers[-1].settimeout(1)
            while not stop.is_set():
                for stranger in strangers:
                    for datagram in garbage:
                        with contextlib.suppress(OSError):
                            stranger.sendto(datagram, address)
                # A full queue of the kernel would lose the clients' datagrams too, which is not what is tested: the
                # answer to the last hello says that the server has come so far.
                with contextlib.suppress(OSError):
                    strangers[-1].recv(65535)

    client.initial_retransmission_timeout = 0.2
    with EchoServer(server) as echo:
        spraying = Worker(spray, echo.address)
        try:
            for _ in range(20):
                with create_connection(echo.address, PATIENCE, context=client) as sock:
                    sock.send(b"hello")
                    assert sock.recv() == b"hello"
        finally:
            stop.set()
            spraying.result()
        assert echo.listener.statistics["cookies_sent"] > 20
        assert echo.listener.handshakes == 0


def test_what_a_new_socket_gets_before_it_is_connected_is_handed_on(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between bind and connect the kernel may give the new socket any peer's datagrams."""
    client.initial_retransmission_timeout = 60  # what got lost would not come again
    client.handshake_timeout = 10
    original = Listener.branch
    others: list[Visitor] = []
    misled = 0

    def branch(self: Listener, sock: socket.socket, origin: Origin) -> Any:
        nonlocal misled
        if not others:
            sock.bind(self.own_address(origin))
            while not select.select([sock], [], [], 0)[0]:
                assert len(others) < 64, "the kernel gives the new socket nothing"
                others.append(Visitor(client, self.sock.getsockname()))
            sock.connect(origin.address)
            strays = self._strays(sock)
            misled = len(strays)
            return strays
        return original(self, sock, origin)

    monkeypatch.setattr(Listener, "branch", branch)
    with EchoServer(server) as echo, contextlib.ExitStack() as stack:
        stack.enter_context(create_connection(echo.address, PATIENCE, context=client))
        assert misled
        for visitor in others:
            sock = stack.enter_context(visitor.sock)
            sock.settimeout(PATIENCE)
            sock.do_handshake()
            sock.send(b"hello")
            assert sock.recv() == b"hello"


def test_two_threads_may_accept_at_once(client: Context, listener: DTLSServerSocket) -> None:
    acceptors = [Worker(listener.accept) for _ in range(2)]
    with connect(client, listener) as one, connect(client, listener) as other:
        accepted = [worker.result() for worker in acceptors]
        assert {address for _, address in accepted} == {one.getsockname(), other.getsockname()}
        for near in (one, other):
            (far,) = [sock for sock, address in accepted if address == near.getsockname()]
            with far:
                far.settimeout(PATIENCE)
                assert_talks(near, far)


def complete_without_accepting(client: Context, listener: DTLSServerSocket, count: int) -> list[Visitor]:
    """Clients whose last flights wait in the server's socket."""
    listener.settimeout(0)
    visitors = [Visitor(client, listener.getsockname()) for _ in range(count)]
    for _ in range(2):  # HelloVerifyRequests; ServerHello to ServerHelloDone
        select.select([listener], [], [], PATIENCE)
        with pytest.raises(SSLWantReadError):
            listener.accept()
        for visitor in visitors:
            select.select([visitor.sock], [], [], PATIENCE)
            assert not visitor.go_on()
    return visitors


def test_a_server_stays_readable_while_peers_wait_to_be_accepted(
    client: Context, listener: DTLSServerSocket
) -> None:
    with contextlib.ExitStack() as stack:
        for visitor in complete_without_accepting(client, listener, 3):
            stack.enter_context(visitor.sock)
        for _ in range(3):
            assert select.select([listener], [], [], PATIENCE)[0] == [listener]
            sock, _ = listener.accept()
            stack.enter_context(sock)
        with pytest.raises(SSLWantReadError):
            listener.accept()
        assert select.select([listener], [], [], 0)[0] == []


def test_a_thread_in_accept_is_woken_for_the_peer_that_another_has_completed(
    client: Context, listener: DTLSServerSocket
) -> None:
    with contextlib.ExitStack() as stack:
        visitors = complete_without_accepting(client, listener, 2)
        for visitor in visitors:
            stack.enter_context(visitor.sock)
        listener.settimeout(PATIENCE)
        with listener._lock:  # both are on their way in before either can look
            acceptors = [Worker(listener.accept) for _ in range(2)]
        for worker in acceptors:
            stack.enter_context(worker.result()[0])


def test_the_backlog_is_bounded(client: Context, server: Context) -> None:
    with (
        create_server(("127.0.0.1", 0), context=server, backlog=3) as listener,
        contextlib.ExitStack() as stack,
    ):
        visitors = complete_without_accepting(client, listener, 10)
        for visitor in visitors:
            stack.enter_context(visitor.sock)
        for _ in range(10):
            sock, _ = listener.accept()
            stack.enter_context(sock)
            assert len(listener._completed) <= 3
        with pytest.raises(SSLWantReadError):
            listener.accept()
        listener.listen(7)
        assert listener.backlog == 7


def test_accept_gives_up_after_the_timeout(listener: DTLSServerSocket) -> None:
    listener.settimeout(0.05)
    with pytest.raises(SSLTimeoutError, match=r"0[.]05 s") as caught:
        listener.accept()
    assert isinstance(caught.value, TimeoutError)
    listener.setblocking(False)
    assert listener.gettimeout() == 0
    assert listener.get_timeout() is None
    with pytest.raises(SSLWantReadError):
        listener.accept()
    with pytest.raises(ValueError, match="out of range"):
        listener.settimeout(-1)


def test_get_timeout_tells_when_a_flight_is_to_be_repeated(
    client: Context, listener: DTLSServerSocket
) -> None:
    (visitor,) = complete_without_accepting(client, listener, 1)
    with visitor.sock:
        seconds = listener.get_timeout()
        assert seconds is not None
        assert 0 < seconds <= 1
        assert listener.handshakes == 1


def test_messages_that_overtake_the_end_of_the_handshake_are_kept(
    client: Context, listener: DTLSServerSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Endpoint.receive_datagram

    def with_early_data(self: Endpoint, *arguments: Any) -> list[EndpointEvent]:
        events = original(self, *arguments)
        for association, event in list(events):
            if isinstance(event, HandshakeCompleted):
                events.append(EndpointEvent(association, DataReceived(b"early")))
        return events

    monkeypatch.setattr(Endpoint, "receive_datagram", with_early_data)
    near, far = pair(client, listener.context, listener=listener)
    with near, far:
        assert far.recv() == b"early"
        assert_talks(near, far)


def test_handshakes_that_fail_are_logged_and_counted(
    client: Context, listener: DTLSServerSocket, caplog: pytest.LogCaptureFixture
) -> None:
    accepting = Worker(listener.accept)
    caplog.set_level(logging.INFO, "dtls")
    with pytest.raises(OSError, match="elsewhere"):
        create_connection(
            listener.getsockname(), PATIENCE, context=client, server_hostname="elsewhere.example"
        )
    with connect(client, listener), accepting.result()[0]:
        pass
    # The client's alert is in plaintext: it is believed when the client stays silent.
    listener.settimeout(0)

    def failed() -> int:
        with contextlib.suppress(SSLWantReadError):
            listener.accept()
        return listener.statistics["handshakes_failed"]

    assert wait_for(failed) == 1
    assert "handshake with ('127.0.0.1'" in caplog.text


def test_limits_are_those_that_were_given(client: Context, server: Context) -> None:
    with (
        create_server(("127.0.0.1", 0), context=server, limits=EndpointLimits(handshakes=1)) as listener,
        contextlib.ExitStack() as stack,
    ):
        listener.settimeout(0)
        visitors = [Visitor(client, listener.getsockname()) for _ in range(3)]
        for visitor in visitors:
            stack.enter_context(visitor.sock)
        for expected in ({"cookies_sent": 3}, {"handshakes_begun": 1, "refused_handshakes": 2}):

            def happened(expected: dict[str, int] = expected) -> bool:
                with contextlib.suppress(SSLWantReadError):
                    listener.accept()
                return expected.items() <= dict(listener.statistics).items()

            wait_for(happened)
            for visitor in visitors:
                select.select([visitor.sock], [], [], 0 if listener.handshakes else PATIENCE)
                visitor.go_on()
        assert listener.handshakes <= 1


# --- a client that begins anew ---------------------------------------------------------------------------------------


def test_a_client_that_restarts_on_its_port_gets_a_new_association(
    client: Context, listener: DTLSServerSocket
) -> None:
    near, old = pair(client, listener.context, listener=listener)
    with old:
        assert_talks(near, old)
        old.settimeout(None)
        receiving, accepting = Worker(old.recv), Worker(listener.accept)
        with connect(client, listener, vanish(near)) as near:
            new, address = accepting.result()
            assert address == near.getsockname()
            with new:
                new.settimeout(PATIENCE)
                assert_talks(near, new)
                with pytest.raises(AssociationReplaced) as caught:  # which wakes whoever waits
                    receiving.result()
                assert isinstance(caught.value, ConnectionResetError)
                for operation in (old.recv, lambda: old.send(b"x"), old.unwrap):
                    with pytest.raises(AssociationReplaced):
                        operation()
                assert select.select([old], [], [], 0)[0] == [old]
                old.close()
                assert_talks(near, new)
        assert listener.statistics["associations_replaced"] == 1


@on_linux
def test_whoever_watches_the_old_socket_is_told_that_it_is_replaced(
    client: Context, listener: DTLSServerSocket
) -> None:
    near, old = pair(client, listener.context, listener=listener)
    with old, select.epoll() as epoll:
        epoll.register(old, select.EPOLLIN)
        poll = select.poll()
        poll.register(old, select.POLLIN)
        receiving, accepting = Worker(old.recv), Worker(listener.accept)
        with connect(client, listener, vanish(near)) as near, accepting.result()[0] as new:
            new.settimeout(PATIENCE)
            with pytest.raises(AssociationReplaced):
                receiving.result()
            for _ in range(2):
                assert [descriptor for descriptor, _ in epoll.poll(0)] == [old.fileno()]
                assert [descriptor for descriptor, _ in poll.poll(0)] == [old.fileno()]
                assert select.select([old], [], [], 0)[0] == [old]
            for _ in range(20):
                assert_talks(near, new)  # nothing goes to the old socket any more


def test_the_old_association_works_until_the_new_handshake_is_complete(
    client: Context, listener: DTLSServerSocket
) -> None:
    near, old = pair(client, listener.context, listener=listener)
    listener.settimeout(0)
    with old, near:
        client_side = client.connection(time.monotonic(), server_hostname="localhost")
        for _ in range(2):  # the two ClientHellos of somebody on the same port
            for datagram in client_side.datagrams_to_send(time.monotonic()):
                near._sock.send(datagram)
            near.send(b"meanwhile")
            assert old.recv() == b"meanwhile"
            old.send(b"all goes on")
            near.settimeout(0)
            answers: list[bytes] = []
            while not answers or answers[-1][:1] == b"\x16":
                select.select([near], [], [], PATIENCE)
                answers.append(near._sock.recv(65535))
            near.settimeout(PATIENCE)
            for answer in answers[:-1]:
                client_side.receive_datagram(answer, time.monotonic())
            assert near._driver is not None
            near._driver.deliver(answers[-1])
            assert near.recv() == b"all goes on"
        assert listener.handshakes == 1


def forged_hello(listener: DTLSServerSocket, victim: DTLSSocket) -> bytes:
    """A ClientHello with a cookie for the victim's address, from somebody who will not go on."""
    factory = listener._endpoint._gate._cookies
    assert factory is not None
    hello = parse_client_hello_untrusted(hello_body(extensions=OFFER))
    cookie = factory.generate(Origin(victim.getsockname()), hello, time.monotonic())
    return whole(hello_body(cookie=cookie, extensions=OFFER), message_sequence=1)


@pytest.mark.parametrize("proved", [False, True], ids=["without a cookie", "with its cookie"])
def test_a_forged_hello_from_an_accepted_peers_address_changes_nothing(
    client: Context, server: Context, proved: bool
) -> None:
    server.handshake_timeout = 0.3
    with create_server(("127.0.0.1", 0), context=server) as listener:
        near, far = pair(client, server, listener=listener)
        with near, far:
            near._sock.send(forged_hello(listener, near) if proved else whole(hello_body()))
            assert_talks(near, far)
            assert listener.handshakes == int(proved)
            assert far._driver is not None
            assert far._driver.shares is proved
            for _ in range(20):
                assert_talks(near, far)
            listener.settimeout(0)

            def over() -> bool:
                with contextlib.suppress(SSLWantReadError):
                    listener.accept()
                return listener.handshakes == 0

            wait_for(over)
            assert far._driver.shares is False
            assert_talks(near, far)
            assert "associations_replaced" not in listener.statistics


def test_a_message_that_the_server_has_looked_at_reaches_the_thread_that_waits_for_it(
    client: Context, listener: DTLSServerSocket
) -> None:
    """While a new handshake is under way, datagrams take the way round through the server."""
    near, far = pair(client, listener.context, listener=listener)
    with near, far:
        near._sock.send(forged_hello(listener, near))
        assert_talks(near, far)
        accepting = Worker(listener.accept)
        for number in range(500):
            near.send(b"message %d" % number)
            assert far.recv() == b"message %d" % number
        with connect(client, listener), accepting.result()[0]:
            pass


@pytest.mark.parametrize("replayed", [False, True], ids=["", "and its hello comes again"])
@pytest.mark.parametrize("closed", [False, True], ids=["server open", "server closed"])
def test_a_last_flight_that_is_lost_is_repeated_by_the_accepted_socket(
    client: Context, server: Context, closed: bool, replayed: bool
) -> None:
    client.initial_retransmission_timeout = 0.3
    lost: list[bytes] = []
    hellos: list[bytes] = []

    def tap(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender == "client" and datagram[13] == 1:
            hellos.append(datagram)
        # HelloVerifyRequest, ServerHello to ServerHelloDone, and then the last flight.
        if sender == "server" and datagram[0] == 20 and not lost:
            lost.append(datagram)
            return []
        return [datagram]

    with (
        create_server(("127.0.0.1", 0), context=server) as listener,
        relay(listener.getsockname(), tap) as address,
    ):
        listener.settimeout(PATIENCE)
        connecting = Worker(
            lambda: create_connection(address, PATIENCE, context=client, server_hostname="localhost")
        )
        far, _ = listener.accept()
        with far:
            if replayed:
                listener._take_stray(hellos[-1], next(iter(listener._accepted)))
            if closed:
                listener.close()
            far.settimeout(PATIENCE)
            receiving = Worker(far.recv)
            with connecting.result() as near:
                near.send(b"hello")
                assert receiving.result() == b"hello"
                assert lost


# --- addresses -------------------------------------------------------------------------------------------------------


@on_linux
@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.2"])
def test_a_server_on_all_addresses_answers_from_the_one_that_was_asked(
    client: Context, server: Context, asked: str
) -> None:
    with EchoServer(server, "") as echo:
        assert echo.listener.family == socket.AF_INET
        with create_connection(
            (asked, echo.address[1]), PATIENCE, context=client, server_hostname="localhost"
        ) as sock:
            sock.send(b"hello")
            assert sock.recv() == b"hello"
            assert echo.sockets[0].getsockname() == (asked, echo.address[1])


@on_linux
def test_the_same_peer_may_ask_two_addresses_of_a_server(client: Context, server: Context) -> None:
    with EchoServer(server, "") as echo, contextlib.ExitStack() as stack:
        port = 0
        for asked in ("127.0.0.1", "127.0.0.2"):
            plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            plain.bind(("127.0.0.1", port))
            port = plain.getsockname()[1]
            plain.connect((asked, echo.address[1]))
            plain.settimeout(PATIENCE)
            sock = stack.enter_context(client.wrap_socket(plain, server_hostname="localhost"))
            assert isinstance(sock, DTLSSocket)
            sock.send(asked.encode())
            assert sock.recv() == asked.encode()
        assert [sock.getsockname()[0] for sock in echo.sockets] == ["127.0.0.1", "127.0.0.2"]
        assert "associations_replaced" not in echo.listener.statistics


@needs_ipv6
def test_a_server_on_all_ipv6_addresses_serves_no_ipv4_unless_told_to(
    client: Context, server: Context
) -> None:
    client.initial_retransmission_timeout = 0.1
    with EchoServer(server, "", family=socket.AF_INET6) as echo:
        with create_connection(("::1", echo.address[1]), PATIENCE, context=client) as sock:
            sock.send(b"hello")
            assert sock.recv() == b"hello"
        with pytest.raises(ConnectionRefusedError):
            create_connection(("127.0.0.1", echo.address[1]), PATIENCE, context=client)


@needs_ipv6
@pytest.mark.parametrize("asked", ["::1", "127.0.0.1", pytest.param("127.0.0.2", marks=on_linux)])
def test_a_server_for_both_families_answers_from_the_address_that_was_asked(
    client: Context, server: Context, asked: str
) -> None:
    with (
        EchoServer(server, "", family=socket.AF_INET6, dualstack_ipv6=True) as echo,
        create_connection(
            (asked, echo.address[1]), PATIENCE, context=client, server_hostname="localhost"
        ) as sock,
    ):
        sock.send(b"hello")
        assert sock.recv() == b"hello"


def test_a_second_server_on_the_port_is_refused(server: Context, listener: DTLSServerSocket) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        create_server(listener.getsockname(), context=server)
    assert caught.value.errno == errno.EADDRINUSE


def test_a_server_may_begin_again_while_old_associations_live(client: Context, server: Context) -> None:
    with create_server(("127.0.0.1", 0), context=server) as listener:
        address = listener.getsockname()
        near, far = pair(client, server, listener=listener)
    with near, far:
        assert_talks(near, far)  # without the server
        with pytest.raises(OSError, match="in use"):
            create_server(address, context=server)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_without_descriptors_a_peer_is_turned_away_and_the_server_lives(
    client: Context,
    listener: DTLSServerSocket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def exhausted(self: Listener) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    accepting = Worker(listener.accept)
    with monkeypatch.context() as patched:
        patched.setattr(Listener, "new_socket", exhausted)
        with connect(client, listener) as turned_away:
            assert turned_away.recv() == b""
    assert listener.statistics["peer_sockets_failed"] == 1
    assert "no socket for the peer at ('127.0.0.1'" in caplog.text
    assert "Too many open files" in caplog.text
    with connect(client, listener) as near, accepting.result()[0] as far:
        far.settimeout(PATIENCE)
        assert_talks(near, far)


def test_without_descriptors_a_restarted_clients_old_association_is_not_lost_for_nothing(
    client: Context, listener: DTLSServerSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, old = pair(client, listener.context, listener=listener)
    with old:
        receiving = Worker(old.recv)
        with monkeypatch.context() as patched:

            def exhausted(self: Listener) -> socket.socket:
                raise OSError(errno.EMFILE, "Too many open files")

            patched.setattr(Listener, "new_socket", exhausted)
            with connect(client, listener, vanish(near)) as turned_away:
                port = turned_away.getsockname()[1]
                assert turned_away.recv() == b""
        assert old._driver is not None
        assert old._driver.error is None
        accepting = Worker(listener.accept)
        with connect(client, listener, port) as near, accepting.result()[0] as new:
            new.settimeout(PATIENCE)
            with pytest.raises(AssociationReplaced):
                receiving.result()
            assert_talks(near, new)


def test_a_socket_that_cannot_be_connected_is_closed(
    client: Context, listener: DTLSServerSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: Listener, sock: socket.socket, origin: Origin) -> Any:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    accepting = Worker(listener.accept)
    with monkeypatch.context() as patched:
        patched.setattr(Listener, "branch", unreachable)
        with connect(client, listener) as turned_away:
            assert turned_away.recv() == b""
    gc.collect()  # a socket that is left open is a warning, and that an error
    with connect(client, listener), accepting.result()[0]:
        assert listener.statistics["peer_sockets_failed"] == 1


# --- closing ---------------------------------------------------------------------------------------------------------


def test_close_wakes_every_thread_in_accept(listener: DTLSServerSocket) -> None:
    listener.settimeout(None)
    acceptors = [Worker(listener.accept) for _ in range(4)]
    wait_for(lambda: listener._waker._waiting == 4)
    listener.close()
    for worker in acceptors:
        with pytest.raises(OSError, match="closed") as caught:
            worker.result()
        assert caught.value.errno == errno.EBADF


def test_close_at_any_moment_of_accept_ends_it(
    listener: DTLSServerSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Waker.wait

    def close_first(self: Waker, until: float) -> None:
        listener.close()
        original(self, until)

    monkeypatch.setattr(Waker, "wait", close_first)
    with pytest.raises(OSError, match="closed"):
        listener.accept()


def test_a_closed_server_does_nothing_any_more(listener: DTLSServerSocket) -> None:
    listener.close()
    listener.close()
    assert listener.fileno() == -1
    assert "closed" in repr(listener)
    for operation in (listener.accept, listener.listen, listener.getsockname):
        with pytest.raises(OSError, match=r".") as caught:
            operation()
        assert caught.value.errno == errno.EBADF


def test_closing_a_server_closes_what_nobody_has_accepted(client: Context, server: Context) -> None:
    with create_server(("127.0.0.1", 0), context=server) as listener:
        visitors = complete_without_accepting(client, listener, 2)
        sock, _ = listener.accept()
        sock.close()
    for visitor in visitors:
        with visitor.sock as near:
            near.settimeout(PATIENCE)
            assert near.recv() == b""


def test_a_server_that_is_left_open_gives_a_warning(server: Context) -> None:
    left_open = [create_server(("127.0.0.1", 0), context=server)]
    with pytest.warns(ResourceWarning, match="unclosed <DTLSServerSocket"):
        left_open.clear()


def test_a_server_that_cannot_be_made_leaves_nothing_open(client: Context) -> None:
    with pytest.raises(ValueError, match="server's context"):
        create_server(("127.0.0.1", 0), context=client)
    gc.collect()


def test_an_accepted_socket_that_is_dropped_makes_room_for_a_new_association(
    client: Context, listener: DTLSServerSocket
) -> None:
    near, far = pair(client, listener.context, listener=listener)
    far.close()
    del far
    with near:
        assert near.recv() == b""
    accepting = Worker(listener.accept)
    with connect(client, listener) as near, accepting.result()[0] as far:
        far.settimeout(PATIENCE)
        assert_talks(near, far)
    assert drain(near) == []


@pytest.mark.parametrize("many", [False, True], ids=["one by one", "many at a time"])
@pytest.mark.parametrize("before", ["nothing", "a close_notify", "a refusal", "many messages"])
def test_a_client_hello_that_waits_in_an_accepted_socket_is_answered_when_that_is_closed(
    client: Context, server: Context, many: bool, before: str
) -> None:
    """A client's port is soon another client's, and a server may still be busy with what the first one has said."""
    with create_server(("127.0.0.1", 0), context=server) as listening:
        near, far = pair(client, server, listener=listening)
        far.settimeout(PATIENCE)
        if many:
            near.send(b"hello")
            assert far.recv_many(1) == [b"hello"]
        port = near.getsockname()[1]
        assert near._driver is not None
        if before == "many messages":
            near.send_many([b"more"] * 10)
            assert far.recv_many(1) == [
                b"more"
            ]  # the kernel has begun to give several at a time, where it does
            for _ in range(5):
                near.send_many([b"more"] * 10)
        if before == "a close_notify":
            near.close()
        else:
            near._driver.sock.close()  # without a word
            near.close()
        if before == "a refusal":
            far.send(b"are you still there?")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
            another.bind(("127.0.0.1", port))
            another.connect(listening.getsockname())
            another.settimeout(PATIENCE)
            [hello] = client.connection(0.0, server_hostname="localhost").datagrams_to_send(0.0)
            another.send(hello)
            far.close()
            answers = [another.recv(2000), another.recv(2000)]
    assert [datagram[0] for datagram in answers] == [ContentType.ALERT, ContentType.HANDSHAKE]
    assert answers[1][13] == HandshakeType.HELLO_VERIFY_REQUEST


def test_what_a_peer_sent_before_it_had_a_socket_is_its_own_also_if_nobody_accepts_again(
    client: Context, server: Context
) -> None:
    """Its handshake may be complete by a datagram that another's socket handed on, while nobody is in accept()."""
    server.session_tickets = True
    with create_server(("127.0.0.1", 0), context=server) as listening:
        listening.settimeout(0)
        session = None
        for turn in range(2):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(listening.getsockname())
                sock.settimeout(PATIENCE)
                origin = Origin(sock.getsockname())
                connection = client.connection(time.monotonic(), server_hostname="localhost", session=session)
                while connection.state is ConnectionState.HANDSHAKING:
                    for datagram in connection.datagrams_to_send(time.monotonic()):
                        sock.send(datagram)
                    with contextlib.suppress(SSLWantReadError):
                        listening.accept()[0].close()
                    connection.receive_datagram(sock.recv(65_535), time.monotonic())
                session = connection.session
                if not turn:
                    continue
                assert connection.session_reused
                sock.send(connection.protect(b"hello"))
                for datagram in connection.datagrams_to_send(time.monotonic()):
                    listening._take_stray(datagram, origin)
                accepted, _ = listening.accept()
                with accepted:
                    accepted.settimeout(PATIENCE)
                    assert accepted.recv() == b"hello"
