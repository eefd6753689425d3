"""A provider that counts, and a clock that stands still."""

from __future__ import annotations

import anyio

from preview_proxy.core.models import Endpoint, Origin, Preview, Target

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
