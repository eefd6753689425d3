"""The subjects that are ASGI apps, under one and the same server.

`python -m tests.bench.servers NAME PORT FILES LIVE [PROFILE]` runs one. `FILES` and `LIVE` are the ports of the two
origins. With `PROFILE`, cProfile's statistics go to that file at the end.
"""

from __future__ import annotations

import cProfile
import importlib
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from preview_proxy import HostPattern, Limits, Policy, Preview, PreviewProxy, PreviewProxyMiddleware, Static, Tickets
from preview_proxy.providers.static import fixed_target
from tests.bench.origin import SMALL

MACHINE, OWNER = "mch_a1b2c3d4", "ada"
FILES_PORT, LIVE_PORT = 3000, 3001
EMBEDDER = "http://app.localhost"


async def ceiling(scope: Scope, receive: Receive, send: Send) -> None:
    """What the server itself can do, with nothing behind it."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % SMALL)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * SMALL})


# One subject puts all of the load on one preview.
ROOM = Limits(
    requests_per_subject=4096,
    requests_per_preview=4096,
    sockets_per_subject=4096,
    sockets_per_preview=4096,
    handshakes_per_minute=1_000_000,
)


def ours(port: int, files: int, live: int) -> ASGIApp:
    """The whole policy: host pattern, gate cookie, `authorize`, credential headers, and room for one heavy user."""

    async def authorize(subject: str, preview: Preview) -> bool:
        return subject == OWNER and preview.machine == MACHINE

    def target(upstream: int) -> Any:
        credentials = {"X-Preview-Token": "t" * 64, "X-Traffic-Token": "u" * 32}
        return fixed_target(f"http://127.0.0.1:{upstream}", http_credentials=credentials, allow_insecure_loopback=True)

    proxy = PreviewProxy(
        router=HostPattern("{port}-{machine}.preview.localhost", scheme="http", port=port),
        provider=Static({Preview(MACHINE, FILES_PORT): target(files), Preview(MACHINE, LIVE_PORT): target(live)}),
        tickets=Tickets("a secret of the bench, long enough for a key", [EMBEDDER]),
        authorize=authorize,
        policy=Policy(limits=ROOM),
    )

    async def open_preview(request: Request) -> Response:
        embed = await proxy.ticket(Preview(MACHINE, int(request.path_params["port"])), subject=OWNER)
        return JSONResponse({"origin": embed.origin, "ticket": embed.ticket})

    app = Starlette(routes=[Route("/previews/{port:int}", open_preview, methods=["POST"])])
    app.add_middleware(PreviewProxyMiddleware, proxy=proxy)
    return app


def fastapi_proxy_lib(port: int, files: int, live: int) -> ASGIApp:
    """Its own apps, with its default pool; more time and larger messages than it allows by default."""
    import httpx

    library = importlib.import_module("fastapi_proxy_lib.fastapi.app")
    everything = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None))
    sockets = library.reverse_ws_app(
        everything, base_url=f"http://127.0.0.1:{live}/", max_message_size_bytes=4 * 1024 * 1024
    )
    uploads = library.reverse_http_app(httpx.AsyncClient(timeout=60), base_url=f"http://127.0.0.1:{live}/")
    rest = library.reverse_http_app(httpx.AsyncClient(timeout=60), base_url=f"http://127.0.0.1:{files}/")
    return Starlette(routes=[Mount("/live/socket", sockets), Mount("/live", uploads), Mount("/", rest)])


def asgiproxy(port: int, files: int, live: int) -> ASGIApp:
    """Its simple app, without its default bound of 20 requests at a time."""
    proxy_config = importlib.import_module("asgiproxy.config").ProxyConfig
    proxy_context = importlib.import_module("asgiproxy.context").ProxyContext
    make_app = importlib.import_module("asgiproxy.simple_proxy").make_simple_proxy_app

    class Config(proxy_config):  # type: ignore[misc, valid-type]
        def get_upstream_url(self, *, scope: Scope) -> str:
            path: str = scope["path"]
            return f"http://127.0.0.1:{live if path.startswith('/live/') else files}{path}"

    app: ASGIApp = make_app(proxy_context(Config(), max_concurrency=10_000))
    return app


APPS: dict[str, Callable[[int, int, int], ASGIApp]] = {
    "ceiling": lambda port, files, live: ceiling,
    "ours": ours,
    "fastapi-proxy-lib": fastapi_proxy_lib,
    "asgiproxy": asgiproxy,
}


def main(name: str, *ports: str, profile: str = "") -> None:
    port, files, live = map(int, ports)
    config = uvicorn.Config(
        APPS[name](port, files, live),
        port=port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    profiler = cProfile.Profile() if profile else None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn raises it anew when it is done
    try:
        with profiler or nullcontext():
            uvicorn.Server(config).run()
    finally:
        if profiler:
            profiler.dump_stats(profile)


if __name__ == "__main__":
    main(*sys.argv[1:5], profile="".join(sys.argv[5:]))
