from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from dtls import err
from dtls.pydtls.borrowed import BorrowedSocket
from dtls.sslconnection import (
    CERT_REQUIRED,
    SSLConnection,
)
from dtls.udp import Listener, Origin
from tests.hellos import OFFER, cookie_in, hello_body, whole
from tests.loopback import HOSTS, PATIENCE, Worker, wait_for
from tests.pydtls import accept, connections, raised, udp

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from dtls.certificates import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.usefixtures("demux")

SHORT = 0.05
"""Seconds that are meant to run out."""


@pytest.fixture
def pem(server_certificate: IssuedCertificate) -> bytes:
    return server_certificate.private_key_and_chain_pem


@pytest.fixture
def ends(pem: bytes) -> Iterator[tuple[SSLConnection, SSLConnection]]:
    with connections(pem) as both:
        yield both


@pytest.mark.parametrize("host", HOSTS)
def test_listen_tells_of_a_client_and_accept_gives_it(pem: bytes, host: str) -> None:
    with udp(host, bound=True) as bound, udp(host) as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        connecting = Worker(SSLConnection(sock).connect, bound.getsockname())
        assert wait_for(listening.listen) == sock.getsockname()
        accepted = listening.accept()
        assert accepted is not None
        far, address = accepted
        connecting.result()
        with far.get_socket(True) as own:
            assert address == sock.getsockname() == own.getpeername()
            assert own.getsockname() == bound.getsockname()
            assert own.gettimeout() is None


def test_listen_and_accept_give_none_when_nobody_comes(pem: bytes) -> None:
    with udp(bound=True) as bound, udp() as nobody:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        for short in (0.0, SHORT):
            bound.settimeout(short)
            assert listening.listen() is None
            assert listening.accept() is None
        for timeout in (0.0, PATIENCE, None):  # junk is not waited after, or this would hang
            bound.settimeout(timeout)
            nobody.sendto(b"junk", bound.getsockname())
            assert listening.accept() is None
        assert listening.get_timeout() is None
        assert listening.handle_timeout() is False
        assert listening.shutdown() is listening.unwrap() is None


def test_a_datagram_of_a_known_client_is_taken_to_it(
    pem: bytes,
) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        client = SSLConnection(sock)
        connecting = Worker(client.connect, bound.getsockname())
        far, address = accept(listening)
        connecting.result()
        with far.get_socket(True):
            with udp(bound=True) as elsewhere:
                sock.connect(elsewhere.getsockname())
                client.write(b"astray")
                datagram = elsewhere.recv(65535)
            # As if it had come before that client's own socket was connected.
            reception = listening._reception
            assert reception is not None
            assert reception._demux.forward(datagram, Origin(address))
            far.get_socket(True).settimeout(PATIENCE)
            assert far.read() == b"astray"


def test_a_hello_without_a_cookie_costs_nothing_and_is_not_told_of(pem: bytes) -> None:
    with udp(bound=True) as bound, udp() as stranger:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        bound.settimeout(0)
        for _ in range(3):
            stranger.sendto(whole(hello_body()), bound.getsockname())
            assert listening.accept() is None
            assert cookie_in(stranger.recv(65535))


def test_a_cookie_counts_for_one_address_only(pem: bytes) -> None:
    with udp(bound=True) as bound, udp(bound=True) as stranger, udp() as other:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        bound.settimeout(0)
        stranger.sendto(whole(hello_body()), bound.getsockname())
        assert listening.listen() is None
        hello = whole(
            hello_body(cookie=cookie_in(stranger.recv(65535))), message_sequence=1, record_sequence=1
        )
        other.sendto(hello, bound.getsockname())
        assert listening.listen() is None
        stranger.sendto(hello, bound.getsockname())
        assert listening.listen() == stranger.getsockname()


def test_listen_and_accept_need_a_listening_socket(ends: tuple[SSLConnection, SSLConnection]) -> None:
    for end in ends:
        with pytest.raises(err.InvalidSocketError):
            end.listen()
        with pytest.raises(err.InvalidSocketError):
            end.accept()


