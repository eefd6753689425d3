"""The upstream pool against a server that does anything: what it sends, keeps, repeats and never loses."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest

from preview_proxy.core.models import Endpoint, Origin, Outbound
from preview_proxy.core.policy import Limits
from preview_proxy.core.secret import Secret
from preview_proxy.testing import DevServer, Request, Response
from preview_proxy.transports.pool import UpstreamPool, verifying_context
from preview_proxy.transports.request import NO_BODY, UpstreamRequest, UpstreamResponse

pytestmark = pytest.mark.anyio


@pytest.fixture
async def dev() -> AsyncIterator[DevServer]:
    async with DevServer() as server:
        yield server


@pytest.fixture
async def pool() -> AsyncIterator[UpstreamPool]:
    made = UpstreamPool()
    yield made
    await made.aclose()


def request(dev: DevServer, target: str = "/echo", *, method: str = "GET", token: str = "") -> UpstreamRequest:
    credentials = ((b"x-token", Secret(token)),) if token else ()
    endpoint = Endpoint(Origin("http", "127.0.0.1", dev.port), credentials=credentials)
    outbound = Outbound(method, endpoint, target.encode(), ((b"host", b"x"),), has_body=False, content_length=None)
    return UpstreamRequest(outbound, NO_BODY)


async def fetch(pool: UpstreamPool, asked: UpstreamRequest) -> tuple[int, bytes]:
    response = await pool.handle_async_request(asked)
    assert isinstance(response, UpstreamResponse)
    body = b"".join([chunk async for chunk in response])
    await response.aclose()
    return response.status_code, body


async def test_a_connection_is_used_again(dev: DevServer, pool: UpstreamPool) -> None:
    for _ in range(3):
        assert (await fetch(pool, request(dev)))[0] == 200
    assert {received.connection for received in dev.received} == {0}


async def test_p17_another_credential_has_another_connection(dev: DevServer, pool: UpstreamPool) -> None:
    for token in ("first-token", "other-token", "first-token"):
        await fetch(pool, request(dev, token=token))
    assert [received.connection for received in dev.received] == [0, 1, 0]
    assert [received.values(b"x-token") for received in dev.received] == [
        [b"first-token"],
        [b"other-token"],
        [b"first-token"],
    ]


async def test_h14_no_object_above_the_wire_shows_the_credential(dev: DevServer, pool: UpstreamPool) -> None:
    asked = request(dev, token="canary-credential")
    response = await pool.handle_async_request(asked)
    shown = [
        repr(asked),
        str(asked.headers),
        repr(asked.headers),
        repr(asked.extensions),
        repr(asked.outbound),
        str(asked.url),
    ]
    assert not any("canary" in text for text in shown)
    assert not any("canary" in repr(each) for each in (response, pool, asked.outbound.endpoint))
    await response.aclose()


async def test_it_is_a_transport_that_httpx_can_use(dev: DevServer) -> None:
    async with httpx.AsyncClient(transport=UpstreamPool()) as client:
        response = await client.post(f"http://127.0.0.1:{dev.port}/body?a=1", content=b"hello")
        assert (response.status_code, response.content) == (200, b"hello")
        assert dev.received[0].target == b"/body?a=1"


async def test_p17_bytes_after_a_body_reach_nobody(dev: DevServer, pool: UpstreamPool) -> None:
    @dev.route("/smuggles")
    async def smuggles(asked: Request, response: Response) -> None:
        poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
        await response.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + poison)

    for _ in range(3):
        assert await fetch(pool, request(dev, "/smuggles")) == (200, b"ok")
    assert b"poison" not in (await fetch(pool, request(dev)))[1]
    assert len({received.connection for received in dev.received}) == 4


async def test_p17_bytes_that_nobody_asked_for_close_an_idle_connection(dev: DevServer, pool: UpstreamPool) -> None:
    @dev.route("/late")
    async def late(asked: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await dev.wait_for(lambda dev: len(answered) == 1)
        await response.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

    answered: list[bytes] = []
    answered.append((await fetch(pool, request(dev, "/late")))[1])
    dev.emit("wake")
    with anyio.fail_after(5):
        await dev.wait_for(lambda dev: dev.open_connections == 0)
    assert (await fetch(pool, request(dev)))[0] == 200


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("DELETE", 200), ("POST", 0)])
async def test_a_connection_closed_while_idle_is_replaced_once(
    dev: DevServer, pool: UpstreamPool, method: str, status: int
) -> None:
    """The close arrives with our request on the way: only a request that may be repeated is."""
    asked = 0

    @dev.route("/once")
    async def once(_: Request, response: Response) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            response.close()
        else:
            await response.send(200, [], b"")

    assert (await fetch(pool, request(dev, "/once")))[0] == 200
    if status:
        assert (await fetch(pool, request(dev, "/once", method=method)))[0] == status
        assert asked == 3
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(pool, request(dev, "/once", method=method))
        assert asked == 2


async def test_a_new_connection_is_not_tried_again(dev: DevServer, pool: UpstreamPool) -> None:
    @dev.route("/never")
    async def never(_: Request, response: Response) -> None:
        response.close()

    with pytest.raises(httpx.RemoteProtocolError):
        await fetch(pool, request(dev, "/never"))
    assert len(dev.received) == 1


async def test_p11_no_variable_of_the_environment_reroutes_or_records_the_credential(
    dev: DevServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with DevServer() as trap:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{trap.port}")
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login canary password canary")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
        pool = UpstreamPool()
        assert (await fetch(pool, request(dev, token="canary-credential")))[0] == 200
        assert dev.received[-1].values(b"authorization") == []
        assert trap.received == []
        await pool.aclose()
    assert verifying_context().keylog_filename is None


async def test_connections_are_bounded_and_the_wait_for_one_too(dev: DevServer) -> None:
    pool = UpstreamPool(Limits(connections=2, pool_timeout=0.05))
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(fetch, pool, request(dev, "/slow"))
        with anyio.fail_after(5):
            await dev.wait_for(lambda dev: len(dev.received) == 2)
        with pytest.raises(httpx.PoolTimeout):
            await fetch(pool, request(dev))
        dev.release()
    assert (await fetch(pool, request(dev)))[0] == 200
    await pool.aclose()


async def test_who_waits_gets_the_next_free_connection(dev: DevServer) -> None:
    pool = UpstreamPool(Limits(connections=1, pool_timeout=5))
    done: list[int] = []

    async def one(number: int) -> None:
        await fetch(pool, request(dev, f"/echo?{number}"))
        done.append(number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
    assert done == list(range(20))
    assert len(dev.connections if isinstance(dev.connections, list) else [1]) == 1
    await pool.aclose()


async def test_v01_an_upstream_that_says_nothing_in_tls_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint(Origin("https", "up.localhost", silent.getsockname()[1]))
        outbound = Outbound("GET", endpoint, b"/", ((b"host", b"x"),), has_body=False, content_length=None)
        pool = UpstreamPool(Limits(connect_timeout=0.1, connections=1))
        for _ in range(2):  # the second needs the place of the first
            with anyio.fail_after(5), pytest.raises(httpx.ConnectTimeout):
                await pool.handle_async_request(UpstreamRequest(outbound, NO_BODY))
        await pool.aclose()


async def test_a_failed_connect_gives_its_place_back() -> None:
    async with DevServer() as gone:
        asked = request(gone)
    pool = UpstreamPool(Limits(connections=1, pool_timeout=0.5))
    for _ in range(3):
        with pytest.raises(httpx.ConnectError):
            await pool.handle_async_request(asked)


async def test_ten_thousand_cancelled_requests_cost_no_place(dev: DevServer) -> None:
    """httpcore's issue 1093: a request cancelled at the wrong moment must not keep its connection's place."""
    pool = UpstreamPool(Limits(connections=8, pool_timeout=30))
    chance = random.Random(1093)

    async def cancelled() -> None:
        with anyio.move_on_after(chance.choice([0, 0.0001, 0.001, 0.005, 0.02])):
            await fetch(pool, request(dev, chance.choice(["/echo", "/bytes/100000", "/slow"])))

    with anyio.fail_after(100):
        for _ in range(100):
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(cancelled)
    began = time.perf_counter()
    assert (await fetch(pool, request(dev)))[0] == 200
    assert time.perf_counter() - began < 2  # a leaked place would cost the whole pool timeout
    assert all(line.count <= 8 and not line.waiting for line in pool._lines.values())
    await pool.aclose()


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\x00: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    ],
)  # fmt: skip
async def test_v12_a_head_that_can_be_read_in_two_ways_is_refused(
    dev: DevServer, pool: UpstreamPool, wire: bytes
) -> None:
    @dev.route("/bad")
    async def bad(_: Request, response: Response) -> None:
        await response.raw(wire)

    with anyio.fail_after(5), pytest.raises(httpx.RemoteProtocolError):
        await pool.handle_async_request(request(dev, "/bad"))
    assert (await fetch(pool, request(dev)))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"3\r\nabcXX0\r\n\r\n",
        b"zz\r\n",
        b"-1\r\n",
        b"ffffffffffffffffff\r\n",
        b"3\nabc\n0\n\n",
        b"1;" + b"x" * 100_000,
        b"1\r\na\r\n0\r\n" + b"Trailer: x\r\n" * 20_000,
    ],
    ids=["data too long", "no number", "sign", "overflow", "bare LF", "endless extension", "endless trailers"],
)
async def test_v12_a_body_that_breaks_its_framing_is_broken_off(
    dev: DevServer, pool: UpstreamPool, body: bytes
) -> None:
    @dev.route("/bad")
    async def bad(_: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)

    with anyio.fail_after(5), pytest.raises(httpx.RemoteProtocolError):
        await fetch(pool, request(dev, "/bad"))


async def test_a_body_without_a_length_ends_with_the_connection(dev: DevServer, pool: UpstreamPool) -> None:
    @dev.route("/old")
    async def old(_: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        response.close()

    assert await fetch(pool, request(dev, "/old")) == (200, b"all of it")


async def test_informational_responses_are_passed_on_and_trailers_kept(dev: DevServer, pool: UpstreamPool) -> None:
    @dev.route("/both")
    async def both(_: Request, response: Response) -> None:
        await response.raw(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await response.raw(b"2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n")

    informed: list[tuple[int, list[tuple[bytes, bytes]]]] = []
    asked = request(dev, "/both")
    asked.on_informational = lambda status, headers: informed.append((status, headers))
    response = await pool.handle_async_request(asked)
    assert isinstance(response, UpstreamResponse)
    assert b"".join([chunk async for chunk in response]) == b"ok"
    assert informed == [(103, [(b"link", b"</a>")])]
    assert (response.raw_headers, response.trailers) == ([(b"transfer-encoding", b"chunked")], [(b"x-sum", b"7")])


async def test_p17_an_abandoned_response_closes_its_connection(dev: DevServer, pool: UpstreamPool) -> None:
    response = await pool.handle_async_request(request(dev, "/sse"))
    await response.aclose()
    with anyio.fail_after(5):
        await dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_v03_a_slow_reader_holds_upstream_back(dev: DevServer, pool: UpstreamPool) -> None:
    response = await pool.handle_async_request(request(dev, "/bytes/50000000"))
    assert isinstance(response, UpstreamResponse)
    first = await response.read_chunk()
    assert first is not None
    held = response._connection._transport  # type: ignore[attr-defined]
    with anyio.fail_after(5):
        while held.is_reading():
            await anyio.lowlevel.checkpoint()
    assert response._held < 1024 * 1024  # type: ignore[attr-defined]
    size = len(first)
    async for chunk in response:
        size += len(chunk)
    assert size == 50_000_000


def test_another_event_loop_finds_a_working_pool() -> None:
    """As with a test client that runs each request in a loop of its own."""
    pool = UpstreamPool()

    async def once() -> int:
        async with DevServer() as server:
            status, _ = await fetch(pool, request(server))
            await pool.aclose()
            return status

    assert [anyio.run(once), anyio.run(once)] == [200, 200]
