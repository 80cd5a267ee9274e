"""``DtlsSocket`` as the server of many clients, of which some come to no good end."""
# ruff: noqa: PT009, PT027 - these are tests of unittest, and their numbers are expectations

from __future__ import annotations

import os
from typing import Any

from dtls import err
from dtls.test.support import SHORT, Worker, until
from dtls.wire import ContentType

from .handshakes import client_hello
from .insider import Insider
from .wrapper_case import Recorder, WrapperCase, close_without_a_word

SUITE = "ECDHE-RSA-AES128-GCM-SHA256"
FATAL_ALERT = b"\x02\x50"  # internal_error


class WrapperServerTests(WrapperCase):
    """One server, several clients."""

    # --- messages ------------------------------------------------------------------------------------------------

    def test_recvfrom_and_sendto(self) -> None:
        """Messages with addresses: full ones and, with IPv6, such of two parts; a client connects in sendto()."""
        server = self.server()
        sock = self.dtls_client()
        self.assertEqual(sock.sendto("GRÜSSE", server.address), 7)
        self.assertEqual(sock.recvfrom(16_384), ("grÜsse".encode(), server.address))
        self.assertEqual(server.received, [("GRÜSSE".encode(), sock.getsockname())])
        self.assertEqual(len(server.received[0][1]), {"IPv4": 2, "IPv6": 4}[self.way.protocol])
        for address in (sock.getsockname(), sock.getsockname()[:2]):
            self.assertEqual(server.sock.sendto(b"by the way", address), 10)
            self.assertEqual(sock.recvfrom(16_384)[0], b"by the way")

    def test_sendto_an_unknown_address(self) -> None:
        """Nothing is sent: 0."""
        server = self.server()
        address = self.meet_server(server).getsockname()
        self.assertEqual(server.sock.sendto(b"x", (address[0], 1)), 0)
        self.assertEqual(server.sock.sendto(b"x", ("192.0.2.1", address[1])), 0)
        half_open = self.half_open(server).getsockname()
        self.wait_for_clients(server, 2)
        self.assertEqual(server.sock.sendto(b"x", half_open), 0)

    def test_timeouts(self) -> None:
        """recvfrom() raises a bare socket.timeout when nothing comes, at both ends."""
        server = self.server()
        sock = self.meet_server(server)
        server.pause()
        for end in (sock, server.sock):
            for timeout in (SHORT, 0):
                end.settimeout(timeout)
                self.assertEqual(end.gettimeout(), timeout)
                with self.assertRaises(TimeoutError) as caught:
                    end.recvfrom(1)
                self.assertIs(type(caught.exception), TimeoutError)
                self.assertEqual(caught.exception.args, ())

    def test_rest_of_a_message(self) -> None:
        """What does not fit in the buffer is for the next calls."""
        server = self.server()
        sock = self.meet_server(server)
        server.pause()
        server.sock.settimeout(None)
        sock.write(bytes(2500))
        lengths = [len(server.sock.recvfrom(1000)[0]) for _ in range(3)]
        self.assertEqual(lengths, [1000, 1000, 500])

    def test_many_clients_at_once(self) -> None:
        """What several clients have sent while the server was busy is all served, to each its own."""
        server = self.server()
        socks = [self.meet_server(server) for _ in range(8)]
        server.pause()
        for number, sock in enumerate(socks):
            for part in "AB":
                sock.write(f"{part} OF CLIENT {number}")
        server.start()
        for number, sock in enumerate(socks):
            self.assertEqual(
                [sock.read() for _ in range(2)], [f"{part} of client {number}".encode() for part in "ab"]
            )
        self.assertEqual(server.errors, [])

    def test_handshakes_while_others_are_served(self) -> None:
        """A client in the midst of its handshake keeps nobody waiting."""
        server = self.server()
        sock = self.meet_server(server)
        for _ in range(2):
            self.half_open(server)
        self.wait_for_clients(server, 3)
        for _ in range(3):
            self.check_answer(sock)
        self.check_answer(self.meet_server(server))

    # --- clients that begin anew ---------------------------------------------------------------------------------

    def test_client_begins_anew(self) -> None:
        """One that forgot its association, and comes back from the same address, is served."""
        server = self.server()
        sock = self.meet_server(server)
        address = sock.getsockname()
        for _ in range(3):
            close_without_a_word(sock)
            sock = self.dtls_client()
            sock.bind(address)
            sock.connect(server.address)
            self.check_answer(sock)
            self.assertEqual(len(server.clients), 1)
        self.assertEqual({sender for _, sender in server.received}, {address})
        self.assertEqual(server.errors, [])

    def test_forged_hello(self) -> None:
        """Whoever uses a client's address, and has not seen a cookie, does not end its association."""
        server = self.server()
        sock = self.meet_server(server)
        for forged in (client_hello(os.urandom(32)), client_hello(os.urandom(32), bytes(20), number=1)):
            sock._sock._plain.send(forged)  # noqa: SLF001 - somebody else would forge the address
        self.check_answer(sock)
        self.assertEqual(len(server.clients), 1)

    # --- errors --------------------------------------------------------------------------------------------------

    def fail_in_handshake(self, server: Any) -> Any:
        """The address of a client that the server has no cipher suite for."""
        sock = self.dtls_client(ciphers="ECDHE-ECDSA-AES256-SHA", handshake_timeout=SHORT)
        sock.connect(server.address)
        self.error(sock.do_handshake)
        return sock.getsockname()

    def test_error_in_a_handshake(self) -> None:
        """It is raised from recvfrom(), with the client's address as peer; others are served on."""
        server = self.server()
        bystander = self.meet_server(server)
        address = self.fail_in_handshake(server)
        until(lambda: server.errors)
        self.assertEqual({error.peer for error in server.errors}, {address})
        self.assertEqual(server.errors[0].errqueue[-1][1], b"no shared cipher")
        self.check_answer(bystander)
        self.assertEqual(len(server.clients), 1)

    def test_cb_ignore_ssl_exception_in_handshake(self) -> None:
        """The callback is given the error and says whether it is forgotten; by default the one for reading does."""
        names = ("cb_ignore_ssl_exception_in_handshake", "cb_ignore_ssl_exception_read")
        cases = [(name, ignore) for name in names for ignore in (True, False)]

        def check(name: str, ignore: bool) -> None:
            seen = Recorder(ignore=ignore)
            server = self.server(**{name: seen})
            address = self.fail_in_handshake(server)
            server.stop()
            self.assertEqual(seen.peers, {address})
            self.assertEqual(server.errors, [] if ignore else seen.errors)

        # All at once, since each refusal takes a second to be believed.
        workers = [Worker(check, *case) for case in cases]
        for (name, ignore), worker in zip(cases, workers, strict=True):
            with self.subTest(name, ignore=ignore):
                worker.result()

    def break_off(self, sock: Any) -> None:
        """Have a client say that it cannot go on."""
        Insider(sock._sock).send(ContentType.ALERT, FATAL_ALERT)  # noqa: SLF001 - it has the keys

    def test_error_in_reading(self) -> None:
        """It is raised from recvfrom(), with the client's address as peer; others are served on."""
        server = self.server()
        sock, bystander = self.meet_server(server, ciphers=SUITE), self.meet_server(server)
        self.break_off(sock)
        until(lambda: server.errors)
        self.assertEqual([error.peer for error in server.errors], [sock.getsockname()])
        self.assertIsInstance(server.errors[0], err.SSLError)
        self.check_answer(bystander)
        self.assertEqual(len(server.clients), 1)

    def test_cb_ignore_ssl_exception_read(self) -> None:
        """The callback is given the error and says whether it is forgotten."""
        for ignore in (True, False):
            with self.subTest(ignore=ignore):
                seen, not_asked = Recorder(ignore=ignore), Recorder(ignore=True)
                server = self.server(
                    cb_ignore_ssl_exception_read=seen, cb_ignore_ssl_exception_in_handshake=not_asked
                )
                sock, bystander = self.meet_server(server, ciphers=SUITE), self.meet_server(server)
                self.break_off(sock)
                self.wait_for_clients(server, 1)
                self.check_answer(bystander)
                server.stop()
                self.assertEqual(seen.peers, {sock.getsockname()})
                self.assertEqual(server.errors, [] if ignore else seen.errors)
                self.assertEqual(not_asked.errors, [])

    def test_cb_ignore_ssl_exception_write(self) -> None:
        """Likewise for sendto(), which returns 0 then; otherwise it raises, with the client's address as peer."""
        for ignore in (None, True, False):
            with self.subTest(ignore=ignore):
                seen = None if ignore is None else Recorder(ignore=ignore)
                server = self.server(cb_ignore_ssl_exception_write=seen)
                sock, bystander = self.meet_server(server), self.meet_server(server)
                address = sock.getsockname()
                too_long = bytes(16_385)
                if ignore:
                    self.assertEqual(server.sock.sendto(too_long, address), 0)
                else:
                    error = self.error(server.sock.sendto, too_long, address)
                    self.assertIn(b"too big", error.errqueue[-1][1])
                    self.assertEqual(error.peer, address)
                if seen is not None:
                    self.assertEqual(seen.peers, {address})
                self.check_answer(bystander)

    # --- the end -------------------------------------------------------------------------------------------------

    def test_client_timeout(self) -> None:
        """A client that has been silent for so long is dropped, and told."""
        server = self.server(client_timeout=20 * SHORT)
        sock = self.dtls_client()
        sock.connect(server.address)
        sock.write("hello")
        self.wait_for_clients(server, 0)
        self.assertEqual(sock.read(), b"hello")
        self.check_over(sock)
        self.assertEqual(server.sock.sendto(b"x", sock.getsockname()), 0)
        self.assertEqual(server.errors, [])

    def test_no_client_timeout(self) -> None:
        """Without it, none is dropped."""
        server = self.server()
        sock = self.meet_server(server)
        sock.settimeout(4 * SHORT)
        self.assertRaises(TimeoutError, sock.recvfrom, 1)
        self.check_answer(sock)

    def test_half_open_clients_are_dropped(self) -> None:
        """A client that does not go on with its handshake is dropped as silent, and told."""
        server = self.server(client_timeout=SHORT)
        sock = self.half_open(server)
        while sock.recv(65_535)[0] != ContentType.ALERT:
            pass
        self.wait_for_clients(server, 0)
        self.assertEqual(server.errors, [])

    def test_client_closes(self) -> None:
        """It is dropped, and its socket closed; that is no error."""
        server = self.server()
        sock = self.meet_server(server)
        (far,) = server.clients
        sock.close()
        until(lambda: far.fileno() == -1)
        self.assertEqual(server.clients, [])
        self.assertEqual(server.errors, [])
        self.check_answer(self.meet_server(server))

    def test_server_closes(self) -> None:
        """All clients are told, and all sockets closed."""
        server = self.server()
        socks = [self.meet_server(server) for _ in range(2)]
        descriptors = [server.sock.fileno(), *(far.fileno() for far in server.clients)]
        server.stop()
        for descriptor in descriptors:
            self.assertRaises(OSError, os.fstat, descriptor)
        for sock in socks:
            self.check_over(sock)

    def test_close_twice(self) -> None:
        """Both ends may be closed again; to write is a ValueError then."""
        server = self.server()
        sock = self.meet_server(server)
        server.pause()
        for end in (sock, server.sock, self.bound_server(), self.dtls_client()):
            end.close()
            end.close()
            self.assertRaises(ValueError, end.write, b"x")
