"""What all settings stand on: the role, the engine's translation of them, and a lock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from .constants import PROTOCOL_DTLS_SERVER, Protocol

if TYPE_CHECKING:
    from dtls.engines.openssl.context import EngineContext


class Settings:
    """Settings of one role. Whatever changes one calls :meth:`_changed`: it counts for new associations."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = Protocol(protocol)
        self._lock = threading.Lock()
        self._engine_context: EngineContext | None = None

    @property
    def server_side(self) -> bool:
        """Whether this context is for servers."""
        return self.protocol is PROTOCOL_DTLS_SERVER

    def _engine(self) -> EngineContext:
        """The engine's translation of these settings, made once."""
        raise NotImplementedError

    def _changed(self) -> None:
        with self._lock:
            self._engine_context = None

    def _try(self, attribute: str, value: Any) -> None:
        """Set an attribute that the engine has its say about."""
        previous = getattr(self, attribute)
        setattr(self, attribute, value)
        self._changed()
        try:
            self._engine()
        except Exception:
            setattr(self, attribute, previous)
            self._changed()
            raise


def positive_seconds(name: str, value: float) -> float:
    """``value``, greater than 0 and finite; :exc:`ValueError` otherwise."""
    if not 0 < value < float("inf"):
        message = f"{name} must be greater than 0 seconds and finite, not {value!r}"
        raise ValueError(message)
    return float(value)
