"""One DTLS 1.0 or 1.2 association: OpenSSL between our own records and flights.

OpenSSL sits between two memory BIOs, which know no datagram borders, so it is given one record at a time and drained
after each. How the handshake runs is in ``handshake.py``; here is what comes after it. OpenSSL's own retransmission
timer, which reads the real clock and cannot be set through these bindings, decides nothing.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

from dtls.connection import (
    MAX_RUN_LENGTH,
    MAX_SEGMENTS,
    ConnectionState,
    ReceivedClientHello,
    Unprotected,
)
from dtls.cookie import CookieFactory
from dtls.errors import SSL_ERROR_SSL, MessageTooLarge, SSLError, SSLZeroReturnError
from dtls.events import AlertReceived, DataReceived, Event, HandshakeCompleted, HandshakeFailed, PeerClosed
from dtls.flights import Packer, ProtectedRecord, RetransmissionTimer, SentFlight, as_item
from dtls.gate import Gate
from dtls.settings.names import check_server_context
from dtls.wire import (
    DTLS_1_0,
    KNOWN_VERSIONS,
    MAX_PLAINTEXT_LENGTH,
    RECORD_HEADER_LENGTH,
    ContentType,
    Record,
    WireError,
    build_record,
    split_fragments_untrusted,
    split_leading_records_untrusted,
)

from . import binding, binding_sessions
from .association import Association
from .binding import (
    BUFFER_LENGTH,
    bio_read,
    bio_write,
    clear_errors,
    free_buffer,
    from_buffer,
    give_back,
    new_buffer,
    ssl_read,
    ssl_write,
    take_buffer,
    unpack,
)
from .errors import X509_V_ERR_CERT_REJECTED, ssl_error, verification_error
from .handshake import Handshake, shortest_protected_content
from .negotiated import Negotiated
from .strength import weakness

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from dtls.context import Context
    from dtls.session import DTLSSession

    from .context import EngineContext

_HANDSHAKING = ConnectionState.HANDSHAKING
_ESTABLISHED = ConnectionState.ESTABLISHED
_APPLICATION_DATA = int(ContentType.APPLICATION_DATA)
_BEGINNING = struct.Struct("!BHH")
AT_A_TIME = 5_000
"""Bytes of several records that OpenSSL is given, or gives, at a time: its buffers grow to that, and stay so."""
CBC_BLOCK_LENGTH = 16
"""Records of messages of other lengths may be longer by so much."""
_BYTES = [bytes([value]) for value in range(256)]
MAX_EXPANSION = 320
"""Bytes at most by which a datagram is longer than its message: header, nonce, MAC and padding of a CBC suite."""
MAX_FRESH_FINISHED = 10
"""How often OpenSSL is asked for a new Finished; it counts these as time-outs, and gives up after 12."""


@functools.cache
def _as_negotiated(version: int, cipher: str) -> tuple[HandshakeCompleted, bytes, int]:
    """What is said of a handshake, how its records of application data begin, and how short a record may be."""
    completed = HandshakeCompleted("DTLSv1" if version == DTLS_1_0 else "DTLSv1.2", cipher)
    return completed, _BEGINNING.pack(_APPLICATION_DATA, version, 1), shortest_protected_content(cipher)


class OpenSSLConnection(Negotiated):
    """See :class:`dtls.connection.Connection`."""

    state = _HANDSHAKING
    _chooses = False
    """Whether the context may be changed just now."""
    _expansion = MAX_EXPANSION
    """Bytes at most by which a datagram is longer than its message."""
    _shortest_content = shortest_protected_content("")
    _longest_content = 0
    _interrupted = False
    """Whether what was written to OpenSSL has not been read yet."""
    _version = 0
    _prefix = b""
    """How a record of application data begins: type, version, epoch."""
    _fresh_finished_left = MAX_FRESH_FINISHED
    _gate: Gate | None = None

    def __init__(
        self,
        context: Context,
        engine_context: EngineContext,
        now: float,
        *,
        server_hostname: str | None,
        client_hello: ReceivedClientHello | None,
        peer_address: Hashable | None,
        mtu: int,
        timer: RetransmissionTimer,
        session: DTLSSession | None,
    ) -> None:
        self.server_side = engine_context.server_side
        self._server_hostname = server_hostname
        # Its own constructor is Python's, and takes longer than all that is counted in most associations' lives.
        self.statistics: Counter[str] = Counter.__new__(Counter)
        self._engine_context = engine_context  # holds the callbacks that OpenSSL may call
        self._association = Association(context, self)
        self._client_met = not self.server_side
        self._ssl, self._incoming, self._outgoing = engine_context.new_handles(
            self._association, server_hostname, None if session is None else session.state
        )
        self._outbox: list[bytes] = []
        # What the context says now counts for this association, whatever it is told later.
        self._mtu = mtu
        self._limits_messages_to_mtu = context.limits_messages_to_mtu
        self._flight = SentFlight(Packer(mtu))
        self._peer_address = peer_address
        context.count("accept" if self.server_side else "connect")
        self._offers_session = session is not None
        self._handshake: Handshake | None = Handshake(
            context,
            self._ssl,
            self._incoming,
            self._outgoing,
            now=now,
            server_side=self.server_side,
            flight=self._flight,
            timer=timer,
            outbox=self._outbox,
            statistics=self.statistics,
            server_hostname=server_hostname,
            association=self._association,
        )
        if not self.server_side:
            self._handshake.begin(now)
        elif client_hello is not None:
            self._handshake.begin_with(client_hello, now)
        elif peer_address is not None:
            self._gate = Gate(CookieFactory(), self.statistics)

    # --- who answers a client ------------------------------------------------------------------------------------

    @property
    def context(self) -> Context:
        return self._association.context

    @context.setter
    def context(self, context: Context) -> None:
        check_server_context(context)
        if not self._chooses:
            message = "the context can be changed by servers only, in sni_callback"
            raise ValueError(message)
        self._association.context = context

    @property
    def server_hostname(self) -> str | None:
        if not self.server_side or self._server_hostname is not None:
            return self._server_hostname
        name = binding.server_name(self._ssl)
        return None if name is None else name.decode("utf-8", "surrogateescape")

    def meets_client(self) -> bool:
        """Whether the ClientHello that has come, the first one, has a say about who answers it."""
        first, self._client_met = not self._client_met, True
        return first and self._engine_context.meets_clients

    def begin_to_choose(self, name: str | None, *, offers_session: bool) -> None:
        """What the client asks for; the context may be changed until :meth:`answer`."""
        self._server_hostname = name
        self._offers_session = offers_session
        self._chooses = True

    def answer(self) -> None:
        """Have the context that is set now answer the client."""
        self._chooses = False
        context = self._association.context
        self._engine_context = context._engine()  # noqa: SLF001 - the engine's own translation of the settings
        self._limits_messages_to_mtu = context.limits_messages_to_mtu
        self._ssl, self._incoming, self._outgoing = self._engine_context.new_handles(
            self._association, self._server_hostname
        )
        if self._handshake is not None:
            self._handshake.continue_with(self._ssl, self._incoming, self._outgoing)

    # --- the five verbs ------------------------------------------------------------------------------------------

    def receive_datagram(self, datagram: bytes, now: float) -> list[Event]:
        found = self.unprotect(datagram, now)
        return [DataReceived(found)] if type(found) is bytes else found  # type: ignore[return-value]

    def unprotect(self, datagram: bytes, now: float) -> bytes | list[Event]:
        if self.state is _ESTABLISHED:
            # One record of application data: nearly every datagram in an association's life.
            length = len(datagram)
            content = length - RECORD_HEADER_LENGTH
            if (
                self._shortest_content <= content <= self._longest_content
                and datagram[:5] == self._prefix
                and datagram[11] << 8 | datagram[12] == content
            ):
                if self._interrupted:
                    self._read_what_is_left(now)
                self._interrupted = True
                bio_write(self._incoming, datagram, length)
                try:
                    pointer = free_buffer()
                except IndexError:
                    pointer = new_buffer()
                count = ssl_read(self._ssl, pointer, BUFFER_LENGTH)
                self._interrupted = False
                if count > 0:
                    message = unpack(pointer, count)
                    give_back(pointer)
                    if self._flight.is_held:
                        self._flight.clear()
                    return message
                give_back(pointer)
                return self._after_fruitless_read(count, now)
        if self._gate is not None:
            return self._ask_gate(self._gate, datagram, now)
        at = 0
        handshake = self._handshake
        if handshake is not None:
            at = handshake.receive_leading_records(datagram, now)
            if at:
                events = self._conclude_handshake(now) if handshake.over else []
                return events if at == len(datagram) else events + self._receive_records(datagram[at:], now)
        return self._receive_records(datagram, now)

    def _receive_records(self, datagram: bytes, now: float) -> list[Event]:
        records, trouble = split_leading_records_untrusted(datagram)
        if trouble is not None:
            self.statistics[f"dropped_{trouble}"] += 1
        events: list[Event] = []
        for record in records:
            if record.version not in KNOWN_VERSIONS:
                self.statistics["dropped_unknown_version"] += 1
            elif self._handshake is not None:
                self._handshake.receive(record, now)
                events += self._conclude_handshake(now)
            else:
                events += self._receive_record(record, now)
        return events

    def send(self, message: bytes | bytearray | memoryview, now: float) -> None:  # noqa: ARG002 - the seam gives it
        self._outbox.append(self.protect(message))

    def protect(self, message: bytes | bytearray | memoryview) -> bytes:
        if self.state is not _ESTABLISHED:
            raise self._cannot_send()
        data = message if type(message) is bytes else _buffer_of(message)
        length = len(data)
        if not 0 < length <= self._max_message_size:
            raise self._wrong_length(length)
        # The queue of errors is not cleared: nothing depends on what stands there but the words of an exception.
        if ssl_write(self._ssl, data, length) <= 0:
            raise ssl_error(binding.take_errors(), "OpenSSL did not take the message")
        try:
            pointer = free_buffer()
        except IndexError:
            pointer = new_buffer()
        datagram = unpack(pointer, bio_read(self._outgoing, pointer, BUFFER_LENGTH))
        give_back(pointer)
        return datagram

    def unprotect_many(self, datagrams: bytes, size: int, now: float) -> Unprotected:
        messages: list[bytes] = []
        end = len(datagrams)
        whole = end - end % size
        if self.state is not _ESTABLISHED:
            return Unprotected(messages, 0, None)
        step = max(1, AT_A_TIME // size) * size
        if not self._are_messages(datagrams, whole, size):
            whole, step = 0, size
        incoming, source = self._incoming, from_buffer(datagrams)
        events: list[Event] | None = None
        at = 0
        while at < end and events is None:
            if at < whole:
                length = min(step, whole - at)
            else:
                length = min(size, end - at)
                if not self._are_messages(datagrams[at : at + length], length, length):
                    break
            if self._interrupted:
                self._read_what_is_left(now)
            self._interrupted = True
            bio_write(incoming, source + at, length)
            at += length
            events = self._read_messages(-(-length // size), messages, now)
            self._interrupted = False
        if messages and self._flight.is_held:
            self._flight.clear()
        return Unprotected(messages, at, events)

    def _read_messages(self, number: int, messages: list[bytes], now: float) -> list[Event] | None:
        """Have OpenSSL read so many records; what came of it if not each is a message: those that are, are read."""
        ssl, pointer = self._ssl, take_buffer()
        events: list[Event] | None = None
        for left in range(number, 0, -1):
            count = ssl_read(ssl, pointer, BUFFER_LENGTH)
            if count <= 0:
                events = self._after_fruitless_read(count, now)
                if not count and not events:
                    continue  # some versions stop at an empty message: there may be others behind it
                if not events:
                    self.statistics["dropped_unauthenticated"] += left - 1
                break
            messages.append(unpack(pointer, count))
        give_back(pointer)
        return events

    def _read_what_is_left(self, now: float) -> None:
        """The handler of a signal raised between a write to OpenSSL and the read: lost, as any datagram may be.

        Otherwise each read from now on would give what was written before.
        """
        self._interrupted = False
        self.statistics["dropped_interrupted"] += 1
        pointer = take_buffer()
        while ssl_read(self._ssl, pointer, BUFFER_LENGTH) > 0:
            pass
        give_back(pointer)
        binding.take_errors()
        self._collect_output(now)

    def _are_messages(self, datagrams: bytes, end: int, size: int) -> bool:
        """Whether each datagram of ``size`` bytes up to ``end`` is one record of application data, by its header.

        A column of all headers is looked at at a time.
        """
        content = size - RECORD_HEADER_LENGTH
        if not self._shortest_content <= content <= self._longest_content:
            return False
        number = end // size
        columns = (*enumerate(self._prefix), (11, content >> 8), (12, content & 0xFF))
        return all(datagrams[at:end:size] == _BYTES[value] * number for at, value in columns)

    def protect_many(self, messages: Sequence[bytes | bytearray | memoryview]) -> list[tuple[bytes, int]]:
        if self.state is not _ESTABLISHED:
            raise self._cannot_send()
        buffers = [message if isinstance(message, bytes) else _buffer_of(message) for message in messages]
        for data in buffers:
            if not 0 < len(data) <= self._max_message_size:
                raise self._wrong_length(len(data))
        runs: list[tuple[bytes, int]] = []
        for length, group in itertools.groupby(buffers, len):
            equal = list(group)
            at = 0
            while at < len(equal):
                most = min(MAX_SEGMENTS, MAX_RUN_LENGTH // (length + self._expansion))
                run, size = self._protect_run(equal[at : at + most], length)
                runs.append((run, size))
                at += most
                self._expansion = size - length + CBC_BLOCK_LENGTH
        return runs

    def _protect_run(self, messages: Sequence[Any], length: int) -> tuple[bytes, int]:
        """Protect messages of one length; the datagrams, and the length of each."""
        ssl, outgoing, target = self._ssl, self._outgoing, take_buffer()
        step = max(1, AT_A_TIME // length)
        at = 0
        for begun in range(0, len(messages), step):
            for data in messages[begun : begun + step]:
                if ssl_write(ssl, data, length) <= 0:
                    raise ssl_error(binding.take_errors(), "OpenSSL did not take the message")
            at += bio_read(outgoing, target + at, BUFFER_LENGTH - at)
        run = unpack(target, at)
        give_back(target)
        return run, at // len(messages)

    def datagrams_to_send(self, now: float) -> list[bytes]:  # noqa: ARG002 - the seam gives it
        datagrams = self._outbox[:]
        self._outbox.clear()
        return datagrams

    def next_timeout(self) -> float | None:
        handshake = self._handshake
        if handshake is None:
            return None
        return float("-inf") if handshake.over else handshake.next_timeout()

    def handle_timeout(self, now: float) -> list[Event]:
        handshake = self._handshake
        if handshake is None:
            return []
        if not handshake.over:
            handshake.handle_timeout(now)
        return self._conclude_handshake(now)

    def close(self, now: float) -> None:
        if self.state is _ESTABLISHED:
            binding.shutdown(self._ssl)
            self._collect_output(now)
            self.state = ConnectionState.CLOSING
        elif self._handshake is not None:
            self._handshake.close()
            self._handshake = self._gate = None
            self.state = ConnectionState.CLOSED

    # --- what was negotiated -------------------------------------------------------------------------------------

    @property
    def keeps_flight(self) -> bool:
        return self._flight.is_held and self._handshake is None

    # --- the handshake -------------------------------------------------------------------------------------------

    def _ask_gate(self, gate: Gate, datagram: bytes, now: float) -> list[Event]:
        """Before the client has proved its address nothing else is looked at."""
        verdict = gate.judge_untrusted(datagram, self._peer_address, now)
        if verdict.answer is not None:
            self._outbox.append(verdict.answer)
        if verdict.hello is None or self._handshake is None:
            return []
        self._gate = None
        self._handshake.begin_with(verdict.hello, now)
        return self._conclude_handshake(now)

    def _conclude_handshake(self, now: float) -> list[Event]:
        """If the handshake is over, let go of what it held and say how it ended."""
        handshake = self._handshake
        if handshake is None or not handshake.over:
            return []
        self._handshake = None
        if handshake.error is not None:
            self.state = ConnectionState.FAILED
            self._flight.clear()
            return [HandshakeFailed(handshake.error)]
        error = self._last_judgement()
        if error is not None:
            return [self._refuse(error, now)]
        self.state = _ESTABLISHED
        resumed = binding_sessions.session_reused(self._ssl)
        self._count(resumed=resumed)
        if self.server_side is resumed:
            # The peer's Finished answered it: in a short handshake it is the client who has the last word.
            self._flight.clear()
        self._max_message_size = MAX_PLAINTEXT_LENGTH
        if self._limits_messages_to_mtu:
            binding.set_mtu(self._ssl, self._mtu)
            self._max_message_size = min(binding.data_mtu(self._ssl), MAX_PLAINTEXT_LENGTH)
        self._version = handshake.version
        completed, self._prefix, self._shortest_content = _as_negotiated(
            handshake.version, binding.cipher_name(self._ssl)
        )
        self._longest_content = handshake.longest_content
        events: list[Event] = [completed]
        for record in handshake.early_data or ():
            events += self._receive_record(record, now)
        return events

    def _last_judgement(self) -> BaseException | None:
        """What forbids to go on though OpenSSL would."""
        if self._association.trust.decides:
            return self._association.last_judgement(self.peer_certificate())
        if self._engine_context.lowers_level:
            found = weakness(self.verified_chain())
            if found is not None:
                return verification_error(X509_V_ERR_CERT_REJECTED, f"{found} is too weak", None)
        return None

    def _count(self, *, resumed: bool) -> None:
        """A handshake more that is complete."""
        count = self._association.context.count
        good = "accept_good" if self.server_side else "connect_good"
        if resumed or self._offers_session:
            count(good, "hits" if resumed else "misses")
        else:
            count(good)

    def _refuse(self, error: BaseException, now: float) -> HandshakeFailed:
        """End an association whose handshake is complete, before anything is said or heard on it."""
        binding.shutdown(self._ssl)
        self._collect_output(now)
        self.state = ConnectionState.FAILED
        self._flight.clear()
        if not isinstance(error, SSLError):
            raise error
        return HandshakeFailed(error)

    # --- after the handshake -------------------------------------------------------------------------------------

    def _receive_record(self, record: Record, now: float) -> list[Event]:
        if self.state not in (_ESTABLISHED, ConnectionState.CLOSING):
            self.statistics["dropped_after_close"] += 1
            return []
        if not record.epoch:
            self._receive_late_plaintext(record, now)
            return []
        if not self._is_plausible(record, now):
            return []
        raw = build_record(*record)
        if self._interrupted:
            self._read_what_is_left(now)
        self._interrupted = True
        clear_errors()
        bio_write(self._incoming, raw, len(raw))
        pointer = take_buffer()
        count = ssl_read(self._ssl, pointer, BUFFER_LENGTH)
        self._interrupted = False
        message = unpack(pointer, max(0, count))
        give_back(pointer)
        if count <= 0:
            return self._after_fruitless_read(count, now)
        if self.state is not _ESTABLISHED:
            self.statistics["dropped_after_close"] += 1
            return []
        self._flight.clear()
        return [DataReceived(message)]

    def _is_plausible(self, record: Record, now: float) -> bool:
        """Whether OpenSSL may see a protected record."""
        if (
            record.epoch != 1
            or not ContentType.ALERT <= record.content_type <= _APPLICATION_DATA
            or record.version != self._version
            or not self._shortest_content <= len(record.fragment) <= self._longest_content
        ):
            self.statistics["dropped_implausible_record"] += 1
            return False
        return record.content_type != ContentType.HANDSHAKE or self._may_be_repeated_finished(record, now)

    def _may_be_repeated_finished(self, record: Record, now: float) -> bool:
        """Whether OpenSSL may see a handshake record: only a repeat of the Finished that our last flight answered.

        At a HelloRequest or a new ClientHello, OpenSSL would wait for a renegotiation that it refuses and send nothing
        any more. At the twelfth repeat of a Finished it would end the association.
        """
        finished = next((item for item in self._flight.items if isinstance(item, ProtectedRecord)), None)
        if finished is None or len(record.fragment) != len(finished.record) - RECORD_HEADER_LENGTH:
            self.statistics["dropped_handshake_record"] += 1
            return False
        if not self._fresh_finished_left or not self._flight.may_be_repeated(now):
            self.statistics["repeats_unanswered"] += 1
            return False
        return True

    def _receive_late_plaintext(self, record: Record, now: float) -> None:
        """Nothing in plaintext counts any more, but it may tell that our last flight was lost.

        Some clients repeat their Finished under its old record number, which says nothing: it is dropped as a replay.
        The answer is no longer than the question, and paced.
        """
        self.statistics["dropped_plaintext_after_handshake"] += 1
        if not self._flight.is_held or record.content_type != ContentType.HANDSHAKE:
            return
        try:
            fragments = split_fragments_untrusted(record.fragment)
        except WireError:
            return
        if any(fragment.message_sequence == self._flight.answers for fragment in fragments):
            self._repeat_last_flight(now)

    def _after_fruitless_read(self, result: int, now: float) -> list[Event]:
        """A record gave no data: a forgery, a repeat, an empty message, an alert, a repeated Finished, or the end."""
        # Before a message the queue of errors is not cleared, which would cost every datagram: others of the process
        # may have left some there. So the outcome is judged without them. Only of an alert, before which it is
        # cleared, do they tell something: some versions take a fatal one for the end without them.
        errors = binding.take_errors()
        outcome = binding.get_error(self._ssl, result)
        said_something = self._collect_output(now)
        # Some versions say SYSCALL at an empty message; a memory BIO knows no real ones.
        is_empty = outcome == binding.SSL_ERROR_SYSCALL and not result and not binding.is_ended(self._ssl)
        if outcome == binding.SSL_ERROR_WANT_READ or is_empty:
            if not said_something:
                self.statistics["dropped_unauthenticated"] += 1
            return []
        self._flight.clear()
        if outcome == binding.SSL_ERROR_ZERO_RETURN and not errors:
            if self.state is _ESTABLISHED:
                binding.shutdown(self._ssl)
                self._collect_output(now)
            self.state = ConnectionState.CLOSED
            return [PeerClosed()]
        self.state = ConnectionState.FAILED
        return [AlertReceived(ssl_error(errors[-1:], "the association has ended", established=True))]

    def _collect_output(self, now: float) -> bool:
        """Take OpenSSL's output after the handshake: alerts, or a last flight that the peer asks for again."""
        output = binding.read_all(self._outgoing)
        if not output:
            return False
        records, _ = split_leading_records_untrusted(output)
        asked_again = False
        for record in records:
            if record.content_type == ContentType.HANDSHAKE and record.epoch:
                self._flight.refresh(as_item(record))
                asked_again = True
            elif record.epoch:
                self._outbox.append(build_record(*record))
        if asked_again:
            self._fresh_finished_left -= 1
            self._repeat_last_flight(now)
        return True

    def _repeat_last_flight(self, now: float) -> None:
        if self._flight.may_be_repeated(now):
            self.statistics["flights_repeated"] += 1
            self._outbox += self._flight.repeat(now)
        else:
            self.statistics["repeats_unanswered"] += 1

    # --- errors of the caller ------------------------------------------------------------------------------------

    def _cannot_send(self) -> SSLError:
        if self.state is _HANDSHAKING:
            return SSLError(SSL_ERROR_SSL, "the handshake is not complete: nothing can be sent yet")
        if self.state is ConnectionState.FAILED:
            return SSLError(SSL_ERROR_SSL, "the association has failed: nothing can be sent any more")
        return SSLZeroReturnError()

    def _wrong_length(self, length: int) -> Exception:
        if not length:
            return ValueError("an empty message cannot be sent over DTLS by this engine")
        limit = self._max_message_size
        vessel, why = "record", ""
        if limit < MAX_PLAINTEXT_LENGTH:
            vessel, why = "datagram", f" (the MTU is {self._mtu})"
        return MessageTooLarge(
            f"a message of {length} bytes does not fit one {vessel}: the limit is {limit} bytes{why}",
            limit=limit,
        )


def _buffer_of(message: object) -> binding.Handle:
    try:
        return from_buffer(message)
    except TypeError:
        text = f"a message is bytes or a bytes-like object, not {type(message).__name__!r}"
        if isinstance(message, str):
            text += ": encode it"
        raise TypeError(text) from None
