"""``do_patch()`` is not taken back, so that all of this runs in processes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pydtls import Bench, Program, run_python

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.certificates import CertificateAuthority


import textwrap


@pytest.fixture
def bench(ca: CertificateAuthority, tmp_path: Path) -> Bench:
    return Bench(ca, tmp_path)


# --- the module ------------------------------------------------------------------------------------------------------


def test_the_ssl_module_gets_its_constants(bench: Bench) -> None:
    bench.run("""
        assert (ssl.PROTOCOL_DTLSv1, ssl.PROTOCOL_DTLSv1_2, ssl.PROTOCOL_DTLS) == (256, 258, 259)
        names = [ssl.get_protocol_name(number) for number in (256, 258, 259)]
        assert names == ["DTLSv1", "DTLSv1.2", "DTLS"], names
        flags = ("NONE", "UNTRUSTED", "NO_ROOT", "CHECK", "IGNORE_ERROR", "CLEAR_ERROR")
        assert [getattr(ssl, "SSL_BUILD_CHAIN_FLAG_" + name) for name in flags] == [0, 1, 2, 4, 8, 16]
        for name in err.__all__:
            if name.startswith("ERR_"):
                assert getattr(ssl, name) == getattr(err, name)
        assert err.SSLError is ssl.SSLError
        assert issubclass(err.openssl_error(), ssl.SSLError)
    """)


def test_the_openssl_version_of_dtls_is_told_and_agrees_with_itself(bench: Bench) -> None:
    bench.run("""
        number, info, text = ssl.DTLS_OPENSSL_VERSION_NUMBER, ssl.DTLS_OPENSSL_VERSION_INFO, ssl.DTLS_OPENSSL_VERSION
        major, minor, fix, patch, status = info
        assert isinstance(number, int) and isinstance(info, tuple) and isinstance(text, str)
        assert number >> 28 == major and number >> 20 & 0xFF == minor
        assert 0 <= patch <= 26 and 0 <= status <= 15
        assert text.startswith(f"OpenSSL {major}.{minor}.{fix}")
    """)


def test_patching_again_changes_nothing(bench: Bench) -> None:
    bench.run("""
        before = dict(vars(ssl)), ssl.SSLSocket.__init__
        do_patch()
        assert (dict(vars(ssl)), ssl.SSLSocket.__init__) == before
    """)


# --- other ways in ---------------------------------------------------------------------------------------------------


def test_the_class_itself_may_be_called(bench: Bench) -> None:
    bench.run("""
        with ssl.SSLSocket(udp(host), certfile=pem, server_side=True) as server:
            assert isinstance(server, ssl.SSLSocket)
            server.bind((host, 0))
            server.listen(1)
        for arguments in ((), (socket.socket(),)):
            try:
                ssl.SSLSocket(*arguments)
            except TypeError:
                pass
            else:
                raise AssertionError
            for sock in arguments:
                sock.close()
    """)


def test_stream_sockets_are_wrapped_as_ever(bench: Bench) -> None:
    """Where Python still has the function, it warns of itself; nothing else does."""
    bench.run("""
        import warnings
        if sys.version_info < (3, 12):
            warnings.simplefilter("ignore", DeprecationWarning)
        with socket.create_server((host, 0)) as listening:
            def serve():
                plain, _ = listening.accept()
                with ssl.wrap_socket(plain, certfile=pem, server_side=True) as far:
                    far.sendall(far.recv(100))
            for options in ({}, {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": root}, {"ciphers": "DEFAULT"}):
                serving = Worker(serve)
                with ssl.wrap_socket(socket.create_connection(listening.getsockname()), **options) as client:
                    assert isinstance(client, ssl.SSLSocket) and client.version().startswith("TLSv1.")
                    assert bool(client.getpeercert()) == ("ca_certs" in options)
                    client.sendall(b"by stream")
                    assert client.recv(100) == b"by stream"
                serving.result()
            # By a context too, which is what ssl.SSLSocket was made for.
            context = ssl.create_default_context(cafile=root)
            serving = Worker(serve)
            with context.wrap_socket(socket.create_connection(listening.getsockname()), server_hostname=host) as client:
                client.sendall(b"by context")
                assert client.recv(100) == b"by context"
            serving.result()
            serving = Worker(serve)
            assert "BEGIN CERTIFICATE" in ssl.get_server_certificate(listening.getsockname(), ca_certs=None)
            with contextlib.suppress(OSError):
                serving.result()
        with socket.socket() as stream:
            for options in {"server_side": True}, {"keyfile": pem}, {"cb_user_config_ssl": print}:
                try:
                    ssl.wrap_socket(stream, **options)
                except ValueError:
                    pass
                else:
                    raise AssertionError(options)
    """)


def test_socketserver_serves_over_it(bench: Bench) -> None:
    bench.run("""
        import socketserver
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(self.rfile.readline().upper() * 600)
        class Server(socketserver.ThreadingTCPServer):
            def __init__(self):
                super().__init__((host, 0), Handler, bind_and_activate=False)
                self.socket.close()
                self.socket = wrap(server_side=True, certfile=pem, do_handshake_on_connect=False)
                self.server_bind()
                self.server_activate()
            def get_request(self):
                accepted = self.socket.accept()
                if not accepted:
                    raise OSError("nobody")
                return accepted
            def shutdown_request(self, request):
                request.unwrap().close()
        Server.address_family = socket.AF_INET
        with Server() as server:
            serving = Worker(server.serve_forever, 0.05)
            with wrap() as client:
                client.connect(server.server_address)
                client.write("hello\\n")
                answer = b""
                while True:
                    try:
                        answer += client.read()
                    except ssl.SSLError as error:
                        assert error.args[0] == ssl.SSL_ERROR_ZERO_RETURN
                        break
                assert answer == b"HELLO\\n" * 600
                client.unwrap().close()
            server.shutdown()
            serving.result()
    """)


def test_the_snippet_everybody_knows_works_as_it_stands(bench: Bench, openssl: str) -> None:
    snippet = """
        import sys
        from socket import socket, AF_INET, SOCK_DGRAM
        import ssl
        from dtls import do_patch
        do_patch()
        sock = ssl.wrap_socket(socket(AF_INET, SOCK_DGRAM))
        sock.connect(('127.0.0.1', int(sys.argv[1])))
        sock.send(b'Hi there')
        sock.unwrap().close()
    """
    identity = str(bench.pem)
    with Program(
        [openssl, "s_server", "-dtls1_2", "-accept", "127.0.0.1:0", "-cert", identity, "-key", identity]
    ) as server:
        ready = server.wait_for("ACCEPT 127.0.0.1:").index("ACCEPT 127.0.0.1:")
        port = server.wait_for("\n", after=ready)[ready:].split()[1].rpartition(":")[2]
        run_python(textwrap.dedent(snippet), port)
        server.wait_for("Hi there")


def test_get_server_certificate_knows_dtls(bench: Bench) -> None:
    bench.run("""
        server = listen(ssl_version=ssl.PROTOCOL_DTLS, do_handshake_on_connect=False)
        def serve():
            far, _ = accept(server)
            with far:
                with contextlib.suppress(ssl.SSLError):
                    far.settimeout(PATIENCE)
                    far.do_handshake()
        with open(pem) as file:
            own = file.read().partition("-----BEGIN CERTIFICATE-----")[2].split("-----END")[0].split()
        for version in (ssl.PROTOCOL_DTLSv1, ssl.PROTOCOL_DTLSv1_2, ssl.PROTOCOL_DTLS):
            for options in ({}, {"ca_certs": root}):
                serving = Worker(serve)
                found = ssl.get_server_certificate(server.getsockname()[:2], version, **options)
                assert found.split("-----")[2].split() == own
                serving.result()
        serving = Worker(serve)
        from dtls.certificates import CertificateAuthority
        other = CertificateAuthority().certificate_pem
        error = raised(lambda: ssl.get_server_certificate(server.getsockname(), ssl.PROTOCOL_DTLS, ca_certs=other))
        assert isinstance(error, ssl.SSLError)
        serving.result()
        server.close()
    """)


def test_wrapping_a_stream_is_deprecated_where_it_is_and_the_callers_line_is_named(bench: Bench) -> None:
    bench.run("""
        import warnings
        with socket.socket() as stream, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ssl.wrap_socket(stream).close()
        named = [str(warning.message) for warning in caught if warning.filename == "<string>"]
        expected = ["ssl.wrap_socket() is deprecated, use SSLContext.wrap_socket()"]
        assert named == (expected if sys.version_info < (3, 12) else []), caught
    """)


def test_protocol_names_are_found_by_whoever_asks_for_them(bench: Bench) -> None:
    bench.run("""
        names = ssl._PROTOCOL_NAMES
        assert names[ssl.PROTOCOL_DTLSv1_2] == names.get(ssl.PROTOCOL_DTLSv1_2) == "DTLSv1.2"
        assert ssl.PROTOCOL_DTLS in names and -1 not in names
        assert names.get(-1) is None
        assert ssl.get_protocol_name(ssl.PROTOCOL_DTLSv1) == "DTLSv1"
        assert ssl.get_protocol_name(-1) == "<unknown>"
        assert all(isinstance(number, ssl._SSLMethod) for number in names)  # what there is to go through is TLS
    """)
