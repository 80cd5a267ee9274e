"""What is measured."""

from __future__ import annotations

from typing import NamedTuple

from .stacks import OWN, OWN_SERVE, PLAIN, STACKS, C

_SECURED = tuple(stack.name for stack in STACKS.values() if stack.secured)
_ALL = tuple(STACKS)
_BATCHING = (PLAIN, OWN, OWN_SERVE, C)


class Work(NamedTuple):
    """One row of the table for each stack."""

    name: str
    """On the command line."""
    title: str
    kind: str
    """The command of the load, or ``memory``."""
    session: str
    """Works of one session are measured one after the other on one server."""
    operations: int
    stacks: tuple[str, ...] = _ALL
    """For which it makes sense."""
    associations: int = 1
    window: int = 1
    """Operations under way at a time."""
    seconds: float = 3.0
    """After which no more is done of it, however much there is."""
    echo: bool = True
    """Whether the server echoes, or counts."""
    batch: bool = False
    single: bool = True
    """Whether the server has one association at a time."""
    resume: bool = False
    unit: str = "us"


ECHO_SIZES = (100, 1000, 5000, 10_000)

WORKS = {
    work.name: work
    for work in (
        Work("ping-pong", "ping-pong, one association", "echo", "ping-pong", 5_000),
        *(
            Work(
                f"echo-{size}", f"echo, {size:,} associations", "echo", "echo", 20_000,
                associations=size, window=64, single=False,
            )
            for size in ECHO_SIZES
        ),
        Work("in", "bulk in, one message a call", "in", "bulk", 40_000, window=400, echo=False),
        Work(
            "in-batched", "bulk in, batched (UDP_GRO)", "in", "batches", 40_000, _BATCHING,
            window=400, echo=False, batch=True,
        ),
        Work("out", "bulk out, one message a call", "out", "bulk", 20_000, echo=False),
        Work(
            "out-batched", "bulk out, batched (UDP_SEGMENT)", "out", "batches", 20_000, _BATCHING,
            echo=False, batch=True,
        ),
        Work("full", "full handshake", "handshakes", "handshakes", 400, _SECURED, window=4),
        Work("resumed", "resumed handshake", "handshakes", "handshakes", 800, _SECURED, window=4, resume=True),
        Work(
            "memory", "memory of an idle association", "memory", "memory", 1000, _SECURED,
            single=False, seconds=20.0, unit="KB",
        ),
        Work("hello", "ClientHello without cookie", "hellos", "hellos", 10_000, _SECURED, window=64),
    )
}  # fmt: skip
ASSOCIATING_SECONDS = 60.0
"""After which a stack does not get more associations."""
HELLO_PORTS = 2048


class Scale(NamedTuple):
    """How much of each work is done."""

    operations: float = 1.0
    """The part of the operations that is done."""
    associations: float = 1.0
    seconds: float = 1.0
    ports: float = 1.0

    def apply(self, work: Work) -> Work:
        """The work as it is done."""
        return work._replace(
            operations=max(2, int(work.operations * self.operations)),
            associations=max(1, int(work.associations * self.associations)),
            seconds=work.seconds * self.seconds,
        )


FULL = Scale()
QUICK = Scale(operations=0.01, associations=0.01, seconds=0.3, ports=0.02)
