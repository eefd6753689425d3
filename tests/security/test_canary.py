"""Every byte of every socket, every log record and every error is searched for every secret.

Visitor, proxy, provider and machine run in one process, so what all transports write is all that is on the wire.
"""

from __future__ import annotations

import asyncio.selector_events
import io
import json
import logging
import secrets
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import pytest

from preview_proxy import CookieSession, Nullspace, PreviewProxyError
from preview_proxy.testing import NullspaceEmulator, Request, Response, WebSocket
from tests.transports.test_relay_websocket import dial
from tests.world import MACHINE, OWNER, World, world

pytestmark = pytest.mark.anyio


@dataclass
class Wire:
    """What was written, by the writer's and the reader's port."""

    writes: list[tuple[int, int, bytes]] = field(default_factory=list)

    def to(self, port: int) -> bytes:
        return b"".join(data for _, reader, data in self.writes if reader == port)

    def by(self, port: int) -> bytes:
        return b"".join(data for writer, _, data in self.writes if writer == port)

    def elsewhere(self, *allowed: tuple[str, int]) -> bytes:
        """Everything but what went ``to`` or was written ``by`` these ports."""
        return b"\n".join(
            data
            for writer, reader, data in self.writes
            if ("to", reader) not in allowed and ("by", writer) not in allowed
        )


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    recorded = Wire()
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    write = transport.write

    def recording(self: Any, data: bytes) -> None:
        with suppress(OSError, TypeError, IndexError):
            local, peer = self.get_extra_info("sockname"), self.get_extra_info("peername")
            recorded.writes.append((local[1], peer[1], bytes(data)))
        write(self, data)

    monkeypatch.setattr(transport, "write", recording)
    return recorded


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """All loggers at DEBUG, with tracebacks."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.addFilter(lambda record: record.name != "websockets.client")  # the visitor's own log
    root = logging.getLogger()
    before = {name: logging.getLogger(name).level for name in ("", "httpx", "httpcore", "uvicorn", "asyncio")}
    root.addHandler(handler)
    for name in before:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@dataclass
class Scene:
    w: World
    session: str
    traffic_token: str
    tickets: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(params=["pool", "httpx"])
async def scene(request: pytest.FixtureRequest, wire: Wire, logs: io.StringIO) -> AsyncIterator[Scene]:
    session, traffic_token = (f"canary{secrets.token_hex(16)}" for _ in range(2))

    async def lookup(value: str) -> str | None:
        return OWNER if value == session else None

    def provider(nullspace: NullspaceEmulator) -> Nullspace:
        return Nullspace(
            api_key=nullspace.api_key,
            base_url=nullspace.api_url,
            domains=[nullspace.edge_domain],
            traffic_tokens={MACHINE: traffic_token},
            allow_insecure_loopback=True,
        )

    options: dict[str, Any] = {"session": CookieSession("acme_session", lookup), "provider": provider}
    if request.param == "httpx":
        options["transport"] = httpx.AsyncHTTPTransport(trust_env=False)
    async with world(traffic_token=traffic_token, **options) as w:
        yield Scene(w, session, traffic_token)


async def play(scene: Scene) -> None:
    """HTTP, upload, SSE, WebSocket, a failure at each phase, renewal, and a shutdown."""
    w = scene.w
    cookie = {"Cookie": f"acme_session={scene.session}; pp-development={w.gate}; theme=dark"}
    ticket = await w.ticket()
    scene.tickets.append(ticket)
    assert (await w.exchange(ticket)).status == 204
    assert (await w.exchange(ticket)).status == 403
    assert (await w.get("/echo?a=1", headers=cookie)).status == 200
    assert (await w.get("/echo", headers={"Cookie": f"acme_session={scene.session}"})).status == 200
    upload = w.request("/body", method="POST", headers={"Content-Length": "5", "Origin": w.origin, **cookie})
    assert (await w.raw(upload + b"hello")).body == b"hello"
    await listen(w, cookie)
    async with dial(w, headers={"Cookie": cookie["Cookie"]}) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
    await fail_at_each_phase(scene, cookie)
    await w.proxy.aclose()


async def listen(w: World, cookie: dict[str, str]) -> None:
    async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
        await stream.send(w.request("/sse", headers=cookie))
        await w.dev.wait_for(lambda dev: any(received.path == "/sse" for received in dev.received))
        w.dev.emit("tick")
        seen = b""
        while b"tick" not in seen:
            seen += await stream.receive()


async def fail_at_each_phase(scene: Scene, cookie: dict[str, str]) -> None:
    w = scene.w

    @w.dev.route("/garbage")
    async def garbage(_: Request, response: Response) -> None:
        await response.raw(b"garbage\r\n\r\n")
        response.close()

    @w.dev.route("/truncated")
    async def truncated(_: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        response.close()

    @w.dev.websocket("/denied")
    async def denied(socket: WebSocket) -> None:
        await socket.reject(403, [], b"no")

    assert (await w.get("/garbage", headers=cookie)).status == 502
    assert not (await w.get("/truncated", headers=cookie)).complete
    with pytest.raises(Exception, match="403"):
        async with dial(w, "/denied"):
            pass
    elsewhere = {**cookie, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert (await w.get("/echo", headers=elsewhere)).status == 403
    w.nullspace.expire()
    assert (await w.get("/echo", headers=cookie)).status in (200, 502)
    w.nullspace.unreachable(MACHINE)
    assert (await w.get("/echo", headers=cookie)).status >= 502
    w.nullspace.unreachable(MACHINE, False)
    for subject in ("nobody", OWNER):
        try:
            scene.tickets.append(await w.ticket(subject))
        except Exception as error:
            scene.errors.append(ours(error))
    assert scene.errors


def ours(error: BaseException) -> str:
    """The traceback with the locals of our own frames: the test's hold the secrets by right."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in trace.stack if "/preview_proxy/" in frame.filename]
    return "".join([*traceback.StackSummary.from_list(frames).format(), *map(repr, (f.locals for f in frames))])


