"""Counting what is under way, and refusing what would be too much."""

from __future__ import annotations

import random
from typing import Literal

import pytest

from preview_proxy import Limits, Preview, occupancy
from preview_proxy.errors import LimitExceeded
from preview_proxy.occupancy import HandshakePace, Occupancy, Place, Room

PREVIEW, OTHER = Preview("m1", 3000), Preview("m2", 3000)


def full(room: Room, subject: str, preview: Preview) -> tuple[str, int, int, int | None]:
    with pytest.raises(LimitExceeded) as caught:
        room.enter(subject, preview)
    error = caught.value
    return error.code, error.status, error.close_code, error.retry_after


@pytest.mark.parametrize(
    ("bounds", "subject", "preview", "refusal"),
    [
        ({"per_subject": 3}, "ada", OTHER, ("too_many_requests", 429, 4429, 1)),
        ({"per_preview": 3}, "eve", PREVIEW, ("preview_busy", 503, 4503, 1)),
        ({"in_all": 3}, "eve", OTHER, ("server_busy", 503, 4503, 1)),
    ],
)
def test_v02_each_bound_holds_at_its_edge(
    bounds: dict[str, int], subject: str, preview: Preview, refusal: tuple[str, int, int, int]
) -> None:
    room = Room(**{"per_subject": 100, "per_preview": 100, "in_all": 100, **bounds})
    places = [room.enter("ada", PREVIEW) for _ in range(3)]
    assert full(room, subject, preview) == refusal
    assert room.taken == 3  # a refusal takes nothing
    room.leave(places[0])
    room.leave(room.enter(subject, preview))


def test_v02_one_that_is_full_is_in_nobody_elses_way() -> None:
    room = Room(per_subject=2, per_preview=2, in_all=100)
    for _ in range(2):
        room.enter("ada", PREVIEW)
    assert full(room, "ada", OTHER)[0] == "too_many_requests"
    assert full(room, "eve", PREVIEW)[0] == "preview_busy"
    room.enter("eve", OTHER)


def test_w11_no_count_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupancy, "MEMORY", 50)
    room = Room(per_subject=5, per_preview=5, in_all=200)
    chance, held = random.Random(1), list[Place]()
    for _ in range(10_000):
        subject, preview = f"subject {chance.randrange(100)}", Preview(f"m{chance.randrange(100)}", 3000)
        try:
            held.append(room.enter(subject, preview))
        except LimitExceeded:
            assert held
        if held and chance.random() < 0.5:
            room.leave(held.pop(chance.randrange(len(held))))
        assert room.taken == len(held)
        assert sum(count[0] for count in room._counts.values()) == 2 * len(held)
    while held:
        room.leave(held.pop())
    assert room.taken == 0
    assert not any(count[0] for count in room._counts.values())
    assert len(room._counts) <= 202  # those there were, not all that ever were


def test_w11_handshakes_are_counted_by_the_minute() -> None:
    now = 1000.0
    pace = HandshakePace(60, lambda: now)
    for _ in range(60):
        pace.step("ada", PREVIEW)
    for _ in range(3):  # a refusal costs nothing further
        with pytest.raises(LimitExceeded) as caught:
            pace.step("ada", PREVIEW)
    assert (caught.value.code, caught.value.status, caught.value.retry_after) == ("too_many_requests", 429, 1)
    pace.step("ada", OTHER)
    pace.step("eve", PREVIEW)
    now += 1
    pace.step("ada", PREVIEW)
    with pytest.raises(LimitExceeded):
        pace.step("ada", PREVIEW)
    now += 60
    for _ in range(60):
        pace.step("ada", PREVIEW)


def test_w11_the_memory_of_handshakes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupancy, "MEMORY", 10)
    pace = HandshakePace(60)
    for number in range(1000):
        pace.step(f"subject {number}", PREVIEW)
    assert len(pace._free_at) == 10


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_v02_requests_and_sockets_have_a_room_each(kind: Literal["http", "websocket"]) -> None:
    limits = Limits(requests_per_subject=1, sockets_per_subject=1, handshakes_per_minute=2)
    rooms = Occupancy(limits)
    places = {each: rooms.enter(each, "ada", PREVIEW) for each in ("http", "websocket")}
    with pytest.raises(LimitExceeded):
        rooms.enter(kind, "ada", PREVIEW)
    room, place = places[kind]
    room.leave(place)
    assert (rooms.http.taken, rooms.websocket.taken) == ((0, 1) if kind == "http" else (1, 0))
