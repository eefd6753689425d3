from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from preview_proxy.providers.flights import Flights

pytestmark = pytest.mark.anyio


async def test_those_who_ask_at_once_share_a_call_and_the_next_begins_anew() -> None:
    flights: Flights[str, int] = Flights()
    calls = 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        mine = calls
        await anyio.lowlevel.checkpoint()
        return mine

    assert await asyncio.gather(*(flights.join("a", call) for _ in range(5))) == [1] * 5
    assert "a" not in flights
    assert await asyncio.gather(*(flights.join(key, call) for key in "ab")) == [2, 3]


async def test_closing_cancels_what_has_begun_and_what_has_not() -> None:
    flights: Flights[str, None] = Flights()
    began = anyio.Event()

    async def call() -> None:
        began.set()
        await anyio.sleep_forever()

    flights.start("a", call)
    await began.wait()
    flights.start("b", call)
    with anyio.fail_after(5):
        await flights.aclose()
    assert "a" not in flights and "b" not in flights
