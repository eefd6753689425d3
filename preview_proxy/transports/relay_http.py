"""One HTTP exchange, streamed both ways.

The visitor's side is watched all the time: a client that leaves, even before the response head, takes the upstream
request with it. An upstream that fails in mid-body aborts the response; it is never finished as if it were whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

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
from preview_proxy.transports.exchange import ClientGone, Lease, Run, ask, cut_short, explanation, translate
from preview_proxy.transports.request import UpstreamRequest, UpstreamResponse


class Aborted(Exception):
    """Upstream failed after the response head went out: the connection must be cut, not ended."""

    def __init__(self, cause: PreviewProxyError) -> None:
        super().__init__(cause.code)
        self.cause = cause


class RequestBody(httpx.AsyncByteStream):
    """The visitor's body as it arrives, held to its declared length and to the operator's limit.

    `started` tells whether a byte of it was asked for; `over`, where there is a body, is set when all of it was read.
    """

    def __init__(self, receive: Receive, inbound: Inbound, limits: Limits) -> None:
        self._receive = receive
        self._declared = inbound.content_length
        self._limit = limits.body_bytes
        self._size = 0
        self.started = False
        self.over = anyio.Event() if inbound.has_body else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.started = more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            more = message.get("more_body", False)
            chunk = message.get("body", b"")
            self._count(len(chunk), more)
            if chunk:
                yield chunk
        if self.over is not None:
            self.over.set()

    def _count(self, size: int, more: bool) -> None:
        self._size += size
        if self._limit is not None and self._size > self._limit:
            raise LimitExceeded("body_too_large", detail=f"more than {self._limit} bytes")
        if self._declared is not None and (self._size > self._declared or not (more or self._size == self._declared)):
            raise BadRequest("bad_framing", detail="the body is not as long as declared")


@dataclass(slots=True)
class _Relay:
    inbound: Inbound
    lease: Lease
    rules: Rules
    transport: httpx.AsyncBaseTransport
    body: RequestBody
    send: Send
    started: bool = False

    async def run(self) -> None:
        response, route = await self._ask()
        try:
            await self._answer(response, route)
        finally:
            await response.aclose()

    async def _ask(self) -> tuple[UpstreamResponse, Route]:
        """The response to relay. Renews the credential at most once, and only where no body would be sent twice."""
        renewed = False
        while True:
            route = await self.lease.route()
            outbound = plan_request(self.inbound, route, self.rules)
            response = await ask(self.transport, UpstreamRequest(outbound, self.body))
            error = await explanation(response, self.lease)
            if error is None:
                return response, route
            await response.aclose()
            if renewed or self.body.started or not self.lease.renew(error):
                raise error
            renewed = True

    async def _answer(self, response: UpstreamResponse, route: Route) -> None:
        headers = tuple(response.raw_headers)
        reply = plan_response(self.inbound.method, response.status_code, headers, route, self.rules)
        self.started = True
        await self.send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        if reply.has_body:
            if is_event_stream(headers):
                response.idle_timeout = None
            if response.unread:
                await self.send({"type": "http.response.body", "body": response.unread, "more_body": True})
            while (chunk := await response.read_chunk()) is not None:
                last = response.is_whole
                await self.send({"type": "http.response.body", "body": chunk, "more_body": not last})
                if last:
                    return
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


async def relay_http(
    inbound: Inbound,
    lease: Lease,
    rules: Rules,
    transport: httpx.AsyncBaseTransport,
    receive: Receive,
    send: Send,
    run: Run,
) -> None:
    """Relay one request. Raises `PreviewProxyError` while a response can still be given, `Aborted` after that.

    `transport` is an `UpstreamPool` or a `ForeignTransport`. Returns also when the visitor has left.
    """
    body = RequestBody(receive, inbound, rules.limits)
    relay = _Relay(inbound, lease, rules, transport, body, send)
    failure: PreviewProxyError | None = None
    try:
        failure = cut_short(await run("http", relay.run(), receive, body.over))
    except Rejected as rejected:
        failure = from_rejected(rejected)
    except ClientGone:
        return
    except Exception as error:  # a transport may raise anything; the worker must live
        failure = translate(error)
    if failure is not None:
        raise Aborted(failure) if relay.started else failure


def is_event_stream(headers: RawHeaders) -> bool:
    """Whether silence is part of the format (HTML §9.2)."""
    return any(name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers)
