"""E2B: where its token comes from, what its edge says, and what both come to for a visitor."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from preview_proxy import Provider
from preview_proxy.core.models import Endpoint, Origin, Preview, RawHeaders
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, NotFound, PortNotAllowed, PreviewProxyError
from preview_proxy.providers.e2b import E2B, EDGE_ERRORS, RESERVED_PORTS
from preview_proxy.testing import DevServer, E2BEmulator, EdgeFailure, ProviderContract
from tests.front import BROWSER, NAVIGATION, front
from tests.transports.test_relay_websocket import dial
from tests.vendors import e2b_provider

pytestmark = pytest.mark.anyio

SANDBOX = "i0ddba115eed"
PREVIEW = Preview(SANDBOX, 3000)
CONNECT = ("POST", f"/v2/sandboxes/{SANDBOX}/connect", {"timeout": 300})
TOKEN = "canary-0123456789"
JSON: RawHeaders = ((b"content-type", b"application/json; charset=utf-8"),)
PAGE: RawHeaders = ((b"content-type", b"text/html; charset=utf-8"),)


def edge_says(status: int, message: object, **changes: Any) -> bytes:
    return json.dumps({"sandboxId": SANDBOX, "message": message, "code": status} | changes).encode()


def page(title: str) -> bytes:
    return f'<html lang="en">\n<head>\n    <title>{title}</title>\n{" " * 4000}</head></html>'.encode()


MESSAGES = {
    "Missing Traffic Access Token": "Token header 'e2b-traffic-access-token' is missing",
    "Invalid Traffic Access Token": "Provided token in header 'e2b-traffic-access-token' is invalid",
    "Unable to Resume Sandbox": "This sandbox can't be resumed with the credentials provided.",
    "Sandbox Paused": "The sandbox is paused",
    "Sandbox Still Transitioning": "The sandbox is still transitioning. Try again in a moment.",
    "Sandbox Snapshot In Progress": "Sandbox snapshot is currently being created",
    "Too Many Connections": "The sandbox has too many concurrent incoming connections (limit: 9)",
    "Sandbox Limit Reached": "Sandbox limit reached",
    "Sandbox Not Found": "The sandbox was not found",
    "Closed Port Error": "The sandbox is running but port is not open",
}
FAILURES = [
    EdgeFailure(status, headers, body, code)
    for status, _, title, _, code in EDGE_ERRORS
    for headers, body in ((JSON, edge_says(status, MESSAGES[title])), (PAGE, page(title)))
]


class TestE2B(ProviderContract):
    preview = PREVIEW
    unknown = Preview("gone", 3000)
    closed_ports = RESERVED_PORTS
    edge_failures = FAILURES

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        async with E2BEmulator() as e2b:
            e2b.add_sandbox(SANDBOX, {3000: 9})
            self.secrets = [e2b.api_key]
            yield e2b_provider(e2b, transport=transport, timeout=timeout)


# --- the token ---


async def test_a_token_that_is_known_costs_no_call_and_wakes_nothing() -> None:
    tokens: dict[str, str] = {}
    async with E2BEmulator() as e2b, aclosing(e2b_provider(e2b, tokens=tokens)) as asking:
        tokens[SANDBOX] = TOKEN
        target = await asking.resolve(PREVIEW)
        origin = Origin("http", f"3000-{SANDBOX}.e2b.localhost", e2b.edge_port)
        endpoint = Endpoint(origin, credentials=((b"e2b-traffic-access-token", Secret(TOKEN)),))
        assert target.http == target.websocket == endpoint
        assert (target.id, target.expires_at) == (f"{SANDBOX}:3000", None)
        assert e2b.api_requests == []


async def test_any_other_comes_from_connecting() -> None:
    async with E2BEmulator() as e2b, aclosing(e2b_provider(e2b, lifetime=60)) as asking:
        sandbox = e2b.add_sandbox(SANDBOX, {3000: 9})
        e2b.set_state(SANDBOX, "paused")
        target = await asking.resolve(PREVIEW)
        assert target.http is not None and sandbox.token is not None
        assert target.http.credentials == ((b"e2b-traffic-access-token", Secret(sandbox.token)),)
        assert e2b.api_requests == [(*CONNECT[:2], {"timeout": 60})]
        assert sandbox.state == "running"


async def test_a_public_sandbox_has_no_credential() -> None:
    async with E2BEmulator() as e2b, aclosing(e2b_provider(e2b)) as asking:
        e2b.add_sandbox(SANDBOX, {3000: 9}, public=True)
        target = await asking.resolve(PREVIEW)
        assert target.http is not None and target.http.credentials == ()


async def test_waking_connects() -> None:
    async with E2BEmulator() as e2b, aclosing(e2b_provider(e2b, tokens={SANDBOX: TOKEN})) as waking:
        sandbox = e2b.add_sandbox(SANDBOX, {3000: 9})
        e2b.set_state(SANDBOX, "paused")
        await waking.wake(PREVIEW)
        assert sandbox.state == "running"
        with pytest.raises(NotFound):
            await waking.wake(Preview("gone", 3000))


@pytest.mark.parametrize(
    "changes", [{"sandboxID": "another"}, {"domain": "evil.example"}, {"trafficAccessToken": 7}, {"sandboxID": None}]
)
async def test_h16_an_answer_for_something_else_is_refused(changes: dict[str, Any]) -> None:
    answer = {"sandboxID": SANDBOX, "domain": "e2b.app", "trafficAccessToken": TOKEN, **changes}
    far = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
    with pytest.raises(PreviewProxyError) as caught:
        await E2B("key-0123456789", transport=far).resolve(PREVIEW)
    assert caught.value.detail.startswith("the API's answer cannot be used")
    assert TOKEN not in caught.value.detail


@pytest.mark.parametrize("machine", ["UPPER", "a.b", "x" * 58])
async def test_what_no_label_could_carry_is_not_found(machine: str) -> None:
    with pytest.raises(NotFound):
        await E2B("key-0123456789", tokens={machine: TOKEN}).resolve(Preview(machine, 3000))


async def test_the_platforms_own_port_is_never_shown() -> None:
    with pytest.raises(PortNotAllowed):
        await E2B("key-0123456789", tokens={SANDBOX: TOKEN}).resolve(Preview(SANDBOX, 49983))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": "short"}, "api_key: a credential must be"),
        ({"base_url": "http://api.e2b.app"}, "base_url: the URL must be https"),
        ({"edge_url": "https://e2b.app/path"}, "edge_url: the URL must have no path"),
        ({"tokens": {SANDBOX: "short"}}, "tokens: a credential must be"),
        ({"lifetime": 0}, "lifetime must be at least 1 second"),
        ({"timeout": 0}, "timeout must be"),
    ],
)
def test_what_could_not_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        E2B(**{"api_key": "key-0123456789"} | options)


# --- the edge ---


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (502, JSON, b'{"message": "The sandbox was not found", "code": 502}'),
        (502, JSON, edge_says(404, "The sandbox was not found")),
        (403, JSON, edge_says(403, "The sandbox was not found")),
        (403, PAGE, page("Sandbox Not Found")),
        (502, PAGE, b" " * 1024 + page("Sandbox Not Found")),
        (502, ((b"content-type", b"text/plain"),), edge_says(502, "The sandbox was not found")),
        (502, (*JSON, (b"content-encoding", b"gzip")), edge_says(502, "The sandbox was not found")),
        (200, JSON, edge_says(200, "The sandbox was not found")),
        (502, JSON, edge_says(502, "not for you", sandboxId=7)),
        (502, JSON, edge_says(502, ["The sandbox was not found"])),
    ],
)
def test_what_is_not_the_edges_is_the_apps(status: int, headers: RawHeaders, body: bytes) -> None:
    e2b = E2B("key-0123456789")
    assert not (e2b.may_explain(status, headers) and e2b.explain_error(status, headers, body))


# --- through the proxy ---


async def test_a_page_and_a_socket_go_through() -> None:
    async with DevServer() as dev, E2BEmulator() as e2b:
        e2b.add_sandbox(SANDBOX, {3000: dev})
        async with front(e2b_provider(e2b), PREVIEW) as visitor:
            assert await visitor.code(headers={**NAVIGATION, "e2b-traffic-access-token": "spoofed-0123"}) == (200, "")
            async with dial(visitor) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
    assert [request.verdict for request in e2b.edge_requests] == ["served", "served"]
    assert e2b.api_requests == [CONNECT]


async def test_the_app_may_see_another_host() -> None:
    async with DevServer() as dev, E2BEmulator() as e2b:
        e2b.add_sandbox(SANDBOX, {3000: dev}, mask="localhost:${PORT}")
        async with front(e2b_provider(e2b), PREVIEW) as visitor:
            assert await visitor.code() == (200, "")
    assert dev.received[0].values(b"host") == [b"localhost:3000"]


@pytest.mark.parametrize("headers", [{}, BROWSER, NAVIGATION, {**BROWSER, "Sec-Fetch-Mode": "cors"}])
@pytest.mark.parametrize(
    ("state", "status", "code"),
    [
        ("paused", 503, "machine_paused_auto_resume_disabled"),
        ("Sandbox Paused", 503, "machine_paused_auto_resume_disabled"),
        ("Sandbox Still Transitioning", 503, "edge_runtime_host_unreachable"),
        ("Sandbox Snapshot In Progress", 503, "edge_runtime_host_unreachable"),
        ("Too Many Connections", 429, "rate_limit_exceeded"),
        ("Sandbox Limit Reached", 429, "rate_limit_exceeded"),
        ("running", 503, "preview_service_not_ready"),
        ("removed", 503, "machine_paused_auto_resume_disabled"),
    ],
)
async def test_each_failure_of_the_edge_costs_no_further_call(
    state: str, status: int, code: str, headers: dict[str, str]
) -> None:
    async with E2BEmulator() as e2b:
        e2b.add_sandbox(SANDBOX, {})
        async with front(e2b_provider(e2b), PREVIEW) as visitor:
            await visitor.code()
            if state == "removed":
                del e2b.sandboxes[SANDBOX]
            else:
                e2b.set_state(SANDBOX, state)
            for _ in range(2):
                answer = await visitor.get(headers=headers)
                assert (answer.status, answer.values(b"x-preview-proxy-error")) == (status, [code.encode()])
                assert answer.values(b"retry-after") == [b"5"]
    assert e2b.api_requests == [CONNECT]


@pytest.mark.parametrize(("auto_resume", "state"), [(False, "running"), (True, "paused")])
async def test_a_token_that_does_not_hold_is_read_anew_once_in_half_a_minute(auto_resume: bool, state: str) -> None:
    async with DevServer() as dev, E2BEmulator() as e2b:
        sandbox = e2b.add_sandbox(SANDBOX, {3000: dev}, auto_resume=auto_resume)
        async with front(e2b_provider(e2b), PREVIEW) as visitor:
            assert await visitor.code() == (200, "")
            sandbox.token = "another-token-0123"  # as for a sandbox of the same name that was made anew
            e2b.set_state(SANDBOX, state)
            assert await visitor.code(headers=NAVIGATION) == (502, "preview_proxy_token_invalid")
            visitor.later(60)
            assert await visitor.code(headers=NAVIGATION) == (200, "")
    assert e2b.api_requests == [CONNECT, CONNECT]


async def test_a_sandbox_that_is_closed_to_the_public_later_is_asked_for_its_token() -> None:
    async with DevServer() as dev, E2BEmulator() as e2b:
        sandbox = e2b.add_sandbox(SANDBOX, {3000: dev}, public=True)
        async with front(e2b_provider(e2b), PREVIEW) as visitor:
            assert await visitor.code() == (200, "")
            sandbox.token = "a-token-since-then"
            visitor.later(60)
            assert await visitor.code() == (200, "")
    assert [request.verdict for request in e2b.edge_requests] == ["served", "Missing Traffic Access Token", "served"]
