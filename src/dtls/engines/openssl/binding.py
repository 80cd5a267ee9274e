"""OpenSSL as the ``cryptography`` package binds it: the only file that names one of its symbols, but for its sisters.

Certificates stand in ``binding_certificates.py``, callbacks in ``binding_callbacks.py``, sessions and what is exported
in ``binding_sessions.py``, what is known of cipher suites in ``binding_suites.py``.

These bindings are what pyOpenSSL stands on, and no public interface. So everything needed is looked up once, at
import, and what is missing is an :exc:`ImportError` that names it. Handles are opaque; whoever makes one with
``new_*`` or ``load_*`` owns it, and it is freed with the Python object.

OpenSSL's error queue belongs to the thread: every function that may fail clears it first and reads it right after.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.bindings.openssl.binding import Binding

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

KNOWN_TO_WORK = "42 to 50"
"""The versions of ``cryptography`` that this package was tested with."""

logger = logging.getLogger("dtls")

_binding = Binding()
lib: Any = _binding.lib
ffi: Any = _binding.ffi
Handle: TypeAlias = Any

_NAMES = """
BIO_ADDR_free BIO_ADDR_new BIO_free BIO_new BIO_new_mem_buf BIO_read BIO_s_mem BIO_set_mem_eof_return
BIO_write DTLS_client_method DTLS_get_data_mtu DTLS_server_method DTLSv1_handle_timeout DTLSv1_listen
EC_KEY_free EC_KEY_new_by_curve_name EC_get_builtin_curves ERR_clear_error ERR_get_error
ERR_lib_error_string ERR_reason_error_string EVP_PKEY_free OBJ_nid2sn OBJ_txt2nid OpenSSL_version
OpenSSL_version_num SSL_CIPHER_get_bits SSL_CIPHER_get_name SSL_CIPHER_get_version SSL_CTX_add_client_CA
SSL_CTX_add_extra_chain_cert SSL_CTX_check_private_key SSL_CTX_free SSL_CTX_get0_param
SSL_CTX_get_cert_store SSL_CTX_new SSL_CTX_set1_sigalgs_list SSL_CTX_set_alpn_protos
SSL_CTX_set_alpn_select_cb SSL_CTX_set_cipher_list SSL_CTX_set_cookie_verify_cb SSL_CTX_set_info_callback
SSL_CTX_set_max_proto_version SSL_CTX_set_min_proto_version SSL_CTX_set_mode SSL_CTX_set_options
SSL_CTX_set_session_cache_mode SSL_CTX_set_session_id_context SSL_CTX_set_tmp_ecdh SSL_CTX_set_verify
SSL_CTX_set_verify_depth SSL_CTX_use_PrivateKey SSL_CTX_use_certificate
SSL_CTX_use_certificate_chain_file SSL_ERROR_NONE SSL_ERROR_SSL SSL_ERROR_SYSCALL SSL_ERROR_WANT_READ
SSL_ERROR_WANT_WRITE SSL_ERROR_ZERO_RETURN SSL_MODE_RELEASE_BUFFERS SSL_OP_CIPHER_SERVER_PREFERENCE
SSL_OP_NO_COMPRESSION SSL_OP_NO_QUERY_MTU SSL_OP_NO_RENEGOTIATION SSL_OP_NO_TICKET SSL_RECEIVED_SHUTDOWN
SSL_SESS_CACHE_OFF
SSL_VERIFY_FAIL_IF_NO_PEER_CERT SSL_VERIFY_NONE SSL_VERIFY_PEER SSL_do_handshake SSL_free
SSL_get0_alpn_selected SSL_get0_param SSL_get0_verified_chain SSL_get_cipher_list SSL_get_current_cipher
SSL_get_error SSL_get_peer_cert_chain SSL_get_peer_certificate SSL_get_servername SSL_get_shutdown
SSL_get_verify_result
SSL_get_version SSL_new SSL_read SSL_set_accept_state SSL_set_bio SSL_set_connect_state SSL_set_mtu
SSL_set_tlsext_host_name SSL_shutdown SSL_state_string_long SSL_version SSL_write
TLSEXT_NAMETYPE_host_name X509_STORE_CTX_free X509_STORE_CTX_get1_chain X509_STORE_CTX_init
X509_STORE_CTX_new X509_STORE_add_cert X509_STORE_free X509_STORE_load_locations X509_STORE_new
X509_VERIFY_PARAM_set1_host X509_VERIFY_PARAM_set1_ip X509_VERIFY_PARAM_set_flags
X509_VERIFY_PARAM_set_hostflags X509_free X509_verify_cert X509_verify_cert_error_string
d2i_PrivateKey_bio d2i_X509_bio i2d_X509_bio sk_X509_free sk_X509_new_null sk_X509_num sk_X509_push
sk_X509_value
"""


def need(names: str) -> None:
    """Raise :exc:`ImportError` unless all of these are bound."""
    missing = [name for name in names.split() if not hasattr(lib, name)]
    if missing:
        message = (
            f"the installed cryptography package lacks OpenSSL's {', '.join(missing)}; "
            f"dtls is known to work with cryptography {KNOWN_TO_WORK}"
        )
        raise ImportError(message)


need(_NAMES)

# Called once or twice per datagram, so without a wrapper of ours around them.
ssl_read: Callable[[Handle, Any, int], int] = lib.SSL_read
ssl_write: Callable[[Handle, Any, int], int] = lib.SSL_write
ssl_do_handshake: Callable[[Handle], int] = lib.SSL_do_handshake
ssl_get_error: Callable[[Handle, int], int] = lib.SSL_get_error
bio_read: Callable[[Handle, Any, int], int] = lib.BIO_read
bio_write: Callable[[Handle, Any, int], int] = lib.BIO_write
clear_errors: Callable[[], None] = lib.ERR_clear_error
from_buffer: Callable[..., Any] = ffi.from_buffer
unpack: Callable[[Any, int], bytes] = ffi.unpack

SSL_ERROR_NONE: int = lib.SSL_ERROR_NONE
SSL_ERROR_SSL: int = lib.SSL_ERROR_SSL
SSL_ERROR_WANT_READ: int = lib.SSL_ERROR_WANT_READ
SSL_ERROR_WANT_WRITE: int = lib.SSL_ERROR_WANT_WRITE
SSL_ERROR_SYSCALL: int = lib.SSL_ERROR_SYSCALL
SSL_ERROR_ZERO_RETURN: int = lib.SSL_ERROR_ZERO_RETURN

_X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS = 0x4
_X509_CHECK_FLAG_NEVER_CHECK_SUBJECT = 0x20
BUFFER_LENGTH = 2**16
# Not bound, and the same in every version. With encrypt-then-MAC (RFC 7366), OpenSSL's DTLS ends an association at one
# forged record under a CBC suite instead of dropping it; without, it drops it.
_SSL_OP_NO_ENCRYPT_THEN_MAC = 1 << 19


def new_buffer() -> Any:
    """A buffer that something from OpenSSL can be read into; longer than any datagram."""
    return ffi.from_buffer(bytearray(BUFFER_LENGTH))


_free_buffers: list[Any] = []
"""The buffers that everything read from OpenSSL passes through, as far as they are nobody's just now.

