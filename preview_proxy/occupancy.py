"""How much may be under way at once: for a subject, for a preview, and in all. Nobody waits in a queue for more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from preview_proxy.core.models import Preview
from preview_proxy.core.policy import Limits
from preview_proxy.errors import LimitExceeded

MEMORY = 10_000
"""Subjects, previews and pairs of them that are kept in mind without having anything under way."""

Place = tuple[list[int], list[int]]
"""The counts of the subject and of the preview, taken until `Room.leave`."""


class Room:
    """Counts what is under way of one kind, and refuses what would be too much."""

    def __init__(self, *, per_subject: int, per_preview: int, in_all: int) -> None:
        self._per_subject = per_subject
        self._per_preview = per_preview
        self._in_all = in_all
        self._counts: dict[str | Preview, list[int]] = {}
        self._prune_at = MEMORY
        self.taken = 0

    def enter(self, subject: str, preview: Preview) -> Place:
        """A place, which must be left. Raises `LimitExceeded` where there is none."""
        counts = self._counts
        if len(counts) >= self._prune_at:
            self._prune()
        of_subject = counts.get(subject) or self._count(subject)
        of_preview = counts.get(preview) or self._count(preview)
        if of_subject[0] >= self._per_subject:
            raise LimitExceeded("too_many_requests", detail=f"{self._per_subject} by this subject", retry_after=1)
        if of_preview[0] >= self._per_preview:
            raise LimitExceeded("preview_busy", detail=f"{self._per_preview} for this preview", retry_after=1)
        if self.taken >= self._in_all:
            raise LimitExceeded("server_busy", detail=f"{self._in_all} in this process", retry_after=1)
        of_subject[0] += 1
        of_preview[0] += 1
        self.taken += 1
        return of_subject, of_preview

    def leave(self, place: Place) -> None:
        of_subject, of_preview = place
        of_subject[0] -= 1
        of_preview[0] -= 1
        self.taken -= 1

    def _count(self, key: str | Preview) -> list[int]:
        count = self._counts[key] = [0]
        return count

    def _prune(self) -> None:
        """Forget counts that are back at zero: not each at once, since most are needed again soon."""
        for known in [known for known, taken in self._counts.items() if not taken[0]]:
            del self._counts[known]
        self._prune_at = max(MEMORY, 2 * len(self._counts))


class HandshakePace:
    """So many in a minute for each subject and preview: at once, or spread."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._cost = 60 / per_minute
        self._clock = clock
        self._free_at: dict[tuple[str, Preview], float] = {}

    def step(self, subject: str, preview: Preview) -> None:
        """Count one. Raises `LimitExceeded` where it is one too many."""
        # The generic cell rate algorithm: each step moves on the time at which the minute's allowance is whole again.
        key, now = (subject, preview), self._clock()
        free_at = max(self._free_at.pop(key, now), now) + self._cost
        if free_at > now + 60 + self._cost / 2:
            self._free_at[key] = free_at - self._cost
            raise LimitExceeded("too_many_requests", detail="too many handshakes in a minute", retry_after=1)
        self._free_at[key] = free_at
        if len(self._free_at) > MEMORY:
            del self._free_at[next(iter(self._free_at))]


class Occupancy:
    """The rooms of one process, for requests and for WebSockets, and the pace of handshakes."""

    def __init__(self, limits: Limits) -> None:
        self.http = Room(
            per_subject=limits.requests_per_subject,
            per_preview=limits.requests_per_preview,
            in_all=limits.requests,
        )
        self.websocket = Room(
            per_subject=limits.sockets_per_subject,
            per_preview=limits.sockets_per_preview,
            in_all=limits.sockets,
        )
        self._handshakes = HandshakePace(limits.handshakes_per_minute)

    def enter(self, kind: Literal["http", "websocket"], subject: str, preview: Preview) -> tuple[Room, Place]:
        """A place in the room of that kind. Raises `LimitExceeded`."""
        if kind == "http":
            return self.http, self.http.enter(subject, preview)
        self._handshakes.step(subject, preview)
        return self.websocket, self.websocket.enter(subject, preview)
