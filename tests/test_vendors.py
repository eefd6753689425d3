"""Each provider's edge behind the proxy: what it does to requests and answers, and what the proxy makes of it."""

from __future__ import annotations

from typing import cast

import anyio
import pytest

from preview_proxy import OpenComputer
from preview_proxy.testing import BlaxelEmulator, OpenComputerEmulator, Request, Response
from tests.vendors import VENDORS, age, dial, vendor_world
from tests.world import MACHINE

pytestmark = pytest.mark.anyio

every_vendor = pytest.mark.parametrize("provider", VENDORS)


@every_vendor
async def test_http_and_websocket_reach_the_app_and_no_url_holds_a_token(provider: str) -> None:
    async with vendor_world(provider) as (w, vendor):
        answer = await w.get("/echo?a=1")
        assert answer.status == 200 and answer.json()["target"].startswith("/echo?a=1")
        async with dial(w) as socket:
            for message in ("hello", b"\x00\xff"):
                await socket.send(message)
                assert await socket.recv() == message
        served = vendor.emulator.edge_requests
        assert {request.verdict for request in served} == {"served"}
        credentials = [
            value for request in served for name, value in request.headers if name.lower().endswith(b"-token")
        ]
        assert len(credentials) == (0 if provider == "Aether" else 2)  # there the host is the credential
        assert not any(value in request.target for request in served for value in credentials)


@every_vendor
async def test_an_app_that_repeats_its_headers_tells_the_visitor_no_token(provider: str) -> None:
    async with vendor_world(provider) as (w, _):

        @w.dev.route("/mirror")
        async def mirror(request: Request, response: Response) -> None:
            repeated = [(b"X-Saw-" + name, value) for name, value in request.received.headers]
            await response.send(200, [*repeated, ("X-Plain", "kept")])

        answer = await w.get("/mirror")
        assert answer.values(b"x-plain") == [b"kept"]
        assert [name for name, _ in answer.headers if b"-token" in name] == []


@every_vendor
async def test_the_apps_own_authorization_passes_and_is_not_taken_for_the_providers(provider: str) -> None:
    async with vendor_world(provider) as (w, _):
        answer = await w.get("/", headers={"Authorization": "Bearer of-the-app"})
        assert answer.status == 200
        assert w.dev.received[0].values(b"authorization") == [b"Bearer of-the-app"]


@every_vendor
async def test_a_visitor_cannot_send_a_credential_of_the_providers(provider: str) -> None:
    forged = {"X-Nullspace-Preview-Proxy-Token": "f", "X-Blaxel-Preview-Token": "f", "X-OC-Preview-Token": "f"}
    query = "bl_preview_token=f&edge_token=f&a=1"
    async with vendor_world(provider) as (w, vendor):
        assert (await w.get(f"/?{query}", headers=forged)).status == 200
        [request] = vendor.emulator.edge_requests
        assert b"f" not in [value for _, value in request.headers] and b"=f" not in request.target


# --- Blaxel ---


async def test_an_expired_token_and_a_deleted_preview_are_made_anew() -> None:
    async with vendor_world("Blaxel") as (w, vendor):
        blaxel = cast(BlaxelEmulator, vendor.emulator)
        await w.get("/")
        [first] = blaxel.previews
        blaxel.expire()
        age(w)
        assert (await w.get("/")).status == 200
        age(w, 62)
        blaxel.delete_previews()
        assert (await w.get("/")).status == 200
        [second] = blaxel.previews
        assert second.id != first.id
        verdicts = [request.verdict for request in blaxel.edge_requests]
        assert verdicts == ["served", "AUTHENTICATION_FAILED", "served", "ROUTE_NOT_FOUND", "served"]


async def test_blaxels_marks_are_for_us_and_its_cors_fields_for_the_visitor() -> None:
    async with vendor_world("Blaxel") as (w, _):
        answer = await w.get("/")
        assert answer.values(b"access-control-allow-methods") == [b"GET, POST, PUT, DELETE, OPTIONS, PATCH"]
        assert [name for name, _ in answer.headers if name.startswith(b"x-blaxel-")] == []


async def test_a_preflight_is_answered_by_blaxel_and_not_by_the_app() -> None:
    async with vendor_world("Blaxel") as (w, vendor):
        headers = {"Origin": w.origin, "Access-Control-Request-Method": "PUT"}
        answer = await w.get("/", method="OPTIONS", headers=headers)
        assert (answer.status, w.dev.received) == (200, [])
        assert vendor.emulator.edge_requests[-1].verdict == "PREFLIGHT"


