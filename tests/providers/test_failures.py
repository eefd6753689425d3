from __future__ import annotations

import pytest

from preview_proxy.errors import MachineUnavailable, NotFound, ProviderError
from preview_proxy.providers.api import ApiAnswer
from preview_proxy.providers.failures import api_failure


@pytest.mark.parametrize(
    ("status", "kind", "code", "wait"),
    [
        (400, ProviderError, "provider_failed", None),
        (401, ProviderError, "provider_refused", None),
        (403, ProviderError, "provider_refused", None),
        (404, NotFound, "machine_not_found", None),
        (408, ProviderError, "provider_timeout", None),
        (429, ProviderError, "rate_limit_exceeded", 7),
        (500, ProviderError, "provider_failed", None),
        (503, MachineUnavailable, "edge_runtime_host_unreachable", 7),
        (504, ProviderError, "provider_timeout", None),
    ],
)
def test_a_status_means(status: int, kind: type, code: str, wait: int | None) -> None:
    error = api_failure(ApiAnswer(status, ((b"retry-after", b"7"),), {"message": "not for visitors"}))
    assert type(error) is kind
    assert (error.code, error.detail, error.retry_after) == (code, f"the API answered {status}", wait)


def test_only_json_says_that_a_machine_does_not_exist() -> None:
    error = api_failure(ApiAnswer(404, (), None))
    assert (error.code, error.status) == ("provider_failed", 502)
    assert "is base_url the address of the API?" in error.detail
