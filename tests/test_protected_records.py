"""Protected records that no stack of ours would send, made with the association's own keys by the test."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dtls.connection import ConnectionState
from dtls.engines.openssl import binding
from dtls.engines.openssl import connection as engine
from dtls.events import AlertReceived, DataReceived, PeerClosed
from dtls.wire import (
    DTLS_1_0,
    DTLS_1_2,
    MAX_PLAINTEXT_LENGTH,
    ContentType,
    WireError,
    max_fragment_length_untrusted,
    parse_client_hello_untrusted,
)

from .pair import Pair, received_client_hello

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dtls.context import Context

AES128 = "ECDHE-ECDSA-AES128-GCM-SHA256"
CHACHA20 = "ECDHE-ECDSA-CHACHA20-POLY1305"
CCM8 = "ECDHE-ECDSA-AES128-CCM8"
AT_RANDOM = 13 + 12 + 2
FATAL, WARNING = 2, 1


def expand(master: bytes, seed: bytes, length: int) -> bytes:
    """RFC 5246, 5: P_SHA256."""
    found, a = b"", seed
    while len(found) < length:
        a = hmac.digest(master, a, hashlib.sha256)
        found += hmac.digest(master, a + seed, hashlib.sha256)
    return found[:length]


class Forger:
    """Makes the client's records, from far beyond what the client itself has sent."""

    def __init__(self, client: Context, server: Context, path: Path) -> None:
        client.set_ciphers(AES128)
        client.keylog_filename = str(path)
        self.pair = Pair(client, server)
        self.pair.run()
        assert self.pair.established
        line = next(line for line in path.read_text().splitlines() if line.startswith("CLIENT_RANDOM"))
        _, random, master = line.split()
        hellos = [datagram for sender, datagram in self.pair.sent if sender == "server"]
        server_random = next(one[AT_RANDOM : AT_RANDOM + 32] for one in hellos if one[13] == 2)
        seed = b"key expansion" + server_random + bytes.fromhex(random)
        block = expand(bytes.fromhex(master), seed, 40)
        self.key, self.salt = AESGCM(block[:16]), block[32:36]
        self.sequence = 1000
        self.others_err = False

    def record(self, content_type: int, content: bytes) -> bytes:
        self.sequence += 1
        place = struct.pack("!HHL", 1, 0, self.sequence)
        sealed_as = struct.pack("!BHH", content_type, DTLS_1_2, len(content))
        sealed = place + self.key.encrypt(self.salt + place, content, place + sealed_as)
        return struct.pack("!BH", content_type, DTLS_1_2) + place + struct.pack("!H", len(sealed)) + sealed

    def deliver(self, record: bytes) -> list[Any]:
        if self.others_err:
            leave_errors()
        return self.pair.deliver("server", record)

    def send(self, content_type: int, content: bytes) -> list[Any]:
        return self.deliver(self.record(content_type, content))


def leave_errors() -> None:
    """As others of the process may: errors in this thread's queue that nobody has taken."""
    context = binding.lib.SSL_CTX_new(binding.lib.DTLS_client_method())
    assert not binding.lib.SSL_CTX_set_cipher_list(context, b"no such suite")
    binding.lib.SSL_CTX_free(context)


@pytest.fixture(params=["nothing before", "errors of others before"])
def forger(request: pytest.FixtureRequest, client: Context, server: Context, tmp_path: Path) -> Forger:
    forger = Forger(client, server, tmp_path / "keys")
    forger.others_err = request.param.startswith("errors")
    return forger


def assert_stands(forger: Forger) -> None:
    server = forger.pair.server
    assert server.state is ConnectionState.ESTABLISHED
    assert forger.send(ContentType.APPLICATION_DATA, b"still") == [DataReceived(b"still")]


def test_the_tests_own_records_are_taken(forger: Forger) -> None:
    assert forger.send(ContentType.APPLICATION_DATA, b"hello") == [DataReceived(b"hello")]


def test_an_empty_message_is_dropped_and_ends_nothing(forger: Forger) -> None:
    assert forger.send(ContentType.APPLICATION_DATA, b"") == []
    assert forger.pair.server.statistics["dropped_unauthenticated"] == 1
    assert_stands(forger)


def test_a_record_that_was_changed_on_the_way_ends_nothing(forger: Forger) -> None:
    record = bytearray(forger.record(ContentType.APPLICATION_DATA, b"hello"))
    record[-1] ^= 1
    assert forger.deliver(bytes(record)) == []
    assert forger.pair.server.statistics["dropped_unauthenticated"] == 1
    assert_stands(forger)


