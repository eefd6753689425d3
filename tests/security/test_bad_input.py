"""Malformed requests as bytes on a socket, and everything that can be wrong behind the proxy.

Whatever comes, the visitor gets one fixed answer that says nothing about upstream, the log gets one line, and the
worker goes on. Where uvicorn answers first (its own 400), nothing reaches us.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from preview_proxy import Preview, Session, Tickets
from preview_proxy.core.models import Origin
from preview_proxy.testing import Request, Response
from tests.world import EMBEDDER, MACHINE, OWNER, SECRET, ZONE, Answer, World, world

pytestmark = pytest.mark.anyio

Expected = tuple[int, str | None]
SERVERS: Expected = (400, None)
"""uvicorn's own answer."""
HOST, TARGET, HEADER, FRAMING = (400, "bad_host"), (400, "bad_target"), (400, "bad_header"), (400, "bad_framing")
METHOD, LONG, LARGE = (405, "method_not_allowed"), (414, "target_too_long"), (431, "headers_too_large")
MISDIRECTED, UPGRADE = (421, "misdirected"), (400, "bad_upgrade")

GET = "GET /echo?canary-query HTTP/1.1"
POST = "POST /body?canary-query HTTP/1.1"
CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Bad:
    """A request, and what the visitor gets from a server with either parser. `host` is a format of a `World`."""

    name: str
    httptools: Expected
    h11: Expected
    line: str = GET
    fields: tuple[str, ...] = ()
    host: str | None = "{w.host}"
    body: bytes = b""

    def wire(self, w: World) -> bytes:
        own = [f"Cookie: pp-development={w.gate}", f"Origin: {w.origin}"]
        host = [] if self.host is None else [f"Host: {self.host.format(w=w)}"]
        head = "\r\n".join([self.line.format(w=w), *host, *own, *(field.format(w=w) for field in self.fields)])
        return head.encode("latin-1") + b"\r\n\r\n" + self.body


def bad(name: str, both: Expected, h11: Expected | None = None, **request: Any) -> Bad:
    return Bad(name, both, h11 or both, **request)


def line(target: str, both: Expected, h11: Expected | None = None) -> Bad:
    return bad(f"target {target[:20]!r}", both, h11, line=f"GET {target} HTTP/1.1")


def host(value: str, both: Expected) -> Bad:
    return bad(f"host {value[:30]!r}", both, host=value)


def post(name: str, both: Expected, h11: Expected | None = None, *fields: str, body: bytes = CHUNKED) -> Bad:
    return bad(name, both, h11, line=POST, fields=fields, body=body)


def value(character: str, both: Expected, h11: Expected | None = None) -> Bad:
    return bad(f"value with {character!r}", both, h11, fields=(f"X-Own: canary{character}x",))


def name(character: str) -> Bad:
    return bad(f"name with {character!r}", SERVERS, fields=(f"X{character}Own: canary",))


