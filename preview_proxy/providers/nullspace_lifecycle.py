"""What can be asked of Nullspace's API about a preview besides its target: readiness, waking, taking a grant back.

    POST   /v1/machines/{id}/ports/{port}/readiness     waits, and says whether anything listens
    POST   /v1/machines/{id}/resume                     of a machine that runs, changes nothing
    DELETE /v1/machines/{id}/preview-urls/{grant}       ends both of the grant's tokens

Each function returns its failure, or None: the caller raises where no credential is in reach.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Mapping
from typing import Protocol
from urllib.parse import quote

import anyio

from preview_proxy.core.models import Preview
from preview_proxy.errors import MachineUnavailable, PreviewProxyError, ProviderError

READINESS_SLICE = 3
"""Seconds that one readiness request may wait at Nullspace: few, so that no read times out on the way."""

PAUSE = 0.5
"""Seconds between two requests, should Nullspace not wait at all."""

# What an answer's `code` may be for a port that is not ready.
_NOT_READY = frozenset(
    {"preview_service_not_ready", "edge_runtime_host_unreachable", "machine_paused_auto_resume_disabled"}
)


class Call(Protocol):
    """One request to the API: the JSON object that it answers, or the failure."""

    def __call__(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> Awaitable[Mapping[str, object] | PreviewProxyError]: ...


async def wait_until_ready(call: Call, preview: Preview, seconds: float) -> PreviewProxyError | None:
    """None once something listens on the port, or the reason why nothing did within `seconds`."""
    deadline = time.monotonic() + seconds
    path = f"{_machine(preview)}/ports/{preview.port}/readiness"
    while True:
        left = deadline - time.monotonic()
        patience = max(1, min(READINESS_SLICE, math.floor(left)))
        answer = await call("POST", path, {"kind": "tcp", "timeout_secs": patience, "interval_ms": 250})
        if isinstance(answer, PreviewProxyError):
            return answer
        if answer.get("ready") is True:
            return None
        if time.monotonic() >= deadline - 1:
            code = answer.get("code")
            known = code if isinstance(code, str) and code in _NOT_READY else "preview_service_not_ready"
            return MachineUnavailable(known, detail=f"not ready in {seconds:g} s", retry_after=5)
        await anyio.sleep(PAUSE)


async def wake(call: Call, preview: Preview) -> PreviewProxyError | None:
    """Resume the machine."""
    answer = await call("POST", f"{_machine(preview)}/resume")
    if isinstance(answer, PreviewProxyError):
        return answer
    status = answer.get("status")
    return None if status == "running" else ProviderError(detail="the machine is not running after its resume")


async def revoke(call: Call, preview: Preview, grant: str) -> PreviewProxyError | None:
    """Take a grant back; one that Nullspace no longer knows is none."""
    answer = await call("DELETE", f"{_machine(preview)}/preview-urls/{quote(grant, safe='')}")
    gone = isinstance(answer, PreviewProxyError) and answer.status == 404
    return answer if isinstance(answer, PreviewProxyError) and not gone else None


def _machine(preview: Preview) -> str:
    return f"/v1/machines/{quote(preview.machine, safe='')}"
