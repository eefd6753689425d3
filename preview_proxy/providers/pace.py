"""How often something may happen."""

from __future__ import annotations

from collections import deque


class Pace:
    """At most `per_minute` times in any 60 seconds. The caller tells the time, in seconds."""

    def __init__(self, per_minute: int) -> None:
        self._last: deque[float] = deque(maxlen=per_minute)

    def take(self, now: float) -> bool:
        """Whether it may happen now; if so it counts."""
        if len(self._last) == self._last.maxlen and 0 <= now - self._last[0] < 60:  # below 0, a clock was set back
            return False
        self._last.append(now)
        return True
