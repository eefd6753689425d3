"""OpenComputer: a host for each port of a sandbox, and one token for all of them.

    {sandbox}-p{port}.workers.opencomputer.dev   with   X-OC-Preview-Token

A target needs no call of the API. The API gives a new token for the old one, and keeps records of preview URLs.
Nothing here raises while a token is in reach: steps return a failure instead, and the public methods raise it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, MutableMapping
from typing import NamedTuple
from urllib.parse import quote

import httpx

from preview_proxy.core.models import HOST, Preview, RawHeaders, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, ExposedCredential, NotFound, PreviewProxyError, ProviderError
from preview_proxy.providers.api import ApiAnswer, JsonApi, status_error
from preview_proxy.providers.base import endpoint_from_url
from preview_proxy.providers.opencomputer_errors import edge_error, may_be_edge_error
from preview_proxy.providers.opencomputer_tokens import DictTokens, PreviewTokens, Rotation
from preview_proxy.providers.options import api_option, configured, secret_option, timeout_option

API = "https://app.opencomputer.dev"
EDGE = "https://workers.opencomputer.dev"
TOKEN_HEADER = b"x-oc-preview-token"


class PreviewURL(NamedTuple):
    """A preview URL on record: a host and the port that it shows."""

    host: str
    port: int


class OpenComputer:
    """Previews of OpenComputer sandboxes that were created with ``previewAuth``; the machine is the sandbox's id.

    **The sandbox sees its token.** OpenComputer's edge passes the header on, so the code in the sandbox can read it,
    and with it anybody reaches each port of that sandbox, past your login. The construction warns of it with
    `ExposedCredential`; say ``token_reaches_sandbox=True`` once you have decided that your users' sandboxes may know
    their own token, and call `rotate` regularly.

    `tokens` are the sandboxes' preview tokens: a dict, or your own `PreviewTokens`; each target reads them anew.
    `api_key` is needed for `rotate` and for preview URLs alone. `custom_domain` is a domain verified for your
    organization, below which the hosts then are. `edge_url` and `base_url` are the addresses of the edge and of the
    API. `allow_insecure_loopback` admits plain HTTP to hosts that are loopback by name, for tests and emulators.
    `transport` sends the API's requests and is closed with this provider; the default ignores the environment's proxy
    variables. `timeout` (seconds) bounds each call of the API.

    Raises `ConfigurationError` for anything in these that could not work.
    """

    def __init__(
        self,
        tokens: MutableMapping[str, str] | PreviewTokens,
        *,
        token_reaches_sandbox: bool = False,
        api_key: str | Secret | None = None,
        custom_domain: str | None = None,
        edge_url: str = EDGE,
        base_url: str = API,
        allow_insecure_loopback: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 10.0,
    ) -> None:
        if custom_domain is not None and not ("." in custom_domain and HOST.match(custom_domain)):
            raise ConfigurationError(
                f"custom_domain must be a host name such as 'preview.acme.com', not {custom_domain!r}"
            )
        self._edge = configured(
            "edge_url", lambda: endpoint_from_url(edge_url, allow_insecure_loopback=allow_insecure_loopback).origin
        )
        self._custom_domain = custom_domain
        self._allow_insecure_loopback = allow_insecure_loopback
        self._rotation = Rotation(
            configured("tokens", lambda: DictTokens(tokens)) if isinstance(tokens, MutableMapping) else tokens
        )
        self._api: JsonApi | None = None
        if api_key is not None:
            key = (b"x-api-key", b"", secret_option("api_key", api_key))
            endpoint = api_option(base_url.removesuffix("/").removesuffix("/api") + "/api", allow_insecure_loopback)
            self._api = JsonApi(endpoint, credentials=(key,), timeout=timeout_option(timeout), transport=transport)
        if not token_reaches_sandbox:
            warnings.warn(
                "OpenComputer's edge passes the preview token on to the sandbox, whose code can then read it. Say "
                "OpenComputer(token_reaches_sandbox=True) if that is acceptable.",
                ExposedCredential,
                stacklevel=2,
            )

    async def resolve(self, preview: Preview) -> Target:
        """A target, without a call of the API. Raises `NotFound` or `ProviderError`."""
        outcome = await self._resolve(preview)
        if isinstance(outcome, PreviewProxyError):
            raise outcome
        return outcome

    async def _resolve(self, preview: Preview) -> Target | PreviewProxyError:
        label = f"{preview.machine}-p{preview.port}"
        if not re.fullmatch(r"[a-z0-9_-]{1,63}", label):
            return NotFound("machine_not_found", detail="the machine is no id of a sandbox")
        try:
            token = await self._rotation.token(preview.machine)
            if token is None:
                return ProviderError(detail="tokens has none for this sandbox: keep what its creation returned")
            endpoint = endpoint_from_url(
                self._url(label),
                [(TOKEN_HEADER, token)],
                domains=[self._custom_domain or self._edge.host],
                allow_insecure_loopback=self._allow_insecure_loopback,
            )
        except Exception as error:
            return ProviderError(detail=f"tokens raised {type(error).__name__}")
        return Target(label, endpoint, endpoint)

    def _url(self, label: str) -> str:
        if self._custom_domain is not None:
            return f"https://{label}.{self._custom_domain}"
        return f"{self._edge.scheme}://{label}.{self._edge.authority}"

    def when_rotated(self, forget: Callable[[str], None]) -> None:
        """Have `forget` called with the machine's id before its token changes."""
        self._rotation.forget.append(forget)

    async def rotate(self, machine: str) -> None:
        """Replace the sandbox's token, and keep the new one in `tokens`. The old one ends at once, everywhere.

        What has passed the edge goes on, sockets included. What comes meanwhile waits here for the new token; a
        request already on its way is refused by the edge and sent again with it, if none of its body had gone out.
        Another process notices at its first refusal. Raises `NotFound` or `ProviderError`.
        """
        try:
            failure = await self._rotation.rotate(machine, lambda: self._issued(machine))
        except Exception as error:
            failure = ProviderError(detail=f"the new token could not be kept: tokens raised {type(error).__name__}")
        if failure is not None:
            raise failure

    async def _issued(self, machine: str) -> Secret | PreviewProxyError:
        answer = await self._call("POST", f"{_path(machine)}/rotate")
        if isinstance(answer, PreviewProxyError):
            return answer
        token = answer.document.get("previewAuthToken") if isinstance(answer.document, dict) else None
        try:
            return Secret(token if isinstance(token, str) else "")
        except ValueError as error:
            return ProviderError(detail=f"the API's answer has no token: {error}")

    async def create_preview_url(self, preview: Preview) -> PreviewURL:
        """Put a preview URL on record, with the `custom_domain`; its host. One that exists stays as it is."""
        body = {"port": preview.port, "authConfig": {}}
        domain = {} if self._custom_domain is None else {"domain": self._custom_domain}
        return _preview_url(_ok(await self._call("POST", _path(preview.machine), {**body, **domain})).document)

    async def list_preview_urls(self, machine: str) -> list[PreviewURL]:
        """The sandbox's preview URLs on record."""
        document = _ok(await self._call("GET", _path(machine))).document
        if not isinstance(document, list):
            raise ProviderError(detail="the API's answer is no list")
        return [_preview_url(each) for each in document]

    async def delete_preview_url(self, preview: Preview) -> None:
        """Take a preview URL off the record; one that is not there is no error. The host goes on showing the port."""
        answer = await self._call("DELETE", f"{_path(preview.machine)}/{preview.port}")
        if not isinstance(answer, NotFound):
            _ok(answer)

    async def _call(self, method: str, path: str, body: object = None) -> ApiAnswer | PreviewProxyError:
        if self._api is None:
            return ProviderError(detail="give OpenComputer an api_key for this")
        answer = await self._api.call(method, path, body)
        if isinstance(answer, ProviderError) or answer.ok:
            return answer
        # 410: it is stopped for good
        return status_error(404 if answer.status == 410 else answer.status, answer.headers)

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether the head is that of a few plain words, with a status that the edge's own errors have."""
        return may_be_edge_error(status, headers)

    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        """The edge's error, told by its whole text; None for every other answer, which is then the app's."""
        return edge_error(status, headers, body)

    async def aclose(self) -> None:
        """Close the connections to the API."""
        if self._api is not None:
            await self._api.aclose()

    def __repr__(self) -> str:
        return f"OpenComputer({self._custom_domain or self._edge.host!r})"


def _path(machine: str) -> str:
    return f"/sandboxes/{quote(machine, safe='')}/preview"


def _ok(answer: ApiAnswer | PreviewProxyError) -> ApiAnswer:
    if isinstance(answer, PreviewProxyError):
        raise answer
    return answer


def _preview_url(document: object) -> PreviewURL:
    """A preview URL as the API describes it. Raises `ProviderError` if a part that we use is amiss."""
    record = document if isinstance(document, dict) else {}
    host, port = record.get("customHostname") or record.get("hostname"), record.get("port")
    if not isinstance(host, str) or not HOST.match(host) or type(port) is not int:
        raise ProviderError(detail="the API's answer has no hostname or port")
    return PreviewURL(host, port)
