"""The README's app on this computer: `python -m examples.fastapi_app`, then open http://app.localhost:8000.

Against the README only the addresses differ, and the three functions that stand for an app of your own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from preview_proxy import Embed, HostPattern, Nullspace, Preview, PreviewProxy, PreviewProxyMiddleware, Tickets
from preview_proxy.testing import DevServer, NullspaceEmulator

PORT = int(os.environ.get("PORT", "8000"))


# What your app has already: a login, projects, and who may see what.


async def current_user() -> str:
    return "ada"


async def machine_of(project: str) -> str:
    return f"mch_{project}"


async def may_see(user: str, machine: str) -> bool:
    return (user, machine) == ("ada", "mch_aurora")


# What previews add to it.


def create_app(nullspace: NullspaceEmulator) -> FastAPI:
    app = FastAPI()

    async def authorize(subject: str, preview: Preview) -> bool:
        return await may_see(subject, preview.machine)

    proxy = PreviewProxy(
        router=HostPattern("{port}-{machine}.preview.localhost", scheme="http", port=PORT),
        provider=Nullspace(
            api_key=nullspace.api_key,
            base_url=nullspace.api_url,
            domains=[nullspace.edge_domain],
            allow_insecure_loopback=True,
        ),
        tickets=Tickets(secret=secrets.token_bytes(32), embedders=[f"http://app.localhost:{PORT}"]),
        authorize=authorize,
    )
    app.add_middleware(PreviewProxyMiddleware, proxy=proxy)

    @app.post("/projects/{project}/preview")
    async def open_preview(project: str, user: Annotated[str, Depends(current_user)]) -> Embed:
        return await proxy.ticket(Preview(await machine_of(project), 3000), subject=user)

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    return app


PAGE = """<!doctype html>
<title>Acme</title>
<h1>Acme</h1>
<iframe id="preview" width="800" height="300"></iframe>
<script type="module">
const opened = await fetch("/projects/aurora/preview", {method: "POST"});
const {origin, ticket, path} = await opened.json();
await fetch(`${origin}/.well-known/preview-proxy/session`, {
  method: "POST",
  credentials: "include",
  headers: {"content-type": "application/json"},
  body: JSON.stringify({ticket}),
});
document.querySelector("#preview").src = origin + path;
</script>
"""


async def main() -> None:
    async with DevServer() as dev, NullspaceEmulator() as nullspace:
        nullspace.add_machine("mch_aurora", {3000: dev})
        print(f"Open http://app.localhost:{PORT}", flush=True)
        await uvicorn.Server(uvicorn.Config(create_app(nullspace), port=PORT)).serve()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
