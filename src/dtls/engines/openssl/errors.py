"""What OpenSSL says, as the errors of this package: with reasons in capitals, and what to do where that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtls.errors import SSL_ERROR_SSL, SSLCertVerificationError, SSLError
from dtls.wire import AlertDescription

if TYPE_CHECKING:
    from .binding import OpenSSLError, QueuedError

X509_V_ERR_CERT_REJECTED = 28
X509_V_ERR_HOSTNAME_MISMATCH = 62
X509_V_ERR_IP_ADDRESS_MISMATCH = 64
_REASON_MASK = 0x7FFFFF  # ERR_GET_REASON
_ALERT_REASONS = 1000  # SSL_AD_REASON_OFFSET: to this, OpenSSL adds the description of an alert received
_HIGHEST_ALERT = 255

_ALERT_HINTS = {
    "HANDSHAKE_FAILURE": "it finds no cipher suite, group or signature algorithm that both sides allow, or wants a "
    "certificate from this side (load_cert_chain())",
    "INSUFFICIENT_SECURITY": "it wants stronger parameters than this side offers",
    "PROTOCOL_VERSION": "it speaks none of the protocol versions that this side offers",
    "UNKNOWN_CA": "it does not trust the authority that issued this side's certificate",
    "BAD_CERTIFICATE": "it does not accept this side's certificate",
    "CERTIFICATE_EXPIRED": "this side's certificate has expired",
    "CERTIFICATE_UNKNOWN": "it does not accept this side's certificate",
    "CERTIFICATE_REQUIRED": "it wants a certificate from this side: load one with load_cert_chain()",
    "UNKNOWN_PSK_IDENTITY": "it does not know the PSK identity",
    "NO_APPLICATION_PROTOCOL": "it speaks none of the application protocols offered",
    "UNRECOGNIZED_NAME": "it does not know the server name asked for",
}
_HINTS = {
    "NO_SHARED_CIPHER": "the client offers no cipher suite that this side allows (and has a certificate for)",
    "UNSUPPORTED_PROTOCOL": "the peer speaks none of the protocol versions allowed here",
    "WRONG_VERSION_NUMBER": "the peer speaks none of the protocol versions allowed here",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "this side requires a client certificate",
    "NO_CERTIFICATE_SET": "a server needs a certificate: load one with load_cert_chain()",
    "NO_PROTOCOLS_AVAILABLE": "minimum_version, maximum_version and the security level leave none; DTLS 1.0 needs "
    "set_ciphers('DEFAULT:@SECLEVEL=0')",
    "NO_CIPHERS_AVAILABLE": "no cipher suite is left for the protocol versions and the security level chosen",
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": "the peer lacks secure renegotiation (RFC 5746)",
}


def _alert_name(reason: str) -> str | None:
    """``UNKNOWN_CA`` of ``TLSV1_ALERT_UNKNOWN_CA``, ``SSL/TLS_ALERT_UNKNOWN_CA`` and their like."""
    return reason.rpartition("ALERT_")[2] if "ALERT_" in reason else None


def _reason(entry: QueuedError) -> str:
    """The reason in capitals. OpenSSL has no words for some alerts, but a number that tells which they are."""
    number = (entry.code & _REASON_MASK) - _ALERT_REASONS
    if entry.text or not 0 <= number <= _HIGHEST_ALERT:
        return entry.reason
    known = number in AlertDescription.__members__.values()
    return f"TLSV1_ALERT_{AlertDescription(number).name if known else number}"


def explain(entry: QueuedError, *, established: bool = False) -> str:
    """A sentence for people. ``established`` says that the handshake had been completed."""
    reason = _reason(entry)
    name = _alert_name(reason)
    if name is not None:
        what = "ended the association" if established else "refused the handshake"
        hint = None if established else _ALERT_HINTS.get(name)
        return f"the peer {what} (alert {name.lower()})" + (f": {hint}" if hint else "")
    hint = _HINTS.get(reason)
    text = entry.text or reason
    return f"{text}: {hint}" if hint else text


def ssl_error(errors: list[QueuedError], otherwise: str, *, established: bool = False) -> SSLError:
    """The error for what the queue held; ``otherwise`` is the message if it held nothing."""
    if not errors:
        return SSLError(SSL_ERROR_SSL, otherwise)
    entry = errors[0]
    reason = _reason(entry)
    return SSLError(
        SSL_ERROR_SSL,
        f"[{entry.library}: {reason}] {explain(entry, established=established)}",
        reason=reason,
        library=entry.library,
    )


def configuration_error(error: OpenSSLError, doing: str) -> SSLError:
    """The error for a setting that OpenSSL does not take."""
    entry = error.first
    if entry is None:
        return SSLError(SSL_ERROR_SSL, doing)
    return SSLError(SSL_ERROR_SSL, f"{doing}: {explain(entry)}", reason=entry.reason, library=entry.library)


def verification_error(code: int, words: str, server_hostname: str | None) -> SSLCertVerificationError:
    """The error for a certificate that was refused here."""
    if code == X509_V_ERR_HOSTNAME_MISMATCH:
        words = f"Hostname mismatch, certificate is not valid for {server_hostname!r}."
    elif code == X509_V_ERR_IP_ADDRESS_MISMATCH:
        words = f"IP address mismatch, certificate is not valid for {server_hostname!r}."
    return SSLCertVerificationError(
        f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {words}",
        verify_code=code,
        verify_message=words,
    )
