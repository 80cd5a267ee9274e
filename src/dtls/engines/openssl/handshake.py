"""The handshake of one association: strangers' datagrams kept from OpenSSL, OpenSSL's flights kept and repeated.

OpenSSL sees whole handshake messages in order, in records numbered by us, a ChangeCipherSpec when it can use it, and
protected records of a plausible length. A single forged datagram could otherwise end a handshake for ever (an alert,
application data or an impossible fragment in epoch 0) or make it hold a hundred kilobytes. What OpenSSL writes is
kept as a flight (``outwards.py``), which is cut, packed and repeated by our own timer.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

from dtls.errors import SSL_ERROR_SSL, HandshakeTimeout, SSLError
from dtls.flights import (
    PlainRecord,
    RetransmissionTimer,
    SentFlight,
)
from dtls.reassembly import Message, Reassembler
from dtls.wire import (
    DTLS_1_0,
    MAX_BODY_LENGTH,
    MAX_PLAINTEXT_LENGTH,
    MAX_RECORD_SEQUENCE,
    MESSAGE_RECORD_OVERHEAD,
    AlertDescription,
    AlertLevel,
    ContentType,
    HandshakeType,
    Record,
    WireError,
    build_handshake,
    build_message_record,
    build_record,
    last_records_at_untrusted,
    max_fragment_length_untrusted,
    parse_client_hello_untrusted,
    split_fragments_untrusted,
    split_leading_records_untrusted,
    whole_message_at_untrusted,
)

from . import binding
from .binding import SSL_ERROR_NONE, SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE
from .errors import ssl_error, verification_error
from .outwards import Outwards

if TYPE_CHECKING:
    from collections import Counter

    from dtls.connection import ReceivedClientHello
    from dtls.context import Context

    from .association import Association

MAX_HELD_RECORDS = 16
"""How many protected records wait for the keys to come, and how many early messages for the handshake's end."""
MAX_HELD_BYTES = 32_768
"""How long they are together, each of the two kinds."""
MAX_HELLO_VERIFY_REQUESTS = 3
"""After so many the two sides do not understand each other's cookies (Mbed TLS 2.28 with tickets)."""
ALERT_PATIENCE = 1.0
"""Seconds, at most, between an unauthenticated alert and the next repeat of our flight, and between that and the
moment that the alert is believed."""
# Looked up once: an attribute of an enumeration's class is slow to get on some Pythons.
_CHANGE_CIPHER_SPEC = int(ContentType.CHANGE_CIPHER_SPEC)
_ALERT = int(ContentType.ALERT)
_HANDSHAKE = int(ContentType.HANDSHAKE)
_APPLICATION_DATA = int(ContentType.APPLICATION_DATA)
_HELLO_VERIFY_REQUEST = int(HandshakeType.HELLO_VERIFY_REQUEST)
_CLIENT_HELLO = int(HandshakeType.CLIENT_HELLO)
_CLIENT_KEY_EXCHANGE = int(HandshakeType.CLIENT_KEY_EXCHANGE)
_BEFORE_CHANGE_CIPHER_SPEC = (_CLIENT_KEY_EXCHANGE, int(HandshakeType.CERTIFICATE_VERIFY))
"""After one of these a client's ChangeCipherSpec may come."""
_ALERT_LENGTH = 2
_LAST_FIRST_RECORD = MAX_RECORD_SEQUENCE - 2**32


def shortest_protected_content(cipher: str) -> int:
    """The fewest bytes that a protected record's content can have with this suite, if it is known: nonce, tag, padding.

    OpenSSL before 4.0.3 let a shorter one end the association (CVE-2026-75806).
    """
    if not cipher or "CCM8" in cipher or "CHACHA20" in cipher or "NULL" in cipher:
        return 16
    if "GCM" in cipher or "CCM" in cipher:
        return 24
    return 32


