"""The emulated Blaxel: what its API and its edge take and refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from preview_proxy.testing import BlaxelEmulator, BlaxelSwitches, DevServer, Request, Response
from preview_proxy.testing.blaxel_state import BlaxelPreview

pytestmark = pytest.mark.anyio


@pytest.fixture
async def blaxel(dev: DevServer) -> AsyncIterator[BlaxelEmulator]:
    async with BlaxelEmulator() as emulator:
        emulator.add_sandbox("my-sandbox", {3000: dev})
        yield emulator


async def api(
    blaxel: BlaxelEmulator, http: httpx.AsyncClient, method: str, path: str, **options: Any
) -> httpx.Response:
    headers = {"X-Blaxel-Authorization": f"Bearer {blaxel.api_key}", "X-Blaxel-Workspace": blaxel.workspace}
    return await http.request(
        method, f"{blaxel.api_url}/v0/{path}", headers=headers | options.pop("headers", {}), **options
    )


async def edge(
    blaxel: BlaxelEmulator, http: httpx.AsyncClient, preview: BlaxelPreview, path: str = "/", **headers: str
) -> httpx.Response:
    host = f"{preview.id}.{blaxel.edge_domain}"
    fields = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await http.get(f"http://127.0.0.1:{blaxel.edge_port}{path}", headers=fields)


async def private(blaxel: BlaxelEmulator, http: httpx.AsyncClient) -> tuple[BlaxelPreview, str]:
    preview = blaxel.add_preview("my-sandbox", "mine", 3000, public=False)
    wanted = {"metadata": {"name": "t1"}, "spec": {"expiresAt": "2036-01-01T00:00:00Z"}}
    made = await api(blaxel, http, "POST", "sandboxes/my-sandbox/previews/mine/tokens", json=wanted)
    return preview, made.json()["spec"]["token"]


async def test_a_private_preview_takes_its_token_in_the_header_or_the_query(
    blaxel: BlaxelEmulator, http: httpx.AsyncClient, dev: DevServer
) -> None:
    preview, token = await private(blaxel, http)
    assert (await edge(blaxel, http, preview, X_Blaxel_Preview_Token=token)).status_code == 200
    assert (await edge(blaxel, http, preview, f"/?bl_preview_token={token}")).status_code == 200
    assert dev.received[0].values(b"x-blaxel-preview-token") == []
    blaxel.switches.strip_token = False
    await edge(blaxel, http, preview, X_Blaxel_Preview_Token=token)
    assert dev.received[-1].values(b"x-blaxel-preview-token") == [token.encode()]


async def test_a_refusal_bears_the_platforms_mark(blaxel: BlaxelEmulator, http: httpx.AsyncClient) -> None:
    preview, _ = await private(blaxel, http)
    missing = await edge(blaxel, http, preview)
    wrong = await edge(blaxel, http, preview, X_Blaxel_Preview_Token="wrong-token-0123")
    for answer, code in ((missing, "AUTHENTICATION_REQUIRED"), (wrong, "AUTHENTICATION_FAILED")):
        assert (answer.status_code, answer.headers["x-blaxel-source"]) == (401, "platform")
        assert answer.headers["x-blaxel-error-code"] == code == answer.json()["error"]["code"]


async def test_a_public_preview_needs_no_token(blaxel: BlaxelEmulator, http: httpx.AsyncClient) -> None:
    preview = blaxel.add_preview("my-sandbox", "open", 3000, public=True)
    assert (await edge(blaxel, http, preview)).status_code == 200


async def test_a_deleted_sandbox_takes_its_previews_along(blaxel: BlaxelEmulator, http: httpx.AsyncClient) -> None:
    preview, token = await private(blaxel, http)
    blaxel.delete_sandbox("my-sandbox")
    answer = await edge(blaxel, http, preview, X_Blaxel_Preview_Token=token)
    assert answer.headers["x-blaxel-error-code"] == "ROUTE_NOT_FOUND"


async def test_the_previews_fields_are_added_and_cors_only_where_the_app_has_none(
    blaxel: BlaxelEmulator, http: httpx.AsyncClient, dev: DevServer
) -> None:
    @dev.route("/cors")
    async def cors(request: Request, response: Response) -> None:
        await response.send(200, [("Access-Control-Allow-Origin", "https://app.acme.com")])

    preview = blaxel.add_preview("my-sandbox", "open", 3000, public=True)
    preview.response_headers = {"X-Own": "1"}
    plain, own = await edge(blaxel, http, preview), await edge(blaxel, http, preview, "/cors")
    assert (plain.headers["x-own"], plain.headers["access-control-allow-origin"]) == ("1", "*")
    assert own.headers.get_list("access-control-allow-origin") == ["https://app.acme.com"]


async def test_what_is_not_http_passes_as_it_is(
    blaxel: BlaxelEmulator, http: httpx.AsyncClient, dev: DevServer
) -> None:
    @dev.route("/raw")
    async def raw(request: Request, response: Response) -> None:
        await response.raw(b"nonsense")

    preview = blaxel.add_preview("my-sandbox", "open", 3000, public=True)
    with pytest.raises(httpx.RemoteProtocolError):
        await edge(blaxel, http, preview, "/raw")


async def test_what_came_of_a_head_passes_though_it_breaks_off(blaxel: BlaxelEmulator, dev: DevServer) -> None:
    """The edge holds a head, to add fields to it, until it is whole."""

    @dev.route("/half")
    async def half(request: Request, response: Response) -> None:
        await response.raw(b"HTTP/1.1 200 OK\r\nX-Ha")
        response.close()

    preview = blaxel.add_preview("my-sandbox", "open", 3000, public=True)
    with anyio.fail_after(5):
        async with await anyio.connect_tcp("127.0.0.1", blaxel.edge_port) as stream:
            await stream.send(f"GET /half HTTP/1.1\r\nHost: {preview.id}.{blaxel.edge_domain}\r\n\r\n".encode())
            assert b"".join([chunk async for chunk in stream]) == b"HTTP/1.1 200 OK\r\nX-Ha"


async def test_a_socket_is_dropped_at_its_age(dev: DevServer) -> None:
    async with BlaxelEmulator(switches=BlaxelSwitches(socket_seconds=0.05)) as blaxel:
        blaxel.add_sandbox("my-sandbox", {3000: dev})
        preview = blaxel.add_preview("my-sandbox", "open", 3000, public=True)
        uri = f"ws://{preview.id}.{blaxel.edge_domain}:{blaxel.edge_port}/ws"
        async with connect(uri, host="127.0.0.1", port=blaxel.edge_port, proxy=None) as socket:
            with pytest.raises(ConnectionClosedError):
                await socket.recv()


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "sandboxes/my-sandbox", {"headers": {"X-Blaxel-Authorization": "Bearer wrong"}}, 401),
        ("GET", "sandboxes/my-sandbox", {"headers": {"X-Blaxel-Workspace": "other"}}, 401),
        ("GET", "sandboxes/gone", {}, 404),
        ("GET", "elsewhere", {}, 404),
        ("GET", "sandboxes/my-sandbox/previews/gone", {}, 404),
        ("POST", "sandboxes/my-sandbox/previews", {"content": b"{"}, 400),
        ("POST", "sandboxes/my-sandbox/previews", {"json": {"metadata": {"name": "a"}, "spec": {"port": 80}}}, 400),
        ("POST", "sandboxes/my-sandbox/previews", {"json": {"spec": {"port": 3000}}}, 400),
        ("POST", "sandboxes/my-sandbox/previews/open/tokens", {"json": {"spec": {"expiresAt": "soon"}}}, 400),
    ],
)
async def test_what_the_api_does_not_take_is_refused(
    blaxel: BlaxelEmulator, http: httpx.AsyncClient, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    blaxel.add_preview("my-sandbox", "open", 3000, public=True)
    answer = await api(blaxel, http, method, path, **options)
    assert (answer.status_code, answer.json()["code"]) == (status, status)
