"""What a WebSocket peer may send, well or ill, numbered as Autobahn's test suite numbers its classes.

Each case is one connection. Classes 1 to 7 and 10 are all here; class 9 has the one bound that matters to a relay.
Compression (12, 13) is never agreed on upstream, so that its bit is one of class 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.autobahn_case import (
    BINARY,
    BY_FRAME,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Case,
    Frame,
    cut,
    delivered,
    fragments,
    octets,
)

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009

LIMIT = 1024 * 1024
"""Bytes; the bound on a message that class 9 is about."""


def framing() -> Iterator[Case]:
    """Class 1: a message of each length at which the header changes."""
    for number, opcode in ((1, TEXT), (2, BINARY)):
        fill = b"*" if opcode == TEXT else b"\xfe"
        lengths = [(size, BY_FRAME) for size in (0, 125, 126, 127, 128, 65535, 65536)] + [(65536, 997), (300, 1)]
        for index, (size, chop) in enumerate(lengths, 1):
            payload = fill * size
            yield Case(
                id=f"1.{number}.{index}",
                text=f"{'text' if opcode == TEXT else 'binary'} of {size} bytes" + f", {chop} at a time" * bool(chop),
                frames=(Frame(opcode, payload),),
                messages=(delivered(opcode, payload),),
                chop=chop,
            )


def pings() -> Iterator[Case]:
    """Class 2: a ping is answered with its own payload, and a pong with nothing."""
    every = bytes(range(125))
    ten = tuple(b"ping %d" % i for i in range(10))
    for number, text, payload in [
        ("2.1", "a ping without a payload", b""),
        ("2.2", "a ping with text", b"are you there"),
        ("2.3", "a ping with bytes that are no text", b"\x00\xff\xfe\xfd\xfc\x00\xff"),
        ("2.4", "a ping with 125 bytes", every),
    ]:
        yield Case(id=number, text=text, frames=(Frame(PING, payload),), pongs=(payload,))
    too_long = (Frame(PING, b"x" * 126), Frame(TEXT, b"after"))
    yield Case(id="2.5", text="a ping with 126 bytes", frames=too_long, fault=PROTOCOL_ERROR)
    yield Case(id="2.6", text="a ping, byte by byte", frames=(Frame(PING, every),), pongs=(every,), chop=1)
    yield Case(id="2.7", text="a pong that nobody asked for", frames=(Frame(PONG),))
    yield Case(id="2.8", text="such a pong with a payload", frames=(Frame(PONG, b"unasked"),))
    both = (Frame(PONG, b"unasked"), Frame(PING, b"asked"))
    yield Case(id="2.9", text="such a pong, then a ping", frames=both, pongs=(b"asked",))
    many = tuple(Frame(PING, payload) for payload in ten)
    yield Case(id="2.10", text="ten pings", frames=many, pongs=ten)
    yield Case(id="2.11", text="ten pings, byte by byte", frames=many, pongs=ten, chop=1)
    yield Case(id="2.12", text="ten pings in one write", frames=many, pongs=ten, chop=1000)
    long_pong = (Frame(PONG, b"x" * 126), Frame(TEXT, b"after"))
    yield Case(id="2.13", text="a pong with 126 bytes", frames=long_pong, fault=PROTOCOL_ERROR)


def reserved_bits() -> Iterator[Case]:
    """Class 3: no extension was agreed on, so no reserved bit may be set on any frame."""
    for index, (opcode, payload) in enumerate(
        [(TEXT, b"bits"), (BINARY, b"bits"), (PING, b"bits"), (PONG, b"bits"), (CLOSE, b"\x03\xe8"), (TEXT, b"")], 1
    ):
        for rsv in range(1, 8):
            yield Case(
                id=f"3.{index}.{rsv}",
                text=f"opcode {opcode} with {len(payload)} bytes and reserved bits {rsv:03b}, after a good message",
                frames=(Frame(TEXT, b"before"), Frame(opcode, payload, rsv=rsv), Frame(PING), Frame(TEXT, b"after")),
                messages=("before",),
                fault=PROTOCOL_ERROR,
                chop=1 if rsv == 4 else BY_FRAME,
            )
    late = (Frame(TEXT, b"be", fin=False), Frame(CONTINUATION, b"fore", rsv=4))
    yield Case(id="3.7.1", text="a reserved bit on a continuation", frames=late, fault=PROTOCOL_ERROR)


def reserved_opcodes() -> Iterator[Case]:
    """Class 4: opcodes that mean nothing yet."""
    for group, opcodes in ((1, range(3, 8)), (2, range(11, 16))):
        for index, opcode in enumerate(opcodes, 1):
            for part, payload in ((1, b""), (2, b"reserved")):
                yield Case(
                    id=f"4.{group}.{index}.{part}",
                    text=f"opcode {opcode} with {len(payload)} bytes, after a good message",
                    frames=(Frame(TEXT, b"before"), Frame(opcode, payload), Frame(PING), Frame(TEXT, b"after")),
                    messages=("before",),
                    fault=PROTOCOL_ERROR,
                    chop=1 if index == 4 else BY_FRAME,
                )


def _ping_between(opcode: int) -> tuple[Frame, ...]:
    first, last = fragments(opcode, b"one ", b"message")
    return (first, Frame(PING, b"between"), last)


def fragmentation() -> Iterator[Case]:
    """Class 5: messages in several frames, with control frames between them and with parts that do not fit."""
    for index, opcode in ((1, PING), (2, PONG)):
        frames = (*fragments(opcode, b"one ", b"control frame"), Frame(TEXT, b"after"))
        yield Case(id=f"5.{index}", text=f"opcode {opcode} in two frames", frames=frames, fault=PROTOCOL_ERROR)
    number = 3
    for frames, pongs, text in [
        (fragments(TEXT, b"one ", b"message"), (), "a text in two frames"),
        (_ping_between(TEXT), (b"between",), "a ping between a text's two frames"),
    ]:
        for chop in (BY_FRAME, 1000, 1):
            way = {BY_FRAME: "frame by frame", 1000: "in one write", 1: "byte by byte"}[chop]
            yield Case(
                id=f"5.{number}",
                text=f"{text}, {way}",
                frames=frames,
                messages=("one message",),
                pongs=pongs,
                chop=chop,
            )
            number += 1
    for fin in (True, False):
        for chop in (BY_FRAME, 1000, 1):
            yield Case(
                id=f"5.{number}",
                text=f"a {'last' if fin else 'middle'} part of no message, then a text",
                frames=(Frame(CONTINUATION, b"lost", fin), Frame(TEXT, b"after")),
                fault=PROTOCOL_ERROR,
                chop=chop,
            )
            number += 1
    whole = fragments(TEXT, b"one ", b"message")
    yield Case(
        id="5.15",
        text="a good text in two frames, a middle part of no message, then a text",
        frames=(*whole, Frame(CONTINUATION, b"lost", fin=False), Frame(TEXT, b"after")),
        messages=("one message",),
        fault=PROTOCOL_ERROR,
    )
    for index, fin in ((16, False), (17, True)):
        one = (Frame(CONTINUATION, b"lost", fin), Frame(TEXT, b"one ", fin=False), Frame(CONTINUATION, b"message"))
        yield Case(
            id=f"5.{index}", text="a part of no message before a good text, twice", frames=one * 2, fault=PROTOCOL_ERROR
        )
    for index, (first, second) in enumerate([(TEXT, TEXT), (TEXT, BINARY), (BINARY, TEXT), (BINARY, BINARY)], 1):
        yield Case(
            id=f"5.18.{index}",
            text=f"a message of opcode {second} begins while one of opcode {first} is under way",
            frames=(Frame(first, b"one", fin=False), Frame(second, b"two"), Frame(CONTINUATION, b"three")),
            fault=PROTOCOL_ERROR,
        )
    parts = fragments(TEXT, b"one ", b"message ", b"in ", b"five ", b"parts")
    mixed = (*parts[:2], Frame(PING, b"first"), *parts[2:4], Frame(PING, b"second"), Frame(PONG, b"unasked"), parts[4])
    for index, chop in ((19, BY_FRAME), (20, 1)):
        yield Case(
            id=f"5.{index}",
            text="five parts with two pings and a pong between them",
            frames=mixed,
            messages=("one message in five parts",),
            pongs=(b"first", b"second"),
            chop=chop,
        )
    yield Case(
        id="5.21",
        text="binary, then text, each in parts of which some are empty",
        frames=(*fragments(BINARY, b"", b"\xff", b"", b"\x00", b""), *fragments(TEXT, b"", b"", b"x")),
        messages=(b"\xff\x00", "x"),
    )


SCRIPTS = "Grüße, мир, 世界, ☃ und 🎈".encode()
WORD = "ßa日🎈".encode()  # ten bytes: a character of each width
LONE = b"\xed\xa0\x80"  # a surrogate, which UTF-8 does not encode (RFC 3629 §3)
BEYOND = b"\xf4\x90\x80\x80"  # one more than the last character


def utf8() -> Iterator[Case]:
    """Class 6: a text is UTF-8 as a whole, wherever its frames are cut."""
    yield from _texts_in_parts()
    yield from _broken_texts_in_parts()
    for ends in range(1, len(WORD) + 1):
        part = WORD[:ends]
        good = ends in (2, 3, 6, 10)
        yield _sequence(f"6.6.{ends}", f"the first {ends} bytes of a word", part, good=good)
    for group, text, good, sequences in SEQUENCES:
        for index, sequence in enumerate(sequences.split(","), 1):
            payload = bytes.fromhex(sequence)
            name = f"{text}: {payload[:8].hex(' ')}"
            yield _sequence(f"6.{group}.{index}", name, payload, good=good)


def _sequence(number: str, text: str, payload: bytes, *, good: bool) -> Case:
    if good:
        return Case(id=number, text=text, frames=(Frame(TEXT, payload),), messages=(payload.decode(),))
    return Case(id=number, text=text, frames=(Frame(TEXT, payload), Frame(TEXT, b"after")), fault=INVALID_DATA)


def _texts_in_parts() -> Iterator[Case]:
    both = SCRIPTS.decode()
    for number, text, parts in [
        ("6.1.1", "an empty text", [b""]),
        ("6.1.2", "an empty text in three parts", [b"", b"", b""]),
        ("6.1.3", "a text between two empty parts", [b"", b"middle", b""]),
        ("6.2.1", "a text in many scripts", [SCRIPTS]),
        ("6.2.2", "cut between two characters", [SCRIPTS[:7], SCRIPTS[7:]]),
        ("6.2.3", "each byte a frame", octets(SCRIPTS)),
        ("6.2.4", "one word, each byte a frame", octets(WORD)),
    ]:
        whole = b"".join(parts).decode()
        yield Case(id=number, text=text, frames=fragments(TEXT, *parts), messages=(whole,))
    yield Case(id="6.2.5", text="byte by byte", frames=(Frame(TEXT, SCRIPTS),), messages=(both,), chop=1)
    widths = [
        character.encode() for character in ("\x7f", "\x80", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff")
    ]
    for index, character in enumerate(widths, 1):
        for at in range(1, len(character)):
            parts = [b"<" + character[:at], character[at:] + b">"]
            yield Case(
                id=f"6.5.{index}.{at}",
                text=f"a character of {len(character)} bytes cut after {at}",
                frames=(parts_ := fragments(TEXT, *parts))[:1] + (Frame(PING, b"in between"),) + parts_[1:],
                messages=(b"".join(parts).decode(),),
                pongs=(b"in between",),
            )


def _broken_texts_in_parts() -> Iterator[Case]:
    broken = WORD + LONE + b"edited"
    above = WORD + BEYOND + b"edited"
    after = Frame(TEXT, b"after")
    for number, text, frames, chop in [
        ("6.3.1", "a surrogate in a text", fragments(TEXT, broken), BY_FRAME),
        ("6.3.2", "the same, each byte a frame", fragments(TEXT, *octets(broken)), BY_FRAME),
        (
            "6.4.1",
            "beyond the last character, in the second part",
            fragments(TEXT, WORD, BEYOND, b"x"),
            BY_FRAME,
        ),
        ("6.4.2", "the same, cut within it", fragments(TEXT, above[:12], above[12:13], above[13:]), BY_FRAME),
        ("6.4.3", "beyond the last character, in three writes", fragments(TEXT, above), 9),
        ("6.4.4", "the same, byte by byte", fragments(TEXT, above), 1),
        ("6.4.5", "half a character at the end of the last part", fragments(TEXT, WORD, WORD[:1]), BY_FRAME),
        ("6.4.6", "half a character, then an empty last part", fragments(TEXT, WORD[:1], b""), BY_FRAME),
        ("6.4.7", "the second half of one begun in another text", fragments(TEXT, WORD[1:]), BY_FRAME),
    ]:
        yield Case(id=number, text=text, frames=(*frames, after), fault=INVALID_DATA, chop=chop)


# What UTF-8 may hold and what not (RFC 3629 §3, §4; the same ground as Markus Kuhn's stress test): section of class 6,
# what it is, whether it is good, the sequences.
_MISSING_LAST = "c0,e080,f08080,f8808080,fc80808080,df,efbf,f7bfbf,fbbfbfbf,fdbfbfbfbf"
_NONCHARACTERS = ",".join(chr(plane << 16 | low).encode().hex() for plane in range(17) for low in (0xFFFE, 0xFFFF))
SEQUENCES = [
    (7, "the first of each length", True, "00,c280,e0a080,f0908080"),
    (8, "the first of five and six bytes", False, "f888808080,fc8480808080"),
    (9, "the last of each length", True, "7f,dfbf,efbfbf,f48fbfbf"),
    (10, "the last that the bits of each length could hold", False, "f7bfbfbf,fbbfbfbfbf,fdbfbfbfbfbf"),
    (11, "next to a gap", True, "ed9fbf,ee8080,efbfbd,f48fbfbf"),
    (12, "beyond the last character", False, "f4908080,f5808080"),
    (13, "continuations of nothing", False, "80,bf,80bf,80bf80,80bf80bf,80bf80bf80,80bf80bf80bf"),
    (14, "every continuation", False, bytes(range(0x80, 0xC0)).hex()),
    (
        15,
        "starts without a continuation",
        False,
        ",".join(
            b" ".join(octets(bytes(range(first, last + 1)))).hex() + "20"
            for first, last in ((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD))
        ),
    ),
    (16, "the last byte is missing", False, _MISSING_LAST),
    (17, "all of these in a row", False, _MISSING_LAST.replace(",", "")),
    (18, "bytes that never occur", False, "fe,ff,fefeffff"),
    (19, "a slash, too long", False, "c0af,e080af,f08080af,f8808080af,fc80808080af"),
    (20, "the last that is too long", False, "c1bf,e09fbf,f08fbfbf,f887bfbfbf,fc83bfbfbfbf"),
    (21, "NUL, too long", False, "c080,e08080,f0808080,f880808080,fc8080808080"),
    (22, "one surrogate", False, "eda080,edadbf,edae80,edafbf,edb080,edbe80,edbfbf"),
    (
        23,
        "two surrogates",
        False,
        ",".join(high + low for high in ("eda080", "edadbf", "edae80", "edafbf") for low in ("edb080", "edbfbf")),
    ),
    (24, "a noncharacter, which is good UTF-8", True, _NONCHARACTERS),
    (25, "a noncharacter of the block in the middle", True, "efb790,efb7af"),
    (26, "a special character", True, "efbfb9,efbfba,efbfbb,efbfbc,efbfbd"),
    (27, "a byte order mark", True, "efbbbf,efbbbf78,78efbbbf"),
]


def closing() -> Iterator[Case]:
    """Class 7: what may be in a close frame, and that nothing comes after it."""
    yield from _after_the_close()
    longest = "é" * 61 + "x"
    for number, text, payload in [
        ("7.3.1", "nothing in it", b""),
        ("7.3.3", "a code", b"\x03\xe8"),
        ("7.3.4", "a code and a reason", b"\x03\xe8done"),
        ("7.3.5", "the longest reason", b"\x03\xe8" + longest.encode()),
    ]:
        yield Case(id=number, text=text, frames=(Frame(CLOSE, payload),), close=payload)
    for number, text, payload, fault in [
        ("7.3.2", "half a code", b"\x03", PROTOCOL_ERROR),
        ("7.3.6", "a reason that is too long", b"\x03\xe8" + b"x" * 124, PROTOCOL_ERROR),
        ("7.5.1", "a reason with a surrogate", b"\x03\xe8" + WORD + LONE, INVALID_DATA),
        ("7.5.2", "a reason cut within a character", b"\x03\xe8" + WORD[:-1], INVALID_DATA),
    ]:
        yield Case(id=number, text=text, frames=(Frame(CLOSE, payload), Frame(PING)), fault=fault)
    for index, code in enumerate(GOOD_CODES, 1):
        for part, reason in ((1, b""), (2, b"because")):
            payload = code.to_bytes(2) + reason
            text = f"{code}{' and a reason' * bool(reason)}"
            yield Case(id=f"7.7.{index}.{part}", text=text, frames=(Frame(CLOSE, payload),), close=payload)
    for index, code in enumerate(BAD_CODES, 1):
        payload = code.to_bytes(2) + b"because"
        frames = (Frame(CLOSE, payload), Frame(PING))
        yield Case(id=f"7.9.{index}", text=f"{code}, which may not be sent", frames=frames, fault=PROTOCOL_ERROR)
    split = fragments(CLOSE, b"\x03\xe8", b"done")
    yield Case(id="7.10.1", text="a close frame in two parts", frames=split, fault=PROTOCOL_ERROR)


# §7.4 and the IANA registry of close codes
GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
BAD_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32768, 65535)


def _after_the_close() -> Iterator[Case]:
    end = Frame(CLOSE, b"\x03\xe8bye")
    big = Frame(BINARY, b"\xfe" * 262_144)
    first, last = fragments(TEXT, b"one ", b"message")
    before = (Frame(TEXT, b"before"), end)
    yield Case(id="7.1.1", text="a message, then a close frame", frames=before, messages=("before",), close=end.payload)
    for number, text, frames in [
        ("7.1.2", "two close frames", (end, Frame(CLOSE, b"\x03\xe9again"))),
        ("7.1.3", "a ping after the close frame", (end, Frame(PING, b"late"))),
        ("7.1.4", "a message after the close frame", (end, Frame(TEXT, b"late"))),
        ("7.1.5", "a close frame between a message's two parts", (first, end, last)),
        ("7.1.7", "a large message after the close frame", (end, big)),
        ("7.1.8", "a bad frame after the close frame", (end, Frame(TEXT, b"\xff", rsv=7))),
    ]:
        yield Case(id=number, text=text, frames=frames, close=end.payload)
    late = (big, end, Frame(PING))
    yield Case(id="7.1.6", text="a large one, and a late ping", frames=late, messages=(big.payload,), close=end.payload)
    frames = (Frame(PING), end)
    yield Case(id="7.1.9", text="a ping, then a close frame", frames=frames, pongs=(b"",), close=end.payload)


def over_limit() -> Iterator[Case]:
    """Class 9: messages as long as the bound, and longer by one byte."""
    half, euros = LIMIT // 2, "€".encode() * (LIMIT // 3)
    pad = b"x" * (LIMIT - len(euros))
    for index, (text, parts, opcode) in enumerate(
        [
            ("binary", [b"\xfe" * LIMIT], BINARY),
            ("text", [b"*" * LIMIT], TEXT),
            ("text of wide characters", [euros + pad], TEXT),
            ("binary in two parts", [b"\xfe" * half] * 2, BINARY),
            ("text in parts of 64 KiB", [b"*" * 65536] * (LIMIT // 65536), TEXT),
        ],
        1,
    ):
        messages = (delivered(opcode, b"".join(parts)),)
        frames = fragments(opcode, *parts)
        yield Case(id=f"9.1.{index}", text=f"{text}, as long as may be", frames=frames, messages=messages)
        longer = fragments(opcode, *parts[:-1], parts[-1] + b"x")
        over = (Frame(TEXT, b"before"), *longer, Frame(TEXT, b"after"))
        text = f"{text}, one byte too long"
        yield Case(id=f"9.2.{index}", text=text, frames=over, messages=("before",), fault=TOO_BIG)


def large() -> Iterator[Case]:
    """Class 10: a sender that cuts a large message into many frames."""
    for index, (size, part) in enumerate([(65536, 1300), (65536, 65535), (200_000, 4096), (2000, 1)], 1):
        for kind, opcode, payload in ((1, TEXT, b"*" * size), (2, BINARY, bytes(range(250)) * (size // 250))):
            yield Case(
                id=f"10.{kind}.{index}",
                text=f"{len(payload)} bytes in parts of {part}",
                frames=fragments(opcode, *cut(payload, part)),
                messages=(delivered(opcode, payload),),
                chop=BY_FRAME if part > 1 else 1000,
            )


CLASSES = (framing, pings, reserved_bits, reserved_opcodes, fragmentation, utf8, closing, over_limit, large)
CASES = [case for group in CLASSES for case in group()]
"""All of them, in order."""
