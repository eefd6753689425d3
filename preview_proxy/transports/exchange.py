"""What HTTP and WebSocket relays share: the target in use, and waiting for the response head."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

import anyio
import httpx

from preview_proxy.core.models import RawHeaders
from preview_proxy.core.plan import Route
from preview_proxy.core.policy import Limits
from preview_proxy.errors import PreviewProxyError, UpstreamTimeout
from preview_proxy.transports.upstream import Answer, translate

EXPLANATION_BYTES = 4096


class ClientGone(Exception):
    """The visitor left before the exchange was over."""


class Lease(Protocol):
    """The target of one relay."""

    async def route(self) -> Route:
        """Where to send the request; asks the provider when needed."""
        ...

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether the response could be the provider's edge talking."""
        ...

    def explain(self, status: int, headers: RawHeaders, body: bytes) -> PreviewProxyError | None:
        """The failure that the provider's edge reports, or None for the app's own answer."""
        ...

    def renew(self, error: PreviewProxyError) -> bool:
        """Whether the failure can be cured by a new credential; if so the next `route()` has it."""
        ...


async def head(sending: Awaitable[httpx.Response], uploaded: anyio.Event, limits: Limits) -> Answer:
    """Await the response head, for as long as the upload lasts and `head_timeout` after it."""
    failure: Exception | None = None
    response: httpx.Response | None = None
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def start_the_clock() -> None:
                await uploaded.wait()
                scope.deadline = anyio.current_time() + limits.head_timeout

            group.start_soon(start_the_clock)
            try:
                response = await sending
            except Exception as error:
                failure = error if isinstance(error, ClientGone) else translate(error)
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if response is None:
        raise UpstreamTimeout(detail="no response head")
    return Answer(response)


async def explanation(answer: Answer, lease: Lease, limits: Limits) -> PreviewProxyError | None:
    """The failure that the provider's edge reports, if this is its answer and not the app's."""
    if not lease.may_explain(answer.status, answer.headers):
        return None
    body = await answer.peek(EXPLANATION_BYTES, limits.idle_timeout)
    return lease.explain(answer.status, answer.headers, body)
