"""HTTP through the whole stack: what upstream gets, and what the visitor gets, byte for byte."""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import Any

import anyio
import httpx
import pytest

from preview_proxy import Policy, live
from preview_proxy.core.policy import ADDED_HEADERS
from preview_proxy.testing import Request, Response
from tests.world import HOST, OWNER, World, read_answer, world

pytestmark = pytest.mark.anyio


async def test_a_request_arrives_as_sent_with_our_facts_added(w: World) -> None:
    answer = await w.get(
        "/echo?a=1&&b=%2F&c",
        headers={"X-Own": "caf\xe9", "Accept": "*/*", "Cookie": f"x=1; pp-development={w.gate}; y=2"},
    )
    assert answer.status == 200
    received = w.dev.received[-1]
    assert received.target == b"/echo?a=1&&b=%2F&c"
    edge = w.nullspace.edge_requests[-1]
    assert edge.target == b"/echo?a=1&&b=%2F&c&__ns_preview_transport=header"
    fields = {name.lower(): value for name, value in received.headers}
    assert fields == {
        b"host": f"{HOST.replace('preview', 'nullspace')}:{w.nullspace.edge_port}".encode(),
        b"x-own": b"caf\xe9",
        b"accept": b"*/*",
        b"cookie": b"x=1; y=2",
        b"x-forwarded-host": w.host.encode(),
        b"x-forwarded-proto": b"http",
        b"x-forwarded-for": b"127.0.0.1",
    }


@pytest.mark.parametrize(
    "target",
    ["/", "/a/../b", "/%2e%2e/x", "//evil.example/x", "/a%2fb", "/a//b", "/;x", "/%zz", "/[id]", "/%5Bid%5D", "/a@b:c",
     "/?", "/?a=1&a=2&b&c=%20+&d=%2F&&e=", "/x?y?z", "/@vite/client", "/~x!$&'()*+,=",
     "/.well-known%2fpreview-proxy/check"],
)  # fmt: skip
async def test_p05_the_target_is_forwarded_byte_for_byte(w: World, target: str) -> None:
    await w.get(target)
    query = target.partition("?")[2]
    separator = "&" if query else "?" if "?" not in target else ""
    assert w.nullspace.edge_requests[-1].target == f"{target}{separator}__ns_preview_transport=header".encode()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY", "PURGE"])
async def test_a_body_goes_up_with_any_method(w: World, method: str) -> None:
    headers = {"Content-Length": "5", "Origin": w.origin, "Content-Type": "text/x-own"}
    request = w.request("/body", method=method, headers=headers)
    answer = await w.raw(request + b"hello", method=method)
    assert (answer.status, answer.body) == (200, b"hello")
    received = w.dev.received[-1]
    assert (received.method, received.values(b"content-length")) == (method.encode(), [b"5"])


async def test_p14_a_chunked_upload_stays_chunked(w: World) -> None:
    request = w.request("/body", method="POST", headers={"Transfer-Encoding": "chunked", "Origin": w.origin})
    answer = await w.raw(request + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert answer.body == b"abcde"
    assert w.dev.received[-1].values(b"transfer-encoding") == [b"chunked"]


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "TRACK", "trace"])
async def test_p12_tunnels_and_echoes_are_refused(w: World, method: str) -> None:
    before = len(w.nullspace.edge_requests)
    answer = await w.raw(w.request(w.host if method == "CONNECT" else "/", method=method))
    assert answer.status in (400, 405)
    assert len(w.nullspace.edge_requests) == before


async def test_head_keeps_the_length_and_sends_no_body(w: World) -> None:
    answer = await w.get("/bytes/1234", method="HEAD")
    assert (answer.status, answer.values(b"content-length"), answer.body) == (200, [b"1234"], b"")


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_r14_bodiless_statuses_have_neither_body_nor_length(w: World, status: int) -> None:
    @w.dev.route("/hostile")
    async def hostile(request: Request, response: Response) -> None:
        await response.raw(
            b'HTTP/1.1 %d X\r\nETag: "v1"\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello' % status
        )

    answer = await w.get("/hostile")
    assert (answer.status, answer.body, answer.complete) == (status, b"", True)
    assert answer.values(b"content-length") in ([], [b"0"])
    assert answer.values(b"etag") == [b'"v1"']


