"""One HTTP exchange step by step: asking again, early hints, trailers, and who leaves when."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from preview_proxy import Limits, PreviewProxyError
from preview_proxy.errors import BadRequest, CredentialRejected, LimitExceeded, ProviderError, UpstreamProtocol
from preview_proxy.transports.relay_http import EARLY_HINT, SOON, TRAILERS, Aborted
from tests.transports.relaying import Lease, Relaying
from tests.transports.wires import Wires
from tests.turns import pass_time, turns

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSED = b"HTTP/1.1 401 No\r\nContent-Length: 10\r\n\r\ncredential"
BUSY = b"HTTP/1.1 429 No\r\nContent-Length: 4\r\n\r\nbusy"


def body(messages: list[Message]) -> bytes:
    assert [message["more_body"] for message in messages][-1] is False
    return b"".join(message["body"] for message in messages)


async def answered(r: Relaying, status: int, content: bytes) -> None:
    """The exchange is over, and the visitor has this answer."""
    await r.task
    start, *rest = r.visitor.heard
    assert (start["type"], start["status"], body(rest)) == ("http.response.start", status, content)


async def refused(r: Relaying, kind: type[PreviewProxyError], code: str) -> None:
    """The exchange is over, and nothing was sent that could not be followed by a refusal."""
    with pytest.raises(kind) as caught:
        await r.task
    assert caught.value.code == code
    assert not r.visitor.heard


# --- asking again --------------------------------------------------------------------------------------------------


async def test_what_was_cured_is_asked_for_again(r: Relaying, wires: Wires) -> None:
    r.lease = Lease(credential=CredentialRejected())
    r.lease.cures = True
    await r.http()
    wires[0].say(REFUSED)
    await turns()
    wires[0].say(OK)
    await answered(r, 200, b"ok")
    assert r.lease.told == ["preview_proxy_token_invalid"]


async def test_what_is_not_cured_the_second_time_is_told(r: Relaying, wires: Wires) -> None:
    r.lease = Lease(credential=CredentialRejected())
    r.lease.cures = True
    await r.http()
    for _ in range(2):
        wires[0].say(REFUSED)
        await turns()
    await refused(r, CredentialRejected, "preview_proxy_token_invalid")


async def test_what_is_not_cured_is_told_at_once(r: Relaying, wires: Wires) -> None:
    r.lease = Lease(credential=CredentialRejected())
    await r.http()
    wires[0].say(REFUSED)
    await refused(r, CredentialRejected, "preview_proxy_token_invalid")


async def test_a_body_is_never_sent_twice(r: Relaying, wires: Wires) -> None:
    r.lease = Lease(credential=CredentialRejected())
    r.lease.cures = True
    await r.http("POST", length=2)
    r.visitor.say("http.request", body=b"h", more_body=True)
    await turns()
    wires[0].say(REFUSED)
    await refused(r, CredentialRejected, "preview_proxy_token_invalid")
    assert "preview_proxy_token_invalid" in r.lease.told  # so that the next request is served


async def test_the_apps_own_answer_is_given_whole(r: Relaying, wires: Wires) -> None:
    await r.http()
    wires[0].say(REFUSED[:-4])
    await turns()
    wires[0].say(REFUSED[-4:])
    await answered(r, 401, b"credential")


async def test_an_edge_that_is_asked_too_often_is_asked_again_soon(
    r: Relaying, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    r.lease = Lease(busy=busy(SOON))
    await r.http()
    wires[0].say(BUSY)
    await turns()
    assert wires[0].sent.count(b" HTTP/1.1") == 1
    pass_time(SOON, monkeypatch)
    await turns()
    wires[0].say(OK)
    await answered(r, 200, b"ok")


def busy(retry_after: int | None) -> ProviderError:
    return ProviderError("rate_limit_exceeded", retry_after=retry_after)


@pytest.mark.parametrize(
    ("method", "length", "failure"),
    [
        ("GET", None, busy(None)),
        ("GET", None, busy(SOON + 1)),
        ("POST", None, busy(SOON)),
        ("GET", 0, busy(SOON)),
        ("GET", None, ProviderError("provider_busy", retry_after=SOON)),
    ],
    ids=["who knows when", "not soon", "not safe", "with a body", "another failure"],
)
async def test_nothing_else_is_waited_for(
    r: Relaying, wires: Wires, method: str, length: int | None, failure: ProviderError
) -> None:
    r.lease = Lease(busy=failure)
    await r.http(method, length=length)
    wires[0].say(BUSY)
    await refused(r, ProviderError, failure.code)


async def test_it_is_waited_for_once(r: Relaying, wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    r.lease = Lease(busy=busy(SOON))
    await r.http()
    wires[0].say(BUSY)
    await turns()
    pass_time(SOON, monkeypatch)
    await turns()
    wires[0].say(BUSY)
    await refused(r, ProviderError, "rate_limit_exceeded")


async def test_a_server_that_cancels_while_the_edge_explains_closes_the_connection(r: Relaying, wires: Wires) -> None:
    await r.http()
    wires[0].say(REFUSED[:-4])
    await turns()
    r.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await r.task
    assert wires[0].is_aborted


# --- the visitor's body --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parts", "length"), [([b"abc"], 2), ([b"a"], 2), ([b"a", b"bc"], 2), ([b""], 1)])
async def test_p14_a_body_that_is_not_as_long_as_declared_is_never_whole(
    r: Relaying, wires: Wires, parts: list[bytes], length: int
) -> None:
    await r.http("POST", length=length)
    for part in parts:
        r.visitor.say("http.request", body=part, more_body=part != parts[-1])
    await refused(r, BadRequest, "bad_framing")
    assert wires[0].is_aborted


async def test_p18_a_body_over_the_limit_is_never_whole(wires: Wires) -> None:
    r = Relaying(wires, limits=Limits(body_bytes=2))
    await r.http("POST", has_body=True)
    r.visitor.say("http.request", body=b"ab", more_body=True)
    await turns()
    r.visitor.say("http.request", body=b"c", more_body=False)
    await refused(r, LimitExceeded, "body_too_large")
    assert wires[0].is_aborted
    assert not wires[0].sent.endswith(b"0\r\n\r\n")
    await r.pool.aclose()


async def test_a_body_passes_without_its_empty_parts(r: Relaying, wires: Wires) -> None:
    await r.http("POST", has_body=True)
    for part, more in ((b"a", True), (b"", True), (b"b", True), (b"", False)):
        r.visitor.say("http.request", body=part, more_body=more)
    await turns()
    assert wires[0].sent.endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
    wires[0].say(OK)
    await answered(r, 200, b"ok")


async def test_r13_who_leaves_in_the_body_takes_the_request_along(r: Relaying, wires: Wires) -> None:
    await r.http("POST", has_body=True)
    r.visitor.say("http.request", body=b"a", more_body=True)
    r.visitor.say("http.disconnect")
    await r.task
    assert wires[0].is_aborted
    assert not wires[0].sent.endswith(b"0\r\n\r\n")
    assert not r.visitor.heard


# --- early hints and trailers --------------------------------------------------------------------------------------

HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"


async def test_a_hint_goes_out_before_the_answer_that_came_with_it(r: Relaying, wires: Wires) -> None:
    await r.http(offers={EARLY_HINT})
    wires[0].say(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Own: 1\r\n\r\n" + HINT + OK)
    await r.task
    hint, start, *rest = r.visitor.heard
    assert hint == {"type": EARLY_HINT, "links": [b"</a.css>; rel=preload"]}
    assert (start["status"], body(rest)) == (200, b"ok")


async def test_nobody_is_sent_hints_that_they_could_not_read(r: Relaying, wires: Wires) -> None:
    await r.http()
    wires[0].say(HINT + OK)
    await answered(r, 200, b"ok")


async def test_who_has_left_when_a_hint_comes_has_left_for_the_answer_too(r: Relaying, wires: Wires) -> None:
    await r.http(offers={EARLY_HINT})
    r.visitor.has_left = True
    wires[0].say(HINT + OK[:-1])
    await r.task
    assert wires[0].is_aborted


async def test_trailers_are_announced_and_follow_the_body(r: Relaying, wires: Wires) -> None:
    await r.http(offers={TRAILERS})
    head = b"HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n"
    wires[0].say(head + b"2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n")
    await r.task
    start, *rest, trailers = r.visitor.heard
    assert start["trailers"] is True
    assert body(rest) == b"ok"
    assert trailers == {"type": TRAILERS, "headers": [(b"x-sum", b"7")], "more_trailers": False}


async def test_an_answer_without_trailers_announces_none(r: Relaying, wires: Wires) -> None:
    await r.http(offers={TRAILERS})
    wires[0].say(OK)
    await answered(r, 200, b"ok")
    assert "trailers" not in r.visitor.heard[0]


# --- the answer ----------------------------------------------------------------------------------------------------


async def test_r13_an_answer_that_breaks_off_is_not_ended(r: Relaying, wires: Wires) -> None:
    await r.http()
    wires[0].say(OK[:-1])
    wires[0].end()
    with pytest.raises(Aborted) as caught:
        await r.task
    assert isinstance(caught.value.cause, UpstreamProtocol)
    assert [message.get("more_body") for message in r.visitor.heard] == [None, True]


async def test_r03_an_answer_that_may_not_be_is_none(r: Relaying, wires: Wires) -> None:
    await r.http()
    wires[0].say(b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok")
    await refused(r, UpstreamProtocol, "upstream_protocol_error")


async def test_r14_what_has_no_body_gets_none_and_its_connection_is_closed(r: Relaying, wires: Wires) -> None:
    await r.http()
    wires[0].say(b"HTTP/1.1 205 Reset\r\nTransfer-Encoding: chunked\r\n\r\n")
    await answered(r, 205, b"")
    assert wires[0].is_aborted


async def test_an_event_stream_may_be_silent(r: Relaying, wires: Wires) -> None:
    await r.http()
    wires[0].say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
    await turns()
    connection = next(iter(r.pool._connections))
    assert connection.deadline == float("inf")
    wires[0].end()
    await answered(r, 200, b"data: 1\n\n")
