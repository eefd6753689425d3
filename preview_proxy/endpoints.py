"""Our own addresses on every preview's host, for the page that embeds it: exchange a ticket, check, and sign out.

    POST /.well-known/preview-proxy/session   {"ticket": …}  →  204 with the gate cookie
    GET  /.well-known/preview-proxy/check                    →  204, or 401 where the browser did not keep the cookie
    POST /.well-known/preview-proxy/logout                   →  204, and the cookie is gone

They are asked by `fetch` from the embedding page, not from the frame: a worker that the sandbox registered never sees
such a request, while it would see a form posted into the frame.
"""

from __future__ import annotations

import json
from typing import Protocol

import anyio
from starlette.types import Receive

from preview_proxy.core.models import Inbound, Preview, RawHeaders
from preview_proxy.errors import BadRequest, Forbidden, NotFound, Unauthorized
from preview_proxy.gate import Gate
from preview_proxy.hosts import Routed
from preview_proxy.responses import respond
from preview_proxy.tickets import Tickets, gate_set_cookie
from preview_proxy.visit import Visit

PREFIX = b"/.well-known/preview-proxy/"
MAX_BODY = 4096
BODY_TIMEOUT = 10.0
"""Seconds for a body of at most `MAX_BODY` bytes."""

_METHODS = {b"session": ("POST", "OPTIONS"), b"check": ("GET", "HEAD"), b"logout": ("POST", "OPTIONS")}
_PRIVATE = ((b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer"))
# Fetch §3.2.2
_PREFLIGHT = (
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"content-type"),
    (b"access-control-max-age", b"600"),
)


def is_ours(path: bytes) -> bool:
    """Whether a raw path is below the reserved prefix. Encoded spellings are ordinary paths of the sandbox."""
    return path.startswith(PREFIX) or path == PREFIX[:-1]


class Revoke(Protocol):
    """`PreviewProxy.revoke`."""

    def __call__(
        self, *, subject: str | None = None, preview: Preview | None = None, session: str | None = None
    ) -> int: ...


class Endpoints:
    """The exchange, the check and the sign-out."""

    def __init__(self, gate: Gate, tickets: Tickets | None, revoke: Revoke) -> None:
        self._gate = gate
        self._tickets = tickets
        self._revoke = revoke

    async def __call__(self, inbound: Inbound, routed: Routed, visit: Visit) -> None:
        """Answer, or raise `PreviewProxyError`; an embedder's page may read either."""
        tickets, name = self._tickets, inbound.path[len(PREFIX) :]
        if tickets is None or inbound.kind != "http" or name not in _METHODS:
            raise NotFound("no_such_endpoint", detail="no such endpoint")
        embedder = _embedder(inbound, tickets)
        visit.refusal_headers = _cors(embedder)
        if inbound.method not in _METHODS[name]:
            visit.refusal_headers += ((b"allow", ", ".join(_METHODS[name]).encode()),)
            raise BadRequest("method_not_allowed", detail="not a method of this endpoint")
        more: RawHeaders = ()
        if name == b"check":
            self._check(inbound, routed)
        elif inbound.method == "OPTIONS":
            more = _PREFLIGHT if embedder is not None else ()
        elif name == b"logout":
            more = ((b"set-cookie", self._sign_out(inbound, routed, embedder)),)
        else:
            more = ((b"set-cookie", await self._exchange(tickets, inbound, routed, embedder, visit.receive)),)
        await respond(visit.send, 204, (*_cors(embedder), *_PRIVATE, *more))

    async def _exchange(
        self, tickets: Tickets, inbound: Inbound, routed: Routed, embedder: str | None, receive: Receive
    ) -> bytes:
        """The gate cookie for a ticket. The incoming one is never looked at, so none can be planted and adopted."""
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
        if self._gate.is_void(session, routed.preview):  # asked last: the revocation may have come meanwhile
            raise Forbidden("ticket_refused", detail="revoked since it was issued")
        value, max_age = tickets.gate(origin=routed.public, preview=routed.preview, session=session)
        return gate_set_cookie(value, max_age, secure_origin=routed.public.scheme == "https")

    def _check(self, inbound: Inbound, routed: Routed) -> None:
        if self._gate.session_of(inbound, routed) is None:
            raise Unauthorized(detail="no gate")

    def _sign_out(self, inbound: Inbound, routed: Routed, embedder: str | None) -> bytes:
        """End the gate's login, on every preview, and delete its cookie. Without a `ref`, the subject's access here.

        Of several gates that hold, a planted one may be any, so all end. Only for embedders: a page of the sandbox
        could sign its visitor out of the other previews.
        """
        if embedder is None:
            raise Forbidden(detail="not from an embedder")
        for session in self._gate.sessions_of(inbound, routed):
            if session.ref:
                self._revoke(subject=session.subject, session=session.ref)
            else:
                self._revoke(subject=session.subject, preview=routed.preview)
        return gate_set_cookie("", 0, secure_origin=routed.public.scheme == "https")


def _embedder(inbound: Inbound, tickets: Tickets) -> str | None:
    """The one `Origin`, where it is one of the embedders exactly."""
    origins = [value.decode("latin-1") for value in inbound.values(b"origin")]
    return origins[0] if len(origins) == 1 and origins[0] in tickets.embedders else None


def _cors(embedder: str | None) -> RawHeaders:
    """Fetch §3.2, for an embedder only."""
    vary = ((b"vary", b"Origin"),)
    if embedder is None:
        return vary
    allow = (b"access-control-allow-origin", embedder.encode()), (b"access-control-allow-credentials", b"true")
    return (*allow, *vary)


async def _read(receive: Receive) -> bytes:
    body = b""
    with anyio.move_on_after(BODY_TIMEOUT):
        while len(body) <= MAX_BODY:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += bytes(message.get("body", b""))
            if not message.get("more_body", False) and len(body) <= MAX_BODY:
                return body
    raise Forbidden("ticket_refused", detail=f"no whole body of at most {MAX_BODY} bytes in {BODY_TIMEOUT:g} s")


def _ticket(body: bytes) -> str:
    try:
        ticket = json.loads(body)["ticket"]
    except (ValueError, KeyError, TypeError, RecursionError):
        ticket = None
    if not isinstance(ticket, str):
        raise Forbidden("ticket_refused", detail='the body is not {"ticket": "…"}')
    return ticket
