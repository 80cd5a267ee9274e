"""Others' test suites, run against this package: the old package's own, and CPython's for its ``ssl`` module.

Neither is part of this repository. What is here fetches or finds them, and says what must differ and nothing more.
"""
