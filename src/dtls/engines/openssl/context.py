"""A :class:`dtls.Context` in OpenSSL's terms: translated once for each role, then shared by its connections."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import os
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dtls.errors import SSL_ERROR_SSL, SSLError
from dtls.settings.constants import Options

from . import binding, binding_callbacks, binding_certificates, binding_sessions, binding_suites
from .association import Association, Trust, check_psk
from .ciphers import STRONG_SIGNATURES, cipher_list, described, lowers_level, missing_suites
from .connection import OpenSSLConnection
from .errors import configuration_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dtls.context import Context
    from dtls.credentials import Identity

HANDSHAKE_MTU = 17_000
"""What OpenSSL is told during a handshake: more than a record holds, since cutting flights is our own work."""

_MAX_HOST_NAME = 255  # OpenSSL's limit, which not every version of the bindings passes on


Handles = tuple[binding.Handle, binding.Handle, binding.Handle]
"""OpenSSL's side of one association: an SSL, and the memory BIOs that it reads from and writes to."""


class EngineContext:
    """OpenSSL's SSL_CTX for ``context`` in one role. Raises :class:`~dtls.SSLError` for what OpenSSL does not take."""

    connection_class = OpenSSLConnection
    """What runs the associations."""

    def __init__(self, context: Context, *, server_side: bool) -> None:
        self.server_side = server_side
        self._associations: weakref.WeakValueDictionary[int, Association] = weakref.WeakValueDictionary()
        """By what tells their SSLs apart."""
        self._callbacks: list[object] = []
        self._ready: list[Handles] = []
        """Those of the next association, if they were made while there was time."""
        self._lock = threading.Lock()
        self.lowers_level = lowers_level(context)
        """Whether OpenSSL looks at the strength of certificates no more."""
        self._trust = Trust(context.pinned_fingerprints, context.trust_callback)
        self._trust_digest = b"" if server_side else context.trust_digest()
        self._resumes = (
            server_side
            and (context.session_tickets or context.session_cache)
            # Whose key a session was made with could not be told.
            and (binding_sessions.SERIALIZES or not context.uses_psk)
        )
        self.meets_clients = self._resumes or context.sni_callback is not None
        """Whether a client's name must be known before an SSL is made for it."""
        try:
            self._handle = binding.new_context(
                server_side=server_side,
                tickets=context.session_tickets and (self._resumes or not server_side),
                own_order=bool(context.options & Options.OP_CIPHER_SERVER_PREFERENCE),
            )
            self._translate(context)
        except binding.OpenSSLError as error:
            raise configuration_error(error, "OpenSSL refuses the context's settings") from None

    def _translate(self, context: Context) -> None:
        handle = self._handle
        binding.set_protocol_versions(handle, context.minimum_version.wire, context.maximum_version.wire)
        self._choose_ciphers(context)
        if context.groups is not None:
            self._choose(binding.set_groups, context.groups, "No key-exchange group can be selected")
        algorithms = context.server_sigalgs or (STRONG_SIGNATURES if lowers_level(context) else None)
        if algorithms is not None:
            self._choose(
                binding.set_signature_algorithms, algorithms, "No signature algorithm can be selected"
            )
        self._verify(context)
        binding_sessions.remember_sessions(
            handle, context.session_timeout, by_id=context.session_cache and self._resumes
        )
        if not (context.trusted_certificates or context.trusted_directories):
            # OpenSSL would look for the rest of a chain of one certificate in each handshake, and find nothing.
            binding_certificates.send_chain_as_it_is(handle)
        for identity in context.identities:
            self._present(identity, alone=len(context.identities) == 1)
        if self.server_side:
            binding.accept_any_cookie(handle)
        if context.uses_psk:
            self._share_keys(context)
        self._extend(context)
        self._staple(context)
        self._observe(context)

    def _extend(self, context: Context) -> None:
        if context.alpn_protocols:
            self._negotiate_application(context.alpn_protocols)
        if context.srtp_profiles:
            self._choose(
                binding_sessions.use_srtp, ":".join(context.srtp_profiles), "No SRTP profile can be selected"
            )

    def _observe(self, context: Context) -> None:
        if context.info_callback is not None:
            self._callbacks.append(binding.observe(self._handle, context.info_callback))
        if context.key_log is not None:
            self._callbacks.append(binding_callbacks.log_keys(self._handle, context.key_log.note))

    def _choose_ciphers(self, context: Context) -> None:
        try:
            binding.set_cipher_list(self._handle, cipher_list(context).encode())
        except binding.OpenSSLError as error:
            raise configuration_error(error, "No cipher can be selected") from None
        shut_out = missing_suites(context.cipher_string, self.cipher_names())
        if shut_out:
            message = (
                f"No cipher can be selected: {', '.join(shut_out)} is shut out by another word of the list (DEFAULT "
                "and !AESCCM8 do so): name the suites wanted one by one"
            )
            raise SSLError(SSL_ERROR_SSL, message, reason="NO_CIPHER_MATCH", library="SSL")

    def _share_keys(self, context: Context) -> None:
        if context.psk_client is not None:
            if context.psk_pair is not None:
                check_psk(*context.psk_pair)
            self._callbacks.append(
                binding_callbacks.find_psk_for_client(
                    self._handle, lambda ssl, hint: self._associations[ssl].psk_for_client(hint)
                )
            )
        if context.psk_server is not None:
            self._callbacks.append(
                binding_callbacks.find_psk_for_server(
                    self._handle, lambda ssl: self._associations[ssl].psk_for_server()
                )
            )
        if context.psk_identity_hint:
            check_psk(context.psk_identity_hint, b"")
            binding_callbacks.hint_at_identity(self._handle, context.psk_identity_hint)

    def _verify(self, context: Context) -> None:
        handle = self._handle
        judge = None
        if self._trust.decides:
            judge = binding_callbacks.judge_certificates(
                lambda ssl, certificate, fault: self._associations[ssl].judge(certificate, fault)
            )
            self._callbacks.append(judge)
        binding.set_verification(
            handle,
            verify=context.verify_mode.wants_certificate,
            require=context.verify_mode.requires_certificate,
            flags=context.verify_flags,
            depth=context.verify_depth,
            judge=judge,
        )
        for der in context.trusted_certificates:
            binding_certificates.trust_certificate(handle, binding_certificates.load_certificate(der))
        for path in context.trusted_directories:
            binding_certificates.trust_directory(handle, os.fsencode(path))
        if self.server_side and context.verify_mode.wants_certificate:
            for der in context.named_authorities:
                binding_certificates.name_authority(handle, binding_certificates.load_certificate(der))

    def _choose(self, choose: Callable[[binding.Handle, bytes], None], names: str, complaint: str) -> None:
        try:
            choose(self._handle, names.encode())
        except binding.OpenSSLError as error:
            raise configuration_error(error, f"{complaint} from {names!r}") from None

    def _present(self, identity: Identity, *, alone: bool) -> None:
        if self.server_side and isinstance(identity.key, (Ed25519PrivateKey, Ed448PrivateKey)):
            # It says "no shared cipher" otherwise: it knows these keys in a TLS server and in clients, but not here.
            message = "OpenSSL's DTLS server cannot use an Ed25519 or Ed448 key: an RSA or EC key is needed"
            raise SSLError(SSL_ERROR_SSL, message, reason="UNKNOWN_CERTIFICATE_TYPE", library="SSL")
        chain = [binding_certificates.load_certificate(der) for der in identity.chain]
        if identity.complete:
            binding_certificates.send_chain_as_it_is(self._handle)
        key = binding_certificates.load_private_key(
            identity.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        )
        try:
            if alone:
                binding_certificates.use_certificate(self._handle, chain[0], key, chain[1:])
            else:
                with _file_of(identity.chain) as path:
                    binding_certificates.use_certificate_beside_others(self._handle, os.fsencode(path), key)
        except binding.OpenSSLError as error:
            raise configuration_error(error, "OpenSSL refuses the certificate") from None

    def _staple(self, context: Context) -> None:
        """OCSP responses: shown by servers, judged by clients."""
        self._asks_for_status = context.ocsp_client_callback is not None
        if self.server_side and context.ocsp_response is not None:
            said = weakref.ref(context)  # which holds this engine context

            def find() -> bytes | None:
                settings = said()
                return None if settings is None else settings.ocsp_response

            self._callbacks.append(binding_callbacks.show_status(self._handle, find))
        elif self._asks_for_status:
            self._callbacks.append(
                binding_callbacks.judge_status(
                    self._handle, lambda ssl, response: self._associations[ssl].judge_status(response)
                )
            )

    def _negotiate_application(self, protocols: list[bytes]) -> None:
        if self.server_side:
            self._callbacks.append(
                binding.select_alpn(
                    self._handle,
                    lambda offered: next((name for name in protocols if name in offered), None),
                )
            )
        else:
            wire = b"".join(bytes([len(name)]) + name for name in protocols)
            binding.offer_alpn(self._handle, wire)

    def make_ready(self) -> None:
        """Make what the next association needs, as far as that is the same for each: now there is time."""
        if not self._ready and not self._resumes:
            self._ready.append(self._bare_handles())

    def _take_ready(self) -> Handles | None:
        try:
            return self._ready.pop() if self._ready else None
        except IndexError:  # another thread was faster
            return None

    def new_handles(
        self, association: Association, server_hostname: str | None, session: bytes | None = None
    ) -> Handles:
        """An SSL for one association, which checks the peer's name as the context asks, and its BIOs.

        :param server_hostname: on servers: what the client asks for.
        """
        if self._resumes:
            # RFC 6066, 3: a session is not resumed under another name.
            group = hashlib.sha256(repr(server_hostname).encode()).digest()
            with self._lock:
                binding_sessions.name_session_group(self._handle, group)
                handles = self._bare_handles(last=binding_sessions.keep_session)
        else:
            handles = self._take_ready() or self._bare_handles()
        ssl = handles[0]
        association.trust = self._trust
        if self._callbacks:
            self._associations[binding_callbacks.address_of(ssl)] = association
        if server_hostname is not None and not self.server_side:
            _name_the_server(ssl, server_hostname, check=association.context.check_hostname)
        if self._asks_for_status:
            binding_sessions.ask_for_status(ssl)
        if session is not None:
            try:
                binding_sessions.offer_session(ssl, session)
            except binding.OpenSSLError as error:
                raise configuration_error(error, "OpenSSL refuses the session") from None
        return handles

    def session_scope(self, server_hostname: str | None) -> bytes:
        """Stands for what was verified when these settings counted: the trust, and the server's name."""
        return hashlib.sha256(self._trust_digest + repr(server_hostname).encode()).digest()

    def build_chain(
        self, identity: Identity, *, by_presented: bool, only_presented: bool
    ) -> tuple[list[bytes], bool]:
        """The path from ``identity``'s certificate to an anchor, and whether it is valid.

        By way of what is presented now, if asked for; or made of nothing else, each of which is an anchor then.
        """
        store = (
            binding_certificates.store_of(identity.chain)
            if only_presented
            else binding_certificates.store_of_context(self._handle)
        )
        return binding_certificates.build_chain(
            identity.chain[0], identity.chain[1:] if by_presented else [], store
        )

    @property
    def offers_certificates(self) -> bool:
        """Whether a suite could be agreed on with which the server shows a certificate."""
        return any("PSK" not in name or name.startswith("RSA-PSK") for name in self.cipher_names())

    def cipher_names(self) -> list[str]:
        """The suites that a connection would be ready to use."""
        return binding.cipher_names(self._scratch())

    def ciphers(self) -> list[dict[str, Any]]:
        """The same, described as the standard library does."""
        ssl = self._scratch()
        suites = binding_suites.suites(ssl)
        return [described(suites[name]) for name in binding.cipher_names(ssl)]

    def _scratch(self) -> binding.Handle:
        return self._bare_handles()[0]

    def _bare_handles(self, last: Callable[[binding.Handle], None] | None = None) -> Handles:
        incoming, outgoing = binding.new_memory_bio(), binding.new_memory_bio()
        ssl = binding.new_ssl(
            self._handle, incoming, outgoing, server_side=self.server_side, mtu=HANDSHAKE_MTU, last=last
        )
        return ssl, incoming, outgoing


