"""Targets by the real SDK of Daytona, against the emulator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from daytona import AsyncDaytona, DaytonaConfig

from preview_proxy.core.models import Preview
from preview_proxy.errors import NotFound, ProviderError
from preview_proxy.providers.daytona import Daytona
from preview_proxy.testing import DaytonaEmulator, DevServer
from tests.front import NAVIGATION, front
from tests.vendors import daytona_provider

pytestmark = pytest.mark.anyio

SANDBOX = "0ddba11-5eed"
PREVIEW = Preview(SANDBOX, 3000)


@pytest.fixture
async def daytona() -> AsyncIterator[DaytonaEmulator]:
    async with DaytonaEmulator() as emulator:
        yield emulator


@pytest.fixture
async def client(daytona: DaytonaEmulator) -> AsyncIterator[AsyncDaytona]:
    client = AsyncDaytona(DaytonaConfig(api_key=daytona.api_key, api_url=daytona.api_url))
    yield client
    await client.close()  # type: ignore[no-untyped-call]


def provider(client: AsyncDaytona, daytona: DaytonaEmulator, **options: Any) -> Daytona:
    return Daytona(client=client, domains=[daytona.edge_domain], allow_insecure_loopback=True, **options)


async def test_the_sdk_and_plain_http_give_the_same_target(client: AsyncDaytona, daytona: DaytonaEmulator) -> None:
    daytona.add_sandbox(SANDBOX, {3000: 9})
    plain = daytona_provider(daytona)
    by_sdk = provider(client, daytona)
    assert await by_sdk.resolve(PREVIEW) == await plain.resolve(PREVIEW)
    asked = [path.rpartition("/")[2] for _, path, _ in daytona.api_requests if "socket.io" not in path]
    assert asked == [SANDBOX, "preview-url", "preview-url"]
    await plain.aclose()
    await by_sdk.aclose()
    assert await by_sdk.resolve(PREVIEW)  # the client stays open for its owner


async def test_a_page_goes_through_with_the_sdks_target(client: AsyncDaytona, daytona: DaytonaEmulator) -> None:
    async with DevServer() as dev:
        daytona.add_sandbox(SANDBOX, {3000: dev})
        async with front(provider(client, daytona), PREVIEW) as visitor:
            assert await visitor.code(headers=NAVIGATION) == (200, "")


async def test_waking_by_the_sdk_starts_the_sandbox(client: AsyncDaytona, daytona: DaytonaEmulator) -> None:
    sandbox = daytona.add_sandbox(SANDBOX, {3000: 9}, state="stopped")
    await provider(client, daytona).wake(PREVIEW)
    assert sandbox.state == "started"
    with pytest.raises(NotFound):
        await provider(client, daytona).wake(Preview("gone", 3000))


async def test_an_unknown_sandbox_is_not_found(client: AsyncDaytona, daytona: DaytonaEmulator) -> None:
    with pytest.raises(NotFound) as caught:
        await provider(client, daytona).resolve(Preview("gone", 3000))
    assert caught.value.detail == "the SDK raised DaytonaNotFoundError"
    assert caught.value.__context__ is None


async def test_a_wrong_key_is_refused(daytona: DaytonaEmulator) -> None:
    client = AsyncDaytona(DaytonaConfig(api_key="wrong-key-0123456", api_url=daytona.api_url))
    with pytest.raises(ProviderError) as caught:
        await provider(client, daytona).resolve(PREVIEW)
    assert caught.value.code == "provider_refused"
    await client.close()  # type: ignore[no-untyped-call]


async def test_an_api_that_is_gone_is_a_provider_error(daytona: DaytonaEmulator) -> None:
    client = AsyncDaytona(DaytonaConfig(api_key="wrong-key-0123456", api_url="http://127.0.0.1:1"))
    with anyio.fail_after(10), pytest.raises(ProviderError):
        await provider(client, daytona, timeout=1.0).resolve(PREVIEW)
    await client.close()  # type: ignore[no-untyped-call]


async def test_an_sdk_that_hangs_is_given_up_in_time(
    client: AsyncDaytona, daytona: DaytonaEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "get", lambda sandbox: anyio.sleep_forever())
    with anyio.fail_after(5), pytest.raises(ProviderError) as caught:
        await provider(client, daytona, timeout=0.05).resolve(PREVIEW)
    assert caught.value.code == "provider_timeout"


async def test_its_textual_form_says_that_a_client_is_used(client: AsyncDaytona, daytona: DaytonaEmulator) -> None:
    assert repr(provider(client, daytona)) == "Daytona(<client>)"


def test_the_sdk_is_not_imported_unless_a_client_is_given() -> None:
    code = "import sys, preview_proxy.providers.daytona; sys.exit('daytona' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
