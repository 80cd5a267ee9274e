"""The servers that are measured, each a program of its own: ``python -m benchmarks.servers.NAME [VARIANT] …``.

All take the arguments of :class:`~benchmarks.servers.job.Job` and say where they listen, as ``programs/server.c`` does.
"""
