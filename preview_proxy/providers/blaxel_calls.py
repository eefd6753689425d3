"""The two calls of Blaxel's API that a target takes: a preview, created where there is none, and a token for it.

By HTTP, or by the SDK that the caller hands over. Both answer failures instead of raising them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

from preview_proxy.errors import PreviewProxyError, ProviderError
from preview_proxy.providers.api import ApiAnswer, JsonApi, status_error

if TYPE_CHECKING:
    from blaxel.core import SandboxInstance

T = TypeVar("T")
Json = Mapping[str, object]


class Found(NamedTuple):
    """A preview as the API describes it, and where its tokens are made."""

    preview: Json
    tokens: Any


class Calls(Protocol):
    """What `Blaxel` asks of the API."""

    async def preview(self, sandbox: str, wanted: Json) -> Found | PreviewProxyError:
        """The preview of the wanted name, created as wanted where there is none."""
        ...

    async def token(self, found: Found, expires_at: float) -> Json | PreviewProxyError:
        """A new token for the preview, until `expires_at` (Unix seconds)."""
        ...

    async def delete_token(self, sandbox: str, preview: str, token: str) -> PreviewProxyError | None:
        """Delete a token by its name; why not, if it could not be. One that is gone is `NotFound`."""
        ...

    async def aclose(self) -> None: ...


class HttpCalls:
    """The API by HTTP: two calls for a target, three for a sandbox's first."""

    def __init__(self, api: JsonApi) -> None:
        self._api = api
        self.aclose = api.aclose

    async def preview(self, sandbox: str, wanted: Json) -> Found | PreviewProxyError:
        previews = f"/sandboxes/{quote(sandbox, safe='')}/previews"
        metadata = wanted["metadata"]
        name = str(metadata["name"]) if isinstance(metadata, dict) else ""
        answer = await self._api.call("GET", f"{previews}/{name}")
        if _status(answer) == 404:
            answer = await self._api.call("POST", previews, wanted)
            if _status(answer) == 409:  # another worker was faster
                answer = await self._api.call("GET", f"{previews}/{name}")
        document = _document(answer)
        return document if isinstance(document, PreviewProxyError) else Found(document, f"{previews}/{name}/tokens")

    async def token(self, found: Found, expires_at: float) -> Json | PreviewProxyError:
        wanted = {"metadata": {"name": ""}, "spec": {"expiresAt": _timestamp(expires_at)}}
        return _document(await self._api.call("POST", found.tokens, wanted))

    async def delete_token(self, sandbox: str, preview: str, token: str) -> PreviewProxyError | None:
        path = f"/sandboxes/{quote(sandbox, safe='')}/previews/{preview}/tokens/{quote(token, safe='')}"
        outcome = _document(await self._api.call("DELETE", path))
        return outcome if isinstance(outcome, PreviewProxyError) else None


class SdkCalls:
    """The API by the SDK's `SandboxInstance`: one call more, for the sandbox. It has no time limit of its own."""

    def __init__(self, sandboxes: type[SandboxInstance]) -> None:
        self._sandboxes = sandboxes

    async def preview(self, sandbox: str, wanted: Json) -> Found | PreviewProxyError:
        async def ask() -> Found:
            instance = await self._sandboxes.get(sandbox)
            preview = await instance.previews.create_if_not_exists(dict(wanted))
            return Found(preview.preview.to_dict(), preview.tokens)

        return await _asked(ask())

    async def token(self, found: Found, expires_at: float) -> Json | PreviewProxyError:
        async def ask() -> Json:
            token = await found.tokens.create(datetime.fromtimestamp(expires_at, UTC))
            made: Json = token.preview_token.to_dict()
            return made

        return await _asked(ask())

    async def delete_token(self, sandbox: str, preview: str, token: str) -> PreviewProxyError | None:
        async def ask() -> None:
            instance = await self._sandboxes.get(sandbox)
            await (await instance.previews.get(preview)).tokens.delete(token)

        return await _asked(ask())

    async def aclose(self) -> None:
        """Nothing: the SDK's client belongs to the process."""


async def _asked(operation: Awaitable[T]) -> T | PreviewProxyError:
    """What the SDK returned, or the failure that its exception stands for; of that no part but its status is kept."""
    try:
        return await operation
    except TimeoutError:
        raise
    except Exception as error:
        name, status = type(error).__name__, getattr(error, "status_code", 0)
    return status_error(status if isinstance(status, int) else 0, detail=f"the SDK raised {name}")


def _status(answer: ApiAnswer | ProviderError) -> int:
    return answer.status if isinstance(answer, ApiAnswer) else 0


def _document(answer: ApiAnswer | ProviderError) -> Json | PreviewProxyError:
    if isinstance(answer, ProviderError):
        return answer
    if not answer.ok:
        return status_error(answer.status, answer.headers)
    if not isinstance(answer.document, dict):
        return ProviderError(detail="the API's answer is not a small JSON object")
    return answer.document


def _timestamp(moment: float) -> str:
    """RFC 3339 in UTC: the API takes no other offset."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
