"""Several workers: each hears what the others revoke, and one that hears nothing lets nobody in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread
import pytest

from preview_proxy import Limits, Policy, Preview, Revocation, workers
from preview_proxy.errors import CheckFailed
from preview_proxy.workers import Workers
from tests.test_gate import Door
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


async def test_a07_a_ticket_that_is_spent_before_the_revocation_is_heard_gives_no_gate_that_outlasts_it() -> None:
    bus = Bus()
    async with world(revocations=bus, sign_in=False) as w:
        ticket = await w.ticket()
        revocation = Revocation(OWNER, None, None, time.time())  # of a worker that is not heard yet
        w.gate = (await w.exchange(ticket)).values(b"set-cookie")[0].split(b";")[0].partition(b"=")[2].decode()
        assert (await w.get("/echo")).status == 200
        await bus.publish(revocation)
        assert (await w.get("/echo")).status == 401
        w.gate = await w.sign_in()
        assert (await w.get("/echo")).status == 200


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


async def test_v10_who_is_not_signed_in_is_told_so_at_once() -> None:
    bus = Bus()
    bus.broken = True
    async with world(revocations=bus, sign_in=False, policy=Policy(limits=Limits(check_timeout=60))) as w:
        assert (await w.get("/echo")).status == 401


@pytest.mark.parametrize(("login", "status"), [(LOGIN, 401), ("login-2", 200)])
async def test_v10_what_a_visitor_waits_for_counts(login: str, status: int) -> None:
    bus, opened = Bus(), anyio.Event()
    before = time.time() - 1
    bus.kept = [Revocation(None, None, LOGIN, before), Revocation(OWNER, None, None, before)]
    heard = bus.listen

    class Slow(Bus):
        async def listen(self, apply: Callable[[Revocation], object], ready: Callable[[], None]) -> None:
            await opened.wait()
            await heard(apply, ready)

    async with world(revocations=Slow(), sign_in=False) as w:
        w.gate = gate(w, login)

        async def ask() -> None:
            assert (await w.get("/echo")).status == status

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await until(lambda: bool(w.proxy._gate._gates))
            opened.set()


async def test_v09_a_request_during_a_shutdown_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str | None] = []
    async with world(revocations=Bus()) as w:
        close, ours = w.proxy._transport.aclose, w.proxy._workers
        assert ours is not None

        async def ask_and_close() -> None:
            if not refused:
                refused.append((await w.get("/echo")).code)
                assert ours._listening is None
            await close()

        monkeypatch.setattr(w.proxy._transport, "aclose", ask_and_close)
        await w.proxy.aclose()
    assert refused == ["shutting_down"]


async def test_a_revocation_may_come_from_a_worker_thread() -> None:
    async with world() as w:
        w.gate = gate(w)
        with anyio.fail_after(10):
            async with dial(w) as socket:
                await socket.send("x")
                await socket.recv()
                assert await anyio.to_thread.run_sync(lambda: w.proxy.revoke(session=LOGIN)) == 1
                assert (await closed(socket))[0] == 4401


async def test_a07_a_worker_thread_may_revoke_before_anything_was_relayed() -> None:
    bus = Bus()
    async with world(revocations=bus, sign_in=False) as w:
        assert await anyio.to_thread.run_sync(lambda: w.proxy.revoke(session=LOGIN)) == 0
        w.gate = gate(w)
        assert (await w.get("/echo")).status == 401
        await until(lambda: [each.session for each in bus.kept] == [LOGIN])


def test_where_there_is_no_event_loop_nothing_is_revoked_in_silence() -> None:
    with pytest.raises(RuntimeError):
        Door().proxy.revoke(session=LOGIN)


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


@pytest.mark.parametrize("of", ["the client", "the task"])
async def test_v10_a_cancellation_that_comes_through_is_a_loss_of_touch_and_no_end(
    of: str, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[str] = []
    leave, back = asyncio.Event(), asyncio.Event()

    class Leaking(Bus):
        async def publish(self, revocation: Revocation) -> None:
            attempts.append("publish")
            if not back.is_set():
                raise asyncio.CancelledError
            await super().publish(revocation)

        async def listen(self, apply: Callable[[Revocation], object], ready: Callable[[], None]) -> None:
            attempts.append("listen")
            if not attempts[1:] or back.is_set():
                ready()
                await (asyncio.Event() if back.is_set() else leave).wait()
            if of == "the task" and not back.is_set():
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            raise asyncio.CancelledError

    ours = Workers(Leaking(), lambda _: None, 0.001)
    with anyio.fail_after(5):
        await ours.heard(5)
        leave.set()
        await until(lambda: not ours._in_touch.is_set() and time.monotonic() > ours._lost_at + 0.001)
        with pytest.raises(CheckFailed):
            await ours.heard(0.01)
        ours.publish(REVOCATION)
        await until(lambda: attempts.count("publish") > 1)
        back.set()
        await ours.heard(5)
        await until(lambda: ours._publishing == set())
        await ours.aclose()
    assert "publishing a revocation was cancelled" in caplog.text
    assert ("listening for revocations of other workers was cancelled" in caplog.text) is (of == "the client")


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
