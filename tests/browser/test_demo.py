"""The demo in Chromium: what its owner, another user and a stranger see, and that no secret can be read anywhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from playwright.async_api import Browser, Frame, FrameLocator, Page, expect

from examples.demo import __main__ as demo
from examples.demo.customer_app import SIGNED_IN, USERS, Settings, create_app
from preview_proxy.testing import NullspaceEmulator
from tests.browser.chromium import Watch, history
from tests.browser.site import Record, logged, serve

pytestmark = pytest.mark.anyio

GATE = "pp-development"
STORED = "[...Object.entries(localStorage), ...Object.entries(sessionStorage), document.cookie].flat()"
ASK_FOR_TICKET = "fetch('/projects/aurora/preview', {method: 'POST'}).then((answer) => answer.status)"
UNTIL_REFUSED = """async () => {
  while ((await fetch("/headers")).status !== 401) await new Promise((next) => setTimeout(next, 200));
}"""


@dataclass
class Demo:
    """The demo, running in this process so that its secrets are at hand to look for."""

    nullspace: NullspaceEmulator
    files: Path
    lines: list[str]
    settings: list[Settings] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    stop: anyio.Event = field(default_factory=anyio.Event)
    ready: anyio.Event = field(default_factory=anyio.Event)

    @property
    def origin(self) -> str:
        return self.settings[0].origin

    @property
    def preview(self) -> str:
        return self.settings[0].preview_origin("mch_aurora")

    @property
    def record(self) -> Record:
        return self.records[0]

    def create_app(self, settings: Settings) -> Record:
        self.settings.append(settings)
        self.records.append(Record(create_app(settings)))
        return self.record

    def say(self, *words: object) -> None:
        self.lines.append(" ".join(map(str, words)))
        if "is running" in self.lines[-1]:
            self.ready.set()


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Demo]:
    monkeypatch.chdir(tmp_path)
    with logged() as lines:
        started = Demo(NullspaceEmulator(), tmp_path / demo.FILES, lines)
        monkeypatch.setattr(demo, "NullspaceEmulator", lambda: started.nullspace)
        monkeypatch.setattr(demo, "create_app", started.create_app)
        monkeypatch.setattr(demo, "serve", serve)
        monkeypatch.setattr(demo, "say", started.say)
        monkeypatch.setattr(demo, "stop_signal", lambda: started.stop)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(demo.run, 0)
            with anyio.fail_after(10):
                await started.ready.wait()
            yield started
            started.stop.set()
    SIGNED_IN.clear()


@pytest.fixture
async def watch(running: Demo, browser: Browser) -> AsyncIterator[Watch]:
    async with await browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        yield Watch(context)


async def sign_in(running: Demo, watch: Watch, name: str) -> Page:
    """A tab that shows the projects of `name`."""
    page = await watch.context.new_page()
    await page.goto(running.origin)
    await page.screenshot(path=running.files.parent / "login.png")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(USERS[name].password)
    await page.locator("#login button").click()
    await expect(page.get_by_test_id("user")).to_have_text(USERS[name].name)
    return page


async def open_preview(page: Page) -> FrameLocator:
    """Aurora's preview in its frame, alive."""
    await page.get_by_role("link", name="Aurora").click()
    preview = page.frame_locator("#preview")
    await expect(page.get_by_test_id("state")).to_have_text("Live")
    await expect(preview.get_by_test_id("live")).to_have_attribute("data-state", "connected")
    await expect(preview.locator("#ticks")).to_have_text("2 received")
    return preview


async def sign_out_elsewhere(running: Demo, watch: Watch) -> None:
    page = await watch.context.new_page()
    await page.goto(running.origin)
    await page.get_by_test_id("logout").click()
    await expect(page.get_by_test_id("login")).to_be_visible()
    await page.close()


def frame_of(page: Page) -> Frame:
    return page.frames[1]