async def test_r12_an_encoded_body_is_relayed_as_it_is(w: World) -> None:
    @w.dev.route("/gz")
    async def gz(request: Request, response: Response) -> None:
        await response.send(206, [("content-encoding", "gzip"), ("content-range", "bytes 0-3/9")], b"\x1f\x8b\x00\xff")

    answer = await w.get("/gz", headers={"Range": "bytes=0-3"})
    assert (answer.status, answer.body) == (206, b"\x1f\x8b\x00\xff")
    assert answer.values(b"content-encoding") == [b"gzip"]
    assert w.dev.received[-1].values(b"range") == [b"bytes=0-3"]
    assert w.dev.received[-1].values(b"accept-encoding") == []


async def test_r07_every_set_cookie_is_kept_apart_and_ours_are_dropped(w: World) -> None:
    @w.dev.route("/cookies")
    async def cookies(request: Request, response: Response) -> None:
        fields = [("set-cookie", "a=1; Path=/; Domain=nullspace.localhost"), ("set-cookie", "b=2"),
                  ("set-cookie", "pp-development=x"), ("set-cookie", "__Host-Http-pp=x; Path=/; Secure")]  # fmt: skip
        await response.send(200, fields, b"")

    answer = await w.get("/cookies")
    assert answer.values(b"set-cookie") == [
        b"a=1; Path=/; Secure; SameSite=None; Partitioned",
        b"b=2; Secure; SameSite=None; Partitioned",
    ]


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("/login?next=%2F", "/login?next=%2F"),
        ("https://elsewhere.example/x?y", "https://elsewhere.example/x?y"),
        ("http://{upstream}/in?a=1&__ns_preview_transport=header", "{public}/in?a=1"),
        ("//{upstream}/in", "{public}/in"),
        ("http://localhost:3000/in", "{public}/in"),
        ("http://0.0.0.0:3000", "{public}/"),
    ],
)
async def test_r05_redirects_point_at_the_public_host(w: World, location: str, seen: str) -> None:
    upstream = f"{HOST.replace('preview', 'nullspace')}:{w.nullspace.edge_port}"

    @w.dev.route("/redirect")
    async def redirect(request: Request, response: Response) -> None:
        await response.send(302, [("location", location.format(upstream=upstream))], b"")

    answer = await w.get("/redirect")
    assert answer.status == 302
    assert answer.values(b"location") == [seen.format(public=w.origin).encode()]


async def test_r06_a_redirect_is_the_browsers_to_follow(w: World) -> None:
    asked: list[str] = []

    @w.dev.route("/moved")
    async def moved(request: Request, response: Response) -> None:
        await response.send(302, [("Location", f"http://127.0.0.1:{w.dev.port}/elsewhere")])

    @w.dev.route("/elsewhere")
    async def elsewhere(request: Request, response: Response) -> None:
        asked.append("elsewhere")

    answer = await w.get("/moved")
    assert (answer.status, answer.values(b"location")) == (302, [b"http://127.0.0.1:%d/elsewhere" % w.dev.port])
    assert asked == []


async def test_r09_the_edges_own_cookie_stays_here(w: World) -> None:
    w.nullspace.switches.continuation_cookie = "__ns_preview"
    answer = await w.get("/echo")
    assert (answer.status, answer.values(b"set-cookie")) == (200, [])


