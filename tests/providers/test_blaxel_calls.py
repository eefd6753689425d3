"""The SDK's way, with stand-ins for its classes where the real ones cannot fail on demand."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from preview_proxy.core.models import Preview
from preview_proxy.errors import MachineUnavailable, NotFound, PreviewProxyError, ProviderError
from preview_proxy.providers.blaxel import Blaxel
from preview_proxy.providers.blaxel_calls import Found, SdkCalls

pytestmark = pytest.mark.anyio

CANARY = "sdk-canary-0123456789"
WANTED = {"metadata": {"name": "preview-proxy-3000"}, "spec": {"port": 3000, "public": False}}


class ApiError(Exception):
    def __init__(self, status_code: object) -> None:
        super().__init__(CANARY)
        self.status_code = status_code


class Sandboxes:
    """The SDK's class, which fails or hangs as told."""

    failure: BaseException | None = None

    @classmethod
    async def get(cls, name: str) -> Any:
        if cls.failure is not None:
            raise cls.failure
        await anyio.sleep_forever()


def failing(failure: BaseException | None) -> Any:
    return type("Failing", (Sandboxes,), {"failure": failure})


@pytest.mark.parametrize(
    ("failure", "kind", "code"),
    [
        (ApiError(401), ProviderError, "provider_refused"),
        (ApiError(404), NotFound, "machine_not_found"),
        (ApiError(429), ProviderError, "rate_limit_exceeded"),
        (ApiError(503), MachineUnavailable, "edge_runtime_host_unreachable"),
        (ApiError("401"), ProviderError, "provider_failed"),
        (ValueError(CANARY), ProviderError, "provider_failed"),
        (AttributeError(CANARY), ProviderError, "provider_failed"),
    ],
)
async def test_whatever_the_sdk_raises_is_told_by_its_status_alone(
    failure: Exception, kind: type[PreviewProxyError], code: str
) -> None:
    told = await SdkCalls(failing(failure)).preview("my-sandbox", WANTED)
    assert isinstance(told, PreviewProxyError)
    assert (type(told), told.code) == (kind, code)
    assert told.detail == f"the SDK raised {type(failure).__name__}"
    assert told.__context__ is None


async def test_a_token_that_the_sdk_cannot_make_is_told_too() -> None:
    class Tokens:
        async def create(self, expires_at: object) -> None:
            raise ApiError(403)

    told = await SdkCalls(failing(None)).token(Found({}, Tokens()), 2e9)
    assert isinstance(told, ProviderError) and told.code == "provider_refused"


@pytest.mark.parametrize("failure", [None, TimeoutError(CANARY)])
async def test_the_sdk_which_has_no_time_limit_gets_one(failure: BaseException | None) -> None:
    provider = Blaxel(sdk=failing(failure), timeout=0.05)
    with anyio.fail_after(5), pytest.raises(ProviderError) as caught:
        await provider.resolve(Preview("my-sandbox", 3000))
    assert caught.value.code == "provider_timeout" and caught.value.__context__ is None
    await provider.aclose()