One is taken from here, or made, for the time from the read to the copy: in between, another thread, a signal's handler
or a finalizer may use another association, and must not find the same one.
"""

free_buffer: Callable[[], Any] = _free_buffers.pop
"""One of them. Raises :exc:`IndexError` if there is none."""
give_back: Callable[[Any], None] = _free_buffers.append


def take_buffer() -> Any:
    """One of them, or a new one."""
    try:
        return free_buffer()
    except IndexError:
        return new_buffer()


class QueuedError(NamedTuple):
    """An entry of OpenSSL's error queue: its packed code, and names in capitals as the ``ssl`` module gives them."""

    code: int
    library: str
    reason: str
    text: str


def c_text(pointer: Any) -> str:
    """A C string as text; empty for NULL."""
    return "" if pointer == ffi.NULL else str(ffi.string(pointer).decode("utf-8", "replace"))


def take_errors() -> list[QueuedError]:
    """What stands in this thread's error queue, oldest first; the queue is empty afterwards."""
    errors = []
    while code := lib.ERR_get_error():
        text = c_text(lib.ERR_reason_error_string(code))
        library = c_text(lib.ERR_lib_error_string(code))
        library = library.removesuffix(" routines").upper().replace(" ", "_")
        reason = text.upper().replace(" ", "_") if text else f"CODE_{code:X}"
        errors.append(QueuedError(int(code), library, reason, text))
    return errors


