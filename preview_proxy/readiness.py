"""Whether anything listens on a preview's port yet, for the customer's own code to wait for."""

from __future__ import annotations

import anyio

from preview_proxy.core.models import Outbound, Preview
from preview_proxy.core.urls import request_target
from preview_proxy.errors import MachineUnavailable, PreviewProxyError, UpstreamError
from preview_proxy.lease import Edge
from preview_proxy.providers.base import Provider, SupportsReadiness
from preview_proxy.providers.cache import TargetCache
from preview_proxy.transports.exchange import Upstream, explanation, translate
from preview_proxy.transports.request import NO_BODY, UpstreamRequest

POLL = 0.5
"""Seconds between two questions to the app itself."""

GRACE = 2.0
"""Seconds that a provider may overstay the time it was given."""

# What a gateway in between says while nothing listens (RFC 9110 §15.6.3 to §15.6.5)
_NOT_YET = frozenset({502, 503, 504})


async def wait_until_ready(
    preview: Preview, provider: Provider, targets: TargetCache, transport: Upstream, seconds: float
) -> None:
    """Return once the preview answers. Raises `MachineUnavailable` after `seconds`, and what will not change at once.

    The provider is asked where it can tell; the app itself otherwise, by ``GET /``.
    """
    failure: PreviewProxyError | None = None
    try:
        with anyio.fail_after(seconds + (GRACE if isinstance(provider, SupportsReadiness) else 0)):
            if isinstance(provider, SupportsReadiness):
                return await provider.wait_until_ready(preview, timeout=seconds)
            while failure := await _failure(preview, Edge(provider), targets, transport):
                if not (failure.row.retryable or isinstance(failure, UpstreamError)):
                    break
                await anyio.sleep(POLL)
    except TimeoutError:
        if not isinstance(failure, MachineUnavailable):
            failure = MachineUnavailable("preview_service_not_ready", detail=str(failure or "no answer"), retry_after=5)
    if failure is not None:
        raise failure.with_traceback(None)


async def _failure(preview: Preview, edge: Edge, targets: TargetCache, transport: Upstream) -> PreviewProxyError | None:
    """Why the preview does not answer, or None."""
    try:
        endpoint = edge.endpoint = (await targets.get(preview)).target.http
        if endpoint is None:
            return None
        headers = ((b"host", endpoint.origin.field), (b"accept", b"*/*"), (b"user-agent", b"preview-proxy"))
        outbound = Outbound("GET", endpoint, request_target(b"/", b"", endpoint), headers, False, None)
        response = await transport.send(UpstreamRequest(outbound, NO_BODY))
        try:
            error = await explanation(response, edge)
        finally:
            await response.aclose()
    except Exception as caught:
        return translate(caught)
    if error is None and response.status_code in _NOT_YET:
        return MachineUnavailable("preview_service_not_ready", detail=f"it answers {response.status_code}")
    return error
