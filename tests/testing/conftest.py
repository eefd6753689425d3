"""A dev server, a client, and the emulated Nullspace with one machine and a grant for its port 3000."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from preview_proxy.testing import DevServer, NullspaceEmulator
from tests.testing.edge import MACHINE, Edge


@pytest.fixture
async def dev() -> AsyncIterator[DevServer]:
    with anyio.fail_after(10):
        async with DevServer() as server:
            yield server


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    with anyio.fail_after(10):
        async with DevServer() as dev, NullspaceEmulator() as nullspace:
            nullspace.add_machine(MACHINE, {3000: dev})
            edge = Edge(nullspace, dev)
            edge.grant = await edge.mint()
            yield edge
