"""Real ASGI servers inside the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial

import anyio
import uvicorn
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig
from starlette.types import ASGIApp

from tests.apart import Apart

Serving = Callable[[ASGIApp, socket.socket], AbstractAsyncContextManager[None]]


def listening() -> socket.socket:
    """A free loopback port, already taken, so that an app can be told of it before it is served."""
    return socket.create_server(("127.0.0.1", 0))


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_ready = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the test runner's own


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, listener: socket.socket, *, http: str = "httptools", ws: str = "websockets-sansio"
) -> AsyncIterator[None]:
    """Serve `app` with uvicorn until the block ends."""
    config = uvicorn.Config(app, http=http, ws=ws, lifespan="on", log_level="warning", timeout_graceful_shutdown=5)
    server = _Uvicorn(config)
    # not in a task group: a test that fails must still let the server end in good order
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await server.is_ready.wait()
        yield
    finally:
        server.should_exit = True
        await running


def _hypercorn_config(listener: socket.socket) -> HypercornConfig:
    config = HypercornConfig()
    config.bind = [f"fd://{listener.detach()}"]  # its connections queue until it is ready
    config.loglevel = "WARNING"
    config.keep_alive_timeout = 2  # the time an unfinished stream of HTTP/2 is left open
    config.keep_alive_max_requests = 1_000_000  # a test may ask again and again until something has ended
    return config


@contextlib.asynccontextmanager
async def hypercorn(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve `app` with hypercorn until the block ends."""
    config = _hypercorn_config(listener)
    stop = anyio.Event()
    running = asyncio.create_task(hypercorn_serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    try:
        yield
    finally:
        stop.set()
        await running


@contextlib.asynccontextmanager
async def hypercorn_on_trio(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """The same on trio's event loop, which the caller has to run."""
    from hypercorn.trio import serve  # it sees which event loop runs where it is imported

    stop, stopped = anyio.Event(), anyio.Event()

    async def run() -> None:
        await serve(app, _hypercorn_config(listener), shutdown_trigger=stop.wait)  # type: ignore[arg-type]
        stopped.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            yield
        finally:
            stop.set()
            with anyio.CancelScope(shield=True):
                await stopped.wait()


IN_LOOP: dict[str, Serving] = {
    "httptools": serving,
    "h11": partial(serving, http="h11"),
    "hypercorn": hypercorn,
}
ON_TRIO = Apart("trio", transport="httpx")
HTTP_SERVERS: dict[str, Serving | Apart] = {**IN_LOOP, "granian": Apart("granian"), "trio": ON_TRIO}
WEBSOCKET_SERVERS: dict[str, Serving | Apart] = {
    "websockets-sansio": serving,
    "wsproto": partial(serving, ws="wsproto"),
    "hypercorn": hypercorn,
    "granian": Apart("granian"),
    "trio": ON_TRIO,
}


def name_of(server: Serving | Apart) -> str:
    """What a server is called here; a front's is its function's."""
    if isinstance(server, Apart):
        return server.name
    named = {**HTTP_SERVERS, **WEBSOCKET_SERVERS}
    return next((name for name, each in named.items() if each is server), getattr(server, "__name__", "?"))
