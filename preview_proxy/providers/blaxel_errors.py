"""The errors of Blaxel's edge, and what each is here.

The edge marks what it says of its own accord with ``X-Blaxel-Source: platform`` and names the error in
``X-Blaxel-Error-Code``, and in a JSON body as ``{"error": {"code": ...}}``.
"""

from __future__ import annotations

import re

from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import CredentialRejected, MachineUnavailable, ProviderError
from preview_proxy.providers.answers import MAX_ERROR, json_object
from preview_proxy.providers.api import wait

SOURCE = (b"x-blaxel-source", b"platform")
CODE_HEADER = b"x-blaxel-error-code"

EDGE_ERRORS: dict[str, tuple[type[ProviderError], str]] = {
    "AUTHENTICATION_REQUIRED": (CredentialRejected, "preview_proxy_token_missing"),
    "AUTHENTICATION_FAILED": (CredentialRejected, "preview_proxy_token_invalid"),  # also for an expired one
    "ROUTE_NOT_FOUND": (CredentialRejected, "preview_proxy_token_revoked"),  # the preview was deleted: make it anew
    "WORKLOAD_NOT_FOUND": (ProviderError, "machine_not_found"),
    "WORKSPACE_NOT_FOUND": (ProviderError, "machine_not_found"),
    "WORKLOAD_UNAVAILABLE": (MachineUnavailable, "edge_runtime_host_unreachable"),
    "REQUEST_ENTITY_TOO_LARGE": (ProviderError, "body_too_large"),
    "FORBIDDEN": (ProviderError, "provider_refused"),
    "USAGE_LIMIT_EXCEEDED": (ProviderError, "provider_refused"),
    "POLICY_VIOLATION": (ProviderError, "provider_refused"),
    "BAD_REQUEST": (ProviderError, "provider_refused"),
}
# For a marked answer whose code is none of these.
_NOT_LISTENING = (MachineUnavailable, "preview_service_not_ready")
_UNKNOWN = (ProviderError, "provider_failed")


def may_be_edge_error(status: int, headers: RawHeaders) -> bool:
    """Whether a response head bears the platform's mark."""
    return status >= 400 and SOURCE in headers


def edge_error(status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
    """The exception for an error that the platform has marked as its own; None for any other answer."""
    if not may_be_edge_error(status, headers):
        return None
    code = _code(headers, body)
    kind, ours = EDGE_ERRORS.get(code) or (_NOT_LISTENING if status == 502 else _UNKNOWN)
    return kind(ours, detail=f"the edge answered {status} {code}".rstrip(), retry_after=wait(kind, ours, headers))


def _code(headers: RawHeaders, body: bytes) -> str:
    """The code, from the header or else from the body; "" without one."""
    named = [value.decode("latin-1") for name, value in headers if name == CODE_HEADER]
    error = (json_object(body) or {}).get("error") if len(body) <= MAX_ERROR and not named else None
    code = error.get("code") if isinstance(error, dict) else "".join(named)
    return code if isinstance(code, str) and re.fullmatch(r"[A-Z_]{1,64}", code) else ""
