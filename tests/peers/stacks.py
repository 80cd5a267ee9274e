"""The stacks of others, each with a client and a server that are started alike."""

from __future__ import annotations

import contextlib
import enum
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from tests.loopback import wait_for

from .build import built
from .programs import Program, missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Credentials:
    """The files with a certificate, what leads from it to the root, and its key."""

    certificate: str
    key: str


@dataclass(frozen=True)
class PeerFiles:
    """Certificates and keys as programs take them; the long chains are RSA, the others ECDSA."""

    ca: str
    server: Credentials
    client: Credentials
    long_chain: Credentials
    long_chain_ca: str
    long_client_chain: Credentials


@dataclass(frozen=True)
class Options:
    """What a peer is told."""

    ca: str | None = None
    """Whom it trusts; a server with it requires a certificate."""
    own: Credentials | None = None
    name: str = "localhost"
    """What a client asks for and verifies."""
    mtu: int | None = None
    alpn: str | None = None
    psk_identity: str | None = None
    psk_key: bytes = b""
    ciphers: str | None = None
    """In the stack's own notation; a priority string for GnuTLS."""
    resume: bool = False
    """Whether a client connects twice, the second time with the session of the first."""


class Ability(enum.Enum):
    """What not every stack can do."""

    SET_MTU = "be told an MTU"
    CUT_HELLO = "cut a ClientHello that is longer than the MTU (client)"
    REASSEMBLE_HELLO = "take a ClientHello in fragments (server)"
    REPEAT_LAST_FLIGHT = (
        "send its last flight again when the client repeats its own, RFC 6347, 4.2.4 (server)"
    )
    REFUSE_NO_CERTIFICATE = "say by an alert that a certificate is wanted (server)"
    REFUSE_STRANGERS = "say by an alert that a certificate is not trusted (server)"
    CHACHA20 = "ECDHE-ECDSA-CHACHA20-POLY1305"
    CCM = "ECDHE-ECDSA-AES128-CCM"
    SPEAK = "send what is not an echo, and close (server)"


class View(NamedTuple):
    """What a peer says about an association."""

    suite: str | None
    """In capital letters and digits, since notations differ; ``None`` if the peer does not tell."""
    peer: str
    """The common name of the other side; empty if it sent no certificate."""
    alpn: str | None
    """The protocol, empty if there is none; ``None`` if the peer does not tell."""
    resumed: bool | None
    """``None`` if the peer does not tell."""


def plain_suite(name: str) -> str:
    """A suite's name without what differs between OpenSSL's notation and that of the RFCs."""
    return re.sub(r"TLS|WITH|[^A-Z0-9]", "", name)


class Stack(ABC):
    """What a test may do with a stack."""

    name: ClassVar[str]
    refused: ClassVar[str]
    """What its client or its server prints (a pattern) when a handshake has failed."""
    closed: ClassVar[str]
    """What its client prints when the other side has closed."""
    hello_mtu: ClassVar[int] = 256
    """An MTU that is too small for its client's ClientHello with the cookie."""
    unable: ClassVar[Mapping[Ability, str]] = {}
    """What it cannot do, and why."""
    only_when_named: ClassVar[Mapping[str, str]] = {}
    """Its own names for suites, by OpenSSL's, that it negotiates only when it is told to."""

    @abstractmethod
    def client(self, address: tuple[str, int], options: Options) -> Program:
        """Start its client."""

    @abstractmethod
    def server(self, options: Options) -> contextlib.AbstractContextManager[tuple[Program, tuple[str, int]]]:
        """Its server, running, and where."""

    @abstractmethod
    def view(self, program: Program, number: int = 0) -> View | None:
        """Wait until a handshake is complete; what the program says of it. ``None`` if it says nothing.

        :param number: how many associations of the program were before it; ``gnutls-cli`` tells of the last only.
        """


