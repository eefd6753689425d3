"""One connection, event by event: what the event loop reports of it, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from preview_proxy import Limits
from preview_proxy.errors import BadRequest
from preview_proxy.transports.connection import MAX_HEAD, MAX_INFORMATIONAL, MAX_OVERHEAD, Connection
from preview_proxy.transports.request import UpstreamRequest
from preview_proxy.transports.response import NEVER, PAUSE_AT, PooledResponse
from tests.transports.wires import Wire, asks
from tests.turns import turns

pytestmark = pytest.mark.anyio

LIMITS = Limits()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class Ours:
    """A connection, its wire, and what the pool is told of it."""

    def __init__(self) -> None:
        self.released: list[Connection] = []
        self.closed: list[Connection] = []
        loop = asyncio.get_running_loop()
        self.connection = Connection(loop, release=self.released.append, closed=self.closed.append)
        self.wire = Wire(self.connection)

    def send(self, request: UpstreamRequest) -> PooledResponse:
        response = PooledResponse(self.connection, request, LIMITS)
        self.connection.start(response, request.head())
        if request.outbound.has_body:
            chunked = request.outbound.content_length is None
            self.connection.upload(request.body, chunked=chunked, limits=LIMITS)
        return response


@pytest.fixture
async def ours() -> AsyncIterator[Ours]:
    made = Ours()
    yield made
    made.wire.abort()
    await asyncio.sleep(0)
    assert set(made.closed) == {made.connection}


class Body(httpx.AsyncByteStream):
    """A body that says what it is told to, and notes how it ended."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.is_over = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (part := await self.parts.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self.is_over = True


async def whole(response: PooledResponse) -> bytes:
    return b"".join([chunk async for chunk in response])


# --- the end of an answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [
        OK,
        CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    ],
    ids=["length", "chunked", "after an early hint"],
)
async def test_however_an_answer_arrives_it_is_whole_and_its_connection_serves_the_next(
    ours: Ours, wire: bytes
) -> None:
    for cut in range(len(wire)):
        response = ours.send(asks())
        ours.wire.say(wire[:cut])
        ours.wire.say(wire[cut:])
        assert (response.status_code, await whole(response), response.is_whole) == (200, b"ok", True)
        assert len(ours.released) == cut + 1
    assert ours.connection.is_open


@pytest.mark.parametrize("cut", [0, 20, len(OK) - 2, len(OK) - 1, len(OK)])
@pytest.mark.parametrize("more", [OK, CHUNKED + b"6\r\npoison\r\n0\r\n\r\n", b"\0", b"HTTP/1.1 2"])
async def test_p17_what_follows_an_answer_in_its_last_packet_reaches_nobody(ours: Ours, cut: int, more: bytes) -> None:
    response = ours.send(asks())
    ours.wire.say(OK[:cut])
    released = len(ours.released)
    ours.wire.say(OK[cut:] + more)
    assert await whole(response) == b"ok"
    assert response.raw_headers == [(b"content-length", b"2")]
    assert not response.trailers
    assert len(ours.released) == released
    assert not ours.connection.is_open
    assert ours.wire.is_closing()


async def test_p17_a_packet_that_nobody_asked_for_closes_the_connection(ours: Ours) -> None:
    ours.wire.say(OK)
    assert not ours.connection.is_open
    assert ours.wire.is_aborted


async def test_p17_an_upstream_that_closed_is_asked_nothing_more(ours: Ours) -> None:
    """Its end is reported in one turn of the event loop, and the connection lost only in the next."""
    ours.send(asks())
    ours.wire.say(OK)
    assert ours.connection.is_open
    ours.wire.end()
    assert not ours.connection.is_open


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_answer_without_a_length_ends_with_the_connection(ours: Ours, method: str) -> None:
    response = ours.send(asks(method))
    ours.wire.say(b"HTTP/1.0 200 OK\r\n\r\n")
    assert response.is_whole is (method == "HEAD")
    if method == "GET":
        ours.wire.say(b"all of it")
        ours.wire.end()
        assert await whole(response) == b"all of it"
    assert response.is_whole
    assert not ours.connection.is_open


