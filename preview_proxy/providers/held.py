"""A target in use: how long it is good for, and what it was used for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple

from preview_proxy.core.models import Preview, Target

MINT_INTERVAL = 30.0
"""Seconds between two mints for one preview, whatever the answers say: a hostile preview can forge refusals."""

RENEW_AT = 0.8
"""The part of its lifetime after which a target is renewed."""

SPREAD = 0.1
"""The part of its lifetime by which that moment varies, so that targets of one age are not renewed at once."""

ENDED = float("-inf")


class Minted(NamedTuple):
    """A provider's answer, and when it came (Unix seconds)."""

    target: Target
    minted_at: float


class HeldTarget(NamedTuple):
    """A target that this process holds or held, without its credential, in the words of Nullspace's inventory.

    `id` is the provider's (a grant), times are Unix seconds, counters are those of this process. `status` is
    ``"active"``, ``"replaced"`` by a newer target but still valid, ``"refused"`` by the provider's edge, ``"revoked"``,
    or ``"ended"`` by the provider.
    """

    id: str
    preview: Preview
    status: str
    issued_at: float
    expires_at: float | None
    http_request_count: int
    websocket_connection_count: int
    first_used_at: float | None
    last_used_at: float | None
    last_error_code: str | None
    last_error_at: float | None


@dataclass(slots=True, eq=False)
class Holding:
    """A target and its use. Each request counts itself here, so counting is an addition and nothing else.

    It is fresh for `MINT_INTERVAL` at least. By our clock it may be as good as expired, but minting again would bring
    the same; so a clock that is ahead costs one mint per interval, and not one per request.
    """

    preview: Preview
    target: Target
    minted_at: float
    renew_at: float = field(init=False)
    status: str = "active"
    http: int = 0
    websocket: int = 0
    first_used_at: float | None = None
    last_used_at: float | None = None
    last_error: tuple[str, float] | None = None

    def __post_init__(self) -> None:
        self.renew_at = float("inf")
        if self.target.expires_at is not None:
            lifetime = self.target.expires_at - self.minted_at
            share = RENEW_AT + SPREAD * (random.random() - 0.5)  # noqa: S311 - spreads load, keeps no secret
            self.renew_at = self.minted_at + max(lifetime * share, MINT_INTERVAL)

    def holds(self, now: float) -> bool:
        """Whether it may be used at `now`, fresh or not."""
        if self.renew_at == ENDED:
            return False
        return now < self.renew_at or self.target.expires_at is None or now < self.target.expires_at

    def end(self, status: str) -> None:
        """Use it no more."""
        self.status, self.renew_at = status, ENDED

    def used(self, kind: str, now: float) -> None:
        """Count a request or a WebSocket."""
        if kind == "http":
            self.http += 1
        else:
            self.websocket += 1
        if self.first_used_at is None:
            self.first_used_at = now
        self.last_used_at = now

    def entry(self) -> HeldTarget:
        """What the inventory says about it."""
        code, at = self.last_error or (None, None)
        target = self.target
        return HeldTarget(
            target.id, self.preview, self.status, self.minted_at, target.expires_at, self.http, self.websocket,
            self.first_used_at, self.last_used_at, code, at,
        )  # fmt: skip
