"""What is measured: handshakes, echo round trips, datagrams one way. Server and client are processes of their own.

CPU seconds per operation are the figures that mean something on a noisy machine, and their ratios within one run.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .stacks import PATIENCE, STACKS, Credentials, Stack

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

MESSAGE_SIZE = 1200
_END = b"\x01end"
_WINDOW = 64


class Measurement(NamedTuple):
    """One run of one kind of work on one stack."""

    work: str
    stack: str
    operations: int
    lost: int
    seconds: float
    server_cpu: float
    """Seconds for all operations."""
    client_cpu: float


def _serve(stack_name: str, work: str, count: int, credentials: Credentials, pipe: Connection) -> None:
    """The server's process."""
    stack = _stack(stack_name)
    pipe.send(stack.listen(credentials))
    begun = time.process_time()
    done = 0
    if work == "handshakes":
        for _ in range(count):
            peer = stack.accept()
            assert peer.recv() == _END
            peer.send(_END)
            assert peer.recv() == b""
            peer.close()
            done += 1
        pipe.send((done, time.process_time() - begun))
        return
    peer = stack.accept()
    begun = time.process_time()
    if work == "echo":
        while (message := peer.recv()) != _END:
            peer.send(message)
            done += 1
    else:
        while peer.recv() != _END:
            done += 1
    spent = time.process_time() - begun
    peer.send(_END)
    pipe.send((done, spent))


def _stack(name: str) -> Stack:
    return next(stack for stack in STACKS if stack.name == name)()


def measure(stack_name: str, work: str, count: int, credentials: Credentials) -> Measurement:
    """Do ``count`` operations of ``work`` (``handshakes``, ``echo`` or ``one way``) on a stack."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    server = processes.Process(
        target=_serve, args=(stack_name, work, count, credentials, theirs), daemon=True
    )
    server.start()
    try:
        port = _told(ours)
        stack = _stack(stack_name)
        stack.prepare(credentials)
        seconds, cpu, sent = _WORK[work](stack, port, count)
        done, server_cpu = _told(ours)
    finally:
        server.terminate()
        server.join()
        ours.close()
        theirs.close()
    assert 0 < done <= sent, f"{stack_name}: {done} of {sent} operations were done"
    assert work == "one way" or done == sent, f"{stack_name}: {done} of {sent} operations were done"
    return Measurement(work, stack_name, done, sent - done, seconds, server_cpu, cpu)


def _told(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE):
        message = "the server's process is silent"
        raise TimeoutError(message)
    return pipe.recv()


def _handshakes(stack: Stack, port: int, count: int) -> tuple[float, float, int]:
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        peer = stack.connect(port)
        peer.send(_END)
        assert peer.recv() == _END
        peer.close()
    return time.perf_counter() - begun, time.process_time() - cpu, count


def _echo(stack: Stack, port: int, count: int) -> tuple[float, float, int]:
    peer = stack.connect(port)
    message = b"m" * MESSAGE_SIZE
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        peer.send(message)
        assert peer.recv() == message
    seconds, spent = time.perf_counter() - begun, time.process_time() - cpu
    peer.send(_END)
    assert peer.recv() == _END
    peer.close()
    return seconds, spent, count


def _one_way(stack: Stack, port: int, count: int) -> tuple[float, float, int]:
    peer = stack.connect(port)
    message = b"m" * MESSAGE_SIZE
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        peer.send(message)
    spent = time.process_time() - cpu
    # What fills the server's queue may push the end out of it: it is said until it is heard.
    peer.send(_END)
    while True:
        try:
            assert peer.recv() == _END
        except TimeoutError:
            peer.send(_END)
        else:
            break
    seconds = time.perf_counter() - begun
    peer.close()
    return seconds, spent, count


_WORK = {"handshakes": _handshakes, "echo": _echo, "one way": _one_way}
WORK = tuple(_WORK)
