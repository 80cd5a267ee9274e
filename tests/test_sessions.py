"""Sessions are resumed by ticket and by id with a shorter handshake, and only by those for whom they were made."""

from __future__ import annotations

import pickle
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

import dtls
from dtls.certificates import CertificateAuthority
from dtls.connection import ConnectionState
from dtls.context import CERT_NONE, CERT_REQUIRED, PROTOCOL_DTLS_CLIENT, PROTOCOL_DTLS_SERVER, Context
from dtls.der import SEQUENCE, encode, inside
from dtls.engines.openssl.binding import lib
from dtls.errors import SSLCertVerificationError
from dtls.session import DTLSSession
from dtls.wire import ContentType

from .loopback import PATIENCE, EchoServer, Worker, pair, relay, wait_for
from .pair import OTHER, Pair, losing

if TYPE_CHECKING:
    from collections.abc import Callable

    from dtls.certificates import IssuedCertificate

pytestmark = pytest.mark.skipif(
    not hasattr(lib, "i2d_SSL_SESSION"), reason="cryptography before 44 gives no session"
)
KEY = bytes(range(16))
INTEGER, TIME = 0x02, 0xA1
KINDS = ["ticket", "id"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def resuming(server: Context, kind: str) -> Context:
    server.session_tickets, server.session_cache = kind == "ticket", kind == "id"
    return server


def finish(client: Context, server: Context, session: DTLSSession | None = None, **options: Any) -> Pair:
    both = Pair(client, server, session=session, **options)
    both.run()
    return both


def made(client: Context, server: Context, **options: Any) -> DTLSSession:
    """A session of a full handshake."""
    both = finish(client, server, **options)
    assert both.established, both.events
    assert not both.client.session_reused
    assert not both.server.session_reused
    session = both.client.session
    assert session is not None
    return session


def assert_resumes(both: Pair, *, resumed: bool = True) -> None:
    assert both.established, both.events
    assert both.client.session_reused is both.server.session_reused is resumed
    both.assert_talks()


# --- the short handshake ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cookies", [False, True])
def test_a_session_is_resumed(client: Context, server: Context, kind: str, cookies: bool) -> None:
    session = made(client, resuming(server, kind), cookies=cookies)
    assert session.has_ticket is (kind == "ticket")
    both = finish(client, server, session, cookies=cookies)
    assert [name for name, _ in both.sent] == (
        ["server", "client"] if cookies else ["client", "server", "client"]
    )
    assert_resumes(both)
    assert both.client.peer_certificate() is not None
    assert both.client.version() == "DTLSv1.2"


def test_nothing_is_made_ready_that_depends_on_the_name_that_a_client_asks_for(
    server: Context, kind: str
) -> None:
    engine = resuming(server, kind)._engine()
    engine.make_ready()
    assert not engine._ready


def test_a_resumed_session_can_be_resumed_again(client: Context, server: Context, kind: str) -> None:
    session = made(client, resuming(server, kind))
    for _ in range(3):
        both = finish(client, server, session)
        assert_resumes(both)
        again = both.client.session
        assert again is not None
        session = again


@pytest.mark.parametrize("mtu", [208, 1350])
@pytest.mark.parametrize("cookies", [False, True])
def test_the_short_handshake_survives_the_loss_of_any_datagram(
    client: Context, server: Context, kind: str, mtu: int, cookies: bool
) -> None:
    client.mtu = server.mtu = mtu
    session = made(client, resuming(server, kind))
    sent = [name for name, _ in finish(client, server, session, cookies=cookies).sent]
    for name in OTHER:
        for index in range(sent.count(name)):
            both = finish(client, server, session, cookies=cookies, tap=losing((name, index)))
            assert_resumes(both)


@pytest.mark.parametrize("cookies", [False, True])
def test_the_short_handshake_survives_the_loss_of_any_two_datagrams(
    client: Context, server: Context, kind: str, cookies: bool
) -> None:
    session = made(client, resuming(server, kind))
    everything = [(name, index) for name in OTHER for index in range(4)]
    for first in everything:
        for second in everything:
            tap = losing(first, second)
            both = finish(
                client,
                server,
                session,
                cookies=cookies,
                tap=lambda sender, index, datagram, tap=tap: (
                    [datagram]
                    if datagram[0] == ContentType.APPLICATION_DATA
                    else tap(sender, index, datagram)
                ),
            )
            assert_resumes(both)


def test_the_short_handshake_survives_disorder(client: Context, server: Context, kind: str) -> None:
    client.mtu = server.mtu = 208
    session = made(client, resuming(server, kind))
    assert_resumes(finish(client, server, session, reorder=lambda datagrams: datagrams[::-1]))


def test_the_client_repeats_its_last_word_when_the_server_asks_for_it(
    client: Context, server: Context, kind: str
) -> None:
    """In a short handshake the client is the one who must keep its last flight (RFC 6347, 4.2.4)."""
    session = made(client, resuming(server, kind))
    lost: list[bytes] = []

    def tap(sender: str, index: int, datagram: bytes) -> list[bytes]:
        if sender == "client" and 1 <= index <= 3:
            lost.append(datagram)
            return []
        return [datagram]

    both = finish(client, server, session, tap=tap)
    assert len(lost) == 3
    assert both.client.statistics["flights_repeated"] >= 2
    assert_resumes(both)


def test_nothing_is_repeated_when_the_handshake_is_over(client: Context, server: Context, kind: str) -> None:
    session = made(client, resuming(server, kind))
    both = finish(client, server, session)
    both.assert_talks()
    before = len(both.sent)
    both.run(1000.0)
    assert len(both.sent) == before
    assert both.client.next_timeout() is both.server.next_timeout() is None


# --- who may resume what ---------------------------------------------------------------------------------------------


def test_a_server_resumes_nothing_unless_told_so(client: Context, server: Context) -> None:
    assert not server.session_tickets
    assert not server.session_cache
    assert finish(client, server).client.session is None


def test_another_server_makes_a_full_handshake(
    client: Context, server: Context, kind: str, server_certificate: IssuedCertificate
) -> None:
    session = made(client, resuming(server, kind))
    another = Context(PROTOCOL_DTLS_SERVER)
    another.load_cert_chain(server_certificate.private_key_and_chain_pem)
    assert_resumes(finish(client, resuming(another, kind), session), resumed=False)


def test_new_keys_end_all_sessions(client: Context, server: Context, kind: str) -> None:
    session = made(client, resuming(server, kind))
    server.renew_session_keys()
    assert_resumes(finish(client, server, session), resumed=False)


def test_a_setting_of_the_server_that_is_changed_ends_all_sessions(
    client: Context, server: Context, kind: str, ca: CertificateAuthority
) -> None:
    """A client that showed no certificate must not come in by a session when one is required."""
    session = made(client, resuming(server, kind))
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = CERT_REQUIRED
    both = finish(client, server, session)
    assert not both.established
    assert both.server.state is ConnectionState.FAILED


def test_a_session_is_not_resumed_by_another_name_s_context(
    server: Context, kind: str, ca: CertificateAuthority
) -> None:
    """One name's clients must not get past what another name asks of its own."""
    open_to_all, closed = server, Context(PROTOCOL_DTLS_SERVER)
    closed.load_cert_chain(ca.issue("closed.example").private_key_and_chain_pem)
    closed.load_verify_locations(cadata=ca.certificate_pem)
    closed.verify_mode = CERT_REQUIRED
    resuming(closed, kind)
    resuming(open_to_all, kind).set_sni_contexts({"closed.example": closed})
    careless = Context(PROTOCOL_DTLS_CLIENT)
    careless.check_hostname = False
    careless.verify_mode = CERT_NONE
    session = made(careless, open_to_all, server_hostname="localhost")
    # Our own client refuses to use a session for another name: an attacker's would not.
    forged = DTLSSession(session.state, careless._engine().session_scope("closed.example"))
    both = finish(careless, open_to_all, forged, server_hostname="closed.example")
    assert not both.established
    assert not both.server.session_reused


def test_a_session_is_not_resumed_under_another_name_of_the_same_context(server: Context, kind: str) -> None:
    """RFC 6066, 3."""
    careless = Context(PROTOCOL_DTLS_CLIENT)
    careless.check_hostname = False
    careless.verify_mode = CERT_NONE
    session = made(careless, resuming(server, kind), server_hostname="a.example")
    for name in ("b.example", None):
        forged = DTLSSession(session.state, careless._engine().session_scope(name))
        both = finish(careless, server, forged, server_hostname=name)
        assert_resumes(both, resumed=False)
        assert both.server.server_hostname == name
    both = finish(careless, server, session, server_hostname="a.example")
    assert_resumes(both)
    assert both.server.server_hostname == "a.example"


def test_a_client_certificate_is_remembered(
    client: Context,
    server: Context,
    kind: str,
    ca: CertificateAuthority,
    client_certificate: IssuedCertificate,
) -> None:
    server.load_verify_locations(cadata=ca.certificate_pem)
    server.verify_mode = CERT_REQUIRED
    client.load_cert_chain(client_certificate.private_key_and_chain_pem)
    session = made(client, resuming(server, kind))
    both = finish(client, server, session)
    assert_resumes(both)
    shown = both.server.peer_certificate()
    assert shown is not None
    assert shown == client_certificate.certificate.public_bytes(_der())


def _der() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return Encoding.DER


def test_a_pre_shared_key_s_identity_is_remembered(kind: str) -> None:
    client, server = Context(PROTOCOL_DTLS_CLIENT), Context(PROTOCOL_DTLS_SERVER)
    client.set_psk("sensor 1", KEY)
    server.set_psks({"sensor 1": KEY})
    session = made(client, resuming(server, kind), server_hostname=None)
    both = finish(client, server, session, server_hostname=None)
    assert_resumes(both)
    assert both.client.psk_identity() == both.server.psk_identity() == b"sensor 1"


OTHERWISE: dict[str, Callable[[Context], object]] = {
    "name": lambda client: None,
    "mode": lambda client: setattr(client, "check_hostname", False),
    "anchors": lambda client: client.load_verify_locations(
        cadata=CertificateAuthority("another").certificate_pem
    ),
    "own": lambda client: client.load_cert_chain(
        CertificateAuthority("own").issue("a client", client=True).private_key_and_chain_pem
    ),
    "pin": lambda client: client.set_pinned_fingerprints("00" * 32),
    "depth": lambda client: setattr(client, "verify_depth", 5),
    "flags": lambda client: setattr(
        client, "verify_flags", client.verify_flags | dtls.VerifyFlags.VERIFY_X509_STRICT
    ),
    "callback": lambda client: client.dangerously_trust_by_callback(lambda _: True),
    "ocsp": lambda client: client.set_ocsp_client_callback(lambda _, __: True),
    "level": lambda client: client.set_ciphers("ECDHE+AESGCM:@SECLEVEL=1"),
    "short tags": lambda client: client.set_ciphers("ECDHE+AESGCM:ECDHE-ECDSA-AES128-CCM8"),
}


@pytest.mark.parametrize("change", OTHERWISE)
def test_a_client_does_not_resume_what_was_verified_otherwise(
    client: Context, server: Context, kind: str, change: str
) -> None:
    session = made(client, resuming(server, kind))
    OTHERWISE[change](client)
    name = "elsewhere" if change == "name" else "localhost"
    with pytest.raises(ValueError, match="other settings"):
        client.connection(0.0, server_hostname=name, session=session)


def test_numbers_too_large_for_any_clock_are_no_session(client: Context, server: Context, kind: str) -> None:
    session = made(client, resuming(server, kind))
    parts = b"".join(
        encode(part.tag, encode(INTEGER, b"\x7f" * 140) if part.tag == TIME else part.value)
        for part in inside(session.state)
    )
    altered = DTLSSession.__new__(DTLSSession)
    altered._state, altered._scope = encode(SEQUENCE, parts), session.scope
    with pytest.raises(ValueError, match="no session that to_bytes"):
        DTLSSession.from_bytes(altered.to_bytes())
    altered._state = session.state
    assert DTLSSession.from_bytes(altered.to_bytes()) == session


def test_a_client_with_another_key_does_not_resume_what_the_old_one_authenticated(kind: str) -> None:
    server = resuming(Context(PROTOCOL_DTLS_SERVER), kind)
    server.set_psks({"me": KEY})
    client = Context(PROTOCOL_DTLS_CLIENT)
    client.set_psk("me", KEY)
    session = made(client, server)
    assert_resumes(finish(client, server, session))
    client.set_psk("me", KEY[::-1])
    with pytest.raises(ValueError, match="other settings"):
        client.connection(0.0, server_hostname="localhost", session=session)


def test_a_session_of_a_callback_s_key_is_resumed_under_that_callback_alone(kind: str) -> None:
    server = resuming(Context(PROTOCOL_DTLS_SERVER), kind)
    server.set_psks({"me": KEY, "you": KEY})
    client = Context(PROTOCOL_DTLS_CLIENT)
    client.set_psk_client_callback(lambda _: ("me", KEY))
    session = made(client, server)
    assert_resumes(finish(client, server, session))
    client.set_psk_client_callback(lambda _: ("you", KEY))
    with pytest.raises(ValueError, match="other settings"):
        client.connection(0.0, server_hostname="localhost", session=session)


def test_a_session_made_without_verification_stays_one(client: Context, server: Context, kind: str) -> None:
    """Settings that change between a handshake and the moment that its session is fetched change nothing."""
    careless = Context(PROTOCOL_DTLS_CLIENT)
    careless.check_hostname = False
    careless.verify_mode = CERT_NONE
    both = finish(careless, resuming(server, kind))
    careless.verify_mode = CERT_REQUIRED
    with pytest.raises(ValueError, match="other settings"):
        careless.connection(0.0, server_hostname="localhost", session=both.client.session)


def test_another_context_with_the_same_trust_may_resume(
    client: Context, server: Context, kind: str, ca: CertificateAuthority
) -> None:
    session = made(client, resuming(server, kind))
    another = Context(PROTOCOL_DTLS_CLIENT)
    another.load_verify_locations(cadata=ca.certificate_pem)
    assert_resumes(finish(another, server, session))


def test_a_judgement_by_callback_is_asked_for_at_each_resumption(server: Context, kind: str) -> None:
    answers = [True, True, False]
    client = Context(PROTOCOL_DTLS_CLIENT)
    client.dangerously_trust_by_callback(lambda _: answers.pop(0))
    session = made(client, resuming(server, kind))
    assert_resumes(finish(client, server, session))
    both = finish(client, server, session)
    assert isinstance(both.failure("client"), SSLCertVerificationError)
    assert not answers


@pytest.mark.parametrize("seconds", [-7201, 7200, 10**6])
def test_a_session_whose_time_has_passed_is_not_offered(
    client: Context, server: Context, kind: str, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = made(client, resuming(server, kind))
    assert session.timeout == 7200
    monkeypatch.setattr("dtls.context.time.time", lambda: session.time + seconds)
    assert_resumes(finish(client, server, session), resumed=False)


def test_the_time_of_sessions_is_a_setting(client: Context, server: Context, kind: str) -> None:
    resuming(server, kind).session_timeout = 100
    client.session_timeout = 50
    session = made(client, server)
    assert session.timeout == 50
    assert session.ticket_lifetime_hint == (100 if kind == "ticket" else 0)
    for nonsense in (0, -1, 604_801):
        with pytest.raises(ValueError):
            server.session_timeout = nonsense


def test_a_client_may_do_without_tickets(client: Context, server: Context) -> None:
    client.session_tickets = False
    assert finish(client, resuming(server, "ticket")).client.session is None
    server.session_cache = True
    assert not made(client, server).has_ticket


def test_a_session_that_the_server_has_altered_is_refused_in_full(client: Context, server: Context) -> None:
    session = made(client, resuming(server, "ticket"))
    position = session.state.rindex(session.id) if session.id else 0
    assert position
    ticket_at = len(session.state) - 40
    garbled = bytearray(session.state)
    garbled[ticket_at] ^= 1
    forged = DTLSSession(bytes(garbled), session.scope)
    assert_resumes(finish(client, server, forged), resumed=False)


# --- the object ------------------------------------------------------------------------------------------------------


def test_it_has_the_attributes_of_the_standard_library(client: Context, server: Context, kind: str) -> None:
    session = made(client, resuming(server, kind))
    for name in ("id", "time", "timeout", "ticket_lifetime_hint", "has_ticket"):
        assert hasattr(ssl.SSLSession, name)
        assert hasattr(session, name)
    assert len(session.id) == 32
    assert 0 < session.time < 2**33
    assert "ticket" in repr(session)
    assert session.id.hex() not in repr(session)


def test_it_survives_a_process_as_bytes(client: Context, server: Context, kind: str) -> None:
    session = made(client, resuming(server, kind))
    copy = DTLSSession.from_bytes(session.to_bytes())
    assert copy == session
    assert hash(copy) == hash(session)
    assert copy != made(client, server)
    assert copy != 1
    assert_resumes(finish(client, server, copy))


def test_garbage_is_no_session(client: Context, server: Context, kind: str) -> None:
    data = made(client, resuming(server, kind)).to_bytes()
    for nonsense in (b"", b"x", data[:-1], data + b"x", data[:40] + b"\0" + data[41:], data[::-1]):
        if nonsense != data:
            with pytest.raises(ValueError, match="to_bytes"):
                DTLSSession.from_bytes(nonsense)
    with pytest.raises(dtls.SSLError):
        client.connection(
            0.0,
            server_hostname="localhost",
            session=_NeverOver(
                b"\x30\x0c" + b"\x02\x01\x01" * 4, client._engine().session_scope("localhost")
            ),
        )


class _NeverOver(DTLSSession):
    def is_over(self, wall_clock: float) -> bool:
        return False


def test_it_is_not_pickled_by_accident(client: Context, server: Context, kind: str) -> None:
    with pytest.raises(TypeError, match="to_bytes"):
        pickle.dumps(made(client, resuming(server, kind)))


def test_only_clients_take_sessions(client: Context, server: Context, kind: str) -> None:
    session = made(client, resuming(server, kind))
    with pytest.raises(ValueError, match="clients only"):
        server.connection(0.0, session=session)
    with pytest.raises(TypeError):
        client.connection(0.0, server_hostname="localhost", session=b"x")  # type: ignore[arg-type]


def test_listening_sockets_take_no_session(client: Context, server: Context, kind: str) -> None:
    session = made(client, resuming(server, kind))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(ValueError, match="client mode"),
    ):
        server.wrap_socket(sock, server_side=True, session=session)


def test_ticket_keys_cannot_be_given_and_that_is_said(server: Context) -> None:
    with pytest.raises(NotImplementedError, match="SSL_CTX_set_tlsext_ticket_keys"):
        server.set_session_ticket_keys([b"k" * 48])


# --- sockets ---------------------------------------------------------------------------------------------------------


def test_sockets_resume(client: Context, server: Context, kind: str) -> None:
    with EchoServer(resuming(server, kind)) as echo:
        session = None
        for resumed in (False, True, True):
            with dtls.create_connection(
                echo.address, PATIENCE, context=client, server_hostname="localhost", session=session
            ) as sock:
                assert sock.session_reused is resumed
                sock.send(b"hello")
                assert sock.recv() == b"hello"
                session = sock.session
                assert session is not None
        with pytest.raises(ValueError, match="after handshake"):
            sock.session = session


def test_a_client_that_resumed_and_only_sends_repeats_its_last_flight(
    client: Context, server: Context, kind: str
) -> None:
    server.initial_retransmission_timeout = 0.05
    lost: list[bytes] = []

    def tap(sender: str, _: int, datagram: bytes) -> list[bytes]:
        if resumes and sender == "client" and datagram[0] == ContentType.CHANGE_CIPHER_SPEC and not lost:
            lost.append(datagram)
            return []
        return [datagram]

    def is_accepted() -> bool:
        sock.send(b"news")
        return not accepting.is_alive()

    session = None
    with dtls.create_server(("127.0.0.1", 0), context=resuming(server, kind)) as listening:
        listening.settimeout(PATIENCE)
        for resumes in (False, True):
            with relay(listening.getsockname(), tap) as address:
                accepting = Worker(listening.accept)
                with dtls.create_connection(address, PATIENCE, context=client, session=session) as sock:
                    assert sock.session_reused is resumes
                    wait_for(is_accepted)
                    accepted, _ = accepting.result()
                    with accepted:
                        assert accepted.recv() == b"news"
                        session = sock.session
    assert lost


def test_a_session_may_be_set_before_connecting(client: Context, server: Context, kind: str) -> None:
    near, far = pair(client, resuming(server, kind))
    with near, far:
        session = near.session
        assert not near.session_reused
    with EchoServer(server) as echo:
        sock = client.wrap_socket(
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM), server_hostname="localhost", session=session
        )
        assert isinstance(sock, dtls.DTLSSocket)
        with sock:
            assert sock.session == session
            sock.settimeout(PATIENCE)
            with pytest.raises(TypeError):
                sock.session = b"x"  # type: ignore[assignment]
            sock.session = None
            sock.session = session
            sock.connect(echo.address)
            assert sock.session_reused
