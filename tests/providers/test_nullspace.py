from __future__ import annotations

import json
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx
import pytest

from preview_proxy.core.models import Endpoint, Origin, Preview, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import (
    MachineUnavailable,
    NotFound,
    PortNotAllowed,
    PreviewProxyError,
    ProviderError,
)
from preview_proxy.providers.nullspace import TOKEN_HEADER, TRAFFIC_HEADER, Nullspace

pytestmark = pytest.mark.anyio

API_KEY = "api-key-canary-0123"
HTTP_TOKEN = "http-canary-0123456789"
WEBSOCKET_TOKEN = "websocket-canary-0123"
TRAFFIC_TOKEN = "traffic-canary-012345"
CANARIES = (API_KEY, HTTP_TOKEN, WEBSOCKET_TOKEN, TRAFFIC_TOKEN)
PREVIEW = Preview("mch_a1b2c3d4", 3000)
EDGE = "3000-mch_a1b2c3d4.nullspace.dev"
MARKER = "__ns_preview_transport=header"


def answer(**changes: Any) -> dict[str, Any]:
    """The API's documented answer, with changes; `...` leaves a field out."""
    whole: dict[str, Any] = {
        "grant": {"id": "pvg_0123456789abcdef0123456789abcdef", "status": "active"},
        "machine_id": PREVIEW.machine,
        "port": PREVIEW.port,
        "http_url": f"https://{EDGE}/?{MARKER}",
        "websocket_url": f"wss://{EDGE}/?{MARKER}",
        "http_token": HTTP_TOKEN,
        "websocket_token": WEBSOCKET_TOKEN,
        "token_header_name": "x-nullspace-preview-proxy-token",
        "expires_at": "2026-04-23T12:15:00Z",
        "token_transport": "header",
        "required_forwarded_headers": ["x-forwarded-host", "x-forwarded-proto", "x-forwarded-for"],
        "traffic_access_required": False,
        "warnings": [],
    }
    return {name: value for name, value in (whole | changes).items() if value is not ...}


class Api:
    """An API that records each request and answers with `reply`."""

    def __init__(self, reply: httpx.Response | Exception | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self.reply = reply if reply is not None else httpx.Response(200, json=answer())

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def provider(reply: Callable[[httpx.Request], httpx.Response], **options: Any) -> Nullspace:
    return Nullspace(
        API_KEY, base_url="https://api.nullspace.dev", transport=httpx.MockTransport(reply), timeout=5, **options
    )


async def mint(reply: httpx.Response | Exception, **options: Any) -> Target:
    return await provider(Api(reply), **options).resolve(PREVIEW)


async def failure(reply: httpx.Response | Exception, **options: Any) -> PreviewProxyError:
    with pytest.raises(PreviewProxyError) as caught:
        await mint(reply, **options)
    assert_told_nothing(caught.value)
    return caught.value


def assert_told_nothing(error: BaseException) -> None:
    """No secret is in the exception, nor in what a debugger page would show of it."""
    assert error.__context__ is None and error.__cause__ is None
    own = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    shown = str(error) + "".join(str(f.locals) for f in own if "preview_proxy/providers" in f.filename)
    assert not [canary for canary in CANARIES if canary in shown]


# --- what is sent ---


async def test_the_request_is_as_documented() -> None:
    api = Api()
    await provider(api).resolve(PREVIEW)
    [request] = api.requests
    assert request.method == "POST"
    assert str(request.url) == ("https://api.nullspace.dev/v1/machines/mch_a1b2c3d4/ports/3000/preview-proxy-target")
    assert dict(request.headers.raw)[b"authorization"].decode() == f"Bearer {API_KEY}"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.content) == {"expires_in_seconds": 900}
    assert request.extensions["timeout"] == {"connect": 5, "read": 5, "write": 5, "pool": 5}


async def test_without_a_lifetime_the_deployment_chooses() -> None:
    api = Api()
    await provider(api, expires_in=None).resolve(PREVIEW)
    assert api.requests[0].content == b"{}"


async def test_the_base_url_may_have_a_path() -> None:
    api = Api()
    nullspace = Nullspace(API_KEY, base_url="https://gw.example.com/ns/", transport=httpx.MockTransport(api))
    await nullspace.resolve(PREVIEW)
    assert str(api.requests[0].url).startswith("https://gw.example.com/ns/v1/machines/")


