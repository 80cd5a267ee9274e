"""Records, handshake headers and ClientHellos of DTLS 1.0 and 1.2 as they stand on the wire.

RFC 6347 (DTLS 1.2) 4.1 and 4.2.2, RFC 5246 (TLS 1.2) 7.4.1.2. Whatever parses bytes of the network ends in
``_untrusted``, works on a bounded input, copies nothing it need not copy, and raises :class:`WireError` only.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

RECORD_HEADER_LENGTH = 13
HANDSHAKE_HEADER_LENGTH = 12
MESSAGE_RECORD_OVERHEAD = RECORD_HEADER_LENGTH + HANDSHAKE_HEADER_LENGTH
MAX_PLAINTEXT_LENGTH = 2**14
"""The longest content of one record in bytes (RFC 5246, 6.2.1)."""
MAX_CIPHERTEXT_LENGTH = MAX_PLAINTEXT_LENGTH + 2048
"""The longest protected content of one record in bytes (RFC 5246, 6.2.3)."""
MAX_BODY_LENGTH = MAX_PLAINTEXT_LENGTH - HANDSHAKE_HEADER_LENGTH
"""The most bytes of a handshake message's body that one record holds."""
MAX_RECORD_SEQUENCE = 2**48 - 1
MAX_COOKIE_LENGTH = 255
RANDOM_LENGTH = 32

DTLS_1_0 = 0xFEFF
DTLS_1_2 = 0xFEFD
KNOWN_VERSIONS = (DTLS_1_2, DTLS_1_0)
_KNOWN_MAJOR = 0xFE

_RECORD_HEADER = struct.Struct("!BHHHIH")
_HANDSHAKE_HEADER = struct.Struct("!BBHHBHBH")
_MESSAGE_RECORD = struct.Struct("!BHQHIHHI")
"""A record's header and that of the handshake message in it. Some fields stand together: epoch and record number, the
message's type and length, and in two numbers fragment_offset and fragment_length."""
_LAST_RECORDS = struct.Struct("!BHQHBBHQH")
"""The record of a ChangeCipherSpec and the header of the one after it; epochs and record numbers stand together."""
_EPOCH_1 = 1
_RECORD_SEQUENCE_BITS = 48
_MESSAGE_LENGTH_BITS = 24
_MESSAGE_LENGTH_MASK = 2**_MESSAGE_LENGTH_BITS - 1
_CLIENT_HELLO_HEAD = struct.Struct(f"!H{RANDOM_LENGTH}sB")
"""Version, random and the length of the session id."""
_SESSION_ID_AT = _CLIENT_HELLO_HEAD.size
_MAX_SESSION_ID_LENGTH = 32


class WireError(ValueError):
    """Bytes of the network that are not what the protocol allows. ``reason`` is a short name to count them by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ContentType(enum.IntEnum):
    """What a record carries (RFC 5246, 6.2.1)."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


_HANDSHAKE = int(ContentType.HANDSHAKE)
_CHANGE_CIPHER_SPEC = int(ContentType.CHANGE_CIPHER_SPEC)


class HandshakeType(enum.IntEnum):
    """The messages of a handshake (RFC 6347, 4.3.2; RFC 5077; RFC 6066)."""

    HELLO_REQUEST = 0
    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    HELLO_VERIFY_REQUEST = 3
    NEW_SESSION_TICKET = 4
    CERTIFICATE = 11
    SERVER_KEY_EXCHANGE = 12
    CERTIFICATE_REQUEST = 13
    SERVER_HELLO_DONE = 14
    CERTIFICATE_VERIFY = 15
    CLIENT_KEY_EXCHANGE = 16
    FINISHED = 20
    CERTIFICATE_STATUS = 22


class AlertLevel(enum.IntEnum):
    """How grave an alert is (RFC 5246, 7.2)."""

    WARNING = 1
    FATAL = 2


