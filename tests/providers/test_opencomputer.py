from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from preview_proxy.core.models import Preview
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, ExposedCredential, NotFound, ProviderError
from preview_proxy.providers.base import SupportsRotation
from preview_proxy.providers.cache import TargetCache
from preview_proxy.providers.opencomputer import OpenComputer, PreviewURL
from preview_proxy.testing import OpenComputerEmulator
from tests.vendors import opencomputer_provider

pytestmark = pytest.mark.anyio

SANDBOX = "sb-a1b2c3"
PREVIEW = Preview(SANDBOX, 3000)
TOKEN = "open-token-canary-0123"


@pytest.fixture
async def emulator() -> AsyncIterator[OpenComputerEmulator]:
    async with OpenComputerEmulator() as made:
        yield made


@pytest.fixture
def tokens(emulator: OpenComputerEmulator) -> dict[str, str]:
    return {SANDBOX: emulator.add_sandbox(SANDBOX, {3000: 9})}


@pytest.fixture
async def provider(emulator: OpenComputerEmulator, tokens: dict[str, str]) -> AsyncIterator[OpenComputer]:
    made = opencomputer_provider(emulator, tokens)
    yield made
    await made.aclose()


def quiet(tokens: Any, **options: Any) -> OpenComputer:
    return OpenComputer(tokens, token_reaches_sandbox=True, **options)


# --- targets ---


async def test_a_target_is_a_host_for_the_port_and_needs_no_call(
    emulator: OpenComputerEmulator, provider: OpenComputer, tokens: dict[str, str]
) -> None:
    target = await provider.resolve(PREVIEW)
    assert target.http is not None and target.http == target.websocket
    assert target.http.origin.authority == f"{SANDBOX}-p3000.{emulator.edge_domain}:{emulator.edge_port}"
    assert target.http.credentials == ((b"x-oc-preview-token", Secret(tokens[SANDBOX])),)
    assert (target.id, target.expires_at, emulator.api_requests) == (f"{SANDBOX}-p3000", None, [])


async def test_the_vendors_hosts_are_the_default_and_a_custom_domain_takes_their_place() -> None:
    for options, host in (
        ({}, "workers.opencomputer.dev"),
        ({"custom_domain": "preview.acme.com"}, "preview.acme.com"),
    ):
        target = await quiet({SANDBOX: TOKEN}, **options).resolve(PREVIEW)
        assert target.http is not None and str(target.http.origin) == f"https://{SANDBOX}-p3000.{host}"


async def test_a_token_that_comes_later_is_found(provider: OpenComputer, tokens: dict[str, str]) -> None:
    with pytest.raises(ProviderError, match="tokens has none for this sandbox"):
        await provider.resolve(Preview("sb-other", 3000))
    tokens["sb-other"] = TOKEN
    assert await provider.resolve(Preview("sb-other", 3000))


@pytest.mark.parametrize("machine", ["SB-1", "a.b", "x" * 60])
async def test_a_machine_that_is_no_label_of_a_host_is_not_found(machine: str) -> None:
    with pytest.raises(NotFound):
        await quiet({machine: TOKEN}).resolve(Preview(machine, 3000))


class Table:
    """Tokens in a table that may be out of order."""

    def __init__(self, token: Any) -> None:
        self.token = token
        self.broken = False

    async def get(self, sandbox: str) -> Any:
        if isinstance(self.token, Exception):
            raise self.token
        return self.token

    async def set(self, sandbox: str, token: str) -> None:
        if self.broken:
            raise OSError(token)
        self.token = token


async def test_a_table_of_your_own_may_hold_secrets() -> None:
    target = await quiet(Table(Secret(TOKEN))).resolve(PREVIEW)
    assert target.http is not None and target.http.leaks(TOKEN.encode())


@pytest.mark.parametrize("token", [OSError(TOKEN), "short", f"{TOKEN}\n", 7])
async def test_a_table_that_fails_tells_nothing(token: object) -> None:
    with pytest.raises(ProviderError, match="tokens raised") as caught:
        await quiet(Table(token)).resolve(PREVIEW)
    assert TOKEN not in str(caught.value) and caught.value.__context__ is None


# --- the warning, and what could not work ---


