"""The emulated Nullspace edge: checks the credential, counts what a grant is used for, and cuts WebSockets off."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from preview_proxy.testing.edge import Denied, EdgeRequest, EdgeServer, Exchange, Passage
from preview_proxy.testing.nullspace_admission import Admission
from preview_proxy.testing.nullspace_state import Grant, Refused, State


class NullspaceEdge(EdgeServer):
    """The edge of a `State`."""

    def __init__(self, state: State, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(ssl_context=ssl_context, changes=state.changes)
        self.state = state

    def admit(self, request: EdgeRequest, client: str) -> Passage:
        try:
            passage = Admission(self.state, request, client).admit()
        except Refused as refused:
            raise self._denied(request, refused) from None
        name = self.state.switches.continuation_cookie
        if name is not None:
            cookie = f"{name}={request.grant_id}; Path=/; HttpOnly; SameSite=Lax"
            passage.added.append((b"Set-Cookie", cookie.encode()))
        return passage

    def not_listening(self, request: EdgeRequest) -> Denied:
        return self._denied(request, Refused("preview_service_not_ready"))

    def _denied(self, request: EdgeRequest, refused: Refused) -> Denied:
        grant = self.state.grants.get(request.grant_id or "")
        if grant is not None:
            grant.last_error = (refused.code, self.state.clock())
        return Denied(refused.code, *self.state.answer(refused))

    def exchange(self, wire: Any, request: EdgeRequest, *ends: Any) -> Exchange:
        return NullspaceExchange(self.state, self.state.grants[request.grant_id or ""], wire, request, *ends)


class NullspaceExchange(Exchange):
    """An exchange under a grant."""

    def __init__(self, state: State, grant: Grant, *ends: Any) -> None:
        super().__init__(*ends)
        self.state = state
        self.grant = grant
        self.last_byte = asyncio.get_running_loop().time()

    def cuts(self) -> Iterable[Callable[[], Awaitable[None]]]:
        return (self._revoked, self._idle) if self.is_websocket else ()

    def count(self, sent: bytes, received: bytes) -> None:
        self.grant.bytes_in += len(sent)
        self.grant.bytes_out += len(received)
        self.last_byte = asyncio.get_running_loop().time()

    async def _revoked(self) -> None:
        """Returns where a revocation has to end this WebSocket."""
        switches, grant = self.state.switches, self.grant
        await self.state.changes.until(lambda: switches.revoke_closes_websockets and grant.revoked_at is not None)

    async def _idle(self) -> None:
        """Returns once this WebSocket has been silent for too long."""
        idle = self.state.switches.websocket_idle_seconds or math.inf
        loop = asyncio.get_running_loop()
        while (left := self.last_byte + idle - loop.time()) > 0:  # noqa: ASYNC110 - silence is no event
            await asyncio.sleep(min(left, 3600))
