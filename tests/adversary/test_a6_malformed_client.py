"""A6, a network client with malformed HTTP: bytes on a socket, to every server and through nginx.

Whatever comes, the visitor gets one fixed answer that says nothing about upstream, the log gets one line, and the
worker goes on. Where the server or nginx answers first, nothing reaches us.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from preview_proxy.core.cookies import is_token
from tests.abilities import ABILITIES, can
from tests.discretion import one_line, says_nothing
from tests.world import MACHINE, ZONE, World, read_answer

pytestmark = pytest.mark.anyio

Expected = tuple[int, str | None]
SERVERS: Expected = (400, None)
"""The server's own answer."""
NOT_IMPLEMENTED: Expected = (501, None)
HOST, TARGET, HEADER, FRAMING = (400, "bad_host"), (400, "bad_target"), (400, "bad_header"), (400, "bad_framing")
METHOD, LONG, LARGE = (405, "method_not_allowed"), (414, "target_too_long"), (431, "headers_too_large")
MISDIRECTED, UPGRADE = (421, "misdirected"), (400, "bad_upgrade")
CODES = {None, *(code for _, code in (HOST, TARGET, HEADER, FRAMING, METHOD, LONG, LARGE, MISDIRECTED, UPGRADE))}
REFUSALS = {400, 405, 414, 421, 431, 501}

GET = "GET /echo?canary-query HTTP/1.1"
POST = "POST /body?canary-query HTTP/1.1"
CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Bad:
    """A request, and what the visitor gets of uvicorn with either parser. `host` is a format of a `World`.

    hypercorn parses with h11 too; where it differs, `hypercorn` tells. granian and nginx refuse in their own words,
    or `mends` has an ability that the server lacks, or "nginx": there the request goes on, made harmless.
    """

    name: str
    httptools: Expected
    h11: Expected
    line: str = GET
    fields: tuple[str, ...] = ()
    host: str | None = "{w.host}"
    body: bytes = b""
    hypercorn: Expected | None = None
    mends: tuple[str, ...] = ()

    def wire(self, w: World) -> bytes:
        own = [f"Cookie: pp-development={w.gate}", f"Origin: {w.origin}"]
        host = [] if self.host is None else [f"Host: {self.host.format(w=w)}"]
        head = "\r\n".join([self.line.format(w=w), *host, *own, *(field.format(w=w) for field in self.fields)])
        return head.encode("latin-1") + b"\r\n\r\n" + self.body

    def expected(self, server: str) -> Expected | None:
        """The exact answer, where one server's own code decides it."""
        known = {"httptools": self.httptools, "h11": self.h11, "hypercorn": self.hypercorn or self.h11}
        return known.get(server)

    def is_mended(self, server: str) -> bool:
        return server in self.mends or any(mend in ABILITIES and not can(server, mend) for mend in self.mends)


def bad(name: str, both: Expected, h11: Expected | None = None, **request: Any) -> Bad:
    return Bad(name, both, h11 or both, **request)


def line(target: str, both: Expected, h11: Expected | None = None) -> Bad:
    return bad(f"target {target[:20]!r}", both, h11, line=f"GET {target} HTTP/1.1")


def host(value: str, both: Expected) -> Bad:
    return bad(f"host {value[:30]!r}", both, host=value)


def post(
    name: str, both: Expected, h11: Expected | None = None, *fields: str, body: bytes = CHUNKED, **more: Any
) -> Bad:
    return bad(name, both, h11, line=POST, fields=fields, body=body, **more)


def coding(name: str, both: Expected, h11: Expected | None = None, *fields: str) -> Bad:
    """A transfer coding that hypercorn does not implement (RFC 9112 §6.1)."""
    return post(name, both, h11, *fields, hypercorn=NOT_IMPLEMENTED)


def twice(*framing: str) -> Bad:
    return post(", then ".join(framing), SERVERS, FRAMING, *framing, mends=("two framings",))


def h2c(framing: str, body: bytes) -> Bad:
    fields = "Connection: Upgrade", "Upgrade: h2c", framing
    return post(f"h2c, {framing}", UPGRADE, None, *fields, body=body, mends=("nginx",))


def value(character: str, both: Expected, h11: Expected | None = None) -> Bad:
    mends = ("nginx",) if character == "\n" else ()
    return bad(f"value with {character!r}", both, h11, fields=(f"X-Own: canary{character}x",), mends=mends)


def name(character: str) -> Bad:
    mends = ("nginx",) if character in "\xe9(" else ()
    return bad(f"name with {character!r}", SERVERS, fields=(f"X{character}Own: canary",), mends=mends)