class OwnProgram(Stack):
    """A stack with a program of ours, see ``peer.h``."""

    refused = "FAILED"
    closed = "CLOSED"

    def __init__(self, root: Path) -> None:
        self._command = built(self.name, root)

    def client(self, address: tuple[str, int], options: Options) -> Program:
        host, port = address
        where = ("--host", host, "--port", str(port), "--name", options.name)
        return Program(*self._command, "client", *where, *self._arguments(options))

    @contextlib.contextmanager
    def server(self, options: Options) -> Iterator[tuple[Program, tuple[str, int]]]:
        with Program(*self._command, "server", *self._arguments(options)) as program:
            yield program, ("127.0.0.1", int(program.expect(r"LISTENING (\d+)\r?\n").group(1)))

    @staticmethod
    def _arguments(options: Options) -> list[str]:
        given = {
            "ca": options.ca,
            "cert": options.own and options.own.certificate,
            "key": options.own and options.own.key,
            "mtu": options.mtu and str(options.mtu),
            "alpn": options.alpn,
            "ciphers": options.ciphers,
            "psk-identity": options.psk_identity,
            "psk-key": options.psk_key.hex() or None,
        }
        arguments = [word for name, value in given.items() if value for word in (f"--{name}", value)]
        return [*arguments, "--resume"] if options.resume else arguments

    def view(self, program: Program, number: int = 0) -> View:
        found = program.expect(
            rf"(?:ESTABLISHED[^\0]*?){{{number}}}"
            r"ESTABLISHED DTLSv1.2 suite=(\S*) peer=(?:CN=)?([^\r\n]*) alpn=(\S*) resumed=(\S)\r?\n"
        )
        suite, peer, alpn, resumed = (group.decode() for group in found.groups())
        return View(
            suite=None if suite == "?" else plain_suite(suite),
            peer=peer,
            alpn=None if alpn == "?" else alpn,
            resumed=None if resumed == "?" else resumed == "1",
        )


class MbedTLS(OwnProgram):
    """Mbed TLS 2.28."""

    name = "mbedtls"
    unable: ClassVar = {
        Ability.CUT_HELLO: "sends a ClientHello whole",
        Ability.REASSEMBLE_HELLO: "drops a ClientHello in fragments",
        Ability.REFUSE_NO_CERTIFICATE: "stops without an alert",
    }


class WolfSSL(OwnProgram):
    """wolfSSL 5.5, as Debian builds it: without ``WOLFSSL_DTLS_MTU``."""

    name = "wolfssl"
    unable: ClassVar = {
        Ability.SET_MTU: "Debian builds it without WOLFSSL_DTLS_MTU",
        Ability.CUT_HELLO: "sends a ClientHello whole",
        Ability.REASSEMBLE_HELLO: "drops a ClientHello in fragments",
        Ability.REPEAT_LAST_FLIGHT: "ignores the client's repeats after the handshake",
        Ability.REFUSE_NO_CERTIFICATE: "stops without an alert",
    }


class Pion(OwnProgram):
    """pion/dtls 2.2."""

    name = "pion"
    hello_mtu = 128
    unable: ClassVar = {Ability.CHACHA20: "not in version 2.2"}
    only_when_named: ClassVar = {"ECDHE-ECDSA-AES128-CCM": "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"}


class JSSE(OwnProgram):
    """JSSE of the JDK."""

    name = "jsse"
    unable: ClassVar = {
        Ability.CCM: "not in the JDK",
        Ability.REPEAT_LAST_FLIGHT: "sends it twice at once instead, and then never again",
    }


