"""Access that was taken back: for whom, to what, and since when.

Gates are signed, so nothing but this memory can void one before it expires.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from preview_proxy.core.models import Preview
from preview_proxy.sessions import Session

MEMORY = 100_000
"""Revocations kept. Past that, every gate as old as the one that is dropped is void: nothing opens again.

A session of unknown age, such as the customer's own, is not: what is dropped then rests on the customer's own check.
"""

Key = tuple[str | None, Preview | None, str | None]


@dataclass(frozen=True, slots=True)
class Revocation:
    """Access taken back from `subject`, to `preview`, and for the login `session`; None stands for any.

    Three times None is everybody's access to everything. `session` is a `Session.ref`. `at` is in Unix seconds: what
    was issued later stands, unless a `session` is named, since a login that has ended does not begin again.
    """

    subject: str | None
    preview: Preview | None
    session: str | None
    at: float

    @property
    def key(self) -> Key:
        return self.subject, self.preview, self.session

    def names(self, subject: str, preview: Preview, session: str) -> bool:
        """Whether it is about these three."""
        return (
            self.subject in (None, subject)
            and (self.preview is None or self.preview == preview)
            and self.session in (None, session)
        )

    def ends(self, session: Session, preview: Preview) -> bool:
        """Whether it ends what `session` has open of `preview`. Of unknown age counts as older."""
        older = session.issued_at is None or session.issued_at <= self.at
        return (older or self.session is not None) and self.names(session.subject, preview, session.ref)


class Revoked:
    """The revocations of the last `keep` seconds: at least as long as what they void could otherwise hold."""

    def __init__(self, keep: float, *, size: int = MEMORY, clock: Callable[[], float] = time.time) -> None:
        self._keep = keep
        self._size = size
        self._clock = clock
        self._known: dict[Key, tuple[float, int]] = {}
        self._dropped = float("-inf")
        self.count = 0
        """How many there have been. Compare two readings to learn whether one came in between."""

    def now(self, key: Key) -> float:
        """When a new one of `key` is: later than the same one before, though the clock may have been set back."""
        known = self._known.get(key)
        return self._clock() if known is None else max(self._clock(), math.nextafter(known[0], math.inf))

    def add(self, revocation: Revocation) -> bool:
        """Remember it; False if it, or a later one of the same, is known already."""
        key = revocation.key
        before = self._known.get(key)
        if before is not None and revocation.at <= before[0]:
            return False
        self._known.pop(key, None)
        self.count += 1
        self._known[key] = revocation.at, self.count
        self._forget_old()
        return True

    def _forget_old(self) -> None:
        expired = self._clock() - self._keep
        for key in list(islice(self._known, 2)):  # two for each that is added keeps up
            if self._known[key][0] < expired:
                del self._known[key]
        if len(self._known) > self._size:
            oldest = next(iter(self._known))
            self._dropped = max(self._dropped, self._known.pop(oldest)[0])

    def voids(self, session: Session, preview: Preview) -> bool:
        """Whether `session` no longer opens `preview`. Of unknown age, only its own login's end voids it."""
        issued = session.issued_at
        if issued is not None and issued <= self._dropped:
            return True
        for key in _keys(session, preview) if self._known else ():
            known = self._known.get(key)
            if known is not None and (key[2] is not None or (issued is not None and issued <= known[0])):
                return True
        return False

    def named_since(self, count: int, session: Session, preview: Preview) -> bool:
        """Whether a revocation later than the first `count` is about `session` and `preview`."""
        return any(known[1] > count for key in _keys(session, preview) if (known := self._known.get(key)) is not None)

    def __len__(self) -> int:
        return len(self._known)


def _keys(session: Session, preview: Preview) -> list[Key]:
    """Every way to name them."""
    subjects, previews, sessions = (None, session.subject), (None, preview), (None, session.ref)
    return [(a, b, c) for a in subjects for b in previews for c in sessions]
