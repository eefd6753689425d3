"""The relays under way: who has left, who may no longer see, and how a shutdown ends the rest.

A task or a cancel scope per request, only to see whether its visitor leaves, would cost more than the relaying. So a
relay runs in the task that the server gave it, and one sweep for all of them starts to watch those that take long, asks
again whether they are still allowed, and ends those that are not.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import anyio
from starlette.types import Receive

from preview_proxy import event_loop
from preview_proxy.core.models import Preview
from preview_proxy.errors import NotFound, PreviewProxyError
from preview_proxy.event_loop import Interruption, Task, Timer, Token
from preview_proxy.revocation import Revocation
from preview_proxy.sessions import Session

logger = logging.getLogger("preview_proxy")

PATIENCE = 0.25
"""Seconds after which a relay is watched, and between two sweeps."""

RETRY = 1.0
"""Seconds after which a question that was not answered is asked again."""

PARTING = 5.0
"""Seconds that relays have at a shutdown to end once they were told to: to say so to both sides, and to close."""

Kind = Literal["http", "websocket"]
Cut = Literal["left", "drained", "revoked", "signed_out", "unchecked"]


@dataclass(slots=True)
class Admission:
    """Whom a relay is for, what it shows at which host, and since when that is known.

    `since` is the `time.monotonic()` of the admission, `yes_at` that of the last yes. `again` has the customer's own
    session as it is now, None where that has ended; a gate needs none, since it says itself how long it holds.
    """

    session: Session
    preview: Preview
    authority: str
    since: float
    yes_at: float
    again: Callable[[], Coroutine[Any, Any, Session | None]] | None = None


class Checks(Protocol):
    """What a relay's visitor is asked about again."""

    async def authorize(self, subject: str, preview: Preview) -> object:
        """Raise `NotFound` for a no, and any other exception where there is no answer."""
        ...

    async def shows(self, authority: str, preview: Preview) -> bool:
        """Whether the host still shows `preview`. Raises where there is no answer."""
        ...

    def renewed_until(self, admission: Admission) -> float | None:
        """Unix seconds until which the same login now holds, where that is later than before; else None."""
        ...


class LiveRelay:
    """One relay, and what cut it short, if anything did."""

    __slots__ = ("admission", "ask_at", "cut", "expires_at", "kind", "over", "receive", "uploaded", "watcher", "work")

    def __init__(self, admission: Admission, kind: Kind, work: Interruption) -> None:
        self.admission = admission
        self.kind = kind
        self.work = work
        self.expires_at = admission.session.expires_at
        self.ask_at: float | None = None
        self.receive: Receive | None = None
        self.uploaded: anyio.Event | None = None
        self.watcher: Task | None = None
        self.cut: Cut | None = None
        self.over = False

    def end(self, cut: Cut) -> None:
        """Cut it short, unless it is over: what its task does then is none of ours."""
        if self.cut is None and not self.over:
            self.cut = cut
            self.work.interrupt()

    async def watch(self, receive: Receive) -> None:
        """Until the visitor has left, once nobody else reads from them."""
        if self.uploaded is not None:
            await self.uploaded.wait()
        while not (await receive())["type"].endswith(".disconnect"):
            pass
        self.end("left")


async def _nothing() -> None:
    pass