class GnuTLS(Stack):
    """``gnutls-cli`` and ``gnutls-serv``. The server listens on all addresses, since it cannot be told otherwise."""

    name = "gnutls"
    refused = "Fatal error|Error in handshake"
    closed = "Peer has closed the GnuTLS connection"
    unable: ClassVar = {
        Ability.REFUSE_NO_CERTIFICATE: "gnutls-serv stops without an alert",
        Ability.REFUSE_STRANGERS: "gnutls-serv 3.7.9 sends an alert and then ends by a segmentation fault",
        Ability.SPEAK: "gnutls-serv only echoes, and says nothing when it ends",
    }

    def __init__(self, root: Path) -> None:
        self._root = root
        for program in ("gnutls-cli", "gnutls-serv"):
            if shutil.which(program) is None:
                missing(f"{program} is not installed")

    def client(self, address: tuple[str, int], options: Options) -> Program:
        host, port = address
        names = ("--sni-hostname", options.name, "--verify-hostname", options.name)
        psk = ("--pskusername", options.psk_identity, "--pskkey", options.psk_key.hex())
        return Program(
            "gnutls-cli", "--udp", "--port", str(port), *names, *self._arguments(options),
            *(psk if options.psk_identity else ()), *(["--resume"] if options.resume else ()), host,
        )  # fmt: skip

    @contextlib.contextmanager
    def server(self, options: Options) -> Iterator[tuple[Program, tuple[str, int]]]:
        # Quiet, because it would fill its standard output after a handshake that failed.
        quiet = ("--echo", "--quiet", "--port", "0")
        mutual = ("--require-client-cert", "--verify-client-cert") if options.ca else ()
        psk = ("--pskpasswd", self._password_file(options)) if options.psk_identity else ()
        with Program("gnutls-serv", "--udp", *quiet, *mutual, *psk, *self._arguments(options)) as program:
            program.expect("listening on IPv4.*done")
            yield program, ("127.0.0.1", wait_for(lambda: _udp_port_of(program.pid)))

    def _password_file(self, options: Options) -> str:
        with tempfile.NamedTemporaryFile("w", dir=self._root, prefix="psk", delete=False) as file:
            file.write(f"{options.psk_identity}:{options.psk_key.hex()}\n")
        return file.name

    @staticmethod
    def _arguments(options: Options) -> list[str]:
        given = {
            "x509cafile": options.ca,
            "x509certfile": options.own and options.own.certificate,
            "x509keyfile": options.own and options.own.key,
            "mtu": options.mtu and str(options.mtu),
            "alpn": options.alpn,
            # Not ECDHE-PSK, after which gnutls-cli 3.7.9 ends by a segmentation fault.
            "priority": options.ciphers or (options.psk_identity and "NORMAL:-KX-ALL:+PSK"),
        }
        return [word for name, value in given.items() if value for word in (f"--{name}", value)]

    def view(self, program: Program, number: int = 0) -> View | None:
        if b"Echo Server" in program.output:
            return None
        program.expect("Simple Client Mode")
        peer = re.search(rb"subject `CN=(.*?)'", program.output)
        # (DTLS1.2-X.509)-(ECDHE-X25519)-(ECDSA-SHA256)-(AES-256-GCM)
        *exchange, cipher = program.expect(r"Description: \(DTLS1.2.*?\)-\((.*)\)").group(1).split(b")-(")
        suite = b"".join([*(part.partition(b"-")[0] for part in exchange), cipher])
        protocol = re.search(rb"Application protocol: (\S+)", program.output)
        return View(
            suite=plain_suite(suite.decode()),
            peer=peer.group(1).decode() if peer else "",
            alpn=protocol.group(1).decode() if protocol else "",
            resumed=b"This is a resumed session" in program.output,
        )


def _udp_port_of(pid: int) -> int | None:
    """The port of a process's UDP socket for IPv4: ``gnutls-serv`` does not say which it was given."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(str(entry.readlink()))
    for line in Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in sockets:
            return int(fields[1].rpartition(":")[2], 16)
    return None


STACKS: dict[str, type[GnuTLS | OwnProgram]] = {
    stack.name: stack for stack in (GnuTLS, MbedTLS, WolfSSL, Pion, JSSE)
}
