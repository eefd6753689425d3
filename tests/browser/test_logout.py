"""Signing out in Chromium: the partitioned cookie goes, and what the frame has open ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from preview_proxy.testing import DevServer, NullspaceEmulator
from tests.browser.stage import ASK, CHECK, MACHINE, PREVIEW, Stage, staged
from tests.world import nullspace_provider

pytestmark = pytest.mark.anyio

LOGOUT = "/.well-known/preview-proxy/logout"
SIGN_OUT = """(url) => fetch(url, {method: "POST", credentials: "include"})
  .then((answer) => answer.status, (error) => error.message)"""
OPEN = """() => new Promise((opened) => {
  const socket = new WebSocket(`${location.origin.replace("http", "ws")}/ws`);
  window.closing = new Promise((closed) => { socket.onclose = ({code, reason}) => closed([code, reason]); });
  socket.onopen = () => opened(true);
})"""


@pytest.fixture(params=["http", "https"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    async with (
        DevServer() as dev,
        NullspaceEmulator() as nullspace,
        staged(request.param, nullspace_provider(nullspace), tmp_path) as made,
    ):
        nullspace.add_machine(MACHINE, {3000: dev})
        yield made


async def test_e20_the_embedding_page_signs_its_user_out(stage: Stage) -> None:
    page, frame = await stage.embed()
    assert await frame.evaluate(OPEN)
    assert await page.evaluate(SIGN_OUT, stage.origin(PREVIEW) + LOGOUT) == 204
    assert await frame.evaluate("closing") == [4401, "not_signed_in"]
    assert stage.gate not in {cookie["name"] for cookie in await stage.watch.context.cookies()}
    assert await page.evaluate(ASK, [stage.origin(PREVIEW) + CHECK, "cors"]) == 401
    assert await frame.evaluate(ASK, ["/echo", "cors"]) == 401


async def test_e20_the_frame_cannot(stage: Stage) -> None:
    _, frame = await stage.embed()
    assert await frame.evaluate(SIGN_OUT, LOGOUT) == 403
    assert await frame.evaluate(ASK, ["/echo", "cors"]) == 200
    assert stage.kept_in_app(await stage.cookie(stage.gate))
