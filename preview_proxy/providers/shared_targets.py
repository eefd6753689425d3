"""Targets that several workers share: the first who needs one mints it, for all."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio

from preview_proxy.core.models import Preview
from preview_proxy.errors import PreviewProxyError
from preview_proxy.providers.held import Minted

POLL = 0.05
"""Seconds between two looks at what another worker mints."""

UNLOCKING = 1.0
"""Seconds that freeing a lock may take; it frees itself later."""

logger = logging.getLogger("preview_proxy")
Mint = Callable[[], Awaitable[Minted | PreviewProxyError]]


class SharedTargets(Protocol):
    """A store of minted targets, with one lock for each preview. Every method may raise where it does not answer."""

    async def load(self, preview: Preview) -> Minted | None:
        """The target last saved for `preview`, if it has not expired."""
        ...

    async def save(self, preview: Preview, minted: Minted) -> None:
        """Keep a target until it expires; one that never does is not kept. It holds credentials: encrypt it."""
        ...

    async def lock(self, preview: Preview, seconds: float) -> str | None:
        """A new owner's token, or None while another owns the lock. It frees itself after `seconds`."""
        ...

    async def unlock(self, preview: Preview, token: str) -> None:
        """Free the lock, if `token` still owns it."""
        ...


async def mint_shared(
    shared: SharedTargets, preview: Preview, mint: Mint, *, known: float | None, seconds: float
) -> Minted | PreviewProxyError:
    """A target other than the one minted at `known`: another worker's, or else a new one of ours.

    `seconds` bounds one `mint`. Without an answer of `shared` we mint alone: then a target costs one mint per worker,
    and no preview is dark for want of a cache.
    """
    token = found = None
    try:
        found = await _other(shared, preview, known)
        while found is None and (token := await shared.lock(preview, seconds + 5)) is None:
            await anyio.sleep(POLL)
            found = await _other(shared, preview, known)
        if token is not None:  # it may have been minted between our look and our lock
            found = await _other(shared, preview, known)
    except Exception as error:
        logger.warning("the shared targets do not answer: %s", type(error).__name__)
    try:
        outcome = found or await mint()
        if found is None and isinstance(outcome, Minted):
            await _quietly(shared.save(preview, outcome))
        return outcome
    finally:
        if token is not None:
            # for the others' sake: on trio nothing else that waits would still run in a task that is cancelled
            with anyio.move_on_after(UNLOCKING, shield=True):
                await _quietly(shared.unlock(preview, token))


async def _other(shared: SharedTargets, preview: Preview, known: float | None) -> Minted | None:
    found = await shared.load(preview)
    return None if found is None or found.minted_at == known else found


async def _quietly(step: Awaitable[None]) -> None:
    try:
        await step
    except Exception as error:
        logger.warning("the shared targets do not answer: %s", type(error).__name__)
