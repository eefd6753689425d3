"""E2B: a token per sandbox, for all of its ports, which the edge takes in one header.

    https://{port}-{sandbox}.{domain}
    POST {base_url}/v2/sandboxes/{sandbox}/connect {"timeout": …}   ->   {"trafficAccessToken", "domain", ...}

The address is computed, and the token never changes; it comes with the sandbox's creation, and from `connect`, which
resumes a paused sandbox. Sources: the SDK ``e2b``, and the edge's own (``e2b-dev/infra``, in
``packages/shared/pkg/proxy``). The edge passes the token on to the sandbox, so code there can read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

import httpx

from preview_proxy.core.models import Endpoint, Origin, Preview, RawHeaders, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import (
    ConfigurationError,
    CredentialRejected,
    MachineUnavailable,
    NotFound,
    PortNotAllowed,
    PreviewProxyError,
    ProviderError,
)
from preview_proxy.providers.answers import JSON, is_small, json_object
from preview_proxy.providers.api import JsonApi, json_answer
from preview_proxy.providers.options import api_option, configured, edge_option, secret_option, timeout_option

TOKEN_HEADER = "e2b-traffic-access-token"  # noqa: S105 - a name, not a value

# The sandbox's own control plane, which the edge lets pass without the token.
RESERVED_PORTS = frozenset({49983})

# RFC 1035 §2.3.4: a label has 63 characters, of which the port and its dash take six.
_SANDBOX = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,55}[a-z0-9])?")

# Status, a part of the JSON's message, the page's title, and what it is here. Browsers get the page. A token is missing
# where the sandbox had none when it was asked about: then too it is to be read anew.
EDGE_ERRORS: tuple[tuple[int, str, str, type[ProviderError], str], ...] = (
    (403, " is missing", "Missing Traffic Access Token", CredentialRejected, "preview_proxy_token_invalid"),
    (403, " is invalid", "Invalid Traffic Access Token", CredentialRejected, "preview_proxy_token_invalid"),
    (403, "can't be resumed", "Unable to Resume Sandbox", CredentialRejected, "preview_proxy_token_invalid"),
    (409, "is paused", "Sandbox Paused", MachineUnavailable, "machine_paused_auto_resume_disabled"),
    (409, "transitioning", "Sandbox Still Transitioning", MachineUnavailable, "edge_runtime_host_unreachable"),
    (409, "snapshot", "Sandbox Snapshot In Progress", MachineUnavailable, "edge_runtime_host_unreachable"),
    (429, "too many concurrent", "Too Many Connections", ProviderError, "rate_limit_exceeded"),
    (429, "limit", "Sandbox Limit Reached", ProviderError, "rate_limit_exceeded"),
    # A paused sandbox that nothing resumes is told like one that is gone.
    (502, "was not found", "Sandbox Not Found", MachineUnavailable, "machine_paused_auto_resume_disabled"),
    (502, "port is not open", "Closed Port Error", MachineUnavailable, "preview_service_not_ready"),
)
EDGE_STATUSES = frozenset(status for status, *_ in EDGE_ERRORS)
RETRY_AFTER = 5
"""Seconds after which to look again; the edge says nothing about it."""

_TITLE = re.compile(rb"<title>([^<]{1,64})</title>")


class E2B:
    """Previews of E2B sandboxes. A preview's machine is the sandbox's id.

    `tokens` are the sandboxes' traffic access tokens by id, as their creation gave them, read anew for each target.
    For a sandbox that is not in it the API is asked once, by connecting to it with an `api_key`: that resumes it if it
    is paused, and lets it live for `lifetime` seconds more, at least. A sandbox that was not made with
    ``allow_public_traffic=False`` has no token, and is open to whoever knows its address.

    `base_url` is the API's address, `edge_url` what the sandboxes' hosts are below. `allow_insecure_loopback` admits
    plain HTTP to hosts that are loopback by name, for tests and emulators. `transport` sends the API's requests and is
    closed with this provider; the default ignores the environment's proxy variables. `timeout` (seconds) bounds each.

    Raises `ConfigurationError` for anything in these that could not work.
    """

    def __init__(
        self,
        api_key: str | Secret,
        *,
        tokens: Mapping[str, str] | None = None,
        lifetime: int = 300,
        base_url: str = "https://api.e2b.app",
        edge_url: str = "https://e2b.app",
        allow_insecure_loopback: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = 10.0,
    ) -> None:
        if lifetime < 1:
            raise ConfigurationError("lifetime must be at least 1 second")
        key = (b"x-api-key", b"", secret_option("api_key", api_key))
        endpoint = api_option(base_url, allow_insecure_loopback)
        self._edge = edge_option(edge_url, allow_insecure_loopback)
        self._known = configured("tokens", lambda: _lookup({} if tokens is None else tokens))
        self._lifetime = lifetime
        self._api = JsonApi(endpoint, credentials=(key,), timeout=timeout_option(timeout), transport=transport)

    async def resolve(self, preview: Preview) -> Target:
        """The preview's address, and its token. Raises `PortNotAllowed`, `NotFound` or `ProviderError`."""
        if preview.port in RESERVED_PORTS:
            raise PortNotAllowed(detail=f"port {preview.port} is the platform's own")
        if not _SANDBOX.fullmatch(preview.machine):
            raise NotFound("machine_not_found", detail="not a sandbox's id")
        outcome = await self._resolve(preview)
        if isinstance(outcome, PreviewProxyError):
            raise outcome
        return outcome

    async def _resolve(self, preview: Preview) -> Target | PreviewProxyError:
        token = self._known(preview.machine)
        try:
            if token is None:
                answer = await self._connect(preview)
                if isinstance(answer, PreviewProxyError):
                    return answer
                token = self._token(answer, preview)
        except ValueError as error:
            return ProviderError(detail=f"the API's answer cannot be used: {error}")
        host = f"{preview.port}-{preview.machine}.{self._edge.host}"
        origin = Origin(self._edge.scheme, host, self._edge.port)
        endpoint = Endpoint(origin, credentials=() if token is None else ((TOKEN_HEADER.encode(), token),))
        return Target(f"{preview.machine}:{preview.port}", endpoint, endpoint)

    def _token(self, answer: Mapping[str, object], preview: Preview) -> Secret | None:
        """The token; None for a sandbox that is open to all. Raises `ValueError` if a part that we use is amiss."""
        if answer.get("sandboxID") != preview.machine:
            raise ValueError("it is for another sandbox")
        if answer.get("domain") not in (None, "", self._edge.host):
            raise ValueError("the sandbox is served under another domain: give E2B(edge_url=...)")
        token = answer.get("trafficAccessToken")
        if token is None:
            return None
        if not isinstance(token, str):
            raise ValueError("trafficAccessToken is not a string")
        return Secret(token)

    async def _connect(self, preview: Preview) -> Mapping[str, object] | PreviewProxyError:
        path = f"/v2/sandboxes/{quote(preview.machine, safe='')}/connect"
        return json_answer(await self._api.call("POST", path, {"timeout": self._lifetime}))

    async def wake(self, preview: Preview) -> None:
        """Resume the sandbox, and return when it runs. Raises `PreviewProxyError`."""
        answer = await self._connect(preview)
        if isinstance(answer, PreviewProxyError):
            raise answer

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether the head could be that of an answer of the edge's own: small JSON, or a page."""
        if status not in EDGE_STATUSES or any(name == b"content-encoding" for name, _ in headers):
            return False
        types = [value.partition(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
        return types == [b"text/html"] or is_small(headers, JSON)

    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        """The edge's error, told by its message or its page's title; None for every other body."""
        title = _TITLE.search(body[:1024])
        message = _message(status, json_object(body)) if title is None else ""
        for known, phrase, heading, kind, code in EDGE_ERRORS:
            if known == status and (phrase in message or (title is not None and title[1] == heading.encode())):
                wait = None if kind is CredentialRejected else RETRY_AFTER
                return kind(code, detail=f"the edge answered {status}", retry_after=wait)
        return None

    async def aclose(self) -> None:
        """Close the connections to the API."""
        await self._api.aclose()

    def __repr__(self) -> str:
        return f"E2B({str(self._edge)!r})"


def _message(status: int, document: Mapping[str, object] | None) -> str:
    """The message of an error of the edge's form, or ""."""
    if document is None or not isinstance(document.get("sandboxId"), str) or document.get("code", status) != status:
        return ""
    message = document.get("message")
    return message if isinstance(message, str) else ""


def _lookup(tokens: Mapping[str, str]) -> Callable[[str], Secret | None]:
    """The token of a sandbox. A closure, so that no attribute shows the customer's mapping."""
    for token in tokens.values():
        Secret(token)
    return lambda sandbox: Secret(tokens[sandbox]) if sandbox in tokens else None
