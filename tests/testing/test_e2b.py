"""The emulated E2B: what its API and its edge take, refuse and change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from preview_proxy.testing import DevServer, E2BEmulator
from preview_proxy.testing.e2b import CONTROL_PORT

pytestmark = pytest.mark.anyio

SANDBOX = "i0ddba115eed"


@pytest.fixture
async def e2b(dev: DevServer) -> AsyncIterator[E2BEmulator]:
    async with E2BEmulator() as emulator:
        emulator.add_sandbox(SANDBOX, {3000: dev, CONTROL_PORT: dev})
        yield emulator


async def api(e2b: E2BEmulator, path: str, body: Any = None, key: str = "") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, headers={"X-API-Key": key or e2b.api_key}) as client:
        return await client.post(f"{e2b.api_url}/v2/sandboxes{path}", json=body or {})


async def edge(
    e2b: E2BEmulator, headers: dict[str, str] | None = None, *, host: str = "", port: int = 3000, token: bool = True
) -> httpx.Response:
    fields = {"Host": host or f"{port}-{SANDBOX}.{e2b.edge_domain}:{e2b.edge_port}", "User-Agent": "httpx"}
    known = e2b.sandboxes[SANDBOX].token
    if token and known is not None:
        fields["e2b-traffic-access-token"] = known
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://127.0.0.1:{e2b.edge_port}/", headers=fields | (headers or {}))


async def test_the_api_checks_key_and_sandbox(e2b: E2BEmulator) -> None:
    assert (await api(e2b, f"/{SANDBOX}/connect", key="wrong-key")).status_code == 401
    assert (await api(e2b, "/gone/connect")).json() == {"code": 404, "message": "not_found"}


async def test_connecting_resumes_and_tells_the_token(e2b: E2BEmulator) -> None:
    e2b.set_state(SANDBOX, "paused")
    answer = (await api(e2b, f"/{SANDBOX}/connect", {"timeout": 1})).json()
    assert answer["trafficAccessToken"] == e2b.sandboxes[SANDBOX].token
    assert e2b.sandboxes[SANDBOX].state == "running"


@pytest.mark.parametrize("public", [True, False])
async def test_a_sandbox_is_public_unless_it_is_said_otherwise(e2b: E2BEmulator, public: bool) -> None:
    answer = await api(e2b, "", {} if public else {"network": {"allowPublicTraffic": False}})
    assert (answer.status_code, answer.json()["trafficAccessToken"] is None) == (201, public)


async def test_the_token_is_asked_for_on_every_port_but_the_control_planes(e2b: E2BEmulator) -> None:
    assert (await edge(e2b)).status_code == 200
    assert (await edge(e2b, token=False)).status_code == 403
    assert (await edge(e2b, {"e2b-traffic-access-token": "wrong"}, token=False)).status_code == 403
    assert (await edge(e2b, port=CONTROL_PORT, token=False)).status_code == 200
    assert [request.verdict for request in e2b.edge_requests] == [
        "served",
        "Missing Traffic Access Token",
        "Invalid Traffic Access Token",
        "served",
    ]


@pytest.mark.parametrize(
    ("headers", "page"),
    [
        ({}, False),
        ({"User-Agent": "Mozilla/5.0"}, True),
        ({"User-Agent": "Mozilla/5.0", "Sec-Fetch-Mode": "navigate"}, True),
        ({"User-Agent": "Mozilla/5.0", "Sec-Fetch-Mode": "cors"}, False),
        ({"User-Agent": "Mozilla/5.0", "X-Requested-With": "XMLHttpRequest"}, False),
    ],
)
async def test_a_navigation_is_answered_with_a_page(e2b: E2BEmulator, headers: dict[str, str], page: bool) -> None:
    answer = await edge(e2b, headers, port=3001)
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html" if page else "application/json")
    assert ("Closed Port Error" if page else "port is not open") in answer.text


@pytest.mark.parametrize("host", ["e2b.localhost", "3000-a.elsewhere.localhost", "x-a.e2b.localhost"])
async def test_a_bad_host_is_answered_in_plain_text(e2b: E2BEmulator, host: str) -> None:
    answer = await edge(e2b, host=host)
    assert (answer.status_code, answer.text) == (400, "Invalid host")


async def test_the_app_sees_the_token_and_no_account_of_the_client(e2b: E2BEmulator, dev: DevServer) -> None:
    await edge(e2b, {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "x", "Forwarded": "for=1.2.3.4"})
    [received] = dev.received
    assert received.values(b"e2b-traffic-access-token") == [str(e2b.sandboxes[SANDBOX].token).encode()]
    assert received.values(b"host") == [f"3000-{SANDBOX}.{e2b.edge_domain}:{e2b.edge_port}".encode()]
    assert not [name for name, _ in received.headers if name.lower().startswith((b"x-forwarded", b"forwarded"))]


async def test_a_mask_is_the_host_that_the_app_sees(e2b: E2BEmulator, dev: DevServer) -> None:
    e2b.sandboxes[SANDBOX].mask = "localhost:${PORT}"
    await edge(e2b)
    assert dev.received[0].values(b"host") == [b"localhost:3000"]
    assert dev.received[0].values(b"x-forwarded-host")[0].startswith(f"3000-{SANDBOX}.".encode())


@pytest.mark.parametrize(
    ("auto_resume", "token", "status", "state"),
    [(False, True, 502, "paused"), (True, True, 200, "running"), (True, False, 403, "paused")],
)
async def test_a_paused_sandbox_is_resumed_if_it_may_be_and_the_token_holds(
    e2b: E2BEmulator, auto_resume: bool, token: bool, status: int, state: str
) -> None:
    e2b.sandboxes[SANDBOX].auto_resume = auto_resume
    e2b.set_state(SANDBOX, "paused")
    assert (await edge(e2b, token=token)).status_code == status
    assert e2b.sandboxes[SANDBOX].state == state
