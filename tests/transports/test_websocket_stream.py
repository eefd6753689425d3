"""The WebSocket client on a byte stream in memory, whose other end says anything and reads when it likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import anyio
import pytest

from preview_proxy import Limits
from preview_proxy.core.frames import BINARY, CLOSE, PING, PONG, TEXT
from preview_proxy.transports import websocket_stream
from preview_proxy.transports.websocket_stream import (
    MAX_QUEUED,
    MAX_QUEUED_BYTES,
    Closed,
    WebSocketStream,
)
from tests.turns import turns

pytestmark = pytest.mark.anyio

LIMITS = Limits(message_bytes=100_000, write_timeout=0.05)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A server's frame: not masked (RFC 6455 §5.1)."""
    first = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        return first + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return first + b"\x7e" + len(payload).to_bytes(2) + payload
    return first + b"\x7f" + len(payload).to_bytes(8) + payload


def frames(wire: bytes) -> list[tuple[int, bytes]]:
    """What a client has sent: (opcode, payload) of each frame, all of them final and masked."""
    found = []
    while wire:
        assert wire[0] & 0xF0 == 0x80
        assert wire[1] & 0x80
        length, at = wire[1] & 0x7F, 2
        if length > 125:
            at = 4 if length == 126 else 10
            length = int.from_bytes(wire[2:at])
        mask, payload = wire[at : at + 4], wire[at + 4 : at + 4 + length]
        found.append((wire[0] & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))))
        wire = wire[at + 4 + length :]
    return found


class Wire:
    """A `ByteStream` that pushes what the test says. `is_blocked` stands for a peer that does not read."""

    def __init__(self) -> None:
        self.sent = b""
        self.is_blocked = False
        self.is_gone = False
        self.is_paused = False
        self.is_aborted = False
        self.unblocked = asyncio.Event()
        self.say: Callable[[bytes], None]
        self.end: Callable[[], None]

    def attach(self, receive: Callable[[bytes], None], end: Callable[[], None]) -> None:
        self.say, self.end = receive, end

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def write(self, data: bytes) -> bool:
        if self.is_gone:
            return False
        self.sent += data
        return True

    async def drain(self) -> None:
        await self.unblocked.wait()

    def abort(self) -> None:
        self.is_aborted = True


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def socket(wire: Wire) -> AsyncIterator[WebSocketStream]:
    made = WebSocketStream(wire, LIMITS)
    yield made
    made.abort()


async def received(socket: WebSocketStream) -> str | bytes | Closed:
    with anyio.fail_after(5):
        return await socket.receive()


# --- receiving -----------------------------------------------------------------------------------------------------


async def test_messages_are_received_whole_and_in_order(wire: Wire, socket: WebSocketStream) -> None:
    wire.say(frame(TEXT, "grüße".encode()) + frame(BINARY, b"\x00\xff") + frame(TEXT) + frame(BINARY))
    assert [await received(socket) for _ in range(4)] == ["grüße", b"\x00\xff", "", b""]


async def test_a_receiver_waits_for_what_comes_later(wire: Wire, socket: WebSocketStream) -> None:
    asyncio.get_running_loop().call_soon(wire.say, frame(TEXT, b"late"))
    assert await received(socket) == "late"


async def test_a_receiver_that_is_cancelled_loses_nothing(wire: Wire, socket: WebSocketStream) -> None:
    with anyio.move_on_after(0.01):
        await socket.receive()
    wire.say(frame(TEXT, b"kept"))
    assert await received(socket) == "kept"


async def test_a_receiver_that_is_cancelled_leaves_the_next_one_alone(wire: Wire, socket: WebSocketStream) -> None:
    first = asyncio.create_task(socket.receive())
    await asyncio.sleep(0)
    first.cancel()  # it hears of that only after the next has begun to wait
    asyncio.get_running_loop().call_later(0.01, wire.say, frame(TEXT, b"next"))
    assert await received(socket) == "next"


async def test_a_receiver_that_was_forestalled_leaves_the_next_one_alone(wire: Wire, socket: WebSocketStream) -> None:
    """On trio so does one that was cancelled, as what it waits for came before that."""
    first = asyncio.create_task(socket.receive())
    await turns()
    wire.say(frame(TEXT, b"one"))
    assert await received(socket) == "one"  # before the first, which was woken, has run

    async def later() -> None:
        await turns()  # the first waits anew
        first.cancel()
        await turns()
        wire.say(frame(TEXT, b"two"))

    saying = asyncio.create_task(later())
    assert await received(socket) == "two"
    await saying
    assert first.cancelled()


