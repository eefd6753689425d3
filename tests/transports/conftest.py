"""Worlds for the tests of relays, and connections in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from preview_proxy.transports import pool
from tests.servers import HTTP_SERVERS
from tests.transports.relaying import Relaying
from tests.transports.wires import Wires
from tests.world import World, world


@pytest.fixture(params=[*HTTP_SERVERS, "httpx"])
async def w(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Every server over our own pool, and uvicorn over httpx's transport in the pool's place."""
    if request.param == "httpx":
        async with world(transport=httpx.AsyncHTTPTransport(trust_env=False)) as made:
            yield made
    else:
        async with world(serve=HTTP_SERVERS[request.param]) as made:
            yield made


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch) -> Wires:
    """Pools dial these."""
    made = Wires()
    monkeypatch.setattr(pool, "dial", made.dial)
    return made


@pytest.fixture
async def r(wires: Wires) -> AsyncIterator[Relaying]:
    """A relay in memory, which a test may give another lease. Nothing of it is left when the test ends."""
    made = Relaying(wires)
    yield made
    assert made.task.done()
    await made.pool.aclose()
    assert not len(made.relays)