PROTECTION_OVERHEAD = 320
"""Bytes by which OpenSSL lets the content of a protected record be longer than the longest plaintext."""
_ASKS_FOR_SHORT_RECORDS = b"\0\1\0\1"
"""How the max_fragment_length extension begins."""
_SHORTEST_FINISHED, _LONGEST_FINISHED = 40, 256
"""Bytes that a protected Finished can have with whatever suite: 24 in plaintext, and nonce, tag or MAC, padding."""


class Handshake(Outwards):
    """Drives OpenSSL through one handshake.

    :param ssl: OpenSSL's side, between the memory BIOs ``incoming`` and ``outgoing``.
    :param outbox: where datagrams to be sent are put.
    """

    over = False
    """Whether nothing more is to be done: it is complete, or has failed with ``error``."""
    error: SSLError | None = None
    early_data: deque[Record] | None = None
    """Messages and alerts that overtook the end of the handshake."""
    version = 0
    """What was negotiated, as a number of the wire, as soon as there are keys."""
    longest_content = MAX_PLAINTEXT_LENGTH + PROTECTION_OVERHEAD
    """The most bytes that a protected record's content can have. Of a longer one OpenSSL passes over the header
    only, and takes what follows for more records: somebody else's could stand there."""

    _record = 0
    """The number of the next record that OpenSSL is given in epoch 0."""
    _record_version = DTLS_1_0
    _change_cipher_spec_seen = False
    _reads_protected = False
    _finished_is_shown = False
    """Whether OpenSSL keeps a record that may be the Finished, until there are keys."""
    _shortest_content = shortest_protected_content("")
    _early_records: deque[Record] | None = None
    _verify_requests = 0
    _peer_has_answered = False
    _held_alert: int | None = None
    _alert_believed_at: float | None = None

    def __init__(
        self,
        context: Context,
        ssl: binding.Handle,
        incoming: binding.Handle,
        outgoing: binding.Handle,
        *,
        now: float,
        server_side: bool,
        flight: SentFlight,
        timer: RetransmissionTimer,
        outbox: list[bytes],
        statistics: Counter[str],
        server_hostname: str | None,
        association: Association,
    ) -> None:
        self._context = context
        self._ssl, self._incoming, self._outgoing = ssl, incoming, outgoing
        self._flight, self._outbox, self._statistics = flight, outbox, statistics
        self._server_hostname = server_hostname
        self._association = association
        self._backs_off = context.mtu_back_off
        self._time_allowed = context.handshake_timeout
        self._deadline = now + self._time_allowed
        self._timer = timer
        self._reassembler = Reassembler(server_side=server_side)

    def continue_with(self, ssl: binding.Handle, incoming: binding.Handle, outgoing: binding.Handle) -> None:
        """Let another SSL answer the ClientHello, of which none has seen anything yet."""
        self._ssl, self._incoming, self._outgoing = ssl, incoming, outgoing

    def begin(self, now: float) -> None:
        """Send the first ClientHello."""
        self._step(now)

    def begin_with(self, hello: ReceivedClientHello, now: float) -> None:
        """Answer a ClientHello that was received already."""
        # RFC 6347, 4.2.1. Who counts up to the end of 48 bits before the first answer means no good.
        self._record = self._flight.packer.next_record = min(hello.record_sequence, _LAST_FIRST_RECORD)
        self._reassembler.next_sequence = hello.message.sequence + 1
        self._record_version = hello.record_version
        if not hello.cookie_verified or not hello.message.sequence:
            self._feed_message(hello.message, now)
            return
        self._write_message(hello.message)
        if self.over:
            return
        if binding.listen(self._ssl):
            self._step(now)
        else:
            self._fail(ssl_error(binding.take_errors(), "the ClientHello is malformed"))

    # --- inwards -------------------------------------------------------------------------------------------------

    def receive_leading_records(self, datagram: bytes, now: float) -> int:
        """Take in the records at the head of a datagram that are the next ones; the offset after them.

        They are messages that are whole, and perhaps a ChangeCipherSpec and a Finished at the end, which is what nearly
        every datagram of a handshake consists of. OpenSSL is given them all at once.
        """
        reassembler = self._reassembler
        length = len(datagram)
        number, last = self._record, 0
        as_received = True
        at = 0
        while (found := whole_message_at_untrusted(datagram, at)) is not None:
            version, record_number, message_type, sequence, end = found
            if (
                message_type == _CLIENT_HELLO
                or (at and message_type == _HELLO_VERIFY_REQUEST)
                or end > MAX_PLAINTEXT_LENGTH  # as much as OpenSSL reads at a time
                or not reassembler.pass_over_untrusted(
                    message_type, sequence, end - at - MESSAGE_RECORD_OVERHEAD
                )
            ):
                break
            if message_type == _CLIENT_KEY_EXCHANGE and self._association.context.psk_server is not None:
                self._association.note_key_exchange(datagram[at + MESSAGE_RECORD_OVERHEAD : end])
            if record_number != number:
                as_received = False
            number, last, at = number + 1, message_type, end
            self._record_version = version
            if message_type == _HELLO_VERIFY_REQUEST:
                if not self._begin_again():
                    return at
                break
        if (
            at < length
            and as_received
            and (self._sent_change_cipher_spec or last in _BEFORE_CHANGE_CIPHER_SPEC)
            and self._receive_end(datagram, at, number, now)
        ):
            return length
        if at:
            messages = datagram[:at] if as_received else self._with_own_numbers(datagram, at)
            self._record = number
            self._made_progress()
            self._write(messages)
            if self._step(now):
                self._go_on(now)
        return at

    def _with_own_numbers(self, datagram: bytes, end: int) -> bytes:
        """The messages at the head of a datagram, under our own numbers: a stranger's would upset OpenSSL's window."""
        records, _ = split_leading_records_untrusted(datagram[:end])
        return b"".join(
            build_record(_HANDSHAKE, record.version, 0, number, record.fragment)
            for number, record in enumerate(records, self._record)
        )

    def _receive_end(self, datagram: bytes, at: int, number: int, now: float) -> bool:
        """Take in a datagram of messages that ends with the peer's ChangeCipherSpec and Finished; whether it does.

        ``number`` is the record number that the ChangeCipherSpec must have. Nothing may wait that comes first. Should
        the ChangeCipherSpec be too early all the same, OpenSSL passes over it and keeps the other record until there
        are keys.
        """
        found = last_records_at_untrusted(datagram, at)
        if found is None or self._change_cipher_spec_seen or self._early_records:
            return False
        version, record_number, length = found
        if (
            record_number != number
            or not _SHORTEST_FINISHED <= length <= _LONGEST_FINISHED
            or version != binding.negotiated_version(self._ssl)
            or len(datagram) > MAX_PLAINTEXT_LENGTH
        ):
            return False
        self.version = self._record_version = version
        self._change_cipher_spec_seen = True
        self._record = number + 1
        if at:
            self._made_progress()
        self._write(datagram)
        if self._step(now):
            self._finished_is_shown = not self._note_keys_in_use()
            if not self._finished_is_shown:
                self._statistics["dropped_unauthenticated"] += 1
            self._go_on(now)
        return True

    def _go_on(self, now: float) -> None:
        """OpenSSL has taken a message in: offer it a ChangeCipherSpec that waits, and messages complete by now."""
        goes_on = self._try_change_cipher_spec(now)
        while goes_on and (message := self._reassembler.next_message()) is not None:
            goes_on = self._feed_message(message, now) and self._try_change_cipher_spec(now)

    def receive(self, record: Record, now: float) -> None:
        """Take in a record of the peer, or of somebody who pretends to be."""
        kind, content = record.content_type, record.fragment
        if record.epoch == 0:
            if kind == _HANDSHAKE:
                self._receive_fragments(record, now)
            elif kind == _CHANGE_CIPHER_SPEC and content == b"\x01":
                self._change_cipher_spec_seen = True
                self._try_change_cipher_spec(now)
            elif kind == _ALERT and len(content) == _ALERT_LENGTH:
                self._hold_alert(content, now)
            else:
                self._statistics["dropped_plaintext"] += 1
        elif record.epoch > 1 or not self._is_plausible(record):
            self._statistics["dropped_implausible_record"] += 1
        elif kind != _HANDSHAKE:
            # An alert that comes before the Finished has overtaken it: whoever protects records has sent one.
            self.early_data = self._hold(self.early_data, record)
        elif not self._reads_protected:
            self._early_records = self._hold(self._early_records, record)
        else:
            self._feed_protected(record, now)

    def _is_plausible(self, record: Record) -> bool:
        return (
            _ALERT <= record.content_type <= _APPLICATION_DATA
            and self._shortest_content <= len(record.fragment) <= self.longest_content
        )

    def _note_client_hello(self, body: bytes) -> None:
        """Whether the records of this association are to be short ones (RFC 6066, 4)."""
        self.longest_content = MAX_PLAINTEXT_LENGTH + PROTECTION_OVERHEAD
        if _ASKS_FOR_SHORT_RECORDS in body:
            with contextlib.suppress(WireError):  # OpenSSL refuses it
                plaintext = max_fragment_length_untrusted(parse_client_hello_untrusted(body))
                self.longest_content = (plaintext or MAX_PLAINTEXT_LENGTH) + PROTECTION_OVERHEAD

    def _hold(self, queue: deque[Record] | None, record: Record) -> deque[Record]:
        """The queue with a record more, and perhaps without the oldest."""
        queue = deque() if queue is None else queue
        queue.append(record)
        while len(queue) > MAX_HELD_RECORDS or sum(len(held.fragment) for held in queue) > MAX_HELD_BYTES:
            queue.popleft()
            self._statistics["dropped_too_early"] += 1
        return queue

    def _receive_fragments(self, record: Record, now: float) -> None:
        self._record_version = record.version
        try:
            fragments = split_fragments_untrusted(record.fragment)
        except WireError as error:
            self._statistics[f"dropped_{error.reason}"] += 1
            return
        for fragment in fragments:
            try:
                self._reassembler.add_untrusted(fragment)
            except WireError as error:
                self._statistics[f"dropped_{error.reason}"] += 1
                if error.reason == "old_message" and fragment.message_sequence == self._flight.answers:
                    self._answer_repeat(now)
        message = self._reassembler.next_message()
        if message is not None and self._feed_message(message, now):
            self._go_on(now)

    def _feed_message(self, message: Message, now: float) -> bool:
        """Give OpenSSL a message; whether the handshake goes on."""
        self._made_progress()
        if message.message_type == _HELLO_VERIFY_REQUEST and not self._begin_again():
            return False
        self._write_message(message)
        return not self.over and self._step(now)

    def _begin_again(self) -> bool:
        """The server asks for a cookie; false, and the handshake has failed, if it has done so too often."""
        self._verify_requests += 1
        if self._verify_requests > MAX_HELLO_VERIFY_REQUESTS:
            text = "the server asks for a cookie again and again (HelloVerifyRequest loop)"
            self._fail(SSLError(SSL_ERROR_SSL, text, reason="COOKIE_MISMATCH"))
            return False
        # What came before our answer is no answer to it: a flight meant for our predecessor on this port, say.
        self._reassembler = Reassembler(server_side=False, next_sequence=self._reassembler.next_sequence)
        return True

    def _write_message(self, message: Message) -> None:
        """A whole message for OpenSSL, in records with numbers of our own: a stranger's would upset its window."""
        if message.message_type == _CLIENT_KEY_EXCHANGE:
            self._association.note_key_exchange(message.body)
        elif message.message_type == _CLIENT_HELLO:
            self._note_client_hello(message.body)
            alert = self._association.meet(message)
            if alert is not None:
                self._fail(self._explain_failure([]))
                refusal = PlainRecord(_ALERT, self._record_version, bytes([AlertLevel.FATAL, alert]))
                self._outbox += self._flight.packer.pack([refusal])
                return
        if len(message.body) > MAX_BODY_LENGTH:
            self._write_pieces(message)
            return
        self._write(build_message_record(self._record_version, self._record, *message))
        self._record += 1

    def _write_pieces(self, message: Message) -> None:
        for offset in range(0, len(message.body), MAX_BODY_LENGTH):
            if offset:  # OpenSSL reads no more than this at a time from a memory BIO
                binding.do_handshake(self._ssl)
            content = build_handshake(
                message.message_type,
                message.sequence,
                message.body[offset : offset + MAX_BODY_LENGTH],
                offset=offset,
                length=len(message.body),
            )
            self._write(self._numbered(_HANDSHAKE, self._record_version, content))

    def _numbered(self, content_type: int, version: int, content: bytes) -> bytes:
        record = build_record(content_type, version, 0, self._record, content)
        self._record += 1
        return record

    def _write(self, raw: bytes) -> None:
        binding.bio_write(self._incoming, raw, len(raw))

    def _try_change_cipher_spec(self, now: float) -> bool:
        """Offer OpenSSL the ChangeCipherSpec if one was seen; whether the handshake goes on.

        OpenSSL passes over one that is too early.
        """
        if not self._change_cipher_spec_seen or self._reads_protected or not self._flight.is_held:
            return True
        self.version = self._record_version = binding.negotiated_version(self._ssl)
        self._write(self._numbered(_CHANGE_CIPHER_SPEC, self._record_version, b"\x01"))
        goes_on = self._step(now)
        if goes_on and self._note_keys_in_use():
            if self._finished_is_shown:  # and was none
                self._statistics["dropped_unauthenticated"] += 1
            waiting, self._early_records = self._early_records or (), None
            for record in waiting:
                goes_on = goes_on and self._feed_protected(record, now)
        return goes_on

    def _note_keys_in_use(self) -> bool:
        """Whether OpenSSL has taken the ChangeCipherSpec that it was offered, so that the Finished comes next."""
        if not binding.awaits_finished(self._ssl):
            return False
        self._reads_protected = True
        self._made_progress()
        self._shortest_content = shortest_protected_content(binding.cipher_name(self._ssl))
        return True

    def _feed_protected(self, record: Record, now: float) -> bool:
        """Give OpenSSL a protected record; whether the handshake goes on."""
        # The version, too: OpenSSL treats a record of another as it does one that is too long.
        if not self._is_plausible(record) or record.version != self.version:
            self._statistics["dropped_implausible_record"] += 1
            return True
        self._write(build_record(*record))
        goes_on = self._step(now)
        if goes_on:
            self._statistics["dropped_unauthenticated"] += 1
        return goes_on

    def _made_progress(self) -> None:
        """The peer goes on: an alert that somebody sent meanwhile was not its."""
        self._peer_has_answered = True
        self._held_alert = None
        self._alert_believed_at = None

    def _hold_alert(self, content: bytes, now: float) -> None:
        """Anybody can send an alert in plaintext: remember it, and see whether the peer goes on all the same."""
        level, description = content
        self._statistics["held_alert"] += 1
        if level != AlertLevel.FATAL and description != AlertDescription.CLOSE_NOTIFY:
            return
        if self._held_alert is None and self._timer.due is not None:
            self._timer.due = min(self._timer.due, now + ALERT_PATIENCE)
        if self._held_alert is None or self._held_alert == AlertDescription.CLOSE_NOTIFY:
            self._held_alert = description

    # --- time ----------------------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When :meth:`handle_timeout` is due."""
        due, believed_at = self._timer.due, self._alert_believed_at
        at = self._deadline if due is None or due > self._deadline else due
        return at if believed_at is None or believed_at > at else believed_at

    def handle_timeout(self, now: float) -> None:
        """Repeat the flight, believe an alert, or give up, whichever is due."""
        believed_at = self._deadline if self._alert_believed_at is None else self._alert_believed_at
        if self._held_alert is not None and now >= min(believed_at, self._deadline):
            self._believe_alert(self._held_alert, now)
        elif now >= self._deadline:
            self._fail(HandshakeTimeout(self._timeout_message()))
        elif self._timer.due is not None and now >= self._timer.due:
            if self._backs_off and self._flight.back_off(self._timer.repeats):
                self._statistics["mtu_backed_off"] += 1
            self._repeat_flight(now)
            self._timer.back_off(now)
            if self._held_alert is not None and self._alert_believed_at is None:
                self._alert_believed_at = now + ALERT_PATIENCE

    def _believe_alert(self, description: int, now: float) -> None:
        if description == AlertDescription.CLOSE_NOTIFY:
            text = "the peer closed the association during the handshake (close_notify)"
            self._fail(SSLError(SSL_ERROR_SSL, text, reason="CLOSED_DURING_HANDSHAKE"))
            return
        # OpenSSL then gives the error its usual name.
        alert = bytes([AlertLevel.FATAL, description])
        self._write(self._numbered(_ALERT, self._record_version, alert))
        self._step(now)
        if not self.over:
            text = f"the peer refused the handshake (alert {description})"
            self._fail(SSLError(SSL_ERROR_SSL, text, reason=f"ALERT_{description}"))

    def _timeout_message(self) -> str:
        seconds = f"{self._time_allowed:g} s"
        if self._association.psk_identity is not None:
            # With another key the peer's Finished is noise: neither side can tell it from a forgery.
            whose = f"the PSK identity {self._association.psk_identity!r}"
            return f"not complete within {seconds}: do both sides have the same key for {whose}?"
        if self._context.server_side:
            return f"the client did not complete the handshake within {seconds}"
        if not self._peer_has_answered:
            return f"no answer from the server within {seconds}: is it there, and does it speak DTLS?"
        return f"the server stopped answering: the handshake was not complete within {seconds}"

    # --- outwards ------------------------------------------------------------------------------------------------

    def _step(self, now: float) -> bool:
        """Let OpenSSL go on with what it has, and send what it says; whether the handshake goes on."""
        outcome = binding.do_handshake(self._ssl)
        if outcome == SSL_ERROR_WANT_READ:
            self._collect_output(now)
            return True
        errors = binding.take_errors() if outcome == SSL_ERROR_SSL else []
        self._collect_output(now)
        if outcome == SSL_ERROR_NONE:
            self.over = True
        elif outcome != SSL_ERROR_WANT_WRITE:
            self._fail(self._explain_failure(errors))
        return not self.over

    def _fail(self, error: SSLError) -> None:
        self.error = error
        self.over = True

    def _explain_failure(self, errors: list[binding.QueuedError]) -> SSLError:
        if (error := self._association.error) is not None:
            if isinstance(error, SSLError):
                return error
            self._fail(SSLError(SSL_ERROR_SSL, "a callback was interrupted", reason="CALLBACK_FAILED"))
            raise error
        if any(entry.reason == "CERTIFICATE_VERIFY_FAILED" for entry in errors):
            code, words = binding.verify_result(self._ssl)
            return verification_error(code, words, self._server_hostname)
        return ssl_error(errors, "the handshake ended without a reason given")

    def close(self) -> None:
        """End it without success. A courtesy: with an alert, the peer need not wait for its deadline."""
        if self._flight.is_held:
            content = bytes([AlertLevel.WARNING, AlertDescription.CLOSE_NOTIFY])
            alert = PlainRecord(ContentType.ALERT, binding.negotiated_version(self._ssl), content)
            self._outbox += self._flight.packer.pack([alert])