async def test_p08_only_the_mapped_host_is_dialled(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[tuple[object, object]] = []
    lookup = socket.getaddrinfo

    def noted(host: object, port: object, *args: Any, **kwargs: Any) -> Any:
        dialled.append((host, port))
        return lookup(host, port, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    spoofed = {
        "X-Forwarded-Host": "evil.example",
        "Forwarded": "host=evil.example",
        "X-Original-URL": "http://evil.example/",
    }
    for target in ("//evil.example/x", "/@evil.example", "/\\evil.example", "/?url=http://evil.example"):
        assert (await w.get(target, headers=spoofed)).status in (200, 404)
    ours = {w.port, w.nullspace.edge_port, int(w.nullspace.api_url.rpartition(":")[2]), w.dev.port}
    assert {host for host, port in dialled if port not in ours} == set()
    assert {host for host, _ in dialled} <= {"127.0.0.1", b"127.0.0.1"}


async def test_r11_what_the_sandbox_leaves_out_is_added_on_the_wire(w: World) -> None:
    @w.dev.route("/bare")
    async def bare(request: Request, response: Response) -> None:
        await response.send(200, [("Referrer-Policy", "no-referrer"), ("Content-Type", "text/html")], b"x")

    answer = await w.get("/bare")
    assert answer.values(b"referrer-policy") == [b"no-referrer"]
    for name, value in ADDED_HEADERS.items():
        if name != "Referrer-Policy":
            assert answer.values(name.lower().encode()) == [value.encode()]


async def test_a11_the_machine_is_told_who_looks_where_the_operator_asks_for_it() -> None:
    async with world(policy=Policy(send_user=True)) as w:
        await w.get("/echo", headers={"X-Preview-User": "root"})
        assert w.dev.received[-1].values(b"x-preview-user") == [OWNER.encode()]


async def test_r02_a_page_cannot_ask_for_a_password(w: World) -> None:
    @w.dev.route("/private")
    async def private(request: Request, response: Response) -> None:
        await response.send(401, [("WWW-Authenticate", 'Basic realm="Acme"')], b"no")

    page = await w.get("/private", headers={"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"})
    assert (page.status, page.values(b"www-authenticate")) == (401, [])
    assert (await w.get("/private")).values(b"www-authenticate") == [b'Basic realm="Acme"']


async def test_v13_relays_and_refusals_are_counted() -> None:
    async with world() as w:
        before = Counter(w.proxy.counters())
        for _ in range(3):
            await w.get("/")
        await w.get("/", headers={"Cookie": ""})
        assert Counter(w.proxy.counters()) - before == {"http": 3, "not_signed_in": 1}


async def test_one_date_and_one_server(w: World) -> None:
    @w.dev.route("/dated")
    async def dated(request: Request, response: Response) -> None:
        await response.send(200, [("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("server", "sandbox")], b"x")

    answer = await w.get("/dated")
    assert len(answer.values(b"date")) == len(answer.values(b"server")) == 1
    assert answer.values(b"server") != [b"sandbox"]


async def test_server_sent_events_arrive_one_by_one(w: World) -> None:
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            await stream.send(w.request("/sse"))
            await w.dev.wait_for(lambda dev: any(r.path == "/sse" for r in dev.received))
            seen = b""
            for number in range(3):
                w.dev.emit(f"tick {number}")
                while f"tick {number}".encode() not in seen:
                    seen += await stream.receive()
        await w.dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_the_app_answers_its_own_errors(w: World) -> None:
    for status in (400, 401, 403, 404, 418, 500, 502, 503):
        answer = await w.get(f"/status/{status}")
        assert answer.status == status
        assert answer.values(b"x-preview-proxy-error") == []


async def test_a_connection_serves_several_requests(w: World) -> None:
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            for number in range(3):
                await stream.send(w.request(f"/echo?{number}"))
                answer = await read_answer(stream)
                assert json.loads(answer.body)["target"] == f"/echo?{number}"


async def test_r01_hop_by_hop_and_nominated_fields_stop_here(w: World) -> None:
    @w.dev.route("/hop")
    async def hop(request: Request, response: Response) -> None:
        fields = [("connection", "x-gone"), ("x-gone", "1"), ("keep-alive", "timeout=9"), ("x-stays", "1")]
        await response.send(200, fields, b"")

    headers = {"Connection": "x-own, x-forwarded-host, cookie", "X-Own": "1", "TE": "trailers", "X-Kept": "1"}
    answer = await w.get("/hop", headers=headers)
    received = {name.lower() for name, _ in w.dev.received[-1].headers}
    assert b"x-own" not in received
    assert b"te" not in received
    assert {b"x-kept", b"x-forwarded-host"} <= received
    assert answer.values(b"x-gone") == answer.values(b"keep-alive") == []
    assert answer.values(b"x-stays") == [b"1"]


async def test_a_visitor_who_leaves_while_the_edge_explains_keeps_no_place() -> None:
    async with world() as w:

        @w.dev.route("/half")
        async def half(request: Request, response: Response) -> None:
            head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            await response.raw(head + b"1\r\n{\r\n")
            await anyio.sleep_forever()

        async with await anyio.connect_tcp("127.0.0.1", w.port) as visitor:
            await visitor.send(w.request("/half"))
            await w.dev.wait_for(lambda dev: any(asked.path == "/half" for asked in dev.received))
        with anyio.fail_after(5):
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_a_whole_response_gives_a_foreign_connection_back() -> None:
    transport = httpx.AsyncHTTPTransport(trust_env=False)
    async with world(transport=transport) as w:

        @w.dev.route("/pauses")
        async def pauses(request: Request, response: Response) -> None:
            await response.start(200, [("content-type", "text/plain")])
            await response.write(b"a")
            await anyio.sleep(3 * live.PATIENCE)  # until the visitor is watched
            await response.write(b"b")

        for _ in range(2):
            assert (await w.get("/pauses")).body == b"ab"
        with anyio.fail_after(5):
            while not all(connection.is_idle() for connection in transport._pool.connections):
                await anyio.lowlevel.checkpoint()
        assert len(transport._pool.connections) == 1
