"""A GET with both its ends in memory: what the code costs, without system calls. `python -m tests.bench.in_memory`

Time tells little on a busy machine. With `--instructions` valgrind counts what is executed, the same in every run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from unittest import mock

import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from preview_proxy import HostPattern, Limits, Policy, Preview, PreviewProxy, Static, Tickets
from preview_proxy.core.models import Endpoint, Outbound, RawHeaders
from preview_proxy.providers.static import fixed_target
from preview_proxy.sessions import Session
from preview_proxy.tickets import gate_cookie_name
from preview_proxy.transports import pool
from preview_proxy.transports.request import NO_BODY, UpstreamRequest
from tests.bench.micro import BROWSER, DEV_SERVER, EMBEDDER, PREVIEW, routed
from tests.bench.processes import Unmeasured, program

SUBJECTS = ("ceiling", "pool", "ours")
CONNECTIONS, REQUESTS = 32, 60  # in a burst, for each connection
BODY = b"x" * 1024
MANY = Limits(requests_per_subject=10_000, requests_per_preview=10_000, requests=10_000, connections=10_000)
# What nginx says of a file.
FILE: RawHeaders = (
    (b"server", b"nginx"),
    (b"date", b"Mon, 23 Nov 2026 09:00:00 GMT"),
    (b"content-type", b"application/octet-stream"),
    (b"last-modified", b"Mon, 23 Nov 2026 09:00:00 GMT"),
    (b"connection", b"keep-alive"),
    (b"etag", b'"65f2-400"'),
    (b"accept-ranges", b"bytes"),
)


def lines(fields: RawHeaders) -> bytes:
    return b"".join(b"%s: %s\r\n" % field for field in fields)


class Upstream(asyncio.Transport):
    """The pool's end of a connection, whose other end answers whatever is written."""

    def __init__(self, protocol: asyncio.Protocol, answer: bytes) -> None:
        super().__init__()
        self._received = protocol.data_received
        self._answer = answer

    def write(self, data: object) -> None:
        asyncio.get_running_loop().call_soon(self._received, self._answer)


