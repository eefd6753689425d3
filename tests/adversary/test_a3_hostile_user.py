"""A3, a hostile user: a valid session and an arbitrary HTTP client, after other machines, our credentials and SSRF."""

from __future__ import annotations

from typing import Literal

import anyio
import pytest

from preview_proxy import Limits, Preview, Session, Tickets
from preview_proxy.core.models import Origin
from tests.discretion import says_nothing, secrets_of
from tests.world import EMBEDDER, MACHINE, OWNER, SECRET, ZONE, World

pytestmark = pytest.mark.anyio

Kind = Literal["http", "websocket"]
LIMITS = Limits(header_count=60, header_bytes=8000, path_bytes=1000, query_bytes=2000, body_bytes=5000)

UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
           "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip


def ask(w: World, kind: str, path: str = "/echo", **fields: str) -> bytes:
    """A request, or a handshake, of the owner's own page with more `fields`, "_" in their names standing for "-"."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    own = {"Origin": w.origin, **(UPGRADE if kind == "websocket" else {}), **headers}
    return w.request(path if kind == "http" else "/ws", headers=own)


async def seen(w: World, kind: str, request: bytes) -> list[tuple[bytes, bytes]]:
    """The fields with which a request arrives at the edge."""
    async with w.connected() as stream:
        await stream.send(request)
        assert (await stream.receive()).startswith(b"HTTP/1.1 101 " if kind == "websocket" else b"HTTP/1.1 200 ")
    asked = w.nullspace.edge_requests[-1]
    return [(name.lower(), value) for name, value in asked.headers]


BOTH = pytest.mark.parametrize("kind", ["http", "websocket"])

RESERVED = [
    "X-Nullspace-Preview-Proxy-Token", "x-nullspace-traffic-access-token", "X-NULLSPACE-ANYTHING",
    "X-Blaxel-Preview-Token", "X-BL-Anything", "X-OC-Preview-Token", "X-Daytona-Preview-Token",
    "E2B-Traffic-Access-Token", "CF-Access-Jwt-Assertion", "CF-Connecting-IP", "True-Client-IP", "X-Real-IP",
    "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-User", "X-Forwarded-Uri", "Forwarded",
    "Via", "X-Original-URL", "X-Original-Host", "X-Rewrite-URL", "X-Envoy-Original-Path", "X-Amzn-Oidc-Data",
    "X-Middleware-Subrequest", "X-HTTP-Method-Override", "X-Goog-IAP-JWT-Assertion", "X-MS-Client-Principal",
    "X-Auth-Request-User", "X-Pomerium-Jwt-Assertion", "X-Client-Cert", "SSL-Client-Verify", "Remote-User",
    "Tailscale-User-Login", "Proxy-Authorization", "Keep-Alive", "TE", "Trailer", "HTTP2-Settings",
]  # fmt: skip


@BOTH
async def test_h03_h04_h09_no_name_of_ours_or_of_a_provider_arrives_from_a_visitor(w: World, kind: str) -> None:
    """Nor any that somebody reads as such a name, with "_" or "." for "-"."""
    for start in range(0, len(RESERVED), 12):
        names = RESERVED[start : start + 12]
        twins = [name.replace("-", twin) for name in names for twin in "_."] + [name.swapcase() for name in names]
        lines = "".join(f"{name}: canary\r\n" for name in (*names, *twins))
        fields = await seen(w, kind, ask(w, kind)[:-2] + lines.encode() + b"\r\n")
        assert not [name for name, value in fields if b"canary" in value]
        for ours in (b"x-nullspace-preview-proxy-token", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-for"):
            assert [name for name, _ in fields].count(ours) == 1
        assert dict(fields)[b"x-forwarded-host"] == w.host.encode()


@BOTH
async def test_h09_the_visitors_address_is_the_servers_to_say(w: World, kind: str) -> None:
    """uvicorn believes its own computer, where these requests come from; `--forwarded-allow-ips` is the operator's."""
    fields = await seen(w, kind, ask(w, kind, X_Forwarded_For="203.0.113.7, 203.0.113.8"))
    believed = b"203.0.113.8" if w.server in ("httptools", "h11") else b"127.0.0.1"
    assert [value for name, value in fields if name == b"x-forwarded-for"] == [believed]