@contextlib.contextmanager
def _file_of(chain: list[bytes]) -> Iterator[str]:
    """The path of a file with these certificates (DER) in PEM, while it is needed."""
    descriptor, path = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            for der in chain:
                body = base64.encodebytes(der)
                file.write(b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n")
        yield path
    finally:
        Path(path).unlink()


def _name_the_server(ssl: binding.Handle, server_hostname: str, *, check: bool) -> None:
    try:
        packed = ipaddress.ip_address(server_hostname.partition("%")[0]).packed
    except ValueError:
        try:
            name = server_hostname.encode("ascii")
        except UnicodeEncodeError:
            name = server_hostname.encode("idna")
        # RFC 6066, 3: no trailing dot on the wire, and no address.
        name = name.removesuffix(b".")
        if len(name) > _MAX_HOST_NAME:
            message = f"server_hostname has {len(name)} bytes: a host name has at most {_MAX_HOST_NAME}"
            raise ValueError(message) from None
        try:
            binding.set_server_name(ssl, name)
            if check:
                binding.expect_host(ssl, name)
        except binding.OpenSSLError:
            message = f"server_hostname {server_hostname!r} is no host name"
            raise SSLError(SSL_ERROR_SSL, message) from None
    else:
        if check:
            binding.expect_ip(ssl, packed)
