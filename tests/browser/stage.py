"""A company's app, another website and a preview in the app's frame, all at one port, visited by Chromium."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from playwright.async_api import Frame, Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from preview_proxy import HostPattern, Preview, PreviewProxy, PreviewProxyMiddleware, Provider, Tickets
from tests.browser.chromium import Watch, chromium
from tests.browser.site import Record, serve
from tests.servers import listening

MACHINE = "mch_a1b2c3d4"
APP, OTHER = "app.localhost", "other.localhost"
PREVIEW, SIBLING = f"3000-{MACHINE}.preview.localhost", f"3001-{MACHINE}.preview.localhost"
SESSION = "/.well-known/preview-proxy/session"
CHECK = "/.well-known/preview-proxy/check"
SECRET = "test secret, long enough for a key: 32 bytes"

EXCHANGE = """([origin, ticket]) => fetch(`${origin}/.well-known/preview-proxy/session`, {
  method: "POST",
  credentials: "include",
  headers: {"content-type": "application/json"},
  body: JSON.stringify({ticket}),
}).then((answer) => answer.status, (error) => error.message)"""
ASK = """([url, mode]) => fetch(url, {mode, credentials: "include"})
  .then((answer) => answer.status, (error) => error.message)"""
SOCKET = """() => new Promise((heard) => {
  const socket = new WebSocket(`${location.origin.replace("http", "ws")}/ws`);
  socket.onopen = () => socket.send("hello");
  socket.onmessage = ({data}) => heard(data);
  socket.onerror = () => heard("refused");
})"""
EMBED = """(address) => new Promise((loaded) => {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts allow-same-origin allow-forms allow-popups allow-modals allow-downloads";
  frame.onload = loaded;
  frame.src = address;
  document.body.append(frame);
})"""


@dataclass
class Stage:
    """What a test acts with. `record` has what the browser sent, `watch` what it thought of it."""

    scheme: str
    port: int
    proxy: PreviewProxy
    record: Record
    watch: Watch
    machine: str

    @property
    def gate(self) -> str:
        return "__Host-Http-pp" if self.scheme == "https" else "pp-development"

    def origin(self, host: str) -> str:
        return f"{self.scheme}://{host}:{self.port}"

    async def ticket(self, port: int = 3000) -> list[str]:
        """A preview's origin and a ticket for it."""
        embed = await self.proxy.ticket(Preview(self.machine, port), subject="ada", session_ref="login-1")
        return [embed.origin, embed.ticket]

    async def page(self, host: str) -> Page:
        page = await self.watch.context.new_page()
        await page.goto(self.origin(host))
        return page

    async def embed(self, port: int = 3000) -> tuple[Page, Frame]:
        """The app's page and a preview's frame in it, past the gate."""
        page = await self.page(APP)
        origin, ticket = await self.ticket(port)
        assert await page.evaluate(EXCHANGE, [origin, ticket]) == 204
        assert await page.evaluate(ASK, [origin + CHECK, "cors"]) == 204
        await page.evaluate(EMBED, origin)
        return page, page.frames[1]

    async def cookie(self, name: str) -> dict[str, Any]:
        """A cookie as the browser keeps it."""
        (found,) = [dict(cookie) for cookie in await self.watch.context.cookies() if cookie["name"] == name]
        return found

    def kept_in_app(self, cookie: dict[str, Any]) -> bool:
        """Whether a cookie is for the preview's host alone, and only inside the app."""
        rules = {"domain": PREVIEW, "path": "/", "secure": True, "sameSite": "None"}
        return rules.items() <= cookie.items() and cookie["partitionKey"] == f"{self.scheme}://{APP}"


async def website(request: Request) -> Response:
    """Any page of the app and of the other website. The app's has a session cookie, of the kind most have."""
    response = HTMLResponse("<!doctype html><title>page</title>")
    if request.url.hostname == APP and request.method == "GET":
        response.set_cookie("session", "ada", httponly=True, samesite="lax", secure=request.url.scheme == "https")
        response.set_cookie("readable", "theme")
    return response


async def authorize(subject: str, preview: Preview) -> bool:
    return subject == "ada"


def make_certificate(folder: Path) -> tuple[Path, list[str]]:
    """A certificate and its key in one file, and the argument that makes Chromium trust it."""
    issued = trustme.CA().issue_cert(APP, OTHER, "*.preview.localhost")
    file = folder / "certificate.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(file)
    public_key = load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).public_key()
    encoded = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(encoded).digest()).decode()
    return file, [f"--ignore-certificate-errors-spki-list={pin}"]


@asynccontextmanager
async def staged(scheme: str, provider: Provider, folder: Path, *, machine: str = MACHINE) -> AsyncIterator[Stage]:
    """A stage on http or https. The machine's ports are the test's to add; a certificate goes to `folder`."""
    certificate, trust = make_certificate(folder) if scheme == "https" else (None, [])
    async with chromium(*trust) as browser:
        listener = listening()
        port = listener.getsockname()[1]
        proxy = PreviewProxy(
            router=HostPattern("{port}-{machine}.preview.localhost", scheme=scheme, port=port),
            provider=provider,
            tickets=Tickets(SECRET, [f"{scheme}://{APP}:{port}"]),
            authorize=authorize,
        )
        app = Starlette(routes=[Route("/{rest:path}", website, methods=["GET", "POST"])])
        record = Record(PreviewProxyMiddleware(app, proxy=proxy))
        async with serve(record, listener, certificate=certificate), await browser.new_context() as context:
            yield Stage(scheme, port, proxy, record, Watch(context), machine)
