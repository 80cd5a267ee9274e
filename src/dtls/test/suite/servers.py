"""Servers on the standard library's frameworks, made for streams, as PyDTLS's users write them."""

from __future__ import annotations

import functools
import http.server
import os
import socketserver
import threading
import warnings
from typing import TYPE_CHECKING, Any

from dtls.test.support import PATIENCE, SHORT, Worker, ssl

if TYPE_CHECKING:
    from pathlib import Path

_TO_BE_WAITED_FOR = (2, 3)  # SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE


# --- asyncore --------------------------------------------------------------------------------------------------------


def import_asyncore() -> Any:
    """The module, without being told that it is old. Raises :exc:`ImportError` where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import asyncore  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - not everywhere

        return asyncore


class AsyncoreServer:
    """Runs an asyncore loop in a thread, on a listening DTLS socket."""

    def __init__(self, asyncore: Any, listening: Any) -> None:
        self._asyncore = asyncore
        self._stopping = threading.Event()
        self.address = listening.getsockname()
        self._map: dict[int, Any] = {}
        self.closed = 0
        """How many clients have gone."""
        self.errors: list[BaseException] = []
        """What should not have happened."""
        make_listener = type("Listener", (_Listener, asyncore.dispatcher), {})
        listener: Any = make_listener(listening, map=self._map)
        listener.accepting = True
        listener.server = self
        handler = type("Handler", (_Handler, asyncore.dispatcher), {})
        listener.make_handler = functools.partial(handler, map=self._map)
        self._thread = Worker(self._run)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._asyncore.loop(
                min([SHORT, *self._timeouts()]), use_poll=hasattr(os, "fork"), map=self._map, count=1
            )
            for dispatcher in list(self._map.values()):
                dispatcher.look_at_the_clock()

    def _timeouts(self) -> list[float]:
        times = [dispatcher.socket.get_timeout() for dispatcher in self._map.values()]
        return [remaining.total_seconds() for remaining in times if remaining is not None]

    def stop(self) -> None:
        """Stop the loop and close everything."""
        self._stopping.set()
        try:
            self._thread.result()
        finally:
            self._asyncore.close_all(self._map)


class _Dispatcher:
    """What this server's dispatchers have in common, to be mixed with asyncore's."""

    server: AsyncoreServer
    socket: Any

    def writable(self) -> bool:
        return False

    def look_at_the_clock(self) -> None:
        self.guarded(self.socket.handle_timeout)

    def guarded(self, operation: Any) -> None:
        """Do something that may have to be gone on with later."""
        try:
            operation()
        except ssl.SSLError as error:
            if error.args[0] not in _TO_BE_WAITED_FOR:
                if error.args[0] != ssl.SSL_ERROR_ZERO_RETURN:
                    self.server.errors.append(error)
                self.handle_close()

    def handle_close(self) -> None:
        raise NotImplementedError

    def handle_error(self) -> None:
        raise  # noqa: PLE0704 - asyncore calls it while it handles an exception


class _Handler(_Dispatcher):
    """Serves one client: answers in lower case, until "over" or the client's end."""

    connected: bool
    recv: Any
    send: Any
    del_channel: Any
    shaking_hands = True

    def begin(self) -> None:
        """Look at what the client has said already."""
        self.guarded(self.go_on)

    def readable(self) -> bool:
        while self.connected and self.socket.pending():
            self.guarded(self.go_on)
        return True

    def handle_read(self) -> None:
        self.guarded(self.go_on)

    def go_on(self) -> None:
        if self.shaking_hands:
            self.socket.do_handshake()
            self.shaking_hands = False
        message = self.recv(1024)
        if message.strip() == b"over":
            self.handle_close()
        else:
            self.send(message.lower())

    def handle_close(self) -> None:
        self.del_channel()
        self.connected = False
        self.socket.unwrap().close()
        self.server.closed += 1


class _Listener(_Dispatcher):
    """Accepts clients."""

    accept: Any
    make_handler: Any

    def handle_accept(self) -> None:
        accepted = self.accept()
        if accepted is not None:
            handler = self.make_handler(accepted[0])
            handler.server = self.server
            handler.begin()


def asyncore_server(sock: Any, certificate: str) -> AsyncoreServer:
    """A running server on a bound socket. :exc:`ImportError` without asyncore."""
    asyncore = import_asyncore()
    listening = ssl.wrap_socket(sock, server_side=True, certfile=certificate, do_handshake_on_connect=False)
    listening.setblocking(False)
    listening.listen(5)
    return AsyncoreServer(asyncore, listening)


# --- socketserver ----------------------------------------------------------------------------------------------------


class _RequestHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class HTTPServer(socketserver.ThreadingTCPServer):
    """Serves files over DTLS. Runs in a thread until :meth:`stop`."""

    def __init__(self, sock: Any, certificate: str, directory: Path) -> None:
        handler: Any = functools.partial(_RequestHandler, directory=str(directory))
        super().__init__(sock.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()  # a stream's
        self.socket = ssl.wrap_socket(
            sock, server_side=True, certfile=certificate, do_handshake_on_connect=False
        )
        self.socket.setblocking(False)
        self.server_activate()
        self.address = self.socket.getsockname()
        self.errors: list[str] = []
        """What should not have happened."""
        self._stopped = False
        self._thread = Worker(self.serve_forever, SHORT)

    def get_request(self) -> Any:
        """A client; :exc:`OSError` if there is none after all, which is passed over."""
        accepted = self.socket.accept()
        if accepted is None:
            message = "nobody new"
            raise BlockingIOError(message)
        accepted[0].settimeout(PATIENCE)
        return accepted

    def shutdown_request(self, request: Any) -> None:
        """Say close_notify, and wait for the client's."""
        request.unwrap().close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep it."""
        import traceback  # noqa: PLC0415 - seldom needed

        self.errors.append(f"{client_address}, {request}: {traceback.format_exc()}")

    def stop(self) -> None:
        """Serve nobody any more. May be called again."""
        if not self._stopped:
            self._stopped = True
            self.shutdown()
            self._thread.result()
            self.server_close()


def http_server(sock: Any, certificate: str, directory: Path) -> HTTPServer:
    """A running server of the files in ``directory``."""
    return HTTPServer(sock, certificate, directory)