class LiveRelays:
    """Runs relays, and ends them when their visitor leaves or may no longer see, or the server stops.

    Each rests upon a yes that is no older than `interval` seconds. A check that fails is no yes: it is tried again
    until that time has passed.
    """

    def __init__(self, checks: Checks, interval: float) -> None:
        self._checks = checks
        self._interval = interval
        self._home: Token | None = None
        self._relays: set[LiveRelay] = set()
        self._asking: set[Task] = set()
        self._sweeping: Timer | None = None
        self._empty: anyio.Event | None = None
        self._draining = 0

    def __len__(self) -> int:
        return len(self._relays)

    async def run(
        self,
        admission: Admission,
        kind: Kind,
        operation: Callable[[LiveRelay], Awaitable[None]],
        receive: Receive | None,
        uploaded: anyio.Event | None = None,
    ) -> Cut | None:
        """Await `operation` of a relay on behalf of `admission`; what cut it short, if anything did.

        With `receive`, a visitor who leaves ends it within some tenths of a second; `uploaded` is set when nobody
        else reads from them any more. Raises what `operation` raises.
        """
        loop = event_loop.running()
        home = loop.token()
        if home != self._home:  # what a closed loop left behind would never be swept
            self._home, self._relays, self._asking, self._sweeping = home, set(), set(), None
        relay = LiveRelay(admission, kind, loop.interruption())
        relay.receive, relay.uploaded = receive, uploaded
        self._relays.add(relay)
        if self._sweeping is None:
            self._sweep_later()
        try:
            await relay.work.run(operation(relay))
        finally:
            self._forget(relay)
        return relay.cut

    def is_elsewhere(self) -> bool:
        """Whether the caller is not on the event loop of the relays. Before the first, any loop is theirs."""
        try:
            here = event_loop.running().token()
        except RuntimeError:
            return True
        return self._home is not None and self._home != here and self._home.is_running()

    def refuse_if_draining(self) -> None:
        """Raise ``shutting_down`` where no relay may begin."""
        if self._draining:
            raise PreviewProxyError("shutting_down", detail="no new relays")

    def _forget(self, relay: LiveRelay) -> None:
        relay.over = True
        self._relays.discard(relay)
        if relay.watcher is not None:
            relay.watcher.cancel()
            relay.watcher = None  # the frames that it was cancelled in have `relay` and what keeps the connection open
        if self._empty is not None and not self._relays:
            self._empty.set()

    def _sweep_later(self) -> None:
        self._sweeping = event_loop.running().call_later(PATIENCE, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        loop = event_loop.running()
        now, wall = time.monotonic(), time.time()
        due: dict[tuple[str, Preview], list[LiveRelay]] = {}
        for relay in self._relays:
            admission = relay.admission
            if relay.ask_at is None:
                if now < admission.since + PATIENCE:
                    continue
                relay.ask_at = self._next(admission)
                if relay.receive is not None:
                    relay.watcher = loop.spawn(relay.watch(relay.receive))
            if relay.expires_at is not None and relay.expires_at <= wall:
                relay.expires_at = self._checks.renewed_until(admission)
                if relay.expires_at is None:
                    relay.end("signed_out")
            if now >= admission.yes_at + self._interval:
                relay.end("unchecked")
            elif now >= relay.ask_at and relay.cut is None:
                relay.ask_at = float("inf")
                due.setdefault((admission.session.subject, admission.preview), []).append(relay)
        for relays in due.values():
            loop.spawn(self._ask(relays), self._asking)
        if self._relays:
            self._sweep_later()

    def _next(self, admission: Admission) -> float:
        """When to ask again: early enough to repeat a question that fails, and not for all at once."""
        return admission.yes_at + self._interval * random.uniform(0.5, 0.7)  # noqa: S311 - no secret

    async def _ask(self, relays: list[LiveRelay]) -> None:
        """Ask about relays of one subject and preview."""
        asked_at, session = time.monotonic(), relays[0].admission.session
        allowed = await _answer(self._allowed(session.subject, relays[0].admission.preview))
        async with anyio.create_task_group() as group:
            for relay in relays:
                group.start_soon(self._settle, relay, asked_at, allowed)

    async def _allowed(self, subject: str, preview: Preview) -> bool:
        try:
            await self._checks.authorize(subject, preview)
        except NotFound:
            return False
        return True

    @staticmethod
    async def _signed_in(relay: LiveRelay, again: Awaitable[Session | None]) -> bool:
        session = await again
        if session is not None:
            relay.expires_at = session.expires_at  # it may have been prolonged
        return session is not None

    async def _settle(self, relay: LiveRelay, asked_at: float, allowed: bool | None) -> None:
        """End a relay or let it go on, by what `authorize` said, the router and the customer's own session say."""
        admission = relay.admission
        signed_in: bool | None = True
        if allowed:
            allowed = await _answer(self._checks.shows(admission.authority, admission.preview))
        if allowed and admission.again is not None:
            signed_in = await _answer(self._signed_in(relay, admission.again()))
        if allowed is False:
            relay.end("revoked")
        elif signed_in is False:
            relay.end("signed_out")
        elif allowed and signed_in:
            admission.yes_at = asked_at
            relay.ask_at = self._next(admission)
        else:
            relay.ask_at = time.monotonic() + min(RETRY, self._interval / 10)

    async def drain(
        self,
        timeout: float,  # noqa: ASYNC109 - the drain's own deadline, in seconds
        close: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        """End WebSockets now, and HTTP exchanges when they finish or after `timeout` seconds; then await `close`.

        Nothing begins before that is done.
        """
        self._draining += 1
        try:
            self._end("websocket")
            with anyio.move_on_after(timeout):
                await self._wait_empty()
            self._end("http")
            with anyio.move_on_after(PARTING):
                await self._wait_empty()
            if self._relays:
                logger.warning("relays that go on %g s after they were told to end: %d", PARTING, len(self._relays))
            await close()
        finally:
            self._draining -= 1
            if not self._relays:
                self._rest()

    def _rest(self) -> None:
        """Leave nothing behind on the event loop."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for task in self._asking:
            task.cancel()

    def revoke(self, revocation: Revocation) -> int:
        """End what `revocation` is about; how many relays that were."""
        found = [relay for relay in self._relays if revocation.ends(relay.admission.session, relay.admission.preview)]
        for relay in found:
            relay.end("signed_out" if revocation.preview is None else "revoked")
        return len(found)

    def _end(self, kind: Kind) -> None:
        for relay in self._relays:
            if relay.kind == kind:
                relay.end("drained")

    async def _wait_empty(self) -> None:
        while self._relays:
            if self._empty is None or self._empty.is_set():  # else another drain waits for it already
                self._empty = anyio.Event()
            await self._empty.wait()


async def _answer(question: Awaitable[bool]) -> bool | None:
    """The answer; None where the check failed, which is logged and neither yes nor no."""
    try:
        return await question
    except Exception as error:
        said = str(error) if isinstance(error, PreviewProxyError) else type(error).__name__
    logger.warning("asking again about what is open failed: %s", said)
    return None
