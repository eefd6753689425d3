"""The example provider, held to the contract."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from examples.own_provider import EDGE_ERRORS, Acorn
from preview_proxy import Preview, Provider, Secret
from preview_proxy.testing import EdgeFailure, ProviderContract

pytestmark = pytest.mark.anyio

API_KEY = "acorn-key-canary-0123"
EDGE = ((b"content-type", b"application/json"), (b"x-acorn-edge", b"1"), (b"retry-after", b"3"))


def acorn_api(request: httpx.Request) -> httpx.Response:
    if request.url.path != "/machines/mch_1/ports/3000/share":
        return httpx.Response(404)
    assert dict(request.headers.raw)[b"authorization"] == f"Bearer {API_KEY}".encode()
    shared = {
        "id": "s1",
        "url": "https://s1.acorn.example/base/?via=proxy",
        "token": "acorn-token-canary",
        "expires_at": 4e9,
    }
    return httpx.Response(201, json=shared)


class TestAcorn(ProviderContract):
    preview = Preview("mch_1", 3000)
    unknown = Preview("mch_2", 3000)
    closed_ports = (22,)
    secrets = (API_KEY,)
    api = httpx.MockTransport(acorn_api)
    edge_failures = tuple(
        EdgeFailure(401, EDGE, json.dumps({"reason": reason}).encode(), code)
        for reason, (_, code) in EDGE_ERRORS.items()
    )

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        yield Acorn(Secret(API_KEY), timeout=timeout, transport=transport)
