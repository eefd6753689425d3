"""What is open is asked about again, and ends with access."""

from __future__ import annotations

import time
from typing import Literal

import anyio
import anyio.lowlevel
import pytest

from preview_proxy import Preview, Session, live
from preview_proxy.errors import CheckFailed, NotFound
from preview_proxy.live import Admission, LiveRelays
from preview_proxy.revocation import Revocation
from tests.test_live import HOST, PREVIEW, Started, Yes, admitted, new_relays, relaying, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.001)


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
    await relays.run(admitted(), "http", lambda _: anyio.lowlevel.checkpoint(), None)
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
