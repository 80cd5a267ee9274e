"""What a client needs to resume an association with a shorter handshake, as ``ssl.SSLSession`` is for TLS."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from .der import OCTET_STRING, SEQUENCE, elements, encode, inside

if TYPE_CHECKING:
    from typing_extensions import Self

_FORMAT = b"dtls session 1"
# RFC 6066 and OpenSSL's SSL_SESSION: the tags of its optional fields, each with an element inside.
_TIME, _TIMEOUT, _PSK_IDENTITY, _LIFETIME_HINT, _TICKET = 0xA1, 0xA2, 0xA8, 0xA9, 0xAA
_SESSION_ID_AT = 3


_LONGEST_NUMBER = 9
"""Bytes of a number of 64 bits in ASN.1."""


class DTLSSession:
    """A session (RFC 5246, F.1.4; RFC 5077), made by associations and given to later ones of the same kind.

    It holds the master secret: whoever has it reads what was said under it, and can be taken for either side. Keep
    what :meth:`to_bytes` gives as you keep private keys.
    """

    __slots__ = ("_fields", "_id", "_scope", "_state")

    def __init__(self, state: bytes, scope: bytes) -> None:
        self._state = state
        self._scope = scope
        parts = inside(state)
        self._id = parts[_SESSION_ID_AT].value
        self._fields = {element.tag: element.value for element in parts}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.time}, for {self.timeout} s, ticket: {self.has_ticket}>"

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, DTLSSession) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[object, ...]:
        message = "a session is not pickled by accident: to_bytes() gives it, master secret and all"
        raise TypeError(message)

    @property
    def id(self) -> bytes:
        """The session id, at most 32 bytes; with a ticket it is this side's own invention."""
        return self._id

    @property
    def time(self) -> int:
        """When it was made: seconds since the epoch."""
        return self._number(_TIME)

    @property
    def timeout(self) -> int:
        """For how many seconds this side takes it for good; the server has its own say."""
        return self._number(_TIMEOUT)

    @property
    def ticket_lifetime_hint(self) -> int:
        """For how many seconds the server means to take the ticket; 0 if it does not say (RFC 5077, 3.3)."""
        return self._number(_LIFETIME_HINT)

    @property
    def has_ticket(self) -> bool:
        """Whether the server gave a ticket, and so need not remember the session itself."""
        return _TICKET in self._fields

    @property
    def psk_identity(self) -> bytes | None:
        """The identity whose pre-shared key authenticated the full handshake."""
        value = self._fields.get(_PSK_IDENTITY)
        return None if value is None else elements(value)[0].value

    @property
    def state(self) -> bytes:
        """The engine's own form of it."""
        return self._state

    @property
    def scope(self) -> bytes:
        """Stands for whom the full handshake trusted, and for the name that was asked for."""
        return self._scope

    def is_over(self, wall_clock: float) -> bool:
        """Whether its time has passed at ``wall_clock``, in seconds since the epoch; or does not come for long."""
        lifetime = self.timeout
        if self.ticket_lifetime_hint:
            lifetime = min(lifetime, self.ticket_lifetime_hint)
        return not -lifetime <= wall_clock - self.time < lifetime

    def to_bytes(self) -> bytes:
        """All of it, for :meth:`from_bytes` in another process. It is secret: see above. It must not be altered."""
        parts = (_FORMAT, self._scope, self._state)
        body = b"".join(encode(OCTET_STRING, part) for part in parts)
        return encode(SEQUENCE, body + encode(OCTET_STRING, hashlib.sha256(body).digest()))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What :meth:`to_bytes` gave; it must come from a place that only its owner can write to.

        :raises ValueError: for anything else.
        """
        try:
            parts = [element.value for element in inside(bytes(data))]
            kind, scope, state, digest = parts
            body = b"".join(encode(OCTET_STRING, part) for part in parts[:-1])
            if kind != _FORMAT or hashlib.sha256(body).digest() != digest:
                raise ValueError  # noqa: TRY301 - the words are below
            session = cls(state, scope)
            session.is_over(session.time)  # which looks at the other fields
        except (ValueError, IndexError):
            message = "this is no session that to_bytes() of this version gave"
            raise ValueError(message) from None
        return session

    def _number(self, tag: int) -> int:
        value = self._fields.get(tag)
        if value is None:
            return 0
        digits = elements(value)[0].value
        if len(digits) > _LONGEST_NUMBER:
            message = "a number in it is too large"
            raise ValueError(message)
        return int.from_bytes(digits, "big")
