"""An HTTP/1.1 server that answers well, or as badly as a test asks for. h11 reads; nothing that is sent is checked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

import h11

from preview_proxy.testing.tcp import Connection, TcpServer

Header = tuple[bytes | str, bytes | str]
MAX_HEAD = 256 * 1024


def raw_headers(headers: Iterable[Header]) -> list[tuple[bytes, bytes]]:
    """Header fields as bytes; text becomes Latin-1."""
    return [(_raw(name), _raw(value)) for name, value in headers]


def _raw(text: bytes | str) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


@dataclass(eq=False, slots=True)
class Received:
    """A request as it came. Header names keep their case; `connection` numbers the TCP connection, from 0.

    `body` is what has arrived of it so far, without its framing; `complete` tells whether that is all.
    """

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    connection: int
    complete: bool = False
    chunks: list[bytes] = field(default_factory=list, repr=False)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def path(self) -> str:
        """The target up to its query, not decoded."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a header field (`name` in lower case), in order."""
        return [value for key, value in self.headers if key.lower() == name]


class Wire:
    """HTTP/1.1 on a connection, for one request and its answer."""

    def __init__(self, connection: Connection, leftover: bytes = b"") -> None:
        self.connection = connection
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        if leftover:
            self.http.receive_data(leftover)

    @property
    def leftover(self) -> bytes:
        """What was read beyond this request."""
        return self.http.trailing_data[0]

    async def event(self) -> h11.Event | type[h11.PAUSED]:
        """The next event. Raises `h11.RemoteProtocolError` for what is not HTTP, or stops in the middle."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.connection.read())
        return event  # type: ignore[return-value]

    async def head(self) -> h11.Request | None:
        """The request's head, or None where the peer is done. What is not HTTP is answered with 400 and raised."""
        try:
            event = await self.event()
        except h11.RemoteProtocolError as error:
            await self.send(h11.Response(status_code=error.error_status_hint, headers=[("Connection", "close")]))
            await self.send(h11.EndOfMessage())
            raise
        return event if isinstance(event, h11.Request) else None

    async def send(self, event: h11.Event) -> None:
        await self.connection.write(self.http.send(event) or b"")


class Request:
    """The request that a route answers. Its body is read from the socket only as it is asked for."""

    def __init__(self, wire: Wire, received: Received) -> None:
        self.wire = wire
        self.received = received

    @property
    def peer_left(self) -> bool:
        """Whether the peer has closed or reset the connection."""
        return self.wire.connection.peer_left

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, after a 100 (Continue) where the client waits for one (RFC 9110 §10.1.1)."""
        if self.wire.http.they_are_waiting_for_100_continue:
            await self.wire.send(h11.InformationalResponse(status_code=100, headers=[]))
        while not self.received.complete:
            event = await self.wire.event()
            if isinstance(event, h11.Data):
                self.received.chunks.append(bytes(event.data))
                yield bytes(event.data)
            self.received.complete = isinstance(event, h11.EndOfMessage)
            self.wire.connection.changes.notify()

    async def read(self) -> bytes:
        """The whole body."""
        async for _ in self.chunks():
            pass
        return self.received.body


class Response:
    """What a route says. After `raw`, `close` or `abort` the connection ends with the route."""

    def __init__(self, wire: Wire, request: Request) -> None:
        self._wire = wire
        self._request = request
        self._is_head = request.received.method == b"HEAD"
        self.started = False
        self.detached = False

    async def inform(self, status: int, headers: Sequence[Header] = ()) -> None:
        """An interim response, 100 to 199 (RFC 9110 §15.2)."""
        await self._wire.send(h11.InformationalResponse(status_code=status, headers=raw_headers(headers)))

    async def start(self, status: int = 200, headers: Sequence[Header] = (), reason: str = "") -> None:
        """The head. Without Content-Length or Transfer-Encoding the body is sent chunked."""
        self.started = True
        event = h11.Response(status_code=status, headers=raw_headers(headers), reason=reason.encode())
        await self._wire.send(event)

    async def write(self, body: bytes) -> None:
        """A piece of the body; dropped for HEAD."""
        if body and not self._is_head:
            await self._wire.send(h11.Data(data=body))

    async def end(self, trailers: Sequence[Header] = ()) -> None:
        """The end of the body; trailers need a chunked one."""
        await self._wire.send(h11.EndOfMessage(headers=raw_headers(trailers)))

    async def send(self, status: int = 200, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        """A whole response, with its Content-Length where a body may follow and no field frames it."""
        names = {name.lower() for name, _ in raw_headers(headers)}
        if status not in (204, 304) and not names & {b"content-length", b"transfer-encoding"}:
            headers = [*headers, ("Content-Length", str(len(body)))]
        await self.start(status, headers)
        await self.write(body)
        await self.end()

    async def raw(self, data: bytes) -> None:
        """Bytes straight to the socket: whatever a broken or hostile server might send."""
        self.detached = True
        await self._wire.connection.write(data)

    def close(self) -> None:
        """End the connection here, however much is still missing."""
        self.detached = True
        self._wire.connection.close()

    def abort(self) -> None:
        """Reset the connection here."""
        self.detached = True
        self._wire.connection.abort()

    async def finish(self) -> bool:
        """End the response where the route did not. True if the connection can serve another request."""
        if self.detached:
            return False
        if not self.started:
            await self.send(500, [("Content-Type", "text/plain")], b"the route sent no response")
        if self._wire.http.our_state is h11.SEND_BODY:
            try:
                await self.end()
            except h11.LocalProtocolError:  # less than the Content-Length promised: the peer has to see it missing
                return False
        await self._request.read()
        return self._wire.http.our_state is h11.DONE


class HttpServer(TcpServer):
    """Serves requests one after the other on each connection; `respond` answers them."""

    async def serve(self, connection: Connection) -> None:
        leftover = b""
        while True:
            wire = Wire(connection, leftover)
            head = await wire.head()
            if head is None:
                return
            received = Received(head.method, head.target, tuple(head.headers.raw_items()), connection.number)
            request = Request(wire, received)
            response = Response(wire, request)
            await self.respond(request, response)
            if not await response.finish():
                return
            leftover = wire.leftover

    @abstractmethod
    async def respond(self, request: Request, response: Response) -> None:
        """Answer one request."""
