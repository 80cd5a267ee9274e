"""Server names: one server, several contexts (RFC 6066, 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dtls.connection import Connection
    from dtls.context import Context

    from .constants import Protocol

    SNICallback = Callable[[Connection, str | None, Context], int | None]


class NameSettings(Settings):
    """Who answers to which name."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._sni_callback: SNICallback | None = None
        self._sni_contexts: tuple[Context, ...] = ()

    @property
    def sni_callback(self) -> SNICallback | None:
        """For servers: called as ``callback(connection, server_name, context)`` when a ClientHello has come.

        As ``ssl.SSLContext.sni_callback``: ``server_name`` is what the client asks for, or ``None``; assigning another
        server's context to ``connection.context`` has that one answer, with all of its settings but MTU and times; and
        what is returned is ``None`` to go on, or an alert's number (``AlertDescription``) to refuse. What it raises
        ends the handshake and is the ``__cause__`` of its error. The name is what an unknown peer says.

        Other than with TCP, what is given is the :class:`~dtls.Connection` whichever interface it serves.
        """
        return self._sni_callback

    @sni_callback.setter
    def sni_callback(self, callback: SNICallback | None) -> None:
        if not self.server_side:
            message = "sni_callback cannot be set on a PROTOCOL_DTLS_CLIENT context"
            raise ValueError(message)
        if callback is not None and not callable(callback):
            message = f"not a callable object: {callback!r}"
            raise TypeError(message)
        self._sni_callback = callback
        self._sni_contexts = ()
        self._changed()

    def set_sni_contexts(self, contexts: Mapping[str, Context]) -> None:
        """For servers: which context answers to which host name; this one answers to all other names, and to none.

        The names are compared whole, without regard to case. It takes the place of ``sni_callback``.
        """
        by_name = {}
        for name, context in contexts.items():
            check_server_context(context)
            by_name[name.encode("idna").decode().lower()] = context

        def choose(connection: Connection, server_name: str | None, _: Context) -> None:
            chosen = by_name.get(server_name.lower()) if server_name is not None else None
            if chosen is not None:
                connection.context = chosen

        self.sni_callback = choose
        self._sni_contexts = tuple(by_name.values())


def check_server_context(context: Any) -> None:
    """Raise unless ``context`` can answer a client: :exc:`TypeError`, :exc:`ValueError`."""
    from dtls.context import Context  # noqa: PLC0415 - it is made of this

    if not isinstance(context, Context):
        message = f"a dtls.Context is needed, not {type(context).__name__}"
        raise TypeError(message)
    if not context.server_side:
        message = "a server's context is needed (PROTOCOL_DTLS_SERVER)"
        raise ValueError(message)
