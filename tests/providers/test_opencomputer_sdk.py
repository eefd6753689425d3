"""The real SDK of OpenComputer against the emulator, and our provider with the tokens that it was told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

import httpx
import pytest
from opencomputer import Sandbox

from preview_proxy import Preview
from preview_proxy.testing import OpenComputerEmulator
from tests.vendors import opencomputer_provider

pytestmark = pytest.mark.anyio


@pytest.fixture
async def emulator() -> AsyncIterator[OpenComputerEmulator]:
    async with OpenComputerEmulator() as made:
        yield made


async def refused(operation: Awaitable[Sandbox], status: str) -> None:
    """The SDK raises, and leaves its client open."""
    with pytest.raises(httpx.HTTPStatusError, match=status) as caught:
        await operation
    for entry in caught.traceback:
        if isinstance(client := entry.frame.f_locals.get("client"), httpx.AsyncClient):
            await client.aclose()


async def create(emulator: OpenComputerEmulator, token: str) -> Sandbox:
    auth = {"scheme": "bearer", "token": token}
    return await Sandbox.create(api_key=emulator.api_key, api_url=emulator.api_url, preview_auth=auth)


async def test_the_token_of_the_creation_serves_until_our_provider_rotates_it(emulator: OpenComputerEmulator) -> None:
    sandbox = await create(emulator, "auto")
    tokens = {sandbox.sandbox_id: sandbox.preview_auth_token}
    provider = opencomputer_provider(emulator, tokens)
    target = await provider.resolve(Preview(sandbox.sandbox_id, 3000))
    assert target.http is not None and target.http.leaks(sandbox.preview_auth_token.encode())
    await provider.rotate(sandbox.sandbox_id)
    assert tokens[sandbox.sandbox_id] != sandbox.preview_auth_token
    tokens[sandbox.sandbox_id] = await sandbox.rotate_preview_auth_token()
    target = await provider.resolve(Preview(sandbox.sandbox_id, 3000))
    assert target.http is not None and target.http.leaks(sandbox.preview_auth_token.encode())
    await provider.aclose()
    await sandbox.close()


async def test_a_token_of_ones_own_is_taken_if_it_is_long_enough(emulator: OpenComputerEmulator) -> None:
    sandbox = await create(emulator, "a-token-of-my-own")
    assert sandbox.preview_auth_token == "a-token-of-my-own"
    await sandbox.close()
    await refused(create(emulator, "too-short"), "400")


async def test_preview_urls_with_a_verified_domain(emulator: OpenComputerEmulator) -> None:
    sandbox = await create(emulator, "auto")
    emulator.verify_domain("preview.acme.com")
    made = await sandbox.create_preview_url(3000, domain="preview.acme.com")
    assert made["customHostname"] == f"{sandbox.sandbox_id}-p3000.preview.acme.com"
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        await sandbox.create_preview_url(4000, domain="elsewhere.example")
    assert [url["port"] for url in await sandbox.list_preview_urls()] == [3000]
    await sandbox.delete_preview_url(3000)
    await sandbox.delete_preview_url(3000)
    assert await sandbox.list_preview_urls() == []
    await sandbox.close()


async def test_connecting_does_not_tell_the_token_again(emulator: OpenComputerEmulator) -> None:
    emulator.add_sandbox("sb-1", {})
    sandbox = await Sandbox.connect("sb-1", api_key=emulator.api_key, api_url=emulator.api_url)
    assert (sandbox.preview_auth_token, await sandbox.is_running()) == ("", True)
    await sandbox.close()


@pytest.mark.parametrize(("key", "sandbox", "status"), [("wrong-key-0123", "sb-1", "401"), (None, "sb-gone", "404")])
async def test_a_wrong_key_and_an_unknown_sandbox_are_refused(
    emulator: OpenComputerEmulator, key: str | None, sandbox: str, status: str
) -> None:
    emulator.add_sandbox("sb-1", {})
    await refused(Sandbox.connect(sandbox, api_key=key or emulator.api_key, api_url=emulator.api_url), status)
