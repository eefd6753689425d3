"""Who may pass: the same code for every request and every WebSocket.

Gate cookie or the customer's own session → subject → the customer's `authorize`. Whatever raises, hangs or answers
nonsense counts as no. Nothing is spent upstream before this has said yes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from hashlib import sha256
from typing import Any

from starlette.requests import HTTPConnection

from preview_proxy.checks import check
from preview_proxy.core.cookies import cookie_values
from preview_proxy.core.cross_site import check_origin
from preview_proxy.core.models import Inbound, Preview
from preview_proxy.core.recent import Recent
from preview_proxy.errors import BadRequest, CheckFailed, ConfigurationError, Misdirected, NotFound, Unauthorized
from preview_proxy.hosts import Routed, Router
from preview_proxy.live import Admission
from preview_proxy.revocation import Revocation, Revoked
from preview_proxy.sessions import Authenticator, Session, authenticate, ensure_async
from preview_proxy.tickets import MAX_TICKET_TTL, Tickets, gate_cookie_name
from preview_proxy.workers import Workers

MEMORY = 10_000
"""Gates and decisions kept."""

CUSTOMERS_SESSIONS = 3600.0
"""Seconds for which an ended login is remembered where there are no gates: the customer's own check knows it too."""

MAX_CANDIDATES = 8
"""Cookies of the gate's name that are looked at: each costs a signature, and nobody has signed in yet."""

Authorize = Callable[[str, Preview], Coroutine[Any, Any, bool]]
"""The customer's decision: may this subject see this preview?"""


