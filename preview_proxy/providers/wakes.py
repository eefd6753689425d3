"""Waking paused machines: by one call for all who wait, and seldom."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import anyio

from preview_proxy.core.models import Inbound, Preview
from preview_proxy.core.recent import Recent
from preview_proxy.errors import PreviewProxyError
from preview_proxy.providers.base import Provider, SupportsWake
from preview_proxy.providers.flights import Flights
from preview_proxy.providers.held import MINT_INTERVAL

PAUSED = "machine_paused_auto_resume_disabled"
"""The code for a machine that stays paused until somebody resumes it. A preview can forge it, at its edge's place."""

# Fetch §2.2.7 `Sec-Purpose`, and what browsers sent before it
_PURPOSES = frozenset({b"sec-purpose", b"purpose", b"x-moz", b"x-purpose"})

logger = logging.getLogger("preview_proxy")


class Wakes:
    """Asks the provider to wake machines, each once in `MINT_INTERVAL` at most, and waits `timeout` seconds."""

    def __init__(
        self, provider: Provider, *, timeout: float, clock: Callable[[], float] = time.time, size: int = 10_000
    ) -> None:
        self._provider = provider
        self._timeout = timeout
        self._clock = clock
        self._asked: Recent[Preview, bool] = Recent(size)
        self._flights: Flights[Preview, bool] = Flights()

    async def wake(self, preview: Preview) -> bool:
        """Whether the machine was woken just now, so that it is worth asking it again."""
        if not isinstance(self._provider, SupportsWake):
            return False
        if preview not in self._flights and self._asked.get(preview, self._clock()):
            return False
        return await self._flights.join(preview, partial(self._wake, self._provider, preview))

    async def _wake(self, provider: SupportsWake, preview: Preview) -> bool:
        self._asked.put(preview, True, self._clock() + MINT_INTERVAL)
        failure: object
        try:
            with anyio.fail_after(self._timeout):
                await provider.wake(preview)
            return True
        except TimeoutError:
            failure = f"not in {self._timeout:g} s"
        except PreviewProxyError as error:
            failure = error
        except Exception as error:
            failure = type(error).__name__
        logger.warning("the machine of %s was not woken: %s", preview.key, failure)
        return False

    async def aclose(self) -> None:
        """End what is under way."""
        await self._flights.aclose()


def may_wake(inbound: Inbound) -> bool:
    """Whether somebody opened a page, and no browser guessed that they might: nothing else wakes a machine."""
    navigates = inbound.method == "GET" and inbound.values(b"sec-fetch-mode") == [b"navigate"]
    return navigates and not any(name in _PURPOSES for name, _ in inbound.headers)
