from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.types import Message

from preview_proxy import Preview, Session, live
from preview_proxy.errors import PreviewProxyError
from preview_proxy.live import Admission, Checks, LiveRelays
from tests.turns import turns

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.001)


PREVIEW = Preview("m1", 3000)
HOST = "3000-m1.previews.example"


class Yes:
    """Checks that nobody fails."""

    async def authorize(self, subject: str, preview: Preview) -> None:
        pass

    async def shows(self, authority: str, preview: Preview) -> bool:
        return True

    def renewed_until(self, admission: Admission) -> float | None:
        return None


def new_relays(checks: Checks | None = None, interval: float = 30.0) -> LiveRelays:
    return LiveRelays(checks or Yes(), interval)


def admitted(subject: str = "ada", **options: Any) -> Admission:
    """Somebody who has just been let in. `again` is the customer's own session; other options are the session's."""
    again = options.pop("again", None)
    now = time.monotonic()
    return Admission(Session(subject, **options), PREVIEW, HOST, now, now, again)


class Visitor:
    """An ASGI `receive` whose messages the test sends."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.asked = anyio.Event()

    async def receive(self) -> Message:
        self.asked.set()
        return await self.messages.get()

    def leave(self, kind: str = "http") -> None:
        self.messages.put_nowait({"type": f"{kind}.disconnect"})


class Started:
    """A relay in a task of its own, as a server would run it."""

    def __init__(self, relays: LiveRelays, kind: Literal["http", "websocket"], **options: Any) -> None:
        self.begun = anyio.Event()
        self.finish = anyio.Event()
        who = options.pop("admission", None) or admitted()
        self.task = asyncio.create_task(relays.run(who, kind, lambda _: self._relay(), **{"receive": None, **options}))

    async def _relay(self) -> None:
        self.begun.set()
        await self.finish.wait()


@asynccontextmanager
async def relaying(
    relays: LiveRelays, *kinds: Literal["http", "websocket"], **options: Any
) -> AsyncIterator[list[Started]]:
    with anyio.fail_after(5):
        started = [Started(relays, kind, **options) for kind in kinds]
        for each in started:
            await each.begun.wait()
        yield started
        for each in started:
            await asyncio.wait([each.task])


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - nothing announces it
        await anyio.sleep(0.001)


async def test_a_relay_is_counted_while_it_lasts() -> None:
    relays = new_relays()
    async with relaying(relays, "http", "websocket") as (one, other):
        assert len(relays) == 2
        one.finish.set()
        assert await one.task is None
        assert len(relays) == 1
        other.finish.set()
    assert other.task.result() is None
    assert len(relays) == 0


async def test_a_relay_that_fails_raises_and_is_forgotten() -> None:
    async def fail() -> None:
        raise PreviewProxyError("upstream_timeout")

    relays = new_relays()
    with pytest.raises(PreviewProxyError, match="upstream_timeout"):
        await relays.run(admitted(), "http", lambda _: fail(), None)
    assert len(relays) == 0


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_visitor_who_leaves_ends_the_relay(kind: str) -> None:
    visitor = Visitor()
    async with relaying(new_relays(), "http", receive=visitor.receive) as (relay,):
        await visitor.asked.wait()
        visitor.messages.put_nowait({"type": f"{kind}.request"})
        visitor.leave(kind)
        assert await relay.task == "left"
    assert relay.task.cancelling() == 0


async def test_nobody_reads_from_the_visitor_before_the_upload_is_over() -> None:
    visitor, uploaded, relays = Visitor(), anyio.Event(), new_relays()
    async with relaying(relays, "http", "http", receive=visitor.receive, uploaded=uploaded) as (relay, other):
        visitor.leave()
        other.finish.set()
        await other.task
        assert not visitor.asked.is_set()
        uploaded.set()
        assert await relay.task == "left"


async def test_a_short_relay_costs_no_watcher() -> None:
    visitor, relays = Visitor(), new_relays()
    assert await relays.run(admitted(), "http", lambda _: anyio.lowlevel.checkpoint(), visitor.receive) is None
    assert not visitor.asked.is_set()


async def test_a_relay_that_has_just_begun_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 60)
    visitor, relays = Visitor(), new_relays()
    async with relaying(relays, "http", receive=visitor.receive) as (relay,):
        relays._sweep()
        await turns()
        assert not visitor.asked.is_set()
        relay.finish.set()


async def test_who_is_on_no_event_loop_or_another_is_elsewhere() -> None:
    relays = new_relays()

    async def is_elsewhere() -> bool:
        return relays.is_elsewhere()

    assert not await anyio.to_thread.run_sync(anyio.run, is_elsewhere)  # before the first, any loop is theirs
    await relays.run(admitted(), "http", lambda _: anyio.lowlevel.checkpoint(), None)
    assert not relays.is_elsewhere()
    assert await anyio.to_thread.run_sync(relays.is_elsewhere)
    assert await anyio.to_thread.run_sync(anyio.run, is_elsewhere)


def test_once_their_event_loop_has_ended_any_other_is_theirs() -> None:
    relays = new_relays()

    async def relay() -> bool:
        elsewhere = relays.is_elsewhere()
        await relays.run(admitted(), "http", lambda _: anyio.lowlevel.checkpoint(), None)
        return elsewhere or relays.is_elsewhere()

    assert not any(anyio.run(relay) for _ in range(2))


async def test_watching_stops_with_the_last_relay_and_starts_with_the_next() -> None:
    visitor, relays = Visitor(), new_relays()
    await relays.run(admitted(), "http", lambda _: anyio.lowlevel.checkpoint(), None)
    with anyio.fail_after(5):
        await until(lambda: relays._sweeping is None)
    async with relaying(relays, "http", receive=visitor.receive) as (relay,):
        visitor.leave()
        assert await relay.task == "left"


async def test_a_watcher_ends_with_its_relay() -> None:
    visitor, relays = Visitor(), new_relays()
    before = asyncio.all_tasks()
    async with relaying(relays, "http", receive=visitor.receive) as (relay,):
        await visitor.asked.wait()
        relay.finish.set()
        assert await relay.task is None
        await until(lambda: asyncio.all_tasks() <= before)


async def test_a_server_that_cancels_the_request_is_obeyed() -> None:
    visitor, relays = Visitor(), new_relays()
    async with relaying(relays, "http", receive=visitor.receive) as (relay,):
        await visitor.asked.wait()
        relay.task.cancel()
    assert relay.task.cancelled()
    assert len(relays) == 0


async def test_a_server_that_cancels_beside_a_drain_is_obeyed() -> None:
    relays = new_relays()
    async with relaying(relays, "websocket") as (relay,):
        drain = asyncio.create_task(relays.drain(5))
        asyncio.get_running_loop().call_soon(relay.task.cancel)  # after the drain has, before the relay has noticed
        await drain
    assert relay.task.cancelled()


async def drained(relays: LiveRelays, timeout: float) -> Awaitable[None]:
    """A drain that has begun."""
    drain = asyncio.create_task(relays.drain(timeout))

    def draining() -> bool:
        try:
            relays.refuse_if_draining()
        except PreviewProxyError:
            return True
        return drain.done()

    await until(draining)
    return drain


async def test_v09_a_drain_ends_sockets_at_once_and_lets_requests_finish() -> None:
    relays = new_relays()
    async with relaying(relays, "websocket", "http") as (socket, request):
        drain = await drained(relays, 5)
        assert await socket.task == "drained"
        assert len(relays) == 1
        request.finish.set()
        assert await request.task is None
        await drain


async def test_v09_a_drain_ends_requests_after_its_time() -> None:
    relays = new_relays()
    async with relaying(relays, "http", "http") as (one, other):
        await relays.drain(0.01)
        assert len(relays) == 0
    assert one.task.result() == other.task.result() == "drained"


async def test_v09_nothing_begins_during_a_drain() -> None:
    relays = new_relays()
    relays.refuse_if_draining()
    async with relaying(relays, "http") as (request,):
        drain = await drained(relays, 5)
        with pytest.raises(PreviewProxyError) as caught:
            relays.refuse_if_draining()
        assert (caught.value.code, caught.value.status, caught.value.close_code) == ("shutting_down", 503, 1012)
        request.finish.set()
        await drain
    relays.refuse_if_draining()


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_v09_two_drains_at_once_both_end(kind: Literal["http", "websocket"]) -> None:
    relays = new_relays()
    async with relaying(relays, kind) as (relay,):
        first, second = asyncio.create_task(relays.drain(5)), asyncio.create_task(relays.drain(5))
        await anyio.lowlevel.checkpoint()
        relay.finish.set()
        await first
        await second
    assert relay.task.result() == (None if kind == "http" else "drained")


async def test_v09_a_drain_of_nothing_ends_at_once() -> None:
    relays = new_relays()
    with anyio.fail_after(5):
        await relays.drain(60)
        await relays.run(admitted(), "http", lambda _: anyio.lowlevel.checkpoint(), None)
        await relays.drain(60)
