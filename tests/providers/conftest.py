from __future__ import annotations

import pytest

from tests.providers.minting import Clock, Mints


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mints(clock: Clock) -> Mints:
    return Mints(clock)
