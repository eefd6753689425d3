"""WebSocket messages over the byte stream of a 101, with bounds on what a hostile peer can make us hold.

Framing is wsproto's. httpx-ws's session is not used: it bounds neither a message nor a close.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from preview_proxy.core.policy import Limits

READ_SIZE = 64 * 1024
CLOSE_TIMEOUT = 1.0
# A fragment may be empty, so a bound on bytes alone lets a message go on for ever.
MIN_FRAGMENT = 256
MIN_FRAGMENTS = 4096


@dataclass(frozen=True, slots=True)
class Closed:
    """How the stream ended: the peer's code and reason, or 1006 for a broken connection (RFC 6455 §7.1.5)."""

    code: int | None
    reason: str = ""


class WebSocketStream:
    """The client side of an open WebSocket. `receive` and `send` may run at the same time, each in one task."""

    def __init__(self, stream: Any, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._connection = Connection(ConnectionType.CLIENT)
        self._writing = anyio.Lock()
        self._events: deque[Event] = deque()
        self._parts: list[str] | list[bytes] = []
        self._size = 0

    async def receive(self) -> str | bytes | Closed:
        """The next whole message, or how the stream ended. Pings are answered on the way."""
        while (event := await self._next()) is not None:
            if isinstance(event, CloseConnection):
                return await self._closed(event)
            if isinstance(event, Ping):
                await self._write(event.response())
            elif isinstance(event, (TextMessage, BytesMessage)):
                if self._grow(event):
                    await self.close(1009, "")
                    return Closed(1009, "message too big")
                if event.message_finished:
                    return self._whole()
        return Closed(1006)

    async def _next(self) -> Event | None:
        while not self._events:
            data = b""
            with suppress(Exception):
                data = await self._stream.read(READ_SIZE)
            if not data or self._connection.state is ConnectionState.CLOSED:
                return None
            self._connection.receive_data(data)
            self._events.extend(self._connection.events())
        return self._events.popleft()

    async def _closed(self, event: CloseConnection) -> Closed:
        if self._connection.state is not ConnectionState.OPEN:
            await self._write(event.response())  # refused by wsproto where ours went first
            return Closed(event.code, event.reason or "")
        # wsproto reports a broken rule as if the peer had closed; the code is the one to fail with
        await self.close(event.code, "")
        return Closed(1006)

    def _grow(self, event: TextMessage | BytesMessage) -> bool:
        """Add a fragment; whether the message is now more than may be held."""
        self._parts.append(event.data)  # type: ignore[arg-type]
        self._size += len(event.data)
        limit = self._limits.message_bytes
        return self._size > limit or len(self._parts) > max(MIN_FRAGMENTS, limit // MIN_FRAGMENT)

    def _whole(self) -> str | bytes:
        parts, self._parts, self._size = self._parts, [], 0
        if isinstance(parts[0], str):
            return "".join(parts)
        return b"".join(parts)

    async def send(self, message: str | bytes) -> bool:
        """Send a whole message; False when the stream is closed, broken, or takes longer than `write_timeout`."""
        return await self._write(TextMessage(message) if isinstance(message, str) else BytesMessage(message))

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame, if none was sent before."""
        await self._write(CloseConnection(code, reason or None))

    async def wait_closed(self) -> None:
        """Read on until the peer has closed, for a second at most: unread bytes would turn our close into a reset."""
        with anyio.move_on_after(CLOSE_TIMEOUT):
            while not isinstance(await self.receive(), Closed):
                pass

    async def _write(self, event: Event) -> bool:
        with anyio.move_on_after(self._limits.write_timeout):
            async with self._writing:
                try:
                    await self._stream.write(self._connection.send(event))
                except Exception:
                    return False
                return True
        return False

    async def aclose(self) -> None:
        """Drop the connection. Never hangs."""
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True), suppress(Exception):
            await self._stream.aclose()
