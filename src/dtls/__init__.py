"""Datagram TLS for Python: what TLS is to a TCP stream, for UDP datagrams."""

from . import err
from .connection import Connection, ConnectionState
from .context import (
    CERT_NONE,
    CERT_OPTIONAL,
    CERT_REQUIRED,
    PROTOCOL_DTLS_CLIENT,
    PROTOCOL_DTLS_SERVER,
    Context,
    DTLSVersion,
    Options,
    Protocol,
    Purpose,
    VerifyFlags,
    VerifyMode,
    create_default_context,
)
from .cookie import CookieFactory
from .demux import force_routing_demux, reset_default_demux
from .endpoint import Association, Endpoint, EndpointEvent, EndpointLimits
from .errors import (
    AssociationExpired,
    AssociationReplaced,
    CertificateError,
    HandshakeTimeout,
    MessageTooLarge,
    PeerUnreachable,
    SSLCertVerificationError,
    SSLError,
    SSLTimeoutError,
    SSLWantReadError,
    SSLWantWriteError,
    SSLZeroReturnError,
)
from .events import AlertReceived, DataReceived, Event, HandshakeCompleted, HandshakeFailed, PeerClosed
from .patch import do_patch
from .servers import DTLSServerSocket, create_server
from .session import DTLSSession
from .sockets import DTLSSocket, create_connection
from .sslconnection import SSL, SSLConnection, SSLContext

__version__ = "2.0.0.dev0"
VERSION = (2, 0, 0)
"""The version in PyDTLS's form."""

__all__ = [
    "CERT_NONE",
    "CERT_OPTIONAL",
    "CERT_REQUIRED",
    "PROTOCOL_DTLS_CLIENT",
    "PROTOCOL_DTLS_SERVER",
    "SSL",
    "VERSION",
    "AlertReceived",
    "Association",
    "AssociationExpired",
    "AssociationReplaced",
    "CertificateError",
    "Connection",
    "ConnectionState",
    "Context",
    "CookieFactory",
    "DTLSServerSocket",
    "DTLSSession",
    "DTLSSocket",
    "DTLSVersion",
    "DataReceived",
    "Endpoint",
    "EndpointEvent",
    "EndpointLimits",
    "Event",
    "HandshakeCompleted",
    "HandshakeFailed",
    "HandshakeTimeout",
    "MessageTooLarge",
    "Options",
    "PeerClosed",
    "PeerUnreachable",
    "Protocol",
    "Purpose",
    "SSLCertVerificationError",
    "SSLConnection",
    "SSLContext",
    "SSLError",
    "SSLTimeoutError",
    "SSLWantReadError",
    "SSLWantWriteError",
    "SSLZeroReturnError",
    "VerifyFlags",
    "VerifyMode",
    "create_connection",
    "create_default_context",
    "create_server",
    "do_patch",
    "err",
    "force_routing_demux",
    "reset_default_demux",
]
