"""One side of a measurement of :mod:`benchmarks.pydtls`: a program of its own, for whichever package is on its path.

It needs nothing but the standard library and a package ``dtls`` with PyDTLS's interface. What it says on its standard
output are lines of JSON: a server's first where it listens, then either side's what it measured.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import platform
import resource
import socket
import ssl
import sys
import time
from typing import Any, NamedTuple

LOOPBACK = "127.0.0.1"
MESSAGE_SIZE = 1200
LARGEST_MESSAGE = 16_384
WAIT = 5.0
"""Seconds: the timeout that is set where one is set."""
END_REPEATED_AFTER = 0.005
"""Seconds without an answer, after which the end of what went one way is said once more: it may have been lost too."""

HANDSHAKES, ECHO, ONE_WAY = "handshakes", "echo", "one way"
_WARMING, _BEGIN, _COUNTED, _END = b"warming", b"begin", b"counted", b"end"
_READ_TIMEOUT, _PORT_UNREACHABLE = 502, 505  # PyDTLS's numbers
_GONE = (errno.ECONNREFUSED, _PORT_UNREACHABLE)
_WARM_UPS = {HANDSHAKES: 5, ECHO: 100, ONE_WAY: 100}


class Job(NamedTuple):
    """What to do."""

    role: str
    """``server`` or ``client``."""
    work: str
    """:data:`HANDSHAKES`, :data:`ECHO` or :data:`ONE_WAY`."""
    secured: bool
    """With the package's ``ssl.wrap_socket``, or over plain UDP."""
    with_timeout: bool
    """Whether :data:`WAIT` is set on the sockets that messages go through."""
    ciphers: str
    pem: str
    """File: the key and the chain of a server; what a client trusts."""
    seconds: float
    """Time to measure."""
    patience: float
    """Seconds after which the process ends itself."""
    port: int
    """Of the server; 0 for the server itself."""


class Clock:
    """Time and processor time from its making on."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), _cpu_seconds()

    def read(self, operations: int, cipher: Any = None) -> dict[str, Any]:
        """What is reported of ``operations`` that were done since."""
        return {
            "operations": operations,
            "seconds": time.perf_counter() - self._began,
            "cpu": _cpu_seconds() - self._cpu,
            "cipher": cipher[0].decode() if cipher else None,
        }


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def wrap(sock: socket.socket, job: Job) -> Any:
    """The socket as the package's users secure it."""
    patched: Any = ssl
    if job.role == "server":
        return patched.wrap_socket(sock, server_side=True, certfile=job.pem, ciphers=job.ciphers)
    return patched.wrap_socket(sock, cert_reqs=ssl.CERT_REQUIRED, ca_certs=job.pem, ciphers=job.ciphers)


def _new_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


# --- the server ------------------------------------------------------------------------------------------------------


def serve(job: Job) -> dict[str, Any]:
    """Listen, do one job, and tell what it took."""
    sock = _new_socket()
    sock.bind((LOOPBACK, 0))
    port = sock.getsockname()[1]
    if not job.secured:
        _tell(_introduction(port, "none"))
        said, address = sock.recvfrom(LARGEST_MESSAGE)
        sock.connect(address)
        sock.send(said)
        return _serve_messages(sock, job)
    listening = wrap(sock, job)
    listening.listen(5)
    _tell(_introduction(port, vars(ssl)["DTLS_OPENSSL_VERSION"]))
    if job.work == HANDSHAKES:
        return _serve_handshakes(listening)
    return _serve_messages(_accept(listening), job)


def _introduction(port: int, library: str) -> dict[str, Any]:
    return {"port": port, "library": library.strip(), "python": platform.python_version()}


def _accept(listening: Any) -> Any:
    """The next peer's socket, its handshake complete. ``accept`` may have nothing to tell of what came."""
    while True:
        accepted = listening.accept()
        if accepted:
            return accepted[0]


