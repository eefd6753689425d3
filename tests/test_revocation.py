"""What a revocation ends, and for how long that is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preview_proxy import Preview, Session, Tickets
from preview_proxy.revocation import Revocation, Revoked
from preview_proxy.tickets import MAX_TICKET_TTL
from tests.test_gate import EMBEDDERS, PREVIEW, PUBLIC, Door
from tests.world import SECRET

pytestmark = pytest.mark.anyio

NOW = 1_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def revoked(clock: Callable[[], float]) -> Revoked:
    return Revoked(3600, clock=clock)


def session(issued_at: float | None = NOW - 1, *, subject: str = "ada", ref: str = "login-1") -> Session:
    return Session(subject, ref, issued_at=issued_at)


def revocation(
    subject: str | None = None, preview: Preview | None = None, login: str | None = None, at: float = NOW
) -> Revocation:
    return Revocation(subject, preview, login, at)


NAMING = [
    revocation("ada"),
    revocation(preview=PREVIEW),
    revocation(login="login-1"),
    revocation("ada", PREVIEW),
    revocation("ada", login="login-1"),
    revocation(preview=PREVIEW, login="login-1"),
    revocation("ada", PREVIEW, "login-1"),
]
OTHERS = [
    revocation("eve"),
    revocation(preview=Preview("m1", 3001)),
    revocation(preview=Preview("m1", 3000, generation=1)),
    revocation(login="login-2"),
    revocation(login=""),
    revocation("eve", PREVIEW),
    revocation("ada", Preview("m1", 3001)),
    revocation("ada", PREVIEW, "login-2"),
]


@pytest.mark.parametrize("known", NAMING)
def test_a07_what_was_issued_before_is_void_and_ends(known: Revocation, revoked: Revoked) -> None:
    assert revoked.add(known)
    for issued_at in (NOW - 1, NOW):
        assert revoked.voids(session(issued_at), PREVIEW)
        assert known.ends(session(issued_at), PREVIEW)


@pytest.mark.parametrize("known", NAMING)
def test_a07_what_was_issued_later_stands_unless_its_login_has_ended(known: Revocation, revoked: Revoked) -> None:
    revoked.add(known)
    later = session(NOW + 0.001)
    assert revoked.voids(later, PREVIEW) is known.ends(later, PREVIEW) is (known.session is not None)


@pytest.mark.parametrize("known", OTHERS)
def test_a07_others_keep_what_they_have(known: Revocation, revoked: Revoked) -> None:
    revoked.add(known)
    assert not revoked.voids(session(), PREVIEW)
    assert not known.ends(session(), PREVIEW)
    assert not revoked.named_since(0, session(), PREVIEW)


@pytest.mark.parametrize("known", NAMING)
def test_a07_of_unknown_age_what_is_open_ends_and_only_the_logins_end_voids_it(
    known: Revocation, revoked: Revoked
) -> None:
    revoked.add(known)
    assert known.ends(session(None), PREVIEW)
    assert revoked.voids(session(None), PREVIEW) is (known.session is not None)


@pytest.mark.parametrize("known", NAMING)
def test_what_came_in_between_is_told(known: Revocation, revoked: Revoked) -> None:
    before = revoked.count
    assert not revoked.named_since(before, session(), PREVIEW)
    revoked.add(known)
    assert revoked.named_since(before, session(), PREVIEW)
    assert not revoked.named_since(revoked.count, session(), PREVIEW)


def test_a_revocation_is_news_once(revoked: Revoked) -> None:
    assert revoked.add(revocation("ada"))
    assert not revoked.add(revocation("ada"))
    assert not revoked.add(revocation("ada", at=NOW - 1))
    assert revoked.add(revocation("ada", at=NOW + 1))
    assert (len(revoked), revoked.count) == (1, 2)


def test_a_new_one_is_later_than_the_last_though_the_clock_was_set_back(revoked: Revoked, clock: Clock) -> None:
    revoked.add(revocation("ada", at=NOW))
    clock.now -= 5
    assert revoked.add(revocation("ada", at=revoked.now(("ada", None, None))))
    assert revoked.now(("eve", None, None)) == NOW - 5
    clock.now += 10
    assert revoked.now(("ada", None, None)) == NOW + 5


def test_it_is_known_for_as_long_as_what_it_voids_could_hold(revoked: Revoked, clock: Clock) -> None:
    revoked.add(revocation("ada"))
    clock.now += 3600
    revoked.add(revocation("eve", at=clock.now))
    assert revoked.voids(session(), PREVIEW)
    clock.now += 1
    revoked.add(revocation("grace", at=clock.now))
    assert not revoked.voids(session(), PREVIEW)
    assert len(revoked) == 2


async def test_a07_it_is_known_for_as_long_as_the_gate_of_a_ticket_from_before_it(clock: Clock) -> None:
    tickets = Tickets(SECRET, EMBEDDERS, clock=clock)
    gate = Door(tickets=tickets).proxy._gate
    gate._revoked._clock = clock
    ticket = tickets.issue(origin=PUBLIC, preview=PREVIEW, session=Session("ada"))
    gate.revoke(revocation("ada"))
    clock.now += MAX_TICKET_TTL - 1
    spent = await tickets.exchange(ticket, origin=PUBLIC, preview=PREVIEW, embedder=EMBEDDERS[0])
    value, max_age = tickets.gate(origin=PUBLIC, preview=PREVIEW, session=spent)
    clock.now += max_age - 0.5
    for number in range(3):
        gate.revoke(revocation(f"other-{number}", at=clock.now))
    read = tickets.read_gate(value.encode(), origin=PUBLIC, preview=PREVIEW)
    assert read is not None
    assert gate.is_void(read, PREVIEW)


def test_the_memory_is_bounded_and_what_falls_out_of_it_opens_nothing(clock: Clock) -> None:
    revoked = Revoked(3600, size=10, clock=clock)
    for number in range(1000):
        revoked.add(revocation(login=f"login-{number}", at=NOW + number))
    assert len(revoked) == 10
    assert revoked.voids(session(NOW, ref="login-0"), PREVIEW)
    # nor does any other of that age: refused once too often is better than let in once
    assert revoked.voids(session(NOW + 989, ref="unrelated"), PREVIEW)
    assert not revoked.voids(session(NOW + 989.5, ref="unrelated"), PREVIEW)
    # of unknown age, such as the customer's own: they would be refused for ever
    assert not revoked.voids(session(None, ref="login-0"), PREVIEW)
    assert revoked.voids(session(None, ref="login-999"), PREVIEW)


def test_a_thousand_that_have_expired_leave_no_trace(revoked: Revoked, clock: Clock) -> None:
    for number in range(1000):
        revoked.add(revocation(login=f"login-{number}", at=clock.now))
    clock.now += 3601
    for number in range(1000):
        revoked.add(revocation("ada", at=clock.now + number))
    assert len(revoked) == 1


def test_v10_everybodys_access_to_everything_can_be_taken_back(revoked: Revoked) -> None:
    everything = Revocation(None, None, None, NOW)
    assert revoked.add(everything)
    for subject in ("ada", "eve"):
        before, after = session(NOW - 1, subject=subject), session(NOW + 1, subject=subject)
        assert revoked.voids(before, PREVIEW) and everything.ends(before, PREVIEW)
        assert not revoked.voids(after, PREVIEW) and not everything.ends(after, PREVIEW)
    assert revoked.named_since(0, session(), PREVIEW)
