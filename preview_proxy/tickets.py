"""From the customer's page to a preview on another site: a ticket, spent once, becomes a gate cookie.

The app that knows the visitor issues a ticket for one preview and one embedding page. That page spends it at the
preview's host, and the answer sets the gate: a signed cookie that only this host ever sees. Nothing is secret about
the claims in them, but each stands only where, and for what, it was made.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import anyio
import jwt

from preview_proxy.core.cookies import DEVELOPMENT_GATE_COOKIE, GATE_COOKIE
from preview_proxy.core.models import Origin, Preview
from preview_proxy.core.secret import Secret
from preview_proxy.errors import CheckFailed, ConfigurationError, Forbidden
from preview_proxy.sessions import Session

MAX_TICKET_TTL = 30
MAX_TOKEN = 4 * 1024
MAX_LIVE_TICKETS = 100_000
STORE_TIMEOUT = 2.0


class TicketStore(Protocol):
    """Remembers which tickets are spent, for all workers that may be shown the same one."""

    async def consume(self, ticket_id: str, expires_at: float) -> bool:
        """True for the first call with `ticket_id`, False for every later one, until `expires_at` (Unix seconds).

        It must be atomic (Redis: ``SET key 1 NX EXAT``), and keep only a hash of the id. Raising refuses the visitor.
        """
        ...


class MemoryTicketStore:
    """A `TicketStore` for one process. It holds 100,000 tickets at most, and raises `RuntimeError` for more."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._spent: set[bytes] = set()
        self._expiries: list[tuple[float, bytes]] = []

    async def consume(self, ticket_id: str, expires_at: float) -> bool:
        # No await from here on: that is what makes it atomic.
        self._forget_expired()
        digest = hashlib.sha256(ticket_id.encode()).digest()
        if digest in self._spent:
            return False
        if len(self._spent) >= MAX_LIVE_TICKETS:
            raise RuntimeError(f"{MAX_LIVE_TICKETS} tickets were spent within their lifetime")
        self._spent.add(digest)
        heapq.heappush(self._expiries, (expires_at, digest))
        return True

    def _forget_expired(self) -> None:
        while self._expiries and self._expiries[0][0] <= self._clock():
            self._spent.discard(heapq.heappop(self._expiries)[1])


class _Kind(NamedTuple):
    """What tells tickets and gates apart, twice: a key for one cannot verify the other."""

    typ: str
    key: Secret

    @classmethod
    def derive(cls, secret: bytes, typ: str) -> _Kind:
        return cls(typ, Secret(hmac.digest(secret, f"preview-proxy {typ}".encode(), "sha256").hex()))


