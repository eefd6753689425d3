"""Daytona: a token per sandbox, for all of its ports, which the edge takes in one header.

    GET  {base_url}/sandbox/{id}/ports/{port}/preview-url   ->   {"sandboxId", "url", "token"}
    POST {base_url}/sandbox/{id}/start                           the token is another one afterwards

Sources: Daytona's pages "Preview" and "Custom preview proxy", and its proxy's source (``apps/proxy``). Nothing here
raises while a token is in reach; see `preview_proxy.providers.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import httpx

from preview_proxy.core.models import Endpoint, Preview, RawHeaders, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import (
    ConfigurationError,
    MachineUnavailable,
    PortNotAllowed,
    PreviewProxyError,
    ProviderError,
)
from preview_proxy.providers.api import JsonApi, json_answer, timed_out
from preview_proxy.providers.base import endpoint_from_url
from preview_proxy.providers.daytona_errors import edge_error, may_be_edge_error, sdk_error
from preview_proxy.providers.options import api_option, domains_option, secret_option, timeout_option

if TYPE_CHECKING:
    from daytona import AsyncDaytona

Answer = Mapping[str, object]

TOKEN_HEADER = "x-daytona-preview-token"  # noqa: S105 - a name, not a value

INSTRUCTIONS: RawHeaders = (
    (b"x-daytona-skip-preview-warning", b"true"),  # a page in front of the app, shown to browsers
    (b"x-daytona-disable-cors", b"true"),  # else the edge lets every origin read with credentials
)
# The toolbox, the terminal and the recorder: the platform's own, and each gives the whole sandbox away.
RESERVED_PORTS = frozenset({2280, 22222, 33333})

WAKE_INTERVAL = 0.5
"""Seconds between two looks at a sandbox that starts."""


class Daytona:
    """Previews of Daytona sandboxes. A preview's machine is the sandbox's id.

    Give either an `api_key`, which needs nothing but httpx, or a `client` of the Daytona SDK that you already hold
    (``pip install preview-proxy[daytona]``). A client stays yours to close, and follows its own settings.

    `base_url` is the API's address. `domains` are the names below which the edge is, at port 443; by default those
    that Daytona is known to use. `allow_insecure_loopback` admits plain HTTP to hosts that are loopback by name, for
    tests and emulators. `transport` sends the API's requests and is closed with this provider; the default ignores
    the environment's proxy variables. `timeout` (seconds) bounds each call.

    Raises `ConfigurationError` for anything in these that could not work.
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        client: AsyncDaytona | None = None,
        base_url: str = "https://app.daytona.io/api",
        domains: Sequence[str] = ("daytonaproxy01.net", "proxy.app.daytona.io", "proxy.daytona.work"),
        allow_insecure_loopback: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 10.0,
    ) -> None:
        if (api_key is None) == (client is None):
            raise ConfigurationError("give Daytona either an api_key or a client of its SDK")
        self._domains = domains_option(domains, "proxy.daytona.work")
        self._allow_insecure_loopback = allow_insecure_loopback
        timeout = timeout_option(timeout)
        self._calls: _HttpCalls | _SdkCalls
        if api_key is not None:
            bearer = (b"authorization", b"Bearer ", secret_option("api_key", api_key))
            endpoint = api_option(base_url, allow_insecure_loopback)
            self._calls = _HttpCalls(JsonApi(endpoint, credentials=(bearer,), timeout=timeout, transport=transport))
        else:
            assert client is not None  # noqa: S101 - one of the two was given
            self._calls = _SdkCalls(client, timeout)

    async def resolve(self, preview: Preview) -> Target:
        """Ask for the preview's URL and token. Raises `PortNotAllowed`, `NotFound` or `ProviderError`.

        A sandbox that is stopped has a target too; its edge then says that it is.
        """
        if preview.port in RESERVED_PORTS:
            raise PortNotAllowed(detail=f"port {preview.port} is the platform's own")
        outcome = await self._resolve(preview)
        if isinstance(outcome, PreviewProxyError):
            raise outcome
        return outcome

    async def _resolve(self, preview: Preview) -> Target | PreviewProxyError:
        answer = await self._calls.preview_url(preview)
        if isinstance(answer, PreviewProxyError):
            return answer
        try:
            endpoint = self._endpoint(answer, preview)
        except ValueError as error:
            return ProviderError(detail=f"the API's answer cannot be used: {error}")
        return Target(f"{preview.machine}:{preview.port}"[:128], endpoint, endpoint)

    def _endpoint(self, answer: Answer, preview: Preview) -> Endpoint:
        url, token = answer.get("url"), answer.get("token")
        if not isinstance(url, str) or not isinstance(token, str):
            raise ValueError("url and token are not both strings")
        endpoint = endpoint_from_url(
            url,
            [(TOKEN_HEADER.encode(), Secret(token))],
            instructions=INSTRUCTIONS,
            domains=self._domains,
            allow_insecure_loopback=self._allow_insecure_loopback,
        )
        if answer.get("sandboxId") != preview.machine or not endpoint.origin.host.startswith(f"{preview.port}-"):
            raise ValueError("it is for another preview")
        return endpoint

    async def wake(self, preview: Preview) -> None:
        """Start the sandbox, and return when it runs; its token is another one then. Raises `PreviewProxyError`."""
        failure = await self._calls.start(preview)
        if failure is not None:
            raise failure

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether the head could be that of an answer of the edge's own."""
        return may_be_edge_error(status, headers)

    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        """The edge's error, or its redirect to a login that no visitor of yours could pass; None for the app's own."""
        return edge_error(status, headers, body, self._domains)

    async def aclose(self) -> None:
        """Close the connections to the API."""
        await self._calls.aclose()

    def __repr__(self) -> str:
        return f"Daytona({self._calls})"


