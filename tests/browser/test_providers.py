"""A page through the edge of each provider in Chromium: what it loads, fetches and hears over a WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from preview_proxy import E2B, Aether, Daytona, Digitorn, Provider
from preview_proxy.testing import AetherEmulator, DaytonaEmulator, DevServer, E2BEmulator, Request, Response
from tests.browser.stage import ASK, SOCKET, staged

pytestmark = pytest.mark.anyio

MACHINE = "i0ddba115eed"


@asynccontextmanager
async def aether(dev: DevServer) -> AsyncIterator[tuple[Provider, int]]:
    token = "0123456789abcdef"
    async with AetherEmulator() as emulator:
        emulator.add_workspace(MACHINE, {3000: dev}, token=token)
        yield Aether({MACHINE: token}, edge_url=emulator.edge_url, allow_insecure_loopback=True), 3000


@asynccontextmanager
async def daytona(dev: DevServer) -> AsyncIterator[tuple[Provider, int]]:
    async with DaytonaEmulator() as emulator:
        emulator.add_sandbox(MACHINE, {3000: dev})
        yield (
            Daytona(
                emulator.api_key,
                base_url=emulator.api_url,
                domains=[emulator.edge_domain],
                allow_insecure_loopback=True,
            ),
            3000,
        )


@asynccontextmanager
async def digitorn(dev: DevServer) -> AsyncIterator[tuple[Provider, int]]:
    registry = Digitorn([dev.port])
    registry.attach(MACHINE, dev.port, user="ada")
    yield registry, dev.port


@asynccontextmanager
async def e2b(dev: DevServer) -> AsyncIterator[tuple[Provider, int]]:
    async with E2BEmulator() as emulator:
        emulator.add_sandbox(MACHINE, {3000: dev})
        yield (
            E2B(
                emulator.api_key,
                base_url=emulator.api_url,
                edge_url=emulator.edge_url,
                allow_insecure_loopback=True,
            ),
            3000,
        )


Behind = Callable[[DevServer], AbstractAsyncContextManager[tuple[Provider, int]]]


@pytest.mark.parametrize("behind", [aether, daytona, digitorn, e2b])
async def test_a_page_its_module_its_fetch_and_its_socket(behind: Behind, tmp_path: Path) -> None:
    async with DevServer() as dev:

        @dev.route("/")
        async def page(request: Request, response: Response) -> None:
            html = b"<!doctype html><title>loading</title><script type=module src=/module.js></script>"
            await response.send(200, [("Content-Type", "text/html")], html)

        @dev.route("/module.js")
        async def module(request: Request, response: Response) -> None:
            await response.send(200, [("Content-Type", "text/javascript")], b"document.title = 'loaded'")

        async with behind(dev) as (provider, port), staged("http", provider, tmp_path, machine=MACHINE) as stage:
            _, frame = await stage.embed(port)
            await frame.wait_for_function("document.title === 'loaded'")
            assert await frame.evaluate(ASK, ["/echo", "cors"]) == 200
            assert await frame.evaluate(SOCKET) == "hello"
            assert await frame.evaluate("location.origin") == stage.origin(f"{port}-{MACHINE}.preview.localhost")
    assert {received.path for received in dev.received} >= {"/", "/module.js", "/echo", "/ws"}
