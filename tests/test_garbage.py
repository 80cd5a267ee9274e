"""Associations that nobody closed, and that the garbage collector finds in cycles, in whatever order."""

from __future__ import annotations

import gc
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dtls
from dtls.engines.openssl import binding
from dtls.engines.openssl.connection import OpenSSLConnection
from dtls.servers import DTLSServerSocket, create_server

from .loopback import pair
from .pair import Pair

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from dtls.context import Context


class Holder:
    """In a cycle with what it holds; its finalizer uses that once more."""

    def __init__(self, held: Any, use: Callable[[Any], object] = lambda held: held) -> None:
        self.held, self.use = held, use
        self.itself = self

    def __del__(self) -> None:
        self.use(self.held)


def test_what_a_handle_points_to_is_freed_when_all_finalizers_have_run(
    client: Context, server: Context
) -> None:
    order: list[str] = []

    def free(pointer: Any) -> None:
        order.append("freed")
        binding.lib.SSL_free(pointer)

    def close(connection: dtls.Connection) -> None:
        connection.close(0.0)
        order.append("closed")

    ends = Pair(client, server)
    ends.settle()
    for end in (ends.client, ends.server):
        assert isinstance(end, OpenSSLConnection)
        assert not gc.is_tracked(end._ssl)
        [owner] = [one for one in binding._owners if one() is end._ssl]
        owner.free = free
        Holder(end, close)
    del ends, end
    gc.collect()
    assert order == ["closed", "closed", "freed", "freed"]
    assert owner not in binding._owners


_IN_A_CYCLE = """
import gc, threading, warnings
import dtls
from dtls.certificates import CertificateAuthority

warnings.simplefilter("ignore")
authority = CertificateAuthority()
server = dtls.Context(dtls.PROTOCOL_DTLS_SERVER)
server.load_cert_chain(authority.issue("localhost").private_key_and_chain_pem)
client = dtls.Context(dtls.PROTOCOL_DTLS_CLIENT)
client.load_verify_locations(cadata=authority.certificate_pem)

def serve(sock):
    try:
        raise ValueError("a bad request")
    except ValueError as problem:
        error = problem  # which holds this frame, and so the socket

for _ in range(10):
    with dtls.create_server(("127.0.0.1", 0), context=server) as listening:
        accepted = []
        accepting = threading.Thread(target=lambda: accepted.append(listening.accept()[0]))
        accepting.start()
        near = dtls.create_connection(listening.getsockname(), 10, context=client, server_hostname="localhost")
        accepting.join()
        serve(accepted.pop())
        near.close()
        del near, accepting
        gc.collect()
print("all is well")
"""


def test_a_socket_that_was_left_open_in_a_cycle_does_not_end_the_process() -> None:
    environment = {"PYTHONPATH": str(Path(dtls.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_CYCLE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr


def test_a_server_that_was_left_open_in_a_cycle_gives_a_warning_and_no_more(server: Context) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Holder(create_server(("127.0.0.1", 0), context=server))
        gc.collect()
    assert any("unclosed <DTLSServerSocket" in str(warning.message) for warning in caught)


def test_a_finalizer_hands_nothing_on_to_a_server_whose_lock_may_be_taken(
    client: Context, server: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_on: list[bytes] = []
    with create_server(("127.0.0.1", 0), context=server) as listening:
        near, far = pair(client, server, listener=listening)
        monkeypatch.setattr(
            DTLSServerSocket, "_take_stray", lambda _server, datagram, _origin: handed_on.append(datagram)
        )
        with near:
            [hello] = client.connection(0.0, server_hostname="localhost").datagrams_to_send(0.0)
            assert near._driver is not None
            near._driver.sock.send(hello)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del far
                gc.collect()
            assert any("unclosed <DTLSSocket" in str(warning.message) for warning in caught)
    assert handed_on == []
