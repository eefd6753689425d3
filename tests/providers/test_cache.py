from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from preview_proxy.core.models import Preview, Target
from preview_proxy.errors import MachineUnavailable, NotFound, PreviewProxyError, ProviderError
from preview_proxy.providers.cache import RENEWAL_PAUSE, TargetCache
from preview_proxy.providers.held import Holding, Minted
from tests.providers.minting import PREVIEW, START, Clock, Mints, Store

pytestmark = pytest.mark.anyio


@pytest.fixture
def cache(mints: Mints, clock: Clock) -> TargetCache:
    return TargetCache(mints, timeout=5, clock=clock)


async def target(cache: TargetCache, preview: Preview = PREVIEW) -> Target:
    return (await cache.get(preview)).target


async def outcome(call: Callable[[], Awaitable[Holding]], into: list[Target | Exception]) -> None:
    try:
        into.append((await call()).target)
    except PreviewProxyError as error:
        into.append(error)


async def test_a_target_is_minted_once_and_used_again(cache: TargetCache, mints: Mints) -> None:
    assert await target(cache) is await target(cache)
    assert mints.count == 1


async def test_each_preview_has_its_own_target(cache: TargetCache, mints: Mints) -> None:
    assert (await target(cache)).id != (await target(cache, Preview("mch_1", 3001))).id


async def test_v04_a_thousand_visitors_at_once_cost_one_mint(cache: TargetCache, mints: Mints) -> None:
    mints.close_gate()
    targets: list[Target | Exception] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(outcome, lambda: cache.get(PREVIEW), targets)
            await mints.started.wait()
            mints.gate.set()
    assert mints.count == 1
    assert len(targets) == 1000 and len({id(target) for target in targets}) == 1


async def test_v04_a_cancelled_leader_cancels_nobody_and_costs_no_second_mint(cache: TargetCache, mints: Mints) -> None:
    mints.close_gate()
    targets: list[Target | Exception] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            leader = anyio.CancelScope()

            async def lead() -> None:
                with leader:
                    await cache.get(PREVIEW)

            group.start_soon(lead)
            await mints.started.wait()
            for _ in range(10):
                group.start_soon(outcome, lambda: cache.get(PREVIEW), targets)
            await anyio.wait_all_tasks_blocked()
            leader.cancel()
            await anyio.wait_all_tasks_blocked()
            mints.gate.set()
    assert mints.count == 1
    assert [type(target) for target in targets] == [Target] * 10


async def test_a_failure_is_shared_by_those_who_wait_and_then_forgotten(cache: TargetCache, mints: Mints) -> None:
    mints.close_gate()
    mints.failure = MachineUnavailable("preview_service_not_ready", retry_after=7)
    results: list[Target | Exception] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(outcome, lambda: cache.get(PREVIEW), results)
            await mints.started.wait()
            await anyio.wait_all_tasks_blocked()
            mints.gate.set()
    assert mints.count == 1
    assert results == [mints.failure] * 50
    mints.failure = None
    assert (await target(cache)).id == "grant-2"


async def test_another_exception_becomes_a_provider_error_without_its_text(cache: TargetCache, mints: Mints) -> None:
    mints.failure = RuntimeError("canary-0123456789")
    with pytest.raises(ProviderError) as caught:
        await cache.get(PREVIEW)
    assert str(caught.value) == "provider_failed: the provider raised RuntimeError"
    assert caught.value.__context__ is None and caught.value.__cause__ is None


async def test_a_provider_error_loses_the_exception_it_was_raised_from(clock: Clock) -> None:
    class Careless:
        async def resolve(self, preview: Preview) -> Target:
            try:
                raise RuntimeError("canary-0123456789")
            except RuntimeError as error:
                raise ProviderError(detail="no luck") from error

    with pytest.raises(ProviderError, match="no luck") as caught:
        await TargetCache(Careless(), timeout=5, clock=clock).get(PREVIEW)
    assert caught.value.__context__ is None and caught.value.__cause__ is None


async def test_a_provider_that_hangs_is_given_up(mints: Mints, clock: Clock) -> None:
    mints.close_gate()
    with anyio.fail_after(5), pytest.raises(ProviderError) as caught:
        await TargetCache(mints, timeout=0.02, clock=clock).get(PREVIEW)
    assert caught.value.code == "provider_timeout"


async def test_an_answer_that_is_no_target_is_a_provider_error(clock: Clock) -> None:
    class Confused:
        async def resolve(self, preview: Preview) -> Target:
            return None  # type: ignore[return-value]

    with pytest.raises(ProviderError, match="returned NoneType"):
        await TargetCache(Confused(), timeout=5, clock=clock).get(PREVIEW)