class OpenSSLError(Exception):
    """A call into OpenSSL failed; ``errors`` is what its queue held. Never leaves the engine."""

    def __init__(self, errors: list[QueuedError]) -> None:
        super().__init__("; ".join(f"{entry.text} ({entry.library})" for entry in errors))
        self.errors = errors

    @property
    def first(self) -> QueuedError | None:
        """The most telling entry: the oldest, which is where the trouble began."""
        return self.errors[0] if self.errors else None


def require(result: Any) -> Any:
    """``result``, unless it is 0, -1 or NULL."""
    if result <= 0 if isinstance(result, int) else result == ffi.NULL:
        raise OpenSSLError(take_errors())
    return result


class _Owner(weakref.ref[Any]):
    """What frees that to which a handle points, when nobody has the handle any more."""

    __slots__ = ("free", "pointer")
    free: Callable[[Handle], None]
    pointer: Handle


_owners: set[_Owner] = set()


def _own(handle: Handle, pointer: Handle, free: Callable[[Handle], None]) -> None:
    """Have ``free`` called with ``pointer``, another handle of the same, when ``handle`` has gone.

    Not by ``ffi.gc()``, whose destructors are finalizers. Of garbage in cycles all finalizers are run first, in any
    order, and that of a socket uses its association once more, to say close_notify. The handles themselves are no
    garbage to the collector; they go when the last object that has them is taken apart, after all finalizers.
    """
    owner = _Owner(handle, _let_go)
    owner.pointer, owner.free = pointer, free
    _owners.add(owner)


def _let_go(owner: _Owner) -> None:
    _owners.discard(owner)
    owner.free(owner.pointer)


def version() -> tuple[int, str]:
    """OpenSSL's version as a number (``OPENSSL_VERSION_NUMBER``) and as text."""
    return int(lib.OpenSSL_version_num()), c_text(lib.OpenSSL_version(0))


# --- contexts ----------------------------------------------------------------------------------------------------


def new_context(*, server_side: bool, tickets: bool = False, own_order: bool = True) -> Handle:
    """An SSL_CTX for one role, with what this package never allows switched off.

    ``own_order`` has a server choose by its own order of suites.
    """
    clear_errors()
    method = lib.DTLS_server_method() if server_side else lib.DTLS_client_method()
    context = require(lib.SSL_CTX_new(method))
    _own(context, ffi.cast("SSL_CTX *", context), lib.SSL_CTX_free)
    lib.SSL_CTX_set_options(
        context,
        lib.SSL_OP_NO_COMPRESSION
        | lib.SSL_OP_NO_RENEGOTIATION
        | (0 if tickets else lib.SSL_OP_NO_TICKET)
        | lib.SSL_OP_NO_QUERY_MTU
        | (lib.SSL_OP_CIPHER_SERVER_PREFERENCE if own_order else 0)
        | _SSL_OP_NO_ENCRYPT_THEN_MAC,
    )
    lib.SSL_CTX_set_mode(context, lib.SSL_MODE_RELEASE_BUFFERS)
    lib.SSL_CTX_set_session_cache_mode(context, lib.SSL_SESS_CACHE_OFF)
    lib.SSL_CTX_set_session_id_context(context, b"dtls", 4)
    return context


def set_protocol_versions(context: Handle, minimum: int, maximum: int) -> None:
    """Bounds of what is offered, as numbers of the wire (0xFEFF, 0xFEFD). Raises :class:`OpenSSLError`."""
    clear_errors()
    require(lib.SSL_CTX_set_min_proto_version(context, minimum))
    require(lib.SSL_CTX_set_max_proto_version(context, maximum))


def set_cipher_list(context: Handle, ciphers: bytes) -> None:
    """The cipher suites in OpenSSL's notation. Raises :class:`OpenSSLError` if none is left."""
    clear_errors()
    require(lib.SSL_CTX_set_cipher_list(context, ciphers))


def set_groups(context: Handle, groups: bytes) -> None:
    """The groups for key exchange, separated by colons. Raises :class:`OpenSSLError` if one is not known.

    Raises :exc:`NotImplementedError` for several where ``cryptography`` binds only the function for one.
    """
    clear_errors()
    if hasattr(lib, "SSL_CTX_set1_curves_list"):
        require(lib.SSL_CTX_set1_curves_list(context, groups))
        return
    if b":" in groups:
        message = "a choice of several groups needs a newer version of cryptography (50 is known to work)"
        raise NotImplementedError(message)
    number = curve_number(groups.decode())
    key = ffi.gc(require(lib.EC_KEY_new_by_curve_name(number)), lib.EC_KEY_free)
    require(lib.SSL_CTX_set_tmp_ecdh(context, key))


