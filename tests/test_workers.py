"""Several workers: each hears what the others revoke, and one that hears nothing lets nobody in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread
import pytest

from preview_proxy import Limits, Policy, Preview, Revocation, workers
from preview_proxy.errors import CheckFailed
from preview_proxy.workers import Workers
from tests.test_live import until
from tests.test_revoke import LOGIN, gate
from tests.transports.test_relay_websocket import closed, dial
from tests.world import OWNER, world

pytestmark = pytest.mark.anyio
REVOCATION = Revocation("ada", None, None, 1.0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RETRY", 0.001)


class Bus:
    """`Revocations` in this process, which can be out of order."""

    def __init__(self) -> None:
        self.kept: list[Revocation] = []
        self.listeners: list[Callable[[Revocation], object]] = []
        self.broken = False
        self.attempts = 0
        self._cut = anyio.Event()

    async def publish(self, revocation: Revocation) -> None:
        self.attempts += 1
        if self.broken:
            raise ConnectionError("canary")
        self.kept.append(revocation)
        for apply in self.listeners:
            apply(revocation)

    async def listen(self, apply: Callable[[Revocation], object], ready: Callable[[], None]) -> None:
        if self.broken:
            raise ConnectionError("canary")
        for revocation in self.kept:
            apply(revocation)
        self.listeners.append(apply)
        ready()
        await self._cut.wait()
        self.listeners.remove(apply)

    def cut(self) -> None:
        """Everybody loses touch."""
        self.broken = True
        self._cut.set()
        self._cut = anyio.Event()


async def test_a07_a_revocation_acts_on_every_worker_within_a_second() -> None:
    bus = Bus()
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(world(revocations=bus))
        other = await stack.enter_async_context(world(revocations=bus))
        one.gate, other.gate = gate(one), gate(other)
        assert [(await each.get("/echo")).status for each in (one, other)] == [200, 200]
        with anyio.fail_after(10):
            async with dial(other) as socket:
                await socket.send("x")
                await socket.recv()
                assert one.proxy.revoke(session=LOGIN) == 0
                with anyio.fail_after(1):
                    assert await closed(socket) == (4401, "not_signed_in")
        assert [(await each.get("/echo")).status for each in (one, other)] == [401, 401]


async def test_what_comes_back_to_its_own_worker_does_not_end_what_began_since() -> None:
    bus = Bus()
    async with world(revocations=bus) as w:
        w.proxy.revoke(subject=OWNER)
        await until(lambda: bus.attempts == 1)
        w.gate = gate(w)
        with anyio.fail_after(10):
            async with dial(w) as socket:
                for apply in bus.listeners:
                    apply(bus.kept[0])
                await socket.send("x")
                assert await socket.recv() == "x"


async def test_v10_a_worker_that_starts_later_knows_what_was_revoked_before() -> None:
    bus = Bus()
    async with world(revocations=bus) as w:
        w.proxy.revoke(session=LOGIN)
        await until(lambda: bool(bus.kept))
    async with world(revocations=bus) as w:
        w.gate = gate(w)
        assert (await w.get("/echo")).status == 401


async def test_v10_a_worker_that_hears_nothing_lets_nobody_in() -> None:
    bus = Bus()
    limits = Limits(check_timeout=0.1, decision_ttl=0.05, recheck_interval=1.0)
    async with world(revocations=bus, policy=Policy(limits=limits)) as w:
        with anyio.fail_after(20):
            async with dial(w) as socket:
                await socket.send("x")
                await socket.recv()
                bus.cut()
                while (answer := await w.get("/echo")).status == 200:
                    pass
                assert (answer.status, answer.json()["code"]) == (503, "check_failed")
                assert await closed(socket) == (4503, "check_failed")
            bus.broken = False
            while (await w.get("/echo")).status == 503:
                pass
            assert (await w.get("/echo")).status == 200


async def test_a_revocation_may_come_from_a_worker_thread() -> None:
    async with world() as w:
        w.gate = gate(w)
        with anyio.fail_after(10):
            async with dial(w) as socket:
                await socket.send("x")
                await socket.recv()
                assert await anyio.to_thread.run_sync(lambda: w.proxy.revoke(session=LOGIN)) == 1
                assert (await closed(socket))[0] == 4401


async def test_v10_a_revocation_is_published_until_it_arrives(caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus()
    bus.broken = True
    ours = Workers(bus, lambda _: None, 5)
    ours.publish(REVOCATION)
    with anyio.fail_after(5):
        await until(lambda: bus.attempts >= 3)
        bus.broken = False
        await until(lambda: bus.kept == [REVOCATION])
        await ours.aclose()
    assert "publishing a revocation failed with ConnectionError" in caplog.text
    assert "canary" not in caplog.text


async def test_what_is_still_to_be_published_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FAREWELL", 0.01)
    before = asyncio.all_tasks()
    bus = Bus()
    bus.broken = True
    ours = Workers(bus, lambda _: None, 5)
    with pytest.raises(CheckFailed):
        await ours.heard(0.01)
    ours.publish(REVOCATION)
    with anyio.fail_after(5):
        await ours.aclose()
        await until(lambda: asyncio.all_tasks() <= before)


def test_another_event_loop_hears_everything_anew() -> None:
    bus = Bus()
    heard: list[Revocation] = []
    ours = Workers(bus, heard.append, 5)

    async def hear() -> None:
        await ours.heard(5)

    asyncio.run(hear())
    bus.kept.append(REVOCATION)
    asyncio.run(hear())
    assert heard == [REVOCATION]

    async def close() -> None:
        await ours.aclose()

    asyncio.run(close())


def test_a_preview_is_named_by_all_its_fields() -> None:
    assert not Revocation(None, Preview("m1", 1), None, 2.0).names("ada", Preview("m1", 1, generation=1), "")
