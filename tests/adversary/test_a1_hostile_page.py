"""A1, a hostile page: what code of a preview can have the proxy do in a visitor's browser. See also `tests/browser`."""

from __future__ import annotations

import pytest

from preview_proxy.testing import Request, Response
from preview_proxy.testing.http_server import raw_headers
from tests.test_reserved_prefix import OURS, SANDBOXS
from tests.world import EMBEDDER, World

pytestmark = pytest.mark.anyio


def sends(w: World, *fields: tuple[str, bytes | str], status: int = 200) -> None:
    @w.dev.route("/hostile")
    async def hostile(request: Request, response: Response) -> None:
        lines = [f"HTTP/1.1 {status} X".encode(), *map(b": ".join, raw_headers(fields)), b"Content-Length: 0"]
        await response.raw(b"\r\n".join(lines) + b"\r\n\r\n")


@pytest.mark.parametrize(
    "cookie",
    [b"\xa0__Host-Http-pp=x; Path=/; Secure", b"\x85pp-development=x", b"pp-development=x", b"PP-Development=x",
     b"__Host-Http-pp=x; Path=/; Secure", b"__HOST-HTTP-PP=x; Path=/; Secure", b"__Host-Http-pp2=x; Path=/; Secure",
     b" pp-development=x", b"\tpp-development=x", b"pp-development =x", b"=pp-development=x", b"=x", b"x", b"",
     b"nullspace_session=x", b"__ns_continue=x", b"a b=x", b"__Host-x=1; Path=/x; Secure",
     b"__Host-x=1; Path=/", b"__Secure-x=1", b"a" * 5000 + b"=1"],
)  # fmt: skip
async def test_h08_r07_r09_no_cookie_is_planted_under_a_name_that_counts(w: World, cookie: bytes) -> None:
    sends(w, ("set-cookie", cookie), ("set-cookie", b"b=2"))
    assert [value.split(b";")[0] for value in (await w.get("/hostile")).values(b"set-cookie")] == [b"b=2"]


async def test_r07_a_cookie_stays_on_its_own_preview(w: World) -> None:
    domains = [
        f"{number}=x; Domain={domain}; Path=/" for number, domain in enumerate(("localhost", ".preview.localhost", ""))
    ]
    sends(w, *(("set-cookie", value) for value in domains), *[("set-cookie", f"c{n}=1") for n in range(80)])
    kept = (await w.get("/hostile")).values(b"set-cookie")
    assert len(kept) == 50
    assert not [value for value in kept if b"domain" in value.lower()]
    assert kept[0] == b"0=x; Path=/; Secure; SameSite=None; Partitioned"


async def test_h08_a_planted_gate_neither_opens_nor_shuts_a_preview(w: World) -> None:
    for planted in ("x", w.gate[:-1], f'"{w.gate}"', w.gate[::-1]):
        for cookies in (
            f"pp-development={planted}; pp-development={w.gate}",
            f"pp-development={w.gate}; pp-development={planted}",
        ):
            assert (await w.get("/echo", headers={"Cookie": cookies})).status == 200
        assert (await w.get("/echo", headers={"Cookie": f"pp-development={planted}"})).status == 401


STRIPPED = [
    "alt-svc", "strict-transport-security", "clear-site-data", "service-worker-allowed", "public-key-pins",
    "service-worker-navigation-preload", "public-key-pins-report-only", "expect-ct", "report-to", "reporting-endpoints",
    "nel", "content-security-policy-report-only", "activate-storage-access", "sec-session-registration",
    "secure-session-registration", "set-login", "accept-ch", "critical-ch", "proxy-authenticate", "surrogate-control",
    "surrogate-key", "cdn-cache-control", "acme-cdn-cache-control", "x-accel-redirect", "x-accel-buffering",
    "x-sendfile", "x-nullspace-anything", "x-frame-options", "x-preview-proxy-error",
]  # fmt: skip


async def test_r02_r10_what_would_reach_beyond_the_preview_stops_here(w: World) -> None:
    sends(w, *((name, "/canary; frame-ancestors *") for name in STRIPPED), ("x-own", "1"))
    answer = await w.get("/hostile")
    assert answer.values(b"x-own") == [b"1"]
    assert not [name for name, value in answer.headers if b"canary" in value]


@pytest.mark.parametrize("status", [200, 302, 404, 500])
async def test_r10_who_may_frame_it_is_not_the_pages_to_say(w: World, status: int) -> None:
    own = [
        ("content-security-policy", "frame-ancestors *; img-src 'self'"),
        ("content-security-policy", "frame-ancestors *"),
    ]
    sends(w, *own, ("x-frame-options", "DENY"), status=status)
    answer = await w.get("/hostile")
    policies = [value.strip() for field in answer.values(b"content-security-policy") for value in field.split(b",")]
    assert sorted(policies) == sorted([b"img-src 'self'", f"frame-ancestors {EMBEDDER}".encode()])
    assert answer.values(b"x-frame-options") == []


@pytest.mark.parametrize("path", OURS)
async def test_p21_what_is_ours_is_never_the_pages(w: World, path: str) -> None:
    before = len(w.dev.received)
    for method in ("GET", "POST", "PUT", "DELETE"):
        headers = {"Origin": w.origin, "Service-Worker": "script", "Sec-Fetch-Dest": "serviceworker"}
        answer = await w.get(path, method=method, headers=headers)
        assert answer.status in (400, 403, 404, 405, 415)
    assert len(w.dev.received) == before


@pytest.mark.parametrize("path", SANDBOXS)
async def test_p21_another_spelling_is_an_ordinary_path_of_the_page(w: World, path: str) -> None:
    before = len(w.dev.received)
    await w.get(path)
    assert [received.path for received in w.dev.received[before:]] == [path]


@pytest.mark.parametrize(
    ("location", "seen"),
    [("http://{edge}/in", "{public}/in"), ("//{edge}/in", "{public}/in"), ("http://localhost:3000/in", "{public}/in"),
     ("HTTP://{EDGE}/in", "{public}/in"), ("/in?edge_token=1", "/in"), ("https://other.example/", "https://other.example/")],
)  # fmt: skip
async def test_r05_no_address_of_upstream_is_told(w: World, location: str, seen: str) -> None:
    edge = f"3000-mch_a1b2c3d4.nullspace.localhost:{w.nullspace.edge_port}"
    sends(w, ("location", location.format(edge=edge, EDGE=edge.upper())), status=302)
    assert (await w.get("/hostile")).values(b"location") == [seen.format(public=w.origin).encode()]
