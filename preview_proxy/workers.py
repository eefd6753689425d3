"""Revocations between the workers of one deployment: told to all, heard from all, and refused without.

A worker that does not hear the others may let in somebody who has signed out elsewhere, for their gate is signed and
looks well. So one that has lost touch refuses visitors until it knows again what it has missed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from preview_proxy.errors import CheckFailed
from preview_proxy.revocation import Revocation

logger = logging.getLogger("preview_proxy")

RETRY = 1.0
"""Seconds between two attempts to publish, or to listen again."""

FAREWELL = 2.0
"""Seconds that revocations which are still to be published have at shutdown."""


class Revocations(Protocol):
    """Carries revocations between workers, as Redis does with a key for each and a channel for all."""

    async def publish(self, revocation: Revocation) -> None:
        """Keep `revocation` for as long as a gate may hold, and tell every worker. If it raises it is called again."""
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._in_touch = asyncio.Event()
        self._lost_at = float("-inf")

    async def heard(self, timeout: float) -> None:  # noqa: ASYNC109 - part of the promise
        """Return where this worker knows what the others have revoked. Raises `CheckFailed` after `timeout` seconds."""
        if self._listening is None or self._loop is not asyncio.get_running_loop():
            self._start()
        if self._in_touch.is_set() or time.monotonic() < self._lost_at + self._grace:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._in_touch.wait()
                return
        raise CheckFailed(detail="what other workers have revoked is not known")

    def publish(self, revocation: Revocation) -> None:
        """Tell the other workers, as often as it takes."""
        if self._loop is not asyncio.get_running_loop():
            self._start()
        task = asyncio.get_running_loop().create_task(self._publish(revocation))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def aclose(self) -> None:
        """Publish what is still to be published, for a little while, and stop listening."""
        if self._loop is not asyncio.get_running_loop():
            return  # what there was ended with its event loop
        if self._publishing:
            await asyncio.wait(self._publishing, timeout=FAREWELL)
        for task in (*self._publishing, *([self._listening] if self._listening else ())):
            task.cancel()
        self._listening = None

    def _start(self) -> None:
        """On another event loop, or after `aclose`, what was heard before may be too old."""
        self._loop = asyncio.get_running_loop()
        self._in_touch, self._lost_at = asyncio.Event(), float("-inf")
        self._listening = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        while True:
            try:
                await self._revocations.listen(self._apply, self._in_touch.set)
                failure = "ended"
            except Exception as error:
                failure = f"failed with {type(error).__name__}"
            if self._in_touch.is_set():
                self._lost_at = time.monotonic()
                self._in_touch.clear()
            logger.warning("listening for revocations of other workers %s", failure)
            await asyncio.sleep(RETRY)

    async def _publish(self, revocation: Revocation) -> None:
        while True:
            try:
                return await self._revocations.publish(revocation)
            except Exception as error:
                logger.warning("publishing a revocation failed with %s", type(error).__name__)
            await asyncio.sleep(RETRY)
