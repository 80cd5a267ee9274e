"""What OpenSSL's callbacks need to know of an association, and what they have to say about it.

OpenSSL calls back in the midst of a handshake, through C, which no exception may cross: what goes wrong is kept here,
told to OpenSSL as a refusal, and becomes the error of the handshake on this side.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, NamedTuple

from dtls.errors import SSL_ERROR_SSL, SSLError
from dtls.settings.pins import is_pinned
from dtls.wire import (
    AlertDescription,
    WireError,
    parse_client_hello_untrusted,
    server_name_untrusted,
)

from .errors import (
    X509_V_ERR_CERT_REJECTED,
    X509_V_ERR_HOSTNAME_MISMATCH,
    X509_V_ERR_IP_ADDRESS_MISMATCH,
    verification_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from dtls.context import Context
    from dtls.reassembly import Message

    from .connection import OpenSSLConnection

    Answer = TypeVar("Answer")

logger = logging.getLogger("dtls")

MAX_PSK_IDENTITY = 256
"""Bytes, without the NUL that ends it; OpenSSL's PSK_MAX_IDENTITY_LEN."""
MAX_PSK = 512
"""Bytes; OpenSSL's PSK_MAX_PSK_LEN."""
_SHOWN = 64
_HIGHEST_ALERT = 255
_NAME_FAULTS = (X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH)


class Trust(NamedTuple):
    """What decides about certificates in place of path validation: as the settings were when OpenSSL was told."""

    pins: frozenset[bytes] | None
    callback: Callable[[bytes], bool] | None

    @property
    def decides(self) -> bool:
        """Whether there is such a thing."""
        return self.pins is not None or self.callback is not None


NO_TRUST = Trust(None, None)


