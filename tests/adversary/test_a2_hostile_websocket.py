"""A2, a hostile upstream: on WebSockets: wrong handshakes, floods, and peers that never read or never close."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wsproto.utilities import generate_accept_token

from preview_proxy import Limits
from preview_proxy.testing import WebSocket
from tests.transports.test_relay_websocket import closed, dial
from tests.world import World

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
LIMITS = Limits(head_timeout=1.0, write_timeout=1.0, message_bytes=64 * 1024)


async def is_well(w: World, *, unread: bool = False) -> None:
    """The worker serves the next request, and nothing of the last socket is left.

    A dev server that leaves much `unread` does not see the end of a connection.
    """
    with anyio.fail_after(10):
        while (await w.pull("census"))["relays"]:
            pass
        if not unread:
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)
    assert (await w.get("/echo")).status == 200


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
ACCEPT = b"Sec-WebSocket-Accept: %b\r\n"
HANDSHAKES = {
    "a wrong accept": SWITCH + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    "no accept": SWITCH + b"\r\n",
    "two accepts": SWITCH + ACCEPT * 2 + b"\r\n",
    "no upgrade": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + ACCEPT + b"\r\n",
    "another upgrade": SWITCH.replace(b"websocket", b"h2c") + ACCEPT + b"\r\n",
    "no connection": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n" + ACCEPT + b"\r\n",
    "an extension": SWITCH + ACCEPT + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    "a subprotocol": SWITCH + ACCEPT + b"Sec-WebSocket-Protocol: canary\r\n\r\n",
    "text": b"Unauthorized",
    "nothing": b"",
    "33 informational": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33 + SWITCH + ACCEPT + b"\r\n",
    "an endless head": SWITCH + b"X-Own: " + b"canary" * 100_000,
    "a header with a control character": SWITCH + ACCEPT + b"X-Own: \x01canary\r\n\r\n",
}


@pytest.mark.parametrize("wire", HANDSHAKES.values(), ids=HANDSHAKES.keys())
async def test_w03_w05_w06_a_wrong_handshake_is_502_before_anything_is_accepted(w: World, wire: bytes) -> None:
    @w.dev.websocket("/hostile")
    async def hostile(socket: WebSocket) -> None:
        key = socket.handshake.values(b"sec-websocket-key")[0]
        await socket.raw(wire.replace(b"%b", generate_accept_token(key)))

    with pytest.raises(InvalidStatus) as refusal:
        async with dial(w, "/hostile"):
            pass
    assert refusal.value.response.status_code == 502
    assert b"canary" not in (refusal.value.response.body or b"")
    await is_well(w)


async def test_w06_a_handshake_that_does_not_come_is_504(w: World) -> None:
    @w.dev.websocket("/hostile")
    async def hostile(socket: WebSocket) -> None:
        await socket.raw(SWITCH)
        await anyio.sleep_forever()

    with pytest.raises(InvalidStatus) as refusal:
        async with dial(w, "/hostile"):
            pass
    assert refusal.value.response.status_code == 504
    await is_well(w)


FRAMES = {
    "reserved bits": (b"\xf1\x00", 1011),
    "one reserved bit": (b"\xc1\x00", 1011),
    "a reserved opcode": (b"\x83\x00", 1011),
    "a reserved control": (b"\x8b\x00", 1011),
    "masked": (b"\x81\x80\x00\x00\x00\x00", 1011),
    "not UTF-8": (b"\x81\x02\xff\xfe", 1011),
    "not UTF-8 in the end": (b"\x01\x01\xc3\x80\x01x", 1011),
    "continues nothing": (b"\x00\x01x", 1011),
    "begins twice": (b"\x01\x01x\x01\x01x", 1011),
    "a control in pieces": (b"\x09\x00", 1011),
    "a long control": (b"\x89\x7e\x00\x7e" + b"x" * 126, 1011),
    "a length that is too long written": (b"\x81\x7e\x00\x01x", 1011),
    "a negative length": (b"\x82\x7f" + b"\xff" * 8, 1011),
    "half a close code": (b"\x88\x01\x03", 1011),
    "a close reason that is not UTF-8": (b"\x88\x03\x03\xe8\xff", 1011),
    **{f"close {n}": (b"\x88\x02" + n.to_bytes(2), 1011) for n in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)},
    "a message that is too big": (b"\x82\x7f" + (64 * 1024 + 1).to_bytes(8), 1009),
    "30 MiB in one frame": (b"\x82\x7f" + (30 * MIB).to_bytes(8), 1009),
}  # fmt: skip


@pytest.mark.parametrize(("wire", "code"), FRAMES.values(), ids=FRAMES.keys())
async def test_w04_w07_w09_a_frame_that_breaks_a_rule_ends_the_socket(w: World, wire: bytes, code: int) -> None:
    @w.dev.websocket("/hostile")
    async def hostile(socket: WebSocket) -> None:
        await socket.accept()
        await socket.raw(wire)

    with anyio.fail_after(10):
        async with dial(w, "/hostile") as socket:
            assert (await closed(socket))[0] == code
    await is_well(w)


@pytest.mark.parametrize(
    "piece",
    [b"\x00\x7e\x10\x00" + bytes(4096), b"\x00\x00", b"\x00\x01x"],
    ids=["fragments", "empty fragments", "tiny fragments"],
)
async def test_w07_a_message_in_endless_pieces_is_cut_off(w: World, piece: bytes) -> None:
    """How much upstream could send of it: what the limit allows, and what the sockets between hold."""
    sent = 0

    @w.dev.websocket("/hostile")
    async def hostile(socket: WebSocket) -> None:
        nonlocal sent
        await socket.accept()
        await socket.raw(b"\x02\x00")
        while sent < 39 * MIB:
            await socket.raw(piece * 100)
            sent += len(piece * 100)

    with anyio.fail_after(10):
        async with dial(w, "/hostile") as socket:
            assert (await closed(socket))[0] == 1009
    await is_well(w)
    assert sent < 16 * MIB


async def test_w08_w12_a_flood_of_pings_whose_pongs_are_never_read_is_cut_off(w: World) -> None:
    """The dev server reads nothing, so that pongs would pile up."""
    sent = 0

    @w.dev.websocket("/hostile")
    async def hostile(socket: WebSocket) -> None:
        nonlocal sent
        await socket.accept()
        while sent < 200:
            await socket.raw((b"\x89\x7d" + b"x" * 125) * 100)
            sent += 1
        await anyio.sleep_forever()

    with anyio.fail_after(30):
        async with dial(w, "/hostile") as socket:
            assert (await closed(socket))[0] == 1008
    await is_well(w, unread=True)
    for connection in w.dev.connections:
        connection.abort()


async def test_w08_w13_an_upstream_that_never_reads_is_dropped(w: World) -> None:
    """What the visitor sends fills every buffer; after `write_timeout` both sides are over."""

    @w.dev.websocket("/hostile")
    async def hostile(socket: WebSocket) -> None:
        await socket.accept()
        await anyio.sleep_forever()

    with anyio.fail_after(20):
        async with dial(w, "/hostile", compression=None) as socket:
            with pytest.raises(ConnectionClosed):
                while True:
                    await socket.send(bytes(60_000))
        assert socket.close_code in (1006, 1011)
    await is_well(w, unread=True)
    for connection in w.dev.connections:
        connection.abort()


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_w08_w13_an_upstream_that_never_closes_is_not_waited_for(w: World, how: str) -> None:
    @w.dev.websocket("/hostile")
    async def hostile(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("here")
        await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with dial(w, "/hostile") as socket:
            await socket.recv()
            if how == "close":
                await socket.close(1000)
            else:
                socket.transport.abort()
    await is_well(w)


async def test_w08_a_flood_to_a_visitor_who_does_not_read_is_held_back(w: World) -> None:
    sent = 0

    @w.dev.websocket("/hostile")
    async def hostile(socket: WebSocket) -> None:
        nonlocal sent
        await socket.accept()
        with suppress(ConnectionError):
            while True:
                await socket.send_bytes(bytes(32 * 1024))
                sent += 32 * 1024
                w.dev.changes.notify()

    with anyio.fail_after(20):
        async with dial(w, "/hostile", compression=None, max_queue=1) as socket:
            with anyio.move_on_after(1.0):
                await w.dev.wait_for(lambda _: sent > 64 * MIB)
            assert 0 < sent < 64 * MIB
            socket.transport.abort()
    await is_well(w)


async def test_w09_what_comes_after_a_close_reaches_nobody(w: World) -> None:
    @w.dev.websocket("/hostile")
    async def hostile(socket: WebSocket) -> None:
        await socket.accept()
        await socket.raw(b"\x81\x02hi\x88\x02\x03\xe8\x81\x06canary\xff\xff")

    with anyio.fail_after(10):
        async with dial(w, "/hostile") as socket:
            assert await socket.recv() == "hi"
            assert (await closed(socket))[0] == 1000
    await is_well(w)
