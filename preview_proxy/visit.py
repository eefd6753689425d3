"""The visitor's side of one request: what was sent to them, and how a failure reaches them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Message, Receive, Scope, Send

from preview_proxy.core.models import RawHeaders, Rejected
from preview_proxy.core.snapshot import raw_headers
from preview_proxy.errors import PreviewProxyError, from_rejected
from preview_proxy.responses import refusal, respond, wants_page
from preview_proxy.transports.relay_http import Aborted

logger = logging.getLogger("preview_proxy")
T = TypeVar("T")


class Visit:
    """One ``http`` or ``websocket`` scope, with its headers copied before anything could change them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, frame_ancestors: bytes) -> None:
        self.scope = scope
        self.receive = receive
        self.headers: RawHeaders = raw_headers(scope)
        self.refused = False
        self._send = send
        self._frame_ancestors = frame_ancestors
        self._started = False
        self._connected = False

    async def send(self, message: Message) -> None:
        self._started = True
        await self._send(message)

    @property
    def can_deny(self) -> bool:
        """Whether a WebSocket can be refused with an HTTP response (ASGI's Websocket Denial Response extension)."""
        return "websocket.http.response" in (self.scope.get("extensions") or {})

    async def connected(self) -> None:
        """Take ``websocket.connect``, which precedes everything on a WebSocket."""
        if self.scope["type"] == "websocket" and not self._connected:
            self._connected = True
            await self.receive()

    async def attempt(self, step: Awaitable[T]) -> T | None:
        """Do a step of serving; if it fails, refuse the visitor. Nothing escapes: the worker must live."""
        error: PreviewProxyError
        try:
            return await step
        except Rejected as rejected:
            error = from_rejected(rejected)
        except Aborted as aborted:
            error = aborted.cause
        except PreviewProxyError as failure:
            error = failure
        except Exception as unexpected:
            logger.exception("unexpected failure")
            error = PreviewProxyError(detail=type(unexpected).__name__)
        self.refused = True
        await self._refuse(error)
        return None

    async def _refuse(self, error: PreviewProxyError) -> None:
        """Tell the visitor. After the response head that is too late: returning unfinished cuts the connection."""
        request_id = secrets.token_hex(8)
        self._log(error, request_id)
        if self._started:
            return
        page = wants_page(self.headers)
        status, headers, body = refusal(error, request_id, page=page, frame_ancestors=self._frame_ancestors)
        if self.scope["type"] == "http":
            await respond(self.send, status, headers, b"" if self.scope["method"] == "HEAD" else body)
            return
        await self.connected()
        if self.can_deny:
            await respond(self.send, status, headers, body, prefix="websocket.http.response")
        else:
            await self.send({"type": "websocket.close", "code": error.close_code, "reason": error.code})

    def _log(self, error: PreviewProxyError, request_id: str) -> None:
        """One line: no query, no header, and `repr` leaves no control character in the path."""
        level = logging.WARNING if error.status >= 500 else logging.INFO
        path = bytes(self.scope.get("raw_path") or b"")[:200].partition(b"?")[0]
        logger.log(level, "%s %s %r from %s: %s", request_id, error.status, path, error.source, error)
