"""The emulated API, called by the real Nullspace SDK, which parses strictly, and by plain HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from nullspace import AsyncMachine, AuthError, MachineError, NotFoundError
from nullspace.client import AsyncNullspaceClient
from nullspace.types import MachineConfig, MachineInfo, MachineStatus, PreviewGrantInfo, PreviewProxyTarget

from preview_proxy.testing import DevServer, NullspaceEmulator

pytestmark = pytest.mark.anyio

MACHINE = "mch_a1b2c3d4"


@pytest.fixture
async def nullspace(dev: DevServer) -> AsyncIterator[NullspaceEmulator]:
    async with NullspaceEmulator() as emulator:
        emulator.add_machine(MACHINE, {3000: dev, 4000: dev.port})
        yield emulator


@pytest.fixture
async def machine(nullspace: NullspaceEmulator) -> AsyncIterator[AsyncMachine]:
    machine = await AsyncMachine.connect(MACHINE, api_key=nullspace.api_key, base_url=nullspace.api_url)
    yield machine
    await machine.close()  # `async with machine` would destroy it


def client(nullspace: NullspaceEmulator) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {nullspace.api_key}"}
    return httpx.AsyncClient(base_url=nullspace.api_url, headers=headers, trust_env=False)


async def listed(machine: AsyncMachine, **query: int) -> list[PreviewGrantInfo]:
    return list(await cast(Any, machine).list_preview_urls(**query))


def grant_of(answer: PreviewProxyTarget) -> PreviewGrantInfo:
    assert isinstance(answer.grant, PreviewGrantInfo)
    return answer.grant


async def test_a_target_has_a_marked_url_and_a_token_for_each_transport(
    machine: AsyncMachine, nullspace: NullspaceEmulator
) -> None:
    target = await machine.create_preview_proxy_target(3000, expires_in_seconds=900)
    host = f"3000-{MACHINE}.nullspace.localhost:{nullspace.edge_port}"
    assert target.http_url == f"http://{host}/?__ns_preview_transport=header"
    assert target.websocket_url == f"ws://{host}/?__ns_preview_transport=header"
    assert target.http_token and target.websocket_token and target.http_token != target.websocket_token
    assert target.traffic_access_required is False
    grant = grant_of(target)
    assert (grant.auth_mode, grant.bootstrap_transport, grant.status) == ("proxy", "header", "active")
    assert grant.token_kinds == ["http_port", "websocket_port"]
    assert nullspace.mints == 1
    assert nullspace.api_requests[-1] == (
        "POST",
        f"/v1/machines/{MACHINE}/ports/3000/preview-proxy-target",
        {"expires_in_seconds": 900},
    )


async def test_a_target_for_one_transport_has_nothing_for_the_other(machine: AsyncMachine) -> None:
    target = await machine.create_preview_proxy_target(3000, transports=["websocket"])
    assert (target.http_url, target.http_token) == (None, None)
    assert target.websocket_token
    assert grant_of(target).token_kinds == ["websocket_port"]


@pytest.mark.parametrize(("asked", "given"), [(1, 60), (120, 120), (10**6, 86_400)])
async def test_a_lifetime_is_kept_within_the_documented_bounds(
    machine: AsyncMachine, nullspace: NullspaceEmulator, asked: int, given: int
) -> None:
    nullspace.clock = lambda: 1_000_000.5
    target = await machine.create_preview_proxy_target(3000, expires_in_seconds=asked)
    assert not isinstance(target.expires_at, str) and target.expires_at is not None
    assert target.expires_at.timestamp() == 1_000_000.5 + given


async def test_the_traffic_header_is_named_where_the_machine_needs_it(nullspace: NullspaceEmulator) -> None:
    nullspace.add_machine("mch_private", {}, traffic_token="t-1")
    machine = await AsyncMachine.connect("mch_private", api_key=nullspace.api_key, base_url=nullspace.api_url)
    target = await machine.create_preview_proxy_target(3000)
    assert target.traffic_access_required is True
    assert target.traffic_access_header_name == "x-nullspace-traffic-access-token"
    target = await machine.create_preview_proxy_target(3000, include_traffic_token_hint=False)
    assert target.traffic_access_required is None
    await machine.close()


async def test_grants_are_listed_without_tokens_and_revoked(
    machine: AsyncMachine, nullspace: NullspaceEmulator
) -> None:
    target = await machine.create_preview_proxy_target(3000)
    await machine.create_preview_proxy_target(4000)
    assert [grant.port for grant in await listed(machine)] == [3000, 4000]
    (grant,) = await listed(machine, port=3000)
    assert str(target.http_token) not in repr(grant)
    revoked = await machine.revoke_preview_url(grant.id)
    assert revoked.success
    assert [grant.status for grant in await listed(machine)] == ["revoked", "active"]
    with pytest.raises(NotFoundError) as caught:
        await machine.revoke_preview_url("pvg_" + "0" * 32)
    assert caught.value.code == "preview_grant_not_found"


async def test_a_grants_status_follows_the_controls(machine: AsyncMachine, nullspace: NullspaceEmulator) -> None:
    grant_id = grant_of(await machine.create_preview_proxy_target(3000)).id

    async def status() -> str:
        return (await listed(machine))[0].status

    nullspace.disable_grant(grant_id)
    assert await status() == "disabled"
    nullspace.disable_grant(grant_id, False)
    assert await status() == "active"
    nullspace.expire(grant_id)
    assert await status() == "expired"
    nullspace.revoke()
    assert await status() == "revoked"


async def test_direct_urls_carry_their_token_in_the_query(machine: AsyncMachine, nullspace: NullspaceEmulator) -> None:
    signed = await machine.create_signed_preview_url(3000, expires_in_seconds=60)
    default = await machine.get_preview_url(3000)
    host = await machine.get_host_info(3000)
    assert "/?edge_token=" in signed.url
    assert default.websocket_url.startswith("ws://")
    assert host.host == f"3000-{MACHINE}.nullspace.localhost:{nullspace.edge_port}"
    assert host.url is not None and host.url.startswith(f"http://{host.host}/?edge_token=")
    assert nullspace.mints == 3


@pytest.mark.parametrize("port", [22, 5900, 5999, 0, 65536])
async def test_a_reserved_port_is_refused(machine: AsyncMachine, port: int) -> None:
    with pytest.raises(MachineError) as caught:
        await machine.create_preview_proxy_target(port)
    assert caught.value.code == "unsupported_preview_port"
    assert caught.value.retryable is False


async def test_connect_resumes_a_paused_machine(nullspace: NullspaceEmulator) -> None:
    nullspace.pause(MACHINE)
    machine = await AsyncMachine.connect(MACHINE, timeout=60, api_key=nullspace.api_key, base_url=nullspace.api_url)
    await machine.close()
    assert [(method, path.rpartition("/")[2], body) for method, path, body in nullspace.api_requests] == [
        ("GET", MACHINE, None),
        ("POST", "resume", None),
        ("POST", "timeout", {"timeout_ms": 60_000}),
    ]


async def test_a_machine_that_is_gone_cannot_be_resumed(nullspace: NullspaceEmulator) -> None:
    nullspace.add_machine("mch_gone", {}, status="destroyed")
    async with client(nullspace) as http:
        answer = await http.post("/v1/machines/mch_gone/resume")
    assert (answer.status_code, answer.json()["code"]) == (409, "machine_not_ready")


async def test_a_wrong_key_and_an_unknown_machine_are_refused(nullspace: NullspaceEmulator) -> None:
    for key, machine_id, error in (("wrong", MACHINE, AuthError), (nullspace.api_key, "mch_other", NotFoundError)):
        sdk = AsyncNullspaceClient(api_key=key, base_url=nullspace.api_url)
        info = MachineInfo(id=machine_id, status=MachineStatus.RUNNING, config=MachineConfig(), template="")
        with pytest.raises(error):
            await AsyncMachine(info, sdk).list_preview_urls()
        await sdk.close()


@pytest.mark.parametrize("kind", ["tcp", "http"])
async def test_a_listening_app_is_ready(machine: AsyncMachine, kind: str) -> None:
    readiness = await machine.wait_for_preview(3000, kind=kind, timeout_secs=1, interval_ms=100)
    assert (readiness.ready, readiness.route_ready, readiness.attempts) == (True, True, 1)


async def test_an_app_that_does_not_listen_is_no_error_but_not_ready(machine: AsyncMachine) -> None:
    readiness = await machine.wait_for_preview(3001, timeout_secs=1, interval_ms=400)
    assert (readiness.ready, readiness.route_ready, readiness.attempts) == (False, True, 3)
    assert readiness.code == "preview_service_not_ready"


async def test_an_app_that_fails_is_not_ready_over_http(machine: AsyncMachine) -> None:
    readiness = await machine.wait_for_preview(3000, kind="http", path="/status/503", timeout_secs=1, interval_ms=1000)
    assert readiness.code == "preview_service_not_ready"


async def test_readiness_tells_why_the_machine_is_out_of_reach(
    machine: AsyncMachine, nullspace: NullspaceEmulator
) -> None:
    nullspace.unreachable(MACHINE)
    readiness = await machine.wait_for_preview(3000, timeout_secs=1, interval_ms=1000)
    assert (readiness.route_ready, readiness.code) == (False, "edge_runtime_host_unreachable")
    nullspace.unreachable(MACHINE, False)
    nullspace.pause(MACHINE)
    readiness = await machine.wait_for_preview(3000, timeout_secs=1, interval_ms=1000)
    assert readiness.code == "machine_paused_auto_resume_disabled"


async def test_readiness_wakes_a_machine_where_the_switch_says_so(
    machine: AsyncMachine, nullspace: NullspaceEmulator, dev: DevServer
) -> None:
    nullspace.add_machine(MACHINE, {3000: dev}, status="paused", auto_resume=True)
    nullspace.switches.readiness_wakes = True
    assert (await machine.wait_for_preview(3000, timeout_secs=1)).ready


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("ports/3000/preview-proxy-target", b"{", 400, "invalid_request"),
        ("ports/3000/preview-proxy-target", b"[]", 400, "invalid_request"),
        ("ports/3000/preview-proxy-target", b'{"transports": []}', 400, "invalid_request"),
        ("ports/3000/preview-proxy-target", b'{"transports": ["http", "ftp"]}', 400, "invalid_request"),
        ("ports/3000/preview-proxy-target", b'{"token_transport": "query"}', 400, "invalid_request"),
        ("ports/3000/preview-proxy-target", b'{"expires_in_seconds": "60"}', 400, "invalid_request"),
        ("ports/3000/readiness", b'{"timeout_secs": 121}', 400, "invalid_request"),
        ("ports/x/readiness", b"{}", 400, "unsupported_preview_port"),
        ("elsewhere", b"{}", 404, "not_found"),
    ],
)
async def test_what_the_api_does_not_take_is_an_error_with_a_code(
    nullspace: NullspaceEmulator, path: str, body: bytes, status: int, code: str
) -> None:
    async with client(nullspace) as http:
        answer = await http.post(f"/v1/machines/{MACHINE}/{path}", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert {"error", "request_id", "retryable", "suggested_action", "details"} <= set(json.loads(answer.content))
