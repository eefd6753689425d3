from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest

from preview_proxy.errors import PreviewProxyError
from preview_proxy.providers.flights import Flights

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


T = TypeVar("T")


async def at_once(*calls: Callable[[], Awaitable[T]]) -> list[T]:
    """The answers of calls that are made together."""
    answers: dict[int, T] = {}

    async def ask(number: int) -> None:
        answers[number] = await calls[number]()

    async with anyio.create_task_group() as group:
        for number in range(len(calls)):
            group.start_soon(ask, number)
    return [answers[number] for number in range(len(calls))]


async def test_those_who_ask_at_once_share_a_call_and_the_next_begins_anew() -> None:
    flights: Flights[str, int] = Flights()
    calls = 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        mine = calls
        await anyio.lowlevel.checkpoint()
        return mine

    assert await at_once(*(partial(flights.join, "a", call) for _ in range(5))) == [1] * 5
    assert "a" not in flights
    assert await at_once(*(partial(flights.join, key, call) for key in "ab")) in ([2, 3], [3, 2])


async def test_whoever_asked_first_may_leave() -> None:
    flights: Flights[str, str] = Flights()
    begun, land = anyio.Event(), anyio.Event()

    async def call() -> str:
        begun.set()
        await land.wait()
        return "landed"

    with anyio.fail_after(5):
        async with anyio.create_task_group() as first:
            first.start_soon(flights.join, "a", call)
            await begun.wait()
            first.cancel_scope.cancel()
        async with anyio.create_task_group() as second:
            second.start_soon(flights.join, "a", call)
            land.set()
            assert await flights.join("a", call) == "landed"


async def test_closing_cancels_what_has_begun_and_what_has_not() -> None:
    flights: Flights[str, None] = Flights()
    began = anyio.Event()

    async def call() -> None:
        began.set()
        await anyio.sleep_forever()

    async def ask() -> None:
        with pytest.raises(PreviewProxyError, match="shutting_down"):
            await flights.join("a", call)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await began.wait()
            flights.start("b", call)
            await flights.aclose()
    assert "a" not in flights and "b" not in flights


async def test_what_begins_while_another_is_closed_is_under_way_until_its_own_end() -> None:
    flights: Flights[str, str] = Flights()
    began, closing, land = anyio.Event(), anyio.Event(), anyio.Event()

    async def slow_to_end() -> str:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            closing.set()
            with anyio.CancelScope(shield=True):
                await land.wait()
        raise AssertionError

    async def second() -> str:
        await anyio.sleep_forever()
        raise AssertionError

    with anyio.fail_after(5):
        flights.start("a", slow_to_end)
        await began.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(flights.aclose)
            await closing.wait()
            flights.start("a", second)
            land.set()
        assert "a" in flights
        await flights.aclose()
    assert "a" not in flights
