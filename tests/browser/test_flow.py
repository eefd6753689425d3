"""From a ticket to a gate cookie in Chromium, on http and on https: where the cookie goes, and where it does not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from preview_proxy.testing import DevServer, NullspaceEmulator
from preview_proxy.testing.http_server import Request, Response
from tests.browser.stage import (
    APP,
    ASK,
    CHECK,
    EMBED,
    EXCHANGE,
    MACHINE,
    OTHER,
    PREVIEW,
    SESSION,
    SIBLING,
    SOCKET,
    Stage,
    staged,
)
from tests.world import nullspace_provider

pytestmark = pytest.mark.anyio

POST = """([url, mode, body]) => fetch(url, {method: "POST", mode, credentials: "include", body})
  .then((answer) => answer.type, (error) => error.message)"""
FORM = """([action, enctype, value]) => {
  const form = document.createElement("form");
  Object.assign(form, {action, enctype, method: "post"});
  form.append(Object.assign(document.createElement("input"), {name: value}));
  document.body.append(form);
  form.submit();
}"""
ATTEMPT = "(code) => { try { eval(code); return 'done'; } catch (error) { return error.name; } }"
PASSKEY = """() => navigator.credentials.get({publicKey: {challenge: new Uint8Array(16), allowCredentials: []}})
  .then(() => "asked", (error) => error.name)"""
UNREADABLE = "Failed to fetch"


@pytest.fixture
async def dev() -> AsyncIterator[DevServer]:
    async with DevServer() as started:
        yield started


@pytest.fixture(params=["http", "https"])
async def stage(request: pytest.FixtureRequest, dev: DevServer, tmp_path: Path) -> AsyncIterator[Stage]:
    async with NullspaceEmulator() as nullspace, staged(request.param, nullspace_provider(nullspace), tmp_path) as made:
        nullspace.add_machine(MACHINE, {3000: dev, 3001: dev})
        yield made


async def test_the_gate_opens_every_request_of_the_frame_and_no_script_sees_it(stage: Stage, dev: DevServer) -> None:
    @dev.route("/module.js")
    async def module(request: Request, response: Response) -> None:
        await response.send(200, [("Content-Type", "text/javascript")], b"export default 'loaded'")

    _, frame = await stage.embed()
    gate = await stage.cookie(stage.gate)
    assert stage.kept_in_app(gate)
    assert gate["httpOnly"]
    assert await frame.evaluate("document.cookie") == ""

    assert await frame.evaluate(ASK, ["/echo", "cors"]) == 200
    assert await frame.evaluate("import('/module.js').then((module) => module.default)") == "loaded"
    assert await frame.evaluate(SOCKET) == "hello"
    for path in ("/", "/echo", "/module.js", "/ws"):
        (visit,) = stage.record.to(PREVIEW, path)
        assert visit.cookies == {stage.gate: gate["value"]}, path
    assert [received.path for received in dev.received if received.values(b"cookie")] == []


async def test_the_gate_does_not_follow_into_a_tab_another_site_or_another_preview(
    stage: Stage, dev: DevServer
) -> None:
    page, _ = await stage.embed()
    await page.evaluate(EMBED, stage.origin(SIBLING))
    await (await stage.page(OTHER)).evaluate(EMBED, stage.origin(PREVIEW))
    tab = await stage.watch.context.new_page()
    answer = await tab.goto(stage.origin(PREVIEW))
    assert answer is not None and answer.status == 401

    opened, framed_by_other, in_tab = stage.record.to(PREVIEW, "/")
    assert list(opened.cookies) == [stage.gate]
    (sibling,) = stage.record.to(SIBLING, "/")
    assert [framed_by_other.cookies, in_tab.cookies, sibling.cookies] == [{}, {}, {}]
    assert [received.path for received in dev.received] == ["/"]


async def test_a_ticket_works_once(stage: Stage) -> None:
    page = await stage.page(APP)
    ticket = await stage.ticket()
    assert await page.evaluate(EXCHANGE, ticket) == 204
    assert await page.evaluate(EXCHANGE, ticket) == 403

    await stage.watch.context.clear_cookies()
    assert await page.evaluate(EXCHANGE, ticket) == 403
    assert await page.evaluate(ASK, [stage.origin(PREVIEW) + CHECK, "cors"]) == 401


async def test_another_website_can_neither_spend_a_ticket_nor_read_the_check(stage: Stage) -> None:
    await stage.embed()
    session, check = (stage.origin(PREVIEW) + path for path in (SESSION, CHECK))
    page = await stage.page(OTHER)
    ticket = await stage.ticket()
    before = len(stage.record.visits)
    assert await page.evaluate(EXCHANGE, ticket) == UNREADABLE
    assert await page.evaluate(POST, [session, "no-cors", json.dumps({"ticket": ticket[1]})]) == "opaque"
    assert await page.evaluate(ASK, [check, "cors"]) == UNREADABLE
    async with page.expect_navigation() as submitted:
        await page.evaluate(FORM, [session, "text/plain", json.dumps({"ticket": ticket[1]})])
    assert (await submitted.value).status == 403

    visits = [visit for visit in stage.record.visits[before:] if visit.url in (SESSION, CHECK)]
    assert [visit.method for visit in visits] == ["OPTIONS", "POST", "GET", "POST"]
    assert [visit.cookies for visit in visits] == [{}] * 4
    assert len([cookie for cookie in await stage.watch.context.cookies() if cookie["name"] == stage.gate]) == 1
    assert await (await stage.page(APP)).evaluate(EXCHANGE, ticket) == 204


async def test_the_preview_cannot_read_or_move_its_embedder_nor_post_with_its_session(stage: Stage) -> None:
    page, frame = await stage.embed()
    app = stage.origin(APP)
    assert {"session", "readable"} == {cookie["name"] for cookie in await stage.watch.context.cookies(app)}
    for attempt in ("parent.document.cookie", "top.location.href", f"top.location = '{app}/moved'"):
        assert await frame.evaluate(ATTEMPT, attempt) == "SecurityError", attempt
    assert await frame.evaluate(ASK, [app, "cors"]) == UNREADABLE
    assert await frame.evaluate(POST, [app + "/fetched", "no-cors", "a=b"]) == "opaque"
    await frame.evaluate(FORM, [app + "/submitted", "application/x-www-form-urlencoded", "a"])
    await frame.wait_for_url(app + "/submitted")

    assert page.url == app + "/"
    assert stage.record.to(APP, "/moved") == []
    for path in ("/fetched", "/submitted"):
        (visit,) = stage.record.to(APP, path)
        assert (visit.method, visit.cookies) == ("POST", {})


async def test_the_machines_own_cookies_work_in_the_frame_and_cannot_replace_the_gate(
    stage: Stage, dev: DevServer
) -> None:
    @dev.route("/login")
    async def login(request: Request, response: Response) -> None:
        wanted = ["sid=1; Path=/; SameSite=Lax; Domain=preview.localhost", f"{stage.gate}=planted; Path=/; Secure"]
        await response.send(204, [("Set-Cookie", cookie) for cookie in wanted])

    _, frame = await stage.embed()
    gate = await stage.cookie(stage.gate)
    assert await frame.evaluate(ASK, ["/login", "cors"]) == 204
    assert stage.kept_in_app(await stage.cookie("sid"))
    assert await stage.cookie(stage.gate) == gate
    assert await frame.evaluate(ASK, ["/echo", "cors"]) == 200
    assert await frame.evaluate(SOCKET) == "hello"
    _, sibling = await stage.embed(3001)
    assert await sibling.evaluate(ASK, ["/echo", "cors"]) == 200

    seen = [(received.path, received.values(b"cookie")) for received in dev.received]
    assert seen == [("/", []), ("/login", []), ("/echo", [b"sid=1"]), ("/ws", [b"sid=1"]), ("/", []), ("/echo", [])]


async def test_r11_what_a_preview_seldom_needs_is_denied_without_a_word_in_the_console(stage: Stage) -> None:
    _, frame = await stage.embed()
    assert stage.watch.complaints == []
    # of those that we deny, the one that a frame on another site has unless it is denied
    assert await frame.evaluate("document.featurePolicy.allowsFeature('storage-access')") is False
    assert await frame.evaluate(PASSKEY) == "NotAllowedError"
