"""The frames that a WebSocket peer sends in a test, and what the other end has to make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

BY_FRAME = 0
"""For `Case.chop`: one write for each frame."""


class Frame(NamedTuple):
    """One frame (RFC 6455 §5.2); `rsv` has the three reserved bits as a number from 0 to 7."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0

    def encode(self, mask: bytes = b"") -> bytes:
        """The frame on the wire; a client's has a mask of four bytes, a server's none."""
        size, bit = len(self.payload), 0x80 if mask else 0
        if size < 126:
            length = bytes([bit | size])
        else:
            length = bytes([bit | 126]) + size.to_bytes(2) if size < 65536 else bytes([bit | 127]) + size.to_bytes(8)
        return bytes([0x80 * self.fin | self.rsv << 4 | self.opcode]) + length + mask + xor(self.payload, mask)


def xor(payload: bytes, mask: bytes) -> bytes:
    if not mask:
        return payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload))


def decode(wire: bytes) -> list[Frame]:
    """The whole frames in `wire`, masked or not; what is incomplete is left out."""
    frames, at = [], 0
    while len(wire) >= at + 2:
        first, second = wire[at : at + 2]
        size = {126: 2, 127: 8}.get(second & 0x7F, 0)
        start = at + 2 + size
        length = int.from_bytes(wire[at + 2 : start]) if size else second & 0x7F
        mask = wire[start : start + 4] if second & 0x80 else b""
        start, at = start + len(mask), start + len(mask) + length
        if len(wire) < at:
            break
        frames.append(Frame(first & 0x0F, xor(wire[start:at], mask), first >= 0x80, first >> 4 & 7))
    return frames


@dataclass(frozen=True, kw_only=True)
class Case:
    """One connection. A case without a close frame or a `fault` is closed with 1000 once all was delivered."""

    id: str
    text: str
    frames: tuple[Frame, ...]
    messages: tuple[str | bytes, ...] = ()
    """What is delivered, in order."""
    pongs: tuple[bytes, ...] = ()
    """What is answered to pings, in order."""
    close: bytes | None = None
    """The payload of the peer's good close frame, where the case has one."""
    fault: int | None = None
    """The close code that the peer's fault earns it."""
    chop: int = BY_FRAME
    """How many bytes are written at a time."""

    def __str__(self) -> str:
        return f"{self.id} {self.text}"

    @property
    def closes_with(self) -> bytes:
        """The payload of the peer's close frame, where it is a good one."""
        return b"\x03\xe8" if self.close is None else self.close

    def pieces(self, mask: bytes = b"") -> list[bytes]:
        """The bytes of all frames, as they are written one after the other."""
        wire = [frame.encode(mask) for frame in self.frames]
        if self.chop == BY_FRAME:
            return wire
        joined = b"".join(wire)
        return [joined[at : at + self.chop] for at in range(0, len(joined), self.chop)]


def fragments(opcode: int, *payloads: bytes) -> tuple[Frame, ...]:
    """One message in as many frames."""
    last = len(payloads) - 1
    return tuple(Frame(opcode if not i else CONTINUATION, part, i == last) for i, part in enumerate(payloads))


def delivered(opcode: int, payload: bytes) -> str | bytes:
    """A good message as the one who receives it sees it."""
    return payload.decode() if opcode == TEXT else payload


def octets(payload: bytes) -> list[bytes]:
    return [bytes([octet]) for octet in payload]


def cut(payload: bytes, size: int) -> list[bytes]:
    return [payload[at : at + size] for at in range(0, len(payload), size)]