BAD = [
    # P-01: the host
    bad("no host", HOST, SERVERS, host=None),
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
    line("http://{w.host}/echo", SERVERS, TARGET),
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
    post("Content-Length, then Transfer-Encoding", SERVERS, FRAMING, "Content-Length: 5", "Transfer-Encoding: chunked"),
    post("Transfer-Encoding, then Content-Length", SERVERS, FRAMING, "Transfer-Encoding: chunked", "Content-Length: 5"),
    post("two lengths", SERVERS, None, "Content-Length: 5", "Content-Length: 6", body=b"hello!"),
    post("two lengths in one field", SERVERS, None, "Content-Length: 5, 6", body=b"hello!"),
    post("a negative length", SERVERS, None, "Content-Length: -1"),
    post("a length with a sign", SERVERS, None, "Content-Length: +5", body=b"hello"),
    post("a length in hex", SERVERS, None, "Content-Length: 0x5", body=b"hello"),
    post("a length with a space", SERVERS, None, "Content-Length: 5 5", body=b"hello"),
    post("an empty length", SERVERS, None, "Content-Length: ", body=b"hello"),
    post("a length of 20 digits", SERVERS, FRAMING, "Content-Length: 99999999999999999999"),
    post("gzip", SERVERS, None, "Transfer-Encoding: gzip"),
    post("gzip, chunked", FRAMING, SERVERS, "Transfer-Encoding: gzip, chunked"),
    post("chunked, gzip", SERVERS, None, "Transfer-Encoding: chunked, gzip"),
    post("identity", SERVERS, None, "Transfer-Encoding: identity"),
    post("xchunked", SERVERS, None, "Transfer-Encoding: xchunked"),
    post("chunked with a control character", SERVERS, None, "Transfer-Encoding: chunked\x0b"),
    post("chunked twice", SERVERS, None, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    post("identity, then chunked", FRAMING, SERVERS, "Transfer-Encoding: identity", "Transfer-Encoding: chunked"),
    post("a space before the colon", SERVERS, None, "Transfer-Encoding : chunked"),
    bad(
        "chunked on HTTP/1.0", FRAMING, line="POST /body HTTP/1.0", fields=("Transfer-Encoding: chunked",), body=CHUNKED
    ),
    # P-15: upgrades
    post("h2c with a length", UPGRADE, None, "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5", body=b"hello"),
    post("h2c with chunks", UPGRADE, None, "Connection: Upgrade", "Upgrade: h2c", "Transfer-Encoding: chunked"),
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
    bad("no colon", SERVERS, fields=("canary",)),
]  # fmt: skip


@pytest.fixture(scope="module", params=["httptools", "h11"])
def parser(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def w(parser: str) -> AsyncIterator[World]:
    async with world(http=parser) as made:
        yield made


def says_nothing(answer: Answer, w: World) -> None:
    """No part of an answer tells of upstream, or repeats the request."""
    text = answer.body + b"".join(name + b": " + value + b"\n" for name, value in answer.headers)
    secrets = [token for grant in w.nullspace.grants.values() for token in grant.tokens.values()]
    ports = [f":{port}" for port in (w.nullspace.edge_port, w.dev.port)]
    for secret in (*secrets, *ports, w.nullspace.api_key, w.nullspace.edge_domain, w.gate, "__ns_preview", "canary"):
        assert secret.encode() not in text, secret


def one_line(caplog: pytest.LogCaptureFixture, w: World, answer: Answer, code: str | None) -> None:
    """What was logged: one line. None, or one about the broken body, where the server answered."""
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("preview_proxy")]
    assert len(messages) == 1 or (code is None and not messages)
    secrets = [token for grant in w.nullspace.grants.values() for token in grant.tokens.values()]
    for message in messages:
        assert message.isprintable()
        assert message.isascii()
        assert f" {answer.status} " in message
        assert code is None or code in message
        for secret in (*secrets, w.gate, w.nullspace.api_key, "__ns_preview", "canary", "?"):
            assert secret not in message


@contextlib.asynccontextmanager
async def _connected(w: World) -> AsyncIterator[SocketStream]:
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            yield stream


def code_of(answer: Answer) -> str | None:
    return answer.json()["code"] if answer.values(b"content-type") == [b"application/json"] else None


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
async def test_p01_p04_p12_p13_p15_p18_p19_p20_a_malformed_request_gets_one_answer_and_reaches_nobody(
    w: World, parser: str, case: Bad, caplog: pytest.LogCaptureFixture
) -> None:
    expected = case.httptools if parser == "httptools" else case.h11
    before = len(w.nullspace.edge_requests), w.nullspace.mints, list(w.reached_app)
    with caplog.at_level(logging.DEBUG):
        answer = await w.raw(case.wire(w))
    assert (answer.status, code_of(answer)) == expected
    says_nothing(answer, w)
    one_line(caplog, w, answer, expected[1])
    assert (len(w.nullspace.edge_requests), w.nullspace.mints, list(w.reached_app)) == before
    assert (await w.get("/echo")).status == 200


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
    assert (await w.get("/echo", headers={f"X-{number}": "x" for number in range(98)})).status == 200


async def test_p15_an_upgrade_without_a_body_is_ignored(w: World) -> None:
    fields = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    answer = await w.get("/echo", headers=fields)
    assert answer.status == 200
    assert not {"upgrade", "connection", "http2-settings"} & {name.lower() for name, _ in answer.json()["headers"]}


async def test_p16_trailers_are_discarded(w: World) -> None:
    fields = {"Transfer-Encoding": "chunked", "Trailer": "Host, Cookie", "Expect": "100-continue", "Origin": w.origin}
    seen = len(w.dev.received)
    async with _connected(w) as stream:
        await stream.send(w.request("/body", method="POST", headers=fields))
        await w.dev.wait_for(lambda dev: len(dev.received) > seen)
        await stream.send(b"5\r\nhello\r\n0\r\nHost: evil.example\r\nX-Nullspace-Preview-Proxy-Token: canary\r\n\r\n")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += await stream.receive()
    assert b"hello" in received
    assert not {b"expect", b"trailer", b"te"} & {name.lower() for name, _ in w.dev.received[-1].headers}
    assert b"evil.example" not in w.nullspace.edge_raw
    assert b"canary\r\n" not in w.nullspace.edge_raw.split(b"POST /body")[-1]


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"5\r\nhello!\r\n", b"-1\r\n", b"5\r\nhel"])
async def test_p13_a_body_that_breaks_its_framing_is_never_taken_for_whole(w: World, chunks: bytes) -> None:
    request = w.request("/body", method="POST", headers={"Transfer-Encoding": "chunked", "Origin": w.origin})
    seen = len(w.dev.received)
    async with _connected(w) as stream:
        await stream.send(request + b"3\r\nabc\r\n" + chunks)
        await stream.send_eof()
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await stream.receive()
    assert not any(received.complete for received in w.dev.received[seen:])
    assert (await w.get("/echo")).status == 200