@pytest.mark.parametrize("marked", [True, False])
async def test_a_port_where_nobody_listens_is_told_if_blaxel_marks_it(marked: bool) -> None:
    async with vendor_world("Blaxel") as (w, vendor):
        blaxel = cast(BlaxelEmulator, vendor.emulator)
        blaxel.switches.marks_bad_gateway = marked
        blaxel.add_sandbox(MACHINE, {})
        answer = await w.get("/")
        if marked:
            assert (answer.status, answer.json()["code"]) == (503, "preview_service_not_ready")
        else:
            assert (answer.status, answer.body) == (502, b"Bad Gateway")


async def test_a_sandbox_that_is_gone_or_out_of_reach_is_told() -> None:
    async with vendor_world("Blaxel") as (w, vendor):
        blaxel = cast(BlaxelEmulator, vendor.emulator)
        await w.get("/")
        blaxel.unavailable(MACHINE)
        assert (await w.get("/")).json()["code"] == "edge_runtime_host_unreachable"
        blaxel.delete_sandbox(MACHINE)
        age(w)
        assert (await w.get("/")).json()["code"] == "machine_not_found"


async def test_a_public_preview_of_that_name_is_never_shown() -> None:
    async with vendor_world("Blaxel") as (w, vendor):
        blaxel = cast(BlaxelEmulator, vendor.emulator)
        blaxel.add_preview(MACHINE, "preview-proxy-3000", 3000, public=True)
        assert (await w.get("/")).json()["code"] == "provider_failed"
        assert blaxel.edge_requests == []


# --- OpenComputer ---


async def test_the_sandbox_sees_its_token_as_documented() -> None:
    async with vendor_world("OpenComputer") as (w, vendor):
        await w.get("/")
        assert w.dev.received[0].values(b"x-oc-preview-token") == vendor.emulator.edge_requests[0].values(
            b"x-oc-preview-token"
        )


async def test_a_rotation_drops_neither_what_is_under_way_nor_what_comes_after() -> None:
    async with vendor_world("OpenComputer") as (w, vendor):
        provider = cast(OpenComputer, vendor.provider)
        arrived, go_on = anyio.Event(), anyio.Event()

        @w.dev.route("/held")
        async def held(request: Request, response: Response) -> None:
            arrived.set()
            await go_on.wait()
            await response.send(200, [], b"at last")

        answers = []

        async def ask() -> None:
            answers.append(await w.get("/held"))

        with anyio.fail_after(10):
            async with dial(w) as socket, anyio.create_task_group() as group:
                group.start_soon(ask)
                await arrived.wait()
                await provider.rotate(MACHINE)
                body = b"hello"
                head = w.request("/body", method="POST", headers={"Content-Length": "5", "Origin": w.origin})
                posted = await w.raw(head + body, method="POST")
                assert (posted.status, posted.body) == (200, body)
                await socket.send("still here")
                assert await socket.recv() == "still here"
                go_on.set()
        assert [(answer.status, answer.body) for answer in answers] == [(200, b"at last")]
        assert {request.verdict for request in vendor.emulator.edge_requests} == {"served"}
        assert len({request.values(b"x-oc-preview-token")[0] for request in vendor.emulator.edge_requests}) == 2


async def test_a_rotation_elsewhere_is_noticed_at_the_first_refusal() -> None:
    async with vendor_world("OpenComputer") as (w, vendor):
        await w.get("/")
        vendor.serve({3000: w.dev})  # with a new token, which is kept
        age(w)
        assert (await w.get("/")).status == 200
        assert [request.verdict for request in vendor.emulator.edge_requests] == ["served", "token_wrong", "served"]
        assert vendor.emulator.api_requests == []


async def test_a_hibernated_sandbox_is_woken_by_an_admitted_visitor_alone() -> None:
    async with vendor_world("OpenComputer") as (w, vendor):
        emulator = cast(OpenComputerEmulator, vendor.emulator)
        emulator.set_status(MACHINE, "hibernated")
        assert (await w.get("/", headers={"Cookie": ""})).status == 401
        assert emulator.status(MACHINE) == "hibernated"
        assert (await w.get("/")).status == 200
        assert emulator.status(MACHINE) == "running"


async def test_where_nobody_listens_a_page_reloads_itself_and_everything_else_is_told() -> None:
    async with vendor_world("OpenComputer") as (w, vendor):
        vendor.serve({})
        page = await w.get("/", headers={"Accept": "text/html"})
        assert (page.status, b'http-equiv="refresh"' in page.body) == (503, True)
        answer = await w.get("/", headers={"Accept": "application/json"})
        assert (answer.status, answer.json()["code"]) == (503, "preview_service_not_ready")


async def test_opencomputers_cors_fields_take_the_place_of_the_apps() -> None:
    async with vendor_world("OpenComputer") as (w, _):

        @w.dev.route("/cors")
        async def cors(request: Request, response: Response) -> None:
            await response.send(200, [("Access-Control-Allow-Origin", "https://app.acme.com")])

        assert (await w.get("/cors")).values(b"access-control-allow-origin") == [b"*"]
