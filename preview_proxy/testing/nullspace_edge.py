"""The emulated Nullspace edge: checks the credential, then hands the machine's bytes through as they are.

A response goes back to the proxy byte for byte, valid or not: what a hostile app sends meets the proxy unfiltered.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

import h11

from preview_proxy.testing.http_server import MAX_HEAD, Wire, raw_headers
from preview_proxy.testing.nullspace_admission import Admission, Passage
from preview_proxy.testing.nullspace_state import EdgeRequest, Kind, Refused, State
from preview_proxy.testing.tcp import CHUNK, Connection, TcpServer


class NullspaceEdge(TcpServer):
    """Keeps connections to the proxy alive, and opens a fresh one to the machine for every request."""

    def __init__(self, state: State, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(ssl_context=ssl_context, changes=state.changes)
        self.state = state

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
        self.state.edge_requests.append(request)
        self.state.changes.notify()
        try:
            passage = Admission(self.state, request, wire.connection.client).admit()
            reader, writer = await _dial(passage.loopback)
        except Refused as refused:
            await self._refuse(wire, request, refused)
            return _keep_alive(head)
        try:
            return await Exchange(wire, request, passage, reader, writer, self.state).run() and _keep_alive(head)
        finally:
            self.state.changes.notify()

    async def _refuse(self, wire: Wire, request: EdgeRequest, refused: Refused) -> None:
        request.verdict = refused.code
        grant = self.state.grants.get(request.grant_id or "")
        if grant is not None:
            grant.last_error = (refused.code, self.state.clock())
        self.state.changes.notify()
        status, headers, body = self.state.answer(refused)
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
        state: State,
    ) -> None:
        self.wire = wire
        self.grant = passage.grant
        self.reader = reader
        self.writer = writer
        self.state = state
        self.machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self.head = h11.Request(method=request.method, target=passage.target, headers=passage.headers)
        self.is_websocket = request.kind == "websocket"
        self.sent = asyncio.Event()
        self.last_byte = asyncio.get_running_loop().time()

    async def run(self) -> bool:
        """Carry bytes until the answer is complete. True if the connection to the proxy can be used again."""
        upload, download = asyncio.create_task(self._upload()), asyncio.create_task(self._download())
        sent = asyncio.create_task(self.sent.wait())
        cuts = {asyncio.create_task(cut()) for cut in (self._revoked, self._idle) if self.is_websocket}
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
            await self.state.changes.until(lambda: self._switched or self.wire.connection.peer_left)
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
        """The answer as it arrives. True if it ended where its framing says."""
        first = True
        try:
            while data := await self.reader.read(CHUNK):
                data, first = (self._with_cookie(data) if first else data), False
                self._count(b"", data)
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
                    self.state.changes.notify()  # it may have switched protocols
                    return False
        except h11.RemoteProtocolError:
            return False
        return True

    def _with_cookie(self, data: bytes) -> bytes:
        name = self.state.switches.continuation_cookie
        if name is None or not data.startswith(b"HTTP/1."):
            return data
        line, _, rest = data.partition(b"\r\n")
        cookie = f"Set-Cookie: {name}={self.grant.id}; Path=/; HttpOnly; SameSite=Lax"
        return b"\r\n".join([line, cookie.encode(), rest])

    def _count(self, sent: bytes, received: bytes) -> None:
        self.grant.bytes_in += len(sent)
        self.grant.bytes_out += len(received)
        self.last_byte = asyncio.get_running_loop().time()

    async def _revoked(self) -> None:
        """Returns where a revocation has to end this WebSocket."""
        switches, grant = self.state.switches, self.grant
        await self.state.changes.until(lambda: switches.revoke_closes_websockets and grant.revoked_at is not None)

    async def _idle(self) -> None:
        """Returns once this WebSocket has been silent for too long."""
        idle = self.state.switches.websocket_idle_seconds or math.inf
        loop = asyncio.get_running_loop()
        while (left := self.last_byte + idle - loop.time()) > 0:  # noqa: ASYNC110 - silence is no event
            await asyncio.sleep(min(left, 3600))


async def _dial(loopback: int | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        if loopback is not None:
            return await asyncio.open_connection("127.0.0.1", loopback)
    except OSError:
        pass
    raise Refused("preview_service_not_ready")


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
