"""One HTTP/1.1 connection to an upstream: an `asyncio.Protocol` on llhttp, one exchange at a time.

Nothing here awaits per event: bytes arrive by callback and wake at most one waiter. Deadlines are plain numbers that
the pool's sweep compares with the clock, since a timer or a cancel scope per request costs more than the request.
llhttp is strict: Content-Length with Transfer-Encoding, two lengths, obs-fold, bare LF and bad chunks are errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Any, cast

import httptools
import httpx

from preview_proxy.core.policy import Limits
from preview_proxy.errors import BadRequest
from preview_proxy.transports.response import NEVER, PooledResponse
from preview_proxy.transports.upgraded import Upgraded

MAX_HEAD = 64 * 1024
MAX_INFORMATIONAL = 32  # RFC 9110 §15.2 sets no bound
# Chunk framing costs at most a few bytes for each of content; extensions and trailers may not cost for ever.
MAX_OVERHEAD = 64 * 1024
OVERHEAD_PER_BYTE = 8
CLOSE_TIMEOUT = 5.0  # seconds


class Connection(asyncio.Protocol):
    """The pool's side of a TCP or TLS connection.

    `release` gets it back after each exchange, `closed` once it is the pool's no more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        release: Callable[[Connection], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self.loop = loop
        self.deadline = NEVER
        self.write_deadline = NEVER
        self.idle_since = 0.0
        self.requests = 0
        self.is_open = True
        self._release = release
        self._closed = closed
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # until `connection_made`
        self._exchange: PooledResponse | None = None
        self._parser: Any = None
        self._remaining = -1  # of a body of known length; -1: the parser, or the end of the connection, tells
        self._until_eof = False
        self._reusable = False
        self._informational = 0
        self._overhead = 0  # bytes of heads and framing, beyond what the content that came with them excuses
        self._content = 0  # bytes of content in the packet at hand
        self._paused = False
        self._uploading: asyncio.Task[None] | None = None
        self._awaits_body = False
        self._writable: asyncio.Future[None] | None = None
        self.received_nothing = True
        self.upgraded: Upgraded | None = None

    # What the pool calls

    def start(self, exchange: PooledResponse, head: bytes) -> None:
        """Send a request's head, and read its response into `exchange`."""
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self._remaining, self._until_eof, self._reusable = -1, False, False
        self._informational = self._overhead = 0
        self.received_nothing = True
        self.requests += 1
        self._transport.write(head)

    def upload(self, body: AsyncIterable[bytes], *, chunked: bool, limits: Limits) -> None:
        """Send a request's body while the response may already come."""
        self._uploading = self.loop.create_task(self._upload(body, chunked, limits))

    def arm(self, timeout: float) -> None:
        """Fail the exchange unless something happens within `timeout` seconds, give or take a sweep."""
        self.deadline = self.loop.time() + timeout

    def expire(self) -> None:
        """The deadline has passed."""
        if self._awaits_body and self.write_deadline < self.deadline:
            return self.break_off(BadRequest("body_timeout", detail="the visitor's body fell silent"))
        self.break_off(httpx.ReadTimeout("the upstream was silent for too long"))

    def break_off(self, failure: Exception) -> None:
        """Close at once; the exchange fails, unless it was complete."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(failure)
        self._drop()

    def _drop(self) -> None:
        self.is_open = False
        self.deadline = NEVER
        if self._uploading is not None:
            self._uploading.cancel()
        self._transport.abort()

    def abandon(self) -> None:
        """The reader is done before the exchange is, which takes its connection along."""
        self.break_off(httpx.ReadError("the response was abandoned"))

    def resume(self) -> None:
        if self._paused and self.is_open:
            self._paused = False
            self._transport.resume_reading()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.upgraded is not None:
            return self.upgraded.feed(data)
        exchange = self._exchange
        if exchange is None:  # nobody asked: it must not be read as an answer to the next request
            return self._drop()
        self.received_nothing = False
        if self._remaining > 0:
            return self._known_length(exchange, data)
        self._content = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._exchange is None:  # a second response: nobody has asked for it, and nobody would close it
                return self._drop()
            return self._upgrade(exchange, data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            return self._violation(type(error).__name__)
        if self._exchange is None:
            self._settle()
        else:
            self._check_bounds(exchange, len(data))

    def _known_length(self, exchange: PooledResponse, data: bytes) -> None:
        """The body of a declared length, which needs no parser."""
        excess = len(data) - self._remaining
        if excess > 0:
            self._reusable = False
            data = data[: self._remaining]
        self._remaining -= len(data)
        if not self._remaining:
            self._finish(exchange, data)
            self._settle()
        elif exchange.push(data):
            self._pause()

    def _check_bounds(self, exchange: PooledResponse, size: int) -> None:
        # never below 0: a long body is no credit for endless trailers
        self._overhead = max(0, self._overhead + size - (1 + OVERHEAD_PER_BYTE) * self._content)
        if not exchange.status_code:
            if self._overhead > MAX_HEAD:
                self._violation("the head does not end")
        elif self._overhead > MAX_OVERHEAD:
            self._violation("framing without content")

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _violation(self, what: str) -> None:
        if self._exchange is None:
            self._drop()
        else:
            self.break_off(httpx.RemoteProtocolError(what))

    def eof_received(self) -> bool:
        self.is_open = False  # at once: it is reported lost only in the event loop's next turn
        exchange = self._exchange
        if exchange is not None and self._until_eof:
            self._finish(exchange, b"")
            self.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self.upgraded is not None:
            self.upgraded.lost()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._exchange is not None:
            self.break_off(httpx.ReadError("the connection broke") if exc else self._ended())
        self._closed(self)

    def _ended(self) -> Exception:
        return httpx.RemoteProtocolError("the connection was closed before the response was whole")

    def pause_writing(self) -> None:
        if self.upgraded is not None:
            self.upgraded.block()
        else:
            self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self.upgraded is not None:
            self.upgraded.drained()
        elif self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self._exchange
        if exchange is not None:
            fields = exchange.trailers if exchange.status_code else exchange.raw_headers
            fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return self._inform(exchange, status)
        self._frame(exchange, status)
        exchange.status_code = status
        self.deadline = NEVER
        exchange.wake()

    def _inform(self, exchange: PooledResponse, status: int) -> None:
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            raise ValueError("too many informational responses")
        if exchange.on_informational is not None:
            exchange.on_informational(status, exchange.raw_headers)
        exchange.raw_headers = []

    def _frame(self, exchange: PooledResponse, status: int) -> None:
        """How long the body is (RFC 9112 §6.3), and whether the connection outlives it (§9.3)."""
        version = self._parser.get_http_version()
        close, chunked, length = version != "1.1", False, -1
        for name, value in exchange.raw_headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked" or version != "1.1":
                    raise ValueError("a transfer coding other than chunked")
                chunked = True
            elif name == b"connection" and b"close" in value.lower():
                close = True
        if version not in ("1.1", "1.0") or status < 101 or (status == 101 and not self._parser.should_upgrade()):
            raise ValueError("another version, a status of two digits, or an upgrade to nothing")
        self._reusable = not close
        if status in (204, 304) or (exchange.method == "HEAD" and status != 101):
            self._finish(exchange, b"")
        elif length >= 0:
            self._remaining = length
        elif not chunked and status != 101:
            self._until_eof = True

    def on_message_begin(self) -> None:
        if self._exchange is None:  # a second response to one request
            self._reusable = False

    def on_body(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._reusable = False
            return
        self._content += len(data)
        if self._remaining > 0:
            self._remaining -= len(data)
        if exchange.push(data):
            self._pause()

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is not None and exchange.status_code and exchange.status_code != 101:
            self._finish(exchange, b"")

    # The end of an exchange

    def _finish(self, exchange: PooledResponse, last: bytes) -> None:
        self._exchange = None
        self.deadline = NEVER
        if last:
            exchange.push(last)
        exchange.end()
        if self._uploading is not None:  # an answer before the whole request: the rest would be in the way
            self._reusable = False

    def _settle(self) -> None:
        """Keep the connection or close it, once all of the packet that ended the exchange is seen."""
        if self._reusable:
            self.resume()
            self._release(self)
        else:
            self.close()

    def close(self) -> None:
        """Close in good order; what was written still goes out, if the upstream reads it within `CLOSE_TIMEOUT`."""
        self.is_open = False
        self.arm(CLOSE_TIMEOUT)
        if self._uploading is not None:
            self._uploading.cancel()
        self._transport.close()

    # The other direction

    async def _upload(self, body: AsyncIterable[bytes], chunked: bool, limits: Limits) -> None:
        transport = self._transport
        try:
            self._await_body(limits.idle_timeout)
            async for chunk in body:
                self._awaits_body, self.write_deadline = False, NEVER
                if chunked and chunk:  # an empty one would be the end
                    transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
                else:
                    transport.write(chunk)
                await self._drain(limits.write_timeout)
                self._await_body(limits.idle_timeout)
            self._awaits_body, self.write_deadline = False, NEVER
            if chunked:
                transport.write(b"0\r\n\r\n")
        except Exception as failure:  # the visitor left, or sent too much: upstream must not take it for the whole
            self.break_off(failure)
        self._uploading = None
        if self._exchange is not None and not self._exchange.status_code:
            self.arm(self._exchange.head_timeout)

    def _await_body(self, timeout: float) -> None:
        """The next bytes are the visitor's to send, within `timeout` seconds."""
        self._awaits_body, self.write_deadline = True, self.loop.time() + timeout

    async def _drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a deadline of the sweep
        if self._writable is not None and not self._writable.done():
            # not `deadline`, which is the reader's: a response may come at the same time
            self.write_deadline = self.loop.time() + timeout
            await self._writable
            self.write_deadline = NEVER

    def _upgrade(self, exchange: PooledResponse, leftover: bytes) -> None:
        """The connection is a byte stream from here on, and no longer the pool's."""
        self._exchange = None
        self.deadline = NEVER
        if self._uploading is not None:  # the rest of the request would be no part of the stream
            self._uploading.cancel()
        self.upgraded = Upgraded(self._transport, leftover)
        exchange.extensions["network_stream"] = self.upgraded
        exchange.end()
        self._closed(self)
