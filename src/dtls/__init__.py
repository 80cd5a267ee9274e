"""Datagram TLS: the security of TLS for messages over UDP."""

__version__ = "2.0.0.dev0"
