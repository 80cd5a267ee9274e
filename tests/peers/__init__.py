"""Stacks that others wrote, made into programs that the tests start: ``stacks`` has them, ``programs`` runs them.

``peer.h`` says how the programs are used that are written here; ``build`` compiles them.
"""
