"""`python -m examples.demo`: the company's app, an emulated provider and two sample machines, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path

import anyio
import uvicorn
from starlette.types import ASGIApp

from examples.demo.customer_app import PREVIEW_PORT, PROJECTS, USERS, Settings, create_app
from examples.demo.sample_machine import copy_site, create_site
from preview_proxy.testing import NullspaceEmulator

FILES = Path(".demo")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="for browsers; 0 picks one (default: %(default)s)")
    asyncio.run(run(parser.parse_args().port))


async def run(wanted: int) -> None:
    """Start everything, say so, and stop at SIGINT or SIGTERM."""
    # uvicorn reports every refused WebSocket as a fault of the app's.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "without completing handshake" not in record.msg)
    stop = stop_signal()
    listener = listen(wanted)
    port = listener.getsockname()[1]
    if wanted not in (0, port):
        say(f"Port {wanted} is taken, so this is port {port}.")
    async with AsyncExitStack() as running:
        nullspace = await running.enter_async_context(NullspaceEmulator())
        say("Provider   emulated at", nullspace.api_url)
        for project in PROJECTS.values():
            folder = FILES / project.id
            copy_site(project.machine, folder)
            machine = listen(0)
            site = create_site(project.machine, PREVIEW_PORT, folder, stop)
            await running.enter_async_context(serve(site, machine))
            nullspace.add_machine(project.machine, {PREVIEW_PORT: machine.getsockname()[1]})
            say("Machine   ", project.machine, "serves", f"{folder}/")
        settings = Settings(port, nullspace.api_url, nullspace.api_key)
        await running.enter_async_context(serve(create_app(settings), listener))
        say(welcome(settings))
        await stop.wait()
        say("\nStopping.")


def stop_signal() -> anyio.Event:
    """Set by the first SIGINT or SIGTERM. A second one has its usual effect."""
    stop = anyio.Event()
    loop = asyncio.get_running_loop()

    def stopping(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping, number)
    return stop


def listen(wanted: int) -> socket.socket:
    """A listening socket on loopback: at `wanted`, or at the next free port of the hundred above it."""
    for port in range(wanted, min(wanted + 100, 65536)):
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", port), backlog=512)
    raise SystemExit(f"No port from {wanted} on is free.")


class Server(uvicorn.Server):
    """uvicorn that leaves signals alone: several servers share this process and stop together."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def serve(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serve `app` at `listener` while the block runs, and for up to a second what is then still under way."""
    server = Server(uvicorn.Config(app, log_level="warning", proxy_headers=False, timeout_graceful_shutdown=1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        yield
        server.should_exit = True


def welcome(settings: Settings) -> str:
    logins = "\n".join(f"    {user.id:<8}{user.password}" for user in USERS.values())
    return f"""
Acme Studio is running. Open  {settings.origin}

  Sign in as
{logins}

  Then try this
    Edit {FILES}/aurora/index.html, save, and watch the frame reload.
    Sign in as grace and open ada's project: 404.
        {settings.origin}/projects/aurora
    Open ada's preview by its address alone: 401.
        {settings.preview_origin("mch_aurora")}/

Ctrl-C stops it. Your edits stay in {FILES}/; delete it to start afresh.
"""


def say(*words: object) -> None:
    """Print at once, also into a pipe."""
    print(*words, flush=True)


if __name__ == "__main__":
    main()
