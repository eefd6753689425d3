"""The seam's two objects: what httpx can see of them, and what goes on the wire."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.models import Endpoint, HiddenOrigin, Origin, Outbound, RawHeaders, Rejected
from preview_proxy.core.plan import plan_request
from preview_proxy.core.policy import Limits
from preview_proxy.core.secret import Secret
from preview_proxy.core.snapshot import raw_headers, snapshot
from preview_proxy.core.urls import strip_parameters
from preview_proxy.transports.request import NO_BODY, UpstreamRequest, UpstreamResponse
from tests.core.test_plan import ENDPOINT, PUBLIC, ROUTE, RULES, fields
from tests.core.test_urls import queries

pytestmark = pytest.mark.anyio

CANARY = "canary-provider-token"


def request(headers: RawHeaders = (), **changes: Any) -> UpstreamRequest:
    endpoint = Endpoint(Origin("https", "up.example", 443), credentials=((b"x-token", Secret(CANARY)),))
    fields = {"method": "GET", "endpoint": endpoint, "target": b"/a?b", "headers": headers}
    return UpstreamRequest(Outbound(**{**fields, "has_body": False, "content_length": None, **changes}), NO_BODY)


def test_the_head_is_written_byte_for_byte_with_the_credential_last() -> None:
    head = request(((b"host", b"up.example"), (b"x-own", b"caf\xe9")), method="propFind").head()
    assert head == (
        b"propFind /a?b HTTP/1.1\r\nhost: up.example\r\nx-own: caf\xe9\r\nx-token: " + CANARY.encode() + b"\r\n\r\n"
    )


@given(fields, st.from_regex(rb"/[\x21\x22\x24-\x3e\x40-\x7e]{0,20}", fullmatch=True), queries)
def test_p08_whatever_is_asked_the_head_names_one_upstream_and_holds_path_and_query(
    headers: list[tuple[bytes, bytes]], path: bytes, query: bytes
) -> None:
    scope = {"type": "http", "method": "GET", "path": "", "raw_path": path, "query_string": query, "headers": headers}
    try:
        inbound = snapshot(scope, raw_headers(scope), PUBLIC.authority, Limits())
    except Rejected:
        return
    outbound = plan_request(inbound, ROUTE, RULES)
    assert outbound.endpoint is ENDPOINT
    line, *lines = UpstreamRequest(outbound, NO_BODY).head().removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = strip_parameters(query)
    assert line == b"GET " + path + b"?" + kept + (b"&" if kept else b"") + ENDPOINT.marker + b" HTTP/1.1"
    names = [field.partition(b": ")[0] for field in lines]
    assert (names[0], names.count(b"host"), lines[0]) == (b"host", 1, b"host: m1-3000.edge.dev")
    assert (names[-1], names.count(names[-1])) == (ENDPOINT.credentials[0][0], 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": b"/\r\nx: y"},
        {"target": b"/\nx"},
        {"headers": ((b"x", b"a\r\nb: c"),)},
        {"headers": ((b"x", b"a\n"),)},
        {"headers": ((b"x\r\ny", b"a"),)},
        {"method": "GET / HTTP/1.1\r\nx: y\r\n"},
    ],
)
def test_a_line_break_never_goes_out(changes: dict[str, Any]) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        request(**changes).head()


def test_h14_a_hidden_host_is_on_the_wire_and_nowhere_else() -> None:
    origin = HiddenOrigin("https", f"3000-{CANARY}.up.example", 443, Secret(CANARY))
    endpoint = Endpoint(origin, credentials=((b"host", Secret(origin.field)),))
    hidden = request(((b"x-own", b"1"),), endpoint=endpoint)
    assert hidden.head() == f"GET /a?b HTTP/1.1\r\nx-own: 1\r\nhost: 3000-{CANARY}.up.example\r\n\r\n".encode()
    for shown in (hidden, hidden.url, hidden.headers, hidden.extensions, hidden.outbound):
        assert CANARY not in repr(shown)
    assert hidden.url.host == "hidden.invalid"


def test_h14_what_httpx_sees_holds_no_credential() -> None:
    asked = request(((b"host", b"up.example"),))
    assert (asked.method, str(asked.url), asked.extensions) == ("GET", "https://up.example", {"target": b"/a?b"})
    assert asked.headers.raw == [(b"host", b"up.example")]
    for shown in (asked, asked.url, asked.headers, asked.extensions, vars(asked)):
        assert CANARY not in f"{shown!r} {shown}"
    for second_holder in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            second_holder(asked)


async def test_a_request_of_httpx_is_taken_as_it_is() -> None:
    async def parts() -> Any:
        yield b"x"

    plain = httpx.Request("POST", "https://up.example:81/a%20b?c", headers={"X-Own": "1"}, content=b"abc")
    asked = UpstreamRequest.of(plain)
    assert asked.outbound.endpoint == Endpoint(Origin("https", "up.example", 81))
    assert asked.outbound.target == b"/a%20b?c"
    assert (asked.outbound.has_body, asked.outbound.content_length) == (True, 3)
    assert (b"x-own", b"1") in asked.outbound.headers
    chunked = UpstreamRequest.of(
        httpx.Request("PUT", "https://up.example", content=parts(), extensions={"target": b"*"})
    )
    assert (chunked.outbound.has_body, chunked.outbound.content_length) == (True, None)
    assert (chunked.outbound.target, chunked.outbound.endpoint.origin.port) == (b"*", 443)
    assert not UpstreamRequest.of(httpx.Request("GET", "https://up.example")).outbound.has_body


async def test_no_body_has_no_parts() -> None:
    assert [part async for part in NO_BODY] == []


@pytest.mark.parametrize("unread", [b"ab", b""])
async def test_a_response_gives_first_what_was_read_in_advance(unread: bytes) -> None:
    class Response(UpstreamResponse):
        async def read_chunk(self) -> bytes | None:
            return parts.pop(0) if parts else None

    parts = [b"c", b"d"]
    response = Response(200, [(b"x-own", b"1")], None)
    response.unread = unread
    assert response.stream is response
    assert response.headers["x-own"] == "1"
    assert [chunk async for chunk in response] == [*filter(None, [unread]), b"c", b"d"]


async def test_a_bare_response_is_nobodys() -> None:
    bare = UpstreamResponse(200, [], None)
    assert not bare.is_whole
    with pytest.raises(NotImplementedError):
        await bare.read_chunk()
    with pytest.raises(NotImplementedError):
        await bare.aclose()
