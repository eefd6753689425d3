"""A response as its connection fills it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from preview_proxy.core.policy import Limits
from preview_proxy.transports.request import UpstreamRequest, UpstreamResponse

PAUSE_AT = 64 * 1024  # bytes held for a slow reader before upstream is no longer read
NEVER = float("inf")


class Source(Protocol):
    """The connection, as a response sees it."""

    loop: asyncio.AbstractEventLoop
    deadline: float

    def arm(self, timeout: float) -> None: ...
    def resume(self) -> None: ...
    def abandon(self) -> None: ...


class PooledResponse(UpstreamResponse):
    """A response on the wire. Its connection fills it; once it is whole, the connection is free for the next."""

    def __init__(self, connection: Source, request: UpstreamRequest, limits: Limits) -> None:
        super().__init__(0, [], limits.idle_timeout)
        self.method = request.method
        self.head_timeout = limits.head_timeout
        self.on_informational = request.on_informational
        self.failure: Exception | None = None
        self._connection: Source | None = connection
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_whole(self) -> bool:
        return self._connection is None and self.failure is None and self.status_code != 101

    async def read_chunk(self) -> bytes | None:
        if not self._chunks and self._connection is not None:
            await self._wait(self._connection)
        if self._chunks:
            chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks.clear()
            self._held = 0
            if self._connection is not None:
                self._connection.resume()
            return chunk
        if self.failure is not None:
            raise self.failure
        return None

    async def wait_head(self) -> None:
        """Until the head is there. Raises what prevented it."""
        if not self.status_code and self._connection is not None:
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        if not self.status_code and self.failure is not None:
            raise self.failure

    async def _wait(self, connection: Source) -> None:
        """Until there is more, within `idle_timeout`."""
        self._waiter = connection.loop.create_future()
        if self.idle_timeout is not None:
            connection.arm(self.idle_timeout)
        try:
            await self._waiter
        finally:
            if self._connection is not None:  # else the deadline is that of its closing
                connection.deadline = NEVER

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def push(self, data: bytes) -> bool:
        """Add bytes of the body; whether the reader is so far behind that upstream should wait."""
        self._chunks.append(data)
        self._held += len(data)
        self.wake()
        return self._held > PAUSE_AT

    def end(self, failure: Exception | None = None) -> None:
        """The connection is done with this exchange: it is whole, or it failed."""
        self._connection = None
        self.failure = failure
        self.wake()

    async def aclose(self) -> None:
        if self._connection is not None:
            self._connection.abandon()
        elif (stream := self.extensions.get("network_stream")) is not None:  # of a 101: nobody else would close it
            stream.abort()
