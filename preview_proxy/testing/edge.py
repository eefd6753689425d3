"""A provider's edge on loopback: admits a request, then hands the machine's bytes through as they are.

A response goes back to the proxy byte for byte, valid or not: what a hostile app sends meets the proxy unfiltered.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import h11

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.http_server import MAX_HEAD, Header, Wire, raw_headers
from preview_proxy.testing.tcp import CHUNK, Changes, Connection, TcpServer

Kind = Literal["http", "websocket"]
Ports = dict[int, int | DevServer]


@dataclass
class EdgeRequest:
    """A request as it reached the edge. `verdict` is ``"served"`` or the code of the refusal.

    `host` is the `Host` field; header names keep their case.
    """

    kind: Kind
    method: bytes
    host: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    verdict: str = "served"
    grant_id: str | None = None

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a header field (`name` in lower case), in order."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Passage:
    """An admitted request: the loopback port behind the machine's, and the head as the app sees it.

    `added` are fields that the edge puts in front of the answer's own.
    """

    loopback: int | None
    target: bytes
    headers: list[tuple[bytes, bytes]]
    added: list[tuple[bytes, bytes]] = field(default_factory=list)


class Denied(Exception):
    """The edge answers for itself: a `verdict` for the record, and a whole response."""

    def __init__(self, verdict: str, status: int, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        super().__init__(verdict)
        self.verdict = verdict
        self.status = status
        self.headers = list(headers)
        self.body = body


class EdgeServer(TcpServer):
    """Keeps connections to the proxy alive, and opens a fresh one to the machine for every request.

    `requests` has what reached it, each with its verdict.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, changes: Changes | None = None) -> None:
        super().__init__(ssl_context=ssl_context, changes=changes)
        self.requests: list[EdgeRequest] = []

    @abstractmethod
    def admit(self, request: EdgeRequest, client: str) -> Passage:
        """Let a request through. Raises `Denied`."""

    @abstractmethod
    def not_listening(self, request: EdgeRequest) -> Denied:
        """What the edge says where nothing listens on the machine's port."""

    def exchange(self, *ends: Any) -> Exchange:
        return Exchange(*ends)

    async def serve(self, connection: Connection) -> None:
        leftover = b""
        while True:
            wire = Wire(connection, leftover)
            head = await wire.head()
            if head is None or not await self._answer(wire, head):
                return
            leftover = wire.leftover

    async def _answer(self, wire: Wire, head: h11.Request) -> bool:
        """Serve or refuse one request. True if the connection can carry another."""
        request = _edge_request(head)
        self.requests.append(request)
        self.changes.notify()
        try:
            passage = self.admit(request, wire.connection.client)
            streams = await _dial(passage.loopback)
            if streams is None:
                raise self.not_listening(request)
        except Denied as denied:
            await self._deny(wire, request, denied)
            return _keep_alive(head)
        try:
            return await self.exchange(wire, request, passage, *streams).run() and _keep_alive(head)
        finally:
            self.changes.notify()

    async def _deny(self, wire: Wire, request: EdgeRequest, denied: Denied) -> None:
        request.verdict = denied.verdict
        self.changes.notify()
        headers = [*denied.headers, ("Content-Length", str(len(denied.body)))]
        await wire.send(h11.Response(status_code=denied.status, headers=raw_headers(headers)))
        if request.method != b"HEAD":
            await wire.send(h11.Data(data=denied.body))
        await wire.send(h11.EndOfMessage())
        while not isinstance(await wire.event(), h11.EndOfMessage):
            pass  # the rest of a body that nobody wants


