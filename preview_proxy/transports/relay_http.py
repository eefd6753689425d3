"""One HTTP exchange, streamed both ways.

The visitor's side is watched all the time: a client that leaves, even before the response head, takes the upstream
request with it. An upstream that fails in mid-body aborts the response; it is never finished as if it were whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import anyio
import httpx
from starlette.types import Receive, Send

from preview_proxy.core.models import Inbound, RawHeaders, Rejected
from preview_proxy.core.plan import Route, Rules, plan_request, plan_response
from preview_proxy.core.policy import Limits
from preview_proxy.errors import (
    BadRequest,
    LimitExceeded,
    PreviewProxyError,
    from_rejected,
)
from preview_proxy.transports.exchange import ClientGone, Lease, explanation, head
from preview_proxy.transports.upstream import Answer, build_request, translate


class Aborted(Exception):
    """Upstream failed after the response head went out: the connection must be cut, not ended."""

    def __init__(self, cause: PreviewProxyError) -> None:
        super().__init__(cause.code)
        self.cause = cause


class RequestBody(httpx.AsyncByteStream):
    """The visitor's body as it arrives, held to its declared length and to the operator's limit.

    `started` tells whether a byte of it was asked for; `over` is set when no more will be read from it.
    """

    def __init__(self, receive: Receive, inbound: Inbound, limits: Limits) -> None:
        self._receive = receive
        self._declared = inbound.content_length
        self._limit = limits.body_bytes
        self._size = 0
        self.started = False
        self.over = anyio.Event()
        if not inbound.has_body:
            self.over.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = not self.over.is_set()
        self.started = more
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            more = message.get("more_body", False)
            chunk = message.get("body", b"")
            self._count(len(chunk), more)
            if chunk:
                yield chunk
        self.over.set()

    def _count(self, size: int, more: bool) -> None:
        self._size += size
        if self._limit is not None and self._size > self._limit:
            raise LimitExceeded("body_too_large", detail=f"more than {self._limit} bytes")
        if self._declared is not None and (self._size > self._declared or not (more or self._size == self._declared)):
            raise BadRequest("bad_framing", detail="the body is not as long as declared")


@dataclass(slots=True)
class _Exchange:
    inbound: Inbound
    lease: Lease
    rules: Rules
    transport: httpx.AsyncBaseTransport
    body: RequestBody
    send: Send
    started: bool = False
    outcome: Exception | None = field(default=None)

    async def run(self) -> None:
        """Do the exchange; what went wrong is in `outcome`, because a task group would wrap it."""
        try:
            await self._run()
        except Rejected as rejected:
            self.outcome = from_rejected(rejected)
        except ClientGone as gone:
            self.outcome = gone
        except Exception as error:  # a transport may raise anything; the worker must live
            self.outcome = translate(error)

    async def _run(self) -> None:
        answer, route = await self._ask()
        try:
            await self._relay(answer, route)
        finally:
            await answer.aclose()

    async def _ask(self) -> tuple[Answer, Route]:
        """The response to relay. Renews the credential at most once, and only where no body would be sent twice."""
        renewed = False
        while True:
            route = await self.lease.route()
            request = build_request(plan_request(self.inbound, route, self.rules), self.body, self.rules.limits)
            answer = await head(self.transport.handle_async_request(request), self.body.over, self.rules.limits)
            error = await explanation(answer, self.lease, self.rules.limits)
            if error is None:
                return answer, route
            await answer.aclose()
            if renewed or self.body.started or not self.lease.renew(error):
                raise error
            renewed = True

    async def _relay(self, answer: Answer, route: Route) -> None:
        reply = plan_response(self.inbound.method, answer.status, answer.headers, route, self.rules)
        self.body.over.set()
        self.started = True
        await self.send({"type": "http.response.start", "status": reply.status, "headers": list(reply.headers)})
        if reply.has_body:
            idle = None if is_event_stream(answer.headers) else self.rules.limits.idle_timeout
            while (chunk := await answer.read(idle)) is not None:
                await self.send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


async def relay_http(
    inbound: Inbound, lease: Lease, rules: Rules, transport: httpx.AsyncBaseTransport, receive: Receive, send: Send
) -> None:
    """Relay one request. Raises `PreviewProxyError` while a response can still be given, `Aborted` after that.

    Returns also when the visitor left.
    """
    exchange = _Exchange(inbound, lease, rules, transport, RequestBody(receive, inbound, rules.limits), send)
    async with anyio.create_task_group() as group:
        group.start_soon(_watch, receive, exchange.body, group.cancel_scope.cancel)
        await exchange.run()
        group.cancel_scope.cancel()
    if isinstance(exchange.outcome, PreviewProxyError):
        raise Aborted(exchange.outcome) if exchange.started else exchange.outcome


async def _watch(receive: Receive, body: RequestBody, leave: Callable[[], None]) -> None:
    """Wait until the visitor is gone, once nobody else reads from them."""
    await body.over.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
    leave()


def is_event_stream(headers: RawHeaders) -> bool:
    """Whether silence is part of the format (HTML §9.2)."""
    return any(name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers)
