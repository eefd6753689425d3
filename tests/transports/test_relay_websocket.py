"""WebSockets through the whole stack, with an independent client and a server that can do anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from preview_proxy import Limits, Policy
from preview_proxy.testing import WebSocket
from tests.abilities import can
from tests.apart import Apart
from tests.front import Front
from tests.servers import WEBSOCKET_SERVERS
from tests.world import OWNER, World, world

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[*WEBSOCKET_SERVERS, "httpx"])
async def w(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Every server over our own pool, and uvicorn over httpx's transport in the pool's place."""
    if request.param == "httpx":
        async with world(transport=httpx.AsyncHTTPTransport(trust_env=False)) as made:
            yield made
    else:
        async with world(serve=WEBSOCKET_SERVERS[request.param]) as made:
            yield made


def dial(w: World | Front, path: str = "/ws", **options: Any) -> connect:
    """A browser's handshake: its `Origin` is the preview's, and the gate cookie comes along."""
    headers = {"Cookie": f"pp-development={w.gate}; own=1", **options.pop("headers", {})}
    return connect(
        f"ws://{w.host}{path}",
        host="127.0.0.1",
        port=w.port,
        origin=options.pop("origin", w.origin),
        additional_headers=headers,
        user_agent_header=None,
        compression=options.pop("compression", "deflate"),
        proxy=None,
        **options,
    )


async def closed(socket: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed):
        while True:
            await socket.recv()
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


async def test_text_binary_and_empty_messages_echo(w: World) -> None:
    with anyio.fail_after(10):
        async with dial(w, "/ws?a=1") as socket:
            for message in ("hello", "", "grüße 🎈", b"\x00\xff", b"", "x" * 70_000, b"y" * 200_000):
                await socket.send(message)
                assert await socket.recv() == message
    handshake = w.nullspace.edge_requests[-1]
    assert (handshake.kind, handshake.verdict) == ("websocket", "served")
    assert handshake.target == b"/ws?a=1&__ns_preview_transport=header"


async def test_h12_a_socket_has_its_own_token_and_no_url_has_one(w: World) -> None:
    async with dial(w):
        pass
    await w.get("/echo")
    tokens = [request.values(b"x-nullspace-preview-proxy-token")[0] for request in w.nullspace.edge_requests]
    assert len(set(tokens)) == 2
    assert not any(token in request.target for request in w.nullspace.edge_requests for token in tokens)


async def test_w04_upstream_is_offered_no_extension_and_its_own_key(w: World) -> None:
    async with dial(w) as socket:
        ours = w.dev.received[-1].values(b"sec-websocket-key")
        assert ours != [socket.request.headers["Sec-WebSocket-Key"].encode()]  # type: ignore[union-attr]
        assert w.dev.received[-1].values(b"sec-websocket-extensions") == []
        assert w.dev.received[-1].values(b"cookie") == [b"own=1"]


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["a", "b"], "b"), (["a", "b"], None), ([], None), (["vite-hmr"], "vite-hmr")]
)
async def test_upstream_chooses_the_subprotocol(w: World, offered: list[str], chosen: str | None) -> None:
    @w.dev.websocket("/chooses")
    async def chooses(socket: WebSocket) -> None:
        await socket.accept(subprotocol=chosen)
        await socket.close(1000)

    async with dial(w, "/chooses", subprotocols=offered or None) as socket:
        assert socket.subprotocol == chosen
    expected = [", ".join(offered).encode()] if offered else []
    assert w.dev.received[-1].values(b"sec-websocket-protocol") == expected


async def test_w03_a_subprotocol_nobody_offered_is_502(w: World) -> None:
    @w.dev.websocket("/invents")
    async def invents(socket: WebSocket) -> None:
        await socket.accept(subprotocol="invented")

    with pytest.raises(InvalidStatus) as refusal:
        async with dial(w, "/invents"):
            pass
    assert refusal.value.response.status_code == 502


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
async def test_w06_a_refusal_is_relayed_as_the_response_it_is(w: World, status: int) -> None:
    @w.dev.websocket("/refuses")
    async def refuses(socket: WebSocket) -> None:
        await socket.reject(
            status, [("x-own", "1"), ("content-type", "text/plain"), ("retry-after", "7")], b"no, thanks"
        )

    with pytest.raises(InvalidStatus) as refusal:
        async with dial(w, "/refuses"):
            pass
    response = refusal.value.response
    assert (response.status_code, response.body) == (status, b"no, thanks")
    assert (response.headers["x-own"], response.headers["retry-after"]) == ("1", "7")


