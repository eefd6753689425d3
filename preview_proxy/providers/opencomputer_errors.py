"""The errors of OpenComputer's edge, and what each is here.

The edge marks nothing: its errors are told by their status and their whole text, which names the sandbox. Answers that
an app gives in the same way, such as 402 with other words or the HTML page that reloads itself, pass as they are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import CredentialRejected, MachineUnavailable, ProviderError
from preview_proxy.providers.answers import JSON, MAX_ERROR, is_small, json_object
from preview_proxy.providers.api import wait

_SANDBOX = r"sandbox [A-Za-z0-9_-]{1,128}"
_TYPES = JSON | {b"text/plain"}


class EdgeError(NamedTuple):
    """A status and a text of the edge's, and the failure that they are here. `name` is ours."""

    name: str
    status: int
    text: str
    kind: type[ProviderError]
    code: str


# The text is a regular expression for all of what is said, in JSON under "error" or plain.
EDGE_ERRORS = (
    EdgeError(
        "token_missing", 401, "preview URL requires authentication", CredentialRejected, "preview_proxy_token_missing"
    ),
    EdgeError("token_wrong", 401, "invalid preview token", CredentialRejected, "preview_proxy_token_invalid"),
    EdgeError("no_credits", 402, rf"{_SANDBOX}\b.*", ProviderError, "provider_refused"),
    EdgeError("not_found", 404, rf"{_SANDBOX} not found", ProviderError, "machine_not_found"),
    EdgeError("stopped", 410, rf"{_SANDBOX}\b.*", ProviderError, "machine_not_found"),
    EdgeError(
        "unavailable", 502, rf"{_SANDBOX}: upstream unavailable", MachineUnavailable, "preview_service_not_ready"
    ),
    EdgeError(
        "migrating", 503, rf"{_SANDBOX} is being migrated\b.*", MachineUnavailable, "edge_runtime_host_unreachable"
    ),
)
_STATUSES = frozenset(error.status for error in EDGE_ERRORS)


def may_be_edge_error(status: int, headers: RawHeaders) -> bool:
    """Whether a response head is that of a few plain words, with a status of the edge's own errors."""
    return status in _STATUSES and is_small(headers, _TYPES)


def edge_error(status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
    """The exception for an error of the edge; None for any other answer, which is then the app's own."""
    text = _text(body) if may_be_edge_error(status, headers) else ""
    for error in EDGE_ERRORS:
        if error.status == status and re.fullmatch(error.text, text):
            retry_after = wait(error.kind, error.code, headers)
            return error.kind(error.code, detail=f"the edge answered {status}", retry_after=retry_after)
    return None


def _text(body: bytes) -> str:
    """What is said, in JSON or plain; "" for anything else."""
    if len(body) > MAX_ERROR:
        return ""
    document = json_object(body)
    text = body.decode("latin-1").strip() if document is None else document.get("error")
    return text if isinstance(text, str) else ""
