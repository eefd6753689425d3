"""A company's app as each of several workers runs it, put together from the environment.

POST /ticket?subject=…            an `Embed`
POST /revoke?subject=…            how many relays that ended here
GET  /worker                      which process this is, how many relays it has open, and its targets
"""

from __future__ import annotations

import os
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from preview_proxy import (
    HostPattern,
    Limits,
    Nullspace,
    Policy,
    Preview,
    PreviewProxy,
    PreviewProxyMiddleware,
    RedisState,
    Tickets,
)
from tests.world import EMBEDDER, MACHINE, SECRET, ZONE

PREVIEW = Preview(MACHINE, 3000)


async def authorize(subject: str, preview: Preview) -> bool:
    return True


def build(environment: dict[str, str]) -> Starlette:
    """The app, with its proxy in front."""
    state = RedisState(environment["REDIS_URL"], secret=SECRET)
    proxy = PreviewProxy(
        router=HostPattern("{port}-{machine}." + ZONE, scheme="http", port=int(environment["PUBLIC_PORT"])),
        provider=Nullspace(
            environment["NULLSPACE_API_KEY"],
            base_url=environment["NULLSPACE_API_URL"],
            domains=[environment["EDGE_DOMAIN"]],
            allow_insecure_loopback=True,
        ),
        tickets=Tickets(SECRET, [EMBEDDER], store=state),
        authorize=authorize,
        revocations=state,
        targets=state,
        policy=Policy(limits=Limits(decision_ttl=1, recheck_interval=3, check_timeout=0.5)),
    )

    async def ticket(request: Request) -> JSONResponse:
        embed = await proxy.ticket(PREVIEW, subject=request.query_params["subject"], session_ref="canary-login")
        return JSONResponse(asdict(embed))

    async def revoke(request: Request) -> JSONResponse:
        return JSONResponse(proxy.revoke(subject=request.query_params["subject"]))

    async def worker(request: Request) -> JSONResponse:
        targets = [entry.id for entry in proxy.inventory()]
        return JSONResponse({"pid": os.getpid(), "open": len(proxy._live), "targets": targets})

    routes = [
        Route("/ticket", ticket, methods=["POST"]),
        Route("/revoke", revoke, methods=["POST"]),
        Route("/worker", worker),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(PreviewProxyMiddleware, proxy=proxy)
    return app


def create() -> Starlette:
    """What uvicorn calls in each of its workers."""
    return build(dict(os.environ))
