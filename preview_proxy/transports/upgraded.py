"""The byte stream that a 101 leaves behind (RFC 9110 §7.8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Upgraded:
    """The byte stream behind a 101. Bytes are pushed to the receiver; until there is one, they are held."""

    def __init__(self, transport: asyncio.Transport, leftover: bytes) -> None:
        self._transport = transport
        self._held = [leftover] if leftover else []
        self._lost = False
        self._writable: asyncio.Future[None] | None = None
        self.is_blocked = False
        self._receive: Callable[[bytes], None] | None = None
        self._end: Callable[[], None] | None = None

    def attach(self, receive: Callable[[bytes], None], end: Callable[[], None]) -> None:
        """Push all bytes to `receive`, and call `end` once when no more can come."""
        self._receive, self._end = receive, end
        held, self._held = self._held, []
        for data in held:
            receive(data)
        self.resume()
        if self._lost:
            end()

    def feed(self, data: bytes) -> None:
        if self._receive is not None:
            self._receive(data)
        else:
            self._held.append(data)
            self.pause()

    def lost(self) -> None:
        self._lost = True
        self.drained()
        if self._end is not None:
            self._end()

    def pause(self) -> None:
        """Stop reading, for a receiver that is behind."""
        if not self._lost and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._lost and not self._transport.is_reading() and not self._transport.is_closing():
            self._transport.resume_reading()

    def write(self, data: bytes) -> bool:
        """Send; False when the stream is gone."""
        if self._lost or self._transport.is_closing():
            return False
        self._transport.write(data)
        return True

    def block(self) -> None:
        """The event loop's buffer is full: `drain` waits."""
        self.is_blocked = True
        self._writable = asyncio.get_running_loop().create_future()

    def drained(self) -> None:
        self.is_blocked = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def drain(self) -> None:
        """Wait until more may be written, or the stream is gone."""
        if self._writable is not None and not self._writable.done():
            await self._writable

    def abort(self) -> None:
        self._transport.abort()

    async def aclose(self) -> None:
        """What httpx's ``network_stream`` calls it."""
        self.abort()
