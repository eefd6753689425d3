"""The relays under way, so that a shutdown can end them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import anyio

from preview_proxy.errors import PreviewProxyError


class LiveRelays:
    """Counts relays in flight, and drains them once."""

    def __init__(self) -> None:
        self._scopes: dict[anyio.CancelScope, str] = {}
        self._idle = anyio.Event()
        self._draining = False

    def __len__(self) -> int:
        return len(self._scopes)

    @contextmanager
    def relay(self, kind: Literal["http", "websocket"]) -> Iterator[None]:
        """Hold a relay's place. Raises ``shutting_down`` where it cannot begin, or was cut short by a drain."""
        if self._draining:
            raise PreviewProxyError("shutting_down", detail="no new relays")
        scope = anyio.CancelScope()
        self._scopes[scope] = kind
        try:
            with scope:
                yield
        finally:
            del self._scopes[scope]
            if not self._scopes:
                self._idle.set()
        if scope.cancelled_caught:
            raise PreviewProxyError("shutting_down", detail="cut short by a shutdown")

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - the drain's own deadline, in seconds
        """End WebSockets now, and HTTP exchanges when they finish or after `timeout` seconds."""
        self._draining = True
        try:
            self._cancel("websocket")
            with anyio.move_on_after(timeout):
                await self._empty()
            self._cancel("http")
            await self._empty()
        finally:
            self._draining = False

    def _cancel(self, kind: str) -> None:
        for scope, its_kind in self._scopes.items():
            if its_kind == kind:
                scope.cancel()

    async def _empty(self) -> None:
        while self._scopes:
            self._idle = anyio.Event()
            await self._idle.wait()
