"""The target of one relay, what to do when the provider's edge refuses it, and whether to try at all."""

from __future__ import annotations

from typing import Literal

import httpx

from preview_proxy.breaker import Breaker
from preview_proxy.core.models import Endpoint, RawHeaders, Target
from preview_proxy.core.plan import Route
from preview_proxy.errors import NotFound, PreviewProxyError, ProviderError, Unreachable
from preview_proxy.hosts import Routed
from preview_proxy.providers.base import Provider, SupportsExplainError
from preview_proxy.providers.cache import TargetCache

# What a new credential cures. A preview can forge these answers, so the cache bounds how often one is minted.
RENEWABLE = frozenset({"preview_proxy_token_expired", "preview_proxy_token_revoked", "preview_proxy_token_invalid"})


class TargetLease:
    """Resolves a preview's endpoint for one transport, and renews it once if the edge says that it ran out.

    `user` is told to upstream, if it is not empty.
    """

    def __init__(
        self,
        kind: Literal["http", "websocket"],
        routed: Routed,
        cache: TargetCache,
        provider: Provider,
        breaker: Breaker,
        user: str = "",
    ) -> None:
        self._user = user
        self._kind = kind
        self._routed = routed
        self._cache = cache
        self._provider = provider
        self._breaker = breaker
        self._is_trial = False
        self._target: Target | None = None
        self._endpoint: Endpoint | None = None

    async def route(self) -> Route:
        """Raises `ProviderError` where the provider fails, `NotFound` where the target has no such transport.

        While the preview is out of reach it raises at once, and asks nobody.
        """
        preview = self._routed.preview
        if not self._is_trial:
            self._is_trial = self._breaker.enter(preview)
        try:
            self._target = await self._cache.get(preview)
        except PreviewProxyError as error:
            self._breaker.failed(preview, error)
            raise
        endpoint = self._endpoint = self._target.http if self._kind == "http" else self._target.websocket
        if endpoint is None:
            raise NotFound(detail=f"the target has no {self._kind} endpoint")
        return Route(self._routed.preview, self._routed.public, endpoint, self._user)

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

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        # asked of failures and redirects only: `isinstance` of a protocol is slow
        if status < 300 or status == 304 or not isinstance(self._provider, SupportsExplainError):
            return False
        return self._provider.may_explain(status, headers)

    def explain(self, status: int, headers: RawHeaders, body: bytes) -> PreviewProxyError | None:
        if not isinstance(self._provider, SupportsExplainError):
            return None
        error = self._provider.explain_error(status, headers, body)
        if error is None and self._endpoint is not None and self._endpoint.leaks(body):
            return ProviderError(detail=f"an answer {status} that repeats the credential")
        return error

    def renew(self, error: PreviewProxyError) -> bool:
        if error.code not in RENEWABLE or self._target is None:
            return False
        return self._cache.reject(self._routed.preview, self._target)