async def test_fragments_are_one_message_with_pings_between_them(wire: Wire, socket: WebSocketStream) -> None:
    for byte in b"\x01\x03abc\x89\x02hi\x00\x00\x80\x02de":
        wire.say(bytes([byte]))
    assert await received(socket) == "abcde"
    assert frames(wire.sent) == [(PONG, b"hi")]


@pytest.mark.parametrize("pieces", [[100_000], [50_000, 50_000], [1] * 4096])
async def test_w07_a_message_up_to_the_limit_passes(wire: Wire, socket: WebSocketStream, pieces: list[int]) -> None:
    for number, size in enumerate(pieces):
        wire.say(frame(0 if number else BINARY, bytes(size), fin=number == len(pieces) - 1))
    assert await received(socket) == bytes(sum(pieces))


@pytest.mark.parametrize(
    "said",
    [
        frame(BINARY, b"x" * 100_001),
        frame(BINARY, b"x" * 60_000, fin=False) + frame(0, b"x" * 40_001),
        frame(BINARY, fin=False) + frame(0, fin=False) * 5000,
        b"\x82\x7f" + (1 << 40).to_bytes(8),
    ],
    ids=["at once", "in pieces", "of empty fragments", "announced"],
)
async def test_w07_a_message_over_the_limit_closes_with_1009(wire: Wire, socket: WebSocketStream, said: bytes) -> None:
    wire.say(said)
    assert await received(socket) == Closed(1009)
    assert frames(wire.sent) == [(CLOSE, (1009).to_bytes(2))]
    assert await received(socket) == Closed(1009)


async def test_w08_a_slow_reader_stops_the_reading_and_starts_it_again(wire: Wire, socket: WebSocketStream) -> None:
    for _ in range(MAX_QUEUED):
        wire.say(frame(TEXT, b"x"))
    assert not wire.is_paused
    wire.say(frame(TEXT, b"x"))
    assert wire.is_paused
    for _ in range(MAX_QUEUED):
        await received(socket)
    assert wire.is_paused
    await received(socket)
    assert not wire.is_paused


async def test_w08_bytes_count_as_well_as_messages() -> None:
    wire = Wire()
    socket = WebSocketStream(wire, Limits())
    wire.say(frame(BINARY, bytes(MAX_QUEUED_BYTES + 1)))
    assert wire.is_paused
    assert await received(socket) == bytes(MAX_QUEUED_BYTES + 1)
    assert not wire.is_paused


async def test_w12_a_flood_of_control_frames_is_cut_off(wire: Wire, socket: WebSocketStream) -> None:
    wire.say(frame(PING, b"x") * 25 + frame(PONG) * 25)
    assert frames(wire.sent) == [(PONG, b"x")] * 25
    wire.say(frame(PING, b"x") + frame(TEXT, b"too late"))
    assert frames(wire.sent)[25:] == [(CLOSE, b"\x03\xf0")]
    assert await received(socket) == Closed(1008)


async def test_w12_a_silent_upstream_is_pinged_and_then_given_up(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_stream, "SILENCE", 0.01)
    socket = WebSocketStream(wire, LIMITS)
    assert await received(socket) == Closed(1006)
    assert frames(wire.sent) == [(PING, b"")]
    assert wire.is_aborted


class Answering(Wire):
    """A peer that answers two pings, and then speaks."""

    def write(self, data: bytes) -> bool:
        pings = len(frames(self.sent + data))
        self.say(frame(PONG) if pings < 3 else frame(TEXT, b"still here"))
        return super().write(data)


async def test_w12_an_upstream_that_answers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_stream, "SILENCE", 0.01)
    wire = Answering()
    socket = WebSocketStream(wire, LIMITS)
    assert await received(socket) == "still here"
    assert frames(wire.sent) == [(PING, b"")] * 3
    socket.abort()


async def test_w12_an_upstream_that_is_held_back_is_not_silent(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_stream, "SILENCE", 0.001)
    socket = WebSocketStream(wire, LIMITS)
    wire.say(frame(TEXT, b"x") * (MAX_QUEUED + 1))
    await asyncio.sleep(0.02)
    assert (wire.is_paused, wire.sent, wire.is_aborted) == (True, b"", False)
    socket.abort()


async def test_w12_pings_to_which_nobody_listens_are_not_held(
    wire: Wire, socket: WebSocketStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_stream, "MAX_CONTROLS", 1_000_000)
    wire.is_blocked = True
    for _ in range(100):
        wire.say(frame(PING, b"x" * 125) * 100)
    assert len(wire.sent) < 100_000
    wire.is_blocked = False
    wire.say(frame(PING, b"later"))
    assert frames(wire.sent)[-1] == (PONG, b"later")


