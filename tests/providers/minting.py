"""A provider that counts, a clock that stands still, and a store in this process."""

from __future__ import annotations

from itertools import count

import anyio
import anyio.lowlevel

from preview_proxy.core.models import Endpoint, Origin, Preview, Target
from preview_proxy.providers.held import Minted

PREVIEW = Preview("mch_1", 3000)
START = 1_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Mints:
    """A provider that counts, waits at a gate, and answers with what `answer` makes of the count."""

    def __init__(self, clock: Clock, lifetime: float | None = 900) -> None:
        self.clock = clock
        self.lifetime = lifetime
        self.count = 0
        self.started = anyio.Event()
        self.gate = anyio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def resolve(self, preview: Preview) -> Target:
        self.count += 1
        self.started.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        expires_at = None if self.lifetime is None else self.clock() + self.lifetime
        endpoint = Endpoint(Origin("https", f"{preview.port}-{preview.machine}.example", 443))
        return Target(f"grant-{self.count}", endpoint, endpoint, expires_at)

    def close_gate(self) -> None:
        self.gate, self.started = anyio.Event(), anyio.Event()


class Store:
    """`SharedTargets` in this process. `broken` names the methods that fail."""

    def __init__(self) -> None:
        self.saved: dict[Preview, Minted] = {}
        self.locks: dict[Preview, str] = {}
        self.tokens = map(str, count())
        self.broken: set[str] = set()
        self.refused = anyio.Event()
        """Set once somebody did not get a lock."""

    def _check(self, name: str) -> None:
        if name in self.broken:
            raise ConnectionError("canary-0123456789")

    async def load(self, preview: Preview) -> Minted | None:
        self._check("load")
        return self.saved.get(preview)

    async def save(self, preview: Preview, minted: Minted) -> None:
        self._check("save")
        self.saved[preview] = minted

    async def lock(self, preview: Preview, seconds: float) -> str | None:
        self._check("lock")
        if preview in self.locks:
            self.refused.set()
            return None
        self.locks[preview] = next(self.tokens)
        return self.locks[preview]

    async def unlock(self, preview: Preview, token: str) -> None:
        self._check("unlock")
        await anyio.lowlevel.checkpoint()
        assert self.locks.pop(preview) == token
