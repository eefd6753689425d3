"""Fixtures for the tests in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from tests.browser.chromium import chromium

expect.set_options(timeout=15_000)  # milliseconds: a busy machine starts a page slowly


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started