async def test_pongs_are_nothing_to_anybody(wire: Wire, socket: WebSocketStream) -> None:
    wire.say(frame(PONG, b"x") * 50 + frame(TEXT, b"after"))
    assert await received(socket) == "after"
    assert wire.sent == b""


# --- closing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "closed"),
    [
        (b"", Closed(None)),
        (b"\x03\xe8", Closed(1000)),
        (b"\x03\xe9bye", Closed(1001, "bye")),
        (b"\x13\x87" + "é".encode() * 61, Closed(4999, "é" * 61)),
    ],
)
async def test_a_close_is_answered_with_itself(
    wire: Wire, socket: WebSocketStream, payload: bytes, closed: Closed
) -> None:
    wire.say(frame(TEXT, b"last words") + frame(CLOSE, payload) + frame(TEXT, b"too late"))
    assert await received(socket) == "last words"
    assert await received(socket) == closed
    assert frames(wire.sent) == [(CLOSE, payload)]
    wire.say(frame(PING, b"x"))
    wire.end()
    assert await received(socket) == closed
    assert not await socket.send("x")
    assert len(frames(wire.sent)) == 1


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"\xf1\x00", 1002),
        (b"\x83\x00", 1002),
        (b"\x81\x80\x00\x00\x00\x00", 1002),
        (b"\x00\x01x", 1002),
        (b"\x09\x00", 1002),
        (b"\x89\x7e\x00\x7e", 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, (1005).to_bytes(2)), 1002),
        (frame(CLOSE, (1006).to_bytes(2)), 1002),
        (frame(CLOSE, (2999).to_bytes(2)), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    ],
)
async def test_a_broken_rule_fails_the_connection(wire: Wire, socket: WebSocketStream, said: bytes, code: int) -> None:
    wire.say(said)
    assert await received(socket) == Closed(1006)
    assert frames(wire.sent) == [(CLOSE, code.to_bytes(2))]


async def test_a_broken_connection_is_1006(wire: Wire, socket: WebSocketStream) -> None:
    wire.say(frame(TEXT, b"ha", fin=False))
    wire.end()
    wire.end()
    assert await received(socket) == Closed(1006)


async def test_one_close_is_sent(wire: Wire, socket: WebSocketStream) -> None:
    socket.close(1001, "leaving")
    socket.close(1011, "again")
    assert not await socket.send("x")
    assert frames(wire.sent) == [(CLOSE, (1001).to_bytes(2) + b"leaving")]
    wire.say(frame(CLOSE, (1001).to_bytes(2)))
    await asyncio.wait_for(socket.wait_closed(), 5)
    assert len(frames(wire.sent)) == 1


async def test_a_close_without_a_code_is_empty(wire: Wire, socket: WebSocketStream) -> None:
    socket.close(None, "")
    assert frames(wire.sent) == [(CLOSE, b"")]


async def test_w08_a_peer_that_never_closes_is_not_waited_for(
    wire: Wire, socket: WebSocketStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_stream, "CLOSE_TIMEOUT", 0.01)
    socket.close(1000, "")
    wire.say(frame(TEXT, b"still here") * 3)
    with anyio.fail_after(5):
        await socket.wait_closed()
    socket.abort()
    assert wire.is_aborted


# --- sending -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
async def test_messages_are_sent_masked_in_one_frame(wire: Wire, socket: WebSocketStream, size: int) -> None:
    assert await socket.send(b"\xa5" * size)
    assert await socket.send("z" * size)
    assert frames(wire.sent) == [(BINARY, b"\xa5" * size), (TEXT, b"z" * size)]


async def test_each_frame_has_a_mask_of_its_own(wire: Wire, socket: WebSocketStream) -> None:
    for _ in range(8):
        await socket.send(b"")
    assert len({wire.sent[at + 2 : at + 6] for at in range(0, len(wire.sent), 6)}) > 1


async def test_a_send_waits_for_a_slow_peer(wire: Wire, socket: WebSocketStream) -> None:
    wire.is_blocked = True
    asyncio.get_running_loop().call_soon(wire.unblocked.set)
    assert await socket.send("x")
    assert not wire.is_aborted


async def test_w08_a_write_that_never_finishes_drops_the_connection(wire: Wire, socket: WebSocketStream) -> None:
    wire.is_blocked = True
    with anyio.fail_after(5):
        assert not await socket.send("x")
    assert wire.is_aborted


async def test_nothing_is_sent_to_who_is_gone(wire: Wire, socket: WebSocketStream) -> None:
    wire.is_gone = True
    assert not await socket.send("x")
    assert wire.sent == b""
