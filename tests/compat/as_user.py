"""Runs a program of the old package's users, in a process of its own: with this package, as a script is run.

``as_user.py [--routing] [--bare] [--asyncore WHEEL] SCRIPT [ARGUMENT...]``. The program itself is not changed. What
happens before it begins is what a user could do, or a newer Python.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.util
import pkgutil
import runpy
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_GONE_FROM_SSL = ("wrap_socket", "match_hostname")
_GONE = "asyncore"


class _Without(importlib.abc.MetaPathFinder):
    """Makes a module one that there is not."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> None:
        if fullname == _GONE:
            message = f"No module named {fullname!r}"
            raise ModuleNotFoundError(message, name=fullname)


def _import_all_without_what_is_gone() -> None:
    """Import this package, all of it, in a Python without what newer ones lack; and patch the ``ssl`` module."""
    import ssl  # noqa: PLC0415 - before what is to see it changed

    for name in _GONE_FROM_SSL:
        if hasattr(ssl, name):
            delattr(ssl, name)
    without = _Without()
    sys.meta_path.insert(0, without)
    sys.modules.pop(_GONE, None)
    import dtls  # noqa: PLC0415 - here it is to be imported

    for module in pkgutil.walk_packages(dtls.__path__, "dtls."):
        # The suites among them have their own ways with what is not there; importing one may start it.
        if not module.name.startswith(("dtls.test", "dtls.cli")):
            importlib.import_module(module.name)
    dtls.do_patch()
    sys.meta_path.remove(without)
    for name in _GONE_FROM_SSL[1:]:
        if hasattr(ssl, name):
            message = f"ssl.{name} is back"
            raise AssertionError(message)


class _Exceptions:
    """Counts the exceptions that nobody has caught, in threads and in finalizers."""

    def __init__(self) -> None:
        self.number = 0
        self._in_thread, self._unraisable = threading.excepthook, sys.unraisablehook
        threading.excepthook, sys.unraisablehook = self.in_thread, self.unraisable

    def in_thread(self, details: threading.ExceptHookArgs) -> None:
        self.number += 1
        self._in_thread(details)

    def unraisable(self, details: Any) -> None:
        self.number += 1
        self._unraisable(details)


def main() -> None:
    """Run the program; the exit status is its own, or 3 if it ended well with exceptions that nobody caught."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--routing", action="store_true", help="with the routing demultiplexer")
    parser.add_argument(
        "--bare", action="store_true", help="without what newer Pythons lack, until dtls is imported"
    )
    parser.add_argument("--asyncore", help="a wheel to have asyncore from")
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    # Python has put this file's folder there; for the program it is its own one's.
    sys.path[0] = str(Path(options.script).parent)
    sys.argv = [options.script, *options.arguments]
    if options.bare:
        _import_all_without_what_is_gone()
    if options.asyncore:
        sys.path.insert(0, options.asyncore)
        spec = importlib.util.find_spec(_GONE)
        assert spec is not None
        assert str(spec.origin).startswith(options.asyncore), spec
    import dtls  # noqa: PLC0415 - what is gone has to be gone first

    if options.routing:
        # The suite asks for the system's default by this name, for its first round, and ends after that one.
        vars(dtls)["reset_default_demux"] = dtls.force_routing_demux
    print(f"dtls {dtls.__version__} from {Path(dtls.__file__).parent}", flush=True)
    exceptions = _Exceptions()
    status: object = None
    try:
        runpy.run_path(options.script, run_name="__main__")
    except SystemExit as end:
        status = end.code
    if not status and exceptions.number:
        print(f"{exceptions.number} exceptions that nobody has caught")
        status = 3
    sys.exit(status)  # type: ignore[arg-type] # whatever the program has given


if __name__ == "__main__":
    main()