async def test_headers_of_the_101_reach_the_browser(w: World) -> None:
    @w.dev.websocket("/cookies")
    async def cookies(socket: WebSocket) -> None:
        await socket.accept(headers=[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-own", "1")])
        await socket.close(1000)

    async with dial(w, "/cookies") as socket:
        assert socket.response is not None
        if not can(w.server, "headers of a 101"):
            assert not {"set-cookie", "x-own"} & {name.lower() for name in socket.response.headers}
            return
        assert [value.split(";")[0] for value in socket.response.headers.get_all("set-cookie")] == ["a=1", "b=2"]
        assert socket.response.headers["x-own"] == "1"


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, "done"), (1001, ""), (1003, "x"), (1011, "broken"), (1012, ""), (3000, "own"), (4999, "é" * 61)],
)
async def test_w09_close_codes_and_reasons_pass_both_ways(w: World, code: int, reason: str) -> None:
    @w.dev.websocket("/closes")
    async def closes(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(code, reason)

    async with dial(w, "/closes") as socket:
        assert await closed(socket) == (code, reason)
    async with dial(w) as socket:
        await socket.close(code, reason)
    with anyio.fail_after(5):
        await w.dev.wait_for(lambda dev: any((s.close_code, s.close_reason) == (code, reason) for s in dev.websockets))


async def test_a_close_without_a_code_becomes_1000(w: World) -> None:
    @w.dev.websocket("/closes")
    async def closes(socket: WebSocket) -> None:
        await socket.accept()
        await socket.raw(b"\x88\x00")

    async with dial(w, "/closes") as socket:
        assert (await closed(socket))[0] == 1000


async def test_a_server_that_speaks_first_is_heard(w: World) -> None:
    @w.dev.websocket("/first")
    async def first(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("hello")
        await socket.close(1000)

    async with dial(w, "/first") as socket:
        assert await socket.recv() == "hello"


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"\xf1\x00", 1011),  # reserved bits
        (b"\x83\x00", 1011),  # reserved opcode
        (b"\x81\x80\x00\x00\x00\x00", 1011),  # masked by a server
        (b"\x81\x02\xff\xfe", 1011),  # not UTF-8
        (b"\x00\x01x", 1011),  # continues nothing
        (b"\x88\x01\x03", 1011),  # half a close code
    ],
)
async def test_a_broken_frame_from_upstream_ends_the_socket(w: World, wire: bytes, code: int) -> None:
    @w.dev.websocket("/broken")
    async def broken(socket: WebSocket) -> None:
        await socket.accept()
        await socket.raw(wire)

    with anyio.fail_after(5):
        async with dial(w, "/broken") as socket:
            assert (await closed(socket))[0] == code
    assert (await w.get("/echo")).status == 200


async def test_an_upstream_that_is_gone_is_1011(w: World) -> None:
    @w.dev.websocket("/gone")
    async def gone(socket: WebSocket) -> None:
        await socket.accept()
        socket.abort()

    async with dial(w, "/gone") as socket:
        assert (await closed(socket))[0] == 1011


async def test_pings_from_upstream_are_answered_here(w: World) -> None:
    @w.dev.websocket("/pings")
    async def pings(socket: WebSocket) -> None:
        await socket.accept()
        await socket.raw(b"\x89\x04ping")
        await socket.send_text("after")
        await socket.receive()

    async with dial(w, "/pings") as socket:
        assert await socket.recv() == "after"
        await socket.send("x")


async def test_w07_a_message_over_the_limit_closes_with_1009() -> None:
    async with world(policy=Policy(limits=Limits(message_bytes=1000))) as w:

        @w.dev.websocket("/big")
        async def big(socket: WebSocket) -> None:
            await socket.accept()
            for opcode in (b"\x02", b"\x00", b"\x00"):
                await socket.raw(opcode + b"\x7e\x01\xf4" + b"x" * 500)
            await socket.receive()

        @w.dev.websocket("/fragments")
        async def fragments(socket: WebSocket) -> None:
            await socket.accept()
            await socket.raw(b"\x02\x00" + b"\x00\x00" * 5000)
            await socket.receive()

        for path in ("/big", "/fragments"):
            async with dial(w, path) as socket:
                assert (await closed(socket))[0] == 1009, path
        async with dial(w) as socket:
            await socket.send("x" * 1001)
            assert (await closed(socket))[0] == 1009


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://app.localhost"])
async def test_w02_another_origin_is_refused_before_anything_is_spent(w: World, origin: str | None) -> None:
    before = len(w.nullspace.edge_requests)
    with pytest.raises(InvalidStatus) as refusal:
        async with dial(w, origin=origin):
            pass
    assert refusal.value.response.status_code == 403
    assert len(w.nullspace.edge_requests) == before


