"""A sequential DTLS echo server: one client at a time, until each says close_notify.

``python3 -m dtls.test.echo_seq`` listens on 127.0.0.1, port 28000, with a certificate made for the occasion, and prints
what happens. A message comes back with ``Back to you: `` before it.
"""

from __future__ import annotations

import argparse
import signal
import socket
from typing import TYPE_CHECKING

from dtls.certificates import CertificateAuthority
from dtls.err import ERR_HANDSHAKE_TIMEOUT, ERR_READ_TIMEOUT, SSL_ERROR_ZERO_RETURN, SSLError
from dtls.sslconnection import SSLConnection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

DEFAULT_PORT = 28000
STEP = 5.0
"""Seconds that one try at something takes."""
PATIENCE = 6
"""How many such tries a silent client gets, while others wait."""
SHOWN = 200
"""Bytes of a message that are printed."""


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def show(address: tuple[str, int]) -> str:
    """Host and port as people write them."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening_socket(host: str, port: int) -> socket.socket:
    """A UDP socket bound to ``host`` and ``port``."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def shake_hands(connection: SSLConnection) -> None:
    """Complete the handshake, a try at a time. Raises what ends it, or the last time-out."""
    for attempt in range(1, PATIENCE + 1):
        say(f"Handshake, try {attempt}")
        try:
            connection.do_handshake()
        except SSLError as error:
            if error.errno != ERR_HANDSHAKE_TIMEOUT or attempt == PATIENCE:
                raise
        else:
            break
    name, _, bits = connection.cipher() or (b"", b"", 0)
    say(f"Handshake complete: {name.decode()}, {bits} bits")


def echo(connection: SSLConnection) -> None:
    """Send messages back until the client closes. Raises what ends the association otherwise, or the last time-out."""
    silent = 0
    while True:
        try:
            message = connection.read(16_384)
        except SSLError as error:
            if error.errno == SSL_ERROR_ZERO_RETURN:
                say("The client has closed")
                return
            silent += 1
            if error.errno != ERR_READ_TIMEOUT or silent == PATIENCE:
                raise
            say("Waiting for a message")
        else:
            silent = 0
            text = message[:SHOWN].decode("utf-8", "backslashreplace").rstrip()
            say(f"Received {len(message)} bytes: {text}")
            # A record holds so much, and the message may have filled its own.
            connection.write((b"Back to you: " + message)[:16_384])


def serve_one(listening: SSLConnection) -> bool:
    """Serve one client from cookie exchange to close_notify. False if none came this time."""
    address = listening.listen()
    if address is None:
        return False
    say(f"Cookies exchanged with {show(address)}")
    accepted = listening.accept()
    if accepted is None:
        return False
    connection, _ = accepted
    connection.get_socket(True).settimeout(STEP)
    try:
        shake_hands(connection)
        echo(connection)
    except (SSLError, OSError) as error:
        say(f"Lost {show(address)}: {error}")
    finally:
        sock = connection.unwrap()
        if sock is not None:
            sock.close()
    say(f"Done with {show(address)}")
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop: by ``--count``, Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python3 -m dtls.test.echo_seq", description="A sequential DTLS echo server."
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on, such as ::1 (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="port to listen on; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument("--count", type=int, help="stop after so many clients (default: do not)")
    options = parser.parse_args(arguments)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        serve(options.host, options.port, options.count)
    except KeyboardInterrupt:
        say("Stopped")


def serve(host: str, port: int, count: int | None) -> None:
    """Serve ``count`` clients, or for ever."""
    identity = CertificateAuthority().issue("localhost", "127.0.0.1", "::1", key_type="rsa")
    with listening_socket(host, port) as sock:
        # A signal that comes after Python has last looked for one, and before the socket is read, is only seen when
        # that read ends.
        sock.settimeout(STEP)
        listening = SSLConnection(
            sock,
            keyfile=identity.key_pem,
            certfile=identity.chain_pem,
            server_side=True,
            do_handshake_on_connect=False,
        )
        say(f"Listening on {show(sock.getsockname())}")
        served = 0
        while count is None or served < count:
            served += serve_one(listening)


if __name__ == "__main__":
    main()
