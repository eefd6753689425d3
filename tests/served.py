"""A company's app, served in a process of its own until SIGTERM."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from typing import Any

import anyio
from granian._granian import SocketHolder
from granian.constants import Interfaces
from granian.server.mp import MPServer
from starlette.types import ASGIApp

from tests.company import Setting, build
from tests.servers import IN_LOOP, Serving, hypercorn_on_trio

build(Setting(1, "opens-nothing", "http://127.0.0.1", "nullspace.localhost"))
"""What a process reads once, such as certificates, is read before the fork."""


class _Granian(MPServer):
    """granian on a socket that listens already, as it takes one from its own parent on other systems than Linux."""

    def __init__(self, listener: socket.socket, setting: Setting) -> None:
        super().__init__("the company's app", interface=Interfaces.ASGI, workers_kill_timeout=2)
        self._listener = listener
        self._setting = setting

    def _init_shared_socket(self) -> None:
        self._sfd = self._listener.fileno()  # type: ignore[assignment]
        self._shd = SocketHolder(self._sfd, False, 1024)  # type: ignore[assignment, call-arg]
        self._sso = None

    def serve_here(self) -> None:
        self.serve(target_loader=lambda *_: build(self._setting).app, wrap_loader=False)


async def serve(server: Serving, app: ASGIApp, listener: socket.socket) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with server(app, listener):
            async for _ in signals:
                return


def main(name: str, listener: socket.socket, output: Any, setting: Setting) -> None:
    """Serve on `listener` with the server called `name`, saying everything to `output`."""
    descriptor = output.detach()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
    with listener:
        if name == "granian":
            multiprocessing.set_start_method("fork", force=True)  # as it finds it in a process that nobody forked
            _Granian(listener, setting).serve_here()
        else:
            library = "trio" if name == "trio" else "asyncio"
            anyio.run(serve, IN_LOOP.get(name, hypercorn_on_trio), build(setting).app, listener, backend=library)