def test_a_close_notify_is_the_peers_word_and_no_failure(forger: Forger) -> None:
    assert forger.send(ContentType.ALERT, bytes([WARNING, 0])) == [PeerClosed()]
    assert forger.pair.server.state is ConnectionState.CLOSED


def test_a_fatal_alert_ends_the_association_and_is_told_by_its_name(forger: Forger) -> None:
    (event,) = forger.send(ContentType.ALERT, bytes([FATAL, 80]))
    assert isinstance(event, AlertReceived)
    assert getattr(event.error, "reason", None) == "TLSV1_ALERT_INTERNAL_ERROR"
    assert forger.pair.server.state is ConnectionState.FAILED


def test_a_mere_warning_ends_nothing(forger: Forger) -> None:
    assert forger.send(ContentType.ALERT, bytes([WARNING, 90])) == []
    assert_stands(forger)


@pytest.mark.parametrize("length", [16, 1200])
@pytest.mark.parametrize("bad", [(0,), (3,), (4, 5), (9,), tuple(range(9)), tuple(range(10))])
def test_records_that_were_changed_harm_no_others_of_their_run(
    forger: Forger, bad: tuple[int, ...], length: int
) -> None:
    server = forger.pair.server
    content = [b"%d" % number * length for number in range(10)]
    records = [bytearray(forger.record(ContentType.APPLICATION_DATA, one)) for one in content]
    for number in bad:
        records[number][20] ^= 1
    size = len(records[0])
    run = b"".join(records)
    got: list[bytes] = []
    if forger.others_err:
        leave_errors()
    while run:
        found = server.unprotect_many(run, size, 0.0)
        assert found.taken
        assert not found.events
        got += found.messages
        run = run[found.taken :]
    assert got == [one for number, one in enumerate(content) if number not in bad]
    assert server.statistics["dropped_unauthenticated"] == len(bad)
    forger.others_err = False
    assert_stands(forger)


def test_a_run_ends_at_what_is_no_message(forger: Forger) -> None:
    server = forger.pair.server
    message = forger.record(ContentType.APPLICATION_DATA, b"hi")
    alert = forger.record(ContentType.ALERT, bytes([WARNING, 0]))
    last = forger.record(ContentType.APPLICATION_DATA, b"hi")
    assert len(message) == len(alert)
    size = len(message)
    found = server.unprotect_many(message + alert + last, size, 0.0)
    assert found == ([b"hi"], size, None)
    assert server.receive_datagram(alert, 0.0) == [PeerClosed()]
    assert server.unprotect_many(last, size, 0.0) == ([], 0, None)


def test_the_last_of_a_run_may_be_shorter(forger: Forger) -> None:
    records = [forger.record(ContentType.APPLICATION_DATA, b"x" * length) for length in (20, 20, 3)]
    run = b"".join(records)
    found = forger.pair.server.unprotect_many(run, len(records[0]), 0.0)
    assert found == ([b"x" * 20, b"x" * 20, b"xxx"], len(run), None)


# --- records within records ------------------------------------------------------------------------------------------


def header(content_type: int, version: int, sequence: int, length: int) -> bytes:
    return struct.pack("!BHHHLH", content_type, version, 1, 0, sequence, length)


def wrappings(inner: bytes) -> dict[str, bytes]:
    """Records of which OpenSSL passes over the header only, and takes what is in them for records."""
    at_least = inner + bytes(40)
    found = {
        f"{ContentType(kind).name} of another version": header(kind, DTLS_1_0, 5000, len(at_least)) + at_least
        for kind in (ContentType.APPLICATION_DATA, ContentType.HANDSHAKE, ContentType.ALERT)
    }
    for length in (16_385, 16_704, 16_705, 16_720, 18_000, 18_432):
        content = inner + bytes(length - len(inner))
        found[f"{length} bytes"] = header(ContentType.APPLICATION_DATA, DTLS_1_2, 5000, length) + content
    return found


def short_records() -> list[bytes]:
    return [
        header(kind, DTLS_1_2, 6000, length) + bytes(length)
        for kind in (ContentType.APPLICATION_DATA, ContentType.ALERT)
        for length in (1, 2, 7, 8, 15, 16, 23)
    ]


