"""What is compared, and why something is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

import dtls
import dtls.asyncio

from .build import C_SERVER, GO_SERVER, CompileError, Program

ROOT = Path(__file__).parents[1]


class Stack(NamedTuple):
    """A way to exchange messages over UDP: a server in a process of its own."""

    name: str
    """On the command line."""
    title: str
    """In tables."""
    module: tuple[str, ...] = ()
    """In :mod:`benchmarks.servers`, and the variant; empty for a program that is compiled."""
    program: Program | None = None
    needs: tuple[str, ...] = ()
    """Packages that are imported."""
    distributions: str = ""
    """What to install for them."""
    secured: bool = True
    most: int = 65_536
    """Associations that are measured at a time."""
    most_reason: str = ""
    default_buffer: bool = False
    """Whether it leaves the socket's receive buffer as small as the kernel makes it."""

    @property
    def own(self) -> bool:
        """Whether it is this package."""
        return self.module[:1] == ("own",)

    def lacks(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            return f"not installed: {self.distributions or ', '.join(missing)}"
        if self.program is not None:
            try:
                self.program.built()
            except CompileError as error:
                return f"cannot be compiled: {str(error).strip().splitlines()[0]}"
        return ""

    def command(self) -> list[str]:
        """What starts its server, before the arguments of :class:`benchmarks.servers.job.Job`."""
        if self.program is not None:
            return [str(self.program.built())]
        name, *variant = self.module
        return [sys.executable, "-m", f"benchmarks.servers.{name}", *variant]

    def lacks_batches(self) -> str:
        """Why it takes and gives no batches; empty if it does."""
        if not self.own:
            return ""
        place = dtls.DTLSSocket if self.module[1] == "blocking" else dtls.asyncio.DTLSConnection
        missing = [name for name in ("send_many", "recv_many") if not hasattr(place, name)]
        return f"this version has no {' and no '.join(missing)}" if missing else ""


PLAIN, PLAIN_ASYNCIO = "plain", "plain-asyncio"
OWN, OWN_SERVE, OWN_PROTOCOL = "dtls", "dtls-serve", "dtls-protocol"
PYOPENSSL, TRIO, MBEDTLS, C, PION = "pyopenssl", "trio", "mbedtls", "c", "pion"

_THREADS = "has a thread for each association"

STACKS = {
    stack.name: stack
    for stack in (
        Stack(PLAIN, "plain UDP, blocking", ("plain", "blocking"), secured=False),
        Stack(PLAIN_ASYNCIO, "plain UDP, asyncio", ("plain", "asyncio"), secured=False),
        Stack(OWN, "dtls, blocking", ("own", "blocking"), most=1000, most_reason=_THREADS),
        Stack(OWN_SERVE, "dtls, asyncio serve", ("own", "serve")),
        Stack(OWN_PROTOCOL, "dtls, asyncio protocol", ("own", "protocol")),
        Stack(PYOPENSSL, "pyOpenSSL", ("pyopenssl",), needs=("OpenSSL",), distributions="pyOpenSSL"),
        Stack(
            TRIO, "trio DTLSEndpoint", ("trio_endpoint",),
            needs=("trio", "OpenSSL"), distributions="trio, pyOpenSSL",
        ),
        Stack(
            MBEDTLS, "python-mbedtls", ("mbedtls",),
            needs=("mbedtls",), distributions="python-mbedtls",
        ),
        Stack(C, "C on OpenSSL", program=C_SERVER),
        Stack(PION, "pion (Go)", program=GO_SERVER, default_buffer=True),
    )
}  # fmt: skip
