"""The arithmetic of the bench, on numbers that were made up."""

from __future__ import annotations

import pytest

from tests.bench.report import measures_table, number, targets_table
from tests.bench.targets import TARGETS, Target, medians

RATIO = Target("1 speed x theirs", (("speed", "ours"), ("speed", "theirs")), lambda a, b: a / b, "at least", 0.5)
SIZE = Target("2 size", (("size, KiB", "ours"),), lambda a: a, "at most", 36, "KiB")


def target(name: str) -> Target:
    return next(each for each in TARGETS if each.name == name)


def test_a_median_is_taken_of_each_measure_that_has_runs() -> None:
    runs = {("speed", "ours"): [3.0, 1.0, 100.0], ("speed", "theirs"): [1.0, 2.0], ("size", "ours"): []}
    assert medians(runs) == {("speed", "ours"): 3.0, ("speed", "theirs"): 1.5}


@pytest.mark.parametrize(("ours", "ok"), [(49.9, False), (50.0, True), (80.0, True)])
def test_a_ratio_is_met_at_its_goal_and_above(ours: float, ok: bool) -> None:
    row = RATIO.row({("speed", "ours"): ours, ("speed", "theirs"): 100.0})
    assert row == {
        "target": "1 speed x theirs",
        "ratio": ours / 100,
        "bound": "at least",
        "goal": 0.5,
        "ok": ok,
        "medians": {"ours: speed": ours, "theirs: speed": 100.0},
    }


@pytest.mark.parametrize(("size", "ok"), [(36.0, True), (36.1, False), (-1.0, True)])
def test_a_value_is_met_at_its_goal_and_below(size: float, ok: bool) -> None:
    row = SIZE.row({("size, KiB", "ours"): size})
    assert (row["value"], row["unit"], row["ok"]) == (size, "KiB", ok)


@pytest.mark.parametrize("measured", [{}, {("speed", "ours"): 1.0}, {("speed", "ours"): 1.0, ("speed", "theirs"): 0.0}])
def test_what_cannot_be_computed_is_neither_met_nor_missed(measured: dict[tuple[str, str], float]) -> None:
    row = RATIO.row(measured)
    assert row["ratio"] is None
    assert row["ok"] is None


def test_added_latency_is_what_comes_on_top_of_no_proxy() -> None:
    latencies = {"ours": 300.0, "nginx": 220.0, "direct": 20.0}
    row = target("2 GET 1 KiB, c=1: added p50 latency x nginx's").row(
        {("GET 1 KiB, c=1, p50 µs", subject): latency for subject, latency in latencies.items()}
    )
    assert row["ratio"] == pytest.approx(1.4)
    assert row["ok"] is True


def test_numbers_keep_three_digits_that_matter() -> None:
    assert [number(value) for value in (None, 0.1234, 1.234, 12.34, 123.4, 12345.6)] == [
        "-",
        "0.123",
        "1.23",
        "12.3",
        "123",
        "12,346",
    ]


def test_measures_have_a_column_for_each_subject_that_was_measured() -> None:
    measured = {("speed", "ours"): 1.5, ("size", "theirs"): 20.0}
    assert measures_table(measured, ["direct", "ours", "theirs"]) == (
        "median of  ours  theirs\nspeed      1.50       -\nsize          -    20.0"
    )


def test_targets_are_marked_as_met_missed_or_unknown() -> None:
    met = RATIO.row({("speed", "ours"): 1.0, ("speed", "theirs"): 1.0})
    lines = targets_table([met, SIZE.row({("size, KiB", "ours"): 40.0}), SIZE.row({})]).splitlines()
    assert [line[0] for line in lines[1:]] == ["✓", "✗", "?"]
    assert lines[2].split() == ["✗", "2", "size", "40.0", "KiB", "at", "most", "36"]