class Exchange:
    """One request to the machine and what it answers. h11 follows both only to know where they end."""

    def __init__(
        self,
        wire: Wire,
        request: EdgeRequest,
        passage: Passage,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.wire = wire
        self.added = passage.added
        self.reader = reader
        self.writer = writer
        self.changes = wire.connection.changes
        self.machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self.head = h11.Request(method=request.method, target=passage.target, headers=passage.headers)
        self.is_websocket = request.kind == "websocket"
        self.sent = asyncio.Event()

    def cuts(self) -> Iterable[Callable[[], Awaitable[None]]]:
        """Whatever ends this exchange early once it returns."""
        return ()

    def count(self, sent: bytes, received: bytes) -> None:
        """Bytes that were passed on, to the machine and from it."""

    async def run(self) -> bool:
        """Carry bytes until the answer is complete. True if the connection to the proxy can be used again."""
        upload, download = asyncio.create_task(self._upload()), asyncio.create_task(self._download())
        sent = asyncio.create_task(self.sent.wait())
        cuts = {asyncio.ensure_future(cut()) for cut in self.cuts()}
        try:
            await asyncio.wait({upload, download, *cuts}, return_when=asyncio.FIRST_COMPLETED)
            if upload.done():
                upload.result()
            if not download.done() or not download.result():
                return False
            await asyncio.wait({upload, sent}, return_when=asyncio.FIRST_COMPLETED)
            return sent.done() and self.machine.their_state is h11.DONE and not self.machine.trailing_data[0]
        finally:
            self.writer.close()
            await _cancel({upload, download, sent, *cuts})

    @property
    def _switched(self) -> bool:
        return self.machine.their_state is h11.SWITCHED_PROTOCOL

    async def _upload(self) -> None:
        """The request as it arrives, and for a WebSocket all that follows. Returns once the proxy has left."""
        try:
            await self._to_machine(self.machine.send(self.head))
            event = await self.wire.event()
            while isinstance(event, h11.Data):
                await self._to_machine(self.machine.send(event))
                event = await self.wire.event()
            await self._to_machine(self.machine.send(cast(h11.EndOfMessage, event)))
            self.sent.set()
            await self.changes.until(lambda: self._switched or self.wire.connection.peer_left)
            if self._switched:
                await self._to_machine(self.wire.leftover)
                while data := await self.wire.connection.read():
                    await self._to_machine(data)
        except (h11.RemoteProtocolError, ConnectionError):
            self.writer.transport.abort()  # the app has to see that the rest is missing

    async def _to_machine(self, data: bytes | None) -> None:
        """What a machine that stopped listening does not take is dropped: its answer may still be on the way."""
        self.count(data or b"", b"")
        self.writer.write(data or b"")
        with suppress(ConnectionError):
            await self.writer.drain()

    async def _download(self) -> bool:
        """The answer as it arrives. True if it ended where its framing says."""
        first = True
        try:
            while data := await self.reader.read(CHUNK):
                data, first = (self._with_added(data) if first else data), False
                self.count(b"", data)
                await self.wire.connection.write(data)
                if self._completes(data):
                    return True
        except ConnectionError:
            self.wire.connection.abort()  # passed on, as a FIN could be taken for the end of the answer
        return False

    def _completes(self, data: bytes) -> bool:
        """Whether the answer ends here. What is not HTTP, or has switched protocols, goes on until it is closed."""
        if self.machine.their_state in (h11.ERROR, h11.SWITCHED_PROTOCOL):
            return False
        self.machine.receive_data(data)
        try:
            while not isinstance(event := self.machine.next_event(), h11.EndOfMessage):
                if event in (h11.NEED_DATA, h11.PAUSED):
                    self.changes.notify()  # it may have switched protocols
                    return False
        except h11.RemoteProtocolError:
            return False
        return True

    def _with_added(self, data: bytes) -> bytes:
        if not self.added or not data.startswith(b"HTTP/1."):
            return data
        line, _, rest = data.partition(b"\r\n")
        return b"\r\n".join([line, *(b"%b: %b" % pair for pair in self.added), rest])


async def _dial(loopback: int | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    if loopback is None:
        return None
    try:
        return await asyncio.open_connection("127.0.0.1", loopback)
    except OSError:
        return None


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _edge_request(head: h11.Request) -> EdgeRequest:
    fields = dict(head.headers)
    kind: Kind = "websocket" if fields.get(b"upgrade", b"").lower() == b"websocket" else "http"
    host = fields.get(b"host", b"").decode("latin-1")
    return EdgeRequest(kind, head.method, host, head.target, tuple(head.headers.raw_items()))


def _keep_alive(head: h11.Request) -> bool:
    connection = b",".join(value for name, value in head.headers if name == b"connection")
    return head.http_version == b"1.1" and b"close" not in connection.lower()


def loopback_port(ports: Ports, port: int) -> int | None:
    """Where a machine's port is served, or None for one that nobody serves."""
    server = ports.get(port)
    return server.port if isinstance(server, DevServer) else server
