"""A whole small world: a machine with a dev server, its provider, and a company's app with previews in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import h11
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from preview_proxy import HostPattern, Nullspace, Policy, Preview, PreviewProxy, PreviewProxyMiddleware, Tickets
from preview_proxy.testing import DevServer, NullspaceEmulator
from tests.servers import Serving, listening, serving

MACHINE = "mch_a1b2c3d4"
ZONE = "preview.localhost"
HOST = f"3000-{MACHINE}.{ZONE}"
EMBEDDER = "http://app.localhost"
OWNER = "ada"
SECRET = "test secret, long enough for a key: 32 bytes"


@dataclass
class Answer:
    """A response as it stood on the wire."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    complete: bool = True

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class World:
    nullspace: NullspaceEmulator
    dev: DevServer
    proxy: PreviewProxy
    port: int
    reached_app: list[str]
    allowed: dict[str, set[str]]
    gate: str = ""

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def origin(self) -> str:
        return f"http://{self.host}"

    def request(self, target: str = "/", *, method: str = "GET", headers: Mapping[str, str] | None = None) -> bytes:
        """The bytes of a request with the gate cookie; `headers` may replace or (with an empty value) drop one."""
        fields = {"Host": self.host, "Cookie": f"pp-development={self.gate}", **(headers or {})}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def raw(self, request: bytes, *, method: str = "GET") -> Answer:
        """Send bytes, read one response to its end, and close."""
        with anyio.fail_after(10):
            async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
                await stream.send(request)
                return await read_answer(stream, method)

    async def get(self, target: str = "/", **kwargs: Any) -> Answer:
        return await self.raw(self.request(target, **kwargs), method=kwargs.get("method", "GET"))

    async def ticket(self, subject: str = OWNER) -> str:
        return (await self.proxy.ticket(Preview(MACHINE, 3000), subject=subject)).ticket

    async def exchange(self, ticket: str, *, origin: str = EMBEDDER, **headers: str) -> Answer:
        body = json.dumps({"ticket": ticket}).encode()
        fields = {"Origin": origin, "Content-Type": "application/json", "Cookie": "", "Content-Length": str(len(body))}
        head = self.request("/.well-known/preview-proxy/session", method="POST", headers={**fields, **headers})
        return await self.raw(head + body)

    async def sign_in(self, subject: str = OWNER) -> str:
        """A gate cookie's value, by the whole exchange."""
        answer = await self.exchange(await self.ticket(subject))
        assert answer.status == 204, answer
        return answer.values(b"set-cookie")[0].split(b";")[0].partition(b"=")[2].decode()


async def read_answer(stream: anyio.abc.ByteStream, method: str = "GET") -> Answer:
    """Parse one response with h11, which accepts nothing malformed."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=512 * 1024)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    answer = Answer(0, [], b"", complete=False)
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                try:
                    connection.receive_data(b"")
                    event = connection.next_event()
                except h11.RemoteProtocolError:
                    return answer
                if isinstance(event, h11.EndOfMessage):
                    answer.complete = True
                return answer
        elif isinstance(event, h11.Response):
            answer.status, answer.headers = event.status_code, list(event.headers)
        elif isinstance(event, h11.Data):
            answer.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            answer.complete = True
            return answer
        elif isinstance(event, h11.ConnectionClosed):
            return answer


def company_app(reached: list[str]) -> Starlette:
    """The company's own app: it answers everything, and notes what reached it."""

    async def page(request: Request) -> Response:
        reached.append(request.scope["path"])
        return PlainTextResponse("the company's own page")

    return Starlette(routes=[Route("/{rest:path}", page, methods=["GET", "POST"])])


def nullspace_provider(nullspace: NullspaceEmulator) -> Nullspace:
    return Nullspace(
        api_key=nullspace.api_key,
        base_url=nullspace.api_url,
        domains=[nullspace.edge_domain],
        allow_insecure_loopback=True,
    )


@contextlib.asynccontextmanager
async def world(
    *,
    http: str = "httptools",
    serve: Serving | None = None,
    policy: Policy | None = None,
    traffic_token: str | None = None,
    sign_in: bool = True,
    **options: Any,
) -> AsyncIterator[World]:
    """Everything running, and (with `sign_in`) a gate for the machine's owner. `options` go to `PreviewProxy`.

    `http` is uvicorn's parser, `serve` another server. A `provider` is made by a function of the emulator, a `router`
    by one of the host pattern.
    """
    listener = listening()
    port = listener.getsockname()[1]
    allowed = {OWNER: {MACHINE}}
    reached: list[str] = []

    async def authorize(subject: str, preview: Preview) -> bool:
        return preview.machine in allowed.get(subject, set())

    async with DevServer() as dev, NullspaceEmulator() as nullspace:
        nullspace.add_machine(MACHINE, {3000: dev}, traffic_token=traffic_token)
        provider = options.pop("provider", nullspace_provider)(nullspace)
        pattern = HostPattern("{port}-{machine}." + ZONE, scheme="http", port=port)
        proxy = PreviewProxy(
            **{
                "router": options.pop("router", lambda pattern: pattern)(pattern),
                "provider": provider,
                "tickets": Tickets(SECRET, [EMBEDDER]),
                "authorize": authorize,
                "policy": policy,
                **options,
            }
        )
        app = PreviewProxyMiddleware(company_app(reached), proxy=proxy)
        async with (serve or partial(serving, http=http))(app, listener):
            made = World(nullspace, dev, proxy, port, reached, allowed)
            if sign_in and options.get("tickets", True):
                made.gate = await made.sign_in()
            yield made