class Gate:
    """Admits visitors. Without `tickets` and without `session` nobody could pass, so one of them is required."""

    def __init__(
        self,
        *,
        router: Router,
        authorize: Authorize,
        tickets: Tickets | None,
        session: Authenticator | None,
        timeout: float,
        decision_ttl: float,
        workers: Workers | None = None,
    ) -> None:
        if tickets is None and session is None:
            raise ConfigurationError("give tickets=Tickets(...), session=..., or both: nobody could pass otherwise")
        ensure_async(authorize, "authorize")
        if session is not None:
            ensure_async(session, "session")
        self._authorize = authorize
        self._tickets = tickets
        self._session = session
        self._timeout = timeout
        self._decision_ttl = decision_ttl
        self._router = router
        self._workers = workers
        # a gate counts as issued with its ticket, and lasts from when that was spent
        self._revoked = Revoked(tickets.gate_ttl + MAX_TICKET_TTL if tickets else CUSTOMERS_SESSIONS)
        self._gates: Recent[bytes, tuple[Routed, Session]] = Recent(MEMORY)
        self._latest: Recent[tuple[str, str, Preview], float] = Recent(MEMORY)
        self._decisions: Recent[tuple[str, Preview], float] = Recent(MEMORY)
        # a token in a header is sent on purpose; cookies, and whatever a plain function reads, by any page that asks
        self._ambient = bool(getattr(session, "cookies", True))

    async def admit(self, scope: Mapping[str, Any], inbound: Inbound, routed: Routed) -> Admission:
        """Who the visitor is. Raises `Unauthorized`, `NotFound`, `CheckFailed`, or `Rejected` if cross-site."""
        preview, before = routed.preview, self._revoked.count
        session, ambient, by_gate = self._by_gate(inbound, routed), True, True
        if session is None and self._session is not None:
            session, ambient, by_gate = await self._ask(self._session, scope, inbound), self._ambient, False
        if session is None:
            raise Unauthorized(detail="no session")
        if self._workers is not None:  # only now: who is nobody keeps nothing waiting
            await self._workers.heard(self._timeout)
        revocations = self._revoked.count
        if (not by_gate or revocations != before) and self._revoked.voids(session, preview):
            raise Unauthorized(detail="the session was revoked")
        if ambient:
            check_origin(inbound, routed.public)
        now = time.monotonic()
        yes_at = self._decisions.get((session.subject, preview), now)
        if yes_at is None:
            yes_at = await self.authorize(session.subject, preview)
        if revocations != self._revoked.count and self._revoked.named_since(revocations, session, preview):
            raise Unauthorized(detail="access was taken back meanwhile")
        again = None if by_gate else partial(self._same, scope, inbound, session)
        return Admission(session, preview, inbound.authority, now, yes_at, again)

    async def _ask(self, authenticator: Authenticator, scope: Mapping[str, Any], inbound: Inbound) -> Session | None:
        connection = HTTPConnection({**scope, "headers": list(inbound.headers)})
        return await authenticate(authenticator, connection, timeout=self._timeout)

    async def _same(self, scope: Mapping[str, Any], inbound: Inbound, session: Session) -> Session | None:
        """What the customer's own check says now, if it is the same login. Raises `CheckFailed`."""
        assert self._session is not None  # noqa: S101 - `session` is from it
        found = await self._ask(self._session, scope, inbound)
        same = found is not None and (found.subject, found.ref) == (session.subject, session.ref)
        return found if same else None

    def _by_gate(self, inbound: Inbound, routed: Routed) -> Session | None:
        """The session of the gate cookie. What a `Cookie` field said once it says again, until the gate expires."""
        fields = [value for name, value in inbound.headers if name == b"cookie"]
        if self._tickets is None or not fields:
            return None
        now = time.time()
        digest = sha256(b"\n".join(fields)).digest()
        known = self._gates.get(digest, now)
        if known is not None and (known[0] is routed or known[0] == routed):
            return known[1]
        session = self._read_gate(self._tickets, inbound, routed)
        if session is not None and session.expires_at is not None:
            self._gates.put(digest, (routed, session), session.expires_at)
            key = (session.subject, session.ref, routed.preview)
            if session.ref and session.expires_at > (self._latest.get(key, now) or 0):
                self._latest.put(key, session.expires_at, session.expires_at)
        return session

    def _read_gate(self, tickets: Tickets, inbound: Inbound, routed: Routed) -> Session | None:
        sessions = self._read_gates(tickets, inbound, routed)
        if len({session.subject for session in sessions}) > 1:
            raise BadRequest("bad_header", detail="gate cookies of several subjects")
        return sessions[0] if sessions else None

    def _read_gates(self, tickets: Tickets, inbound: Inbound, routed: Routed) -> list[Session]:
        """A second cookie of the name may be planted: only what verifies counts."""
        values = cookie_values(inbound.headers, gate_cookie_name(routed.public))[:MAX_CANDIDATES]
        read = [tickets.read_gate(value, origin=routed.public, preview=routed.preview) for value in values]
        return [each for each in read if each is not None and not self._revoked.voids(each, routed.preview)]

    def sessions_of(self, inbound: Inbound, routed: Routed) -> list[Session]:
        """The sessions of all gate cookies that have arrived and hold."""
        return self._read_gates(self._tickets, inbound, routed) if self._tickets is not None else []

    def session_of(self, inbound: Inbound, routed: Routed) -> Session | None:
        """The session of the gate cookie, where one has arrived and holds."""
        return self._by_gate(inbound, routed)

    async def shows(self, authority: str, preview: Preview) -> bool:
        """Whether a host still shows `preview`. Raises `CheckFailed` where the router does not say."""
        try:
            routed = await check(self._router(authority), timeout=self._timeout, what="the router")
        except Misdirected:
            return False
        return routed is not None and routed.preview == preview

    def renewed_until(self, admission: Admission) -> float | None:
        """Unix seconds until which a newer gate of the same login holds, if one was seen; else None.

        A login without a `ref` cannot be told from the same user's other ones, so nothing renews it.
        """
        session = admission.session
        return self._latest.get((session.subject, session.ref, admission.preview), time.time())

    def is_void(self, session: Session, preview: Preview) -> bool:
        """Whether a revocation has ended what `session` opened."""
        return self._revoked.voids(session, preview)

    def revocation(self, subject: str | None, preview: Preview | None, session: str | None) -> Revocation:
        """A new one, of now."""
        return Revocation(subject, preview, session, self._revoked.now((subject, preview, session)))

    def revoke(self, revocation: Revocation) -> bool:
        """Void gates and forget decisions that it is about; False if that has been done before."""
        if not self._revoked.add(revocation):
            return False
        names, login = revocation.names, revocation.session or ""
        self._gates.forget(lambda _, known: revocation.ends(known[1], known[0].preview))
        self._latest.forget(lambda key, _: names(key[0], key[2], key[1]))
        # a decision is about a subject, whichever way they signed in
        if revocation.session is None or revocation.key[:2] != (None, None):
            self._decisions.forget(lambda key, _: names(*key, login))
        return True

    async def authorize(self, subject: str, preview: Preview) -> float:
        """Raise `NotFound` unless the customer's `authorize` answers exactly True, which is then known for a while.

        Returns the `time.monotonic()` at which it was asked.
        """
        if self._workers is not None:
            await self._workers.heard(self._timeout)
        revocations, asked_at = self._revoked.count, time.monotonic()
        allowed = await check(self._authorize(subject, preview), timeout=self._timeout, what="authorize")
        if allowed is False:
            self._decisions.drop((subject, preview))
            raise NotFound(detail="authorize said no")
        if allowed is not True:
            raise CheckFailed(detail=f"authorize answered {type(allowed).__name__}, not a bool")
        if self._revoked.count == revocations:  # else this yes may be older than the revocation
            self._decisions.put((subject, preview), asked_at, time.monotonic() + self._decision_ttl)
        return asked_at