@pytest.mark.parametrize("field", [b"Connection: close", b"Connection: keep-alive, Close"])
async def test_an_upstream_that_will_close_is_asked_nothing_more(ours: Ours, field: bytes) -> None:
    response = ours.send(asks())
    ours.wire.say(b"HTTP/1.1 200 OK\r\n" + field + b"\r\nContent-Length: 2\r\n\r\nok")
    assert await whole(response) == b"ok"
    assert not ours.released
    assert not ours.connection.is_open


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
@pytest.mark.parametrize("wire", [OK[:-1], CHUNKED + b"1\r\na\r\n", OK[:20], b""])
async def test_r13_an_answer_that_breaks_off_is_never_whole(ours: Ours, wire: bytes, error: Exception | None) -> None:
    response = ours.send(asks())
    ours.wire.say(wire)
    ours.wire.end()
    ours.wire.lose(error)
    assert not response.is_whole
    assert isinstance(response.failure, httpx.ReadError if error else httpx.RemoteProtocolError)


# --- what may not be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_INFORMATIONAL + 1),
        b"HTTP/1.1 200 OK\r\nX: " + MAX_HEAD * b"a",
        CHUNKED + b"1;" + MAX_OVERHEAD * b"a",
        b"\0",
    ],
    ids=["coding", "version", "upgrade to nothing", "informational", "endless head", "endless extension", "no HTTP"],
)
async def test_v12_what_breaks_the_rules_is_broken_off(ours: Ours, wire: bytes) -> None:
    response = ours.send(asks())
    ours.wire.say(wire)
    assert isinstance(response.failure, httpx.RemoteProtocolError)
    assert ours.wire.is_aborted
    assert not ours.released


