"""The emulated OpenComputer: what its API and its edge take and refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from preview_proxy.testing import DevServer, OpenComputerEmulator, Request, Response

pytestmark = pytest.mark.anyio


@pytest.fixture
async def emulator(dev: DevServer) -> AsyncIterator[OpenComputerEmulator]:
    async with OpenComputerEmulator() as made:
        made.serve_new_sandboxes({3000: dev})
        yield made


async def api(
    emulator: OpenComputerEmulator, http: httpx.AsyncClient, method: str, path: str, **options: Any
) -> httpx.Response:
    url = f"{emulator.api_url}/api/sandboxes{path}"
    return await http.request(method, url, headers={"X-API-Key": emulator.api_key}, **options)


async def edge(
    emulator: OpenComputerEmulator, http: httpx.AsyncClient, sandbox: str, path: str = "/", **headers: str
) -> httpx.Response:
    fields = {"Host": f"{sandbox}-p3000.anything.dev", **{name.replace("_", "-"): v for name, v in headers.items()}}
    return await http.get(f"http://127.0.0.1:{emulator.edge_port}{path}", headers=fields)


async def test_the_token_is_taken_in_either_header_and_passed_on(
    emulator: OpenComputerEmulator, http: httpx.AsyncClient, dev: DevServer
) -> None:
    token = emulator.add_sandbox("sb-1", {3000: dev})
    assert (await edge(emulator, http, "sb-1", X_OC_Preview_Token=token)).status_code == 200
    assert (await edge(emulator, http, "sb-1", Authorization=f"bearer {token}")).status_code == 200
    assert dev.received[0].values(b"x-oc-preview-token") == [token.encode()]
    missing = await edge(emulator, http, "sb-1")
    assert missing.headers["www-authenticate"] == 'Bearer realm="preview"'
    assert missing.json() == {"error": "preview URL requires authentication"}
    wrong = await edge(emulator, http, "sb-1", X_OC_Preview_Token="wrong", Authorization=f"Bearer {token}")
    assert (wrong.status_code, wrong.json()) == (401, {"error": "invalid preview token"})


async def test_a_sandbox_without_a_token_is_open(emulator: OpenComputerEmulator, http: httpx.AsyncClient) -> None:
    made = (await api(emulator, http, "POST", "", json={"templateID": "base"})).json()
    assert "previewAuthToken" not in made
    assert (await edge(emulator, http, made["sandboxID"])).status_code == 200


async def test_an_answer_is_held_until_it_is_whole(
    emulator: OpenComputerEmulator, http: httpx.AsyncClient, dev: DevServer
) -> None:
    halfway, go_on = anyio.Event(), anyio.Event()

    @dev.route("/slow")
    async def slow(request: Request, response: Response) -> None:
        await response.start(200, [("Content-Length", "2")])
        await response.write(b"1")
        halfway.set()
        await go_on.wait()
        await response.write(b"2")

    token = emulator.add_sandbox("sb-1", {3000: dev})
    seen: list[bytes] = []

    async def ask() -> None:
        async with http.stream(
            "GET",
            f"http://127.0.0.1:{emulator.edge_port}/slow",
            headers={"Host": "sb-1-p3000.x.dev", "X-OC-Preview-Token": token},
        ) as answer:
            seen.append(b"head")
            seen.extend([chunk async for chunk in answer.aiter_raw()])

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await halfway.wait()
        await anyio.wait_all_tasks_blocked()
        assert seen == []
        go_on.set()
    assert b"".join(seen) == b"head12"


async def test_what_is_not_http_passes_as_it_is(
    emulator: OpenComputerEmulator, http: httpx.AsyncClient, dev: DevServer
) -> None:
    @dev.route("/raw")
    async def raw(request: Request, response: Response) -> None:
        await response.raw(b"nonsense")

    token = emulator.add_sandbox("sb-1", {3000: dev})
    with pytest.raises(httpx.RemoteProtocolError):
        await edge(emulator, http, "sb-1", "/raw", X_OC_Preview_Token=token)


async def test_an_unknown_sandbox_and_a_host_of_another_form_are_not_found(
    emulator: OpenComputerEmulator, http: httpx.AsyncClient
) -> None:
    unknown = await edge(emulator, http, "sb-gone")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "sandbox sb-gone not found"})
    answer = await http.get(f"http://127.0.0.1:{emulator.edge_port}/")
    assert answer.json() == {"error": "sandbox unknown not found"}


@pytest.mark.parametrize(("status", "answer"), [("stopped", 410), ("no credits", 402), ("migrating", 503)])
async def test_a_sandbox_that_does_not_run_says_why(
    emulator: OpenComputerEmulator, http: httpx.AsyncClient, status: Any, answer: int
) -> None:
    token = emulator.add_sandbox("sb-1", {3000: 9})
    emulator.set_status("sb-1", status)
    assert (await edge(emulator, http, "sb-1", X_OC_Preview_Token=token)).status_code == answer


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "", {"json": {"previewAuth": {"scheme": "basic"}}}, 400),
        ("POST", "", {"json": {"previewAuth": {"scheme": "bearer", "token": "short"}}}, 400),
        ("GET", "/sb-gone", {}, 404),
        ("POST", "/sb-1/preview", {"json": {"port": 0}}, 400),
        ("POST", "/sb-1/preview", {"json": {"port": 3000, "domain": "elsewhere.example"}}, 400),
        ("DELETE", "/sb-1/preview/3000", {}, 404),
        ("DELETE", "/sb-1/preview/x", {}, 404),
        ("POST", "/sb-1/preview/rotate", {}, 410),
    ],
)
async def test_what_the_api_does_not_take_is_refused(
    emulator: OpenComputerEmulator,
    http: httpx.AsyncClient,
    method: str,
    path: str,
    options: dict[str, Any],
    status: int,
) -> None:
    emulator.add_sandbox("sb-1", {})
    emulator.set_status("sb-1", "stopped")
    assert (await api(emulator, http, method, path, **options)).status_code == status
