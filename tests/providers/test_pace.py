from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.providers.pace import Pace


def test_so_many_at_once_and_the_next_a_minute_after_the_first() -> None:
    pace = Pace(3)
    assert [pace.take(now) for now in (100.0, 110.0, 110.0, 159.9, 160.0, 160.0)] == [True] * 3 + [False, True, False]


def test_a_clock_that_is_set_back_does_not_stop_it_for_long() -> None:
    pace = Pace(1)
    assert pace.take(100_000.0)
    assert pace.take(10.0)
    assert not pace.take(69.9)


@given(st.integers(1, 20), st.lists(st.floats(0, 30), max_size=200))
def test_no_minute_has_more(per_minute: int, waits: list[float]) -> None:
    pace, now, taken = Pace(per_minute), 0.0, list[float]()
    for wait in waits:
        now += wait
        if pace.take(now):
            taken.append(now)
    assert all(later - earlier >= 60 for earlier, later in zip(taken, taken[per_minute:], strict=False))
