"""How a failure reaches the visitor, and the driver that other tests call an ASGI app with."""

from __future__ import annotations

import json
import logging
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preview_proxy.core.models import Preview, Rejected
from preview_proxy.errors import CODES, MachineUnavailable, NotFound, PreviewProxyError, UpstreamProtocol
from preview_proxy.transports.relay_http import Aborted
from preview_proxy.visit import Visit
from tests.discretion import records

pytestmark = pytest.mark.anyio

DENIAL: dict[str, Any] = {"websocket.http.response": {}}
Headers = Iterable[tuple[bytes, bytes]]


@dataclass
class Sent:
    """What an app sent, and what it made of it."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The response's status; 0 where none was sent."""
        return next((m["status"] for m in self.messages if m["type"].endswith("response.start")), 0)

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.messages if m["type"].endswith("response.body"))

    def values(self, name: bytes) -> list[bytes]:
        starts = [m for m in self.messages if m["type"].endswith("response.start")]
        return [value for start in starts for key, value in start["headers"] if key == name]

    def json(self) -> Any:
        return json.loads(self.body)


def scope_of(
    kind: str = "http",
    *,
    host: str = "preview.localhost",
    path: str = "/",
    method: str = "GET",
    headers: Headers = (),
    scheme: str = "https",
    extensions: Any = DENIAL,
    **more: Any,
) -> Scope:
    """A scope as a server makes it. `extensions=None` leaves them out."""
    scope: Scope = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": scheme if kind == "http" else {"http": "ws", "https": "wss"}[scheme],
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", host.encode()), *headers],
        "client": ("192.0.2.1", 4711),
        "server": ("192.0.2.2", 443),
        **({"method": method} if kind == "http" else {"subprotocols": []}),
        **({} if extensions is None else {"extensions": extensions}),
        **more,
    }
    return scope


async def call(app: ASGIApp, scope: Scope, *incoming: Message) -> Sent:
    """Call `app` with messages to receive, after which the visitor waits. A bare request or handshake needs none."""
    first: Message = {"type": "websocket.connect"} if scope["type"] == "websocket" else {"type": "http.request"}
    queue = deque(incoming or [first])
    sent = Sent()

    async def receive() -> Message:
        if not queue:
            await anyio.sleep_forever()
        return queue.popleft()

    async def send(message: Message) -> None:
        sent.messages.append(message)

    with anyio.fail_after(10):
        await app(scope, receive, send)
    return sent


def failing(error: Exception, *, preview: Preview | None = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        visit = Visit(scope, receive, send, b"frame-ancestors https://app.example")
        visit.preview = preview
        await visit.failed(error)
        assert visit.code is not None

    return app


async def test_h01_the_headers_are_a_copy_that_later_trailers_do_not_reach() -> None:
    scope = scope_of(headers=[(b"X-Own", b"1")])
    visit = Visit(scope, None, None, b"")  # type: ignore[arg-type]
    scope["headers"].append((b"host", b"evil.example"))
    assert visit.headers == ((b"host", b"preview.localhost"), (b"x-own", b"1"))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotFound(), 404, "no_such_preview"),
        (Rejected("bad_target", "why"), 400, "bad_target"),
        (RuntimeError("nobody foresaw this"), 500, "internal_error"),
    ],
)
async def test_h24_every_refusal_is_a_fixed_text_with_a_request_id(error: Exception, status: int, code: str) -> None:
    answer = await call(failing(error), scope_of())
    row = CODES[code]
    request_id = answer.json()["request_id"]
    assert re.fullmatch("[0-9a-f]{16}", request_id)
    assert answer.status == status
    assert answer.json() == {
        "code": code,
        "message": row.message,
        "retryable": row.retryable,
        "suggested_action": row.suggested_action,
        "request_id": request_id,
    }
    assert answer.values(b"cache-control") == [b"no-store"]
    assert answer.values(b"x-content-type-options") == [b"nosniff"]
    assert answer.values(b"x-preview-proxy-error") == [code.encode()]
    (policy,) = answer.values(b"content-security-policy")
    assert policy.startswith(b"default-src 'none'; ")
    assert policy.endswith(b"; frame-ancestors https://app.example")


@pytest.mark.parametrize(
    ("headers", "is_page"),
    [
        ([(b"sec-fetch-dest", b"document")], True),
        ([(b"sec-fetch-dest", b"iframe")], True),
        ([(b"sec-fetch-dest", b"empty"), (b"accept", b"text/html")], False),
        ([(b"sec-fetch-dest", b"script"), (b"accept", b"*/*")], False),
        ([(b"accept", b"text/html,*/*")], True),
        ([(b"accept", b"application/json")], False),
        ([], False),
    ],
)
async def test_a_page_is_for_navigations_only(headers: Headers, is_page: bool) -> None:
    answer = await call(failing(NotFound()), scope_of(headers=headers))
    assert (answer.values(b"content-type") == [b"text/html; charset=utf-8"]) is is_page
    assert answer.body.startswith(b"<!doctype html>") is is_page
    assert answer.values(b"content-length") == [b"%d" % len(answer.body)]


