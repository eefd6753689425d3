"""Blaxel: a private preview of a sandbox's port, and a token for it that ends by itself.

    GET  {base_url}/sandboxes/{sandbox}/previews/{name}          the preview, if there is one
    POST {base_url}/sandboxes/{sandbox}/previews                 or else a new one
    POST {base_url}/sandboxes/{sandbox}/previews/{name}/tokens   ->   Target

Nothing here raises while a token is in reach: steps return a failure instead, and `Blaxel.resolve` raises it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import httpx

from preview_proxy.core.cookies import is_token
from preview_proxy.core.models import HOST, Endpoint, Preview, RawHeaders, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import (
    ConfigurationError,
    MachineUnavailable,
    NotFound,
    PortNotAllowed,
    PreviewProxyError,
    ProviderError,
)
from preview_proxy.providers.answers import unix_seconds
from preview_proxy.providers.api import JsonApi, timed_out
from preview_proxy.providers.base import endpoint_from_url
from preview_proxy.providers.blaxel_calls import Calls, HttpCalls, Json, SdkCalls
from preview_proxy.providers.blaxel_errors import edge_error, may_be_edge_error
from preview_proxy.providers.options import api_option, domains_option, secret_option, timeout_option

if TYPE_CHECKING:
    from blaxel.core import SandboxInstance

API = "https://api.blaxel.ai/v0"
API_VERSION = b"2026-09-22"
TOKEN_HEADER = b"x-blaxel-preview-token"

# 80 has no preview; 443 and 8080 are the sandbox's own API, which reads files and starts processes.
RESERVED_PORTS = frozenset({80, 443, 8080})

SOCKET_AGE = 15 * 60
"""Seconds after which Blaxel drops a connection."""


class Blaxel:
    """Previews of Blaxel sandboxes; the machine is the sandbox's name.

    Give either an `api_key` and its `workspace`, which need nothing but httpx, or as `sdk` the class
    ``blaxel.core.SandboxInstance`` (``pip install preview-proxy[blaxel]``), whose credentials are the environment's.

    `preview_name` is the name of the preview to use or create, with ``{port}`` in it. One that exists must be private
    and for the same port, or it is refused. `response_headers`, such as CORS fields, and `custom_domain`, a host
    registered with your workspace that may hold ``{port}`` and ``{machine}``, are for previews created here.

    `expires_in` is a token's lifetime in seconds, 60 to 86400. `base_url` is the API's address, `domains` are the
    names under which the edge is, at port 443. `allow_insecure_loopback` admits plain HTTP to hosts that are loopback
    by name, for tests and emulators. `transport` sends the API's requests and is closed with this provider; the
    default ignores the environment's proxy variables. `timeout` (seconds) bounds making a target as a whole.

    Raises `ConfigurationError` for anything in these that could not work.
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        workspace: str | None = None,
        sdk: type[SandboxInstance] | None = None,
        preview_name: str = "preview-proxy-{port}",
        response_headers: Mapping[str, str] | None = None,
        custom_domain: str | None = None,
        expires_in: int = 900,
        base_url: str | None = None,
        domains: Sequence[str] = ("preview.bl.run",),
        allow_insecure_loopback: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 10.0,
    ) -> None:
        if (api_key is None) == (sdk is None):
            raise ConfigurationError("give Blaxel either an api_key or the SDK's SandboxInstance")
        if sdk is not None and (workspace, base_url, transport) != (None, None, None):
            raise ConfigurationError("workspace, base_url and transport are for an api_key: the SDK has its own")
        if not 60 <= expires_in <= 86_400:
            raise ConfigurationError("expires_in must be 60 to 86400 seconds")
        self._expires_in = expires_in
        self._timeout = timeout_option(timeout)
        self._domains = domains_option(domains, "preview.bl.run")
        self._allow_insecure_loopback = allow_insecure_loopback
        self._preview_name = _checked_name(preview_name)
        self._custom_domain = _checked_domain(custom_domain)
        self._response_headers = _checked_headers(response_headers or {})
        self._calls: Calls
        if api_key is not None:
            key = (b"x-blaxel-authorization", b"Bearer ", secret_option("api_key", api_key))
            headers = ((b"x-blaxel-workspace", _checked_workspace(workspace)), (b"blaxel-version", API_VERSION))
            api = api_option(base_url or API, allow_insecure_loopback)
            self._calls = HttpCalls(
                JsonApi(api, credentials=(key,), headers=headers, timeout=timeout, transport=transport)
            )
        else:
            assert sdk is not None  # noqa: S101 - one of the two was given
            self._calls = SdkCalls(sdk)

    async def resolve(self, preview: Preview) -> Target:
        """Make a target. Raises `PortNotAllowed`, `NotFound`, `MachineUnavailable` or `ProviderError`."""
        if preview.port in RESERVED_PORTS:
            raise PortNotAllowed(detail=f"port {preview.port} is the platform's own")
        outcome = await self._resolve(preview)
        if isinstance(outcome, PreviewProxyError):
            raise outcome
        return outcome

    async def _resolve(self, preview: Preview) -> Target | PreviewProxyError:
        try:
            with anyio.fail_after(self._timeout):
                return await self._made(preview)
        except TimeoutError:
            return timed_out(self._timeout)
        except ValueError as error:
            return ProviderError(detail=f"the preview cannot be used: {error}")

    async def _made(self, preview: Preview) -> Target | PreviewProxyError:
        found = await self._calls.preview(preview.machine, self._wanted(preview))
        if isinstance(found, PreviewProxyError):
            return found
        if found.preview.get("status") == "DELETING":
            return MachineUnavailable(detail="the preview is being deleted", retry_after=5)
        spec = _part(found.preview, "spec")
        _check(spec, preview)
        token = await self._calls.token(found, time.time() + self._expires_in)
        return token if isinstance(token, PreviewProxyError) else self._target(spec, token, preview)

    def _wanted(self, preview: Preview) -> Json:
        """The preview as it is created where there is none."""
        spec: dict[str, object] = {"port": preview.port, "public": False}
        if self._response_headers:
            spec["responseHeaders"] = self._response_headers
        if (domain := self._own_host(preview)) is not None:
            spec["customDomain"] = domain
        return {"metadata": {"name": self._name(preview)}, "spec": spec}

    def _name(self, preview: Preview) -> str:
        return self._preview_name.replace("{port}", str(preview.port))

    def _own_host(self, preview: Preview) -> str | None:
        if self._custom_domain is None:
            return None
        host = _filled(self._custom_domain, preview)
        if not HOST.match(host):
            raise ValueError(f"with this machine and port, {self._custom_domain!r} is no host")
        return host

    def _target(self, spec: Json, token: Json, preview: Preview) -> Target:
        """Raises `ValueError` if a part that we use is amiss; other parts may change."""
        issued, url, own = _part(token, "spec"), spec.get("url"), self._own_host(preview)
        value = issued.get("token")
        if not isinstance(url, str) or not isinstance(value, str):
            raise ValueError("its url and token are not both strings")
        endpoint = endpoint_from_url(
            url,
            [(TOKEN_HEADER, Secret(value))],
            domains=self._domains if own is None else (*self._domains, own),
            allow_insecure_loopback=self._allow_insecure_loopback,
        )
        websocket = replace(endpoint, max_socket_age=SOCKET_AGE)
        return Target(_token_id(token, endpoint), endpoint, websocket, unix_seconds(issued.get("expiresAt")))

    async def revoke(self, preview: Preview, target: Target) -> None:
        """Delete the token of a target. One that is gone is no error; `ProviderError` says what is."""
        failure: PreviewProxyError | None
        try:
            with anyio.fail_after(self._timeout):
                failure = await self._calls.delete_token(preview.machine, self._name(preview), target.id)
        except TimeoutError:
            failure = timed_out(self._timeout)
        if failure is not None and not isinstance(failure, NotFound):
            raise failure

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether the head bears the platform's mark."""
        return may_be_edge_error(status, headers)

    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        """The platform's error, told by its mark and code; None for every other answer, which is then the app's."""
        return edge_error(status, headers, body)

    async def aclose(self) -> None:
        """Close the connections to the API."""
        await self._calls.aclose()

    def __repr__(self) -> str:
        return f"Blaxel(preview_name={self._preview_name!r})"