class _HttpCalls:
    """The API by HTTP."""

    def __init__(self, api: JsonApi) -> None:
        self._api = api
        self.aclose = api.aclose

    async def preview_url(self, preview: Preview) -> Answer | PreviewProxyError:
        return await self._call("GET", preview, f"/ports/{preview.port}/preview-url")

    async def start(self, preview: Preview) -> PreviewProxyError | None:
        """Start and look, until it runs. That it runs or starts already is an error of the first call, and no harm."""
        answer = await self._call("POST", preview, "/start")
        if isinstance(answer, PreviewProxyError) and answer.code != "provider_failed":
            return answer
        while True:
            answer = await self._call("GET", preview, "")
            if isinstance(answer, PreviewProxyError):
                return answer
            if answer.get("state") == "started":
                return None
            if answer.get("state") in ("error", "build_failed", "destroyed", "destroying"):
                return MachineUnavailable(detail="the sandbox does not start", retry_after=30)
            await anyio.sleep(WAKE_INTERVAL)

    async def _call(self, method: str, preview: Preview, path: str) -> Answer | PreviewProxyError:
        return json_answer(await self._api.call(method, f"/sandbox/{quote(preview.machine, safe='')}{path}"))

    def __str__(self) -> str:
        return repr(str(self._api.origin))


class _SdkCalls:
    """The API by the Daytona SDK: two requests for a target, because its method is the sandbox's."""

    def __init__(self, client: AsyncDaytona, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def preview_url(self, preview: Preview) -> Answer | PreviewProxyError:
        try:
            with anyio.fail_after(self._timeout):
                sandbox = await self._client.get(preview.machine)
                link = await sandbox.get_preview_link(preview.port)
            return {"sandboxId": sandbox.id, "url": link.url, "token": link.token}
        except TimeoutError:
            return timed_out(self._timeout)
        except Exception as error:
            return sdk_error(error)

    async def start(self, preview: Preview) -> PreviewProxyError | None:
        try:
            sandbox = await self._client.get(preview.machine)
            await sandbox.start()
        except Exception as error:
            return sdk_error(error)
        return None

    async def aclose(self) -> None:
        """Nothing: the client belongs to whoever made it."""

    def __str__(self) -> str:
        return "<client>"
