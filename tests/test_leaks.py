"""What relays leave behind, however they end: no task, no socket, no transport, on any server.

The server runs in a process of its own in Python's development mode, in which asyncio and the interpreter report what
is left open; `tests.apart` fails a test for any such report.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from starlette.types import Message
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from preview_proxy import Limits, Policy, live
from preview_proxy.testing import Request, Response, WebSocket
from tests.abilities import can
from tests.apart import Apart
from tests.servers import HTTP_SERVERS
from tests.test_gate import HOST, Door, Upstream, gate_cookie
from tests.test_visit import scope_of
from tests.transports.test_relay_websocket import dial
from tests.world import OWNER, World, read_answer, world

pytestmark = pytest.mark.anyio


class Connection:
    """A server's end of a visitor, whose last reference closes it, as granian has it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.first: Message = {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request"}
        self.sent: list[Message] = []
        self.asked, self.opened, self.left = anyio.Event(), anyio.Event(), anyio.Event()

    async def receive(self) -> Message:
        if self.first:
            message, self.first = self.first, {}
            return message
        self.asked.set()
        await self.left.wait()
        return {"type": f"{self.kind}.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.opened.set()


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def is_closed(last: weakref.ref[Connection]) -> bool:
    """Whether nothing refers to the connection any more, once tasks that were cancelled have seen it."""
    await anyio.lowlevel.checkpoint()
    return last() is None


class Failing(Upstream):
    """A transport that keeps what it has raised, as a response does, and may take its time."""

    error = httpx.ReadError("gone")
    ready: anyio.Event | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.ready is not None:
            await self.ready.wait()
        raise self.error


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("is_owner", [True, False], ids=["upstream fails", "refused"])
async def test_w13_a_failure_keeps_no_connection_until_the_next_collection(kind: str, is_owner: bool) -> None:
    door = Door(upstream=Failing())
    headers = [(b"origin", b"https://" + HOST.encode()), *gate_cookie(door.gate() if is_owner else b"")]
    with no_collection():
        connection = Connection(kind)
        await door.proxy(scope_of(kind, host=HOST, headers=headers), connection.receive, connection.send)
        assert connection.sent[0]["status"] == (502 if is_owner else 401)
        last = weakref.ref(connection)
        del connection
        assert await is_closed(last)


class Reading(Upstream):
    """A transport that answers once it has the whole request."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return httpx.Response(200, stream=httpx.ByteStream(b"thanks"))


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stays"])
async def test_w13_a_visitor_who_uploads_is_kept_no_longer(leaves: bool) -> None:
    door = Door(upstream=Reading())
    headers = [(b"origin", b"https://" + HOST.encode()), (b"content-length", b"1"), *gate_cookie(door.gate())]
    with no_collection():
        connection = Connection("http")
        connection.first = {"type": "http.disconnect"}
        if not leaves:
            connection.first = {"type": "http.request", "body": b"1"}
        scope = scope_of("http", host=HOST, method="POST", headers=headers)
        await door.proxy(scope, connection.receive, connection.send)
        assert [message.get("status") for message in connection.sent] == ([] if leaves else [200, None, None])
        last = weakref.ref(connection)
        del connection
        assert await is_closed(last)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_w13_a_visitor_who_was_watched_is_kept_no_longer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.001)
    upstream = Failing()
    upstream.ready = anyio.Event()
    door = Door(upstream=upstream)
    headers = [(b"origin", b"https://" + HOST.encode()), *gate_cookie(door.gate())]
    with no_collection():
        connection = Connection(kind)
        async with anyio.create_task_group() as group:
            scope = scope_of(kind, host=HOST, headers=headers)
            group.start_soon(door.proxy, scope, connection.receive, connection.send)
            await connection.asked.wait()
            upstream.ready.set()
        assert connection.sent[0]["status"] == 502
        last = weakref.ref(connection)
        del connection
        assert await is_closed(last)


@pytest.mark.parametrize("end", ["the visitor leaves", "upstream closes", "access ends"])
@pytest.mark.parametrize("transport", ["pool", "httpx"])
async def test_w13_a_socket_that_was_open_keeps_no_connection(end: str, transport: str) -> None:
    foreign = httpx.AsyncHTTPTransport(trust_env=False) if transport == "httpx" else None
    async with world(transport=foreign) as w:
        prepare(w)
        headers = [(b"origin", w.origin.encode()), (b"cookie", f"pp-development={w.gate}".encode())]
        path = "/closes" if end == "upstream closes" else "/ws"
        scope = scope_of("websocket", host=w.host, path=path, headers=headers, scheme="http")
        with no_collection():
            connection = Connection("websocket")
            async with anyio.create_task_group() as group:
                group.start_soon(w.proxy, scope, connection.receive, connection.send)
                await connection.opened.wait()
                if end == "upstream closes":
                    await w.dev.wait_for(lambda dev: dev.open_connections == 0)
                if end == "access ends":
                    assert w.proxy.revoke(subject=OWNER) == 1
                else:
                    connection.left.set()
            assert connection.sent[0]["type"] == "websocket.accept"
            last = weakref.ref(connection)
            del connection
            assert await is_closed(last)


SOCKETS = 1000
AT_ONCE = 25


def apart(name: str) -> Apart:
    """The server in a process of its own."""
    server = HTTP_SERVERS[name]
    return server if isinstance(server, Apart) else Apart(name)


def prepare(w: World) -> None:
    """Dev server routes that end a relay in every way that an upstream can."""

    @w.dev.websocket("/aborts")
    async def aborts(socket: WebSocket) -> None:
        await socket.accept()
        socket.abort()

    @w.dev.websocket("/aborts-unasked")
    async def aborts_unasked(socket: WebSocket) -> None:
        socket.abort()

    @w.dev.websocket("/closes")
    async def closes(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(1001)

    @w.dev.websocket("/breaks")
    async def breaks(socket: WebSocket) -> None:
        await socket.accept()
        await socket.raw(b"\xf1\x00")

    @w.dev.websocket("/refuses")
    async def refuses(socket: WebSocket) -> None:
        await socket.reject(403, [], b"no")

    @w.dev.websocket("/lies")
    async def lies(socket: WebSocket) -> None:
        await socket.raw(
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
        )

    @w.dev.websocket("/ponders")
    async def ponders(socket: WebSocket) -> None:
        await w.dev.wait_for(lambda _: not socket._connection.is_open)

    for path, wire in {
        "/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "/garbage": b"garbage\r\n\r\n",
        "/smuggles": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
    }.items():

        @w.dev.route(path)
        async def answer(request: Request, response: Response, wire: bytes = wire) -> None:
            await response.raw(wire)
            response.close()


async def use(w: World, path: str, how: str = "", **options: Any) -> None:
    """Open a WebSocket, and leave it in some way, if upstream does not end it first."""
    with suppress(ConnectionClosed, InvalidHandshake, OSError, EOFError):
        async with dial(w, path, **options) as socket:
            await socket.send("hello")
            await socket.recv()
            if how == "abort":
                socket.transport.abort()
            elif how == "half":
                socket.transport.write(b"\x81\xfe\x10")  # the beginning of a frame
                socket.transport.abort()
            elif how == "rude":
                socket.transport.write(b"\xf1\x80\x00\x00\x00\x00")
                await socket.recv()


async def leave_the_handshake(w: World) -> None:
    fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Origin": w.origin,
              "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    async with w.connected() as stream:
        await stream.send(w.request("/ponders", headers=fields))


ENDS: dict[str, Callable[[World], Coroutine[Any, Any, None]]] = {
    "the visitor closes": lambda w: use(w, "/ws"),
    "the visitor is gone": lambda w: use(w, "/ws", "abort"),
    "the visitor is gone in a frame": lambda w: use(w, "/ws", "half"),
    "the visitor breaks a rule": lambda w: use(w, "/ws", "rude"),
    "the visitor leaves the handshake": leave_the_handshake,
    "the visitor may not": lambda w: use(w, "/ws", origin="http://evil.example"),
    "upstream closes": lambda w: use(w, "/closes"),
    "upstream is gone": lambda w: use(w, "/aborts"),
    "upstream is gone in the handshake": lambda w: use(w, "/aborts-unasked"),
    "upstream breaks a rule": lambda w: use(w, "/breaks"),
    "upstream refuses": lambda w: use(w, "/refuses"),
    "upstream lies": lambda w: use(w, "/lies"),
}


async def settled(w: World, before: dict[str, int] | None = None) -> dict[str, int]:
    """What there is, idle connections to upstream apart: once it is no more than `before`, or after some seconds.

    It is counted over one connection, since each has a task and a descriptor.
    """
    bound = before or {"relays": 0}
    async with w.connected() as stream:
        while True:
            await stream.send(w.lever("census"))
            now = dict((await read_answer(stream, "POST")).json())
            now["descriptors"] -= now.pop("connections")
            if all(now[what] <= bound[what] for what in bound):
                return now
            if anyio.current_time() > anyio.current_effective_deadline() - 2:
                return now


@pytest.mark.parametrize("name", HTTP_SERVERS)
async def test_w11_w13_a_thousand_sockets_that_end_in_twelve_ways_leave_nothing(name: str) -> None:
    limits = Limits(head_timeout=1.0 if not can(name, "early leavers") else 60.0)
    async with world(serve=apart(name), policy=Policy(limits=limits)) as w:
        prepare(w)
        for end in ENDS.values():
            await end(w)
        before = await settled(w)
        ways = list(ENDS.values())
        for start in range(0, SOCKETS, AT_ONCE):
            async with anyio.create_task_group() as group:
                for number in range(start, start + AT_ONCE):
                    group.start_soon(ways[number % len(ways)], w)
        after = await settled(w, before)
        assert {what: number - before[what] for what, number in after.items() if number > before[what]} == {}
        with anyio.fail_after(5):
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)


async def asks(
    w: World, path: str, fields: dict[str, str] | None = None, *, leaves: bool = False, body: bytes = b""
) -> None:
    with suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
        request = w.request(path, method="POST" if fields else "GET", headers={"Origin": w.origin, **(fields or {})})
        if leaves:
            async with w.connected() as stream:
                await stream.send(request + body)
                await w.dev.wait_for(lambda dev: any(received.path == path for received in dev.received))
        else:
            await w.raw(request + body)


REQUESTS: dict[str, Callable[[World], Coroutine[Any, Any, None]]] = {
    "whole": lambda w: asks(w, "/bytes/100000"),
    "cut": lambda w: asks(w, "/cut"),
    "garbage": lambda w: asks(w, "/garbage"),
    "smuggled": lambda w: asks(w, "/smuggles"),
    "left before the head": lambda w: asks(w, "/slow", leaves=True),
    "left in a stream": lambda w: asks(w, "/sse", leaves=True),
    "left in a download": lambda w: asks(w, "/bytes/50000000", leaves=True),
    "left in an upload": lambda w: asks(w, "/body", {"Content-Length": "10"}, leaves=True, body=b"abc"),
    "a broken upload": lambda w: asks(w, "/body", {"Transfer-Encoding": "chunked"}, body=b"3\r\nabc\r\nzz\r\n"),
    "refused": lambda w: asks(w, "/echo", {"Cookie": "x=1"}),
}


@pytest.mark.parametrize("name", HTTP_SERVERS)
async def test_p17_requests_that_end_in_every_way_leave_nothing(name: str) -> None:
    async with world(serve=apart(name)) as w:
        prepare(w)
        for end in REQUESTS.values():
            await end(w)
        before = await settled(w)
        for _ in range(8):
            async with anyio.create_task_group() as group:
                for end in REQUESTS.values():
                    group.start_soon(end, w)
        assert await w.pull("revoke", subject=OWNER) >= 0
        after = await settled(w, before)
        assert {what: number - before[what] for what, number in after.items() if number > before[what]} == {}
