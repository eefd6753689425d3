"""The pool's connections in memory: the test says what upstream does, and in which turn of the event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable

import httpx

from preview_proxy.core.models import Endpoint, Origin, Outbound
from preview_proxy.transports.request import NO_BODY, UpstreamRequest


class Wire(asyncio.Transport):
    """What a connection writes to. Like asyncio's own, it reports its end in the event loop's next turn."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.sent = b""
        self.is_aborted = False
        self.protocol = protocol
        self.reads, self._closing = True, False
        protocol.connection_made(self)

    def say(self, data: bytes) -> None:
        """Upstream sends `data`; all of it arrives at once."""
        self.protocol.data_received(data)

    def end(self) -> None:
        """Upstream closes."""
        if not self.protocol.eof_received():
            self.close()

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone, and is known to be."""
        self._closing = True
        self.protocol.connection_lost(error)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        self.sent += b"".join(parts)

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_reading(self) -> bool:
        return self.reads and not self._closing

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.is_aborted = True
        self.close()


class Wires(list[Wire]):
    """Every connection that was dialled, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self.hang_up = False

    async def dial(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        origin: Origin,
        tls: ssl.SSLContext | None,
        *,
        private: bool,
    ) -> asyncio.Transport:
        if self.failure is not None:
            raise self.failure
        self.append(Wire(protocol))
        if self.hang_up:
            self[-1].end()
        return self[-1]


def asks(
    method: str = "GET", *, body: httpx.AsyncByteStream | None = None, length: int | None = None
) -> UpstreamRequest:
    """A request, whose body is chunked where no `length` is given."""
    endpoint = Endpoint(Origin("http", "up.localhost", 80))
    outbound = Outbound(method, endpoint, b"/", ((b"host", b"x"),), body is not None, length)
    return UpstreamRequest(outbound, body or NO_BODY)