class AlertDescription(enum.IntEnum):
    """What an alert says (RFC 5246, 7.2; RFC 6066; RFC 4279; RFC 7301)."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    RECORD_OVERFLOW = 22
    HANDSHAKE_FAILURE = 40
    NO_CERTIFICATE = 41
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    USER_CANCELED = 90
    NO_RENEGOTIATION = 100
    UNSUPPORTED_EXTENSION = 110
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


class Record(NamedTuple):
    """One record (RFC 6347, 4.1). ``fragment`` is its content, protected if ``epoch`` is not 0."""

    content_type: int
    version: int
    epoch: int
    sequence: int
    fragment: bytes


class HandshakeFragment(NamedTuple):
    """A handshake message or a piece of one (RFC 6347, 4.2.2). ``length`` is the whole message's, in bytes."""

    message_type: int
    length: int
    message_sequence: int
    offset: int
    body: bytes


class ClientHello(NamedTuple):
    """What a server looks at before it keeps any state (RFC 6347, 4.2.1)."""

    version: int
    random: bytes
    session_id: bytes
    cookie: bytes
    cipher_suites: bytes
    compression_methods: bytes
    extensions: bytes


def build_record(content_type: int, version: int, epoch: int, sequence: int, fragment: bytes) -> bytes:
    """The bytes of a record. ``epoch`` is 0 to 2**16-1, ``sequence`` 0 to 2**48-1; :exc:`struct.error` otherwise."""
    return (
        _RECORD_HEADER.pack(
            content_type, version, epoch, sequence >> 32, sequence & 0xFFFFFFFF, len(fragment)
        )
        + fragment
    )


def split_records_untrusted(datagram: bytes) -> list[Record]:
    """The records of a datagram, in order.

    Raises :class:`WireError` (``too_short``, ``truncated``, ``oversized``, ``unknown_version``, ``empty``) if any of
    it is not a record; a sender that means well never sends such a datagram.
    """
    records, trouble = split_leading_records_untrusted(datagram)
    if trouble is not None:
        raise WireError(trouble)
    return records


def split_leading_records_untrusted(datagram: bytes) -> tuple[list[Record], str | None]:
    """The records at the head of a datagram, and what is wrong with the rest (``None`` if nothing is).

    A bad record must not take the good ones before it along. Does not raise.
    """
    records: list[Record] = []
    after, end = 0, len(datagram)
    if not end:
        return records, "empty"
    while after < end:
        body = after + RECORD_HEADER_LENGTH
        if body > end:
            return records, "too_short"
        content_type, version, epoch, high, low, length = _RECORD_HEADER.unpack_from(datagram, after)
        after = body + length
        if version >> 8 != _KNOWN_MAJOR:
            return records, "unknown_version"
        if length > MAX_CIPHERTEXT_LENGTH:
            return records, "oversized"
        if after > end:
            return records, "truncated"
        # What Record(...) does, without a call of Python's.
        fields = (content_type, version, epoch, high << 32 | low, datagram[body:after])
        records.append(tuple.__new__(Record, fields))
    return records, None


def build_handshake(
    message_type: int, message_sequence: int, body: bytes, *, offset: int = 0, length: int | None = None
) -> bytes:
    """The bytes of a handshake message, or of the fragment ``body`` at ``offset`` of a message of ``length`` bytes."""
    total = len(body) if length is None else length
    return (
        _HANDSHAKE_HEADER.pack(
            message_type,
            total >> 16,
            total & 0xFFFF,
            message_sequence,
            offset >> 16,
            offset & 0xFFFF,
            len(body) >> 16,
            len(body) & 0xFFFF,
        )
        + body
    )


def split_fragments_untrusted(content: bytes) -> list[HandshakeFragment]:
    """The handshake fragments in the content of one record, in order.

    Raises :class:`WireError`: ``short_handshake_header``, ``truncated_fragment``, ``fragment_past_total`` (the
    offset and length lie beyond the message's length), ``empty_fragment`` (nothing of a message that is not empty).
    """
    fragments: list[HandshakeFragment] = []
    offset, end = 0, len(content)
    while offset < end or not fragments:
        body = offset + HANDSHAKE_HEADER_LENGTH
        if body > end:
            raise WireError("short_handshake_header")
        kind, high, low, sequence, at_high, at_low, size_high, size_low = _HANDSHAKE_HEADER.unpack_from(
            content, offset
        )
        total, at, size = high << 16 | low, at_high << 16 | at_low, size_high << 16 | size_low
        if at + size > total:
            raise WireError("fragment_past_total")
        if not size and total:
            raise WireError("empty_fragment")
        offset = body + size
        if offset > end:
            raise WireError("truncated_fragment")
        fragments.append(HandshakeFragment(kind, total, sequence, at, content[body:offset]))
    return fragments


