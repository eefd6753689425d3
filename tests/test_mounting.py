"""The proxy in front of an app, beside its routes, below other middleware, and alone in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import fastapi
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Host, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from preview_proxy import (
    HostPattern,
    Limits,
    Policy,
    Preview,
    PreviewProxy,
    PreviewProxyMiddleware,
    Session,
    Static,
    Tickets,
)
from preview_proxy import testing as machine
from preview_proxy.core.models import Origin
from preview_proxy.providers.static import fixed_target
from preview_proxy.testing import DevServer
from tests.servers import listening, serving
from tests.world import EMBEDDER, OWNER, SECRET, Answer, read_answer

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
PREVIEW = Preview("m1", 3000)
APP_HOST = "app.localhost"


@dataclass
class Site:
    """A listening server with a preview behind it, and a gate to that preview."""

    port: int
    dev: DevServer

    @property
    def host(self) -> str:
        return f"3000-m1.preview.localhost:{self.port}"

    @property
    def gate(self) -> str:
        origin = Origin.parse(f"http://{self.host}")
        return Tickets(SECRET, [EMBEDDER]).gate(origin=origin, preview=PREVIEW, session=Session(OWNER))[0]

    def request(self, target: str = "/", *, host: str | None = None, method: str = "GET", **headers: str) -> bytes:
        cookie = f"pp-development={self.gate}"
        fields = {"Host": host or self.host, "Cookie": cookie, **{k.replace("_", "-"): v for k, v in headers.items()}}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def get(self, target: str = "/", body: bytes = b"", **options: Any) -> Answer:
        with anyio.fail_after(10):
            async with self.connected() as stream:
                await stream.send(self.request(target, **options) + body)
                return await read_answer(stream, options.get("method", "GET"))

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[anyio.abc.ByteStream]:
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            yield stream

    def dial(self, path: str = "/ws", *, host: str | None = None) -> connect:
        host = host or self.host
        return connect(
            f"ws://{host}{path}",
            host="127.0.0.1",
            port=self.port,
            origin=f"http://{host}",  # type: ignore[arg-type]
            additional_headers={"Cookie": f"pp-development={self.gate}"},
            proxy=None,
        )


def proxy_at(port: int, dev: DevServer, limits: Limits | None = None) -> PreviewProxy:
    async def authorize(subject: str, preview: Preview) -> bool:
        return subject == OWNER

    target = fixed_target(f"http://localhost:{dev.port}", allow_insecure_loopback=True)
    return PreviewProxy(
        router=HostPattern("{port}-{machine}.preview.localhost", scheme="http", port=port),
        provider=Static({PREVIEW: target}),
        authorize=authorize,
        tickets=Tickets(SECRET, [EMBEDDER]),
        policy=Policy(limits=limits or Limits()),
    )


@contextlib.asynccontextmanager
async def deployed(build: Callable[[PreviewProxy], ASGIApp], **options: Any) -> AsyncIterator[Site]:
    """What `build` makes of a proxy, served."""
    listener = listening()
    port = listener.getsockname()[1]
    async with DevServer() as dev, serving(build(proxy_at(port, dev)), listener, **options):
        yield Site(port, dev)


async def heard(socket: ClientConnection, message: str = "hello") -> bool:
    with anyio.fail_after(5):
        await socket.send(message)
        return await socket.recv() == message


async def rest(stream: anyio.abc.ByteStream) -> bytes:
    """All that is still to come."""
    received = b""
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            received += await stream.receive()
    return received


# --- a company's app -----------------------------------------------------------------------------------------------


class Company:
    """The company's own app, with a bit of everything that a middleware could break."""

    def __init__(self) -> None:
        self.life: list[str] = []
        self.reached: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[dict[str, str]]:
        self.life.append("startup")
        yield {"greeting": "hello from the lifespan"}
        self.life.append("shutdown")

    async def page(self, request: Request) -> Response:
        self.reached.append(request.url.path)
        request.session["visits"] = request.session.get("visits", 0) + 1
        body = await request.body()
        return JSONResponse({"state": request.state.greeting, "visits": request.session["visits"], "body": len(body)})

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for part in (b"one ", b"two ", b"three"):
                yield part

        return StreamingResponse(parts(), media_type="text/plain")

    async def socket(self, socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    def starlette(self, *middleware: Middleware) -> Starlette:
        routes = [
            Route("/", self.page, methods=["GET", "POST"]),
            Route("/stream", self.stream),
            WebSocketRoute("/ws", self.socket),
        ]
        sessions = Middleware(SessionMiddleware, secret_key="the company's")
        return Starlette(routes=routes, middleware=[*middleware, sessions], lifespan=self.lifespan)

    def fastapi(self) -> fastapi.FastAPI:
        app = fastapi.FastAPI(lifespan=self.lifespan)
        app.add_middleware(SessionMiddleware, secret_key="the company's")
        app.add_api_route("/", self.page, methods=["GET", "POST"])
        app.add_api_route("/stream", self.stream)
        app.add_api_websocket_route("/ws", self.socket)
        return app


def in_fastapi(company: Company, proxy: PreviewProxy) -> ASGIApp:
    app = company.fastapi()
    app.add_middleware(PreviewProxyMiddleware, proxy=proxy)
    return app


def in_starlette(company: Company, proxy: PreviewProxy) -> ASGIApp:
    app = company.starlette()
    app.add_middleware(PreviewProxyMiddleware, proxy=proxy)
    return app


def in_the_constructor(company: Company, proxy: PreviewProxy) -> ASGIApp:
    return company.starlette(Middleware(PreviewProxyMiddleware, proxy=proxy))


def around(company: Company, proxy: PreviewProxy) -> ASGIApp:
    return PreviewProxyMiddleware(company.starlette(), proxy=proxy)


def by_hosts(company: Company, proxy: PreviewProxy) -> ASGIApp:
    """As a route: Starlette passes no lifespan to mounted apps, so the company's own closes the proxy."""

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, str]]:
        async with company.lifespan(app) as state:
            yield state
            await proxy.aclose()

    routes = [Host("{preview}.preview.localhost", app=proxy), Mount("/", app=company.starlette())]
    return Starlette(routes=routes, lifespan=lifespan)


