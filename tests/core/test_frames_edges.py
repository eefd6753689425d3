"""Frames that come alone in a packet, and those that only look as if they did."""

from __future__ import annotations

import pytest

from preview_proxy.core.frames import BINARY, CLOSE, PING, PONG, TEXT, Broken, Event, Message, close_payload
from tests.core.test_frames import frame, read


def test_the_opcodes_of_the_rfc() -> None:
    assert (TEXT, BINARY, CLOSE, PING, PONG) == (1, 2, 8, 9, 10)


@pytest.mark.parametrize(
    ("pieces", "events"),
    [
        ([b"\x82", b"\x82\x01x"], [Broken(1002)]),
        ([b"\x82\x05", b"\x82\x03abc"], [Message(BINARY, b"\x82\x03abc")]),
        ([frame(TEXT, b"a", fin=False), b"\x82\x01x"], [Broken(1002)]),
        ([b"\x01\x01a", b"\x80\x01b"], [Message(TEXT, b"ab")]),
        ([b"\x02\x01a", b"\x80\x01b"], [Message(BINARY, b"ab")]),
        ([b"\x83\x01x"], [Broken(1002)]),
        ([b"\x82\x7e" + (124).to_bytes(2) + b"x" * 124], [Broken(1002)]),
        ([b"\x82\x01x\x82", b"\x01y"], [Message(BINARY, b"x"), Message(BINARY, b"y")]),
        ([b"\x82\x04\x03ab", b"c"], [Message(BINARY, b"\x03abc")]),
        ([frame(BINARY, b"\xff", fin=False), frame(0, b"\xfe")], [Message(BINARY, b"\xff\xfe")]),
        ([frame(PING, b"x" * 125)], [Message(PING, b"x" * 125)]),
        ([frame(BINARY, b"\xff") * 2], [Message(BINARY, b"\xff")] * 2),
    ],
    ids=repr,
)
def test_w06_what_looks_like_a_message_alone_is_read_in_its_place(pieces: list[bytes], events: list[Event]) -> None:
    assert read(*pieces) == events


def test_w07_the_limit_holds_for_a_message_alone_too_and_for_each_anew() -> None:
    assert read(frame(BINARY, b"x" * 100), limit=100) == [Message(BINARY, b"x" * 100)]
    assert read(frame(BINARY, b"x" * 101), limit=100) == [Broken(1009)]
    half = frame(BINARY, b"x" * 50, fin=False) + frame(0, b"x" * 50)
    assert read(half * 3, limit=100) == [Message(BINARY, b"x" * 100)] * 3


def test_w07_a_long_message_may_have_a_fragment_for_each_256_bytes() -> None:
    pieces = frame(BINARY, fin=False) + frame(0, fin=False) * 4998
    assert read(pieces + frame(0, b"x"), limit=256 * 5000) == [Message(BINARY, b"x")]
    assert read(pieces + frame(0, fin=False) * 2, limit=256 * 5000) == [Broken(1009)]


def test_two_messages_survive_a_cut_at_every_byte() -> None:
    wire = frame(TEXT, b"abc") + frame(BINARY, b"x" * 200) + frame(PING)
    for cut in range(len(wire)):
        assert read(wire[:cut], wire[cut:]) == [Message(TEXT, b"abc"), Message(BINARY, b"x" * 200), Message(PING, b"")]


def test_a_close_without_a_code_has_no_payload() -> None:
    assert close_payload(None, "") == b""
