"""Real ASGI servers inside the test's own event loop."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import anyio
import uvicorn
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
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

    async def run() -> None:
        await server.serve(sockets=[listener])

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        with anyio.fail_after(5):
            while not server.started:
                await anyio.sleep(0.005)
        try:
            yield
        finally:
            server.should_exit = True