@pytest.mark.parametrize("name", ["NULLSPACE_API_URL", "NULLSPACE_BASE_URL"])
async def test_the_environment_may_name_the_api(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NULLSPACE_API_URL", raising=False)
    monkeypatch.setenv("NULLSPACE_BASE_URL", "https://second.example.com")
    monkeypatch.setenv(name, "https://first.example.com")
    api = Api()
    await Nullspace(Secret(API_KEY), transport=httpx.MockTransport(api)).resolve(PREVIEW)
    assert api.requests[0].url.host == "first.example.com"


@pytest.mark.parametrize("port", [22, 5900, 5950, 5999])
async def test_p19_a_port_of_the_platform_is_refused_without_asking(port: int) -> None:
    api = Api()
    with pytest.raises(PortNotAllowed):
        await provider(api).resolve(Preview("mch_a1b2c3d4", port))
    assert api.requests == []


@pytest.mark.parametrize("port", [21, 23, 80, 443, 5899, 6000])
async def test_p19_the_ports_beside_them_are_not(port: int) -> None:
    api = Api(httpx.Response(200, json=answer(port=port)))
    await provider(api).resolve(Preview("mch_a1b2c3d4", port))
    assert len(api.requests) == 1


# --- what comes back ---


async def test_h12_each_transport_gets_its_own_token() -> None:
    target = await mint(httpx.Response(200, json=answer()))
    origin, marker = Origin("https", EDGE, 443), MARKER.encode()
    assert target == Target(
        "pvg_0123456789abcdef0123456789abcdef",
        Endpoint(origin, b"", marker, ((TOKEN_HEADER.encode(), Secret(HTTP_TOKEN)),)),
        Endpoint(origin, b"", marker, ((TOKEN_HEADER.encode(), Secret(WEBSOCKET_TOKEN)),)),
        1776946500.0,
    )


async def test_new_fields_and_status_201_are_no_trouble() -> None:
    grant = answer()["grant"] | {"new": 1}
    assert await mint(
        httpx.Response(201, json=answer(new={"a": 1}, grant=grant, warnings=..., traffic_access_required=...))
    )


async def test_an_edge_below_a_path_is_taken_as_it_is() -> None:
    changes = {"http_url": f"https://edge.nullspace.dev/m/3000/?{MARKER}"}
    target = await mint(httpx.Response(200, json=answer(**changes)))
    assert target.http is not None and target.http.base_path == b"/m/3000"


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_transport_that_was_not_granted_has_no_endpoint(kind: str) -> None:
    target = await mint(httpx.Response(200, json=answer(**{f"{kind}_url": None, f"{kind}_token": ...})))
    assert getattr(target, kind) is None


@pytest.mark.parametrize(
    "expires_at", ["2026-04-23T12:15:00.123456+00:00", "2026-04-23T14:15:00.1+02:00", "2026-04-23t12:15:00z"]
)
async def test_times_are_read_as_rfc_3339(expires_at: str) -> None:
    target = await mint(httpx.Response(200, json=answer(expires_at=expires_at)))
    assert target.expires_at == pytest.approx(1776946500.0, abs=1)


BAD_ANSWERS: dict[str, list[object]] = {
    "machine_id": ["mch_other", None, 1, ...],
    "port": [3001, "3000", None, ...],
    "token_header_name": ["x-evil", None, ..., ["x-nullspace-preview-proxy-token"]],
    "token_transport": ["query", None, ...],
    "http_token": [None, ..., "", "short", 7, f"{HTTP_TOKEN}\r\nx: y", f"{HTTP_TOKEN}é"],
    "websocket_token": [None, "a b c d e f"],
    "http_url": [
        None,
        7,
        "",
        f"http://{EDGE}/",
        "https://nullspace.dev.evil.example/",
        "https://evilnullspace.dev/",
        f"https://evil@{EDGE}/",
        f"https://{EDGE}/#x",
        f"https://{EDGE}:8443/",
        "https://127.0.0.1/",
        "https://[::1]/",
        f"https://{EDGE}/?edge_token=abc",
        f"https://{EDGE}/?{MARKER}&EDGE%5Ftoken=abc",
        f"https://{EDGE}/?t={HTTP_TOKEN}",
        f"https://{EDGE}/{HTTP_TOKEN}",
    ],
    "websocket_url": [f"ws://{EDGE}/", 7],
    "expires_at": [None, ..., 1776946500, "soon", "2026-04-23", "2026-04-23T12:15:00", "1" * 5000, "9" * 30],
    "grant": [None, ..., "pvg", {}, {"id": 7}, {"id": "a\nb"}, {"id": "x" * 65}],
    "traffic_access_required": [True, "yes", 1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD_ANSWERS.items() for value in values]
)
async def test_an_answer_amiss_in_what_we_use_is_refused(field: str, value: object) -> None:
    error = await failure(httpx.Response(200, json=answer(**{field: value})))
    assert (type(error), error.code) == (ProviderError, "provider_failed")
    assert error.detail.startswith("the API's answer cannot be used: ") and len(error.detail) < 300


async def test_an_answer_without_any_url_is_refused() -> None:
    nothing = dict.fromkeys(("http_url", "http_token", "websocket_url", "websocket_token"))
    assert "no URL" in (await failure(httpx.Response(200, json=answer(**nothing)))).detail


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, content=b"[]"),
        httpx.Response(200, content=b"{}"),
        httpx.Response(200, content=b"\xff" * 100),
        httpx.Response(200, content=b"[" * 60_000),
        httpx.Response(200, content=json.dumps(answer(padding="x" * 65_536))),
        httpx.Response(204),
        httpx.Response(302, headers={"location": "https://evil.example/"}),
        httpx.Response(500, content=b"oops"),
        httpx.ConnectError(API_KEY),
        httpx.RemoteProtocolError(API_KEY),
        ValueError(API_KEY),
    ],
    ids=lambda reply: repr(reply)[:40],
)
async def test_everything_else_is_a_provider_error(reply: httpx.Response | Exception) -> None:
    assert type(await failure(reply)) is ProviderError


