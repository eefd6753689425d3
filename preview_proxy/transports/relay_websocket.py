"""One WebSocket: dialled upstream first, accepted downstream only when upstream has accepted (RFC 6455)."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import httpx
from starlette.types import Message, Receive, Send

from preview_proxy.core.models import Accept, Inbound, Rejected
from preview_proxy.core.plan import Route, Rules, plan_accept, plan_handshake, plan_response
from preview_proxy.core.websocket import outgoing_close
from preview_proxy.errors import from_rejected
from preview_proxy.transports.exchange import Lease, explanation, head
from preview_proxy.transports.upstream import NO_BODY, Answer, build_request, translate
from preview_proxy.transports.websocket_stream import CLOSE_TIMEOUT, Closed, WebSocketStream


async def relay_websocket(
    inbound: Inbound,
    lease: Lease,
    rules: Rules,
    transport: httpx.AsyncBaseTransport,
    receive: Receive,
    send: Send,
    *,
    can_deny: bool,
) -> None:
    """Relay one WebSocket, after its ``websocket.connect``. Returns when both sides are closed.

    `can_deny` tells whether the server offers ``websocket.http.response``: then a refusal by upstream reaches the
    visitor as the HTTP response it is. Raises `PreviewProxyError` while nothing was sent downstream.
    """
    handshake = _Handshake(inbound, lease, rules, transport)
    await handshake.run(receive)
    if handshake.failure is not None:
        raise handshake.failure
    if handshake.answer is None or handshake.route is None:
        return
    try:
        if handshake.accept is None:
            await _deny(handshake.answer, handshake.route, inbound, rules, send, can_deny)
        else:
            await _relay(handshake.answer, handshake.accept, rules, receive, send)
    finally:
        await handshake.answer.aclose()


@dataclass(slots=True)
class _Handshake:
    """Dialling upstream while the visitor may leave."""

    inbound: Inbound
    lease: Lease
    rules: Rules
    transport: httpx.AsyncBaseTransport
    answer: Answer | None = None
    route: Route | None = None
    accept: Accept | None = None
    failure: Exception | None = None

    async def run(self, receive: Receive) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, receive, group.cancel_scope.cancel)
            try:
                await self._dial()
            except Rejected as rejected:
                self.failure = from_rejected(rejected)
            except Exception as error:
                self.failure = translate(error)
            group.cancel_scope.cancel()
        if self.failure is not None and self.answer is not None:
            await self.answer.aclose()

    async def _dial(self) -> None:
        renewed = False
        key = b64encode(os.urandom(16))
        uploaded = anyio.Event()
        uploaded.set()
        while True:
            self.route = await self.lease.route()
            outbound = plan_handshake(self.inbound, self.route, self.rules, key)
            request = build_request(outbound, NO_BODY, self.rules.limits)
            answer = self.answer = await head(self.transport.handle_async_request(request), uploaded, self.rules.limits)
            if answer.status == 101:
                self.accept = plan_accept(answer.headers, key, self.inbound, self.route, self.rules)
                return
            error = await explanation(answer, self.lease, self.rules.limits)
            if error is None:
                return
            await answer.aclose()
            if renewed or not self.lease.renew(error):
                raise error
            renewed = True


async def _watch(receive: Receive, leave: Callable[[], None]) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass  # pragma: no cover - nothing else comes before the accept
    leave()


async def _deny(answer: Answer, route: Route, inbound: Inbound, rules: Rules, send: Send, can_deny: bool) -> None:
    """Upstream's refusal, as the HTTP response it is where the server can send one."""
    reply = plan_response(inbound.method, answer.status, answer.headers, route, rules)
    if not can_deny:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    await send({"type": "websocket.http.response.start", "status": reply.status, "headers": list(reply.headers)})
    while reply.has_body and (chunk := await answer.read(rules.limits.idle_timeout)) is not None:
        await send({"type": "websocket.http.response.body", "body": chunk, "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})


async def _relay(answer: Answer, accept: Accept, rules: Rules, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept", "subprotocol": accept.subprotocol, "headers": list(accept.headers)})
    upstream = WebSocketStream(answer.byte_stream, rules.limits)
    try:
        closing: tuple[int, str] | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(_pump_down, upstream, send, group.cancel_scope.cancel)
            closing = await _pump_up(upstream, receive, send, rules.limits.message_bytes)
            group.cancel_scope.cancel()
        if closing is not None:
            await upstream.close(*closing)
            await upstream.wait_closed()
    except anyio.get_cancelled_exc_class():
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await upstream.close(1012, "")
            await _send(send, {"type": "websocket.close", "code": 1012, "reason": "restarting"})
        raise
    finally:
        await upstream.aclose()


async def _pump_up(upstream: WebSocketStream, receive: Receive, send: Send, limit: int) -> tuple[int, str]:
    """From the visitor to upstream; how to close upstream, once the visitor has gone or broken a bound."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return outgoing_close(message.get("code"), message.get("reason"))
        text = message.get("text")  # servers may send both keys, one of them None
        content = message["bytes"] if text is None else text
        if len(content) > limit:
            await _send(send, {"type": "websocket.close", "code": 1009, "reason": "message too big"})
            return 1009, ""
        if not await upstream.send(content):
            # upstream may have said why it closed; give the other pump the time to read it
            await anyio.sleep(CLOSE_TIMEOUT)
            await _send(send, {"type": "websocket.close", "code": 1011, "reason": ""})
            return 1011, ""


async def _pump_down(upstream: WebSocketStream, send: Send, stop: Callable[[], None]) -> None:
    """From upstream to the visitor, until either closes."""
    while not isinstance(message := await upstream.receive(), Closed):
        if not await _send(send, {"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message}):
            return  # the other pump is told how the visitor closed
    code, reason = outgoing_close(message.code, message.reason)
    await _send(send, {"type": "websocket.close", "code": code, "reason": reason})
    stop()


async def _send(send: Send, message: Message) -> bool:
    """Whether the visitor was still there: the ASGI spec has `send` raise OSError after a disconnect."""
    try:
        await send(message)
    except OSError:
        return False
    return True
