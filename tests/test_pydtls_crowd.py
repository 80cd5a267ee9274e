"""A hundred clients at a server as PyDTLS's users write it, while strangers spray datagrams of all kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.loopback import HOSTS
from tests.pydtls import Bench

if TYPE_CHECKING:
    from pathlib import Path

    from dtls.certificates import CertificateAuthority

pytestmark = pytest.mark.timeout(180)

CROWD = """
import random
from tests.hellos import OFFER, hello_body, whole
CLIENTS, ROUNDS = 100, 5
if {routing}:
    assert dtls.force_routing_demux()

server = listen(do_handshake_on_connect=False)
address = server.getsockname()
handlers, clients_gone = [], threading.Event()

def handle(client):
    with client:
        client.settimeout(60)
        client.do_handshake()
        try:
            while True:
                client.write(client.read())
        except ssl.SSLError as error:
            assert error.args[0] == ssl.SSL_ERROR_ZERO_RETURN, error
        client.unwrap().close()

def serve():
    server.settimeout(0.1)
    while not clients_gone.is_set():
        if (accepted := server.accept()) is not None:
            handlers.append(Worker(handle, accepted[0]))

def talk(number):
    client = wrap(60, cert_reqs=ssl.CERT_REQUIRED, ca_certs=root)
    client.connect(address)
    port = client.getsockname()[1]
    ports.append(port)
    said = set()
    for turn in range(ROUNDS):
        message = b"%d of client %d at port %d" % (turn, number, port)
        client.settimeout(1)
        for _ in range(30):
            client.write(message)  # again, if the kernel has dropped it: a busy machine's buffers are soon full
            try:
                answer = client.read()
                while answer != message and answer in said:
                    answer = client.read()
                assert answer == message, answer
                break
            except ssl.SSLError as error:
                assert error.errno == err.ERR_READ_TIMEOUT, error
                lost.append(message)
        else:
            raise AssertionError("no answer to %r" % message)
        said.add(message)
    client.unwrap().close()

sprayed, ports, lost = [], [], []

def spray(seed):
    # Faster than this, and the kernel drops what clients say: that would be a test of its buffers.
    rng, count = random.Random(seed), 0
    with udp(host, timeout=None) as sock:
        while not clients_gone.wait(0.002):
            count += 1
            header = bytes([rng.choice([20, 21, 22, 23]), 254, rng.choice([253, 255]), 0, rng.choice([0, 0, 1])])
            garbage = rng.randbytes(rng.randrange(60))
            datagram = rng.choice([
                whole(hello_body(extensions=OFFER, random=rng.randbytes(32))),
                whole(hello_body(extensions=OFFER, cookie=rng.randbytes(32)), message_sequence=1),
                header + bytes(6) + len(garbage).to_bytes(2, "big") + garbage,
                garbage,
                b"",
            ])
            goal = rng.choice([address[1], *ports[-10:]])
            sock.sendto(datagram, (host, goal))
    sprayed.append(count)

strangers = [Worker(spray, seed) for seed in range(3)]
serving = Worker(serve)
talking = [Worker(talk, number) for number in range(CLIENTS)]
for worker in talking:
    worker.result(120)
clients_gone.set()
for worker in [serving, *strangers, *handlers]:
    worker.result(120)
assert len(handlers) == CLIENTS, len(handlers)
statistics = server._connection._reception.statistics
print(sum(sprayed), len(lost), dict(statistics))
assert min(sprayed) > 0
assert statistics["cookies_accepted"] >= CLIENTS
server.close()
"""


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("routing", [False, True], ids=["osnet", "router"])
def test_a_hundred_clients_get_their_own_messages_whatever_strangers_send(
    ca: CertificateAuthority, tmp_path: Path, routing: bool, host: str
) -> None:
    Bench(ca, tmp_path).run(CROWD.replace("{routing}", str(routing)), host, patience=150)
