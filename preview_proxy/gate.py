"""Who may pass: the same code for every request and every WebSocket.

Gate cookie or the customer's own session → subject → the customer's `authorize`. Whatever raises, hangs or answers
nonsense counts as no. Nothing is spent upstream before this has said yes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from hashlib import sha256
from typing import Any

from starlette.requests import HTTPConnection

from preview_proxy.checks import check
from preview_proxy.core.cookies import cookie_values
from preview_proxy.core.cross_site import check_origin
from preview_proxy.core.models import Inbound, Preview
from preview_proxy.core.recent import Recent
from preview_proxy.errors import BadRequest, CheckFailed, ConfigurationError, NotFound, Unauthorized
from preview_proxy.hosts import Routed
from preview_proxy.sessions import Authenticator, Session, authenticate, ensure_async
from preview_proxy.tickets import Tickets, gate_cookie_name

MEMORY = 10_000
"""Gates and decisions kept."""

MAX_CANDIDATES = 8
"""Cookies of the gate's name that are looked at: each costs a signature, and nobody has signed in yet."""

Authorize = Callable[[str, Preview], Coroutine[Any, Any, bool]]
"""The customer's decision: may this subject see this preview?"""


class Gate:
    """Admits visitors. Without `tickets` and without `session` nobody could pass, so one of them is required."""

    def __init__(
        self,
        *,
        authorize: Authorize,
        tickets: Tickets | None,
        session: Authenticator | None,
        timeout: float,
        decision_ttl: float,
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
        self._forgotten = 0
        self._gates: Recent[bytes, tuple[Routed, Session]] = Recent(MEMORY)
        self._decisions: Recent[tuple[str, Preview], bool] = Recent(MEMORY)
        # a token in a header is sent on purpose; cookies, and whatever a plain function reads, by any page that asks
        self._ambient = bool(getattr(session, "cookies", True))

    async def admit(self, scope: Mapping[str, Any], inbound: Inbound, routed: Routed) -> Session:
        """The visitor's session. Raises `Unauthorized`, `NotFound`, `CheckFailed`, or `Rejected` if cross-site."""
        session, ambient = self._by_gate(inbound, routed), True
        if session is None and self._session is not None:
            connection = HTTPConnection({**scope, "headers": list(inbound.headers)})
            session, ambient = await authenticate(self._session, connection, timeout=self._timeout), self._ambient
        if session is None:
            raise Unauthorized(detail="no session")
        if ambient:
            check_origin(inbound, routed.public)
        if self._decisions.get((session.subject, routed.preview), time.monotonic()) is None:
            await self.authorize(session.subject, routed.preview)
        return session

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
        return session

    @staticmethod
    def _read_gate(tickets: Tickets, inbound: Inbound, routed: Routed) -> Session | None:
        """A second cookie of the name may be planted: only what verifies counts."""
        values = cookie_values(inbound.headers, gate_cookie_name(routed.public))[:MAX_CANDIDATES]
        read = [tickets.read_gate(value, origin=routed.public, preview=routed.preview) for value in values]
        sessions = [session for session in read if session is not None]
        if len({session.subject for session in sessions}) > 1:
            raise BadRequest("bad_header", detail="gate cookies of several subjects")
        return sessions[0] if sessions else None

    def has_gate(self, inbound: Inbound, routed: Routed) -> bool:
        """Whether the gate cookie has arrived and holds."""
        return self._by_gate(inbound, routed) is not None

    def forget(self, subject: str | None, preview: Preview | None) -> None:
        """Ask `authorize` anew about `subject` and `preview`, None standing for any."""
        self._forgotten += 1
        self._decisions.forget(lambda known: subject in (None, known[0]) and (preview is None or preview == known[1]))

    async def authorize(self, subject: str, preview: Preview) -> None:
        """Raise `NotFound` unless the customer's `authorize` answers exactly True, which is then known for a while."""
        forgotten = self._forgotten
        allowed = await check(self._authorize(subject, preview), timeout=self._timeout, what="authorize")
        if allowed is False:
            raise NotFound(detail="authorize said no")
        if allowed is not True:
            raise CheckFailed(detail=f"authorize answered {type(allowed).__name__}, not a bool")
        if self._forgotten == forgotten:  # else this yes may be older than the revocation
            self._decisions.put((subject, preview), True, time.monotonic() + self._decision_ttl)
