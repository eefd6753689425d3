"""The target of one relay, and what to do when the provider's edge refuses it."""

from __future__ import annotations

from typing import Literal

from preview_proxy.core.models import RawHeaders, Target
from preview_proxy.core.plan import Route
from preview_proxy.errors import NotFound, PreviewProxyError
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
        user: str = "",
    ) -> None:
        self._user = user
        self._kind = kind
        self._routed = routed
        self._cache = cache
        self._provider = provider
        self._target: Target | None = None

    async def route(self) -> Route:
        """Raises `ProviderError` where the provider fails, `NotFound` where the target has no such transport."""
        self._target = await self._cache.get(self._routed.preview)
        endpoint = self._target.http if self._kind == "http" else self._target.websocket
        if endpoint is None:
            raise NotFound(detail=f"the target has no {self._kind} endpoint")
        return Route(self._routed.preview, self._routed.public, endpoint, self._user)

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        # asked of failures only: `isinstance` of a protocol is slow
        if status < 400 or not isinstance(self._provider, SupportsExplainError):
            return False
        return self._provider.may_explain(status, headers)

    def explain(self, status: int, headers: RawHeaders, body: bytes) -> PreviewProxyError | None:
        if not isinstance(self._provider, SupportsExplainError):
            return None
        return self._provider.explain_error(status, headers, body)

    def renew(self, error: PreviewProxyError) -> bool:
        if error.code not in RENEWABLE or self._target is None:
            return False
        return self._cache.reject(self._routed.preview, self._target)
