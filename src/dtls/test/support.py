"""What the tests of :mod:`dtls.test.suite` share: ways to run, certificates, sockets, servers, a relay.

Whatever waits here has a deadline. Nothing depends on how fast the machine is.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import queue
import selectors
import shutil
import socket
import ssl as _ssl
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dtls
from dtls import err
from dtls.certificates import CertificateAuthority

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

ssl: Any = _ssl
"""The module that ``do_patch()`` has patched: its type is not known to anybody."""

PATIENCE = 20.0
"""Seconds after which a test has failed. Only what hangs takes so long."""
SHORT = 0.05
"""Seconds that are meant to run out."""
_STEP = 0.02
"""Seconds after which a server looks whether it is to stop."""
_DESCRIPTORS = Path("/proc/self/fd")


# --- ways to run -----------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """One of the ways in which each test runs."""

    name: str
    demux: str
    """How listening sockets tell their clients apart: ``"osnet"`` by the kernel, ``"router"`` by forwarding."""
    protocol: str
    family: socket.AddressFamily
    host: str


WAYS = {
    way.name: way
    for way in (
        Way("osnet4", "osnet", "IPv4", socket.AF_INET, "127.0.0.1"),
        Way("osnet6", "osnet", "IPv6", socket.AF_INET6, "::1"),
        Way("router4", "router", "IPv4", socket.AF_INET, "127.0.0.1"),
        Way("router6", "router", "IPv6", socket.AF_INET6, "::1"),
    )
}


class _Current:
    way = WAYS["osnet4"]


def current_way() -> Way:
    """The way that tests run in at present."""
    return _Current.way


def use(way: Way) -> str | None:
    """Run tests in this way from now on. Why that cannot be done here, if it cannot."""
    try:
        with socket.socket(way.family, socket.SOCK_DGRAM) as sock:
            sock.bind((way.host, 0))
    except OSError:
        return f"this system has no {way.protocol} loopback"
    reason = _use_demux(way.demux)
    if reason is None:
        _Current.way = way
    return reason


def _use_demux(name: str) -> str | None:
    dtls.reset_default_demux()
    switched = dtls.force_routing_demux()
    if name == "router":
        return None
    dtls.reset_default_demux()
    return None if switched else "this system has the routing demultiplexer only"


# --- certificates ----------------------------------------------------------------------------------------------------


class Certificates(NamedTuple):
    """Paths of PEM files. Those that are not roots hold a key and a chain."""

    root: str
    server: str
    """For this host under each of its names; RSA with 2048 bits, since DTLS 1.0 has no other usual one."""
    client: str
    long_chain: str
    """As ``server``, with several intermediates."""
    long_client_chain: str
    """As ``client``, with several intermediates."""
    other_root: str
    """Not that of the others, though of the same name."""
    stranger: str
    """A client's below ``other_root``."""
    ec_server: str
    """As ``server``, but ECDSA with P-256, and below ``other_root``."""
    empty: str
    malformed_certificate: str
    malformed_key: str


