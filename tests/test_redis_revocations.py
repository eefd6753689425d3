"""Revocations through a real Redis: told to whoever listens, kept for whoever comes, and their loss noticed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from redis.exceptions import RedisError

from preview_proxy import Preview, RedisState, Revocation
from tests.redis_server import RedisServer, redis_server
from tests.test_redis_state import SECRET

pytestmark = pytest.mark.anyio
FIRST = Revocation("ada", None, None, 1e9)
SECOND = Revocation(None, Preview("mch_1", 3000, 2), None, 1e9 + 0.25)
THIRD = Revocation(None, None, "login-1", 1e9 + 1)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as server:
        yield server


@dataclass
class Worker:
    """What a worker has heard; `began` are the times before which everything is void."""

    state: RedisState
    heard: list[Revocation] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    in_touch: anyio.Event = field(default_factory=anyio.Event)
    changed: anyio.Event = field(default_factory=anyio.Event)
    failure: str = ""

    def apply(self, revocation: Revocation) -> None:
        if revocation.key == (None, None, None):
            self.began.append(revocation.at)
        else:
            self.heard.append(revocation)
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(20):
            while not holds():
                await self.changed.wait()

    async def listen(self) -> None:
        try:
            await self.state.listen(self.apply, self.in_touch.set)
        except (RedisError, OSError, RuntimeError) as error:
            self.failure = type(error).__name__
            self.changed.set()


@asynccontextmanager
async def working(redis: RedisServer) -> AsyncIterator[Worker]:
    """A worker that listens."""
    worker = Worker(RedisState(redis.url, secret=SECRET))
    async with anyio.create_task_group() as group:
        group.start_soon(worker.listen)
        with anyio.fail_after(10):
            await worker.in_touch.wait()
        yield worker
        group.cancel_scope.cancel()
    await worker.state.aclose()


async def test_v10_everybody_hears_of_it_and_so_does_who_comes_later(redis: RedisServer) -> None:
    async with working(redis) as one, working(redis) as other:
        for revocation in (FIRST, SECOND, THIRD):
            await one.state.publish(revocation)
        for worker in (one, other):
            await worker.until(lambda worker=worker: len(worker.heard) == 3)  # type: ignore[misc]
            assert worker.heard == [FIRST, SECOND, THIRD]
        async with working(redis) as late:
            assert late.heard == [FIRST, SECOND, THIRD]
            assert late.began == one.began
            assert late.began[0] == pytest.approx(time.time(), abs=60)


async def test_v10_who_was_away_hears_what_was_missed_and_that_once(redis: RedisServer) -> None:
    async with working(redis) as one:
        await one.state.publish(FIRST)
        await one.until(lambda: len(one.heard) == 1)
        other = RedisState(redis.url, secret=SECRET)
        redis.kill()
        await one.until(lambda: one.failure != "")
        await redis.start()
        await other.publish(SECOND)
        one.in_touch = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(one.listen)
            with anyio.fail_after(10):
                await one.in_touch.wait()
            assert one.heard == [FIRST, SECOND]
            assert len(one.began) == 1
            group.cancel_scope.cancel()
        await other.aclose()


async def test_v10_without_redis_nothing_is_published(redis: RedisServer) -> None:
    state = RedisState(redis.url, secret=SECRET)
    redis.kill()
    with anyio.fail_after(20), pytest.raises((RedisError, OSError)):
        await state.publish(FIRST)
    await state.aclose()


async def test_v10_a_memory_that_was_lost_voids_everything_of_before(redis: RedisServer) -> None:
    async with working(redis) as one:
        async with redis.client() as client:
            await client.flushall()
        await one.until(lambda: len(one.began) == 2)
        assert one.began[1] > one.began[0]
        await one.state.publish(FIRST)
        await one.until(lambda: one.heard == [FIRST])


async def test_what_somebody_else_put_there_is_passed_over(redis: RedisServer) -> None:
    async with working(redis) as one:
        async with redis.client() as client:
            await one.state.publish(FIRST)
            await one.until(lambda: one.heard == [FIRST])
            [stream] = [key async for key in client.scan_iter("preview-proxy:revocations:*")]
            await client.xadd(stream, {"revocation": b"not sealed"})
            await client.xadd(stream, {"another": b"field"})
        await one.state.publish(SECOND)
        await one.until(lambda: one.heard == [FIRST, SECOND])


async def test_more_than_one_batch_is_heard_before_it_is_ready(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preview_proxy.redis_revocations.BATCH", 2)
    state = RedisState(redis.url, secret=SECRET)
    for _ in range(5):
        await state.publish(FIRST)
    await state.aclose()
    async with working(redis) as one:
        assert len(one.heard) == 5


async def test_entries_are_kept_for_as_long_as_gates_hold(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    state = RedisState(redis.url, secret=SECRET)
    async with redis.client() as client:
        for _ in range(300):  # Redis drops whole nodes of its tree, of a hundred entries each
            await state.publish(FIRST)
        [stream] = [key async for key in client.scan_iter("preview-proxy:revocations:*")]
        assert await client.xlen(stream) == 300
        monkeypatch.setattr("preview_proxy.redis_revocations.RETENTION", -1)
        await state.publish(SECOND)
        assert await client.xlen(stream) < 300
    await state.aclose()


async def test_one_state_serves_one_proxy(redis: RedisServer) -> None:
    async with working(redis) as one:
        another = Worker(one.state)
        await another.listen()
        assert another.failure == "RuntimeError"
