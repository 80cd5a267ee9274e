"""Measures works on stacks, interleaved, so that a change of the machine's mood meets all of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dtls.certificates import CertificateAuthority

from .processes import Cores, Credentials, Load, Server, Unable, processes
from .settings import LOOPBACK
from .works import ASSOCIATING_SECONDS, HELLO_PORTS, WORKS, Scale, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .stacks import Stack

WARM_UP = 10
"""One in so many operations is done once more before, and not measured."""
SMALL_WINDOW = 80
"""Datagrams of 1,200 bytes that the kernel's default receive buffer holds."""
FIRST_ASSOCIATIONS = 32
"""Associations that a server has before its memory is read for the first time."""


class Measurement(NamedTuple):
    """One run of one kind of work on one stack."""

    work: str
    stack: str
    value: float
    """The server's CPU for an operation in microseconds, or its memory for an association in KB."""
    per_second: float | None = None
    busy: float | None = None
    """The part of the time that the server's core was busy with it; near 1, the load was quicker than the server. Not
    told of ping-pong, which has pauses."""
    lost: float | None = None
    """The part of the operations that came to nothing."""
    kept: float | None = None
    """Bytes of memory that the server took for an operation and kept."""


class Failure(NamedTuple):
    """What a stack cannot do, and why."""

    work: str
    stack: str
    reason: str


class Results(NamedTuple):
    """What came of a run."""

    measurements: list[Measurement]
    failures: list[Failure]
    libraries: dict[str, str]
    """What each stack ran on, in its own words."""


def run(
    works: Sequence[Work],
    stacks: Sequence[Stack],
    rounds: int,
    scale: Scale,
    progress: Callable[[str], object] = lambda _: None,
) -> Results:
    """All works on all stacks."""
    results = Results([], [], {})
    sessions: dict[str, list[Work]] = {}
    for work in works:
        sessions.setdefault(work.session, []).append(work)
    with tempfile.TemporaryDirectory() as directory:
        credentials = credentials_in(Path(directory))
        for number in range(rounds):
            for session in sessions.values():
                for stack in stacks:
                    progress(f"round {number + 1} of {rounds}: {session[0].title}, {stack.title}")
                    _run_session(stack, session, scale, credentials, results)
    return results


def credentials_in(directory: Path) -> Credentials:
    """A certificate and its key, as files."""
    certificate = CertificateAuthority().issue("localhost", LOOPBACK)
    credentials = Credentials(directory / "certificate.pem", directory / "key.pem")
    credentials.certificate.write_bytes(certificate.chain_pem)
    credentials.key.write_bytes(certificate.key_pem)
    return credentials


def _run_session(
    stack: Stack, session: Sequence[Work], scale: Scale, credentials: Credentials, results: Results
) -> None:
    """The works that the stack can do, one after the other on one server; what fails is not tried again."""
    failed = {failure.work for failure in results.failures if failure.stack == stack.name}
    possible = [work for work in session if stack.name in work.stacks and work.name not in failed]
    for work in possible.copy():
        if reason := _forbidden(stack, work):
            results.failures.append(Failure(work.name, stack.name, reason))
            possible.remove(work)
    if not possible:
        return
    current = possible[0]
    try:
        with processes(stack, current, credentials, Cores.choose()) as (server, load):
            results.libraries[stack.name] = server.library
            for current in possible:
                results.measurements.append(_measure(stack, scale.apply(current), scale, server, load))
    except Unable as error:
        # Whatever came after it in the session needs as much or more.
        for work in possible[possible.index(current) :]:
            results.failures.append(Failure(work.name, stack.name, str(error)))


def _forbidden(stack: Stack, work: Work) -> str:
    if WORKS[work.name].associations > stack.most:
        return stack.most_reason
    return stack.lacks_batches() if work.batch else ""


def _measure(stack: Stack, work: Work, scale: Scale, server: Server, load: Load) -> Measurement:
    if work.kind == "memory":
        return _measure_memory(stack, work, server, load)
    if work.kind in ("echo", "in", "out"):
        load.associate(work.associations, ASSOCIATING_SECONDS)
    load.run(_command(stack, _warm_up(work), scale), work.seconds)
    before = server.memory()
    tally = load.run(_command(stack, work, scale), work.seconds)
    kept = server.memory() - before
    if tally.done == 0:
        message = f"nothing was answered in {work.seconds:g} s"
        raise Unable(message)
    if work.resume and tally.resumed < tally.done:
        message = "resumes no sessions"
        raise Unable(message)
    return Measurement(
        work.name,
        stack.name,
        tally.cpu / tally.done * 1e6,
        per_second=tally.done / tally.seconds,
        busy=tally.cpu / tally.seconds if work.name != "ping-pong" else None,
        lost=tally.lost / (tally.done + tally.lost) if work.kind != "out" else tally.lost / tally.done,
        kept=kept / tally.done if work.kind == "hellos" else None,
    )


def _warm_up(work: Work) -> Work:
    return work._replace(operations=max(work.operations // WARM_UP, work.associations, work.window))


def _command(stack: Stack, work: Work, scale: Scale) -> str:
    words: dict[str, tuple[Any, ...]] = {
        "echo": (work.window,),
        "in": (min(work.window, SMALL_WINDOW) if stack.default_buffer else work.window,),
        "out": (int(work.batch),),
        "handshakes": (work.window, int(work.resume)),
        "hellos": (max(1, int(HELLO_PORTS * scale.ports)), work.window),
    }
    return " ".join(map(str, (work.kind, work.operations, *words[work.kind])))


def _measure_memory(stack: Stack, work: Work, server: Server, load: Load) -> Measurement:
    """Of associations over which one message went to and fro."""

    def grow(count: int) -> int:
        load.associate(count, work.seconds)
        load.run(f"echo {count} 16", work.seconds)
        return server.memory()

    before = grow(FIRST_ASSOCIATIONS)
    kept = grow(FIRST_ASSOCIATIONS + work.operations) - before
    return Measurement(work.name, stack.name, kept / work.operations / 1000)


def select(works: Sequence[str] | None) -> Iterator[Work]:
    """The works of these names, or with these beginnings; all if there are none."""
    for work in WORKS.values():
        if not works or any(work.name == name or work.name.startswith(f"{name}-") for name in works):
            yield work
