"""The dev server inside a machine: a folder of files with live reload, a clock and a guest book.

It stands for the code a company's users write, so nothing else in the demo trusts it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

SITE = Path(__file__).parent / "site"
POLL_INTERVAL = 0.2
"""Seconds between two looks at the files."""


def copy_site(machine: str, folder: Path) -> None:
    """Put the sample site for `machine` into `folder`; files that are already there stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for template in sorted(SITE.iterdir()):
        page = folder / template.name
        if not page.exists():
            page.write_text(template.read_text("utf-8").replace("mch_aurora", machine), "utf-8")


def create_site(machine: str, port: int, folder: Path, stop: anyio.Event) -> Starlette:
    """The app that serves `folder` until `stop`, which ends the clock: a server waits for open streams."""
    routes = [
        WebSocketRoute("/live", live),
        Route("/events", events),
        Route("/headers", headers),
        Route("/guestbook", read_guestbook, methods=["GET"]),
        Route("/guestbook", sign_guestbook, methods=["POST"]),
        Mount("/", FreshFiles(directory=folder, html=True)),
    ]
    app = Starlette(routes=routes)
    app.state.machine, app.state.port, app.state.folder = machine, port, folder
    app.state.stop, app.state.guests = stop, []
    return app


class FreshFiles(StaticFiles):
    """Files the browser asks about each time, so that an edit shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response


async def live(websocket: WebSocket) -> None:
    """Send the names of the files that changed, as a JSON array, each time some did."""
    before = snapshot(websocket.app.state.folder)
    await websocket.accept()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(report_changes, websocket, before)
        async for _ in websocket.iter_text():
            pass
        tasks.cancel_scope.cancel()


async def report_changes(websocket: WebSocket, before: dict[str, int]) -> None:
    with suppress(WebSocketDisconnect):
        while True:
            await anyio.sleep(POLL_INTERVAL)
            after = snapshot(websocket.app.state.folder)
            if changed := {name for name, _ in before.items() ^ after.items()}:
                await websocket.send_json(sorted(changed))
            before = after


def snapshot(folder: Path) -> dict[str, int]:
    """When each file was last written. One that goes away during the look is left out."""
    times = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            times[path.name] = path.stat().st_mtime_ns
    return times


async def events(request: Request) -> StreamingResponse:
    """The time, once a second, as server-sent events."""
    stream = ticks(request.app.state.stop)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def ticks(stop: anyio.Event) -> AsyncIterator[str]:
    while not stop.is_set():
        yield f"data: {datetime.now(UTC).isoformat(timespec='milliseconds')}\n\n"
        with anyio.move_on_after(1):
            await stop.wait()


async def headers(request: Request) -> JSONResponse:
    """What reached this machine with the request: names only, since a value may be private."""
    state = request.app.state
    return JSONResponse(
        {
            "machine": state.machine,
            "port": state.port,
            "host": request.headers.get("x-forwarded-host") or request.headers["host"],
            "headers": sorted(set(request.headers)),
            "cookies": sorted(request.cookies),
        }
    )


async def read_guestbook(request: Request) -> JSONResponse:
    return JSONResponse(request.app.state.guests)


async def sign_guestbook(request: Request) -> JSONResponse:
    """Add a form's `name` and `message`, newest first; the last 20 are kept in memory."""
    body = await request.body()
    form = parse_qs(body.decode("utf-8", "replace"))
    guest = {"name": form.get("name", ["Somebody"])[0][:40], "message": form.get("message", [""])[0][:280]}
    guests = request.app.state.guests
    guests[:] = [guest, *guests][:20]
    return JSONResponse({"bytes": len(body), "guests": guests}, status_code=201)
