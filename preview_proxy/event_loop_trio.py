"""`EventLoop` on trio. Imported only where trio runs."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from preview_proxy.event_loop import Interruption, Task, Timer, Token, Waiter

logger = logging.getLogger("preview_proxy")
T = TypeVar("T")


class _Task:
    """A system task: it needs no nursery, which would have to outlive whoever began it."""

    def __init__(self, coroutine: Coroutine[Any, Any, object], among: set[Task] | None) -> None:
        self._coroutine = coroutine
        self._among = among
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        if among is not None:
            among.add(self)
        trio.lowlevel.spawn_system_task(self._run, context=contextvars.copy_context())

    async def _run(self) -> None:
        try:
            with self._scope:
                if self._scope.cancel_called:
                    self._coroutine.close()
                else:
                    await self._coroutine
        except Exception:  # or the event loop would stop
            logger.exception("a task failed")
        finally:
            self._ended.set()
            if self._among is not None:
                self._among.discard(self)

    def cancel(self) -> None:
        self._scope.cancel()

    def done(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> None:
        await self._ended.wait()


@dataclass(frozen=True, slots=True)
class _Token:
    token: trio.lowlevel.TrioToken

    def is_running(self) -> bool:
        try:
            self.token.run_sync_soon(int)
        except trio.RunFinishedError:
            return False
        return True


class _Waiter:
    def __init__(self) -> None:
        self._event = trio.Event()

    def done(self) -> bool:
        return self._event.is_set()

    def set_result(self, result: None, /) -> None:
        self._event.set()

    def __await__(self) -> Generator[Any, None, None]:
        return self._event.wait().__await__()


class _Interruption:
    def __init__(self) -> None:
        self._scope = trio.CancelScope()

    def interrupt(self) -> None:
        self._scope.cancel()

    async def run(self, operation: Awaitable[T]) -> T | None:
        with self._scope:
            return await operation
        return None


class Trio:
    """The run of trio's event loop that the caller is in."""

    def token(self) -> Token:
        return _Token(trio.lowlevel.current_trio_token())

    def spawn(self, coroutine: Coroutine[Any, Any, object], among: set[Task] | None = None) -> Task:
        return _Task(coroutine, among)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        async def later() -> None:
            await trio.sleep(seconds)
            call()

        return _Task(later(), None)

    def waiter(self) -> Waiter:
        return _Waiter()

    def interruption(self) -> Interruption:
        return _Interruption()
