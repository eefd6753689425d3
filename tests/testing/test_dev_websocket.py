"""The dev server's WebSockets, with an independent client and by hand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import anyio
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.typing import Subprotocol

from preview_proxy.testing import Closed, DevServer, WebSocket

pytestmark = pytest.mark.anyio

HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: dev\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@pytest.fixture
async def dev() -> AsyncIterator[DevServer]:
    with anyio.fail_after(10):
        async with DevServer() as server:
            yield server


def dial(dev: DevServer, path: str = "/ws", *subprotocols: str) -> connect:
    offered = [Subprotocol(name) for name in subprotocols] or None
    return connect(f"ws://127.0.0.1:{dev.port}{path}", proxy=None, subprotocols=offered)


async def test_ws_echoes_text_binary_and_nothing(dev: DevServer) -> None:
    async with dial(dev, "/ws?token=1") as client:
        for message in ("héllo", b"\x00\xff", "", b"", "x" * 100_000):
            await client.send(message)
            assert await client.recv() == message
    (websocket,) = dev.websockets
    assert websocket.messages[:4] == ["héllo", b"\x00\xff", "", b""]
    assert websocket.handshake.target == b"/ws?token=1"
    assert websocket.handshake in dev.received


async def test_fragments_become_one_message_and_pings_are_answered(dev: DevServer) -> None:
    async with dial(dev) as client:
        await client.send(["a", "b", "c"])
        assert await client.recv() == "abc"
        await client.send([b"\x00", b"\x01"])
        assert await client.recv() == b"\x00\x01"
        await (await client.ping())


async def test_the_peers_close_code_and_reason_are_recorded(dev: DevServer) -> None:
    client = await dial(dev)
    await client.close(4321, "enough")
    await dev.wait_for(lambda dev: dev.websockets[0].close_code is not None)
    assert (dev.websockets[0].close_code, dev.websockets[0].close_reason) == (4321, "enough")


async def test_ws_takes_the_first_subprotocol_offered(dev: DevServer) -> None:
    async with dial(dev, "/ws", "vite-hmr", "other") as client:
        assert client.subprotocol == "vite-hmr"
    assert dev.websockets[0].subprotocols == ["vite-hmr", "other"]


async def test_a_route_chooses_subprotocol_headers_close_code_and_reason(dev: DevServer) -> None:
    @dev.websocket("/chosen")
    async def chosen(websocket: WebSocket) -> None:
        await websocket.accept("b", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        await websocket.send_bytes(b"hi")
        await websocket.ping(b"there")
        await websocket.close(4000, "bye")

    async with dial(dev, "/chosen", "a", "b") as client:
        assert client.subprotocol == "b"
        assert client.response is not None
        assert client.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
        assert await client.recv() == b"hi"
        with pytest.raises(ConnectionClosedError):
            await client.recv()
        assert (client.close_code, client.close_reason) == (4000, "bye")
    assert dev.websockets[0].close_code == 4000


async def test_a_route_that_returns_closes_with_1000(dev: DevServer) -> None:
    @dev.websocket("/brief")
    async def brief(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("done")

    async with dial(dev, "/brief") as client:
        assert await client.recv() == "done"
        with pytest.raises(ConnectionClosedOK):
            await client.recv()


async def test_a_route_may_refuse_with_an_ordinary_response(dev: DevServer) -> None:
    @dev.websocket("/private")
    async def private(websocket: WebSocket) -> None:
        await websocket.reject(401, [("WWW-Authenticate", "Basic")], b"who are you?")

    with pytest.raises(InvalidStatus) as caught:
        await dial(dev, "/private")
    assert caught.value.response.status_code == 401
    assert caught.value.response.body == b"who are you?"


async def test_a_route_may_send_bytes_that_are_no_frames(dev: DevServer) -> None:
    @dev.websocket("/garbage")
    async def garbage(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.raw(b"\xff\xff\xff")

    async with dial(dev, "/garbage") as client:
        with pytest.raises(ConnectionClosedError):
            await client.recv()
    await dev.wait_for(lambda dev: dev.websockets[0].close_code == 1002)


async def test_a_route_may_reset_the_connection(dev: DevServer) -> None:
    @dev.websocket("/abort")
    async def abort(websocket: WebSocket) -> None:
        await websocket.accept()
        websocket.abort()

    async with dial(dev, "/abort") as client:
        with pytest.raises(ConnectionClosedError):
            await client.recv()
    await dev.wait_for(lambda dev: dev.websockets[0].close_code == 1006)


async def test_a_peer_that_vanishes_is_1006_now_and_ever_after(dev: DevServer) -> None:
    seen: list[int] = []

    @dev.websocket("/vanish")
    async def vanish(websocket: WebSocket) -> None:
        await websocket.accept()
        for _ in range(2):
            try:
                await websocket.receive()
            except Closed as closed:
                seen.append(closed.code)

    reader, writer = await asyncio.open_connection("127.0.0.1", dev.port)
    writer.write(HANDSHAKE % b"/vanish")
    await reader.readuntil(b"\r\n\r\n")
    reset(writer)
    await dev.wait_for(lambda dev: dev.open_connections == 0 and len(seen) == 2)
    assert seen == [1006, 1006]


async def test_a_frame_that_breaks_the_protocol_is_closed_with_1002(dev: DevServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", dev.port)
    writer.write(HANDSHAKE % b"/ws" + b"\x81\x02hi")  # not masked; and sent with the handshake
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.partition(b"\r\n\r\n")[2][2:4] == (1002).to_bytes(2, "big")
    writer.close()


async def test_ws_without_an_upgrade_is_an_ordinary_request(dev: DevServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", dev.port)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: dev\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 404")
    writer.close()