class Visitor(asyncio.Transport):
    """The server's end of a connection. `done` is called for each response."""

    def __init__(self, done: Callable[[Visitor], None]) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 80)})
        self._done = done
        self.status = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.status = self.status or bytes(data[:12])
        if bytes(data[-8:]) == BODY[-8:]:
            self._done(self)

    def is_closing(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


async def ceiling(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"1024")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def bare_pool(endpoint: Endpoint) -> ASGIApp:
    """Our pool without any policy."""
    upstream = pool.UpstreamPool(MANY)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = ((b"host", endpoint.origin.field), *(pair for pair in scope["headers"] if pair[0] != b"host"))
        outbound = Outbound("GET", endpoint, scope["raw_path"], headers, has_body=False, content_length=None)
        response = await upstream.send(UpstreamRequest(outbound, NO_BODY))
        await send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
        while (chunk := await response.read_chunk()) is not None:
            await send({"type": "http.response.body", "body": chunk, "more_body": not response.is_whole})
            if response.is_whole:
                return

    return app


def the_proxy(tickets: Tickets, endpoint: Endpoint) -> ASGIApp:
    async def authorize(subject: str, preview: Preview) -> bool:
        return True

    target = fixed_target(str(endpoint.origin), http_credentials={"X-Preview-Token": "t" * 64})
    router = HostPattern("{port}-{machine}.acme-previews.dev")
    provider, policy = Static({PREVIEW: target}), Policy(limits=MANY)
    return PreviewProxy(router=router, provider=provider, authorize=authorize, tickets=tickets, policy=policy)


async def measure(subject: str, browser: bool, bursts: int) -> list[float]:
    """Microseconds of CPU for each request, burst by burst."""
    tickets = Tickets("a secret of the bench, long enough for a key", [EMBEDDER])
    gate, _ = tickets.gate(origin=routed().public, preview=PREVIEW, session=Session("ada"))
    cookie = f"{gate_cookie_name(routed().public)}={gate}".encode()
    fields = (*BROWSER, (b"cookie", b"theme=dark; " + cookie)) if browser else (BROWSER[0], (b"cookie", cookie))
    request = b"GET /src/App.tsx?t=17 HTTP/1.1\r\n" + lines(fields) + b"\r\n"
    said = tuple(field for field in (DEV_SERVER if browser else FILE) if field[0] != b"content-length")
    answer = b"HTTP/1.1 200 OK\r\n" + lines(said) + b"content-length: 1024\r\n\r\n" + BODY

    async def dial(loop: object, protocol: asyncio.Protocol, *_: object, **__: object) -> asyncio.Transport:
        made = Upstream(protocol, answer)
        protocol.connection_made(made)
        return made

    endpoint = Endpoint(fixed_target("https://machine.provider.dev").http.origin)  # type: ignore[union-attr]
    apps: dict[str, ASGIApp] = {"ceiling": ceiling, "pool": bare_pool(endpoint), "ours": the_proxy(tickets, endpoint)}
    config = Config(apps[subject], http="httptools", lifespan="off", log_level="warning", access_log=False)
    config.load()
    loop, left, finished = asyncio.get_running_loop(), 0, asyncio.get_running_loop().create_future()

    def done(visitor: Visitor) -> None:
        nonlocal left
        left -= 1
        if left >= CONNECTIONS:
            loop.call_soon(visitor.protocol.data_received, request)  # type: ignore[attr-defined]
        elif not left:
            finished.set_result(None)

    visitors = [Visitor(done) for _ in range(CONNECTIONS)]
    for visitor in visitors:
        visitor.set_protocol(HttpToolsProtocol(config, ServerState(), {}, _loop=loop))
        visitor.protocol.connection_made(visitor)
    costs = []
    with mock.patch.object(pool, "dial", dial):
        for _ in range(bursts):
            left, finished = REQUESTS * CONNECTIONS, loop.create_future()
            begun = time.process_time()
            for visitor in visitors:
                loop.call_soon(visitor.protocol.data_received, request)  # type: ignore[attr-defined]
            await finished
            costs.append((time.process_time() - begun) / (REQUESTS * CONNECTIONS) * 1e6)
    if {visitor.status for visitor in visitors} != {b"HTTP/1.1 200"}:
        raise Unmeasured(f"{subject} answered {visitors[0].status!r}")
    return costs


def instructions(subject: str, browser: bool) -> float:
    """How many are executed for a request: what four bursts more add to a run."""
    counts = []
    for bursts in (1, 5):
        command = [
            program("valgrind") or "valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
            sys.executable, "-m", "tests.bench.in_memory", subject, "--bursts", str(bursts),
            *(["--browser"] if browser else []),
        ]  # fmt: skip
        run = subprocess.run(
            command, check=True, text=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "0"}
        )
        total = next(line for line in run.stderr.splitlines() if "refs:" in line)
        counts.append(int(total.split(":")[1].replace(",", "")))
    return (counts[1] - counts[0]) / (4 * REQUESTS * CONNECTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.in_memory", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--browser", action="store_true", help="a browser's 20 header fields, and a dev server's ten")
    parser.add_argument("--bursts", type=int, default=40)
    parser.add_argument("--instructions", action="store_true", help="count them with valgrind, half a minute each")
    chosen = parser.parse_args()
    for subject in chosen.subjects or SUBJECTS:
        if chosen.instructions:
            print(f"{subject:8} {instructions(subject, chosen.browser):10,.0f} instructions")
        else:
            costs = uvloop.run(measure(subject, chosen.browser, chosen.bursts))
            print(f"{subject:8} least {min(costs):6.1f}, median {median(costs):6.1f} µs of CPU")


if __name__ == "__main__":
    main()
