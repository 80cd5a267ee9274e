"""What a newcomer sees first must be true, and must say so when it is not."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from dtls.cli import demo
from dtls.cli.screen import Screen


@pytest.fixture(scope="module")
def output() -> str:
    """What the demonstration prints, run as people run it."""
    finished = subprocess.run(
        [sys.executable, "-m", "dtls.cli.demo"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={"PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stderr == ""
    return finished.stdout


def test_every_flight_of_the_handshake_is_shown_in_order(output: str) -> None:
    places = [output.index(f"flight {number} ") for number in range(1, 7)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "name",
    [
        "ClientHello",
        "HelloVerifyRequest",
        "ServerHello",
        "Certificate",
        "ServerKeyExchange",
        "ServerHelloDone",
        "ClientKeyExchange",
        "ChangeCipherSpec",
        "Finished (encrypted)",
    ],
)
def test_every_record_is_shown_with_its_size(output: str, name: str) -> None:
    lines = [line for line in output.splitlines() if f"│   {name} " in line]
    assert lines
    assert all(" bytes   epoch " in line for line in lines)


def test_what_was_negotiated_is_shown(output: str) -> None:
    for value in ("DTLSv1.2", "AES", "localhost, issued by Demonstration CA", "dtls-demo"):
        assert value in output


def test_messages_are_echoed_with_their_round_trip_times(output: str) -> None:
    for message in demo.MESSAGES:
        assert f" ms  {message!r}" in output


def test_a_message_that_is_too_long_is_seen_refused(output: str) -> None:
    assert "refused: the limit is" in output


def test_a_lost_datagram_is_seen_lost_and_sent_again(output: str) -> None:
    assert "✗ lost" in output
    assert "sent again" in output[output.index("✗ lost") :]


def test_both_sides_are_seen_to_close(output: str) -> None:
    end = output[output.index("4  The end") : output.index("5  The same")]
    assert end.count("Alert (encrypted)") == 2


def test_nothing_is_wider_than_the_screen(output: str) -> None:
    assert max(map(len, output.splitlines())) <= 88


def plain_screen() -> Screen:
    return Screen(io.StringIO(), colour=False, ascii_only=True, width=80)


def test_nothing_is_wider_than_the_narrowest_screen() -> None:
    printed = io.StringIO()
    demo.show(Screen(printed, colour=False, ascii_only=False, width=80))
    assert max(map(len, printed.getvalue().splitlines())) <= 80


def test_whoever_reads_the_beginning_only_sees_no_traceback() -> None:
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb") as reader,
        subprocess.Popen(
            [sys.executable, "-m", "dtls.cli.demo"], stdout=writing, stderr=subprocess.PIPE
        ) as running,
    ):
        os.close(writing)
        assert reader.read(10)
        reader.close()
        _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (141, b"")


def test_it_fails_if_an_echo_is_not_what_was_sent() -> None:
    with pytest.raises(demo.DemoError, match="an echo was not what had been sent"):
        demo.show(plain_screen(), corrupts=True)


def test_it_fails_if_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEADLINE", 0.0)
    with pytest.raises(demo.DemoError):
        demo.show(plain_screen())


def test_it_fails_if_the_lost_flight_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo._LosesFlight, "__call__", lambda *_: False)
    with pytest.raises(demo.DemoError, match="the lost flight was not sent again"):
        demo.show(plain_screen())


def test_a_failure_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(screen: Screen) -> None:
        message = "on purpose"
        raise demo.DemoError(message)

    monkeypatch.setattr(demo, "show", fails)
    assert demo.main([]) == 1
    assert "The demonstration failed: on purpose" in capsys.readouterr().out


def test_without_unicode_it_is_drawn_in_ascii() -> None:
    stream = io.StringIO()
    Screen(stream, colour=False, ascii_only=True, width=80).line("├── 5 bytes ──▶│ ✓ µ")
    assert stream.getvalue().isascii()
    assert stream.getvalue() == "+-- 5 bytes --> | x u".replace(" | x u", "| * u") + "\n"
