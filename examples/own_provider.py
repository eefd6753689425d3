"""A provider in one file: the made-up Acorn, whose machines take one token, in a header, for HTTP and WebSocket.

    POST https://api.acorn.example/machines/{id}/ports/{port}/share
    201 {"id": "...", "url": "https://...", "token": "...", "expires_at": <Unix seconds>}

`tests/examples/test_own_provider.py` holds it to the contract; docs/how-to/write-a-provider.md explains it.
"""

from __future__ import annotations

from urllib.parse import quote

import httpx

from preview_proxy import Preview, PreviewProxyError, Secret, Target
from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import CredentialRejected, MachineUnavailable, NotFound, PortNotAllowed, ProviderError
from preview_proxy.providers.answers import is_small, json_object, retry_after
from preview_proxy.providers.api import ApiAnswer, JsonApi
from preview_proxy.providers.base import endpoint_from_url

TOKEN_HEADER = b"x-acorn-token"
# What the edge says of its own accord: JSON with a `reason`, under a header that names it.
EDGE_ERRORS: dict[str, tuple[type[ProviderError], str]] = {
    "expired": (CredentialRejected, "preview_proxy_token_expired"),
    "unknown": (CredentialRejected, "preview_proxy_token_invalid"),
    "asleep": (MachineUnavailable, "preview_service_not_ready"),
}


class Acorn:
    """Machines of Acorn. `timeout` is in seconds; `transport` replaces the network, in tests."""

    def __init__(
        self, api_key: Secret, *, timeout: float = 10.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._api = JsonApi(
            endpoint_from_url("https://api.acorn.example"),
            credentials=((b"authorization", b"Bearer ", api_key),),
            timeout=timeout,
            transport=transport,
        )

    async def resolve(self, preview: Preview) -> Target:
        """A target. The failure is raised here, where no local variable holds a credential."""
        if preview.port == 22:
            raise PortNotAllowed(detail="port 22 is the platform's own")
        outcome = await self._resolve(preview)
        if isinstance(outcome, PreviewProxyError):
            raise outcome
        return outcome

    async def _resolve(self, preview: Preview) -> Target | PreviewProxyError:
        answer = await self._api.call("POST", f"/machines/{quote(preview.machine)}/ports/{preview.port}/share", {})
        if isinstance(answer, ProviderError):
            return answer
        if answer.status != 201:
            return _api_error(answer)
        try:
            return _target(answer.document)
        except (TypeError, ValueError, KeyError):
            return ProviderError(detail="the API's answer cannot be used")

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether the head could be that of an error of the edge, so that its body is worth reading."""
        return status in (401, 503) and (b"x-acorn-edge", b"1") in headers and is_small(headers)

    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        """The error of the edge, or None for an answer of the app's own."""
        reason = (json_object(body) or {}).get("reason")
        if not isinstance(reason, str) or reason not in EDGE_ERRORS:
            return None
        kind, code = EDGE_ERRORS[reason]
        return kind(code, retry_after=retry_after(headers) if kind is MachineUnavailable else None)

    async def aclose(self) -> None:
        await self._api.aclose()


def _target(answer: object) -> Target:
    """The answer as a target. Raises `TypeError`, `KeyError` or `ValueError` if a part that we use is amiss."""
    if not isinstance(answer, dict) or not isinstance(answer["url"], str) or not isinstance(answer["token"], str):
        raise TypeError
    if not isinstance(answer["id"], str) or not answer["id"].isalnum() or len(answer["id"]) > 64:
        raise ValueError
    token = Secret(answer["token"])
    endpoint = endpoint_from_url(answer["url"], [(TOKEN_HEADER, token)], domains=["acorn.example"])
    return Target(answer["id"], endpoint, endpoint, float(answer["expires_at"]))


def _api_error(answer: ApiAnswer) -> PreviewProxyError:
    if answer.status == 404:
        return NotFound("machine_not_found", detail="the API answered 404")
    if answer.status == 409:
        return MachineUnavailable("preview_service_not_ready", detail="starting", retry_after=5)
    return ProviderError("provider_refused", detail=f"the API answered {answer.status}")
