"""ASGI servers in a process of their own, on a socket of the test's: it listens before they start."""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from unittest import mock

import anyio
import anyio.to_thread

from tests.company import Setting

# A server forked from a process that has imported everything starts in a tenth of the time.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.served"])
DEVELOPMENT = {
    "PYTHONDEVMODE": "1",
    # of `tests.observed`: every header that is sent upstream, or comes from there, is recorded
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": ".*",
}

PATIENCE = 20.0
"""Seconds that a server has to stop."""

# asyncio's word for a server that writes on to a visitor who has left, until it notices
_WRITES_ON = "socket.send() raised exception."

ALARMS = ("Traceback", "Warning:", "was never", "xception", "panicked", "Task was destroyed")
"""What Python and the servers say of an error that nobody expected, or of something left open."""

# httpcore leaves generators to the collector, and trio complains of each; `ForeignResponse` closes httpx's.
_GENERATORS = re.compile(
    r".*ResourceWarning: Async generator 'httpcore\..*\n(?:  .*\n)*(?:ResourceWarning: Enable.*\n)?"
)

# granian cancels the tasks of the connections that it cuts as it stops, and reports each as the app's error.
_CUT_SHORT = re.compile(
    r"\[ERROR\] Application callable raised an exception\nTraceback.*\n(?: .*\n)*CancelledError.*\n"
)


@dataclass
class Apart:
    """A server that runs `tests.served`. `output` is what the process said, once it has ended.

    `transport` is "pool" or "httpx".
    """

    name: str
    transport: str = "pool"
    output: str = ""

    @asynccontextmanager
    async def serving(self, setting: Setting, listener: socket.socket) -> AsyncIterator[None]:
        """Serve until the block ends; then the process is told to stop, which it has to do in good order."""
        with tempfile.TemporaryFile("w+") as file:
            process = self._start(setting, listener, file.fileno())
            try:
                yield
            finally:
                process.terminate()
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(process.join, PATIENCE)
                status = process.exitcode
                process.kill()
                file.seek(0)
                self.output = file.read()
        assert status == 0, self.output[-4000:]
        assert setting.observed or not self.alarms, self.output[-8000:]

    def _start(self, setting: Setting, listener: socket.socket, output: int) -> multiprocessing.Process:
        from tests.served import main  # the child's module; it needs all servers, which need this one

        process = _processes.Process(target=main, args=(self.name, listener, DupFd(output), setting))
        with listener, mock.patch.dict(os.environ, DEVELOPMENT):
            process.start()
        return process  # type: ignore[return-value]

    @property
    def alarms(self) -> list[str]:
        """Lines that no run should have."""
        lines = _GENERATORS.sub("", _CUT_SHORT.sub("", self.output)).splitlines()
        return [line for line in lines if line != _WRITES_ON and any(word in line for word in ALARMS)]
