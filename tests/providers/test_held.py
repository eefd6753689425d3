"""How long a target is good for."""

from __future__ import annotations

import pytest

from preview_proxy import Endpoint, Origin, Preview, Target
from preview_proxy.core.secret import Secret
from preview_proxy.providers.held import Holding

START = 1_000_000.0
PREVIEW = Preview("mch_1", 3000)


def holding(lifetime: float | None) -> Holding:
    credentials = ((b"x-token", Secret("canary-0123456789")),)
    endpoint = Endpoint(Origin("https", "m.example", 443), credentials=credentials)
    return Holding(PREVIEW, Target("g", endpoint, None, None if lifetime is None else START + lifetime), START)


@pytest.mark.parametrize(
    ("lifetime", "age", "fresh", "holds"),
    [
        (1000, 749, True, True),
        (1000, 851, False, True),
        (1000, 999, False, True),
        (1000, 1000, False, False),
        (20, 29, True, True),  # shorter than the interval between mints
        (20, 30, False, False),
        (-600, 29, True, True),  # our clock is ahead
        (-600, 30, False, False),
        (None, 10**9, True, True),
    ],
)
def test_it_is_fresh_for_four_fifths_and_holds_until_it_expires(
    lifetime: float | None, age: float, fresh: bool, holds: bool
) -> None:
    held = holding(lifetime)
    assert (held.renew_at > START + age) is fresh
    assert held.holds(START + age) is holds


def test_v04_targets_of_one_age_are_renewed_at_different_times() -> None:
    moments = [holding(1000).renew_at - START for _ in range(200)]
    assert all(750 <= moment <= 850 for moment in moments)
    assert len({round(moment) for moment in moments}) > 20


@pytest.mark.parametrize("status", ["refused", "revoked"])
def test_what_has_ended_holds_no_more(status: str) -> None:
    held = holding(None)
    held.end(status)
    assert not held.holds(START)
    assert held.renew_at < START


def test_h14_what_the_inventory_shows_has_no_credential() -> None:
    assert "canary" not in repr(holding(900).entry()) + repr(holding(900))
