"""``python3 -m dtls.test.unit_wrapper``, run as users run it; and that it fails when something is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

from tests.test_pydtls_unit import WAYS, counts, skip_if_not_run

TESTS = 50
"""So many there are at least."""

pytestmark = pytest.mark.timeout(300)


def run(*arguments: str, code: str | None = None) -> tuple[int, str]:
    """The exit status of the suite and what it says; ``code`` goes before it, in the same process."""
    start = ["-m", "dtls.test.unit_wrapper"]
    if code is not None:
        program = "\nimport sys\nfrom dtls.test import unit_wrapper\nsys.exit(unit_wrapper.main())"
        start = ["-c", textwrap.dedent(code) + program]
    done = subprocess.run(
        [sys.executable, "-W", "error", *start, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=280,
        check=False,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
    )
    return done.returncode, done.stdout.decode(errors="replace")


@pytest.mark.parametrize("way", WAYS)
def test_every_test_passes_in_each_way_and_nothing_is_left_behind(way: str) -> None:
    status, printed = run("--ways", way, "-v")
    skip_if_not_run(printed, way)
    assert status == 0, printed
    assert f"\n=== {WAYS[way]}\n" in printed
    tests, failed, skipped = counts(printed, way)
    assert tests >= TESTS
    assert failed == skipped == 0, printed
    last = printed.splitlines()[-1]
    assert re.fullmatch(rf"OK: 1 way, {tests} tests, 0 failed, 0 skipped, in [\d.]+ s", last)
    assert len(re.findall(r"^test_nothing_is_left_behind ", printed, re.MULTILINE)) == 1


def test_it_runs_in_four_ways_one_after_the_other_and_sums_up() -> None:
    status, printed = run("-k", "test_defaults", "test_matching_cipher")
    assert status == 0, printed
    headings = re.findall(r"^=== (\w+): demultiplexer", printed, re.MULTILINE)
    assert headings == list(WAYS)
    run_ways = [way for way in WAYS if f"\n{way}: not run" not in printed]
    assert run_ways
    assert all(counts(printed, way) == (1, 0, 0) for way in run_ways)
    last = printed.splitlines()[-1]
    assert last.startswith(f"OK: {len(run_ways)} ways, {len(run_ways)} tests, 0 failed")


def test_the_command_line_is_that_of_the_other_suite() -> None:
    status, printed = run("--ways", "osnet4", "WrapperParameterTests.test_defaults", "test_matching_cipher")
    skip_if_not_run(printed, "osnet4")
    assert status == 0, printed
    assert counts(printed, "osnet4") == (2, 0, 0)
    status, printed = run("--ways", "osnet4,pigeon")
    assert status == 2
    assert "unknown: pigeon; there are osnet4, osnet6, router4, router6" in printed
    status, printed = run("-k", "no_such_test")
    assert status == 5
    assert printed.splitlines()[-1].startswith("NOTHING RAN")
    status, printed = run("--help")
    assert status == 0
    assert "dtls.test.unit_wrapper" in printed
    assert "WrapperServerTests.test_close_twice" in printed


IMPATIENT = """
        from dtls.test import support
        support.PATIENCE = 3