class Tickets:
    """Issues tickets and gates, and reads them back.

    `secret` is at least 32 random bytes, the same in every worker. `embedders` are the origins whose pages may show
    previews: https, or http on localhost. `store` is shared by all workers; without one, tickets are remembered in
    this process. `gate_ttl` and `ticket_ttl` (30 at most) are in seconds. `clock` tells Unix seconds.

    Raises `ConfigurationError`, also for several workers (``WEB_CONCURRENCY``) that do not share a store.
    """

    def __init__(
        self,
        secret: str | bytes,
        embedders: Sequence[str],
        *,
        store: TicketStore | None = None,
        gate_ttl: int = 3600,
        ticket_ttl: int = MAX_TICKET_TTL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if gate_ttl < 1:
            raise ConfigurationError(f"gate_ttl must be at least 1 second, not {gate_ttl!r}")
        if not 1 <= ticket_ttl <= MAX_TICKET_TTL:
            raise ConfigurationError(f"ticket_ttl must be 1 to {MAX_TICKET_TTL} seconds, not {ticket_ttl!r}")
        raw = long_enough(secret, "Tickets")
        self.embedders = _embedders(embedders)
        self._ticket = _Kind.derive(raw, "pp-ticket+jwt")
        self._gate = _Kind.derive(raw, "pp-gate+jwt")
        self._store = MemoryTicketStore(clock) if store is None else store
        self.gate_ttl = gate_ttl
        self._ticket_ttl = ticket_ttl
        self._clock = clock
        if isinstance(self._store, MemoryTicketStore):
            refuse_several_workers("a ticket spent in one worker would still be good", "Tickets(store=RedisState(...))")

    def issue(self, *, origin: Origin, preview: Preview, session: Session, embedder: str | None = None) -> str:
        """A ticket for `preview` at its public `origin`, to be spent by a page of `embedder`.

        Issue it only from a route that knows its visitor: whoever holds it becomes `session`. `embedder` may be
        left out where there is one. Raises `ValueError` if it is needed, or not one of `embedders`.
        """
        claims: dict[str, Any] = {"emb": self._one_embedder(embedder)}
        if session.expires_at is not None:
            claims["sxp"] = session.expires_at
        return self._sign(self._ticket, origin, preview, session, self._ticket_ttl, claims)

    async def exchange(self, ticket: str, *, origin: Origin, preview: Preview, embedder: str) -> Session:
        """Spend `ticket` at `origin`, for `preview`, sent by a page of `embedder` (the `Origin` header).

        Raises `Forbidden` for a ticket that does not hold here and now, and `CheckFailed` if the store does not
        say whether it was spent before.
        """
        claims = self._read(ticket, self._ticket, origin, preview)
        if isinstance(claims, str):
            raise Forbidden("ticket_refused", detail=claims)
        if embedder not in self.embedders or claims.get("emb") != embedder:
            raise Forbidden("ticket_refused", detail="it is for a page of another origin")
        if not await self._first_use(claims):
            raise Forbidden("ticket_refused", detail="it was spent before")
        return Session(claims["sub"], claims["sid"], claims.get("sxp"), claims["iat"])

    def gate(self, *, origin: Origin, preview: Preview, session: Session) -> tuple[str, int]:
        """A new gate, and its lifetime in seconds, which ends with the session's.

        It counts as issued when its ticket was, else a revocation in between that this worker has not heard of yet
        would not void it. Raises `Forbidden` if the session has less than a second left.
        """
        left = self.gate_ttl if session.expires_at is None else session.expires_at - self._clock()
        lifetime = int(min(self.gate_ttl, left))
        if lifetime < 1:
            raise Forbidden("ticket_refused", detail="the session has expired")
        claims = {} if session.issued_at is None else {"iat": session.issued_at}
        return self._sign(self._gate, origin, preview, session, lifetime, claims), lifetime

    def read_gate(self, value: bytes, *, origin: Origin, preview: Preview) -> Session | None:
        """The session behind a gate cookie, until the gate expires; None if it does not hold here and now."""
        claims = self._read(value, self._gate, origin, preview)
        if isinstance(claims, str):
            return None
        return Session(claims["sub"], claims["sid"], claims["exp"], claims["iat"])

    def _sign(
        self, kind: _Kind, origin: Origin, preview: Preview, session: Session, lifetime: int, more: dict[str, Any]
    ) -> str:
        now = self._clock()
        claims = {
            "aud": str(origin),
            "tgt": preview.key,
            "sub": session.subject,
            "sid": session.ref,
            "jti": secrets.token_urlsafe(16),
            "iat": now,  # with its fraction: a revocation in the same second is either before or after
            "exp": int(now) + lifetime,
            **more,
        }
        return jwt.encode(claims, kind.key.reveal(), algorithm="HS256", headers={"typ": kind.typ})

    def _read(self, token: str | bytes, kind: _Kind, origin: Origin, preview: Preview) -> dict[str, Any] | str:
        """The claims of a token that holds here and now, or the reason why it does not."""
        if len(token) > MAX_TOKEN:
            return "it is too long"
        try:
            decoded = jwt.decode_complete(
                token,
                kind.key.reveal(),
                algorithms=["HS256"],
                audience=str(origin),
                # Times are checked below, by our own clock.
                options={
                    "require": ["aud", "tgt", "sub", "sid", "jti", "iat", "exp"],
                    "strict_aud": True,
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, UnicodeError) as error:
            return type(error).__name__
        claims: dict[str, Any] = decoded["payload"]
        if decoded["header"].get("typ") != kind.typ:
            return "it is of another type"
        if claims["exp"] <= self._clock():
            return "it has expired"
        return claims if claims["tgt"] == preview.key else "it is for another preview"

    def _one_embedder(self, embedder: str | None) -> str:
        if embedder is None and len(self.embedders) == 1:
            return self.embedders[0]
        wanted = "" if embedder is None else str(Origin.parse(embedder))
        if wanted not in self.embedders:
            choices = ", ".join(self.embedders)
            raise ValueError(f"pass embedder=, the origin of the page that shows the preview, one of: {choices}")
        return wanted

    async def _first_use(self, claims: dict[str, Any]) -> bool:
        answer: object = None
        failure = ""
        try:
            with anyio.fail_after(STORE_TIMEOUT):
                answer = await self._store.consume(claims["jti"], claims["exp"])
        except Exception as error:
            failure = type(error).__name__
        if not isinstance(answer, bool):
            store = type(self._store).__name__
            raise CheckFailed(detail=f"{store}.consume failed with {failure or type(answer).__name__}")
        return answer


def gate_cookie_name(origin: Origin) -> str:
    """The gate cookie's name at a preview's public origin; over plain http its prefix would void the cookie."""
    return GATE_COOKIE if origin.scheme == "https" else DEVELOPMENT_GATE_COOKIE


def gate_set_cookie(value: str, max_age: int, *, secure_origin: bool) -> bytes:
    """The `Set-Cookie` value that sets the gate for `max_age` seconds, or with 0 deletes it.

    `Partitioned` keeps it where third-party cookies are blocked, and must be there to delete it too. Browsers
    treat http://localhost as secure, so the development cookie has the same attributes.
    """
    name = GATE_COOKIE if secure_origin else DEVELOPMENT_GATE_COOKIE
    attributes = f"Path=/; Secure; HttpOnly; SameSite=None; Partitioned; Max-Age={max_age}"
    return f"{name}={value}; {attributes}".encode("ascii")


def long_enough(secret: str | bytes, owner: str) -> bytes:
    """The bytes of a secret that keys are derived from. Raises `ConfigurationError`, naming its `owner`, below 32."""
    raw = secret.encode() if isinstance(secret, str) else secret
    if len(raw) < 32:
        raise ConfigurationError(
            f"the secret of {owner} must be at least 32 random bytes, this one has {len(raw)}: "
            'make one with `python -c "import secrets; print(secrets.token_urlsafe(32))"` and keep it with your secrets'
        )
    return raw


def _embedders(embedders: Sequence[str]) -> tuple[str, ...]:
    if isinstance(embedders, str) or not embedders:
        raise ConfigurationError('embedders must be a list of origins, such as ["https://app.example.com"]')
    return tuple(dict.fromkeys(_embedder(embedder) for embedder in embedders))


def _embedder(embedder: str) -> str:
    problem = "is not an origin"
    try:
        origin = Origin.parse(embedder)
        if origin.scheme == "https" or (origin.scheme == "http" and origin.is_loopback):
            return str(origin)
        problem = "can be read and changed on its way"
    except ValueError:
        pass
    raise ConfigurationError(f"the embedder {embedder!r} {problem}: use https://host[:port] or http://localhost[:port]")


def refuse_several_workers(consequence: str, remedy: str) -> None:
    """Raise `ConfigurationError` where the environment says that this is one of several workers."""
    workers = os.environ.get("WEB_CONCURRENCY", "")
    if workers.isdecimal() and int(workers) > 1:
        raise ConfigurationError(
            f"WEB_CONCURRENCY is {workers}, and {consequence} in the others: pass {remedy}, which all of them share, "
            "or run one worker"
        )
