"""``python3 -m dtls.test.test_perf``, run as users run it, with tiny amounts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree as ET

import pytest

from dtls.test import perf_jobs, perf_options, test_perf

if TYPE_CHECKING:
    from typing_extensions import Self


PATIENCE = 60.0
KEY = "a key that is long enough"
PROTOCOLS = ["tcp", "udp", "ssl", "dtls"]
SIZES = [200, 1000]
MESSAGES = 50


class Program:
    """The program in a process of its own."""

    def __init__(self, *arguments: str, key: str | None = None, stdin: bool = False) -> None:
        environment = {name: value for name, value in os.environ.items() if name != perf_options.KEY_VARIABLE}
        if key is not None:
            environment[perf_options.KEY_VARIABLE] = key
        self.output = ""
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "dtls.test.test_perf", *arguments],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        os.write(self.process.stdin.fileno(), text.encode())

    def read_until(self, pattern: str) -> str:
        """What the pattern's group matches in all of the output."""
        deadline = time.monotonic() + PATIENCE
        stdout = self.process.stdout
        assert stdout is not None
        while not (match := re.search(pattern, self.output)):
            assert select.select([stdout], [], [], deadline - time.monotonic())[0], self.output
            part = os.read(stdout.fileno(), 4096)
            assert part, self.output
            self.output += part.decode()
        return match[match.lastindex or 0]

    def end(self) -> int:
        """Its exit status. All that it has said is in ``output`` then."""
        rest, _ = self.process.communicate(timeout=PATIENCE)
        self.output += rest.decode()
        return self.process.returncode

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        if not path.exists():
            pytest.skip("this system does not tell which processes belong to which")
        return [int(pid) for pid in path.read_text().split()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        with self.process:
            self.process.kill()


class Manager(Program):
    """One that has remote clients do the jobs."""

    def __init__(self, *arguments: str, key: str | None = KEY) -> None:
        super().__init__("-s", "127.0.0.1:0", *arguments, key=key)
        try:
            self.address = ("127.0.0.1", int(self.read_until(r"Waiting for clients at 127\.0\.0\.1:(\d+)\n")))
        except BaseException:
            with self.process:
                self.process.kill()
            raise

    def client(self, key: str | None = KEY) -> Program:
        return Program("-c", f"127.0.0.1:{self.address[1]}", key=key)


def gone(pid: int) -> bool:
    """Whether a process of somebody else's ends within the deadline."""
    stat = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        select.select([], [], [], 0.01)
    return False


# --- a scripted run --------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    status: int
    output: str
    figures: dict[str, Any]
    picture: str
    left: list[str]

    def result(self, protocol: str, size: int) -> dict[str, Any]:
        found = [
            result
            for result in self.figures["results"]
            if result["protocol"] == protocol and result["size"] == size
        ]
        assert len(found) == 1
        result: dict[str, Any] = found[0]
        return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("perf")
    temporary = tmp_path_factory.mktemp("temporary")
    figures, picture = directory / "figures.json", directory / "picture.svg"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with Program(
            *("--run", "all", "--sizes", ",".join(map(str, SIZES)), "--messages", str(MESSAGES)),
            *("--json", str(figures), "--plot", str(picture)),
        ) as program:
            status = program.end()
    assert figures.exists(), program.output
    return Run(
        status,
        program.output,
        json.loads(figures.read_text()),
        picture.read_text(),
        [path.name for path in temporary.iterdir()],
    )


def test_everything_is_measured_in_one_scripted_run(run: Run) -> None:
    assert run.status == 0, run.output
    measured = [(result["protocol"], result["size"]) for result in run.figures["results"]]
    assert measured == [(protocol, size) for size in SIZES for protocol in PROTOCOLS]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_figures_of_each_protocol_are_complete_and_consistent(run: Run, protocol: str, size: int) -> None:
    result = run.result(protocol, size)
    assert (result["error"], result["not_available"], result["messages"]) == (None, None, MESSAGES)
    for direction in ("inbound", "outbound"):
        way = result[direction]
        assert way["sent"] == MESSAGES
        assert way["lost"] == way["sent"] - way["received"]
        assert way["received"] == MESSAGES or protocol in ("udp", "dtls")
        assert way["seconds"] > 0
        rate = (way["received"] - 1) / way["seconds"]
        assert way["messages_per_second"] == pytest.approx(rate)
        assert way["mib_per_second"] == pytest.approx(rate * size / 2**20)
        udp = run.result("udp", size)[direction]
        assert way["ratio_to_raw_udp"] == pytest.approx(way["mib_per_second"] / udp["mib_per_second"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ssl_and_dtls_are_encrypted_with_the_same_suite_and_the_others_are_not(
    run: Run, protocol: str
) -> None:
    cipher = run.result(protocol, SIZES[0])["cipher"]
    version = {"ssl": "TLSv1.2", "dtls": "DTLSv1.2"}.get(protocol)
    if version is None:
        assert cipher is None
    else:
        assert cipher.endswith(f", {version}")
        assert cipher.partition(",")[0] == run.result("ssl", SIZES[0])["cipher"].partition(",")[0]


def test_the_figures_say_what_they_were_measured_with(run: Run) -> None:
    assert run.figures["format"] == 1
    assert run.figures["openssl"].startswith("OpenSSL")
    assert re.match(r"OpenSSL \d", run.figures["dtls_openssl"])
    assert {"python", "system"} < set(run.figures)


def test_a_table_and_bars_of_plain_characters_end_what_goes_to_a_file(run: Run) -> None:
    assert run.output.isascii()
    assert "\x1b" not in run.output
    lines = run.output.split("\n")
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("Transport ")) :]
    for title in ("Raw TCP", "Raw UDP", "SSL (TCP)", "DTLS (UDP)"):
        assert sum(line.startswith(title + " ") for line in table) == len(SIZES)
        for size in SIZES:
            assert re.search(
                rf"^{re.escape(title)}, {size:,} B +inbound  #+ [\d.,]+$", "\n".join(table), re.MULTILINE
            )
    assert max(len(line) for line in table if not line.startswith("Written")) <= 80


def test_the_picture_is_well_formed_and_has_a_bar_for_each_figure(run: Run) -> None:
    root = ET.fromstring(run.picture)  # noqa: S314 - made here
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == space + "svg"
    legend = 1
    for direction in ("inbound", "outbound"):
        drawn = [bar for bar in root.iter(space + "rect") if bar.get("class") == direction]
        assert len(drawn) == legend + len(PROTOCOLS) * len(SIZES)
        right = max(float(bar.get("x", "")) + float(bar.get("width", "")) for bar in drawn)
        assert right <= float(root.get("width", ""))
        rates = [result[direction]["mib_per_second"] for result in run.figures["results"]]
        widths = [float(bar.get("width", "")) for bar in drawn[legend:]]
        assert rates.index(max(rates)) == widths.index(max(widths))
    words = {text.text for text in root.iter(space + "text")}
    assert {"Raw TCP", "Raw UDP", "SSL (TCP)", "DTLS (UDP)", "200 bytes", "1,000 bytes"} < words


def test_no_temporary_file_is_left_behind(run: Run) -> None:
    assert run.left == []


def test_one_direction_over_ipv6_with_each_demultiplexer(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("this system has no IPv6 loopback")
    figures = tmp_path / "figures.json"
    with Program(
        *("--run", "dtls,tcp", "--demux", "osnet,router", "--directions", "outbound", "--ipv6"),
        *("--messages", "20", "--json", str(figures)),
    ) as program:
        status = program.end()
    osnet, router, tcp = json.loads(figures.read_text())["results"]
    assert [result["demux"] for result in (osnet, router, tcp)] == ["osnet", "router", None]
    assert all(result["inbound"] is None for result in (osnet, router, tcp))
    assert tcp["outbound"]["received"] == 20
    assert osnet["outbound"]["received"] > 0
    assert router["outbound"]["received"] > 0
    assert status == 0, program.output


def test_a_failed_test_is_shown_and_does_not_keep_others_from_being_run() -> None:
    with Program("--run", "dtls,ssl,tcp", "--ciphers", "NO-SUCH-CIPHER", "--messages", "5") as program:
        assert program.end() == 1
    assert re.search(
        r"^DTLS \(UDP\) +1,400 failed: .*cipher", program.output, re.MULTILINE | re.IGNORECASE
    ), program.output
    assert re.search(r"^SSL \(TCP\) +1,400 failed: .*cipher", program.output, re.MULTILINE | re.IGNORECASE), (
        program.output
    )
    assert re.search(r"^Raw TCP +1,400 inbound ", program.output, re.MULTILINE), program.output


# --- remote clients --------------------------------------------------------------------------------------------------


def test_a_remote_client_takes_jobs_and_garbage_and_wrong_keys_are_refused() -> None:
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(Manager("--run", "udp,dtls", "--messages", "20"))
        strangers = [
            stack.enter_context(socket.create_connection(manager.address, PATIENCE)) for _ in range(40)
        ]
        for stranger, garbage in zip(
            strangers,
            (
                b"GET / HTTP/1.1\r\n\r\n",
                b"\0" * 100_000,
                b"[]\n",
                b'{"nonce":"","name":"","proof":"\\ud800"}\n',
                b'{"nonce":"","name":"\\u001b","proof":""}\n',
                b"{}\n" * 9999,
            ),
            strict=False,  # the others are silent
        ):
            with contextlib.suppress(OSError):  # it need not listen to all of that
                stranger.sendall(garbage)
        wrong = stack.enter_context(manager.client("another key, also long"))
        assert wrong.end() == 1
        assert "has another key" in wrong.output
        manager.read_until(r"Refused: 127\.0\.0\.1:\d+ does not know the key")
        client = stack.enter_context(manager.client())
        assert manager.end() == 0, manager.output
        assert client.end() == 0, client.output
    assert re.search(r"^DTLS \(UDP\) +1,400 inbound ", manager.output, re.MULTILINE), manager.output
    assert "Job 1: udp, 20 messages of 1,400 bytes inbound and outbound" in client.output
    assert "Job 2: dtls" in client.output
    assert "The manager is done" in client.output
    assert "Traceback" not in manager.output
    assert KEY not in manager.output


def test_the_manager_makes_a_key_and_prints_it_and_transfers_use_the_port_that_was_given() -> None:
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with Manager("--run", "tcp", "--messages", "20", "-p", str(port), "--timeout", "30", key=None) as manager:
        key = manager.read_until(rf"{perf_options.KEY_VARIABLE}=(\S+) python3 -m \S+ -c ")
        assert len(key) >= perf_jobs.SHORTEST_KEY
        with manager.client(key) as client:
            assert manager.end() == 0, manager.output
            assert client.end() == 0, client.output


def test_a_client_that_vanishes_is_noticed_and_the_next_one_does_the_next_job() -> None:
    amount = ("--messages", "10000000", "--timeout", "600")  # nothing but the end of the client ends this
    with Manager("--run", "udp,dtls", *amount) as manager:
        for protocol in ("udp", "dtls"):
            with manager.client() as client:
                client.read_until(f"Job .*: {protocol}")
                manager.read_until(
                    r"Connected: [^\n]*\n" if protocol == "udp" else r"(?s)Connected.*Connected"
                )
                client.process.kill()
                assert client.end() != 0
        assert manager.end() == 1
    assert (
        len(re.findall(r"^  Failed: the client \(process .*\) has gone", manager.output, re.MULTILINE)) == 2
    )
    assert re.search(r"^Raw UDP +1,400 failed: ", manager.output, re.MULTILINE), manager.output


def test_a_manager_that_vanishes_is_noticed_by_its_clients() -> None:
    amount = ("--messages", "10000000", "--timeout", "600")
    with Manager("--run", "udp", *amount) as manager, manager.client() as client:
        client.read_until("Job 1: udp")
        manager.process.kill()
        assert client.end() == 1
    assert re.search(r"the manager at 127\.0\.0\.1:\d+ has gone", client.output), client.output


def test_no_client_comes() -> None:
    with Manager("--run", "tcp", "--wait", "0.1") as manager:
        assert manager.end() == 1
    assert "Failed: no client came within 0.1 seconds" in manager.output


# --- the menu and the end --------------------------------------------------------------------------------------------


def test_the_menu_runs_what_is_chosen_until_end_of_file() -> None:
    with Program("--messages", "20", stdin=True) as program:
        for number, title in enumerate(("Exit", "Raw TCP", "Raw UDP", r"SSL \(TCP\)", r"DTLS \(UDP\)")):
            program.read_until(rf"\t{number}: {title}\n")
        program.type("4\n99\nno\n1\n")
        assert program.process.stdin is not None
        program.process.stdin.close()
        program.process.stdin = None
        assert program.end() == 0, program.output
    assert program.output.count("Invalid selection") == 2
    assert re.search(r"^DTLS \(UDP\) +1,400 inbound ", program.output, re.MULTILINE), program.output
    assert re.search(r"^Raw TCP +1,400 inbound ", program.output, re.MULTILINE), program.output


def test_the_menu_ends_at_once_at_end_of_file_and_when_told_to_exit() -> None:
    with Program() as program:
        assert program.end() == 0
    assert program.output.endswith("Protocol: \n")
    with Program(stdin=True) as program:
        program.type("0\n")
        assert program.end() == 0
    assert "Traceback" not in program.output


@pytest.mark.skipif(os.name != "posix", reason="there is no such signal for processes here")
def test_ctrl_c_at_the_menu_ends_it_cleanly() -> None:
    with Program(stdin=True) as program:
        program.read_until("Protocol: ")
        program.process.send_signal(signal.SIGINT)
        # A signal between Python's last look for one and its wait for a line is seen when there is a line.
        with contextlib.suppress(BrokenPipeError):
            program.type("\n")
        assert program.end() == 0
    assert "Traceback" not in program.output


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals for processes here")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_test_that_is_interrupted_leaves_no_process_behind(number: int, status: int) -> None:
    with Program("--run", "tcp,dtls", "--messages", "10000000") as program:
        program.read_until("Raw TCP: ")
        deadline = time.monotonic() + PATIENCE
        while not (children := program.children()):
            assert time.monotonic() < deadline
            select.select([], [], [], 0.01)
        program.process.send_signal(number)
        assert program.end() == status, program.output
        assert all(gone(child) for child in children)
    assert "Traceback" not in program.output


@pytest.mark.skipif(os.name != "posix", reason="there is no such signal for processes here")
def test_a_manager_that_is_interrupted_amid_a_transfer_tells_its_clients() -> None:
    amount = ("--messages", "10000000", "--timeout", "600")
    with Manager("--run", "tcp,dtls", *amount) as manager, manager.client() as client:
        client.read_until("Job 1: tcp")
        with manager.client() as idle:
            idle.read_until("waiting for a job")
            manager.process.send_signal(signal.SIGINT)
            assert manager.end() == 130, manager.output
            assert (client.end(), idle.end()) == (0, 0), client.output
    assert "has given up: KeyboardInterrupt" in client.output
    assert "Job" not in idle.output
    for program in (manager, client, idle):
        assert "Traceback" not in program.output
        assert "The manager is done" in program.output or program is manager


# --- the command line ------------------------------------------------------------------------------------------------


def test_help_tells_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        test_perf.main(["-h"])
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    for option in ("-s PORT", "-c HOST:PORT", "-p PORT", "--run", "--sizes", "--demux", "--json", "--plot"):
        assert option in shown
    assert max(map(len, shown.splitlines())) <= 110


MISTAKES = {
    "-c nowhere": "'nowhere' is not HOST:PORT",
    "-c ::1:70": "[ADDRESS]:PORT",
    "-c [::1]:0": "a client needs to know the port",
    "-c host:70000": "'70000' is not a port: 0 (any) to 65535",
    "-s seven": "'seven' is not a port",
    "-p -1": "'-1' is not a port",
    "-s 0 -c host:70": "not allowed with argument -s",
    "-c host:70 --run all --ipv6": "with --client, the manager decides: remove --run, --ipv6",
    "--run tcp,pigeon": "unknown: 'pigeon'; there are tcp, udp, ssl, dtls",
    "--sizes 31": "'31' is not a whole number from 32 to 16,384",
    "--sizes 1400,20000": "'20000' is not",
    "--messages 0": "'0' is not a whole number from 1",
    "--mib nan": "'nan' is not a number",
    "--mib 1 --messages 1": "not allowed with argument",
    "--directions up": "invalid choice: 'up'",
    "--demux kernel": "unknown: 'kernel'; there are osnet, router",
    "--timeout 0": "'0' is not a number from 0.1 to 600",
    "--ciphers \u00e9": "not a list of cipher suites",
    "--json /": "'/' is a directory",
    "--json /no/such/file": "there is no directory '/no/such'",
    "--plot picture.png": "its name ends in .svg",
    "--key-file /no/such/file": "cannot be read: No such file",
    f"--key-file {os.devnull} -s 0": "is not 16 or more printable characters",
    "more": "unrecognized arguments: more",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_on_the_command_line_are_told(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        test_perf.main(arguments.split())
    assert raised.value.code == 2
    assert MISTAKES[arguments] in capsys.readouterr().err


def test_a_client_needs_a_key_that_nobody_can_guess(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv(perf_options.KEY_VARIABLE, raising=False)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: PTH123, SIM115 - not a terminal
    with contextlib.closing(sys.stdin):
        assert test_perf.main(["-c", "localhost:70"]) == 1
    assert "the manager's key is needed" in capsys.readouterr().err
    monkeypatch.setenv(perf_options.KEY_VARIABLE, "short")
    with pytest.raises(SystemExit):
        test_perf.main(["-c", "localhost:70"])
    assert "the key in DTLS_PERF_KEY is not 16 or more" in capsys.readouterr().err
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    assert perf_options.parse(["-c", "localhost:70", "--key-file", str(path)]).key == KEY


def test_an_address_that_cannot_be_used_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert test_perf.main(["-s", "192.0.2.1:70"]) == 1  # TEST-NET-1 is nobody's
    assert "clients cannot come to 192.0.2.1:70" in capsys.readouterr().err
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        monkeypatch.setenv(perf_options.KEY_VARIABLE, KEY)
        assert test_perf.main(["-c", address]) == 1
    assert f"cannot connect to the manager at {address}: Connection refused" in capsys.readouterr().err


def test_pytest_does_not_take_the_program_for_tests() -> None:
    path = test_perf.__file__
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", path],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
