"""Live connections on real servers: nobody keeps open what they could not open anew."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.exceptions import ConnectionClosed

from preview_proxy import HostPattern, Limits, Policy, Preview, Routed, Session
from preview_proxy.errors import Misdirected
from preview_proxy.testing import Request, Response, WebSocket
from preview_proxy.transports.websocket_stream import WebSocketStream
from tests.servers import HTTP_SERVERS, WEBSOCKET_SERVERS, Serving, serving
from tests.test_revoke import PREVIEW, gate
from tests.transports.test_relay_websocket import closed, dial
from tests.world import MACHINE, OWNER, World, world

pytestmark = pytest.mark.anyio
QUICK = Policy(limits=Limits(recheck_interval=1.0, decision_ttl=0.01))


@asynccontextmanager
async def streaming(w: World, path: str = "/sse") -> AsyncIterator[anyio.abc.SocketStream]:
    """An event stream that has begun."""
    async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
        await stream.send(w.request(path))
        await w.dev.wait_for(lambda dev: any(received.path == path for received in dev.received))
        w.dev.emit("tick")
        seen = b""
        while b"tick" not in seen:
            seen += await stream.receive()
        yield stream


async def cut(stream: anyio.abc.SocketStream) -> None:
    """Read until the connection is cut: the body must not end as if it were whole."""
    seen = b""
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        while True:
            seen += await stream.receive()
    assert b"0\r\n\r\n" not in seen


@pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
async def test_w10_authorize_that_says_no_closes_both_sides_with_4403(server: str) -> None:
    with anyio.fail_after(20):
        async with world(serve=WEBSOCKET_SERVERS[server], policy=QUICK) as w:
            async with dial(w) as socket:
                await socket.send("x")
                await socket.recv()
                await w.pull("forbid", subject=OWNER)
                assert await closed(socket) == (4403, "access_ended")
            await w.dev.wait_for(lambda dev: dev.websockets[-1].close_code == 4403)


@pytest.mark.parametrize("server", HTTP_SERVERS)
async def test_a08_authorize_that_says_no_cuts_an_event_stream(server: str) -> None:
    with anyio.fail_after(20):
        async with world(serve=HTTP_SERVERS[server], policy=QUICK) as w, streaming(w) as stream:
            await w.pull("forbid", subject=OWNER)
            await cut(stream)
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_a08_a_download_and_an_upload_are_cut() -> None:
    async with world(policy=QUICK) as w:

        @w.dev.route("/endless")
        async def endless(request: Request, response: Response) -> None:
            await response.start(200, [("Content-Type", "application/octet-stream")])
            while True:
                await response.write(bytes(1024))
                await anyio.sleep(0.01)  # a source that is slow, not a wait of the test

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:

                async def download() -> None:
                    async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
                        await stream.send(w.request("/endless"))
                        await cut(stream)

                async def upload() -> None:
                    head = w.request("/body", method="POST", headers={"Origin": w.origin, "Content-Length": "1000000"})
                    async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
                        await stream.send(head + b"some of it")
                        await cut(stream)

                group.start_soon(download)
                group.start_soon(upload)
                await w.dev.wait_for(lambda dev: {"/endless", "/body"} <= {each.path for each in dev.received})
                w.allowed.clear()
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)


@pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
async def test_w10_a_gate_that_expires_closes_with_4401_within_a_second(server: str) -> None:
    with anyio.fail_after(20):
        async with world(serve=WEBSOCKET_SERVERS[server]) as w:
            expires_at = time.time() + 2
            w.gate = gate(w, expires_at=expires_at)
            async with dial(w) as socket, streaming(w) as stream:
                await socket.send("x")
                await socket.recv()
                assert await closed(socket) == (4401, "not_signed_in")
                # its lifetime is in whole seconds, which end no later than the session
                assert expires_at - 2 < time.time() < expires_at + 1
                await cut(stream)


async def test_pitfall_20_a_renewed_gate_of_the_same_login_keeps_the_socket_open() -> None:
    with anyio.fail_after(20):
        async with world() as w:
            w.gate = gate(w, expires_at=time.time() + 2)
            async with dial(w) as renewed:
                w.gate = gate(w, "login-2", expires_at=time.time() + 2)
                async with dial(w) as left:
                    w.gate = gate(w)
                    assert (await w.get("/echo")).status == 200
                    assert (await closed(left))[0] == 4401
                    await renewed.send("x")
                    assert await renewed.recv() == "x"


@pytest.mark.parametrize("ending", ["signed out", "somebody else"])
async def test_w10_the_customers_own_session_that_ends_closes_with_4401(ending: str) -> None:
    signed_in: dict[str, Session | None] = {"one": Session(OWNER, "one"), "two": Session(OWNER, "two")}

    async def session(connection: HTTPConnection) -> Session | None:
        return signed_in.get(connection.headers.get("x-login", ""))

    async with world(session=session, tickets=None, policy=QUICK) as w:
        with anyio.fail_after(20):
            async with dial(w, headers={"X-Login": "one"}) as one, dial(w, headers={"X-Login": "two"}) as two:
                signed_in["one"] = None if ending == "signed out" else Session("eve", "one")
                assert await closed(one) == (4401, "not_signed_in")
                await two.send("x")
                assert await two.recv() == "x"


@pytest.mark.parametrize("now_shows", [Preview("other", 3000), Preview(MACHINE, 3000, generation=1), None])
async def test_a10_a_host_that_is_given_to_something_else_closes_with_4403(now_shows: Preview | None) -> None:
    changed = False

    class Table:
        """The host pattern, until the host is given to something else."""

        def __init__(self, pattern: HostPattern) -> None:
            self.host_for, self.claims, self._pattern = pattern.host_for, pattern.claims, pattern

        async def __call__(self, authority: str) -> Routed | None:
            routed = await self._pattern(authority)
            if routed is None or not changed:
                return routed
            if now_shows is None:
                raise Misdirected
            return Routed(now_shows, routed.public)

    with anyio.fail_after(20):
        async with world(router=Table, policy=QUICK) as w, dial(w) as socket, streaming(w) as stream:
            await socket.send("x")
            await socket.recv()
            changed = True
            assert await closed(socket) == (4403, "access_ended")
            await cut(stream)
            assert (await w.get("/echo")).status == (421 if now_shows is None else 401)  # the gate is void


@pytest.mark.parametrize("failing", ["authorize", "session"])
async def test_a01_a_check_that_fails_is_no_yes_and_closes_with_4503(failing: str) -> None:
    broken: set[str] = set()

    async def session(connection: HTTPConnection) -> str:
        if "session" in broken:
            raise LookupError("canary")
        return OWNER

    async def authorize(subject: str, preview: Preview) -> bool:
        if "authorize" in broken:
            raise LookupError("canary")
        return True

    with anyio.fail_after(20):
        async with world(session=session, tickets=None, authorize=authorize, policy=QUICK) as w, dial(w) as socket:
            await socket.send("x")
            await socket.recv()
            broken.add(failing)
            assert await closed(socket) == (4503, "check_failed")


# --- nothing passes after the decision -----------------------------------------------------------------------------


class Witness:
    """Between the proxy and the server: what the proxy hands to either side once it is decided that it must not."""

    def __init__(self) -> None:
        self.decided = False
        self.down: list[Message] = []
        self.up: list[object] = []
        self._left = 0
        self._decide: Callable[[], None] = lambda: None

    def after(self, messages: int, decide: Callable[[], None]) -> None:
        """Decide while the proxy hands that many'th message on."""
        self._left, self._decide = messages, decide

    def around(self, app: ASGIApp) -> ASGIApp:
        async def witnessed(scope: Scope, receive: Receive, send: Send) -> None:
            async def watched(message: Message) -> None:
                if self.decided and message["type"] in ("websocket.send", "http.response.body"):
                    self.down.append(message)
                self._left -= 1
                if self._left == 0:
                    self.decided = True
                    self._decide()
                await send(message)

            await app(scope, receive, watched)

        return witnessed

    def serve(self, **options: Any) -> Serving:
        return lambda app, listener: serving(self.around(app), listener, **options)


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    made = Witness()
    real = WebSocketStream.send

    async def send(self: WebSocketStream, message: str | bytes) -> bool:
        if made.decided:
            made.up.append(message)
        return await real(self, message)

    monkeypatch.setattr(WebSocketStream, "send", send)
    return made


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
async def test_w10_no_message_passes_after_the_decision_however_fast_they_come(ws: str, witness: Witness) -> None:
    async with world(serve=witness.serve(ws=ws)) as w:

        @w.dev.websocket("/flood")
        async def flood(socket: WebSocket) -> None:
            await socket.accept()
            talking = asyncio.ensure_future(_endlessly(lambda _: socket.raw(b"\x81\x01x" * 10)))  # ten messages at once
            try:
                while True:
                    await socket.receive()
            finally:
                talking.cancel()
                await asyncio.wait([talking])
                assert talking.cancelled() or talking.exception()

        with anyio.fail_after(20):
            async with dial(w, "/flood") as socket, anyio.create_task_group() as group:

                async def talk() -> None:
                    with pytest.raises(ConnectionClosed):
                        await _endlessly(socket.send)

                def decide() -> None:
                    assert w.proxy.revoke(subject=OWNER) == 1

                witness.after(105, decide)
                group.start_soon(talk)
                assert (await closed(socket))[0] == 4401
    assert witness.decided
    assert (witness.down, witness.up) == ([], [])


async def _endlessly(say: Callable[[str], Awaitable[None]]) -> None:
    for number in itertools.count():
        await say(str(number))
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_a08_no_byte_passes_after_the_decision_however_fast_they_come(http: str, witness: Witness) -> None:
    async with world(serve=witness.serve(http=http)) as w:
        with anyio.fail_after(20):
            async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
                await stream.send(w.request("/bytes/1000000000"))

                def decide() -> None:
                    assert w.proxy.revoke(preview=PREVIEW) == 1

                witness.after(105, decide)
                await cut(stream)
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)
    assert witness.decided
    assert witness.down == []
