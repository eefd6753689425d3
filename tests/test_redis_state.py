"""Tickets and targets in a real Redis."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from preview_proxy import ConfigurationError, Endpoint, Origin, Preview, Secret, Session, Target, Tickets
from preview_proxy.errors import CheckFailed, Forbidden
from preview_proxy.providers.held import Minted
from preview_proxy.redis_state import RedisState
from tests.redis_server import PASSWORD, RedisServer, redis_server

pytestmark = pytest.mark.anyio
SECRET = "secret that workers share, 32 bytes!"
PREVIEW = Preview("mch_a1b2c3d4", 3000)
ORIGIN = Origin("https", "3000-mch.previews.example", 443)
EMBEDDER = "https://app.example"
TOKEN = "canary-target-token-0123456789"


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
async def state(redis: RedisServer) -> AsyncIterator[RedisState]:
    made = RedisState(redis.url, secret=SECRET)
    yield made
    await made.aclose()


def minted(lifetime: float | None = 900) -> Minted:
    now = time.time()
    http = Endpoint(Origin("https", "m.example", 443), b"/base", b"m=1", ((b"x-token", Secret(TOKEN)),))
    return Minted(Target("grant-1", http, None, None if lifetime is None else now + lifetime), now)


def tickets(state: RedisState) -> Tickets:
    return Tickets(SECRET, [EMBEDDER], store=state)


async def begin(state: RedisState) -> None:
    """Let the memory begin, as a worker does at its start: what was issued before is void."""
    await state.consume("the first", time.time() + 60)


async def test_v10_a_ticket_is_spent_once(state: RedisState) -> None:
    await begin(state)
    until = time.time() + 30
    assert [await state.consume("a", until), await state.consume("a", until)] == [True, False]
    assert await state.consume("b", until) is True


async def test_v10_of_many_at_once_one_wins(state: RedisState) -> None:
    await begin(state)
    won: list[bool] = []

    async def race() -> None:
        won.append(await state.consume("a", time.time() + 30))

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(race)
    assert sorted(won) == [False] * 199 + [True]


async def test_a_spent_ticket_is_forgotten_when_it_would_have_expired(state: RedisState, redis: RedisServer) -> None:
    await begin(state)
    until = time.time() + 30
    await state.consume("a", until)
    async with redis.client() as client:
        [key] = [key async for key in client.scan_iter("preview-proxy:ticket:*") if await client.pttl(key) < 45_000]
        assert await client.pexpiretime(key) == math.ceil(until * 1000)


async def test_v10_what_was_issued_before_the_memory_was_lost_is_spent(state: RedisState, redis: RedisServer) -> None:
    await begin(state)
    issued_long_ago = time.time() + 30 - 5
    assert await state.consume("a", issued_long_ago + 100) is True
    async with redis.client() as client:
        await client.flushall()
    assert await state.consume("a", issued_long_ago) is False
    assert await state.consume("b", time.time() + 31) is True


async def test_v10_without_redis_no_ticket_opens_anything(state: RedisState, redis: RedisServer) -> None:
    await begin(state)
    session = Session("ada")
    desk = tickets(state)
    ticket = desk.issue(origin=ORIGIN, preview=PREVIEW, session=session)
    another = desk.issue(origin=ORIGIN, preview=PREVIEW, session=session)
    assert await desk.exchange(ticket, origin=ORIGIN, preview=PREVIEW, embedder=EMBEDDER) == session
    redis.kill()
    with anyio.fail_after(10):
        for each in (ticket, another):
            with pytest.raises(CheckFailed) as caught:
                await desk.exchange(each, origin=ORIGIN, preview=PREVIEW, embedder=EMBEDDER)
            assert caught.value.status == 503
            assert PASSWORD not in str(caught.value)
        await redis.start()
        with pytest.raises(Forbidden, match="spent before"):
            await desk.exchange(ticket, origin=ORIGIN, preview=PREVIEW, embedder=EMBEDDER)
        assert await desk.exchange(another, origin=ORIGIN, preview=PREVIEW, embedder=EMBEDDER) == session


async def test_a_target_comes_back_as_it_was(state: RedisState, redis: RedisServer) -> None:
    assert await state.load(PREVIEW) is None
    saved = minted()
    await state.save(PREVIEW, saved)
    assert await state.load(PREVIEW) == saved
    assert await state.load(Preview("mch_a1b2c3d4", 3001)) is None
    async with redis.client() as client:
        [key] = [key async for key in client.scan_iter("preview-proxy:target:*")]
        assert saved.target.expires_at is not None
        assert await client.pexpiretime(key) == math.floor(saved.target.expires_at * 1000)


async def test_a_target_that_never_expires_is_not_shared(state: RedisState) -> None:
    await state.save(PREVIEW, minted(None))
    assert await state.load(PREVIEW) is None


async def test_what_another_secret_sealed_or_somebody_put_there_is_no_target(
    state: RedisState, redis: RedisServer
) -> None:
    other = RedisState(redis.url, secret="another secret, also long enough: 32")
    await other.save(PREVIEW, minted())
    assert await state.load(PREVIEW) is None
    await state.save(PREVIEW, minted())
    await state.save(Preview("mch_other", 1), minted())
    async with redis.client() as client:
        keys = [key async for key in client.scan_iter("preview-proxy:target:*")]
        values: list[Any] = [await client.get(key) for key in keys]
        for key, value in zip(keys, [*values[1:], values[0]], strict=True):
            await client.set(key, value)
        assert await state.load(PREVIEW) is None
        for key in keys:
            await client.set(key, b"short")
        assert await state.load(PREVIEW) is None
    await other.aclose()


async def test_a_lock_has_one_owner_who_frees_it(state: RedisState) -> None:
    token = await state.lock(PREVIEW, 30)
    assert token is not None
    assert await state.lock(PREVIEW, 30) is None
    await state.unlock(PREVIEW, "another")
    assert await state.lock(PREVIEW, 30) is None
    await state.unlock(PREVIEW, token)
    assert await state.lock(PREVIEW, 30) is not None


async def test_a_lock_whose_owner_died_frees_itself(state: RedisState) -> None:
    assert await state.lock(PREVIEW, 0.05)
    with anyio.fail_after(10):
        while await state.lock(PREVIEW, 30) is None:  # noqa: ASYNC110 - another program's clock
            await anyio.sleep(0.01)


async def test_h14_nothing_in_redis_is_a_secret_or_a_name(state: RedisState, redis: RedisServer) -> None:
    await begin(state)
    await state.consume("canary-ticket-id", time.time() + 30)
    await state.save(PREVIEW, minted())
    await state.lock(PREVIEW, 30)
    dumped = await redis.dump()
    assert dumped.count(b"preview-proxy:") == 5  # two tickets, a target, a lock and the epoch
    for word in (TOKEN, "canary", "mch_a1b2c3d4", "m.example", SECRET, "grant-1"):
        assert word.encode() not in dumped


@pytest.mark.parametrize("url", ["http://host/0", "redis-host", "", f"redis://:{PASSWORD}@host:port/0"])
def test_h14_a_url_that_could_not_work_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://host:6379/0") as caught:
        RedisState(url, secret=SECRET)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the secret of RedisState must be at least 32"):
        RedisState("redis://localhost", secret="short")


def test_h14_its_repr_shows_nothing() -> None:
    assert repr(RedisState(f"redis://:{PASSWORD}@localhost", secret=SECRET)) == "RedisState(****)"


@pytest.mark.parametrize("package", ["redis", "cryptography"])
def test_without_the_package_it_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'preview-proxy\[redis\]'"):
        RedisState("redis://localhost", secret=SECRET)
