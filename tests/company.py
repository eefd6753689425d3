"""A company's app with previews in it: the same in the test's own process and in one of its own."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from preview_proxy import (
    CookieSession,
    HostPattern,
    Limits,
    Nullspace,
    Policy,
    Preview,
    PreviewProxy,
    PreviewProxyMiddleware,
    Tickets,
)
from preview_proxy.event_loop import is_asyncio
from preview_proxy.transports.pool import UpstreamPool

MACHINE = "mch_a1b2c3d4"
ZONE = "preview.localhost"
APP = "app.localhost"
EMBEDDER = f"http://{APP}"
OWNER = "ada"
SECRET = "test secret, long enough for a key: 32 bytes"
SESSION = "acme_session"


@dataclass(frozen=True)
class Setting:
    """What the app has to know, in a form that another process can be told.

    `session` is the value of the cookie that the company knows its owner by. With `observed`, every logger is at
    DEBUG and an OpenTelemetry exporter prints every span.
    """

    port: int
    api_key: str
    api_url: str
    edge_domain: str
    limits: dict[str, Any] = field(default_factory=dict)
    traffic_token: str | None = None
    session: str | None = None
    transport: str = "pool"
    observed: bool = False

    def pattern(self) -> HostPattern:
        return HostPattern("{port}-{machine}." + ZONE, scheme="http", port=self.port)


@dataclass
class Company:
    """The app, the proxy in front of it, what reached the app behind it, and who may see which machine."""

    app: ASGIApp
    proxy: PreviewProxy
    reached: list[str]
    allowed: dict[str, set[str]]


def build(setting: Setting, **options: Any) -> Company:
    """The company's app as `setting` says. `options` replace what `PreviewProxy` is given."""
    reached: list[str] = []
    allowed = {OWNER: {MACHINE}}

    async def authorize(subject: str, preview: Preview) -> bool:
        return preview.machine in allowed.get(subject, set())

    proxy = PreviewProxy(
        **{
            "router": setting.pattern(),
            "provider": nullspace_of(setting),
            "tickets": Tickets(SECRET, [EMBEDDER]),
            "authorize": authorize,
            "policy": Policy(limits=Limits(**setting.limits)),
            "session": CookieSession(SESSION, _lookup(setting.session)) if setting.session else None,
            "transport": httpx.AsyncHTTPTransport(trust_env=False) if setting.transport == "httpx" else None,
            **options,
        }
    )
    app: ASGIApp = PreviewProxyMiddleware(_inner(reached, allowed, proxy), proxy=proxy)
    if setting.observed:
        from tests.observed import observed

        app = observed(app)
    return Company(app, proxy, reached, allowed)


def nullspace_of(setting: Setting) -> Nullspace:
    return Nullspace(
        api_key=setting.api_key,
        base_url=setting.api_url,
        domains=[setting.edge_domain],
        traffic_tokens={MACHINE: setting.traffic_token} if setting.traffic_token else None,
        allow_insecure_loopback=True,
    )


def _lookup(session: str) -> Any:
    async def lookup(value: str) -> str | None:
        return OWNER if value == session else None

    return lookup


def _inner(reached: list[str], allowed: dict[str, set[str]], proxy: PreviewProxy) -> Starlette:
    """The app behind the proxy: it answers everything and notes what reached it. Tests work its levers."""

    async def page(request: Request) -> Response:
        reached.append(request.scope["path"])
        return PlainTextResponse("the company's own page")

    async def revoke(request: Request) -> Response:
        named = await request.json()
        if "port" in named:
            named["preview"] = Preview(MACHINE, int(named.pop("port")))
        return JSONResponse(proxy.revoke(**named))

    async def forbid(request: Request) -> Response:
        allowed.pop((await request.json())["subject"])
        return JSONResponse(None)

    async def reaches(request: Request) -> Response:
        return JSONResponse(reached)

    async def census(request: Request) -> Response:
        return JSONResponse(count(proxy))

    levers = (revoke, forbid, reaches, census)
    routes = [Route(f"/levers/{lever.__name__}", lever, methods=["POST"]) for lever in levers]
    return Starlette(routes=[*routes, Route("/{rest:path}", page, methods=["GET", "POST"])])


def count(proxy: PreviewProxy) -> dict[str, int]:
    """What a relay that has ended may not leave behind."""
    return {
        "tasks": len(asyncio.all_tasks()) if is_asyncio() else trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "relays": len(proxy._live),
        "connections": _connections(proxy._transport),
    }


def _connections(transport: Any) -> int:
    """Those to upstream, in use or idle."""
    if isinstance(transport, UpstreamPool):
        return len(transport._connections)
    return len(getattr(transport._inner, "_pool", SimpleNamespace(connections=())).connections)
