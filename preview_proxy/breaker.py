"""Whether a preview is worth another try. One breaker for each, so that nobody's machine stands in another's way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from preview_proxy.core.models import Preview
from preview_proxy.errors import NotFound, PreviewProxyError, UpstreamError

FAILURES = 5
"""Failures in a row after which a preview is not tried for a while."""

PAUSE = 2.0
"""Seconds of that while. Then one request may try; if that fails too, it begins again."""

CERTAIN = 5.0
"""Seconds for which a certain no of the provider stands: no such machine, no such port, not for us."""

MEMORY = 10_000
"""Previews with failures that are kept in mind."""


class _Circuit:
    """What is known of one preview's failures."""

    __slots__ = ("failures", "last", "probing", "until")

    def __init__(self, last: PreviewProxyError) -> None:
        self.failures = 0
        self.until = 0.0
        self.probing = False
        self.last = last


class Breaker:
    """Failures to reach previews. What a machine answers, whatever its status, is none.

    A preview may be of a hostile machine: what it does costs only itself.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._circuits: dict[Preview, _Circuit] = {}

    def enter(self, preview: Preview) -> bool:
        """Whether the caller's is the one request that tries, and must `release`. Raises while none may."""
        circuit = self._circuits.get(preview) if self._circuits else None
        if circuit is None:
            return False
        left = circuit.until - self._clock()
        if left > 0 and is_certain(circuit.last):
            raise _copy(circuit.last, f"not asked again yet: {circuit.last.detail}", None)
        if circuit.failures < FAILURES:
            return False
        if left > 0 or circuit.probing:
            raise _again(circuit.last, max(1, math.ceil(left)))
        circuit.probing = True
        return True

    def reached(self, preview: Preview) -> None:
        """The machine, or its edge, has answered."""
        if self._circuits:
            self._circuits.pop(preview, None)

    def failed(self, preview: Preview, error: PreviewProxyError) -> None:
        """It could not be reached, or the provider said no."""
        error = _copy(error, error.detail, error.retry_after)
        circuit = self._circuits.pop(preview, None) or _Circuit(error)
        self._circuits[preview] = circuit  # now the latest
        circuit.last = error
        if is_certain(error):
            circuit.until = self._clock() + CERTAIN
        else:
            circuit.failures += 1
            circuit.until = self._clock() + PAUSE
        if len(self._circuits) > MEMORY:
            del self._circuits[next(iter(self._circuits))]

    def release(self, preview: Preview) -> None:
        """The one request that tried is over, perhaps because its visitor left before anything was known."""
        circuit = self._circuits.get(preview)
        if circuit is not None:
            circuit.probing = False


def is_certain(error: PreviewProxyError) -> bool:
    """Whether the provider would say the same again: what is for later, and what broke, is not."""
    return isinstance(error, NotFound) or error.code == "provider_refused"


def _again(last: PreviewProxyError, wait: int) -> PreviewProxyError:
    """The last failure again if waiting is its own advice; else that the machine was out of reach."""
    if last.status not in (429, 503):
        last = UpstreamError("upstream_unavailable", detail=last.detail, retry_after=wait)
    return _copy(last, f"not tried again yet: {last.detail}", max(wait, last.retry_after or 0))


def _copy(error: PreviewProxyError, detail: str, retry_after: int | None) -> PreviewProxyError:
    """A new one of the tree, without the frames of the old; a provider's subclass may be made in another way."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == PreviewProxyError.__module__)
    assert issubclass(kind, PreviewProxyError)  # noqa: S101 - as all are that `error` inherits from there
    return kind(error.code, detail=detail, retry_after=retry_after)
