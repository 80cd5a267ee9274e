"""The throughput test's command line."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar

from .perf_flow import DIRECTIONS, HIGHEST_PORT, LARGEST, LONGEST_TIMEOUT, MOST, SMALLEST, TRANSPORTS
from .perf_jobs import PROGRAM, SHORTEST_KEY, PerfError
from .perf_report import MIB
from .perf_transfer import DEMUXES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Value = TypeVar("Value")

KEY_VARIABLE = "DTLS_PERF_KEY"
DEFAULT_MIB = 32.0
DEFAULT_SIZE = 1400
"""Bytes that fit an Ethernet frame together with the headers of DTLS, UDP and IPv6."""
DEFAULT_TIMEOUT = 10.0
DEFAULT_WAIT = 60.0
_MOST_MIB = 1 << 20

EXAMPLES = f"""\
examples:
  Choose from a menu:
    python3 -m {PROGRAM}
  Measure everything, and keep the picture and the figures:
    python3 -m {PROGRAM} --run all --plot perf.svg --json perf.json
  DTLS beside UDP, one way, 100 MiB in messages of 200 and as much in messages of 1200 bytes:
    python3 -m {PROGRAM} --run udp,dtls --directions inbound --sizes 200,1200 --mib 100
  DTLS with each demultiplexer:
    python3 -m {PROGRAM} --run dtls --demux osnet,router
  DTLS without encryption, if the system's OpenSSL has such suites:
    python3 -m {PROGRAM} --run dtls --ciphers NULL
  Between two machines: on the first, which prints the key,
    python3 -m {PROGRAM} -s 7000 --run all
  and on the second
    {KEY_VARIABLE}=... python3 -m {PROGRAM} -c first.example:7000
  A key of your own, for several starts (in the environment or a file, others cannot read it):
    export {KEY_VARIABLE}=$(python3 -c 'import secrets; print(secrets.token_urlsafe())')

Remote clients connect to the port of -s and, for each transfer, to that of -p or any other.
Exit status: 0 if all went well, 1 if something failed or was not available, 2 for wrong arguments,
130 if Ctrl-C ended a test, 143 after SIGTERM. Each wait has a time limit.
Messages between manager and clients are authenticated by the key, not encrypted."""


class Options(NamedTuple):
    """What the command line asks for."""

    server: tuple[str, int] | None
    client: tuple[str, int] | None
    port: int
    key: str | None
    run: list[str] | None
    sizes: list[int]
    directions: tuple[str, ...]
    messages: int | None
    mib: float
    demuxes: list[str]
    """Empty if nobody chose."""
    ciphers: str | None
    ipv6: bool
    timeout: float
    wait: float
    json: Path | None
    plot: Path | None

    def chunks(self, size: int) -> int:
        """How many messages of ``size`` bytes go in one direction."""
        return self.messages or max(1, min(MOST, int(self.mib * MIB) // size))


def _refuse(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:6]) <= HIGHEST_PORT):
        _refuse(f"{text!r} is not a port: 0 (any) to {HIGHEST_PORT}")
    return int(text)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare and bare == host):
        _refuse(f"{text!r} is not HOST:PORT (of IPv6: [ADDRESS]:PORT)")
    return bare, _port(port)


def _endpoint(text: str) -> tuple[str, int]:
    address = _address(text)
    if not address[1]:
        _refuse(f"{text!r}: a client needs to know the port")
    return address


def _listening(text: str) -> tuple[str, int]:
    return _address(text) if ":" in text else ("", _port(text))


def _number(text: str, lowest: float, highest: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not lowest <= number <= highest:
        _refuse(f"{text!r} is not a number from {lowest:g} to {highest:,.10g}")
    return number


def _whole(text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and lowest <= int(text) <= highest):  # noqa: PLR2004 - digits
        _refuse(f"{text!r} is not a whole number from {lowest} to {highest:,}")
    return int(text)


def _listed(parse: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    """A parser of values separated by commas, each of which counts once."""

    def listed(text: str) -> list[Value]:
        return list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))

    return listed


def _one_of(known: Sequence[str]) -> Callable[[str], str]:
    def one(text: str) -> str:
        if text not in known:
            _refuse(f"unknown: {text!r}; there are {', '.join(known)}")
        return text

    return one


def _protocols(text: str) -> list[str]:
    return list(TRANSPORTS) if text == "all" else _listed(_one_of(TRANSPORTS))(text)


def _output(text: str) -> Path:
    """A file that can be written: better to know it now than after the measurements."""
    path = Path(text)
    target = path if path.exists() else path.parent
    if path.is_dir():
        _refuse(f"{text!r} is a directory")
    if not target.exists():
        _refuse(f"there is no directory {str(target)!r}")
    if not os.access(target, os.W_OK):
        _refuse(f"{text!r} cannot be written")
    return path


def _picture(text: str) -> Path:
    if not text.lower().endswith(".svg"):
        _refuse(f"{text!r}: the picture is SVG, its name ends in .svg")
    return _output(text)


def _key_in(text: str) -> str:
    try:
        key = Path(text).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        _refuse(f"{text!r} cannot be read: {getattr(error, 'strerror', None) or 'not text'}")
    return _checked(key, repr(text))


def _checked(key: str, where: str) -> str:
    if len(key) < SHORTEST_KEY or not key.isprintable():
        _refuse(f"the key in {where} is not {SHORTEST_KEY} or more printable characters")
    return key


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python3 -m {PROGRAM}",
        description="""\
