"""The emulated edge's verdicts, each by the code that Nullspace gives it, and what the app then sees."""

from __future__ import annotations

from typing import Any

import pytest

from preview_proxy.testing.nullspace_state import TOKEN_HEADER, TRAFFIC_HEADER
from tests.testing.edge import MACHINE, MARKER, UPGRADE, Edge, mint

pytestmark = pytest.mark.anyio


async def test_a_good_request_reaches_the_app_as_sent_without_credential_and_marker(edge: Edge) -> None:
    status, echoed, _ = await edge.ask(
        f"/echo?b=%2F&{MARKER}&a=1&a=2", "X-Forwarded-For: 1.2.3.4, 5.6.7.8", "x-Forwarded-Host: a.example", "X: y"
    )
    assert status == 200
    assert echoed["target"] == "/echo?b=%2F&a=1&a=2"
    assert echoed["headers"] == [
        ["Host", edge.host],
        ["Connection", "close"],
        ["X-Forwarded-For", "1.2.3.4, 5.6.7.8"],
        ["x-Forwarded-Host", "a.example"],
        ["X", "y"],
    ]
    (request,) = edge.nullspace.edge_requests
    assert (request.kind, request.verdict, request.grant_id) == ("http", "served", edge.grant.id)
    assert request.target == f"/echo?b=%2F&{MARKER}&a=1&a=2".encode()
    assert edge.grant.tokens["http"].encode() in edge.nullspace.edge_raw


async def test_a_marker_alone_leaves_no_question_mark(edge: Edge) -> None:
    await edge.ask()
    assert edge.dev.received[0].target == b"/"


async def test_the_switches_let_credential_and_marker_reach_the_app(edge: Edge) -> None:
    edge.nullspace.switches.strip_token = edge.nullspace.switches.strip_marker = False
    await edge.ask()
    assert edge.dev.received[0].target == f"/?{MARKER}".encode()
    assert edge.dev.received[0].values(TOKEN_HEADER.encode())


async def test_without_a_token_it_is_missing(edge: Edge) -> None:
    assert await edge.code(token=None) == (401, "preview_proxy_token_missing")


async def test_without_the_marker_it_is_a_direct_preview(edge: Edge) -> None:
    assert await edge.code("/") == (401, "edge_token_missing")


@pytest.mark.parametrize(
    ("required", "target", "expected"),
    [("root", "/echo", 200), ("root", "/", 401), ("never", "/", 200)],
)
async def test_the_marker_may_be_needed_less(edge: Edge, required: Any, target: str, expected: int) -> None:
    edge.nullspace.switches.marker_required = required
    assert (await edge.ask(target))[0] == expected


async def test_an_unknown_token_is_invalid(edge: Edge) -> None:
    assert await edge.code(token="nonsense") == (401, "preview_proxy_token_invalid")


async def test_two_tokens_are_invalid(edge: Edge) -> None:
    again = f"{TOKEN_HEADER}: {edge.grant.tokens['http']}"
    assert await edge.code(f"/?{MARKER}", again) == (401, "preview_proxy_token_invalid")


async def test_a_token_is_for_one_transport(edge: Edge) -> None:
    mismatch = (401, "preview_proxy_token_scope_mismatch")
    assert await edge.code(token=edge.grant.tokens["websocket"]) == mismatch
    assert await edge.code(f"/ws?{MARKER}", *UPGRADE) == mismatch
    assert edge.nullspace.edge_requests[-1].kind == "websocket"


async def test_a_token_is_for_one_port_and_one_machine(edge: Edge) -> None:
    mismatch = (401, "preview_proxy_token_scope_mismatch")
    assert await edge.code(host=edge.host.replace("3000", "3001")) == mismatch
    assert await edge.code(host=edge.host.replace(MACHINE, "mch_other")) == mismatch


