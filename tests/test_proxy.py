"""The ASGI shell: which host goes where, what a ticket is issued for, and servers that are a little odd."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Message, Receive, Scope, Send

from preview_proxy import (
    HostPattern,
    HostTable,
    Preview,
    PreviewProxy,
    PreviewProxyMiddleware,
    Static,
    Tickets,
)
from tests.discretion import records
from tests.test_gate import Door, Upstream, gate_cookie, owner_only
from tests.test_visit import call, scope_of
from tests.world import SECRET

pytestmark = pytest.mark.anyio

HOST = "3000-m1.previews.example"
PREVIEW = Preview("m1", 3000)
APP = "https://app.example"


class Inner:
    """The customer's app: it notes each scope, and answers."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 299, "headers": []})
            await send({"type": "http.response.body", "body": b"the app"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4999})


# --- which host goes where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "host",
    [
        b"app.example",
        b"app.example:8000",
        b"evilpreviews.example",
        b"previews.example.evil.example:1",
        b"3000-m1.previews.example2",
        b"localhost",
        b"127.0.0.1:8000",
        b"[::1]:8000",  # no name, and so no preview's: the app may know what to do with it
        b"",
        b"app.example:port",
    ],
)
async def test_p02_a_host_outside_every_zone_reaches_the_app_untouched(kind: str, host: bytes) -> None:
    door, inner = Door(), Inner()
    scope = scope_of(kind, headers=[(b"x-own", b"1")])
    scope["headers"][0] = (b"host", host)
    before = dict(scope)
    answer = await call(PreviewProxyMiddleware(inner, proxy=door.proxy), scope)
    assert inner.scopes == [scope]
    assert inner.scopes[0] is scope
    assert scope == before
    assert answer.messages[0].get("status", answer.messages[0].get("code")) in (299, 4999)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"previews.example", 421),
        (b"x.previews.example", 421),
        (b"a.3000-m1.previews.example", 421),
        (b"3000-m1.previews.example:8443", 421),
        (b"03000-m1.previews.example", 421),
        (b"0-m1.previews.example", 421),
        (b"65536-m1.previews.example", 421),
        (b"3000-m1.previews.example:", 400),
        (b"3000-m1.previews.example:0", 400),
        (b"3000-m1.previews.example:65536", 400),
        (b"3000-m1.previews.example:x", 400),
        (b"3000-m1.previews.example..", 400),
        (b"user@3000-m1.previews.example", 400),
        (b"3000-m1.previews.example/x", 400),
        (b"3000-m1.previews.example?x", 400),
        (b"3000-m1.previews.example#x", 400),
        (b"3000-m1%2epreviews.example.previews.example", 400),
        (b" 3000-m1.previews.example", 400),
        (b"3000-m1.previews.example, app.example", 400),
        (b"3000-m\xe91.previews.example", 400),
        (b"3000-m1.PREVIEWS.example\x00", 400),
    ],
)
async def test_p02_a_host_of_ours_that_shows_nothing_is_refused_and_never_reaches_the_app(
    kind: str, host: bytes, status: int
) -> None:
    door, inner = Door(), Inner()
    scope = scope_of(kind)
    scope["headers"] = [(b"host", host), *gate_cookie(door.gate())]
    answer = await call(PreviewProxyMiddleware(inner, proxy=door.proxy), scope)
    assert (answer.status, answer.json()["code"]) == (status, {421: "misdirected", 400: "bad_host"}[status])
    assert inner.scopes == []
    assert door.upstream.untouched


@pytest.mark.parametrize("host", [b"3000-m1.previews.example.", b"3000-M1.Previews.EXAMPLE.:443"])
async def test_p01_one_spelling_of_a_host_is_as_good_as_another(host: bytes) -> None:
    door = Door()
    scope = scope_of()
    scope["headers"] = [(b"host", host), *gate_cookie(door.gate())]
    assert (await call(door.proxy, scope)).status == 200


@pytest.mark.parametrize("hosts", [[], [HOST, HOST], [HOST, "app.example"], ["app.example", HOST]])
async def test_p01_there_is_one_host(hosts: list[str]) -> None:
    door, inner = Door(), Inner()
    scope = scope_of()
    scope["headers"] = [(b"host", host.encode()) for host in hosts] + list(gate_cookie(door.gate()))
    for app in (door.proxy, PreviewProxyMiddleware(inner, proxy=door.proxy)):
        answer = await call(app, scope)
        assert (answer.status, answer.json()["code"]) == (400, "bad_host")
    assert inner.scopes == []
    assert door.upstream.untouched


@pytest.mark.parametrize(("host", "status"), [("app.example", 421), ("[::1]", 400), ("", 400)])
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_alone_the_proxy_refuses_what_is_no_previews(kind: str, host: str, status: int) -> None:
    assert (await call(Door().proxy, scope_of(kind, host=host))).status == status


async def test_p03_only_the_host_field_routes() -> None:
    door, inner = Door(), Inner()
    spoofed = [
        (b"x-forwarded-host", HOST.encode()),
        (b"forwarded", b"host=" + HOST.encode()),
        (b"x-original-host", HOST.encode()),
        *gate_cookie(door.gate()),
    ]
    scope = scope_of(host="app.example", headers=spoofed, server=(HOST, 443))
    await call(PreviewProxyMiddleware(inner, proxy=door.proxy), scope)
    assert len(inner.scopes) == 1
    assert door.upstream.untouched


