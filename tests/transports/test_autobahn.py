"""Every case of `tests.autobahn` through the relay: from an odd dev server, and from an odd browser.

What comes of a good case is compared with a connection that has no proxy in it.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import NamedTuple

import anyio
import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin

from preview_proxy import Limits, Policy
from preview_proxy.testing import DevServer, WebSocket
from tests.autobahn import CASES, LIMIT, TOO_BIG
from tests.autobahn_case import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Case, Frame, decode, delivered
from tests.servers import WEBSOCKET_SERVERS
from tests.world import World, world

pytestmark = pytest.mark.anyio

MASK = b"\x37\xfa\x21\x3d"
DONE = b"\x03\xe8"
DISPUTED = {"7.1.5", "7.7.12.1", "7.7.12.2"}
"""A close frame between the parts of a message, a fault to websockets; the close code 1014, one to wsproto; and a ping
that `DevServer` reads together with a close frame, and then cannot answer."""

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)

agreed_case = pytest.mark.parametrize(
    "case", [case for case in CASES if case.fault != TOO_BIG and case.id not in DISPUTED], ids=lambda case: case.id
)
once = pytest.mark.parametrize("w", ["websockets-sansio"], indirect=True)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["websockets-sansio", "wsproto", "httpx"])
async def w(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[World]:
    """Two of uvicorn's WebSocket protocols over our own pool, and httpx's transport in the pool's place."""
    policy = Policy(limits=Limits(message_bytes=LIMIT, handshakes_per_minute=1_000_000))
    if request.param == "httpx":
        async with world(policy=policy, transport=httpx.AsyncHTTPTransport(trust_env=False)) as made:
            yield made
    else:
        async with world(policy=policy, serve=WEBSOCKET_SERVERS[request.param]) as made:
            yield made


class Heard(NamedTuple):
    """What one end was told: whole messages, pongs, and the close frame's payload, None where none came."""

    messages: tuple[str | bytes, ...]
    pongs: tuple[bytes, ...]
    close: bytes | None


def heard(frames: list[Frame]) -> Heard:
    """The meaning of what a well-behaved peer sent: nothing may follow its close frame."""
    messages: list[str | bytes] = []
    parts: list[bytes] = []
    pongs: list[bytes] = []
    closes: list[bytes] = []
    opcode = 0
    for frame in frames:
        assert not closes, frames
        assert not frame.rsv
        if frame.opcode == PONG:
            pongs.append(frame.payload)
        elif frame.opcode == CLOSE:
            closes.append(frame.payload)
        elif frame.opcode != PING:
            assert (frame.opcode == CONTINUATION) == bool(opcode)
            opcode = opcode or frame.opcode
            parts.append(frame.payload)
            if frame.fin:
                messages.append(delivered(opcode, b"".join(parts)))
                parts, opcode = [], 0
    return Heard(tuple(messages), tuple(pongs), closes[0] if closes else None)


def code_of(heard: Heard) -> int | None:
    return None if heard.close is None else int.from_bytes(heard.close[:2])


async def upstream_heard(dev: DevServer, socket: WebSocket) -> Heard:
    """All that reached the dev server, once the connection has ended."""
    connection = dev.connections[socket.handshake.connection]
    await dev.wait_for(lambda _: not connection.is_open)
    return heard(decode(bytes(connection.raw).partition(b"\r\n\r\n")[2]))


# --- an odd dev server ---------------------------------------------------------------------------------------------


async def from_upstream(w: World, case: Case, *, direct: bool = False, mask: bytes = b"") -> tuple[Heard, Heard]:
    """What the browser heard, and what the dev server heard back, when the dev server sends the frames of `case`."""

    @w.dev.websocket("/case")
    async def says(socket: WebSocket) -> None:
        await socket.accept()
        for piece in case.pieces(mask):
            await socket.raw(piece)
            await asyncio.sleep(0)  # others may read each piece by itself
        if case.close is None and case.fault is None:
            await socket.raw(Frame(CLOSE, DONE).encode())
        await socket.receive()

    port = w.dev.port if direct else w.port
    messages: list[str | bytes] = []
    async with connect(
        f"ws://{w.host}/case",
        host="127.0.0.1",
        port=port,
        origin=Origin(w.origin),
        additional_headers={"Cookie": f"pp-development={w.gate}"},
        compression=None,
        max_size=None,
        proxy=None,
    ) as socket:
        with pytest.raises(ConnectionClosed) as end:
            while True:
                messages.append(await socket.recv())
    close = end.value.rcvd
    payload = None if close is None else close.serialize() if close.code != 1005 else b""
    return Heard(tuple(messages), (), payload), await upstream_heard(w.dev, w.dev.websockets[-1])


@every_case
async def test_the_browser_hears_what_upstream_says(w: World, case: Case) -> None:
    with anyio.fail_after(5):
        browser, upstream = await from_upstream(w, case)
    assert browser.messages == case.messages
    assert upstream.messages == ()
    assert upstream.pongs == case.pongs
    if case.fault is None:
        assert upstream.close == case.closes_with
        assert browser.close == (case.closes_with or DONE)  # ASGI cannot close without a code
    else:
        assert upstream.close == case.fault.to_bytes(2)
        assert browser.close == (1009 if case.fault == TOO_BIG else 1011).to_bytes(2)


