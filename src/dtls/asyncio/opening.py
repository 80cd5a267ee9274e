"""What ``connect`` and ``serve`` give back: to be awaited, or entered by ``async with``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType
    from typing import Any


class _Leavable(Protocol):
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


Opened = TypeVar("Opened", bound=_Leavable)


class Opening(Generic[Opened]):
    """Opens something when it is awaited or entered, and not before; whoever enters it has it closed at the end."""

    def __init__(self, open: Callable[[], Coroutine[Any, Any, Opened]]) -> None:
        self._open = open
        self._opened: Opened | None = None

    def __await__(self) -> Generator[Any, None, Opened]:
        return self._open().__await__()

    async def __aenter__(self) -> Opened:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, value, traceback)