def _check(spec: Json, preview: Preview) -> None:
    """Raise `ValueError` unless the preview is private and shows the port: anyone may have made it, and otherwise."""
    if spec.get("public") is not False:
        raise ValueError("it is public, so that anybody sees it without you: delete it, or set another preview_name")
    if spec.get("port") != preview.port:
        raise ValueError("it is for another port: delete it, or set another preview_name")


def _part(document: Json, name: str) -> Json:
    part = document.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"the API's answer has no {name}")
    return part


def _token_id(token: Json, endpoint: Endpoint) -> str:
    """The token's name, by which it can be deleted. The host stands in for one that is not fit for a log."""
    metadata = token.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    fit = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) and not endpoint.leaks(name.encode())
    return str(name) if fit else endpoint.origin.host[:64]


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]*\{port\}[a-z0-9-]*", name) or len(name) > 48:
        raise ConfigurationError(f"preview_name must be small letters, digits, '-' and one '{{port}}', not {name!r}")
    return name


def _filled(domain: str, preview: Preview) -> str:
    return domain.replace("{port}", str(preview.port)).replace("{machine}", preview.machine.lower())


def _checked_domain(domain: str | None) -> str | None:
    if domain is not None and not ("." in domain and HOST.match(_filled(domain, Preview("machine", 3000)))):
        raise ConfigurationError(
            f"custom_domain must be a host name such as '{{port}}-{{machine}}.acme.dev', not {domain!r}"
        )
    return domain


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not is_token(name.encode()) or not (value.isascii() and value.isprintable()):
            raise ConfigurationError(f"response_headers: {name!r} cannot be a header field with that value")
    return dict(headers)


def _checked_workspace(workspace: str | None) -> bytes:
    if workspace is None or not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", workspace):
        raise ConfigurationError(
            "workspace must be the name of the api_key's workspace: letters, digits, '_', '.', '-'"
        )
    return workspace.encode()