# --- what can be wrong behind the proxy ----------------------------------------------------------------------------


def gate(w: World, label: str, subject: str = OWNER) -> dict[str, str]:
    """The fields that sign `subject` in at another preview's host."""
    port, _, machine = label.partition("-")
    name = f"{label}.{ZONE}:{w.port}"
    value, _ = Tickets(SECRET, [EMBEDDER]).gate(
        origin=Origin.parse(f"http://{name}"), preview=Preview(machine, int(port)), session=Session(subject)
    )
    return {"Host": name, "Origin": f"http://{name}", "Cookie": f"pp-development={value}"}


def knock(w: World, kind: str, fields: dict[str, str] | None = None) -> bytes:
    """A request, or a handshake, of the preview's own page."""
    own = {"Origin": w.origin, **(fields or {})}
    if kind == "http":
        return w.request("/echo?canary-query", headers=own)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    return w.request("/ws?canary-query", headers={**upgrade, **own})


@dataclass(frozen=True)
class Trouble:
    """Something wrong behind the proxy, and what the visitor gets of it."""

    cause: Callable[[World], object]
    status: int
    code: str
    retry_after: list[bytes]


def _grant(w: World) -> str:
    return next(iter(w.nullspace.grants))


def _disable_tokens(w: World) -> None:
    w.nullspace.disable_token(_grant(w))