@BOTH
async def test_h05_no_connection_field_takes_ours_away(w: World, kind: str) -> None:
    nominated = "close, x-nullspace-preview-proxy-token, x-forwarded-host, cookie, x-own"
    if kind == "websocket":
        nominated = nominated.replace("close", "Upgrade")
    # with two such fields uvicorn sees no upgrade
    for more in ("", "\r\nConnection: x-own") if kind == "http" else ("",):
        fields = await seen(w, kind, ask(w, kind, Connection=nominated + more, X_Own="canary"))
        names = [name for name, _ in fields]
        assert {b"x-nullspace-preview-proxy-token", b"x-forwarded-host"} <= set(names)
        if w.server != "nginx":  # which has dropped the list, and with it the wish
            assert b"x-own" not in names


@BOTH
async def test_h06_h07_the_gate_never_arrives_wherever_it_stands(w: World, kind: str) -> None:
    gate = f"pp-development={w.gate}"
    for cookies in (f"{gate}; a=1; b=2", f"a=1; {gate}; b=2", f"a=1; b=2; {gate}", f"a=1;{gate};b=2"):
        fields = await seen(w, kind, ask(w, kind, Cookie=cookies))
        assert [value for name, value in fields if name == b"cookie"] == [b"a=1; b=2"]
    if w.server == "nginx":
        return  # it joins them itself
    fields = await seen(w, kind, ask(w, kind, Cookie=f"a=1\r\nCookie: {gate}\r\nCookie: b=2"))
    assert [value for name, value in fields if name == b"cookie"] == [b"a=1; b=2"]


@BOTH
async def test_h12_h13_one_token_of_the_right_kind_and_none_in_the_target(
    w: World, kind: Literal["http", "websocket"]
) -> None:
    await seen(w, kind, ask(w, kind))
    asked = w.nullspace.edge_requests[-1]
    [token] = asked.values(b"x-nullspace-preview-proxy-token")
    assert any(grant.tokens[kind] == token.decode() for grant in w.nullspace.grants.values())
    assert not [secret for secret in secrets_of(w)[:-1] if secret.encode() in asked.target]


@pytest.mark.parametrize(
    "parameter",
    ["__ns_preview_transport=query", "%5f%5fns_preview_transport=query", "__NS_Preview_Transport=x", "edge_token",
     "edge_token=canary", "edge%5ftoken=canary", "bl_preview_token=canary", "DAYTONA_SANDBOX_AUTH_KEY=canary"],
)  # fmt: skip
async def test_h17_reserved_parameters_go_and_the_rest_stays_as_it_is(w: World, parameter: str) -> None:
    assert (await w.get(f"/echo?a=1&{parameter}&&b=%2F&a=2&=&{parameter}")).status == 200
    assert w.nullspace.edge_requests[-1].target == b"/echo?a=1&&b=%2F&a=2&=&__ns_preview_transport=header"


@pytest.mark.parametrize(
    "target",
    ["//evil.example/x", "/@evil.example/x", "/a/../../b", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2f",
     "/\\evil.example", "/;@evil.example", "/a//b", "/%zz", "/%00", "/%0d%0aX-Own:%20canary",
     "/?url=http://169.254.169.254/", "/:443/x",
     "/.well-known%2fpreview-proxy/check", "/%2ewell-known/preview-proxy/check"],
)  # fmt: skip
async def test_p05_p08_a_target_goes_to_the_machine_byte_for_byte_and_nowhere_else(w: World, target: str) -> None:
    before = len(w.nullspace.edge_requests)
    answer = await w.get(target)
    if w.server == "nginx" and answer.status == 400:  # it refuses what leads out of "/", or is no encoding
        assert len(w.nullspace.edge_requests) == before
        return
    [asked] = w.nullspace.edge_requests[before:]
    separator = "&" if "?" in target else "?"
    assert asked.target == f"{target}{separator}__ns_preview_transport=header".encode()
    assert asked.host == f"3000-{MACHINE}.nullspace.localhost:{w.nullspace.edge_port}"


@BOTH
async def test_p03_a12_other_machines_are_neither_shown_nor_told_of(w: World, kind: str) -> None:
    """By their own host with a gate of ours, or by whatever a visitor may say about the host."""
    w.nullspace.add_machine("mch_of_eve", {3000: w.dev})
    before = len(w.nullspace.edge_requests), w.nullspace.mints
    bodies = []
    for label in ("3000-mch_of_eve", "3000-mch_unknown"):
        host = f"{label}.{ZONE}:{w.port}"
        for gate, status in ((w.gate, 401), (_gate(w, label), 404)):
            request = ask(w, kind, Host=host, Origin=f"http://{host}", Cookie=f"pp-development={gate}")
            answer = await w.raw(request)
            assert answer.status == status
            says_nothing(answer, w)
        bodies.append({**answer.json(), "request_id": ""})
    assert bodies[0] == bodies[1]
    assert (len(w.nullspace.edge_requests), w.nullspace.mints) == before
    for name in ("X-Forwarded-Host", "X-Host", "X-Original-Host", "Forwarded"):
        value = f"3000-mch_of_eve.{ZONE}:{w.port}"
        fields = await seen(w, kind, ask(w, kind, **{name: f"host={value}" if name == "Forwarded" else value}))
        assert dict(fields)[b"host"].startswith(f"3000-{MACHINE}.".encode())


