"""A bounded memory of answers."""

from __future__ import annotations

from preview_proxy.core.recent import Recent


def test_an_answer_holds_until_its_time() -> None:
    recent: Recent[str, int] = Recent(10)
    recent.put("a", 1, until=5.0)
    assert (recent.get("a", 4.9), recent.get("a", 5.0), recent.get("b", 0)) == (1, None, None)


def test_the_oldest_goes_first() -> None:
    recent: Recent[int, int] = Recent(2)
    for number in (1, 2, 1, 3):
        recent.put(number, number, until=9)
    assert [recent.get(number, 0) for number in (1, 2, 3)] == [1, None, 3]
    assert len(recent) == 2


def test_what_matches_is_forgotten_and_nothing_else() -> None:
    recent: Recent[str, int] = Recent(10)
    for number, key in enumerate(("ann 1", "ann 2", "bob 1")):
        recent.put(key, number, until=9)
    recent.forget(lambda key, value: key.startswith("ann") and value == 0)
    assert [recent.get(key, 0) for key in ("ann 1", "ann 2", "bob 1")] == [None, 1, 2]


def test_one_can_be_dropped_and_one_that_is_not_there_too() -> None:
    recent: Recent[str, int] = Recent(10)
    for key in ("a", "b"):
        recent.put(key, 1, until=9)
    for key in ("a", "c"):
        recent.drop(key)
    assert [recent.get(key, 0) for key in ("a", "b", "c")] == [None, 1, None]
