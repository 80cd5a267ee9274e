"""Compiles the programs of this directory into a cache, each once for each state of its sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).with_name("programs")
GOPATH = "/usr/share/gocode"
"""Where Debian puts the sources of Go packages."""
GO_ENVIRONMENT = {"GOPATH": GOPATH, "GO111MODULE": "off", "GOFLAGS": ""}
C_OPTIONS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")
COMPILE_TIMEOUT = 100.0


class CompileError(Exception):
    """A program cannot be made, and why."""


class Program(NamedTuple):
    """A program to be compiled."""

    name: str
    sources: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    """Those of a program in C; one without is in Go."""

    def lacks(self) -> str:
        """What is not installed that its making needs; empty if all is there."""
        return lacks_library("#include <openssl/ssl.h>\n") if self.libraries else lacks_pion()

    def command(self, directory: Path) -> list[str]:
        """What makes it in a directory."""
        sources = [str(SOURCES / source) for source in self.sources]
        target = str(directory / self.name)
        if not self.libraries:
            return ["go", "build", "-o", target, *sources]
        libraries = [f"-l{library}" for library in self.libraries]
        return ["cc", *C_OPTIONS, "-O2", "-o", target, *(s for s in sources if s.endswith(".c")), *libraries]

    def built(self) -> Path:
        """The program, compiled now or before; raises :exc:`CompileError`."""
        if missing := self.lacks():
            raise CompileError(missing)
        digest = hashlib.sha256(repr(self.command(Path())).encode())
        for source in self.sources:
            digest.update((SOURCES / source).read_bytes())
        target = _cache() / f"{self.name}-{digest.hexdigest()[:16]}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            # Whoever else compiles it at the same time makes the same, in a directory of its own.
            with tempfile.TemporaryDirectory(dir=target.parent) as directory:
                _run(self.command(Path(directory)))
                (Path(directory) / self.name).replace(target)
        return target


LOAD = Program(
    "load",
    ("load.c", "load_associations.c", "load_traffic.c", "common.c", "load.h", "common.h"),
    ("ssl", "crypto"),
)
C_SERVER = Program("server", ("server.c", "common.c", "common.h"), ("ssl", "crypto"))
GO_SERVER = Program("pion", ("pion.go",))


def lacks_library(test: str) -> str:
    """What a C program that begins like ``test`` needs and is not there; empty if it compiles."""
    if shutil.which("cc") is None:
        return "a C compiler is not installed"
    command = ["cc", "-fsyntax-only", "-xc", "-"]
    finished = subprocess.run(  # noqa: S603 - the compiler
        command, input=test.encode(), capture_output=True, check=False, timeout=20
    )
    return finished.stderr.decode() if finished.returncode else ""


def lacks_pion() -> str:
    """What a program on pion/dtls needs and is not there; empty if all is."""
    if shutil.which("go") is None:
        return "Go is not installed"
    return "" if Path(GOPATH, "src/github.com/pion/dtls/v2").is_dir() else "pion/dtls v2 is not installed"


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "pydtls-benchmarks"


def _run(command: list[str]) -> None:
    try:
        finished = subprocess.run(  # noqa: S603 - our own sources
            command,
            env=os.environ | GO_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMPILE_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(str(error)) from error
    if finished.returncode:
        raise CompileError(finished.stdout + finished.stderr)
