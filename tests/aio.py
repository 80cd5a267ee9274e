"""Event loops for the tests: each in debug mode, with a look at what is left when a test is over: nothing."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from dtls.asyncio import DTLSConnection, Server, connect, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dtls.context import Context

T = TypeVar("T")
HERE = "127.0.0.1"
PATIENCE = 30.0
"""Seconds after which a test has failed. Only what hangs takes so long."""


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """As Windows's proactor, which watches no descriptors for others."""

    def _unavailable(self, *_: Any) -> Any:
        raise NotImplementedError

    add_reader: Any = _unavailable
    remove_reader: Any = _unavailable
    add_writer: Any = _unavailable
    remove_writer: Any = _unavailable


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - not everywhere

    return uvloop.new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": _uvloop,
    "without readers": LoopWithoutReaders,
}
needs_uvloop = pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="uvloop is not installed")
EVERY_LOOP = [pytest.param(name, marks=[needs_uvloop] if name == "uvloop" else []) for name in LOOPS]
each_loop = pytest.mark.parametrize("loop_name", EVERY_LOOP)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())


def run(
    main: Callable[[], Coroutine[Any, Any, T]],
    loop_name: str = "asyncio",
    *,
    errors: list[dict[str, Any]] | None = None,
    debug: bool = True,
    patience: float = PATIENCE,
) -> T:
    """Run ``main`` in a new loop. Afterwards no task, timer, error or warning of asyncio's may be left.

    ``errors`` takes what the loop's exception handler is given, which is a failure otherwise. ``debug`` makes it slow.
    """
    loop = LOOPS[loop_name]()
    loop.set_debug(debug)
    loop.slow_callback_duration = PATIENCE  # a busy machine is no failure
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: (unexpected if errors is None else errors).append(context))
    said = _Records()
    logging.getLogger("asyncio").addHandler(said)
    try:
        result = loop.run_until_complete(asyncio.wait_for(main(), patience))
        loop.run_until_complete(_breathe())
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        timers = [handle for handle in getattr(loop, "_scheduled", []) if not handle.cancelled()]
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
        logging.getLogger("asyncio").removeHandler(said)
    gc.collect()
    assert unexpected == [], unexpected
    assert left == [], left
    assert timers == [], timers
    assert said.records == [], said.records
    return result


async def _breathe() -> None:
    """Let callbacks that are due be called: sockets are closed by some."""
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any]) -> Any:
    """Wait for what no future tells."""
    while not (value := condition()):  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.001)
    return value


# --- a server and its clients ----------------------------------------------------------------------------------------


async def echo(connection: DTLSConnection) -> None:
    async for message in connection:
        await connection.send(message)


def port_of(server: Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def echoing(server: Context, **options: Any) -> Any:
    """An echo server on loopback, to be entered."""
    return serve(echo, HERE, 0, context=server, **{"shutdown_timeout": 5, **options})


def client_of(running: Server, client: Context, **options: Any) -> Any:
    """A client of an echo server, to be entered."""
    options = {"server_hostname": "localhost", "timeout": PATIENCE, **options}
    return connect(HERE, port_of(running), context=client, **options)


class Handler:
    """Keeps the server's side of associations for the test to do with what it likes."""

    def __init__(self) -> None:
        self.connections: list[DTLSConnection] = []
        self.release = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, connection: DTLSConnection) -> None:
        self.connections.append(connection)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def first(self) -> DTLSConnection:
        await until(lambda: self.connections)
        return self.connections[0]
