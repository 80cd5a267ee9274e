"""DTLS in asyncio: clients, servers, and datagram protocols made secure.

::

    async with dtls.asyncio.connect("device.example", 4433) as conn:
        await conn.send(b"hello")
        async for message in conn:
            print(message)
"""

from .client import connect
from .connection import DTLSConnection
from .server import Server, serve
from .transport import DTLSDatagramTransport, create_dtls_endpoint
from .workers import run_server

__all__ = [
    "DTLSConnection",
    "DTLSDatagramTransport",
    "Server",
    "connect",
    "create_dtls_endpoint",
    "run_server",
    "serve",
]