MOUNTS = [in_fastapi, in_starlette, in_the_constructor, around, by_hosts]
Mounted = Callable[[Company, PreviewProxy], ASGIApp]


@pytest.mark.parametrize("mount", MOUNTS)
@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_previews_and_the_app_are_served_side_by_side(mount: Mounted, http: str) -> None:
    company = Company()
    async with deployed(lambda proxy: mount(company, proxy), http=http) as site:
        assert company.life == ["startup"]
        echoed = (await site.get("/echo?a=1")).json()
        assert echoed["target"] == "/echo?a=1"
        assert dict(echoed["headers"])["x-forwarded-host"] == site.host
        async with site.dial() as socket:
            assert await heard(socket)
        assert company.reached == []

        first = await site.get(host=APP_HOST)
        assert first.json() == {"state": "hello from the lifespan", "visits": 1, "body": 0}
        session = first.values(b"set-cookie")[0].split(b";")[0].decode()
        second = await site.get(host=APP_HOST, method="POST", Cookie=session, Content_Length="5", body=b"12345")
        assert second.json() == {"state": "hello from the lifespan", "visits": 2, "body": 5}
        streamed = await site.get("/stream", host=APP_HOST)
        assert (streamed.body, streamed.values(b"transfer-encoding")) == (b"one two three", [b"chunked"])
        async with site.dial(host=APP_HOST) as socket:
            assert await heard(socket)
        assert len(site.dev.received) == 2
    assert company.life == ["startup", "shutdown"]


@pytest.mark.parametrize("mount", MOUNTS[:-1])
async def test_p02_an_unknown_host_of_the_zone_never_reaches_the_app(mount: Mounted) -> None:
    company = Company()
    async with deployed(lambda proxy: mount(company, proxy)) as site:
        for host in (
            "preview.localhost",
            "x.preview.localhost",
            "3000-m1.preview.localhost:1",
            "a.b.preview.localhost",
        ):
            answer = await site.get(host=host)
            assert (answer.status, answer.json()["code"]) == (421, "misdirected")
            with pytest.raises(InvalidStatus) as refusal:
                async with site.dial(host=host):
                    pass
            assert refusal.value.response.status_code == 421
        assert company.reached == []
        assert site.dev.received == []