@pytest.mark.parametrize("demux", ["osnet"], indirect=True)
def test_strangers_datagrams_in_a_new_socket_are_handed_on(
    pem: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may put them there between binding and connecting; here they are put there by hand."""
    stranger = udp(bound=True)
    branch, recvfrom = Listener.branch, BorrowedSocket.recvfrom
    found_at_once = [whole(hello_body(extensions=OFFER))]
    found_later: list[bytes] = []

    def branch_with_strays(self: Listener, sock: socket.socket, origin: Origin) -> list[tuple[bytes, Any]]:
        return branch(self, sock, origin) + [(stray, stranger.getsockname()) for stray in found_at_once]

    def recvfrom_with_strays(self: BorrowedSocket, size: int) -> tuple[bytes, Any]:
        if found_later and self.sock is not bound:
            return found_later.pop(), stranger.getsockname()
        return recvfrom(self, size)

    monkeypatch.setattr(Listener, "branch", branch_with_strays)
    monkeypatch.setattr(BorrowedSocket, "recvfrom", recvfrom_with_strays)
    with stranger, udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        client = SSLConnection(sock)
        connecting = Worker(client.connect, bound.getsockname())
        far, _ = accept(listening)
        with far.get_socket(True):
            cookie = cookie_in(stranger.recv(65535))  # the first was answered
            found_later.append(
                whole(hello_body(cookie=cookie, extensions=OFFER), message_sequence=1, record_sequence=1)
            )
            far.do_handshake()
            connecting.result()
            client.write(b"mine")
            assert far.read() == b"mine"
            bound.settimeout(0)
            assert listening.listen() == stranger.getsockname()


def test_many_clients_are_served_through_one_port_at_a_time(pem: bytes) -> None:
    with udp(bound=True) as bound:
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        sockets = [udp() for _ in range(8)]
        clients = [SSLConnection(sock) for sock in sockets]
        connecting = [Worker(client.connect, bound.getsockname()) for client in clients]
        accepted = {}
        for _ in clients:
            far, address = accept(listening)
            accepted[address] = far, Worker(far.do_handshake)
        for worker in [*connecting, *(worker for _, worker in accepted.values())]:
            worker.result()
        for sock, client in zip(sockets, clients, strict=True):
            client.write(str(sock.getsockname()))
        for address, (far, _) in accepted.items():
            assert far.read() == str(address).encode()
            far.get_socket(True).close()
        for sock in sockets:
            sock.close()


def test_a_handshake_that_fails_in_accept_leaves_no_socket_behind(
    pem: bytes, ca: CertificateAuthority
) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(
            bound, pem, pem, server_side=True, cert_reqs=CERT_REQUIRED, ca_certs=ca.certificate_pem
        )
        connecting = Worker(raised, SSLConnection(sock).connect, bound.getsockname())
        assert raised(accept, listening).errqueue[-1][1] == b"peer did not return a certificate"
        assert connecting.result().errno in (1, 505)


def test_an_accepted_connection_outlives_the_listening_one(pem: bytes) -> None:
    with connections(pem) as (near, far):  # the listening one is gone by now, but for its socket
        gc.collect()
        near.write(b"still here")
        assert far.read() == b"still here"


def test_one_call_of_accept_exchanges_cookies_and_shakes_hands(pem: bytes) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        connecting = Worker(SSLConnection(sock).connect, bound.getsockname())
        accepted = listening.accept()
        assert accepted is not None
        connecting.result()
        accepted[0].get_socket(True).close()


def test_an_accepted_connection_does_not_keep_the_listening_one_alive(pem: bytes) -> None:
    with udp(bound=True) as bound, udp() as sock:
        listening = SSLConnection(bound, pem, pem, server_side=True)
        connecting = Worker(SSLConnection(sock).connect, bound.getsockname())
        far, _ = accept(listening)
        connecting.result()
        assert listening._reception is not None
        gone = weakref.ref(listening._reception)
        with far.get_socket(True):
            del listening
            gc.collect()
            assert gone() is None


def test_a_server_on_a_connected_socket_asks_for_a_cookie_too(pem: bytes) -> None:
    with udp(bound=True) as one, udp(bound=True) as other:
        one.connect(other.getsockname())
        other.connect(one.getsockname())
        server = SSLConnection(other, pem, pem, server_side=True, do_handshake_on_connect=False)
        one.send(whole(hello_body(extensions=OFFER)))
        other.settimeout(SHORT)
        assert raised(server.do_handshake).errno == 504
        assert cookie_in(one.recv(65535))


@pytest.fixture
def told(pem: bytes) -> Iterator[tuple[SSLConnection, bytes]]:
    """A server that was told of a client by ``listen``, and the client's ClientHello."""
    with udp(bound=True) as bound, udp(bound=True) as client:
        bound.settimeout(PATIENCE)
        listening = SSLConnection(bound, pem, pem, server_side=True, do_handshake_on_connect=False)
        client.sendto(whole(hello_body(extensions=OFFER)), bound.getsockname())
        bound.settimeout(0)
        assert listening.listen() is None
        body = hello_body(extensions=OFFER, cookie=cookie_in(client.recv(65535)))
        hello = whole(body, message_sequence=1, record_sequence=1)
        client.sendto(hello, bound.getsockname())
        assert listening.listen() == client.getsockname()
        yield listening, hello


def test_a_hello_repeated_between_listen_and_accept_is_not_a_second_client(
    told: tuple[SSLConnection, bytes],
) -> None:
    listening, hello = told
    reception, arrival = listening._reception, listening._arrival
    assert reception is not None
    assert arrival is not None
    reception.receive_elsewhere(hello, arrival.origin)  # by a thread that waits for another client's message
    accepted = listening.accept()
    assert accepted is not None
    with accepted[0].get_socket(True):
        assert listening.accept() is None
        assert reception.statistics["dropped_repeated_hello"] == 1


def test_a_client_of_which_two_threads_were_told_is_accepted_by_one(
    told: tuple[SSLConnection, bytes],
) -> None:
    listening, hello = told
    reception, arrival = listening._reception, listening._arrival
    assert reception is not None
    assert arrival is not None
    reception.receive_elsewhere(hello, arrival.origin)
    assert reception.wait(0) == arrival
    accepted = listening.accept()
    assert accepted is not None
    with accepted[0].get_socket(True):
        listening._arrival = arrival
        assert listening.accept() is None
        assert reception.statistics["dropped_repeated_hello"] == 1


def test_a_client_for_which_there_was_no_socket_may_try_again(
    told: tuple[SSLConnection, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    listening, hello = told
    reception, arrival = listening._reception, listening._arrival
    assert reception is not None
    assert arrival is not None

    def fail(_origin: Origin) -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(reception._demux, "get_connection", fail)
        with pytest.raises(OSError, match="Too many"):
            listening.accept()
    reception.receive_elsewhere(hello, arrival.origin)
    accepted = listening.accept()
    assert accepted is not None
    accepted[0].get_socket(True).close()
