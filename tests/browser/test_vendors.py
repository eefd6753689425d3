"""A page through the edge of each vendor in Chromium: what it loads, fetches and hears over a WebSocket."""

from __future__ import annotations

from pathlib import Path

import pytest

from preview_proxy import Digitorn, Preview
from preview_proxy.testing import DevServer, Request, Response
from preview_proxy.testing.provider_contract import credentials
from tests.browser.stage import ASK, MACHINE, SOCKET, Stage, staged
from tests.vendors import VENDORS

pytestmark = pytest.mark.anyio


def furnish(dev: DevServer) -> None:
    """A page that is loaded once its module is."""

    @dev.route("/")
    async def page(request: Request, response: Response) -> None:
        html = b"<!doctype html><title>loading</title><script type=module src=/module.js></script>"
        await response.send(200, [("Content-Type", "text/html")], html)

    @dev.route("/module.js")
    async def module(request: Request, response: Response) -> None:
        await response.send(200, [("Content-Type", "text/javascript")], b"document.title = 'loaded'")


async def use(stage: Stage, dev: DevServer, port: int = 3000) -> str:
    """Open the page in the app's frame and try everything. What Chromium had to say about it."""
    _, frame = await stage.embed(port)
    await frame.wait_for_function("document.title === 'loaded'")
    assert await frame.evaluate(ASK, ["/echo", "cors"]) == 200
    assert await frame.evaluate(SOCKET) == "hello"
    assert await frame.evaluate("location.origin") == stage.origin(f"{port}-{MACHINE}.preview.localhost")
    assert {received.path for received in dev.received} >= {"/", "/module.js", "/echo", "/ws"}
    return "\n".join(stage.watch.words)


@pytest.mark.parametrize("name", VENDORS)
async def test_a_page_its_module_its_fetch_and_its_socket(name: str, tmp_path: Path) -> None:
    async with DevServer() as dev, VENDORS[name]() as vendor:
        vendor.serve({3000: dev})
        furnish(dev)
        async with staged("http", vendor.provider, tmp_path, machine=MACHINE) as stage:
            told = await use(stage, dev)
            secrets = credentials(await vendor.provider.resolve(Preview(MACHINE, 3000)))
    sent = [pair for request in vendor.emulator.edge_requests for pair in request.headers]
    secrets |= {value.decode() for field, value in sent if field.lower().endswith(b"-token")}
    assert {request.verdict for request in vendor.emulator.edge_requests} == {"served"}
    assert secrets and not [secret for secret in secrets if secret in told]


async def test_the_same_on_a_port_that_digitorns_agent_attached(tmp_path: Path) -> None:
    async with DevServer() as dev:
        furnish(dev)
        registry = Digitorn([dev.port])
        registry.attach(MACHINE, dev.port, user="ada")
        async with staged("http", registry, tmp_path, machine=MACHINE) as stage:
            await use(stage, dev, dev.port)
