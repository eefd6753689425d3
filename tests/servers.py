"""Real ASGI servers inside the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import anyio
import uvicorn
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_ready = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the test runner's own


def listening() -> socket.socket:
    """A free loopback port, already taken, so that an app can be told of it before it is served."""
    return socket.create_server(("127.0.0.1", 0))


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, listener: socket.socket, *, http: str = "httptools", ws: str = "websockets-sansio"
) -> AsyncIterator[None]:
    """Serve `app` with uvicorn until the block ends."""
    config = uvicorn.Config(app, http=http, ws=ws, lifespan="on", log_level="warning", timeout_graceful_shutdown=5)
    server = _Server(config)
    # not in a task group: a test that fails must still let the server end in good order
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await server.is_ready.wait()
        yield
    finally:
        server.should_exit = True
        await running
