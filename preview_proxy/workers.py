"""Revocations between the workers of one deployment: told to all, heard from all, and refused without.

A worker that does not hear the others may let in somebody who has signed out elsewhere, for their gate is signed and
looks well. So one that has lost touch refuses visitors until it knows again what it has missed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import anyio

from preview_proxy import event_loop
from preview_proxy.errors import CheckFailed
from preview_proxy.event_loop import Signal, Task, Token
from preview_proxy.revocation import Revocation

logger = logging.getLogger("preview_proxy")

RETRY = 1.0
"""Seconds between two attempts to publish, or to listen again."""

FAREWELL = 2.0
"""Seconds that revocations which are still to be published have at shutdown."""


class Revocations(Protocol):
    """Carries revocations between workers, as Redis does with a key for each and a channel for all."""

    async def publish(self, revocation: Revocation) -> None:
        """Keep `revocation` for `gate_ttl` and 30 seconds, and tell every worker. If it raises it is called again."""
        ...

    async def listen(self, apply: Callable[[Revocation], object], ready: Callable[[], None]) -> None:
        """Tell this worker: `apply` what is kept, then call `ready`, then `apply` all that is published, by anyone.

        Nothing published may fall between the two. It runs until it is cancelled; if it returns or raises, touch is
        lost and it is called again.
        """
        ...


class Workers:
    """This worker's end of `revocations`. `grace` is how many seconds it may go without hearing the others."""

    def __init__(self, revocations: Revocations, apply: Callable[[Revocation], object], grace: float) -> None:
        self._revocations = revocations
        self._apply = apply
        self._grace = grace
        self._home: Token | None = None
        self._listening: Task | None = None
        self._publishing: set[Task] = set()
        self._in_touch = Signal()
        self._lost_at = float("-inf")

    async def heard(self, timeout: float) -> None:  # noqa: ASYNC109 - part of the promise
        """Return where this worker knows what the others have revoked. Raises `CheckFailed` after `timeout` seconds."""
        listening = self._listening
        if listening is None or listening.done() or self._home != event_loop.running().token():
            self._start()
        if self._in_touch.is_set() or time.monotonic() < self._lost_at + self._grace:
            return
        with anyio.move_on_after(timeout):
            await self._in_touch.wait()
            return
        raise CheckFailed(detail="what other workers have revoked is not known")

    def publish(self, revocation: Revocation) -> None:
        """Tell the other workers, as often as it takes."""
        loop = event_loop.running()
        if self._home != loop.token():
            self._start()
        loop.spawn(self._publish(revocation), self._publishing)

    async def aclose(self) -> None:
        """Publish what is still to be published, for a little while, and stop listening."""
        if self._home != event_loop.running().token():
            return  # what there was ended with its event loop
        await _ended(self._publishing)
        tasks = [*self._publishing, *([self._listening] if self._listening else ())]
        for task in tasks:
            task.cancel()
        await _ended(tasks)
        self._listening = None

    def _start(self) -> None:
        """On another event loop, or after `aclose`, what was heard before may be too old."""
        loop = event_loop.running()
        self._home = loop.token()
        self._in_touch, self._lost_at = Signal(), float("-inf")
        self._listening = loop.spawn(self._listen(self._in_touch))

    async def _listen(self, in_touch: Signal) -> None:
        while True:
            try:
                failure = await _failure(self._revocations.listen(self._apply, in_touch.set))
            finally:
                if in_touch.is_set():
                    self._lost_at = time.monotonic()
                    in_touch.clear()
            logger.warning("listening for revocations of other workers %s", failure or "ended")
            await anyio.sleep(RETRY)

    async def _publish(self, revocation: Revocation) -> None:
        while failure := await _failure(self._revocations.publish(revocation)):
            logger.warning("publishing a revocation %s", failure)
            await anyio.sleep(RETRY)


async def _ended(tasks: Iterable[Task]) -> None:
    """Return when all have ended, or after a while."""
    with anyio.move_on_after(FAREWELL):
        for task in tuple(tasks):
            await task.wait()


async def _failure(step: Awaitable[None]) -> str | None:
    """How it failed, if it did. So does a cancellation that nobody asked for: clients of databases leak their own."""
    try:
        await step
    except asyncio.CancelledError:
        if event_loop.is_cancelled():
            raise
        return "was cancelled"
    except Exception as error:
        return f"failed with {type(error).__name__}"
    return None