@pytest.mark.parametrize("suite", [AES128, CHACHA20, CCM8])
@pytest.mark.parametrize("name", ["client", "server"])
def test_no_forged_record_within_a_record_ends_an_association(
    client: Context, server: Context, name: str, suite: str
) -> None:
    for context in (client, server):
        context.set_ciphers(suite + ("" if suite != CCM8 else ":@SECLEVEL=0"))
    pair = Pair(client, server)
    pair.run()
    assert pair.established
    for inner in short_records():
        for how, datagram in wrappings(inner).items():
            assert pair.deliver(name, datagram) == [], how
            run = datagram * (60_000 // len(datagram))
            found = pair.end(name).unprotect_many(run, len(datagram), pair.now)
            assert (found.messages, found.events or None) == ([], None), how
            pair.assert_talks()


@pytest.mark.parametrize("name", ["client", "server"])
def test_no_forged_record_within_a_record_ends_a_handshake(
    client: Context, server: Context, name: str
) -> None:
    for inner in short_records():
        for how, datagram in wrappings(inner).items():
            sender = "server" if name == "client" else "client"

            def forge(
                who: str, _: int, genuine: bytes, forged: bytes = datagram, by: str = sender
            ) -> list[bytes]:
                return [forged, genuine, forged] if who == by else [genuine]

            pair = Pair(client, server, tap=forge)
            pair.run()
            assert pair.established, how
            pair.assert_talks()


def test_genuine_records_within_a_record_do_not_make_those_to_come_late(forger: Forger) -> None:
    """Somebody on the path may hold records back, and send them in the body of another."""
    for number in range(len(wrappings(b""))):
        inner = b"".join(forger.record(ContentType.APPLICATION_DATA, b"%d" % one) for one in range(2))
        datagram = list(wrappings(inner).values())[number]
        assert forger.deliver(datagram) == []
        assert_stands(forger)


def test_what_a_signals_handler_interrupts_is_lost_and_delays_nothing(
    forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = forger.pair.server
    read: Any = getattr(engine, "ssl_read")  # noqa: B009 - of another module

    def interrupted(*_: Any) -> int:
        monkeypatch.setattr(engine, "ssl_read", read)
        raise KeyboardInterrupt

    size = len(forger.record(ContentType.APPLICATION_DATA, b"lost"))
    takes: list[Callable[[], object]] = [
        lambda: forger.send(ContentType.APPLICATION_DATA, b"lost"),
        lambda: forger.send(ContentType.ALERT, bytes([WARNING, 90])),
        lambda: server.unprotect_many(forger.record(ContentType.APPLICATION_DATA, b"lost") * 2, size, 0.0),
    ]
    for turn, take in enumerate(takes):
        monkeypatch.setattr(engine, "ssl_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take()
        if turn % 2:
            found = server.unprotect_many(forger.record(ContentType.APPLICATION_DATA, b"here"), size, 0.0)
            assert found.messages == [b"here"]
        assert_stands(forger)
        assert server.statistics["dropped_interrupted"] == turn + 1


@pytest.mark.parametrize(
    ("code", "length"), [(1, 512), (2, 1024), (3, 2048), (4, 4096), (5, None), (0, None)]
)
def test_records_are_no_longer_than_a_client_has_asked_for(
    client: Context, server: Context, code: int, length: int | None
) -> None:
    """RFC 6066, 4: OpenSSL passes over the header only of those that are longer."""
    hello, _ = received_client_hello(
        client.connection(0.0, server_hostname="localhost").datagrams_to_send(0.0)
    )
    known = parse_client_hello_untrusted(hello.body)
    extension = b"\0\1\0\1" + bytes([code])
    assert max_fragment_length_untrusted(known) is None
    asking = known._replace(extensions=known.extensions + extension)
    assert max_fragment_length_untrusted(asking) == length
    at = len(hello.body) - len(known.extensions) - 2
    body = hello.body[:at] + struct.pack("!H", len(asking.extensions)) + asking.extensions
    handshake = server.connection(0.0)._handshake  # type: ignore[attr-defined]
    handshake._note_client_hello(body)
    assert handshake.longest_content == (length or MAX_PLAINTEXT_LENGTH) + 320
    handshake._note_client_hello(hello.body)
    assert handshake.longest_content == MAX_PLAINTEXT_LENGTH + 320
    with pytest.raises(WireError):
        max_fragment_length_untrusted(known._replace(extensions=b"\0\1\0\2" + bytes([1])))


@pytest.mark.parametrize("number", [1, 3, 5])
def test_empty_messages_in_a_run_delay_nothing(forger: Forger, number: int) -> None:
    """A stack that sends them may have them coalesced by the kernel."""
    server = forger.pair.server
    empty = [forger.record(ContentType.APPLICATION_DATA, b"") for _ in range(number)]
    run = b"".join(empty)
    while run:
        found = server.unprotect_many(run, len(empty[0]), 0.0)
        assert (found.messages, found.events or None) == ([], None)
        run = run[found.taken :]
    assert server.statistics["dropped_unauthenticated"] == number
    for _ in range(3):
        assert_stands(forger)
