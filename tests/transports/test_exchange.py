"""What an upstream's failure becomes, and what of it can still be seen."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator
from functools import partial

import anyio
import httpx
import pytest
from starlette.types import Message

from preview_proxy import Limits, Policy, Preview
from preview_proxy.core.models import Endpoint, Inbound, Origin, RawHeaders
from preview_proxy.core.plan import Route, compile_rules
from preview_proxy.core.secret import Secret
from preview_proxy.errors import CODES, CredentialRejected, NotFound, PreviewProxyError
from preview_proxy.testing import DevServer, Request, Response
from preview_proxy.transports.exchange import EXPLANATION_BYTES, Upstream, cut_short, explanation, translate
from preview_proxy.transports.foreign import ForeignTransport
from preview_proxy.transports.pool import UpstreamPool
from preview_proxy.transports.relay_http import Aborted, relay_http
from preview_proxy.transports.relay_websocket import relay_websocket
from preview_proxy.transports.request import UpstreamResponse
from tests.discretion import records
from tests.test_live import admitted, new_relays

pytestmark = pytest.mark.anyio

CANARY = "canary-provider-token"
PUBLIC = Origin("https", "3000-m1.previews.example", 443)


# --- the one table -------------------------------------------------------------------------------------------------

CODE_OF = {
    "TransportError": "upstream_unreachable",
    "TimeoutException": "upstream_timeout",
    "ConnectTimeout": "upstream_timeout",
    "ReadTimeout": "upstream_timeout",
    "WriteTimeout": "upstream_timeout",
    "PoolTimeout": "upstream_busy",
    "NetworkError": "upstream_unreachable",
    "ConnectError": "upstream_unreachable",
    "ReadError": "upstream_unreachable",
    "WriteError": "upstream_unreachable",
    "CloseError": "upstream_unreachable",
    "ProxyError": "upstream_unreachable",
    "UnsupportedProtocol": "upstream_protocol_error",
    "ProtocolError": "upstream_unreachable",
    "LocalProtocolError": "bad_header",
    "RemoteProtocolError": "upstream_protocol_error",
}


def tree(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


def test_every_error_that_httpx_has_is_in_the_table() -> None:
    httpxs = [kind for kind in tree(httpx.TransportError) if kind.__module__ == "httpx"]
    assert {kind.__name__: translate(kind(CANARY)).code for kind in httpxs} == CODE_OF
    assert set(CODE_OF.values()) <= set(CODES)


@pytest.mark.parametrize("kind", [*tree(httpx.TransportError), ValueError, OSError, KeyError, anyio.EndOfStream])
def test_h20_of_the_original_only_its_name_is_left(kind: type[Exception]) -> None:
    failure: PreviewProxyError | None = None
    try:
        raise kind(CANARY)
    except Exception as error:
        failure = translate(error)
    assert failure.detail == kind.__name__
    assert (failure.__cause__, failure.__context__, failure.__traceback__) == (None, None, None)
    assert CANARY not in f"{failure!r} {failure} {vars(failure)}"


def test_a_subclass_that_nobody_knows_takes_its_parents_row() -> None:
    class Own(httpx.ReadTimeout): ...

    assert translate(Own("x")).code == "upstream_timeout"
    assert translate(RuntimeError("x")).code == "upstream_protocol_error"


def test_our_own_errors_come_through() -> None:
    ours = NotFound()
    assert translate(ours) is ours


@pytest.mark.parametrize(
    ("cut", "code"),
    [
        ("drained", "shutting_down"),
        ("revoked", "access_ended"),
        ("signed_out", "not_signed_in"),
        ("unchecked", "check_failed"),
        ("left", None),
        (None, None),
    ],
)
def test_w10_what_cuts_a_relay_short_is_told_to_who_is_still_there(cut: str | None, code: str | None) -> None:
    told = cut_short(cut)
    assert (told and told.code) == code


# --- reading what the edge says ------------------------------------------------------------------------------------


class Scripted(UpstreamResponse):
    """A response of given chunks."""

    def __init__(self, *chunks: bytes, status: int = 401) -> None:
        super().__init__(status, [(b"content-type", b"application/json")], 1)
        self.chunks = list(chunks)

    async def read_chunk(self) -> bytes | None:
        return self.chunks.pop(0) if self.chunks else None


class Scribe:
    """A lease that may explain every 401, and takes those that speak of a credential for the edge's."""

    def __init__(self, endpoint: Endpoint | None = None) -> None:
        self.endpoint = endpoint
        self.read: list[bytes] = []

    async def route(self) -> Route:
        assert self.endpoint is not None
        return Route(Preview("m1", 3000), PUBLIC, self.endpoint)

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        return status == 401

    def explain(self, status: int, headers: RawHeaders, body: bytes) -> PreviewProxyError | None:
        self.read.append(body)
        return CredentialRejected() if b"credential" in body else None

    def reached(self) -> None:
        pass

    def failed(self, error: Exception) -> None:
        pass

    async def cure(self, error: PreviewProxyError) -> bool:
        return False