def whole_message_at_untrusted(data: bytes, at: int) -> tuple[int, int, int, int, int] | None:
    """The record at an offset, if it is of epoch 0 and holds one handshake message, whole, and nothing else.

    That is what nearly every record of a handshake is. Given are the record's version and number, the message's type
    and ``message_seq``, and the offset after the record. Does not raise.
    """
    if at + MESSAGE_RECORD_OVERHEAD > len(data) or data[at] != _HANDSHAKE:
        return None
    _, version, number, length, type_and_total, sequence, offset, offset_and_size = (
        _MESSAGE_RECORD.unpack_from(data, at)
    )
    total = length - HANDSHAKE_HEADER_LENGTH
    end = at + RECORD_HEADER_LENGTH + length
    if (
        number > MAX_RECORD_SEQUENCE  # of another epoch
        or offset
        or offset_and_size != total
        or type_and_total & _MESSAGE_LENGTH_MASK != total
        or end > len(data)
        or (version != DTLS_1_2 and version != DTLS_1_0)  # noqa: PLR1714 - this is faster
    ):
        return None
    return version, number, type_and_total >> _MESSAGE_LENGTH_BITS, sequence, end


def build_message_record(
    version: int, record_sequence: int, message_type: int, message_sequence: int, body: bytes
) -> bytes:
    """The bytes of a record of epoch 0 with a whole handshake message, of at most ``MAX_BODY_LENGTH`` bytes of body."""
    length = len(body)
    return (
        _MESSAGE_RECORD.pack(
            _HANDSHAKE,
            version,
            record_sequence,
            HANDSHAKE_HEADER_LENGTH + length,
            message_type << _MESSAGE_LENGTH_BITS | length,
            message_sequence,
            0,
            length,
        )
        + body
    )


def last_records_at_untrusted(data: bytes, at: int) -> tuple[int, int, int] | None:
    """The records from an offset on, if they are a ChangeCipherSpec and one handshake record of epoch 1 and no more.

    That is how nearly every flight with a Finished ends. Given are the version of both, the number of the first and the
    length of the second's content, which is protected. Does not raise.
    """
    content_at = at + _LAST_RECORDS.size
    if content_at > len(data):
        return None
    kind, version, number, length, content, finished_kind, finished_version, finished_number, size = (
        _LAST_RECORDS.unpack_from(data, at)
    )
    if (
        kind != _CHANGE_CIPHER_SPEC
        or number > MAX_RECORD_SEQUENCE
        or length != 1
        or content != 1
        or finished_kind != _HANDSHAKE
        or finished_version != version
        or finished_number >> _RECORD_SEQUENCE_BITS != _EPOCH_1
        or content_at + size != len(data)
    ):
        return None
    return version, number, size


