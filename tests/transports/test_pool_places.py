"""Who gets a connection, and that each place in the pool comes back, whichever two things happen in one turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from preview_proxy import Limits, PreviewProxyError
from preview_proxy.transports import pool as pool_module
from preview_proxy.transports.pool import UpstreamPool
from preview_proxy.transports.request import UpstreamRequest
from preview_proxy.transports.response import PooledResponse
from tests.transports.wires import Wires, asks
from tests.turns import pass_time, turns

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Asked = asyncio.Task[PooledResponse]


@pytest.fixture
async def pool(wires: Wires) -> AsyncIterator[UpstreamPool]:
    """A pool of one connection."""
    made = UpstreamPool(Limits(connections=1, pool_timeout=30, head_timeout=1000))
    yield made
    await made.aclose()
    assert not made._connections
    assert not any(line.count or any(not waiter.done() for waiter in line.waiting) for line in made._lines.values())


async def asking(pool: UpstreamPool, request: UpstreamRequest | None = None) -> Asked:
    """A request that was sent, or waits for a connection."""
    task = asyncio.create_task(pool.send(request or asks()))
    await turns()
    return task


async def refused(task: Asked) -> None:
    with pytest.raises(asyncio.CancelledError):
        await task


# --- waiting for a connection --------------------------------------------------------------------------------------


async def test_who_waits_gets_the_connection_that_comes_free(pool: UpstreamPool, wires: Wires) -> None:
    first, second = await asking(pool), await asking(pool)
    wires[0].say(OK)
    assert (await first).status_code == 200
    await turns()
    wires[0].say(OK)
    assert (await second).status_code == 200
    assert len(wires) == 1


async def test_who_is_cancelled_as_a_connection_comes_free_leaves_it_to_the_next(
    pool: UpstreamPool, wires: Wires
) -> None:
    _, second, third = await asking(pool), await asking(pool), await asking(pool)
    wires[0].say(OK)
    second.cancel()
    await refused(second)
    await turns()
    wires[0].say(OK)
    assert (await third).status_code == 200
    assert len(wires) == 1


async def test_who_is_cancelled_as_a_connection_ends_leaves_its_place_to_the_next(
    pool: UpstreamPool, wires: Wires
) -> None:
    first, second, third = await asking(pool), await asking(pool), await asking(pool)
    wires[0].lose()
    second.cancel()
    await refused(second)
    with pytest.raises(httpx.RemoteProtocolError):
        await first
    await turns()
    wires[1].say(OK)
    assert (await third).status_code == 200
    assert len(wires) == 2


async def test_who_is_cancelled_as_a_connection_comes_free_and_ends_leaves_a_place(
    pool: UpstreamPool, wires: Wires
) -> None:
    _, second, third = await asking(pool), await asking(pool), await asking(pool)
    wires[0].say(OK)
    wires[0].end()
    second.cancel()
    await refused(second)
    await turns()
    wires[1].say(OK)
    assert (await third).status_code == 200


async def test_who_is_cancelled_with_nothing_to_leave_is_forgotten(pool: UpstreamPool, wires: Wires) -> None:
    _, second, third = await asking(pool), await asking(pool), await asking(pool)
    second.cancel()
    await refused(second)
    wires[0].say(OK)
    await turns()
    wires[0].say(OK)
    assert (await third).status_code == 200


async def test_a_connection_that_comes_free_and_ends_is_given_to_nobody(pool: UpstreamPool, wires: Wires) -> None:
    _, second = await asking(pool), await asking(pool)
    wires[0].say(OK)
    wires[0].end()
    await turns()
    assert wires[0].sent.count(b"GET") == 1
    wires[1].say(OK)
    assert (await second).status_code == 200


async def test_a_connection_that_comes_free_as_the_time_is_up_is_not_lost(
    pool: UpstreamPool, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = await asking(pool), await asking(pool)
    loop = asyncio.get_running_loop()
    loop.call_at(0, wires[0].say, OK)  # the event loop takes what is due in order: this goes before the timeout
    with monkeypatch.context() as patching:
        pass_time(31, patching)
        await turns()
    wires[0].say(OK)
    assert (await second).status_code == 200


async def test_who_gave_up_waiting_is_forgotten(
    pool: UpstreamPool, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await asking(pool)
    for times in range(1, 4):
        second = await asking(pool)
        pass_time(31, monkeypatch)
        with pytest.raises(httpx.PoolTimeout):
            await second
        assert [len(line.waiting) for line in pool._lines.values()] == [1], times
    wires[0].say(OK)
    assert (await first).status_code == 200


# --- connecting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [None, OSError("nobody there")])
async def test_a_connection_that_does_not_come_about_keeps_no_place(
    pool: UpstreamPool, wires: Wires, failure: OSError | None
) -> None:
    """Nobody answers, or who does hangs up before the pool hears of it."""
    wires.failure, wires.hang_up = failure, failure is None
    for _ in range(2):
        with pytest.raises(httpx.ConnectError):
            await pool.send(asks())
    wires.failure, wires.hang_up = None, False
    asked = await asking(pool)
    wires[-1].say(OK)
    assert (await asked).status_code == 200


async def test_who_is_cancelled_while_dialling_keeps_no_place(
    pool: UpstreamPool, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> Any:
        await asyncio.get_running_loop().create_future()

    with monkeypatch.context() as patching:
        patching.setattr(pool_module, "dial", never)
        first = await asking(pool)
    second = await asking(pool)
    first.cancel()
    await refused(first)
    await turns()
    wires[0].say(OK)
    assert (await second).status_code == 200


async def test_v01_a_connection_that_takes_too_long_keeps_no_place(
    pool: UpstreamPool, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> Any:
        await asyncio.get_running_loop().create_future()

    with monkeypatch.context() as patching:
        patching.setattr(pool_module, "dial", never)
        first = await asking(pool)
        pass_time(6, patching)
        with pytest.raises(httpx.ConnectTimeout):
            await first
    second = await asking(pool)
    wires[0].say(OK)
    assert (await second).status_code == 200


async def test_a_request_that_cannot_be_written_keeps_no_place(pool: UpstreamPool, wires: Wires) -> None:
    for _ in range(2):
        with pytest.raises(httpx.LocalProtocolError):
            await pool.send(asks("GET\n"))
    assert all(wire.is_closing() and not wire.sent for wire in wires)


# --- what is kept --------------------------------------------------------------------------------------------------


async def kept(wires: Wires, number: int) -> UpstreamPool:
    """A pool that keeps that many connections."""
    pool = UpstreamPool(Limits(connections=number))
    asked = [await asking(pool) for _ in range(number)]
    for wire in wires:
        wire.say(OK)
    await asyncio.gather(*asked)
    return pool


async def test_what_is_as_old_as_a_connection_that_was_closed_is_not_tried(wires: Wires) -> None:
    pool = await kept(wires, 3)
    asked = await asking(pool)
    wires[2].end()
    await turns()
    assert [wire.is_closing() for wire in wires] == [True, True, True, False]
    wires[3].say(OK)
    assert (await asked).status_code == 200
    await pool.aclose()


async def test_what_closed_while_it_was_kept_is_not_used(wires: Wires) -> None:
    pool = await kept(wires, 2)
    wires[1].end()
    asked = await asking(pool)
    wires[0].say(OK)
    assert (await asked).status_code == 200
    wires[0].end()
    asked = await asking(pool)
    wires[2].say(OK)
    assert (await asked).status_code == 200
    await pool.aclose()


async def test_who_is_cancelled_on_a_connection_that_was_kept_takes_it_along(pool: UpstreamPool, wires: Wires) -> None:
    for _ in range(2):
        asked = await asking(pool)
        wires[-1].say(OK)
        await asked
        asked = await asking(pool)
        asked.cancel()
        await refused(asked)
        assert wires[-1].is_aborted
        await turns()


# --- time ----------------------------------------------------------------------------------------------------------


async def test_the_sweep_closes_what_was_idle_for_long_and_forgets_its_origin(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await kept(wires, 2)
    busy = await asking(pool)
    pass_time(pool_module.KEEPALIVE - 1, monkeypatch)
    await turns()
    assert [wire.is_closing() for wire in wires] == [False, False]
    pass_time(2, monkeypatch)
    await turns()
    assert [wire.is_closing() for wire in wires] == [True, False]
    wires[1].say(OK)
    assert (await busy).status_code == 200
    for _ in range(2):  # the second finds none to keep
        pass_time(pool_module.KEEPALIVE + 1, monkeypatch)
        await turns()
    assert wires[1].is_closing()
    assert not pool._lines
    assert pool._sweeping is None
    await pool.aclose()


async def test_v01_the_sweep_breaks_off_what_is_past_its_time(
    pool: UpstreamPool, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await asking(pool)
    pass_time(1001, monkeypatch)
    await turns()
    with pytest.raises(httpx.ReadTimeout):
        await first
    assert wires[0].is_aborted


async def test_closing_the_pool_fails_what_is_under_way(pool: UpstreamPool, wires: Wires) -> None:
    asked = await asking(pool)
    await pool.aclose()
    with pytest.raises(httpx.ReadError):
        await asked
    await pool.aclose()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_another_event_loop_it_says_what_to_give_it() -> None:
    with pytest.raises(PreviewProxyError) as refusal:
        await UpstreamPool().send(asks())
    assert "AsyncHTTPTransport" in str(refusal.value)