async def test_r15_what_cannot_be_the_edges_is_not_read() -> None:
    lease, response = Scribe(), Scripted(b"body", status=200)
    assert await explanation(response, lease) is None
    assert (lease.read, response.chunks, response.unread) == ([], [b"body"], b"")


async def test_an_error_of_the_edge_is_read_whole() -> None:
    lease = Scribe()
    error = await explanation(Scripted(b"the cred", b"", b"ential"), lease)
    assert isinstance(error, CredentialRejected)
    assert lease.read == [b"the credential"]


async def test_r09_an_unknown_cookie_of_the_edge_is_noted_by_its_name_alone(caplog: pytest.LogCaptureFixture) -> None:
    response = Scripted(b"the credential")
    response.raw_headers += [(b"set-cookie", value) for value in (b"edge_go=canary; Path=/", b"__ns_x=1", b"a\nb=1")]
    with caplog.at_level(logging.INFO, "preview_proxy"):
        await explanation(response, Scribe())
        await explanation(Scripted(b"the app's own"), Scribe())
    assert [record.args for record in records(caplog)] == [(b"edge_go",), (b"a\nb",)]
    assert "canary" not in caplog.text and "\nb" not in caplog.text


@pytest.mark.parametrize(
    "chunks", [[], [b""], [b"ab", b"c"], [b"x" * 4096, b"y"], [b"x" * 70_000, b"y"], [b"x"] * 5000]
)
async def test_r15_what_was_read_of_the_apps_own_answer_is_still_given(chunks: list[bytes]) -> None:
    lease, response = Scribe(), Scripted(*chunks)
    assert await explanation(response, lease) is None
    (read,) = lease.read
    assert len(read) <= EXPLANATION_BYTES + max(map(len, chunks), default=0)
    assert b"".join([chunk async for chunk in response]) == b"".join(chunks)


# --- H-20: what escapes --------------------------------------------------------------------------------------------

LIMITS = Limits(head_timeout=0.2, idle_timeout=0.2, connect_timeout=2)


@pytest.fixture
async def dev() -> AsyncIterator[DevServer]:
    async with DevServer() as made:

        @made.route("/garbage")
        async def garbage(request: Request, response: Response) -> None:
            await response.raw(b"garbage\r\n\r\n")
            response.close()

        @made.route("/hangs-up")
        async def hangs_up(request: Request, response: Response) -> None:
            response.abort()

        @made.route("/half")
        async def half(request: Request, response: Response) -> None:
            await response.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            response.close()

        @made.route("/stalls")
        async def stalls(request: Request, response: Response) -> None:
            await response.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            await made.wait_for(lambda dev: dev.open_connections == 0)

        @made.route("/refuses")
        async def refuses(request: Request, response: Response) -> None:
            await response.send(401, [("content-type", "text/plain")], b"the credential")

        yield made


@pytest.fixture(params=["pool", "httpx"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[UpstreamPool | ForeignTransport]:
    made: UpstreamPool | ForeignTransport = UpstreamPool(LIMITS)
    if request.param == "httpx":
        made = ForeignTransport(httpx.AsyncHTTPTransport(trust_env=False), LIMITS)
    yield made
    await made.aclose()


FAILURES = {
    "/garbage": "upstream_protocol_error",
    "/hangs-up": "upstream_unreachable",
    "/slow": "upstream_timeout",
    "/half": "upstream_protocol_error",
    "/stalls": "upstream_timeout",
    "/refuses": "preview_proxy_token_invalid",
    "nobody there": "upstream_unreachable",
}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("path", FAILURES)
async def test_h20_nothing_that_escapes_holds_the_credential(
    kind: str, path: str, dev: DevServer, transport: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    port = dev.port
    if path == "nobody there":
        await dev.__aexit__(None, None, None)
    credentials = ((b"x-token", Secret(CANARY)),)
    lease = Scribe(Endpoint(Origin("http", "localhost", port), credentials=credentials))
    target = path.encode() if path.startswith("/") else b"/"
    inbound = Inbound(kind, "GET", "https", "1.1", "x", target, b"", ((b"x-own", b"1"),), None, False, None)  # type: ignore[arg-type]
    rules = compile_rules(Policy(limits=LIMITS), cookies=(), headers=(), embedders=())

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    ends = inbound, lease, rules, transport, receive, send, partial(new_relays().run, admitted())
    escaped: Exception | None = None
    with anyio.fail_after(10), caplog.at_level(logging.DEBUG):
        try:
            await (relay_http(*ends) if kind == "http" else relay_websocket(*ends, can_deny=True))
        except Exception as raised:
            escaped = raised
    assert escaped is not None
    error = escaped.cause if isinstance(escaped, Aborted) else escaped
    assert isinstance(error, PreviewProxyError)
    assert error.code == FAILURES[path] or path == "/half"
    for each in (escaped, error):
        assert (each.__cause__, each.__context__) == (None, None)
        shown = traceback.TracebackException.from_exception(each, capture_locals=True)
        assert CANARY not in "".join(shown.format())
    ours = [record for record in caplog.records if record.name.startswith("preview_proxy")]
    assert CANARY not in str(ours)
    assert CANARY not in str(sent)
