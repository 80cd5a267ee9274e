"""Tests: the protocol without sockets first, then sockets, then other implementations."""
