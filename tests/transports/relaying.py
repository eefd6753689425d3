"""One relay between a visitor and an upstream that are both in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Coroutine
from functools import partial
from typing import Any, Literal

from starlette.types import Message

from preview_proxy import Endpoint, Limits, Origin, Policy, Preview, PreviewProxyError
from preview_proxy.core.models import Inbound, RawHeaders
from preview_proxy.core.plan import Route, compile_rules
from preview_proxy.core.websocket import accept_value
from preview_proxy.live import LiveRelays
from preview_proxy.transports.pool import UpstreamPool
from preview_proxy.transports.relay_http import relay_http
from preview_proxy.transports.relay_websocket import relay_websocket
from tests.test_live import admitted, new_relays
from tests.transports.wires import Wires
from tests.turns import turns

PUBLIC = Origin("https", "3000-m1.previews.example", 443)


class Visitor:
    """The server's side: what the visitor says, and what is sent to them."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[Message] = asyncio.Queue()
        self.heard: list[Message] = []
        self.has_left = False
        self.failure: Exception | None = None
        self.reads_no: str | None = None
        """The kind of message that they do not read, so that whoever sends one waits."""

    async def receive(self) -> Message:
        return await self.says.get()

    async def send(self, message: Message) -> None:
        if self.has_left:
            raise OSError  # by the ASGI spec
        if self.failure is not None:
            raise self.failure
        if message["type"] == self.reads_no:
            await asyncio.get_running_loop().create_future()
        self.heard.append(message)

    def say(self, kind: str, **fields: Any) -> None:
        self.says.put_nowait({"type": kind, **fields})


class Lease:
    """A lease whose edge says of its own accord what is in `failures`, by the answer's body."""

    def __init__(self, *, max_socket_age: float | None = None, **failures: PreviewProxyError) -> None:
        self._failures = failures
        self._endpoint = Endpoint(Origin("http", "up.localhost", 80), max_socket_age=max_socket_age)
        self.cures = False
        self.told: list[object] = []

    async def route(self) -> Route:
        return Route(Preview("m1", 3000), PUBLIC, self._endpoint)

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        return status >= 400

    def explain(self, status: int, headers: RawHeaders, body: bytes) -> PreviewProxyError | None:
        return self._failures.get(body.decode())

    def reached(self) -> None:
        pass

    def failed(self, error: Exception) -> None:
        self.told.append(type(error))

    async def cure(self, error: PreviewProxyError) -> bool:
        self.told.append(error.code)
        return self.cures


class Relaying:
    """A relay that a test can begin, and its two ends."""

    def __init__(self, wires: Wires, lease: Lease | None = None, limits: Limits | None = None) -> None:
        self.wires = wires
        self.visitor = Visitor()
        self.lease = lease or Lease()
        self.relays: LiveRelays = new_relays()
        self.pool = UpstreamPool(limits or Limits())
        self._rules = compile_rules(Policy(limits=limits or Limits()), cookies=(), headers=(), embedders=())
        self.task: asyncio.Task[None]

    async def http(
        self, method: str = "GET", *, offers: Container[str] = (), has_body: bool = False, length: int | None = None
    ) -> None:
        """Begin an HTTP exchange, whose request has been sent when this returns."""
        inbound = self._inbound("http", method, has_body or length is not None, length)
        await self._begin(relay_http(*self._ends(inbound), offers=offers))

    async def websocket(self, *, can_deny: bool = True) -> None:
        """Begin a WebSocket, whose handshake has been sent when this returns."""
        await self._begin(
            relay_websocket(*self._ends(self._inbound("websocket", "GET", False, None)), can_deny=can_deny)
        )

    async def opened(self) -> None:
        """Begin one, and have upstream accept it."""
        await self.websocket()
        key = self.wires[-1].sent.partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.wires[-1].say(head + b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept_value(key))
        await turns()

    async def _begin(self, relay: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.create_task(relay)
        await turns()

    def _inbound(self, kind: Literal["http", "websocket"], method: str, has_body: bool, length: int | None) -> Inbound:
        framing: RawHeaders = ((b"content-length", b"%d" % length),) if length is not None else ()
        return Inbound(kind, method, "https", "1.1", PUBLIC.host, b"/", b"", framing, None, has_body, length)

    def _ends(self, inbound: Inbound) -> Any:
        run = partial(self.relays.run, admitted())
        return inbound, self.lease, self._rules, self.pool, self.visitor.receive, self.visitor.send, run
