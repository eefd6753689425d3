"""The customer's own code, when it fails, and what is remembered of its answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from preview_proxy import Limits, Preview, gate
from preview_proxy.errors import ConfigurationError, Forbidden, NotFound
from preview_proxy.live import Admission
from tests.test_gate import KINDS, PREVIEW, Door, gate_cookie
from tests.world import OWNER

pytestmark = pytest.mark.anyio


async def _raises(*_: object) -> Any:
    raise LookupError("canary: the database's password")


async def _hangs(*_: object) -> Any:
    await anyio.sleep_forever()


def _answers(answer: object) -> Callable[..., Awaitable[Any]]:
    async def function(*_: object) -> Any:
        return answer

    return function


NONSENSE = [1, 0, "yes", "", [True], object()]


@KINDS
@pytest.mark.parametrize("authorize", [_raises, _hangs, _answers(None), *map(_answers, NONSENSE)])
async def test_a01_an_authorize_that_does_not_say_yes_or_no_is_503(
    kind: str, authorize: Any, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(authorize=authorize)
    with caplog.at_level(logging.DEBUG):
        answer = await door.knock(kind, gate_cookie(door.gate()))
    assert (answer.status, answer.json()["code"], answer.json()["retryable"]) == (503, "check_failed", True)
    assert door.upstream.untouched
    assert "canary" not in caplog.text
    assert len([record for record in caplog.records if record.name == "preview_proxy"]) == 1


@KINDS
@pytest.mark.parametrize("session", [_raises, _hangs, *map(_answers, [1, 0, "", b"ada", [OWNER], object()])])
async def test_a01_a_session_check_that_fails_is_503_and_never_anonymous(
    kind: str, session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(session=session)
    with caplog.at_level(logging.DEBUG):
        answer = await door.knock(kind)
    assert (answer.status, answer.json()["code"]) == (503, "check_failed")
    assert door.upstream.untouched
    assert "canary" not in caplog.text


async def test_an_error_of_ours_that_authorize_raises_comes_through() -> None:
    async def authorize(subject: str, preview: Preview) -> bool:
        raise Forbidden

    door = Door(authorize=authorize)
    assert (await door.knock("http", gate_cookie(door.gate()))).status == 403


def test_code_that_would_block_every_visitor_is_refused_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="authorize must be an async callable"):
        Door(authorize=lambda subject, preview: True)
    with pytest.raises(ConfigurationError, match="session must be an async callable"):
        Door(session=lambda connection: OWNER)
    with pytest.raises(ConfigurationError, match="nobody could pass"):
        Door(tickets=None)


# --- what is remembered --------------------------------------------------------------------------------------


class Asked:
    """An `authorize` that notes who asks for what, and answers from a list."""

    def __init__(self, *answers: Any) -> None:
        self.questions: list[tuple[str, Preview]] = []
        self._answers = list(answers)

    async def __call__(self, subject: str, preview: Preview) -> Any:
        self.questions.append((subject, preview))
        return self._answers.pop(0) if self._answers else True


class Clock:
    """Stands in for the `time` module."""

    def __init__(self) -> None:
        self.passed = 0.0

    def time(self) -> float:
        return time.time() + self.passed

    def monotonic(self) -> float:
        return time.monotonic() + self.passed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(gate, "time", made)
    return made


@KINDS
async def test_a07_a_yes_holds_for_a_while_and_for_one_subject_and_preview(kind: str, clock: Clock) -> None:
    authorize = Asked()
    door = Door(authorize=authorize)
    for _ in range(3):
        assert (await door.knock(kind, gate_cookie(door.gate()))).status == 200
    assert authorize.questions == [(OWNER, PREVIEW)]
    assert (await door.knock(kind, gate_cookie(door.gate("eve")))).status == 200
    assert authorize.questions == [(OWNER, PREVIEW), ("eve", PREVIEW)]
    clock.passed = Limits().decision_ttl
    assert (await door.knock(kind, gate_cookie(door.gate()))).status == 200
    assert len(authorize.questions) == 3


async def test_a07_a_yes_that_was_remembered_counts_from_when_it_was_asked_for(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door()
    admissions: list[Admission] = []
    run = door.proxy._live.run

    async def noted(admission: Admission, *rest: Any) -> Any:
        admissions.append(admission)
        return await run(admission, *rest)

    monkeypatch.setattr(door.proxy._live, "run", noted)
    for clock.passed in (0.0, 3.0):
        assert (await door.knock("http", gate_cookie(door.gate()))).status == 200
    first, second = admissions
    assert second.yes_at == first.yes_at
    assert second.since >= first.since + 3


@KINDS
@pytest.mark.parametrize("answer", [False, None])
async def test_a07_anything_else_is_asked_again(kind: str, answer: object) -> None:
    authorize = Asked(answer, answer)
    door = Door(authorize=authorize)
    statuses = [(await door.knock(kind, gate_cookie(door.gate()))).status for _ in range(3)]
    assert statuses == [404 if answer is False else 503] * 2 + [200]


async def test_a07_a_no_ends_the_yes_that_was_remembered() -> None:
    door = Door(authorize=Asked(True, False, True))
    assert (await door.knock("http", gate_cookie(door.gate()))).status == 200
    with pytest.raises(NotFound):  # when it asks again about what is open
        await door.proxy._gate.authorize(OWNER, PREVIEW)
    assert (await door.knock("http", gate_cookie(door.gate()))).status == 200
    assert door.authorize.questions == [(OWNER, PREVIEW)] * 3


async def test_a07_what_is_forgotten_is_asked_again() -> None:
    other = Preview("m1", 3001)
    for subject, preview, asked_again in (
        (OWNER, None, True),
        (None, PREVIEW, True),
        (OWNER, PREVIEW, True),
        ("eve", None, False),
        (None, other, False),
        (OWNER, other, False),
        ("eve", PREVIEW, False),
    ):
        authorize = Asked()
        door = Door(authorize=authorize)
        await door.knock("http", gate_cookie(door.gate()))
        assert door.proxy.revoke(subject=subject, preview=preview) == 0
        await door.knock("http", gate_cookie(door.gate()))
        assert (len(authorize.questions) == 2) is asked_again, (subject, preview)


@KINDS
async def test_a_gate_that_was_read_before_still_expires_and_holds_nowhere_else(kind: str, clock: Clock) -> None:
    door = Door()
    cookie = gate_cookie(door.gate())
    assert (await door.knock(kind, cookie)).status == 200
    elsewhere = [(b"origin", b"https://3000-m2.previews.example"), *cookie]
    assert (await door.knock(kind, elsewhere, host="3000-m2.previews.example", origin=None)).status == 401
    clock.passed = 3601
    assert door.tickets is not None
    door.tickets._clock = clock.time
    assert (await door.knock(kind, cookie)).status == 401