async def test_w06_a_socket_is_never_answered_with_a_page() -> None:
    answer = await call(failing(NotFound()), scope_of("websocket", headers=[(b"accept", b"text/html")]))
    assert answer.values(b"content-type") == [b"application/json"]


@pytest.mark.parametrize("accept", [b"text/html", b"application/json"])
async def test_h24_no_refusal_repeats_a_word_of_the_request(accept: bytes) -> None:
    attack = "canary<script>alert(1)</script>"
    headers = [(b"accept", accept), *((name, attack.encode()) for name in (b"cookie", b"referer", b"x-own"))]
    scope = scope_of(host=attack, path="/" + attack, method="POST", headers=headers, query_string=attack.encode())
    answer = await call(failing(NotFound(detail=attack)), scope)
    plain = await call(failing(NotFound()), scope_of(headers=headers[:1]))
    assert "canary" not in str(answer.messages)
    assert len(answer.body) == len(plain.body)


async def test_head_is_refused_without_a_body() -> None:
    answer = await call(failing(NotFound()), scope_of(method="HEAD"))
    assert (answer.status, answer.body) == (404, b"")
    assert answer.values(b"content-length") != [b"0"]


async def test_w06_a_socket_is_refused_with_an_http_response_where_the_server_can_send_one() -> None:
    answer = await call(failing(MachineUnavailable(retry_after=7)), scope_of("websocket"))
    assert [m["type"] for m in answer.messages] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert (answer.status, answer.values(b"retry-after")) == (503, [b"7"])


@pytest.mark.parametrize("extensions", [None, {}])
async def test_w06_a_socket_is_closed_where_the_server_cannot(extensions: Any) -> None:
    answer = await call(failing(NotFound()), scope_of("websocket", extensions=extensions))
    assert answer.messages == [{"type": "websocket.close", "code": 4404, "reason": "no_such_preview"}]


async def test_connect_is_taken_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        visit = Visit(scope, receive, send, b"")
        await visit.connected()
        await visit.failed(NotFound())

    answer = await call(app, scope_of("websocket"), {"type": "websocket.connect"})
    assert answer.status == 404


async def test_after_the_head_a_failure_sends_nothing_more() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        visit = Visit(scope, receive, send, b"")
        await visit.send({"type": "http.response.start", "status": 200, "headers": []})
        await visit.failed(Aborted(UpstreamProtocol()))

    assert len((await call(app, scope_of())).messages) == 1


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_p22_a_visitor_who_left_is_no_failure_of_ours(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def gone(message: Message) -> None:
        raise OSError("the client is gone")

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    visit = Visit(scope_of(kind), receive, gone, b"")
    with caplog.at_level(logging.DEBUG, "preview_proxy"):
        await visit.failed(OSError("the client is gone"))
    assert visit.code is None
    assert records(caplog) == []
    visit = Visit(scope_of(kind), receive, gone, b"")
    await visit.failed(NotFound())


async def test_h22_a_refusal_is_one_record_that_says_what_happened_to_which_preview(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "preview_proxy"):
        answer = await call(
            failing(PreviewProxyError("upstream_timeout", detail="ReadTimeout"), preview=Preview("mch_a1", 3000)),
            scope_of(method="POST", path="/a\n\x1b[31m\u202e/b?token=canary" + "x" * 999),
        )
    (record,) = records(caplog)
    message = record.getMessage()
    assert record.levelname == "WARNING"
    assert message.startswith(f"{answer.json()['request_id']} 504 'POST' b'/a\\n\\x1b[31m")
    assert message.endswith("/b' for mch_a1:3000:0, by proxy: upstream_timeout: ReadTimeout")
    assert message.isascii()
    assert message.isprintable()


async def test_what_the_visitor_did_is_logged_as_information(caplog: pytest.LogCaptureFixture) -> None:
    scope = scope_of("websocket")
    del scope["raw_path"]
    with caplog.at_level(logging.DEBUG, "preview_proxy"):
        await call(failing(NotFound()), scope)
    (record,) = records(caplog)
    assert record.levelname == "INFO"
    assert " 404 'WEBSOCKET' b'' for no preview, by proxy: no_such_preview" in record.getMessage()


async def test_h22_only_what_nobody_foresaw_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "preview_proxy"):
        answer = await call(failing(RuntimeError("canary")), scope_of())
        await call(failing(UpstreamProtocol()), scope_of())
    assert [bool(record.exc_info) for record in records(caplog)] == [True, False]
    assert b"canary" not in answer.body
    assert "canary" not in records(caplog)[0].getMessage()


def test_importing_the_library_sets_up_no_logging() -> None:
    logger = logging.getLogger("preview_proxy")
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)
