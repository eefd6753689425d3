"""Our own two addresses on every preview's host, for the page that embeds it: exchange a ticket, and check.

    POST /.well-known/preview-proxy/session   {"ticket": …}  →  204 with the gate cookie
    GET  /.well-known/preview-proxy/check                    →  204, or 401 where the browser did not keep the cookie

Both are asked by `fetch` from the embedding page, before the frame exists: a worker that the sandbox registered never
sees such a request, while it would see a form posted into the frame.
"""

from __future__ import annotations

import json

from starlette.types import Receive, Send

from preview_proxy.core.models import Inbound, RawHeaders
from preview_proxy.errors import BadRequest, Forbidden, NotFound, PreviewProxyError, Unauthorized
from preview_proxy.gate import Gate
from preview_proxy.hosts import Routed
from preview_proxy.responses import refusal, respond
from preview_proxy.tickets import Tickets, gate_set_cookie

PREFIX = b"/.well-known/preview-proxy/"
MAX_BODY = 4096


def is_ours(path: bytes) -> bool:
    """Whether a raw path is below the reserved prefix. Encoded spellings are ordinary paths of the sandbox."""
    return path.startswith(PREFIX) or path == PREFIX[:-1]


class Endpoints:
    """The exchange and the check."""

    def __init__(self, gate: Gate, tickets: Tickets | None) -> None:
        self._gate = gate
        self._tickets = tickets

    async def __call__(self, inbound: Inbound, routed: Routed, receive: Receive, send: Send) -> None:
        """Answer. Raises `PreviewProxyError` only where the page that asks may not read the answer."""
        tickets, name = self._tickets, inbound.path[len(PREFIX) :]
        if tickets is None or inbound.kind != "http" or name not in (b"session", b"check"):
            raise NotFound("no_such_endpoint", detail="no such endpoint")
        embedder = _embedder(inbound, tickets)
        if name == b"check":
            return await self._check(inbound, routed, embedder, send)
        if inbound.method == "OPTIONS":
            return await respond(send, 204, _preflight(embedder))
        try:
            set_cookie = await self._exchange(tickets, inbound, routed, embedder, receive)
        except PreviewProxyError as error:
            if embedder is None:
                raise
            failure = error
        else:
            return await respond(send, 204, (*_cors(embedder), (b"set-cookie", set_cookie)))
        status, headers, body = refusal(failure, "", page=False, frame_ancestors=b"frame-ancestors 'none'")
        await respond(send, status, (*headers, *_cors(embedder)[:3]), body)

    async def _exchange(
        self, tickets: Tickets, inbound: Inbound, routed: Routed, embedder: str | None, receive: Receive
    ) -> bytes:
        """The gate cookie for a ticket. The incoming one is never looked at, so none can be planted and adopted."""
        if inbound.method != "POST":
            raise BadRequest("method_not_allowed", detail="the exchange is a POST")
        if embedder is None:
            raise Forbidden("ticket_refused", detail="not from an embedder")
        if inbound.values(b"content-type") != [b"application/json"]:  # a plain form could send anything else
            raise Forbidden("ticket_refused", detail="not JSON")
        ticket = _ticket(await _read(receive))
        session = await tickets.exchange(ticket, origin=routed.public, preview=routed.preview, embedder=embedder)
        try:
            await self._gate.authorize(session.subject, routed.preview)
        except NotFound:
            allowed = False
        else:
            allowed = True
        if not allowed:
            raise Forbidden("ticket_refused", detail="authorize said no")
        value, max_age = tickets.gate(origin=routed.public, preview=routed.preview, session=session)
        return gate_set_cookie(value, max_age, secure_origin=routed.public.scheme == "https")

    async def _check(self, inbound: Inbound, routed: Routed, embedder: str | None, send: Send) -> None:
        if inbound.method not in ("GET", "HEAD"):
            raise BadRequest("method_not_allowed", detail="the check is a GET")
        if self._gate.has_gate(inbound, routed):
            return await respond(send, 204, _cors(embedder))
        if embedder is None:
            raise Unauthorized(detail="no gate")
        await respond(send, 401, (*_cors(embedder), (b"content-length", b"0")))


def _embedder(inbound: Inbound, tickets: Tickets) -> str | None:
    """The one `Origin`, where it is one of the embedders exactly."""
    origins = [value.decode("latin-1") for value in inbound.values(b"origin")]
    return origins[0] if len(origins) == 1 and origins[0] in tickets.embedders else None


def _cors(embedder: str | None) -> RawHeaders:
    """Fetch §3.2, for an embedder only."""
    fixed = ((b"vary", b"Origin"), (b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer"))
    if embedder is None:
        return fixed
    allow = (b"access-control-allow-origin", embedder.encode()), (b"access-control-allow-credentials", b"true")
    return (*allow, *fixed)


def _preflight(embedder: str | None) -> RawHeaders:
    if embedder is None:
        return _cors(None)
    return (
        *_cors(embedder),
        (b"access-control-allow-methods", b"POST"),
        (b"access-control-allow-headers", b"content-type"),
        (b"access-control-max-age", b"600"),
    )


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if message["type"] == "http.disconnect" or len(body) > MAX_BODY:
            raise Forbidden("ticket_refused", detail="no whole body of at most 4 KiB")
        if not message.get("more_body", False):
            return body


def _ticket(body: bytes) -> str:
    try:
        ticket = json.loads(body)["ticket"]
    except (ValueError, KeyError, TypeError, RecursionError):
        ticket = None
    if not isinstance(ticket, str):
        raise Forbidden("ticket_refused", detail='the body is not {"ticket": "…"}')
    return ticket