async def test_informational_answers_go_to_who_asked_for_them(ours: Ours) -> None:
    asked = asks()
    told: list[int] = []
    asked.on_informational = lambda status, headers: told.append(status)
    response = ours.send(asked)
    ours.wire.say(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
    assert told == [102, 103]
    assert response.raw_headers == [(b"content-length", b"2")]


# --- time ----------------------------------------------------------------------------------------------------------


async def test_v01_a_silent_upstream_is_broken_off(ours: Ours) -> None:
    response = ours.send(asks())
    ours.connection.arm(1)
    assert ours.connection.deadline < NEVER
    ours.connection.expire()
    assert isinstance(response.failure, httpx.ReadTimeout)
    assert ours.connection.deadline == NEVER


async def test_v11_a_silent_visitor_is_the_one_who_is_told(ours: Ours) -> None:
    response = ours.send(asks("POST", body=Body()))
    await turns()
    ours.connection.expire()
    assert isinstance(response.failure, BadRequest)
    assert response.failure.code == "body_timeout"


@pytest.mark.parametrize(
    "head", [CHUNKED + b"%x\r\n" % (2 * PAUSE_AT), b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"]
)
async def test_v03_a_slow_reader_holds_upstream_back(ours: Ours, head: bytes) -> None:
    response = ours.send(asks())
    ours.wire.say(head % (2 * PAUSE_AT) if b"%" in head else head)
    for _ in range(2):
        assert ours.wire.is_reading()
        ours.wire.say(bytes(PAUSE_AT // 2 + 1))
    assert not ours.wire.is_reading()
    ours.wire.say(b"\0")  # it was on the way already
    assert await response.read_chunk() == bytes(PAUSE_AT + 3)
    assert ours.wire.is_reading()


# --- uploads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "framed"), [(5, b"hello"), (None, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")])
async def test_a_body_is_framed_as_it_was(ours: Ours, length: int | None, framed: bytes) -> None:
    body = Body()
    for part in (b"he", b"", b"llo", None):
        body.parts.put_nowait(part)
    response = ours.send(asks("POST", body=body, length=length))
    ours.wire.sent = b""
    await turns()
    assert ours.wire.sent == framed
    assert ours.connection.deadline < NEVER  # from here on the head is waited for
    ours.wire.say(OK)
    assert await whole(response) == b"ok"
    assert ours.released == [ours.connection]


async def test_a_head_that_came_during_the_upload_is_not_waited_for(ours: Ours) -> None:
    body = Body()
    ours.send(asks("POST", body=body))
    await turns()
    ours.wire.say(OK[:-1])
    body.parts.put_nowait(None)
    await turns()
    assert ours.connection.deadline == NEVER


async def test_r13_a_body_that_fails_is_never_ended_as_if_whole(ours: Ours) -> None:
    body = Body()
    response = ours.send(asks("POST", body=body))
    await turns()
    failure = BadRequest("bad_framing")
    body.parts.put_nowait(failure)
    await turns()
    assert response.failure is failure
    assert ours.wire.is_aborted
    assert not ours.wire.sent.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("wire", [OK, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", UPGRADE])
async def test_an_answer_before_the_whole_request_ends_the_upload(ours: Ours, wire: bytes) -> None:
    body = Body()
    ours.send(asks("POST", body=body))
    await turns()
    ours.wire.say(wire)
    await turns()
    assert body.is_over
    assert not ours.released


async def blocked(ours: Ours, body: Body) -> PooledResponse:
    """An upload that upstream does not take."""
    response = ours.send(asks("POST", body=body))
    ours.connection.pause_writing()
    body.parts.put_nowait(b"1")
    await turns()
    body.parts.put_nowait(b"2")
    await turns()
    assert ours.wire.sent.endswith(b"1\r\n1\r\n")
    assert ours.connection.write_deadline < NEVER
    return response


async def test_an_upload_waits_for_an_upstream_that_does_not_read(ours: Ours) -> None:
    await blocked(ours, Body())
    ours.connection.resume_writing()
    await turns()
    assert ours.wire.sent.endswith(b"1\r\n2\r\n")


async def test_an_upload_that_waits_ends_with_the_connection(ours: Ours) -> None:
    body = Body()
    await blocked(ours, body)
    ours.wire.lose()
    await turns()
    assert body.is_over
    assert not ours.wire.sent.endswith(b"1\r\n2\r\n")


async def test_an_upstream_that_reads_on_after_its_answer_disturbs_nothing(ours: Ours) -> None:
    await blocked(ours, Body())
    ours.wire.say(OK)
    await turns()
    ours.connection.resume_writing()
    assert not ours.connection.is_open


# --- the byte stream behind a 101 ---------------------------------------------------------------------------------


async def test_behind_a_101_the_event_loop_speaks_to_the_byte_stream(ours: Ours) -> None:
    response = ours.send(asks())
    ours.wire.say(UPGRADE + b"first ")
    assert ours.closed == [ours.connection]  # the pool has no more to do with it
    stream = response.extensions["network_stream"]
    said: list[bytes] = []
    stream.attach(said.append, lambda: said.append(b"end"))
    ours.wire.say(b"second")
    ours.connection.pause_writing()
    assert stream.is_blocked
    ours.connection.resume_writing()
    assert not stream.is_blocked
    ours.wire.lose()
    assert said == [b"first ", b"second", b"end"]


# --- giving up -----------------------------------------------------------------------------------------------------


async def test_p17_an_unfinished_answer_takes_its_connection_along(ours: Ours) -> None:
    response = ours.send(asks())
    ours.wire.say(OK[:-1])
    await response.aclose()
    assert ours.wire.is_aborted
    assert isinstance(response.failure, httpx.ReadError)


async def test_p17_an_answer_that_is_over_takes_no_connection_along(ours: Ours) -> None:
    first = ours.send(asks())
    ours.wire.say(OK)
    second = ours.send(asks())
    await first.aclose()
    ours.wire.say(OK)
    assert await whole(second) == b"ok"


async def test_v12_an_upgrade_behind_a_whole_response_is_nobodys(ours: Ours) -> None:
    response = ours.send(asks())
    ours.wire.say(OK + UPGRADE)
    assert response.is_whole and "network_stream" not in response.extensions
    assert ours.wire.is_aborted and not ours.connection.is_open
    assert ours.released == []


async def test_a_101_to_a_head_is_an_upgrade_too_and_is_closed_by_who_got_it(ours: Ours) -> None:
    response = ours.send(asks("HEAD"))
    ours.wire.say(UPGRADE + b"\x81\x00")
    assert response.status_code == 101 and ours.connection.upgraded is not None
    await response.aclose()
    assert ours.wire.is_aborted
