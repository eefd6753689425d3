"""A whole small world: a machine with a dev server, its provider, and a company's app with previews in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import anyio
import h11

from preview_proxy import Nullspace, Policy, Preview, PreviewProxy
from preview_proxy.testing import DevServer, NullspaceEmulator
from tests.apart import Apart
from tests.company import APP, EMBEDDER, MACHINE, OWNER, SECRET, ZONE, Setting, build, nullspace_of
from tests.servers import Serving, listening, name_of, serving

__all__ = ["EMBEDDER", "HOST", "MACHINE", "OWNER", "SECRET", "ZONE", "Answer", "World", "read_answer", "world"]

HOST = f"3000-{MACHINE}.{ZONE}"


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

    @property
    def code(self) -> str | None:
        """The error code of an answer of the proxy's own."""
        return next((value.decode() for value in self.values(b"x-preview-proxy-error")), None)


@dataclass
class World:
    nullspace: NullspaceEmulator
    dev: DevServer
    proxy: PreviewProxy
    port: int
    reached_app: list[str]
    allowed: dict[str, set[str]]
    gate: str = ""
    server: str = ""

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

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[anyio.abc.SocketStream]:
        """A connection to the server, for ten seconds at most."""
        with anyio.fail_after(10):
            async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
                yield stream

    async def raw(self, request: bytes, *, method: str = "GET") -> Answer:
        """Send bytes, read one response to its end, and close."""
        async with self.connected() as stream:
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

    async def pull(self, lever: str, **arguments: str) -> Any:
        """Have the company's own app do something with its proxy; see `tests.company`."""
        answer = await self.raw(self.lever(lever, **arguments))
        assert answer.status == 200, answer
        return answer.json()

    def lever(self, lever: str, **arguments: str) -> bytes:
        body = json.dumps(arguments).encode()
        fields = {"Host": APP, "Cookie": "", "Content-Length": str(len(body))}
        return self.request(f"/levers/{lever}", method="POST", headers=fields) + body


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


def nullspace_provider(nullspace: NullspaceEmulator) -> Nullspace:
    return nullspace_of(Setting(0, nullspace.api_key, nullspace.api_url, nullspace.edge_domain))


@contextlib.asynccontextmanager
async def world(
    *,
    http: str = "httptools",
    serve: Serving | Apart | None = None,
    policy: Policy | None = None,
    traffic_token: str | None = None,
    sign_in: bool = True,
    told: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[World]:
    """Everything running, and (with `sign_in`) a gate for the machine's owner. `options` go to `PreviewProxy`.

    `http` is uvicorn's parser, `serve` another server. A `provider` is made by a function of the emulator, a `router`
    by one of the host pattern. Of a server in a process of its own, `proxy`, `reached_app` and `allowed` are a twin
    that nothing reaches: it can only issue tickets, and of `policy` it is told the limits. `told` are further fields
    of its `Setting`.
    """
    listener = listening()
    async with DevServer() as dev, NullspaceEmulator() as nullspace:
        nullspace.add_machine(MACHINE, {3000: dev}, traffic_token=traffic_token)
        setting = Setting(listener.getsockname()[1], nullspace.api_key, nullspace.api_url, nullspace.edge_domain)
        setting = replace(setting, **(told or {}))
        if isinstance(serve, Apart):
            assert not options, "another process cannot be told of these"
            limits = asdict(policy.limits) if policy else {}
            setting = replace(setting, limits=limits, transport=(told or {}).get("transport", serve.transport))
            running: AbstractAsyncContextManager[None] = serve.serving(setting, listener)
            company = build(replace(setting, observed=False))
        else:
            if "provider" in options:
                options["provider"] = options["provider"](nullspace)
            if "router" in options:
                options["router"] = options["router"](setting.pattern())
            company = build(setting, **({"policy": policy} if policy else {}), **options)
            running = (serve or partial(serving, http=http))(company.app, listener)
        async with running:
            made = World(nullspace, dev, company.proxy, setting.port, company.reached, company.allowed)
            made.server = name_of(serve) if serve else http
            if sign_in and options.get("tickets", True):
                made.gate = await made.sign_in()
            yield made
