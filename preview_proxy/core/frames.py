"""WebSocket frames (RFC 6455 §5), seen from the client's side: a reader of what a server sends, and a writer.

The reader trusts nothing: no extension was offered, so no reserved bit may be set; a message is bounded in bytes as it
grows, and in fragments, which may be empty. Payloads are joined once, never copied as they grow.
"""

from __future__ import annotations

from typing import NamedTuple

from preview_proxy.core.websocket import SENDABLE

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_CONTINUATION = 0
_TEXT_WHOLE, _BINARY_WHOLE = 0x80 | TEXT, 0x80 | BINARY  # with the bit that ends a message
_SHORT = 125  # §5.2: the longest length that is in the second byte; more would be the mask bit, or a longer form
_MAX_CONTROL = 125  # §5.5
_MAX_FRAGMENTS = 4096
_LEAST_FRAGMENT = 256  # bytes; a message of more than 1 MiB may have more fragments

# §7.4.1
PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009


class Message(NamedTuple):
    """A whole message, or a ping's or pong's payload."""

    opcode: int
    payload: bytes


class Close(NamedTuple):
    """A close frame; `code` is None where it has none."""

    code: int | None
    reason: str


class Broken(NamedTuple):
    """The peer broke a rule: fail the connection with `code`. Nothing comes after it."""

    code: int


Event = Message | Close | Broken


class FrameReader:
    """Bytes in, events out. `limit` bounds a message's bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._max_fragments = max(_MAX_FRAGMENTS, limit // _LEAST_FRAGMENT)
        self._start = b""  # of a frame whose header is incomplete
        self._parts: list[bytes] = []  # of the payload under way
        self._missing = 0
        self._fin = True
        self._opcode = 0
        self._message = 0  # the opcode that began the message under way
        self._fragments: list[bytes] = []
        self._size = 0
        self._ended = False

    def feed(self, data: bytes) -> list[Event]:
        """What `data` completes, in order. After `Close` or `Broken` everything is ignored."""
        if len(data) > 2 and len(data) - 2 == data[1] <= _SHORT and self._is_between_messages():
            message = self._whole(data)
            if message is not None:
                return [message]
        events: list[Event] = []
        if self._start:
            data, self._start = self._start + data, b""
        position, end = 0, len(data)
        while not self._ended:
            if self._missing:
                if position == end:
                    break
                part = data[position : position + self._missing]
                position += len(part)
                self._missing -= len(part)
                self._parts.append(part)
                if self._missing:
                    break
                self._complete(events)
            else:
                begun = self._begin(data, position, end, events)
                if not begun:
                    self._start = data[position:]
                    break
                position += begun
        return events

    def _is_between_messages(self) -> bool:
        return not (self._start or self._missing or self._message or self._ended)

    def _whole(self, data: bytes) -> Message | None:
        """The message of one short frame that came alone, as most do: no state to keep, and no copy but one."""
        payload, first = data[2:], data[0]
        if len(payload) <= self._limit and (first == _BINARY_WHOLE or (first == _TEXT_WHOLE and _is_utf8(payload))):
            return Message(first & 0x0F, payload)
        return None

    def _begin(self, data: bytes, position: int, end: int, events: list[Event]) -> int:
        """Read a header; its size, or 0 if it is incomplete."""
        if end - position < 2:
            return 0
        first, second = data[position], data[position + 1]
        length, size = second & 0x7F, 2
        if length > 125:
            size = 4 if length == 126 else 10
            if end - position < size:
                return 0
            least = 126 if length == 126 else 65536
            length = int.from_bytes(data[position + 2 : position + size])
            if length < least or length >> 63:  # §5.2: the shortest form, and no sign
                return self._break(PROTOCOL_ERROR, events)
        error = self._check(first, second, length)
        if error:
            return self._break(error, events)
        self._fin, self._opcode, self._missing = first >= 0x80, first & 0x0F, length
        if not length:
            self._complete(events)
        return size

    def _check(self, first: int, second: int, length: int) -> int:
        """The code to fail with for a header that may not be, else 0."""
        opcode = first & 0x0F
        if first & 0x70 or second & 0x80:  # a reserved bit; a server's frames are not masked (§5.1)
            return PROTOCOL_ERROR
        if opcode >= CLOSE:
            return PROTOCOL_ERROR if opcode > PONG or first < 0x80 or length > _MAX_CONTROL else 0
        if opcode > BINARY or (opcode == _CONTINUATION) != bool(self._message):
            return PROTOCOL_ERROR
        too_many = len(self._fragments) >= self._max_fragments
        return TOO_BIG if self._size + length > self._limit or too_many else 0

    def _break(self, code: int, events: list[Event]) -> int:
        self._ended = True
        events.append(Broken(code))
        return 2

    def _complete(self, events: list[Event]) -> None:
        """A frame is whole."""
        payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if self._opcode >= CLOSE:
            self._control(payload, events)
            return
        self._message = self._message or self._opcode
        if self._fin and not self._fragments:
            whole = payload
        else:
            self._fragments.append(payload)
            self._size += len(payload)
            if not self._fin:
                return
            whole = b"".join(self._fragments)
            self._fragments, self._size = [], 0
        opcode, self._message = self._message, 0
        if opcode == TEXT and not _is_utf8(whole):
            self._break(INVALID_DATA, events)
        else:
            events.append(Message(opcode, whole))

    def _control(self, payload: bytes, events: list[Event]) -> None:
        if self._opcode != CLOSE:
            events.append(Message(self._opcode, payload))
            return
        code = int.from_bytes(payload[:2]) if payload else None
        if len(payload) == 1 or (code is not None and code not in SENDABLE and not 3000 <= code <= 4999):
            self._break(PROTOCOL_ERROR, events)
        elif not _is_utf8(payload[2:]):
            self._break(INVALID_DATA, events)
        else:
            self._ended = True
            events.append(Close(code, payload[2:].decode()))


def _is_utf8(payload: bytes) -> bool:
    """§8.1; Python's decoder refuses surrogates and overlong forms as well."""
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def header(opcode: int, length: int, mask: bytes) -> bytes:
    """The header of a final, masked frame (§5.2)."""
    if length < 126:
        return bytes((0x80 | opcode, 0x80 | length)) + mask
    if length < 65536:
        return bytes((0x80 | opcode, 0xFE)) + length.to_bytes(2) + mask
    return bytes((0x80 | opcode, 0xFF)) + length.to_bytes(8) + mask


def close_payload(code: int | None, reason: str) -> bytes:
    """The payload of a close frame (§5.5.1); a code of None gives an empty one."""
    return b"" if code is None else code.to_bytes(2) + reason.encode()
