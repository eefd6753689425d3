"""A relay that is over is over: what comes to its task later is none of its own."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from preview_proxy import Preview, live
from preview_proxy.errors import NotFound, PreviewProxyError
from preview_proxy.live import LiveRelays
from preview_proxy.revocation import Revocation
from tests.test_live import Yes, admitted, new_relays, until
from tests.test_live_asking import hurry

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.001)


class Late(Yes):
    """Says no, but the first time only once the relay is over."""

    def __init__(self) -> None:
        self.asked, self.over, self.answered = asyncio.Event(), asyncio.Event(), 0

    async def authorize(self, subject: str, preview: Preview) -> None:
        self.asked.set()
        await self.over.wait()
        self.answered += 1
        raise NotFound


async def asked(relays: LiveRelays, checks: Late) -> None:
    """Have it asked about what is open, as soon as it may be."""
    await until(lambda: any(relay.ask_at is not None for relay in relays._relays))
    for relay in relays._relays:
        relay.ask_at = 0.0
    await checks.asked.wait()


async def test_w10_an_answer_that_comes_too_late_leaves_the_task_alone() -> None:
    checks = Late()
    relays, finish = new_relays(checks), asyncio.Event()

    async def served() -> None:
        assert await relays.run(admitted(), "http", lambda _: _wait(finish), None) is None
        checks.over.set()
        await until(lambda: checks.answered == 1 and not relays._asking)
        await anyio.lowlevel.checkpoint()

    with anyio.fail_after(5):
        task = asyncio.create_task(served())
        await asked(relays, checks)
        finish.set()
        await task
    assert task.cancelling() == 0


async def test_w10_a_socket_that_opens_meanwhile_is_asked_about_anew() -> None:
    checks = Late()
    relays, dialled, who = new_relays(checks), asyncio.Event(), admitted()

    async def served() -> list[str | None]:
        dialling = await relays.run(who, "websocket", lambda _: _wait(dialled), None)
        checks.over.set()
        return [dialling, await relays.run(who, "websocket", lambda _: anyio.sleep_forever(), None)]

    with anyio.fail_after(5):
        task = asyncio.create_task(served())
        await asked(relays, checks)
        dialled.set()
        await until(lambda: checks.answered == 1 and not relays._asking)
        await hurry(relays)
        assert await task == [None, "revoked"]
    assert checks.answered == 2
    assert task.cancelling() == 0


@pytest.mark.parametrize(("fails", "swallows"), [(False, False), (True, False), (False, True)])
async def test_a_relay_that_is_cut_in_its_last_step_takes_its_cancellation_along(fails: bool, swallows: bool) -> None:
    relays = new_relays()

    async def last_step() -> None:
        assert relays.revoke(Revocation("ada", None, None, 2e9)) == 1
        if swallows:
            with pytest.raises(asyncio.CancelledError):
                await anyio.lowlevel.checkpoint()
        elif fails:
            raise PreviewProxyError("upstream_timeout")

    async def served() -> None:
        assert await relays.run(admitted(), "http", lambda _: last_step(), None) == "signed_out"
        await anyio.lowlevel.checkpoint()

    task = asyncio.create_task(served())
    with anyio.fail_after(5):
        await task
    assert task.cancelling() == 0


async def test_v09_what_does_not_end_when_told_to_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live, "PARTING", 0.01)
    relays, finish, begun = new_relays(), asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        while not finish.is_set():
            with suppress(asyncio.CancelledError):
                await finish.wait()

    with anyio.fail_after(5):
        task = asyncio.create_task(relays.run(admitted(), "http", lambda _: stubborn(), None))
        await begun.wait()
        await relays.drain(0.01)
        assert "relays that go on 0.01 s after they were told to end: 1" in caplog.text
        finish.set()
        assert await task == "drained"


async def test_v09_nothing_begins_while_the_rest_is_closed() -> None:
    relays, closing, closed = new_relays(), asyncio.Event(), asyncio.Event()

    async def close() -> None:
        closing.set()
        await closed.wait()

    with anyio.fail_after(5):
        first = asyncio.create_task(relays.drain(5, close))
        await closing.wait()
        await relays.drain(5)  # a second one that ends before
        with pytest.raises(PreviewProxyError, match="shutting_down"):
            relays.refuse_if_draining()
        closed.set()
        await first
    relays.refuse_if_draining()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
