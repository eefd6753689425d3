"""The proxy alone, in a process of its own: how it starts, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from websockets.exceptions import ConnectionClosed

from preview_proxy import Limits
from preview_proxy import testing as machine
from preview_proxy.testing import DevServer
from tests.servers import listening, serving
from tests.test_mounting import APP_HOST, ROOT, Site, heard, proxy_at, rest
from tests.world import EMBEDDER, OWNER, SECRET, read_answer

pytestmark = pytest.mark.anyio


MODULE = """
    from preview_proxy import HostPattern, Limits, Policy, Preview, PreviewProxy, Static, Tickets
    from preview_proxy.providers.static import fixed_target

    async def authorize(subject, preview):
        return subject == {owner!r}

    proxy = PreviewProxy(
        router=HostPattern("{{port}}-{{machine}}.preview.localhost", scheme="http", port={port}),
        provider=Static({{
            Preview("m1", 3000): fixed_target("http://localhost:{dev}", allow_insecure_loopback=True)
        }}),
        authorize=authorize,
        tickets=Tickets({secret!r}, [{embedder!r}]),
        policy=Policy(limits=Limits(sockets_per_subject=1000, sockets_per_preview=1000)),
    )
"""


@contextlib.contextmanager
def process(module: Path, port: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-m", "uvicorn", f"{module.stem}:proxy", "--port", str(port), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(module.parent)])}
    with subprocess.Popen(
        command, cwd=module.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@contextlib.asynccontextmanager
async def in_a_process(tmp_path: Path, *options: str) -> AsyncIterator[tuple[Site, subprocess.Popen[str]]]:
    with listening() as listener:
        port = listener.getsockname()[1]
    async with DevServer() as dev:
        module = tmp_path / "served.py"
        text = MODULE.format(owner=OWNER, port=port, dev=dev.port, secret=SECRET, embedder=EMBEDDER)
        module.write_text(textwrap.dedent(text))
        site = Site(port, dev)
        with process(module, port, *options) as running:
            with anyio.fail_after(30):
                while True:
                    with contextlib.suppress(OSError):
                        async with site.connected():
                            break
                    assert running.poll() is None
                    await anyio.sleep(0.05)
            yield site, running


async def ended(running: subprocess.Popen[str]) -> str:
    """What the process wrote until its end. uvicorn raises the signal again, once it has shut down."""
    with anyio.fail_after(20):
        output, _ = await anyio.to_thread.run_sync(running.communicate, abandon_on_cancel=True)
    assert running.returncode in (0, -signal.SIGTERM), output
    assert "Application shutdown complete." in output
    return output


async def test_uvicorn_serves_the_proxy_alone_and_sigterm_ends_it(tmp_path: Path) -> None:
    async with in_a_process(tmp_path) as (site, running):
        assert (await site.get("/echo?a=1")).json()["target"] == "/echo?a=1"
        async with site.dial() as socket:
            assert await heard(socket)
        assert (await site.get(host=APP_HOST)).status == 421
        running.send_signal(signal.SIGTERM)
        output = await ended(running)
    assert "Traceback" not in output
    assert "ERROR" not in output


@pytest.mark.parametrize("server", [("httptools", "websockets-sansio"), ("h11", "wsproto")])
async def test_v09_a_shutdown_ends_what_is_live_on_both_sides(tmp_path: Path, server: tuple[str, str]) -> None:
    http, ws = server
    options = ["--http", http, "--ws", ws, "--timeout-graceful-shutdown", "1"]
    async with in_a_process(tmp_path, *options) as (site, running), site.connected() as stream, site.dial() as socket:
        await stream.send(site.request("/sse"))
        with anyio.fail_after(10):
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
            assert await heard(socket)
            running.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1012
            assert await rest(stream) == b""  # cut, not ended
            output = await ended(running)
            await site.dev.wait_for(lambda dev: dev.open_connections == 0)
        assert [upstream.close_code for upstream in site.dev.websockets] == [1012]
        assert "never retrieved" not in output


async def test_v09_the_proxys_own_drain_ends_sockets_at_once_and_requests_after_a_while() -> None:
    listener = listening()
    port = listener.getsockname()[1]
    async with DevServer() as dev:
        proxy = proxy_at(port, dev, Limits(drain_timeout=1))
        site = Site(port, dev)
        async with serving(proxy, listener), site.connected() as sse, site.connected() as slow, site.dial() as socket:
            await sse.send(site.request("/sse"))
            await slow.send(site.request("/slow"))
            with anyio.fail_after(15):
                assert await heard(socket)
                await dev.wait_for(lambda dev: {"/sse", "/slow"} <= {r.path for r in dev.received})
                async with anyio.create_task_group() as group:
                    group.start_soon(proxy.aclose)
                    with pytest.raises(ConnectionClosed):
                        await socket.recv()
                    assert socket.close_code == 1012
                    assert re.fullmatch(r"shutting_down; retry in \d+ s", socket.close_reason or "")
                    refused = await site.get("/echo")
                    assert (refused.status, json.loads(refused.body)["code"]) == (503, "shutting_down")
                    dev.release()
                    assert (await read_answer(slow)).body == b"released"
                assert (await read_answer(sse)).complete is False
                await dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_v09_a_visitor_who_does_not_read_holds_no_shutdown_up() -> None:
    listener = listening()
    port = listener.getsockname()[1]
    async with DevServer() as dev:
        sent = 0

        @dev.websocket("/flood")
        async def flood(socket: machine.WebSocket) -> None:
            nonlocal sent
            await socket.accept()
            while True:
                await socket.send_bytes(bytes(64 * 1024))
                sent += 1

        proxy = proxy_at(port, dev, Limits(drain_timeout=0.2))
        site = Site(port, dev)
        async with serving(proxy, listener), site.connected() as stream:
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": f"http://{site.host}"}
            key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
            await stream.send(site.request("/flood", **upgrade, **key))
            with anyio.fail_after(20):
                seen, quiet = 0, 0
                while quiet < 20:
                    await anyio.sleep(0.02)
                    quiet = quiet + 1 if seen == sent > 0 else 0
                    seen = sent
            with anyio.fail_after(5):
                await proxy.aclose()
            with anyio.fail_after(5):
                await dev.wait_for(lambda dev: dev.open_connections == 0)
