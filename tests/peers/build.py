"""Compiles the programs of this directory, each once in a session of pytest, outside the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.build import C_OPTIONS, GO_ENVIRONMENT, lacks_library, lacks_pion

from .programs import missing

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = Path(__file__).parent
COMPILE_TIMEOUT = 100.0


@dataclass(frozen=True)
class Recipe:
    """How a program is made."""

    lacks: Callable[[], str]
    """What is not installed that it needs; empty if all is there."""
    compile: Callable[[Path], list[str]]
    """The command that makes it in a directory."""
    run: Callable[[Path], list[str]]
    """The command that starts it there."""


def _compile_c(source: str, *libraries: str) -> Callable[[Path], list[str]]:
    def command(directory: Path) -> list[str]:
        sources = [str(SOURCES / name) for name in ("peer.c", source)]
        return [
            "cc",
            *C_OPTIONS,
            "-O1",
            "-o",
            str(directory / "peer"),
            *sources,
            *(f"-l{name}" for name in libraries),
        ]

    return command


def _lacks_jdk() -> str:
    return "" if shutil.which("javac") and shutil.which("java") else "a JDK is not installed"


RECIPES = {
    "mbedtls": Recipe(
        lacks=lambda: lacks_library(
            "#include <mbedtls/version.h>\n#if MBEDTLS_VERSION_MAJOR != 2\n#error Mbed TLS 2 is wanted\n#endif\n"
        ),
        compile=_compile_c("mbedtls.c", "mbedtls", "mbedx509", "mbedcrypto"),
        run=lambda directory: [str(directory / "peer")],
    ),
    "wolfssl": Recipe(
        lacks=lambda: lacks_library("#include <wolfssl/options.h>\n#include <wolfssl/ssl.h>\n"),
        compile=_compile_c("wolfssl.c", "wolfssl"),
        run=lambda directory: [str(directory / "peer")],
    ),
    "pion": Recipe(
        lacks=lacks_pion,
        compile=lambda directory: ["go", "build", "-o", str(directory / "peer"), str(SOURCES / "pion.go")],
        run=lambda directory: [str(directory / "peer")],
    ),
    "jsse": Recipe(
        lacks=_lacks_jdk,
        compile=lambda directory: [
            "javac",
            "-Xlint:all",
            "-Werror",
            "-d",
            str(directory),
            str(SOURCES / "Jsse.java"),
        ],
        # What lets a virtual machine that lives for a moment start faster.
        run=lambda directory: [
            "java",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-cp",
            str(directory),
            "Jsse",
        ],
    ),
}


def built(name: str, root: Path) -> list[str]:
    """The command that starts a program, which is compiled below ``root`` unless another worker has done it."""
    import fcntl  # noqa: PLC0415 - what has no fcntl has none of these peers either

    recipe = RECIPES[name]
    if reason := recipe.lacks():
        missing(f"{name} cannot be built: {reason}")
    directory = root / name
    directory.mkdir(exist_ok=True)
    done = directory / "compiled"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            finished = subprocess.run(
                recipe.compile(directory),
                env=os.environ | GO_ENVIRONMENT,
                capture_output=True,
                check=False,
                timeout=COMPILE_TIMEOUT,
            )
            assert finished.returncode == 0, (finished.stdout + finished.stderr).decode()
            done.touch()
    return recipe.run(directory)