def _serve_handshakes(listening: Any) -> dict[str, Any]:
    clock, done = Clock(), 0
    while True:
        peer = _accept(listening)
        said = peer.recv(LARGEST_MESSAGE)
        if said == _END:
            return clock.read(done, peer.cipher())
        peer.close()
        done += 1
        if said == _BEGIN:
            clock, done = Clock(), 0


def _serve_messages(peer: Any, job: Job) -> dict[str, Any]:
    if job.with_timeout:
        peer.settimeout(WAIT)
    while (said := peer.recv(LARGEST_MESSAGE)) != _BEGIN:
        peer.send(said)
    peer.send(said)
    clock, done = Clock(), 0
    if job.work == ECHO:
        while (said := peer.recv(LARGEST_MESSAGE)) != _END:
            peer.send(said)
            done += 1
    else:
        while peer.recv(LARGEST_MESSAGE) != _END:
            done += 1
    report = clock.read(done, peer.cipher() if job.secured else None)
    peer.send(_END)
    return report


# --- the client ------------------------------------------------------------------------------------------------------


def call(job: Job) -> dict[str, Any]:
    """Do one job with the server, and tell what it took."""
    if job.work == HANDSHAKES:
        return _call_for_handshakes(job)
    peer = _connect(job)
    if job.with_timeout:
        peer.settimeout(WAIT)
    message = b"m" * MESSAGE_SIZE
    for said in (message,) * _WARM_UPS[job.work] + (_BEGIN,):
        _echo(peer, said)
    clock, done = Clock(), 0
    until = time.perf_counter() + job.seconds
    if job.work == ECHO:
        while time.perf_counter() < until:
            _echo(peer, message)
            done += 1
    else:
        while time.perf_counter() < until:
            peer.send(message)
            done += 1
    report = clock.read(done, peer.cipher() if job.secured else None)
    _end(peer)
    return report


def _connect(job: Job) -> Any:
    sock = _new_socket()
    peer = wrap(sock, job) if job.secured else sock
    peer.connect((LOOPBACK, job.port))
    return peer


def _call_for_handshakes(job: Job) -> dict[str, Any]:
    for said in (_WARMING,) * _WARM_UPS[job.work] + (_BEGIN,):
        _shake_hands(job, said)
    clock, done = Clock(), 0
    until = time.perf_counter() + job.seconds
    while time.perf_counter() < until:
        _shake_hands(job, _COUNTED)
        done += 1
    report = clock.read(done)
    report["cipher"] = _shake_hands(job, _END)[0].decode()
    return report


def _shake_hands(job: Job, said: bytes) -> Any:
    """A full handshake, and a message that shows that it worked; the suite."""
    peer = _connect(job)
    peer.send(said)
    cipher = peer.cipher()
    peer.close()
    return cipher


def _echo(peer: Any, message: bytes) -> None:
    peer.send(message)
    if peer.recv(LARGEST_MESSAGE) != message:
        error = "something else came back than was sent"
        raise RuntimeError(error)


def _end(peer: Any) -> None:
    """Say that it is the end until it is heard."""
    peer.settimeout(END_REPEATED_AFTER)
    said = None
    while said != _END:
        try:
            peer.send(_END)
            said = peer.recv(LARGEST_MESSAGE)
        except OSError as error:
            if error.errno in _GONE:
                return  # it has heard and answered
            if not isinstance(error, TimeoutError) and error.errno != _READ_TIMEOUT:
                raise


def _tell(report: dict[str, Any]) -> None:
    print(json.dumps(report), flush=True)


def main() -> None:
    """Do the job that the only argument describes, as JSON."""
    job = Job(**json.loads(sys.argv[1]))
    # Even what waits in C ends: the process does.
    faulthandler.dump_traceback_later(job.patience, exit=True)
    if job.secured:
        from dtls import do_patch  # noqa: PLC0415 - plain UDP is measured without

        do_patch()
    _tell(serve(job) if job.role == "server" else call(job))


if __name__ == "__main__":
    main()
