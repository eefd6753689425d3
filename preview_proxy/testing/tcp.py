"""A TCP server on loopback that sees everything: each byte as it arrives, who is connected, and who left."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, SupportsIndex

import h11

CHUNK = 64 * 1024


class Changes:
    """Wakes whoever waits for something to become true, so that no test has to sleep."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return once `predicate` holds; it is asked again after each change."""
        while not predicate():
            await self._event.wait()


class _Tap(asyncio.StreamReader):
    """A stream reader that reports what the event loop feeds it, read or not."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(limit=CHUNK)
        self._connection = connection

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self._connection.arrived(bytes(data))
        super().feed_data(data)

    def feed_eof(self) -> None:
        self._connection.ended()
        super().feed_eof()

    def set_exception(self, exc: Exception) -> None:
        self._connection.ended()
        super().set_exception(exc)


class Connection:
    """One accepted connection; `number` counts from 0 in the order of arrival.

    `peer_left` is true once the peer closed or reset it before we did, `is_open` until either side did.
    """

    def __init__(self, number: int, changes: Changes) -> None:
        self.number = number
        self.raw = bytearray()
        self.is_open = True
        self.peer_left = False
        self.client = ""
        self.reader: asyncio.StreamReader = _Tap(self)
        self.changes = changes
        self._writer: asyncio.StreamWriter

    def accepted(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.client = writer.get_extra_info("peername")[0]
        self.changes.notify()

    def arrived(self, data: bytes) -> None:
        self.raw += data
        self.changes.notify()

    def ended(self) -> None:
        self.peer_left = self.peer_left or self.is_open
        self.is_open = False
        self.changes.notify()

    async def read(self) -> bytes:
        """The next bytes, or b"" at the end. Nothing is read from the socket while 128 KiB wait here."""
        return await self.reader.read(CHUNK)

    async def write(self, data: bytes) -> None:
        """Send `data`, waiting while the peer does not read. Raises `ConnectionError` once it is gone."""
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Send what is still buffered, then FIN."""
        self.is_open = False
        self._writer.close()
        self.changes.notify()

    def abort(self) -> None:
        """Drop the connection with a TCP reset, as a killed process or a pulled cable would."""
        self.is_open = False
        sock = self._writer.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        self.changes.notify()


class TcpServer(ABC):
    """Listens on 127.0.0.1 while its `async with` block runs, and gives each connection to `serve`.

    A peer that breaks off or breaks the protocol is no fault here: it is counted in `connection_errors`. Anything
    else that a route raises is kept in `errors` and raised again when the block ends, so that a test sees it.
    `port` is 0 until started, unless one was asked for.
    """

    def __init__(
        self, *, port: int = 0, ssl_context: ssl.SSLContext | None = None, changes: Changes | None = None
    ) -> None:
        self.port = port
        self.changes = changes or Changes()
        self.connections: list[Connection] = []
        self.connection_errors = 0
        self.errors: list[Exception] = []
        self._ssl_context = ssl_context
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def raw(self) -> list[bytearray]:
        """Every byte received, one entry for each connection. With TLS: after decryption."""
        return [connection.raw for connection in self.connections]

    @property
    def open_connections(self) -> int:
        """How many connections neither side has closed."""
        return sum(connection.is_open for connection in self.connections)

    @property
    def disconnects(self) -> int:
        """How many connections the peer closed or reset before we did."""
        return sum(connection.peer_left for connection in self.connections)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(
            self._connect, "127.0.0.1", self.port, ssl=self._ssl_context
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        if error is None and self.errors:
            raise self.errors[0]
        for hidden in self.errors:
            error.add_note(f"{type(self).__name__} also failed: {hidden!r}")  # type: ignore[union-attr]

    @abstractmethod
    async def serve(self, connection: Connection) -> None:
        """Everything said on one connection. It is closed when this returns."""

    def _connect(self) -> asyncio.Protocol:
        connection = Connection(len(self.connections), self.changes)

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections.append(connection)
            connection.accepted(writer)
            task = asyncio.create_task(self._run(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return asyncio.StreamReaderProtocol(connection.reader, accept)

    async def _run(self, connection: Connection) -> None:
        try:
            await self.serve(connection)
        except (ConnectionError, ssl.SSLError, h11.RemoteProtocolError):
            self.connection_errors += 1
        except asyncio.CancelledError:
            connection.abort()
            raise
        except Exception as error:
            self.errors.append(error)
        finally:
            connection.close()
