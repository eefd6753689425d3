"""A response, filled by a connection that the test plays."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from preview_proxy import Limits
from preview_proxy.transports.response import NEVER, PAUSE_AT, PooledResponse
from tests.transports.wires import asks

pytestmark = pytest.mark.anyio


class Source:
    """What a response sees of its connection."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.deadline = NEVER
        self.resumed = self.abandoned = 0

    def arm(self, timeout: float) -> None:
        self.deadline = timeout

    def resume(self) -> None:
        self.resumed += 1

    def abandon(self) -> None:
        self.abandoned += 1


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def response(source: Source) -> PooledResponse:
    return PooledResponse(source, asks(), Limits(idle_timeout=7))


async def begun(operation: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(operation)
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("whole", [False, True])
async def test_a_head_is_waited_for_until_it_is_there(response: PooledResponse, whole: bool) -> None:
    waiting = await begun(response.wait_head())
    assert not waiting.done()
    response.status_code = 204
    if whole:
        response.end()
    else:
        response.wake()
    await waiting


@pytest.mark.parametrize("whole", [False, True])
async def test_a_head_that_is_there_is_not_waited_for(response: PooledResponse, whole: bool) -> None:
    response.status_code = 204
    if whole:
        response.end()
    await response.wait_head()


@pytest.mark.parametrize("early", [False, True])
async def test_what_prevents_the_head_is_raised(response: PooledResponse, early: bool) -> None:
    if early:
        response.end(httpx.ReadError("x"))
    waiting = await begun(response.wait_head())
    if not early:
        response.end(httpx.ReadError("x"))
    with pytest.raises(httpx.ReadError):
        await waiting


async def test_what_breaks_off_the_body_is_raised_after_what_came_of_it(response: PooledResponse) -> None:
    response.status_code = 200
    response.push(b"a")
    response.end(httpx.ReadError("x"))
    await response.wait_head()
    assert await response.read_chunk() == b"a"
    for _ in range(2):
        with pytest.raises(httpx.ReadError):
            await response.read_chunk()
    assert not response.is_whole


async def test_what_came_in_parts_is_read_at_once(response: PooledResponse, source: Source) -> None:
    for part in (b"a", b"b", b"c"):
        assert not response.push(part)
    assert await response.read_chunk() == b"abc"
    assert source.resumed == 1
    response.push(b"d")
    response.end()
    assert [await response.read_chunk() for _ in range(3)] == [b"d", None, None]
    assert source.resumed == 1


async def test_a_reader_that_is_behind_is_told_of_until_it_reads(response: PooledResponse) -> None:
    assert not response.push(bytes(PAUSE_AT))
    assert response.push(b"x")
    assert await response.read_chunk() == bytes(PAUSE_AT) + b"x"
    assert not response.push(b"x")


@pytest.mark.parametrize("idle_timeout", [7.0, None])
async def test_v01_the_body_is_waited_for_as_long_as_it_may_be_silent(
    response: PooledResponse, source: Source, idle_timeout: float | None
) -> None:
    response.idle_timeout = idle_timeout
    reading = await begun(response.read_chunk())
    assert source.deadline == (idle_timeout or NEVER)
    response.push(b"a")
    response.push(b"b")  # wakes nobody: who was waiting has not run yet
    assert await reading == b"ab"
    assert source.deadline == NEVER


async def test_the_deadline_of_a_closing_connection_is_left_alone(response: PooledResponse, source: Source) -> None:
    reading = await begun(response.read_chunk())
    response.end()
    source.arm(5)
    assert await reading is None
    assert source.deadline == 5


async def test_closing_abandons_what_is_under_way_only(response: PooledResponse, source: Source) -> None:
    await response.aclose()
    assert source.abandoned == 1
    response.end()
    await response.aclose()
    assert source.abandoned == 1


async def test_closing_a_101_closes_the_stream_that_nobody_took(response: PooledResponse) -> None:
    class Stream:
        aborted = 0

        def abort(self) -> None:
            self.aborted += 1

    stream = response.extensions["network_stream"] = Stream()
    response.status_code = 101
    response.end()
    assert not response.is_whole
    await response.aclose()
    assert stream.aborted == 1
