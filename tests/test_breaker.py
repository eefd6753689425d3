"""When a preview is not tried again yet, and who notices."""

from __future__ import annotations

import pytest

from preview_proxy import Preview, breaker
from preview_proxy.breaker import CERTAIN, FAILURES, PAUSE, Breaker, is_certain
from preview_proxy.errors import (
    CODES,
    MachineUnavailable,
    NotFound,
    PortNotAllowed,
    PreviewProxyError,
    ProviderError,
    Unreachable,
)
from tests.test_revocation import Clock, clock

__all__ = ["clock"]

PREVIEW, OTHER = Preview("m1", 3000), Preview("m1", 3001)
FAILURE = Unreachable(detail="ConnectError")


@pytest.fixture
def shut(clock: Clock) -> Breaker:
    """A breaker that has just opened for one preview."""
    made = Breaker(clock)
    for _ in range(FAILURES):
        assert made.enter(PREVIEW) is False
        made.failed(PREVIEW, FAILURE)
    return made


def refused(shut: Breaker, preview: Preview = PREVIEW) -> tuple[str, int, int | None]:
    with pytest.raises(PreviewProxyError) as caught:
        shut.enter(preview)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    return caught.value.code, caught.value.status, caught.value.retry_after


def test_v06_after_some_failures_in_a_row_the_preview_is_not_tried_for_a_while(shut: Breaker, clock: Clock) -> None:
    assert refused(shut) == ("upstream_unavailable", 503, 2)
    clock.now += PAUSE - 0.5
    assert refused(shut) == ("upstream_unavailable", 503, 1)


def test_v06_no_other_preview_notices(shut: Breaker) -> None:
    assert shut.enter(OTHER) is False
    assert shut.enter(Preview("m1", 3000, generation=1)) is False


def test_v06_then_one_may_try_and_the_others_wait_for_it(shut: Breaker, clock: Clock) -> None:
    clock.now += PAUSE
    assert shut.enter(PREVIEW) is True
    assert refused(shut) == ("upstream_unavailable", 503, 1)
    shut.reached(PREVIEW)
    shut.release(PREVIEW)
    assert shut.enter(PREVIEW) is False


def test_v06_one_that_fails_again_begins_it_anew(shut: Breaker, clock: Clock) -> None:
    for _ in range(3):
        clock.now += PAUSE
        assert shut.enter(PREVIEW) is True
        shut.failed(PREVIEW, FAILURE)
        shut.release(PREVIEW)
        assert refused(shut)[0] == "upstream_unavailable"


def test_v06_one_whose_visitor_left_lets_the_next_try(shut: Breaker, clock: Clock) -> None:
    clock.now += PAUSE
    assert shut.enter(PREVIEW) is True
    shut.release(PREVIEW)
    assert shut.enter(PREVIEW) is True


def test_v06_an_answer_in_between_starts_the_count_anew(clock: Clock) -> None:
    made = Breaker(clock)
    for _ in range(3):
        for _ in range(FAILURES - 1):
            made.failed(PREVIEW, FAILURE)
        made.reached(PREVIEW)
    assert made.enter(PREVIEW) is False


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (MachineUnavailable("preview_service_not_ready"), ("preview_service_not_ready", 503, 5)),
        (ProviderError("rate_limit_exceeded", retry_after=30), ("rate_limit_exceeded", 429, 30)),
        (ProviderError("provider_timeout"), ("upstream_unavailable", 503, 2)),
        (ProviderError("provider_failed"), ("upstream_unavailable", 503, 2)),
    ],
)
def test_v06_a_failure_that_says_to_wait_is_told_again(
    clock: Clock, last: PreviewProxyError, told: tuple[str, int, int]
) -> None:
    made = Breaker(clock)
    for _ in range(FAILURES):
        made.failed(PREVIEW, last)
    assert refused(made) == told


@pytest.mark.parametrize(
    "certain", [NotFound("machine_not_found"), PortNotAllowed(), ProviderError("provider_refused")]
)
def test_pitfall_21_a_certain_no_stands_for_seconds(clock: Clock, certain: PreviewProxyError) -> None:
    made = Breaker(clock)
    made.failed(PREVIEW, certain)
    assert refused(made) == (certain.code, certain.status, None)
    assert made.enter(OTHER) is False
    clock.now += CERTAIN
    assert made.enter(PREVIEW) is False
    assert CERTAIN <= 5


def test_pitfall_21_nothing_else_is_certain() -> None:
    certain = {code for code in CODES if is_certain(ProviderError(code))}
    assert certain == {"provider_refused"}
    assert not is_certain(MachineUnavailable())
    assert not is_certain(FAILURE)


def test_a_providers_own_exception_is_told_again_as_ours(clock: Clock) -> None:
    class Asleep(MachineUnavailable):
        def __init__(self, machine: str) -> None:
            super().__init__("machine_paused_auto_resume_disabled", detail=machine)

    made = Breaker(clock)
    for _ in range(FAILURES):
        made.failed(PREVIEW, Asleep("m1"))
    with pytest.raises(MachineUnavailable, match="not tried again yet: m1") as caught:
        made.enter(PREVIEW)
    assert type(caught.value) is MachineUnavailable


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "MEMORY", 10)
    made = Breaker()
    for port in range(1, 1000):
        made.failed(Preview("m1", port), FAILURE)
    assert len(made._circuits) == 10


def test_what_never_failed_has_nothing_to_release() -> None:
    made = Breaker()
    made.reached(PREVIEW)
    made.release(PREVIEW)
    assert made.enter(PREVIEW) is False
