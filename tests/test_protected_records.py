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
from dtls.events import AlertReceived, DataReceived, PeerClosed
from dtls.wire import DTLS_1_2, ContentType

from .pair import Pair

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.context import Context

AES128 = "ECDHE-ECDSA-AES128-GCM-SHA256"
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
