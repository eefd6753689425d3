from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from preview_proxy.core.models import Endpoint, Origin, Preview, Target
from preview_proxy.errors import MachineUnavailable, NotFound, PreviewProxyError, ProviderError
from preview_proxy.providers.cache import Fresh, Missing, Stale, TargetCache

pytestmark = pytest.mark.anyio
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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mints(clock: Clock) -> Mints:
    return Mints(clock)


@pytest.fixture
def cache(mints: Mints, clock: Clock) -> TargetCache:
    return TargetCache(mints, timeout=5, clock=clock)


async def outcome(call: Callable[[], Awaitable[Target]], into: list[Target | Exception]) -> None:
    try:
        into.append(await call())
    except PreviewProxyError as error:
        into.append(error)


async def test_a_target_is_minted_once_and_used_again(cache: TargetCache, mints: Mints) -> None:
    assert await cache.get(PREVIEW) is await cache.get(PREVIEW)
    assert mints.count == 1


async def test_each_preview_has_its_own_target(cache: TargetCache, mints: Mints) -> None:
    assert (await cache.get(PREVIEW)).id != (await cache.get(Preview("mch_1", 3001))).id


@pytest.mark.parametrize(
    ("lifetime", "age", "kind"),
    [
        (900, 869, Fresh),
        (900, 870, Stale),  # 30 s before the end
        (900, 900, Missing),
        (100, 89, Fresh),
        (100, 90, Stale),  # a tenth before the end
        (20, 29, Fresh),  # shorter than the interval between mints
        (20, 30, Missing),
        (-600, 29, Fresh),  # our clock is ahead
        (-600, 30, Missing),
        (None, 10**9, Fresh),
    ],
)
async def test_how_long_a_target_is_good_for(
    cache: TargetCache, mints: Mints, lifetime: float | None, age: float, kind: type
) -> None:
    mints.lifetime = lifetime
    await cache.get(PREVIEW)
    assert type(cache.lookup(PREVIEW, START + age)) is kind


def test_what_was_never_minted_is_missing(cache: TargetCache) -> None:
    assert cache.lookup(PREVIEW, START) == Missing()


async def test_a_thousand_visitors_at_once_cost_one_mint(cache: TargetCache, mints: Mints) -> None:
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


async def test_a_cancelled_leader_does_not_cancel_those_who_wait(cache: TargetCache, mints: Mints) -> None:
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
            mints.started = anyio.Event()
            leader.cancel()
            await mints.started.wait()
            mints.gate.set()
    assert mints.count == 2
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
    assert (await cache.get(PREVIEW)).id == "grant-2"


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


async def test_one_caller_renews_while_the_others_use_the_old_target(
    cache: TargetCache, mints: Mints, clock: Clock
) -> None:
    old = await cache.get(PREVIEW)
    clock.now += 880
    mints.close_gate()
    renewed: list[Target | Exception] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(outcome, lambda: cache.get(PREVIEW), renewed)
            await mints.started.wait()
            assert await cache.get(PREVIEW) is old
            mints.gate.set()
    assert [target.id for target in renewed if isinstance(target, Target)] == ["grant-2"]
    assert (await cache.get(PREVIEW)).id == "grant-2"


async def test_a_renewal_that_fails_for_now_leaves_the_old_target_until_it_expires(
    cache: TargetCache, mints: Mints, clock: Clock
) -> None:
    old = await cache.get(PREVIEW)
    mints.failure = ProviderError("provider_timeout")
    clock.now += 880
    assert await cache.get(PREVIEW) is old
    clock.now += 20
    with pytest.raises(ProviderError):
        await cache.get(PREVIEW)


async def test_a_renewal_that_fails_for_good_is_raised(cache: TargetCache, mints: Mints, clock: Clock) -> None:
    await cache.get(PREVIEW)
    mints.failure = NotFound("machine_not_found")
    clock.now += 880
    with pytest.raises(NotFound):
        await cache.get(PREVIEW)


async def test_a_target_rejected_at_once_is_kept_so_that_nothing_is_minted(cache: TargetCache, mints: Mints) -> None:
    target = await cache.get(PREVIEW)
    assert cache.reject(PREVIEW, target) is False
    assert await cache.get(PREVIEW) is target
    assert mints.count == 1


async def test_a_target_rejected_later_is_replaced(cache: TargetCache, mints: Mints, clock: Clock) -> None:
    target = await cache.get(PREVIEW)
    clock.now += 30
    assert cache.reject(PREVIEW, target) is True
    assert cache.reject(PREVIEW, target) is True  # a second visitor, whose answer came while nothing was minted yet
    assert (await cache.get(PREVIEW)).id == "grant-2"
    assert cache.reject(PREVIEW, target) is True  # a third, much later: there is a newer target to try
    assert mints.count == 1 + 1


async def test_refusals_forged_for_ever_cost_two_mints_a_minute(cache: TargetCache, mints: Mints, clock: Clock) -> None:
    for _ in range(600):
        target = await cache.get(PREVIEW)
        if cache.reject(PREVIEW, target):
            await cache.get(PREVIEW)
        clock.now += 1
    assert mints.count == 600 / 30


async def test_the_least_recently_used_target_goes_first(mints: Mints, clock: Clock) -> None:
    cache = TargetCache(mints, timeout=5, clock=clock, size=2)
    first, second, third = (Preview("mch_1", port) for port in (1, 2, 3))
    await cache.get(first)
    await cache.get(second)
    await cache.get(first)
    await cache.get(third)
    assert [type(cache.lookup(preview, clock.now)) for preview in (first, second, third)] == [Fresh, Missing, Fresh]
