"""WebSocket messages over the byte stream behind a 101, with bounds on what a hostile peer can make us hold."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from preview_proxy import event_loop
from preview_proxy.core.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Close,
    FrameReader,
    Message,
    close_payload,
    header,
)
from preview_proxy.core.policy import Limits
from preview_proxy.event_loop import Signal, Task, Waiter
from preview_proxy.transports.masking import apply_mask, new_key

READ_SIZE = 64 * 1024
CLOSE_TIMEOUT = 1.0
# What may wait for a slow visitor before upstream is no longer read.
MAX_QUEUED = 16
MAX_QUEUED_BYTES = 1024 * 1024
# What may wait for an upstream that does not read: enough for one that is slow, too few for a flood of pings.
MAX_PONGS = 128
# Seconds without a byte from upstream before it is pinged, and again before it is given up.
SILENCE = 20.0
# Pings and pongs of upstream in a second: they cost us work and the visitor sees none of them.
MAX_CONTROLS = 50


@dataclass(frozen=True, slots=True)
class Closed:
    """How the stream ended: the peer's code and reason, None for a close without, 1006 for a broken one (§7.1.5)."""

    code: int | None
    reason: str = ""


class ByteStream(Protocol):
    """A duplex stream that pushes what it receives, and calls `end` once when no more can come."""

    @property
    def is_blocked(self) -> bool: ...
    def attach(self, receive: Callable[[bytes], None], end: Callable[[], None]) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def write(self, data: bytes) -> bool: ...
    async def drain(self) -> None: ...
    def abort(self) -> None: ...