BAD = [
    # P-01: the host
    bad("no host", HOST, SERVERS, host=None, mends=("no host",)),
    bad("the host twice", HOST, SERVERS, fields=("Host: {w.host}",)),
    bad("another host behind it", HOST, SERVERS, fields=("Host: app.localhost",)),
    bad("another host before it", HOST, SERVERS, host="app.localhost", fields=("Host: {w.host}",)),
    host("{w.host}:80", HOST),
    host("{w.host}x", HOST),
    host("user@{w.host}", HOST),
    host("{w.host}/x", HOST),
    host("{w.host}?x", HOST),
    host("{w.host}#x", HOST),
    host("{w.host}, {w.host}", HOST),
    host("{w.host},app.localhost", HOST),
    host("3000-mch%2da." + ZONE, HOST),
    host("caf\xe9." + ZONE, HOST),
    host("x" * 300 + "." + ZONE, HOST),
    host(f".{ZONE}", HOST),
    host(f"x..{ZONE}", HOST),
    host(f"x_.{ZONE}..", HOST),
    host(f"3000-{MACHINE}.{ZONE}:0", HOST),
    host(f"3000-{MACHINE}.{ZONE}:65536", HOST),
    host(f"3000-{MACHINE}.{ZONE}:99999999999999999999", HOST),
    host(f"3000-{MACHINE}.{ZONE}:", HOST),
    host(f"3000-{MACHINE}.{ZONE}:1", MISDIRECTED),
    host(ZONE, MISDIRECTED),
    host(f"app.{ZONE}", MISDIRECTED),
    bad("NUL in the host", SERVERS, host=f"x\x00.{ZONE}"),
    # P-19: the port in it
    host(f"0-{MACHINE}.{ZONE}:{{w.port}}", MISDIRECTED),
    host(f"65536-{MACHINE}.{ZONE}:{{w.port}}", MISDIRECTED),
    host(f"99999-{MACHINE}.{ZONE}:{{w.port}}", MISDIRECTED),
    host(f"03000-{MACHINE}.{ZONE}:{{w.port}}", MISDIRECTED),
    host(f"0x16-{MACHINE}.{ZONE}:{{w.port}}", MISDIRECTED),
    host(f"+22-{MACHINE}.{ZONE}:{{w.port}}", HOST),
    host(f"\xb2\xb2-{MACHINE}.{ZONE}:{{w.port}}", HOST),
    # P-04: the target
    bad("a URL", SERVERS, TARGET, line="GET http://evil.example/echo?x HTTP/1.1", mends=("absolute targets", "nginx")),
    line("foo", SERVERS, TARGET),
    line("@evil.example/x", SERVERS, TARGET),
    line("?x", SERVERS, TARGET),
    line("#x", SERVERS, TARGET),
    line("*", TARGET),
    bad("OPTIONS *", TARGET, line="OPTIONS * HTTP/1.1"),
    line("/a b", SERVERS),
    line("/a\tb", SERVERS),
    line("/a\x00b", SERVERS),
    line("/a\x01b", SERVERS),
    line("/a\x7fb", SERVERS),
    line("/caf\xe9", SERVERS),
    line("/?caf\xe9", SERVERS),
    line("", SERVERS),
    # P-12: the method
    bad("CONNECT", SERVERS, METHOD, line="CONNECT evil.example:443 HTTP/1.1"),
    bad("PRI", SERVERS, METHOD, line="PRI * HTTP/1.1"),
    bad("TRACE", METHOD, line="TRACE / HTTP/1.1"),
    bad("trace", SERVERS, METHOD, line="trace / HTTP/1.1"),
    bad("TRACK", SERVERS, METHOD, line="TRACK / HTTP/1.1"),
    bad("a method that is no token", SERVERS, line="G\xe9T / HTTP/1.1"),
    # P-13: the framing
    twice("Content-Length: 5", "Transfer-Encoding: chunked"),
    twice("Transfer-Encoding: chunked", "Content-Length: 5"),
    post("two lengths", SERVERS, None, "Content-Length: 5", "Content-Length: 6", body=b"hello!"),
    post("two lengths in one field", SERVERS, None, "Content-Length: 5, 6", body=b"hello!"),
    post("a negative length", SERVERS, None, "Content-Length: -1"),
    post("a length with a sign", SERVERS, None, "Content-Length: +5", body=b"hello"),
    post("a length in hex", SERVERS, None, "Content-Length: 0x5", body=b"hello"),
    post("a length with a space", SERVERS, None, "Content-Length: 5 5", body=b"hello"),
    post("an empty length", SERVERS, None, "Content-Length: ", body=b"hello"),
    post("a length of 20 digits", SERVERS, FRAMING, "Content-Length: 99999999999999999999"),
    coding("gzip", SERVERS, None, "Transfer-Encoding: gzip"),
    coding("gzip, chunked", FRAMING, SERVERS, "Transfer-Encoding: gzip, chunked"),
    coding("chunked, gzip", SERVERS, None, "Transfer-Encoding: chunked, gzip"),
    coding("identity", SERVERS, None, "Transfer-Encoding: identity"),
    coding("xchunked", SERVERS, None, "Transfer-Encoding: xchunked"),
    post("chunked with a control character", SERVERS, None, "Transfer-Encoding: chunked\x0b"),
    coding("chunked twice", SERVERS, None, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    coding("identity, then chunked", FRAMING, SERVERS, "Transfer-Encoding: identity", "Transfer-Encoding: chunked"),
    post("a space before the colon", SERVERS, None, "Transfer-Encoding : chunked"),
    bad(
        "chunked on HTTP/1.0", FRAMING, line="POST /body HTTP/1.0", fields=("Transfer-Encoding: chunked",), body=CHUNKED
    ),
    # P-15: upgrades
    h2c("Content-Length: 5", b"hello"),
    h2c("Transfer-Encoding: chunked", CHUNKED),
    # P-18: sizes
    bad("101 headers", LARGE, fields=tuple(f"X-{number}: canary" for number in range(98))),
    bad("2000 headers", LARGE, fields=tuple(f"X-{number}: canary" for number in range(2000))),
    bad("a giant cookie", LARGE, fields=("Cookie: canary=" + "x" * 33_000,)),
    bad("a giant name", LARGE, fields=("x" * 33_000 + ": canary",)),
    bad("a giant path", LONG, line="GET /" + "x" * 8192 + " HTTP/1.1"),
    bad("a giant query", LONG, line="GET /?canary" + "x" * 16_379 + " HTTP/1.1"),
    # P-20: field names and values
    *(value(character, SERVERS) for character in "\x00\r\n\x0b\x0c"),
    *(value(character, SERVERS, HEADER) for character in "\x01\x08\x1b\x7f"),
    *(name(character) for character in "\x00\x01\x7f\t \xe9("),
    bad("no name", SERVERS, fields=(": canary",)),
    bad("no colon", SERVERS, fields=("canary",), mends=("nginx",)),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
async def test_p01_p04_p12_p13_p15_p18_p20_a_malformed_request_gets_one_answer_and_reaches_nobody(
    w: World, case: Bad, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(w.nullspace.edge_requests), w.nullspace.mints, await w.pull("reaches")
    with caplog.at_level(logging.DEBUG):
        answer = await w.raw(case.wire(w))
    if case.is_mended(w.server):
        assert answer.status == 200
        return is_harmless(w, before[0])
    expected = case.expected(w.server)
    if expected is not None:
        assert (answer.status, answer.code) == expected
        one_line(caplog, w, answer, expected[1])
    else:
        assert answer.status in REFUSALS
        assert answer.code in CODES
    says_nothing(answer, w)
    assert (len(w.nullspace.edge_requests), w.nullspace.mints, await w.pull("reaches")) == before
    assert (await w.get("/echo")).status == 200


def is_harmless(w: World, seen: int) -> None:
    """What became of a request that the server or nginx had made harmless: the same as of any other."""
    for asked in w.nullspace.edge_requests[seen:]:
        names = [name.lower() for name, _ in asked.headers]
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        assert not {b"upgrade", b"connection"} & set(names)
        assert all(is_token(name) for name in names)
        assert asked.target.startswith((b"/echo?", b"/body?"))
        assert asked.values(b"host")[0].endswith(b".nullspace.localhost:%d" % w.nullspace.edge_port)
        assert asked.values(b"x-forwarded-host") == [w.host.encode()]


@pytest.mark.parametrize(
    "wire",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\x00\r\n\r\n",
        b"\r\n\r\n\r\n\r\nx\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
    ],
    ids=["TLS", "half a line", "blank lines", "zeros"],
)
async def test_what_is_not_http_is_the_servers_to_refuse(
    w: World, wire: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "preview_proxy"):
        assert (await w.raw(wire)).status == 400
    assert not [record for record in caplog.records if record.name.startswith("preview_proxy")]
    assert (await w.get("/echo")).status == 200


async def test_p20_odd_but_valid_values_are_relayed(w: World) -> None:
    for text in ("caf\xe9", "\x80\xff", "a\tb", "", '"quoted"', "a,b;c", "x" * 30_000):
        answer = await w.get("/echo", headers={"X-Own": text or " ", "X-Under_Score": "1"})
        fields = dict(answer.json()["headers"])
        assert {name.lower(): value for name, value in fields.items()}["x-own"] == text
        assert not any("_" in name for name in fields)


async def test_p18_the_largest_request_that_fits_is_relayed(w: World) -> None:
    assert (await w.get("/" + "x" * 8191)).status == 404
    assert (await w.get("/echo?" + "x" * 16_384)).status == 200
    most = 97 if w.server == "nginx" else 98  # it adds one
    assert (await w.get("/echo", headers={f"X-{number}": "x" for number in range(most)})).status == 200


async def test_p15_an_upgrade_without_a_body_is_ignored(w: World) -> None:
    fields = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    if not can(w.server, "h2c"):
        async with w.connected() as stream:
            await stream.send(w.request("/echo", headers=fields))
            assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
        return
    answer = await w.get("/echo", headers=fields)
    assert answer.status == 200
    assert not {"upgrade", "connection", "http2-settings"} & {name.lower() for name, _ in answer.json()["headers"]}


async def test_p16_trailers_are_discarded(w: World) -> None:
    fields = {"Transfer-Encoding": "chunked", "Trailer": "Host, Cookie", "Expect": "100-continue", "Origin": w.origin}
    seen = len(w.dev.received)
    async with w.connected() as stream:
        await stream.send(w.request("/body", method="POST", headers=fields))
        await w.dev.wait_for(lambda dev: len(dev.received) > seen)
        await stream.send(b"5\r\nhello\r\n0\r\nHost: evil.example\r\nX-Nullspace-Preview-Proxy-Token: canary\r\n\r\n")
        assert (await read_answer(stream, "POST")).body == b"hello"
    assert not {b"expect", b"trailer", b"te"} & {name.lower() for name, _ in w.dev.received[-1].headers}
    assert b"evil.example" not in w.nullspace.edge_raw
    assert b"canary\r\n" not in w.nullspace.edge_raw.split(b"POST /body")[-1]


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"5\r\nhello!\r\n", b"-1\r\n", b"5\r\nhel"])
async def test_p13_a_body_that_breaks_its_framing_is_never_taken_for_whole(w: World, chunks: bytes) -> None:
    request = w.request("/body", method="POST", headers={"Transfer-Encoding": "chunked", "Origin": w.origin})
    seen = len(w.dev.received)
    async with w.connected() as stream:
        await stream.send(request + b"3\r\nabc\r\n" + chunks)
        await stream.send_eof()
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await stream.receive()
    assert not any(received.complete for received in w.dev.received[seen:])
    assert (await w.get("/echo")).status == 200


