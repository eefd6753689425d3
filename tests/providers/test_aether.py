from __future__ import annotations

import io
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from preview_proxy import Provider
from preview_proxy.core.models import HiddenOrigin, Preview
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, NotFound, ProviderError
from preview_proxy.providers.aether import PREFIX_LENGTH, TARGET_LIFETIME, Aether
from preview_proxy.providers.base import SupportsExplainError
from preview_proxy.testing import AetherEmulator, DevServer, EdgeFailure, ProviderContract, Request, Response
from preview_proxy.testing.aether import ROUTING_CACHE
from tests.front import Front, front
from tests.transports.test_relay_websocket import dial
from tests.vendors import aether_provider

pytestmark = pytest.mark.anyio

TOKEN = "canary0123456789"
PROJECT = "abc12345-6789-4def"
PREVIEW = Preview(PROJECT, 3000)
HOST = f"3000-abc12345-{TOKEN}.preview.runaether.dev"


class TestAether(ProviderContract):
    preview = PREVIEW
    unknown = Preview("short", 3000)
    secrets = (TOKEN,)
    edge_failures = (
        EdgeFailure(502, (), b"", "preview_service_not_ready"),
        EdgeFailure(502, ((b"content-type", b"text/plain"),), b"Bad Gateway\n", "preview_service_not_ready"),
        EdgeFailure(504, ((b"content-type", b"text/html"),), b"504 Gateway Timeout", "edge_runtime_host_unreachable"),
    )

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        yield Aether({PROJECT: TOKEN})


async def test_the_address_is_port_prefix_and_token() -> None:
    target = await Aether({PROJECT: TOKEN}).resolve(PREVIEW)
    assert target.id == "3000-abc12345"
    assert target.http is not None and target.websocket == target.http
    assert target.http.origin == HiddenOrigin("https", HOST, 443, Secret(TOKEN))
    assert target.http.credentials == ((b"host", Secret(HOST)),)


async def test_h14_the_host_is_in_no_textual_form() -> None:
    aether = Aether({PROJECT: TOKEN})
    target = await aether.resolve(PREVIEW)
    assert target.http is not None
    for shown in (aether, vars(aether), target, target.http, target.http.origin):
        assert TOKEN not in repr(shown) + str(shown)
    assert str(target.http.origin) == "https://hidden.invalid"


async def test_a_token_may_be_replaced_at_any_time() -> None:
    tokens = {PROJECT: TOKEN}
    aether = Aether(tokens)
    tokens[PROJECT] = "replacement0123"
    target = await aether.resolve(PREVIEW)
    assert target.http is not None and target.http.origin.host.startswith("3000-abc12345-replacement0123.")
    assert target.expires_at == pytest.approx(time.time() + TARGET_LIFETIME, abs=5)


@pytest.mark.parametrize("token", ["", "short", "UPPER0123456789", "with-dash-01234", "a.b.c.d.e.f", "x" * 45])
async def test_a_project_without_a_usable_token_is_refused(token: str) -> None:
    tokens: dict[str, str] = {}
    aether = Aether(tokens)
    tokens[PROJECT] = token
    with pytest.raises(ProviderError) as caught:
        await aether.resolve(PREVIEW)
    assert caught.value.code == "provider_refused"
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("machine", ["abc", "abc-1234", "a.b.c.d.e"])
async def test_what_is_no_project_id_is_not_found(machine: str) -> None:
    with pytest.raises(NotFound) as caught:
        await Aether({machine: TOKEN}).resolve(Preview(machine, 3000))
    assert caught.value.code == "machine_not_found"


