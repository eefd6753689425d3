"""The visitor's side of one request: what was sent to them, and how a failure reaches them."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress

from starlette.types import Message, Receive, Scope, Send

from preview_proxy.core.models import Preview, RawHeaders, Rejected
from preview_proxy.core.snapshot import raw_headers
from preview_proxy.errors import PreviewProxyError, from_rejected
from preview_proxy.responses import refusal, respond, wants_page
from preview_proxy.transports.relay_http import Aborted

logger = logging.getLogger("preview_proxy")


class Visit:
    """One ``http`` or ``websocket`` scope, with its headers copied before anything could change them.

    `preview` is what the host shows, for the log. `refusal_headers` are added to a refusal, and `code` is its code.
    `server_send` is the server's own.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, frame_ancestors: bytes) -> None:
        self.scope = scope
        self.receive = receive
        self.headers: RawHeaders = raw_headers(scope)
        self.preview: Preview | None = None
        self.refusal_headers: RawHeaders = ()
        self.code: str | None = None
        self.server_send = send
        self._frame_ancestors = frame_ancestors
        self._started = False
        self._connected = False

    async def send(self, message: Message) -> None:
        """Send a message of our own answer, after which there is no other. Relays raise `Aborted` instead."""
        self._started = True
        await self.server_send(message)

    @property
    def can_deny(self) -> bool:
        """Whether a WebSocket can be refused with an HTTP response (ASGI's Websocket Denial Response extension)."""
        return "websocket.http.response" in (self.scope.get("extensions") or {})

    async def connected(self) -> None:
        """Take ``websocket.connect``, which precedes everything on a WebSocket."""
        if self.scope["type"] == "websocket" and not self._connected:
            self._connected = True
            await self.receive()

    async def failed(self, failure: Exception) -> None:
        """Serving them failed: refuse them. Nothing escapes, for the worker must live."""
        # once the visitor has left, `send` raises OSError by the ASGI spec, and RuntimeError on granian
        with suppress(OSError, RuntimeError):
            await self._refuse(failure)
        # its frames hold `send`, and they hold it: granian closes a connection when the last reference to it goes
        failure.__traceback__ = None

    async def _refuse(self, failure: Exception) -> None:
        """Tell the visitor. After the response head that is too late: returning unfinished cuts the connection."""
        if isinstance(failure, OSError):
            return
        error = _ours(failure)
        self.code = error.code
        request_id = secrets.token_hex(8)
        self._log(error, request_id, failure)
        if self._started or isinstance(failure, Aborted):
            return
        page = self.scope["type"] == "http" and wants_page(self.headers)
        status, headers, body = refusal(error, request_id, page=page, frame_ancestors=self._frame_ancestors)
        headers += self.refusal_headers
        if self.scope["type"] == "http":
            await respond(self.send, status, headers, b"" if self.scope["method"] == "HEAD" else body)
            return
        await self.connected()
        if self.can_deny:
            await respond(self.send, status, headers, body, prefix="websocket.http.response")
        else:
            await self.send({"type": "websocket.close", "code": error.close_code, "reason": error.code})

    def _log(self, error: PreviewProxyError, request_id: str, failure: Exception) -> None:
        """One record: no query, no header, and `repr` leaves no control character in the method and the path."""
        level = logging.WARNING if error.status >= 500 else logging.INFO
        method = self.scope.get("method", "WEBSOCKET")
        path = bytes(self.scope.get("raw_path") or b"")[:200].partition(b"?")[0]
        preview = self.preview.key if self.preview else "no preview"
        traceback = failure if error.code == "internal_error" else None
        logger.log(
            level,
            "%s %s %.16r %r for %s, by %s: %s",
            request_id, error.status, method, path, preview, error.source, error,
            exc_info=traceback,
        )  # fmt: skip


def _ours(failure: Exception) -> PreviewProxyError:
    """The failure as one of the table's. Of one that nobody foresaw, a visitor learns nothing."""
    if isinstance(failure, PreviewProxyError):
        return failure
    if isinstance(failure, Rejected):
        return from_rejected(failure)
    if isinstance(failure, Aborted):
        return failure.cause
    return PreviewProxyError(detail=type(failure).__name__)
