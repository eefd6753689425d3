"""Targets minted by the real SDK of Nullspace, against the emulator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from nullspace.client import AsyncNullspaceClient

from preview_proxy.core.models import Origin, Preview
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, NotFound, ProviderError
from preview_proxy.providers.nullspace import TRAFFIC_HEADER, Nullspace
from preview_proxy.testing import NullspaceEmulator

pytestmark = pytest.mark.anyio
PREVIEW = Preview("mch_a1b2c3d4", 3000)
TRAFFIC_TOKEN = "traffic-canary-012345"


@pytest.fixture
async def nullspace() -> AsyncIterator[NullspaceEmulator]:
    async with NullspaceEmulator() as emulator:
        emulator.add_machine(PREVIEW.machine, {PREVIEW.port: 9})
        emulator.add_machine("mch_private", {3000: 9}, traffic_token=TRAFFIC_TOKEN)
        emulator.add_machine("mch_paused", {3000: 9}, status="paused")
        yield emulator


@pytest.fixture
async def client(nullspace: NullspaceEmulator) -> AsyncIterator[AsyncNullspaceClient]:
    client = AsyncNullspaceClient(api_key=nullspace.api_key, base_url=nullspace.api_url)
    yield client
    await client.close()


def provider(client: AsyncNullspaceClient, nullspace: NullspaceEmulator, **options: Any) -> Nullspace:
    return Nullspace(
        client=client, domains=[nullspace.edge_domain], allow_insecure_loopback=True, **{"timeout": 5.0} | options
    )


async def test_the_sdk_and_plain_http_give_the_same_target(
    nullspace: NullspaceEmulator, client: AsyncNullspaceClient
) -> None:
    target = await provider(client, nullspace).resolve(PREVIEW)
    [(grant_id, grant)] = nullspace.grants.items()
    origin = Origin("http", f"3000-{PREVIEW.machine}.{nullspace.edge_domain}", nullspace.edge_port)
    assert target.id == grant_id
    assert target.expires_at == pytest.approx(grant.expires_at, abs=1)
    for token, endpoint in ((grant.tokens["http"], target.http), (grant.tokens["websocket"], target.websocket)):
        assert endpoint is not None
        assert (endpoint.origin, endpoint.marker) == (origin, b"__ns_preview_transport=header")
        assert endpoint.credentials == ((b"x-nullspace-preview-proxy-token", Secret(token)),)


async def test_it_asks_once_and_wakes_nothing(nullspace: NullspaceEmulator, client: AsyncNullspaceClient) -> None:
    await provider(client, nullspace, expires_in=120).resolve(Preview("mch_paused", 3000))
    assert [tuple(request) for request in nullspace.api_requests] == [
        ("POST", "/v1/machines/mch_paused/ports/3000/preview-proxy-target", {"expires_in_seconds": 120})
    ]


async def test_a_private_machine_gets_its_traffic_token(
    nullspace: NullspaceEmulator, client: AsyncNullspaceClient
) -> None:
    target = await provider(client, nullspace, traffic_tokens=TRAFFIC_TOKEN).resolve(Preview("mch_private", 3000))
    assert target.http is not None and target.http.credentials[1] == (TRAFFIC_HEADER.encode(), Secret(TRAFFIC_TOKEN))


async def test_an_unknown_machine_is_not_found(nullspace: NullspaceEmulator, client: AsyncNullspaceClient) -> None:
    with pytest.raises(NotFound) as caught:
        await provider(client, nullspace).resolve(Preview("mch_gone", 3000))
    assert caught.value.code == "machine_not_found"
    assert caught.value.__context__ is None


async def test_a_wrong_key_is_refused(nullspace: NullspaceEmulator) -> None:
    client = AsyncNullspaceClient(api_key="wrong-key-0123456", base_url=nullspace.api_url)
    with pytest.raises(ProviderError) as caught:
        await provider(client, nullspace).resolve(PREVIEW)
    assert caught.value.code == "provider_refused"
    await client.close()


async def test_an_api_that_is_gone_is_a_provider_error(nullspace: NullspaceEmulator) -> None:
    client = AsyncNullspaceClient(api_key="wrong-key-0123456", base_url="http://127.0.0.1:1")
    with pytest.raises(ProviderError) as caught:
        await provider(client, nullspace).resolve(PREVIEW)
    assert caught.value.detail == "the SDK raised MachineError transport_error"
    await client.close()


def with_answer(client: AsyncNullspaceClient, answer: httpx.MockTransport) -> AsyncNullspaceClient:
    """The client, talking to `answer` rather than to the network: the only way to a wrong answer of the API."""
    client._client._transport = answer
    return client


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(500, json=[]),  # AttributeError in the SDK
        httpx.Response(200, json={"new": 1}),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json=None),
    ],
)
async def test_whatever_the_sdk_raises_is_a_provider_error(
    reply: httpx.Response, nullspace: NullspaceEmulator, client: AsyncNullspaceClient
) -> None:
    odd = with_answer(client, httpx.MockTransport(lambda request: reply))
    with pytest.raises(ProviderError) as caught:
        await provider(odd, nullspace).resolve(PREVIEW)
    assert caught.value.detail.startswith("the SDK raised ")
    assert caught.value.__context__ is None and caught.value.__cause__ is None


async def test_the_sdk_sleeping_out_a_429_is_given_up_in_time(
    nullspace: NullspaceEmulator, client: AsyncNullspaceClient
) -> None:
    reply = httpx.Response(429, json={"error": "x", "code": "rate_limit_exceeded"}, headers={"retry-after": "60"})
    busy = with_answer(client, httpx.MockTransport(lambda request: reply))
    with anyio.fail_after(5), pytest.raises(ProviderError) as caught:
        await provider(busy, nullspace, timeout=0.05).resolve(PREVIEW)
    assert caught.value.code == "provider_timeout"


async def test_an_sdk_that_hangs_is_given_up_in_time(
    nullspace: NullspaceEmulator, client: AsyncNullspaceClient
) -> None:
    async def silent(request: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    hanging = provider(with_answer(client, httpx.MockTransport(silent)), nullspace, timeout=0.05)
    for asking in (hanging.resolve(PREVIEW), hanging.wake(PREVIEW)):
        with anyio.fail_after(5), pytest.raises(ProviderError) as caught:
            await asking
        assert caught.value.code == "provider_timeout" and caught.value.__context__ is None


async def test_the_client_stays_open_for_its_owner(nullspace: NullspaceEmulator, client: AsyncNullspaceClient) -> None:
    first = provider(client, nullspace)
    await first.aclose()
    assert await first.resolve(PREVIEW)


@pytest.mark.parametrize(
    "options", [{"base_url": "https://api.nullspace.dev"}, {"transport": httpx.AsyncHTTPTransport()}]
)
async def test_settings_of_the_http_way_are_refused(options: dict[str, Any], client: AsyncNullspaceClient) -> None:
    with pytest.raises(ConfigurationError, match="the client has its own"):
        Nullspace(client=client, **options)


async def test_a_client_that_speaks_plain_http_is_refused(client: AsyncNullspaceClient) -> None:
    with pytest.raises(ConfigurationError, match="base_url: the URL must be https"):
        Nullspace(client=client)


def test_the_sdk_is_not_imported_unless_a_client_is_given() -> None:
    code = "import sys, preview_proxy.providers.nullspace; sys.exit('nullspace' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


async def test_the_api_key_alone_does_not_need_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "nullspace"]:
        monkeypatch.setitem(sys.modules, name, None)
    reply = httpx.MockTransport(lambda request: httpx.Response(500))
    with pytest.raises(ProviderError):
        await Nullspace("key-0123456789", base_url="https://api.nullspace.dev", transport=reply).resolve(PREVIEW)