@once
@agreed_case
async def test_another_client_without_a_proxy_hears_the_same(w: World, case: Case) -> None:
    with anyio.fail_after(5):
        browser, upstream = await from_upstream(w, case, direct=True)
    assert browser.messages == case.messages
    if case.fault is None:
        assert upstream == Heard((), case.pongs, case.closes_with)
        assert browser.close == case.closes_with
    else:
        assert browser.close is None
        assert code_of(upstream) == case.fault


async def test_a_masked_frame_from_upstream_is_a_fault(w: World) -> None:
    case = Case(id="mask", text="a masked frame", frames=(Frame(TEXT, b"hidden"), Frame(TEXT, b"after")), fault=1002)
    with anyio.fail_after(5):
        browser, upstream = await from_upstream(w, case, mask=MASK)
    assert browser == Heard((), (), (1011).to_bytes(2))
    assert upstream == Heard((), (), (1002).to_bytes(2))


@pytest.mark.parametrize("close", [b"\x0b\xb9upstream", b""])
async def test_when_both_ends_close_at_once_each_hears_one_close_frame(w: World, close: bytes) -> None:
    @w.dev.websocket("/both")
    async def both(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive()
        await socket.raw(Frame(CLOSE, close).encode())
        await socket.receive()

    with anyio.fail_after(5):
        browser = await browse(w, "/both")
        try:
            await browser.send(Frame(TEXT, b"now").encode(MASK) + Frame(CLOSE, b"\x0b\xbabrowser").encode(MASK))
            told = await browser.listen(lambda told: told.close is not None)
        finally:
            browser.leave()
        upstream = await upstream_heard(w.dev, w.dev.websockets[-1])
    assert upstream.messages == ("now",)
    assert upstream.close in (close, b"\x0b\xbabrowser")
    assert told.close in (close or DONE, b"\x0b\xbabrowser")


# --- an odd browser ------------------------------------------------------------------------------------------------


class Browser:
    """The client's end of a WebSocket, which sends any bytes and keeps what it hears."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._wire = b""

    async def send(self, piece: bytes) -> None:
        with suppress(ConnectionError):  # the other end may have had enough
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)  # others may read each piece by itself

    async def listen(self, enough: Callable[[Heard], bool]) -> Heard:
        """What was heard so far, once it is enough or nothing more can come."""
        while not enough(told := heard(decode(self._wire))):
            try:
                data = await self._reader.read(LIMIT)
            except ConnectionError:
                data = b""
            if not data:
                break
            self._wire += data
        return told

    def leave(self) -> None:
        self._writer.close()


async def browse(w: World, path: str, *, direct: bool = False) -> Browser:
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Origin": w.origin,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": b64encode(bytes(16)).decode(),
    }

    reader, writer = await asyncio.open_connection("127.0.0.1", w.dev.port if direct else w.port, limit=4 * LIMIT)
    writer.write(w.request(path, headers=fields))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return Browser(reader, writer)


async def from_browser(w: World, case: Case, *, direct: bool = False, mask: bytes = MASK) -> tuple[WebSocket, Heard]:
    """The dev server's end, and what the browser heard, when the browser sends the frames of `case` to an echo."""

    @w.dev.websocket("/echo")
    async def echoes(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            message = await socket.receive()
            frame = Frame(TEXT, message.encode()) if isinstance(message, str) else Frame(BINARY, message)
            await socket.raw(frame.encode())

    browser = await browse(w, "/echo", direct=direct)
    try:
        socket = w.dev.websockets[-1]
        for piece in case.pieces(mask):
            await browser.send(piece)
        if case.close is None and case.fault is None:
            await browser.listen(lambda told: (told.messages, told.pongs) == (case.messages, case.pongs))
            await browser.send(Frame(CLOSE, DONE).encode(mask))
        told = await browser.listen(lambda told: told.close is not None)
    finally:
        browser.leave()
    await w.dev.wait_for(lambda _: socket.close_code is not None)
    return socket, told


@every_case
async def test_upstream_hears_what_the_browser_says(w: World, case: Case) -> None:
    with anyio.fail_after(5):
        socket, browser = await from_browser(w, case)
        upstream = await upstream_heard(w.dev, socket)
    if case.fault is not None or (case.id in DISPUTED and code_of(upstream) == 1002):
        # a server may drop a good message that came in one piece with the fault
        assert upstream.messages == case.messages[: len(upstream.messages)]
        assert code_of(upstream) == (case.fault or 1002)
        return
    assert upstream == Heard(case.messages, (), case.closes_with or DONE)  # ASGI cannot close without a code
    if case.close is None:
        assert browser == Heard(case.messages, case.pongs, DONE)


@once
@agreed_case
async def test_another_server_without_a_proxy_hears_the_same(w: World, case: Case) -> None:
    with anyio.fail_after(5):
        socket, browser = await from_browser(w, case, direct=True)
    assert socket.messages == list(case.messages)
    if case.fault is not None:
        assert socket.close_code == case.fault
    elif case.close is None:
        assert browser == Heard(case.messages, case.pongs, DONE)
    else:
        assert browser.close == case.close


async def test_a_frame_from_the_browser_without_a_mask_is_a_fault(w: World) -> None:
    case = Case(id="mask", text="no mask", frames=(Frame(TEXT, b"plain"), Frame(TEXT, b"after")), fault=1002)
    with anyio.fail_after(5):
        socket, _ = await from_browser(w, case, mask=b"")
        upstream = await upstream_heard(w.dev, socket)
    assert upstream.messages == ()
    assert code_of(upstream) == 1002
