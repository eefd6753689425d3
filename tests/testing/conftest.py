"""The emulator with one machine, and a grant for its port 3000."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from preview_proxy.testing import DevServer, NullspaceEmulator
from tests.testing.edge import MACHINE, Edge


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    with anyio.fail_after(10):
        async with DevServer() as dev, NullspaceEmulator() as nullspace:
            nullspace.add_machine(MACHINE, {3000: dev})
            edge = Edge(nullspace, dev)
            edge.grant = await edge.mint()
            yield edge
