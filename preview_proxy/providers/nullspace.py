"""Nullspace: mints preview proxy targets, through its HTTP API or its own SDK, and reads its edge's errors.

    POST {base_url}/v1/machines/{id}/ports/{port}/preview-proxy-target   ->   Target

A target has two tokens, one for HTTP and one for WebSocket handshakes, which the edge takes in one header. Nothing
here raises while a token is in reach: steps return a failure instead, and `Nullspace.resolve` raises it, because
a traceback keeps every frame that its exception passed, with the locals in them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import httpx

from preview_proxy.core.models import Endpoint, Preview, RawHeaders, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, PortNotAllowed, PreviewProxyError, ProviderError
from preview_proxy.providers import nullspace_lifecycle
from preview_proxy.providers.answers import unix_seconds
from preview_proxy.providers.api import JsonApi, timed_out
from preview_proxy.providers.base import endpoint_from_url
from preview_proxy.providers.nullspace_errors import api_error, edge_error, may_be_edge_error, sdk_error
from preview_proxy.providers.options import api_option, configured, domains_option, secret_option, timeout_option

if TYPE_CHECKING:
    from nullspace.client import AsyncNullspaceClient

Answer = Mapping[str, object]

TOKEN_HEADER = "x-nullspace-preview-proxy-token"  # noqa: S105 - a name, not a value
TRAFFIC_HEADER = "x-nullspace-traffic-access-token"

# SSH and the desktop belong to the platform.
RESERVED_PORTS = frozenset({22, *range(5900, 6000)})


class Nullspace:
    """Previews of Nullspace machines.

    Give either an `api_key`, which needs nothing but httpx, or a `client` of the Nullspace SDK that you already hold
    (``pip install preview-proxy[nullspace]``). A client stays yours to close, and follows its own proxy settings.

    `base_url` is the API's address; by default ``NULLSPACE_API_URL`` or ``NULLSPACE_BASE_URL`` of the environment.
    `expires_in` is a target's lifetime in seconds, 60 to 86400; None leaves it to the deployment.
    `traffic_tokens` are for machines that refuse public traffic: one token for all, or a mapping from machine id,
    read anew for each target. `domains` are the names under which the edge is, at port 443.
    `allow_insecure_loopback` admits plain HTTP to hosts that are loopback by name, for tests and emulators.
    `transport` sends the API's requests (an egress proxy, a private certificate authority) and is closed with this
    provider; the default ignores the environment's proxy variables. `timeout` (seconds) bounds each call as a whole.

    Raises `ConfigurationError` for anything in these that could not work.
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        client: AsyncNullspaceClient | None = None,
        base_url: str | None = None,
        expires_in: int | None = 900,
        traffic_tokens: str | Mapping[str, str] | None = None,
        domains: Sequence[str] = ("nullspace.dev",),
        allow_insecure_loopback: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 10.0,
    ) -> None:
        if (api_key is None) == (client is None):
            raise ConfigurationError("give Nullspace either an api_key or a client of its SDK")
        if client is not None and (base_url is not None or transport is not None):
            raise ConfigurationError("base_url and transport are for an api_key: the client has its own")
        if expires_in is not None and not 60 <= expires_in <= 86_400:
            raise ConfigurationError("expires_in must be 60 to 86400 seconds, or None for the deployment's default")
        timeout = timeout_option(timeout)
        url = client.base_url if client is not None else base_url or _base_url_of_environment()
        self._api = api_option(url, allow_insecure_loopback)
        self._domains = domains_option(domains, "nullspace.dev")
        self._traffic_token = configured("traffic_tokens", lambda: _traffic_lookup(traffic_tokens))
        self._allow_insecure_loopback = allow_insecure_loopback
        self._mint: _HttpMint | _SdkMint
        if api_key is not None:
            bearer = (b"authorization", b"Bearer ", secret_option("api_key", api_key))
            api = JsonApi(self._api, credentials=(bearer,), timeout=timeout, transport=transport)
            self._mint = _HttpMint(api, expires_in)
        else:
            assert client is not None  # noqa: S101 - one of the two was given
            self._mint = _SdkMint(client, expires_in, timeout)

    async def resolve(self, preview: Preview) -> Target:
        """Mint a target. Raises `PortNotAllowed`, `NotFound`, `MachineUnavailable` or `ProviderError`."""
        if preview.port in RESERVED_PORTS:
            raise PortNotAllowed(detail=f"port {preview.port} is the platform's own")
        outcome = await self._resolve(preview)
        if isinstance(outcome, PreviewProxyError):
            raise outcome
        return outcome

    async def _resolve(self, preview: Preview) -> Target | PreviewProxyError:
        answer = await self._mint(preview)
        if isinstance(answer, PreviewProxyError):
            return answer
        try:
            return self._target(answer, preview)
        except ValueError as error:
            return ProviderError(detail=f"the API's answer cannot be used: {error}")

    def _target(self, answer: Answer, preview: Preview) -> Target:
        """The answer as a target. Raises `ValueError` if a part that we use is amiss; other parts may change."""
        if answer.get("machine_id") != preview.machine or answer.get("port") != preview.port:
            raise ValueError("it is for another preview")
        if answer.get("token_transport") != "header" or answer.get("token_header_name") != TOKEN_HEADER:
            raise ValueError(f"its tokens are not for the header {TOKEN_HEADER}")
        traffic = self._traffic_credential(answer, preview.machine)
        http = self._endpoint(answer, "http", traffic)
        websocket = self._endpoint(answer, "websocket", traffic)
        if http is None and websocket is None:
            raise ValueError("it has no URL")
        return Target(_grant_id(answer), http, websocket, _expiry(answer.get("expires_at")))

    def _endpoint(self, answer: Answer, kind: str, traffic: list[tuple[bytes, Secret]]) -> Endpoint | None:
        url, token = answer.get(f"{kind}_url"), answer.get(f"{kind}_token")
        if url is None and token is None:
            return None
        if not isinstance(url, str) or not isinstance(token, str):
            raise ValueError(f"{kind}_url and {kind}_token are not both strings")
        return endpoint_from_url(
            url,
            [(TOKEN_HEADER.encode(), Secret(token)), *traffic],
            domains=self._domains,
            allow_insecure_loopback=self._allow_insecure_loopback,
        )

    def _traffic_credential(self, answer: Answer, machine: str) -> list[tuple[bytes, Secret]]:
        required = answer.get("traffic_access_required")
        if required is None or required is False:
            return []
        name = answer.get("traffic_access_header_name") or TRAFFIC_HEADER
        # Nullspace's own namespace only: what a visitor sends in it never goes upstream.
        if not isinstance(name, str) or not re.fullmatch(r"x-nullspace-[a-z0-9-]{1,64}", name) or name == TOKEN_HEADER:
            raise ValueError("traffic_access_header_name is not one of Nullspace's")
        secret = self._traffic_token(machine)
        if secret is None:
            raise ValueError(
                "the machine refuses public traffic: give Nullspace(traffic_tokens={machine id: token}) the "
                "traffic_access_token that came with the machine's creation"
            )
        return [(name.encode(), secret)]

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether the head is that of a small, plain JSON body, with a status that the edge's own errors have."""
        return may_be_edge_error(status, headers)

    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        """The edge's error, told by its documented code; None for every other body, which is then the app's."""
        return edge_error(status, headers, body)

    async def wait_until_ready(self, preview: Preview, *, timeout: float) -> None:  # noqa: ASYNC109 - Nullspace waits
        """Return once something listens on the port. Raises `MachineUnavailable` after `timeout` seconds without."""
        _raise(await nullspace_lifecycle.wait_until_ready(self._mint.call, preview, timeout))

    async def wake(self, preview: Preview) -> None:
        """Resume the machine. Raises `PreviewProxyError` if it does not run then."""
        _raise(await nullspace_lifecycle.wake(self._mint.call, preview))

    async def revoke(self, preview: Preview, target: Target) -> None:
        """Revoke the grant behind `target`, and so both of its tokens."""
        _raise(await nullspace_lifecycle.revoke(self._mint.call, preview, target.id))

    async def aclose(self) -> None:
        """Close the connections to the API."""
        await self._mint.aclose()

    def __repr__(self) -> str:
        return f"Nullspace({str(self._api.origin)!r})"


