"""One call for all who ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Flights(Generic[K, V]):
    """Calls under way, one for each key. Each has a task of its own, so whoever asked first may leave."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._tasks

    def start(self, key: K, call: Callable[[], Coroutine[Any, Any, V]]) -> None:
        """Begin `call`, unless one for `key` is under way. It must not raise."""
        if key not in self._tasks:
            self._tasks[key] = asyncio.get_running_loop().create_task(self._fly(key, call))

    async def join(self, key: K, call: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The outcome of the call for `key`, which is begun if there is none."""
        self.start(key, call)
        return await asyncio.shield(self._tasks[key])

    async def _fly(self, key: K, call: Callable[[], Coroutine[Any, Any, V]]) -> V:
        try:
            return await call()
        finally:
            self._tasks.pop(key, None)

    async def aclose(self) -> None:
        """Cancel what is under way, and wait for its end."""
        tasks = list(self._tasks.values())
        self._tasks.clear()  # one that has not begun cannot do it itself
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
