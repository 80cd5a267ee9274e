"""What to do, in terms that no engine owns: :class:`Context` mirrors ``ssl.SSLContext``, name for name.

A context belongs to one role, as ``PROTOCOL_TLS_CLIENT`` and ``PROTOCOL_TLS_SERVER`` do. It may be shared by any
number of associations and threads once it is set up; settings that are changed later count for new associations.
The settings themselves stand in ``dtls.settings``, by concern.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from .flights import RetransmissionTimer
from .settings.constants import (
    CERT_NONE,
    CERT_OPTIONAL,
    CERT_REQUIRED,
    PROTOCOL_DTLS_CLIENT,
    PROTOCOL_DTLS_SERVER,
    DTLSVersion,
    Options,
    Protocol,
    Purpose,
    VerifyFlags,
    VerifyMode,
)
from .settings.datagrams import DEFAULT_MTU, DatagramSettings, usable_mtu
from .settings.diagnosis import DiagnosisSettings
from .settings.names import NameSettings
from .settings.negotiation import DEFAULT_CIPHERS
from .settings.sessions import SessionSettings
from .settings.trust import as_purpose

if TYPE_CHECKING:
    import socket
    from collections.abc import Hashable

    from .connection import Connection, ReceivedClientHello
    from .engines.openssl.context import EngineContext
    from .servers import DTLSServerSocket
    from .session import DTLSSession
    from .sockets import DTLSSocket

__all__ = [
    "CERT_NONE",
    "CERT_OPTIONAL",
    "CERT_REQUIRED",
    "DEFAULT_CIPHERS",
    "DEFAULT_MTU",
    "PROTOCOL_DTLS_CLIENT",
    "PROTOCOL_DTLS_SERVER",
    "Context",
    "DTLSVersion",
    "Options",
    "Protocol",
    "Purpose",
    "VerifyFlags",
    "VerifyMode",
    "create_default_context",
]


class Context(SessionSettings, NameSettings, DatagramSettings, DiagnosisSettings):
    """The settings of one side's associations.

    :param protocol: ``PROTOCOL_DTLS_CLIENT`` (verifies certificate and host name) or ``PROTOCOL_DTLS_SERVER``
        (asks for no certificate); what may be relaxed must be relaxed by an explicit word.
    """

    def __repr__(self) -> str:
        return f"<dtls.Context {self.protocol.name} at {id(self):#x}>"

    def connection(
        self,
        now: float,
        *,
        server_hostname: str | None = None,
        client_hello: ReceivedClientHello | None = None,
        peer_address: Hashable | None = None,
        mtu: int | None = None,
        timer: RetransmissionTimer | None = None,
        session: DTLSSession | None = None,
    ) -> Connection:
        """A new association without any I/O, in this context's role; its handshake begins at ``now`` (seconds).

        :param server_hostname: for clients: the name to ask for and, with ``check_hostname``, to verify.
        :param client_hello: for servers: a ClientHello that was received already.
        :param peer_address: for servers: the client must first prove by a cookie that it is there (RFC 6347, 4.2.1).
            ``None`` if it has, by ``client_hello`` or by other means: else the server can be used to flood others.
        :param mtu: what counts instead of :attr:`mtu` for this association.
        :param timer: what says when to repeat a flight, instead of RFC 6347's timer.
        :param session: for clients: what to resume if the server agrees. One whose time has passed is left out.
        :raises ValueError: for a name that is missing, empty or out of place, and a session that was made with other
            settings about trust, another own certificate or another name.
        :raises SSLError: for settings that the engine does not take.
        """
        if server_hostname is not None:
            self._check_server_hostname(server_hostname)
        elif self._check_hostname and self.requires_server_hostname:
            message = "check_hostname requires server_hostname"
            raise ValueError(message)
        if session is not None:
            self._check_session(session, server_hostname)
        engine = self._engine()
        return engine.connection_class(
            self,
            engine,
            now,
            server_hostname=server_hostname,
            client_hello=client_hello,
            peer_address=peer_address,
            mtu=self._mtu if mtu is None else usable_mtu(mtu),
            timer=timer or RetransmissionTimer(self._initial_retransmission_timeout),
            session=None if session is None or session.is_over(time.time()) else session,
        )

    def _check_server_hostname(self, server_hostname: str) -> None:
        if self.server_side:
            message = "server_hostname can only be specified in client mode"
            raise ValueError(message)
        if not server_hostname or server_hostname.startswith("."):
            message = "server_hostname cannot be an empty string or start with a leading dot."
            raise ValueError(message)
        if "\0" in server_hostname:
            message = "server_hostname cannot contain a null character"
            raise ValueError(message)

    @property
    def requires_server_hostname(self) -> bool:
        """Whether associations need a ``server_hostname``: to compare with certificates, unless only PSK is offered."""
        return self.check_hostname and not self.server_side and self._engine().offers_certificates

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        *,
        server_hostname: str | None = None,
        session: DTLSSession | None = None,
    ) -> DTLSSocket | DTLSServerSocket:
        """Secure a UDP socket, which is taken over (``sock`` is detached). See :func:`dtls.sockets.wrap_socket`."""
        from .sockets import wrap_socket  # noqa: PLC0415 - sockets stand above contexts

        return wrap_socket(
            self,
            sock,
            server_side=server_side,
            do_handshake_on_connect=do_handshake_on_connect,
            server_hostname=server_hostname,
            session=session,
        )

    def check(self) -> None:
        """Raise :class:`~dtls.SSLError` if the engine does not take these settings, as the first association would.

        Those of :meth:`set_sni_contexts` are looked at, too.
        """
        for context in (self, *self._sni_contexts):
            context._engine()  # noqa: SLF001 - of its own kind

    def _engine(self) -> EngineContext:
        """The engine's translation of these settings, made once."""
        engine = self._engine_context
        if engine is not None:
            return engine
        with self._lock:
            if self._engine_context is None:
                from .engines.openssl.context import EngineContext  # noqa: PLC0415 - the seam: the engine is chosen here

                self._engine_context = EngineContext(self, server_side=self.server_side)
            return self._engine_context


def create_default_context(
    purpose: Any = Purpose.SERVER_AUTH,
    *,
    cafile: str | os.PathLike[str] | None = None,
    capath: str | os.PathLike[str] | None = None,
    cadata: str | bytes | None = None,
) -> Context:
    """A context with this package's recommended settings, as ``ssl.create_default_context`` makes one.

    For ``Purpose.SERVER_AUTH`` (a client) it verifies certificate and host name, against the anchors given or else
    the system's; for ``Purpose.CLIENT_AUTH`` (a server) it asks for no certificate. As in Python 3.13, certificates
    are held strictly to RFC 5280, and any certificate that is trusted may end a path. The environment variable
    ``SSLKEYLOGFILE`` sets ``keylog_filename``, unless Python ignores its environment.
    """
    client = as_purpose(purpose) is Purpose.SERVER_AUTH
    context = Context(PROTOCOL_DTLS_CLIENT if client else PROTOCOL_DTLS_SERVER)
    context.verify_flags |= VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | VerifyFlags.VERIFY_X509_STRICT
    if cafile is not None or capath is not None or cadata is not None:
        context.load_verify_locations(cafile, capath, cadata)
    elif context.verify_mode is not CERT_NONE:
        context.load_default_certs(purpose)
    key_log = os.environ.get("SSLKEYLOGFILE")
    if key_log and not sys.flags.ignore_environment:
        context.keylog_filename = key_log
    return context
