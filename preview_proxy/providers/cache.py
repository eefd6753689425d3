"""Targets kept until they are about to expire, and minted by one caller at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio

from preview_proxy.core.models import Preview, Target
from preview_proxy.errors import PreviewProxyError, ProviderError
from preview_proxy.providers.base import Provider, SupportsRotation

MINT_INTERVAL = 30.0
"""Seconds between two mints for one preview, whatever the answers say: a hostile preview can forge refusals."""

MAX_MARGIN = 30.0
"""Seconds before its expiry at which a target is renewed at the latest; a tenth of its lifetime if that is less."""


class Fresh(NamedTuple):
    """Use the target."""

    target: Target


class Stale(NamedTuple):
    """The target holds for a little longer: one caller renews it, the others use it."""

    target: Target


class Missing(NamedTuple):
    """There is no target: wait for one."""


@dataclass(frozen=True, slots=True)
class _Entry:
    target: Target
    minted_at: float

    def at(self, now: float) -> Fresh | Stale | Missing:
        """What the target is good for. Pure.

        It is fresh for `MINT_INTERVAL` at least. By our clock it may be as good as expired, but minting again would
        bring the same; so a clock that is ahead costs one mint per interval, and not one per request.
        """
        if self.target.expires_at is None:
            return Fresh(self.target)
        margin = min(MAX_MARGIN, (self.target.expires_at - self.minted_at) / 10)
        if now < max(self.target.expires_at - margin, self.minted_at + MINT_INTERVAL):
            return Fresh(self.target)
        return Stale(self.target) if now < self.target.expires_at else Missing()


@dataclass(slots=True)
class _Flight:
    """One call of the provider. Without an outcome when `done`, its caller was cancelled."""

    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: Target | PreviewProxyError | None = None


class TargetCache:
    """A provider's targets, at most `size` of them, least recently used first out.

    `timeout` (seconds) bounds one call of the provider. Failures are shared by those who wait and then forgotten.
    """

    def __init__(
        self, provider: Provider, *, timeout: float, clock: Callable[[], float] = time.time, size: int = 10_000
    ) -> None:
        self._provider = provider
        self._timeout = timeout
        self._clock = clock
        self._size = size
        self._entries: dict[Preview, _Entry] = {}
        self._flights: dict[Preview, _Flight] = {}
        if isinstance(provider, SupportsRotation):
            provider.when_rotated(self.forget)

    def forget(self, machine: str) -> None:
        """Drop a machine's targets: their credential is about to end."""
        for preview in [preview for preview in self._entries if preview.machine == machine]:
            del self._entries[preview]

    def lookup(self, preview: Preview, now: float) -> Fresh | Stale | Missing:
        """What is known about `preview` at `now` (Unix seconds). No I/O."""
        entry = self._entries.get(preview)
        return Missing() if entry is None else entry.at(now)

    async def get(self, preview: Preview) -> Target:
        """The target for `preview`, from memory or from the provider.

        Raises what the provider raised if that is a `PreviewProxyError`, and `ProviderError` for anything else.
        """
        entry = self._entries.pop(preview, None)
        if entry is not None:
            self._entries[preview] = entry  # now the most recently used
            if isinstance(found := entry.at(self._clock()), Fresh):
                return found.target
        outcome: Target | PreviewProxyError | None = None
        while outcome is None:
            found = self.lookup(preview, self._clock())
            flight = self._flights.get(preview)
            if isinstance(found, Fresh) or (isinstance(found, Stale) and flight is not None):
                outcome = found.target
            elif flight is not None:
                await flight.done.wait()
                outcome = flight.outcome
            else:
                outcome = await self._mint(preview)
                found = self.lookup(preview, self._clock())
                if isinstance(found, Stale) and isinstance(outcome, PreviewProxyError) and outcome.row.retryable:
                    outcome = found.target
        if isinstance(outcome, PreviewProxyError):
            # Without the traceback, which many waiters share and which holds the provider's frames.
            raise outcome.with_traceback(None)
        return outcome

    def reject(self, preview: Preview, target: Target) -> bool:
        """Note that the edge refused `target`'s credential; True when it is worth asking `get` again.

        False when the target was minted less than `MINT_INTERVAL` ago: it is kept, so that nothing is minted.
        """
        entry = self._entries.get(preview)
        if entry is None or entry.target is not target:
            return True
        if self._clock() - entry.minted_at < MINT_INTERVAL:
            return False
        del self._entries[preview]
        return True

    async def _mint(self, preview: Preview) -> Target | PreviewProxyError:
        flight = self._flights[preview] = _Flight()
        try:
            flight.outcome = outcome = await self._resolve(preview)
            if isinstance(outcome, Target):
                self._keep(preview, outcome)
        finally:
            del self._flights[preview]
            flight.done.set()
        return outcome

    def _keep(self, preview: Preview, target: Target) -> None:
        self._entries.pop(preview, None)
        self._entries[preview] = _Entry(target, self._clock())
        if len(self._entries) > self._size:
            del self._entries[next(iter(self._entries))]

    async def _resolve(self, preview: Preview) -> Target | PreviewProxyError:
        """The provider's answer or failure. Returned, not raised, so that no exception keeps its frames."""
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
        return target
