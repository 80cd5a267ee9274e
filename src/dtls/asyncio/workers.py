"""A server of several processes on one port: :func:`run_server`.

This process, the supervisor, binds a socket for each worker to each address and forks the workers. The kernel chooses
a socket by the hash of the addresses of peer and server (SO_REUSEPORT), so that a peer always gets to the same worker.
The supervisor keeps all sockets open: the choice stays the same when a worker dies, and the next one gets its sockets.
What is made before forking is the same in all of them: the secret of cookies, and the keys of session tickets.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

from dtls.cookie import SECRET_LENGTH, CookieFactory

from .addresses import bound_sockets, hosts_of, resolve_blocking
from .server import DEFAULT_SHUTDOWN_TIMEOUT, check_server, endpoint_factory
from .supervisor import Supervisor
from .worker import Job, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dtls.context import Context
    from dtls.endpoint import CookiePolicy, EndpointLimits

    from .server import Handler
    from .worker import Lifespan, LoopFactory


def run_server(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    context: Context,
    workers: int | None = None,
    lifespan: Lifespan | None = None,
    family: int = 0,
    flags: int = socket.AI_PASSIVE,
    reuse_port: bool = False,
    limits: EndpointLimits | None = None,
    cookie_policy: CookiePolicy = "always",
    shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT,
    loop_factory: LoopFactory | None = None,
) -> None:
    """Run ``handler(connection)`` for each association of a server of several processes, until SIGINT or SIGTERM.

    It is called as ``asyncio.run`` is: where no loop runs, in the main thread; and while there is no other thread,
    since a process must not be forked while others of its threads hold locks. It returns at SIGTERM and raises
    :exc:`KeyboardInterrupt` at SIGINT (Ctrl-C), when each worker has closed as :meth:`Server.close` does. One that
    takes longer is killed; at a second signal, at once.

    What is not named here is as with :func:`serve`. Limits and statistics are each worker's own.

    :param workers: how many processes; by default one for each CPU that this process may use on Linux, else one. One
        runs in this process. More share cookies, and session tickets if the context has them
        (:attr:`dtls.Context.session_tickets`). So do contexts of ``set_sni_contexts``, and those that an
        ``sni_callback`` chooses if their ``check()`` was called before. Each worker remembers sessions by itself
        (``session_cache``).
    :param lifespan: called as ``lifespan(server)`` in each worker; gives an asynchronous context manager, entered
        before the worker reads its sockets and left when its server is closed: for what each process needs of its own,
        such as a connection to a database. ``server`` is the worker's :class:`Server`.
    :param loop_factory: makes each worker's event loop, such as ``uvloop.new_event_loop``; needs Python 3.11.
    :raises OSError: if an address cannot be bound; no worker has started then.
    :raises ValueError: for arguments that do not go together.
    :raises NotImplementedError: for more than one worker elsewhere than on Linux, which alone spreads datagrams.
    :raises RuntimeError: if a loop or another thread runs, or a worker ends before it has served: it says why. One that
        dies later is logged and replaced, with a pause that grows if that happens again and again.
    """
    count = _count(workers)
    _check_caller(count)
    check_server(handler, shutdown_timeout)
    if lifespan is not None and not callable(lifespan):
        message = f"lifespan must be a function that gives an asynchronous context manager, not {lifespan!r}"
        raise TypeError(message)
    if loop_factory is not None and sys.version_info < (3, 11):
        message = "loop_factory needs Python 3.11; set an event loop policy (uvloop.install()) instead"
        raise NotImplementedError(message)
    cookies = CookieFactory(secret=os.urandom(SECRET_LENGTH) if count > 1 else None)
    new_endpoint = endpoint_factory(context, cookie_policy, limits, cookies)
    job = Job(handler, shutdown_timeout, new_endpoint, lifespan, loop_factory)
    hosts = hosts_of(host, port)
    addresses = [found for one in hosts for found in resolve_blocking(one, port, family=family, flags=flags)]
    socks = bound_sockets(addresses, everywhere=not all(hosts), reuse_port=reuse_port)
    if count == 1:
        try:
            run(job, socks)
        finally:
            for sock in socks:
                sock.close()  # if there was no loop to take them
    else:
        Supervisor(job, socks, count).run()


def _count(workers: int | None) -> int:
    if workers is None:
        return _usable_cpus() if sys.platform == "linux" else 1
    if not isinstance(workers, int):
        message = f"workers must be a number of processes or None, not {workers!r}"
        raise TypeError(message)
    if workers < 1:
        message = f"workers must be at least 1, not {workers}"
        raise ValueError(message)
    if workers > 1 and sys.platform != "linux":
        message = "only Linux spreads the datagrams of one port over several processes: use workers=1"
        raise NotImplementedError(message)
    return workers


def _usable_cpus() -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0))


def _check_caller(count: int) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        message = "run_server() makes event loops of its own and cannot be called while one runs: see serve()"
        raise RuntimeError(message)
    if threading.current_thread() is not threading.main_thread():
        message = "run_server() must be called in the main thread, which is the one that gets signals"
        raise RuntimeError(message)
    if count > 1 and threading.active_count() > 1:
        others = ", ".join(
            thread.name for thread in threading.enumerate() if thread is not threading.main_thread()
        )
        message = (
            f"run_server() forks, which is safe only while there is no other thread; there is {others}: start threads "
            "in lifespan, or use workers=1"
        )
        raise RuntimeError(message)