async def test_a_direct_token_does_not_work_in_the_header(edge: Edge) -> None:
    direct = (await edge.mint("signed-preview-url")).tokens["http"]
    assert await edge.code(token=direct) == (401, "preview_proxy_token_scope_mismatch")


async def test_an_expired_grant_is_told_apart_by_its_transport(edge: Edge) -> None:
    direct = (await edge.mint("signed-preview-url")).tokens["http"]
    edge.nullspace.expire()
    assert await edge.code() == (401, "preview_proxy_token_expired")
    assert await edge.code(f"/?edge_token={direct}", token=None) == (401, "edge_token_expired")


async def test_a_grant_expires_by_the_clock(edge: Edge) -> None:
    end = edge.grant.expires_at
    edge.nullspace.clock = lambda: end - 1
    assert await edge.code() == (200, "served")
    edge.nullspace.clock = lambda: end
    assert await edge.code() == (401, "preview_proxy_token_expired")


async def test_a_revoked_grant_is_refused(edge: Edge) -> None:
    direct = (await edge.mint("signed-preview-url")).tokens["http"]
    edge.nullspace.revoke(edge.grant.id)
    assert await edge.code() == (401, "preview_proxy_token_revoked")
    assert await edge.code(f"/?edge_token={direct}", token=None) == (200, "served")
    edge.nullspace.revoke()
    assert await edge.code(f"/?edge_token={direct}", token=None) == (401, "preview_grant_revoked")
    edge.nullspace.switches.revoked_code = "preview_grant_revoked"
    assert await edge.code() == (401, "preview_grant_revoked")


async def test_what_the_operator_disabled_is_forbidden_until_enabled(edge: Edge) -> None:
    edge.nullspace.disable_machine(MACHINE)
    assert await edge.code() == (403, "preview_machine_disabled")
    edge.nullspace.disable_token(edge.grant.id, ["http"])
    assert await edge.code() == (403, "preview_proxy_token_disabled")
    edge.nullspace.disable_grant(edge.grant.id)
    assert await edge.code() == (403, "preview_grant_disabled")
    edge.nullspace.disable_grant(edge.grant.id, False)
    edge.nullspace.disable_token(edge.grant.id, [])
    edge.nullspace.disable_machine(MACHINE, False)
    assert await edge.code() == (200, "served")


async def test_a_private_machine_needs_its_traffic_token_too(edge: Edge) -> None:
    edge.nullspace.add_machine(MACHINE, {3000: edge.dev}, traffic_token="traffic-1")
    assert await edge.code() == (401, "traffic_access_token_missing")
    assert await edge.code(f"/?{MARKER}", f"{TRAFFIC_HEADER}: no") == (401, "traffic_access_token_invalid")
    assert await edge.code(f"/?{MARKER}", f"{TRAFFIC_HEADER}: traffic-1") == (200, "served")
    assert not edge.dev.received[-1].values(TRAFFIC_HEADER.encode())


async def test_more_requests_than_the_limit_are_told_when_to_come_back(edge: Edge) -> None:
    edge.nullspace.set_rate_limit(2, seconds=30)
    edge.nullspace.clock = lambda: edge.grant.issued_at
    assert [(await edge.ask())[0] for _ in range(2)] == [200, 200]
    edge.nullspace.clock = lambda: edge.grant.issued_at + 10
    status, body, head = await edge.ask()
    assert (status, body["code"], body["retryable"]) == (429, "rate_limit_exceeded", True)
    assert "Retry-After: 20\r\n" in head + "\r\n"
    edge.nullspace.clock = lambda: edge.grant.issued_at + 30
    assert (await edge.ask())[0] == 200
    edge.nullspace.set_rate_limit(0)
    assert (await edge.ask())[0] == 429
    edge.nullspace.set_rate_limit(None)
    assert (await edge.ask())[0] == 200