def parse_client_hello_untrusted(body: bytes) -> ClientHello:
    """The fields of a ClientHello's body, bounds as RFC 5246, 7.4.1.2 and RFC 6347, 4.2.1 set them.

    A ClientHello without extensions is well-formed. Raises :class:`WireError` (``bad_client_hello``).
    """
    end = len(body)
    try:
        version, random, session_length = _CLIENT_HELLO_HEAD.unpack_from(body)
        session_end = _SESSION_ID_AT + session_length
        cookie_end = session_end + 1 + body[session_end]
        suites_length = body[cookie_end] << 8 | body[cookie_end + 1]
        suites_end = cookie_end + 2 + suites_length
        methods_end = suites_end + 1 + body[suites_end]
        extensions_at = end
        if methods_end != end:
            extensions_at = methods_end + 2
            if extensions_at + (body[methods_end] << 8 | body[methods_end + 1]) != end:
                raise WireError("bad_client_hello")
    except (IndexError, struct.error):
        raise WireError("bad_client_hello") from None
    if (
        version >> 8 != _KNOWN_MAJOR
        or session_length > _MAX_SESSION_ID_LENGTH
        or not suites_length
        or suites_length % 2
        or methods_end == suites_end + 1
    ):
        raise WireError("bad_client_hello")
    fields = (
        version,
        random,
        body[_SESSION_ID_AT:session_end],
        body[session_end + 1 : cookie_end],
        body[cookie_end + 2 : suites_end],
        body[suites_end + 1 : methods_end],
        body[extensions_at:],
    )
    return tuple.__new__(ClientHello, fields)  # what ClientHello(...) does, without a call of Python's


def server_name_untrusted(hello: ClientHello) -> bytes | None:
    """The host name that a ClientHello asks for (RFC 6066, 3); ``None`` without one.

    Raises :class:`WireError` (``bad_client_hello``) for extensions that are not well-formed, up to this one, and for a
    name with NUL or over 255 bytes.
    """
    extensions = hello.extensions
    at = 0
    while at < len(extensions):
        data, end = _vector_untrusted(extensions, at + 2)
        if extensions[at : at + 2] == _SERVER_NAME:
            names, end_of_names = _vector_untrusted(data, 0)
            if end_of_names != len(data) or not names:
                raise WireError("bad_client_hello")
            return _host_name_untrusted(names)
        at = end
    return None


def max_fragment_length_untrusted(hello: ClientHello) -> int | None:
    """The most bytes of plaintext in a record that a ClientHello asks for (RFC 6066, 4); ``None`` if it does not.

    Raises :class:`WireError` (``bad_client_hello``) for extensions that are not well-formed, up to this one.
    """
    extensions = hello.extensions
    at = 0
    while at < len(extensions):
        data, end = _vector_untrusted(extensions, at + 2)
        if extensions[at : at + 2] == _MAX_FRAGMENT_LENGTH:
            known = len(data) == 1 and 0 < data[0] <= _LAST_FRAGMENT_LENGTH_CODE
            return 2 ** (8 + data[0]) if known else None
        at = end
    return None


def _host_name_untrusted(names: bytes) -> bytes | None:
    at = 0
    while at < len(names):
        name, end = _vector_untrusted(names, at + 1)
        if names[at] == _HOST_NAME:
            if not 0 < len(name) <= _MAX_HOST_NAME or b"\0" in name:
                raise WireError("bad_client_hello")
            return name
        at = end
    return None


def _vector_untrusted(data: bytes, at: int) -> tuple[bytes, int]:
    """What stands at an offset behind its length in two bytes, and the offset after it."""
    begin = at + 2
    end = begin + int.from_bytes(data[at:begin], "big")
    if end > len(data):
        raise WireError("bad_client_hello")
    return data[begin:end], end


_SERVER_NAME = b"\0\0"
_MAX_FRAGMENT_LENGTH = b"\0\1"
_LAST_FRAGMENT_LENGTH_CODE = 4
_HOST_NAME = 0
_MAX_HOST_NAME = 255


def build_hello_verify_request(cookie: bytes, record_sequence: int) -> bytes:
    """The record of a HelloVerifyRequest with ``cookie`` (at most 255 bytes) in answer to a ClientHello.

    It speaks DTLS 1.0 whatever is to be negotiated, and copies the ClientHello's record number, so that its sender
    need not remember one (RFC 6347, 4.2.1). ``message_seq`` is 0.
    """
    if len(cookie) > MAX_COOKIE_LENGTH:
        msg = f"a cookie has at most {MAX_COOKIE_LENGTH} bytes, not {len(cookie)}"
        raise ValueError(msg)
    body = DTLS_1_0.to_bytes(2, "big") + bytes([len(cookie)]) + cookie
    return build_message_record(DTLS_1_0, record_sequence, HandshakeType.HELLO_VERIFY_REQUEST, 0, body)
