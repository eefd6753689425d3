"""Costs of single steps, called in this process: microseconds per call."""

from __future__ import annotations

import time

import uvloop

from preview_proxy import HostPattern, Limits, Policy, Preview, Tickets
from preview_proxy.core.models import Inbound, RawHeaders
from preview_proxy.core.plan import Route, compile_rules, plan_request, plan_response
from preview_proxy.core.snapshot import raw_headers, snapshot
from preview_proxy.gate import Gate
from preview_proxy.hosts import Routed
from preview_proxy.providers.static import fixed_target
from preview_proxy.sessions import Session
from preview_proxy.tickets import gate_cookie_name

CALLS = 3000
EMBEDDER = "https://app.acme.com"
PREVIEW = Preview("mch_a1b2c3d4", 3000)
AUTHORITY = "3000-mch_a1b2c3d4.acme-previews.dev"

# What Chromium sends for a module of a framed page, in its order; with the gate cookie 20 fields.
BROWSER: RawHeaders = (
    (b"host", AUTHORITY.encode()),
    (b"connection", b"keep-alive"),
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache"),
    (b"sec-ch-ua-platform", b'"Linux"'),
    (
        b"user-agent",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    ),
    (b"sec-ch-ua", b'"Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"'),
    (b"sec-ch-ua-mobile", b"?0"),
    (b"accept", b"*/*"),
    (b"sec-fetch-site", b"same-origin"),
    (b"sec-fetch-mode", b"cors"),
    (b"sec-fetch-dest", b"script"),
    (b"sec-fetch-storage-access", b"active"),
    (b"referer", b"https://" + AUTHORITY.encode() + b"/projects/7?tab=preview"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en-GB,en;q=0.9,de;q=0.8"),
    (b"if-none-match", b'W/"5f2-Jk0cTqMdCGYz8y1nq3bVQv9gUu4"'),
    (b"dnt", b"1"),
    (b"priority", b"u=1"),
)

# What a dev server answers with.
DEV_SERVER: RawHeaders = (
    (b"vary", b"Origin"),
    (b"access-control-allow-origin", b"http://localhost:5173"),
    (b"content-type", b"text/javascript"),
    (b"cache-control", b"no-cache"),
    (b"etag", b'W/"5f2-Jk0cTqMdCGYz8y1nq3bVQv9gUu4"'),
    (b"set-cookie", b"theme=dark; Path=/; SameSite=Lax"),
    (b"date", b"Mon, 23 Nov 2026 09:00:00 GMT"),
    (b"connection", b"keep-alive"),
    (b"keep-alive", b"timeout=5"),
    (b"content-length", b"1522"),
)


def routed() -> Routed:
    origin = HostPattern("{port}-{machine}.acme-previews.dev").host_for(PREVIEW)
    assert origin is not None
    return Routed(PREVIEW, origin)


def browser_request(cookie: bytes) -> tuple[dict[str, object], Inbound]:
    """The ASGI scope of a browser's request with 20 header fields, and its snapshot."""
    fields = [*BROWSER, (b"cookie", b"theme=dark; _ga=GA1.1.1234567890.1700000000; " + cookie)]
    scope: dict[str, object] = {
        "type": "http",
        "method": "GET",
        "scheme": "https",
        "http_version": "1.1",
        "path": "/src/App.tsx",
        "raw_path": b"/src/App.tsx",
        "query_string": b"t=1700000000000",
        "root_path": "",
        "headers": fields,
        "client": ("203.0.113.7", 50000),
    }
    return scope, snapshot(scope, raw_headers(scope), AUTHORITY, Limits())


def gate_decision() -> float:
    """`Gate.admit` for a visitor whom it has admitted before."""
    there = routed()
    tickets = Tickets("a secret of the bench, long enough for a key", [EMBEDDER])
    value, _ = tickets.gate(origin=there.public, preview=PREVIEW, session=Session("ada"))
    scope, inbound = browser_request(f"{gate_cookie_name(there.public)}={value}".encode())

    async def authorize(subject: str, preview: Preview) -> bool:
        return True

    router = HostPattern("{port}-{machine}.acme-previews.dev")
    gate = Gate(router=router, authorize=authorize, tickets=tickets, session=None, timeout=2.0, decision_ttl=5.0)

    async def run() -> float:
        await gate.admit(scope, inbound, there)
        begun = time.perf_counter()
        for _ in range(CALLS):
            await gate.admit(scope, inbound, there)
        return (time.perf_counter() - begun) / CALLS * 1e6

    return uvloop.run(run())


def plan() -> float:
    """`plan_request` and `plan_response` together, for a browser's request of 20 header fields."""
    there = routed()
    _, inbound = browser_request(b"__Host-Http-pp=" + b"g" * 300)
    endpoint = fixed_target("https://machine.provider.dev", http_credentials={"X-Preview-Token": "t" * 64}).http
    assert endpoint is not None
    assert len(inbound.headers) == 20
    route = Route(PREVIEW, there.public, endpoint)
    rules = compile_rules(Policy(), cookies=(), headers=(), embedders=[EMBEDDER])
    begun = time.perf_counter()
    for _ in range(CALLS):
        plan_request(inbound, route, rules)
        plan_response("GET", 200, DEV_SERVER, route, rules)
    return (time.perf_counter() - begun) / CALLS * 1e6
