"""The upstream connection pool: an `httpx.AsyncBaseTransport` for asyncio, HTTP/1.1 and WebSocket upgrades.

Ours because httpcore's costs twenty times as much per request, and may lose a slot for ever to a cancelled one
(its issue 1093). Connections are kept apart by origin *and* credential: no visitor's request ever shares one with
another target's, and a renewed credential starts anew.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from preview_proxy.core.certificates import certificate_matches
from preview_proxy.core.models import Origin
from preview_proxy.core.policy import Limits
from preview_proxy.errors import PreviewProxyError
from preview_proxy.transports.connection import Connection
from preview_proxy.transports.dial import dial
from preview_proxy.transports.request import UpstreamRequest
from preview_proxy.transports.response import PooledResponse

KEEPALIVE = 15.0  # seconds; shorter than what dev servers' front ends keep, so that we seldom race their close
SWEEP = 0.25
# RFC 9110 §9.2.2: may be sent again if the connection broke before anything of an answer came
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

NEEDS_ASYNCIO = (
    "The connection pool of preview_proxy runs on asyncio only. "
    "On trio give PreviewProxy(transport=httpx.AsyncHTTPTransport(trust_env=False))."
)

Key = bytes


def verifying_context() -> ssl.SSLContext:
    """A context that verifies certificates. Python's own also writes session keys where ``SSLKEYLOGFILE`` says."""
    context = ssl.create_default_context()
    context.keylog_filename = None  # type: ignore[assignment]
    return context


@dataclass(slots=True)
class _Line:
    """The connections of one key: those idle, how many there are in all, and who waits for one."""

    idle: list[Connection] = field(default_factory=list)
    count: int = 0
    waiting: deque[asyncio.Future[Connection | None]] = field(default_factory=deque)


