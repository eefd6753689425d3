"""One call for all who ask at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from preview_proxy import event_loop
from preview_proxy.errors import PreviewProxyError
from preview_proxy.event_loop import Task

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Flights(Generic[K, V]):
    """Calls under way, one for each key. Each has a task of its own, so whoever asked first may leave."""

    def __init__(self) -> None:
        self._under_way: dict[K, _Flight[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._under_way

    def start(self, key: K, call: Callable[[], Coroutine[Any, Any, V]]) -> _Flight[V]:
        """Begin `call`, unless one for `key` is under way. It must not raise."""
        flight = self._under_way.get(key)
        if flight is None:
            flight = self._under_way[key] = _Flight()
            flight.task = event_loop.running().spawn(self._fly(key, call, flight))
        return flight

    async def join(self, key: K, call: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The outcome of the call for `key`, which is begun if there is none.

        Raises ``shutting_down`` where `aclose` ends it.
        """
        flight = self.start(key, call)  # with eager tasks it may be over already
        await flight.task.wait()
        if not flight.outcome:
            raise PreviewProxyError("shutting_down", detail="the call was cancelled")
        return flight.outcome[0]

    async def _fly(self, key: K, call: Callable[[], Coroutine[Any, Any, V]], flight: _Flight[V]) -> None:
        try:
            flight.outcome.append(await call())
        finally:
            if self._under_way.get(key) is flight:  # else it was begun again since `aclose`
                del self._under_way[key]

    async def aclose(self) -> None:
        """Cancel what is under way, and wait for its end."""
        flights = list(self._under_way.values())
        self._under_way.clear()  # one that has not begun cannot do it itself
        for flight in flights:
            flight.task.cancel()
        for flight in flights:
            await flight.task.wait()


class _Flight(Generic[V]):
    """A call, and what came of it: nothing, if it was cancelled."""

    task: Task

    def __init__(self) -> None:
        self.outcome: list[V] = []
