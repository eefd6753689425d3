"""Every example starts, answers HTTP and WebSocket through the emulator, and stops when told to."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
import websockets
from anyio.abc import Process

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def running(module: str) -> AsyncIterator[httpx.AsyncClient]:
    """The example in a process of its own, and a client for its port. It must end without a complaint."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PORT": str(port), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", module]
    async with await anyio.open_process(command, cwd=ROOT, env=environment, stderr=-2) as process:
        try:
            with anyio.fail_after(30):
                said = await read_until(process, "Uvicorn running on")
            base_url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=10) as client:
                yield client
            process.send_signal(signal.SIGINT)
            with anyio.fail_after(15):
                said += await read_until(process, None)
                assert await process.wait() == 0, said
            assert "Traceback" not in said
        finally:
            if process.returncode is None:
                process.kill()


async def read_until(process: Process, text: str | None) -> str:
    assert process.stdout is not None
    said = ""
    async for chunk in process.stdout:
        said += chunk.decode()
        if text is not None and text in said:
            return said
    assert text is None, said
    return said


async def exchange(client: httpx.AsyncClient, opened: httpx.Response) -> tuple[str, str]:
    """The preview's host, and the gate cookie for the ticket in `opened`."""
    assert opened.status_code == 200, opened.text
    host = opened.json()["origin"].removeprefix("http://")
    headers = {"host": host, "origin": f"http://app.localhost:{client.base_url.port}"}
    ticket = {"ticket": opened.json()["ticket"]}
    answer = await client.post("/.well-known/preview-proxy/session", headers=headers, json=ticket)
    assert answer.status_code == 204, answer.text
    return host, answer.headers["set-cookie"].partition(";")[0]


async def check_preview(client: httpx.AsyncClient, host: str, cookie: str) -> None:
    """One HTTP and one WebSocket request with the visitor's cookie; without it, no page."""
    assert (await client.get("/", headers={"host": host})).status_code == 401
    shown = await client.get("/", headers={"host": host, "cookie": cookie})
    assert (shown.status_code, "It works" in shown.text) == (200, True)
    async with websockets.connect(
        f"ws://{host}/ws",
        host="127.0.0.1",
        port=client.base_url.port,
        origin=websockets.Origin(f"http://{host}"),
        additional_headers={"cookie": cookie},
        proxy=None,
    ) as websocket:
        await websocket.send("hello")
        assert await websocket.recv() == "hello"


async def test_the_readme_app_shows_its_preview() -> None:
    async with running("examples.fastapi_app") as client:
        app = {"host": f"app.localhost:{client.base_url.port}"}
        assert "iframe" in (await client.get("/", headers=app)).text
        opened = await client.post("/projects/aurora/preview", headers=app)
        await check_preview(client, *await exchange(client, opened))
        assert (await client.post("/projects/borealis/preview", headers=app)).status_code == 404


async def test_a_custom_domain_shows_its_preview() -> None:
    async with running("examples.custom_domains") as client:
        app = {"host": f"app.localhost:{client.base_url.port}"}
        for domain in ("shop.localhost", "beta.shop.localhost"):
            opened = await client.post(f"/domains/{domain}/preview", headers=app)
            assert opened.json()["origin"] == f"http://{domain}:{client.base_url.port}"
            await check_preview(client, *await exchange(client, opened))


async def test_the_apps_own_session_opens_the_preview_until_sign_out() -> None:
    async with running("examples.own_session") as client:
        port = client.base_url.port
        app, host = {"host": f"acme.localhost:{port}"}, f"3000-mch_aurora.preview.acme.localhost:{port}"
        signed_in = await client.post("/login", headers=app)
        cookie = signed_in.headers["set-cookie"].partition(";")[0]
        await check_preview(client, host, cookie)
        await client.post("/logout", headers={**app, "cookie": cookie})
        statuses = set()
        with anyio.fail_after(15):
            while 404 not in statuses:  # a yes stands for `Limits.decision_ttl` seconds
                statuses.add((await client.get("/", headers={"host": host, "cookie": cookie})).status_code)
        assert statuses <= {200, 404}
