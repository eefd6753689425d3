"""The server's end of a WebSocket, polite or not. wsproto frames; the handshake is written here, unchecked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import generate_accept_token

from preview_proxy.testing.http_server import Header, Received, Request, Response, raw_headers


class Closed(ConnectionError):
    """The peer closed the WebSocket: its close code (1005 for none, 1006 for no close frame) and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason!r}")
        self.code = code
        self.reason = reason


class WebSocket:
    """One WebSocket connection, for the function given to `DevServer.websocket`: `accept` or `reject` first.

    `handshake` is the request, `messages` what was received, whole messages in order. `close_code` and `close_reason`
    are the peer's: None while it has not closed, 1006 where the connection broke.
    """

    def __init__(self, request: Request, response: Response) -> None:
        self.handshake: Received = request.received
        self.messages: list[str | bytes] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self._accepted = False
        self._connection = request.wire.connection
        self._response = response
        self._frames = Frames(ConnectionType.SERVER, trailing_data=request.wire.leftover)
        self._text: list[str] = []
        self._binary: list[bytes] = []

    @property
    def subprotocols(self) -> list[str]:
        """What the peer offers, in its order of preference."""
        offered = b",".join(self.handshake.values(b"sec-websocket-protocol")).decode("latin-1")
        return [name.strip() for name in offered.split(",") if name.strip()]

    async def accept(self, subprotocol: str | None = None, headers: Sequence[Header] = ()) -> None:
        """Answer 101, with `headers` exactly as given after the ones of RFC 6455 §4.2.2."""
        self._accepted = True
        key = self.handshake.values(b"sec-websocket-key")[0]
        fields: list[Header] = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", generate_accept_token(key)),
        ]
        if subprotocol is not None:
            fields.append(("Sec-WebSocket-Protocol", subprotocol))
        lines = [b"HTTP/1.1 101 Switching Protocols", *map(b": ".join, raw_headers([*fields, *headers]))]
        await self.raw(b"\r\n".join(lines) + b"\r\n\r\n")

    async def reject(self, status: int = 403, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        """Refuse the upgrade with an ordinary response."""
        await self._response.send(status, headers, body)

    async def receive(self) -> str | bytes:
        """The next whole message; pings are answered on the way. Raises `Closed` at the end, and from then on."""
        while self.close_code is None:
            event = await self._next_event()
            if isinstance(event, CloseConnection):
                await self._peer_closed(event)
            elif isinstance(event, Ping):
                await self.raw(self._frames.send(event.response()))
            elif isinstance(event, TextMessage | BytesMessage) and self._collect(event):
                return self.messages[-1]
        raise Closed(self.close_code, self.close_reason)

    async def send_text(self, text: str) -> None:
        await self.raw(self._frames.send(TextMessage(data=text)))

    async def send_bytes(self, data: bytes) -> None:
        await self.raw(self._frames.send(BytesMessage(data=data)))

    async def ping(self, payload: bytes = b"") -> None:
        await self.raw(self._frames.send(Ping(payload=payload)))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the closing handshake; 1005 sends a close frame without a code."""
        await self.raw(self._frames.send(CloseConnection(code=code, reason=reason)))

    async def raw(self, data: bytes) -> None:
        """Bytes straight to the socket, after the handshake or instead of it."""
        await self._response.raw(data)

    def abort(self) -> None:
        """Reset the TCP connection, without a close frame."""
        self._response.abort()

    async def finish(self) -> None:
        """Close, where the route did not, and wait until the peer has closed too."""
        if not self._accepted:
            return
        if self._frames.state is ConnectionState.OPEN and self._connection.is_open:
            await self.close()
        while True:
            await self.receive()

    def _collect(self, event: TextMessage | BytesMessage) -> bool:
        if isinstance(event, TextMessage):
            self._text.append(event.data)
        else:
            self._binary.append(bytes(event.data))
        if event.message_finished:
            self.messages.append("".join(self._text) if isinstance(event, TextMessage) else b"".join(self._binary))
            self._text, self._binary = [], []
            self._connection.changes.notify()
        return event.message_finished

    async def _next_event(self) -> Event:
        # one by one: wsproto answers nothing that came before a close once it has read the close
        while (event := next(self._frames.events(), None)) is None:
            try:
                data = await self._connection.read()
            except ConnectionError:
                data = b""
            self._frames.receive_data(data or None)
        return event

    async def _peer_closed(self, event: CloseConnection) -> None:
        self.close_code, self.close_reason = int(event.code), event.reason or ""
        self._connection.changes.notify()
        if self._frames.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.OPEN):
            with suppress(ConnectionError):
                await self.raw(self._frames.send(event.response()))