async def test_p02_as_a_route_the_proxy_refuses_what_the_route_lets_through() -> None:
    company = Company()
    async with deployed(lambda proxy: by_hosts(company, proxy)) as site:
        for host in ("x.preview.localhost", f"70000-m1.preview.localhost:{site.port}"):
            assert (await site.get(host=host)).status == 421
        assert company.reached == []


async def test_below_a_path_the_prefix_is_taken_off() -> None:
    async with deployed(lambda proxy: Starlette(routes=[Mount("/pre", app=proxy)])) as site:
        assert (await site.get("/pre/echo?x=%2f")).json()["target"] == "/echo?x=%2f"
        assert (await site.get("/pr%65/echo")).json()["code"] == "bad_target"
        assert (await site.get("/preview")).status == 404
        assert len(site.dev.received) == 1


async def test_alone_a_host_that_is_no_previews_is_refused() -> None:
    async with deployed(lambda proxy: proxy) as site:
        assert (await site.get("/echo")).status == 200
        for host in (APP_HOST, "127.0.0.1", f"localhost:{site.port}"):
            answer = await site.get("/echo", host=host)
            assert (answer.status, answer.json()["code"]) == (421, "misdirected")


# --- P-23, pitfall 43: other middleware outside ours ----------------------------------------------------------------


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


OUTSIDE = {
    "none": [],
    "base": [Middleware(Passing)],
    "two bases": [Middleware(Passing), Middleware(Passing)],
    "gzip": [Middleware(GZipMiddleware)],
    "cors": [Middleware(CORSMiddleware, allow_origins=["http://other.localhost"], allow_credentials=True)],
    "session": [Middleware(SessionMiddleware, secret_key="the company's")],
    "all": [
        Middleware(CORSMiddleware, allow_origins=["http://other.localhost"]),
        Middleware(SessionMiddleware, secret_key="the company's"),
        Middleware(GZipMiddleware),
        Middleware(Passing),
    ],
}


@pytest.mark.parametrize("outside", OUTSIDE.values(), ids=OUTSIDE.keys())
async def test_below_other_middleware_nothing_crashes(
    outside: list[Middleware], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def build(proxy: PreviewProxy) -> ASGIApp:
        return Starlette(middleware=[*outside, Middleware(PreviewProxyMiddleware, proxy=proxy)])

    async with deployed(build) as site:
        assert (await site.get("/echo")).json()["target"] == "/echo"
        assert (await site.get("/bytes/300000")).body == bytes(300_000)
        head = await site.get("/bytes/1234", method="HEAD")
        assert (head.status, head.body) == (200, b"")
        own = f"http://{site.host}"
        posted = await site.get("/body", method="POST", Origin=own, Content_Length="5", body=b"hello")
        assert posted.body == b"hello"
        for status in (204, 304, 404, 500):
            assert (await site.get(f"/status/{status}")).status == status
        assert (await site.get(Cookie="x=1")).status == 401
        assert (await site.get(host="x.preview.localhost")).status == 421
        async with site.dial() as socket:
            assert await heard(socket)
        async with site.connected() as stream:
            await stream.send(site.request("/sse"))
            with anyio.fail_after(5):
                await site.dev.wait_for(lambda dev: any(r.path == "/sse" for r in dev.received))
                site.dev.emit("tick")
                seen = b""
                while b"tick" not in seen:
                    seen += await stream.receive()
        with anyio.fail_after(5):  # the visitor left, and took the upstream request along
            await site.dev.wait_for(lambda dev: all(r.path != "/sse" or r.complete for r in dev.received))
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("outside", ["none", "cors", "session"])
async def test_an_answer_that_breaks_off_is_cut_also_below_other_middleware(outside: str) -> None:
    """Not below `BaseHTTPMiddleware` and `GZipMiddleware`: they end what we leave unfinished."""

    def build(proxy: PreviewProxy) -> ASGIApp:
        return Starlette(middleware=[*OUTSIDE[outside], Middleware(PreviewProxyMiddleware, proxy=proxy)])

    async with deployed(build) as site:

        @site.dev.route("/broken")
        async def broken(request: machine.Request, response: machine.Response) -> None:
            await response.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            response.close()

        answer = await site.get("/broken")
        assert (answer.status, answer.body, answer.complete) == (200, b"abc", False)
