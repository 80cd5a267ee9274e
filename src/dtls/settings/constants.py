"""The constants of contexts, with the names and numbers of the ``ssl`` module where it has them."""

from __future__ import annotations

import enum


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


class Options(enum.IntFlag):
    """Switches that ``ssl.Options`` has as well, and that mean something here."""

    OP_NO_TICKET = 0x4000
    OP_NO_COMPRESSION = 0x20000
    OP_CIPHER_SERVER_PREFERENCE = 0x400000
    OP_NO_RENEGOTIATION = 0x40000000


ALWAYS = Options.OP_NO_COMPRESSION | Options.OP_NO_RENEGOTIATION
"""Neither is ever switched on: both have been ways to attack."""
