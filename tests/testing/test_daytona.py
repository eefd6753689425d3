"""The emulated Daytona: what its API and its edge take, refuse and change."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from preview_proxy.testing import DaytonaEmulator, DevServer

pytestmark = pytest.mark.anyio

SANDBOX = "0ddba11-5eed"
BROWSER = {"User-Agent": "Mozilla/5.0"}
SKIPS = {"X-Daytona-Skip-Preview-Warning": "true"}


@pytest.fixture
async def daytona(dev: DevServer) -> AsyncIterator[DaytonaEmulator]:
    async with DaytonaEmulator() as emulator:
        emulator.add_sandbox(SANDBOX, {3000: dev})
        yield emulator


async def api(daytona: DaytonaEmulator, method: str, path: str, key: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key or daytona.api_key}"}
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.request(method, f"{daytona.api_url}/sandbox/{path}", headers=headers)


async def edge(
    daytona: DaytonaEmulator, headers: dict[str, str], *, host: str = "", method: str = "GET", token: str | None = None
) -> httpx.Response:
    fields = {
        "Host": host or f"3000-{SANDBOX}.{daytona.edge_domain}:{daytona.edge_port}",
        "X-Daytona-Preview-Token": daytona.sandboxes[SANDBOX].token if token is None else token,
    }
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.request(method, f"http://127.0.0.1:{daytona.edge_port}/", headers=fields | headers)


async def test_the_api_checks_key_sandbox_and_port(daytona: DaytonaEmulator) -> None:
    assert (await api(daytona, "GET", SANDBOX)).json()["state"] == "started"
    assert (await api(daytona, "GET", SANDBOX, key="wrong-key-0123")).status_code == 401
    assert (await api(daytona, "GET", "gone")).status_code == 404
    assert (await api(daytona, "DELETE", SANDBOX)).status_code == 404
    assert (await api(daytona, "GET", f"{SANDBOX}/ports/65536/preview-url")).status_code == 400
    assert (await api(daytona, "POST", f"{SANDBOX}/start")).status_code == 400


async def test_starting_replaces_the_token(daytona: DaytonaEmulator) -> None:
    before = (await api(daytona, "GET", f"{SANDBOX}/ports/3000/preview-url")).json()
    daytona.stop(SANDBOX)
    assert (await api(daytona, "POST", f"{SANDBOX}/start")).json()["state"] == "started"
    after = (await api(daytona, "GET", f"{SANDBOX}/ports/3000/preview-url")).json()
    assert before["url"] == after["url"] and before["token"] != after["token"]


async def test_a_browser_meets_the_warning_unless_it_is_skipped(daytona: DaytonaEmulator, dev: DevServer) -> None:
    warned = await edge(daytona, BROWSER)
    assert (warned.status_code, "Preview URL Warning" in warned.text, dev.received) == (200, True, [])
    assert (await edge(daytona, BROWSER | SKIPS)).status_code == 200
    assert (await edge(daytona, {"User-Agent": "curl/8"})).status_code == 200
    assert len(dev.received) == 2


async def test_cors_is_for_everybody_unless_it_is_disabled(daytona: DaytonaEmulator, dev: DevServer) -> None:
    origin = {"Origin": "https://evil.example"}
    opened = await edge(daytona, origin)
    assert opened.headers["access-control-allow-origin"] == "https://evil.example"
    assert opened.headers["access-control-allow-credentials"] == "true"
    preflight = await edge(daytona, origin, method="OPTIONS")
    assert (preflight.status_code, len(dev.received)) == (204, 1)
    disabled = origin | {"X-Daytona-Disable-CORS": "true"}
    assert "access-control-allow-origin" not in (await edge(daytona, disabled)).headers
    assert (await edge(daytona, disabled, method="OPTIONS")).status_code != 204


async def test_the_app_sees_localhost_and_both_proxies_but_no_token(daytona: DaytonaEmulator, dev: DevServer) -> None:
    await edge(daytona, {"X-Forwarded-Host": "previews.acme.dev"})
    [received] = dev.received
    assert received.values(b"host") == [b"localhost:3000"]
    edge_host = f"3000-{SANDBOX}.{daytona.edge_domain}:{daytona.edge_port}"
    assert received.values(b"x-forwarded-host") == [f"previews.acme.dev, {edge_host}".encode()]
    assert received.values(b"x-daytona-preview-token") == []


async def test_a_wrong_token_is_sent_to_the_login(daytona: DaytonaEmulator) -> None:
    answer = await edge(daytona, {}, token="wrong-token-0123")
    assert answer.status_code == 307
    assert answer.headers["location"].startswith("https://login.daytona.invalid/authorize?")
    assert answer.headers["set-cookie"].startswith("pkce_verifier=")
    daytona.login = False
    assert (await edge(daytona, {}, token="wrong-token-0123")).json()["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize(("coded", "code"), [(True, "SANDBOX_NOT_STARTED"), (False, "BAD_REQUEST")])
async def test_errors_have_the_code_of_their_release(coded: bool, code: str, daytona: DaytonaEmulator) -> None:
    daytona.coded = coded
    daytona.stop(SANDBOX)
    answer = await edge(daytona, {})
    assert (answer.status_code, answer.json()["code"], "source" in answer.json()) == (400, code, coded)


@pytest.mark.parametrize("host", ["daytona.localhost", "3000-gone.daytona.localhost", "3000-a.elsewhere.localhost"])
async def test_a_host_without_a_sandbox_is_not_found(daytona: DaytonaEmulator, host: str) -> None:
    assert (await edge(daytona, {}, host=host)).status_code == 404


async def test_it_can_be_waited_for(daytona: DaytonaEmulator) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(edge, daytona, {})
        await daytona.wait_for(lambda emulator: len(emulator.edge_requests) == 1)