class Association:
    """One association, as seen from callbacks. Held by its connection only."""

    __slots__ = (
        "__weakref__",
        "_connection",
        "_judged",
        "_offered_identity",
        "context",
        "error",
        "psk_identity",
        "trust",
    )

    def __init__(self, context: Context, connection: OpenSSLConnection) -> None:
        self.context = context
        self._connection = weakref.ref(connection)
        self.trust = NO_TRUST
        self.error: BaseException | None = None
        """What went wrong in a callback first."""
        self.psk_identity: bytes | None = None
        self._offered_identity: bytes | None = None
        self._judged: tuple[bytes, bool] | None = None
        """The certificate that was judged, and whether it is trusted."""

    def note_key_exchange(self, body: bytes) -> None:
        """Look at a ClientKeyExchange before OpenSSL does.

        With PSK it begins with the identity (RFC 4279, 2), which OpenSSL would cut at a NUL. The first counts, which is
        the one that OpenSSL takes: another identity must not be looked up for it.
        """
        if self._offered_identity is None:
            length = int.from_bytes(body[:2], "big")
            self._offered_identity = body[2 : 2 + length]

    def meet(self, message: Message) -> int | None:
        """Choose who answers a ClientHello, by the name that it asks for (RFC 6066, 3).

        The alert for a client that is refused; ``error`` says why.
        """
        connection = self._connection()
        if connection is None or not connection.meets_client():
            return None
        try:
            hello = parse_client_hello_untrusted(message.body)
            wire_name = server_name_untrusted(hello)
        except WireError:
            # Were OpenSSL less strict, such a client would get past sni_callback.
            self._fail(SSLError(SSL_ERROR_SSL, "the ClientHello is malformed", reason="BAD_EXTENSION"))
            return AlertDescription.DECODE_ERROR
        name = None if wire_name is None else wire_name.decode("utf-8", "surrogateescape")
        connection.begin_to_choose(name, offers_session=bool(hello.session_id))
        callback = self.context.sni_callback
        if callback is not None:
            asked = self.context
            alert = self.run("sni_callback", lambda: _alert(callback(connection, name, asked)))
            if self.error is None and alert is not None:
                known = alert in AlertDescription.__members__.values()
                reason = AlertDescription(alert).name if known else f"ALERT_{alert}"
                text = f"sni_callback refuses a client that asks for {name!r} (alert {reason.lower()})"
                self._fail(SSLError(SSL_ERROR_SSL, text, reason=reason))
                return alert
        if self.error is None:
            self.run("the context chosen by sni_callback", connection.answer)
        return None if self.error is None else AlertDescription.INTERNAL_ERROR

    def run(self, doing: str, answer: Callable[[], Answer]) -> Answer | None:
        """``answer()``, or ``None`` if it raises: then that is how the handshake ends."""
        try:
            return answer()
        except SSLError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - it is the user's, and is told to the user
            # What it says may hold what is secret, and is for whoever handles the error.
            logger.error("%s raised %s: the handshake ends", doing, type(error).__name__)  # noqa: TRY400
            wrapped = SSLError(
                SSL_ERROR_SSL, f"{doing} raised {type(error).__name__}", reason="CALLBACK_FAILED"
            )
            wrapped.__cause__ = error
            self._fail(wrapped)
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt goes on outside of OpenSSL
            self._fail(error)
        return None

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error

    # --- trust without authorities -------------------------------------------------------------------------------

    def judge(self, certificate: bytes, fault: int) -> int:
        """The X509_V_ERR_* that counts for a peer with this certificate (DER), in which ``fault`` was found.

        The fault that only names it stands: a name is compared when the user says so.
        """
        if self._judged is None or self._judged[0] != certificate:
            trusted = self.run(
                "the judgement of the peer's certificate", lambda: self._is_trusted(certificate)
            )
            self._judged = certificate, trusted is True
        if not self._judged[1]:
            return X509_V_ERR_CERT_REJECTED
        return fault if fault in _NAME_FAULTS else 0

    def _is_trusted(self, certificate: bytes) -> bool:
        pins, callback = self.trust
        if not self.trust.decides:
            return False
        if pins is not None and not is_pinned(pins, certificate):
            why = "the certificate's fingerprint is none of those that are pinned"
            raise _rejected(why)
        if callback is not None and not _truth(callback(certificate)):
            why = "the application's callback does not trust the certificate"
            raise _rejected(why)
        return True

    def judge_status(self, response: bytes) -> bool:
        """Whether a client goes on with this OCSP response."""
        callback, connection = self.context.ocsp_client_callback, self._connection()
        if callback is None or connection is None:
            return False
        answer = self.run("the OCSP callback", lambda: _truth(callback(connection, response)))
        if answer is False:
            self._fail(_rejected("the OCSP callback does not accept what the server shows"))
        return answer is True

    def last_judgement(self, certificate: bytes | None) -> BaseException | None:
        """What forbids to go on with a peer whose handshake is complete.

        A resumed session verifies nothing anew, and with a pre-shared key there is no certificate at all.
        """
        if certificate is None:
            return _rejected("the peer shows none, and it is to be pinned or judged by a callback")
        return self.error if self.judge(certificate, 0) else None

    # --- pre-shared keys -----------------------------------------------------------------------------------------

    def psk_for_client(self, hint: bytes | None) -> tuple[bytes, bytes] | None:
        """Identity and key; ``None`` ends the handshake."""
        return self.run("the callback of set_psk_client_callback()", lambda: self._client_psk(hint))

    def _client_psk(self, hint: bytes | None) -> tuple[bytes, bytes] | None:
        find = self.context.psk_client
        if find is None:
            return None
        identity, psk = find(hint)
        check_psk(identity, psk)
        if not psk:
            message = "the callback of set_psk_client_callback() has no key for this server"
            raise SSLError(SSL_ERROR_SSL, message, reason="PSK_IDENTITY_NOT_FOUND")
        self.psk_identity = identity
        return identity, psk

    def psk_for_server(self) -> bytes | None:
        """The key of the client; empty for a client that is not known, ``None`` if there was an error."""
        return self.run("the callback of set_psk_server_callback()", self._server_psk)

    def _server_psk(self) -> bytes:
        find = self.context.psk_server
        identity = self._offered_identity or b""
        if b"\0" in identity:
            # A session would remember what stands before the NUL, and it would be somebody else's when resumed.
            self._fail(_unknown(identity, "identities with NUL cannot be served by this engine (OpenSSL)"))
            return b""
        psk = None if find is None else find(identity)
        if not psk:
            self._fail(_unknown(identity, "this side does not know it"))
            return b""
        check_psk(identity, psk)
        self.psk_identity = identity
        return psk


def _truth(answer: object) -> bool:
    if not isinstance(answer, bool):  # a coroutine would count as true
        message = f"True or False is expected, not {type(answer).__name__}"
        raise TypeError(message)
    return answer


def _alert(answer: object) -> int | None:
    if answer is None:
        return None
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer <= _HIGHEST_ALERT:
        message = f"None or an alert's number (0 to {_HIGHEST_ALERT}) is expected, not {answer!r}"
        raise TypeError(message)
    return int(answer)


def _rejected(why: str) -> SSLError:
    return verification_error(X509_V_ERR_CERT_REJECTED, why, None)


def _unknown(identity: bytes, why: str) -> SSLError:
    shown = repr(identity[:_SHOWN]) + ("..." if len(identity) > _SHOWN else "")
    message = f"the client names the PSK identity {shown}: {why}"
    return SSLError(SSL_ERROR_SSL, message, reason="PSK_IDENTITY_NOT_FOUND", library="SSL")


def check_psk(identity: bytes, psk: bytes) -> None:
    """Raise :exc:`ValueError` for what OpenSSL cannot use; the key is not shown."""
    if b"\0" in identity:
        message = "a PSK identity with NUL cannot be used by this engine (OpenSSL): it would be cut there"
        raise ValueError(message)
    if len(identity) > MAX_PSK_IDENTITY:
        message = f"a PSK identity has at most {MAX_PSK_IDENTITY} bytes in this engine, not {len(identity)}"
        raise ValueError(message)
    if len(psk) > MAX_PSK:
        message = f"a pre-shared key has at most {MAX_PSK} bytes in this engine, not {len(psk)}"
        raise ValueError(message)
