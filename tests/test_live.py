from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message

from preview_proxy import Preview, Session, live
from preview_proxy.errors import CheckFailed, NotFound, PreviewProxyError
from preview_proxy.live import Admission, Checks, LiveRelays
from preview_proxy.revocation import Revocation

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
        self.task = asyncio.create_task(relays.run(who, kind, self._relay(), **{"receive": None, **options}))

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
        await relays.run(admitted(), "http", fail(), None)
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
    assert await relays.run(admitted(), "http", anyio.lowlevel.checkpoint(), visitor.receive) is None
    assert not visitor.asked.is_set()


async def test_watching_stops_with_the_last_relay_and_starts_with_the_next() -> None:
    visitor, relays = Visitor(), new_relays()
    await relays.run(admitted(), "http", anyio.lowlevel.checkpoint(), None)
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
        await relays.run(admitted(), "http", anyio.lowlevel.checkpoint(), None)
        await relays.drain(60)


# --- asking again --------------------------------------------------------------------------------------------------


class Asked(Yes):
    """Checks that answer as the test says: None for a yes, else what is raised."""

    def __init__(self, *answers: Exception | None, renewals: tuple[float, ...] = ()) -> None:
        self.answers = list(answers)
        self.renewals = list(renewals)
        self.questions: list[tuple[str, Preview]] = []

    async def authorize(self, subject: str, preview: Preview) -> None:
        self.questions.append((subject, preview))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer

    def renewed_until(self, admission: Admission) -> float | None:
        return self.renewals.pop(0) if self.renewals else None


async def hurry(relays: LiveRelays) -> None:
    """Have each relay asked about as soon as it may be, until all have ended."""
    while relays._relays:
        for relay in relays._relays:
            if relay.ask_at is not None and relay.ask_at < float("inf"):
                relay.ask_at = 0.0
        await anyio.sleep(0.001)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_w10_a08_what_authorize_no_longer_allows_is_ended(kind: Literal["http", "websocket"]) -> None:
    checks = Asked(None, None, NotFound())
    relays = new_relays(checks)
    async with relaying(relays, kind) as (relay,):
        await hurry(relays)
        assert relay.task.result() == "revoked"
    assert checks.questions == [("ada", PREVIEW)] * 3
    assert relay.task.cancelling() == 0