async def test_the_rate_limit_may_tell_clients_apart(edge: Edge) -> None:
    edge.nullspace.set_rate_limit(1)
    edge.nullspace.switches.rate_limit_by_forwarded_for = True
    asked = [(await edge.ask(f"/?{MARKER}", f"x-forwarded-for: 10.0.0.{n}"))[0] for n in (1, 2, 1)]
    assert asked == [200, 200, 429]


async def test_a_paused_machine_stays_paused_unless_it_resumes_by_itself(edge: Edge) -> None:
    edge.nullspace.pause(MACHINE)
    status, body, head = await edge.ask()
    assert (status, body["code"], body["retryable"]) == (503, "machine_paused_auto_resume_disabled", False)
    assert "Retry-After: 5" in head
    edge.nullspace.add_machine(MACHINE, {3000: edge.dev}, status="paused", auto_resume=True)
    assert await edge.code() == (200, "served")


async def test_a_machine_that_wakes_slowly_is_worth_another_try(edge: Edge) -> None:
    edge.nullspace.add_machine(MACHINE, {3000: edge.dev}, status="paused", auto_resume="slow")
    edge.nullspace.switches.slow_resume_code = "another_name"
    status, body, head = await edge.ask()
    assert (status, body["code"], body["retryable"]) == (503, "another_name", True)
    assert "Retry-After: 5" in head
    edge.nullspace.resume(MACHINE)
    assert await edge.code() == (200, "served")


async def test_an_unreachable_host_and_an_app_that_is_not_there(edge: Edge, free_tcp_port: int) -> None:
    edge.nullspace.unreachable(MACHINE)
    assert await edge.code() == (503, "edge_runtime_host_unreachable")
    edge.nullspace.add_machine(MACHINE, {3000: free_tcp_port})
    assert await edge.code() == (503, "preview_service_not_ready")
    edge.nullspace.add_machine(MACHINE, {})
    assert await edge.code() == (503, "preview_service_not_ready")
    assert edge.grant.last_error is not None


async def test_a_reserved_port_and_an_unknown_host_are_refused(edge: Edge) -> None:
    assert await edge.code(host=edge.host.replace("3000", "22")) == (400, "unsupported_preview_port")
    assert await edge.code(host="example.com") == (404, "not_found")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("destroyed", (404, "machine_not_found")),
        ("creating", (503, "edge_runtime_host_unreachable")),
        ("error", (503, "edge_runtime_host_unreachable")),
    ],
)
async def test_a_machine_that_does_not_run_serves_nothing(edge: Edge, status: Any, expected: tuple[int, str]) -> None:
    edge.nullspace.add_machine(MACHINE, {3000: edge.dev}, status=status)
    assert await edge.code() == expected


async def test_a_status_that_is_only_guessed_can_be_another(edge: Edge) -> None:
    edge.nullspace.switches.statuses = {"preview_proxy_token_missing": 418}
    assert await edge.code(token=None) == (418, "preview_proxy_token_missing")


async def test_mask_request_host_changes_host_alone(edge: Edge) -> None:
    edge.nullspace.add_machine(MACHINE, {3000: edge.dev}, mask_request_host="localhost:${PORT}")
    await edge.ask(f"/?{MARKER}", "x-forwarded-host: a.example")
    assert edge.dev.received[0].values(b"host") == [b"localhost:3000"]
    assert edge.dev.received[0].values(b"x-forwarded-host") == [b"a.example"]


async def test_path_style_urls_are_routed_by_their_path(edge: Edge) -> None:
    edge.nullspace.switches.path_style = True
    host = f"{edge.nullspace.edge_domain}:{edge.nullspace.edge_port}"
    assert (await mint(edge.nullspace))["http_url"] == f"http://{host}/{MACHINE}/3000/?{MARKER}"
    assert await edge.code(f"/{MACHINE}/3000/status/200?{MARKER}", host=host) == (200, "served")
    assert edge.dev.received[0].path == "/status/200"
    assert await edge.code(f"/?{MARKER}", host=host) == (404, "not_found")
