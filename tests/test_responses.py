from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode

import pytest
from starlette.types import Message

from preview_proxy.core.headers import check_controls
from preview_proxy.core.models import Rejected
from preview_proxy.errors import CODES, PreviewProxyError, from_rejected
from preview_proxy.responses import refusal, respond, wants_page

ID = "0123456789abcdef"
FRAMES = b"frame-ancestors https://app.acme.com"

XSS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "</style><script>alert(1)</script>",
    "</title><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{7*7}}${7*7}$message",
    "\r\nSet-Cookie: a=1\r\n\r\n<script>",
    "\u2028alert(1)",
    "&#60;script&#62;",
]


def told(code: str, *, page: bool, retry_after: int | None = None) -> tuple[int, dict[bytes, bytes], str]:
    error = PreviewProxyError(code, detail="m1-3000.edge.dev canary-0123456789", retry_after=retry_after)
    status, headers, body = refusal(error, ID, page=page, frame_ancestors=FRAMES)
    assert len(dict(headers)) == len(headers)
    return status, dict(headers), body.decode()


@pytest.mark.parametrize("page", [True, False], ids=["page", "json"])
@pytest.mark.parametrize("code", CODES)
def test_h24_every_refusal_has_the_same_careful_headers(code: str, page: bool) -> None:
    status, headers, body = told(code, page=page)
    assert status == CODES[code].status
    policy = headers.pop(b"content-security-policy")
    assert re.fullmatch(rb"default-src 'none'; style-src 'sha256-[\w+/=]+'; " + FRAMES, policy)
    if status in (429, 503) and CODES[code].retryable:
        assert headers.pop(b"retry-after") == b"5"
    assert headers == {
        b"content-type": b"text/html; charset=utf-8" if page else b"application/json",
        b"content-length": b"%d" % len(body.encode()),
        b"cache-control": b"no-store",
        b"x-content-type-options": b"nosniff",
        b"referrer-policy": b"no-referrer",
        b"x-preview-proxy-error": code.encode(),
    }
    check_controls(b"".join(headers.values()), "bad_header")


@pytest.mark.parametrize("page", [True, False], ids=["page", "json"])
@pytest.mark.parametrize("code", CODES)
def test_h24_the_detail_is_told_to_nobody(code: str, page: bool) -> None:
    _, headers, body = told(code, page=page)
    whole = body.encode() + b"".join(headers.values())
    assert b"canary" not in whole
    assert b"edge.dev" not in whole


@pytest.mark.parametrize("code", CODES)
def test_every_code_renders_as_a_page(code: str) -> None:
    status, _, body = told(code, page=True)
    row = CODES[code]
    for text in (
        f"<title>{row.message}</title>",
        f"<h1>{row.message}</h1>",
        row.suggested_action,
        str(status),
        code,
        ID,
    ):
        assert text in body
    assert "$" not in body
    assert not re.search(r"<script|<a |<img|<link|href|src=|url\(", body)


@pytest.mark.parametrize("code", CODES)
def test_every_code_renders_as_json(code: str) -> None:
    row = CODES[code]
    assert json.loads(told(code, page=False)[2]) == {
        "code": code,
        "message": row.message,
        "retryable": row.retryable,
        "suggested_action": row.suggested_action,
        "request_id": ID,
    }


def test_h24_the_policy_allows_the_page_s_own_style_and_nothing_else() -> None:
    _, headers, body = told("misdirected", page=True)
    styles = re.findall(r"<style>(.*?)</style>", body, re.DOTALL)
    assert len(styles) == 1
    assert b64encode(hashlib.sha256(styles[0].encode()).digest()) in headers[b"content-security-policy"]
    assert "style=" not in body


@pytest.mark.parametrize("page", [True, False], ids=["page", "json"])
@pytest.mark.parametrize("attack", XSS)
def test_h24_nothing_that_the_visitor_wrote_is_in_a_refusal(attack: str, page: bool) -> None:
    errors = [
        PreviewProxyError(attack, detail=attack),
        PreviewProxyError("misdirected", detail=attack),
        from_rejected(Rejected("bad_host", attack)),
        from_rejected(Rejected("upstream_protocol_error", attack)),
    ]
    for error in errors:
        _, headers, body = refusal(error, ID, page=page, frame_ancestors=FRAMES)
        plain = refusal(PreviewProxyError(error.code), ID, page=page, frame_ancestors=FRAMES)
        assert (headers, body) == plain[1:]
        assert attack.encode() not in body


@pytest.mark.parametrize("seconds", [1, 300])
def test_v07_a_retry_is_told_in_seconds(seconds: int) -> None:
    assert told("preview_service_not_ready", page=True, retry_after=seconds)[1][b"retry-after"] == b"%d" % seconds


@pytest.mark.parametrize(
    ("headers", "page"),
    [
        ([], False),
        ([(b"sec-fetch-dest", b"document")], True),
        ([(b"sec-fetch-dest", b"iframe")], True),
        ([(b"sec-fetch-dest", b"frame")], True),
        ([(b"sec-fetch-dest", b"empty"), (b"accept", b"text/html")], False),
        ([(b"accept", b"text/html"), (b"sec-fetch-dest", b"script")], False),
        ([(b"sec-fetch-dest", b"image")], False),
        ([(b"accept", b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")], True),
        ([(b"accept", b"*/*")], False),
        ([(b"accept", b"application/json")], False),
        ([(b"accept", b"application/json"), (b"accept", b"text/html")], True),
        ([(b"x-accept", b"text/html")], False),
    ],
)
def test_h24_a_page_is_for_who_will_look_at_it(headers: list[tuple[bytes, bytes]], page: bool) -> None:
    assert wants_page(tuple(headers)) is page


@pytest.mark.anyio
@pytest.mark.parametrize("prefix", ["http.response", "websocket.http.response"])
async def test_a_response_is_sent_whole(prefix: str) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await respond(send, 404, ((b"a", b"b"),), b"body", prefix)
    assert sent == [
        {"type": f"{prefix}.start", "status": 404, "headers": [(b"a", b"b")]},
        {"type": f"{prefix}.body", "body": b"body", "more_body": False},
    ]