def minted(wire: Wire, api_port: int) -> list[dict[str, Any]]:
    """The targets in the API's answers, as they stood on the wire."""
    bodies = [part.partition(b"\r\n\r\n")[2] for part in wire.by(api_port).split(b"HTTP/1.1 200")]
    found = []
    for body in bodies:
        with suppress(ValueError):
            content = json.loads(body)
            if "http_token" in content:
                found.append(content)
    return found


async def test_h14_each_secret_is_only_where_it_may_be(scene: Scene, wire: Wire, logs: io.StringIO) -> None:
    w = scene.w
    with anyio.fail_after(30):
        await play(scene)
    api, edge, server = int(w.nullspace.api_url.rpartition(":")[2]), w.nullspace.edge_port, w.port
    targets = minted(wire, api)
    assert targets
    http_tokens = {str(target["http_token"]) for target in targets}
    websocket_tokens = {str(target["websocket_token"]) for target in targets}
    visitor = ("to", server), ("by", server)
    allowed: dict[str, tuple[tuple[str, int], ...]] = {w.nullspace.api_key: (("to", api),), scene.session: visitor[:1]}
    allowed[scene.traffic_token] = (("to", edge),)
    allowed[w.gate] = visitor
    allowed |= dict.fromkeys(scene.tickets, visitor[:1])
    allowed |= dict.fromkeys(http_tokens | websocket_tokens, (("by", api), ("to", edge)))
    log = logs.getvalue()
    for secret, places in allowed.items():
        assert secret.encode() not in wire.elsewhere(*places), f"a secret allowed at {places} was elsewhere"
        assert secret not in log
        assert not any(secret in error for error in scene.errors)
        assert secret not in repr((w.proxy, vars(w.proxy), vars(w.proxy._provider), vars(w.proxy._targets)))
    assert "cross_site" in log
    assert scene.traffic_token.encode() in wire.to(edge)


async def test_h12_each_kind_of_request_has_its_own_token(scene: Scene, wire: Wire) -> None:
    w = scene.w
    with anyio.fail_after(30):
        await play(scene)
    targets = minted(wire, int(w.nullspace.api_url.rpartition(":")[2]))
    http_tokens = {target["http_token"].encode() for target in targets}
    for asked in w.nullspace.edge_requests:
        (token,) = asked.values(b"x-nullspace-preview-proxy-token")
        assert (token in http_tokens) == (asked.kind == "http")
        assert token not in asked.target


async def test_the_search_finds_what_it_looks_for(scene: Scene, wire: Wire) -> None:
    """A canary run that could not fail would prove nothing."""
    w = scene.w
    await w.get("/echo?leak=" + scene.session, headers={"Cookie": f"acme_session={scene.session}"})
    assert scene.session.encode() in wire.elsewhere(("to", w.port))


def test_h20_errors_of_ours_hold_no_cause() -> None:
    assert PreviewProxyError("internal_error").__cause__ is None
