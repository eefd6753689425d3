"""Every target on a few hundred inputs, the same every time; `make fuzz` looks further."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds_and_for_what_is_made_of_them(name: str) -> None:
    words = sorted({word for seed in SEEDS[name] for word in re.findall(rb"[\w-]+|\W", seed)})
    inputs = st.lists(st.sampled_from(words) | st.binary(max_size=2), max_size=30).map(b"".join)

    @settings(max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs | st.builds(bytes.__add__, st.sampled_from(SEEDS[name]), inputs))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    for seed in SEEDS[name]:
        TARGETS[name](seed)
    holds()


def test_every_target_has_seeds_and_no_seeds_are_left_over() -> None:
    assert SEEDS.keys() == TARGETS.keys()
    assert all(SEEDS.values())
