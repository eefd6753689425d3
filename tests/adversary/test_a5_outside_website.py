"""A5, an outside website that a signed-in visitor also has open: what their browser sends for it is refused."""

from __future__ import annotations

import json

import pytest

from tests.adversary.test_a3_hostile_user import UPGRADE
from tests.discretion import says_nothing
from tests.world import EMBEDDER, World

pytestmark = pytest.mark.anyio

SESSION = "/.well-known/preview-proxy/session"
ELSEWHERE = [
    "http://evil.example", "null", "", EMBEDDER, "{origin}.evil.example", "http://evil.{host}", "{origin}:1", "https://{host}",
    "http://3000-mch_of_eve.preview.localhost:{port}", "http://user@{host}", "{origin}/", "{origin} http://evil.example",
]  # fmt: skip


def of(w: World, origin: str) -> str:
    return origin.format(origin=w.origin, host=w.host, port=w.port)


@pytest.mark.parametrize("origin", ELSEWHERE)
async def test_w02_no_socket_is_opened_for_another_origin(w: World, origin: str) -> None:
    before = len(w.nullspace.edge_requests)
    answer = await w.raw(w.request("/ws", headers={**UPGRADE, "Origin": of(w, origin)}))
    assert (answer.status, answer.code) == (403, "cross_site")
    says_nothing(answer, w)
    assert len(w.nullspace.edge_requests) == before


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
@pytest.mark.parametrize("origin", ELSEWHERE)
async def test_a13_another_origin_changes_nothing(w: World, origin: str, method: str) -> None:
    before = len(w.nullspace.edge_requests)
    for site in ("cross-site", "same-site", ""):
        headers = {"Origin": of(w, origin), "Sec-Fetch-Site": site, "Content-Length": "0"}
        answer = await w.get("/body", method=method, headers=headers)
        assert (answer.status, answer.code) == (403, "cross_site")
    assert len(w.nullspace.edge_requests) == before


READS = [(site, mode, dest) for site in ("same-origin", "none", "same-site", "cross-site", "odd")
         for mode in ("navigate", "cors", "no-cors", "same-origin", "websocket", "")
         for dest in ("document", "iframe", "frame", "script", "image", "empty", "object", "embed", "")]  # fmt: skip


async def test_a13_another_site_may_only_navigate(w: World) -> None:
    """The whole matrix of Fetch Metadata; what is not known to be safe is refused."""
    for site, mode, dest in READS:
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        own = site in ("same-origin", "none")
        navigates = (
            site in ("same-site", "cross-site") and mode == "navigate" and dest in ("document", "iframe", "frame")
        )
        assert (await w.get("/echo", headers=headers)).status == (200 if own or navigates else 403), (site, mode, dest)


async def test_e07_e08_only_the_embedder_exchanges_a_ticket(w: World) -> None:
    ticket = await w.ticket()
    for origin in ELSEWHERE:
        if origin != EMBEDDER:
            answer = await w.exchange(ticket, origin=of(w, origin))
            assert answer.status == 403
            assert answer.values(b"set-cookie") == answer.values(b"access-control-allow-origin") == []
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = await w.exchange(ticket, **{"Content-Type": kind})
        assert answer.status in (400, 403, 415)
        assert answer.values(b"set-cookie") == []
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST", "Cookie": ""}
    answer = await w.get(SESSION, method="OPTIONS", headers=preflight)
    assert not [name for name, _ in answer.headers if name.startswith(b"access-control-")]
    assert (await w.exchange(ticket)).status == 204
    assert (await w.exchange(ticket)).status == 403


async def test_h24_e13_every_refusal_may_be_framed_by_the_embedder_only(w: World) -> None:
    refusals = [
        await w.get("/echo", headers={"Cookie": ""}),
        await w.get("/echo", headers={"Sec-Fetch-Site": "cross-site"}),
        await w.get("/echo", headers={"Host": f"unknown.preview.localhost:{w.port}"}),
        await w.get("/.well-known/preview-proxy/unknown"),
        await w.exchange("<script>canary</script>"),
    ]
    for answer in refusals:
        assert answer.status in (401, 403, 404, 421)
        [policy] = answer.values(b"content-security-policy")
        assert f"frame-ancestors {EMBEDDER}".encode() in policy and b"default-src 'none'" in policy
        assert answer.values(b"cache-control") == [b"no-store"]
        assert answer.values(b"x-content-type-options") == [b"nosniff"]
        says_nothing(answer, w)


@pytest.mark.parametrize(
    "accept", [{"Accept": "text/html"}, {"Sec-Fetch-Dest": "iframe", "Sec-Fetch-Mode": "navigate"}]
)
async def test_h24_no_page_of_ours_repeats_what_was_asked(w: World, accept: dict[str, str]) -> None:
    for path in (
        "/<script>canary</script>"[:1] + "canary%3Cscript%3E",
        "/?canary=<script>",
        "/.well-known/preview-proxy/canary'\"",
    ):
        answer = await w.get(path, headers={**accept, "Cookie": "", "X-Own": "<script>canary</script>"})
        assert answer.status in (400, 401, 404)
        says_nothing(answer, w)


async def test_e07_a_ticket_is_read_from_four_kib_of_json_only(w: World) -> None:
    for body in (json.dumps({"ticket": "x" * 5000}), "[]", "{", '"canary"', "{}", '{"ticket": 1}'):
        headers = {
            "Origin": EMBEDDER,
            "Content-Type": "application/json",
            "Cookie": "",
            "Content-Length": str(len(body)),
        }
        answer = await w.raw(w.request(SESSION, method="POST", headers=headers) + body.encode())
        assert answer.status in (400, 403, 413)
        says_nothing(answer, w)
