"""A real Redis on loopback, that a test can kill and start again."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotThere

from tests.programs import need
from tests.servers import listening

PASSWORD = "canary-redis-password-0123456789"


class RedisServer:
    """``redis-server`` in a folder of its own. `durable`, it writes down each command before it answers."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._program = need("redis-server")
        self._folder = folder
        self._persistence = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        self._process: subprocess.Popen[bytes] | None = None
        with listening() as free:
            self.port = int(free.getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Return once it answers."""
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder), "--save", ""]
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [self._program, *where, "--requirepass", PASSWORD, *self._persistence], stdout=subprocess.DEVNULL
        )
        with anyio.fail_after(10):
            while not await self._answers():  # noqa: ASYNC110 - another program's start
                await anyio.sleep(0.02)

    async def _answers(self) -> bool:
        async with self.client() as client:
            with contextlib.suppress(NotThere):
                return bool(await client.ping())
        return False

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> Redis:
        return Redis.from_url(self.url)

    async def dump(self) -> bytes:
        """Every key with its value, whatever its type."""
        found = []
        async with self.client() as client:
            async for key in client.scan_iter():
                kind = await client.type(key)
                value = await (client.xrange(key) if kind == b"stream" else client.get(key))
                found.append(repr((key, value)).encode())
        return b"\n".join(found)


@contextlib.asynccontextmanager
async def redis_server(folder: Path, *, durable: bool = True) -> AsyncIterator[RedisServer]:
    """A Redis that runs while the block does."""
    server = RedisServer(folder, durable=durable)
    try:
        await server.start()
        yield server
    finally:
        server.kill()
