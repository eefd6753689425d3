"""A machine's dev server on loopback, which records what reaches it and misbehaves on demand.

    async with DevServer() as dev:
        @dev.route("/truncated")
        async def truncated(request, response):
            await response.raw(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\nhalf")

Served without being asked: ``/`` a page, ``/echo`` the request as JSON, ``/body`` the request's body as it arrives,
``/bytes/<n>`` n bytes, ``/status/<n>`` that status, ``/sse`` what `emit` is given, ``/slow`` once `release` is called,
and the WebSocket ``/ws``, which echoes. Everything else is 404.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from preview_proxy.testing.dev_websocket import Closed, WebSocket
from preview_proxy.testing.http_server import HttpServer, Received, Request, Response
from preview_proxy.testing.tcp import CHUNK

Route = Callable[[Request, Response], Awaitable[None]]
WebSocketRoute = Callable[[WebSocket], Awaitable[None]]

PAGE = b"<!doctype html><title>dev server</title><h1>It works</h1>"


class DevServer(HttpServer):
    """The dev server; see the module's text for its routes.

    `received` are the requests in order of arrival and `websockets` the WebSockets, while `raw` has every byte of
    each connection; all of it is kept in memory. `open_connections` and `disconnects` tell who is still there.
    """

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self.received: list[Received] = []
        self.websockets: list[WebSocket] = []
        self._routes: dict[str, Route] = {
            "/": _page,
            "/echo": _echo,
            "/body": _body,
            "/sse": self._sse,
            "/slow": self._slow,
        }
        self._patterns: dict[str, Route] = {"/bytes": _bytes, "/status": _status}
        self._websocket_routes: dict[str, WebSocketRoute] = {"/ws": _websocket_echo}
        self._listeners: list[deque[str]] = []
        self._released = asyncio.Event()

    def route(self, path: str) -> Callable[[Route], Route]:
        """Decorate ``async def (request, response)`` to answer `path`, with any method and query."""

        def add(function: Route) -> Route:
            self._routes[path] = function
            return function

        return add

    def websocket(self, path: str) -> Callable[[WebSocketRoute], WebSocketRoute]:
        """Decorate ``async def (websocket)`` to answer the upgrade requests for `path`."""

        def add(function: WebSocketRoute) -> WebSocketRoute:
            self._websocket_routes[path] = function
            return function

        return add

    def emit(self, text: str) -> None:
        """Send `text` as one event to everyone who is reading ``/sse`` now."""
        for listener in self._listeners:
            listener.append(text)
        self.changes.notify()

    def release(self) -> None:
        """Let ``/slow`` answer, from now on."""
        self._released.set()

    async def wait_for(self, predicate: Callable[[Self], bool]) -> None:
        """Return once `predicate(self)` holds, asking after each byte, connection, message and end of one."""
        await self.changes.until(lambda: predicate(self))

    async def respond(self, request: Request, response: Response) -> None:
        received = request.received
        self.received.append(received)
        self.changes.notify()
        websocket = self._websocket_routes.get(received.path)
        if websocket is not None and received.values(b"sec-websocket-key"):
            return await self._upgrade(websocket, request, response)
        parent = received.path.rpartition("/")[0]
        route = self._routes.get(received.path) or self._patterns.get(parent, _not_found)
        await route(request, response)

    async def _upgrade(self, route: WebSocketRoute, request: Request, response: Response) -> None:
        await request.read()
        websocket = WebSocket(request, response)
        self.websockets.append(websocket)
        with suppress(Closed):  # the usual end
            await route(websocket)
            await websocket.finish()

    async def _sse(self, request: Request, response: Response) -> None:
        listener: deque[str] = deque()
        self._listeners.append(listener)
        await response.start(200, [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")])
        while not request.peer_left:
            while listener:
                lines = listener.popleft().encode().split(b"\n")
                await response.write(b"".join(b"data: %b\n" % line for line in lines) + b"\n")
            await self.changes.until(lambda: bool(listener) or request.peer_left)

    async def _slow(self, request: Request, response: Response) -> None:
        await self._released.wait()
        await response.send(200, [("Content-Type", "text/plain")], b"released")


async def _page(request: Request, response: Response) -> None:
    await response.send(200, [("Content-Type", "text/html; charset=utf-8")], PAGE)


async def _echo(request: Request, response: Response) -> None:
    """``{"method", "target", "headers": [[name, value], ...], "body_length"}``, in Latin-1."""
    received = request.received
    seen = {
        "method": received.method.decode("latin-1"),
        "target": received.target.decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in received.headers],
        "body_length": len(await request.read()),
    }
    await response.send(200, [("Content-Type", "application/json")], json.dumps(seen).encode())


async def _body(request: Request, response: Response) -> None:
    chunks = request.chunks()
    first = await anext(chunks, b"")  # before the response, as a client may wait for 100 (Continue)
    await response.start(200, [("Content-Type", "application/octet-stream")])
    await response.write(first)
    async for chunk in chunks:
        await response.write(chunk)


async def _bytes(request: Request, response: Response) -> None:
    left = int(request.received.path.rpartition("/")[2])
    await response.start(200, [("Content-Type", "application/octet-stream"), ("Content-Length", str(left))])
    while left:
        piece = bytes(min(left, CHUNK))
        await response.write(piece)
        left -= len(piece)


async def _status(request: Request, response: Response) -> None:
    status = int(request.received.path.rpartition("/")[2])
    body = b"" if status in (204, 304) else b"status %d" % status
    await response.send(status, [("Content-Type", "text/plain")], body)


async def _not_found(request: Request, response: Response) -> None:
    await response.send(404, [("Content-Type", "text/plain")], b"not found")


async def _websocket_echo(websocket: WebSocket) -> None:
    await websocket.accept(next(iter(websocket.subprotocols), None))
    while True:
        message = await websocket.receive()
        await (websocket.send_text(message) if isinstance(message, str) else websocket.send_bytes(message))