def test_the_construction_warns_that_the_sandbox_sees_its_token() -> None:
    with pytest.warns(ExposedCredential, match=r"token_reaches_sandbox=True") as caught:
        OpenComputer({})
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OpenComputer({}, token_reaches_sandbox=True)


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ({SANDBOX: "short"}, {}, "tokens: a credential"),
        ({}, {"api_key": "short"}, "api_key: a credential"),
        ({}, {"custom_domain": "https://acme.com"}, "custom_domain must be"),
        ({}, {"edge_url": "http://workers.opencomputer.dev"}, "edge_url: the URL must be https"),
        ({}, {"api_key": TOKEN, "base_url": "http://api.example.com"}, "base_url: the URL must be https"),
        ({}, {"api_key": TOKEN, "timeout": 0}, "timeout must be greater"),
    ],
)
def test_what_could_not_work_is_refused_at_construction(tokens: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        quiet(tokens, **options)
    assert message in str(caught.value) and TOKEN not in str(caught.value)


def test_its_repr_shows_no_token() -> None:
    assert repr(quiet({SANDBOX: TOKEN})) == "OpenComputer('workers.opencomputer.dev')"


# --- rotation ---


async def test_a_rotation_keeps_the_new_token(
    emulator: OpenComputerEmulator, provider: OpenComputer, tokens: dict[str, str]
) -> None:
    old = tokens[SANDBOX]
    await provider.rotate(SANDBOX)
    assert tokens[SANDBOX] != old and len(tokens[SANDBOX]) == 43
    target = await provider.resolve(PREVIEW)
    assert target.http is not None and target.http.leaks(tokens[SANDBOX].encode())
    assert emulator.api_requests == [("POST", f"/api/sandboxes/{SANDBOX}/preview/rotate", None)]


async def test_the_cache_forgets_the_machines_targets_first(provider: OpenComputer, tokens: dict[str, str]) -> None:
    assert isinstance(provider, SupportsRotation)
    tokens["sb-other"] = TOKEN
    cache = TargetCache(provider, timeout=5)
    before, other = await cache.get(PREVIEW), await cache.get(Preview("sb-other", 3000))
    await provider.rotate(SANDBOX)
    assert await cache.get(PREVIEW) != before
    assert await cache.get(Preview("sb-other", 3000)) is other


class Gated(httpx.AsyncHTTPTransport):
    """Holds each answer, which the API has given, until a test lets it go."""

    def __init__(self) -> None:
        super().__init__(trust_env=False)
        self.begun, self.go_on = anyio.Event(), anyio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        self.begun.set()
        await self.go_on.wait()
        return response


async def test_whoever_asks_during_a_rotation_waits_for_the_new_token(
    emulator: OpenComputerEmulator, tokens: dict[str, str]
) -> None:
    gate, seen = Gated(), []
    made = opencomputer_provider(emulator, tokens, transport=gate)

    async def ask() -> None:
        target = await made.resolve(PREVIEW)
        assert target.http is not None
        seen.append(target.http.leaks(tokens[SANDBOX].encode()))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(made.rotate, SANDBOX)
            await gate.begun.wait()
            group.start_soon(ask)
            group.start_soon(made.rotate, SANDBOX)
            await anyio.wait_all_tasks_blocked()
            assert seen == []
            gate.go_on.set()
    assert seen == [True] and len(emulator.api_requests) == 2
    await made.aclose()


async def test_a_token_read_while_a_rotation_began_is_read_again() -> None:
    class Slow(Table):
        reading, go_on = anyio.Event(), anyio.Event()

        async def get(self, sandbox: str) -> Any:
            token = self.token
            self.reading.set()
            await self.go_on.wait()
            return token

    table = Slow("the-old-token-0123")
    issued = httpx.MockTransport(lambda request: httpx.Response(200, json={"previewAuthToken": "the-new-token-0123"}))
    made = quiet(table, api_key=TOKEN, transport=issued)
    found = []

    async def ask() -> None:
        target = await made.resolve(PREVIEW)
        assert target.http is not None
        found.append(target.http.leaks(b"the-new-token-0123"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await table.reading.wait()
            await made.rotate(SANDBOX)
            table.go_on.set()
    assert found == [True]


async def test_a_rotation_that_is_cancelled_under_way_keeps_its_token(
    emulator: OpenComputerEmulator, tokens: dict[str, str]
) -> None:
    gate = Gated()
    made = opencomputer_provider(emulator, tokens, transport=gate)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(made.rotate, SANDBOX)
            await gate.begun.wait()
            group.cancel_scope.cancel()
            gate.go_on.set()
    target = await made.resolve(PREVIEW)
    assert target.http is not None and emulator.admits(SANDBOX, target.http.credentials[0][1].reveal())
    await made.aclose()


async def test_a_new_token_that_cannot_be_kept_serves_here_and_is_told(emulator: OpenComputerEmulator) -> None:
    table = Table(emulator.add_sandbox(SANDBOX, {}))
    table.broken = True
    made = opencomputer_provider(emulator, table)
    with pytest.raises(ProviderError, match="could not be kept: tokens raised OSError") as caught:
        await made.rotate(SANDBOX)
    assert caught.value.__context__ is None
    target = await made.resolve(PREVIEW)
    assert target.http is not None and not target.http.leaks(table.token.encode())
    table.broken = False
    await made.rotate(SANDBOX)
    target = await made.resolve(PREVIEW)
    assert target.http is not None and target.http.leaks(table.token.encode())
    await made.aclose()


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (httpx.Response(404), NotFound, "machine_not_found"),
        (httpx.Response(410), NotFound, "machine_not_found"),
        (httpx.Response(401), ProviderError, "provider_refused"),
        (httpx.Response(200, json=[]), ProviderError, "provider_failed"),
        (httpx.Response(200, json={"previewAuthToken": None}), ProviderError, "provider_failed"),
        (httpx.Response(200, json={"previewAuthToken": f"{TOKEN}\n"}), ProviderError, "provider_failed"),
    ],
)
async def test_a_rotation_that_fails_leaves_the_old_token(reply: httpx.Response, kind: type, code: str) -> None:
    made = quiet({SANDBOX: TOKEN}, api_key="api-key-0123456", transport=httpx.MockTransport(lambda request: reply))
    with pytest.raises(ProviderError if kind is ProviderError else NotFound) as caught:
        await made.rotate(SANDBOX)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert TOKEN not in str(caught.value)
    target = await made.resolve(PREVIEW)
    assert target.http is not None and target.http.leaks(TOKEN.encode())


async def test_without_an_api_key_nothing_is_asked() -> None:
    made = quiet({SANDBOX: TOKEN})
    with pytest.raises(ProviderError, match="give OpenComputer an api_key"):
        await made.rotate(SANDBOX)
    await made.aclose()


# --- preview URLs ---


async def test_preview_urls_are_created_listed_and_deleted(
    emulator: OpenComputerEmulator, provider: OpenComputer
) -> None:
    url = PreviewURL(f"{SANDBOX}-p3000.{emulator.edge_domain}", 3000)
    assert await provider.create_preview_url(PREVIEW) == url == await provider.create_preview_url(PREVIEW)
    assert await provider.list_preview_urls(SANDBOX) == [url]
    await provider.delete_preview_url(PREVIEW)
    await provider.delete_preview_url(PREVIEW)
    assert await provider.list_preview_urls(SANDBOX) == []
    assert emulator.api_requests[0].json == {"port": 3000, "authConfig": {}}


async def test_a_custom_domain_is_asked_for(emulator: OpenComputerEmulator, tokens: dict[str, str]) -> None:
    emulator.verify_domain("preview.acme.com")
    made = opencomputer_provider(
        emulator, tokens, custom_domain="preview.acme.com", base_url=f"{emulator.api_url}/api/"
    )
    assert await made.create_preview_url(PREVIEW) == PreviewURL(f"{SANDBOX}-p3000.preview.acme.com", 3000)
    emulator.verify_domain(None)
    with pytest.raises(ProviderError):
        await made.create_preview_url(Preview(SANDBOX, 4000))
    await made.aclose()


@pytest.mark.parametrize(
    "document", [{}, [{}], {"hostname": "a.dev"}, {"hostname": "a b", "port": 1}, {"hostname": "a.dev", "port": "1"}]
)
async def test_a_record_amiss_is_refused(document: object) -> None:
    reply = httpx.MockTransport(lambda request: httpx.Response(200, json=document))
    made = quiet({}, api_key=TOKEN, transport=reply)
    with pytest.raises(ProviderError, match="the API's answer"):
        await made.create_preview_url(PREVIEW)
    with pytest.raises(ProviderError, match="the API's answer"):
        await made.list_preview_urls(SANDBOX)
