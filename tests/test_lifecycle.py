"""A target's life from end to end: minted, used, counted, renewed, its machine woken, and taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from preview_proxy import Policy, Preview
from tests.transports.test_relay_websocket import dial
from tests.vendors import vendor_world
from tests.world import MACHINE, World, world

pytestmark = pytest.mark.anyio
NAVIGATE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"}


def resumes(w: World) -> int:
    return sum(request.path.endswith("/resume") for request in w.nullspace.api_requests)


async def test_v08_a_page_that_somebody_opens_wakes_its_machine() -> None:
    async with world(policy=Policy(wake=True)) as w:
        w.nullspace.pause(MACHINE)
        with anyio.fail_after(20):
            assert (await w.get("/", headers=NAVIGATE)).status == 200
        assert resumes(w) == 1
        w.nullspace.pause(MACHINE)  # again at once: a preview that forges it is not obeyed
        refused = await w.get("/", headers=NAVIGATE)
        assert (refused.status, resumes(w)) == (503, 1)


PAUSES: dict[str, Callable[[Any], object]] = {
    "Nullspace": lambda emulator: emulator.pause(MACHINE),
    "Daytona": lambda emulator: emulator.stop(MACHINE),
    "E2B": lambda emulator: emulator.set_state(MACHINE, "paused"),
}


@pytest.mark.parametrize("provider", PAUSES)
async def test_a_machine_of_each_provider_is_woken_and_its_page_shown(provider: str) -> None:
    async with vendor_world(provider, policy=Policy(wake=True)) as (w, vendor):
        with anyio.fail_after(20):
            assert (await w.get("/", headers=NAVIGATE)).status == 200
            PAUSES[provider](vendor.emulator)
            assert (await w.get("/")).status == 503
            assert (await w.get("/", headers=NAVIGATE)).status == 200
            assert (await w.get("/")).status == 200


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", NAVIGATE | {"Sec-Purpose": "prefetch"}, 503),
        ("GET", {}, 503),
        ("HEAD", NAVIGATE, 503),
        ("GET", NAVIGATE | {"Cookie": "none=1"}, 401),
    ],
)
async def test_v08_nothing_else_does(method: str, headers: dict[str, str], status: int) -> None:
    async with world(policy=Policy(wake=True)) as w:
        w.nullspace.pause(MACHINE)
        with anyio.fail_after(20):
            assert (await w.get("/", method=method, headers=headers)).status == status
        assert resumes(w) == 0


async def test_v08_nor_does_a_page_where_the_operator_did_not_ask_for_it() -> None:
    async with world() as w:
        w.nullspace.pause(MACHINE)
        assert (await w.get("/", headers=NAVIGATE)).status == 503
        assert resumes(w) == 0


async def test_h14_the_inventory_has_what_nullspaces_has_and_no_token() -> None:
    async with world() as w:
        assert w.proxy.inventory() == []
        with anyio.fail_after(20):
            await w.get("/echo")
            await w.get("/echo")
            async with dial(w):
                pass
        [entry] = w.proxy.inventory()
        [grant] = w.nullspace.grants.values()
        theirs = grant.as_json(w.nullspace.clock())
        for name in ("id", "http_request_count", "websocket_connection_count", "last_error_code"):
            assert getattr(entry, name) == theirs[name]
        assert entry.preview == Preview(MACHINE, 3000)
        assert entry.expires_at == pytest.approx(grant.expires_at, abs=1)
        assert not any(token in repr(entry) for token in grant.tokens.values())


async def test_what_the_edge_said_last_is_in_the_inventory() -> None:
    async with world() as w:
        await w.get("/echo")
        w.nullspace.disable_machine(MACHINE)
        await w.get("/echo")
        assert w.proxy.inventory()[0].last_error_code == "preview_machine_disabled"


@pytest.mark.parametrize("asked", [True, False])
async def test_grants_are_revoked_at_shutdown_if_asked(asked: bool) -> None:
    async with world(policy=Policy(revoke_on_close=asked)) as w:
        await w.get("/echo")
        with anyio.fail_after(20):
            await w.proxy.aclose()
        [grant] = w.nullspace.grants.values()
        assert (grant.revoked_at is not None) is asked
