"""What a status of a provider's API means, for the many that say no more than that."""

from __future__ import annotations

from preview_proxy.errors import MachineUnavailable, NotFound, PreviewProxyError, ProviderError
from preview_proxy.providers.answers import retry_after
from preview_proxy.providers.api import ApiAnswer

API_STATUSES: dict[int, tuple[type[PreviewProxyError], str]] = {
    401: (ProviderError, "provider_refused"),
    403: (ProviderError, "provider_refused"),
    404: (NotFound, "machine_not_found"),
    408: (ProviderError, "provider_timeout"),
    429: (ProviderError, "rate_limit_exceeded"),
    503: (MachineUnavailable, MachineUnavailable.default_code),
    504: (ProviderError, "provider_timeout"),
}


def api_failure(answer: ApiAnswer) -> PreviewProxyError:
    """The exception for an answer other than success. Only JSON says that a machine does not exist."""
    if answer.status == 404 and not isinstance(answer.document, dict):
        return ProviderError(detail="the API answered 404 without JSON: is base_url the address of the API?")
    kind, code = API_STATUSES.get(answer.status, (ProviderError, ""))
    waits = kind is MachineUnavailable or code == "rate_limit_exceeded"
    wait = retry_after(answer.headers) if waits else None
    return kind(code, detail=f"the API answered {answer.status}", retry_after=wait)
