"""The end of a WebSocket whose visitor is being sent to: nobody else may send before that is over."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message

from preview_proxy import Limits, Policy
from tests.test_visit import scope_of
from tests.world import OWNER, world

pytestmark = pytest.mark.anyio


class Slow:
    """A server whose visitor does not read. What happens in a task that sends is over when `busy` is false."""

    def __init__(self, too_long: bytes) -> None:
        self.incoming: list[Message] = [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "bytes": b"go on"},
            {"type": "websocket.receive", "bytes": too_long},
        ]
        self.sent: list[Message] = []
        self.busy, self.began, self.closed = False, anyio.Event(), anyio.Event()

    async def receive(self) -> Message:
        if len(self.incoming) == 1:
            await self.began.wait()
        if not self.incoming:
            await self.closed.wait()
            return {"type": "websocket.disconnect", "code": 1000}
        return self.incoming.pop(0)

    async def send(self, message: Message) -> None:
        assert not self.busy, "two send at a time"
        self.sent.append(message)
        if message["type"] == "websocket.close":
            self.closed.set()
        if message["type"] == "websocket.send":
            self.busy = True
            self.began.set()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()  # a server may need a moment to stop
                self.busy = False


@pytest.mark.parametrize(
    ("end", "close"), [("a message too long", (1009, "message too big")), ("access ends", (4401, "not_signed_in"))]
)
async def test_nobody_sends_while_another_does(end: str, close: tuple[int, str]) -> None:
    async with world(policy=Policy(limits=Limits(message_bytes=100))) as w:
        headers = [(b"origin", w.origin.encode()), (b"cookie", f"pp-development={w.gate}".encode())]
        scope = scope_of("websocket", host=w.host, path="/ws", headers=headers, scheme="http")
        server = Slow(b"x" * (101 if end == "a message too long" else 1))
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(w.proxy, scope, server.receive, server.send)
                await server.began.wait()
                if end == "access ends":
                    w.proxy.revoke(subject=OWNER)
        assert [message["type"] for message in server.sent] == ["websocket.accept", "websocket.send", "websocket.close"]
        assert (server.sent[-1]["code"], server.sent[-1]["reason"]) == close
