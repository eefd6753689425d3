"""A WebSocket whose relay is cut as something else happens, and one whose server takes no more."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha1

import anyio
import httpx
import pytest
from starlette.types import Message

from preview_proxy.core.frames import CLOSE, TEXT
from tests.test_gate import HOST, Door, Upstream, gate_cookie
from tests.test_visit import scope_of
from tests.transports.test_pulled_stream import NetworkStream, until
from tests.transports.test_websocket_stream import frame, frames
from tests.world import OWNER

pytestmark = pytest.mark.anyio

ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Accepting(Upstream):
    """An upstream that accepts, or refuses with `refusal`."""

    def __init__(self, refusal: int | None = None) -> None:
        super().__init__()
        self.refusal = refusal
        self.network = NetworkStream()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.refusal is not None:
            return httpx.Response(self.refusal, stream=httpx.ByteStream(b"no"))
        key = request.headers["sec-websocket-key"].encode()
        accept = b64encode(sha1(key + ACCEPT).digest())
        fields = [(b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-accept", accept)]
        return httpx.Response(101, headers=fields, extensions={"network_stream": self.network})


@dataclass
class Visitor:
    """A visitor who says `late` once they may, and a server that raises `gone` for what it does not take."""

    refuses: str = ""
    gone: Exception = field(default_factory=lambda: RuntimeError("not now"))
    late: str = "late"
    stubborn: bool = False
    """Whether `receive` once returns a message although it was cancelled, as `asyncio.wait_for` may before 3.12."""
    sent: list[Message] = field(default_factory=list)
    connected: bool = False

    def __post_init__(self) -> None:
        self.may_speak, self.opened, self.closed = anyio.Event(), anyio.Event(), anyio.Event()

    async def receive(self) -> Message:
        if not self.connected:
            self.connected = True
            return {"type": "websocket.connect"}
        try:
            await self.may_speak.wait()
        except anyio.get_cancelled_exc_class():
            if not self.stubborn:
                raise
            self.stubborn = False
        self.may_speak = anyio.Event()
        return {"type": "websocket.receive", "text": self.late}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.opened.set()
        if message["type"] == self.refuses or (self.closed.is_set() and message["type"] == "websocket.close"):
            raise self.gone
        if message["type"] == "websocket.close":
            self.closed.set()

    async def visit(self, door: Door) -> None:
        headers = [(b"origin", b"https://" + HOST.encode()), *gate_cookie(door.gate())]
        scope = scope_of("websocket", host=HOST, headers=headers)
        await door.proxy(scope, self.receive, self.send)


@pytest.fixture
async def upstream() -> AsyncIterator[Accepting]:
    made = Accepting()
    yield made
    made.network.close()


@pytest.mark.parametrize("stubborn", [False, True])
async def test_w10_a_message_that_comes_as_access_ends_does_not_pass(upstream: Accepting, stubborn: bool) -> None:
    door, visitor = Door(upstream=upstream), Visitor(stubborn=stubborn)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(visitor.visit, door)
            await visitor.opened.wait()
            visitor.may_speak.set()
            await until(lambda: upstream.network.sent != b"")
            await anyio.wait_all_tasks_blocked()
            visitor.may_speak.set()
            assert door.proxy.revoke(subject=OWNER) == 1  # before the relay has had its turn
    passed = [opcode for opcode, _ in frames(upstream.network.sent)]
    assert passed in ([TEXT], [TEXT, CLOSE])
    assert [message["code"] for message in visitor.sent if message["type"] == "websocket.close"] == [4401]


async def test_w06_a_refusal_that_the_server_does_not_take_is_not_begun_again(upstream: Accepting) -> None:
    upstream.refusal = 403
    door, visitor = Door(upstream=upstream), Visitor(refuses="websocket.http.response.body")
    with anyio.fail_after(5):
        await visitor.visit(door)
    assert [message["type"] for message in visitor.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]


async def test_a_server_that_takes_no_second_close_is_not_kept_from_stopping(upstream: Accepting) -> None:
    door, visitor = Door(upstream=upstream), Visitor(gone=ValueError("closed already"))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(visitor.visit, door)
            await visitor.opened.wait()
            upstream.network.say(frame(CLOSE, b"\x03\xe8"))
            await visitor.closed.wait()
            await anyio.wait_all_tasks_blocked()
            assert door.proxy.revoke(subject=OWNER) == 1  # while what they still send is taken
    assert door.proxy.counters().get("internal_error") is None
