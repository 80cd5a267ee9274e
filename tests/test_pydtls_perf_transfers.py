"""What the throughput test does when datagrams are lost, strangers come, or the other side is not what it should be."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls.certificates import CertificateAuthority, IssuedCertificate
from dtls.test import perf_flow, perf_transfer
from dtls.test.perf_flow import Flow, Identity, Job, Outcome, Transfer
from dtls.test.perf_jobs import LONGEST_LINE, Channel, Gone, PerfError, Refused, admit, apply
from dtls.test.perf_report import Result, Style, bars, figures, ratio, svg, table
from dtls.test.support import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "a key that is long enough"
LONG = 60.0
"""Seconds, in which a test has long failed."""
SHORT = 0.3
"""Seconds that are meant to run out."""
WAYS = [("tcp", None), ("udp", None), ("ssl", None), ("dtls", "osnet"), ("dtls", "router")]


def connected_pair() -> tuple[socket.socket, socket.socket]:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    """The manager's, and the client's."""
    near, far = connected_pair()
    manager, client = Channel(near, "the client"), Channel(far, "the manager")
    manager.secure(b"down", b"up")
    client.secure(b"up", b"down")
    with contextlib.closing(manager), contextlib.closing(client):
        yield manager, client


@pytest.fixture
def identity(ca: CertificateAuthority, server_certificate: IssuedCertificate) -> Identity:
    return Identity(server_certificate.private_key_and_chain_pem, ca.certificate_pem)


def job_for(identity: Identity, transport: str, **options: Any) -> Job:
    chosen = {
        "number": 1,
        "port": 0,
        "chunks": 30,
        "size": 100,
        "directions": perf_flow.DIRECTIONS,
        "timeout": LONG,
        "ciphers": None,
        **options,
    }
    return Job(transport=transport, anchors=identity.root.decode(), **chosen)


def silent(_direction: str, _done: int, _all: int) -> None:
    """Nobody looks."""


class Transfers:
    """A server in a thread, and what it has sent its client to do."""

    def __init__(self, channels: tuple[Channel, Channel], identity: Identity, job: Job) -> None:
        manager, self.channel = channels
        self.server = Worker(perf_transfer.serve, manager, identity, job, silent)
        message = self.channel.receive(LONG)
        assert message is not None
        self.job = Job.from_message(message)

    def work(self) -> tuple[Outcome, dict[str, Transfer]]:
        received = perf_transfer.work(self.channel, self.job)
        outcome: Outcome = self.server.result()
        return outcome, received


@contextlib.contextmanager
def demultiplexing(name: str | None) -> Iterator[None]:
    with perf_transfer.demultiplexing(name) as unavailable:
        if unavailable is not None:
            pytest.skip(unavailable)
        yield


def lose(monkeypatch: pytest.MonkeyPatch, lost: Callable[[bytes], bool]) -> None:
    """Have messages not be sent, without the sender's noticing it."""
    send = Flow.send

    def send_some(flow: Flow, message: bytes) -> None:
        if not lost(message):
            send(flow, message)

    monkeypatch.setattr(Flow, "send", send_some)


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have receivers, and nothing else, wait for a short time only."""
    receive_all = perf_transfer.receive_all

    def receive(flow: Flow, *arguments: Any) -> Transfer:
        flow.job = replace(flow.job, timeout=SHORT)
        return receive_all(flow, *arguments)

    monkeypatch.setattr(perf_transfer, "receive_all", receive)


# --- loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("transport", "demux"), [("udp", None), ("dtls", "osnet"), ("dtls", "router")])
def test_lost_datagrams_are_counted(
    transport: str,
    demux: str | None,
    channels: tuple[Channel, Channel],
    identity: Identity,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lose(
        monkeypatch,
        lambda message: message[:1] == b"s" and (int(message[1:11]) % 3 == 2 or message[10:11] == b"9"),
    )
    with demultiplexing(demux):
        outcome, received = Transfers(channels, identity, job_for(identity, transport)).work()
    assert outcome.inbound is not None
    assert outcome.outbound is not None
    assert (outcome.inbound.sent, outcome.inbound.received) == (30, 18)
    assert (outcome.outbound.sent, outcome.outbound.received) == (30, 18)
    assert received["inbound"] == outcome.inbound
    assert received["outbound"] == outcome.outbound


@pytest.mark.parametrize("transport", ["udp", "dtls"])
def test_lost_end_markers_and_a_lost_greeting_do_not_hang_it(
    transport: str, channels: tuple[Channel, Channel], identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    greetings: list[bytes] = []

    def lost(message: bytes) -> bool:
        if message[:1] == b"h":
            greetings.append(message)
            return len(greetings) == 1
        return message[:1] == b"t" or (message[:1] == b"s" and message[9:11] == b"29")

    lose(monkeypatch, lost)
    be_impatient(monkeypatch)
    outcome, _ = Transfers(channels, identity, job_for(identity, transport)).work()
    assert outcome.inbound is not None
    assert outcome.outbound is not None
    assert (outcome.inbound.received, outcome.outbound.received) == (29, 29)
    assert len(greetings) >= 2


def test_nothing_that_arrives_is_a_failure_on_both_sides(
    channels: tuple[Channel, Channel], identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, lambda message: message[:1] in (b"s", b"t"))
    be_impatient(monkeypatch)
    transfers = Transfers(channels, identity, job_for(identity, "udp"))
    with pytest.raises(PerfError, match="the manager has given up: 0 of 30 messages have arrived"):
        perf_transfer.work(transfers.channel, transfers.job)
    with pytest.raises(PerfError, match="0 of 30 messages have arrived"):
        transfers.server.result()


def test_duplicates_and_messages_in_another_order_count_once(
    channels: tuple[Channel, Channel], identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Flow.send
    held: defaultdict[Flow, list[bytes]] = defaultdict(list)  # both ends send, each in a thread of its own

    def send_twice(flow: Flow, message: bytes) -> None:
        mine = held[flow]
        mine.append(message)
        if len(mine) == 2 or message[:1] != b"s":
            for one in [*reversed(mine), mine[0]]:
                send(flow, one)
            mine.clear()

    monkeypatch.setattr(Flow, "send", send_twice)
    outcome, _ = Transfers(channels, identity, job_for(identity, "udp")).work()
    assert outcome.inbound is not None
    assert outcome.inbound.received == 30


def test_a_flood_of_what_nobody_sent_ends_in_time(
    channels: tuple[Channel, Channel], identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flow, "receive", lambda _flow: b"x" * 100)
    be_impatient(monkeypatch)
    transfers = Transfers(channels, identity, job_for(identity, "udp"))
    with pytest.raises(PerfError):
        perf_transfer.work(transfers.channel, transfers.job)
    with pytest.raises(PerfError, match="0 of 30"):
        transfers.server.result()


# --- strangers, and those who vanish ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("transport", "demux"), WAYS)
def test_strangers_at_the_transfer_port_do_not_keep_the_client_out(
    transport: str, demux: str | None, channels: tuple[Channel, Channel], identity: Identity
) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(demultiplexing(demux))
        transfers = Transfers(channels, identity, job_for(identity, transport))
        address = ("127.0.0.1", transfers.job.port)
        kind = socket.SOCK_DGRAM if transfers.job.is_datagram else socket.SOCK_STREAM
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\xfe\xfd" + bytes(300), b"h" * 33, b"", b"h"):
            stranger = stack.enter_context(socket.socket(socket.AF_INET, kind))
            stranger.connect(address)
            if garbage:
                stranger.send(garbage)
        if transport == "dtls":
            other = perf_transfer.patched_ssl.wrap_socket(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            stack.callback(other.close)
            other.settimeout(LONG)
            other.connect(address)
            other.send(b"who I am not")
        outcome, _ = transfers.work()
        assert outcome.inbound is not None
        assert outcome.inbound.received == 30


@pytest.mark.parametrize("transport", perf_flow.TRANSPORTS)
def test_a_client_that_never_comes_is_not_waited_for_longer_than_agreed(
    transport: str, channels: tuple[Channel, Channel], identity: Identity
) -> None:
    transfers = Transfers(channels, identity, job_for(identity, transport, timeout=SHORT))
    with pytest.raises(PerfError, match=r"the client does not come within 0\.3 seconds"):
        transfers.server.result()
    message = transfers.channel.receive(LONG)
    assert message is not None
    assert (message["do"], message["job"]) == ("abort", 1)


@pytest.mark.parametrize("transport", perf_flow.TRANSPORTS)
def test_a_client_that_falls_silent_is_not_waited_for_longer_than_agreed(
    transport: str, channels: tuple[Channel, Channel], identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, lambda message: message[:1] == b"t" or (message[:1] == b"s" and message[9:11] > b"05"))
    monkeypatch.setattr(perf_transfer, "end", lambda flow: flow.hear("received", LONG))
    be_impatient(monkeypatch)
    transfers = Transfers(channels, identity, job_for(identity, transport, directions=("inbound",)))
    if transfers.job.is_datagram:
        outcome, _ = transfers.work()
        assert outcome.inbound is not None
        assert outcome.inbound.received == 6
        return
    with pytest.raises(PerfError, match="6 of 30 messages have arrived"):
        perf_transfer.work(transfers.channel, transfers.job)
    with pytest.raises(PerfError, match="6 of 30 messages have arrived"):
        transfers.server.result()


@pytest.mark.parametrize("transport", perf_flow.TRANSPORTS)
def test_a_client_that_vanishes_is_noticed_at_once(
    transport: str, channels: tuple[Channel, Channel], identity: Identity
) -> None:
    transfers = Transfers(channels, identity, job_for(identity, transport, timeout=10 * LONG))
    transfers.channel.close()
    with pytest.raises(Gone, match="the client has gone"):
        transfers.server.result()


@pytest.mark.parametrize("transport", perf_flow.TRANSPORTS)
def test_a_client_that_vanishes_amid_a_transfer_is_noticed_at_once(
    transport: str, channels: tuple[Channel, Channel], identity: Identity
) -> None:
    transfers = Transfers(channels, identity, job_for(identity, transport, timeout=10 * LONG))
    flow = perf_transfer._connect(transfers.channel, transfers.job)
    with contextlib.closing(flow.sock):
        perf_transfer._greet(flow)
        transfers.channel.close()
        with pytest.raises(Gone, match="the client has gone"):
            transfers.server.result()


def test_a_client_trusts_no_other_server(
    channels: tuple[Channel, Channel], identity: Identity, server_certificate: IssuedCertificate
) -> None:
    other = Identity(identity.key_and_chain, CertificateAuthority().certificate_pem)
    transfers = Transfers(channels, other, job_for(other, "dtls"))
    with pytest.raises(OSError, match="certificate verify failed"):
        perf_transfer.work(transfers.channel, transfers.job)
    with pytest.raises(PerfError, match=r"the client has given up: .*certificate verify failed"):
        transfers.server.result()


@pytest.mark.parametrize(
    "figures",
    [
        {"count": 31},
        {"count": 0},
        {"count": True},
        {"seconds": float("nan")},
        {"seconds": -1},
        {"seconds": 10**400},
        {},
    ],
)
def test_figures_that_cannot_be_are_not_believed(
    figures: dict[str, Any], channels: tuple[Channel, Channel], identity: Identity
) -> None:
    job = job_for(identity, "tcp", directions=("outbound",))
    transfers = Transfers(channels, identity, job)
    flow = perf_transfer._connect(transfers.channel, transfers.job)
    with contextlib.closing(flow.sock):
        perf_transfer._greet(flow)
        flow.tell("received", **(figures and {"count": 30, "seconds": 1.0, **figures}))
        with pytest.raises(PerfError, match="does not say what it has received"):
            transfers.server.result()


def test_the_next_job_is_done_after_one_has_failed(
    channels: tuple[Channel, Channel], identity: Identity
) -> None:
    with pytest.raises(PerfError):
        Transfers(channels, identity, job_for(identity, "tcp", timeout=SHORT)).server.result()
    # The client never did it, and the words about it come before the next.
    manager, client = channels
    server = Worker(perf_transfer.serve, manager, identity, job_for(identity, "tcp", number=2), silent)
    while True:
        message = client.receive(LONG)
        assert message is not None
        if message["do"] == "job":
            break
    client.send(do="failed", job=1, reason="the last words about the first job")
    perf_transfer.work(client, Job.from_message(message))
    assert server.result().inbound.received == 30


BAD_JOBS: dict[str, Any] = {
    "number": "1",
    "transport": "pigeon",
    "port": 65_536,
    "chunks": 10**9,
    "size": 16_385,
    "directions": ["sideways"],
    "timeout": float("inf"),
    "ciphers": 7,
    "anchors": "\ud800",
    "token": "short",
}


@pytest.mark.parametrize("field", BAD_JOBS)
def test_a_client_does_no_job_that_makes_no_sense(field: str, identity: Identity) -> None:
    good = {**vars(job_for(identity, "udp", port=70)), "directions": ["inbound"]}
    assert Job.from_message(good).port == 70
    with pytest.raises(PerfError, match="cannot be done"):
        Job.from_message({**good, field: BAD_JOBS[field]})
    with pytest.raises(PerfError, match="cannot be done"):
        Job.from_message(
            {name: value for name, value in good.items() if name != field or field == "ciphers"}
            | ({"ciphers": []} if field == "ciphers" else {})
        )


# --- the key ---------------------------------------------------------------------------------------------------------


def test_both_sides_prove_that_they_know_the_key() -> None:
    near, far = connected_pair()
    admission = Worker(admit, near, ("127.0.0.1", 1), KEY)
    client = apply(far, ("127.0.0.1", 2), KEY)
    with contextlib.closing(client), contextlib.closing(admission.result()) as manager:
        manager.send(do="something")
        assert client.receive(LONG) == {"do": "something"}
        client.send(answer=1)
        assert manager.receive(LONG) == {"answer": 1}


def test_a_client_with_another_key_is_refused() -> None:
    near, far = connected_pair()
    admission = Worker(admit, near, ("127.0.0.1", 1), KEY)
    with pytest.raises(Refused, match="has another key"):
        apply(far, ("127.0.0.1", 2), KEY + "!")
    with pytest.raises(Refused, match="does not know the key"):
        admission.result()
    assert (near.fileno(), far.fileno()) == (-1, -1)


def test_a_manager_that_does_not_know_the_key_is_refused() -> None:
    near, far = connected_pair()
    application = Worker(apply, far, ("127.0.0.1", 2), KEY)
    with contextlib.closing(Channel(near, "the client")) as channel:
        channel.send(program="dtls.test.test_perf", version=1, nonce="00")
        answer = channel.receive(LONG)
        assert answer is not None
        channel.send(proof=answer["proof"])  # it has heard this one
        with pytest.raises(Refused, match="does not know the key"):
            application.result()


def test_another_program_is_not_taken_for_the_manager() -> None:
    near, far = connected_pair()
    with contextlib.closing(near):
        near.sendall(b"220 mail.example ESMTP\r\n")
        with pytest.raises(Gone, match="something else than a message"):
            apply(far, ("127.0.0.1", 2), KEY)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b"1", b"2"),
        lambda line: line[65:],
        lambda line: line + line,
        lambda _: b"\xff\n",
        lambda _: b"x" * (LONGEST_LINE + 1),
    ],
    ids=["altered", "without its code", "repeated", "garbage", "without an end"],
)
def test_a_message_that_was_meddled_with_ends_the_connection(change: Callable[[bytes], bytes]) -> None:
    near, far = connected_pair()
    with (
        contextlib.closing(Channel(near, "it")) as sender,
        contextlib.closing(Channel(far, "she")) as receiver,
    ):
        sender.secure(b"one", b"two")
        receiver.secure(b"two", b"one")
        sender.send(number=1)
        line = far_line(far)
        near.setblocking(True)
        near.sendall(change(line))
        if change(b"line") == b"lineline":
            assert receiver.receive(LONG) == {"number": 1}
        with pytest.raises(Gone):
            receiver.receive(LONG)


def test_nobody_can_fill_the_memory_with_messages() -> None:
    near, far = connected_pair()
    with contextlib.closing(near), contextlib.closing(Channel(far, "it")) as channel:
        near.sendall(b"{}\n" * 1000)
        with pytest.raises(Gone, match="something else than messages"):
            channel.receive(LONG)


def far_line(sock: socket.socket) -> bytes:
    """Take a line off a socket."""
    sock.setblocking(True)
    sock.settimeout(LONG)
    line = b""
    while not line.endswith(b"\n"):
        line += sock.recv(1)
    sock.setblocking(False)
    return line


# --- reports ---------------------------------------------------------------------------------------------------------


def result_of(suite: str, *transfers: Transfer | None, size: int = 1024) -> Result:
    inbound, outbound = transfers
    return Result(suite, suite.upper(), size, 101, outcome=Outcome(inbound, outbound, None))


def test_rates_and_ratios_are_of_what_was_received() -> None:
    udp = result_of("udp", Transfer(101, 101, 2.0), Transfer(101, 51, 1.0))
    ours = result_of("dtls", Transfer(101, 51, 2.0), None)
    assert udp.messages_per_second("inbound") == 50
    assert udp.lost("outbound") == 50
    assert ours.mib_per_second("inbound") == pytest.approx(25 / 1024)
    assert ratio([ours, udp], ours, "inbound") == pytest.approx(0.5)
    assert ratio([udp, ours], ours, "outbound") is None
    assert ratio([result_of("udp", Transfer(9, 9, 1.0), None, size=64), ours], ours, "inbound") is None
    assert any("50 (49.5%)" in line for line in table([udp, ours]))
    assert "49.5% lost" in svg([udp, ours])


def test_results_without_a_rate_are_shown_all_the_same() -> None:
    instant = result_of("tcp", Transfer(1, 1, 0.0), Transfer(2, 2, 0.0))
    failed = Result("ssl", "SSL <&>", 100, 5, error="no <luck>")
    assert bars([instant, failed], Style(False, False, 80)) == []
    assert "SSL <&>               100 failed: no <luck>" in table([instant, failed])
    assert "no &lt;luck&gt;" in svg([instant, failed])
    shown = json.loads(json.dumps(figures([instant, failed]), allow_nan=False))["results"]
    assert shown[0]["inbound"]["mib_per_second"] is None
    assert shown[1]["error"] == "no <luck>"


def test_bars_are_as_long_as_the_rates_and_fit_the_terminal() -> None:
    results = [result_of("udp", Transfer(101, 101, 0.01), Transfer(101, 101, 0.02))]
    plain = bars(results, Style(False, False, 60))
    drawn = [line.count("#") for line in plain if "#" in line]
    assert drawn[0] == pytest.approx(2 * drawn[1], abs=1)
    assert max(map(len, plain)) <= 60
    coloured = bars(results, Style(True, True, 60))
    assert sum("█" in line and "\x1b[" in line for line in coloured) == 2


# --- demultiplexers --------------------------------------------------------------------------------------------------


def test_demultiplexers_are_chosen_through_the_package_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def force() -> bool:
        calls.append("force")
        return True

    monkeypatch.setattr(dtls, "force_routing_demux", force)
    monkeypatch.setattr(dtls, "reset_default_demux", lambda: calls.append("reset"))
    for name, last in (("router", "force"), ("osnet", "reset")):
        with perf_transfer.demultiplexing(name) as unavailable:
            assert unavailable is None
            assert calls[-1] == last
        assert calls[-1] == "reset"
    calls.clear()
    with perf_transfer.demultiplexing(None) as unavailable:
        assert unavailable is None
    assert calls == []


def test_what_this_system_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtls, "reset_default_demux", lambda: None)
    monkeypatch.setattr(dtls, "force_routing_demux", lambda: False)
    with perf_transfer.demultiplexing("osnet") as unavailable:
        assert unavailable == "this system has the routing demultiplexer only"
