"""Every attack goes to every server, over raw sockets, and through nginx as the documentation configures it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from preview_proxy import Limits, Policy
from tests.nginx import nginx
from tests.servers import HTTP_SERVERS
from tests.world import World, world

# on trio upstream is read by httpx's parser, which takes more than ours
FRONTS = {**{name: server for name, server in HTTP_SERVERS.items() if name != "trio"}, "nginx": nginx}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=FRONTS)
async def w(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """One world for all attacks of a module, with its `LIMITS`: what one attack breaks fails the next, too."""
    policy = Policy(limits=getattr(request.module, "LIMITS", Limits()))
    async with world(serve=FRONTS[request.param], policy=policy) as made:
        yield made
