"""Workers as separate processes, with a real Redis and an emulated provider between them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
from websockets.asyncio.client import connect

from preview_proxy.testing import DevServer, NullspaceEmulator
from tests.redis_server import RedisServer, redis_server
from tests.servers import listening
from tests.world import EMBEDDER, HOST, MACHINE

ROOT = Path(__file__).parents[2]
How = Literal["two workers", "two processes"]
HOW: list[How] = ["two workers", "two processes"]


@dataclass
class Deployment:
    """Two workers behind one public port. `ports` has one entry for each place to connect to."""

    how: How
    redis: RedisServer
    nullspace: NullspaceEmulator
    dev: DevServer
    public_port: int
    ports: list[int]
    client: httpx.AsyncClient
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"{HOST}:{self.public_port}"

    async def ask(self, method: str, path: str, port: int | None = None, **headers: str) -> httpx.Response:
        """A request on a connection of its own, so that any worker may take it."""
        url = f"http://127.0.0.1:{port or self.ports[0]}{path}"
        body = headers.pop("body", None)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, url, headers=fields, content=body)

    async def workers(self) -> dict[int, dict[str, Any]]:
        """What each worker says about itself, by its process id."""
        found: dict[int, dict[str, Any]] = {}
        while len(found) < 2:
            for port in self.ports:
                worker = (await self.ask("GET", "/worker", port)).json()
                found[worker["pid"]] = worker
        return found

    async def ticket(self, subject: str, port: int | None = None) -> str:
        return str((await self.ask("POST", f"/ticket?subject={subject}", port)).json()["ticket"])

    async def exchange(self, ticket: str, port: int | None = None) -> httpx.Response:
        return await self.ask(
            "POST",
            "/.well-known/preview-proxy/session",
            port,
            host=self.host,
            origin=EMBEDDER,
            content_type="application/json",
            body=json.dumps({"ticket": ticket}),
        )

    async def sign_in(self, subject: str) -> str:
        """The `Cookie` field of a gate."""
        answer = await self.exchange(await self.ticket(subject))
        assert answer.status_code == 204, answer.text
        return answer.headers["set-cookie"].partition(";")[0]

    async def get(self, cookie: str, port: int | None = None) -> int:
        """The status of a preview's page."""
        return (await self.ask("GET", "/echo", port, host=self.host, cookie=cookie)).status_code

    async def everywhere(self, cookie: str, status: int) -> None:
        """Return once both workers, or rather six connections in a row, answer a visitor with `status`."""
        answers: list[int] = []
        while answers[-6:] != [status] * 6:
            answers += [await self.get(cookie, port) for port in self.ports]

    def dial(self, cookie: str, port: int | None = None) -> connect:
        return connect(
            f"ws://{self.host}/ws",
            host="127.0.0.1",
            port=port or self.ports[0],
            origin=f"http://{self.host}",  # type: ignore[arg-type]
            additional_headers={"Cookie": cookie},
            proxy=None,
        )

    def start(self) -> None:
        """Start uvicorn: once with two workers, or twice."""
        environment = os.environ | {
            "REDIS_URL": self.redis.url,
            "PUBLIC_PORT": str(self.public_port),
            "NULLSPACE_API_KEY": self.nullspace.api_key,
            "NULLSPACE_API_URL": self.nullspace.api_url,
            "EDGE_DOMAIN": self.nullspace.edge_domain,
        }
        if self.how == "two workers":
            environment["WEB_CONCURRENCY"] = "2"
        command = [sys.executable, "-m", "uvicorn", "--factory", "tests.several_workers.app:create"]
        for port in self.ports:
            arguments = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
            self.processes.append(subprocess.Popen([*command, *arguments], cwd=ROOT, env=environment))

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=30)


@contextlib.asynccontextmanager
async def deployment(how: How, folder: Path) -> AsyncIterator[Deployment]:
    """Everything running and answering."""
    ports = []
    for _ in range(1 if how == "two workers" else 2):
        with listening() as free:
            ports.append(int(free.getsockname()[1]))
    async with (
        redis_server(folder) as redis,
        DevServer() as dev,
        NullspaceEmulator() as nullspace,
        httpx.AsyncClient(trust_env=False, timeout=20, limits=httpx.Limits(max_keepalive_connections=0)) as client,
    ):
        nullspace.add_machine(MACHINE, {3000: dev})
        made = Deployment(how, redis, nullspace, dev, ports[0], ports, client)
        try:
            made.start()
            with anyio.fail_after(60):
                await _until_up(made)
            yield made
        finally:
            made.stop()


async def _until_up(made: Deployment) -> None:
    while True:
        with contextlib.suppress(httpx.TransportError):
            await made.workers()
            return
        await anyio.sleep(0.1)
