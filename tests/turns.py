"""The event loop's turns and its clock, as a test needs them."""

from __future__ import annotations

import asyncio

import pytest


async def turns(number: int = 20) -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(number):
        await asyncio.sleep(0)


def pass_time(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once it is that much later for asyncio's event loop."""
    loop = asyncio.get_running_loop()
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + seconds)
