"""`make demo`: it starts, shows a preview to its owner only, follows edits, and stops when told to."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import pytest
import websockets
from anyio.abc import Process

from examples.demo.__main__ import listen, serve
from examples.demo.customer_app import USERS, Settings, create_app
from examples.demo.sample_machine import copy_site, create_site

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
READY = "Ctrl-C stops it."
EXCHANGE = "/.well-known/preview-proxy/session"
CHECK = "/.well-known/preview-proxy/check"


@dataclass
class Demo:
    """A running demo. `said` is what it has printed so far, errors included."""

    process: Process
    said: str = ""
    port: int = 0
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    async def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        while text not in self.said:
            self.said += (await self.process.stdout.receive()).decode()

    async def interrupt(self) -> int:
        """Press Ctrl-C. Returns the exit status."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGINT)
        with anyio.fail_after(5):
            async for chunk in self.process.stdout:
                self.said += chunk.decode()
            return await self.process.wait()

    def browser(self) -> httpx.AsyncClient:
        """A visitor with cookies. Names under .localhost are not in every resolver, so the host goes in a header."""
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=5)
        self.clients.append(client)
        return client

    def host(self, name: str) -> dict[str, str]:
        return {"host": f"{name}.localhost:{self.port}", "origin": f"http://app.localhost:{self.port}"}


@asynccontextmanager
async def run_demo(folder: Path, port: int = 0) -> AsyncIterator[Demo]:
    command = [sys.executable, "-m", "examples.demo", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    async with await anyio.open_process(command, cwd=folder, env=environment, stderr=-2) as process:
        demo = Demo(process)
        try:
            with anyio.fail_after(15):
                await demo.read_until(READY)
            demo.port = int(demo.said.partition("http://app.localhost:")[2].split()[0])
            yield demo
        finally:
            for client in demo.clients:
                await client.aclose()
            if process.returncode is None:
                process.kill()


async def sign_in(demo: Demo, name: str) -> httpx.AsyncClient:
    browser = demo.browser()
    form = {"user": name, "password": USERS[name].password}
    answer = await browser.post("/login", headers=demo.host("app"), data=form)
    assert answer.status_code == 303
    return browser


async def test_it_starts_and_shows_its_owner_the_preview(tmp_path: Path) -> None:
    async with run_demo(tmp_path) as demo:
        app, preview = demo.host("app"), demo.host("3000-mch_aurora.preview")

        login = await demo.browser().get("/login", headers=app)
        assert login.status_code == 200
        assert all(user.password in login.text for user in USERS.values())

        ada = await sign_in(demo, "ada")
        minted = await ada.post("/projects/aurora/preview", headers=app)
        assert minted.json()["origin"] == f"http://{preview['host']}"
        assert minted.headers["cache-control"] == "no-store"
        exchanged = await ada.post(EXCHANGE, headers=preview, json={"ticket": minted.json()["ticket"]})
        assert exchanged.status_code == 204
        gate = {**preview, "cookie": exchanged.headers["set-cookie"].partition(";")[0]}
        del gate["origin"]
        assert (await ada.get(CHECK, headers={**preview, "cookie": gate["cookie"]})).status_code == 204

        shown = await ada.get("/", headers=gate)
        assert (shown.status_code, "mch_aurora" in shown.text) == (200, True)
        seen = (await ada.get("/headers", headers=gate)).json()
        assert (seen["host"], seen["cookies"]) == (preview["host"], [])

        await ada.post("/logout", headers=app)
        assert (await ada.get("/", headers=gate)).status_code == 401


async def test_a_stranger_and_another_user_see_nothing(tmp_path: Path) -> None:
    async with run_demo(tmp_path) as demo:
        app, preview = demo.host("app"), {"host": demo.host("3000-mch_aurora.preview")["host"]}
        assert (await demo.browser().get("/", headers=preview)).status_code == 401
        assert (await demo.browser().post("/projects/aurora/preview", headers=app)).status_code == 401
        grace = await sign_in(demo, "grace")
        assert (await grace.get("/projects/aurora", headers=app)).status_code == 404
        assert (await grace.post("/projects/aurora/preview", headers=app)).status_code == 404
        elsewhere = {**app, "origin": "http://3000-mch_borealis.preview.localhost"}
        assert (await grace.post("/projects/borealis/preview", headers=elsewhere)).status_code == 403


async def test_ctrl_c_ends_it_at_once_while_a_stream_is_open(tmp_path: Path) -> None:
    async with run_demo(tmp_path) as demo:
        preview = demo.host("3000-mch_aurora.preview")
        ada = await sign_in(demo, "ada")
        ticket = (await ada.post("/projects/aurora/preview", headers=demo.host("app"))).json()["ticket"]
        gate = (await ada.post(EXCHANGE, headers=preview, json={"ticket": ticket})).headers["set-cookie"]
        cookie = {"host": preview["host"], "cookie": gate.partition(";")[0]}
        async with ada.stream("GET", "/events", headers=cookie) as events:
            assert "data: 2" in await anext(events.aiter_text())
            assert await demo.interrupt() == 0
    assert "Traceback" not in demo.said
    assert "ERROR" not in demo.said


async def test_a_taken_port_is_named_and_the_next_free_one_is_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        async with run_demo(tmp_path, wanted) as demo:
            assert demo.port > wanted
            assert f"Port {wanted} is taken, so this is port {demo.port}." in demo.said
            assert await demo.interrupt() == 0


async def test_a_wrong_password_and_a_form_of_another_site_are_refused() -> None:
    app = create_app(Settings(port=8000, api_url="http://127.0.0.1:1", api_key="key-for-nobody"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app.localhost:8000") as browser:
        origin = {"origin": "http://app.localhost:8000"}
        answer = await browser.post("/login", headers=origin, data={"user": '"><b>', "password": "guess"})
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
        assert 'value="&quot;&gt;&lt;b&gt;"' in answer.text
        right = {"user": "ada", "password": USERS["ada"].password}
        forged = await browser.post("/login", headers={"origin": "null"}, data=right)
        assert (forged.status_code, "set-cookie" in forged.headers) == (403, False)


async def test_an_edit_is_announced_to_the_page(tmp_path: Path) -> None:
    copy_site("mch_test", tmp_path)
    listener = listen(0)
    address = f"ws://127.0.0.1:{listener.getsockname()[1]}/live"
    site = create_site("mch_test", 3000, tmp_path, anyio.Event())
    with anyio.fail_after(5):
        async with serve(site, listener), websockets.connect(address) as live:
            (tmp_path / "style.css").write_text("body { color: teal }")
            assert await live.recv() == '["style.css"]'
            (tmp_path / "app.js").unlink()
            assert await live.recv() == '["app.js"]'


async def test_edits_survive_another_start(tmp_path: Path) -> None:
    copy_site("mch_test", tmp_path)
    page = tmp_path / "index.html"
    assert 'data-machine="mch_test"' in page.read_text()
    page.write_text("edited")
    copy_site("mch_test", tmp_path)
    assert page.read_text() == "edited"


async def test_the_guest_book_keeps_the_last_twenty_entries(tmp_path: Path) -> None:
    app = create_site("mch_test", 3000, tmp_path, anyio.Event())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://machine") as client:
        for number in range(21):
            signed = await client.post("/guestbook", data={"name": f"guest {number}", "message": "<b>hello</b>"})
        assert signed.status_code == 201
        guests = (await client.get("/guestbook")).json()
        assert [guest["name"] for guest in guests] == [f"guest {number}" for number in range(20, 0, -1)]
