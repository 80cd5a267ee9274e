"""A server of several processes, for the tests: ``python -m tests.worker_server OPTIONS`` (JSON).

It prints a line when a worker starts, serves, and has left; its log goes to stderr. What a handler is told by its peer
it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dtls
from dtls.asyncio import run_server, supervisor, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dtls.asyncio import DTLSConnection, Server


async def handle(connection: DTLSConnection) -> None:
    async for message in connection:
        if message == b"die":
            os._exit(7)
        elif message == b"block":
            await connection.send(b"blocked")
            time.sleep(1000)  # noqa: ASYNC251 - that is the fault
        elif message == b"random":
            await connection.send(b"%r %s" % (random.random(), os.urandom(8).hex().encode()))  # noqa: S311 - it is looked at
        else:
            await connection.send(b"%d %s" % (os.getpid(), message))


def say(what: str, *more: object) -> None:
    # One call, so that the lines of several processes stay whole.
    os.write(1, " ".join(map(str, [what, os.getpid(), *more])).encode() + b"\n")


def is_there(path: str) -> bool:
    return bool(path) and Path(path).exists()


def main(
    certificate: str, mood: str = "", later: str = "", patience: float | None = None, **options: Any
) -> None:
    """Serve.

    :param mood: "fail" or "hang" for workers that cannot start, "stay" for such as do not end.
    :param later: a path; when there is something, no further worker can start.
    :param patience: instead of what workers have to end.
    """

    @contextlib.asynccontextmanager
    async def lifespan(server: Server) -> AsyncIterator[None]:
        say("starting")
        if mood == "hang":
            await asyncio.Event().wait()
        if mood == "fail" or is_there(later):
            message = "no database today"
            raise LookupError(message)
        # In the loop's next turn, when it has been reported: one that is killed before has never served.
        ports = [sock.getsockname()[1] for sock in server.sockets]
        asyncio.get_running_loop().call_soon(say, "serving", *ports)
        yield
        if mood == "stay":
            time.sleep(1000)  # noqa: ASYNC251 - that is the fault
        say("left", len(server.sockets))

    if patience is not None:
        worker.LEAVE_PATIENCE = patience
        supervisor.KILL_PATIENCE = 30.0
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.session_tickets = True
    if options.pop("uvloop", False):
        import uvloop  # noqa: PLC0415 - not everywhere

        options["loop_factory"] = uvloop.new_event_loop
    run_server(handle, context=context, lifespan=lifespan, **{"host": "127.0.0.1", "port": 0, **options})
    say("returned")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    main(**json.loads(sys.argv[1]))
