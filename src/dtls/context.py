"""What to do, in terms that no engine owns: :class:`Context` mirrors ``ssl.SSLContext``, name for name.

A context belongs to one role, as ``PROTOCOL_TLS_CLIENT`` and ``PROTOCOL_TLS_SERVER`` do. It may be shared by any
number of associations and threads once it is set up; settings that are changed later count for new associations.
"""

from __future__ import annotations

import enum
import threading
from typing import TYPE_CHECKING, Any

from . import credentials
from .errors import SSL_ERROR_SSL, SSLError
from .flights import MINIMUM_MTU, RetransmissionTimer

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Callable, Hashable, Iterable

    from .connection import Connection, ReceivedClientHello
    from .engines.openssl.context import EngineContext
    from .servers import DTLSServerSocket
    from .sockets import DTLSSocket

    InfoCallback = Callable[[str, int, int], object]

DEFAULT_CIPHERS = (
    "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:DHE+AESGCM:DHE+CHACHA20:!AESCCM8:!aNULL:!PSK:!SRP:!DSS"
)
"""AEAD with forward secrecy only."""
DEFAULT_MTU = 1350
"""Bytes of a datagram. Under every usual path's limit, and under the 1400 bytes that some stacks read at most."""
MAXIMUM_MTU = 65_507
MAX_ALPN_LENGTH = 255
DEFAULT_HANDSHAKE_TIMEOUT = 30.0
DEFAULT_INITIAL_RETRANSMISSION_TIMEOUT = 1.0
"""Seconds, as RFC 6347, 4.2.4.1 recommends."""


class Protocol(enum.IntEnum):
    """Which role a context is for."""

    PROTOCOL_DTLS_CLIENT = 272
    PROTOCOL_DTLS_SERVER = 273


PROTOCOL_DTLS_CLIENT = Protocol.PROTOCOL_DTLS_CLIENT
PROTOCOL_DTLS_SERVER = Protocol.PROTOCOL_DTLS_SERVER


class Purpose(enum.Enum):
    """What certificates of peers are for, as ``ssl.Purpose`` has it."""

    SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
    """This side is a client that authenticates servers."""
    CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
    """This side is a server that may authenticate clients."""


class DTLSVersion(enum.IntEnum):
    """Protocol versions, as ``ssl.TLSVersion`` has them."""

    MINIMUM_SUPPORTED = -2
    MAXIMUM_SUPPORTED = -1
    DTLSv1 = 0xFEFF
    DTLSv1_2 = 0xFEFD

    @property
    def wire(self) -> int:
        """The number on the wire; later versions have smaller ones."""
        return _ON_THE_WIRE.get(self, int(self))


_ON_THE_WIRE = {
    DTLSVersion.MINIMUM_SUPPORTED: int(DTLSVersion.DTLSv1),
    DTLSVersion.MAXIMUM_SUPPORTED: int(DTLSVersion.DTLSv1_2),
}


class VerifyMode(enum.IntEnum):
    """Whether the peer's certificate is asked for and verified, as ``ssl.VerifyMode`` has it."""

    CERT_NONE = 0
    CERT_OPTIONAL = 1
    CERT_REQUIRED = 2

    @property
    def wants_certificate(self) -> bool:
        """Whether a certificate that comes is verified."""
        return self is not VerifyMode.CERT_NONE

    @property
    def requires_certificate(self) -> bool:
        """Whether one must come."""
        return self is VerifyMode.CERT_REQUIRED


CERT_NONE = VerifyMode.CERT_NONE
CERT_OPTIONAL = VerifyMode.CERT_OPTIONAL
CERT_REQUIRED = VerifyMode.CERT_REQUIRED


class VerifyFlags(enum.IntFlag):
    """How certificates are verified, as ``ssl.VerifyFlags`` has it."""

    VERIFY_DEFAULT = 0
    VERIFY_X509_STRICT = 0x20
    VERIFY_X509_TRUSTED_FIRST = 0x8000
    VERIFY_X509_PARTIAL_CHAIN = 0x80000


