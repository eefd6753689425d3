"""What every emulated provider has: an API and an edge on loopback, and a record of what reached them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import repeat
from types import TracebackType
from typing import Self

from preview_proxy.testing.edge import EdgeRequest, EmulatedEdge
from preview_proxy.testing.json_api import ApiRequest, JsonApiServer
from preview_proxy.testing.tcp import Changes


class Emulated:
    """What the API and the edge of one emulated provider share. `clock` returns Unix seconds."""

    def __init__(self, edge_domain: str, tls: bool) -> None:
        self.edge_domain = edge_domain
        self.scheme = "https" if tls else "http"
        self.edge_port = 0
        self.clock: Callable[[], float] = time.time
        self.changes = Changes()


class EdgeEmulator:
    """An emulated edge alone. It runs while its `async with` block does, on asyncio."""

    def __init__(self, state: Emulated, edge: EmulatedEdge, *servers: JsonApiServer) -> None:
        self._shared = state
        self._edge = edge
        self._servers = (*servers, edge)
        self.api_requests: list[ApiRequest] = []
        """What reached the API, as (method, path, json); nothing where there is none."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for server in self._servers:
                await stack.enter_async_context(server)
            self._stack = stack.pop_all()
        self._shared.edge_port = self._edge.port
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    @property
    def edge_domain(self) -> str:
        """The domain that preview hosts are under."""
        return self._shared.edge_domain

    @property
    def edge_url(self) -> str:
        """What the edge's hosts are below, as a URL."""
        return f"{self._shared.scheme}://{self.edge_domain}:{self.edge_port}"

    @property
    def edge_port(self) -> int:
        return self._edge.port

    @property
    def clock(self) -> Callable[[], float]:
        return self._shared.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self._shared.clock = clock

    @property
    def edge_requests(self) -> list[EdgeRequest]:
        """What reached the edge, each with its verdict."""
        return self._edge.requests

    @property
    def edge_raw(self) -> bytes:
        """Every byte that reached the edge, connection after connection."""
        return b"".join(self._edge.raw)

    @property
    def edge_connections(self) -> int:
        """How many connections to the edge neither side has closed."""
        return self._edge.open_connections

    @property
    def connection_errors(self) -> int:
        """How often a proxy broke off, or sent the edge something that is not HTTP."""
        return self._edge.connection_errors

    async def wait_for(self, predicate: Callable[[Self], bool]) -> None:
        """Return once `predicate(self)` holds, asking after each request, answer and closed connection."""
        await self._shared.changes.until(lambda: predicate(self))

    def refuse(self, code: str | None, *, times: int | None = None) -> None:
        """Let the edge refuse every request, or the next few, with one of its codes; None ends that."""
        self._edge.forced = iter(()) if code is None else repeat(code) if times is None else repeat(code, times)


class Emulator(EdgeEmulator):
    """An emulated provider."""

    def __init__(self, state: Emulated, api: JsonApiServer, edge: EmulatedEdge) -> None:
        super().__init__(state, edge, api)
        self._api = api
        self.api_requests = api.requests

    @property
    def api_url(self) -> str:
        """``http://127.0.0.1:port``, without a path."""
        return f"http://127.0.0.1:{self._api.port}"