class UpstreamPool(httpx.AsyncBaseTransport):
    """Connections to upstreams, at most `limits.connections` for each origin and credential.

    `new_context` makes a TLS context that verifies certificates, of your own authority perhaps. With `private`, names
    may resolve to addresses that are not on the public internet. On another event loop it starts anew.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        new_context: Callable[[], ssl.SSLContext] = verifying_context,
        private: bool = False,
    ) -> None:
        self._private = private
        self._limits = limits or Limits()
        self._new_context = new_context
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lines: dict[Key, _Line] = {}
        self._connections: dict[Connection, Key] = {}
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        shortest = min(self._limits.head_timeout, self._limits.idle_timeout, self._limits.write_timeout)
        self._interval = min(SWEEP, shortest / 4)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the answer's head has arrived when this returns. Raises `httpx.TransportError`."""
        if not isinstance(request, UpstreamRequest):
            response = await self.send(UpstreamRequest.of(request))
            return httpx.Response(
                response.status_code, headers=response.raw_headers, stream=response, extensions=response.extensions
            )
        return await self.send(request)

    async def send(self, request: UpstreamRequest) -> PooledResponse:
        """The same for a planned request."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            raise PreviewProxyError(detail=NEEDS_ASYNCIO) from None
        if self._loop is not running:
            self._move(running)
        line = self._lines.get(request.outbound.endpoint.scope)
        connection = self._idle(line) if line is not None else None
        if connection is not None:
            response = self._start(connection, request)
            try:
                await response.wait_head()
                return response
            except (httpx.ReadError, httpx.RemoteProtocolError):
                # The upstream closed it as we wrote: nothing was read, so it may go out once more, on a new one.
                if not connection.received_nothing or not self._may_repeat(request):
                    raise
            except BaseException:
                await response.aclose()
                raise
            self._close_idle(line)
        response = self._start(await self._acquire(request), request)
        try:
            await response.wait_head()
        except BaseException:
            await response.aclose()
            raise
        return response

    def _move(self, running: asyncio.AbstractEventLoop) -> None:
        """Start anew on the running event loop. Connections of another one are lost with it."""
        self._loop = running
        self._lines, self._connections, self._sweeping = {}, {}, None

    @staticmethod
    def _may_repeat(request: UpstreamRequest) -> bool:
        return request.method in IDEMPOTENT and not request.outbound.has_body

    def _start(self, connection: Connection, request: UpstreamRequest) -> PooledResponse:
        response = PooledResponse(connection, request, self._limits)
        try:
            connection.start(response, request.head())
        except BaseException:
            connection.close()
            raise
        if request.outbound.has_body:
            chunked = request.outbound.content_length is None
            connection.upload(request.body, chunked=chunked, limits=self._limits)
        else:
            connection.arm(self._limits.head_timeout)
        return response

    # Acquiring and releasing

    @staticmethod
    def _idle(line: _Line) -> Connection | None:
        while line.idle:
            connection = line.idle.pop()
            if connection.is_open:
                return connection
        return None

    @staticmethod
    def _close_idle(line: _Line | None) -> None:
        """They are of the same age as the one that was closed under our hands."""
        while line is not None and line.idle:
            line.idle.pop().close()

    async def _acquire(self, request: UpstreamRequest) -> Connection:
        """An idle connection, or a new one, as soon as there may be one."""
        key = request.outbound.endpoint.scope
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        while line.count >= self._limits.connections:
            waited = await self._wait(line)
            if waited is None:
                return await self._connect(key, line, request)
            if waited.is_open:
                return waited
        line.count += 1
        return await self._connect(key, line, request)

    async def _wait(self, line: _Line) -> Connection | None:
        """An idle connection, or None for leave to open one."""
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        while line.waiting and line.waiting[0].done():  # they gave up
            line.waiting.popleft()
        line.waiting.append(waiter)
        try:
            async with asyncio.timeout(self._limits.pool_timeout):
                return await waiter
        except TimeoutError:
            pass
        except BaseException:
            self._give_back(line, waiter)
            raise
        if waiter.done() and not waiter.cancelled():
            return waiter.result()
        raise httpx.PoolTimeout("all connections to this upstream are busy")

    def _give_back(self, line: _Line, waiter: asyncio.Future[Connection | None]) -> None:
        """What a waiter was given as it was cancelled goes to the next."""
        if waiter.done() and not waiter.cancelled():
            connection = waiter.result()
            if connection is None:
                self._leave(line)
            elif connection.is_open:
                self._release(connection)

    def _release(self, connection: Connection) -> None:
        line = self._lines[self._connections[connection]]
        if not self._grant(line, connection):
            connection.idle_since = connection.loop.time()
            line.idle.append(connection)

    def _leave(self, line: _Line) -> None:
        """A connection fewer: the next who waits may open one."""
        line.count -= 1
        if self._grant(line, None):
            line.count += 1

    @staticmethod
    def _grant(line: _Line, connection: Connection | None) -> bool:
        while line.waiting:
            waiter = line.waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _closed(self, connection: Connection) -> None:
        key = self._connections.pop(connection, None)
        if key is not None:
            self._leave(self._lines[key])

    # Connecting

    async def _connect(self, key: Key, line: _Line, request: UpstreamRequest) -> Connection:
        """A new connection, for which a place is taken already."""
        loop = asyncio.get_running_loop()
        connection = Connection(loop, release=self._release, closed=self._closed)
        failure: httpx.TransportError | None = None
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                await self._dial(loop, connection, request.outbound.endpoint.origin)
        except TimeoutError:
            failure = httpx.ConnectTimeout("connecting took too long")
        except OSError as error:  # of which ssl.SSLError is one
            failure = httpx.ConnectError(type(error).__name__)
        except BaseException:
            self._leave(line)
            raise
        if failure is None and not connection.is_open:
            failure = httpx.ConnectError("closed at once")
        if failure is not None:
            self._leave(line)
            raise failure
        self._connections[connection] = key
        self._sweep_later()
        return connection

    async def _dial(self, loop: asyncio.AbstractEventLoop, connection: Connection, origin: Origin) -> None:
        secure = origin.scheme == "https"
        tls = self._context(origin.host) if secure else None
        transport = await dial(loop, connection, origin, tls, private=self._private)
        if secure and "_" in origin.host and not certificate_matches(origin.host, transport.get_extra_info("peercert")):
            transport.abort()
            raise ssl.CertificateError("the certificate is for another host")

    def _context(self, host: str) -> ssl.SSLContext:
        """OpenSSL lets no wildcard match a label with "_", as in `3000-mch_1.example`: there we match the names."""
        ours = "_" in host
        if ours not in self._contexts:
            context = self._contexts[ours] = self._new_context()
            context.check_hostname = not ours
        return self._contexts[ours]

    # Time

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self._interval, self._sweep)

    def _sweep(self) -> None:
        """Break off what is past its deadline, close what was idle for long, and forget lines without connections."""
        self._sweeping = None
        now = asyncio.get_running_loop().time()
        for connection in [each for each in self._connections if min(each.deadline, each.write_deadline) <= now]:
            connection.expire()
        for key, line in list(self._lines.items()):
            for connection in line.idle:
                if connection.idle_since + KEEPALIVE <= now:
                    connection.close()
            line.idle = [connection for connection in line.idle if connection.is_open]
            if not line.count:
                del self._lines[key]
        if self._connections:
            self._sweep_later()

    async def aclose(self) -> None:
        """Close every connection; what is under way on them fails."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for connection in list(self._connections):
            connection.break_off(httpx.ReadError("the pool was closed"))
        await asyncio.sleep(0)  # the event loop reports each of them lost in its next turn