TROUBLES = {
    "expired": Trouble(lambda w: w.nullspace.expire(), 502, "preview_proxy_token_expired", []),
    "revoked": Trouble(lambda w: w.nullspace.revoke(), 502, "preview_proxy_token_revoked", []),
    "grant disabled": Trouble(lambda w: w.nullspace.disable_grant(_grant(w)), 502, "preview_grant_disabled", []),
    "token disabled": Trouble(_disable_tokens, 502, "preview_proxy_token_disabled", []),
    "machine disabled": Trouble(lambda w: w.nullspace.disable_machine(MACHINE), 502, "preview_machine_disabled", []),
    "rate limited": Trouble(lambda w: w.nullspace.set_rate_limit(0, 7), 429, "rate_limit_exceeded", [b"7"]),
    "paused": Trouble(lambda w: w.nullspace.pause(MACHINE), 503, "machine_paused_auto_resume_disabled", [b"5"]),
    "unreachable": Trouble(lambda w: w.nullspace.unreachable(MACHINE), 503, "edge_runtime_host_unreachable", [b"5"]),
}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
async def test_r15_what_the_edge_refuses_gets_its_code_and_nothing_else(
    kind: str, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        trouble.cause(w)
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind))
        assert (answer.status, code_of(answer)) == (trouble.status, trouble.code)
        assert answer.values(b"retry-after") == trouble.retry_after
        says_nothing(answer, w)
        one_line(caplog, w, answer, trouble.code)
        assert w.nullspace.mints == 1


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("label", "subject", "code"),
    [
        ("3000-mch_unknown", OWNER, "no_such_preview"),
        ("3000-mch_of_eve", OWNER, "no_such_preview"),
        (f"3000-{MACHINE}", "eve", "no_such_preview"),
        ("22-mch_of_eve", OWNER, "no_such_preview"),
        (f"22-{MACHINE}", OWNER, "unsupported_preview_port"),
        (f"5900-{MACHINE}", OWNER, "unsupported_preview_port"),
        (f"5999-{MACHINE}", OWNER, "unsupported_preview_port"),
        ("3000-mch_destroyed", OWNER, "machine_not_found"),
    ],
)
async def test_p19_what_nobody_may_see_is_404_and_costs_nothing(
    kind: str, label: str, subject: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:
        w.nullspace.add_machine("mch_of_eve", {3000: w.dev})
        w.allowed[OWNER].add("mch_destroyed")
        w.allowed["eve"] = {"mch_of_eve"}
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind, gate(w, label, subject)))
        assert (answer.status, code_of(answer)) == (404, code)
        says_nothing(answer, w)
        one_line(caplog, w, answer, code)
        assert (w.nullspace.mints, w.nullspace.edge_requests) == (0, [])


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a12_an_unknown_machine_and_anothers_are_told_apart_by_nothing(kind: str) -> None:
    async with world() as w:
        w.nullspace.add_machine("mch_of_eve", {3000: w.dev})
        bodies, heads = [], []
        for label in ("3000-mch_of_eve", "3000-mch_unknown"):
            answer = await w.raw(knock(w, kind, gate(w, label)))
            bodies.append({**answer.json(), "request_id": ""})
            heads.append([field for field in answer.headers if field[0] != b"date"])
        assert bodies[0] == bodies[1]
        assert heads[0] == heads[1]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_service_that_is_down_is_503(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind, gate(w, f"3001-{MACHINE}")))
        assert (answer.status, code_of(answer)) == (503, "preview_service_not_ready")
        assert answer.values(b"retry-after") == [b"5"]
        says_nothing(answer, w)
        one_line(caplog, w, answer, "preview_service_not_ready")


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_an_edge_that_is_gone_is_502(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        await w.nullspace._edge.__aexit__(None, None, None)
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind))
        assert (answer.status, code_of(answer)) == (502, "upstream_unreachable")
        says_nothing(answer, w)
        one_line(caplog, w, answer, "upstream_unreachable")


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("api", ["gone", "wrong key"])
async def test_an_api_that_does_not_help_is_502(kind: str, api: str, caplog: pytest.LogCaptureFixture) -> None:
    code = {"gone": "provider_failed", "wrong key": "provider_refused"}[api]

    async with world() as w:
        if api == "gone":
            await w.nullspace._api.__aexit__(None, None, None)
        else:
            w.nullspace._state.api_key = "another"
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind))
        assert (answer.status, code_of(answer)) == (502, code)
        says_nothing(answer, w)
        one_line(caplog, w, answer, code)


