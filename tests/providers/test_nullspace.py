from __future__ import annotations

import json
import socket
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream

from preview_proxy.core.models import Endpoint, Origin, Preview, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import (
    ConfigurationError,
    MachineUnavailable,
    NotFound,
    PortNotAllowed,
    PreviewProxyError,
    ProviderError,
)
from preview_proxy.providers.base import SupportsExplainError
from preview_proxy.providers.nullspace import TOKEN_HEADER, TRAFFIC_HEADER, Nullspace
from preview_proxy.testing import NullspaceEmulator

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
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
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


# --- configuration ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": None}, "either an api_key or a client"),
        ({"client": object()}, "either an api_key or a client"),
        ({"api_key": ""}, "api_key: a credential must be 8 to 8192 bytes"),
        ({"api_key": f"{API_KEY}\n"}, "api_key: a credential must be visible ASCII"),
        ({"base_url": "http://api.nullspace.dev"}, "base_url: the URL must be https"),
        ({"base_url": "http://localhost:3000"}, "allow_insecure_loopback=True"),
        ({"base_url": "https://api.nullspace.dev?x=1"}, "base_url: the URL must have no query"),
        ({"base_url": "https://user:password@api.nullspace.dev"}, "base_url: the URL must be absolute"),
        ({"expires_in": 59}, "60 to 86400"),
        ({"expires_in": 86_401}, "60 to 86400"),
        ({"timeout": 0}, "timeout must be greater than 0"),
        ({"timeout": float("nan")}, "timeout must be greater than 0"),
        ({"domains": "nullspace.dev"}, "domains: give a list"),
        ({"domains": ()}, "domains: give a list"),
        ({"domains": ["*.nullspace.dev"]}, "domains: give a list"),
        ({"domains": ["https://nullspace.dev"]}, "domains: give a list"),
        ({"domains": ["dev"]}, "domains: give a list"),
        ({"traffic_tokens": "short"}, "traffic_tokens: a credential"),
        ({"traffic_tokens": {"mch_1": f"{TRAFFIC_TOKEN} "}}, "traffic_tokens: a credential"),
    ],
)
def test_what_could_not_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Nullspace(**{"api_key": API_KEY, "base_url": "https://api.nullspace.dev"} | options)
    assert message in str(caught.value)
    assert caught.value.__context__ is None
    assert not [canary for canary in (*CANARIES, "password") if canary in str(caught.value)]