async def test_the_longest_label_fits_a_host_name() -> None:
    target = await Aether({PROJECT: "t" * 44}).resolve(Preview(PROJECT, 65535))
    assert target.http is not None
    assert len(target.http.origin.host.partition(".")[0]) == 5 + 1 + PREFIX_LENGTH + 1 + 44


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": {PROJECT: "CANARY-NOT-A-LABEL"}}, "tokens: each must be"),
        ({"edge_url": "http://preview.runaether.dev"}, "edge_url: the URL must be https"),
        ({"edge_url": "https://preview.runaether.dev/path"}, "edge_url: the URL must have no path"),
        ({"edge_url": "https://preview.runaether.dev/?a=b"}, "edge_url: the URL must have no path"),
        ({"edge_url": "preview.runaether.dev"}, "edge_url: the URL must be absolute"),
        ({"edge_url": "https://" + ".".join(["long" * 12] * 4)}, "room for one more label"),
    ],
)
def test_what_could_not_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Aether(**{"tokens": {}} | options)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code"), [(502, "preview_service_not_ready"), (504, "edge_runtime_host_unreachable")]
)
@pytest.mark.parametrize("form", ["", "{phrase}", "{status} {phrase}\n", "\r\n"])
def test_a_bare_failure_is_the_gateway_s(status: int, code: str, form: str) -> None:
    aether = Aether({})
    assert isinstance(aether, SupportsExplainError)
    body = form.format(status=status, phrase={502: "Bad Gateway", 504: "gateway timeout"}[status]).encode()
    error = aether.explain_error(status, (), body)
    assert error is not None
    assert (error.code, error.retry_after) == (code, 5)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503, 504])
def test_any_other_failure_is_the_app_s(status: int) -> None:
    assert Aether({}).may_explain(status, ())
    assert Aether({}).explain_error(status, (), b'{"error": "the app has its own reasons"}') is None


def test_what_is_no_failure_or_has_no_end_is_not_read() -> None:
    assert not Aether({}).may_explain(200, ())
    assert not Aether({}).may_explain(307, ())
    assert not Aether({}).may_explain(500, ((b"content-type", b"Text/Event-Stream; charset=utf-8"),))


# --- through the proxy ---


@contextmanager
def every_log() -> Iterator[io.StringIO]:
    """All loggers at DEBUG."""
    text, root = io.StringIO(), logging.getLogger()
    handler, before = logging.StreamHandler(text), root.level
    handler.addFilter(lambda record: not record.name.startswith("websockets"))  # the visitor's own
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.setLevel(before)
        root.removeHandler(handler)


@asynccontextmanager
async def gateway(**options: Any) -> AsyncIterator[tuple[AetherEmulator, DevServer, Front]]:
    """A visitor of an app whose answers say where it is served, in every place there is."""
    async with DevServer() as dev, AetherEmulator() as aether:
        host = f"3000-abc12345-{TOKEN}.{aether.edge_domain}:{aether.edge_port}"

        @dev.route("/telltale")
        async def telltale(request: Request, response: Response) -> None:
            fields = [
                ("Location", f"http://{host}/next"),
                ("Content-Security-Policy", f"connect-src ws://{host}"),
                ("Set-Cookie", f"a=1; Domain={host}"),
                ("Set-Cookie", f"home={host}"),
                ("X-Served-By", host),
                ("Link", f"<http://5173-abc12345-{TOKEN}.{aether.edge_domain}/x>; rel=next"),
            ]
            await response.send(302, fields)

        @dev.route("/broken")
        async def broken(request: Request, response: Response) -> None:
            await response.send(500, [("Content-Type", "text/plain")], f"no route to {host}".encode())

        aether.add_workspace(PROJECT, {3000: dev}, token=TOKEN)
        async with front(aether_provider(aether, {PROJECT: TOKEN}), PREVIEW, **options) as visitor:
            yield aether, dev, visitor


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_page_and_a_socket_go_through_and_the_app_sees_localhost(foreign: bool) -> None:
    transport = httpx.AsyncHTTPTransport(trust_env=False) if foreign else None
    async with gateway(transport=transport) as (aether, dev, visitor):
        answer = await visitor.get()
        assert answer.status == 200
        assert answer.values(b"access-control-allow-origin") == [b"*"]  # the gateway's
        async with dial(visitor) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
    assert [request.verdict for request in aether.edge_requests] == ["served", "served"]
    assert {value for received in dev.received for value in received.values(b"host")} == {b"localhost:3000"}