class Context:
    """The settings of one side's associations.

    :param protocol: ``PROTOCOL_DTLS_CLIENT`` (verifies certificate and host name) or ``PROTOCOL_DTLS_SERVER``
        (asks for no certificate); what may be relaxed must be relaxed by an explicit word.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = Protocol(protocol)
        self._lock = threading.Lock()
        self._engine_context: EngineContext | None = None
        client = self.protocol is PROTOCOL_DTLS_CLIENT
        self._check_hostname = client
        self._verify_mode = CERT_REQUIRED if client else CERT_NONE
        self._verify_flags = VerifyFlags.VERIFY_X509_TRUSTED_FIRST
        self._minimum_version = DTLSVersion.DTLSv1_2
        self._maximum_version = DTLSVersion.MAXIMUM_SUPPORTED
        self._cipher_string = DEFAULT_CIPHERS
        self._alpn_protocols: list[bytes] = []
        self._groups: str | None = None
        self._server_sigalgs: str | None = None
        self._info_callback: InfoCallback | None = None
        self._identity: credentials.Identity | None = None
        self._trusted: dict[bytes, None] = {}
        self._trusted_directories: list[str] = []
        self._mtu = DEFAULT_MTU
        self._handshake_timeout = DEFAULT_HANDSHAKE_TIMEOUT
        self._initial_retransmission_timeout = DEFAULT_INITIAL_RETRANSMISSION_TIMEOUT
        self.limits_messages_to_mtu = True
        """Whether messages over the MTU are refused. Off, records of up to 16,384 bytes are left to IP to fragment."""

    def __repr__(self) -> str:
        return f"<dtls.Context {self.protocol.name} at {id(self):#x}>"

    @property
    def server_side(self) -> bool:
        """Whether this context is for servers."""
        return self.protocol is PROTOCOL_DTLS_SERVER

    # --- whom to trust -------------------------------------------------------------------------------------------

    @property
    def check_hostname(self) -> bool:
        """Whether the certificate must be for ``server_hostname`` (RFC 6125). True implies ``CERT_REQUIRED``."""
        return self._check_hostname

    @check_hostname.setter
    def check_hostname(self, value: bool) -> None:
        if value and self._verify_mode is CERT_NONE:
            self._verify_mode = CERT_REQUIRED
        self._check_hostname = bool(value)
        self._changed()

    @property
    def verify_mode(self) -> VerifyMode:
        """Whether the peer's certificate is asked for and verified.

        Setting ``CERT_NONE`` while ``check_hostname`` is true raises :exc:`ValueError`.
        """
        return self._verify_mode

    @verify_mode.setter
    def verify_mode(self, value: int) -> None:
        mode = VerifyMode(value)
        if mode is CERT_NONE and self._check_hostname:
            message = "Cannot set verify_mode to CERT_NONE when check_hostname is enabled."
            raise ValueError(message)
        self._verify_mode = mode
        self._changed()

    @property
    def verify_flags(self) -> VerifyFlags:
        """How certificates are verified (X509_V_FLAG_*)."""
        return self._verify_flags

    @verify_flags.setter
    def verify_flags(self, value: int) -> None:
        self._verify_flags = VerifyFlags(value)
        self._changed()

    def load_verify_locations(
        self,
        cafile: str | os.PathLike[str] | None = None,
        capath: str | os.PathLike[str] | None = None,
        cadata: str | bytes | None = None,
    ) -> None:
        """Trust the certificates in a file (PEM or DER), a directory (files named by hash), or data.

        Raises :exc:`TypeError` if nothing is given, :exc:`OSError` for what cannot be opened, and
        :class:`~dtls.SSLError` for what holds no certificate.
        """
        if cafile is None and capath is None and cadata is None:
            message = "cafile, capath and cadata cannot be all omitted"
            raise TypeError(message)
        if cafile is not None:
            self._trust(credentials.load_anchors(cafile))
        if cadata is not None:
            self._trust(credentials.load_anchors(_certificate_data(cadata)))
        if capath is not None:
            self._trusted_directories.append(credentials.existing_directory(capath))
            self._changed()

    def load_default_certs(self, purpose: Any = Purpose.SERVER_AUTH) -> None:
        """Trust what the system trusts. ``purpose`` is accepted as in the ``ssl`` module."""
        _purpose(purpose)
        found = credentials.load_system_trust()
        self._trusted_directories += found.directories
        self._trust(found.certificates)

    def get_ca_certs(self, binary_form: bool = False) -> list[Any]:
        """The trust anchors loaded so far, as dictionaries or as DER; those in directories are not among them."""
        from .x509 import certificate_dict  # noqa: PLC0415 - seldom needed

        ders = list(self._trusted)
        return ders if binary_form else [certificate_dict(der) for der in ders]

    def _trust(self, ders: Iterable[bytes]) -> None:
        self._trusted.update(dict.fromkeys(ders))
        self._changed()

    @property
    def trusted_certificates(self) -> list[bytes]:
        """The DERs of the trust anchors loaded so far."""
        return list(self._trusted)

    @property
    def trusted_directories(self) -> list[str]:
        """The directories in which further trust anchors are looked for."""
        return list(self._trusted_directories)

    # --- who we are ----------------------------------------------------------------------------------------------

    def load_cert_chain(
        self,
        certfile: credentials.CertificateSource,
        keyfile: credentials.KeySource | None = None,
        password: credentials.Password | None = None,
    ) -> None:
        """Present this certificate (with what leads from it to an anchor) and sign with this key.

        Each may be a path, PEM or DER data as bytes, or an object of ``cryptography``; the key may stand in the
        certificate's file. A later call replaces an earlier one. Raises :class:`~dtls.SSLError` for what cannot be
        read, decrypted, or does not match, and :exc:`OSError` for files that cannot be opened.
        """
        self._identity = credentials.load_identity(certfile, keyfile, password)
        self._changed()

    def build_cert_chain(
        self,
        *,
        with_root: bool = True,
        by_presented: bool = False,
        only_presented: bool = False,
        incomplete: bool = False,
    ) -> bool:
        """Present the path from the own certificate to a trust anchor from now on; whether it is valid.

        :param with_root: whether a self-signed anchor at its end is presented too.
        :param by_presented: whether it may lead by way of the certificates that ``load_cert_chain`` found.
        :param only_presented: whether it is made of those alone, with an anchor among them.
        :param incomplete: whether as much of a path as there is may do.
        :raises SSLError: if there is no own certificate, or no valid path unless ``incomplete``; nothing is changed.
        """
        identity = self._identity
        if identity is None:
            message = "no certificate was loaded: call load_cert_chain() first"
            raise SSLError(SSL_ERROR_SSL, message, reason="NO_CERTIFICATE_SET", library="SSL")
        chain, valid = self._engine().build_chain(
            identity, by_presented=by_presented, only_presented=only_presented
        )
        if not valid and not incomplete:
            message = "no valid path leads from the own certificate to a trust anchor"
            raise SSLError(SSL_ERROR_SSL, message, reason="CERTIFICATE_VERIFY_FAILED", library="SSL")
        if not with_root and len(chain) > 1 and credentials.is_self_signed(chain[-1]):
            chain.pop()
        self._identity = identity._replace(chain=chain or identity.chain[:1], complete=True)
        self._changed()
        return valid

    @property
    def identity(self) -> credentials.Identity | None:
        """What ``load_cert_chain`` loaded."""
        return self._identity

    # --- what to negotiate ---------------------------------------------------------------------------------------

    @property
    def minimum_version(self) -> DTLSVersion:
        """The oldest version allowed. DTLS 1.0 also needs ``set_ciphers('DEFAULT:@SECLEVEL=0')`` or the like."""
        return self._minimum_version

    @minimum_version.setter
    def minimum_version(self, value: int) -> None:
        self._minimum_version = DTLSVersion(value)
        self._changed()

    @property
    def maximum_version(self) -> DTLSVersion:
        """The newest version allowed."""
        return self._maximum_version

    @maximum_version.setter
    def maximum_version(self, value: int) -> None:
        self._maximum_version = DTLSVersion(value)
        self._changed()

    def set_ciphers(self, ciphers: str) -> None:
        """The cipher suites by preference, in OpenSSL's notation. Raises :class:`~dtls.SSLError` if none is left."""
        self._try("_cipher_string", ciphers)

    def get_ciphers(self) -> list[dict[str, str]]:
        """The suites ready for use, by preference: dictionaries with ``name``."""
        return [{"name": name} for name in self._engine().cipher_names()]

    @property
    def cipher_string(self) -> str:
        """What ``set_ciphers`` was given."""
        return self._cipher_string

    def set_groups(self, groups: str) -> None:
        """The key-exchange groups by preference, separated by colons: ``"X25519:P-256"`` (RFC 8422, 5.1.1).

        Raises :class:`~dtls.SSLError` if one of them is not known, and :exc:`NotImplementedError` for more than one
        where the ``cryptography`` package is too old.
        """
        self._try("_groups", groups)

    def set_ecdh_curve(self, curve_name: str) -> None:
        """The one key-exchange group; as :meth:`set_groups`."""
        self.set_groups(curve_name)

    def reset_groups(self) -> None:
        """The engine's own choice of groups again."""
        self._groups = None
        self._changed()

    @property
    def groups(self) -> str | None:
        """What :meth:`set_groups` was given; ``None`` for the engine's own choice."""
        return self._groups

    def set_server_sigalgs(self, sigalgs: str) -> None:
        """The signature algorithms for handshakes, separated by colons: ``"ECDSA+SHA256"`` (RFC 5246, 7.4.1.4.1).

        Raises :class:`~dtls.SSLError` if one of them is not known.
        """
        self._try("_server_sigalgs", sigalgs)

    @property
    def server_sigalgs(self) -> str | None:
        """What :meth:`set_server_sigalgs` was given; ``None`` for the engine's own choice."""
        return self._server_sigalgs

    def set_info_callback(self, callback: InfoCallback | None) -> None:
        """Have ``callback(state, where, return_code)`` called whenever a handshake gets on; ``None`` ends that.

        ``state`` is in words; the two numbers are those of OpenSSL's ``SSL_CTX_set_info_callback``. What it raises is
        printed and ignored.
        """
        self._info_callback = callback
        self._changed()

    @property
    def info_callback(self) -> InfoCallback | None:
        """What :meth:`set_info_callback` was given."""
        return self._info_callback

    def _try(self, attribute: str, value: str) -> None:
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

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """The application protocols to offer or to choose from, by preference (RFC 7301); 1 to 255 bytes each."""
        names = [name.encode() for name in alpn_protocols]
        if any(not 0 < len(name) <= MAX_ALPN_LENGTH for name in names):
            message = "an ALPN protocol has 1 to 255 bytes"
            raise ValueError(message)
        self._alpn_protocols = names
        self._changed()

    @property
    def alpn_protocols(self) -> list[bytes]:
        """What ``set_alpn_protocols`` was given."""
        return list(self._alpn_protocols)

    # --- datagrams and time --------------------------------------------------------------------------------------

    @property
    def mtu(self) -> int:
        """The largest UDP payload in bytes, 208 to 65,507. Flights are cut to it; longer messages are refused."""
        return self._mtu

    @mtu.setter
    def mtu(self, value: int) -> None:
        self._mtu = _usable_mtu(value)

    @property
    def handshake_timeout(self) -> float:
        """Seconds in which a handshake must complete, greater than 0."""
        return self._handshake_timeout

    @handshake_timeout.setter
    def handshake_timeout(self, value: float) -> None:
        self._handshake_timeout = _positive_seconds("handshake_timeout", value)

    @property
    def initial_retransmission_timeout(self) -> float:
        """Seconds after which a flight is first repeated, greater than 0; it doubles (RFC 6347, 4.2.4.1)."""
        return self._initial_retransmission_timeout

    @initial_retransmission_timeout.setter
    def initial_retransmission_timeout(self, value: float) -> None:
        self._initial_retransmission_timeout = _positive_seconds("initial_retransmission_timeout", value)

    # --- associations --------------------------------------------------------------------------------------------

    def connection(
        self,
        now: float,
        *,
        server_hostname: str | None = None,
        client_hello: ReceivedClientHello | None = None,
        peer_address: Hashable | None = None,
        mtu: int | None = None,
        timer: RetransmissionTimer | None = None,
    ) -> Connection:
        """A new association without any I/O, in this context's role; its handshake begins at ``now`` (seconds).

        :param server_hostname: for clients: the name to ask for and, with ``check_hostname``, to verify.
        :param client_hello: for servers: a ClientHello that was received already.
        :param peer_address: for servers: the client must first prove by a cookie that it is there (RFC 6347, 4.2.1).
            ``None`` if it has, by ``client_hello`` or by other means: else the server can be used to flood others.
        :param mtu: what counts instead of :attr:`mtu` for this association.
        :param timer: what says when to repeat a flight, instead of RFC 6347's timer.
        :raises ValueError: for a name that is missing, empty or out of place.
        :raises SSLError: for settings that the engine does not take.
        """
        if self.server_side and server_hostname is not None:
            message = "server_hostname can only be specified in client mode"
            raise ValueError(message)
        if server_hostname is not None and (not server_hostname or server_hostname.startswith(".")):
            message = "server_hostname cannot be an empty string or start with a leading dot."
            raise ValueError(message)
        if server_hostname is not None and "\0" in server_hostname:
            message = "server_hostname cannot contain a null character"
            raise ValueError(message)
        if self._check_hostname and not self.server_side and server_hostname is None:
            message = "check_hostname requires server_hostname"
            raise ValueError(message)
        from .engines.openssl.connection import OpenSSLConnection  # noqa: PLC0415 - the seam: the engine is chosen here

        return OpenSSLConnection(
            self,
            self._engine(),
            now,
            server_hostname=server_hostname,
            client_hello=client_hello,
            peer_address=peer_address,
            mtu=self._mtu if mtu is None else _usable_mtu(mtu),
            timer=timer or RetransmissionTimer(self._initial_retransmission_timeout),
        )

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        *,
        server_hostname: str | None = None,
    ) -> DTLSSocket | DTLSServerSocket:
        """Secure a UDP socket, which is taken over (``sock`` is detached). See :func:`dtls.sockets.wrap_socket`."""
        from .sockets import wrap_socket  # noqa: PLC0415 - sockets stand above contexts

        return wrap_socket(
            self,
            sock,
            server_side=server_side,
            do_handshake_on_connect=do_handshake_on_connect,
            server_hostname=server_hostname,
        )

    def check(self) -> None:
        """Raise :class:`~dtls.SSLError` if the engine does not take these settings, as the first association would."""
        self._engine()

    def _engine(self) -> EngineContext:
        """The engine's translation of these settings, made once."""
        with self._lock:
            if self._engine_context is None:
                from .engines.openssl.context import EngineContext  # noqa: PLC0415 - the seam: the engine is chosen here

                self._engine_context = EngineContext(self, server_side=self.server_side)
            return self._engine_context

    def _changed(self) -> None:
        with self._lock:
            self._engine_context = None


