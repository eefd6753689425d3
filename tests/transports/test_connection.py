"""What a hostile or broken upstream must not be able to hold: places in the pool, tasks, sockets and memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from preview_proxy import Limits
from preview_proxy.core.models import Endpoint, Origin, Outbound
from preview_proxy.testing import DevServer, Request, Response
from preview_proxy.transports import connection
from preview_proxy.transports.pool import UpstreamPool
from preview_proxy.transports.request import NO_BODY, UpstreamRequest

pytestmark = pytest.mark.anyio

MEBIBYTE = 1024 * 1024


@pytest.fixture
async def dev() -> AsyncIterator[DevServer]:
    async with DevServer() as server:
        yield server


class Upload(httpx.AsyncByteStream):
    """A body of `size` bytes, after which it stays silent until it is closed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.ended = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for _ in range(0, self.size, MEBIBYTE):
                yield bytes(min(self.size, MEBIBYTE))
            await anyio.sleep_forever()
        finally:
            self.ended.set()


def request(dev: DevServer, target: str, body: Upload | None = None) -> UpstreamRequest:
    method = "GET" if body is None else "POST"
    framing = () if body is None else ((b"transfer-encoding", b"chunked"),)
    endpoint = Endpoint(Origin("http", "127.0.0.1", dev.port))
    outbound = Outbound(method, endpoint, target.encode(), ((b"host", b"x"), *framing), body is not None, None)
    return UpstreamRequest(outbound, body or NO_BODY)


async def no_places_taken(pool: UpstreamPool) -> None:
    with anyio.fail_after(5):
        while any(line.count for line in pool._lines.values()):
            await anyio.lowlevel.checkpoint()


async def test_an_answer_before_an_upload_that_nobody_reads_keeps_no_place(
    dev: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dev.route("/early")
    async def early(asked: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await anyio.sleep_forever()

    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.1)
    pool = UpstreamPool()
    response = await pool.send(request(dev, "/early", Upload(30 * MEBIBYTE)))
    assert b"".join([chunk async for chunk in response]) == b"ok"
    await no_places_taken(pool)


async def test_an_answer_that_ends_with_the_connection_ends_the_upload(dev: DevServer) -> None:
    @dev.route("/early")
    async def early(asked: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 200 OK\r\n\r\nok")

    pool, upload = UpstreamPool(), Upload(1)
    response = await pool.send(request(dev, "/early", upload))
    assert b"".join([chunk async for chunk in response]) == b"ok"
    with anyio.fail_after(5):
        await upload.ended.wait()
    await no_places_taken(pool)


async def test_a_101_that_nobody_wants_is_closed(dev: DevServer) -> None:
    @dev.route("/upgrades")
    async def upgrades(asked: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await anyio.sleep_forever()

    response = await UpstreamPool().send(request(dev, "/upgrades"))
    assert response.status_code == 101
    await response.aclose()
    with anyio.fail_after(5):
        await dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_v12_a_long_body_is_no_credit_for_endless_trailers(dev: DevServer) -> None:
    @dev.route("/trailers")
    async def trailers(asked: Request, response: Response) -> None:
        body = b"100000\r\n" + bytes(MEBIBYTE) + b"\r\n"
        await response.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + 8 * body + b"0\r\n")
        while True:
            await response.raw(b"x: " + 8192 * b"a" + b"\r\n")

    response = await UpstreamPool().send(request(dev, "/trailers"))
    with anyio.fail_after(5), pytest.raises(httpx.RemoteProtocolError):
        async for _ in response:
            pass
    assert sum(len(value) for _, value in response.trailers) < MEBIBYTE


async def test_v01_a_body_that_falls_silent_during_an_upload_is_not_waited_for(dev: DevServer) -> None:
    @dev.route("/silent")
    async def silent(asked: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        async for _ in asked.chunks():
            pass

    pool, upload = UpstreamPool(Limits(idle_timeout=0.3)), Upload(20 * MEBIBYTE)
    response = await pool.send(request(dev, "/silent", upload))
    with anyio.fail_after(5), pytest.raises(httpx.ReadTimeout):
        await response.read_chunk()
    await no_places_taken(pool)


async def test_an_empty_chunk_does_not_end_a_body(dev: DevServer) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one", b"", b"two"):
            yield part

    async with httpx.AsyncClient(transport=UpstreamPool()) as client:
        response = await client.post(f"http://127.0.0.1:{dev.port}/body", content=parts())
    assert response.content == b"onetwo"