def set_signature_algorithms(context: Handle, algorithms: bytes) -> None:
    """The signature algorithms, separated by colons. Raises :class:`OpenSSLError` if one is not known."""
    clear_errors()
    require(lib.SSL_CTX_set1_sigalgs_list(context, algorithms))


def observe(context: Handle, observer: Callable[[str, int, int], object]) -> object:
    """Tell what OpenSSL does: its state in words, and the two numbers of its info callback. Keep what is returned."""

    @ffi.callback("void(SSL *, int, int)")  # type: ignore[untyped-decorator]
    def callback(ssl: Any, where: int, result: int) -> None:
        try:
            observer(c_text(lib.SSL_state_string_long(ssl)), where, result)
        except Exception as error:  # noqa: BLE001 - it must not cross C; its words may hold secrets
            logger.error("the info callback raised %s", type(error).__name__)  # noqa: TRY400

    lib.SSL_CTX_set_info_callback(context, callback)
    return callback


def curve_number(name: str) -> int:
    """The NID of an elliptic curve by one of its names, those of NIST included; 0 if it is not known."""
    return int(lib.OBJ_txt2nid(NIST_CURVES.get(name, name).encode()))


def curve_name(number: int) -> str:
    """OpenSSL's short name of an object, by its NID; empty if it is not known."""
    name = lib.OBJ_nid2sn(number)
    clear_errors()
    return c_text(name)


def curves() -> list[int]:
    """The NIDs of the elliptic curves that are built in."""
    count = lib.EC_get_builtin_curves(ffi.NULL, 0)
    found = ffi.new("EC_builtin_curve[]", count)
    lib.EC_get_builtin_curves(found, count)
    return [int(curve.nid) for curve in found]


NIST_CURVES = {
    "P-192": "prime192v1",
    "P-224": "secp224r1",
    "P-256": "prime256v1",
    "P-384": "secp384r1",
    "P-521": "secp521r1",
    **{f"K-{bits}": f"sect{bits}k1" for bits in (163, 233, 283, 409, 571)},
    "B-163": "sect163r2",
    **{f"B-{bits}": f"sect{bits}r1" for bits in (233, 283, 409, 571)},
}
"""NIST's names of elliptic curves (FIPS 186-4, D) and OpenSSL's."""


def set_verification(
    context: Handle, *, verify: bool, require: bool, flags: int, depth: int | None, judge: object | None
) -> None:
    """Whether to ask for and verify the peer's certificate; ``flags`` are X509_V_FLAG_*.

    ``judge`` is a callback of ``binding_callbacks.judge_certificates``.
    """
    mode = lib.SSL_VERIFY_NONE
    if verify:
        mode = lib.SSL_VERIFY_PEER | (lib.SSL_VERIFY_FAIL_IF_NO_PEER_CERT if require else 0)
    lib.SSL_CTX_set_verify(context, mode, ffi.NULL if judge is None else judge)
    if depth is not None:
        lib.SSL_CTX_set_verify_depth(context, depth)
    if flags:
        lib.X509_VERIFY_PARAM_set_flags(lib.SSL_CTX_get0_param(context), flags)


def offer_alpn(context: Handle, wire: bytes) -> None:
    """The application protocols a client offers, length-prefixed (RFC 7301)."""
    if lib.SSL_CTX_set_alpn_protos(context, wire, len(wire)):  # 0 is success here
        raise OpenSSLError(take_errors())


def select_alpn(context: Handle, choose: Callable[[list[bytes]], bytes | None]) -> object:
    """How a server chooses among the protocols offered; ``None`` goes on without one. Keep what is returned."""

    @ffi.callback("int(SSL *, unsigned char **, unsigned char *, unsigned char *, unsigned int, void *)")  # type: ignore[untyped-decorator]
    def callback(_ssl: Any, out: Any, out_length: Any, offered: Any, length: int, _arg: Any) -> int:
        wire = bytes(ffi.buffer(offered, length))
        names, position = [], 0
        while position < len(wire):
            size = wire[position]
            names.append(wire[position + 1 : position + 1 + size])
            position += 1 + size
        chosen = choose(names)
        if chosen is None:
            return _SSL_TLSEXT_ERR_NOACK
        # OpenSSL copies the name from where it stands in the client's own list.
        position = 0
        while wire[position + 1 : position + 1 + wire[position]] != chosen:
            position += 1 + wire[position]
        out[0] = offered + position + 1
        out_length[0] = len(chosen)
        return 0

    lib.SSL_CTX_set_alpn_select_cb(context, callback, ffi.NULL)
    return callback


