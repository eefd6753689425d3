"""A real Vite behind the proxy, framed in Chromium: cold start, hot replacement, and a restart of the dev server."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from playwright.async_api import Frame, expect

from preview_proxy import Nullspace, Preview, Target
from preview_proxy.testing import NullspaceEmulator
from tests.browser.stage import MACHINE, PREVIEW, Stage, staged
from tests.programs import need, npm_packages
from tests.servers import listening
from tests.world import nullspace_provider

pytestmark = pytest.mark.anyio

CONNECTED = "[vite] connected."
LOST = "[vite] server connection lost. Polling for restart..."
FIXTURE = Path(__file__).parent / "vite"
SEEN_HOST = "3000-mch.machines.example"
"""The `Host` that the machine sees: the provider's, neither the preview's nor one that Vite knows by itself."""


@pytest.fixture(scope="session")
def packages() -> Path:
    return npm_packages(FIXTURE)


@dataclass
class Vite:
    """The dev server's project, and the port it is served at."""

    folder: Path
    port: int
    process: Process | None = None

    async def start(self) -> None:
        vite = "node_modules/vite/bin/vite.js"
        command = [need("node"), vite, "--host", "127.0.0.1", "--port", str(self.port), "--strictPort"]
        with (self.folder / "vite.log").open("w") as log:
            self.process = await anyio.open_process(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        with anyio.fail_after(30):
            while not await self._listens():
                assert self.process.returncode is None, (self.folder / "vite.log").read_text()
                await anyio.sleep(0.05)

    async def _listens(self) -> bool:
        with suppress(OSError):
            await (await anyio.connect_tcp("127.0.0.1", self.port)).aclose()
            return True
        return False

    async def stop(self) -> None:
        """End the server with all that it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.aclose()

    def edit(self, name: str, old: str, new: str) -> None:
        file = self.folder / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


def copy_fixture(folder: Path, packages: Path) -> None:
    """A copy that shares the installed packages, but nothing that Vite makes of them."""
    shutil.copytree(FIXTURE, folder, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").mkdir()
    for package in packages.iterdir():
        (folder / "node_modules" / package.name).symlink_to(package)


@pytest.fixture
async def vite(packages: Path, tmp_path: Path) -> AsyncIterator[Vite]:
    folder = tmp_path / "project"
    copy_fixture(folder, packages)
    with listening() as listener:
        made = Vite(folder, listener.getsockname()[1])
    yield made
    await made.stop()


@pytest.fixture
async def stage(request: pytest.FixtureRequest, vite: Vite, tmp_path: Path) -> AsyncIterator[Stage]:
    scheme: str = getattr(request, "param", "http")
    async with NullspaceEmulator() as nullspace, staged(scheme, nullspace_provider(nullspace), tmp_path) as made:
        nullspace.add_machine(MACHINE, {3000: vite.port}, mask_request_host=SEEN_HOST)
        yield made


@asynccontextmanager
async def says(stage: Stage, text: str) -> AsyncIterator[None]:
    """Wait at the end of the block until Vite's client has said `text` in the console."""
    async with stage.watch.context.expect_console_message(lambda message: message.text == text):
        yield


async def open_preview(stage: Stage) -> Frame:
    """The frame with its socket open: only then does Vite's client hear of an edit."""
    async with says(stage, CONNECTED):
        page, frame = await stage.embed()
    await expect(frame.get_by_role("heading")).to_have_text("First")
    await page.evaluate("window.marked = true")
    await frame.evaluate("window.marked = true")
    return frame


@pytest.mark.parametrize("stage", ["http", "https"], indirect=True)
async def test_a_cold_start_answers_every_request_and_opens_the_socket_at_the_preview(stage: Stage, vite: Vite) -> None:
    await vite.start()
    frame = await open_preview(stage)
    await expect(frame.get_by_role("heading")).to_have_css("color", "rgb(1, 1, 1)")
    (socket,) = [visit for visit in stage.record.visits if visit.kind == "websocket"]
    assert (socket.host, socket.header("sec-websocket-protocol")) == (PREVIEW, "vite-hmr")
    loaded = [answer for answer in stage.watch.responses if stage.origin(PREVIEW) in answer.url]
    assert len(loaded) >= 12
    assert [answer.url for answer in loaded if answer.status not in (200, 204)] == []
    assert (stage.watch.failures, stage.watch.complaints) == ([], [])


async def test_an_edit_is_hot_replaced_without_a_reload_and_state_survives(stage: Stage, vite: Vite) -> None:
    await vite.start()
    frame = await open_preview(stage)
    for _ in range(3):
        await frame.get_by_role("button").click()
    vite.edit("src/App.jsx", "First", "Second")
    await expect(frame.get_by_role("heading")).to_have_text("Second")
    vite.edit("src/Counter.jsx", "Clicked", "Pressed")
    await expect(frame.get_by_role("button")).to_have_text("Pressed 3")
    vite.edit("src/style.css", "rgb(1, 1, 1)", "rgb(2, 2, 2)")
    await expect(frame.get_by_role("heading")).to_have_css("color", "rgb(2, 2, 2)")
    assert await frame.evaluate("window.marked")
    assert (stage.watch.failures, stage.watch.complaints) == ([], [])


async def test_the_page_comes_back_by_itself_after_the_dev_server_restarted(stage: Stage, vite: Vite) -> None:
    await vite.start()
    frame = await open_preview(stage)
    async with says(stage, LOST):
        await vite.stop()
    vite.edit("src/App.jsx", "First", "Restarted")
    async with says(stage, CONNECTED):
        await vite.start()
    await expect(frame.get_by_role("heading")).to_have_text("Restarted")
    vite.edit("src/App.jsx", "Restarted", "Hot again")
    await expect(frame.get_by_role("heading")).to_have_text("Hot again")
    assert await frame.page.evaluate("window.marked")


async def test_the_page_comes_back_by_itself_when_its_socket_reaches_the_age_at_which_the_edge_drops_it(
    stage: Stage, vite: Vite, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = Nullspace.resolve

    async def aging(self: Nullspace, preview: Preview) -> Target:
        target = await resolve(self, preview)
        assert target.websocket is not None
        return replace(target, websocket=replace(target.websocket, max_socket_age=4.0))

    monkeypatch.setattr(Nullspace, "resolve", aging)
    await vite.start()
    async with says(stage, LOST):
        frame = await open_preview(stage)
    async with says(stage, CONNECTED):
        pass
    vite.edit("src/App.jsx", "First", "Second")
    await expect(frame.get_by_role("heading")).to_have_text("Second")


async def test_without_the_machines_host_in_allowed_hosts_vite_refuses_and_says_so(stage: Stage, vite: Vite) -> None:
    vite.edit("vite.config.js", '".machines.example"', "")
    await vite.start()
    _, frame = await stage.embed()
    await expect(frame.locator("body")).to_contain_text("server.allowedHosts")
    (answer,) = [answer for answer in stage.watch.responses if answer.url == stage.origin(PREVIEW) + "/"]
    assert answer.status == 403
