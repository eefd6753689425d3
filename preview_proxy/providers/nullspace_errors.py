"""The error codes of Nullspace's edge, API and SDK, and what each is here.

An error is JSON with a `code`: ``{"error": "<message>", "code": "<code>", ...}`` or ``{"error": {"code": ...}}``.
Its message is for nobody here: it is neither shown to visitors nor logged.
"""

from __future__ import annotations

import re

from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import (
    CredentialRejected,
    MachineUnavailable,
    NotFound,
    PortNotAllowed,
    PreviewProxyError,
    ProviderError,
)
from preview_proxy.providers.answers import MAX_ERROR, is_small, json_object
from preview_proxy.providers.api import ApiAnswer, status_error, wait

# The edge does not take the credential.
_REFUSED = (
    "edge_token_expired",
    "edge_token_invalid",
    "edge_token_missing",
    "edge_token_scope_mismatch",
    "preview_grant_invalid",
    "preview_grant_revoked",
    "preview_proxy_token_expired",
    "preview_proxy_token_invalid",
    "preview_proxy_token_missing",
    "preview_proxy_token_revoked",
    "preview_proxy_token_scope_mismatch",
)
_UNAVAILABLE = (
    "edge_runtime_host_unreachable",
    "machine_paused_auto_resume_disabled",
    "preview_service_not_ready",
)
# An operator's switch, or too much traffic: another target would change nothing.
_STOPPED = (
    "preview_grant_disabled",
    "preview_machine_disabled",
    "preview_proxy_token_disabled",
    "rate_limit_exceeded",
)
# Machines were called sandboxes until June 2026; older deployments still say so.
_FORMER_CODES = {
    "preview_sandbox_disabled": "preview_machine_disabled",
    "sandbox_not_found": "machine_not_found",
    "sandbox_paused_auto_resume_disabled": "machine_paused_auto_resume_disabled",
}

EDGE_STATUSES = frozenset({401, 403, 429, 502, 503})
EDGE_ERRORS: dict[str, type[ProviderError]] = {
    **dict.fromkeys(_REFUSED, CredentialRejected),
    **dict.fromkeys(_UNAVAILABLE, MachineUnavailable),
    **dict.fromkeys(_STOPPED, ProviderError),
}

API_ERRORS: dict[str, type[PreviewProxyError]] = {
    **dict.fromkeys((*_UNAVAILABLE, "machine_not_ready", "transition_in_progress"), MachineUnavailable),
    **dict.fromkeys(_STOPPED, ProviderError),
    "machine_not_found": NotFound,
    "unsupported_preview_port": PortNotAllowed,
}
# The SDK keeps no status, but its exceptions stand for one.
SDK_STATUSES = {
    "AuthError": 401,
    "PermissionError": 403,
    "NotFoundError": 404,
    "RateLimitError": 429,
    "TimeoutError": 504,
}


def may_be_edge_error(status: int, headers: RawHeaders) -> bool:
    """Whether a response head is that of a small, plain JSON body with a status of the edge's own errors."""
    return status in EDGE_STATUSES and is_small(headers)


def edge_error(status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
    """The exception for a documented error of the edge; None for any other body, which is then the app's own."""
    code = _code(json_object(body)) if len(body) <= MAX_ERROR else ""
    kind = EDGE_ERRORS.get(code)
    if kind is None:
        return None
    return kind(code, detail=f"the edge answered {status}", retry_after=wait(kind, code, headers))


def api_error(answer: ApiAnswer) -> PreviewProxyError:
    """The exception for an answer of the API other than success."""
    code = _code(answer.document)
    if answer.status == 404 and not code:
        return ProviderError(detail="the API answered 404 without a code: is base_url the address of the API?")
    return _failure(answer.status, code, answer.headers, f"the API answered {answer.status} {code}".rstrip())


def sdk_error(error: Exception) -> PreviewProxyError:
    """The exception for one of the SDK, of which no part but its name and codes is kept."""
    name, wait = type(error).__name__, getattr(error, "retry_after", None)
    code = _code({"code": getattr(error, "code", None)})
    headers = ((b"retry-after", b"%d" % wait),) if isinstance(wait, float | int) and 1 <= wait <= 300 else ()
    return _failure(SDK_STATUSES.get(name, 0), code, headers, f"the SDK raised {name} {code}".rstrip())


def _failure(status: int, code: str, headers: RawHeaders, detail: str) -> PreviewProxyError:
    """By the code where that says something to us, else by the status."""
    if code not in API_ERRORS:
        return status_error(status, headers, detail)
    kind = API_ERRORS[code]
    return kind(code, detail=detail, retry_after=wait(kind, code, headers))


def _code(document: object) -> str:
    """The code in its present spelling, or ""."""
    if not isinstance(document, dict):
        return ""
    nested = document.get("error")
    code = (nested if isinstance(nested, dict) else document).get("code")
    if not isinstance(code, str) or not re.fullmatch(r"[a-z_]{1,64}", code):
        return ""
    return _FORMER_CODES.get(code, code)
