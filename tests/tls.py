"""A server over TLS whose clients may refuse its certificate."""

from __future__ import annotations

import ssl
from abc import abstractmethod

from preview_proxy.testing.tcp import Connection, TcpServer


class TlsServer(TcpServer):
    """Does the handshake itself. In debug mode asyncio's would report a refused one as an error of the loop."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context

    async def serve(self, connection: Connection) -> None:
        await connection._writer.start_tls(self._context)
        await self.talk(connection)

    @abstractmethod
    async def talk(self, connection: Connection) -> None:
        """Everything said once the client has trusted the certificate."""


class SaysOk(TlsServer):
    """Answers one request."""

    async def talk(self, connection: Connection) -> None:
        while await connection.read():
            if connection.raw.endswith(b"\r\n\r\n"):
                await connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                return
