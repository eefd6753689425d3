"""Daytona: what is asked of its API, what its edge says, and what both come to for a visitor."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest

from preview_proxy import Provider
from preview_proxy.core.models import Endpoint, Origin, Preview, RawHeaders
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, MachineUnavailable, NotFound, PortNotAllowed, PreviewProxyError
from preview_proxy.providers.daytona import INSTRUCTIONS, RESERVED_PORTS, Daytona
from preview_proxy.providers.daytona_errors import EDGE_ERRORS
from preview_proxy.testing import DaytonaEmulator, DevServer, EdgeFailure, ProviderContract
from tests.front import NAVIGATION, front
from tests.transports.test_relay_websocket import dial
from tests.vendors import daytona_provider

pytestmark = pytest.mark.anyio

SANDBOX = "0ddba11-5eed"
PREVIEW = Preview(SANDBOX, 3000)
DOMAIN = "daytona.localhost"
JSON: RawHeaders = ((b"content-type", b"application/json"),)
SILENCE: RawHeaders = ((b"content-length", b"0"),)


def edge_says(status: int, code: str, **changes: Any) -> bytes:
    envelope = {"statusCode": status, "message": "not for visitors", "code": code, "source": "DAYTONA_PROXY"}
    return json.dumps(envelope | changes).encode()


def former(status: int, code: str, message: str) -> bytes:
    """The same before errors named their source."""
    where = {"timestamp": "2026-04-23T12:00:00Z", "path": "/", "method": "GET"}
    return json.dumps({"statusCode": status, "message": message, "code": code, **where}).encode()


def login(redirect_uri: str) -> RawHeaders:
    query = f"response_type=code&redirect_uri={quote(redirect_uri, safe='')}&code_challenge=c"
    return (
        (b"location", f"https://login.daytona.invalid/authorize?{query}".encode()),
        (b"set-cookie", b"pkce_verifier=v"),
    )


# Every answer that the edge is documented or known by its source to give, and what it is here.
FAILURES = [
    EdgeFailure(307, login(f"https://{DOMAIN}/callback"), b"", "preview_proxy_token_invalid"),
    EdgeFailure(307, login(f"https://proxy.{DOMAIN}:4000/callback"), b"", "preview_proxy_token_invalid"),
    EdgeFailure(400, JSON, edge_says(400, "SANDBOX_NOT_STARTED"), "machine_paused_auto_resume_disabled"),
    EdgeFailure(401, JSON, edge_says(401, "UNAUTHORIZED"), "preview_proxy_token_invalid"),
    EdgeFailure(403, JSON, edge_says(403, "FORBIDDEN"), "provider_refused"),
    EdgeFailure(404, JSON, edge_says(404, "SANDBOX_NOT_FOUND"), "machine_not_found"),
    EdgeFailure(404, JSON, edge_says(404, "NOT_FOUND"), "machine_not_found"),
    EdgeFailure(500, JSON, edge_says(500, "RUNNER_UNREACHABLE"), "edge_runtime_host_unreachable"),
    EdgeFailure(502, JSON, edge_says(502, "RUNNER_UNREACHABLE"), "edge_runtime_host_unreachable"),
    EdgeFailure(502, SILENCE, b"", "preview_service_not_ready"),
    EdgeFailure(
        503,
        ((b"content-type", b"text/html; charset=utf-8"), (b"retry-after", b"5")),
        b"<!DOCTYPE html><html><head><title>Sandbox Starting...</title></head></html>",
        "edge_runtime_host_unreachable",
    ),
    EdgeFailure(
        400,
        JSON,
        former(400, "BAD_REQUEST", "bad request: no IP address found. Is the Sandbox started?"),
        "machine_paused_auto_resume_disabled",
    ),
    EdgeFailure(400, JSON, former(400, "BAD_REQUEST", "bad request: 404 Not Found"), "edge_runtime_host_unreachable"),
    EdgeFailure(401, JSON, former(401, "UNAUTHORIZED", "unauthorized"), "preview_proxy_token_invalid"),
    EdgeFailure(404, JSON, former(404, "NOT_FOUND", "not found"), "machine_not_found"),
]


class TestDaytona(ProviderContract):
    preview = PREVIEW
    unknown = Preview("gone", 3000)
    closed_ports = RESERVED_PORTS
    edge_failures = FAILURES

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        async with DaytonaEmulator() as daytona:
            daytona.add_sandbox(SANDBOX, {3000: 9})
            self.secrets = [daytona.api_key]
            yield daytona_provider(daytona, transport=transport, timeout=timeout)


# --- the API ---


async def test_a_target_has_the_token_and_tells_the_edge_what_to_leave_out() -> None:
    async with DaytonaEmulator() as daytona:
        sandbox = daytona.add_sandbox(SANDBOX, {3000: 9})
        async with aclosing(daytona_provider(daytona)) as asking:
            target = await asking.resolve(PREVIEW)
        origin = Origin("http", f"3000-{SANDBOX}.{DOMAIN}", daytona.edge_port)
        credential = (b"x-daytona-preview-token", Secret(sandbox.token))
        assert target.http == target.websocket == Endpoint(origin, credentials=(credential,), instructions=INSTRUCTIONS)
        assert (target.id, target.expires_at) == (f"{SANDBOX}:3000", None)
        assert daytona.api_requests == [("GET", f"/api/sandbox/{SANDBOX}/ports/3000/preview-url", None)]


@pytest.mark.parametrize(
    "changes",
    [
        {"sandboxId": "another"},
        {"url": f"https://3001-{SANDBOX}.{DOMAIN}"},
        {"url": f"https://3000-{SANDBOX}.evil.example"},
        {"url": f"http://3000-{SANDBOX}.proxy.daytona.work"},
        {"token": "short"},
        {"token": None},
        {"url": None},
    ],
)
async def test_h16_an_answer_for_something_else_is_refused(changes: dict[str, Any]) -> None:
    answer = {"sandboxId": SANDBOX, "url": f"https://3000-{SANDBOX}.{DOMAIN}", "token": "canary-0123456789", **changes}
    far = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
    with pytest.raises(PreviewProxyError) as caught:
        await Daytona("key-0123456789", domains=[DOMAIN], transport=far).resolve(PREVIEW)
    assert caught.value.detail.startswith("the API's answer cannot be used")
    assert "canary" not in caught.value.detail


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either an api_key or a client"),
        ({"api_key": "key-0123456789", "base_url": "http://app.daytona.io/api"}, "base_url: the URL must be https"),
        ({"api_key": "key-0123456789", "domains": ["https://x.example"]}, "domains: give a list"),
        ({"api_key": "key-0123456789", "timeout": 0}, "timeout must be"),
        ({"api_key": "short"}, "api_key: a credential must be"),
    ],
)
def test_what_could_not_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Daytona(**options)


async def test_waking_starts_a_sandbox_and_waits_until_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preview_proxy.providers.daytona.WAKE_INTERVAL", 0)
    async with DaytonaEmulator() as daytona:
        sandbox = daytona.add_sandbox(SANDBOX, {3000: 9}, state="stopped")
        before = sandbox.token
        async with aclosing(daytona_provider(daytona)) as waking:
            await waking.wake(PREVIEW)
            assert (sandbox.state, sandbox.token == before) == ("started", False)
            await waking.wake(PREVIEW)  # it runs already
            daytona.refuse_start = True
            sandbox.state = "starting"
            with anyio.move_on_after(0.05):
                await waking.wake(PREVIEW)
                pytest.fail("it does not run yet")
            sandbox.state = "error"
            with pytest.raises(MachineUnavailable):
                await waking.wake(PREVIEW)
            with pytest.raises(NotFound):
                await waking.wake(Preview("gone", 3000))


async def test_a_sandbox_that_is_deleted_while_it_starts_is_not_found() -> None:
    gone = {"statusCode": 404, "message": "Sandbox not found"}
    far = httpx.MockTransport(
        lambda request: httpx.Response(200, json={}) if request.method == "POST" else httpx.Response(404, json=gone)
    )
    with anyio.fail_after(5), pytest.raises(NotFound):
        await Daytona("key-0123456789", transport=far).wake(PREVIEW)


def test_its_textual_form_is_the_apis_address() -> None:
    assert repr(Daytona("key-0123456789")) == "Daytona('https://app.daytona.io')"


# --- the edge ---


def test_every_code_is_in_the_table_of_failures() -> None:
    known = {json.loads(body)["code"] for _, headers, body, _ in FAILURES if headers == JSON}
    assert known == set(EDGE_ERRORS)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (307, ((b"location", b"/login"),), b""),
        (307, login("https://app.example/callback"), b""),
        (307, login(f"https://{DOMAIN}.evil.example/callback"), b""),
        (307, ((b"location", b"http://[::1"),), b""),
        (302, login(f"https://{DOMAIN}/callback"), b""),
        (404, JSON, b'{"statusCode": 404, "message": "Cannot GET /x", "error": "Not Found"}'),
        (404, JSON, edge_says(400, "NOT_FOUND")),
        (404, JSON, edge_says(404, "SOMETHING_ELSE")),
        (404, JSON, b'{"statusCode": 404, "message": "x", "code": "NOT_FOUND", "path": "/"}'),
        (502, ((b"content-length", b"11"),), b"bad gateway"),
        (502, ((b"content-length", b"0"), (b"content-type", b"text/html")), b"x"),
        (503, ((b"content-type", b"text/html"),), b"<title>Sandbox for rent</title>"),
    ],
)
def test_what_is_not_the_edges_is_the_apps(status: int, headers: RawHeaders, body: bytes) -> None:
    daytona = Daytona("key-0123456789", domains=[DOMAIN])
    assert not (daytona.may_explain(status, headers) and daytona.explain_error(status, headers, body))


@pytest.mark.parametrize("port", sorted(RESERVED_PORTS))
async def test_the_platforms_own_ports_are_never_shown(port: int) -> None:
    with pytest.raises(PortNotAllowed):
        await Daytona("key-0123456789").resolve(Preview(SANDBOX, port))


# --- through the proxy ---


async def test_a_page_and_a_socket_go_through_and_the_token_does_not() -> None:
    async with DevServer() as dev, DaytonaEmulator() as daytona:
        sandbox = daytona.add_sandbox(SANDBOX, {3000: dev})
        async with front(daytona_provider(daytona), PREVIEW) as visitor:
            answer = await visitor.get(headers={**NAVIGATION, "x-daytona-preview-token": "spoofed-0123"})
            assert answer.status == 200
            assert not answer.values(b"access-control-allow-origin")
            async with dial(visitor) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
    assert [request.verdict for request in daytona.edge_requests] == ["served", "served"]
    for received in dev.received:
        assert received.values(b"host") == [b"localhost:3000"]
        assert not [name for name, _ in received.headers if name.lower().startswith(b"x-daytona-pre")]
    assert sandbox.token.encode() not in answer.body
    assert len(daytona.api_requests) == 1


@pytest.mark.parametrize("login", [True, False])
async def test_a_restart_is_one_mint_and_the_visitor_notices_nothing(login: bool) -> None:
    async with DevServer() as dev, DaytonaEmulator(login=login) as daytona:
        daytona.add_sandbox(SANDBOX, {3000: dev})
        async with front(daytona_provider(daytona), PREVIEW) as visitor:
            assert await visitor.code() == (200, "")
            daytona.start(SANDBOX)
            visitor.later(60)
            assert await visitor.code(headers=NAVIGATION) == (200, "")
            async with dial(visitor) as socket:
                await socket.send("again")
                assert await socket.recv() == "again"
    assert len(daytona.api_requests) == 2


async def test_the_login_never_reaches_the_browser() -> None:
    async with DevServer() as dev, DaytonaEmulator() as daytona:
        daytona.add_sandbox(SANDBOX, {3000: dev})
        async with front(daytona_provider(daytona), PREVIEW) as visitor:
            await visitor.code()
            daytona.start(SANDBOX)  # within half a minute of the mint
            answer = await visitor.get(headers=NAVIGATION)
    assert (answer.status, answer.values(b"location"), answer.values(b"set-cookie")) == (502, [], [])
    assert answer.values(b"x-preview-proxy-error") == [b"preview_proxy_token_invalid"]


@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize(
    ("case", "status", "code"),
    [
        ("stopped", 503, "machine_paused_auto_resume_disabled"),
        ("removed", 404, "machine_not_found"),
        ("not listening", 503, "preview_service_not_ready"),
    ],
)
async def test_each_failure_of_the_edge_costs_no_further_call(case: str, status: int, code: str, coded: bool) -> None:
    async with DaytonaEmulator(coded=coded) as daytona:
        daytona.add_sandbox(SANDBOX, {})
        async with front(daytona_provider(daytona), PREVIEW) as visitor:
            await visitor.code()
            if case == "stopped":
                daytona.stop(SANDBOX)
            elif case == "removed":
                del daytona.sandboxes[SANDBOX]
            for _ in range(3):
                assert await visitor.code(headers=NAVIGATION) == (status, code)
    assert len(daytona.api_requests) == 1
