"""`/.well-known/preview-proxy/` is the proxy's, and no path of a sandbox."""

from __future__ import annotations

import pytest

from preview_proxy import HostPattern, PreviewProxy
from preview_proxy.endpoints import is_ours
from tests.test_endpoints import CHECK, FROM_APP, HOST, SESSION
from tests.test_gate import Door, Upstream, gate_cookie, owner_only
from tests.test_visit import call, scope_of
from tests.world import OWNER

pytestmark = pytest.mark.anyio


OURS = [
    "/.well-known/preview-proxy",
    "/.well-known/preview-proxy/",
    "/.well-known/preview-proxy/sw.js",
    "/.well-known/preview-proxy/session/",
    "/.well-known/preview-proxy/session;x",
    "/.well-known/preview-proxy/check/../../../x",
    "/.well-known/preview-proxy//session",
    "/.well-known/preview-proxy/%73ession",
]
SANDBOXS = [
    "/.well-known/preview-proxy%2fsession",
    "/.well-known%2Fpreview-proxy/session",
    "/%2ewell-known/preview-proxy/session",
    "/.well-known/preview%2dproxy/session",
    "/.Well-Known/preview-proxy/session",
    "/.well-known/preview-proxy-2/session",
    "/.well-known//preview-proxy/session",
    "//.well-known/preview-proxy/session",
    "/x/../.well-known/preview-proxy/session",
    "/.well-known/acme-challenge/x",
    "/.well-known/",
]


def test_p21_the_prefix_is_compared_as_raw_bytes() -> None:
    assert all(is_ours(path.encode()) for path in [*OURS, SESSION, CHECK])
    assert not any(is_ours(path.encode()) for path in SANDBOXS)


@pytest.mark.parametrize("path", OURS)
async def test_p21_nothing_below_the_prefix_reaches_the_sandbox(path: str) -> None:
    door = Door()
    headers = [(b"origin", b"https://" + HOST.encode()), *gate_cookie(door.gate())]
    for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE", "PROPFIND"):
        answer = await call(door.proxy, scope_of(host=HOST, path=path, method=method, headers=headers))
        assert answer.status == 404
    answer = await call(door.proxy, scope_of("websocket", host=HOST, path=path, headers=headers))
    assert (answer.status, answer.json()["code"]) == (404, "no_such_endpoint")
    assert door.upstream.untouched


@pytest.mark.parametrize("path", [SESSION, CHECK, "/.well-known/preview-proxy/logout"])
async def test_p21_our_endpoints_open_no_socket(path: str) -> None:
    door = Door()
    headers = [FROM_APP, *gate_cookie(door.gate())]
    assert (await call(door.proxy, scope_of("websocket", host=HOST, path=path, headers=headers))).status == 404
    assert door.upstream.untouched


async def test_p21_without_tickets_the_prefix_is_still_ours() -> None:
    upstream = Upstream()

    async def session(connection: object) -> str:
        return OWNER

    proxy = PreviewProxy(
        router=HostPattern("{port}-{machine}.previews.example"),
        provider=upstream,
        authorize=owner_only,
        session=session,
        transport=upstream,
    )
    for path in (SESSION, CHECK):
        assert (await call(proxy, scope_of(host=HOST, path=path, method="POST"))).status == 404
    assert upstream.untouched


@pytest.mark.parametrize("path", SANDBOXS)
async def test_p21_an_encoded_spelling_is_a_path_of_the_sandbox(path: str) -> None:
    door = Door()
    headers = [(b"origin", b"https://" + HOST.encode()), *gate_cookie(door.gate())]
    for method in ("GET", "POST"):
        await call(door.proxy, scope_of(host=HOST, path=path, method=method, headers=headers))
    await call(door.proxy, scope_of("websocket", host=HOST, path=path, headers=headers))
    assert [request.url.raw_path for request in door.upstream.requests] == [path.encode()] * 3