@pytest.mark.parametrize(
    "wire",
    [
        b"canary\r\n\r\n",
        b"HTTP/1.1 999 canary\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncanary: \x01\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n",
        b"",
    ],
    ids=["text", "status", "control character", "length", "nothing"],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_garbage_from_upstream_is_502_and_not_repeated(
    kind: str, wire: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:

        async def garbage(request: Request, response: Response) -> None:
            await response.raw(wire)
            response.close()

        for path in ("/echo", "/ws"):
            w.dev.route(path)(garbage)
        w.dev._websocket_routes.clear()
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind))
        assert (answer.status, code_of(answer)) == (502, "upstream_protocol_error")
        says_nothing(answer, w)
        one_line(caplog, w, answer, "upstream_protocol_error")
        assert (await w.get("/bytes/3")).body == bytes(3)


# --- V-04, V-05: a credential that ran out -------------------------------------------------------------------------


def later(w: World, seconds: float) -> None:
    """Let the cache of targets believe that it is later."""
    w.proxy._targets._clock = lambda: time.time() + seconds


@pytest.mark.parametrize("how", ["expire", "revoke"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_v05_a_request_without_a_body_is_sent_again_with_a_new_credential(kind: str, how: str) -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        later(w, 31)
        getattr(w.nullspace, how)()
        if kind == "http":
            assert (await w.raw(knock(w, kind))).status == 200
        else:
            async with _connected(w) as stream:
                await stream.send(knock(w, kind))
                assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
        assert w.nullspace.mints == 2
        verdicts = [request.verdict for request in w.nullspace.edge_requests]
        assert verdicts == ["served", f"preview_proxy_token_{how}d", "served"]
        getattr(w.nullspace, how)()
        for _ in range(5):
            assert (await w.raw(knock(w, kind))).status == 502
        assert w.nullspace.mints == 2
        later(w, 62)
        if kind == "http":
            assert (await w.raw(knock(w, kind))).status == 200
            assert w.nullspace.mints == 3


async def test_v05_a_body_is_never_sent_twice_but_the_next_one_finds_a_new_credential() -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        later(w, 31)
        w.nullspace.expire()
        head = w.request("/body", method="POST", headers={"Content-Length": "6", "Origin": w.origin})
        answer = await w.raw(head + b"canary", method="POST")
        assert (answer.status, code_of(answer)) == (502, "preview_proxy_token_expired")
        assert [request.method for request in w.nullspace.edge_requests].count(b"POST") == 1
        assert w.nullspace.edge_raw.count(b"canary") == 1
        assert [request.method for request in w.dev.received] == [b"GET"]
        assert (await w.raw(head + b"canary", method="POST")).body == b"canary"
        assert w.nullspace.mints == 2


async def test_v04_refusals_that_the_preview_forges_cost_one_mint_in_30_seconds() -> None:
    async with world() as w:

        @w.dev.route("/forged")
        async def forged(request: Request, response: Response) -> None:
            fields = [("content-type", "application/json")]
            await response.send(401, fields, b'{"error": "canary", "code": "preview_proxy_token_expired"}')

        for seconds, mints in ((0, 1), (31, 2), (62, 3)):
            later(w, seconds)
            for _ in range(5):
                answer = await w.get("/forged")
                assert (answer.status, code_of(answer)) == (502, "preview_proxy_token_expired")
                says_nothing(answer, w)
            assert w.nullspace.mints == mints


async def test_an_expiry_of_our_own_clock_is_no_failure() -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        later(w, 1000)
        w.nullspace.clock = lambda: time.time() + 1000
        assert (await w.get("/echo")).status == 200
        assert [request.verdict for request in w.nullspace.edge_requests] == ["served", "served"]
        assert w.nullspace.mints == 2
