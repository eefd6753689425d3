"""The emulated gateway of Aether: what it serves, refuses and remembers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from preview_proxy.testing import AetherEmulator, DevServer
from preview_proxy.testing.aether import ROUTING_CACHE

pytestmark = pytest.mark.anyio

TOKEN = "0123456789abcdef"


@pytest.fixture
async def aether(dev: DevServer) -> AsyncIterator[AetherEmulator]:
    async with AetherEmulator() as emulator:
        emulator.add_workspace("abc12345-6789", {3000: dev}, token=TOKEN)
        yield emulator


async def ask(aether: AetherEmulator, label: str = f"3000-abc12345-{TOKEN}", domain: str = "") -> httpx.Response:
    host = f"{label}.{domain or aether.edge_domain}:{aether.edge_port}"
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{aether.edge_port}/", headers={"Host": host})


async def test_the_app_sees_localhost_and_the_answer_may_be_read_from_anywhere(
    aether: AetherEmulator, dev: DevServer
) -> None:
    answer = await ask(aether)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert dev.received[0].values(b"host") == [b"localhost:3000"]


@pytest.mark.parametrize(
    ("label", "status"),
    [
        ("3000-abc12345-wrongtoken", 403),
        ("3000-zzz99999-" + TOKEN, 404),
        ("3000-abc12345", 404),
        ("abc12345-" + TOKEN, 404),
        ("3001-abc12345-" + TOKEN, 502),
    ],
)
async def test_anything_else_is_refused(aether: AetherEmulator, label: str, status: int) -> None:
    assert (await ask(aether, label)).status_code == status


async def test_another_domain_is_unknown(aether: AetherEmulator) -> None:
    assert (await ask(aether, domain="elsewhere.localhost")).status_code == 404


async def test_what_a_wrong_token_is_told_can_be_chosen() -> None:
    async with AetherEmulator(refused_status=401) as aether:
        aether.add_workspace("abc12345", {}, token=TOKEN)
        answer = await ask(aether, "3000-abc12345-wrongtoken")
        assert answer.status_code == 401 and "wrongtoken" in answer.text


async def test_a_stopped_workspace_does_not_answer(aether: AetherEmulator) -> None:
    aether.workspaces["abc12345"].running = False
    assert (await ask(aether)).status_code == 504


async def test_the_workspace_of_a_prefix_is_remembered_for_half_a_minute(aether: AetherEmulator) -> None:
    now = 1_000_000.0
    aether.clock = lambda: now
    assert (await ask(aether)).status_code == 200
    aether.add_workspace("abc12345-9999", {}, token=TOKEN)
    now += ROUTING_CACHE - 1
    assert (await ask(aether)).status_code == 200
    now += 1
    assert (await ask(aether)).status_code == 502
    assert [request.verdict for request in aether.edge_requests] == ["served", "served", "Bad Gateway"]
    assert aether.api_requests == []
