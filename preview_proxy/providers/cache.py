"""Targets kept until they expire, renewed ahead of that, and minted by one call at a time.

    fresh    before 80 % of its lifetime     used
    stale    until it expires                used, while one call in the background brings the next
    missing  none, expired, or refused       whoever asks waits for the one call

Each request asks here, so what is fresh costs one look-up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import anyio

from preview_proxy.core.models import Preview, Target
from preview_proxy.errors import PreviewProxyError, ProviderError
from preview_proxy.providers.base import Provider, SupportsRevoke, SupportsRotation
from preview_proxy.providers.flights import Flights
from preview_proxy.providers.held import MINT_INTERVAL, HeldTarget, Holding, Minted
from preview_proxy.providers.pace import Pace
from preview_proxy.providers.shared_targets import SharedTargets, mint_shared

REVOKED_AT_ONCE = 16

RENEWAL_PAUSE = 10.0
"""Seconds after a renewal that failed; the old target serves meanwhile."""

logger = logging.getLogger("preview_proxy")


class TargetCache:
    """A provider's targets, at most `size` of them; those not used for the longest go first.

    `timeout` (seconds) bounds one call of the provider, `mints_per_minute` the calls of this process. `shared` are the
    targets of all workers. A failure is shared by those who wait and then forgotten.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        timeout: float,
        mints_per_minute: int = 600,
        shared: SharedTargets | None = None,
        clock: Callable[[], float] = time.time,
        size: int = 10_000,
    ) -> None:
        self._provider = provider
        self._timeout = timeout
        self._pace = Pace(mints_per_minute)
        self._shared = shared
        self._clock = clock
        self._size = size
        self._held: dict[Preview, Holding] = {}
        self._replaced: list[Holding] = []
        self._flights: Flights[Preview, Holding | PreviewProxyError] = Flights()
        if isinstance(provider, SupportsRotation):
            provider.when_rotated(self.forget)

    def forget(self, machine: str) -> None:
        """Use a machine's targets no more: their credential ends."""
        for held in self._held.values():
            if held.preview.machine == machine:
                held.end("ended")

    def fresh(self, preview: Preview) -> Holding | None:
        """The target for `preview`, where it is known and needs no renewal yet."""
        held = self._held.get(preview)
        return held if held is not None and self._clock() < held.renew_at else None

    async def get(self, preview: Preview) -> Holding:
        """The target for `preview`, from memory, from another worker or from the provider.

        Raises what the provider raised if that is a `PreviewProxyError`, and `ProviderError` for anything else.
        """
        if (held := self.fresh(preview)) is not None:
            return held
        held = self._held.get(preview)
        if held is not None and held.holds(self._clock()):
            self._flights.start(preview, partial(self._fly, preview, held))
            return held
        outcome = await self._flights.join(preview, partial(self._fly, preview, held))
        if isinstance(outcome, PreviewProxyError):
            # Without the traceback, which many waiters share and which holds the provider's frames.
            raise outcome.with_traceback(None)
        return outcome

    def reject(self, held: Holding, code: str) -> bool:
        """Note that the edge refused a target's credential; True when it is worth asking `get` again.

        False when it was minted less than `MINT_INTERVAL` ago: it is kept, so that nothing is minted.
        """
        self.failed(held, code)
        if self._held.get(held.preview) is held:
            if self._clock() - held.minted_at < MINT_INTERVAL:
                return False
            held.end("refused")
        return True

    def failed(self, held: Holding, code: str) -> None:
        """Note what the provider's edge said, for the inventory."""
        held.last_error = code, self._clock()

    def used(self, held: Holding, kind: str) -> None:
        """Count a request (``"http"``) or a WebSocket that is about to go to `held`."""
        held.used(kind, self._clock())

    def inventory(self) -> list[HeldTarget]:
        """Every target that is held, and those replaced but not yet expired; oldest first."""
        self._drop_expired()
        return [held.entry() for held in sorted((*self._held.values(), *self._replaced), key=lambda h: h.minted_at)]

    async def _fly(self, preview: Preview, old: Holding | None) -> Holding | PreviewProxyError:
        """The target that follows `old`, or `old` itself for as long as it holds."""
        outcome = await self._mint(preview, old)
        if isinstance(outcome, Minted):
            return self._keep(preview, outcome)
        now = self._clock()
        if old is not None and old.holds(now):
            logger.warning("the target of %s was not renewed: %s", preview.key, outcome)
            old.renew_at = now + RENEWAL_PAUSE
            return old
        return outcome

    def _keep(self, preview: Preview, minted: Minted) -> Holding:
        old = self._held.pop(preview, None)
        held = self._held[preview] = Holding(preview, *minted)
        if old is not None and old.status == "active":
            old.status = "replaced"
            self._drop_expired()
            self._replaced.append(old)
        if len(self._held) > self._size:
            self._make_room()
        return held

    def _make_room(self) -> None:
        """Drop the tenth that was not used for the longest: then it is seldom, and uses need not be kept in order."""
        by_use = sorted(self._held.values(), key=lambda held: held.last_used_at or held.minted_at)
        for held in by_use[: max(1, self._size // 10)]:
            del self._held[held.preview]

    def _drop_expired(self) -> None:
        now = self._clock()
        self._replaced = [held for held in self._replaced if held.holds(now)]

    async def _mint(self, preview: Preview, old: Holding | None) -> Minted | PreviewProxyError:
        """The next target, by another worker or by us, and different from `old`."""
        resolve = partial(self._resolve, preview)
        if self._shared is None:
            return await resolve()
        known = None if old is None else old.minted_at
        return await mint_shared(self._shared, preview, resolve, known=known, seconds=self._timeout)

    async def _resolve(self, preview: Preview) -> Minted | PreviewProxyError:
        """The provider's answer or failure. Returned, not raised, so that no exception keeps its frames."""
        if not self._pace.take(self._clock()):
            return ProviderError("provider_busy", detail="mints_per_minute is used up", retry_after=5)
        try:
            with anyio.fail_after(self._timeout):
                target = await self._provider.resolve(preview)
        except PreviewProxyError as error:
            error.__cause__ = error.__context__ = None  # a request with its credential, in an httpx error's frames
            return error
        except TimeoutError:
            return ProviderError("provider_timeout", detail=f"no answer in {self._timeout:g} s")
        except Exception as error:
            return ProviderError(detail=f"the provider raised {type(error).__name__}")
        if not isinstance(target, Target):
            return ProviderError(detail=f"the provider returned {type(target).__name__}, not a Target")
        return Minted(target, self._clock())

    async def aclose(self, *, revoke: bool = False) -> None:
        """End what is under way. With `revoke`, take back within `timeout` what is held, where the provider can."""
        await self._flights.aclose()
        if not revoke or not isinstance(self._provider, SupportsRevoke):
            return
        now, one_of_few = self._clock(), anyio.CapacityLimiter(REVOKED_AT_ONCE)
        held = [held for held in (*self._held.values(), *self._replaced) if held.holds(now)]
        with anyio.move_on_after(self._timeout):
            async with anyio.create_task_group() as group:
                for each in held:
                    group.start_soon(self._revoke, self._provider, each, one_of_few)
        if left := sum(each.status != "revoked" for each in held):
            logger.warning("%d of %d targets were not revoked; they end when they expire", left, len(held))

    @staticmethod
    async def _revoke(provider: SupportsRevoke, held: Holding, one_of_few: anyio.CapacityLimiter) -> None:
        async with one_of_few:
            with suppress(Exception):  # it is counted
                await provider.revoke(held.preview, held.target)
                held.end("revoked")
