"""A server process that is told to stop, with everything open that can be."""

from __future__ import annotations

import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.abc
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from preview_proxy.testing import WebSocket
from tests.test_mounting import Site, heard
from tests.test_process import ended, in_a_process
from tests.world import read_answer

pytestmark = pytest.mark.anyio

SOCKETS = 500
DRAIN = 4
"""Seconds that requests under way have; uvicorn's own time, which is unlimited by default."""


async def never_reading(site: Site) -> anyio.abc.ByteStream:
    """A WebSocket whose visitor does not read, and whose machine has filled everything between them."""
    stream = await anyio.connect_tcp("127.0.0.1", site.port)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": f"http://{site.host}"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    await stream.send(site.request("/flood", **upgrade, **key))
    await site.dev.wait_for(lambda dev: any(each.path == "/flood" for each in dev.received))
    return stream


async def test_v09_pitfall_64_sigterm_with_500_sockets_one_of_which_never_reads(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        options = ["--timeout-graceful-shutdown", str(DRAIN)]
        site, running = await stack.enter_async_context(in_a_process(tmp_path, *options))
        stack.enter_context(anyio.fail_after(90))

        @site.dev.websocket("/flood")
        async def flood(socket: WebSocket) -> None:
            await socket.accept()
            while True:
                await socket.send_bytes(bytes(64 * 1024))

        sockets = [await stack.enter_async_context(site.dial()) for _ in range(SOCKETS)]
        assert await heard(sockets[0])
        assert await heard(sockets[-1])
        stack.push_async_callback((await never_reading(site)).aclose)
        slow, events = [await stack.enter_async_context(site.connected()) for _ in range(2)]
        await slow.send(site.request("/slow"))
        await events.send(site.request("/sse"))
        await site.dev.wait_for(lambda dev: {"/slow", "/sse"} <= {each.path for each in dev.received})

        told_at = time.monotonic()
        running.send_signal(signal.SIGTERM)
        codes: list[int | None] = []

        async def closes(socket: ClientConnection) -> None:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            codes.append(socket.close_code)

        async with anyio.create_task_group() as group:
            for socket in sockets:
                group.start_soon(closes, socket)
        assert codes == [1012] * SOCKETS
        site.dev.release()
        assert (await read_answer(slow)).body == b"released"  # it could finish
        assert not (await read_answer(events)).complete  # it was cut
        await ended(running)
        assert time.monotonic() - told_at < DRAIN + 2
        await site.dev.wait_for(lambda dev: dev.open_connections == 0)
        assert [each.close_code for each in site.dev.websockets[:SOCKETS]] == [1012] * SOCKETS
