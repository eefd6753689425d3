"""The canary run on every server, as its operator sees it: all that crosses a socket, is logged, traced or printed.

The server runs in a process of its own, with every logger at DEBUG and OpenTelemetry recording every header. Its
sockets lead to the visitor, to the provider's API and to its edge, all of which are the test's.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from websockets.exceptions import InvalidStatus

from preview_proxy import Limits, Policy
from preview_proxy.testing import Request, Response, WebSocket
from tests.apart import Apart
from tests.company import SESSION
from tests.servers import HTTP_SERVERS
from tests.transports.test_relay_websocket import closed, dial
from tests.world import MACHINE, OWNER, World, world

pytestmark = pytest.mark.anyio


def canary() -> str:
    return f"canary{secrets.token_hex(16)}"


@dataclass
class Run:
    """A world whose visitor writes down what the server says."""

    w: World
    session: str
    traffic_token: str
    tickets: list[str] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)

    @property
    def cookies(self) -> dict[str, str]:
        return {"Cookie": f"{SESSION}={self.session}; pp-development={self.w.gate}; theme=dark"}

    async def ask(self, request: bytes, *, until: bytes | None = None) -> bytes:
        """All that the server answers to a request, or what it says `until` then."""
        said = b""
        async with self.w.connected() as stream:
            await stream.send(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) if until is None else request)
            try:
                while until is None or until not in said:
                    said += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
        self.heard += said
        return said

    async def get(self, path: str, **fields: str) -> int:
        said = await self.ask(self.w.request(path, headers={**self.cookies, **fields}))
        return int(said.split(b" ", 2)[1]) if said else 0


def hostile(w: World) -> None:
    """What a dev server may do wrong, which an error would like to tell of."""
    wires = {
        "/garbage": b"garbage\r\n\r\n",
        "/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "/silent": b"HTTP/1.1 100 Continue\r\n\r\n",
        "/stalls": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "/huge": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    }
    for path, wire in wires.items():

        @w.dev.route(path)
        async def answer(request: Request, response: Response, wire: bytes = wire) -> None:
            await response.raw(wire)
            if request.received.path in ("/silent", "/stalls"):
                await w.dev.wait_for(lambda _: request.peer_left)
            response.close()

    @w.dev.websocket("/denied")
    async def denied(socket: WebSocket) -> None:
        await socket.reject(403, [], b"no")

    @w.dev.websocket("/broken")
    async def broken(socket: WebSocket) -> None:
        await socket.accept()
        await socket.raw(b"\xf1\x00")


async def play(run: Run) -> None:
    """HTTP, upload, SSE, WebSocket, an error at each phase, and revocation; the shutdown is the world's."""
    w = run.w
    hostile(w)
    run.tickets.append(await w.ticket())
    assert (await w.exchange(run.tickets[-1])).status == 204
    assert (await w.exchange(run.tickets[-1])).status == 403
    assert await run.get("/echo?a=1") == 200
    upload = w.request("/body", method="POST", headers={**run.cookies, "Content-Length": "5", "Origin": w.origin})
    assert b"hello" in await run.ask(upload + b"hello", until=b"hello")
    chunked = w.request(
        "/body", method="POST", headers={**run.cookies, "Transfer-Encoding": "chunked", "Origin": w.origin}
    )
    await run.ask(chunked + b"5\r\nhello\r\n0\r\n\r\n", until=b"hello")
    await run.ask(chunked + b"5\r\nhello\r\nzz\r\n")
    for path, statuses in {
        "/garbage": {502}, "/cut": {200}, "/silent": {504}, "/stalls": {200, 500}, "/huge": {502}, "/status/500": {500},
    }.items():  # fmt: skip
        assert await run.get(path) in statuses, path
    assert await run.get("/echo", **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert await run.get("/" + "x" * 9000) == 414
    assert await run.get("/echo", Cookie=f"{SESSION}=wrong") == 401
    await sockets(run)
    w.nullspace.unreachable(MACHINE)
    assert await run.get("/echo") == 503
    w.nullspace.unreachable(MACHINE, False)
    await revoked(run)


async def sockets(run: Run) -> None:
    w = run.w
    async with dial(w, headers=run.cookies) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
    with pytest.raises(InvalidStatus):
        async with dial(w, "/denied", headers=run.cookies):
            pass
    async with dial(w, "/broken", headers=run.cookies) as socket:
        assert (await closed(socket))[0] == 1011
    with pytest.raises(InvalidStatus):
        async with dial(w, origin="http://evil.example", headers=run.cookies):
            pass


async def revoked(run: Run) -> None:
    """An event stream is cut, and what is asked then is decided anew."""
    w = run.w
    async with w.connected() as stream:
        await stream.send(w.request("/sse", headers=run.cookies))
        run.heard += await stream.receive()
        assert await w.pull("revoke", subject=OWNER) == 1
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            while True:
                run.heard += await stream.receive()
    assert await run.get("/echo") == 200


ONLY_HTTPX = ("trio", "pool")
"""The pool needs asyncio."""


@asynccontextmanager
async def running(server: Apart, transport: str) -> AsyncIterator[Run]:
    session, traffic_token = canary(), canary()
    told = {"session": session, "traffic_token": traffic_token, "transport": transport, "observed": True}
    limits = Limits(head_timeout=0.5, idle_timeout=0.5)
    async with world(serve=server, policy=Policy(limits=limits), traffic_token=traffic_token, told=told) as w:
        yield Run(w, session, traffic_token)


@pytest.mark.parametrize(
    ("name", "transport"),
    [(name, transport) for name in HTTP_SERVERS for transport in ("pool", "httpx") if (name, transport) != ONLY_HTTPX],
)
async def test_h14_h19_h20_h21_h23_each_secret_is_only_where_it_may_be(name: str, transport: str) -> None:
    server = Apart(name)
    with anyio.fail_after(60):
        async with AsyncExitStack() as stack:
            run = await stack.enter_async_context(running(server, transport))
            w = run.w
            await play(run)
            opened = w.request("/sse", headers=run.cookies)  # what a shutdown finds under way
            async with w.connected() as stream:
                await stream.send(opened)
                run.heard += await stream.receive()
                w.nullspace.expire()
                assert await run.get("/echo") == 502
                await stack.aclose()
    tokens = {token for grant in w.nullspace.grants.values() for token in grant.tokens.values()}
    allowed = {w.nullspace.api_key: {"api"}, run.traffic_token: {"edge"}, run.session: set[str](), w.gate: set[str]()}
    allowed |= {ticket: set() for ticket in run.tickets} | {token: {"edge"} for token in tokens}
    said = {
        "api": b"".join(w.nullspace._api.raw),
        "edge": w.nullspace.edge_raw,
        "machine": b"".join(w.dev.raw),
        "visitor": bytes(run.heard),
        "output": server.output.encode(),
    }
    for secret, places in allowed.items():
        found = {place for place, words in said.items() if secret.encode() in words}
        assert found == places, f"a secret that may be at {places or 'none'} was at {found}"
    assert "http.request.header." in server.output, "OpenTelemetry has recorded no header"
    assert "DEBUG" in server.output