async def test_a_folded_line_is_refused_or_unfolded(w: World) -> None:
    """RFC 9112 §5.2: either will do, but nobody behind us may see a second line."""
    answer = await w.raw(w.request("/echo", headers={"X-Own": "a\r\n X-Forwarded-Host: evil.example"}))
    assert answer.status in (200, 400)
    if answer.status == 200 and w.server != "nginx":  # which drops such a line
        assert w.dev.received[-1].values(b"x-own") == [b"a X-Forwarded-Host: evil.example"]
    assert w.dev.received[-1].values(b"x-forwarded-host") == [w.host.encode()]


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: xchunked",
        "Content-Length: 0\r\nConnection: Upgrade\r\nUpgrade: h2c",
        "Expect: 100-continue\r\nContent-Length: 4",
    ],
)
async def test_p13_p17_a_request_hidden_in_a_body_is_never_sent_as_one(w: World, framing: str) -> None:
    hidden = b"0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    head = w.request("/body", method="POST", headers={"Origin": w.origin})[:-2] + framing.encode() + b"\r\n\r\n"
    async with w.connected() as stream:
        await stream.send(head + hidden)
        await stream.send_eof()
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await stream.receive()
    assert not [received for received in w.dev.received if received.path == "/hidden"]
    assert b"GET /hidden" not in w.nullspace.edge_raw.partition(b"POST /body")[0]
    assert (await w.get("/echo")).status == 200


async def test_one_connection_serves_requests_in_their_order(w: World) -> None:
    async with w.connected() as stream:
        await stream.send(b"".join(w.request(f"/echo?{number}") for number in range(3)))
        received = b""
        while received.count(b'"target"') < 3:
            received += await stream.receive()
    assert [received.index(b"/echo?%d" % number) for number in range(3)] == sorted(
        received.index(b"/echo?%d" % number) for number in range(3)
    )


@pytest.mark.parametrize("connection", ["Upgrade", "keep-alive, Upgrade", "keep-alive,upgrade", "UPGRADE"])
async def test_p15_an_upgrade_is_seen_in_any_list_and_case(w: World, connection: str) -> None:
    fields = {"Connection": connection, "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13", "Origin": w.origin,
              "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    async with w.connected() as stream:
        await stream.send(w.request("/ws", headers=fields))
        assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
