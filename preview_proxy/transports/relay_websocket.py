"""One WebSocket: dialled upstream first, accepted downstream only when upstream has accepted (RFC 6455)."""

from __future__ import annotations

import os
import random
from base64 import b64encode
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import anyio
import anyio.lowlevel
from starlette.types import Message, Receive, Send

from preview_proxy import event_loop
from preview_proxy.core.models import Accept, Inbound, Rejected, Reply
from preview_proxy.core.plan import Route, Rules, plan_accept, plan_handshake, plan_response
from preview_proxy.core.websocket import outgoing_close
from preview_proxy.errors import PreviewProxyError, UpstreamProtocol, from_rejected
from preview_proxy.event_loop import Task
from preview_proxy.transports.exchange import Lease, Run, UnderWay, Upstream, cut_short, explanation, translate
from preview_proxy.transports.relay_http import Aborted
from preview_proxy.transports.request import NO_BODY, UpstreamRequest, UpstreamResponse
from preview_proxy.transports.upgraded import Upgraded
from preview_proxy.transports.websocket_stream import CLOSE_TIMEOUT, Closed, PulledStream, WebSocketStream

MAX_REFUSAL = 64 * 1024  # bytes
FULL_AGE = 0.98
"""The part of a socket's greatest age at which it is closed: 18 seconds before fifteen minutes."""
GONE = (OSError, RuntimeError)
"""What `send` raises after a disconnect (OSError, by the ASGI spec) or after a close."""
GRACE = 1.0
"""Seconds in which upstream may still say why it closed, after a write to it failed."""


async def relay_websocket(
    inbound: Inbound,
    lease: Lease,
    rules: Rules,
    transport: Upstream,
    receive: Receive,
    send: Send,
    run: Run,
    *,
    can_deny: bool,
) -> None:
    """Relay one WebSocket, after its ``websocket.connect``. Returns when both sides are closed.

    `can_deny` tells whether the server offers ``websocket.http.response``: then a refusal by upstream reaches the
    visitor as the HTTP response it is. Raises `PreviewProxyError` while nothing was sent downstream, and `Aborted`, for
    the log, of a WebSocket that was open and had to end.
    """
    dialling = _Dialling(inbound, lease, rules, transport)
    failure: PreviewProxyError | None = None
    try:
        failure = cut_short(await run("websocket", dialling.run, receive))
    except Rejected as rejected:
        failure = from_rejected(rejected)
    except Exception as error:
        lease.failed(error)
        failure = translate(error)
    response = dialling.response
    try:
        if failure is not None:
            raise failure
        if dialling.accept is not None and response is not None:
            relaying = partial(_relay, response, dialling.accept, dialling, receive, send)
            try:
                cut = await run("websocket", relaying, None)
            except Exception as error:  # too late for a refusal
                raise Aborted(PreviewProxyError(detail=type(error).__name__)) from error
            if cut != "drained" and (ended := cut_short(cut)) is not None:  # of those a restart tells
                raise Aborted(ended)
        elif dialling.refusal is not None:
            await _deny(dialling.refusal, dialling.body, send, can_deny)
    finally:
        if response is not None:
            await response.aclose()


@dataclass(slots=True)
class _Dialling:
    """Dialling upstream while the visitor may leave."""

    inbound: Inbound
    lease: Lease
    rules: Rules
    transport: Upstream
    response: UpstreamResponse | None = None
    accept: Accept | None = None
    max_age: float | None = None
    refusal: Reply | None = None
    body: bytes = b""

    async def run(self, _: UnderWay) -> None:
        """Leaves `response`, with `accept` for a good 101, else `refusal`. Asks twice at most."""
        cured = False
        key = b64encode(os.urandom(16))
        while True:
            route = await self.lease.route()
            outbound = plan_handshake(self.inbound, route, self.rules, key)
            response = self.response = await self.transport.send(UpstreamRequest(outbound, NO_BODY))
            self.lease.reached()
            if response.status_code == 101:
                headers = tuple(response.raw_headers)
                self.accept = plan_accept(headers, key, self.inbound, route, self.rules)
                self.max_age = route.endpoint.max_socket_age
                return
            error = await explanation(response, self.lease)
            if error is None:
                return await self._refused(response, route)
            await response.aclose()
            if cured or not await self.lease.cure(error):
                raise error
            cured = True

    async def _refused(self, response: UpstreamResponse, route: Route) -> None:
        """Read the refusal whole, for servers hold it until its end: an endless one would fill their memory."""
        headers, body = tuple(response.raw_headers), b""
        reply = plan_response(self.inbound.method, response.status_code, headers, route, self.rules)
        if reply.has_body:
            async for chunk in response:
                body += chunk
                if len(body) > MAX_REFUSAL:
                    raise UpstreamProtocol(detail=f"a refusal of more than {MAX_REFUSAL} bytes")
        self.refusal, self.body = reply, body


async def _deny(refusal: Reply, body: bytes, send: Send, can_deny: bool) -> None:
    """Upstream's refusal, as the HTTP response it is where the server can send one."""
    if not can_deny:
        await _send(send, {"type": "websocket.close", "code": 1008, "reason": ""})
        return
    start = {"type": "websocket.http.response.start", "status": refusal.status, "headers": list(refusal.headers)}
    if await _send(send, start):  # raising now would have another begun
        await _send(send, {"type": "websocket.http.response.body", "body": body, "more_body": False})


