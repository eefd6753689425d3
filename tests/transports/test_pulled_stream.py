"""A WebSocket over a stream that is read and written by calls, as httpx's ``network_stream`` is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from preview_proxy.core.frames import BINARY, PING, PONG, TEXT
from preview_proxy.transports.websocket_stream import MAX_QUEUED, ByteStream, Closed, PulledStream, WebSocketStream
from tests.transports.test_websocket_stream import LIMITS, frame, frames, received

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class NetworkStream:
    """What httpx's ``network_stream`` is: `said` is read from it, and `writes` block while `is_stuck`."""

    def __init__(self) -> None:
        send, self._said = anyio.create_memory_object_stream[bytes](1000)
        self.say = send.send_nowait
        self.hang_up = send.close
        self.sent = b""
        self.is_stuck = False
        self.fails = False

    async def read(self, max_bytes: int) -> bytes:
        try:
            return await self._said.receive()
        except anyio.EndOfStream:
            return b""

    async def write(self, data: bytes) -> None:
        if self.fails:
            raise OSError
        if self.is_stuck:
            await anyio.sleep_forever()
        self.sent += data

    def close(self) -> None:
        self.hang_up()
        self._said.close()


@pytest.fixture
async def network() -> Any:
    made = NetworkStream()
    yield made
    made.close()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await anyio.sleep(0.001)


async def test_a_pulled_stream_is_a_byte_stream(network: NetworkStream) -> None:
    stream: ByteStream = PulledStream(network)
    socket = WebSocketStream(stream, LIMITS)
    network.say(frame(TEXT, b"one") + frame(PING, b"ping"))
    network.say(frame(BINARY, b"two"))
    assert [await received(socket), await received(socket)] == ["one", b"two"]
    assert await socket.send("three")
    assert await socket.send("four")
    await until(lambda: not stream.is_blocked)
    assert frames(network.sent) == [(PONG, b"ping"), (TEXT, b"three"), (TEXT, b"four")]
    network.hang_up()
    assert await received(socket) == Closed(1006)
    assert not await socket.send("five")
    socket.abort()


async def test_a_pulled_stream_is_not_read_while_it_is_paused(network: NetworkStream) -> None:
    socket = WebSocketStream(PulledStream(network), LIMITS)
    for _ in range(5 * MAX_QUEUED):
        network.say(frame(TEXT, b"x"))
    await until(lambda: len(socket._queue) > MAX_QUEUED)
    await anyio.wait_all_tasks_blocked()
    assert len(socket._queue) == MAX_QUEUED + 1
    for _ in range(5 * MAX_QUEUED):
        assert await received(socket) == "x"
    socket.abort()


async def test_a_pulled_stream_that_takes_nothing_is_dropped(network: NetworkStream) -> None:
    network.is_stuck = True
    socket = WebSocketStream(PulledStream(network), LIMITS)
    with anyio.fail_after(5):
        assert not await socket.send("x")
    assert not await socket.send("y")


async def test_a_pulled_stream_that_breaks_is_gone(network: NetworkStream) -> None:
    network.fails = True
    stream = PulledStream(network)
    socket = WebSocketStream(stream, LIMITS)
    with anyio.fail_after(5):
        await socket.send("x")
        await until(lambda: not stream.write(b""))
        assert not await socket.send("y")
    socket.abort()


async def test_a_pulled_stream_that_is_none_is_gone() -> None:
    """A 101 from a transport that hands over no stream."""
    socket = WebSocketStream(PulledStream(None), LIMITS)
    assert await received(socket) == Closed(1006)
    socket.abort()
