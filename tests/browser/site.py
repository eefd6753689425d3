"""Servers for a browser to visit, on http or https, and a record of what it sent them."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import anyio
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True)
class Visit:
    """One request as it arrived. `url` is its path and query; `host` has no port."""

    kind: str
    method: str
    host: str
    url: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str:
        """A header's values, joined; "" without one."""
        return ", ".join(value for key, value in self.headers if key == name)

    @property
    def cookies(self) -> dict[str, str]:
        pairs = [pair.partition("=") for pair in self.header("cookie").split("; ") if pair]
        return {name: value for name, _, value in pairs}


class Record:
    """An ASGI app that writes down each request's head, and hands it on to `app`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.visits: list[Visit] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self.visits.append(_visit(scope))
        await self.app(scope, receive, send)

    def to(self, host: str, path: str) -> list[Visit]:
        """The requests for one path, whatever their query."""
        return [visit for visit in self.visits if visit.host == host and visit.url.partition("?")[0] == path]


def _visit(scope: Scope) -> Visit:
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    url = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        url += "?" + scope["query_string"].decode("latin-1")
    return Visit(scope["type"], scope.get("method", "GET"), dict(headers)["host"].partition(":")[0], url, headers)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # the test runner's own


@asynccontextmanager
async def serve(app: ASGIApp, listener: socket.socket, *, certificate: Path | None = None) -> AsyncIterator[None]:
    """Serve `app` at `listener` and log each request; with a `certificate` and its key in one PEM file, over TLS."""
    config = uvicorn.Config(
        app, log_config=None, log_level="info", ssl_certfile=certificate, timeout_graceful_shutdown=1
    )
    server = _Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        with anyio.fail_after(5):
            await server.ready.wait()
        try:
            yield
        finally:
            server.should_exit = True


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def logged() -> Iterator[list[str]]:
    """Every line that any logger writes meanwhile, at DEBUG wherever no level was set."""
    handler = _Lines()
    root = logging.getLogger()
    # uvicorn's own configuration, which an earlier server may have used, keeps these from the root
    loggers = [root, *(one for one in map(logging.getLogger, ("uvicorn", "uvicorn.access")) if not one.propagate)]
    before = root.level
    root.setLevel(logging.DEBUG)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        root.setLevel(before)
        for logger in loggers:
            logger.removeHandler(handler)