class _End(NamedTuple):
    """How a WebSocket ends: what upstream is told, and the visitor, unless they have gone."""

    upstream: tuple[int | None, str]
    visitor: tuple[int, str] | None = None


async def _relay(
    response: UpstreamResponse, accept: Accept, dialled: _Dialling, receive: Receive, send: Send, under_way: UnderWay
) -> None:
    limits, max_age = dialled.rules.limits, dialled.max_age
    accepting = {"type": "websocket.accept", "subprotocol": accept.subprotocol, "headers": list(accept.headers)}
    if not await _send(send, accepting):
        return
    stream = response.extensions.get("network_stream")
    upstream = WebSocketStream(stream if isinstance(stream, Upgraded) else PulledStream(stream), limits)
    down = _Down(upstream, send, under_way)
    try:
        pumping = _pump_up(upstream, receive, limits.message_bytes, under_way)
        end = await down.interruption.run(pumping if max_age is None else _until_old(pumping, max_age))
        if end is None:
            end = _End((None, ""), down.closing)
        await down.stop()
        upstream.close(*end.upstream)
        if end.visitor is not None:  # only now: granian cannot close while `receive` is awaited
            await _bid_farewell(send, *end.visitor)
            await _leave(receive)
        await upstream.wait_closed()
    except anyio.get_cancelled_exc_class():
        await down.stop()  # first of all: nothing passes any more
        code, reason = _closing(under_way.cut or "drained")  # a server cancels without a word: it stops
        upstream.close(code, "")
        await _bid_farewell(send, code, reason)
        raise
    finally:
        await down.stop()
        await upstream.aclose()


async def _until_old(pumping: Awaitable[_End], max_age: float) -> _End:
    """Pump, and close before upstream breaks it off: clients take a close for a reason to connect again."""
    with anyio.move_on_after(max_age * FULL_AGE):
        return await pumping
    return _End((1012, ""), (1012, "reconnect"))


async def _bid_farewell(send: Send, code: int, reason: str) -> None:
    """Close downstream, in bounded time: the visitor may not read."""
    # there may have been a close already, and servers raise anything for another, in place of the cancellation
    with anyio.move_on_after(CLOSE_TIMEOUT, shield=True), suppress(Exception):
        await send({"type": "websocket.close", "code": code, "reason": reason})


def _closing(cut: str) -> tuple[int, str]:
    """How to close both sides of a relay that was cut short."""
    ended = cut_short(cut)
    assert ended is not None  # noqa: S101 - that the visitor has left is not looked for here: `receive` tells
    # at different times, or a server that restarts has all of them back at once
    hint = f"; retry in {random.randint(1, 10)} s" if cut == "drained" else ""  # noqa: S311 - no secret
    return ended.close_code, ended.code + hint


class _Down:
    """From upstream to the visitor, in a task of its own; it ends the other direction when upstream has closed."""

    def __init__(self, upstream: WebSocketStream, send: Send, under_way: UnderWay) -> None:
        self._upstream = upstream
        self._send = send
        self._under_way = under_way
        self.closing = (1000, "")
        self._stopped = False
        loop = event_loop.running()
        self.interruption = loop.interruption()
        self._task: Task | None = loop.spawn(self._pump())

    async def stop(self) -> None:
        """Let nothing pass any more, and return once nothing can: two may not send at a time."""
        self._stopped = True  # its next message may be on the way to it already
        task, self._task = self._task, None  # the frames that it was cancelled in have this, and `send` with it
        if task is not None:
            task.cancel()
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await task.wait()

    async def _pump(self) -> None:
        try:
            while not isinstance(message := await self._upstream.receive(), Closed):
                if self._stopped or self._under_way.cut is not None:
                    return
                key = "text" if isinstance(message, str) else "bytes"
                await self._send({"type": "websocket.send", key: message})
        except GONE:
            return  # the other direction is told how the visitor closed
        self.closing = outgoing_close(message.code, message.reason)
        self.interruption.interrupt()


async def _pump_up(upstream: WebSocketStream, receive: Receive, limit: int, under_way: UnderWay) -> _End:
    """From the visitor to upstream, until the visitor has gone or somebody has broken a bound."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return _End(outgoing_close(message.get("code"), message.get("reason")))
        if under_way.cut is not None:  # trio gives a task what came first, and the cancellation at its next step
            await anyio.lowlevel.checkpoint()
            code, reason = _closing(under_way.cut)  # where the server swallows cancellations
            return _End((code, ""), (code, reason))
        text = message.get("text")  # servers may send both keys, one of them None
        content = message["bytes"] if text is None else text
        if len(content) > limit // 4 and _size(content) > limit:  # no character has more than four bytes
            return _End((1009, ""), (1009, "message too big"))
        if not await upstream.send(content):
            # upstream may have said why it closed; give the other pump the time to read it
            await anyio.sleep(GRACE)
            return _End((1011, ""), (1011, ""))


async def _leave(receive: Receive) -> None:
    """Take what the visitor still sends, for a second: hypercorn reads no close behind messages that nobody takes."""
    with suppress(*GONE), anyio.move_on_after(CLOSE_TIMEOUT):
        while (await receive())["type"] != "websocket.disconnect":
            pass


def _size(content: str | bytes) -> int:
    """Bytes on the wire."""
    return len(content) if isinstance(content, bytes) or content.isascii() else len(content.encode())


async def _send(send: Send, message: Message) -> bool:
    """Whether the visitor was still there."""
    try:
        await send(message)
    except GONE:
        return False
    return True