_SSL_TLSEXT_ERR_NOACK = 3


@ffi.callback("int(SSL *, unsigned char *, unsigned int)")  # type: ignore[untyped-decorator]
def _agree(_ssl: Any, _cookie: Any, _length: int) -> int:
    """The cookie was verified before the ClientHello came here."""
    return 1


def accept_any_cookie(context: Handle) -> None:
    """Let ``DTLSv1_listen`` take the cookies that were verified by our own code."""
    lib.SSL_CTX_set_cookie_verify_cb(context, _agree)


# --- one association ---------------------------------------------------------------------------------------------


_memory = lib.BIO_s_mem()


def new_memory_bio() -> Handle:
    """An endless queue of bytes that says "try again" when it is empty. It will belong to an SSL."""
    return require(lib.BIO_new(_memory))


def new_ssl(
    context: Handle,
    incoming: Handle,
    outgoing: Handle,
    *,
    server_side: bool,
    mtu: int,
    last: Callable[[Handle], None] | None = None,
) -> Handle:
    """An SSL between two memory BIOs, which it takes over; ``last`` is done with it before it is freed."""
    clear_errors()
    free = lib.SSL_free
    if last is not None:

        def free(ssl: Handle) -> None:
            last(ssl)
            lib.SSL_free(ssl)

    ssl = require(lib.SSL_new(context))
    _own(ssl, ffi.cast("SSL *", ssl), free)
    lib.SSL_set_bio(ssl, incoming, outgoing)
    if server_side:
        lib.SSL_set_accept_state(ssl)
    else:
        lib.SSL_set_connect_state(ssl)
    lib.SSL_set_mtu(ssl, mtu)
    return ssl


def set_mtu(ssl: Handle, mtu: int) -> None:
    """The largest datagram in bytes."""
    lib.SSL_set_mtu(ssl, mtu)


def data_mtu(ssl: Handle) -> int:
    """The longest message in bytes that fits one datagram with the cipher in use."""
    return int(lib.DTLS_get_data_mtu(ssl))


def set_server_name(ssl: Handle, name: bytes) -> None:
    """The host name to send in server_name (RFC 6066, 3)."""
    clear_errors()
    require(lib.SSL_set_tlsext_host_name(ssl, name))


def expect_host(ssl: Handle, name: bytes) -> None:
    """The peer's certificate must be for this host name (RFC 6125: no partial wildcards, no common names)."""
    clear_errors()
    parameters = lib.SSL_get0_param(ssl)
    lib.X509_VERIFY_PARAM_set_hostflags(
        parameters, _X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | _X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
    )
    require(lib.X509_VERIFY_PARAM_set1_host(parameters, name, len(name)))


def expect_ip(ssl: Handle, packed: bytes) -> None:
    """The peer's certificate must be for this address, 4 or 16 bytes."""
    clear_errors()
    require(lib.X509_VERIFY_PARAM_set1_ip(lib.SSL_get0_param(ssl), packed, len(packed)))


def server_name(ssl: Handle) -> bytes | None:
    """The host name that the client asks for, when its ClientHello has come."""
    name = lib.SSL_get_servername(ssl, lib.TLSEXT_NAMETYPE_host_name)
    return None if name == ffi.NULL else bytes(ffi.string(name))


_nobody = ffi.gc(require(lib.BIO_ADDR_new()), lib.BIO_ADDR_free)
"""Where ``DTLSv1_listen`` says that it knows no address, whoever calls it."""


def listen(ssl: Handle) -> bool:
    """Take the ClientHello with a cookie that waits in the incoming BIO; the handshake goes on at message_seq 1."""
    clear_errors()
    return bool(lib.DTLSv1_listen(ssl, _nobody) == 1)


