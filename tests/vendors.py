"""Every provider with an emulator, in front of the same dev server and behind the same proxy."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from websockets import Origin
from websockets.asyncio.client import connect

from preview_proxy import E2B, Aether, Blaxel, Daytona, OpenComputer, Provider
from preview_proxy.providers.opencomputer_tokens import PreviewTokens
from preview_proxy.testing import (
    AetherEmulator,
    BlaxelEmulator,
    DaytonaEmulator,
    DevServer,
    E2BEmulator,
    NullspaceEmulator,
    OpenComputerEmulator,
)
from preview_proxy.testing.emulator import EdgeEmulator
from tests.world import MACHINE, World, nullspace_provider, world


@dataclass
class Vendor:
    """A provider and its emulator. `serve` puts dev servers behind ports of the machine."""

    provider: Provider
    emulator: EdgeEmulator
    serve: Callable[[dict[int, int | DevServer]], object]


def dial(w: World) -> connect:
    """A visitor's WebSocket."""
    return connect(
        f"ws://{w.host}/ws",
        host="127.0.0.1",
        port=w.port,
        origin=Origin(w.origin),
        additional_headers={"Cookie": f"pp-development={w.gate}"},
        proxy=None,
    )


def age(w: World, seconds: float = 31) -> None:
    """Let what is cached be old enough to be made anew."""
    w.proxy._targets._clock = lambda: time.time() + seconds


@asynccontextmanager
async def nullspace() -> AsyncIterator[Vendor]:
    async with NullspaceEmulator() as emulator:
        yield Vendor(nullspace_provider(emulator), emulator, lambda ports: emulator.add_machine(MACHINE, ports))


def blaxel_provider(emulator: BlaxelEmulator, **options: Any) -> Blaxel:
    settings: dict[str, Any] = {
        "api_key": emulator.api_key,
        "workspace": emulator.workspace,
        "base_url": f"{emulator.api_url}/v0",
        "domains": [emulator.edge_domain],
        "allow_insecure_loopback": True,
    }
    return Blaxel(**settings | options)


@asynccontextmanager
async def blaxel() -> AsyncIterator[Vendor]:
    async with BlaxelEmulator() as emulator:
        provider = blaxel_provider(emulator)
        yield Vendor(provider, emulator, lambda ports: emulator.add_sandbox(MACHINE, ports))


def opencomputer_provider(
    emulator: OpenComputerEmulator, tokens: MutableMapping[str, str] | PreviewTokens, **options: Any
) -> OpenComputer:
    settings: dict[str, Any] = {
        "token_reaches_sandbox": True,
        "api_key": emulator.api_key,
        "base_url": emulator.api_url,
        "edge_url": emulator.edge_url,
        "allow_insecure_loopback": True,
    }
    return OpenComputer(tokens, **settings | options)


@asynccontextmanager
async def opencomputer() -> AsyncIterator[Vendor]:
    async with OpenComputerEmulator() as emulator:
        tokens: dict[str, str] = {}
        provider = opencomputer_provider(emulator, tokens)

        def serve(ports: dict[int, int | DevServer]) -> None:
            tokens[MACHINE] = emulator.add_sandbox(MACHINE, ports)

        yield Vendor(provider, emulator, serve)


def aether_provider(emulator: AetherEmulator, tokens: Mapping[str, str]) -> Aether:
    return Aether(tokens, edge_url=emulator.edge_url, allow_insecure_loopback=True)


@asynccontextmanager
async def aether() -> AsyncIterator[Vendor]:
    token = "0123456789abcdef"
    async with AetherEmulator() as emulator:
        provider = aether_provider(emulator, {MACHINE: token})
        yield Vendor(provider, emulator, lambda ports: emulator.add_workspace(MACHINE, ports, token=token))


def daytona_provider(emulator: DaytonaEmulator, **options: Any) -> Daytona:
    settings: dict[str, Any] = {
        "base_url": emulator.api_url,
        "domains": [emulator.edge_domain],
        "allow_insecure_loopback": True,
    }
    return Daytona(emulator.api_key, **settings | options)


@asynccontextmanager
async def daytona() -> AsyncIterator[Vendor]:
    async with DaytonaEmulator() as emulator:
        yield Vendor(daytona_provider(emulator), emulator, lambda ports: emulator.add_sandbox(MACHINE, ports))


def e2b_provider(emulator: E2BEmulator, **options: Any) -> E2B:
    settings: dict[str, Any] = {
        "base_url": emulator.api_url,
        "edge_url": emulator.edge_url,
        "allow_insecure_loopback": True,
    }
    return E2B(emulator.api_key, **settings | options)


@asynccontextmanager
async def e2b() -> AsyncIterator[Vendor]:
    async with E2BEmulator() as emulator:
        yield Vendor(e2b_provider(emulator), emulator, lambda ports: emulator.add_sandbox(MACHINE, ports))


VENDORS: dict[str, Callable[[], AbstractAsyncContextManager[Vendor]]] = {
    "Nullspace": nullspace,
    "Blaxel": blaxel,
    "OpenComputer": opencomputer,
    "Aether": aether,
    "Daytona": daytona,
    "E2B": e2b,
}


@asynccontextmanager
async def vendor_world(name: str, **options: Any) -> AsyncIterator[tuple[World, Vendor]]:
    """Everything running, with one vendor's provider and the dev server at port 3000 of its machine."""
    async with VENDORS[name]() as vendor, world(provider=lambda _: vendor.provider, **options) as w:
        vendor.serve({3000: w.dev})
        yield w, vendor