@pytest.mark.parametrize("failure", [CheckFailed(), ValueError("canary"), TimeoutError()])
async def test_a01_a_check_that_goes_on_failing_ends_what_the_last_yes_no_longer_covers(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    checks = Asked(failure)
    begun = time.monotonic()
    async with relaying(new_relays(checks, 0.2), "websocket") as (relay,):
        assert await relay.task == "unchecked"
    assert time.monotonic() - begun >= 0.19
    assert len(checks.questions) > 1
    assert "asking again about what is open failed" in caplog.text
    assert "canary" not in caplog.text


async def test_a01_a_check_that_hangs_is_not_waited_for() -> None:
    class Hanging(Yes):
        async def authorize(self, subject: str, preview: Preview) -> None:
            await anyio.sleep_forever()

    relays = new_relays(Hanging(), 0.1)
    async with relaying(relays, "http") as (relay,):
        assert await relay.task == "unchecked"
    await relays.drain(0)
    with anyio.fail_after(5):
        await until(lambda: not relays._asking)


async def test_a_check_that_fails_once_ends_nothing() -> None:
    checks = Asked(CheckFailed(), None, CheckFailed(), NotFound())
    relays = new_relays(checks)
    async with relaying(relays, "websocket") as (relay,):
        await hurry(relays)
        assert relay.task.result() == "revoked"
    assert len(checks.questions) == 4


async def test_w10_each_subject_and_preview_is_asked_about_once_for_all_its_relays() -> None:
    checks = Asked(None)
    ada = [admitted() for _ in range(20)]
    together = [Admission(each.session, PREVIEW, HOST, ada[0].since, ada[0].yes_at) for each in ada]
    relays = new_relays(checks, 10)
    async with relaying(relays, "websocket", admission=admitted("grace")) as (grace,):
        all_of_ada = [Started(relays, "websocket", admission=each) for each in together]
        await until(lambda: all(relay.ask_at is not None for relay in relays._relays))
        for relay in relays._relays:
            relay.ask_at = 0.0
        await until(lambda: len(checks.questions) >= 2)
        assert sorted(checks.questions) == [("ada", PREVIEW), ("grace", PREVIEW)]
        for started in (grace, *all_of_ada):
            started.finish.set()
            await started.task


async def test_w10_a_gate_that_expires_ends_what_it_opened() -> None:
    checks = Asked(None)
    who = admitted(expires_at=time.time() + 0.05)
    async with relaying(new_relays(checks), "websocket", admission=who) as (relay,):
        assert await relay.task == "signed_out"
    assert checks.questions == []
    assert who.session.expires_at is not None
    assert time.time() >= who.session.expires_at


async def test_a_renewed_login_keeps_what_it_has_open() -> None:
    renewals = (time.time() + 0.05, time.time() + 0.1)
    who = admitted(expires_at=time.time())
    async with relaying(new_relays(Asked(None, renewals=renewals)), "websocket", admission=who) as (relay,):
        assert await relay.task == "signed_out"
    assert time.time() >= renewals[1]


async def test_a10_a_host_that_shows_something_else_by_now_ends_what_it_showed() -> None:
    answers: list[bool | Exception] = [True, CheckFailed(), True, False]

    class Routes(Asked):
        async def shows(self, authority: str, preview: Preview) -> bool:
            assert (authority, preview) == (HOST, PREVIEW)
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    relays = new_relays(Routes(None))
    async with relaying(relays, "websocket") as (relay,):
        await hurry(relays)
        assert relay.task.result() == "revoked"
    assert answers == []


async def test_w10_the_customers_own_session_is_asked_again() -> None:
    answers: list[Session | Exception | None] = [Session("ada"), CheckFailed(), Session("ada"), None]

    async def again() -> Session | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    relays = new_relays(Asked(None))
    async with relaying(relays, "http", admission=admitted(again=again)) as (relay,):
        await hurry(relays)
        assert relay.task.result() == "signed_out"
    assert answers == []


async def test_the_customers_own_session_may_be_prolonged() -> None:
    prolonged = time.time() + 0.3

    async def again() -> Session:
        return Session("ada", expires_at=prolonged)

    who = admitted(again=again, expires_at=time.time() + 0.2)
    relays = new_relays(Asked(None))
    async with relaying(relays, "http", admission=who) as (relay,):
        await hurry(relays)
        assert relay.task.result() == "signed_out"
    assert time.time() >= prolonged


async def test_w10_what_was_remembered_counts_from_when_it_was_asked() -> None:
    who = admitted()
    who.yes_at -= 29.9
    checks = Asked(CheckFailed())
    async with relaying(new_relays(checks), "websocket", admission=who) as (relay,):
        assert await relay.task == "unchecked"


async def test_a_short_relay_is_never_asked_about() -> None:
    checks, relays = Asked(NotFound()), new_relays(Asked(NotFound()), 0.001)
    await relays.run(admitted(), "http", anyio.lowlevel.checkpoint(), None)
    assert checks.questions == []


@pytest.mark.parametrize(
    ("revocation", "cut"),
    [
        (Revocation("ada", None, None, 2e9), "signed_out"),
        (Revocation(None, None, "login-1", 0), "signed_out"),
        (Revocation(None, PREVIEW, None, 2e9), "revoked"),
        (Revocation("ada", PREVIEW, "login-1", 0), "revoked"),
    ],
)
async def test_w10_a_revocation_ends_what_it_names(revocation: Revocation, cut: str) -> None:
    relays = new_relays()
    who = admitted(ref="login-1", issued_at=time.time())
    async with relaying(relays, "http", "websocket", admission=who) as (one, other):
        assert relays.revoke(Revocation("ada", None, None, 1)) == 0  # it was issued later
        assert relays.revoke(Revocation("eve", PREVIEW, None, 2e9)) == 0
        assert relays.revoke(revocation) == 2
    assert one.task.result() == other.task.result() == cut
