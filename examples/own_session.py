"""Previews behind the app's own login: `python -m examples.own_session`, then open http://acme.localhost:8000.

The previews are on hosts below the app's own, so its session cookie reaches them and no ticket is needed. The code in
the machines then runs on the same site as the app: read docs/how-to/sessions.md before you choose this.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.middleware.sessions import SessionMiddleware

from preview_proxy import (
    HostPattern,
    Nullspace,
    Policy,
    Preview,
    PreviewProxy,
    PreviewProxyMiddleware,
    StarletteSession,
)
from preview_proxy.testing import DevServer, NullspaceEmulator

PORT = int(os.environ.get("PORT", "8000"))
SIGNED_IN: set[str] = set()


async def authorize(subject: str, preview: Preview) -> bool:
    return subject in SIGNED_IN and (subject, preview.machine) == ("ada", "mch_aurora")


def create_app(nullspace: NullspaceEmulator) -> FastAPI:
    app = FastAPI()
    key = secrets.token_urlsafe(32)
    app.add_middleware(
        SessionMiddleware, secret_key=key, session_cookie="acme_session", domain="acme.localhost", same_site="lax"
    )
    proxy = PreviewProxy(
        router=HostPattern("{port}-{machine}.preview.acme.localhost", scheme="http", port=PORT),
        provider=Nullspace(
            api_key=nullspace.api_key,
            base_url=nullspace.api_url,
            domains=[nullspace.edge_domain],
            allow_insecure_loopback=True,
        ),
        session=StarletteSession(secret_key=key, cookie="acme_session", key="user"),
        policy=Policy(embedders=(f"http://acme.localhost:{PORT}",)),
        authorize=authorize,
    )
    app.add_middleware(PreviewProxyMiddleware, proxy=proxy)

    @app.get("/")
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(PAGE if request.session.get("user") in SIGNED_IN else LOGIN)

    @app.post("/login")
    async def login(request: Request) -> RedirectResponse:
        request.session["user"] = "ada"
        SIGNED_IN.add("ada")
        return RedirectResponse("/", 303)

    @app.post("/logout")
    async def logout(request: Request) -> RedirectResponse:
        user = request.session.pop("user", "")
        SIGNED_IN.discard(user)
        proxy.revoke(subject=user)
        return RedirectResponse("/", 303)

    return app


LOGIN = '<!doctype html><title>Acme</title><form method="post" action="/login"><button>Sign in as ada</button></form>'
PAGE = f"""<!doctype html>
<title>Acme</title>
<form method="post" action="/logout"><button>Sign out</button></form>
<iframe src="http://3000-mch_aurora.preview.acme.localhost:{PORT}/" width="800" height="300"></iframe>
"""


async def main() -> None:
    async with DevServer() as dev, NullspaceEmulator() as nullspace:
        nullspace.add_machine("mch_aurora", {3000: dev})
        print(f"Open http://acme.localhost:{PORT}", flush=True)
        await uvicorn.Server(uvicorn.Config(create_app(nullspace), port=PORT)).serve()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