def test_without_a_base_url_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NULLSPACE_API_URL", raising=False)
    monkeypatch.delenv("NULLSPACE_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="set NULLSPACE_API_URL"):
        Nullspace(API_KEY)


def test_h19_nothing_that_prints_it_shows_a_secret() -> None:
    nullspace = provider(Api(), traffic_tokens={"mch_1": TRAFFIC_TOKEN})
    assert repr(nullspace) == "Nullspace('https://api.nullspace.dev')"
    shown = repr(vars(nullspace)) + repr(vars(nullspace._mint))
    assert not [canary for canary in CANARIES if canary in shown]


# --- the edge's errors, and the end ---


def test_it_explains_its_edges_errors() -> None:
    nullspace = provider(Api())
    head = ((b"content-type", b"application/json"),)
    assert isinstance(nullspace, SupportsExplainError)
    assert nullspace.may_explain(401, head) and not nullspace.may_explain(404, head)
    error = nullspace.explain_error(401, head, b'{"error": "x", "code": "preview_proxy_token_expired"}')
    assert error is not None and error.code == "preview_proxy_token_expired"
    assert nullspace.explain_error(401, head, b'{"error": "log in first"}') is None


async def test_it_closes_the_transport_it_was_given() -> None:
    class Transport(httpx.MockTransport):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    transport = Transport(Api())
    await Nullspace(API_KEY, base_url="https://api.nullspace.dev", transport=transport).aclose()
    assert transport.closed


async def test_closing_before_the_first_call_is_fine() -> None:
    await Nullspace(API_KEY, base_url="https://api.nullspace.dev").aclose()


# --- against the emulator, over real sockets ---


@pytest.fixture
async def nullspace() -> AsyncIterator[NullspaceEmulator]:
    async with NullspaceEmulator() as emulator:
        emulator.add_machine(PREVIEW.machine, {PREVIEW.port: 9})
        emulator.add_machine("mch_private", {3000: 9}, traffic_token=TRAFFIC_TOKEN)
        yield emulator


@pytest.fixture
async def real(nullspace: NullspaceEmulator) -> AsyncIterator[Nullspace]:
    provider = Nullspace(
        nullspace.api_key,
        base_url=nullspace.api_url,
        domains=[nullspace.edge_domain],
        traffic_tokens={"mch_private": TRAFFIC_TOKEN},
        allow_insecure_loopback=True,
        timeout=5,
    )
    yield provider
    await provider.aclose()


async def test_a_target_is_minted_over_http(nullspace: NullspaceEmulator, real: Nullspace) -> None:
    target = await real.resolve(PREVIEW)
    [(grant_id, grant)] = nullspace.grants.items()
    origin = Origin("http", f"3000-{PREVIEW.machine}.{nullspace.edge_domain}", nullspace.edge_port)
    assert target.id == grant_id
    assert target.expires_at == pytest.approx(grant.expires_at, abs=1)
    for endpoint in (target.http, target.websocket):
        assert endpoint is not None
        assert (endpoint.origin, endpoint.base_path, endpoint.marker) == (origin, b"", MARKER.encode())


async def test_a_private_machine_gets_its_traffic_token(real: Nullspace) -> None:
    target = await real.resolve(Preview("mch_private", 3000))
    assert target.http is not None and target.http.credentials[1] == (TRAFFIC_HEADER.encode(), Secret(TRAFFIC_TOKEN))


async def test_connections_are_kept_for_the_next_mint(nullspace: NullspaceEmulator, real: Nullspace) -> None:
    assert (await real.resolve(PREVIEW)).id != (await real.resolve(PREVIEW)).id
    assert nullspace.mints == 2


async def test_an_unknown_machine_is_not_found(real: Nullspace) -> None:
    with pytest.raises(NotFound) as caught:
        await real.resolve(Preview("mch_gone", 3000))
    assert caught.value.code == "machine_not_found"


async def test_a_wrong_key_is_refused(nullspace: NullspaceEmulator) -> None:
    provider = Nullspace(API_KEY, base_url=nullspace.api_url, allow_insecure_loopback=True)
    with pytest.raises(ProviderError) as caught:
        await provider.resolve(PREVIEW)
    assert caught.value.code == "provider_refused"
    assert_told_nothing(caught.value)
    await provider.aclose()


async def test_p09_an_edge_outside_the_domains_is_refused(nullspace: NullspaceEmulator) -> None:
    provider = Nullspace(nullspace.api_key, base_url=nullspace.api_url, allow_insecure_loopback=True)
    with pytest.raises(ProviderError, match=r"must be under one of: nullspace\.dev"):
        await provider.resolve(PREVIEW)
    await provider.aclose()


async def test_an_api_that_is_not_there_is_a_provider_error(unused_tcp_port_url: str) -> None:
    provider = Nullspace(API_KEY, base_url=unused_tcp_port_url, allow_insecure_loopback=True)
    with pytest.raises(ProviderError, match="ConnectError") as caught:
        await provider.resolve(PREVIEW)
    assert_told_nothing(caught.value)
    await provider.aclose()


@pytest.fixture
def unused_tcp_port_url() -> Iterator[str]:
    """A loopback port that is bound, so that nobody else listens there, and where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_p11_no_proxy_variable_of_the_environment_reroutes_the_key(
    real: Nullspace, unused_tcp_port_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, unused_tcp_port_url)
    assert await real.resolve(PREVIEW)


async def test_an_answer_of_endless_bytes_is_cut_off_and_its_connection_closed() -> None:
    closed = anyio.Event()

    async def flood(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            with suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(b" " * 65536)
        closed.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    provider = Nullspace(API_KEY, base_url=f"http://127.0.0.1:{port}", allow_insecure_loopback=True, timeout=5)
    with anyio.fail_after(5):
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, flood)
            with pytest.raises(ProviderError, match="not a small JSON object"):
                await provider.resolve(PREVIEW)
            await closed.wait()
            group.cancel_scope.cancel()
    await provider.aclose()


async def test_h14_no_secret_is_logged_at_any_level(
    nullspace: NullspaceEmulator, real: Nullspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    for name in ("httpx", "httpcore", "asyncio"):
        caplog.set_level(1, logger=name)
    target = await real.resolve(Preview("mch_private", 3000))
    [grant] = nullspace.grants.values()
    logged = "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert logged, "httpcore logs something at this level"
    for secret in (nullspace.api_key, TRAFFIC_TOKEN, *grant.tokens.values()):
        assert secret not in logged and secret not in repr(target)
