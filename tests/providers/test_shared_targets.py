"""Several caches, as of several workers, with one store between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import anyio
import anyio.lowlevel
import pytest

from preview_proxy import Target
from preview_proxy.errors import NotFound, PreviewProxyError, ProviderError
from preview_proxy.providers.cache import TargetCache
from tests.providers.minting import PREVIEW, Clock, Mints, Store
from tests.providers.test_cache import target

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    assert made.broken or made.locks == {}


@pytest.fixture
def worker(store: Store, mints: Mints, clock: Clock) -> Callable[[], TargetCache]:
    return lambda: TargetCache(mints, timeout=5, shared=store, clock=clock)


async def test_v04_of_many_workers_one_mints(worker: Callable[[], TargetCache], mints: Mints) -> None:
    mints.close_gate()
    found: list[Target] = []

    async def need(cache: TargetCache) -> None:
        found.append(await target(cache))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(need, worker())
            await mints.started.wait()
            await anyio.wait_all_tasks_blocked()
            mints.gate.set()
    assert mints.count == 1
    assert [each.id for each in found] == ["grant-1"] * 20


async def test_a_worker_that_comes_later_takes_what_is_there(worker: Callable[[], TargetCache], mints: Mints) -> None:
    assert await target(worker()) == await target(worker())
    assert mints.count == 1


async def test_one_worker_renews_for_all(worker: Callable[[], TargetCache], mints: Mints, clock: Clock) -> None:
    one, other = worker(), worker()
    await one.get(PREVIEW)
    await other.get(PREVIEW)
    clock.now += 900 * 0.9
    for cache in (one, other):
        assert (await target(cache)).id == "grant-1"
        await anyio.wait_all_tasks_blocked()
        assert (await target(cache)).id == "grant-2"
    assert mints.count == 2


async def test_v04_a_target_refused_to_all_is_minted_anew_once(
    worker: Callable[[], TargetCache], mints: Mints, clock: Clock
) -> None:
    workers = [worker() for _ in range(5)]
    held = [await cache.get(PREVIEW) for cache in workers]
    for cache, each in zip(workers, held, strict=True):
        assert not cache.reject(each, "preview_proxy_token_expired")
    clock.now += 30
    for cache, each in zip(workers, held, strict=True):
        assert cache.reject(each, "preview_proxy_token_expired")
        assert (await target(cache)).id == "grant-2"
    assert mints.count == 2


async def test_a_worker_that_fails_frees_the_lock_for_the_next(worker: Callable[[], TargetCache], mints: Mints) -> None:
    mints.failure = NotFound("machine_not_found")
    with pytest.raises(NotFound):
        await worker().get(PREVIEW)
    mints.failure = None
    assert (await target(worker())).id == "grant-2"


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_worker_that_stops_frees_the_lock_for_the_next(
    worker: Callable[[], TargetCache], mints: Mints, store: Store
) -> None:
    mints.close_gate()
    cache = worker()

    async def need() -> None:
        with pytest.raises(PreviewProxyError, match="shutting_down"):
            await cache.get(PREVIEW)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(need)
            await mints.started.wait()
            assert PREVIEW in store.locks
            await cache.aclose()
    assert store.locks == {}


async def test_a_worker_that_dies_holds_the_others_up_until_its_lock_ends(
    worker: Callable[[], TargetCache], mints: Mints, store: Store
) -> None:
    store.locks[PREVIEW] = "of a dead worker"
    found: list[Target] = []

    async def need() -> None:
        found.append(await target(worker()))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(need)
            await store.refused.wait()
            assert mints.count == 0
            del store.locks[PREVIEW]
    assert [each.id for each in found] == ["grant-1"]


@pytest.mark.parametrize("broken", ["load", "lock", "save", "unlock"])
async def test_without_the_store_each_worker_mints_for_itself(
    broken: str,
    worker: Callable[[], TargetCache],
    mints: Mints,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.broken = {broken}
    assert (await target(worker())).id == "grant-1"
    assert mints.count == 1
    assert "the shared targets do not answer: ConnectionError" in caplog.text
    assert "canary" not in caplog.text


async def test_a_failure_is_told_as_it_is_without_the_store_too(
    worker: Callable[[], TargetCache], mints: Mints, store: Store
) -> None:
    store.broken = {"load"}
    mints.failure = ProviderError("provider_refused")
    with pytest.raises(ProviderError) as caught:
        await worker().get(PREVIEW)
    assert caught.value.code == "provider_refused"
