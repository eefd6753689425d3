"""The target of one relay, and what to do when the provider's edge refuses it."""

from __future__ import annotations

import httpx

from preview_proxy.breaker import Breaker
from preview_proxy.core.models import Endpoint, Inbound, RawHeaders
from preview_proxy.core.plan import Route
from preview_proxy.errors import MachineUnavailable, NotFound, PreviewProxyError, ProviderError, Unreachable
from preview_proxy.hosts import Routed
from preview_proxy.providers.base import Provider, SupportsExplainError
from preview_proxy.providers.cache import TargetCache
from preview_proxy.providers.held import Holding
from preview_proxy.providers.wakes import PAUSED, Wakes, may_wake

# What a new credential cures. A preview can forge these answers, so the cache bounds how often one is minted.
RENEWABLE = frozenset({"preview_proxy_token_expired", "preview_proxy_token_revoked", "preview_proxy_token_invalid"})


class Edge:
    """The provider's edge, as far as its answers can be told from the app's. `endpoint` is where the request went."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.endpoint: Endpoint | None = None

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        # asked of failures and redirects only: `isinstance` of a protocol is slow
        if status < 300 or status == 304 or not isinstance(self._provider, SupportsExplainError):
            return False
        return self._provider.may_explain(status, headers)

    def explain(self, status: int, headers: RawHeaders, body: bytes) -> PreviewProxyError | None:
        if not isinstance(self._provider, SupportsExplainError):
            return None
        error = self._provider.explain_error(status, headers, body)
        if error is None and self.endpoint is not None and self.endpoint.leaks(body):
            return ProviderError(detail=f"an answer {status} that repeats the credential")
        return error


class TargetLease(Edge):
    """Resolves a preview's endpoint for one request, and cures once what its edge complains about.

    A credential that ran out is renewed. With `wakes`, a navigation to a paused machine has it woken. `user` is told to
    upstream, if it is not empty.
    """

    def __init__(
        self,
        inbound: Inbound,
        routed: Routed,
        cache: TargetCache,
        provider: Provider,
        breaker: Breaker,
        wakes: Wakes | None = None,
        user: str = "",
    ) -> None:
        super().__init__(provider)
        self._user = user
        self._inbound = inbound
        self._routed = routed
        self._cache = cache
        self._breaker = breaker
        self._wakes = wakes
        self._is_trial = False
        self._held: Holding | None = None

    async def route(self) -> Route:
        """Raises `ProviderError` where the provider fails, `NotFound` where the target has no such transport.

        While the preview is out of reach it raises at once, and asks nobody.
        """
        preview, public = self._routed
        if not self._is_trial:
            self._is_trial = self._breaker.enter(preview)
        held = self._cache.fresh(preview)
        if held is None:
            try:
                held = await self._hold()
            except PreviewProxyError as error:
                self._breaker.failed(preview, error)
                raise
        self._held = held
        kind = self._inbound.kind
        endpoint = self.endpoint = held.target.http if kind == "http" else held.target.websocket
        if endpoint is None:
            raise NotFound(detail=f"the target has no {kind} endpoint")
        self._cache.used(held, kind)
        return Route(preview, public, endpoint, self._user)

    async def _hold(self) -> Holding:
        try:
            return await self._cache.get(self._routed.preview)
        except MachineUnavailable as error:
            unavailable = error
        if not await self._wake(unavailable):
            raise unavailable.with_traceback(None)
        return await self._cache.get(self._routed.preview)

    async def _wake(self, error: PreviewProxyError) -> bool:
        if error.code != PAUSED or self._wakes is None or not may_wake(self._inbound):
            return False
        return await self._wakes.wake(self._routed.preview)

    async def cure(self, error: PreviewProxyError) -> bool:
        if self._held is None:
            return False
        if error.code in RENEWABLE:
            return self._cache.reject(self._held, error.code)
        self._cache.failed(self._held, error.code)
        if not await self._wake(error):
            return False
        self._cache.forget(self._routed.preview.machine)  # some providers give a machine that wakes another credential
        return True

    def reached(self) -> None:
        self._breaker.reached(self._routed.preview)

    def failed(self, error: Exception) -> None:
        """Only a connection that could not be made counts: what is slow or breaks off was reached."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            self._breaker.failed(self._routed.preview, Unreachable(detail=type(error).__name__))

    def close(self) -> None:
        """Let another try, if this was the one that did. Call it at the end, whatever that was."""
        if self._is_trial:
            self._breaker.release(self._routed.preview)