async def test_an_answer_that_is_encoded_unasked_is_refused() -> None:
    reply = httpx.Response(
        200, headers={"content-encoding": "br"}, stream=httpx.ByteStream(json.dumps(answer()).encode())
    )
    assert type(await failure(reply)) is ProviderError


async def test_r06_a_redirect_is_not_followed() -> None:
    api = Api(httpx.Response(307, headers={"location": "https://evil.example/"}))
    with pytest.raises(ProviderError):
        await provider(api).resolve(PREVIEW)
    assert len(api.requests) == 1


async def test_no_more_than_64_kib_are_read() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1024
            yield b" " * 1024

    with anyio.fail_after(5):
        assert type(await failure(httpx.Response(200, content=endless()))) is ProviderError
    assert read <= 66 * 1024


@pytest.mark.parametrize(
    "error", [httpx.ConnectTimeout("x"), httpx.ReadTimeout("x"), httpx.PoolTimeout("x"), TimeoutError()]
)
async def test_a_timeout_is_told_as_one(error: Exception) -> None:
    assert (await failure(error)).code == "provider_timeout"


async def test_the_whole_call_has_one_deadline() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    nullspace = Nullspace(
        API_KEY, base_url="https://api.nullspace.dev", transport=httpx.MockTransport(never), timeout=0.02
    )
    with anyio.fail_after(5), pytest.raises(ProviderError) as caught:
        await nullspace.resolve(PREVIEW)
    assert caught.value.code == "provider_timeout"
    assert_told_nothing(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "kind", "retry_after"),
    [
        (401, "unauthorized", ProviderError, None),
        (404, "machine_not_found", NotFound, None),
        (400, "unsupported_preview_port", PortNotAllowed, None),
        (429, "rate_limit_exceeded", ProviderError, 12),
        (503, "machine_paused_auto_resume_disabled", MachineUnavailable, 12),
    ],
)
async def test_an_error_of_the_api_keeps_its_meaning(
    status: int, code: str, kind: type, retry_after: int | None
) -> None:
    reply = httpx.Response(status, json={"error": "words", "code": code}, headers={"Retry-After": "12"})
    error = await failure(reply)
    assert (type(error), error.retry_after) == (kind, retry_after)


# --- machines that refuse public traffic ---

PRIVATE = answer(traffic_access_required=True)


@pytest.mark.parametrize("tokens", [TRAFFIC_TOKEN, {PREVIEW.machine: TRAFFIC_TOKEN}])
async def test_both_transports_carry_the_traffic_token(tokens: str | dict[str, str]) -> None:
    target = await mint(httpx.Response(200, json=PRIVATE), traffic_tokens=tokens)
    for endpoint in (target.http, target.websocket):
        assert endpoint is not None and endpoint.credentials[1] == (TRAFFIC_HEADER.encode(), Secret(TRAFFIC_TOKEN))


async def test_a_traffic_token_may_come_later() -> None:
    tokens: dict[str, str] = {}
    nullspace = provider(Api(httpx.Response(200, json=PRIVATE)), traffic_tokens=tokens)
    with pytest.raises(ProviderError, match=r"Nullspace\(traffic_tokens="):
        await nullspace.resolve(PREVIEW)
    tokens[PREVIEW.machine] = TRAFFIC_TOKEN
    assert await nullspace.resolve(PREVIEW)


@pytest.mark.parametrize("tokens", [None, {"mch_other": TRAFFIC_TOKEN}])
async def test_a_missing_traffic_token_says_what_to_do(tokens: dict[str, str] | None) -> None:
    error = await failure(httpx.Response(200, json=PRIVATE), traffic_tokens=tokens)
    assert "traffic_tokens" in error.detail


async def test_a_traffic_token_is_sent_only_where_it_is_required() -> None:
    target = await mint(httpx.Response(200, json=answer()), traffic_tokens=TRAFFIC_TOKEN)
    assert target.http is not None and len(target.http.credentials) == 1


async def test_the_answer_may_name_the_traffic_header() -> None:
    reply = httpx.Response(200, json=PRIVATE | {"traffic_access_header_name": "x-nullspace-traffic-2"})
    target = await mint(reply, traffic_tokens=TRAFFIC_TOKEN)
    assert target.http is not None and target.http.credentials[1][0] == b"x-nullspace-traffic-2"


@pytest.mark.parametrize("name", ["host", "Cookie", "x-nullspace-a\r\nb", TOKEN_HEADER, 7, ["x"]])
async def test_but_not_a_header_outside_its_namespace(name: object) -> None:
    reply = httpx.Response(200, json=PRIVATE | {"traffic_access_header_name": name})
    assert "traffic_access_header_name" in (await failure(reply, traffic_tokens=TRAFFIC_TOKEN)).detail
