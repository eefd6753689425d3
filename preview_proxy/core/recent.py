"""A bounded memory of answers that hold for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `size` answers, each until a time of the caller's clock; the oldest goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._answers: dict[K, tuple[float, V]] = {}

    def get(self, key: K, now: float) -> V | None:
        """The answer, or None where there is none that still holds."""
        answer = self._answers.get(key)
        return answer[1] if answer is not None and now < answer[0] else None

    def put(self, key: K, value: V, until: float) -> None:
        """Remember an answer until `until`, newest last."""
        self._answers.pop(key, None)
        self._answers[key] = until, value
        if len(self._answers) > self._size:
            del self._answers[next(iter(self._answers))]

    def drop(self, key: K) -> None:
        """Forget one answer, if there is one."""
        self._answers.pop(key, None)

    def forget(self, matches: Callable[[K, V], bool]) -> None:
        """Drop the answers that match."""
        for key in [key for key, (_, value) in self._answers.items() if matches(key, value)]:
            del self._answers[key]

    def __len__(self) -> int:
        return len(self._answers)