def handle_timeout(ssl: Handle) -> None:
    """Let OpenSSL repeat its flight if its own timer, which reads the real clock, has run out."""
    clear_errors()
    lib.DTLSv1_handle_timeout(ssl)
    clear_errors()


def do_handshake(ssl: Handle) -> int:
    """Go on with the handshake; the ``SSL_ERROR_*`` that results."""
    clear_errors()
    result = ssl_do_handshake(ssl)
    return SSL_ERROR_NONE if result == 1 else ssl_get_error(ssl, result)


def get_error(ssl: Handle, result: int) -> int:
    """The ``SSL_ERROR_*`` that explains the ``result`` of the call just made."""
    return int(lib.SSL_get_error(ssl, result))


def is_ended(ssl: Handle) -> bool:
    """Whether the peer has ended the association, by close_notify or by a fatal alert."""
    return bool(lib.SSL_get_shutdown(ssl) & lib.SSL_RECEIVED_SHUTDOWN)


def shutdown(ssl: Handle) -> None:
    """Write a close_notify."""
    clear_errors()
    lib.SSL_shutdown(ssl)


def read_all(bio: Handle) -> bytes:
    """Everything that waits in a memory BIO."""
    pointer = take_buffer()
    count = bio_read(bio, pointer, BUFFER_LENGTH)
    output = unpack(pointer, count) if count > 0 else b""
    give_back(pointer)
    return output if count < BUFFER_LENGTH else output + read_all(bio)


def awaits_finished(ssl: Handle) -> bool:
    """Whether the peer's ChangeCipherSpec was the last thing that OpenSSL took, so that its Finished comes next."""
    return b"read change cipher spec" in ffi.string(lib.SSL_state_string_long(ssl))


def negotiated_version(ssl: Handle) -> int:
    """The version as a number of the wire."""
    return int(lib.SSL_version(ssl))


def version_name(ssl: Handle) -> str:
    """``"DTLSv1"`` or ``"DTLSv1.2"``."""
    return c_text(lib.SSL_get_version(ssl))


_cipher_names: dict[Handle, str] = {}
"""By what describes the suite, which stands in OpenSSL itself, and is the same for all associations."""


def cipher_name(ssl: Handle) -> str:
    """The suite's name; empty before one is chosen."""
    cipher = lib.SSL_get_current_cipher(ssl)
    name = _cipher_names.get(cipher)
    if name is None:
        name = _cipher_names[cipher] = c_text(lib.SSL_CIPHER_get_name(cipher)) if cipher else ""
    return name


def current_cipher(ssl: Handle) -> tuple[str, str, int] | None:
    """The suite's name, the protocol version that defined it, its secret bits; ``None`` before one is chosen."""
    cipher = lib.SSL_get_current_cipher(ssl)
    if cipher == ffi.NULL:
        return None
    bits = int(lib.SSL_CIPHER_get_bits(cipher, ffi.NULL))
    return c_text(lib.SSL_CIPHER_get_name(cipher)), c_text(lib.SSL_CIPHER_get_version(cipher)), bits


def cipher_names(ssl: Handle) -> list[str]:
    """The suites that this SSL is ready to use, by preference; not those of TLS 1.3, which OpenSSL lists as well."""
    names: list[str] = []
    while (name := lib.SSL_get_cipher_list(ssl, len(names))) != ffi.NULL:
        names.append(c_text(name))
    return [name for name in names if not name.startswith("TLS_")]


def group_name(ssl: Handle) -> str | None:
    """The key-exchange group. Raises :exc:`NotImplementedError` where ``cryptography`` does not bind it."""
    if not hasattr(lib, "SSL_get0_group_name"):
        message = "the key-exchange group is known with cryptography 46 and later only"
        raise NotImplementedError(message)
    return c_text(lib.SSL_get0_group_name(ssl)) or None


def selected_alpn(ssl: Handle) -> bytes | None:
    """The application protocol agreed on."""
    name, length = ffi.new("unsigned char **"), ffi.new("unsigned int *")
    lib.SSL_get0_alpn_selected(ssl, name, length)
    return bytes(ffi.buffer(name[0], length[0])) if name[0] != ffi.NULL else None


def verify_result(ssl: Handle) -> tuple[int, str]:
    """The outcome of path validation: X509_V_ERR_* (0 is success) and its words."""
    code = int(lib.SSL_get_verify_result(ssl))
    return code, c_text(lib.X509_verify_cert_error_string(code))
