"""The two ends of the demonstration: processes that speak DTLS with each other and tell their parent of it.

They read JSON lines from standard input and write JSON lines to standard output, so that no file is needed and
nothing of a secret stands on a command line.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import dtls
from dtls.errors import MessageTooLarge

PROTOCOL_NAME = "dtls-demo"
PATIENCE = 10.0
"""Seconds that an end waits for the other."""


def tell(event: str, **details: Any) -> None:
    """Write one line to the parent."""
    print(json.dumps({"event": event, **details}), flush=True)


def ask() -> dict[str, Any]:
    """Read one line of the parent; an empty instruction when it has gone."""
    line = sys.stdin.readline()
    instruction: dict[str, Any] = json.loads(line) if line else {}
    return instruction


def run_server() -> None:
    """Serve one peer after the other, echoing, until the parent closes standard input."""
    setup = ask()
    context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
    context.load_cert_chain(setup["chain"].encode(), setup["key"].encode())
    context.set_alpn_protocols([PROTOCOL_NAME])
    with dtls.create_server(("127.0.0.1", 0), context=context) as server:
        server.settimeout(PATIENCE)
        tell("listening", port=server.getsockname()[1])
        for _ in range(setup["peers"]):
            sock, _ = server.accept()
            with sock:
                sock.settimeout(PATIENCE)
                echoed = 0
                while message := sock.recv():
                    sock.send(message[::-1] if setup["corrupts"] else message)
                    echoed += 1
                tell("peer_closed", echoed=echoed)


def run_client() -> None:
    """Connect, say what was negotiated, exchange messages, close: each when the parent says so."""
    setup = ask()
    context = dtls.create_default_context(cadata=setup["authority"])
    context.set_alpn_protocols([PROTOCOL_NAME])
    try:
        sock = dtls.create_connection(("127.0.0.1", setup["port"]), PATIENCE, context=context)
    except OSError as error:
        tell("failed", text=str(error))
        return
    with sock:
        tell("negotiated", **_negotiated(sock))
        while (instruction := ask()).get("do") == "echo":
            _echo(sock, instruction)
        if instruction.get("do") == "close":
            sock.unwrap().close()
            tell("closed")


def _negotiated(sock: dtls.DTLSSocket) -> dict[str, Any]:
    cipher = sock.cipher()
    certificate = sock.getpeercert()
    try:
        group = sock.group()
    except NotImplementedError:
        group = "not told by this version of cryptography"
    return {
        "version": sock.version(),
        "cipher": cipher[0] if cipher else None,
        "group": group,
        "alpn": sock.selected_alpn_protocol(),
        "subject": _common_name(certificate["subject"]),
        "issuer": _common_name(certificate["issuer"]),
        "name": sock.server_hostname,
        "mtu": sock.context.mtu,
        "largest": sock.max_message_size,
    }


def _common_name(name: Any) -> str:
    return next((value for rdn in name for key, value in rdn if key == "commonName"), "without a name")


def _echo(sock: dtls.DTLSSocket, instruction: dict[str, Any]) -> None:
    size = sock.max_message_size + instruction["beyond"] if "beyond" in instruction else None
    message = instruction["text"].encode() if size is None else b"x" * size
    begun = time.perf_counter()
    try:
        sock.send(message)
        answer = sock.recv()
    except MessageTooLarge as error:
        tell("refused", size=len(message), text=str(error))
        return
    milliseconds = (time.perf_counter() - begun) * 1000
    tell("echoed", size=len(message), same=answer == message, milliseconds=milliseconds)