class WebSocketStream:
    """The client side of an open WebSocket. `receive` and `send` may run at the same time, each in one task."""

    def __init__(self, stream: ByteStream, limits: Limits) -> None:
        self._stream = stream
        self._write_timeout = limits.write_timeout
        self._reader = FrameReader(limits.message_bytes)
        self._queue: deque[bytes | str | Closed] = deque()
        self._queued = 0
        self._paused = False
        self._pongs = 0  # sent while the stream was blocked
        self._waiters: list[Waiter] = []  # of those who receive: one, and who was cancelled and has not heard of it
        self._close_sent = False
        self._closed: Closed | None = None
        self._loop = event_loop.running()
        self._heard, self._pinged = True, False
        self._listening = self._loop.call_later(SILENCE, self._listen)
        self._controls, self._second = 0, 0.0
        stream.attach(self._received, self._ended)

    def _listen(self) -> None:
        """Ping an upstream that was silent for long; one that stays silent is gone (RFC 6455 §5.5.2)."""
        if self._heard or self._paused:
            self._heard = self._pinged = False
        elif self._pinged:
            return self.abort()
        else:
            self._write(PING, b"")
            self._pinged = True
        self._listening = self._loop.call_later(SILENCE, self._listen)

    def _received(self, data: bytes) -> None:
        self._heard = True
        for event in self._reader.feed(data):
            if isinstance(event, Message):
                self._message(event)
            elif isinstance(event, Close):
                self.close(event.code, event.reason)
                self._finish(Closed(event.code, event.reason))
            else:
                self.close(event.code, "")
                self._finish(Closed(1009 if event.code == 1009 else 1006))
        if len(self._queue) > MAX_QUEUED or self._queued > MAX_QUEUED_BYTES:
            self._paused = True
            self._stream.pause()

    def _message(self, message: Message) -> None:
        opcode, payload = message
        if opcode >= PING and self._is_flooded():
            self.close(1008, "")
            self._finish(Closed(1008))
        elif opcode == PING:
            self._pongs = self._pongs + 1 if self._stream.is_blocked else 0
            if self._pongs <= MAX_PONGS:
                self._write(PONG, payload)
        elif opcode != PONG:
            self._queued += len(payload)
            self._put(payload.decode() if opcode == TEXT else payload)

    def _is_flooded(self) -> bool:
        """Count a control frame; whether they are too many."""
        now = time.monotonic()
        if now - self._second >= 1:
            self._controls, self._second = 0, now
        self._controls += 1
        return self._controls > MAX_CONTROLS

    def _put(self, item: bytes | str | Closed) -> None:
        self._queue.append(item)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _finish(self, closed: Closed) -> None:
        if self._closed is None:
            self._listening.cancel()
            self._closed = closed
            self._put(closed)

    def _ended(self) -> None:
        self._finish(Closed(1006))

    async def receive(self) -> str | bytes | Closed:
        """The next whole message, or how the stream ended; pings are answered on the way."""
        while not self._queue:  # on trio another that was cancelled may still take what both waited for
            if self._closed is not None:
                return self._closed
            waiter = self._loop.waiter()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
        item = self._queue.popleft()
        if not self._queue:
            self._queued = 0
            if self._paused:
                self._paused = False
                self._stream.resume()
        return item

    async def send(self, message: str | bytes) -> bool:
        """Send a whole message; False when the stream is closed, broken, or takes longer than `write_timeout`."""
        sent = self._write(TEXT, message.encode()) if isinstance(message, str) else self._write(BINARY, message)
        if sent and self._stream.is_blocked:
            with anyio.move_on_after(self._write_timeout):
                await self._stream.drain()
                return True
            self._stream.abort()
            return False
        return sent

    def close(self, code: int | None, reason: str) -> None:
        """Send a close frame, if none was sent before."""
        self._write(CLOSE, close_payload(code, reason))
        self._close_sent = True

    def _write(self, opcode: int, payload: bytes) -> bool:
        if self._close_sent:
            return False
        mask = new_key()
        return self._stream.write(header(opcode, len(payload), mask) + apply_mask(payload, mask))

    def abort(self) -> None:
        """Drop the connection."""
        self._finish(Closed(1006))
        self._stream.abort()

    async def aclose(self) -> None:
        """Drop the connection, once what was sent has gone out or a second has passed."""
        try:
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._stream.drain()
        finally:
            self.abort()

    async def wait_closed(self) -> None:
        """Read on until the peer has closed, for a second at most: unread bytes would turn our close into a reset."""
        with anyio.move_on_after(CLOSE_TIMEOUT):
            while not isinstance(await self.receive(), Closed):
                pass


class PulledStream:
    """A `ByteStream` over httpx's ``network_stream``, which has to be read and written by tasks."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._outgoing: deque[bytes] = deque()
        self._open = Signal(is_set=True)
        self._writable = Signal()
        self._written = Signal()
        self._tasks: list[Task] = []
        self._gone = False

    @property
    def is_blocked(self) -> bool:
        return bool(self._outgoing)

    def attach(self, receive: Callable[[bytes], None], end: Callable[[], None]) -> None:
        loop = event_loop.running()
        self._tasks = [loop.spawn(self._pull(receive, end)), loop.spawn(self._push())]

    async def _pull(self, receive: Callable[[bytes], None], end: Callable[[], None]) -> None:
        with suppress(Exception):
            while data := await self._stream.read(READ_SIZE):
                receive(data)
                await self._open.wait()
        self._gone = True
        self._written.set()
        end()

    async def _push(self) -> None:
        with suppress(Exception):
            while True:
                while self._outgoing:
                    await self._stream.write(self._outgoing[0])
                    self._outgoing.popleft()
                self._writable.clear()
                self._written.set()
                await self._writable.wait()
        self._gone = True
        self._written.set()

    def pause(self) -> None:
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def write(self, data: bytes) -> bool:
        if self._gone:
            return False
        self._outgoing.append(data)
        self._written.clear()
        self._writable.set()
        return True

    async def drain(self) -> None:
        await self._written.wait()

    def abort(self) -> None:
        self._gone = True
        self._written.set()
        for task in self._tasks:
            task.cancel()
