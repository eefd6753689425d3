"""What emulated edges share: they check a request, then hand the machine's bytes through as they are.

A response goes back to the proxy byte for byte, valid or not: what a hostile app sends meets the proxy unfiltered.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, cast

import h11

from preview_proxy.testing.http_server import MAX_HEAD, Header, Wire, raw_headers
from preview_proxy.testing.tcp import CHUNK, Changes, Connection, TcpServer

Kind = Literal["http", "websocket"]
Refusal = tuple[int, list[Header], bytes]
"""Status, header fields and body of what an edge says of its own accord."""


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


class Refused(Exception):
    """An API or an edge says no, with a code of its provider's."""

    def __init__(self, code: str, *, retry_after: int | None = None, **details: object) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after = retry_after
        self.details = details


@dataclass
class Passage:
    """An admitted request: the loopback port behind the machine's, and the head as the app sees it."""

    loopback: int | None
    target: bytes
    headers: list[tuple[bytes, bytes]]

    idle_seconds: float | None = None
    """After how long without a byte either way the edge drops a WebSocket."""
    held: Literal["not at all", "head", "whole"] = "not at all"
    """How much of an answer is held until `answer` has seen it."""

    def count(self, sent: int, received: int) -> None:
        """Note how many bytes went each way."""

    def answer(self, data: bytes) -> bytes:
        """The beginning of the app's answer, with as much of it as is `held`, as it goes on."""
        return data

    async def cut(self, changes: Changes) -> None:
        """Return where a WebSocket has to end."""
        await changes.until(lambda: False)


class EmulatedEdge(TcpServer):
    """Keeps connections to the proxy alive, and opens a fresh one to the machine for every request."""

    not_listening: str
    """The code for a port where nobody listens."""

    def __init__(self, changes: Changes, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(ssl_context=ssl_context, changes=changes)
        self.requests: list[EdgeRequest] = []
        self.forced: Iterator[str] = iter(())

    @abstractmethod
    def admit(self, request: EdgeRequest, client: str) -> Passage:
        """Check the request. Raises `Refused`."""

    @abstractmethod
    def refusal(self, request: EdgeRequest, refused: Refused) -> Refusal:
        """How a refusal is said."""

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
            if (code := next(self.forced, None)) is not None:
                raise Refused(code)
            passage = self.admit(request, wire.connection.client)
            reader, writer = await self._dial(passage.loopback)
        except Refused as refused:
            await self._refuse(wire, request, refused)
            return _keep_alive(head)
        try:
            return await Exchange(wire, request, passage, reader, writer).run() and _keep_alive(head)
        finally:
            self.changes.notify()

    async def _dial(self, loopback: int | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            if loopback is not None:
                return await asyncio.open_connection("127.0.0.1", loopback)
        except OSError:
            pass
        raise Refused(self.not_listening)

    async def _refuse(self, wire: Wire, request: EdgeRequest, refused: Refused) -> None:
        request.verdict = refused.code
        status, headers, body = self.refusal(request, refused)
        self.changes.notify()
        headers.append(("Content-Length", str(len(body))))
        await wire.send(h11.Response(status_code=status, headers=raw_headers(headers)))
        if request.method != b"HEAD":
            await wire.send(h11.Data(data=body))
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
        self.passage = passage
        self.reader = reader
        self.writer = writer
        self.changes = wire.connection.changes
        self.machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self.head = h11.Request(method=request.method, target=passage.target, headers=passage.headers)
        self.is_websocket = request.kind == "websocket"
        self.sent = asyncio.Event()
        self.last_byte = asyncio.get_running_loop().time()

    async def run(self) -> bool:
        """Carry bytes until the answer is complete. True if the connection to the proxy can be used again."""
        upload, download = asyncio.create_task(self._upload()), asyncio.create_task(self._download())
        sent = asyncio.create_task(self.sent.wait())
        cuts = set()
        if self.is_websocket:
            cuts = {asyncio.create_task(self.passage.cut(self.changes)), asyncio.create_task(self._idle())}
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
        self._count(data or b"", b"")
        self.writer.write(data or b"")
        with suppress(ConnectionError):
            await self.writer.drain()

    async def _download(self) -> bool:
        """The answer as it arrives, its head first. True if it ended where its framing says."""
        head: bytes | None = b""
        try:
            while data := await self.reader.read(CHUNK):
                self._count(b"", data)
                completed = self._completes(data)
                if head is not None:
                    head += data
                    if not (completed or self._may_go_on(head)):
                        continue
                    data, head = self.passage.answer(head), None
                await self.wire.connection.write(data)
                if completed:
                    return True
            if head:
                await self.wire.connection.write(head)
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

    def _may_go_on(self, data: bytes) -> bool:
        """Whether as much of the answer is there as is to be held."""
        held = self.passage.held
        if held == "not at all" or len(data) > MAX_HEAD or not data.startswith(b"HTTP/1."):
            return True
        return b"\r\n\r\n" in data and (held == "head" or self._switched)

    def _count(self, sent: bytes, received: bytes) -> None:
        self.passage.count(len(sent), len(received))
        self.last_byte = asyncio.get_running_loop().time()

    async def _idle(self) -> None:
        """Returns once this WebSocket has been silent for too long."""
        idle = self.passage.idle_seconds or math.inf
        loop = asyncio.get_running_loop()
        while (left := self.last_byte + idle - loop.time()) > 0:  # noqa: ASYNC110 - silence is no event
            await asyncio.sleep(min(left, 3600))


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
