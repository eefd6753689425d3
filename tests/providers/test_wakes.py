"""Waking machines: for whom, how often, and for how long."""

from __future__ import annotations

from typing import Literal

import anyio
import pytest

from preview_proxy import Preview, Static
from preview_proxy.core.models import Inbound, RawHeaders, Target
from preview_proxy.errors import ProviderError
from preview_proxy.providers.wakes import Wakes, may_wake

pytestmark = pytest.mark.anyio
PREVIEW = Preview("mch_1", 3000)
NAVIGATION: RawHeaders = ((b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", b"iframe"))


def inbound(kind: Literal["http", "websocket"] = "http", *, method: str = "GET", headers: RawHeaders = ()) -> Inbound:
    return Inbound(kind, method, "https", "1.1", "3000-m1.previews.example", b"/", b"", headers, None, False, None)


class Sleepers:
    """A provider that counts whom it wakes, at a gate."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.woken: list[Preview] = []
        self.gate = anyio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    def clock(self) -> float:
        return self.now

    async def resolve(self, preview: Preview) -> Target:
        raise AssertionError

    async def wake(self, preview: Preview) -> None:
        self.woken.append(preview)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


async def test_v08_a_machine_is_woken_once_for_all_and_once_in_half_a_minute() -> None:
    sleepers = Sleepers()
    sleepers.gate = anyio.Event()
    wakes = Wakes(sleepers, timeout=5, clock=sleepers.clock)
    results: list[bool] = []

    async def visit() -> None:
        results.append(await wakes.wake(PREVIEW))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(visit)
            await anyio.wait_all_tasks_blocked()
            sleepers.gate.set()
    assert results == [True] * 10
    assert await wakes.wake(PREVIEW) is False
    assert await wakes.wake(Preview("mch_2", 3000)) is True
    sleepers.now += 30
    assert await wakes.wake(PREVIEW) is True
    assert sleepers.woken == [PREVIEW, Preview("mch_2", 3000), PREVIEW]


@pytest.mark.parametrize("failure", [ProviderError("provider_refused"), RuntimeError("canary-0123456789")])
async def test_a_machine_that_does_not_wake_is_logged_without_the_exceptions_text(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sleepers = Sleepers()
    sleepers.failure = failure
    assert await Wakes(sleepers, timeout=5, clock=sleepers.clock).wake(PREVIEW) is False
    assert "the machine of mch_1:3000:0 was not woken" in caplog.text
    assert "canary" not in caplog.text


async def test_the_wait_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    sleepers = Sleepers()
    sleepers.gate = anyio.Event()
    with anyio.fail_after(5):
        assert await Wakes(sleepers, timeout=0.02, clock=sleepers.clock).wake(PREVIEW) is False
    assert "not in 0.02 s" in caplog.text


async def test_a_visitor_who_leaves_does_not_stop_the_waking() -> None:
    sleepers = Sleepers()
    sleepers.gate = anyio.Event()
    wakes = Wakes(sleepers, timeout=5, clock=sleepers.clock)
    with anyio.fail_after(5):
        with anyio.move_on_after(0.01):
            await wakes.wake(PREVIEW)
        sleepers.gate.set()
        assert await wakes.wake(PREVIEW) is True
        await wakes.aclose()
    assert sleepers.woken == [PREVIEW]


async def test_a_provider_that_cannot_is_not_asked() -> None:
    assert await Wakes(Static({}), timeout=5).wake(PREVIEW) is False


@pytest.mark.parametrize(
    ("method", "headers", "wakes"),
    [
        ("GET", NAVIGATION, True),
        ("HEAD", NAVIGATION, False),
        ("POST", NAVIGATION, False),
        ("GET", (), False),
        ("GET", ((b"sec-fetch-mode", b"cors"),), False),
        ("GET", ((b"sec-fetch-mode", b"no-cors"), (b"sec-fetch-dest", b"image")), False),  # a favicon
        ("GET", (*NAVIGATION, (b"sec-fetch-mode", b"navigate")), False),
        ("GET", (*NAVIGATION, (b"sec-purpose", b"prefetch")), False),
        ("GET", (*NAVIGATION, (b"sec-purpose", b"prefetch;prerender")), False),
        ("GET", (*NAVIGATION, (b"purpose", b"prefetch")), False),
        ("GET", (*NAVIGATION, (b"x-moz", b"prefetch")), False),
    ],
)
def test_v08_only_a_page_that_somebody_opens_wakes_a_machine(method: str, headers: RawHeaders, wakes: bool) -> None:
    assert may_wake(inbound(method=method, headers=headers)) is wakes