def _certificate_data(cadata: str | bytes) -> bytes:
    if isinstance(cadata, str) and cadata.isascii():
        return cadata.encode()
    if isinstance(cadata, (bytes, bytearray, memoryview)):
        return bytes(cadata)
    message = "cadata should be an ASCII string or a bytes-like object"
    raise TypeError(message)


def _usable_mtu(value: int) -> int:
    if not MINIMUM_MTU <= value <= MAXIMUM_MTU:
        message = f"mtu must be {MINIMUM_MTU} to {MAXIMUM_MTU} bytes, not {value!r}"
        raise ValueError(message)
    return int(value)


def _positive_seconds(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        message = f"{name} must be greater than 0 seconds and finite, not {value!r}"
        raise ValueError(message)
    return float(value)


def _purpose(purpose: Any) -> Purpose:
    """Our own :class:`Purpose`, or the ``ssl`` module's of the same name."""
    try:
        return Purpose[purpose.name]
    except (AttributeError, KeyError):
        message = f"purpose must be Purpose.SERVER_AUTH or Purpose.CLIENT_AUTH, not {purpose!r}"
        raise TypeError(message) from None


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
    are held strictly to RFC 5280, and any certificate that is trusted may end a path.
    """
    client = _purpose(purpose) is Purpose.SERVER_AUTH
    context = Context(PROTOCOL_DTLS_CLIENT if client else PROTOCOL_DTLS_SERVER)
    context.verify_flags |= VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | VerifyFlags.VERIFY_X509_STRICT
    if cafile is not None or capath is not None or cadata is not None:
        context.load_verify_locations(cafile, capath, cadata)
    elif context.verify_mode is not CERT_NONE:
        context.load_default_certs(purpose)
    return context
