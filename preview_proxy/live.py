"""The relays under way: who has left, and how a shutdown ends the rest.

A task or a cancel scope per request, only to see whether its visitor leaves, would cost more than the relaying. So a
relay runs in the task that the server gave it, and one sweep for all of them starts to watch those that take long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Literal

import anyio
from starlette.types import Receive

from preview_proxy.core.models import Preview
from preview_proxy.errors import PreviewProxyError

PATIENCE = 0.25
"""Seconds after which a relay is watched, and between two sweeps."""

Kind = Literal["http", "websocket"]
Cut = Literal["left", "drained", "revoked"]


class _Relay:
    """One relay: the task it runs in, and what cut it short."""

    __slots__ = ("cut", "kind", "preview", "receive", "since", "subject", "task", "uploaded", "watcher")

    def __init__(
        self, subject: str, preview: Preview | None, kind: Kind, task: asyncio.Task[None], since: float
    ) -> None:
        self.subject = subject
        self.preview = preview
        self.kind = kind
        self.task = task
        self.since = since
        self.receive: Receive | None = None
        self.uploaded: anyio.Event | None = None
        self.watcher: asyncio.Task[None] | None = None
        self.cut: Cut | None = None

    def end(self, cut: Cut) -> None:
        if self.cut is None:
            self.cut = cut
            self.task.cancel(cut)

    async def watch(self, receive: Receive) -> None:
        """Until the visitor has left, once nobody else reads from them."""
        if self.uploaded is not None:
            await self.uploaded.wait()
        while not (await receive())["type"].endswith(".disconnect"):
            pass
        self.end("left")


class LiveRelays:
    """Runs relays, and ends them when their visitor leaves or the server stops."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._relays: set[_Relay] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None
        self._draining = False

    def __len__(self) -> int:
        return len(self._relays)

    async def run(
        self,
        kind: Kind,
        operation: Awaitable[None],
        receive: Receive | None,
        uploaded: anyio.Event | None = None,
        *,
        subject: str = "",
        preview: Preview | None = None,
    ) -> Cut | None:
        """Await `operation`, which shows `preview` to `subject`; what cut it short, if anything did.

        With `receive`, a visitor who leaves ends it within some tenths of a second; `uploaded` is set when nobody
        else reads from them any more. Raises ``shutting_down`` during a drain, and what `operation` raises.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI servers on asyncio call apps in a task
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # what a closed loop left behind would never be swept
            self._loop, self._relays, self._sweeping = loop, set(), None
        relay = _Relay(subject, preview, kind, task, loop.time())
        relay.receive, relay.uploaded = receive, uploaded
        self._relays.add(relay)
        if self._sweeping is None:
            self._sweep_later()
        try:
            await operation
        except asyncio.CancelledError:
            if relay.cut is None or task.uncancel() > 0:
                raise
        finally:
            self._forget(relay)
        return relay.cut

    def refuse_if_draining(self) -> None:
        """Raise ``shutting_down`` where no relay may begin."""
        if self._draining:
            raise PreviewProxyError("shutting_down", detail="no new relays")

    def _forget(self, relay: _Relay) -> None:
        self._relays.discard(relay)
        if relay.watcher is not None:
            relay.watcher.cancel()
        if self._empty is not None and not self._relays:
            self._empty.set()

    def _sweep_later(self) -> None:
        self._sweeping = asyncio.get_running_loop().call_later(PATIENCE, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        loop = asyncio.get_running_loop()
        late = loop.time() - PATIENCE
        for relay in self._relays:
            if relay.receive is not None and relay.watcher is None and relay.since <= late:
                relay.watcher = loop.create_task(relay.watch(relay.receive))
        if self._relays:
            self._sweep_later()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - the drain's own deadline, in seconds
        """End WebSockets now, and HTTP exchanges when they finish or after `timeout` seconds."""
        self._draining = True
        try:
            self._end("websocket")
            with anyio.move_on_after(timeout):
                await self._wait_empty()
            self._end("http")
            await self._wait_empty()
        finally:
            self._draining = False
            if self._sweeping is not None and not self._relays:
                self._sweeping.cancel()
                self._sweeping = None

    def revoke(self, subject: str | None, preview: Preview | None) -> int:
        """End what shows `preview` to `subject`, None standing for any; how many relays that were."""
        found = [
            relay
            for relay in self._relays
            if subject in (None, relay.subject) and (preview is None or preview == relay.preview)
        ]
        for relay in found:
            relay.end("revoked")
        return len(found)

    def _end(self, kind: Kind) -> None:
        for relay in self._relays:
            if relay.kind == kind:
                relay.end("drained")

    async def _wait_empty(self) -> None:
        while self._relays:
            if self._empty is None or self._empty.is_set():  # else another drain waits for it already
                self._empty = asyncio.Event()
            await self._empty.wait()
