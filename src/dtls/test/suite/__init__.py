"""The tests that ``python3 -m dtls.test.unit`` runs: PyDTLS's interface over real sockets, as users see it."""

from .basic import BasicSocketTests
from .connection import SSLConnectionTests
from .handshakes import CookieTests, TimerTests
from .network import NetworkTests
from .networked import NetworkedTests
from .results import ResultTests
from .sockets import SocketTests
from .threaded import ThreadedTests

__all__ = [
    "BasicSocketTests",
    "CookieTests",
    "NetworkTests",
    "NetworkedTests",
    "ResultTests",
    "SSLConnectionTests",
    "SocketTests",
    "ThreadedTests",
    "TimerTests",
]
