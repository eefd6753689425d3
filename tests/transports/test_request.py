"""The seam's two objects: what httpx can see of them, and what goes on the wire."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import httpx
import pytest

from preview_proxy.core.models import Endpoint, HiddenOrigin, Origin, Outbound, RawHeaders
from preview_proxy.core.secret import Secret
from preview_proxy.transports.request import NO_BODY, UpstreamRequest, UpstreamResponse

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

    plain = httpx.Request("POST", "http://up.example:81/a%20b?c", headers={"X-Own": "1"}, content=b"abc")
    asked = UpstreamRequest.of(plain)
    assert asked.outbound.endpoint == Endpoint(Origin("http", "up.example", 81))
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


async def test_a_response_gives_first_what_was_read_in_advance() -> None:
    class Response(UpstreamResponse):
        async def read_chunk(self) -> bytes | None:
            return parts.pop(0) if parts else None

    parts = [b"c", b"d"]
    response = Response(200, [(b"x-own", b"1")], None)
    response.unread = b"ab"
    assert response.stream is response
    assert response.headers["x-own"] == "1"
    assert [chunk async for chunk in response] == [b"ab", b"c", b"d"]


async def test_a_bare_response_is_nobodys() -> None:
    bare = UpstreamResponse(200, [], None)
    assert not bare.is_whole
    with pytest.raises(NotImplementedError):
        await bare.read_chunk()
    with pytest.raises(NotImplementedError):
        await bare.aclose()
