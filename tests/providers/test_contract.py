"""Every provider is held to `ProviderContract`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from preview_proxy import Nullspace, Preview, Provider, Static
from preview_proxy.providers import blaxel_errors, nullspace_errors, opencomputer_errors
from preview_proxy.providers.static import fixed_target
from preview_proxy.testing import BlaxelEmulator, EdgeFailure, NullspaceEmulator, OpenComputerEmulator, ProviderContract
from preview_proxy.testing.opencomputer_state import EDGE_REFUSALS
from tests.vendors import blaxel_provider, opencomputer_provider

pytestmark = pytest.mark.anyio

JSON = ((b"content-type", b"application/json"),)


class TestNullspace(ProviderContract):
    preview = Preview("mch_a1b2c3d4", 3000)
    unknown = Preview("mch_gone", 3000)
    closed_ports = (22, 5900, 5999)
    edge_failures = tuple(
        EdgeFailure(401, JSON, json.dumps({"code": code}).encode(), code) for code in nullspace_errors.EDGE_ERRORS
    )

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        async with NullspaceEmulator() as nullspace:
            nullspace.add_machine(self.preview.machine, {3000: 9}, traffic_token="traffic-canary-012345")
            self.secrets = [nullspace.api_key, "traffic-canary-012345"]
            yield Nullspace(
                nullspace.api_key,
                base_url=nullspace.api_url,
                domains=[nullspace.edge_domain],
                traffic_tokens={self.preview.machine: "traffic-canary-012345"},
                allow_insecure_loopback=True,
                transport=transport,
                timeout=timeout,
            )


class TestStatic(ProviderContract):
    preview = Preview("docs", 3000)
    unknown = Preview("other", 3000)
    secrets = ("static-canary-0123",)

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        target = fixed_target("https://docs.example.com", http_credentials={"x-token": self.secrets[0]})
        yield Static({self.preview: target})


class TestBlaxel(ProviderContract):
    preview = Preview("my-sandbox", 3000)
    unknown = Preview("gone", 3000)
    closed_ports = (80, 443, 8080)
    edge_failures = tuple(
        EdgeFailure(404, ((b"x-blaxel-source", b"platform"), (b"x-blaxel-error-code", code.encode())), b"", ours)
        for code, (_, ours) in blaxel_errors.EDGE_ERRORS.items()
    )

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        async with BlaxelEmulator() as blaxel:
            blaxel.add_sandbox(self.preview.machine, {3000: 9})
            self.secrets = [blaxel.api_key]
            yield blaxel_provider(blaxel, transport=transport, timeout=timeout)


class TestOpenComputer(ProviderContract):
    preview = Preview("sb-a1b2c3", 3000)
    unknown = Preview("no.sandbox", 3000)
    edge_failures = tuple(
        EdgeFailure(row.status, JSON, json.dumps({"error": text.format(sandbox="sb-a1b2c3")}).encode(), row.code)
        for row, (_, text) in zip(opencomputer_errors.EDGE_ERRORS, EDGE_REFUSALS.values(), strict=True)
    )

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        async with OpenComputerEmulator() as opencomputer:
            tokens = {self.preview.machine: opencomputer.add_sandbox(self.preview.machine, {3000: 9})}
            self.secrets = [opencomputer.api_key, *tokens.values()]
            yield opencomputer_provider(opencomputer, tokens, transport=transport, timeout=timeout)
