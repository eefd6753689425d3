"""Each documented error of each provider's edge, through the whole proxy: what the visitor gets, and what it costs."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus

from docs.edges import EdgeRow, edge_rows
from preview_proxy.errors import MachineUnavailable
from preview_proxy.lease import RENEWABLE
from tests.vendors import VENDORS, age, dial, vendor_world
from tests.world import World

pytestmark = pytest.mark.anyio

rows = pytest.mark.parametrize("row", edge_rows(), ids=lambda row: f"{row.provider}-{row.name}")


async def refused_handshake(w: World) -> tuple[int, str]:
    """Status of the refusal, and the code that the proxy gives."""
    with pytest.raises(InvalidStatus) as caught:
        async with dial(w):
            pass
    return caught.value.response.status_code, caught.value.response.headers["x-preview-proxy-error"]


@rows
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_visitor_gets_our_words_and_the_api_no_more_calls_than_it_says(row: EdgeRow, kind: str) -> None:
    async with vendor_world(row.provider) as (w, vendor):
        assert (await w.get("/")).status == 200
        age(w)
        vendor.emulator.api_requests.clear()
        vendor.emulator.edge_requests.clear()
        vendor.emulator.refuse(row.name)
        if kind == "http":
            answer = await w.get("/")
            assert (answer.status, answer.json()["code"]) == (row.row.status, row.code)
            waits = row.kind is MachineUnavailable or row.code == "rate_limit_exceeded"
            assert len(answer.values(b"retry-after")) == waits
        else:
            assert await refused_handshake(w) == (row.row.status, row.code)
        assert len(vendor.emulator.api_requests) == row.calls
        assert {request.verdict for request in vendor.emulator.edge_requests} == {row.name}
        assert len(vendor.emulator.edge_requests) == (2 if row.reaction.startswith("A target") else 1)
        assert len(w.dev.received) == 1


RENEWING = [name for name in VENDORS if any(row.provider == name and row.code in RENEWABLE for row in edge_rows())]


@pytest.mark.parametrize("provider", RENEWING)
async def test_a_young_target_is_not_made_anew_whatever_the_edge_says(provider: str) -> None:
    renewable = next(row for row in edge_rows() if row.provider == provider and row.reaction.startswith("A target"))
    async with vendor_world(provider) as (w, vendor):
        await w.get("/")
        vendor.emulator.api_requests.clear()
        vendor.emulator.refuse(renewable.name)
        for _ in range(3):
            assert (await w.get("/")).json()["code"] == renewable.code
        assert vendor.emulator.api_requests == []


@pytest.mark.parametrize("provider", RENEWING)
async def test_a_refusal_that_is_over_is_cured_for_the_visitor(provider: str) -> None:
    renewable = next(row for row in edge_rows() if row.provider == provider and row.reaction.startswith("A target"))
    async with vendor_world(provider) as (w, vendor):
        await w.get("/")
        age(w)
        vendor.emulator.refuse(renewable.name, times=1)
        assert (await w.get("/")).status == 200
