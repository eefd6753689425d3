"""One HTTP exchange, streamed both ways.

The visitor's side is watched all the time: a client that leaves, even before the response head, takes the upstream
request with it. An upstream that fails in mid-body aborts the response; it is never finished as if it were whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import anyio
import httpx
from starlette.types import Receive, Send

from preview_proxy import event_loop
from preview_proxy.core.cross_site import SAFE_METHODS
from preview_proxy.core.models import Inbound, RawHeaders, Rejected, Reply
from preview_proxy.core.plan import Route, Rules, plan_early_hint, plan_request, plan_response, plan_trailers
from preview_proxy.core.policy import Limits
from preview_proxy.errors import (
    BadRequest,
    LimitExceeded,
    PreviewProxyError,
    from_rejected,
)
from preview_proxy.event_loop import Task
from preview_proxy.transports.exchange import (
    ClientGone,
    Lease,
    Run,
    UnderWay,
    Upstream,
    cut_short,
    explanation,
    translate,
)
from preview_proxy.transports.request import NO_BODY, UpstreamRequest, UpstreamResponse

# ASGI extensions of those names
EARLY_HINT, TRAILERS = "http.response.early_hint", "http.response.trailers"


SOON = 2
"""Seconds that a safe request waits at most, once, for an edge that is asked too often."""


class Aborted(Exception):
    """Upstream failed after the response head went out: the connection must be cut, not ended."""

    def __init__(self, cause: PreviewProxyError) -> None:
        super().__init__(cause.code)
        self.cause = cause


class RequestBody(httpx.AsyncByteStream):
    """The visitor's body as it arrives, held to its declared length and to the operator's limit.

    `started` tells whether a byte of it was asked for; `over` is set when all of it was read.
    """

    def __init__(self, receive: Receive, inbound: Inbound, limits: Limits) -> None:
        self._receive = receive
        self._declared = inbound.content_length
        self._limit = limits.body_bytes
        self._size = 0
        self.started = False
        self.over = anyio.Event()

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
    transport: Upstream
    body: RequestBody | None
    send: Send
    offers: Container[str]
    started: bool = False
    hints: list[Task] = field(default_factory=list)

    async def run(self, _: UnderWay) -> None:
        try:
            response, route = await self._ask()
            try:
                await self._answer(response, route)
            except OSError as gone:  # of `send`, by the ASGI spec: what upstream does has httpx's errors
                raise ClientGone from gone
            finally:
                if not response.is_whole:
                    await response.aclose()
        finally:
            for hint in self.hints:  # the server may not have taken one yet
                hint.cancel()

    async def _ask(self) -> tuple[UpstreamResponse, Route]:
        """The response to relay. Asks once more where no body would be sent twice: of what was cured, or later."""
        cured = False
        while True:
            route = await self.lease.route()
            outbound = plan_request(self.inbound, route, self.rules)
            request = UpstreamRequest(outbound, self.body or NO_BODY)
            if EARLY_HINT in self.offers:
                request.on_informational = partial(self._inform, route)
            response = await self.transport.send(request)
            self.lease.reached()
            if response.status_code < 300 or response.status_code == 304:  # a redirect may be an edge's, to its login
                return response, route
            try:
                error = await explanation(response, self.lease)
            except BaseException:
                await response.aclose()
                raise
            if error is None:
                return response, route
            await response.aclose()
            if self._may_wait(error) and not cured:
                await anyio.sleep(error.retry_after or 0)
            # cured also for a body that cannot be sent again: the next request is served
            elif not await self.lease.cure(error) or cured or (self.body is not None and self.body.started):
                raise error
            cured = True

    def _may_wait(self, error: PreviewProxyError) -> bool:
        """Whether the edge has us wait so little that the visitor need not know. A page cannot load a module again."""
        if error.code != "rate_limit_exceeded" or error.retry_after is None or error.retry_after > SOON:
            return False
        return self.body is None and self.inbound.method in SAFE_METHODS

    def _inform(self, route: Route, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Pass a 103 on (RFC 8297). It comes by callback, so a task sends it; the response waits for that."""
        if status == 103 and (links := plan_early_hint(tuple(headers), route, self.rules)):
            self.hints.append(event_loop.running().spawn(self._hint(links)))

    async def _hint(self, links: list[bytes]) -> None:
        with suppress(OSError):  # the response will find that too
            await self.send({"type": EARLY_HINT, "links": links})

    async def _answer(self, response: UpstreamResponse, route: Route) -> None:
        headers = tuple(response.raw_headers)
        status = response.status_code
        navigates = status == 401 and self.inbound.values(b"sec-fetch-mode") == [b"navigate"]
        reply = plan_response(self.inbound.method, status, headers, route, self.rules, navigates=navigates)
        for hint in self.hints:
            await hint.wait()
        self.started = True
        start = {"type": "http.response.start", "status": reply.status, "headers": list(reply.headers)}
        if TRAILERS in self.offers and any(name == b"trailer" for name, _ in headers):
            await self.send({**start, "trailers": True})
            await self._send_body(response, reply, headers)
            trailers = plan_trailers(tuple(response.trailers), route, self.rules)
            await self.send({"type": TRAILERS, "headers": trailers, "more_trailers": False})
        else:
            await self.send(start)
            await self._send_body(response, reply, headers)

    async def _send_body(self, response: UpstreamResponse, reply: Reply, headers: RawHeaders) -> None:
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
        # before the last message: after it, servers report the visitor as gone, which would cut the closing short
        if not response.is_whole:
            await response.aclose()
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


async def relay_http(
    inbound: Inbound,
    lease: Lease,
    rules: Rules,
    transport: Upstream,
    receive: Receive,
    send: Send,
    run: Run,
    *,
    offers: Container[str] = (),
) -> None:
    """Relay one request. Raises `PreviewProxyError` while a response can still be given, `Aborted` after that.

    `offers` are the ASGI extensions of the server. Returns also when the visitor has left.
    """
    body = RequestBody(receive, inbound, rules.limits) if inbound.has_body else None
    relay = _Relay(inbound, lease, rules, transport, body, send, offers)
    failure: PreviewProxyError | None = None
    try:
        failure = cut_short(await run("http", relay.run, receive, body.over if body else None))
    except Rejected as rejected:
        failure = from_rejected(rejected)
    except ClientGone:
        return
    except Exception as error:  # a transport may raise anything; the worker must live
        lease.failed(error)
        failure = translate(error)
    if failure is not None:
        raise Aborted(failure) if relay.started else failure


def is_event_stream(headers: RawHeaders) -> bool:
    """Whether silence is part of the format (HTML §9.2)."""
    for name, value in headers:  # noqa: SIM110 - a generator is slower
        if name == b"content-type" and value.lower().startswith(b"text/event-stream"):
            return True
    return False
