"""Frames as a server may send them, well and ill, in pieces of every size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from preview_proxy.core.frames import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Broken,
    Close,
    Event,
    FrameReader,
    Message,
    close_payload,
    header,
)
from preview_proxy.core.websocket import outgoing_close

LIMIT = 1_000_000


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, first: int | None = None) -> bytes:
    """A server's frame; `first` replaces the first byte."""
    size = len(payload)
    long = b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8)
    length = bytes([size]) if size < 126 else long
    return bytes([first if first is not None else 0x80 * fin | opcode]) + length + payload


def read(*pieces: bytes, limit: int = LIMIT) -> list[Event]:
    reader = FrameReader(limit)
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_length(opcode: int, size: int) -> None:
    wire = frame(opcode, b"x" * size)
    assert read(wire) == [Message(opcode, b"x" * size)]
    assert read(wire[:1], wire[1:3], wire[3:9], wire[9:]) == read(wire)


def test_control_frames_come_between_fragments() -> None:
    wire = frame(TEXT, b"ab", fin=False) + frame(PING, b"!") + frame(0, b"", fin=False) + frame(PONG) + frame(0, b"c")
    assert read(wire) == [Message(PING, b"!"), Message(PONG, b""), Message(TEXT, b"abc")]


def test_a_character_may_be_split_between_fragments() -> None:
    euro = "€".encode()
    assert read(frame(TEXT, euro[:1], fin=False) + frame(0, euro[1:])) == [Message(TEXT, euro)]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frame(TEXT, b"x", first=0xC1), 1002),
        (frame(TEXT, b"x", first=0xA1), 1002),
        (frame(TEXT, b"x", first=0x91), 1002),
        *[(frame(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
        (frame(PING, b"x", fin=False), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(8, b"x" * 126), 1002),
        (frame(0, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(BINARY, b"y", fin=False), 1002),
        (b"\x81\x81abcdx", 1002),
        (b"\x81\x7e\x00\x7dx", 1002),
        (b"\x81\x7f" + (65535).to_bytes(8), 1002),
        (b"\x82\x7f" + (1 << 63).to_bytes(8), 1002),
        (frame(8, b"\x03"), 1002),
        *[(frame(8, code.to_bytes(2)), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)],
        (frame(8, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"\xc0\xaf"), 1007),
        (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
        (frame(TEXT, "€".encode()[:2]), 1007),
        (frame(TEXT, b"a", fin=False) + frame(0, b"\xff"), 1007),
    ],
)
def test_a_broken_rule_ends_it_with_a_code(wire: bytes, code: int) -> None:
    events = read(frame(BINARY, b"before"), wire, frame(BINARY, b"after"))
    assert events == [Message(BINARY, b"before"), Broken(code)]
    assert read(*[bytes([byte]) for byte in wire])[-1] == Broken(code)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_a_close_ends_it(code: int) -> None:
    wire = frame(8, close_payload(code, "grüß")) + frame(BINARY, b"after")
    assert read(wire) == [Close(code, "grüß")]
    assert read(frame(8)) == [Close(None, "")]


def test_w07_a_message_over_the_limit_is_refused_by_its_header() -> None:
    assert read(b"\x82\x7f" + (1 << 40).to_bytes(8), limit=1000) == [Broken(1009)]
    assert read(frame(BINARY, b"x" * 1000), limit=1000) == [Message(BINARY, b"x" * 1000)]
    pieces = frame(BINARY, b"x" * 600, fin=False) + frame(0, b"x" * 401)
    assert read(pieces, limit=1000) == [Broken(1009)]


def test_w07_fragments_are_counted_since_they_may_be_empty() -> None:
    assert read(frame(BINARY, fin=False) + frame(0, fin=False) * 4096, limit=1000)[-1] == Broken(1009)
    assert read(frame(BINARY, fin=False) + frame(0, fin=False) * 4094 + frame(0, b"x"), limit=1000) == [
        Message(BINARY, b"x")
    ]


def test_w07_many_small_pieces_cost_no_quadratic_time() -> None:
    """4 MiB byte by byte of the wire: each byte is touched twice, whatever its place."""
    reader = FrameReader(4 * 1024 * 1024)
    wire = frame(BINARY, bytes(4 * 1024 * 1024))
    events = [event for start in range(0, len(wire), 100) for event in reader.feed(wire[start : start + 100])]
    assert [len(event.payload) for event in events if isinstance(event, Message)] == [4 * 1024 * 1024]


@given(st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING]), st.text(max_size=60))), st.lists(st.integers(1, 40)))
def test_messages_survive_any_cut_of_the_bytes(messages: list[tuple[int, str]], cuts: list[int]) -> None:
    wire = b"".join(frame(opcode, text.encode()[:125].decode("utf-8", "ignore").encode()) for opcode, text in messages)
    expected = read(wire)
    pieces, position = [], 0
    for cut in cuts:
        pieces.append(wire[position : position + cut])
        position += cut
    assert read(*pieces, wire[position:]) == expected
    assert len(expected) == len(messages)


@given(st.binary(max_size=300), st.integers(1, 20))
def test_any_bytes_are_the_same_events_however_they_are_cut(data: bytes, size: int) -> None:
    events = read(data, limit=100)
    assert read(*[data[start : start + size] for start in range(0, len(data), size)], limit=100) == events
    assert not [event for event in events[:-1] if not isinstance(event, Message)]
    messages = [event for event in events if isinstance(event, Message)]
    assert not [message for message in messages if len(message.payload) > (125 if message.opcode >= PING else 100)]
    assert all(message.payload.decode() is not None for message in messages if message.opcode == TEXT)


@given(st.none() | st.integers(-1, 70_000) | st.integers(995, 1020), st.text(max_size=200))
def test_w09_the_peer_can_read_every_close_that_goes_out(code: int | None, reason: str) -> None:
    sent = outgoing_close(code, reason)
    assert read(frame(8, close_payload(*sent))) == [Close(*sent)]


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_what_we_write_is_what_websockets_writes(size: int) -> None:
    ours = header(BINARY, size, b"\0\0\0\0")
    theirs = Frame(Opcode.BINARY, bytes(size)).serialize(mask=True)
    assert (ours[:-4], len(ours) + size) == (theirs[: len(ours) - 4], len(theirs))
