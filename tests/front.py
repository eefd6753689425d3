"""A proxy with some provider behind it, for one preview of ada's, and a visitor's requests over raw sockets."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from preview_proxy import HostPattern, Preview, PreviewProxy, Provider, Tickets
from preview_proxy.hosts import Router
from tests.servers import listening, serving
from tests.world import EMBEDDER, OWNER, SECRET, Answer, read_answer

ZONE = "preview.localhost"
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0", "Accept": "text/html"}
NAVIGATION = {**BROWSER, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"}


@dataclass
class Front:
    """`gates` has the cookie of every host that was signed in to; `host` and `gate` are the last one's."""

    proxy: PreviewProxy
    port: int
    host: str = ""
    gates: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"http://{self.host}"

    @property
    def gate(self) -> str:
        return self.gates.get(self.host, "")

    async def get(
        self, target: str = "/echo", *, host: str = "", method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> Answer:
        host = host or self.host
        fields = {"Host": host, "Cookie": f"pp-development={self.gates.get(host, '')}", **(headers or {})}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return await self.raw("\r\n".join([*lines, "", ""]).encode(), method=method)

    async def code(self, target: str = "/echo", **options: Any) -> tuple[int, str]:
        """Status, and the code of the proxy's own error or "" for the app's answer."""
        answer = await self.get(target, **options)
        return answer.status, b"".join(answer.values(b"x-preview-proxy-error")).decode()

    def later(self, seconds: float) -> None:
        """Let time pass for the proxy's targets."""
        self.proxy._targets._clock = lambda: time.time() + seconds

    async def raw(self, request: bytes, *, method: str = "GET") -> Answer:
        with anyio.fail_after(10):
            async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
                await stream.send(request)
                return await read_answer(stream, method)

    async def sign_in(self, preview: Preview) -> None:
        """The whole exchange, from a ticket to the gate."""
        embed = await self.proxy.ticket(preview, subject=OWNER)
        self.host = embed.origin.partition("//")[2]
        body = json.dumps({"ticket": embed.ticket})
        head = (
            f"POST /.well-known/preview-proxy/session HTTP/1.1\r\nHost: {self.host}\r\nOrigin: {EMBEDDER}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        answer = await self.raw((head + body).encode())
        assert answer.status == 204, answer
        self.gates[self.host] = answer.values(b"set-cookie")[0].split(b";")[0].partition(b"=")[2].decode()


@asynccontextmanager
async def front(provider: Provider, preview: Preview | None = None, **options: Any) -> AsyncIterator[Front]:
    """The proxy running, and signed in to `preview`. `options` go to `PreviewProxy`; a `router` is made by its port."""
    listener = listening()
    port = listener.getsockname()[1]
    make_router = options.pop("router", _by_machine)
    router: Router = make_router(port)

    async def authorize(subject: str, preview: Preview) -> bool:
        return subject == OWNER

    proxy = PreviewProxy(
        **{
            "router": router,
            "provider": provider,
            "tickets": Tickets(SECRET, [EMBEDDER]),
            "authorize": authorize,
            **options,
        }
    )
    async with serving(proxy, listener):
        made = Front(proxy, port)
        if preview is not None:
            await made.sign_in(preview)
        yield made


def _by_machine(port: int) -> Router:
    return HostPattern("{port}-{machine}." + ZONE, scheme="http", port=port)
