"""What the package needs of an event loop, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from preview_proxy import event_loop
from preview_proxy.event_loop import Interruption, Signal, Task
from tests.test_gate import Door

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def spawned() -> AsyncIterator[tuple[Task, anyio.Event, set[Task]]]:
    """A task that has begun and waits for ever, what is set when it ends, and the tasks that it is among."""
    begun, ended = anyio.Event(), anyio.Event()
    among: set[Task] = set()

    async def wait() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    with anyio.fail_after(5):
        task = event_loop.running().spawn(wait(), among)
        await begun.wait()
        yield task, ended, among


def test_outside_of_an_event_loop_there_is_none() -> None:
    with pytest.raises(RuntimeError):
        event_loop.running().token()
    assert not event_loop.is_asyncio()


def test_an_event_loop_is_told_from_its_predecessors(anyio_backend: str) -> None:
    async def token() -> event_loop.Token:
        here = event_loop.running().token()
        assert here == event_loop.running().token() and here.is_running()
        assert event_loop.is_asyncio() == (anyio_backend == "asyncio")
        return here

    first, second = (anyio.run(token, backend=anyio_backend) for _ in range(2))
    assert first != second
    assert not first.is_running()


async def test_a_task_outlives_whoever_began_it_and_ends_when_cancelled() -> None:
    async with spawned() as (task, ended, among):
        assert among == {task} and not task.done()
        task.cancel()
        await task.wait()
        assert ended.is_set() and task.done() and among == set()


async def test_a_task_that_ends_by_itself_is_no_longer_among_the_others() -> None:
    among: set[Task] = set()
    with anyio.fail_after(5):
        tasks = [event_loop.running().spawn(anyio.lowlevel.checkpoint(), among) for _ in range(3)]
        assert among == set(tasks)
        for task in tasks:
            await task.wait()
        await anyio.lowlevel.checkpoint()
        assert among == set()


async def test_a_task_that_is_cancelled_before_it_begins_never_does() -> None:
    async def fail() -> None:
        raise AssertionError

    with anyio.fail_after(5):
        task = event_loop.running().spawn(fail())
        task.cancel()
        await task.wait()
    assert task.done()


async def test_a_task_has_the_context_of_whoever_began_it() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen = []

    async def look() -> None:
        seen.append(request.get())

    request.set("this")
    with anyio.fail_after(5):
        await event_loop.running().spawn(look()).wait()
    assert seen == ["this"]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_a_task_that_fails_is_logged_and_the_event_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("no good")

    with anyio.fail_after(5):
        await event_loop.running().spawn(fail()).wait()
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [("no good",)]  # type: ignore[union-attr]


async def test_a_timer_calls_unless_it_is_cancelled() -> None:
    rung, never = anyio.Event(), anyio.Event()
    loop = event_loop.running()
    with anyio.fail_after(5):
        loop.call_later(0.001, never.set).cancel()
        loop.call_later(0.002, rung.set)
        await rung.wait()
    assert not never.is_set()


async def test_a_waiter_is_set_off_once() -> None:
    waiter = event_loop.running().waiter()
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            await waiter

        group.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        assert not waiter.done()
        waiter.set_result(None)
    assert waiter.done()


async def test_a_signal_can_be_taken_back() -> None:
    signal = Signal()
    signal.clear()
    assert not signal.is_set()
    signal.set()
    await signal.wait()
    signal.clear()
    assert not signal.is_set()
    with anyio.move_on_after(0.001) as scope:
        await signal.wait()
    assert scope.cancelled_caught
    assert Signal(is_set=True).is_set()


async def forever(begun: anyio.Event) -> str:
    begun.set()
    await anyio.sleep_forever()
    raise AssertionError


async def later(begun: anyio.Event, interruption: Interruption) -> None:
    await begun.wait()
    interruption.interrupt()


async def test_an_operation_is_interrupted_and_its_task_goes_on() -> None:
    begun, interruption = anyio.Event(), event_loop.running().interruption()
    with anyio.fail_after(5):
        task = event_loop.running().spawn(later(begun, interruption))
        assert await interruption.run(forever(begun)) is None
        await task.wait()
        await anyio.lowlevel.checkpoint()  # nothing is left to be thrown


async def test_an_operation_that_is_over_is_not_interrupted() -> None:
    async def answer() -> str:
        return "yes"

    interruption = event_loop.running().interruption()
    assert await interruption.run(answer()) == "yes"
    interruption.interrupt()
    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("fails", [False, True])
async def test_an_operation_may_interrupt_itself_in_its_last_step(fails: bool) -> None:
    interruption = event_loop.running().interruption()

    async def last_step() -> str:
        interruption.interrupt()
        if fails:
            raise ValueError("failed all the same")
        return "yes"

    if fails and not event_loop.is_asyncio():  # where the failure is first
        with pytest.raises(ValueError, match="all the same"):
            await interruption.run(last_step())
    else:
        assert await interruption.run(last_step()) in (None, "yes")
    await anyio.lowlevel.checkpoint()


async def test_the_inner_one_of_two_operations_is_interrupted_alone() -> None:
    loop, begun = event_loop.running(), anyio.Event()
    outer, inner = loop.interruption(), loop.interruption()

    async def work() -> str:
        assert await inner.run(forever(begun)) is None
        return "went on"

    with anyio.fail_after(5):
        task = loop.spawn(later(begun, inner))
        assert await outer.run(work()) == "went on"
        await task.wait()


async def test_both_of_two_operations_are_interrupted_at_once() -> None:
    loop, begun = event_loop.running(), anyio.Event()
    outer, inner = loop.interruption(), loop.interruption()

    async def work() -> str:
        await inner.run(forever(begun))
        return await forever(begun)

    async def both() -> None:
        await begun.wait()
        inner.interrupt()
        outer.interrupt()
        outer.interrupt()

    with anyio.fail_after(5):
        task = loop.spawn(both())
        assert await outer.run(work()) is None
        await task.wait()
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("scope_first", [True, False])
async def test_an_interruption_is_not_lost_in_a_scope_that_ends_in_the_same_turn(scope_first: bool) -> None:
    loop, begun, scope = event_loop.running(), anyio.Event(), anyio.CancelScope()
    interruption = loop.interruption()
    went_on = False

    async def work() -> str:
        nonlocal went_on
        with scope:
            await forever(begun)
        await anyio.lowlevel.checkpoint()
        went_on = True
        return "went on"

    async def both() -> None:
        await begun.wait()
        ends = scope.cancel, interruption.interrupt
        for end in ends if scope_first else reversed(ends):
            end()

    with anyio.fail_after(5):
        task = loop.spawn(both())
        assert await interruption.run(work()) is None
        await task.wait()
    assert not went_on


async def test_a_cancellation_from_elsewhere_is_not_swallowed() -> None:
    interruption = event_loop.running().interruption()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await interruption.run(anyio.sleep_forever())
    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_asyncio_an_operation_that_swallows_its_end_has_ended() -> None:
    interruption = event_loop.running().interruption()

    async def stubborn() -> str:
        interruption.interrupt()
        with pytest.raises(asyncio.CancelledError):
            await anyio.lowlevel.checkpoint()
        return "too late"

    assert await interruption.run(stubborn()) is None
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_on_asyncio_an_operation_may_make_a_failure_of_its_end() -> None:
    loop, begun = event_loop.running(), anyio.Event()
    outer, inner = loop.interruption(), loop.interruption()

    async def wrapping() -> str:
        inner.interrupt()
        try:
            return await forever(begun)
        except asyncio.CancelledError:
            raise ValueError("broke off") from None

    async def work() -> str:
        assert await inner.run(wrapping()) is None
        outer.interrupt()
        return await forever(begun)

    assert await outer.run(work()) is None
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a07_without_trio_access_can_be_taken_back_in_a_worker_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)  # then an import of it fails, as where it is not installed
    monkeypatch.delitem(sys.modules, "preview_proxy.event_loop_trio", raising=False)
    door = Door()
    assert await anyio.to_thread.run_sync(lambda: door.proxy.revoke(subject="somebody")) == 0


async def test_a_worker_thread_is_on_no_event_loop() -> None:
    def look() -> None:
        with pytest.raises(RuntimeError):
            event_loop.running().token()

    await anyio.to_thread.run_sync(look)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_what_waits_ends_with_the_event_loop() -> None:
    ended = []

    async def begin() -> None:
        async def wait() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(True)

        event_loop.running().spawn(wait())
        await anyio.lowlevel.checkpoint()

    await anyio.to_thread.run_sync(trio.run, begin)
    assert ended == [True]