"""

# What is wrong, the test that notices it, and the way in which it does.
MUTATIONS = {
    # Arguments that have no effect.
    "user_mtu is ignored by servers": (
        """
        from dtls.wrapper import DtlsSocket
        original = DtlsSocket.user_config_ssl
        DtlsSocket.user_config_ssl = lambda self, ssl: self._server_side or original(self, ssl)
        """,
        "test_user_mtu_of_a_server",
        "osnet4",
    ),
    "user_mtu is ignored by clients": (
        """
        from dtls.wrapper import DtlsSocket
        original = DtlsSocket.user_config_ssl
        DtlsSocket.user_config_ssl = lambda self, ssl: self._server_side and original(self, ssl)
        """,
        "test_user_mtu_of_a_client",
        "osnet4",
    ),
    "user_mtu is without headers": (
        """
        from dtls.pydtls.config import SSL
        SSL.set_link_mtu = SSL.set_mtu
        """,
        "test_user_mtu_of_a_server",
        "osnet4",
    ),
    "user_mtu is with the headers of IPv4": (
        """
        from dtls.pydtls.config import SSL
        SSL.set_link_mtu = lambda self, mtu=None: self.set_mtu(mtu and mtu - 28)
        """,
        "test_user_mtu_of_a_server",
        "osnet6",
    ),
    "server_key_exchange_curve is ignored": (
        """
        from dtls.pydtls.config import SSLContext
        SSLContext.set_ecdh_curve = lambda self, curve_name=None: 1
        """,
        "test_set_ecdh_curve",
        "osnet4",
    ),
    "an unknown server_key_exchange_curve is passed over": (
        """
        from dtls.pydtls.config import SSLContext
        SSLContext.get_ec_available = staticmethod(lambda bAsName=True: ["secp385r1", "prime256v1"])
        """,
        "test_unknown_server_key_exchange_curve",
        "osnet4",
    ),
    "curves are ignored": (
        """
        from dtls.pydtls.config import SSLContext
        SSLContext.set_curves = lambda self, curves: 1
        """,
        "test_no_matching_curve",
        "osnet4",
    ),
    "curves are ignored by servers": (
        """
        from dtls.wrapper import DtlsSocket
        original = DtlsSocket.user_config_ssl_ctx
        def configure(self, context):
            if self._server_side:
                self._curves = None
            original(self, context)
        DtlsSocket.user_config_ssl_ctx = configure
        """,
        "test_curves_of_a_server",
        "osnet4",
    ),
    "sigalgs are ignored": (
        """
        from dtls.pydtls.config import SSLContext
        SSLContext.set_sigalgs = lambda self, sigalgs: 1
        """,
        "test_no_matching_sigalgs",
        "osnet4",
    ),
    "nobody is told of unknown curves": (
        """
        from dtls import wrapper
        wrapper.logger.warning = lambda *arguments: None
        """,
        "test_unknown_curves_and_sigalgs",
        "osnet4",
    ),
    "server_cert_options are ignored": (
        """
        from dtls.wrapper import DtlsSocket
        original = DtlsSocket.__init__
        def initialise(self, *arguments, server_cert_options=None, **options):
            original(self, *arguments, **options)
        DtlsSocket.__init__ = initialise
        """,
        "test_build_cert_chain",
        "osnet4",
    ),
    "ssl_logging is ignored": (
        """
        from dtls.pydtls.config import SSLContext
        SSLContext.set_ssl_logging = lambda self, enable=False, func=None: None
        """,
        "test_ssl_logging",
        "osnet4",
    ),
    "ssl_logging is always on": (
        """
        from dtls.pydtls.config import SSLContext
        original = SSLContext.set_ssl_logging
        SSLContext.set_ssl_logging = lambda self, enable=False: original(self, True)
        """,
        "test_ssl_logging",
        "osnet4",
    ),
    "wrap_client() does not shake hands": (
        """
        import functools
        from dtls import wrapper
        wrapper.wrap_client = functools.partial(wrapper.wrap_client, do_handshake_on_connect=False)
        """,
        "test_wrap_server_and_wrap_client",
        "osnet4",
    ),
    # Callbacks.
    "cb_ignore_ssl_exception_in_handshake is ignored": (
        """
        from dtls import wrapper
        original = wrapper.Ignored
        wrapper.Ignored = lambda in_handshake, read, write: original(None, read, write)
        """,
        "test_cb_ignore_ssl_exception_in_handshake",
        "osnet4",
    ),
    "cb_ignore_ssl_exception_read is ignored": (
        """
        from dtls import wrapper
        original = wrapper.Ignored
        wrapper.Ignored = lambda in_handshake, read, write: original(in_handshake, None, write)
        """,
        "test_cb_ignore_ssl_exception_read",
        "router4",
    ),
    "cb_ignore_ssl_exception_write is ignored": (
        """
        from dtls import wrapper
        original = wrapper.Ignored
        wrapper.Ignored = lambda in_handshake, read, write: original(in_handshake, read, None)
        """,
        "test_cb_ignore_ssl_exception_write",
        "osnet4",
    ),
    "errors have no peer": (
        """
        from dtls.pydtls.wrapper_server import Server
        original = Server._judge
        Server._judge = staticmethod(lambda error, peer, callback: original(error, None, callback))
        """,
        "test_error_in_reading",
        "router6",
    ),
    "callbacks are believed whatever they say": (
        """
        from dtls.pydtls.wrapper_server import Server
        original = Server._judge
        def judge(error, peer, callback):
            original(error, peer, lambda error: callback(error) or True)
        Server._judge = staticmethod(judge)
        """,
        "test_cb_ignore_ssl_exception_read",
        "osnet4",
    ),
    # Time.
    "client_timeout is ignored": (
        IMPATIENT
        + """
        from dtls.pydtls.wrapper_server import ClientSession
        ClientSession.expired = lambda self: False
        """,
        "test_client_timeout",
        "osnet4",
    ),
    "silent clients are dropped without a limit": (
        """
        from dtls.pydtls.wrapper_server import ClientSession
        original = ClientSession.__init__
        def initialise(self, address, descriptor, timeout):
            original(self, address, descriptor, 0.01)
        ClientSession.__init__ = initialise
        """,
        "test_no_client_timeout",
        "osnet4",
    ),
    "handshake_timeout is ignored by clients": (
        """
        from dtls.pydtls.config import SSL
        SSL.DTLS_set_timer_cb = lambda self, callback: None
        """,
        "test_handshake_timeout_of_a_client",
        "osnet4",
    ),
    "handshake_timeout is ignored by servers": (
        """
        from dtls.pydtls.config import SSL
        SSL.DTLS_set_timer_cb = lambda self, callback: None
        """,
        "test_handshake_timeout_of_a_server",
        "router4",
    ),
    "handshake_timeout is doubled each time": (
        """
        from dtls import wrapper
        wrapper._always = lambda duration, ssl, previous: 2 * previous or duration
        """,
        "test_handshake_timeout_of_a_server",
        "osnet4",
    ),
    "a server repeats nothing by itself": (
        IMPATIENT
        + """
        from dtls.pydtls.wrapper_server import Server
        Server._serve_timers = lambda self: None
        """,
        "test_server_repeats_by_itself",
        "osnet4",
    ),
    "a write that times out in the handshake says 504": (
        """
        from dtls import sslconnection
        sslconnection.ERR_WRITE_TIMEOUT = sslconnection.ERR_HANDSHAKE_TIMEOUT
        """,
        "test_no_host",
        "osnet4",
    ),
    "a refusal ends a handshake": (
        """
        from dtls.wrapper import DtlsSocket
        DtlsSocket.write = lambda self, data: self._sock.write(data)
        """,
        "test_no_host",
        "osnet4",
    ),
    # Clients.
    "messages of other clients are lost": (
        IMPATIENT
        + """
        import contextlib
        from dtls.pydtls.wrapper_server import Server
        original = Server._attend_to_the_ready
        def attend(self, size):
            result = original(self, size)
            while self._ready:
                with contextlib.suppress(OSError):
                    self._ready.popleft().recv(size)
            return result
        Server._attend_to_the_ready = attend
        """,
        "test_many_clients_at_once",
        "osnet4",
    ),
    "what was forwarded is found by the next call only": (
        """
        from dtls.pydtls.wrapper_server import Server
        original = Server._attend_to_the_ready
        Server._attend_to_the_ready = lambda self, size: (original(self, size)[0], False)
        """,
        "test_rest_of_a_message",
        "router4",
    ),
    "addresses have two parts": (
        IMPATIENT
        + """
        from dtls.pydtls.wrapper_server import ClientSession
        original = ClientSession.__init__
        def initialise(self, address, descriptor, timeout):
            host, port = address
            original(self, address, descriptor, timeout)
        ClientSession.__init__ = initialise
        """,
        "test_recvfrom_and_sendto",
        "osnet6",
    ),
    "messages for nobody are sent": (
        """
        from dtls.pydtls.wrapper_server import Server
        original = Server.send
        Server.send = lambda self, data, address: original(self, data, address) or len(data)
        """,
        "test_sendto_an_unknown_address",
        "osnet4",
    ),
    "a client cannot begin anew": (
        IMPATIENT
        + """
        from dtls.pydtls.wrapper_hello import HelloWatch
        HelloWatch.take = lambda self, *arguments, **options: False
        """,
        "test_client_begins_anew",
        "osnet4",
    ),
    "a hello without a cookie ends an association": (
        """
        from dtls.pydtls.wrapper_hello import HelloWatch
        original = HelloWatch.take
        def take(self, listening, conn, *arguments, **options):
            began_anew = original(self, listening, conn, *arguments, **options)
            if began_anew:
                conn.unwrap().close()
            return began_anew
        HelloWatch.take = take
        """,
        "test_forged_hello",
        "osnet4",
    ),
    # The end.
    "clients are not told that a server closes": (
        IMPATIENT
        + """
        from dtls.pydtls import wrapper_server
        wrapper_server.say_farewell = lambda conn: conn.close()
        """,
        "test_server_closes",
        "router4",
    ),
    "a server's socket stays open": (
        """
        from dtls.pydtls.wrapper_server import Server
        Server._release = lambda self: self._selector and self._selector.close()
        """,
        "test_server_closes",
        "osnet4",
    ),
    "write() on a closed socket is another error": (
        """
        from dtls.pydtls.sslsocket import DatagramSSLSocket
        def write(self, data):
            raise OSError("closed")
        DatagramSSLSocket.write = write
        """,
        "test_close_twice",
        "osnet4",
    ),
    "a descriptor stays open": (
        """
        import os
        from dtls.pydtls.wrapper_server import Server
        original = Server.listen
        def listen(self, backlog):
            os.dup(self._sock.fileno())
            original(self, backlog)
        Server.listen = listen
        """,
        "test_matching_cipher",
        "osnet4",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", MUTATIONS)
def test_the_suite_notices_when(fault: str) -> None:
    mutation, noticed_by, way = MUTATIONS[fault]
    status, printed = run("--ways", way, noticed_by, code=mutation)
    skip_if_not_run(printed, way)
    assert status == 1, printed
    assert re.search(rf"^\s*(FAIL|ERROR): {noticed_by} ", printed, re.MULTILINE), printed
    assert counts(printed, way)[1] >= 1
