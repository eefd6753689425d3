"""The dev server, asked by raw sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable

import anyio
import h11
import pytest

from preview_proxy.testing import DevServer, Request, Response

pytestmark = pytest.mark.anyio


@pytest.fixture
async def dev() -> AsyncIterator[DevServer]:
    with anyio.fail_after(10):
        async with DevServer() as server:
            yield server


async def connect(dev: DevServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", dev.port)


async def talk(dev: DevServer, data: bytes) -> bytes:
    """Everything the server answers until it closes."""
    reader, writer = await connect(dev)
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: dev", *fields, "", ""]).encode()


def last(path: str, *fields: str, method: str = "GET") -> bytes:
    return get(path, "Connection: close", *fields, method=method)


async def test_what_arrives_is_recorded_exactly(dev: DevServer) -> None:
    request = b"POST /echo?a=%2F&b HTTP/1.1\r\nHoSt: dev\r\nX-Twice: 1\r\nx-twice: 2\r\n"
    request += b"Content-Length: 3\r\nConnection: close\r\n\r\nabc"
    answer = await talk(dev, request)
    (received,) = dev.received
    assert (received.method, received.target, received.path) == (b"POST", b"/echo?a=%2F&b", "/echo")
    assert received.headers[:3] == ((b"HoSt", b"dev"), (b"X-Twice", b"1"), (b"x-twice", b"2"))
    assert received.values(b"x-twice") == [b"1", b"2"]
    assert (received.body, received.complete, received.connection) == (b"abc", True, 0)
    assert dev.raw == [bytearray(request)]
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert seen["target"] == "/echo?a=%2F&b"
    assert seen["body_length"] == 3
    assert ["X-Twice", "1"] in seen["headers"]


async def test_the_root_is_a_page_and_an_unknown_path_is_not_found(dev: DevServer) -> None:
    assert b"text/html" in await talk(dev, last("/"))
    assert (await talk(dev, last("/nothing"))).startswith(b"HTTP/1.1 404")


async def test_a_connection_is_kept_for_further_requests(dev: DevServer) -> None:
    answer = await talk(dev, get("/status/201") + get("/status/204") + last("/status/418"))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"201", b"204", b"418"]
    assert [received.connection for received in dev.received] == [0, 0, 0]


async def test_a_status_without_a_body_has_no_length(dev: DevServer) -> None:
    assert b"ontent-" not in (await talk(dev, last("/status/204"))).replace(b"Content-Type", b"")


async def test_head_is_answered_with_the_length_and_no_body(dev: DevServer) -> None:
    answer = await talk(dev, last("/bytes/9", method="HEAD"))
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 9\r\n" in answer


async def test_bytes_sends_as_many_as_asked_for(dev: DevServer) -> None:
    assert len((await talk(dev, last("/bytes/200000"))).partition(b"\r\n\r\n")[2]) == 200_000


async def test_body_comes_back_while_it_is_still_being_sent(dev: DevServer) -> None:
    reader, writer = await connect(dev)
    writer.write(get("/body", "Transfer-Encoding: chunked", method="POST") + b"3\r\none\r\n")
    assert (await reader.readuntil(b"one\r\n")).startswith(b"HTTP/1.1 200")
    (received,) = dev.received
    assert not received.complete
    writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
    assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"
    assert (received.body, received.complete) == (b"onetwo", True)
    writer.close()


async def test_a_client_that_expects_100_is_told_to_continue(dev: DevServer) -> None:
    reader, writer = await connect(dev)
    writer.write(last("/body", "Expect: 100-continue", "Content-Length: 2", method="PUT"))
    await reader.readuntil(b"HTTP/1.1 100 \r\n\r\n")
    writer.write(b"ok")
    assert b"ok" in await reader.read()
    writer.close()


async def test_an_upload_that_nobody_reads_is_held_back(dev: DevServer) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @dev.route("/lazy")
    async def lazy(request: Request, response: Response) -> None:
        started.set()
        await go.wait()
        await response.send(200, body=b"%d" % len(await request.read()))

    size = 64 * 1024 * 1024
    reader, writer = await connect(dev)
    writer.write(last("/lazy", f"Content-Length: {size}", method="POST"))
    writer.write(bytes(size))
    await started.wait()
    drained = asyncio.create_task(writer.drain())
    await dev.wait_for(lambda dev: len(dev.raw[0]) > 100_000)
    assert not drained.done()
    go.set()
    await drained
    assert (await reader.read()).endswith(b"%d" % size)
    writer.close()


async def test_a_response_may_come_before_the_body(dev: DevServer) -> None:
    @dev.route("/early")
    async def early(request: Request, response: Response) -> None:
        await response.send(413, [("X-Case", b"kept")], b"too much")

    reader, writer = await connect(dev)
    writer.write(get("/early", "Content-Length: 4", method="POST"))
    assert b"X-Case: kept\r\n" in await reader.readuntil(b"too much")
    writer.write(b"late" + last("/"))
    assert b"It works" in await reader.read()
    assert dev.received[0].body == b"late"
    writer.close()


async def test_sse_sends_what_is_emitted_and_notices_who_leaves(dev: DevServer) -> None:
    reader, writer = await connect(dev)
    writer.write(get("/sse"))
    await dev.wait_for(lambda dev: bool(dev.received))
    dev.emit("one\ntwo")
    dev.emit("three")
    await reader.readuntil(b"data: one\ndata: two\n\n")
    await reader.readuntil(b"data: three\n\n")
    assert (dev.open_connections, dev.disconnects) == (1, 0)
    writer.close()
    await dev.wait_for(lambda dev: dev.disconnects == 1)
    assert dev.open_connections == 0


async def test_slow_answers_once_it_is_released(dev: DevServer) -> None:
    answer = asyncio.create_task(talk(dev, last("/slow")))
    await dev.wait_for(lambda dev: bool(dev.received))
    dev.release()
    assert (await answer).endswith(b"released")


async def test_interim_responses_and_trailers_are_sent(dev: DevServer) -> None:
    @dev.route("/hints")
    async def hints(request: Request, response: Response) -> None:
        await response.inform(103, [("Link", "</a.css>; rel=preload")])
        await response.start(200, [(b"Trailer", b"X-Sum")], "Fine")
        await response.write(b"x")
        await response.end([("X-Sum", "1")])

    answer = await talk(dev, last("/hints"))
    assert answer.startswith(b"HTTP/1.1 103 \r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 Fine\r\n")
    assert answer.endswith(b"0\r\nX-Sum: 1\r\n\r\n")


async def test_a_route_may_send_what_is_not_http(dev: DevServer) -> None:
    garbage = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz"

    @dev.route("/garbage")
    async def hostile(request: Request, response: Response) -> None:
        await response.raw(garbage)

    assert await talk(dev, get("/garbage")) == garbage


async def test_a_body_shorter_than_promised_ends_the_connection(dev: DevServer) -> None:
    @dev.route("/short")
    async def short(request: Request, response: Response) -> None:
        await response.start(200, [("Content-Length", "10")])
        await response.write(b"half")

    assert (await talk(dev, get("/short"))).endswith(b"half")


async def test_a_route_may_close_in_the_middle(dev: DevServer) -> None:
    @dev.route("/close")
    async def close(request: Request, response: Response) -> None:
        await response.start(200, [("Transfer-Encoding", "chunked")])
        await response.write(b"half")
        response.close()

    assert (await talk(dev, get("/close"))).endswith(b"half\r\n")


async def test_a_route_may_reset_the_connection(dev: DevServer) -> None:
    @dev.route("/abort")
    async def abort(request: Request, response: Response) -> None:
        response.abort()

    with pytest.raises(ConnectionResetError):
        await talk(dev, get("/abort"))
    assert (dev.open_connections, dev.disconnects) == (0, 0)


async def test_resetting_a_connection_that_is_gone_does_nothing(dev: DevServer) -> None:
    _, writer = await connect(dev)
    await dev.wait_for(lambda dev: dev.open_connections == 1)
    dev.connections[0].abort()
    writer.close()
    await writer.wait_closed()
    dev.connections[0].abort()


async def test_a_route_that_says_nothing_is_a_500(dev: DevServer) -> None:
    @dev.route("/silent")
    async def silent(request: Request, response: Response) -> None:
        pass

    assert (await talk(dev, last("/silent"))).startswith(b"HTTP/1.1 500")


async def test_what_is_not_http_is_refused_and_counted(dev: DevServer) -> None:
    assert (await talk(dev, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")
    assert dev.connection_errors == 1
    assert not dev.received


async def test_a_body_that_breaks_off_stays_incomplete(dev: DevServer) -> None:
    _, writer = await connect(dev)
    writer.write(get("/body", "Content-Length: 9", method="POST") + b"half")
    await dev.wait_for(lambda dev: bool(dev.received and dev.received[0].body))
    writer.close()
    await dev.wait_for(lambda dev: dev.disconnects == 1)
    assert not dev.received[0].complete


async def test_a_fault_in_a_route_comes_out_of_the_block() -> None:
    with pytest.raises(h11.LocalProtocolError):
        await go_wrong(lambda: None)


async def test_a_fault_in_a_route_is_noted_on_the_error_that_it_caused() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        await go_wrong(lambda: 1 / 0)
    assert "DevServer also failed: LocalProtocolError" in caught.value.__notes__[0]


async def go_wrong(afterwards: Callable[[], object]) -> None:
    async with DevServer() as dev:

        @dev.route("/wrong")
        async def wrong(request: Request, response: Response) -> None:
            await response.inform(200)

        await talk(dev, get("/wrong"))
        afterwards()


async def test_leaving_the_block_ends_what_still_runs() -> None:
    async with DevServer() as dev:
        reader, writer = await connect(dev)
        writer.write(get("/slow"))
        await dev.wait_for(lambda dev: bool(dev.received))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