async def test_v04_it_is_renewed_in_the_background_and_nobody_waits(
    cache: TargetCache, mints: Mints, clock: Clock
) -> None:
    old = await target(cache)
    clock.now += 900 * 0.85
    mints.close_gate()
    with anyio.fail_after(5):
        assert await target(cache) is old
        await mints.started.wait()
        assert await target(cache) is old
        mints.gate.set()
        await anyio.wait_all_tasks_blocked()
    assert (await target(cache)).id == "grant-2"
    assert mints.count == 2


async def test_v04_a_renewal_that_fails_leaves_the_old_target_until_it_expires(
    cache: TargetCache, mints: Mints, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old = await target(cache)
    mints.failure = NotFound("machine_not_found")
    clock.now += 900 * 0.85
    for attempt in (1, 2):
        assert await target(cache) is old
        await anyio.wait_all_tasks_blocked()
        assert await target(cache) is old
        assert mints.count == 1 + attempt
        clock.now += RENEWAL_PAUSE
    assert "the target of mch_1:3000:0 was not renewed: machine_not_found" in caplog.text
    clock.now = START + 900
    with pytest.raises(NotFound):
        await cache.get(PREVIEW)


async def test_who_comes_after_the_expiry_joins_the_renewal_under_way(
    cache: TargetCache, mints: Mints, clock: Clock
) -> None:
    await cache.get(PREVIEW)
    clock.now += 899
    mints.close_gate()
    results: list[Target | Exception] = []
    with anyio.fail_after(5):
        await cache.get(PREVIEW)
        await mints.started.wait()
        clock.now += 1
        async with anyio.create_task_group() as group:
            group.start_soon(outcome, lambda: cache.get(PREVIEW), results)
            await anyio.wait_all_tasks_blocked()
            mints.failure = ProviderError("provider_timeout")
            mints.gate.set()
    assert results == [mints.failure]
    assert mints.count == 2


async def test_a_target_rejected_at_once_is_kept_so_that_nothing_is_minted(cache: TargetCache, mints: Mints) -> None:
    held = await cache.get(PREVIEW)
    assert cache.reject(held, "preview_proxy_token_expired") is False
    assert await cache.get(PREVIEW) is held
    assert mints.count == 1


async def test_a_target_rejected_later_is_replaced(cache: TargetCache, mints: Mints, clock: Clock) -> None:
    held = await cache.get(PREVIEW)
    clock.now += 30
    assert cache.reject(held, "preview_proxy_token_expired") is True
    # a second visitor, whose answer came while nothing was minted yet
    assert cache.reject(held, "preview_proxy_token_expired") is True
    assert (await target(cache)).id == "grant-2"
    # a third, much later: there is a newer target to try
    assert cache.reject(held, "preview_proxy_token_expired") is True
    assert (await target(cache)).id == "grant-2"
    assert mints.count == 2


async def test_two_hundred_refused_requests_cost_one_mint(cache: TargetCache, mints: Mints, clock: Clock) -> None:
    held = await cache.get(PREVIEW)
    clock.now += 30
    mints.close_gate()
    targets: list[Target | Exception] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(200):
                assert cache.reject(held, "preview_proxy_token_expired")
                group.start_soon(outcome, lambda: cache.get(PREVIEW), targets)
            await mints.started.wait()
            mints.gate.set()
    assert {target.id for target in targets if isinstance(target, Target)} == {"grant-2"}
    assert len(targets) == 200 and mints.count == 2


async def test_v04_refusals_forged_for_ever_cost_two_mints_a_minute(
    cache: TargetCache, mints: Mints, clock: Clock
) -> None:
    for _ in range(600):
        held = await cache.get(PREVIEW)
        if cache.reject(held, "preview_proxy_token_expired"):
            await cache.get(PREVIEW)
        clock.now += 1
    assert mints.count == 600 / 30


async def test_v04_a_process_mints_so_often_in_a_minute_and_no_more(mints: Mints, clock: Clock) -> None:
    cache = TargetCache(mints, timeout=5, mints_per_minute=6, clock=clock)
    for port in range(1, 7):
        await cache.get(Preview("mch_1", port))
    with pytest.raises(ProviderError) as caught:
        await cache.get(Preview("mch_1", 7))
    assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("provider_busy", 503, 5)
    assert (await target(cache, Preview("mch_1", 1))).id == "grant-1"
    clock.now += 60
    assert (await target(cache, Preview("mch_1", 7))).id == "grant-7"


async def test_the_least_recently_used_target_goes_first(mints: Mints, clock: Clock) -> None:
    cache = TargetCache(mints, timeout=5, clock=clock, size=2)
    first, second, third = (Preview("mch_1", port) for port in (1, 2, 3))
    for preview in (first, second, first, third):
        cache.used(await cache.get(preview), "http")
        clock.now += 1
    assert {entry.preview for entry in cache.inventory()} == {first, third}
    assert mints.count == 3


async def test_the_inventory_tells_what_is_held_and_how_it_was_used(
    cache: TargetCache, mints: Mints, clock: Clock
) -> None:
    old = await cache.get(PREVIEW)
    cache.used(old, "http")
    clock.now += 1
    cache.used(old, "http")
    cache.used(old, "websocket")
    clock.now += 898
    assert await cache.get(PREVIEW) is old
    await anyio.wait_all_tasks_blocked()
    new = await cache.get(PREVIEW)
    assert not cache.reject(new, "preview_proxy_token_expired")
    first, second = cache.inventory()
    assert first == ("grant-1", PREVIEW, "replaced", START, START + 900, 2, 1, START, START + 1, None, None)
    assert second.id == "grant-2" and second.status == "active"
    assert (second.http_request_count, second.first_used_at, second.last_used_at) == (0, None, None)
    assert (second.last_error_code, second.last_error_at) == ("preview_proxy_token_expired", START + 899)
    clock.now += 1
    assert [entry.id for entry in cache.inventory()] == ["grant-2"]
    clock.now += 30
    cache.reject(new, "preview_proxy_token_expired")
    assert [entry.status for entry in cache.inventory()] == ["refused"]


class Revoking(Mints):
    """Revokes all but the previews whose port is odd; at even ones below 10 it hangs."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.revoked: list[str] = []

    async def revoke(self, preview: Preview, target: Target) -> None:
        if preview.port % 2:
            raise RuntimeError("canary-0123456789")
        if preview.port < 10:
            await anyio.sleep_forever()
        self.revoked.append(target.id)


async def test_targets_are_revoked_at_the_end_if_asked(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    provider = Revoking(clock)
    cache = TargetCache(provider, timeout=0.1, clock=clock)
    for port in (2, 3000, 3001, 3002):
        await cache.get(Preview("mch_1", port))
    await cache.aclose()
    assert provider.revoked == []
    with anyio.fail_after(5):
        await cache.aclose(revoke=True)
    assert provider.revoked == ["grant-2", "grant-4"]
    assert "2 of 4 targets were not revoked" in caplog.text
    assert "canary" not in caplog.text


async def test_nobody_is_told_where_every_target_was_revoked(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    cache = TargetCache(Revoking(clock), timeout=5, clock=clock)
    await cache.get(Preview("mch_1", 3000))
    await cache.aclose(revoke=True)
    assert [entry.status for entry in cache.inventory()] == ["revoked"]
    assert not caplog.records


async def test_what_another_worker_minted_is_used(mints: Mints, clock: Clock) -> None:
    store, theirs = Store(), await mints.resolve(PREVIEW)
    cache = TargetCache(mints, timeout=5, shared=store, clock=clock)
    await store.save(PREVIEW, Minted(theirs, clock()))
    assert await target(cache) is theirs
    clock.now += 899  # past its renewal, before its end
    assert await target(cache) is theirs
    await anyio.wait_all_tasks_blocked()
    assert (await target(cache)).id == "grant-2"
    assert store.saved[PREVIEW].target.id == "grant-2"


class Rotating(Mints):
    """Replaces a machine's credential when told to."""

    def when_rotated(self, forget: Callable[[str], None]) -> None:
        self.rotate = forget


async def test_a_credential_that_the_provider_replaces_is_used_no_more(clock: Clock) -> None:
    provider = Rotating(clock)
    cache = TargetCache(provider, timeout=5, clock=clock)
    first, other = await target(cache), await target(cache, Preview("mch_2", 3000))
    provider.rotate(PREVIEW.machine)
    assert [entry.status for entry in cache.inventory()] == ["ended", "active"]
    assert (await target(cache)).id != first.id
    assert await target(cache, Preview("mch_2", 3000)) is other


async def test_a_provider_that_cannot_revoke_is_not_asked(cache: TargetCache) -> None:
    await cache.get(PREVIEW)
    await cache.aclose(revoke=True)
    assert [entry.status for entry in cache.inventory()] == ["active"]


async def test_closing_ends_what_is_under_way(cache: TargetCache, mints: Mints) -> None:
    async def ask() -> None:
        with pytest.raises(PreviewProxyError, match="shutting_down"):
            await cache.get(PREVIEW)

    mints.close_gate()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await mints.started.wait()
            await cache.aclose()
    assert mints.count == 1
