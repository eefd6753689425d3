"""Previews on domains that customers bring: `python -m examples.custom_domains`, then open http://app.localhost:8000.

A table says which host shows which preview, as a database would. Hosts that are not in it may still match the pattern.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from preview_proxy import (
    Embed,
    HostPattern,
    HostTable,
    Nullspace,
    Preview,
    PreviewProxy,
    PreviewProxyMiddleware,
    Tickets,
    first_of,
)
from preview_proxy.testing import DevServer, NullspaceEmulator

PORT = int(os.environ.get("PORT", "8000"))
SHOP = Preview("mch_aurora", 3000)
DOMAINS = {"shop.localhost": SHOP, "beta.shop.localhost": SHOP}


async def find_preview(host: str) -> Preview | None:
    """The row of a verified domain. It is asked about your app's own hosts too, so None is the usual answer."""
    return DOMAINS.get(host)


async def authorize(subject: str, preview: Preview) -> bool:
    return (subject, preview) == ("ada", SHOP)


def create_app(nullspace: NullspaceEmulator) -> FastAPI:
    app = FastAPI()
    proxy = PreviewProxy(
        router=first_of(
            HostTable(find_preview, scheme="http", port=PORT),
            HostPattern("{port}-{machine}.preview.localhost", scheme="http", port=PORT),
        ),
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

    @app.post("/domains/{domain}/preview")
    async def open_preview(domain: str) -> Embed:
        # A preview may have several hosts, so the route says which of them the frame is to show.
        return await proxy.ticket(DOMAINS[domain], subject="ada", host=f"{domain}:{PORT}")

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    return app


PAGE = """<!doctype html>
<title>Acme</title>
<h1>shop.localhost</h1>
<iframe id="preview" width="800" height="300"></iframe>
<script type="module">
const opened = await fetch("/domains/shop.localhost/preview", {method: "POST"});
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
        nullspace.add_machine(SHOP.machine, {SHOP.port: dev})
        print(f"Open http://app.localhost:{PORT}", flush=True)
        await uvicorn.Server(uvicorn.Config(create_app(nullspace), port=PORT)).serve()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
