"""Exchanges that break off, fall silent, or break the rules, through the whole stack."""

from __future__ import annotations

from contextlib import suppress

import anyio
import httpx
import pytest

from preview_proxy import Limits, Policy
from preview_proxy.testing import Request, Response
from tests.world import World, read_answer, world

pytestmark = pytest.mark.anyio


async def test_r13_a_leaving_visitor_takes_the_upstream_request_along_before_the_head(w: World) -> None:
    async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
        await stream.send(w.request("/slow"))
        with anyio.fail_after(5):
            await w.dev.wait_for(lambda dev: any(r.path == "/slow" for r in dev.received))
    with anyio.fail_after(1):
        await w.dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_r13_a_broken_upload_is_never_ended_as_if_whole(w: World) -> None:
    async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
        headers = {"Transfer-Encoding": "chunked", "Origin": w.origin}
        await stream.send(w.request("/body", method="POST", headers=headers) + b"3\r\nabc\r\n")
        with anyio.fail_after(5):
            await w.dev.wait_for(lambda dev: any(r.body == b"abc" for r in dev.received))
    with anyio.fail_after(2):
        await w.dev.wait_for(lambda dev: dev.open_connections == 0)
    assert not w.dev.received[-1].complete


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    ],
)
async def test_r13_an_answer_that_breaks_off_is_cut_not_ended(w: World, wire: bytes) -> None:
    @w.dev.route("/broken")
    async def broken(request: Request, response: Response) -> None:
        await response.raw(wire)
        response.close()

    answer = await w.get("/broken")
    assert (answer.status, answer.complete) == (200, False)
    assert (await w.get("/echo")).status == 200


@pytest.mark.parametrize(
    "wire",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000,
        b"HTTP/1.1 200 OK\r\nbad name: x\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["text", "tls", "nothing", "999", "101", "two lengths", "endless head", "bad name"],
)
async def test_garbage_from_upstream_is_502(w: World, wire: bytes) -> None:
    @w.dev.route("/garbage")
    async def garbage(request: Request, response: Response) -> None:
        await response.raw(wire)
        response.close()

    answer = await w.get("/garbage")
    assert (answer.status, answer.json()["code"]) == (502, "upstream_protocol_error")
    assert (await w.get("/echo")).status == 200


async def test_r01_both_framings_from_upstream_leave_one_downstream(w: World) -> None:
    @w.dev.route("/both")
    async def both(request: Request, response: Response) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        await response.raw(head + b"5\r\nhello\r\n0\r\n\r\n")
        response.close()

    answer = await w.get("/both")
    if answer.status == 200:
        assert answer.body == b"hello"
        assert len(answer.values(b"content-length") + answer.values(b"transfer-encoding")) == 1
    else:
        assert answer.status == 502


async def test_an_answer_before_the_body_is_read_is_relayed(w: World) -> None:
    @w.dev.route("/early")
    async def early(request: Request, response: Response) -> None:
        await response.send(413, [("connection", "close")], b"too much")
        response.close()

    request = w.request("/early", method="POST", headers={"Content-Length": "11", "Origin": w.origin})
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            await stream.send(request + b"hello ")
            await w.dev.wait_for(lambda dev: any(r.path == "/early" for r in dev.received))
            await stream.send(b"world")
            assert (await read_answer(stream, "POST")).status == 413


async def test_p18_limits_on_the_body_are_kept() -> None:
    async with world(policy=Policy(limits=Limits(body_bytes=10))) as w:
        head = w.request("/body", method="POST", headers={"Content-Length": "11", "Origin": w.origin})
        answer = await w.raw(head + b"x" * 11)
        assert (answer.status, answer.json()["code"]) == (413, "body_too_large")
        head = w.request("/body", method="POST", headers={"Content-Length": "10", "Origin": w.origin})
        assert (await w.raw(head + b"x" * 10)).body == b"x" * 10


async def test_v01_a_silent_upstream_is_504() -> None:
    async with world(policy=Policy(limits=Limits(head_timeout=0.05))) as w:
        answer = await w.get("/slow")
        assert (answer.status, answer.json()["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("transport", [None, "httpx"])
@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
async def test_v11_a_visitor_who_stops_in_the_body_is_not_waited_for(transport: str | None, framing: str) -> None:
    other = httpx.AsyncHTTPTransport(trust_env=False) if transport else None
    async with world(policy=Policy(limits=Limits(idle_timeout=0.2)), transport=other) as w:

        @w.dev.route("/reads")
        async def reads(request: Request, response: Response) -> None:
            with suppress(ConnectionError):
                await request.read()

        name, value = framing.split(": ")
        head = w.request("/reads", method="POST", headers={"Origin": w.origin, name: value})
        answer = await w.raw(head + (b"3\r\nabc\r\n" if "chunked" in framing else b"abc"), method="POST")
        assert (answer.status, answer.json()["code"]) == (408, "body_timeout")
        with anyio.fail_after(3):
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)
        assert not w.dev.received[-1].complete


async def test_v11_a_slow_upload_that_goes_on_is_waited_for() -> None:
    async with world(policy=Policy(limits=Limits(idle_timeout=0.5))) as w:
        head = w.request("/body", method="POST", headers={"Origin": w.origin, "Content-Length": "8"})
        with anyio.fail_after(10):
            async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
                await stream.send(head)
                for _ in range(8):
                    await anyio.sleep(0.1)
                    await stream.send(b"x")
                assert (await read_answer(stream, "POST")).body == b"x" * 8


async def test_v01_a_body_that_falls_silent_is_cut() -> None:
    async with world(policy=Policy(limits=Limits(idle_timeout=0.05))) as w:

        @w.dev.route("/stalls")
        async def stalls(request: Request, response: Response) -> None:
            await response.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)

        answer = await w.get("/stalls")
        assert (answer.status, answer.body, answer.complete) == (200, b"abc", False)
