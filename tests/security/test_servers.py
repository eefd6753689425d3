"""What depends on the ASGI server: how visitors leave and are cut off, how it stops, and HTTP/2."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import anyio
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionType
from wsproto.events import TextMessage

from preview_proxy import Limits, Policy
from preview_proxy.testing import Request, Response, WebSocket
from tests.abilities import can
from tests.servers import HTTP_SERVERS, WEBSOCKET_SERVERS, hypercorn
from tests.transports.test_relay_websocket import closed, dial
from tests.world import World, world

pytestmark = pytest.mark.anyio

Fields = list[tuple[bytes, bytes]]
VERSION = (b"sec-websocket-version", b"13")


@pytest.fixture(params=HTTP_SERVERS)
async def w(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world(serve=HTTP_SERVERS[request.param]) as made:
        yield made


@pytest.fixture
async def h2() -> AsyncIterator[World]:
    """On the server that speaks HTTP/2."""
    async with world(serve=hypercorn) as made:
        yield made


@dataclass
class H2Answer:
    """One response over HTTP/2; `end` says how it ended."""

    hints: list[Fields] = field(default_factory=list)
    headers: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    end: str = ""


async def ask(w: World, method: str, path: str, fields: Fields, *body: bytes) -> H2Answer:
    """One request with prior knowledge of HTTP/2 (RFC 9113 §3.3)."""
    connection = H2Connection(H2Configuration(header_encoding=None))
    connection.initiate_connection()
    pseudo = [(b":method", method.encode()), (b":scheme", b"http"), (b":path", path.encode())]
    connection.send_headers(1, [*pseudo, (b":authority", w.host.encode()), *fields], end_stream=not body)
    for number, chunk in enumerate(body, start=1):
        connection.send_data(1, chunk, end_stream=number == len(body))
    answer = H2Answer()
    with anyio.fail_after(15):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            while not answer.end:
                await stream.send(connection.data_to_send())
                read(connection, await received(stream), answer)
    return answer


async def received(stream: anyio.abc.ByteStream) -> bytes:
    try:
        return await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return b""


def read(connection: H2Connection, packet: bytes, answer: H2Answer) -> None:
    if not packet:
        answer.end = "closed"
    for event in connection.receive_data(packet):
        match event:
            case InformationalResponseReceived(headers=headers):
                answer.hints.append(list(headers))
            case ResponseReceived(headers=headers):
                answer.headers = list(headers)
            case DataReceived(data=data, flow_controlled_length=length):
                answer.body += data
                connection.acknowledge_received_data(length, 1)
            case TrailersReceived(headers=headers):
                answer.trailers = list(headers)
            case StreamEnded():
                answer.end = "whole"
            case StreamReset():
                answer.end = "reset"


def gate(w: World) -> tuple[bytes, bytes]:
    return b"cookie", f"pp-development={w.gate}".encode()


async def test_r13_a_visitor_who_leaves_a_download_takes_upstream_along(w: World) -> None:
    @w.dev.route("/download")
    async def download(request: Request, response: Response) -> None:
        await response.start(200, [("content-type", "application/zip")])
        await response.write(b"first")
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            await stream.send(w.request("/download"))
            seen = b""
            while b"first" not in seen:
                seen += await stream.receive()
        await w.dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_r13_a_visitor_who_leaves_an_upload_takes_upstream_along(w: World) -> None:
    with anyio.fail_after(5):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            headers = {"Content-Length": "10", "Origin": w.origin}
            await stream.send(w.request("/body", method="POST", headers=headers) + b"abc")
            await w.dev.wait_for(lambda dev: any(request.body == b"abc" for request in dev.received))
        await w.dev.wait_for(lambda dev: dev.open_connections == 0)
    assert not w.dev.received[-1].complete


async def test_a_post_without_a_length_has_no_body_on_http_1_0(w: World) -> None:
    request = w.request("/body", method="POST", headers={"Origin": w.origin}).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert (await w.raw(request, method="POST")).status == 200
    assert w.dev.received[-1].values(b"transfer-encoding") == []


@pytest.mark.parametrize("server", HTTP_SERVERS)
async def test_the_head_of_an_event_stream_does_not_wait_for_the_first_event(server: str) -> None:
    async with world(serve=HTTP_SERVERS[server]) as w:
        with anyio.fail_after(5):
            async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
                await stream.send(w.request("/sse"))
                assert (await stream.receive()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
async def test_a_server_that_stops_closes_its_sockets_with_1012(server: str) -> None:
    async with AsyncExitStack() as running:
        w = await running.enter_async_context(world(serve=WEBSOCKET_SERVERS[server]))
        with anyio.fail_after(10):
            async with dial(w) as socket:
                await socket.send("x")
                await socket.recv()
                async with anyio.create_task_group() as group:
                    group.start_soon(running.aclose)
                    assert (await closed(socket))[0] == (1012 if can(server, "1012") else 1006)
        # a server that cuts them first makes it a visitor who has left
        assert w.dev.websockets[-1].close_code in ([1012] if can(server, "1012") else [1012, 1000])


@pytest.mark.parametrize("server", HTTP_SERVERS)
async def test_v09_a_server_that_stops_ends_a_stream_that_never_ends(server: str) -> None:
    """Given a time, as the tests' servers are; `hypercorn` needs none."""
    async with AsyncExitStack() as running:
        limits = Limits(drain_timeout=0.2)
        w = await running.enter_async_context(world(serve=HTTP_SERVERS[server], policy=Policy(limits=limits)))
        async with w.connected() as stream:
            await stream.send(w.request("/sse"))
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")
            await running.aclose()
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    assert b"0\r\n\r\n" not in await stream.receive()


@pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
async def test_a_visitor_who_leaves_while_upstream_is_dialled_takes_it_along(server: str) -> None:
    limits = Limits() if can(server, "early leavers") else Limits(head_timeout=1.0)
    async with world(serve=WEBSOCKET_SERVERS[server], policy=Policy(limits=limits)) as w:

        @w.dev.websocket("/ponders")
        async def ponders(socket: WebSocket) -> None:
            await anyio.sleep_forever()

        handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                     "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": w.origin}  # fmt: skip
        with anyio.fail_after(5):
            async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
                await stream.send(w.request("/ponders", headers=handshake))
                await w.dev.wait_for(lambda dev: any(request.path == "/ponders" for request in dev.received))
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_http_2_is_spoken_by_servers_that_have_it(w: World) -> None:
    async with w.connected() as stream:
        await stream.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert (await stream.receive()).startswith(b"HTTP/1.1 4") is not can(w.server, "http/2")


async def test_a_103_and_trailers_are_not_sent_as_something_else(w: World) -> None:
    """On HTTP/1.1 no server here passes them on; what follows is whole."""

    @w.dev.route("/extras")
    async def extras(request: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        await response.raw(b"HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await response.raw(b"0\r\nX-Sum: 7\r\n\r\n")

    answer = await w.get("/extras", headers={"TE": "trailers"})
    assert (answer.status, answer.body, answer.complete) == (200, b"ok", True)
    assert answer.values(b"link") == answer.values(b"x-sum") == []


async def test_http_2_get(h2: World) -> None:
    answer = await ask(h2, "GET", "/bytes/200000?a=1&&b=%2F", [gate(h2)])
    assert (answer.headers[0], len(answer.body), answer.end) == ((b":status", b"200"), 200_000, "whole")
    assert h2.dev.received[-1].target == b"/bytes/200000?a=1&&b=%2F"
    assert len([name for name, _ in answer.headers if name in (b"date", b"server")]) == 2


async def test_http_2_body_without_a_length(h2: World) -> None:
    answer = await ask(h2, "POST", "/body", [gate(h2), (b"origin", h2.origin.encode())], b"abc", b"", b"def")
    assert (answer.headers[0], answer.body, answer.end) == ((b":status", b"200"), b"abcdef", "whole")
    assert h2.dev.received[-1].values(b"transfer-encoding") == [b"chunked"]


async def test_http_2_cookies_split_into_crumbs_are_one_field_upstream(h2: World) -> None:
    """RFC 9113 §8.2.3."""
    answer = await ask(h2, "GET", "/echo", [(b"cookie", b"x=1"), gate(h2), (b"cookie", b"y=2")])
    assert answer.headers[0] == (b":status", b"200")
    assert h2.dev.received[-1].values(b"cookie") == [b"x=1; y=2"]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_http_2_an_answer_that_breaks_off_is_cut_not_ended(h2: World, framing: bytes) -> None:
    """hypercorn 0.18 resets no stream: an unfinished one stays silent until the connection is closed as idle."""

    @h2.dev.route("/broken")
    async def broken(request: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 200 OK\r\n" + framing)
        response.close()

    answer = await ask(h2, "GET", "/broken", [gate(h2)])
    assert (answer.body, answer.end) == (b"abc", "closed")


async def handshake(w: World, *fields: tuple[bytes, bytes]) -> tuple[Fields, list[str | bytes]]:
    """A WebSocket by Extended CONNECT (RFC 8441): the answer's fields, and what came back for "hello"."""
    connection = H2Connection(H2Configuration(header_encoding=None))
    connection.initiate_connection()
    client = Frames(ConnectionType.CLIENT)
    answer, echoed, opened = H2Answer(), list[str | bytes](), False
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            pseudo = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/ws")]
            connection.send_headers(1, [*pseudo, (b":authority", w.host.encode()), VERSION, *fields])
            while not (echoed or answer.end):
                await stream.send(connection.data_to_send())
                taken = len(answer.body)
                read(connection, await received(stream), answer)
                client.receive_data(answer.body[taken:])
                echoed += [event.data for event in client.events() if isinstance(event, TextMessage)]
                if not opened and answer.headers[:1] == [(b":status", b"200")]:
                    opened = True
                    connection.send_data(1, client.send(TextMessage("hello")))
    return answer.headers, echoed


async def test_w14_a_websocket_over_http_2_is_relayed(h2: World) -> None:
    headers, echoed = await handshake(h2, gate(h2), (b"origin", h2.origin.encode()))
    assert headers[0] == (b":status", b"200")
    assert echoed == ["hello"]
    upstream = h2.dev.received[-1]
    assert upstream.values(b"sec-websocket-version") == [b"13"]
    assert len(upstream.values(b"sec-websocket-key")) == 1


@pytest.mark.parametrize("origin", [b"http://evil.example", b"null"])
async def test_w14_it_passes_the_same_checks(h2: World, origin: bytes) -> None:
    headers, _ = await handshake(h2, gate(h2), (b"origin", origin))
    assert headers[0] == (b":status", b"403")
    headers, _ = await handshake(h2, (b"origin", h2.origin.encode()))
    assert headers[0] == (b":status", b"401")


async def test_early_hints_and_trailers_on_a_server_that_offers_them() -> None:
    async with world(serve=hypercorn) as w:

        @w.dev.route("/both")
        async def both(request: Request, response: Response) -> None:
            link = b"</a.css>; rel=preload, <http://localhost:3000/b.js>; rel=preload"
            await response.raw(b"HTTP/1.1 103 Early Hints\r\nLink: " + link + b"\r\nSet-Cookie: x=1\r\n\r\n")
            await response.raw(b"HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
            await response.raw(b"0\r\nX-Sum: 7\r\nSet-Cookie: evil=1\r\n\r\n")

        answer = await ask(w, "GET", "/both", [gate(w), (b"te", b"trailers")])
        [hint] = answer.hints
        assert hint[0] == (b":status", b"103")
        assert (b"link", f"</a.css>; rel=preload, <{w.origin}/b.js>; rel=preload".encode()) in hint
        assert not [name for name, _ in hint if name == b"set-cookie"]
        assert (answer.body, answer.trailers, answer.end) == (b"ok", [(b"x-sum", b"7")], "whole")