async def test_w01_no_gate_no_socket(w: World) -> None:
    before = w.nullspace.mints
    with pytest.raises(InvalidStatus) as refusal:
        async with dial(w, headers={"Cookie": "x=1"}):
            pass
    assert refusal.value.response.status_code == 401
    assert w.nullspace.mints == before
    assert len(w.nullspace.edge_requests) == 0


async def test_a_leaving_visitor_closes_upstream(w: World) -> None:
    async with dial(w) as socket:
        await socket.send("x")
        await socket.recv()
        socket.transport.abort()
    with anyio.fail_after(3):
        await w.dev.wait_for(lambda dev: dev.open_connections == 0)


def our_tasks() -> list[asyncio.Task[Any]]:
    """The tasks that run the library's own code."""
    ours = []
    for task in asyncio.all_tasks():
        file = getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "")
        if "/preview_proxy/" in file and "/testing/" not in file:
            ours.append(task)
    return ours


@pytest.mark.parametrize(
    "server", [name for name, each in WEBSOCKET_SERVERS.items() if not isinstance(each, Apart)] + ["httpx"]
)
async def test_w13_however_a_socket_ends_no_task_is_left(server: str, caplog: pytest.LogCaptureFixture) -> None:
    foreign = httpx.AsyncHTTPTransport(trust_env=False) if server == "httpx" else None
    async with world(serve=WEBSOCKET_SERVERS.get(server), transport=foreign) as w:

        @w.dev.websocket("/ends")
        async def ends(socket: WebSocket) -> None:
            await socket.accept()
            await socket.close(1000, "")

        @w.dev.websocket("/breaks")
        async def breaks(socket: WebSocket) -> None:
            await socket.accept()
            await socket.raw(b"\xff\x00")

        @w.dev.websocket("/resets")
        async def resets(socket: WebSocket) -> None:
            await socket.accept()
            socket.abort()

        with anyio.fail_after(20):
            for path in ("/ends", "/breaks", "/resets"):
                async with dial(w, path) as socket:
                    await closed(socket)
            async with dial(w) as socket:
                socket.transport.abort()
            async with dial(w) as socket:
                await socket.send("x")
                await socket.recv()
                w.proxy.revoke(subject=OWNER)
                assert (await closed(socket))[0] == 4401
            with pytest.raises(InvalidStatus):
                async with dial(w, "/unknown"):
                    pass
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)
            while left := our_tasks():
                await asyncio.wait(left)
        assert not [record for record in caplog.records if record.exc_info or "never retrieved" in record.message]


async def test_a_shutdown_tells_both_sides() -> None:
    async with world() as w:
        async with dial(w) as socket:
            await socket.send("x")
            await socket.recv()
            async with anyio.create_task_group() as group:
                group.start_soon(w.proxy.aclose)
                assert (await closed(socket))[0] == 1012
        with anyio.fail_after(3):
            await w.dev.wait_for(lambda dev: any(s.close_code == 1012 for s in dev.websockets))


async def test_an_endless_refusal_is_502() -> None:
    async with world() as w:

        @w.dev.websocket("/endless")
        async def endless(socket: WebSocket) -> None:
            await socket.raw(b"HTTP/1.1 403 No\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await socket.raw(b"400\r\n" + bytes(1024) + b"\r\n")

        with anyio.fail_after(5), pytest.raises(InvalidStatus) as refusal:
            async with dial(w, "/endless"):
                pass
        assert refusal.value.response.status_code == 502


async def test_w10_a_refusal_under_way_is_revoked() -> None:
    async with world() as w:

        @w.dev.websocket("/slow-refusal")
        async def slow_refusal(socket: WebSocket) -> None:
            await socket.raw(b"HTTP/1.1 403 No\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf")
            w.proxy.revoke(subject=OWNER)
            await anyio.sleep_forever()

        with anyio.fail_after(5), pytest.raises(InvalidStatus) as refusal:
            async with dial(w, "/slow-refusal"):
                pass
        assert refusal.value.response.status_code == 401
