"""What anyio does not have of the event loop that runs, asyncio's or trio's.

Tasks that outlive whoever began them, timers, and an end to one piece of work from outside without a cancel scope
around it, which on asyncio would cost more than some requests do.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar

import anyio

T = TypeVar("T")


class Task(Protocol):
    """A coroutine that runs by itself."""

    def cancel(self) -> None:
        """Have it end where it next waits. One that has not begun never does."""
        ...

    def done(self) -> bool:
        """Whether it has ended."""
        ...

    async def wait(self) -> None:
        """Return when it has ended, however that was."""
        ...


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> object: ...


class Waiter(Protocol):
    """What one task awaits and another sets off, once."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...
    def __await__(self) -> Generator[Any, None, None]: ...


class Interruption(Protocol):
    """A way to end one operation of the task that made it."""

    def interrupt(self) -> None:
        """End the operation where it next waits, unless it is over."""
        ...

    async def run(self, operation: Awaitable[T]) -> T | None:
        """Await the one operation; None if it was interrupted."""
        ...


class Token(Protocol):
    """One run of an event loop."""

    def is_running(self) -> bool: ...


class EventLoop(Protocol):
    """The event loop that runs."""

    def token(self) -> Token:
        """What tells this run of an event loop from every other."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, object], among: set[Task] | None = None) -> Task:
        """Run a coroutine by itself. The task is in `among` until it ends; else the caller has to keep it."""
        ...

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer: ...
    def waiter(self) -> Waiter: ...
    def interruption(self) -> Interruption: ...


def running() -> EventLoop:
    """The event loop that the caller runs on. Raises `RuntimeError` where there is none."""
    if is_asyncio():
        return _ASYNCIO
    if sys.modules.get("trio") is None:  # it is no dependency, and it does not run where nobody has imported it
        raise RuntimeError("no event loop runs here")
    # by its name: it is written in the terms of this module, and needs trio
    return importlib.import_module("preview_proxy.event_loop_trio").Trio()  # type: ignore[no-any-return]


def is_asyncio() -> bool:
    """Whether the caller runs on asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def is_cancelled() -> bool:
    """Whether somebody has cancelled the caller's task, on asyncio. Clients of databases leak cancellations that are
    nobody's: those end what was asked, and not who asked.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class Signal:
    """An event that can be taken back."""

    def __init__(self, *, is_set: bool = False) -> None:
        self._event = anyio.Event()
        if is_set:
            self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    def clear(self) -> None:
        if self._event.is_set():
            self._event = anyio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class _AsyncioTask:
    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[object]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()

    def done(self) -> bool:
        return self._task.done()

    async def wait(self) -> None:
        await asyncio.wait([self._task])


class _AsyncioInterruption:
    __slots__ = ("_called", "_over", "_task")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI servers on asyncio call apps in a task
        self._task = task
        self._called = self._over = False

    def interrupt(self) -> None:
        if not (self._called or self._over):
            self._called = True
            self._task.cancel()

    async def run(self, operation: Awaitable[T]) -> T | None:
        result: T | None = None
        try:
            try:
                result = await operation
            finally:
                if self._called:  # perhaps by itself in its last step: that is thrown where it next waits
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not self._called or self._task.uncancel() > 0:
                raise
        except Exception:
            if not self._called:
                raise
            self._task.uncancel()  # the operation made a failure of its end; what is counted here ends others later
        else:
            if self._called:
                self._task.uncancel()
        finally:
            self._over = True
        return None if self._called else result


class _Asyncio:
    def token(self) -> Token:
        return asyncio.get_running_loop()

    def spawn(self, coroutine: Coroutine[Any, Any, object], among: set[Task] | None = None) -> Task:
        running = asyncio.get_running_loop().create_task(coroutine)
        task = _AsyncioTask(running)
        if among is not None:
            among.add(task)
            running.add_done_callback(lambda _: among.discard(task))
        return task

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, call)

    def waiter(self) -> Waiter:
        return asyncio.get_running_loop().create_future()

    def interruption(self) -> Interruption:
        return _AsyncioInterruption()


_ASYNCIO = _Asyncio()