Measure the throughput of TCP, UDP, SSL (TLS over TCP) and DTLS, the latter two
through PyDTLS's interface, between two processes or, with -s and -c, two
machines. Without --run a menu asks what to measure.""",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    role = parser.add_mutually_exclusive_group()
    role.add_argument(
        "-s",
        "--server",
        type=_listening,
        metavar="PORT",
        help="have remote clients do the jobs, who come to this "
        "port; also HOST:PORT, to listen on one address only; 0 is any port",
    )
    role.add_argument(
        "-c", "--client", type=_endpoint, metavar="HOST:PORT", help="be such a client, of the manager there"
    )
    add(
        "-p",
        "--port",
        type=_port,
        default=0,
        metavar="PORT",
        help="fixed port for the transfers (default: any)",
    )
    add(
        "--key-file",
        type=_key_in,
        metavar="FILE",
        help=f"file with the key that manager and clients share; without, it is taken from the environment's "
        f"{KEY_VARIABLE}, else the manager makes one and prints it, and the client asks",
    )
    what = parser.add_argument_group("what to measure")
    add = what.add_argument
    add(
        "--run",
        type=_protocols,
        metavar="PROTOCOLS",
        help=f"run without the menu: {', '.join(TRANSPORTS)}, separated by commas, or all",
    )
    add(
        "--sizes",
        type=_listed(lambda text: _whole(text, SMALLEST, LARGEST)),
        default=[DEFAULT_SIZE],
        metavar="BYTES",
        help=f"sizes of messages, separated by commas, {SMALLEST} to {LARGEST} (default: {DEFAULT_SIZE})",
    )
    add(
        "--directions",
        choices=("both", *DIRECTIONS),
        default="both",
        help="inbound is from the client to the server (default: both, one after the other)",
    )
    amount = what.add_mutually_exclusive_group()
    amount.add_argument(
        "--mib",
        type=lambda text: _number(text, 0.001, _MOST_MIB),
        default=DEFAULT_MIB,
        metavar="MIB",
        help=f"how much, in each direction (default: {DEFAULT_MIB:g})",
    )
    amount.add_argument(
        "--messages", type=lambda text: _whole(text, 1, MOST), metavar="N", help="how many messages, instead"
    )
    add(
        "--demux",
        type=_listed(_one_of(DEMUXES)),
        default=[],
        metavar="DEMUX",
        help="how the DTLS server's datagrams "
        "find their connection: osnet (by the kernel), router (forwarded), or both, separated by a comma (default: "
        "the system's usual one)",
    )
    add(
        "--ciphers",
        metavar="LIST",
        help="cipher suites for SSL and DTLS, as OpenSSL names them; both use version 1.2",
    )
    add("--ipv6", action="store_true", help="IPv6 instead of IPv4")
    add(
        "--timeout",
        type=lambda text: _number(text, 0.1, LONGEST_TIMEOUT),
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help=f"how long to wait for the other side in a transfer (default: {DEFAULT_TIMEOUT:g})",
    )
    add(
        "--wait",
        type=lambda text: _number(text, 0.1, 86_400),
        default=DEFAULT_WAIT,
        metavar="SECONDS",
        help=f"how long to wait for a remote client to come (default: {DEFAULT_WAIT:g})",
    )
    results = parser.add_argument_group("results, beside those on the terminal")
    results.add_argument("--json", type=_output, metavar="FILE", help="write the figures there, as JSON")
    results.add_argument("--plot", type=_picture, metavar="FILE.svg", help="write a bar chart there")
    return parser


def parse(arguments: Sequence[str] | None) -> Options:
    """What the command line says. Exits with status 2 if it is wrong. Raises :class:`PerfError` if a key is missing."""
    parser = _make_parser()
    given = parser.parse_args(arguments)
    if given.client:
        wrong = [
            option.option_strings[-1]
            for option in parser._actions  # noqa: SLF001 - there is no other list of them
            if option.dest not in ("help", "client", "key_file")
            and getattr(given, option.dest) != option.default
        ]
        if wrong:
            parser.error(f"with --client, the manager decides: remove {', '.join(wrong)}")
    if given.key_file and not (given.server or given.client):
        parser.error("--key-file is for --server and --client")
    if given.ciphers is not None and not (
        given.ciphers.isascii() and given.ciphers.isprintable() and given.ciphers
    ):
        parser.error("argument --ciphers: not a list of cipher suites")
    key = given.key_file
    if key is None and (given.server or given.client) and KEY_VARIABLE in os.environ:
        try:
            key = _checked(os.environ[KEY_VARIABLE], KEY_VARIABLE)
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
    if key is None and given.client:
        key = _ask_for_key()
    return Options(
        server=given.server,
        client=given.client,
        port=given.port,
        key=key,
        run=given.run,
        sizes=given.sizes,
        directions=DIRECTIONS if given.directions == "both" else (given.directions,),
        messages=given.messages,
        mib=given.mib,
        demuxes=given.demux,
        ciphers=given.ciphers,
        ipv6=given.ipv6,
        timeout=given.timeout,
        wait=given.wait,
        json=given.json,
        plot=given.plot,
    )


def _ask_for_key() -> str:
    """The key, typed in."""
    if not sys.stdin.isatty():
        message = f"the manager's key is needed, in {KEY_VARIABLE} or with --key-file"
        raise PerfError(message)
    try:
        return _checked(getpass.getpass("Key (the manager has shown it): ").strip(), "this line")
    except argparse.ArgumentTypeError as error:
        raise PerfError(str(error)) from None
    except EOFError:
        message = "no key"
        raise PerfError(message) from None