@functools.cache
def certificates() -> Certificates:
    """Made when they are first needed, removed when Python ends."""
    directory = tempfile.mkdtemp(prefix="dtls-test-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    names = "localhost", "127.0.0.1", "::1"
    ca, other = CertificateAuthority(key_type="rsa"), CertificateAuthority()
    client = ca.issue("a client", key_type="rsa", client=True)
    lowest = ca
    for number in range(4):
        lowest = lowest.intermediate(f"dtls test intermediate CA {number}")
    content = {
        "root": ca.certificate_pem,
        "server": ca.issue(*names, key_type="rsa").private_key_and_chain_pem,
        "client": client.private_key_and_chain_pem,
        "long_chain": lowest.issue(*names, key_type="rsa").private_key_and_chain_pem,
        "long_client_chain": lowest.issue("a client", client=True).private_key_and_chain_pem,
        "other_root": other.certificate_pem,
        "stranger": other.issue("a stranger", key_type="rsa", client=True).private_key_and_chain_pem,
        "ec_server": other.issue(*names).private_key_and_chain_pem,
        "empty": b"",
        "malformed_certificate": client.key_pem + _malformed(client.chain_pem),
        "malformed_key": _malformed(client.key_pem) + client.chain_pem,
    }
    paths = {}
    for name, pem in content.items():
        path = Path(directory, f"{name}.pem")
        path.write_bytes(pem)
        paths[name] = str(path)
    return Certificates(**paths)


def _malformed(pem: bytes) -> bytes:
    first, _, rest = pem.partition(b"\n")
    return first + b"\nThis is not what a PEM file holds!\n" + rest[64:]


# --- what is left behind ---------------------------------------------------------------------------------------------


class Footprint(NamedTuple):
    """What a test may leave behind."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    """Empty where the system does not tell."""

    @classmethod
    def now(cls) -> Self:
        """What there is."""
        descriptors = set()
        if _DESCRIPTORS.is_dir():
            for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - names are wanted, not paths
                with contextlib.suppress(OSError):  # that of the directory itself is gone by now
                    descriptors.add((int(name), str((_DESCRIPTORS / name).readlink())))
        return cls(frozenset(threading.enumerate()), frozenset(descriptors))

    def beyond(self, earlier: Self) -> str:
        """What is here and was not there, in words; empty if nothing is."""
        return ", ".join(
            [f"thread {thread.name}" for thread in self.threads - earlier.threads]
            + [f"descriptor {number} ({what})" for number, what in self.descriptors - earlier.descriptors]
        )


def left_behind(before: Footprint) -> str:
    """What has come since and has not gone, in words; empty if nothing has."""
    if Footprint.now().beyond(before):
        gc.collect()
    return Footprint.now().beyond(before)


# --- threads ---------------------------------------------------------------------------------------------------------


class Worker(threading.Thread):
    """A thread whose result, or whose error, is fetched by :meth:`result`."""

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._work, self._work_arguments = work, arguments
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """What the thread does."""
        try:
            self._result = self._work(*self._work_arguments)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error

    def result(self) -> Any:
        """What the work gave, or its error raised."""
        self.join(PATIENCE)
        if self.is_alive():
            message = "a thread does not end"
            raise AssertionError(message)
        error, self._error = self._error, None
        result, self._result = self._result, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        return result


def until(condition: Callable[[], Any]) -> Any:
    """Wait for what no descriptor tells."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            message = "it does not come true"
            raise AssertionError(message)
        time.sleep(0.002)
    return value


# --- servers ---------------------------------------------------------------------------------------------------------


class Acceptor:
    """Accepts clients in a thread, always: with the routing demultiplexer, clients' datagrams come by through it.

    :param listening: a listening ``ssl.SSLSocket`` or ``SSLConnection``.
    :param plain: the socket that has its timeout and is closed in the end, if that is another one.
    """

    def __init__(self, listening: Any, plain: Any = None) -> None:
        self._listening = listening
        self._sock = listening if plain is None else plain
        self._sock.settimeout(_STEP)
        self._stopping = threading.Event()
        self._accepted: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.address: Any = self._sock.getsockname()
        self.errors: list[OSError] = []
        """What ``accept()`` raised."""
        self._thread = Worker(self._run)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                accepted = self._listening.accept()
            except ssl.SSLError as error:
                self.errors.append(error)
                continue
            if accepted is not None:
                self.welcome(*accepted)
                accepted = None  # a socket is its taker's alone

    def welcome(self, sock: Any, address: Any) -> None:
        """Do something with a new client, in the accepting thread."""
        self._accepted.put((sock, address))

    def idle(self) -> bool:
        """Whether nobody has been accepted that was not taken."""
        return self._accepted.empty()

    def take(self) -> tuple[Any, Any]:
        """The next client: its socket, with a timeout, and its address."""
        try:
            sock, address = self._accepted.get(timeout=PATIENCE)
        except queue.Empty:
            message = "no client comes"
            raise AssertionError(message) from None
        plain_socket_of(sock).settimeout(PATIENCE)
        return sock, address

    def stop(self) -> None:
        """Accept nobody any more, and close the sockets of those that nobody has taken."""
        self._stopping.set()
        try:
            self._thread.result()
        finally:
            while not self.idle():
                plain_socket_of(self._accepted.get()[0]).close()
            self._sock.close()


def plain_socket_of(connection: Any) -> Any:
    """What has the timeout and is closed: a connection's UDP socket, or a socket itself."""
    return connection.get_socket(True) if isinstance(connection, dtls.SSLConnection) else connection


class EchoServer(Acceptor):
    """Answers messages by the same in lower case, each client's in a thread; until "over", or the client closes."""

    def __init__(self, listening: Any) -> None:
        self._workers: list[Worker] = []
        self.refused: list[tuple[Any, OSError]] = []
        """The addresses of clients that it came to no end with, and why; the address as ``getpeername()`` has it."""
        self.certificates: list[Any] = []
        """What clients showed."""
        self.served = 0
        """How many clients it came to a good end with, and has closed the sockets of."""
        super().__init__(listening)

    def welcome(self, sock: Any, address: Any) -> None:
        """Serve a client in a thread of its own."""
        self._workers.append(Worker(self._serve, sock, address))

    def _serve(self, sock: Any, address: Any) -> None:
        # The socket is closed in the end: one that is left open and unread can keep a new client, that happens to be
        # given the address of this one, from being accepted.
        with contextlib.closing(sock):
            sock.settimeout(_STEP)
            try:
                self._converse(sock)
            except ssl.SSLError as error:
                if self._stopping.is_set():
                    return
                if sock.getpeername() != address:
                    raise
                self.refused.append((address, error))
                return
        self.served += 1

    def _converse(self, sock: Any) -> None:
        self._patiently(sock.do_handshake)
        self.certificates.append(sock.getpeercert())
        try:
            while (message := self._patiently(sock.recv, 16_384)).strip() != b"over":
                sock.send(message.lower())
        except ssl.SSLError as error:
            if error.args[0] != ssl.SSL_ERROR_ZERO_RETURN:
                raise
            sock.unwrap().close()

    def _patiently(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        """Go on with an operation after timeouts, unless the server stops."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return operation(*arguments)
            except ssl.SSLError as error:
                passes = error.args[0] in (err.ERR_HANDSHAKE_TIMEOUT, err.ERR_READ_TIMEOUT)
                if not passes or self._stopping.is_set() or time.monotonic() > deadline:
                    raise

    def stop(self) -> None:
        """Serve nobody any more."""
        super().stop()
        for worker in self._workers:
            worker.result()


# --- the network -----------------------------------------------------------------------------------------------------


class Relay:
    """Stands between one client, which is to connect to :attr:`address`, and a server.

    :param tap: is given the sender (``"client"`` or ``"server"``), how many datagrams that has sent before, and the
        datagram; gives what goes on instead of it, in order. Called in the relay's thread.
    """

    def __init__(self, server: Any, tap: Callable[[str, int, bytes], list[bytes]]) -> None:
        self.tap = tap
        self._front, self._back = (socket.socket(_Current.way.family, socket.SOCK_DGRAM) for _ in range(2))
        self._wake, self._waker = socket.socketpair()
        self._front.bind((_Current.way.host, 0))
        self._back.connect(server)
        self.address: Any = self._front.getsockname()
        self._thread = Worker(self._run)

    def _run(self) -> None:
        counts = {"client": 0, "server": 0}
        client: Any = None
        with selectors.DefaultSelector() as selector:
            for sock in (self._front, self._back, self._wake):
                selector.register(sock, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._wake:
                        return
                    with contextlib.suppress(OSError):  # nobody listens there any more
                        if key.fileobj is self._front:
                            sender = "client"
                            datagram, client = self._front.recvfrom(65_535)
                        else:
                            sender = "server"
                            datagram = self._back.recv(65_535)
                        number = counts[sender]
                        counts[sender] += 1
                        for forwarded in self.tap(sender, number, datagram):
                            if sender == "client":
                                self._back.send(forwarded)
                            elif client is not None:
                                self._front.sendto(forwarded, client)

    def stop(self) -> None:
        """Relay nothing any more."""
        self._waker.send(b"\0")
        try:
            self._thread.result()
        finally:
            for sock in (self._front, self._back, self._wake, self._waker):
                sock.close()