class _HttpMint:
    """The API by HTTP, one request per call."""

    def __init__(self, api: JsonApi, expires_in: int | None) -> None:
        self._api = api
        self._body = {} if expires_in is None else {"expires_in_seconds": expires_in}
        self.aclose = api.aclose

    async def __call__(self, preview: Preview) -> Answer | PreviewProxyError:
        machine = quote(preview.machine, safe="")
        return await self.call("POST", f"/v1/machines/{machine}/ports/{preview.port}/preview-proxy-target", self._body)

    async def call(self, method: str, path: str, body: Answer | None = None) -> Answer | PreviewProxyError:
        """The API's answer to one request, or the failure."""
        answer = await self._api.call(method, path, body)
        if isinstance(answer, ProviderError):
            return answer
        if not answer.ok:
            return api_error(answer)
        if not isinstance(answer.document, dict):
            return ProviderError(detail="the API's answer is not a small JSON object")
        return answer.document


class _SdkMint:
    """The API by the Nullspace SDK. It sleeps out a 429 itself, so a long `Retry-After` ends as a timeout here."""

    def __init__(self, client: AsyncNullspaceClient, expires_in: int | None, timeout: float) -> None:
        self._client = client
        self._expires_in = expires_in
        self._timeout = timeout

    async def __call__(self, preview: Preview) -> Answer | PreviewProxyError:
        from nullspace import AsyncMachine
        from nullspace.types import MachineConfig, MachineInfo, MachineStatus

        # Made by hand: `AsyncMachine.connect` would wake a paused machine, and `async with` destroy it.
        info = MachineInfo(preview.machine, MachineStatus.RUNNING, MachineConfig(), template="")
        try:
            with anyio.fail_after(self._timeout):
                machine = AsyncMachine(info, self._client)
                return asdict(
                    await machine.create_preview_proxy_target(preview.port, expires_in_seconds=self._expires_in)
                )
        except TimeoutError:
            return timed_out(self._timeout)
        except Exception as error:  # it parses strictly, and raises TypeError or AttributeError for what is new to it
            return sdk_error(error)

    async def call(self, method: str, path: str, body: Answer | None = None) -> Answer | PreviewProxyError:
        """The API's answer to one request, or the failure.

        By the SDK's adapter for raw requests: its own `resume` makes a client of its own, and does not close it.
        """
        try:
            with anyio.fail_after(self._timeout):
                answer: object = await self._client.api_core.request_json(method, path, json=body)
        except TimeoutError:
            return timed_out(self._timeout)
        except Exception as error:
            return sdk_error(error)
        return answer if isinstance(answer, dict) else ProviderError(detail="the API's answer is not a JSON object")

    async def aclose(self) -> None:
        """Nothing: the client belongs to whoever made it."""


def _raise(failure: PreviewProxyError | None) -> None:
    if failure is not None:
        raise failure


def _grant_id(answer: Answer) -> str:
    grant = answer.get("grant")
    grant_id = grant.get("id") if isinstance(grant, dict) else None
    if not isinstance(grant_id, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", grant_id):
        raise ValueError("its grant has no id")
    return grant_id


def _expiry(value: object) -> float:
    try:
        return unix_seconds(value)
    except ValueError:
        raise ValueError("expires_at is not a time with an offset") from None


def _base_url_of_environment() -> str:
    url = os.environ.get("NULLSPACE_API_URL") or os.environ.get("NULLSPACE_BASE_URL")
    if not url:
        raise ConfigurationError("give Nullspace a base_url, or set NULLSPACE_API_URL, to the address of its API")
    return url


def _traffic_lookup(tokens: str | Mapping[str, str] | None) -> Callable[[str], Secret | None]:
    """The traffic token for a machine id. A closure, so that no attribute shows the customer's mapping."""
    if tokens is None:
        return lambda machine: None
    if isinstance(tokens, str):
        secret = Secret(tokens)
        return lambda machine: secret
    for token in tokens.values():
        Secret(token)
    return lambda machine: Secret(tokens[machine]) if machine in tokens else None