def _gate(w: World, label: str) -> str:
    """A gate of the owner's, correctly signed, for a preview that is not theirs."""
    port, _, machine = label.partition("-")
    origin = Origin.parse(f"http://{label}.{ZONE}:{w.port}")
    gate, _ = Tickets(SECRET, [EMBEDDER]).gate(
        origin=origin, preview=Preview(machine, int(port)), session=Session(OWNER)
    )
    return gate


async def test_p18_the_largest_that_fits_passes_and_one_more_does_not(w: World) -> None:
    length = {"Content-Length": "5000", "Origin": w.origin}
    assert (await w.get("/" + "x" * 999)).status == 404
    assert (await w.get("/" + "x" * 1000)).code == "target_too_long"
    assert (await w.get("/echo?" + "x" * 2000)).status == 200
    assert (await w.get("/echo?" + "x" * 2001)).code == "target_too_long"
    own = 3 if w.server == "nginx" else 2  # Host, Cookie and what nginx adds
    assert (await w.get("/echo", headers={f"X-{n}": "x" for n in range(60 - own)})).status == 200
    assert (await w.get("/echo", headers={f"X-{n}": "x" for n in range(61 - own)})).code == "headers_too_large"
    assert (await w.get("/echo", headers={"X-Own": "x" * 8000})).code == "headers_too_large"
    assert (await w.raw(w.request("/body", method="POST", headers=length) + b"x" * 5000)).body == b"x" * 5000
    head = w.request("/body", method="POST", headers={**length, "Content-Length": "5001"})
    assert (await w.raw(head + b"x" * 5001)).status == 413
    chunked = w.request("/body", method="POST", headers={"Transfer-Encoding": "chunked", "Origin": w.origin})
    answer = await w.raw(chunked + b"1389\r\n" + b"x" * 5001 + b"\r\n0\r\n\r\n")
    assert answer.status == 413 or not answer.complete


@pytest.mark.parametrize("declared", ["3", "10"])
async def test_p14_a_body_is_as_long_as_it_says_or_broken(w: World, declared: str) -> None:
    before = len(w.dev.received)
    head = w.request("/body", method="POST", headers={"Content-Length": declared, "Origin": w.origin})
    async with w.connected() as stream:
        await stream.send(head + b"abcdefg")
        await stream.send_eof()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            while True:
                await stream.receive()
    for received in w.dev.received[before:]:
        assert received.body == (b"abc" if received.complete else b"abcdefg"[: len(received.body)])
        assert declared == "3" or not received.complete


async def test_w03_subprotocols_are_names_and_not_too_many(w: World) -> None:
    """A name that is none, or too many, arrives at nobody; ours and providers' never do."""
    for offer in ("vite-hmr, bearer.canary", "vite-hmr"):
        fields = dict(await seen(w, "websocket", ask(w, "websocket", Sec_WebSocket_Protocol=offer)))
        assert fields[b"sec-websocket-protocol"].startswith(b"vite-hmr")
    for offer in (", ".join(f"p{number}" for number in range(17)), "x" * 1025, "a b"):
        before = len(w.nullspace.edge_requests)
        async with w.connected() as stream:
            await stream.send(ask(w, "websocket", Sec_WebSocket_Protocol=offer))
            await stream.receive()
        for asked in w.nullspace.edge_requests[before:]:
            offered = b", ".join(asked.values(b"sec-websocket-protocol"))
            assert len(offered) <= 1024 and offered.count(b",") < 16 and b" b" not in offered


async def test_a09_a_stranger_costs_nothing(w: World) -> None:
    before = len(w.nullspace.edge_requests), w.nullspace.mints, len(w.nullspace.api_requests)
    for kind in ("http", "websocket"):
        for cookie in ("", "pp-development=x", f"pp-development={w.gate}x", f'pp-development="{w.gate}"'):
            answer = await w.raw(ask(w, kind, Cookie=cookie))
            assert answer.status == 401
            says_nothing(answer, w)
    assert (len(w.nullspace.edge_requests), w.nullspace.mints, len(w.nullspace.api_requests)) == before
