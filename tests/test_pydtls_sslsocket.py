"""``do_patch()`` is not taken back, so that all of this runs in processes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.loopback import HOSTS
from tests.pydtls import Bench

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.certificates import CertificateAuthority


pytestmark = pytest.mark.usefixtures("demux")


@pytest.fixture
def bench(ca: CertificateAuthority, tmp_path: Path) -> Bench:
    return Bench(ca, tmp_path)


# --- connecting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_wrapped_socket_is_an_ssl_socket_that_talks(bench: Bench, host: str) -> None:
    bench.run(
        """
        client, far = pair()
        with client, far:
            for end in (client, far):
                assert isinstance(end, ssl.SSLSocket) and isinstance(end, socket.socket)
                assert end.type == socket.SOCK_DGRAM
                assert end.family == (socket.AF_INET6 if ":" in host else socket.AF_INET)
            assert client.send(b"Hi there") == 8
            assert far.recv(100) == b"Hi there"
            assert far.write("grüße") == 7
            assert client.read() == "grüße".encode()
            assert client.sendall(memoryview(b"all")) is None
            buffer = bytearray(100)
            assert far.recv_into(buffer) == 3 and buffer[:3] == b"all"
            client.sendall(bytes(3000))
            assert len(far.recv(1000)) == 1000 and far.pending() == 2000
            assert far.recv_into(buffer, 10) == 10 and len(far.recv()) == 1024
            assert far.read(2000, bytearray(2000)) == 966 and far.pending() == 0
            assert client.getpeername() == far.getsockname() and far.getpeername() == client.getsockname()
            assert client.cipher() == (b"ECDHE-RSA-AES256-GCM-SHA384", b"TLSv1.2", 256)
            assert client.version() == "DTLSv1.2"
            assert client.getpeercert() == {} and client.getpeercert(True)[:1] == b"0"
            assert len(client.getpeercertchain()) >= 1 and far.getpeercertchain() == []
            assert client.get_timeout() is None and client.handle_timeout() is False
        """,
        host,
    )


def test_connect_does_what_it_is_told_and_no_more(bench: Bench) -> None:
    bench.run("""
        server = listen()
        with server, wrap(do_handshake_on_connect=False) as client:
            accepting = Worker(accept, server)
            client.connect(server.getsockname())
            assert client.cipher() is None
            client.do_handshake()
            assert client.cipher()
            try:
                client.connect(server.getsockname())
            except ValueError:
                pass
            else:
                raise AssertionError
            accepting.result()[0].close()
    """)


def test_connect_ex_gives_numbers(bench: Bench) -> None:
    bench.run("""
        server = listen(do_handshake_on_connect=False)
        accepting = Worker(accept, server)
        with wrap(cert_reqs=ssl.CERT_REQUIRED, ca_certs=root) as client:
            shaking = Worker(lambda: accepting.result()[0])
            connecting = Worker(client.connect_ex, server.getsockname())
            far = shaking.result()
            far.do_handshake()
            far.close()
            assert connecting.result() == 0
            assert client.getpeercert()["subject"] == ((("commonName", "localhost"),),)
        accepting = Worker(accept, server)
        with wrap(cert_reqs=ssl.CERT_REQUIRED) as client:
            assert client.connect_ex(server.getsockname()) == 1
            accepting.result()[0].close()
        address = server.getsockname()
        server.close()
        with wrap() as client:
            assert client.connect_ex(address) == 505
        with udp(host, bound=True) as silent, wrap(timeout=0.05) as client:
            assert client.connect_ex(silent.getsockname()) == 504
            assert raised(client.do_handshake).args[0] == 504  # it goes on
    """)


def test_connect_raises_and_leaves_a_socket_that_can_be_closed_or_tried_again(bench: Bench) -> None:
    bench.run("""
        with udp(host, bound=True) as silent, wrap(timeout=0.05) as client:
            error = raised(client.connect, silent.getsockname())
            assert isinstance(error, ssl.SSLError) and "timed out" in str(error) and error.args[0] == 504
            assert not isinstance(error, socket.timeout)
            # The peer is known to the kernel now, and must not get in plaintext what was not meant to be.
            assert raised(client.send, b"secret").errno == raised(client.recv, 1).errno == errno.ENOTCONN
            server = listen()
            accepting = Worker(accept, server)
            client.settimeout(PATIENCE)
            client.connect(server.getsockname())
            accepting.result()[0].close()
            server.close()
        with udp(host, bound=True) as closed:
            address = closed.getsockname()
        with wrap() as client:
            error = raised(client.connect, address)
            assert isinstance(error, ssl.SSLError) and "The peer address is not reachable" in str(error)
    """)


def test_settings_are_judged_at_connect_and_at_listen(bench: Bench) -> None:
    bench.run("""
        address = (host, 9)
        with wrap(ciphers="^$:,;?*'dorothyx") as client:
            error = raised(client.connect, address)
            assert error.args[0] == 501 and "No cipher can be selected" in str(error)
        with wrap(keyfile=pem) as client:
            assert raised(client.connect, address).args[0] == 500
        with wrap(certfile=os.devnull) as client:
            error = raised(client.connect, address)
            assert isinstance(error, ssl.SSLError) and error.args[0] == 0
        with wrap(server_side=True) as server:
            server.bind((host, 0))
            assert raised(server.listen, 1).args[0] == 298
        for name, kind in ("cb_user_config_ssl_ctx", dtls.SSLContext), ("cb_user_config_ssl", dtls.SSL):
            seen = []
            with wrap(do_handshake_on_connect=False, **{name: seen.append}) as client:
                assert not seen
                client.connect(address)
                assert [type(thing) for thing in seen] == [kind]
    """)


def test_a_connected_socket_is_wrapped_and_shakes_hands_at_once(bench: Bench) -> None:
    bench.run("""
        server = listen()
        accepting = Worker(accept, server)
        plain = udp(host)
        plain.connect(server.getsockname())
        with ssl.wrap_socket(plain) as client:
            assert plain.fileno() == -1
            far, _ = accepting.result()
            with far:
                client.send(b"x")
                assert far.recv(1) == b"x"
        server.close()
        plain = udp(host)
        plain.connect(server_address := (host, 9))
        assert raised(ssl.wrap_socket, plain).errno == 505
        with udp(host, bound=True) as one, udp(host, bound=True) as other:
            one.connect(other.getsockname())
            other.connect(one.getsockname())
            serving = Worker(lambda: ssl.wrap_socket(other, server_side=True, certfile=pem))
            with ssl.wrap_socket(one) as client, serving.result() as far:
                far.send(b"y")
                assert client.recv(1) == b"y"
    """)


def test_a_non_blocking_handshake_is_driven_by_select(bench: Bench) -> None:
    bench.run("""
        server = listen()
        with wrap(do_handshake_on_connect=False, cert_reqs=ssl.CERT_REQUIRED, ca_certs=root) as client:
            client.setblocking(False)
            assert client.connect_ex(server.getsockname()) in (0, errno.EINPROGRESS, errno.EWOULDBLOCK)
            assert raised(client.do_handshake).args[0] == ssl.SSL_ERROR_WANT_READ  # nobody answers yet
            accepting = Worker(accept, server)
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLError as error:
                    assert error.args[0] == ssl.SSL_ERROR_WANT_READ
                    due = client.get_timeout()
                    if not select.select([client], [], [], due.total_seconds())[0]:
                        client.handle_timeout()
            assert client.getpeercert()
            assert raised(client.recv, 1).args == (ssl.SSL_ERROR_WANT_READ, [])
            client.setblocking(True)
            assert client.gettimeout() is None and client.getblocking()
            far, _ = accepting.result()
            far.send(b"x")
            assert client.recv(1) == b"x"
            far.close()
        server.close()
        with udp(host, bound=True) as silent, wrap(timeout=0) as client:
            assert raised(client.connect, silent.getsockname()).args[0] == ssl.SSL_ERROR_WANT_READ
            assert raised(client.do_handshake).args[0] == ssl.SSL_ERROR_WANT_READ
        server = listen()
        accepting = Worker(accept, server)
        with wrap(timeout=0, do_handshake_on_connect=False) as client:
            client.connect(server.getsockname())
            client.do_handshake(block=True)
            assert client.cipher() and client.gettimeout() == 0
            accepting.result()[0].close()
        server.close()
    """)


# --- servers ---------------------------------------------------------------------------------------------------------


def test_accept_gives_none_when_nobody_comes(bench: Bench) -> None:
    bench.run("""
        with listen() as server, udp(host) as nobody:
            server.listen(1)
            for timeout in (0, 0.05):
                server.settimeout(timeout)
                assert server.accept() is None
            server.settimeout(None)
            nobody.sendto(b"junk", server.getsockname())
            assert server.accept() is None
            assert server.get_timeout() is None and server.handle_timeout() is False
    """)


def test_listen_and_accept_say_when_they_make_no_sense(bench: Bench) -> None:
    bench.run("""
        def refused(operation, *arguments):
            try:
                operation(*arguments)
            except ValueError:
                return True
        with wrap(server_side=True, certfile=pem) as server:
            assert refused(server.accept)
        client, far = pair()
        with client, far:
            for end in client, far:
                assert refused(end.listen, 1) and refused(end.accept)
    """)


def test_an_accepted_socket_has_its_own_timeout_and_its_listeners_settings(bench: Bench) -> None:
    bench.run("""
        with listen(do_handshake_on_connect=False) as server:
            server.settimeout(7)
            with wrap() as client:
                connecting = Worker(client.connect, server.getsockname())
                far, address = accept(server)
                with far:
                    assert far.gettimeout() is None and far.timeout is None and server.gettimeout() == 7
                    assert far.cipher() is None and far.server_side and far.certfile == pem
                    far.do_handshake()
                    connecting.result()
                    assert far.cipher()
    """)


def test_a_server_given_a_stream_protocol_serves_any_version(bench: Bench) -> None:
    bench.run("""
        for version in (ssl.PROTOCOL_DTLSv1, ssl.PROTOCOL_DTLSv1_2):
            client, far = pair({"ssl_version": ssl.PROTOCOL_TLSv1}, ssl_version=version)
            with client, far:
                client.send(b"x")
                assert far.recv(1) == b"x"
    """)


# --- as a socket -----------------------------------------------------------------------------------------------------


def test_an_unconnected_wrapped_socket_is_a_plain_one(bench: Bench) -> None:
    bench.run("""
        with wrap() as one, udp(host, bound=True) as other:
            assert isinstance(raised(one.send, b"x"), OSError)
            assert isinstance(raised(one.sendto, b"x", ("0.0.0.0", 0)), OSError)
            assert one.sendto(b"plain", other.getsockname()) == 5
            message, address = other.recvfrom(100)
            assert message == b"plain"
            for receive in (
                lambda: one.recv(100),
                lambda: one.recvfrom(100)[0],
                lambda: bytes(one_buffer[: one.recv_into(one_buffer)]),
                lambda: bytes(one_buffer[: one.recvfrom_into(one_buffer)[0]]),
            ):
                one_buffer = bytearray(100)
                other.sendto(b"back", address)
                assert receive() == b"back"
            for operation in (one.read, lambda: one.write(b"x"), one.unwrap):
                try:
                    operation()
                except ValueError:
                    pass
                else:
                    raise AssertionError
            for operation in (one.get_timeout, one.handle_timeout):
                try:
                    operation()
                except AttributeError:
                    pass
                else:
                    raise AssertionError
            assert one.cipher() is None and one.pending() == 0 and one.version() is None
            assert raised(one.do_handshake).errno == raised(one.getpeercert).errno == errno.ENOTCONN
    """)


def test_what_a_connected_socket_does_not_do(bench: Bench) -> None:
    bench.run("""
        client, far = pair()
        with client, far:
            for error, operation in (
                (ValueError, lambda: client.sendto(b"x", far.getsockname())),
                (ValueError, lambda: client.recvfrom(1)),
                (ValueError, lambda: client.recvfrom_into(bytearray(1))),
                (ValueError, lambda: client.send(b"x", 1)),
                (ValueError, lambda: client.recv(1, 1)),
                (ValueError, lambda: client.recv_into(bytearray(1), 1, 1)),
                (ValueError, lambda: client.sendfile(None)),
                (NotImplementedError, lambda: client.sendmsg([b"x"])),
                (NotImplementedError, lambda: client.recvmsg(1)),
                (NotImplementedError, lambda: client.recvmsg_into([bytearray(1)])),
                (NotImplementedError, client.dup),
                (NotImplementedError, client.get_channel_binding),
                (NotImplementedError, client.verify_client_post_handshake),
            ):
                try:
                    operation()
                except error:
                    pass
                else:
                    raise AssertionError(operation)
            assert client.compression() is client.session is client.selected_alpn_protocol() is None
            assert not hasattr(client, "context")
    """)


def test_every_method_is_our_own(bench: Bench) -> None:
    """The methods inherited would work on the descriptor, which is not there."""
    bench.run(
        """
        with wrap() as wrapped:
            ours = type(wrapped)
        inherited = {name for base in ours.__mro__[1:-1] for name in vars(base) if not name.startswith("_")}
        # makefile() is written in terms of the other methods.
        assert inherited - set(vars(ours)) <= {"makefile", "share", "ioctl"}, inherited - set(vars(ours))
    """.replace(
            "type(ssl.wrap_socket(udp(host)))",
            "__import__('dtls.pydtls.sslsocket').pydtls.sslsocket.DatagramSSLSocket",
        )
    )


def test_plain_socket_calls_reach_the_descriptor(bench: Bench) -> None:
    bench.run("""
        with wrap() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            one.set_inheritable(True)
            assert one.get_inheritable() and one.proto == 0
            one.bind((host, 0))
            assert one.getsockname()[1]
            number = one.detach()
            assert one.fileno() == -1
            os.close(number)
    """)


def test_text_files_made_of_it_read_lines_and_share_one_descriptor(bench: Bench) -> None:
    bench.run("""
        client, far = pair()
        number = client.fileno()
        with far:
            with client.makefile("rb") as reader, client.makefile("w") as writer:
                far.send(b"one\\ntwo\\n")
                assert reader.readline() == b"one\\n" and reader.readline() == b"two\\n"
                writer.write("three\\n")
                writer.flush()
                assert far.recv(100) == b"three\\n"
                os.read(number, 0)
            os.read(number, 0)
            reader = client.makefile("rb")
            client.close()
            os.read(number, 0)  # the file still needs it
            reader.close()
            assert raised(os.read, number, 0).errno == errno.EBADF
            client.close()
    """)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_the_end_is_told_each_time_and_unwrap_gives_a_plain_socket(bench: Bench) -> None:
    bench.run("""
        client, far = pair()
        unwrapping = Worker(far.unwrap)
        for _ in range(3):
            error = raised(client.read)
            assert isinstance(error, ssl.SSLError) and error.args == (ssl.SSL_ERROR_ZERO_RETURN, [])
        number = client.fileno()
        with client.unwrap() as plain, unwrapping.result() as other:
            assert type(plain) is type(other) is socket.socket
            assert plain.fileno() == number and client.fileno() == -1
            assert plain.gettimeout() == PATIENCE
            plain.send(b"in plaintext")
            assert other.recv(100) == b"in plaintext"
            for end in client, far:
                try:
                    end.unwrap()
                except ValueError:
                    pass
                else:
                    raise AssertionError
                end.close()
            other.send(b"still open")
            assert plain.recv(100) == b"still open"
    """)


def test_unwrap_does_not_raise_whatever_the_peer_does(bench: Bench) -> None:
    bench.run("""
        client, far = pair()
        far.close()
        client.settimeout(0.05)
        client.unwrap().close()
        client, far = pair()
        client.setblocking(False)
        client.unwrap().close()
        far.close()
        with udp(host, bound=True) as silent:
            client = wrap(do_handshake_on_connect=False)
            client.connect(silent.getsockname())
            client.unwrap().close()
    """)


def test_close_may_be_called_again_and_by_with_and_says_nothing(bench: Bench) -> None:
    bench.run("""
        client, far = pair()
        far.settimeout(0.05)
        client.close()
        client.close()
        assert client.fileno() == -1 and "closed" in repr(client)
        assert raised(far.recv, 1).errno in (502, 505)
        os.close(far.fileno())  # somebody else's mistake
        far.close()
        for operation in (client.read, lambda: client.write(b"x")):
            try:
                operation()
            except ValueError:
                pass
            else:
                raise AssertionError
    """)


def test_shutdown_ends_the_association_without_a_word(bench: Bench) -> None:
    bench.run("""
        client, far = pair()
        with client, far:
            client.shutdown(socket.SHUT_RDWR)
            assert isinstance(raised(client.send, b"plain"), OSError)
            far.settimeout(0.05)
            assert raised(far.recv, 1).errno in (502, 505)
    """)


def test_it_is_in_no_reference_cycle(bench: Bench) -> None:
    bench.run("""
        gc.collect()
        gc.disable()
        wrapped = wrap()
        gone = weakref.ref(wrapped)
        wrapped.close()
        del wrapped
        assert gone() is None
        client, far = pair()
        gone = weakref.ref(client), weakref.ref(far)
        client.close(), far.close()
        del client, far
        assert [reference() for reference in gone] == [None, None]
        with udp(host, bound=True) as silent:
            client = wrap(timeout=0.05)
            gone = weakref.ref(client)
            raised(client.connect, silent.getsockname())
            client.close()
            del client
        assert gone() is None
    """)


def test_no_descriptor_is_left_behind(bench: Bench) -> None:
    bench.run("""
        def descriptors():
            return sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
        pair_once = pair()
        for end in pair_once:
            end.close()
        before = descriptors()
        for _ in range(3):
            client, far = pair()
            client.close()
            far.unwrap().close()
            with udp(host, bound=True) as silent, wrap(timeout=0.01) as client:
                raised(client.connect, silent.getsockname())
        assert descriptors() == before
    """)
