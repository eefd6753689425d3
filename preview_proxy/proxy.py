"""`PreviewProxy`, an ASGI app, and `PreviewProxyMiddleware`, which puts it in front of another.

`PreviewProxy.serve` is the table of contents of the project: each of its lines is a module.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import httpx
from anyio import from_thread
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preview_proxy import event_loop
from preview_proxy.breaker import Breaker
from preview_proxy.checks import check
from preview_proxy.core.models import Origin, Preview, Rejected
from preview_proxy.core.plan import compile_rules
from preview_proxy.core.policy import Policy
from preview_proxy.core.snapshot import host_field, parse_authority, snapshot
from preview_proxy.endpoints import Endpoints, is_ours
from preview_proxy.errors import ConfigurationError, Misdirected, PreviewProxyError
from preview_proxy.gate import Authorize, Gate
from preview_proxy.hosts import Routed, Router
from preview_proxy.lease import TargetLease
from preview_proxy.live import LiveRelays
from preview_proxy.occupancy import Occupancy
from preview_proxy.placement import misplaced
from preview_proxy.providers.base import Provider
from preview_proxy.providers.cache import TargetCache
from preview_proxy.providers.held import HeldTarget
from preview_proxy.providers.shared_targets import SharedTargets
from preview_proxy.providers.wakes import Wakes
from preview_proxy.readiness import wait_until_ready
from preview_proxy.redis_state import MAX_GATE_TTL, RedisState
from preview_proxy.revocation import Revocation
from preview_proxy.sessions import Authenticator, Session
from preview_proxy.tickets import Tickets, refuse_several_workers
from preview_proxy.transports.foreign import ForeignTransport
from preview_proxy.transports.pool import NEEDS_ASYNCIO, UpstreamPool
from preview_proxy.transports.relay_http import relay_http
from preview_proxy.transports.relay_websocket import relay_websocket
from preview_proxy.visit import Visit
from preview_proxy.workers import Revocations, Workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Embed:
    """What the embedding page needs: spend `ticket` at `origin`, then show `origin` + `path` in a frame."""

    origin: str
    ticket: str = field(repr=False)
    path: str = "/"


class PreviewProxy:
    """Shows sandbox previews on the customer's own hosts.

    `router` turns a host into a preview; `provider` says where it is served; `authorize(subject, preview)` decides.
    Visitors are known by `tickets` (previews on a domain of their own), by `session` (the customer's own cookie or
    token reaches the previews), or both. `revocations` tells several workers of each other's `revoke`; without it, that
    acts on this process. `targets` has them mint each target once for all. `transport` replaces the upstream transport,
    for HTTP/2 or an egress proxy.

    Raises `ConfigurationError` for what could not work.
    """

    def __init__(
        self,
        *,
        router: Router,
        provider: Provider,
        authorize: Authorize,
        tickets: Tickets | None = None,
        session: Authenticator | None = None,
        policy: Policy | None = None,
        revocations: Revocations | None = None,
        targets: SharedTargets | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        policy = policy or Policy()
        _check_sharing(revocations, targets, tickets, policy)
        self._router = router
        self._provider = provider
        self._tickets = tickets
        self._limits = policy.limits
        self._workers = Workers(revocations, self._end, self._limits.decision_ttl) if revocations else None
        self._gate = Gate(
            authorize=authorize,
            tickets=tickets,
            session=session,
            timeout=self._limits.check_timeout,
            decision_ttl=self._limits.decision_ttl,
            router=router,
            workers=self._workers,
        )
        self._endpoints = Endpoints(self._gate, tickets, self.revoke)
        self._rules = compile_rules(
            policy,
            cookies=getattr(session, "cookies", ()),
            headers=getattr(session, "headers", ()),
            embedders=tickets.embedders if tickets else (),
            same_site=session is not None,
        )
        self._sends_user = policy.send_user
        self._targets = TargetCache(
            provider,
            timeout=self._limits.provider_timeout,
            mints_per_minute=self._limits.mints_per_minute,
            shared=targets,
        )
        self._parts = {id(part): part for part in (provider, revocations, targets)}
        self._wakes = Wakes(provider, timeout=self._limits.wake_timeout) if policy.wake else None
        self._revoke_on_close = policy.revoke_on_close
        self._breaker = Breaker()
        self._occupancy = Occupancy(self._limits)
        self._transport = _upstream(transport, policy)
        self._live = LiveRelays(self._gate, self._limits.recheck_interval)
        self._counts: Counter[str] = Counter()
        self._placed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as an app of its own: a host that is no preview's is refused with 421."""
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send, None)
        else:
            await self.serve(scope, receive, send, None)

    async def serve(self, scope: Scope, receive: Receive, send: Send, app: ASGIApp | None) -> None:
        """Answer an ``http`` or ``websocket`` scope of a preview's host; hand any other to `app`, untouched."""
        visit = Visit(scope, receive, send, self._rules.frame_ancestors)
        failure: Exception | None = None
        other: ASGIApp | None = None
        try:
            other = await self._answer(visit, app)
        except Exception as error:
            failure = error
        if failure is not None:
            await visit.failed(failure)
            if visit.code is not None:
                self._counts[visit.code] += 1
        elif other is not None:
            await other(scope, receive, send)

    async def _answer(self, visit: Visit, app: ASGIApp | None) -> ASGIApp | None:
        """`app` where the host is no preview's, else None: the visitor has their answer."""
        value = host_field(visit.headers)
        authority = parse_authority(value, visit.scope.get("scheme", "http"))
        if authority is not None:
            routed = await check(self._router(authority), timeout=self._limits.check_timeout, what="the router")
            if routed is not None:
                await self._show(visit, routed, authority)
                return None
        elif app is None or self._router.claims(value):
            raise Rejected("bad_host", "not a host name")
        if app is None:
            raise Misdirected(detail="a host that is no preview's")
        return app

    async def _show(self, visit: Visit, routed: Routed, authority: str) -> None:
        visit.preview = routed.preview
        if not self._placed and visit.scope["type"] == "http":
            self._check_placement(visit)
        if visit.scope["type"] == "websocket":
            await visit.connected()
        inbound = snapshot(visit.scope, visit.headers, authority, self._limits)
        if is_ours(inbound.path):
            return await self._endpoints(inbound, routed, visit)
        self._live.refuse_if_draining()  # before it starts anything, and after it has waited
        admission = await self._gate.admit(visit.scope, inbound, routed)
        self._live.refuse_if_draining()
        subject = admission.session.subject
        room, place = self._occupancy.enter(inbound.kind, subject, routed.preview)
        user = subject if self._sends_user else ""
        lease = TargetLease(inbound, routed, self._targets, self._provider, self._breaker, self._wakes, user)
        run = partial(self._live.run, admission)
        self._counts[inbound.kind] += 1
        ends = inbound, lease, self._rules, self._transport, visit.receive, visit.server_send, run
        try:
            if inbound.kind == "http":
                await relay_http(*ends, offers=visit.scope.get("extensions") or ())
            else:
                await relay_websocket(*ends, can_deny=visit.can_deny)
        finally:
            lease.close()
            room.leave(place)

    def _check_placement(self, visit: Visit) -> None:
        """Warn once, at the first request for a preview: the order of middleware is the same for all."""
        self._placed = True
        if problem := misplaced(visit.scope, visit.server_send):
            logger.warning("Previews are inside of %s. Add PreviewProxyMiddleware last, and it is outside.", problem)

    def counters(self) -> dict[str, int]:
        """What this process has done: ``http`` and ``websocket`` relays begun, and refusals by code of the table.

        There is no other name, whatever visitors send, so they can all be labels of a metric.
        """
        return dict(self._counts)

    async def ticket(
        self,
        preview: Preview,
        *,
        subject: str,
        session_ref: str = "",
        expires_at: float | None = None,
        host: str | None = None,
        embedder: str | None = None,
        path: str = "/",
    ) -> Embed:
        """A one-time ticket with which the embedding page opens `preview` for `subject`, the signed-in user.

        Call it from a route that has checked the customer's own session. `session_ref` and `expires_at` (Unix
        seconds) tie the gate to that login. `host` chooses one of several public hosts, and is needed where the
        router cannot tell. `path` is where the frame starts.

        Raises Starlette's `HTTPException`: 404 where `authorize` says no, 503 where it does not answer. Raises
        `ValueError` for a preview without a public host, or an unknown embedder.
        """
        if self._tickets is None:
            raise ConfigurationError("give PreviewProxy tickets=Tickets(...) to issue tickets")
        if not path.startswith("/") or path.startswith(("//", "/\\")):
            raise ValueError(f"path must start with one '/', not {path!r}")
        origin = await self._public_origin(preview, host)
        session = Session(subject, session_ref, expires_at)
        failure: PreviewProxyError | None = None
        try:
            await self._gate.authorize(subject, preview)
        except PreviewProxyError as error:
            failure = error
        if failure is not None:
            raise HTTPException(failure.status, failure.row.message)
        # not earlier: a memory of revocations that begins only now voids what was issued before
        ticket = self._tickets.issue(origin=origin, preview=preview, session=session, embedder=embedder)
        return Embed(str(origin), ticket, path)

    async def _public_origin(self, preview: Preview, host: str | None) -> Origin:
        if host is not None:
            try:
                routed = await self._router(host)
            except Misdirected:
                routed = None
            if routed is None or routed.preview != preview:
                raise ValueError(f"{host!r} does not show {preview}; give the host in lower case, with its port if any")
            return routed.public
        origin = self._router.host_for(preview)
        if origin is None:
            raise ValueError(f"the router has no host for {preview}; pass host=")
        return origin

    def revoke(self, *, subject: str | None = None, preview: Preview | None = None, session: str | None = None) -> int:
        """Take access back, at once: from all of `subject`, to `preview`, for one login, or a mix.

        `session` is the `session_ref` that its ticket was issued with, or the `Session.ref` of your own session; alone
        it names every login of that ref, whoever's, so name the `subject` too where refs are not unique. Call it when
        somebody signs out or `preview` changes hands, and end your own session or access first. Tickets and gates
        issued until now are void, what `authorize` said is asked anew, and what is open ends: WebSockets close with
        4403 where a `preview` was named and with 4401 otherwise, downloads and event streams are cut. The number of
        them in this process is returned; other workers are told in the background, if there are `revocations`.

        Call it on the event loop, or in a worker thread of anyio's, such as a `def` route of FastAPI; elsewhere it
        raises `RuntimeError`. Raises `ValueError` where nothing is named.
        """
        if (subject is None and preview is None and session is None) or session == "":
            raise ValueError("name the subject, the preview, the session, or several of them")
        if self._live.is_elsewhere():
            return from_thread.run_sync(self._revoke, subject, preview, session)
        return self._revoke(subject, preview, session)

    def _revoke(self, subject: str | None, preview: Preview | None, session: str | None) -> int:
        """The time is read here, on the event loop: nothing is issued between that and the end of it."""
        revocation = self._gate.revocation(subject, preview, session)
        ended = self._end(revocation)  # first: it must act here, whatever becomes of the others
        if self._workers is not None:
            self._workers.publish(revocation)
        return ended

    def _end(self, revocation: Revocation) -> int:
        """Do what a revocation, of this worker or another, asks for; once, for ours comes back."""
        return self._live.revoke(revocation) if self._gate.revoke(revocation) else 0

    def inventory(self) -> list[HeldTarget]:
        """The targets that this process holds, without their credentials: what each is for, and how it was used."""
        return self._targets.inventory()

    async def wait_until_ready(self, preview: Preview, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - it says so
        """Return once something listens on the preview's port, for a page that shows the frame only then.

        Asks the provider where it can tell, and else the app itself, by ``GET /``. It resumes no machine. Check your
        own session first: this does not. Raises `MachineUnavailable` if nothing listens within `timeout` seconds,
        and at once the `PreviewProxyError` of a failure that waiting does not mend.
        """
        await wait_until_ready(preview, self._provider, self._targets, self._transport, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def lifespan(self, scope: Scope, receive: Receive, send: Send, app: ASGIApp | None) -> None:
        """Take part in the lifespan of `app`, or have one alone: what is live ends before the app stops."""
        if isinstance(self._transport, UpstreamPool) and not event_loop.is_asyncio():
            await receive()
            return await send({"type": "lifespan.startup.failed", "message": NEEDS_ASYNCIO})

        async def receive_and_close() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.aclose()
            return message

        if app is not None:
            return await app(scope, receive_and_close, send)
        for step in ("startup", "shutdown"):
            await receive_and_close()
            await send({"type": f"lifespan.{step}.complete"})

    async def aclose(self) -> None:
        """End live relays and close connections: sockets with 1012 at once, requests after `drain_timeout` seconds.

        The middleware and the app do this at shutdown; call it yourself where the proxy is mounted by `Host(...)`,
        since Starlette does not pass the lifespan to mounted apps.
        """
        await self._live.drain(self._limits.drain_timeout, self._close)

    async def _close(self) -> None:
        if self._workers is not None:
            await self._workers.aclose()
        await self._transport.aclose()
        if self._wakes is not None:
            await self._wakes.aclose()
        await self._targets.aclose(revoke=self._revoke_on_close)
        for part in self._parts.values():
            close = getattr(part, "aclose", None)
            if close is not None:
                await close()


class PreviewProxyMiddleware:
    """Puts a `PreviewProxy` in front of an app. Add it last, so that it is the outermost middleware.

    Requests for a preview's host never reach the app; all others reach it untouched.
    """

    def __init__(self, app: ASGIApp, proxy: PreviewProxy) -> None:
        self._app = app
        self._proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            await self._proxy.serve(scope, receive, send, self._app)
        else:
            await self._proxy.lifespan(scope, receive, send, self._app)


def _check_sharing(
    revocations: Revocations | None, targets: SharedTargets | None, tickets: Tickets | None, policy: Policy
) -> None:
    if revocations is None:
        refuse_several_workers(
            "access taken back in one worker would last", "PreviewProxy(revocations=RedisState(...))"
        )
    if isinstance(revocations, RedisState) and tickets is not None and tickets.gate_ttl > MAX_GATE_TTL:
        raise ConfigurationError(
            f"gate_ttl must be at most {MAX_GATE_TTL} seconds: RedisState forgets revocations then"
        )
    if targets is not None and policy.revoke_on_close:
        raise ConfigurationError("revoke_on_close would take targets from the workers that share them")


def _upstream(transport: httpx.AsyncBaseTransport | None, policy: Policy) -> UpstreamPool | ForeignTransport:
    if transport is None:
        return UpstreamPool(policy.limits, private=policy.private_upstreams)
    return transport if isinstance(transport, UpstreamPool) else ForeignTransport(transport, policy.limits)
