"""``DtlsSocket`` on a network that loses datagrams, and on one that takes small ones only."""
# ruff: noqa: PT009, PT027 - these are tests of unittest

from __future__ import annotations

from typing import Any

from dtls.test.support import SHORT, Worker, ssl

from .network import _Losing, _twice
from .wrapper_case import WrapperCase

HEADERS = {"IPv4": 28, "IPv6": 48}
LINK_MTU = 400


class WrapperNetworkTests(WrapperCase):
    """A relay between client and server."""

    def test_lost_flights(self) -> None:
        """A handshake is completed whichever of its flights is lost; who lost it repeats it."""
        server = self.server(handshake_timeout=SHORT)
        networks = {
            "ClientHello": _Losing("client", "CLIENT_HELLO"),
            "HelloVerifyRequest": _Losing("server", "HELLO_VERIFY_REQUEST"),
            "ClientHello with the cookie": _Losing("client", "CLIENT_HELLO", after=1),
            "beginning of the server's flight": _Losing("server", "SERVER_HELLO"),
            "end of the server's flight": _Losing("server", "SERVER_HELLO_DONE"),
            "the client's second flight": _Losing("client", "CLIENT_KEY_EXCHANGE"),
            "the server's last flight": _Losing("server", "CHANGE_CIPHER_SPEC"),
            "two in a row": _Losing("client", "CLIENT_KEY_EXCHANGE", 2),
        }
        workers = [
            Worker(
                lambda address: self.meet_server(server, address, handshake_timeout=SHORT),
                self.relay(server.address, network).address,
            )
            for network in networks.values()
        ]
        for (what, network), worker in zip(networks.items(), workers, strict=True):
            with self.subTest(lost=what):
                worker.result()
                self.assertEqual(network.lost, 2 if what == "two in a row" else 1)
        self.assertEqual(server.errors, [])

    def test_server_repeats_by_itself(self) -> None:
        """A server repeats its flight though nothing comes from the client, whatever its timeout is."""
        server = self.server(handshake_timeout=SHORT)
        server.pause()
        server.sock.settimeout(None)
        network = _Losing("server", "SERVER_HELLO")
        relay = self.relay(server.address, network)
        server.start()
        sock = self.meet_server(server, relay.address, handshake_timeout=100)
        server.sock.settimeout(SHORT)
        self.check_answer(sock)  # which ends the wait that has no timeout
        self.assertEqual(network.lost, 1)

    def test_repeated_datagrams(self) -> None:
        """What the network repeats is delivered once."""
        server = self.server()
        sock = self.meet_server(server, self.relay(server.address, _twice).address)
        for number in range(5):
            self.check_answer(sock, f"Message {number}")
        sock.settimeout(SHORT)
        self.assertRaises(TimeoutError, sock.recvfrom, 1)
        self.assertEqual(len(server.received), 6)

    def check_mtu(self, sender: str) -> None:
        """Check that a sender's long chain is cut to what the link takes, and put together again."""
        roots = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": self.certificates.root}
        options: dict[str, dict[str, Any]] = {
            "server": {"certfile": self.certificates.long_chain, **roots},
            "client": {"certfile": self.certificates.long_client_chain, **roots},
        }
        options[sender]["user_mtu"] = LINK_MTU
        server = self.server(**options["server"])
        lengths: dict[str, list[int]] = {}
        relay = self.relay(server.address, self.lengths_of(lengths))
        sock = self.dtls_client(**options["client"])
        sock.connect(relay.address)
        sock.do_handshake()
        self.assertEqual(len(sock.getpeercertchain()), 5)
        payload = LINK_MTU - HEADERS[self.way.protocol]
        handshake = dict(lengths)
        self.check_answer(sock)
        self.assertLessEqual(max(handshake[sender]), payload)
        self.assertGreater(max(handshake[sender]), payload - 60)
        self.assertGreater(len(handshake[sender]), 7)
        other = "client" if sender == "server" else "server"
        self.assertGreater(max(handshake[other]), payload)

    def test_user_mtu_of_a_server(self) -> None:
        """No datagram of a handshake is longer than the server's link takes, headers included."""
        self.check_mtu("server")

    def test_user_mtu_of_a_client(self) -> None:
        """Nor than the client's."""
        self.check_mtu("client")

    def test_loss_over_a_small_mtu(self) -> None:
        """A flight of many datagrams of which one is lost is repeated, and put together."""
        network = _Losing("server", "CERTIFICATE")
        server = self.server(
            certfile=self.certificates.long_chain, user_mtu=LINK_MTU, handshake_timeout=SHORT
        )
        sock = self.meet_server(server, self.relay(server.address, network).address, user_mtu=LINK_MTU)
        self.assertEqual(sock.version(), "DTLSv1.2")
        self.assertEqual(network.lost, 1)