async def test_the_owner_sees_the_preview_and_edits_show_at_once(running: Demo, watch: Watch) -> None:
    page = await sign_in(running, watch, "ada")
    await page.screenshot(path=running.files.parent / "projects.png")
    preview = await open_preview(page)
    await expect(preview.get_by_test_id("host")).to_have_text(running.preview.removeprefix("http://"))
    await expect(preview.locator("#unseen li")).to_have_count(4)
    await expect(preview.locator("#unseen .seen")).to_have_count(0)
    await page.screenshot(path=running.files.parent / "project.png")

    await preview.get_by_label("Name").fill("ada")
    await preview.get_by_label("Message").fill("It <b>works</b>.")
    await preview.get_by_role("button", name="Sign").click()
    await expect(preview.get_by_test_id("guests")).to_have_text("adaIt <b>works</b>.")

    await page.evaluate("window.marked = true")
    await frame_of(page).evaluate("window.marked = true")
    style = running.files / "aurora" / "style.css"
    style.write_text(style.read_text() + "h1 { color: rgb(1, 2, 3) }")
    await expect(preview.get_by_test_id("headline")).to_have_css("color", "rgb(1, 2, 3)")
    assert await frame_of(page).evaluate("window.marked")

    document = running.files / "aurora" / "index.html"
    document.write_text(document.read_text().replace("Hello from the sandbox.", "Edited"))
    await expect(preview.get_by_test_id("headline")).to_have_text("Edited")
    assert not await frame_of(page).evaluate("window.marked")
    assert await page.evaluate("window.marked")
    assert watch.complaints == []


async def test_another_user_and_a_bare_address_are_refused(running: Demo, watch: Watch) -> None:
    page = await sign_in(running, watch, "grace")
    answer = await page.goto(f"{running.origin}/projects/aurora")
    assert answer is not None and answer.status == 404
    await expect(page.get_by_test_id("error")).to_contain_text("There is no such project.")
    await page.screenshot(path=running.files.parent / "not-found.png")
    await page.goto(running.origin)
    assert await page.evaluate(ASK_FOR_TICKET) == 404

    answer = await page.goto(running.preview)
    assert answer is not None and answer.status == 401
    await expect(page.get_by_role("heading")).to_have_text("You are not signed in here.")
    await page.screenshot(path=running.files.parent / "refused.png")
    assert running.nullspace.mints == 0


async def test_signing_out_ends_the_preview(running: Demo, watch: Watch) -> None:
    page = await sign_in(running, watch, "ada")
    preview = await open_preview(page)
    await sign_out_elsewhere(running, watch)

    with anyio.fail_after(5):  # at once, and before the page looks again by itself
        await frame_of(page).evaluate(UNTIL_REFUSED)
    await frame_of(page).goto(running.preview)
    await expect(preview.get_by_role("heading")).to_have_text("You are not signed in here.")
    await page.screenshot(path=running.files.parent / "ended.png")
    await page.get_by_test_id("reload").click()
    await expect(page.get_by_test_id("notice")).to_contain_text("You are signed out.")
    await expect(page.locator("#preview")).to_have_count(0)
    await page.screenshot(path=running.files.parent / "signed-out.png")
    await page.reload()
    assert page.url == f"{running.origin}/login"


async def test_no_secret_can_be_read_in_addresses_history_storage_console_or_logs(running: Demo, watch: Watch) -> None:
    page = await sign_in(running, watch, "ada")
    preview = await open_preview(page)
    await frame_of(page).evaluate("location.assign('/?step=2')")
    await frame_of(page).wait_for_url("**/?step=2")
    await expect(preview.get_by_test_id("live")).to_have_attribute("data-state", "connected")
    readable = [*await history(page), *await page.evaluate(STORED), *await frame_of(page).evaluate(STORED)]
    readable += await frame_of(page).evaluate("[document.referrer, ...navigation.entries().map((entry) => entry.url)]")
    assert f"{running.preview}/?step=2" in readable
    await sign_out_elsewhere(running, watch)
    await page.get_by_test_id("reload").click()
    await expect(page.get_by_test_id("notice")).to_be_visible()
    await page.goto(running.preview)
    readable += [*await history(page), *watch.words, *running.lines]
    readable += [text for visit in running.record.visits for text in (visit.host, visit.url, visit.header("referer"))]
    readable += [request.target.decode() for request in running.nullspace.edge_requests]
    assert any("POST /.well-known/preview-proxy/session" in line for line in running.lines)

    secrets = secrets_of(running, watch)
    assert set(secrets.values()) == {"API key", "http token", "websocket token", "ticket", GATE, "acme_session"}
    for secret, name in secrets.items():
        worth = secret.rpartition(".")[2]  # of a signed token the signature, for the rest is no secret
        assert not [text for text in readable if worth in text], f"{name} can be read"


def secrets_of(running: Demo, watch: Watch) -> dict[str, str]:
    """What must not be readable, each with what it is."""
    exchanges = [request.post_data for request in watch.requests if "preview-proxy/session" in request.url]
    found = {json.loads(body)["ticket"]: "ticket" for body in exchanges if body}
    for grant in running.nullspace.grants.values():
        found |= {token: f"{kind} token" for kind, token in grant.tokens.items()}
    for visit in running.record.visits:
        found |= {value: name for name, value in visit.cookies.items()}
    return {**found, running.nullspace.api_key: "API key"}