async def test_a_router_that_fails_is_503_and_never_reaches_the_app() -> None:
    async def lookup(host: str) -> Preview | None:
        raise LookupError("canary")

    inner, upstream = Inner(), Upstream()
    proxy = PreviewProxy(
        router=HostTable(lookup),
        provider=upstream,
        authorize=owner_only,
        tickets=Tickets(SECRET, [APP]),
        transport=upstream,
    )
    answer = await call(PreviewProxyMiddleware(inner, proxy=proxy), scope_of(host="app.example"))
    assert (answer.status, answer.json()["code"]) == (503, "check_failed")
    assert inner.scopes == []


async def test_what_the_app_raises_is_the_apps_own() -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await call(PreviewProxyMiddleware(inner, proxy=Door().proxy), scope_of(host="app.example"))


# --- P-07: below a mount -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/pre/x", b"/x"),
        ("/pre", b"/"),
        ("/pre/", b"/"),
        ("/pre//x", b"//x"),
        ("/pre/%2e", b"/%2e"),
        ("/pre%2fx", None),
        ("/p%72e/x", None),
        ("/previewevil", None),
    ],
)
async def test_p07_a_mounts_prefix_is_taken_off_as_raw_bytes(path: str, target: bytes | None) -> None:
    door = Door()
    scope = scope_of(host=HOST, path=path, root_path="/pre", headers=gate_cookie(door.gate()))
    answer = await call(door.proxy, scope)
    if target is None:
        assert (answer.status, answer.json()["code"]) == (400, "bad_target")
        assert door.upstream.untouched
    else:
        assert [request.url.raw_path for request in door.upstream.requests] == [target]


# --- P-22: servers that are a little odd ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_p22_what_a_scope_may_leave_out_is_not_missed(kind: str) -> None:
    door = Door()
    headers = [(b"origin", b"https://" + HOST.encode()), *gate_cookie(door.gate())]
    scope = scope_of(kind, host=HOST, path="/a b", headers=headers, extensions=None, client=None)
    for name in ("raw_path", "server", "subprotocols"):
        scope.pop(name, None)
    answer = await call(door.proxy, scope)
    (request,) = door.upstream.requests
    assert request.url.raw_path == b"/a%20b"
    assert "x-forwarded-for" not in request.headers
    if kind == "websocket":  # upstream said 200, which no server without the extension could pass on
        assert answer.messages == [{"type": "websocket.close", "code": 1008, "reason": ""}]
    else:
        assert answer.status == 200


async def test_p22_a_visitor_may_leave_more_than_once() -> None:
    door = Door()
    headers = [(b"origin", b"https://" + HOST.encode()), (b"content-length", b"10"), *gate_cookie(door.gate())]
    scope = scope_of(host=HOST, method="POST", headers=headers)
    gone: Message = {"type": "http.disconnect"}
    half: Message = {"type": "http.request", "body": b"hello", "more_body": True}
    await call(door.proxy, scope, half, gone, gone, gone)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("fails_at", [1, 2])
@pytest.mark.parametrize(
    ("is_owner", "error"),
    [(True, ConnectionResetError), (False, ConnectionResetError), (False, RuntimeError)],
    ids=["relayed", "refused", "refused, on granian"],
)
async def test_p22_a_send_that_raises_does_not_escape(
    kind: str, fails_at: int, is_owner: bool, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    door = Door()
    headers = [(b"origin", b"https://" + HOST.encode()), *gate_cookie(door.gate() if is_owner else b"")]
    received: list[Message] = []
    sent: list[Message] = []

    async def receive() -> Message:
        if received:
            await anyio.sleep_forever()
        received.append({"type": "websocket.connect" if kind == "websocket" else "http.request"})
        return received[0]

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) >= fails_at:
            raise error  # by the ASGI spec an OSError, after a disconnect

    with anyio.fail_after(5), caplog.at_level(logging.DEBUG):
        await door.proxy(scope_of(kind, host=HOST, headers=headers), receive, send)
    assert len(sent) == fails_at
    assert "Traceback" not in caplog.text
    assert len(records(caplog)) <= 1


def proxy_of(router: Any, *, tickets: Tickets | None = None, authorize: Any = owner_only) -> PreviewProxy:
    return PreviewProxy(
        router=router,
        provider=Static({}),
        authorize=authorize,
        tickets=tickets or Tickets(SECRET, [APP]),
        transport=Upstream(),
    )


PATTERN = HostPattern("{port}-{machine}.previews.example")

# --- what the operator is told ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outside", "named"),
    [
        ([], None),
        ([Middleware(SessionMiddleware, secret_key="s")], "SessionMiddleware"),
        ([Middleware(GZipMiddleware)], "GZipMiddleware"),
        ([Middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))], "BaseHTTP"),
        ([Middleware(TrustedHostMiddleware, allowed_hosts=["*"])], None),
    ],
)
async def test_p23_a_middleware_in_the_wrong_place_is_named_once(
    outside: list[Middleware], named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    app = Starlette(middleware=[*outside, Middleware(PreviewProxyMiddleware, proxy=proxy_of(PATTERN))])
    for host in ("app.example", HOST, HOST):
        await call(app, scope_of(host=host, headers=[(b"accept-encoding", b"gzip")]))
    warnings = [record.getMessage() for record in caplog.records if "Previews are inside of" in record.getMessage()]
    assert len(warnings) == (named is not None)
    assert named is None or named in warnings[0]


async def test_v13_counters_have_a_bounded_set_of_names() -> None:
    proxy = proxy_of(PATTERN)
    for number in range(300):
        await call(proxy, scope_of(host=f"3000-m{number}.previews.example", path=f"/{number}"))
        await call(proxy, scope_of(host=f"x{number}.previews.example"))
        await call(proxy, scope_of("websocket", host=f"3000-m{number}.previews.example"))
    assert proxy.counters() == {"not_signed_in": 600, "misdirected": 300}