async def test_h14_the_address_reaches_no_browser_and_no_log() -> None:
    with every_log() as log:
        async with gateway() as (_, _, visitor):
            answer = await visitor.get("/telltale")
            assert answer.values(b"location") == [f"http://{visitor.host}/next".encode()]
            assert answer.values(b"content-security-policy")[0] == f"connect-src ws://{visitor.host}".encode()
            assert [cookie.split(b";")[0] for cookie in answer.values(b"set-cookie")] == [b"a=1"]
            assert not answer.values(b"x-served-by") and not answer.values(b"link")
            assert await visitor.code("/broken") == (502, "provider_failed")
            answers = [answer, await visitor.get("/broken"), await visitor.get("/missing")]
    for answer in answers:
        assert TOKEN.encode() not in answer.body + b"".join(name + value for name, value in answer.headers)
    assert "repeats the credential" in log.getvalue() and TOKEN not in log.getvalue()


@pytest.mark.parametrize(
    ("case", "status", "code"),
    [
        ("not listening", 503, "preview_service_not_ready"),
        ("stopped", 503, "edge_runtime_host_unreachable"),
        ("token", 502, "provider_failed"),
        ("gone", 502, "provider_failed"),
        ("gateway gone", 502, "upstream_unreachable"),
    ],
)
async def test_h14_each_failure_of_the_gateway_is_told_without_its_host(case: str, status: int, code: str) -> None:
    with every_log() as log:
        async with AetherEmulator() as aether:
            provider = aether_provider(aether, {PROJECT: TOKEN})
            if case != "gone":
                aether.add_workspace(PROJECT, {}, token=TOKEN if case != "token" else "another0123456").running = (
                    case != "stopped"
                )
            if case == "gateway gone":
                provider = Aether({PROJECT: TOKEN}, edge_url="http://x.localhost:1", allow_insecure_loopback=True)
            async with front(provider, PREVIEW) as visitor:
                answer = await visitor.get()
                with pytest.raises(InvalidStatus):
                    async with dial(visitor):
                        pytest.fail("it opened")
    assert (answer.status, answer.values(b"x-preview-proxy-error")) == (status, [code.encode()])
    assert TOKEN.encode() not in answer.body
    assert TOKEN not in log.getvalue()


async def test_a_token_that_was_replaced_is_used_within_a_minute() -> None:
    async with DevServer() as dev, AetherEmulator() as aether:
        tokens = {PROJECT: TOKEN}
        aether.add_workspace(PROJECT, {3000: dev}, token=TOKEN)
        provider = aether_provider(aether, tokens)
        async with front(provider, PREVIEW) as visitor:
            assert await visitor.code() == (200, "")
            tokens[PROJECT] = aether.workspaces["abc12345"].token = "replacement0123"
            visitor.later(TARGET_LIFETIME)
            assert await visitor.code() == (200, "")


async def test_a_project_made_anew_is_seen_once_the_gateway_has_forgotten_the_old_one() -> None:
    now = 1_000_000.0
    async with DevServer() as dev, AetherEmulator() as aether:
        aether.clock = lambda: now
        aether.add_workspace(PROJECT, {}, token=TOKEN)
        provider = aether_provider(aether, {PROJECT: TOKEN})
        async with front(provider, PREVIEW) as visitor:
            assert await visitor.code() == (503, "preview_service_not_ready")
            aether.add_workspace(PROJECT, {3000: dev}, token=TOKEN)
            assert await visitor.code() == (503, "preview_service_not_ready")
            now += ROUTING_CACHE
            assert await visitor.code() == (200, "")
