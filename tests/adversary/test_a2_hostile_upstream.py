"""A2, a hostile upstream: whatever it sends, or does not send, ends in one bounded and clean failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from preview_proxy import Limits
from preview_proxy.testing import Request, Response
from tests.abilities import can
from tests.discretion import says_nothing
from tests.world import Answer, World

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LIMITS = Limits(head_timeout=1.0, idle_timeout=1.0)
"""Little patience, so that what never ends is soon over."""


def sends(w: World, *wires: bytes, hold: bool = False) -> None:
    """Have the dev server answer ``/hostile`` with these bytes; it closes after them, unless it is to `hold`."""

    @w.dev.route("/hostile")
    async def hostile(request: Request, response: Response) -> None:
        for wire in wires:
            await response.raw(wire)
        if hold:
            await w.dev.wait_for(lambda _: request.peer_left)
        response.close()


async def is_well(w: World) -> None:
    """The worker serves the next request, and nothing of the last one is left upstream."""
    with anyio.fail_after(5):
        await w.dev.wait_for(lambda dev: dev.open_connections == 0)
    assert (await w.get("/echo")).status == 200


# --- before the head -----------------------------------------------------------------------------------------------

NO_RESPONSE = {
    "nothing": b"",
    "text": b"Unauthorized",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "zeros": bytes(1000),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/0.9": b"<html>canary</html>",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "version 2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "version 1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "half a head": OK + b"X-Own: canary",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status 99": b"HTTP/1.1 099 canary\r\n\r\n",
    "status 600": b"HTTP/1.1 600 canary\r\nContent-Length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 canary\r\nContent-Length: 0\r\n\r\n",
    "status 1000": b"HTTP/1.1 1000 canary\r\n\r\n",
    "101 to nothing": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "101 to another": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: canary\r\nConnection: upgrade\r\n\r\n",
    "101 to a WebSocket": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "33 informational": b"HTTP/1.1 103 Early Hints\r\nLink: </canary>\r\n\r\n" * 33 + OK + b"Content-Length: 0\r\n\r\n",
    "both framings": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "both, the other way": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "two lengths in one": OK + b"Content-Length: 1, 2\r\n\r\nab",
    "a length with a sign": OK + b"Content-Length: +1\r\n\r\na",
    "a negative length": OK + b"Content-Length: -1\r\n\r\na",
    "a length in hex": OK + b"Content-Length: 0x1\r\n\r\na",
    "an endless length": OK + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "xchunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked on 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": OK + b"X-Own : canary\r\nContent-Length: 0\r\n\r\n",
    "a folded line": OK + b"X-Own: a\r\n canary\r\nContent-Length: 0\r\n\r\n",
    "a bare line feed": OK + b"X-Own: a\nX-Canary: 1\r\nContent-Length: 0\r\n\r\n",
    "a bare carriage return": OK + b"X-Own: a\rX-Canary: 1\r\nContent-Length: 0\r\n\r\n",
    "NUL": OK + b"X-Own: a\x00canary\r\nContent-Length: 0\r\n\r\n",
    "a control character": OK + b"X-Own: a\x01canary\r\nContent-Length: 0\r\n\r\n",
    "a name with a space": OK + b"X Canary: 1\r\nContent-Length: 0\r\n\r\n",
    "a name beyond ASCII": OK + b"X-Canary\xe9: 1\r\nContent-Length: 0\r\n\r\n",
    "no name": OK + b": canary\r\nContent-Length: 0\r\n\r\n",
    "129 headers": OK + b"".join(b"X-%d: canary\r\n" % n for n in range(129)) + b"Content-Length: 0\r\n\r\n",
    "65 KiB of header": OK + b"X-Own: " + b"canary" * 11_100 + b"\r\nContent-Length: 0\r\n\r\n",
    "an endless header": OK + b"X-Own: " + b"canary" * 100_000,
    "endless headers": OK + b"X-Own: canary\r\n" * 50_000,
    "an endless reason": b"HTTP/1.1 200 " + b"canary" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("wire", NO_RESPONSE.values(), ids=NO_RESPONSE.keys())
async def test_r01_r03_r04_v12_what_is_no_response_is_502(w: World, wire: bytes) -> None:
    sends(w, wire)
    answer = await w.get("/hostile")
    assert (answer.status, answer.code, answer.complete) == (502, "upstream_protocol_error", True)
    says_nothing(answer, w)
    await is_well(w)


@pytest.mark.parametrize(
    "wire",
    [b"", b"HTTP/1.1 200 OK\r\nX-Own: canary", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"],
    ids=["nothing", "half a head", "100 and nothing", "103 and nothing"],
)
async def test_v01_v12_a_head_that_does_not_come_is_504(w: World, wire: bytes) -> None:
    sends(w, wire, hold=True)
    answer = await w.get("/hostile")
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    says_nothing(answer, w)
    await is_well(w)


Flood = Callable[[Response], Awaitable[None]]


async def informational(response: Response) -> None:
    await response.raw(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)


async def header_fields(response: Response) -> None:
    await response.raw(b"X-Own: canary\r\n" * 1000)


@pytest.mark.parametrize(("start", "flood"), [(b"", informational), (OK, header_fields)])
async def test_v12_a_flood_before_the_head_is_cut_off(w: World, start: bytes, flood: Flood) -> None:
    """The proxy closes, for the dev server goes on for as long as somebody is there."""

    @w.dev.route("/hostile")
    async def hostile(request: Request, response: Response) -> None:
        await response.raw(start)
        while not request.peer_left:
            await flood(response)

    assert (await w.get("/hostile")).status == 502
    await is_well(w)


# --- after the head ------------------------------------------------------------------------------------------------

CUT = {
    "a short length": OK + b"Content-Length: 10\r\n\r\nabc",
    "no last chunk": CHUNKED + b"3\r\nabc\r\n",
    "half a chunk": CHUNKED + b"5\r\nabc",
    "a chunk that is longer": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
    "a size that is none": CHUNKED + b"3\r\nabc\r\nzz\r\n",
    "a negative size": CHUNKED + b"3\r\nabc\r\n-1\r\n",
    "an endless size": CHUNKED + b"3\r\nabc\r\n" + b"f" * 40 + b"\r\n",
    "a size with a bare line feed": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "an endless extension": CHUNKED + b"3\r\nabc\r\n3;" + b"x" * 300_000,
    "endless trailers": CHUNKED + b"3\r\nabc\r\n0\r\n" + b"X-Own: canary\r\n" * 20_000,
    "a broken trailer": CHUNKED + b"3\r\nabc\r\n0\r\nX Canary: 1\r\n\r\n",
}


def is_cut(w: World, answer: Answer) -> None:
    """The visitor can see that something is missing."""
    if can(w.server, "cuts") or answer.status == 200:
        assert (answer.status, answer.complete) == (200, False)
    else:
        assert answer.status == 500
    assert b"canary" not in answer.body


@pytest.mark.parametrize("wire", CUT.values(), ids=CUT.keys())
async def test_r13_v12_a_body_that_breaks_its_framing_is_cut_and_never_ended(w: World, wire: bytes) -> None:
    sends(w, wire)
    is_cut(w, await w.get("/hostile"))
    await is_well(w)


@pytest.mark.parametrize("piece", [b"1;" + b"x" * 1000 + b"\r\nx\r\n", b"1\r\nx\r\n"], ids=["extensions", "tiny"])
async def test_v12_a_flood_in_the_body_is_relayed_in_step_or_cut_off(w: World, piece: bytes) -> None:
    """Tiny chunks are a body like any other, for as long as the visitor reads; extensions that cost are not."""

    @w.dev.route("/hostile")
    async def hostile(request: Request, response: Response) -> None:
        await response.raw(CHUNKED)
        while not request.peer_left:
            await response.raw(piece * 100)

    async with w.connected() as stream:
        await stream.send(w.request("/hostile"))
        received = 0
        try:
            while received < 5_000:
                received += len(await stream.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            assert b";" in piece
        else:
            assert b";" not in piece
    await is_well(w)


@pytest.mark.parametrize("head", [OK + b"Content-Length: 9\r\n\r\n", CHUNKED, OK + b"\r\n"])
async def test_v01_v12_a_body_that_falls_silent_is_cut(w: World, head: bytes) -> None:
    sends(w, head, hold=True)
    is_cut(w, await w.get("/hostile"))
    await is_well(w)


@pytest.mark.parametrize(
    "wire",
    [
        OK + b"Content-Length: 2\r\n\r\nok",
        CHUNKED + b"2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
    ],
)
async def test_r01_p17_a_response_hidden_behind_another_reaches_nobody(w: World, wire: bytes) -> None:
    sends(w, wire + OK + b"Content-Length: 6\r\n\r\ncanary" * 3)
    for _ in range(3):
        answer = await w.get("/hostile")
        assert answer.complete
        assert b"canary" not in answer.body
        assert (await w.get("/echo")).json()["target"] == "/echo"


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_r14_what_has_no_body_gets_none(w: World, status: int) -> None:
    sends(w, b'HTTP/1.1 %d X\r\nETag: "v1"\r\nContent-Length: 6\r\n\r\ncanary' % status)
    for method in ("GET", "HEAD"):
        answer = await w.get("/hostile", method=method)
        assert (answer.status, answer.body, answer.complete) == (status, b"", True)
        assert status == 205 or answer.values(b"transfer-encoding") == []  # RFC 9110 §15.3.6 has it for 205
        assert answer.values(b"etag") == [b'"v1"']


async def test_r01_one_framing_is_left_and_no_hop_by_hop_field(w: World) -> None:
    fields = b"Connection: x-named, close\r\nX-Named: 1\r\nKeep-Alive: timeout=9\r\nUpgrade: h2c\r\nProxy-Own: 1\r\n"
    sends(w, OK + fields + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    answer = await w.get("/hostile")
    names = [name for name, _ in answer.headers]
    assert names.count(b"content-length") + names.count(b"transfer-encoding") == 1
    assert not {b"x-named", b"upgrade", b"proxy-own"} & set(names)
    assert not any(b"timeout=9" in value for value in answer.values(b"keep-alive"))


# --- where it points -----------------------------------------------------------------------------------------------


async def test_r06_a_redirect_is_the_visitors_to_follow(w: World) -> None:
    async with anyio.create_task_group() as group:
        decoy = await anyio.create_tcp_listener(local_host="127.0.0.1")
        touched: list[object] = []
        port = decoy.extra(anyio.abc.SocketAttribute.local_port)
        group.start_soon(decoy.serve, touched.append)
        for status in (301, 302, 303, 307, 308):
            for host in (f"127.0.0.1:{port}", f"localhost:{port}", "169.254.169.254"):
                sends(
                    w,
                    b"HTTP/1.1 %d X\r\nLocation: http://%b/latest\r\nContent-Length: 0\r\n\r\n"
                    % (status, host.encode()),
                )
                assert (await w.get("/hostile")).status == status
        group.cancel_scope.cancel()
    assert touched == []
    await decoy.aclose()


async def test_r05_h18_a_token_that_is_reflected_in_a_header_stops_here(w: World) -> None:
    @w.dev.route("/hostile")
    async def hostile(request: Request, response: Response) -> None:
        [asked] = w.nullspace.edge_requests[-1:]
        [token] = asked.values(b"x-nullspace-preview-proxy-token")
        fields = [
            ("x-own", token),
            ("location", b"/?edge_token=" + token),
            ("set-cookie", b"a=" + token),
            ("link", b"<%b>" % token),
        ]
        await response.send(200, fields, b"ok")

    answer = await w.get("/hostile")
    assert answer.status == 200
    tokens = [token for grant in w.nullspace.grants.values() for token in grant.tokens.values()]
    assert not [value for _, value in answer.headers for token in tokens if token.encode() in value]
