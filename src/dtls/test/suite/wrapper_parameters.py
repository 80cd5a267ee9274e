"""What the arguments of ``DtlsSocket`` do, as PyDTLS's tests had it, and where they did not look."""
# ruff: noqa: PT009, PT027, PLR2004 - these are tests of unittest, and their numbers are expectations

from __future__ import annotations

import functools
import logging
from typing import Any

from dtls import PROTOCOL_DTLS_CLIENT, Context, err
from dtls.test.support import SHORT, Worker, ssl
from dtls.wrapper import DtlsSocket, wrap_client, wrap_server

from .wrapper_case import Server, WrapperCase


def sets_several_groups() -> bool:
    """Whether this version of cryptography can."""
    try:
        Context(PROTOCOL_DTLS_CLIENT).set_groups("P-256:P-384")
    except NotImplementedError:
        return False
    return True


class WrapperParameterTests(WrapperCase):
    """A server, mostly one with an ECDSA certificate for DTLS 1.2, and a client that verifies it."""

    def ec_server(self, **options: Any) -> Server:
        """A server for DTLS 1.2 with an ECDSA certificate."""
        options.setdefault("ssl_version", ssl.PROTOCOL_DTLSv1_2)
        return self.server(
            certfile=self.certificates.ec_server, ca_certs=self.certificates.other_root, **options
        )

    @property
    def verifying(self) -> dict[str, Any]:
        """Options of a client that verifies the certificate of :meth:`ec_server`."""
        return {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": self.certificates.other_root}

    # --- versions and certificates -------------------------------------------------------------------------------

    def test_standard_dtls_v1(self) -> None:
        """DTLS 1.0 with an RSA certificate."""
        server = self.server(ssl_version=ssl.PROTOCOL_DTLSv1, ca_certs=self.certificates.root, cert_reqs=None)
        sock = self.meet_server(
            server,
            ssl_version=ssl.PROTOCOL_DTLSv1,
            cert_reqs=ssl.CERT_REQUIRED,
            ca_certs=self.certificates.root,
        )
        self.assertIn((("commonName", "localhost"),), sock.getpeercert()["subject"])
        self.assertEqual(sock.version(), "DTLSv1")
        self.assertEqual(sock.cipher()[1], b"TLSv1.0")

    def test_standard_dtls_v1_2(self) -> None:
        """DTLS 1.2 with an ECDSA certificate."""
        sock = self.meet_server(self.ec_server(), **self.verifying)
        self.assertIn((("commonName", "localhost"),), sock.getpeercert()["subject"])
        self.assertEqual(sock.version(), "DTLSv1.2")
        self.assertIn(b"ECDHE-ECDSA", sock.cipher()[0])
        self.assertEqual(sock.cipher()[1], b"TLSv1.2")

    def test_defaults(self) -> None:
        """None stands for the default; a client speaks DTLS 1.2 and does not verify, a server serves any version."""
        server = self.server(
            cert_reqs=None, curves=None, sigalgs=None, user_mtu=None, server_cert_options=None
        )
        sock = self.meet_server(server, cert_reqs=None, ssl_version=None, keyfile=None, ca_certs=None)
        self.assertEqual(sock.version(), "DTLSv1.2")
        self.assertEqual(sock.getpeercert(), {})

    def test_wrap_server_and_wrap_client(self) -> None:
        """The client shakes hands in connect(), the server serves any version."""
        sock = self.closing(wrap_server(self.udp(bound=True), certfile=self.certificates.server))
        server = Server(sock)
        self.addCleanup(server.stop)
        client = self.closing(wrap_client(self.udp()))
        client.connect(server.address)
        self.assertIsNotNone(client.cipher())
        self.check_answer(client)
        old = self.meet_server(server, ssl_version=ssl.PROTOCOL_DTLSv1)
        self.assertEqual(old.version(), "DTLSv1")
        lazy = self.closing(wrap_client(self.udp(), do_handshake_on_connect=False))
        lazy.connect(server.address)
        self.assertIsNone(lazy.cipher())

    def test_server_that_waits_for_handshakes(self) -> None:
        """With do_handshake_on_connect, recvfrom() completes a new client's handshake before it serves others."""
        server = self.ec_server(do_handshake_on_connect=True)
        for _ in range(2):
            self.meet_server(server, **self.verifying)

    def test_protocol_version_mismatch(self) -> None:
        """A server for DTLS 1.0 alone and a client for 1.2 alone."""
        server = self.server(ssl_version=ssl.PROTOCOL_DTLSv1)
        self.check_refused(server, "wrong ssl version", ssl_version=ssl.PROTOCOL_DTLSv1_2)

    def test_certificate_verify_fails(self) -> None:
        """The client knows a root of that name, but with another key."""
        self.check_refused(
            self.ec_server(),
            "certificate verify failed",
            cert_reqs=ssl.CERT_REQUIRED,
            ca_certs=self.certificates.root,
        )

    def test_client_certificate(self) -> None:
        """A server that asks for one sees it, and refuses those who have none."""
        server = self.server(cert_reqs=ssl.CERT_REQUIRED, ca_certs=self.certificates.root)
        self.meet_server(server, certfile=self.certificates.client)
        (far,) = server.clients
        self.assertIn((("commonName", "a client"),), far.getpeercert()["subject"])
        self.check_refused(server, "handshake failure")
        self.assertIn("peer did not return a certificate", str(server.errors[0]))

    def test_build_cert_chain(self) -> None:
        """The root is sent, or not."""
        lengths = []
        for flags in (ssl.SSL_BUILD_CHAIN_FLAG_NONE, ssl.SSL_BUILD_CHAIN_FLAG_NO_ROOT):
            server = self.ec_server(server_cert_options=flags)
            lengths.append(len(self.meet_server(server, **self.verifying).getpeercertchain()))
        self.assertEqual(lengths, [2, 1])

    # --- algorithms ----------------------------------------------------------------------------------------------

    def test_no_matching_curve(self) -> None:
        """The client does not know the curve of the server's certificate."""
        self.check_refused(self.ec_server(), "handshake failure", curves="secp384r1", **self.verifying)

    def test_matching_curve(self) -> None:
        """It does, by name or by number."""
        server = self.ec_server()
        for curves in ("prime256v1", (415,)):
            self.meet_server(server, curves=curves, **self.verifying)

    def test_no_matching_sigalgs(self) -> None:
        """The client cannot verify what the server can sign."""
        self.check_refused(self.ec_server(), "handshake failure", sigalgs="RSA+SHA256", **self.verifying)

    def test_matching_sigalgs(self) -> None:
        """It can."""
        self.meet_server(self.ec_server(), sigalgs="ECDSA+SHA256", **self.verifying)

    def test_no_matching_cipher(self) -> None:
        """The client knows RSA key exchange only, for which the server's key is no good."""
        self.check_refused(self.ec_server(), "handshake failure", ciphers="AES256-SHA", **self.verifying)

    def test_matching_cipher(self) -> None:
        """The suite is the one that was asked for."""
        sock = self.meet_server(self.ec_server(), ciphers="ECDHE-ECDSA-AES256-SHA", **self.verifying)
        self.assertEqual(sock.cipher()[0], b"ECDHE-ECDSA-AES256-SHA")

    def test_set_ecdh_curve(self) -> None:
        """The server's one curve for key exchange, and those of the client: they must have one in common."""
        cases: tuple[tuple[str | None, str | None, bool], ...] = (
            (None, None, True),
            (None, "secp521r1:prime256v1", True),
            (None, "secp521r1", False),  # not that of the certificate
            (None, "prime256v1", True),
            ("secp384r1", None, True),
            ("secp384r1", "prime256v1:secp384r1", True),
            ("secp384r1", "secp384r1", False),  # as above
            ("secp384r1", "prime256v1", False),  # none in common
        )

        if not sets_several_groups():
            cases = tuple(case for case in cases if ":" not in (case[1] or ""))

        def check(server_curve: str | None, client_curves: str | None, good: bool) -> None:
            server = self.ec_server(server_key_exchange_curve=server_curve)
            if good:
                self.meet_server(server, curves=client_curves, **self.verifying)
            else:
                self.check_refused(server, "handshake failure", curves=client_curves, **self.verifying)

        # All at once, since each refusal takes a second to be believed.
        workers = [Worker(check, *case) for case in cases]
        for (server_curve, client_curves, _), worker in zip(cases, workers, strict=True):
            with self.subTest(server=server_curve, client=client_curves):
                worker.result()

    def test_curves_of_a_server(self) -> None:
        """They count as those of a client do; server_key_exchange_curve prevails."""
        rsa = {"ciphers": "ECDHE", "certfile": self.certificates.server}
        one = self.server(curves="secp384r1", **rsa)
        other = self.server(curves="secp384r1", server_key_exchange_curve="prime256v1", **rsa)
        refused = [
            Worker(functools.partial(self.check_refused, server, "handshake failure", curves=curves))
            for server, curves in ((one, "prime256v1"), (other, "secp384r1"))
        ]
        self.meet_server(one, curves="secp384r1")
        self.meet_server(other, curves="prime256v1")
        for worker in refused:
            worker.result()

    def test_sigalgs_of_a_server(self) -> None:
        """A server uses none but these."""
        server = self.ec_server(sigalgs="ECDSA+SHA512")
        self.meet_server(server, **self.verifying)
        self.check_refused(server, "handshake failure", sigalgs="ECDSA+SHA256", **self.verifying)

    def test_unknown_curves_and_sigalgs(self) -> None:
        """They are told as a warning, and OpenSSL chooses."""
        server = self.ec_server()
        for name, value in (("curves", "P-257"), ("sigalgs", "RSA+SHA265")):
            with self.assertLogs("dtls.wrapper", logging.WARNING) as logs:
                self.meet_server(server, **{name: value}, **self.verifying)
            self.assertEqual(len(logs.records), 1)
            self.assertIn(name, logs.output[0])
            self.assertIn(value, logs.output[0])

    def test_known_curves_of_a_list(self) -> None:
        """They count, whatever else is in the list."""
        with self.assertLogs("dtls.wrapper", logging.WARNING) as logs:
            server = self.server(curves="P-257:secp384r1", ciphers="ECDHE")
        self.assertEqual(len(logs.output), 1)
        self.meet_server(server, curves="secp384r1")
        self.check_refused(server, "handshake failure", curves="prime256v1")

    def test_unknown_server_key_exchange_curve(self) -> None:
        """It is an error, that tells which there are."""
        sock = self.bound_server(server_key_exchange_curve="secp385r1")
        with self.assertRaisesRegex(IndexError, "secp385r1.*prime256v1"):
            sock.listen(0)

    # --- the rest ------------------------------------------------------------------------------------------------

    def test_no_host(self) -> None:
        """Where nobody listens, or nobody answers, write() has run out of time: 503."""
        silent = self.udp(bound=True)
        nobody = self.bound_server()
        address = nobody.getsockname()
        nobody.close()
        for peer in (silent.getsockname(), address):
            sock = self.dtls_client(handshake_timeout=SHORT / 4)
            sock.settimeout(SHORT)
            sock.connect(peer)
            error = self.error(sock.write, "x")
            self.assertEqual(error.errno, err.ERR_WRITE_TIMEOUT)
            self.assertFalse(hasattr(error, "errqueue"))
            self.assertEqual(sock.gettimeout(), SHORT)

    def test_ssl_logging(self) -> None:
        """Steps of handshakes are logged at DEBUG if that is asked for, and nothing of what is secret."""
        logger = "dtls.sslconnection"
        for who in ("server", "client"):
            server = self.server(ssl_logging=who == "server")
            with self.assertLogs(logger, logging.DEBUG) as logs:
                self.meet_server(server, ssl_logging=who == "client")
            server.stop()
            for other, role in (("server", "SSL_accept"), ("client", "SSL_connect")):
                self.assertIs(any(role in line for line in logs.output), who == other, logs.output)
            self.assertNotIn("MIXED", "".join(logs.output))
        server = self.server()
        with self.assertLogs(logger, logging.DEBUG) as logs:
            logging.getLogger(logger).debug("so that there is something")
            self.meet_server(server)
        self.assertEqual(len(logs.output), 1)

    def test_user_mtu_that_is_too_small(self) -> None:
        """It is refused at once."""
        with self.assertRaisesRegex(ValueError, "MTU"):
            DtlsSocket(self.udp(), user_mtu=200)

    def test_stream_socket(self) -> None:
        """It is refused, and stays open."""
        import socket  # noqa: PLC0415 - for a socket that is not of the usual kind

        stream = self.closing(socket.socket())
        self.assertRaises(err.InvalidSocketError, DtlsSocket, stream)
        self.assertGreaterEqual(stream.fileno(), 0)

    def test_handshake_timeout_of_a_client(self) -> None:
        """A flight is repeated after so many seconds, each time."""
        silent = self.udp(bound=True)
        sock = self.dtls_client(handshake_timeout=SHORT)
        sock.connect(silent.getsockname())
        self.assertLessEqual(sock.get_timeout().total_seconds(), SHORT)
        sock.settimeout(SHORT)
        trying = Worker(self.error, sock.write, "x")
        for _ in range(2):
            silent.recv(65_535)
        trying.result()
        self.assertLessEqual(sock.get_timeout().total_seconds(), SHORT)
        patient = self.dtls_client(handshake_timeout=100)
        patient.connect(silent.getsockname())
        self.assertGreater(patient.get_timeout().total_seconds(), 50)

    def test_handshake_timeout_of_a_server(self) -> None:
        """Likewise for a server's clients."""
        patient, hasty = self.server(handshake_timeout=100), self.server(handshake_timeout=SHORT)
        self.half_open(patient)
        self.wait_for_clients(patient, 1)
        self.assertGreater(patient.clients[0].get_timeout().total_seconds(), 50)
        client = self.half_open(hasty)
        self.wait_for_clients(hasty, 1)
        self.assertLessEqual(hasty.clients[0].get_timeout().total_seconds(), SHORT)
        first = client.recv(65_535)
        hellos = 1
        while hellos < 4:  # repeated, though nothing was asked
            hellos += client.recv(65_535)[13:14] == first[13:14]
        self.assertLessEqual(hasty.clients[0].get_timeout().total_seconds(), SHORT)
