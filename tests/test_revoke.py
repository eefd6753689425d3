"""Taking access back: what is open ends, and what is asked next is decided anew."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from preview_proxy import Preview
from tests.transports.test_relay_websocket import closed, dial
from tests.world import MACHINE, OWNER, World, world

pytestmark = pytest.mark.anyio
PREVIEW = Preview(MACHINE, 3000)


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def test_a07_a_decision_stands_until_it_is_revoked(w: World) -> None:
    assert (await w.get("/echo")).status == 200
    w.allowed.clear()
    assert (await w.get("/echo")).status == 200
    assert w.proxy.revoke(subject=OWNER) == 0
    assert (await w.get("/echo")).status == 404


async def test_w10_an_open_websocket_is_closed_with_4403_on_both_sides(w: World) -> None:
    with anyio.fail_after(10):
        async with dial(w) as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
            assert w.proxy.revoke(preview=PREVIEW) == 1
            assert (await closed(socket))[0] == 4403
        await w.dev.wait_for(lambda dev: dev.websockets[-1].close_code == 1001)


async def test_a08_an_event_stream_is_cut(w: World) -> None:
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            await stream.send(w.request("/sse"))
            await w.dev.wait_for(lambda dev: any(received.path == "/sse" for received in dev.received))
            w.dev.emit("tick")
            seen = b""
            while b"tick" not in seen:
                seen += await stream.receive()
            assert w.proxy.revoke(subject=OWNER, preview=PREVIEW) == 1
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while chunk := await stream.receive():
                    assert b"0\r\n\r\n" not in chunk
        await w.dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_a_request_that_has_no_answer_yet_is_refused(w: World) -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                answer = await w.get("/slow")
                assert (answer.status, answer.json()["code"]) == (404, "no_such_preview")

            group.start_soon(ask)
            await w.dev.wait_for(lambda dev: any(received.path == "/slow" for received in dev.received))
            w.proxy.revoke(subject=OWNER)


async def test_others_keep_what_they_have(w: World) -> None:
    with anyio.fail_after(10):
        async with dial(w) as socket:
            await socket.send("x")
            await socket.recv()
            assert w.proxy.revoke(subject="grace") == w.proxy.revoke(preview=Preview(MACHINE, 3001)) == 0
            await socket.send("y")
            assert await socket.recv() == "y"


async def test_somebody_or_something_is_named(w: World) -> None:
    with pytest.raises(ValueError, match="name the subject"):
        w.proxy.revoke()
