"""A page through the edge of each vendor in Chromium: what it loads, fetches and hears over a WebSocket."""

from __future__ import annotations

from pathlib import Path

import pytest

from preview_proxy.testing import DevServer, Request, Response
from tests.browser.stage import ASK, MACHINE, PREVIEW, SOCKET, staged
from tests.vendors import VENDORS

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", VENDORS)
async def test_a_page_its_module_its_fetch_and_its_socket(name: str, tmp_path: Path) -> None:
    async with DevServer() as dev, VENDORS[name]() as vendor:
        vendor.serve({3000: dev})

        @dev.route("/")
        async def page(request: Request, response: Response) -> None:
            html = b"<!doctype html><title>loading</title><script type=module src=/module.js></script>"
            await response.send(200, [("Content-Type", "text/html")], html)

        @dev.route("/module.js")
        async def module(request: Request, response: Response) -> None:
            await response.send(200, [("Content-Type", "text/javascript")], b"document.title = 'loaded'")

        async with staged("http", vendor.provider, tmp_path, machine=MACHINE) as stage:
            _, frame = await stage.embed()
            await frame.wait_for_function("document.title === 'loaded'")
            assert await frame.evaluate(ASK, ["/echo", "cors"]) == 200
            assert await frame.evaluate(SOCKET) == "hello"
            assert await frame.evaluate("location.origin") == stage.origin(PREVIEW)
            told = "\n".join(stage.watch.words)
    sent = [pair for request in vendor.emulator.edge_requests for pair in request.headers]
    tokens = {value.decode() for field, value in sent if field.lower().endswith(b"-token")}
    assert {request.verdict for request in vendor.emulator.edge_requests} == {"served"}
    assert tokens and not [token for token in tokens if token in told]
    assert {received.path for received in dev.received} >= {"/", "/module.js", "/echo", "/ws"}
