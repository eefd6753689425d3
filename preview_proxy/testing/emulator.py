"""What emulated providers have in common: they run while their block does, and remember what reached them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from preview_proxy.testing.edge import EdgeRequest, EmulatedEdge
from preview_proxy.testing.json_api import ApiRequest, JsonApiServer


class Emulator:
    """A provider's edge, and its API if it has one, while an `async with` block runs; on asyncio."""

    def __init__(self, edge_domain: str, edge: EmulatedEdge, api: JsonApiServer | None = None) -> None:
        self.edge_domain = edge_domain
        self._scheme = "http" if edge.is_plain else "https"
        self._edge = edge
        self._api = api

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for server in (self._api, self._edge):
                if server is not None:
                    await stack.enter_async_context(server)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    @property
    def api_url(self) -> str:
        """``http://127.0.0.1:port``, without a path."""
        return f"http://127.0.0.1:{self._api.port if self._api is not None else 0}"

    @property
    def edge_url(self) -> str:
        """What the edge's hosts are below."""
        return f"{self._scheme}://{self.edge_domain}:{self._edge.port}"

    @property
    def edge_port(self) -> int:
        return self._edge.port

    @property
    def api_requests(self) -> list[ApiRequest]:
        """What reached the API, as (method, path, json)."""
        return self._api.requests if self._api is not None else []

    @property
    def edge_requests(self) -> list[EdgeRequest]:
        """What reached the edge, each with its verdict."""
        return self._edge.requests

    async def wait_for(self, predicate: Callable[[Self], bool]) -> None:
        """Return once `predicate(self)` holds, asking after each request and answer."""
        await self._edge.changes.until(lambda: predicate(self))
