"""Pre-shared keys (RFC 4279, RFC 5489): who has which, for clients and for servers.

On the wire an identity is bytes. Callbacks and mappings may use text: it is UTF-8 then, and what is not UTF-8 comes as
surrogate escapes, as the ``os`` module has it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dtls.errors import SSL_ERROR_SSL, SSLError

from .base import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from .constants import Protocol

    ClientCallback = Callable[[Any], tuple[str | bytes | None, bytes]]
    ServerCallback = Callable[[Any], bytes | None]

_TOKEN_LENGTH = 16
MAX_IDENTITY_LENGTH = 65_535
"""Bytes of an identity or a hint as RFC 4279, 2 has them on the wire; engines may allow less."""


class PSKSettings(Settings):
    """The pre-shared keys. Suites that use them are offered once there is one."""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        self._psk_client: Callable[[bytes | None], tuple[bytes, bytes]] | None = None
        self._psk_server: Callable[[bytes], bytes | None] | None = None
        self._psk_identity_hint: bytes | None = None
        self._psk_pair: tuple[bytes, bytes] | None = None
        self._psk_callback_token = b""
        """Tells one client callback from another."""

    def set_psk(self, identity: str | bytes, psk: bytes) -> None:
        """For clients: authenticate both sides by this key, known to the server under ``identity``.

        A client with a key offers no suites with certificates unless :meth:`~dtls.Context.set_ciphers` names them: who
        holds some certificate cannot stand in for who holds the key.

        :param identity: at most 256 bytes without NUL (limits of the engine "openssl"; RFC 4279: 65,535).
        :param psk: 1 to 512 bytes, from a random generator. Passwords can be guessed by whoever sees a handshake of
            a suite without (EC)DHE, or stands in for the server.
        :raises ValueError: for lengths out of range, a NUL, a server's context.
        """
        if self.server_side:
            message = "set_psk() is for clients: a server's keys are set by set_psks()"
            raise ValueError(message)
        pair = as_identity(identity), as_key(psk)
        if not pair[1]:
            message = "a pre-shared key has at least one byte"
            raise ValueError(message)
        previous = self._psk_pair, self._psk_client
        self._psk_pair, self._psk_client = pair, lambda _: pair
        self._changed()
        try:
            self._engine()
        except Exception:
            self._psk_pair, self._psk_client = previous
            self._changed()
            raise

    def set_psks(self, psks: Mapping[Any, bytes] | None, identity_hint: str | bytes | None = None) -> None:
        """For servers: the keys by the identities of clients, which are ``str`` or ``bytes``; ``None`` for none.

        The mapping is asked at each handshake: it may be changed meanwhile, or be one that looks into a database.

        :param identity_hint: what clients are told before they choose an identity; some clients do not know hints,
            so that it is better left out (RFC 4279, 5.2).
        :raises ValueError: for a client's context, a key without a byte.
        :raises TypeError: for what is no mapping, and identities and keys of other types.
        """
        if psks is None:
            self.set_psk_server_callback(None)
            return
        if not isinstance(psks, Mapping):
            message = f"a mapping from identities to keys is needed, not {type(psks).__name__}"
            raise TypeError(message)
        if isinstance(psks, dict):
            for identity, psk in psks.items():
                as_identity(identity)
                if not as_key(psk):
                    message = f"the pre-shared key of {identity!r} has no byte"
                    raise ValueError(message)
        self.set_psk_server_callback(
            lambda identity: _look_up(psks, identity), identity_hint, binary_form=True
        )

    def set_psk_client_callback(self, callback: ClientCallback | None, *, binary_form: bool = False) -> None:
        """For clients: ``callback(hint)`` gives ``(identity, psk)``, as in Python 3.13's ``ssl``; ``None`` ends that.

        ``hint`` is what the server says, as ``str`` (as ``bytes`` with ``binary_form``), or ``None``. The identity is
        ``str``, ``bytes`` or ``None`` for the empty one, and with the key held to the bounds of :meth:`set_psk`. An
        empty key refuses. What the callback raises ends the handshake and is the ``__cause__`` of its error.
        :class:`~dtls.SSLError` in a server's context.
        """
        if self.server_side:
            message = "Cannot add PSK client callback to a PROTOCOL_DTLS_SERVER context"
            raise SSLError(SSL_ERROR_SSL, message)
        self._psk_pair = None
        self._psk_callback_token = os.urandom(_TOKEN_LENGTH)
        self._psk_client = None if callback is None else _client_answer(_callable(callback), binary_form)
        self._changed()

    def set_psk_server_callback(
        self,
        callback: ServerCallback | None,
        identity_hint: str | bytes | None = None,
        *,
        binary_form: bool = False,
    ) -> None:
        """For servers: ``callback(identity)`` gives the key, as in Python 3.13's ``ssl``; ``None`` ends that.

        ``identity`` is what the client says, as ``str`` (as ``bytes`` with ``binary_form``; then the empty one is
        ``b""``), or ``None`` for the empty one. Nobody has proved anything yet: treat it as an attacker's. An identity
        that is not known is answered by ``b""`` or ``None``, and the client told so (unknown_psk_identity, RFC 4279,
        2); so identities can be found by trying. Who minds gives a random key for those: such a client fails as one
        with a wrong key does. What the callback raises ends the handshake and is the ``__cause__`` of its error.
        :class:`~dtls.SSLError` in a client's context.
        """
        if not self.server_side:
            message = "Cannot add PSK server callback to a PROTOCOL_DTLS_CLIENT context"
            raise SSLError(SSL_ERROR_SSL, message)
        hint = None if callback is None or identity_hint is None else as_identity(identity_hint)
        answer = None if callback is None else _server_answer(_callable(callback), binary_form)
        previous = self._psk_server, self._psk_identity_hint
        self._psk_server, self._psk_identity_hint = answer, hint
        self._changed()
        try:
            if hint:
                self._engine()
        except Exception:
            self._psk_server, self._psk_identity_hint = previous
            self._changed()
            raise

    @property
    def psk_client(self) -> Callable[[bytes | None], tuple[bytes, bytes]] | None:
        """Gives identity and key for a hint, in bytes; ``None`` without a key."""
        return self._psk_client

    @property
    def psk_server(self) -> Callable[[bytes], bytes | None] | None:
        """Gives the key of an identity, in bytes; ``None`` without keys."""
        return self._psk_server

    @property
    def psk_identity_hint(self) -> bytes | None:
        """What a server tells clients before they choose an identity."""
        return self._psk_identity_hint

    @property
    def psk_pair(self) -> tuple[bytes, bytes] | None:
        """What :meth:`set_psk` was given."""
        return self._psk_pair

    @property
    def psk_digest(self) -> bytes | None:
        """Stands for the key of a client, or for the callback that knows it, which no other context has."""
        if self._psk_pair is not None:
            identity, psk = self._psk_pair
            return hmac.digest(psk, b"dtls session" + identity, "sha256")
        return self._psk_callback_token if self._psk_client is not None else None

    @property
    def uses_psk(self) -> bool:
        """Whether there are keys, or somebody who knows them."""
        return self._psk_client is not None or self._psk_server is not None


def as_identity(identity: object) -> bytes:
    """An identity or a hint as it stands on the wire. Raises :exc:`TypeError` and :exc:`ValueError`."""
    if isinstance(identity, str):
        identity = identity.encode("utf-8", "surrogateescape")
    if not isinstance(identity, (bytes, bytearray, memoryview)):
        message = f"a PSK identity is str or bytes, not {type(identity).__name__}"
        raise TypeError(message)
    if len(identity) > MAX_IDENTITY_LENGTH:
        message = f"a PSK identity has at most {MAX_IDENTITY_LENGTH} bytes, not {len(identity)}"
        raise ValueError(message)
    return bytes(identity)


def as_key(psk: object) -> bytes:
    """A key as bytes. Raises :exc:`TypeError`, which does not show it."""
    if not isinstance(psk, (bytes, bytearray, memoryview)):
        message = f"a pre-shared key is bytes, not {type(psk).__name__}"
        raise TypeError(message)
    return bytes(psk)


def as_text(identity: bytes) -> str:
    """An identity or a hint as callbacks get it that do not ask for bytes."""
    return identity.decode("utf-8", "surrogateescape")


def _callable(callback: Any) -> Any:
    if not callable(callback):
        message = f"the PSK callback must be callable, not {type(callback).__name__}"
        raise TypeError(message)
    return callback


def _client_answer(
    callback: ClientCallback, binary_form: bool
) -> Callable[[bytes | None], tuple[bytes, bytes]]:
    def answer(hint: bytes | None) -> tuple[bytes, bytes]:
        said = (hint if binary_form else as_text(hint)) if hint else None
        identity, psk = callback(said)
        return b"" if identity is None else as_identity(identity), as_key(psk)

    return answer


def _server_answer(callback: ServerCallback, binary_form: bool) -> Callable[[bytes], bytes | None]:
    def answer(identity: bytes) -> bytes | None:
        psk = callback(identity if binary_form else as_text(identity) if identity else None)
        return None if psk is None else as_key(psk)

    return answer


def _look_up(psks: Mapping[Any, bytes], identity: bytes) -> bytes | None:
    for name in (identity, as_text(identity)):
        if (psk := psks.get(name)) is not None:
            return psk
    return None
