"""Measure this package beside plain UDP sockets and pyOpenSSL, in one run: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dtls.certificates import CertificateAuthority
from dtls.engines.openssl.binding import version as openssl_version

from .stacks import CIPHER, STACKS, Credentials
from .work import MESSAGE_SIZE, WORK, Measurement, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 5
COUNTS = {"handshakes": 150, "echo": 4000, "one way": 20_000}
QUICK_ROUNDS = 1
QUICK_COUNTS = {"handshakes": 20, "echo": 300, "one way": 1000}


_COLUMNS = (
    ("per second", 12),
    ("lost", 8),
    ("server us CPU", 22),
    ("client us CPU", 15),
    ("/ plain UDP", 13),
    ("/ pyOpenSSL", 13),
)


def run(rounds: int, counts: dict[str, int]) -> list[Measurement]:
    """All work on all stacks, interleaved, so that a change of the machine's mood meets all of them."""
    authority = CertificateAuthority()
    certificate = authority.issue("localhost", "127.0.0.1")
    credentials = Credentials(certificate.chain_pem, certificate.key_pem, authority.certificate_pem)
    return [
        measure(stack.name, work, counts[work], credentials)
        for _ in range(rounds)
        for work in WORK
        for stack in STACKS
    ]


def table(measurements: list[Measurement]) -> str:
    """Medians, with the spread of the server's CPU in brackets, and ratios of that to the other two stacks."""
    lines = [
        " " * 24 + "".join(f"{title:>{width}}" for title, width in _COLUMNS),
    ]
    for work in WORK:
        server = {
            stack.name: [
                one.server_cpu / one.operations * 1e6
                for one in measurements
                if (one.work, one.stack) == (work, stack.name)
            ]
            for stack in STACKS
        }
        for stack in STACKS:
            own = [one for one in measurements if (one.work, one.stack) == (work, stack.name)]
            rate = statistics.median(one.operations / one.seconds for one in own)
            lost = sum(one.lost for one in own) / sum(one.lost + one.operations for one in own)
            client = statistics.median(one.client_cpu / (one.operations + one.lost) * 1e6 for one in own)
            micro = server[stack.name]
            median = statistics.median(micro)
            ratios = [median / statistics.median(server[name]) for name in ("plain UDP", "pyOpenSSL")]
            spread = f"{median:.1f} ({min(micro):.1f} to {max(micro):.1f})"
            lines.append(
                f"{work:12}{stack.name:12}{rate:12,.0f}{lost:8.1%}{spread:>22}{client:15.1f}"
                f"{ratios[0]:13.2f}{ratios[1]:13.2f}"
            )
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks and print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short round: shows that it runs, not how fast"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every measurement to FILE")
    options = parser.parse_args(arguments)
    rounds, counts = (QUICK_ROUNDS, QUICK_COUNTS) if options.quick else (ROUNDS, COUNTS)
    print(
        f"{openssl_version()[1]}, Python {platform.python_version()}, {CIPHER}, {MESSAGE_SIZE}-byte messages"
    )
    print(f"{rounds} interleaved rounds of {counts}; medians; CPU in microseconds per operation\n")
    measurements = run(rounds, counts)
    print(table(measurements))
    if options.json:
        options.json.write_text(json.dumps([one._asdict() for one in measurements], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
