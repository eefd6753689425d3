"""What Daytona's edge answers of its own accord, and what each answer is here.

Its errors are JSON: ``{"statusCode", "message", "code", "timestamp", "path", "method"}``, of late with
``"source": "DAYTONA_PROXY"`` and codes of their own. A credential that it does not take is answered with a redirect to
a login, because its visitors are usually Daytona's users (``apps/proxy``: ``auth.go``, ``errors.go``, ``wake.go``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from urllib.parse import parse_qs, urlsplit

from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import CredentialRejected, MachineUnavailable, PreviewProxyError, ProviderError
from preview_proxy.providers.answers import JSON, is_small, json_object, retry_after
from preview_proxy.providers.api import status_error

PAUSED = "machine_paused_auto_resume_disabled"
UNREACHABLE = "edge_runtime_host_unreachable"

EDGE_ERRORS: dict[str, tuple[type[ProviderError], str]] = {
    "BAD_REQUEST": (MachineUnavailable, UNREACHABLE),  # no runner was found for the sandbox, which passes
    "FORBIDDEN": (ProviderError, "provider_refused"),
    "NOT_FOUND": (ProviderError, "machine_not_found"),
    "RUNNER_UNREACHABLE": (MachineUnavailable, UNREACHABLE),
    "SANDBOX_NOT_FOUND": (ProviderError, "machine_not_found"),
    "SANDBOX_NOT_STARTED": (MachineUnavailable, PAUSED),
    "UNAUTHORIZED": (CredentialRejected, "preview_proxy_token_invalid"),
}
EDGE_STATUSES = frozenset({400, 401, 403, 404, 500, 502, 503})
# A proxy that cannot reach the sandbox's own daemon says nothing; a sandbox that it starts itself has a page.
SILENCE: tuple[type[ProviderError], str] = (MachineUnavailable, "preview_service_not_ready")
STARTING: tuple[type[ProviderError], str] = (MachineUnavailable, UNREACHABLE)
_SILENT, _STARTING = 502, 503
_HTML = frozenset({b"text/html"})
_STARTING_PAGE = re.compile(rb"<title>Sandbox Starting")
# Releases before the codes say it in words.
_NOT_STARTED = re.compile(r"is the sandbox started|not (?:started|running)|stopped", re.IGNORECASE)


def may_be_edge_error(status: int, headers: RawHeaders) -> bool:
    """Whether a response head could be that of an error, a redirect to the login, or silence."""
    if status == 307:
        return any(name == b"location" for name, _ in headers)
    if status not in EDGE_STATUSES:
        return False
    return is_small(headers, JSON | _HTML) or (status == _SILENT and (b"content-length", b"0") in headers)


def edge_error(status: int, headers: RawHeaders, body: bytes, domains: Collection[str]) -> ProviderError | None:
    """The exception for an answer of the edge's own; None for any other, which is then the app's."""
    found = _found(status, headers, body, domains)
    if found is None:
        return None
    kind, code = found
    wait = retry_after(headers) if kind is MachineUnavailable else None
    return kind(code, detail=f"the edge answered {status}", retry_after=wait)


def _found(
    status: int, headers: RawHeaders, body: bytes, domains: Collection[str]
) -> tuple[type[ProviderError], str] | None:
    if status == 307:
        return EDGE_ERRORS["UNAUTHORIZED"] if _is_login(headers, domains) else None
    if status == _SILENT and not body and (b"content-length", b"0") in headers:
        return SILENCE
    if status == _STARTING and _STARTING_PAGE.search(body[:1024]):
        return STARTING
    document = json_object(body)
    return _coded(status, document) if document is not None else None


def _coded(status: int, document: Mapping[str, object]) -> tuple[type[ProviderError], str] | None:
    """By the code of an error that has the fields of Daytona's. Many frameworks' errors have a few of them."""
    code, message = document.get("code"), document.get("message")
    signed = document.get("source") == "DAYTONA_PROXY" or {"timestamp", "path", "method"} <= document.keys()
    if not signed or document.get("statusCode") != status or not isinstance(code, str) or not isinstance(message, str):
        return None
    if code == "BAD_REQUEST" and _NOT_STARTED.search(message):
        code = "SANDBOX_NOT_STARTED"
    return EDGE_ERRORS.get(code)


def _is_login(headers: RawHeaders, domains: Collection[str]) -> bool:
    """Whether it redirects to a login (OpenID Connect Core §3.1.2.1) that would come back to the edge itself."""
    locations = [value.decode("latin-1") for name, value in headers if name == b"location"]
    try:
        query = parse_qs(urlsplit(locations[0]).query) if len(locations) == 1 else {}
        hosts = [urlsplit(uri).hostname or "" for uri in query.get("redirect_uri", [])]
    except ValueError:  # nothing that a browser would follow
        return False
    return any(f".{host}".endswith(f".{domain}") for host in hosts for domain in domains)


def sdk_error(error: Exception) -> PreviewProxyError:
    """The exception for one of the SDK, of which nothing is kept but its name and status."""
    name = type(error).__name__
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        status = 504 if "Timeout" in name else 0
    return status_error(status, detail=f"the SDK raised {name}")
